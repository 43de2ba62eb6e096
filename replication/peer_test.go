package replication

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/samecart/samecart/crdt"
)

// histories is how many random histories each run takes; seeds are fixed,
// so a failure replays.
const histories = 1000

func TestHistoriesConverge(t *testing.T) {
	begin := time.Now()
	var repairs, combined, carts, ahead uint64
	var worst time.Duration
	for seed := range uint64(histories) {
		w := newWorld(t, seed)
		w.safety(100 + int(seed%4)*100)
		worst = max(worst, w.liveness())
		w.equal()
		w.close()
		for _, l := range w.links {
			repairs += l.peer.stats.repairs
			combined += l.peer.stats.rowsCombined
			ahead += l.peer.ahead
		}
		carts += uint64(w.carts)
	}
	t.Logf("%.0f histories/s, %d repairs with %d carts, %d rows combined, slowest convergence %v",
		histories/time.Since(begin).Seconds(), repairs, carts, combined, worst)
	if repairs == 0 || combined == 0 || carts == 0 {
		t.Fatal("the histories reach no repair, or combine nothing")
	}
	if ahead > 0 {
		t.Fatal("a receiver was ahead of its origin's log")
	}
}

// seeded returns a quiet, converged world with some carts.
func seeded(t *testing.T, edits int) *world {
	t.Helper()
	w := newWorld(t, 8)
	t.Cleanup(w.close)
	for range edits {
		w.edit()
		w.run(20 * time.Millisecond)
	}
	w.liveness()
	w.equal()
	return w
}

func TestHealedCutConvergesSoon(t *testing.T) {
	for _, outage := range []time.Duration{time.Millisecond, time.Second, 10 * time.Second, 10 * time.Minute} {
		w := seeded(t, 10)
		w.cut(0, 1)
		for range 20 {
			w.edit()
		}
		w.run(outage)
		if took := w.liveness(); took > 2*time.Second {
			t.Errorf("after a cut of %v it took %v", outage, took)
		}
		w.equal()
	}
}

func TestPokeReconnectsAtOnce(t *testing.T) {
	w := seeded(t, 10)
	w.cut(0, 1)
	for range 20 {
		w.edit()
	}
	w.run(10 * time.Second)
	clear(w.cuts)
	for _, l := range w.links {
		l.step(Poked{})
	}
	if took := w.liveness(); took > 300*time.Millisecond {
		t.Errorf("it took %v", took)
	}
}

// A slow receiver: rows of one line fold into one while they wait.
func TestSlowPeerGetsCombinedRows(t *testing.T) {
	w := seeded(t, 4)
	l := w.link(0, 1, 0)
	r := w.regions[0]
	before := l.peer.stats
	k := crdt.LineKey{Seller: "s", SKU: "hot"}
	const id, n = "cart:a", 2000
	l = w.link(0, 1, int(slotOf(id))/(modelSlots/modelShards))
	before = l.peer.stats
	for i := range n {
		at := crdt.TimestampAt(w.now.UnixMilli())
		wr := crdt.Writer{Replica: crdt.Replica{Region: r.id, Incarnation: 1}, At: at}
		c := r.cart(id)
		d := c.Add(wr, k, 1, crdt.Offer{Price: 1, Currency: "USD", AddedAt: at}, false)
		r.set(id, c.Apply(d))
		seq := l.log.last() + 1
		l.log.all = append(l.log.all, crdt.Row{Seq: seq, Last: seq, CartID: id, At: at, Delta: d})
		o := w.oracle[id]
		if o == nil {
			o = &crdt.Cart{}
		}
		w.oracle[id] = o.Apply(d)
		for _, m := range w.links {
			if m.log == l.log {
				m.step(Appended{seq})
			}
		}
		if i%10 == 0 {
			l.act()
		}
	}
	w.liveness()
	w.equal()
	sent, combined := l.peer.stats.rowsSent-before.rowsSent, l.peer.stats.rowsCombined-before.rowsCombined
	if sent+combined < n || sent > n/3 {
		t.Errorf("%d edits went out as %d rows, %d combined", n, sent, combined)
	}
}

func TestRepairSendsOnlyWhatDiffers(t *testing.T) {
	w := seeded(t, 60)
	l := w.link(0, 1, 0)
	// The peer's cursor goes back behind a trimmed log; the carts are there
	// but for one that lost a write.
	w.carts = 0
	lost := ""
	for id := range w.regions[1].carts {
		if slotOf(id) < modelSlots/modelShards && (lost == "" || id < lost) {
			lost = id
		}
	}
	delete(w.regions[1].carts, lost)
	delete(w.regions[1].digests, lost)
	l.log.base = l.log.last()
	w.regions[1].cursors[l.log.stream] = 0
	l.step(Lost{l.gen, errCut})
	w.liveness()
	w.equal()
	if l.peer.stats.repairs != 1 || w.carts != 1 {
		t.Errorf("%d repairs sent %d carts, want 1 and 1", l.peer.stats.repairs, w.carts)
	}

	w.carts = 0
	w.regions[1].cursors[l.log.stream] = 0
	l.step(Lost{l.gen, errCut})
	w.liveness()
	if l.peer.stats.repairs != 2 || w.carts != 0 {
		t.Errorf("repair of an equal peer sent %d carts", w.carts)
	}
}

func TestProofRepairsAWipedPeer(t *testing.T) {
	w := seeded(t, 60)
	w.run(2 * time.Minute)
	for _, l := range w.links {
		if s, _ := l.peer.snapshot(); s.ProvenEqualAt.IsZero() || s.Repairs > 0 {
			t.Fatalf("quiet regions: proven %v, %d repairs", s.ProvenEqualAt, s.Repairs)
		}
	}
	r := w.regions[2]
	clear(r.carts)
	clear(r.digests)
	w.run(2 * time.Minute)
	w.equal()
	s, _ := w.link(0, 2, 0).peer.snapshot()
	if s.DifferentSlots != 0 || w.now.Sub(s.ProvenEqualAt) > 2*time.Minute {
		t.Errorf("status after the repair: %+v", s)
	}
}

// A and B are cut for good; C has both: rows reach the other side as whole
// carts that C repairs.
func TestPartialPartitionHealsThroughTheThird(t *testing.T) {
	w := seeded(t, 10)
	w.cut(0, 1)
	for range 30 {
		w.edit()
	}
	w.run(time.Minute)
	w.equal()
}

// What only the peer has more of is taken from it, even when it is silent
// itself.
func TestPeerWithMoreGivesIt(t *testing.T) {
	w := seeded(t, 20)
	w.regions[1].set("cart:a", w.regions[1].cart("cart:a").Apply(crdt.Delta{ // news that never comes here
		Key: crdt.LineKey{SKU: "q"}, Dots: []crdt.Dot{{Replica: crdt.Replica{Region: 9}, Seq: 1}},
		Context: crdt.ContextOf(crdt.Dot{Replica: crdt.Replica{Region: 9}, Seq: 1}),
	}))
	for _, l := range w.links {
		if l.log.r == w.regions[1] {
			l.step(Lost{l.gen, errCut})
			l.peer = NewPeer(l.log.stream, l.to.id, w.cfg, w.rng) // never stepped: silent
			l.closeStream()
		}
	}
	w.carts, w.taken = 0, 0
	l := w.link(0, 1, int(slotOf("cart:a"))/(modelSlots/modelShards))
	for end := w.now.Add(time.Hour); w.now.Before(end); w.now = w.now.Add(time.Second) {
		if at := l.peer.Deadline(); !at.IsZero() && !w.now.Before(at) {
			l.step(nil)
		}
		for l.act() {
		}
	}
	if !w.regions[0].cart("cart:a").Equal(w.regions[1].cart("cart:a")) || w.carts != 0 || w.taken != 1 || l.peer.stats.repairs != 1 {
		t.Errorf("%d repairs, %d carts sent, %d taken", l.peer.stats.repairs, w.carts, w.taken)
	}
}

// Edits that come close together share an interval; one after a pause goes out
// at once, and so does a batch that is full.
func TestCloseEditsShareAnInterval(t *testing.T) {
	cfg := DefaultConfig()
	p := NewPeer(crdt.Stream{Region: 1, Incarnation: 1}, 2, cfg, rand.New(rand.NewPCG(1, 1)))
	now := time.UnixMilli(1e12)
	var log uint64
	// edit appends a row and answers what the Peer asks; it returns what was sent.
	edit := func(at time.Time, bytes int) (sent []crdt.Interval) {
		t.Helper()
		log++
		out := p.Step(at, Appended{log}, nil)
		for i := 0; i < len(out); i++ {
			switch m := out[i].(type) {
			case ReadLog:
				iv := crdt.Interval{Stream: p.stream, Lo: m.After, Hi: log}
				for s := m.After + 1; s <= log; s++ {
					iv.Rows = append(iv.Rows, crdt.Row{Seq: s, Last: s, CartID: fmt.Sprint("cart:", s), At: 1, Delta: crdt.Delta{
						Key: crdt.LineKey{SKU: strings.Repeat("s", bytes)}, Dots: []crdt.Dot{{Seq: s}},
					}})
				}
				out = p.Step(at, Read{m.ID, iv, true, nil}, out)
			case Send:
				sent = append(sent, m.Interval)
				out = p.Step(at, Sent{m.Gen, 1}, out)
				out = p.Step(at, Acknowledged{m.Gen, Ack{Cursor: m.Interval.Hi}}, out)
			}
		}
		return sent
	}
	p.Step(now, Appended{0}, nil)
	p.Step(now, Acknowledged{p.gen, Ack{}}, nil)
	if n := len(edit(now, 1)); n != 1 {
		t.Fatalf("the first edit went out in %d intervals", n)
	}
	for i := range 5 {
		if n := len(edit(now.Add(time.Duration(i)*time.Millisecond), 1)); n != 0 {
			t.Fatalf("edit %d did not wait", i)
		}
	}
	if at := p.Deadline(); !at.Equal(now.Add(cfg.Gather)) {
		t.Errorf("the next interval is due at %v, want %v", at, now.Add(cfg.Gather))
	}
	out := p.Tick(now.Add(cfg.Gather), nil)
	if m, ok := out[0].(Send); !ok || len(m.Interval.Rows) != 5 {
		t.Fatalf("then came %v", out)
	}
	p.Step(now, Sent{p.gen, 1}, nil)
	p.Step(now, Acknowledged{p.gen, Ack{Cursor: log}}, nil)
	if n := len(edit(now.Add(time.Second), 1)); n != 1 {
		t.Errorf("after a pause an edit went out in %d intervals", n)
	}
	if n := len(edit(now.Add(time.Second), cfg.BatchBytesMax)); n != 1 {
		t.Errorf("a full batch went out in %d intervals", n)
	}
}

// A repair that is asked for goes on beside the stream and moves no cursor.
func TestAskedForRepair(t *testing.T) {
	w := seeded(t, 40)
	l := w.link(0, 1, 0)
	lost := ""
	for id := range w.regions[1].carts {
		if slotOf(id) < modelSlots/modelShards && (lost == "" || id < lost) {
			lost = id
		}
	}
	delete(w.regions[1].carts, lost)
	delete(w.regions[1].digests, lost)
	w.regions[1].cursors[l.log.stream]-- // its last row is to come again
	w.carts = 0
	l.step(Asked{})
	l.step(Asked{}) // one runs already
	for l.act() {
	}
	if w.carts != 1 || l.peer.stats.repairs != 1 || l.peer.phase != streaming || w.regions[1].cursors[l.log.stream] != l.log.last()-1 {
		t.Errorf("%d carts in %d repairs, phase %d, cursor %d of %d", w.carts, l.peer.stats.repairs, l.peer.phase,
			w.regions[1].cursors[l.log.stream], l.log.last())
	}
	w.regions[1].cursors[l.log.stream]++
	w.equal()
}

func TestIdleCostsOneComparisonAMinute(t *testing.T) {
	w := seeded(t, 20)
	w.run(20 * time.Second)
	l := w.link(0, 1, 0)
	before := l.peer.stats
	w.run(10 * time.Minute)
	if n := l.peer.stats.proofs - before.proofs; n < 8 || n > 11 || l.peer.stats.intervalsSent != before.intervalsSent {
		t.Errorf("%d comparisons, %d intervals in ten idle minutes", n, l.peer.stats.intervalsSent-before.intervalsSent)
	}
}

func TestPeerAheadIsReported(t *testing.T) {
	w := seeded(t, 20)
	l := w.link(0, 1, 0)
	last := l.log.last()
	w.regions[1].cursors[l.log.stream] = last + 2 // as if the log had lost two rows
	l.step(Lost{l.gen, errCut})
	w.run(time.Second)
	if s, _ := l.peer.snapshot(); s.AheadSeq != last+2 || s.AckedSeq != last {
		t.Fatalf("ahead %d acked %d of %d", s.AheadSeq, s.AckedSeq, last)
	}
	l.step(Appended{last + 2})
	if len(l.reads) != 0 {
		t.Error("rows the receiver drops are read")
	}
	if s, _ := l.peer.snapshot(); s.AckedSeq != last+2 {
		t.Errorf("acked %d", s.AckedSeq)
	}
}

func TestLagWithoutAStream(t *testing.T) {
	w := seeded(t, 10)
	w.cut(0, 1)
	w.run(20 * time.Second)
	begin := crdt.TimestampAt(w.now.UnixMilli())
	for range 10 {
		w.edit()
	}
	w.run(30 * time.Second)
	var seen bool
	for shard := range modelShards {
		l := w.link(0, 1, shard)
		s, oldest := l.peer.snapshot()
		if s.AckedSeq < s.LastSeq {
			seen = true
			if first := l.log.all[s.AckedSeq].CartID; oldest != (waitingRow{begin, first}) {
				t.Errorf("oldest unacked row is of %v at %v, want %v at %v", oldest.cart, oldest.at.UnixMilli(), first, begin.UnixMilli())
			}
		} else if oldest.at != 0 {
			t.Errorf("a lag without rows")
		}
		if s.Connected {
			t.Error("connected over a cut")
		}
	}
	if !seen {
		t.Fatal("no edits on the link")
	}
}

// A gap reopens the stream at the receiver's cursor, without waiting for a
// stall.
func TestGapRestartsFromTheCursor(t *testing.T) {
	w := seeded(t, 40)
	l := w.link(0, 1, 0)
	gen := l.gen
	w.regions[1].cursors[l.log.stream] = 3
	for range 20 {
		w.edit()
	}
	if took := w.liveness(); took > 200*time.Millisecond || l.gen == gen {
		t.Errorf("it took %v on stream %d, after %d", took, l.gen, gen)
	}
	w.equal()
}

// A comparison waits until the peer has acked what the last one saw: a row
// on its way must not look like a row lost.
func TestProofWaitsForAcks(t *testing.T) {
	cfg := modelConfig(0)
	now := time.UnixMilli(1e12)
	p := NewPeer(crdt.Stream{Region: 1, Incarnation: 1}, 2, cfg, rand.New(rand.NewPCG(1, 1)))
	p.Step(now, Appended{0}, nil)
	p.Step(now, Acknowledged{1, Ack{}}, nil)
	prove := func() bool {
		now = now.Add(2 * cfg.ProofIdle)
		return slices.Contains(p.Tick(now, nil), Message(Prove{}))
	}
	own, theirs := []Digest{{1}}, []Digest{{2}}
	if !prove() {
		t.Fatal("no comparison of a quiet log")
	}
	p.Step(now, Proved{Last: 1, Before: own, Peer: theirs, After: own}, nil) // row 1 is in own
	if prove() {
		t.Fatal("compared before row 1 was acked")
	}
	iv := crdt.Interval{Hi: 1, Rows: []crdt.Row{{Seq: 1, Last: 1, CartID: "c"}}}
	p.Step(now, Appended{1}, nil)
	p.Step(now, Read{ID: 1, Interval: iv, OK: true}, nil)
	p.Step(now, Sent{Gen: 1}, nil)
	out := p.Step(now, Acknowledged{1, Ack{Cursor: 1}}, nil)
	if !slices.Contains(out, Message(Prove{})) {
		t.Fatal("no comparison after the ack")
	}
	out = p.Step(now, Proved{Last: 1, Before: own, Peer: theirs, After: own}, nil)
	if len(out) != 1 || !slices.Equal(out[0].(Repair).Slots, []uint32{0}) {
		t.Fatalf("a slot that differed twice: %v", out)
	}
}

// After a repair, comparisons ask for none for four times as long as it took.
func TestRepairsRest(t *testing.T) {
	now := time.UnixMilli(1e12)
	cfg := modelConfig(0)
	cfg.ProofEvery, cfg.ProofIdle = time.Millisecond, time.Minute
	p := NewPeer(crdt.Stream{Region: 1, Incarnation: 1}, 2, cfg, rand.New(rand.NewPCG(1, 1)))
	p.Step(now, Appended{0}, nil)
	p.Tick(now, nil)
	p.Step(now, Acknowledged{1, Ack{}}, nil)
	// twice compares a slot that differs as often as it must.
	twice := func(own byte) (asked bool) {
		t.Helper()
		for range 2 {
			now = now.Add(10 * time.Millisecond)
			if p.Tick(now, nil); !p.proving { // since now, or since the repair ended
				t.Fatal("nothing is compared")
			}
			out := p.Step(now, Proved{Before: []Digest{{own}}, Peer: []Digest{{9}}, After: []Digest{{own}}}, nil)
			asked = slices.ContainsFunc(out, func(m Message) bool { _, is := m.(Repair); return is })
		}
		return asked
	}
	if !twice(1) {
		t.Fatal("no repair")
	}
	now = now.Add(2 * time.Second)
	p.Step(now, Repaired{Own: map[uint32]Digest{0: {1}}}, nil)
	rest := now.Add(8 * time.Second)
	for own := byte(2); now.Before(rest.Add(-time.Second)); own++ {
		now = now.Add(time.Second)
		if twice(own) {
			t.Fatalf("a repair %v before its time", rest.Sub(now))
		}
	}
	now = rest
	if !twice(100) {
		t.Error("no repair after the rest")
	}
}

// A slot is repaired only when it held still.
func TestProofJudgesOnlyStableSlots(t *testing.T) {
	a, b, x := Digest{1}, Digest{2}, Digest{9}
	for name, c := range map[string]struct {
		first, second Proved
		repair        bool
	}{
		"same twice":           {Proved{Before: []Digest{a}, Peer: []Digest{x}, After: []Digest{a}}, Proved{Before: []Digest{a}, Peer: []Digest{x}, After: []Digest{a}}, true},
		"peer moves":           {Proved{Before: []Digest{a}, Peer: []Digest{x}, After: []Digest{a}}, Proved{Before: []Digest{a}, Peer: []Digest{b}, After: []Digest{a}}, false},
		"changed between":      {Proved{Before: []Digest{a}, Peer: []Digest{x}, After: []Digest{a}}, Proved{Before: []Digest{b}, Peer: []Digest{x}, After: []Digest{b}}, false},
		"changed in the first": {Proved{Before: []Digest{b}, Peer: []Digest{x}, After: []Digest{a}}, Proved{Before: []Digest{a}, Peer: []Digest{x}, After: []Digest{a}}, false},
		"changed in the next":  {Proved{Before: []Digest{a}, Peer: []Digest{x}, After: []Digest{a}}, Proved{Before: []Digest{a}, Peer: []Digest{x}, After: []Digest{b}}, false},
		"equal before":         {Proved{Before: []Digest{a}, Peer: []Digest{x}, After: []Digest{a}}, Proved{Before: []Digest{x}, Peer: []Digest{x}, After: []Digest{a}}, false},
		"equal after":          {Proved{Before: []Digest{a}, Peer: []Digest{x}, After: []Digest{a}}, Proved{Before: []Digest{a}, Peer: []Digest{x}, After: []Digest{x}}, false},
	} {
		p := proof{rounds: 2}
		now := time.UnixMilli(1e12)
		p.round(now, c.first)
		if _, slots := p.round(now, c.second); (len(slots) > 0) != c.repair {
			t.Errorf("%s: repairs %v", name, slots)
		}
	}
	// One that the peer changes all the time is in the end.
	p := proof{rounds: 2}
	for n := byte(1); ; n++ {
		if _, slots := p.round(time.UnixMilli(5), Proved{Before: []Digest{a}, Peer: []Digest{{9, n}}, After: []Digest{a}}); len(slots) > 0 {
			if n != 2*changingRounds {
				t.Errorf("repaired after %d rounds", n)
			}
			break
		}
		if n > 100 {
			t.Fatal("never repaired")
		}
	}
	// What differs right after a repair is only suspected.
	p = proof{rounds: 2}
	differs := Proved{Before: []Digest{a}, Peer: []Digest{x}, After: []Digest{a}}
	p.round(time.UnixMilli(5), differs)
	if _, slots := p.round(time.UnixMilli(6), differs); len(slots) != 1 {
		t.Fatalf("repairs %v", slots)
	}
	p.repairDone(time.UnixMilli(7), map[uint32]Digest{0: b}, 0)
	if _, slots := p.round(time.UnixMilli(8), differs); len(slots) != 0 {
		t.Errorf("repairs %v at once", slots)
	}
	if _, slots := p.round(time.UnixMilli(9), differs); len(slots) != 1 {
		t.Errorf("repairs %v in the second round", slots)
	}
	p = proof{rounds: 2}
	p.round(time.UnixMilli(5), Proved{Before: []Digest{a, b}, Peer: []Digest{a, x}, After: []Digest{a, b}})
	if !p.provenAt().IsZero() {
		t.Error("proven equal with a slot that never was")
	}
	p.round(time.UnixMilli(9), Proved{Before: []Digest{b, x}, Peer: []Digest{a, x}, After: []Digest{b, x}})
	if !p.provenAt().Equal(time.UnixMilli(5)) {
		t.Errorf("proven at %v", p.provenAt())
	}
	p.round(time.UnixMilli(11), Proved{SlotLo: 4, Before: []Digest{b}, Peer: []Digest{b}, After: []Digest{b}})
	if !p.provenAt().Equal(time.UnixMilli(11)) {
		t.Error("other slots count for these")
	}
}

// What a stream that is gone had asked for changes nothing.
func TestLateAnswersAreIgnored(t *testing.T) {
	now := time.UnixMilli(1e12)
	p := NewPeer(crdt.Stream{Region: 1, Incarnation: 1}, 2, modelConfig(0), rand.New(rand.NewPCG(1, 1)))
	p.Step(now, Appended{9}, nil)
	p.Step(now, Acknowledged{1, Ack{}}, nil) // asks for a read, ID 1
	p.Step(now, Lost{1, errCut}, nil)
	now = p.Deadline()
	p.Tick(now, nil)
	p.Step(now, Acknowledged{2, Ack{Cursor: 4}}, nil)
	for _, m := range []Message{Read{ID: 1, OK: true, Interval: crdt.Interval{Hi: 9}}, Read{ID: 1}, Lost{1, errCut}, Acknowledged{1, Ack{Gap: true}}, Sent{Gen: 1, Bytes: 7}} {
		if out := p.Step(now, m, nil); len(out) != 0 {
			t.Errorf("%T: %v", m, out)
		}
	}
	if s, _ := p.snapshot(); !s.Connected || s.AckedSeq != 4 || s.BytesSent != 0 {
		t.Errorf("status %+v", s)
	}
}

// A read of the log that fails, or answers something else than was asked,
// ends the stream and is tried again.
func TestBadReads(t *testing.T) {
	for name, m := range map[string]Read{
		"error":       {Err: errCut},
		"no progress": {OK: true, Interval: crdt.Interval{Lo: 0, Hi: 0}},
		"wrong start": {OK: true, Interval: crdt.Interval{Lo: 3, Hi: 5}},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.UnixMilli(1e12)
			p := NewPeer(crdt.Stream{Region: 1, Incarnation: 1}, 2, modelConfig(0), rand.New(rand.NewPCG(1, 1)))
			out := p.Step(now, Appended{9}, nil)
			if len(out) != 1 || out[0] != (Open{1}) {
				t.Fatalf("got %v", out)
			}
			out = p.Step(now, Acknowledged{1, Ack{}}, nil)
			if len(out) != 1 || out[0] != (ReadLog{1, 0, 1 << 10}) {
				t.Fatalf("got %v", out)
			}
			m.ID = 1
			out = p.Step(now, m, nil)
			if len(out) == 0 || out[0] != (Close{1}) {
				t.Fatalf("got %v", out)
			}
			if s, _ := p.snapshot(); s.LastError == "" {
				t.Error("no reason in the status")
			}
			out = p.Tick(p.Deadline(), nil)
			if !slices.Contains(out, Message(Open{2})) {
				t.Fatalf("got %v", out)
			}
		})
	}
}

func TestStepPanicsOnOutputs(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	NewPeer(crdt.Stream{}, 2, modelConfig(0), rand.New(rand.NewPCG(1, 1))).Step(time.Time{}, Open{}, nil)
}

// Joining a combined interval is joining its rows.
func TestCombiningChangesNothing(t *testing.T) {
	for seed := range uint64(300) {
		w := newWorld(t, seed)
		for range 120 {
			w.edit()
		}
		for _, r := range w.regions {
			for _, log := range r.logs {
				checkCombined(t, seed, log)
			}
		}
		w.close()
	}
}

func checkCombined(t *testing.T, seed uint64, log *modelLog) {
	t.Helper()
	plain := make(map[string]*crdt.Cart)
	apply := func(into map[string]*crdt.Cart, rows []crdt.Row) {
		for _, row := range rows {
			c := into[row.CartID]
			if c == nil {
				c = &crdt.Cart{}
			}
			into[row.CartID] = c.Apply(row.Delta)
		}
	}
	all := slices.Clone(log.all)
	for i := range all {
		all[i].Ops = []crdt.Op{{Dot: all[i].Delta.Dots[0], ID: crdt.OpID{byte(i)}, At: all[i].At}}
	}
	apply(plain, all)
	var b batch
	folded := make(map[string]*crdt.Cart)
	dots, ops := 0, 0
	for len(all) > 0 {
		n := min(len(all), 1+int(seed%37))
		b.add(crdt.Interval{Lo: b.hi, Hi: all[n-1].Seq, Rows: all[:n]}, 5)
		all = all[n:]
		if b.span > 3000 || len(all) == 0 {
			iv := b.take(log.stream)
			if _, err := Validate(iv, log.stream.Region, DefaultLimits()); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			apply(folded, iv.Rows)
			for _, r := range iv.Rows {
				dots, ops = dots+len(r.Delta.Dots), ops+len(r.Ops)
				if len(r.Delta.Dots) > 5 {
					t.Fatalf("seed %d: a row of %d dots", seed, len(r.Delta.Dots))
				}
			}
		}
	}
	if dots != len(log.all) || ops != len(log.all) {
		t.Fatalf("seed %d: %d dots and %d ops of %d", seed, dots, ops, len(log.all))
	}
	for id, want := range plain {
		if !folded[id].Equal(want) {
			t.Fatalf("seed %d: %s differs", seed, id)
		}
	}
}

// rowBytes bounds memory: it must not be far below the truth.
func TestRowBytesIsClose(t *testing.T) {
	w := newWorld(t, 3)
	t.Cleanup(w.close)
	for range 400 {
		w.edit()
	}
	for _, r := range w.regions {
		for _, log := range r.logs {
			for _, row := range log.all {
				if n, est := len(row.Encode(nil)), rowBytes(&row); est < n/2 || est > 6*n {
					t.Fatalf("row of %d bytes is estimated at %d: %v", n, est, row.Delta)
				}
			}
		}
	}
}

func TestRepairRefusesABrokenPeer(t *testing.T) {
	page := func(ids ...string) []CartDigest {
		var out []CartDigest
		for _, id := range ids {
			out = append(out, CartDigest{CartID: id})
		}
		return out
	}
	for name, pages := range map[string][][]CartDigest{
		"endless empty pages": {nil},
		"out of order":        {page("b", "a")},
		"twice the same":      {page("a"), page("a")},
	} {
		t.Run(name, func(t *testing.T) {
			p := pager{from: &pagesFake{pages: pages}, cfg: modelConfig(0)}
			var err error
			for range 3 {
				if _, _, err = p.next(context.Background()); err != nil {
					break
				}
			}
			if err == nil {
				t.Error("it was taken")
			}
		})
	}
	short := &pagesFake{}
	if _, err := digests(context.Background(), short, 0, 4); err == nil {
		t.Error("too few digests were taken")
	}
}

// pagesFake is a peer that lists the given pages and always has more.
type pagesFake struct {
	pages [][]CartDigest
	n     int
}

func (f *pagesFake) Digests(context.Context, uint32, uint32) ([]Digest, error) { return nil, nil }
func (f *pagesFake) Bucket(context.Context, uint32, string, int) ([]CartDigest, bool, error) {
	f.n++
	return f.pages[min(f.n, len(f.pages))-1], true, nil
}

func TestThrottle(t *testing.T) {
	th := NewThrottle(1000)
	now := time.UnixMilli(1e12)
	if d := th.take(now, 500); d != 500*time.Millisecond {
		t.Errorf("first wait %v", d)
	}
	if d := th.take(now, 500); d != time.Second {
		t.Errorf("second wait %v", d)
	}
	if d := th.take(now.Add(time.Minute), 100); d != 100*time.Millisecond {
		t.Errorf("unused time was saved up: %v", d)
	}
}

func TestConfigNamesEveryBadField(t *testing.T) {
	if err := DefaultConfig().validate(); err != nil {
		t.Error(err)
	}
	err := Config{}.validate()
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 16 {
		t.Errorf("got %v", err)
	}
}
