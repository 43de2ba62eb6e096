package crdt_test

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"testing"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/crdt/crdttest"
	"pgregory.net/rapid"
)

func dots(t *rapid.T, label string) []crdt.Dot {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) crdt.Dot {
		return crdt.Dot{
			Replica: crdt.Replica{
				Region:      crdt.RegionID(rapid.IntRange(1, 2).Draw(t, "region")),
				Incarnation: uint32(rapid.IntRange(0, 1).Draw(t, "incarnation")),
				Lineage:     rapid.SampledFrom([]string{"", "guest:9"}).Draw(t, "lineage"),
			},
			Seq: uint64(rapid.IntRange(1, 9).Draw(t, "seq")),
		}
	}), 0, 30).Draw(t, label)
}

// A context is a set of dots: it agrees with a map, whatever the order.
func TestContextIsASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := dots(t, "a"), dots(t, "b"), dots(t, "c")
		ca, cb, cd := crdt.ContextOf(a...), crdt.ContextOf(b...), crdt.ContextOf(c...)
		crdttest.JoinLaws(t, crdt.CausalContext.Join, ca, cb, cd)
		encode := func(cc crdt.CausalContext) []byte { return cc.Encode(nil) }
		crdttest.Canonical(t, encode, ca, cb)
		crdttest.Canonical(t, encode, ca.Join(cb), cb.Join(ca))
		crdttest.RoundTrip(t, encode, crdt.DecodeContext, ca)

		one := crdt.CausalContext{}
		for _, d := range rapid.Permutation(a).Draw(t, "order") {
			one = one.With(d)
		}
		crdttest.Equal(t, "order does not matter", one, ca)

		lacks := map[crdt.Replica]uint64{}
		for _, d := range b {
			if ca.Has(d) {
				continue
			}
			lacks[d.Replica]++
			ca = ca.With(d) // a dot may come twice in b
		}
		ca = crdt.ContextOf(a...)
		for _, l := range ca.Lacks(cb) {
			if lacks[l.Replica] != l.Dots || l.Dots == 0 {
				t.Fatalf("%v lacks %d dots of %v of %v, want %d", ca, l.Dots, l.Replica, cb, lacks[l.Replica])
			}
			delete(lacks, l.Replica)
		}
		if len(lacks) > 0 {
			t.Fatalf("%v does not say that it lacks %v", ca, lacks)
		}

		in := map[crdt.Dot]bool{}
		for _, d := range append(slices.Clone(a), b...) {
			in[d] = true
		}
		both := ca.Join(cb)
		ranges := 0
		highest := map[crdt.Replica]uint64{}
		for _, region := range []crdt.RegionID{1, 2, 3} {
			for incarnation := range uint32(2) {
				for _, lineage := range []string{"", "guest:9"} {
					d := crdt.Dot{Replica: crdt.Replica{Region: region, Incarnation: incarnation, Lineage: lineage}}
					for d.Seq = 1; d.Seq <= 10; d.Seq++ {
						if both.Has(d) != in[d] {
							t.Fatalf("%v has %v: %v", both, d, !in[d])
						}
						before := crdt.Dot{Replica: d.Replica, Seq: d.Seq - 1}
						if in[d] && !in[before] {
							ranges++
						}
						if in[d] {
							highest[d.Replica] = d.Seq
						}
					}
					if both.Max(d.Replica) != highest[d.Replica] {
						t.Fatalf("%v: max of %v is %d, want %d", both, d, both.Max(d.Replica), highest[d.Replica])
					}
				}
			}
		}
		replicas := both.Replicas()
		if len(replicas) != len(highest) || !slices.IsSortedFunc(replicas, crdt.Replica.Compare) {
			t.Fatalf("replicas %v of %v", replicas, both)
		}
		if got, want := both.Exceptions(), ranges-len(highest); got != want {
			t.Fatalf("%v has %d exceptions, want %d", both, got, want)
		}
		if both.IsEmpty() != (len(in) == 0) {
			t.Fatalf("%v is empty: %v", both, both.IsEmpty())
		}
		covers := true
		for _, d := range b {
			covers = covers && ca.Has(d)
		}
		if ca.Covers(cb) != covers || !both.Covers(ca) || !both.Covers(cb) {
			t.Fatalf("%v covers %v: %v", ca, cb, ca.Covers(cb))
		}
	})
}

func TestContextWithout(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := dots(t, "a")
		cc := crdt.ContextOf(a...)
		r := crdt.Replica{Region: 1, Lineage: "guest:9"}
		rest := slices.DeleteFunc(slices.Clone(a), func(d crdt.Dot) bool { return d.Replica == r })
		crdttest.Equal(t, "without a lineage", cc.Without(r), crdt.ContextOf(rest...))
		crdttest.Equal(t, "the original stays", cc, crdt.ContextOf(a...))
	})
}

func encodeCart(c *crdt.Cart) []byte { return c.Encode(nil) }

func TestJoinLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := crdttest.Three(t)
		crdttest.JoinLaws(t, crdt.Join, a, b, c)
		crdttest.WellFormed(t, crdt.Join(a, b))
		crdttest.Canonical(t, encodeCart, a, b)
		crdttest.Canonical(t, encodeCart, crdt.Join(a, b), crdt.Join(b, a))
		crdttest.RoundTrip(t, encodeCart, crdt.DecodeCart, crdt.Join(b, c))
		// Lines that are not in both carts obey the same laws.
		for _, k := range crdttest.Keys() {
			join := func(x, y lineState) lineState {
				j := crdt.Join(x.cart(k), y.cart(k))
				return lineState{j.Context, j.Lines.Find(k)}
			}
			crdttest.JoinLaws(t, join, stateOf(a, k), stateOf(b, k), stateOf(c, k))
		}
	})
}

// lineState is a line's registers under a context.
type lineState struct {
	cc   crdt.CausalContext
	line *crdt.Line
}

func stateOf(c *crdt.Cart, k crdt.LineKey) lineState { return lineState{c.Context, c.Lines.Find(k)} }

func (s lineState) cart(k crdt.LineKey) *crdt.Cart {
	c := &crdt.Cart{Context: s.cc}
	if s.line != nil {
		c.Lines = crdt.ORMap{{Key: k, Line: s.line}}
	}
	return c
}

func (s lineState) Equal(o lineState) bool { return s.cc.Equal(o.cc) && s.line.Equal(o.line) }

// mutated is the cart after an edit, made without deltas or joins: the
// registers that the edit writes are replaced, the dot is added.
func mutated(c *crdt.Cart, w crdt.Writer, e crdttest.Edit) *crdt.Cart {
	out := &crdt.Cart{Context: c.Context}
	mint := func() crdt.Dot {
		d := crdt.Dot{Replica: w.Replica, Seq: max(out.Context.Max(w.Replica), w.Floor) + 1}
		out.Context = out.Context.Join(crdt.ContextOf(d))
		return d
	}
	if e.Kind == crdttest.Clear {
		for range c.Lines {
			mint()
		}
		return out
	}
	d := mint()
	line := &crdt.Line{}
	for _, x := range c.Lines {
		if x.Key == e.Key {
			if x.Line.IsThere() {
				*line = *x.Line
			}
			continue
		}
		out.Lines = append(out.Lines, x)
	}
	if e.Kind == crdttest.Remove {
		return out
	}
	is := line.Visible()
	isNew := len(line.Presence) == 0
	quantity := func(q uint32) { line.Quantity, is.Quantity = crdt.Register[uint32]{{Dot: d, Value: q}}, q }
	place := func(p crdt.Placement) {
		line.Placement, is.Placement = crdt.Register[crdt.Placement]{{Dot: d, Value: p}}, p
	}
	switch e.Kind {
	case crdttest.Add, crdttest.AddRenew:
		quantity(is.Quantity + e.Quantity)
		if isNew || is.Placement == crdt.Saved || line.Placement.Concurrent() {
			place(crdt.InCart)
		}
		if isNew || e.Kind == crdttest.AddRenew {
			line.Offer, is.Offer = crdt.Register[crdt.Offer]{{Dot: d, Value: e.Offer}}, e.Offer
		}
	case crdttest.Set:
		quantity(e.Quantity)
	case crdttest.Save:
		place(crdt.Saved)
	case crdttest.Move:
		place(crdt.InCart)
	default:
		is.Attributes = crdt.Attributes{Pairs: e.Pairs, At: w.At}
		line.Attributes = crdt.Register[crdt.Attributes]{{Dot: d, Value: is.Attributes}}
	}
	line.Presence = crdt.Register[crdt.Carried]{{Dot: d, Value: is}}
	out.Lines = append(out.Lines, crdt.MapEntry{Key: e.Key, Line: line})
	slices.SortFunc(out.Lines, func(a, b crdt.MapEntry) int { return a.Key.Compare(b.Key) })
	return out
}

// state ⊔ delta = mutated state, and a delta is the join of its fragment.
func TestDeltaLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := crdttest.Random(t, 30)
		region := rapid.IntRange(0, len(h.Regions)-1).Draw(t, "region")
		c := h.Regions[region].Cart
		w := h.Writer(t, region)
		w.Floor = uint64(rapid.SampledFrom([]int{0, 0, 3, 50}).Draw(t, "floor"))
		e := h.Edit(t, region, w)
		before := c.Encode(nil)
		after := c
		for _, d := range e.Do(c, w) {
			if len(d.Dots) != 1 || d.Dots[0].Replica != w.Replica || c.Context.Has(d.Dots[0]) || d.Dots[0].Seq <= w.Floor {
				t.Fatalf("%v minted %v on %v above %d", e, d.Dots, c.Context, w.Floor)
			}
			crdttest.Equal(t, "a delta is the join of its fragment", after.Apply(d), crdt.Join(after, d.Fragment()))
			after = after.Apply(d)
		}
		crdttest.Equal(t, "state joined with delta is the mutated state", after, mutated(c, w, e))
		if !bytes.Equal(c.Encode(nil), before) {
			t.Fatalf("%v changed the cart it was made on", e)
		}
		// Any delta of the history, anywhere, in whatever order.
		all := h.Deltas()
		if len(all) == 0 {
			return
		}
		d := rapid.SampledFrom(all).Draw(t, "delta")
		d2 := rapid.SampledFrom(all).Draw(t, "delta2")
		crdttest.Equal(t, "a delta is the join of its fragment", c.Apply(d), crdt.Join(c, d.Fragment()))
		crdttest.Equal(t, "deltas commute", c.Apply(d).Apply(d2), c.Apply(d2).Apply(d))
		crdttest.Equal(t, "a delta comes twice", c.Apply(d).Apply(d), c.Apply(d))
		crdttest.WellFormed(t, c.Apply(d))
	})
}

// Combining deltas of one line is a join: the same as both in sequence, for
// a receiver that has neither, the first, or both.
func TestCombine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := crdttest.Random(t, 40)
		k := rapid.SampledFrom(h.Keys).Draw(t, "key")
		var ds []crdt.Delta
		for _, d := range h.Deltas() {
			if d.Key == k {
				ds = append(ds, d)
			}
		}
		if len(ds) == 0 {
			return
		}
		a, b, c := rapid.SampledFrom(ds).Draw(t, "a"), rapid.SampledFrom(ds).Draw(t, "b"), rapid.SampledFrom(ds).Draw(t, "c")
		crdttest.JoinLaws(t, crdt.Combine, a, b, c)
		for _, r := range h.Regions {
			both := crdt.Combine(a, b)
			crdttest.Equal(t, "combined is both in sequence", r.Cart.Apply(both), r.Cart.Apply(a).Apply(b))
			crdttest.Equal(t, "combined after its first part", r.Cart.Apply(a).Apply(both), r.Cart.Apply(a).Apply(b))
		}
	})
}

// Intervals of combined rows lead where the single rows do, also when rows of
// other lines lie between those combined, and when a receiver has had the
// first part of a combined row by itself.
func TestIntervalsOfCombinedRows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := crdttest.Random(t, 40)
		ivs := h.Intervals(t)
		start := rapid.IntRange(0, len(h.Regions)-1).Draw(t, "receiver")
		r := &crdttest.Region{Cart: h.Regions[start].Cart, Cursors: map[crdt.Stream]uint64{}}
		for s, at := range h.Regions[start].Cursors {
			r.Cursors[s] = at
		}
		for _, iv := range ivs {
			if gap := r.Cursors[iv.Stream] + 1; r.Receive(crdt.Interval{Stream: iv.Stream, Lo: gap, Hi: gap}) {
				t.Fatalf("an interval after a gap was taken")
			}
			if !r.Receive(iv) {
				t.Fatalf("interval (%d, %d] refused at cursor %d", iv.Lo, iv.Hi, r.Cursors[iv.Stream])
			}
		}
		want := &crdt.Cart{}
		for _, x := range h.Regions {
			want = crdt.Join(want, x.Cart)
		}
		crdttest.Equal(t, "combined rows", r.Cart, want)
	})
}

// When all rows are delivered, all regions hold the same value, bytes and
// digest, and a context of one range per replica, however many edits.
func TestConvergence(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := crdttest.Random(t, 60)
		h.DeliverAll(t)
		first := h.Regions[0].Cart
		want := sha256.Sum256(first.Encode(nil))
		for _, r := range h.Regions {
			crdttest.Equal(t, "converged", r.Cart, first)
			if b := r.Cart.Encode(nil); sha256.Sum256(b) != want {
				t.Fatalf("equal carts, other bytes: %x", b)
			}
			crdttest.WellFormed(t, r.Cart)
			if n := r.Cart.Context.Exceptions(); n != 0 {
				t.Fatalf("%d exceptions in %v when everything is delivered", n, r.Cart.Context)
			}
		}
	})
}

// The context does not grow with edits or devices: regions alone count.
func TestContextIsBounded(t *testing.T) {
	sizes := map[int]int{}
	for _, edits := range []int{10, 100} {
		h := crdttest.New(3)
		for i := range edits {
			region := i % 3
			w := crdt.Writer{Replica: h.Regions[region].Replica, At: crdt.Timestamp(i)}
			h.Write(region, crdttest.Edit{Kind: crdttest.Add, Key: h.Keys[i%len(h.Keys)], Quantity: 1}, w)
		}
		for _, s := range h.Streams {
			for region := range h.Regions {
				for h.Pending(region, s) > 0 {
					h.Deliver(region, s)
				}
			}
		}
		for _, r := range h.Regions {
			if n := r.Cart.Context.Exceptions(); n != 0 {
				t.Errorf("%d edits: %d exceptions", edits, n)
			}
			if n := len(r.Cart.Context.Replicas()); n != 3 {
				t.Errorf("%d edits: %d replicas, want 3", edits, n)
			}
			sizes[edits] = len(r.Cart.Context.Encode(nil))
		}
	}
	if sizes[10] != sizes[100] {
		t.Errorf("context takes %d bytes after 10 edits, %d after 100", sizes[10], sizes[100])
	}
}
