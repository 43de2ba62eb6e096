package crdt

import "iter"

// Cart is one shopper's cart: an OR-map of lines, and of facts (see FactKey),
// under one causal context.
// The zero value is the empty cart. Values are immutable: readers may keep
// one while the next state is made.
type Cart struct {
	Context CausalContext
	Lines   ORMap
}

// Writer says on whose behalf a mutator writes.
type Writer struct {
	Replica Replica
	// Floor is a seq at or below which the replica may have issued dots of
	// this cart before the cart was dropped; new dots come after it.
	Floor uint64
	// At is the time of the write, from the command that asked for it.
	At Timestamp
	// QuantityMax bounds the visible quantity that an add starts from;
	// 0 is no bound. Stored quantities are never clamped.
	QuantityMax uint32
}

// next mints the writer's next dot: one above all it issued in this cart.
func (c *Cart) next(w Writer) Dot {
	return Dot{w.Replica, max(c.Context.Max(w.Replica), w.Floor) + 1}
}

// write builds the delta of one write of a line: change gets the line's
// registers and visible fields, and replaces the registers it writes.
//
//	I3  The new dot stands in this line alone.
//	I4  The delta is whole: all registers of the line with their dots, and
//	    a context of the new dot and every dot the line held.
func (c *Cart) write(w Writer, k LineKey, change func(d Dot, l *Line, seen Carried)) Delta {
	old := c.Lines.Find(k)
	d := c.next(w)
	var l Line
	var seen Carried
	if old.IsThere() {
		l, seen = *old, old.Visible()
	}
	change(d, &l, seen)
	// What the write saw stands in for the fields that have no register.
	l.Presence = only(d, seen)
	l.Presence = only(d, l.Visible())
	return Delta{Key: k, Dots: []Dot{d}, Context: old.dotsAnd(d), Line: &l}
}

// Add writes the visible quantity plus n, in the cart. The offer is written
// when the line is new, or when renew asks for it; the placement when the
// line is not in the cart, or only by one of two concurrent writes: a remove
// that saw that one alone must not leave what was added aside. Two adds that have not
// seen each other resolve to the larger sum; the sum saturates.
func (c *Cart) Add(w Writer, k LineKey, n uint32, offer Offer, renew bool) Delta {
	return c.write(w, k, func(d Dot, l *Line, seen Carried) {
		q := seen.Quantity
		if w.QuantityMax > 0 {
			q = min(q, w.QuantityMax)
		}
		if q+n < q {
			n = ^uint32(0) - q
		}
		l.Quantity = only(d, q+n)
		if len(l.Presence) == 0 || seen.Placement != InCart || l.Placement.Concurrent() {
			l.Placement = only(d, InCart)
		}
		if len(l.Presence) == 0 || renew {
			l.Offer = only(d, offer)
		}
	})
}

// SetQuantity writes the quantity q ≥ 1 of a line that is there.
func (c *Cart) SetQuantity(w Writer, k LineKey, q uint32) Delta {
	return c.write(w, k, func(d Dot, l *Line, _ Carried) { l.Quantity = only(d, q) })
}

// SetPlacement puts a line that is there into the cart or aside.
func (c *Cart) SetPlacement(w Writer, k LineKey, p Placement) Delta {
	return c.write(w, k, func(d Dot, l *Line, _ Carried) { l.Placement = only(d, p) })
}

// SetAttributes writes the free fields of a line that is there.
func (c *Cart) SetAttributes(w Writer, k LineKey, pairs string) Delta {
	return c.write(w, k, func(d Dot, l *Line, _ Carried) {
		l.Attributes = only(d, Attributes{Pairs: pairs, At: w.At})
	})
}

// Remove takes out the writes of a line that the cart has seen; a
// concurrent write survives it. It mints a dot although it leaves nothing
// behind: else a token or a digest could not tell the cart before from the
// cart after.
func (c *Cart) Remove(w Writer, k LineKey) Delta {
	d := c.next(w)
	return Delta{Key: k, Dots: []Dot{d}, Context: c.Lines.Find(k).dotsAnd(d)}
}

// Clear removes every line, with one dot and one delta each: a dot never
// stands for two lines. Facts stay.
func (c *Cart) Clear(w Writer) []Delta {
	out := make([]Delta, 0, len(c.Lines))
	d := c.next(w)
	for _, e := range c.Lines {
		if !e.Key.IsFact() {
			out = append(out, Delta{Key: e.Key, Dots: []Dot{d}, Context: e.Line.dotsAnd(d)})
			d.Seq++
		}
	}
	return out
}

// Apply returns the cart joined with one delta. It equals Join with the
// delta's Fragment and costs one line and one map copy.
func (c *Cart) Apply(d Delta) *Cart {
	old := c.Lines.Find(d.Key)
	l := joinLines(old, d.Line, c.Context, d.Context)
	return &Cart{Context: c.Context.Join(d.Context), Lines: c.Lines.with(d.Key, l).erased()}
}

// Join returns the least upper bound of a and b; it changes neither.
// A line's write held by one side only survives exactly when the other
// side's context has not seen its dot: "seen but absent" is how a removal
// looks. Cost: O(dots(a) + dots(b)).
//
// Source: Bieniusa et al., arXiv:1210.3368; deltas: Almeida, Shoker,
// Baquero, arXiv:1603.01529.
func Join(a, b *Cart) *Cart {
	return &Cart{
		Context: a.Context.Join(b.Context),
		Lines:   joinMaps(a.Lines, b.Lines, a.Context, b.Context).erased(),
	}
}

// Equal reports whether both are the same lattice value: equal contexts and
// equal surviving writes.
func (c *Cart) Equal(o *Cart) bool {
	return c.Context.Equal(o.Context) && c.Lines.Equal(o.Lines)
}

// Find returns the line under k, nil when it is not there.
func (c *Cart) Find(k LineKey) *Line {
	if l := c.Lines.Find(k); l.IsThere() {
		return l
	}
	return nil
}

// Visible iterates, by key, over the lines that are there and what each
// shows. Readers use it rather than Lines: see I5 at Line.
func (c *Cart) Visible() iter.Seq2[LineKey, Carried] {
	return func(yield func(LineKey, Carried) bool) {
		for _, e := range c.Lines {
			if e.Line.IsThere() && !yield(e.Key, e.Line.Visible()) {
				return
			}
		}
	}
}

// ItemCount is the sum of the visible quantities in the cart, each clamped
// to quantityMax (0: not clamped). Saved lines do not count.
func (c *Cart) ItemCount(quantityMax uint32) uint64 {
	var n uint64
	for _, e := range c.Lines {
		if !e.Line.IsThere() || e.Line.placement() != InCart {
			continue
		}
		q := e.Line.quantity()
		if quantityMax > 0 {
			q = min(q, quantityMax)
		}
		n += uint64(q)
	}
	return n
}

// Currency is the currency of the cart: that of the oldest line, by the
// time it was added, then by key; empty for a cart without lines. Other
// currencies may stand beside it after a join.
func (c *Cart) Currency() string {
	var oldest Offer
	first := true
	for _, e := range c.Lines {
		if !e.Line.IsThere() {
			continue
		}
		if o := e.Line.offer(); first || o.AddedAt < oldest.AddedAt {
			oldest, first = o, false
		}
	}
	return oldest.Currency
}

// MemoryBytes estimates what the decoded cart takes in memory.
func (c *Cart) MemoryBytes() int {
	n := 96 + 96*len(c.Context.entries)
	for _, e := range c.Lines {
		n += 56 + 120 + len(e.Key.Seller) + len(e.Key.SKU) + len(e.Key.Options)
		n += 128*len(e.Line.Presence) + 48*len(e.Line.Quantity) + 48*len(e.Line.Placement) +
			72*len(e.Line.Offer) + 72*len(e.Line.Attributes)
	}
	return n
}
