package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/samecart/samecart/crdt"
)

// endless is a log that takes no memory: its rows are made when they are read.
type endless struct {
	Log // what only a repair needs is not called

	mu      sync.Mutex
	last    uint64
	changed chan struct{}
	reads   int
}

func (e *endless) Stream() crdt.Stream    { return crdt.Stream{Region: 1, Incarnation: 1} }
func (e *endless) Slots() (lo, hi uint32) { return 0, 1024 }
func (e *endless) Acked(_, _ uint64)      {}

func (e *endless) LastSeq() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last
}

func (e *endless) Changed() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}

func (e *endless) append() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last++
	close(e.changed)
	e.changed = make(chan struct{})
}

func (e *endless) ReadAfter(_ context.Context, seq uint64, maxBytes int) (crdt.Interval, bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reads++
	iv := crdt.Interval{Stream: crdt.Stream{Region: 1, Incarnation: 1}, Lo: seq, Hi: seq}
	for size := 0; iv.Hi < e.last && size < maxBytes; size += 100 {
		iv.Hi++
		iv.Rows = append(iv.Rows, crdt.Row{
			Seq: iv.Hi, Last: iv.Hi, CartID: fmt.Sprintf("cart:%d", iv.Hi), At: crdt.TimestampAt(time.Now().UnixMilli()),
			Delta: crdt.Delta{Key: crdt.LineKey{Seller: "s", SKU: "a"}},
		})
	}
	return iv, true, nil
}

// gone is a peer that was there once, and then is not.
type gone struct {
	Transport

	mu    sync.Mutex
	away  bool
	opens int
}

func (g *gone) Push(ctx context.Context, _ Hello) (PushStream, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opens++
	if g.away {
		return nil, errors.New("connection refused")
	}
	s := &goneStream{ctx: ctx, acks: make(chan Ack, 1)}
	s.acks <- Ack{}
	return s, nil
}

func (g *gone) Digests(context.Context, uint32, uint32) ([]Digest, error) {
	return nil, errors.New("connection refused")
}

// goneStream takes what it is sent and acknowledges none of it.
type goneStream struct {
	ctx  context.Context
	acks chan Ack
}

func (s *goneStream) Send(crdt.Interval) error { return nil }
func (s *goneStream) Close() error             { return nil }
func (s *goneStream) Recv() (Ack, error) {
	select {
	case a := <-s.acks:
		return a, nil
	case <-s.ctx.Done():
		return Ack{}, s.ctx.Err()
	}
}

func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A peer that is away for a week costs the Gossiper no memory: what it missed
// stays in the log.
func TestMemoryWhileAPeerIsAway(t *testing.T) {
	const rowsADay = 1 << 17 // three in two seconds
	synctest.Test(t, func(t *testing.T) {
		log, peer := &endless{changed: make(chan struct{})}, &gone{}
		cfg := DefaultConfig()
		cfg.BackoffMax = 10 * time.Second // a week of tries twice a second says no more
		g, err := New(log, "us", []PeerRegion{{2, "eu", peer}}, cfg, slog.New(slog.DiscardHandler), Options{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := g.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		edits := func(n int, every time.Duration) {
			for range n {
				log.append()
				time.Sleep(every)
			}
		}
		edits(1000, time.Millisecond)
		peer.mu.Lock()
		peer.away = true
		peer.mu.Unlock()
		edits(1000, 10*time.Millisecond)
		first, most := heapInUse(), uint64(0)
		for day := range 7 {
			edits(rowsADay, 24*time.Hour/rowsADay)
			now := heapInUse()
			most = max(most, now)
			s := g.Status()[0]
			t.Logf("day %d: heap %d KiB; %d rows wait, of which %d bytes in memory; lag %v",
				day+1, now>>10, s.LastSeq-s.AckedSeq, s.BytesWaiting, s.Lag.Round(time.Hour))
			if s.Connected || s.LastSeq-s.AckedSeq < uint64(day+1)*rowsADay || s.Lag < time.Duration(day)*24*time.Hour {
				t.Errorf("status %+v", s)
			}
		}
		if most > first+256<<10 {
			t.Errorf("the heap grew from %d to %d bytes", first, most)
		}
		if peer.opens < 50_000 {
			t.Errorf("the peer was tried only %d times", peer.opens)
		}
		cancel()
		running.Wait()
	})
}
