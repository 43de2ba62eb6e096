package crdt_test

import (
	"testing"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/crdt/crdttest"
	"pgregory.net/rapid"
)

// Regions 1 and 2 go on without region 3, which comes back: what it wrote anew
// shows what its own cart would have shown if it could be joined, in every
// region that hears of it, and whatever old copies turn up later.
func TestReissueShowsWhatWasLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := crdttest.New(3)
		for range rapid.IntRange(0, 30).Draw(t, "steps") {
			before := len(h.Streams)
			h.Step(t)
			if len(h.Streams) > before && h.Streams[before].Region == 3 {
				// An incarnation writes after all before it is made anew: what it
				// writes is never seen before that.
				deliver(h, func(s crdt.Stream) bool { return s.Region == 3 })
			}
		}
		members := &crdt.Cart{}
		deliver(h, func(s crdt.Stream) bool { return s.Region != 3 })
		for _, r := range h.Regions[:2] {
			members = crdt.Join(members, r.Cart)
		}
		away := h.Regions[2]
		want := crdt.Join(members, away.Cart)

		w := crdt.Writer{Replica: away.Replica}
		w.Replica.Incarnation++
		got := members
		var made []crdt.Delta
		for _, s := range h.Streams {
			if s.Region != 3 {
				continue
			}
			for _, row := range h.Rows[s] {
				if got.Context.Has(row.Delta.Dots[0]) {
					if _, ok := got.Reissue(w, row.Delta); ok {
						t.Fatalf("%v is known, and was made anew", row.Delta.Dots)
					}
					continue
				}
				d, ok := got.Reissue(w, row.Delta)
				if !ok || len(d.Dots) != 1 || d.Dots[0].Replica.Incarnation != w.Replica.Incarnation {
					t.Fatalf("lost %v comes out as %v, %v", row.Delta.Dots, d.Dots, ok)
				}
				next := got.Apply(d)
				crdttest.Equal(t, "apply is a join", next, crdt.Join(got, d.Fragment()))
				got, made = next, append(made, d)
				if _, again := got.Reissue(w, row.Delta); again {
					t.Fatalf("%v was made anew twice", row.Delta.Dots)
				}
			}
		}
		if !got.Context.Covers(away.Cart.Context) {
			t.Fatalf("a token that the region gave, %v, is not covered by %v", away.Cart.Context, got.Context)
		}
		for _, k := range h.Keys {
			a, b := got.Lines.Find(k), want.Lines.Find(k)
			if a.IsThere() != b.IsThere() || a.Visible() != b.Visible() {
				t.Fatalf("line %v shows %+v (%v), want %+v (%v)", k, a.Visible(), a.IsThere(), b.Visible(), b.IsThere())
			}
		}

		// A member gets the rows, then the old cart, from somewhere: nothing comes
		// back, and a removal made since stands.
		other := members
		for _, d := range made {
			other = other.Apply(d)
		}
		crdttest.Equal(t, "rows arrive as they were made", other, got)
		cleared := got
		for _, d := range got.Clear(crdt.Writer{Replica: crdt.Replica{Region: 1, Incarnation: 9}}) {
			cleared = cleared.Apply(d)
		}
		if late := crdt.Join(cleared, away.Cart); len(late.Lines) > 0 {
			for _, e := range late.Lines {
				if e.Line.IsThere() {
					t.Fatalf("an old copy brings line %v back", e.Key)
				}
			}
		}
	})
}

// deliver gives regions 1 and 2 all rows of some streams.
func deliver(h *crdttest.History, which func(crdt.Stream) bool) {
	for i := range h.Regions[:2] {
		for _, s := range h.Streams {
			for which(s) && h.Pending(i, s) > 0 {
				h.Deliver(i, s)
			}
		}
	}
}
