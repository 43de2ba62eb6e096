package crdt_test

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/crdt/crdttest"
)

// The reference model. It knows no contexts, joins or deltas: it numbers all
// writes of a history, and keeps for every region which field writes it
// knows to stand and which it knows to be dead, the dead ones for ever. A
// write kills in its line the writes of its fields that its region had; a
// remove kills all, and so does the first write of a line that is not there. A row tells of the writes that its line had when it was
// made, and of the dead fields of those. What shows follows the table of
// the package documentation, written down here a second time.

type field int

const (
	presence field = iota
	quantity
	placement
	offer
	attributes
	fields
)

const modelLines = 3

// set is a set of writes, by number.
type set = uint64

type modelWrite struct {
	dot   crdt.Dot
	line  int
	wrote [fields]bool
	after crdt.Carried // the line's fields as its author then saw them
	saw   set          // the writes of the line that its region knew, dead or not
	known set          // all writes that its region knew
}

// view is what one region knows.
type view struct {
	stand, dead [modelLines][fields]set
	known       set
}

// modelRow is what one row tells.
type modelRow struct {
	line        int
	stand, dead [fields]set
	known       set
}

type model struct {
	keys   []crdt.LineKey
	writes []modelWrite
}

func (m *model) line(k crdt.LineKey) int { return slices.Index(m.keys, k) }

func (v *view) alive(line int, f field) set { return v.stand[line][f] &^ v.dead[line][f] }

func (v *view) held(line int) set {
	var s set
	for f := range fields {
		s |= v.alive(line, f)
	}
	return s
}

func (v *view) there(line int) bool { return v.alive(line, presence) != 0 }

func (v *view) receive(r modelRow) {
	for f := range fields {
		v.stand[r.line][f] |= r.stand[f]
		v.dead[r.line][f] |= r.dead[f]
	}
	v.known |= r.known
}

func (v *view) joinAll(o *view) {
	for line := range modelLines {
		for f := range fields {
			v.stand[line][f] |= o.stand[line][f]
			v.dead[line][f] |= o.dead[line][f]
		}
	}
	v.known |= o.known
}

// visible resolves a line that is there.
func (m *model) visible(v *view, line int) crdt.Carried {
	if !v.there(line) {
		return crdt.Carried{}
	}
	candidates := func(f field) []modelWrite {
		s := v.alive(line, f)
		if s == 0 {
			s = v.alive(line, presence)
		}
		return m.list(s)
	}
	var out crdt.Carried
	for _, w := range candidates(quantity) {
		out.Quantity = max(out.Quantity, w.after.Quantity)
	}
	out.Placement = crdt.Saved
	for _, w := range candidates(placement) {
		if w.after.Placement == crdt.InCart {
			out.Placement = crdt.InCart
		}
	}
	out.Offer = slices.MaxFunc(candidates(offer), func(a, b modelWrite) int {
		x, y := a.after.Offer, b.after.Offer
		return cmp.Or(cmp.Compare(x.AddedAt, y.AddedAt), cmp.Compare(y.Price, x.Price), cmp.Compare(x.Currency, y.Currency))
	}).after.Offer
	out.Attributes = slices.MaxFunc(candidates(attributes), func(a, b modelWrite) int {
		return cmp.Or(cmp.Compare(a.after.Attributes.At, b.after.Attributes.At), a.dot.Compare(b.dot))
	}).after.Attributes
	return out
}

// disagree reports whether surviving writes of the placement differ.
func (m *model) disagree(v *view, line int) bool {
	all := m.list(v.alive(line, placement))
	return slices.ContainsFunc(all, func(w modelWrite) bool { return w.after.Placement != all[0].after.Placement })
}

func (m *model) list(s set) []modelWrite {
	var buf [8]modelWrite
	out := buf[:0]
	for ; s != 0; s &= s - 1 {
		out = append(out, m.writes[bits.TrailingZeros64(s)])
	}
	return out
}

// write makes an edit of one line in a region, under the given dot.
func (m *model) write(v *view, line int, d crdt.Dot, at crdt.Timestamp, e crdttest.Edit) modelRow {
	w := modelWrite{dot: d, line: line, after: m.visible(v, line), known: v.known}
	for f := range fields {
		w.saw |= v.stand[line][f] | v.dead[line][f]
	}
	isNew := !v.there(line)
	put := func(f field) { w.wrote[f], w.wrote[presence] = true, true }
	switch e.Kind {
	case crdttest.Add, crdttest.AddRenew:
		put(quantity)
		if isNew || w.after.Placement == crdt.Saved || m.disagree(v, line) {
			put(placement)
		}
		if isNew || e.Kind == crdttest.AddRenew {
			put(offer)
			w.after.Offer = e.Offer
		}
		w.after.Quantity += e.Quantity
		w.after.Placement = crdt.InCart
	case crdttest.Set:
		put(quantity)
		w.after.Quantity = e.Quantity
	case crdttest.Save:
		put(placement)
		w.after.Placement = crdt.Saved
	case crdttest.Move:
		put(placement)
		w.after.Placement = crdt.InCart
	case crdttest.Attributes:
		put(attributes)
		w.after.Attributes = crdt.Attributes{Pairs: e.Pairs, At: at}
	case crdttest.Remove, crdttest.Clear:
	case crdttest.SetFact, crdttest.DropFact, crdttest.Erase: // its histories have none
	}
	me := set(1) << len(m.writes)
	m.writes = append(m.writes, w)

	row := modelRow{line: line, known: v.held(line) | me}
	for f := range fields {
		if w.wrote[f] || !w.wrote[presence] || isNew {
			v.dead[line][f] |= v.stand[line][f]
		}
		if w.wrote[f] {
			v.stand[line][f] |= me
		}
	}
	v.known |= me
	for f := range fields {
		row.stand[f] = v.stand[line][f] & row.known
		row.dead[f] = v.dead[line][f] & row.known
	}
	return row
}

// final returns which writes of a field stand once everybody knows all:
// those that no later write of the field, and no remove, has seen.
func (m *model) final(line int, f field) set {
	var s set
	for i, x := range m.writes {
		if x.line != line || !x.wrote[f] {
			continue
		}
		killed := false
		for _, w := range m.writes {
			if w.line == line && w.saw>>i&1 != 0 && (w.wrote[f] || !w.wrote[presence]) {
				killed = true
			}
		}
		if !killed {
			s |= 1 << i
		}
	}
	return s
}

// differs tells how a cart differs from what the region should know; empty
// when it does not.
func (m *model) differs(v *view, c *crdt.Cart) string {
	rest := c.Lines
	for _, line := range m.sortedLines() {
		if v.held(line) == 0 {
			continue
		}
		if len(rest) == 0 || rest[0].Key != m.keys[line] {
			return fmt.Sprintf("line %v is missing or out of place", m.keys[line])
		}
		l := rest[0].Line
		rest = rest[1:]
		for f, ok := range [fields]bool{
			presence:   same(m, v.alive(line, presence), l.Presence, func(a crdt.Carried) crdt.Carried { return a }),
			quantity:   same(m, v.alive(line, quantity), l.Quantity, func(a crdt.Carried) uint32 { return a.Quantity }),
			placement:  same(m, v.alive(line, placement), l.Placement, func(a crdt.Carried) crdt.Placement { return a.Placement }),
			offer:      same(m, v.alive(line, offer), l.Offer, func(a crdt.Carried) crdt.Offer { return a.Offer }),
			attributes: same(m, v.alive(line, attributes), l.Attributes, func(a crdt.Carried) crdt.Attributes { return a.Attributes }),
		} {
			if !ok {
				return fmt.Sprintf("line %v: writes of field %d, want %+v", m.keys[line], f, m.list(v.alive(line, field(f))))
			}
		}
		if l.IsThere() != v.there(line) {
			return fmt.Sprintf("line %v is there: %v, want %v", m.keys[line], l.IsThere(), v.there(line))
		}
		if got, want := l.Visible(), m.visible(v, line); got != want {
			return fmt.Sprintf("line %v shows %+v, want %+v", m.keys[line], got, want)
		}
	}
	if len(rest) > 0 {
		return fmt.Sprintf("line %v is left", rest[0].Key)
	}
	n := 0
	for i, w := range m.writes {
		want := v.known>>i&1 != 0
		if c.Context.Has(w.dot) != want {
			return fmt.Sprintf("dot %v is in the context: %v, want %v", w.dot, !want, want)
		}
		if want {
			n++
		}
	}
	return ""
}

func (m *model) sortedLines() []int {
	var buf [modelLines]int
	out := buf[:0]
	for i := range m.keys {
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b int) int { return m.keys[a].Compare(m.keys[b]) })
	return out
}

// same compares a register with the writes that should stand in it.
func same[V comparable](m *model, want set, r crdt.Register[V], value func(crdt.Carried) V) bool {
	if bits.OnesCount64(want) != len(r) {
		return false
	}
	for i, x := range r {
		if i > 0 && r[i-1].Dot.Compare(x.Dot) >= 0 {
			return false
		}
		found := false
		for s := want; s != 0 && !found; s &= s - 1 {
			w := &m.writes[bits.TrailingZeros64(s)]
			found = w.dot == x.Dot && value(w.after) == x.Value
		}
		if !found {
			return false
		}
	}
	return true
}
