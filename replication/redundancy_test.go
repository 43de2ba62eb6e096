package replication

import (
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/samecart/samecart/crdt"
)

// lossy is one Peer, its log and its receiver, with a link between that loses
// intervals and acks: each loss ends the stream, and what was sent on it
// after that. All happens in virtual time.
type lossy struct {
	peer   *Peer
	now    time.Time
	events agenda
	rand   *rand.Rand
	loss   float64
	last   uint64 // of the log
	ended  uint64 // generations up to it are over at the receiver

	cursor   uint64    // the receiver's
	held     []arrival // came while it was joining
	joining  bool
	received int // rows that arrived, whether they were needed or not
	acked    []time.Time
}

const (
	lossyWay  = 20 * time.Millisecond  // one way
	lossyJoin = 5 * time.Millisecond   // of what the receiver holds
	lossySlow = 200 * time.Millisecond // of one in 300: longer than it takes to open a stream
)

type arrival struct {
	gen uint64
	iv  crdt.Interval
}

type entry struct {
	at time.Time
	n  int // of those at the same time the earlier one first
	do func()
}

type agenda struct {
	all []entry
	n   int
}

func (a *agenda) Len() int { return len(a.all) }
func (a *agenda) Less(i, j int) bool {
	if !a.all[i].at.Equal(a.all[j].at) {
		return a.all[i].at.Before(a.all[j].at)
	}
	return a.all[i].n < a.all[j].n
}
func (a *agenda) Swap(i, j int) { a.all[i], a.all[j] = a.all[j], a.all[i] }
func (a *agenda) Push(e any)    { a.all = append(a.all, e.(entry)) }
func (a *agenda) Pop() any {
	e := a.all[len(a.all)-1]
	a.all = a.all[:len(a.all)-1]
	return e
}

func newLossy(cfg Config, seed uint64, loss float64) *lossy {
	r := rand.New(rand.NewPCG(seed, 7))
	return &lossy{peer: NewPeer(crdt.Stream{Region: 1, Incarnation: 1}, 2, cfg, r), now: time.Unix(1_800_000_000, 0), rand: r, loss: loss}
}

func (l *lossy) after(d time.Duration, do func()) {
	l.events.n++
	heap.Push(&l.events, entry{l.now.Add(d), l.events.n, do})
}

func (l *lossy) lost(gen uint64) bool {
	if l.rand.Float64() >= l.loss {
		return false
	}
	l.end(gen)
	return true
}

// end ends a stream, which the sender is told of a way later.
func (l *lossy) end(gen uint64) {
	l.ended = max(l.ended, gen)
	l.after(lossyWay, func() { l.step(Lost{gen, errors.New("lost")}) })
}

func (l *lossy) ack(gen uint64, a Ack) {
	if gen <= l.ended || l.lost(gen) {
		return
	}
	l.after(lossyWay, func() {
		if gen > l.ended {
			l.step(Acknowledged{gen, a})
		}
	})
}

// arrive takes an interval.
func (l *lossy) arrive(gen uint64, iv crdt.Interval) {
	if gen <= l.ended {
		return
	}
	l.received += len(iv.Rows)
	l.held = append(l.held, arrival{gen, iv})
	if !l.joining {
		l.join()
	}
}

// join joins what is held, as far as it follows on, as one. A join that has begun
// is committed though its stream ends meanwhile.
func (l *lossy) join() {
	for len(l.held) > 0 && l.held[0].gen <= l.ended {
		l.held = l.held[1:]
	}
	if l.joining = len(l.held) > 0; !l.joining {
		return
	}
	gen, iv := l.held[0].gen, l.held[0].iv
	l.held = l.held[1:]
	for len(l.held) > 0 && l.held[0].gen == gen && l.held[0].iv.Lo == iv.Hi {
		iv.Hi = l.held[0].iv.Hi
		l.held = l.held[1:]
	}
	takes := lossyJoin
	if l.loss > 0 && l.rand.IntN(300) == 0 {
		takes += lossySlow
	}
	l.after(takes, func() {
		if iv.Lo > l.cursor {
			l.ack(gen, Ack{l.cursor, true})
		} else {
			l.cursor = max(l.cursor, iv.Hi)
			l.ack(gen, Ack{l.cursor, false})
		}
		l.join()
	})
}

func (l *lossy) step(in Message) {
	out := l.peer.Step(l.now, in, nil)
	for i := 0; i < len(out); i++ {
		switch m := out[i].(type) {
		case Open:
			l.after(lossyWay, func() {
				if m.Gen > l.ended {
					l.ended = m.Gen - 1
					l.ack(m.Gen, Ack{l.cursor, false})
				}
			})
		case Close:
			l.ended = max(l.ended, m.Gen)
		case Send:
			l.after(0, func() { l.step(Sent{m.Gen, 0}) })
			if m.Gen > l.ended && !l.lost(m.Gen) {
				l.after(lossyWay, func() { l.arrive(m.Gen, m.Interval) })
			}
		case ReadLog:
			out = l.peer.Step(l.now, Read{m.ID, l.read(m), true, nil}, out)
		case Prove:
			l.after(lossyWay, func() { l.step(Proved{Err: errors.New("not compared here")}) })
		default:
			panic(fmt.Sprintf("%T is not expected", m))
		}
	}
	l.wake()
}

// wake lets time pass for the Peer when it wants.
func (l *lossy) wake() {
	if at := l.peer.Deadline(); !at.IsZero() {
		l.after(max(0, at.Sub(l.now)), func() {
			if d := l.peer.Deadline(); !d.IsZero() && !d.After(l.now) {
				l.step(Appended{l.last})
			}
		})
	}
}

// read makes the rows up: each is of a cart of its own, so none combine.
func (l *lossy) read(m ReadLog) crdt.Interval {
	iv := crdt.Interval{Stream: crdt.Stream{Region: 1, Incarnation: 1}, Lo: m.After}
	size := 0
	for iv.Hi = m.After; iv.Hi < l.last && (size < m.BytesMax || len(iv.Rows) == 0); {
		iv.Hi++
		row := crdt.Row{
			Seq: iv.Hi, Last: iv.Hi, CartID: fmt.Sprintf("cart:%d", iv.Hi), At: crdt.TimestampAt(l.now.UnixMilli()),
			Delta: crdt.Delta{Key: crdt.LineKey{Seller: "s", SKU: "a"}},
		}
		iv.Rows = append(iv.Rows, row)
		size += rowBytes(&row)
	}
	return iv
}

func (l *lossy) run(d time.Duration) {
	end := l.now.Add(d)
	for l.events.Len() > 0 && !l.events.all[0].at.After(end) {
		e := heap.Pop(&l.events).(entry)
		l.now = e.at
		e.do()
	}
	l.now = end
}

// edits appends rows at a rate for a while.
func (l *lossy) edits(rate int, d time.Duration) {
	for range int(d.Seconds() * float64(rate)) {
		l.last++
		l.step(Appended{l.last})
		l.run(time.Second / time.Duration(rate))
	}
}

// Rows received for each one needed: a loss makes few of them come twice.
func TestRedundancy(t *testing.T) {
	for _, p := range []float64{0, 0.01, 0.05} {
		var received, needed, fails float64
		for seed := range uint64(5) {
			l := newLossy(DefaultConfig(), seed, p)
			l.step(Appended{0})
			l.run(time.Second)
			l.edits(1000, 30*time.Second)
			l.run(30 * time.Second)
			if l.cursor != l.last || l.peer.acked != l.last {
				t.Errorf("loss %v, seed %d: at %d, acked %d, of %d", p, seed, l.cursor, l.peer.acked, l.last)
			}
			received, needed, fails = received+float64(l.received), needed+float64(l.last), fails+float64(l.peer.stats.fails)
		}
		ratio := received / needed
		t.Logf("loss %.0f%%: %.4f rows received for each needed, %.0f streams lost", 100*p, ratio, fails)
		if most := max(1.02, 1+2*p); ratio < 1 || ratio > most {
			t.Errorf("loss %v: %.4f rows received for each needed, want 1 to %.2f", p, ratio, most)
		}
		if (p > 0) != (fails > 50) {
			t.Errorf("loss %v: %.0f streams were lost", p, fails)
		}
	}
}

// A backlog goes out at its pace, edits beside none do not wait for one.
func TestBacklogIsPaced(t *testing.T) {
	for _, rate := range []int{0, 1000, 15_000} {
		cfg := DefaultConfig()
		cfg.CatchupRate = rate
		l := newLossy(cfg, 1, 0)
		l.last = 30_000
		l.step(Appended{l.last})
		begin := l.now
		for l.cursor < l.last && l.now.Sub(begin) < time.Minute {
			l.run(10 * time.Millisecond)
		}
		took := l.now.Sub(begin)
		t.Logf("rate %d: 30,000 rows took %v", rate, took)
		if rate == 0 && took > 1500*time.Millisecond {
			t.Errorf("without a pace it took %v", took)
		}
		if rate > 0 {
			want := time.Duration(l.last) * time.Second / time.Duration(rate)
			if took < want*85/100 || took > want*12/10+500*time.Millisecond {
				t.Errorf("rate %d: it took %v, want about %v", rate, took, want)
			}
		}
		l.run(time.Second)
		l.last++
		l.step(Appended{l.last})
		l.run(lossyWay + lossyJoin)
		if l.cursor != l.last {
			t.Errorf("rate %d: an edit after the backlog waits", rate)
		}
	}
}
