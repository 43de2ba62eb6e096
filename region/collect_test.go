package region

import (
	"fmt"
	"testing"
	"time"

	"github.com/samecart/samecart/crdt"
	membershipv1 "github.com/samecart/samecart/proto/membership/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/shard"
)

// garbageOf goes through all carts of the region's shards once.
func garbageOf(t *testing.T, w *world) (found []CartDigest) {
	t.Helper()
	for id := range w.shards {
		s := w.leader(id).here(id)
		var place shard.Place
		for range 2*shard.SlotCount/512 + 2 {
			some, next, err := s.Garbage(t.Context(), place)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range some {
				d := CartDigest{CartID: c.CartID, Digest: Digest(c.Digest)}
				if !containsCart(found, d.CartID) {
					found = append(found, d)
				}
			}
			place = next
		}
	}
	return found
}

func containsCart(carts []CartDigest, id string) bool {
	for _, c := range carts {
		if c.CartID == id {
			return true
		}
	}
	return false
}

// An empty cart is found once it is as old as a token lives, may be collected once
// all regions have its rows, and is dropped while it is what it was. When the shopper
// comes back, no dot is issued again.
func TestCollection(t *testing.T) {
	const life = 500 * time.Millisecond
	w := startWorld(t, 3, 2, func(w *world) { w.tune = func(c *Config) { c.Limits.OpLife = life } })
	r := w.leader(0).Router
	for id := range w.shards {
		if err := r.SetMembership(soon(t), id, &membershipv1.Membership{Epoch: 1, Members: []*membershipv1.Member{{
			RegionId: uint32(testID), Region: testRegion, State: membershipv1.State_STATE_ACTIVE, Incarnation: 1,
		}}}); err != nil {
			t.Fatal(err)
		}
	}
	ids := []string{"cart:empty", "cart:full", "cart:changed", "cart:twice"}
	for i, id := range ids {
		mustEdit(t, r, opAdd(uint64(i), id, "SKU-1", 1))
		if id != "cart:full" {
			mustEdit(t, r, clearEdit(id))
		}
	}
	before := mustRead(t, r, "cart:empty", ReadOptions{Strong: true}).State.Cart.Context
	if got := garbageOf(t, w); len(got) > 0 {
		t.Fatalf("found at once: %v", got)
	}
	var found []CartDigest
	within(t, 20*time.Second, "empty carts are found", func() error {
		mustEdit(t, r, addEdit("cart:other", "SKU-1", 1)) // the shard's clock goes on with its log
		if found = garbageOf(t, w); len(found) < 3 {
			return fmt.Errorf("found %v", found)
		}
		return nil
	})
	if len(found) != 3 || containsCart(found, "cart:full") {
		t.Fatalf("found %v", found)
	}
	if ok, err := r.Collectable(soon(t), found); err != nil || ok[0] || ok[1] || ok[2] {
		t.Errorf("collectable while a peer may lack rows: %v, %v", ok, err)
	}
	acknowledge := func() {
		for id := range w.shards {
			s := w.leader(id).here(id)
			s.Acked(1, s.LastSeq(), s.LastSeq())
		}
	}
	mustEdit(t, r, addEdit("cart:changed", "SKU-2", 3))
	within(t, 30*time.Second, "rows are trimmed", func() error {
		acknowledge()
		ok, err := r.Collectable(soon(t), found)
		if err != nil {
			return err
		}
		for i, c := range found {
			if want := c.CartID != "cart:changed"; ok[i] != want {
				return fmt.Errorf("%s may be collected: %v", c.CartID, ok[i])
			}
		}
		return nil
	})
	if ok, err := r.Collectable(soon(t), []CartDigest{{CartID: "cart:unknown"}}); err != nil || !ok[0] {
		t.Errorf("a cart that was dropped before: %v, %v", ok, err)
	}
	// What is remembered of requests must be forgotten first, which is done now and
	// then.
	within(t, 30*time.Second, "carts are dropped", func() error {
		if err := r.Collect(soon(t), found); err != nil {
			return err
		}
		if left := garbageOf(t, w); len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		return nil
	})
	wantLines(t, mustRead(t, r, "cart:changed", ReadOptions{Strong: true}), map[string]uint32{"SKU-2": 3})
	v := mustRead(t, r, "cart:empty", ReadOptions{Strong: true})
	if !v.State.Cart.Context.IsEmpty() {
		t.Errorf("what is left of a dropped cart: %v", v.State.Cart.Context)
	}
	mustEdit(t, r, addEdit("cart:empty", "SKU-3", 1))
	v = mustRead(t, r, "cart:empty", ReadOptions{Strong: true})
	wantLines(t, v, map[string]uint32{"SKU-3": 1})
	if before.Has(crdt.Dot{Replica: own(), Seq: v.State.Cart.Context.Max(own())}) {
		t.Errorf("a dot is issued twice: %v, before %v", v.State.Cart.Context, before)
	}
	at, err := r.ForgottenBefore(soon(t), 0, shard.SlotCount)
	if err != nil || len(at) != shard.SlotCount || at[r.slots.Of("cart:empty")] == 0 || at[r.slots.Of("cart:full")] != 0 {
		t.Errorf("forgotten before: %d slots, %v", len(at), err)
	}
	// All nodes agree, and a restart forgets none of it.
	w.stop(w.names...)
	w.start(w.names...)
	w.ready()
	v = mustRead(t, w.leader(0).Router, "cart:empty", ReadOptions{Strong: true})
	wantLines(t, v, map[string]uint32{"SKU-3": 1})
	mustEdit(t, w.leader(0).Router, addEdit("cart:twice", "SKU-1", 1))
	for i, a := range w.names { // all nodes have the same
		first, n := w.node(w.names[0]), w.node(a)
		within(t, 10*time.Second, a+" follows", func() error {
			for _, id := range ids {
				s := w.slotsOf(id)
				x, errX := first.here(s).Local(id)
				y, errY := n.here(s).Local(id)
				if errX != nil || errY != nil || (x == nil) != (y == nil) || x != nil && x.Digest != y.Digest {
					return fmt.Errorf("node %d differs in %s", i, id)
				}
			}
			return nil
		})
	}
}

func (w *world) slotsOf(id string) uint32 {
	slots := shard.NewSlots(w.shards)
	return slots.Shard(slots.Of(id))
}

func clearEdit(cart string) *regionv1.Edit {
	return &regionv1.Edit{CartId: cart, Changes: []*regionv1.Change{{Kind: regionv1.Change_KIND_CLEAR}}}
}

func own() crdt.Replica { return crdt.Replica{Region: testID, Incarnation: 1} }
