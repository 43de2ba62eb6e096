package check

import "slices"

// registers judges where a line is and its note: an acknowledged save, move or note is
// what the cart shows, unless something came later or without having been seen. A line
// that a merged guest has written too is not judged.
func (f feeds) registers(cart, line string, have Item) (out []Violation) {
	if have.N == 0 || slices.ContainsFunc(f.guests(), func(ops []Op) bool { return len(that(ops, line, Op.touches)) > 0 }) {
		return nil
	}
	takes := that(f.own, line, Op.takes)
	if last, ok := lastOf(slices.Concat(that(f.own, line, Op.places), takes)); ok {
		if aside := last.Kind == Save; (aside || last.Kind == Move) && have.Saved != aside {
			out = append(out, violation("content", "%s has %v of %s, and nothing came after %v", cart, have, line, last))
		}
	}
	if last, ok := lastOf(slices.Concat(that(f.own, line, Op.notes), takes, that(f.own, line, isUndo))); ok && last.notes(line) && have.Note != last.Note {
		out = append(out, violation("content", "%s has %v of %s, and no note came after %v", cart, have, line, last))
	}
	return out
}

// lastOf finds the call that surely saw all others.
func lastOf(ops []Op) (last Op, ok bool) {
	for i, o := range ops {
		sees := true
		for j, other := range ops {
			sees = sees && (i == j || o.sees(other))
		}
		if sees && o.Outcome == Acked && !o.Replayed && !o.Stale {
			return o, true
		}
	}
	return Op{}, false
}
