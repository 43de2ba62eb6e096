package region

import (
	"context"
	"testing"
	"time"

	"github.com/samecart/samecart/crdt"
)

// A gateway has links to its region's nodes alone. What a token names of
// another region it gets all the same, by the node that it asks.
func TestAGatewayReachesNoOtherRegion(t *testing.T) {
	t.Parallel()
	fetcher := &fetching{}
	w := startWorld(t, 3, 1, func(w *world) { w.fetcher = fetcher })
	c := w.routerConfig()
	c.Fetcher = nil
	mux := w.mux(testRegion + "/gateway")
	t.Cleanup(func() {
		if err := mux.Close(); err != nil {
			t.Error(err)
		}
	})
	gate := NewRouter(c, mux)
	lost, found := w.cartIn(0, 0), w.cartIn(0, 1)

	mustEdit(t, gate, addEdit(lost, "coffee", 1))
	start := time.Now()
	if v := mustReadNow(t, gate, lost, newForeign(lost).add(1, "tea", 3).cart.Context); !v.Stale {
		t.Error("what cannot be had is not missed")
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("answered after %v", took)
	}

	mustEdit(t, gate, addEdit(found, "coffee", 1))
	away := newForeign(found).add(1, "tea", 3)
	fetcher.answer(found, func(context.Context, crdt.RegionID) ([]byte, error) { return away.state(), nil })
	v := mustReadNow(t, gate, found, away.cart.Context)
	if n := fetcher.calls(found); v.Stale || n != 1 {
		t.Errorf("stale %v, fetched %d times", v.Stale, n)
	}
	wantLines(t, v, map[string]uint32{"tea": 3, "coffee": 1})

	// What another region has of a cart, it hears from a node as well.
	for id, want := range map[string]bool{found: true, lost: false} {
		b, err := gate.Elsewhere(soon(t), 2, id)
		if (err == nil) != want || (len(b) > 0) != want { // the other was not to be reached
			t.Errorf("elsewhere %s is %d bytes, %v", id, len(b), err)
		}
	}
}
