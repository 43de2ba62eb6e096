package simulations

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

var (
	cutFlag     = flag.Duration("cut", 20*time.Second, "virtual time of the cut in TestDrainAfterCut")
	cutRateFlag = flag.Int("cut-rate", 200, "edits a second there")
)

// After a cut, what waits is sent at ten times the rate at which shoppers edit, or
// faster, and no edit waits for it: of those made meanwhile the slowest hundredth
// takes at most twice as long as before. In virtual time a processor is as fast as
// it has to be, so this is what disks, links, queues and windows do to edits; what a
// busy processor does, BenchmarkDrain of cmd/cartd measures.
func TestDrainAfterCut(t *testing.T) {
	t.Parallel()
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	plan := Plan{
		Seed: 1, Shape: Shape{Regions: 2, Nodes: 1, Shards: 4}, Latency: 40 * time.Millisecond,
		Heartbeat: time.Second, SnapshotAfter: 8192, Trailing: 4096, Segment: 4 << 20, // as in production
	}
	synctest.Test(t, func(t *testing.T) {
		w, err := newWorld(plan, root, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		w.retain = 1_000_000
		defer w.close()
		ctx := context.Background()
		if err := w.startAll(ctx); err != nil {
			t.Fatal(err)
		}
		// Shoppers of an hour make some five edits each.
		e := &editor{t: t, w: w, rate: *cutRateFlag, carts: max(1000, uint64(*cutRateFlag)*uint64(cutFlag.Seconds())/5)}
		normal := e.edit(20*time.Second, nil)
		if err := w.await(ctx, time.Minute, func(context.Context) error { return w.waiting(0) }); err != nil {
			t.Fatal(err)
		}
		w.cutAll(true)
		e.edit(*cutFlag, nil)
		behind := w.behind()
		w.cutAll(false)
		healed := time.Now()
		var drained time.Duration
		during := e.edit(10*time.Minute, func() bool {
			if w.waiting(uint64(e.rate)) != nil {
				return false
			}
			drained = time.Since(healed)
			return true
		})
		rate := float64(behind) / drained.Seconds()
		a, b := percentile(normal, 99), percentile(during, 99)
		t.Logf("%v of cut at %d edits/s left %d rows; drained in %v virtual, %.0f rows/s; edits' p99 %v before, %v meanwhile (p50 %v, %v)",
			*cutFlag, e.rate, behind, drained, rate, a, b, percentile(normal, 50), percentile(during, 50))
		if rate < 10*float64(e.rate) {
			t.Errorf("drained at %.0f rows/s, want ten times %d", rate, e.rate)
		}
		if b > 2*a {
			t.Errorf("edits' p99 was %v before the cut, and %v while it drained", a, b)
		}
		if err := w.await(ctx, time.Minute, w.equal); err != nil {
			t.Error(err)
		}
	})
}

// editor makes edits in one region at a steady rate, whatever they take.
type editor struct {
	t    *testing.T
	w    *world
	rate int
	// The i-th edit is of cart i modulo carts.
	carts, made uint64
}

// edit makes edits for as long as it is told, or until enough says so, which is asked
// every tenth of a second, and returns what each took.
func (e *editor) edit(d time.Duration, enough func() bool) (took []time.Duration) {
	const tick = 10 * time.Millisecond
	var mu sync.Mutex
	var all sync.WaitGroup
	begin := time.Now()
	for n := 1; time.Since(begin) < d; n++ {
		for range e.rate * int(tick) / int(time.Second) {
			e.made++
			i := e.made
			all.Go(func() {
				at := time.Now()
				e.one(i)
				mu.Lock()
				defer mu.Unlock()
				took = append(took, time.Since(at))
			})
		}
		time.Sleep(time.Until(begin.Add(time.Duration(n) * tick)))
		if enough != nil && n%10 == 0 && enough() {
			break
		}
		if n%int(5*time.Minute/tick) == 0 {
			e.t.Logf("%v of edits, %d made", time.Duration(n)*tick, e.made)
		}
	}
	all.Wait()
	return took
}

// one makes the i-th edit, an add in the region that is cut off.
func (e *editor) one(i uint64) {
	var op [16]byte
	binary.BigEndian.PutUint64(op[8:], i)
	out, err := e.w.anyOf(regionNames[0]).member.Node.Edit(context.Background(), &regionv1.Edit{
		CartId: fmt.Sprintf("cart:user-%07d", i%e.carts), OpId: op[:], Fingerprint: i,
		Changes: []*regionv1.Change{{
			Kind: regionv1.Change_KIND_ADD, Line: &regionv1.LineKey{Seller: "seller-1", Sku: fmt.Sprintf("SKU-%d", 100+i/e.carts*7919%899)},
			Quantity: 1, Price: 1999, Currency: "USD",
		}},
	})
	if err != nil || out.Code != regionv1.Outcome_CODE_OK {
		e.t.Errorf("edit %d: %v %v", i, out, err)
	}
}

func percentile(took []time.Duration, p int) time.Duration {
	slices.Sort(took)
	return took[len(took)*p/100]
}

func (w *world) cutAll(cut bool) {
	(&nemesis{world: w}).cut(Fault{Kind: Alone, A: regionNames[0]}, cut)
}

// behind is how many rows of the first region the second has not acknowledged.
func (w *world) behind() (rows uint64) {
	for _, st := range w.anyOf(regionNames[0]).member.Node.Status(context.Background()) {
		for _, s := range st.Shards {
			for _, p := range s.Peers {
				rows += p.RowsWaiting
			}
		}
	}
	return rows
}

// waiting returns nil when at most so many rows wait.
func (w *world) waiting(most uint64) error {
	if n := w.behind(); n > most {
		return fmt.Errorf("%d rows wait", n)
	}
	return nil
}
