package crdt_test

import (
	"testing"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/crdt/crdttest"
)

// One test per claim that the design takes from a paper, or makes itself
// against one. Regions are called us, eu and ap.

const us, eu, ap = 0, 1, 2

type world struct {
	t  *testing.T
	h  *crdttest.History
	at crdt.Timestamp
}

func newWorld(t *testing.T) *world {
	return &world{t: t, h: crdttest.New(3), at: crdt.TimestampAt(1_700_000_000_000)}
}

// do makes an edit of the first line, or of the one given.
func (w *world) do(region int, kind crdttest.EditKind, quantity uint32, line ...int) {
	w.at++
	e := crdttest.Edit{Kind: kind, Key: w.h.Keys[0], Quantity: quantity, Pairs: "note=hi"}
	if len(line) > 0 {
		e.Key = w.h.Keys[line[0]]
	}
	e.Offer = crdt.Offer{Price: 100, Currency: "EUR", AddedAt: w.at}
	w.h.Write(region, e, crdt.Writer{Replica: w.h.Regions[region].Replica, At: w.at})
}

// give delivers the next n rows of one region to another.
func (w *world) give(from, to, n int) {
	for range n {
		w.h.Deliver(to, w.h.Streams[from])
	}
}

// settle delivers everything and returns the cart that all regions hold.
func (w *world) settle() *crdt.Cart {
	w.t.Helper()
	for region := range w.h.Regions {
		for _, s := range w.h.Streams {
			for w.h.Pending(region, s) > 0 {
				w.h.Deliver(region, s)
			}
		}
	}
	for _, r := range w.h.Regions {
		crdttest.Equal(w.t, "converged", r.Cart, w.h.Regions[0].Cart)
	}
	return w.h.Regions[0].Cart
}

func (w *world) cart(region int) *crdt.Cart { return w.h.Regions[region].Cart }

// want checks what shows of the first line; quantity 0 means that it is gone.
func (w *world) want(c *crdt.Cart, quantity uint32, p crdt.Placement) {
	w.t.Helper()
	l := c.Find(w.h.Keys[0])
	if quantity == 0 {
		if l != nil {
			w.t.Fatalf("line shows %+v, want none", l.Visible())
		}
		return
	}
	if l == nil {
		w.t.Fatalf("the line is gone, want %d\n%s", quantity, crdttest.Show(c))
	}
	if v := l.Visible(); v.Quantity != quantity || v.Placement != p {
		w.t.Fatalf("line shows %+v, want quantity %d placement %d", v, quantity, p)
	}
}

// The table of concurrent operations in the package documentation.
func TestTableOfOutcomes(t *testing.T) {
	const in, saved = crdt.InCart, crdt.Saved
	type op struct {
		kind     crdttest.EditKind
		quantity uint32
	}
	add, set := func(n uint32) op { return op{crdttest.Add, n} }, func(n uint32) op { return op{crdttest.Set, n} }
	save, remove, clear := op{kind: crdttest.Save}, op{kind: crdttest.Remove}, op{kind: crdttest.Clear}
	for _, c := range []struct {
		name      string
		a, b      op
		quantity  uint32
		placement crdt.Placement
	}{
		{"add ∥ add: the larger of the two sums", add(2), add(5), 8, in},
		{"add ∥ remove: the line stays, with the added quantity", add(2), remove, 5, in},
		{"set ∥ set: the larger", set(1), set(2), 2, in},
		{"set ∥ remove: the line stays, with the set quantity", set(7), remove, 7, in},
		{"set ∥ save: both take effect", set(7), save, 7, saved},
		{"save ∥ remove: saved, with the quantity it had", save, remove, 3, saved},
		{"remove ∥ remove: removed", remove, remove, 0, in},
		{"remove ∥ clear: removed", remove, clear, 0, in},
		{"add ∥ clear: the line stays", add(2), clear, 5, in},
		{"set ∥ clear: the line stays", set(9), clear, 9, in},
	} {
		for _, swap := range []bool{false, true} {
			t.Run(c.name, func(t *testing.T) {
				w := newWorld(t)
				w.do(us, crdttest.Add, 3)
				w.do(us, crdttest.Add, 1, 1)
				w.settle()
				x, y := us, eu
				if swap {
					x, y = y, x
				}
				w.do(x, c.a.kind, c.a.quantity)
				w.do(y, c.b.kind, c.b.quantity)
				cart := w.settle()
				w.want(cart, c.quantity, c.placement)
				other := cart.Find(w.h.Keys[1]) != nil
				if cleared := c.a == clear || c.b == clear; other == cleared {
					t.Fatalf("the other line is there: %v", other)
				}
			})
		}
	}
}

// Shapiro et al. 2011, multi-value register: concurrent assignments are all
// kept, one that has seen them replaces them all.
func TestRegisterKeepsConcurrentWritesOnly(t *testing.T) {
	w := newWorld(t)
	w.do(us, crdttest.Add, 9)
	w.settle()
	w.do(us, crdttest.Set, 4)
	w.do(eu, crdttest.Set, 6)
	q := w.settle().Find(w.h.Keys[0]).Quantity
	if len(q) != 2 || !q.Concurrent() {
		t.Fatalf("two concurrent writes leave %v", q)
	}
	w.do(ap, crdttest.Set, 1)
	cart := w.settle()
	if q := cart.Find(w.h.Keys[0]).Quantity; len(q) != 1 || q.Concurrent() {
		t.Fatalf("a write that saw both leaves %v", q)
	}
	// A decrease that saw the increase sticks, as no grow-only maximum would.
	w.want(cart, 1, crdt.InCart)
}

// Bieniusa et al., arXiv:1210.3368: an add wins over a concurrent remove,
// and a removed element leaves nothing behind but its dots in the context.
func TestAddWinsAndLeavesNoTombstone(t *testing.T) {
	w := newWorld(t)
	w.do(us, crdttest.Add, 1)
	w.settle()
	w.do(us, crdttest.Remove, 0)
	w.do(eu, crdttest.Add, 1)
	w.want(w.settle(), 2, crdt.InCart)
	w.do(ap, crdttest.Remove, 0)
	cart := w.settle()
	w.want(cart, 0, crdt.InCart)
	if len(cart.Lines) != 0 {
		t.Fatalf("a removed line leaves %v", cart.Lines)
	}
	if n := len(cart.Context.Replicas()); n != 3 || cart.Context.Exceptions() != 0 {
		t.Fatalf("context %v", cart.Context)
	}
}

// Preguiça et al., arXiv:1011.5808: a client that has not seen a sibling
// does not overwrite it, though both wrote through one server; the region's
// counter alone would order the two.
func TestDotsTellWhatAVersionVectorCannot(t *testing.T) {
	w := newWorld(t)
	w.do(us, crdttest.Add, 3)
	w.settle()
	w.do(us, crdttest.Set, 8)
	w.do(us, crdttest.Set, 2) // saw the 8
	w.do(eu, crdttest.Set, 5) // saw neither
	w.want(w.settle(), 5, crdt.InCart)

	// A dot beyond a gap is an exception, and no claim on what lies between.
	a := crdt.Dot{Replica: crdt.Replica{Region: 1}, Seq: 1}
	b := crdt.Dot{Replica: a.Replica, Seq: 3}
	cc := crdt.ContextOf(a, b)
	if cc.Has(crdt.Dot{Replica: a.Replica, Seq: 2}) || cc.Exceptions() != 1 {
		t.Fatalf("context %v", cc)
	}
	cc = cc.With(crdt.Dot{Replica: a.Replica, Seq: 2})
	if cc.Exceptions() != 0 || cc.Max(a.Replica) != 3 {
		t.Fatalf("context %v once the gap is filled", cc)
	}
}

// Almeida, Shoker, Baquero, arXiv:1603.01529, Definition 6: an interval
// joins only where its predecessor has. A receiver that took a later one
// first, and moved its cursor, would drop the earlier one for good.
func TestIntervalNeedsItsPredecessor(t *testing.T) {
	w := newWorld(t)
	w.do(us, crdttest.Add, 3)
	w.do(us, crdttest.Add, 1, 1)
	rows := w.h.Rows[w.h.Streams[us]]
	first := crdt.Interval{Stream: w.h.Streams[us], Lo: 0, Hi: 1, Rows: rows[:1]}
	second := crdt.Interval{Stream: w.h.Streams[us], Lo: 1, Hi: 2, Rows: rows[1:]}
	r := w.h.Regions[eu]
	if r.Receive(second) {
		t.Fatal("an interval was joined after a gap")
	}
	if !r.Receive(first) || !r.Receive(second) {
		t.Fatal("intervals in order were refused")
	}
	crdttest.Equal(t, "in order", r.Cart, w.cart(us))

	careless := crdt.Interval{Stream: second.Stream, Lo: 0, Hi: 2, Rows: second.Rows}
	if r = w.h.Regions[ap]; !r.Receive(careless) || !r.Receive(first) || r.Cart.Equal(w.cart(us)) {
		t.Fatal("a cursor past a gap did no harm: the rule has no reason")
	}
}

// DESIGN §2: a dot never stands in two lines. With one dot for two lines,
// eu's row of the one line tells ap that us's dot was seen; when us's batch
// then comes, the other line's absence at ap reads as a removal.
func TestOneDotForTwoLinesDiverges(t *testing.T) {
	offer := crdt.Offer{Price: 1, Currency: "EUR"}
	k1, k2 := crdttest.Keys()[0], crdttest.Keys()[1]
	w := crdt.Writer{Replica: crdt.Replica{Region: 1}}
	empty := &crdt.Cart{}
	d1 := empty.Add(w, k1, 1, offer, false)
	run := func(d2 crdt.Delta) (atEU, atAP *crdt.Cart) {
		batch := &crdt.Cart{
			Context: d1.Context.Join(d2.Context),
			Lines:   crdt.ORMap{{Key: k1, Line: d1.Line}, {Key: k2, Line: d2.Line}},
		}
		// eu has us's batch and writes the first line; its row reaches ap
		// before the batch does.
		row := batch.SetQuantity(crdt.Writer{Replica: crdt.Replica{Region: 2}}, k1, 5)
		return batch.Apply(row), crdt.Join(empty.Apply(row), batch)
	}
	atEU, atAP := run(empty.Apply(d1).Add(w, k2, 1, offer, false))
	crdttest.Equal(t, "a dot per line", atAP, atEU)
	atEU, atAP = run(empty.Add(w, k2, 1, offer, false)) // mints the dot of d1
	if atEU.Find(k2) == nil || atAP.Find(k2) != nil || !atAP.Context.Equal(atEU.Context) {
		t.Fatalf("one dot for two lines did no harm:\n%s\n%s", crdttest.Show(atEU), crdttest.Show(atAP))
	}
}

// DESIGN §2: a delta carries its line whole. With the written register
// alone, a region that has not yet got the other writes takes their
// registers for removed.
func TestDeltaOfTheWrittenRegisterLosesTheOthers(t *testing.T) {
	k := crdttest.Keys()[0]
	thin := func(d crdt.Delta) crdt.Delta {
		dot, l := d.Dots[0], &crdt.Line{}
		for _, w := range d.Line.Presence {
			if w.Dot == dot {
				l.Presence = append(l.Presence, w)
			}
		}
		for _, w := range d.Line.Quantity {
			if w.Dot == dot {
				l.Quantity = append(l.Quantity, w)
			}
		}
		for _, w := range d.Line.Placement {
			if w.Dot == dot {
				l.Placement = append(l.Placement, w)
			}
		}
		d.Line = l
		return d
	}
	run := func(shape func(crdt.Delta) crdt.Delta) (whole, third *crdt.Cart) {
		start := &crdt.Cart{}
		start = start.Apply(start.Add(crdt.Writer{Replica: crdt.Replica{Region: 1}}, k, 3, crdt.Offer{Price: 1, Currency: "EUR"}, false))
		set := start.SetQuantity(crdt.Writer{Replica: crdt.Replica{Region: 1}}, k, 7)
		atUS := start.Apply(set)
		save := atUS.SetPlacement(crdt.Writer{Replica: crdt.Replica{Region: 2}}, k, crdt.Saved)
		return atUS.Apply(save), start.Apply(shape(save)).Apply(shape(set))
	}
	whole, third := run(func(d crdt.Delta) crdt.Delta { return d })
	crdttest.Equal(t, "whole deltas", third, whole)
	whole, third = run(thin)
	if third.Equal(whole) || len(third.Find(k).Quantity) != 0 {
		t.Fatalf("thin deltas did no harm:\n%s\n%s", crdttest.Show(whole), crdttest.Show(third))
	}
}

// I5: the remove of a set reaches the set's author before the remove that
// took the line's first write does. Nothing shows of the line meanwhile, and
// an add begins anew.
func TestRemainsOfALineDoNotShow(t *testing.T) {
	ghost := func() *world {
		w := newWorld(t)
		w.do(us, crdttest.Add, 3)
		w.do(us, crdttest.Attributes, 0)
		w.give(us, ap, 2)
		w.do(us, crdttest.Set, 7)
		w.do(ap, crdttest.Remove, 0)
		w.give(us, eu, 3)
		w.give(ap, eu, 1)
		w.want(w.cart(eu), 7, crdt.InCart)
		w.do(eu, crdttest.Remove, 0)
		w.give(eu, us, 1)
		return w
	}
	w := ghost()
	c := w.cart(us)
	if l := c.Lines.Find(w.h.Keys[0]); l == nil || len(l.Offer) != 1 || len(l.Attributes) != 1 {
		t.Fatalf("the history leaves nothing of the line, and tests nothing: %s", crdttest.Show(c))
	}
	w.want(c, 0, crdt.InCart)
	if v := c.Lines[0].Line.Visible(); v != (crdt.Carried{}) {
		t.Errorf("it shows %+v", v)
	}
	for k := range c.Visible() {
		t.Errorf("%v is visible", k)
	}
	if n, cur := c.ItemCount(0), c.Currency(); n != 0 || cur != "" {
		t.Errorf("it counts: %d items, currency %q", n, cur)
	}
	if c := w.settle(); len(c.Lines) != 0 {
		t.Errorf("left in the end: %s", crdttest.Show(c))
	}

	w = ghost()
	w.do(us, crdttest.Add, 2)
	w.want(w.cart(us), 2, crdt.InCart)
	if v := w.cart(us).Find(w.h.Keys[0]).Visible(); v.Attributes.Pairs != "" {
		t.Errorf("a new line took %q over from what was left of the old", v.Attributes.Pairs)
	}
	w.want(w.settle(), 2, crdt.InCart)
}

// A decision that has a cost: a stand-in is the largest that any surviving
// presence carries. ap's remove has seen the decrease to 2, but neither us's
// note, which carries the 2, nor eu's save, which carries the 5 from before.
func TestStandInIsTheLargestCarried(t *testing.T) {
	w := newWorld(t)
	w.do(us, crdttest.Add, 5)
	w.settle()
	w.do(us, crdttest.Set, 2)
	w.give(us, ap, 1)
	w.do(us, crdttest.Attributes, 0)
	w.do(eu, crdttest.Save, 0)
	w.do(ap, crdttest.Remove, 0)
	w.want(w.settle(), 5, crdt.Saved)
}

// DESIGN §2, guest merge: the guest cart's dots, relabelled with a lineage,
// join the user's cart. Merging twice, in two regions, or after the user
// removed a line changes nothing.
func TestGuestMergeIsTheJoin(t *testing.T) {
	k := crdttest.Keys()[0]
	offer := crdt.Offer{Price: 1, Currency: "EUR"}
	guest := &crdt.Cart{}
	guest = guest.Apply(guest.Add(crdt.Writer{Replica: crdt.Replica{Region: 1, Lineage: "guest:9"}}, k, 4, offer, false))
	user := &crdt.Cart{}
	user = user.Apply(user.Add(crdt.Writer{Replica: crdt.Replica{Region: 1}}, k, 6, offer, false))

	atUS, atEU := crdt.Join(user, guest), crdt.Join(user, guest)
	if q := atUS.Find(k).Visible().Quantity; q != 6 {
		t.Fatalf("merged quantity %d, want the larger, 6", q)
	}
	crdttest.Equal(t, "merged in two regions", crdt.Join(atUS, atEU), atUS)
	removed := atUS.Apply(atUS.Remove(crdt.Writer{Replica: crdt.Replica{Region: 1}}, k))
	crdttest.Equal(t, "merged again after a remove", crdt.Join(removed, guest), removed)
	if removed.Find(k) != nil {
		t.Fatal("a removed line came back with the guest")
	}
}

// DESIGN §2: a floor keeps a cart that was dropped and came back from
// issuing a dot twice.
func TestFloorKeepsDotsFresh(t *testing.T) {
	k := crdttest.Keys()[0]
	w := crdt.Writer{Replica: crdt.Replica{Region: 1}}
	old := &crdt.Cart{}
	old = old.Apply(old.Add(w, k, 1, crdt.Offer{}, false))
	old = old.Apply(old.Remove(w, k))
	back := &crdt.Cart{}
	lost := back.Add(w, k, 1, crdt.Offer{}, false)
	if old.Apply(lost).Find(k) != nil {
		t.Fatal("a dot issued twice did no harm: the floor has no reason")
	}
	w.Floor = 2
	d := back.Add(w, k, 1, crdt.Offer{}, false)
	if d.Dots[0].Seq != 3 || old.Apply(d).Find(k) == nil {
		t.Fatalf("above the floor: %v", d.Dots)
	}
	ds := back.Apply(d).Clear(crdt.Writer{Replica: w.Replica, Floor: 9})
	if len(ds) != 1 || ds[0].Dots[0].Seq != 10 {
		t.Fatalf("clear above the floor: %v", ds)
	}
}
