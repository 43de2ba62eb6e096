package replay

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// gate holds edits back until the faults that come before them have begun or
// ended. One goroutine runs it, so that no lock is held across a call to a
// server.
type gate struct {
	apply func(context.Context, event) error

	limit   atomic.Int64  // edits below it may pass
	highest atomic.Int64  // edit that waits or waited
	reach   chan struct{} // somebody waits

	mu     sync.Mutex
	opened chan struct{} // closed when limit rose, or err was set
	err    error

	// Written by run alone; read when it has returned.
	events  []event
	open    []event   // begun, not ended
	lastEnd time.Time // of a fault
}

func newGate(events []event, apply func(context.Context, event) error) *gate {
	g := &gate{apply: apply, events: events, reach: make(chan struct{}, 1), opened: make(chan struct{})}
	g.limit.Store(g.nextAt())
	g.highest.Store(-1)
	return g
}

// nextAt is the edit that the next event comes before.
func (g *gate) nextAt() int64 {
	if len(g.events) == 0 {
		return math.MaxInt64
	}
	return int64(g.events[0].at)
}

// pass returns when edit n may be sent.
func (g *gate) pass(ctx context.Context, n int64) error {
	for {
		// The channel first: if the limit rises after it was read, that very
		// channel is closed.
		g.mu.Lock()
		opened, err := g.opened, g.err
		g.mu.Unlock()
		if n < g.limit.Load() {
			return nil
		}
		if err != nil {
			return err
		}
		for h := g.highest.Load(); h < n && !g.highest.CompareAndSwap(h, n); {
			h = g.highest.Load()
		}
		select {
		case g.reach <- struct{}{}:
		default: // it knows already
		}
		select {
		case <-opened:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// run applies events when edits reach them, until stop is closed, an event
// fails or ctx ends.
func (g *gate) run(ctx context.Context, stop <-chan struct{}) {
	for {
		select {
		case <-g.reach:
		case <-stop:
			return
		case <-ctx.Done():
			return
		}
		at := g.nextAt()
		if g.highest.Load() < at {
			continue // from an edit that the last event has let pass
		}
		var err error
		for err == nil && len(g.events) > 0 && g.nextAt() == at {
			err = g.step(ctx)
		}
		g.mu.Lock()
		g.err = err
		if err == nil {
			g.limit.Store(g.nextAt())
		}
		close(g.opened)
		g.opened = make(chan struct{})
		g.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// step applies the next event.
func (g *gate) step(ctx context.Context) error {
	e := g.events[0]
	g.events = g.events[1:]
	if e.begin {
		// Also when the call fails: it may have begun all the same, and to end
		// a fault that is not there does no harm.
		g.open = append(g.open, e)
	}
	if err := g.apply(ctx, e); err != nil {
		return fmt.Errorf("fault: %w", err)
	}
	if !e.begin {
		g.open = slices.DeleteFunc(g.open, func(o event) bool { return o.cut == e.cut && o.kill == e.kill })
		g.lastEnd = time.Now()
	}
	return nil
}
