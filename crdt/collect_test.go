package crdt_test

import (
	"testing"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/crdt/crdttest"
	"pgregory.net/rapid"
)

// Carts that are equal and empty are dropped in some regions, while others still
// have them and shoppers go on: no dot is issued twice, and all regions come to the
// same cart, which has what was added since and nothing of before.
func TestDroppedCarts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := crdttest.New(3)
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			h.Step(t)
		}
		h.DeliverAll(t)
		empty := &crdt.Cart{}
		for _, r := range h.Regions {
			empty = crdt.Join(empty, r.Cart)
		}
		for _, d := range empty.Clear(crdt.Writer{Replica: h.Regions[0].Replica}) {
			empty = empty.Apply(d)
		}
		if !empty.IsGarbage(func(crdt.Replica) bool { return true }) {
			return // it names a lineage
		}
		type region struct {
			cart  *crdt.Cart
			floor uint64
		}
		var all []*region
		for i := range h.Regions {
			r := &region{cart: empty}
			if rapid.Bool().Draw(t, "dropped") {
				r.cart, r.floor = &crdt.Cart{}, empty.Context.Max(h.Regions[i].Replica)
			}
			all = append(all, r)
		}
		added := map[crdt.LineKey]bool{}
		var made []crdt.Delta
		for range rapid.IntRange(0, 8).Draw(t, "edits") {
			i := rapid.IntRange(0, 2).Draw(t, "region")
			r := all[i]
			key := rapid.SampledFrom(h.Keys).Draw(t, "key")
			d := r.cart.Add(crdt.Writer{Replica: h.Regions[i].Replica, Floor: r.floor}, key, 1, crdt.Offer{}, false)
			if empty.Context.Has(d.Dots[0]) {
				t.Fatalf("dot %v was issued before", d.Dots[0])
			}
			r.cart = r.cart.Apply(d)
			made = append(made, d)
			added[key] = true
			if rapid.Bool().Draw(t, "late drop") && i > 0 && all[i-1].cart == empty {
				all[i-1].cart, all[i-1].floor = &crdt.Cart{}, empty.Context.Max(h.Regions[i-1].Replica)
			}
		}
		end := &crdt.Cart{}
		for _, r := range all {
			for _, d := range made { // rows arrive everywhere
				r.cart = r.cart.Apply(d)
			}
			end = crdt.Join(end, r.cart)
		}
		for i, r := range all {
			for _, k := range h.Keys {
				if got := r.cart.Lines.Find(k).IsThere(); got != added[k] {
					t.Fatalf("region %d: line %v is there: %v, want %v", i, k, got, added[k])
				}
				a, b := r.cart.Lines.Find(k), end.Lines.Find(k)
				if !a.Equal(b) {
					t.Fatalf("region %d: line %v is %+v, repaired %+v", i, k, a, b)
				}
			}
		}
	})
}

// Compacting takes nothing out but entries that no line holds, and is the same in
// every region that does it.
func TestCompact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, _ := crdttest.Three(t)
		c := crdt.Join(a, b)
		closed := func(r crdt.Replica) bool { return r.Incarnation == 0 }
		got := c.Compact(closed)
		crdttest.Equal(t, "twice", got.Compact(closed), got)
		if len(got.Lines) != len(c.Lines) {
			t.Fatalf("%d lines, want %d", len(got.Lines), len(c.Lines))
		}
		for _, e := range c.Lines {
			if l := got.Lines.Find(e.Key); !l.Equal(e.Line) || !got.Context.Covers(l.Dots()) {
				t.Fatalf("line %v changed, or its dots are not in the context %v", e.Key, got.Context)
			}
		}
		if !c.Context.Covers(got.Context) {
			t.Fatalf("%v has more than %v", got.Context, c.Context)
		}
		crdttest.Equal(t, "one that has not gives it back", crdt.Join(got, c), c)
	})
}
