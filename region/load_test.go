package region

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

// load is a crowd of shoppers that add one piece at a time, each with an op
// id of its own, and send it again until it is acknowledged.
type load struct {
	w     *world
	stop  context.CancelFunc
	wg    sync.WaitGroup
	op    atomic.Uint64
	acked atomic.Uint64

	mu   sync.Mutex // guards want
	want map[string]map[string]uint32
}

// startLoad edits through the routers that pick returns; nil is none at hand.
func startLoad(w *world, shoppers int, pick func(n uint64) *Router) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{w: w, stop: cancel, want: make(map[string]map[string]uint32)}
	for i := range shoppers { // all carts, before the first shopper looks
		l.want[w.cartIn(uint32(i)%w.shards, i)] = make(map[string]uint32)
	}
	for cart := range l.want {
		l.wg.Go(func() { l.shop(ctx, cart, pick) })
	}
	w.t.Cleanup(func() { cancel(); l.wg.Wait() })
	return l
}

func (l *load) shop(ctx context.Context, cart string, pick func(uint64) *Router) {
	for ctx.Err() == nil {
		op := l.op.Add(1)
		sku := fmt.Sprintf("sku-%d", op%3)
		for try := op; ; try++ {
			if r := pick(try); r != nil && l.once(r, opAdd(op, cart, sku, 1)) {
				break
			}
		}
		l.mu.Lock()
		l.want[cart][sku]++
		l.mu.Unlock()
		l.acked.Add(1)
	}
}

// once reports whether the edit was acknowledged.
func (l *load) once(r *Router, e *regionv1.Edit) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	out, err := r.Edit(ctx, e)
	switch {
	case err == nil && out.Code == regionv1.Outcome_CODE_OK:
		return true
	case err == nil:
		l.w.t.Errorf("edit refused with %v", out.Code)
		return true
	case errors.Is(err, ErrNoQuorum), errors.Is(err, ErrOutcomeUnknown), errors.Is(err, ErrClosed):
	default:
		l.w.t.Errorf("edit: %v", err)
	}
	<-ctx.Done()
	return false
}

// more waits until that many further edits are acknowledged.
func (l *load) more(n uint64) {
	l.w.t.Helper()
	from := l.acked.Load()
	within(l.w.t, 15*time.Second, "edits are acknowledged", func() error {
		if got := l.acked.Load() - from; got < n {
			return fmt.Errorf("%d of %d", got, n)
		}
		return nil
	})
}

// end stops the crowd and checks that each acknowledged edit counted once.
func (l *load) end(r *Router) {
	l.w.t.Helper()
	l.stop()
	l.wg.Wait()
	l.check(r)
}

func (l *load) check(r *Router) {
	l.w.t.Helper()
	for cart, want := range l.want {
		v := mustRead(l.w.t, r, cart, ReadOptions{Strong: true})
		if got := quantities(v); !maps.Equal(got, want) {
			l.w.t.Errorf("cart %s has %v, acknowledged were %v", cart, got, want)
		}
	}
}

// agree checks that a node's own records are its region's.
func (l *load) agree(n *running) {
	l.w.t.Helper()
	for cart := range l.want {
		want := mustRead(l.w.t, n.Router, cart, ReadOptions{Strong: true})
		within(l.w.t, 5*time.Second, "node "+n.name+" has cart "+cart, func() error {
			v, ok := n.nearby(context.Background(), n.shardOf(cart), cart)
			if !ok || v.Digest != want.Digest {
				return fmt.Errorf("it has %v, the leader %v", quantities(v), quantities(want))
			}
			return nil
		})
	}
}

// anyNode picks a node that is up.
func anyNode(w *world) func(uint64) *Router {
	return func(n uint64) *Router {
		w.mu.Lock()
		defer w.mu.Unlock()
		for i := range w.names {
			if r := w.nodes[w.names[(int(n)+i)%len(w.names)]]; r != nil {
				return r.Router
			}
		}
		return nil
	}
}

func TestKilledLeaderLosesNothing(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 2)
	gate := w.gateway()
	l := startLoad(w, 6, func(n uint64) *Router {
		if n%3 == 0 {
			return gate
		}
		return anyNode(w)(n)
	})
	l.more(100)
	for range 2 {
		victim := w.leader(0).name
		w.kill(victim)
		l.more(50)
		if now := w.leader(0).name; now == victim {
			t.Fatalf("%s still leads", victim)
		}
		w.start(victim)
		w.ready()
		l.more(50)
	}
	l.end(gate)
	for _, name := range w.names {
		l.agree(w.node(name))
	}
}

func TestCleanStopHandsOver(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 2, func(w *world) {
		// A leader that went without a word would be missed for so long.
		w.tune = func(c *Config) { c.Timing.Heartbeat, c.Timing.Lease = 1500*time.Millisecond, time.Second }
	})
	victim := w.leader(1)
	cart := w.cartIn(1, 0)
	gate := w.gateway()
	mustEdit(t, gate, addEdit(cart, "tea", 1))
	w.stop(victim.name)
	start := time.Now()
	// With an op id: the gateway may not have seen yet that its connection is
	// gone.
	mustEdit(t, gate, opAdd(1, cart, "tea", 1))
	if took := time.Since(start); took > time.Second {
		t.Errorf("no leader for %v after a clean stop", took)
	}
	w.start(victim.name)
	w.ready()
	v := mustRead(t, w.node(victim.name).Router, cart, ReadOptions{})
	wantLines(t, v, map[string]uint32{"tea": 2})
}

// TestUncleanMachineStop has each node's machine lose power in turn: in the
// identity file stands another boot, and there is no clean mark.
func TestUncleanMachineStop(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		after uint64 // entries between two snapshots
	}{{"from the log", 8192}, {"from a snapshot and the log", 20}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := startWorld(t, 3, 2, func(w *world) {
				w.tune = func(cfg *Config) {
					cfg.Timing.SnapshotAfter, cfg.Timing.Trailing = c.after, c.after/2
					cfg.Timing.SnapshotEvery = 20 * time.Millisecond
				}
			})
			l := startLoad(w, 4, anyNode(w))
			l.more(100)
			if c.after < 100 {
				within(t, 10*time.Second, "snapshots are taken", func() error {
					for _, name := range w.names {
						if n := w.snapshots(name); n == 0 {
							return fmt.Errorf("node %s has none", name)
						}
					}
					return nil
				})
			}
			for _, name := range w.names {
				w.kill(name)
				w.powerLoss(name)
				w.start(name)
				w.ready()
				l.more(20)
			}
			// And all of them at once.
			l.stop()
			l.wg.Wait()
			w.kill(w.names...)
			for _, name := range w.names {
				w.powerLoss(name)
			}
			w.start(w.names...)
			w.ready()
			for _, name := range w.names {
				l.check(w.node(name).Router)
				l.agree(w.node(name))
			}
		})
	}
}
