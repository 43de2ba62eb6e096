package crdt

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// Put writes every field of a line, which it makes when it is not there: what an
// undo brings back is one write, which wins or loses as one.
func (c *Cart) Put(w Writer, k LineKey, v Carried) Delta {
	return c.write(w, k, func(d Dot, l *Line, seen Carried) {
		l.Quantity = only(d, v.Quantity)
		l.Placement = only(d, v.Placement)
		l.Offer = only(d, v.Offer)
		l.Attributes = nil // of most lines nobody ever wrote them
		if v.Attributes != (Attributes{}) || seen.Attributes != (Attributes{}) {
			l.Attributes = only(d, v.Attributes)
		}
	})
}

// Without returns the line as it would be without the writes of a guest's cart, nil
// when nothing else survives.
func (l *Line) Without(lineage string) *Line {
	out := &Line{
		Presence:   without(l.Presence, lineage),
		Quantity:   without(l.Quantity, lineage),
		Placement:  without(l.Placement, lineage),
		Offer:      without(l.Offer, lineage),
		Attributes: without(l.Attributes, lineage),
	}
	if out.isEmpty() {
		return nil
	}
	return out
}

// LastMerge returns the guest's cart that was merged into this one last, when that
// was, and whether it has been undone; an empty id when there is none.
func (c *Cart) LastMerge() (guest string, at Timestamp, undone bool) {
	for id := range c.Facts(FactGuest) {
		if n, _ := c.guestNote(id); n.merged > at {
			guest, at, undone = id, n.merged, n.isUndone()
		}
	}
	return guest, at, undone
}

// UndoneAt reports whether the merge of a guest's cart was undone at a time: what an
// edit of that time took out, no shopper did.
func (c *Cart) UndoneAt(at Timestamp) bool {
	for id := range c.Facts(FactGuest) {
		if n, _ := c.guestNote(id); slices.Contains(n.undone, at) {
			return true
		}
	}
	return false
}

// UndoMerge takes out what a guest's cart brought: a line that nobody else wrote goes,
// another shows again what it would show without the guest. FactGuest, which says so,
// comes first. There are no deltas when nothing of the guest's is left.
func (c *Cart) UndoMerge(w Writer, guest string) (deltas []Delta) {
	apply := func(d Delta) {
		c = c.Apply(d)
		deltas = append(deltas, d)
	}
	for _, e := range c.Lines {
		if e.Key.IsFact() || !e.Line.IsThere() || !e.Line.HasLineage(guest) {
			continue
		}
		if len(deltas) == 0 {
			note, _ := c.guestNote(guest)
			note.undone = append(note.undone, w.At)
			apply(c.SetFact(w, FactGuest, guest, note.pairs()))
		}
		if v, ok := c.BeforeMerge(w, guest, e.Key); ok {
			apply(c.Put(w, e.Key, v))
		} else {
			apply(c.Remove(w, e.Key))
		}
	}
	return deltas
}

// BeforeMerge is what a line would show if the guest's cart had not been merged: it
// is without the guest's writes, and without the quantity that the merge rule wrote,
// if that write alone survives. A concurrent one may be of the same quantity, and
// somebody's own: then both stay. ok is false when nothing of the line is left.
func (c *Cart) BeforeMerge(w Writer, guest string, k LineKey) (v Carried, ok bool) {
	rest := c.Lines.Find(k).Without(guest)
	if !rest.IsThere() {
		return v, false
	}
	v = rest.Visible()
	note, _ := c.guestNote(guest)
	// Where the user's quantity was the latest, it is what the rule wrote.
	if d, decided := note.decided[hashOf(k)]; decided && len(rest.Quantity) == 1 && v.Quantity == note.rule.decide(w.QuantityMax, d, true) {
		v.Quantity = d.User
	}
	return v, true
}

func without[V comparable](r Register[V], lineage string) Register[V] {
	var out Register[V]
	for _, w := range r {
		if w.Dot.Replica.Lineage != lineage {
			out = append(out, w)
		}
	}
	return out
}

// HasLineage reports whether a write of a guest's cart survives in the line.
func (l *Line) HasLineage(lineage string) bool {
	if l == nil {
		return false
	}
	left := 0
	if rest := l.Without(lineage); rest != nil {
		left = rest.writes()
	}
	return left != l.writes()
}

// Removed is what was taken out of a cart together, as it was.
type Removed struct {
	At    Timestamp // when it was taken out
	Lines ORMap
}

// With is r with a line more.
func (r Removed) With(k LineKey, l *Line) Removed {
	return Removed{r.At, r.Lines.with(k, l)}
}

// Less is r without a line.
func (r Removed) Less(k LineKey) Removed {
	return Removed{r.At, r.Lines.with(k, nil)}
}

// Encode appends the encoding of r to dst: that of the lines as a cart, and the time.
func (r Removed) Encode(dst []byte) []byte {
	var held CausalContext
	for _, e := range r.Lines {
		held = held.Join(e.Line.Dots())
	}
	dst = (&Cart{Context: held, Lines: r.Lines}).Encode(dst)
	return binary.BigEndian.AppendUint64(dst, uint64(r.At))
}

// RemovedAt is the time in what Removed.Encode gave.
func RemovedAt(b []byte) (Timestamp, error) {
	if len(b) < 8 {
		return 0, fmt.Errorf("%w: %d bytes of removed lines", ErrCorrupt, len(b))
	}
	return Timestamp(binary.BigEndian.Uint64(b[len(b)-8:])), nil
}

// DecodeRemoved is the inverse of Removed.Encode.
func DecodeRemoved(b []byte) (Removed, error) {
	at, err := RemovedAt(b)
	if err != nil {
		return Removed{}, err
	}
	c, err := DecodeCart(b[:len(b)-8])
	if err != nil {
		return Removed{}, err
	}
	return Removed{at, c.Lines}, nil
}
