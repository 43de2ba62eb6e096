package crdt

import "slices"

// Reissue makes a write that w's region acknowledged under an earlier incarnation,
// and that no other region saw, anew: c is the cart that the others have, with
// what was made anew before. lost is the write's delta, as it was in the delta
// log. ok is false, and nothing is to be done, when c has seen all of its dots.
//
// What comes out is as concurrent with the others' writes as lost was: it takes
// out what lost took out, with the values that lost wrote, under a dot of w. So
// for every cart that a lost delta d fits,
//
//	c.Apply(c.Reissue(w, d)) shows what c.Apply(d) would have shown
//
// but lost itself could not be joined: by now the others may have forgotten what
// they saw of the earlier incarnation, and they refuse its rows.
//
//	I6  The dots of lost are in the context: a copy of it that turns up later
//	    is known, and brings nothing back. So a token that names it holds.
//	I7  The writes of w's region under later incarnations than lost's were made
//	    anew from rows before lost, which lost has seen: it replaces, of each
//	    register, those that it wrote, and carries the others on. There may be
//	    several such incarnations, when the region was fenced again on its way.
//	I8  What stands in lost's line of other writers stays in it: a dot may
//	    stand in several registers of which lost wrote only some.
//	I9  Of an erased cart nothing is written but that lost was seen, and nothing
//	    takes its erasure out.
//
// Writes are made anew in the order of the log, and before the incarnation makes
// any other in the cart. They keep their lineage.
func (c *Cart) Reissue(w Writer, lost Delta) (d Delta, ok bool) {
	if !slices.ContainsFunc(lost.Dots, func(dot Dot) bool { return !c.Context.Has(dot) }) {
		return Delta{}, false
	}
	if c.IsErased() && lost.Key != erasedKey {
		lost = Row{Delta: lost}.Scrubbed().Delta // I9
	}
	old := c.Lines.Find(lost.Key)
	was := lost.Dots[len(lost.Dots)-1].Replica
	w.Replica.Lineage = was.Lineage
	dot := c.next(w)
	gone := append([]Dot{dot}, lost.Dots...)
	for _, standing := range old.appendDots(nil) {
		if standing.Replica.madeAnew(was) && lost.Key != erasedKey {
			gone = append(gone, standing)
		}
	}
	d = Delta{Key: lost.Key, Dots: []Dot{dot}, Context: lost.Context.Join(contextOf(gone))}
	if lost.Line.isEmpty() {
		return d, true
	}
	if old == nil {
		old = &Line{}
	}
	d.Line = &Line{
		Quantity:   reissued(lost.Line.Quantity, old.Quantity, lost.Dots, dot, was),
		Placement:  reissued(lost.Line.Placement, old.Placement, lost.Dots, dot, was),
		Offer:      reissued(lost.Line.Offer, old.Offer, lost.Dots, dot, was),
		Attributes: reissued(lost.Line.Attributes, old.Attributes, lost.Dots, dot, was),
	}
	if !d.Key.IsFact() {
		d.Line.Presence = only(dot, lost.Line.Visible())
	}
	return d, true
}

// reissued is a register of a write made anew, see I7 and I8.
func reissued[V comparable](lost, old Register[V], dots []Dot, dot Dot, was Replica) Register[V] {
	var out Register[V]
	for _, write := range lost {
		if slices.Contains(dots, write.Dot) {
			return only(dot, write.Value)
		}
		out = append(out, write)
	}
	for _, write := range old {
		if write.Dot.Replica.madeAnew(was) {
			out = append(out, write)
		}
	}
	slices.SortFunc(out, func(a, b Write[V]) int { return a.Dot.Compare(b.Dot) })
	return out
}
