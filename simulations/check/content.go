package check

import (
	"slices"
	"time"
)

// Rule is what a shop does with a line that a guest and a user both have, when the
// guest's cart is merged.
type Rule string

// The rules, by the names that the shop knows them by. All but Max, which is meant
// where none is said, write a quantity of their own.
const (
	Max    Rule = "max"
	Sum    Rule = "sum"
	Latest Rule = "latest"
)

// Content compares what carts hold in the end, in any region once all are equal,
// with what shoppers were told. evaluated counts the lines that were judged.
func Content(ops []Op, final map[string]map[string]Item, rule Rule) (out []Violation, evaluated int) {
	carts := byCart(ops)
	for cart := range final {
		if carts[cart] == nil && len(final[cart]) > 0 {
			out = append(out, violation("content", "%s has %v, and nobody wrote it", cart, final[cart]))
		}
	}
	for cart := range carts {
		f := feedsOf(carts, cart)
		var lines []string
		for _, own := range append(f.guests(), f.own) {
			for _, o := range own {
				if o.Line != "" && !slices.Contains(lines, o.Line) {
					lines = append(lines, o.Line)
				}
			}
		}
		for line := range final[cart] {
			if !slices.Contains(lines, line) {
				out = append(out, violation("content", "%s has line %s, which nobody wrote", cart, line))
			}
		}
		for _, line := range lines {
			evaluated++
			out = append(out, f.content(cart, line, final[cart][line], rule)...)
			out = append(out, f.registers(cart, line, final[cart][line])...)
		}
	}
	return out, evaluated
}

// feeds is all that may have written a cart: what was asked of it, and what was
// asked of the guests' carts that may have been merged into it.
type feeds struct {
	own    []Op
	merged map[string][]Op // by guest's cart
	surely map[string]bool // guests' carts that were, since a merge was acknowledged
}

func feedsOf(carts map[string][]Op, cart string) feeds {
	f := feeds{own: effective(carts[cart]), merged: make(map[string][]Op), surely: make(map[string]bool)}
	for _, o := range f.own {
		if o.Kind == Merge {
			f.merged[o.Guest] = effective(carts[o.Guest])
			f.surely[o.Guest] = f.surely[o.Guest] || o.Outcome == Acked
		}
	}
	return f
}

// effective are the calls that may have changed something.
func effective(ops []Op) (out []Op) {
	for _, o := range ops {
		if o.Outcome != Refused && !o.reads() {
			out = append(out, o)
		}
	}
	return out
}

func (f feeds) guests() (out [][]Op) {
	for _, ops := range f.merged {
		out = append(out, ops)
	}
	return out
}

// that are the calls for which something holds of a line.
func that(ops []Op, line string, holds func(Op, string) bool) (out []Op) {
	for _, o := range ops {
		if holds(o, line) {
			out = append(out, o)
		}
	}
	return out
}

// end is when a call may still take effect.
func (o Op) end() time.Duration {
	if o.Outcome == Unknown {
		return 1 << 62
	}
	return o.End
}

// isUndo is for that: an undo may take out what a merge has brought, of any line.
func isUndo(o Op, _ string) bool { return o.Kind == Undo }

// content judges whether a line is there, and with how much. A guest's writes count
// as the user's do, with three differences: an undo of the user's may take them out;
// a removal in either cart may have; and a rule may have written a quantity for both,
// which stands for itself.
func (f feeds) content(cart, line string, have Item, rule Rule) (out []Violation) {
	writes, takes := that(f.own, line, Op.puts), that(f.own, line, Op.takes)
	lost := func(w Op) {
		out = append(out, violation("content", "%s lost %s: %v, and nothing took it out later", cart, line, w))
	}
	if w, sure := surelyThere(that(f.own, line, stays), takes); sure && have.N == 0 {
		lost(w)
	}
	least, all, most := uint64(0), writes, mostOf(writes)
	ruled := false // by a rule that writes, or perhaps
	for guest, ops := range f.merged {
		theirs := that(ops, line, Op.puts)
		outs := slices.Concat(that(ops, line, Op.takes), takes, that(f.own, line, isUndo))
		if w, sure := surelyThere(that(ops, line, stays), outs); sure && f.surely[guest] && have.N == 0 {
			lost(w)
		}
		all, most = append(all, theirs...), most+mostOf(theirs)
		ruled = ruled || (rule == Sum || rule == Latest) && len(theirs) > 0
		if f.surely[guest] && !slices.ContainsFunc(writes, isSet) {
			least = max(least, leastOf(theirs, outs))
		}
	}
	ruled = ruled && (len(writes) > 0 || len(f.merged) > 1)
	least = max(least, leastOf(writes, takes))
	if ruled && rule == Latest {
		least = 0 // of what was written before
	}
	if !ruled || rule == Latest {
		most = mostOf(all) // one of them, or something added to it
	}
	if last, gone := f.surelyGone(line); have.N > 0 && !ruled && gone {
		out = append(out, violation("content", "%s has %v of %s, and everybody who wrote it took it out again: last %v", cart, have, line, last))
	}
	if have.N > most {
		out = append(out, violation("content", "%s has %v of %s, and only %d were ever asked for: doubled", cart, have, line, most))
	}
	if have.N < least {
		out = append(out, violation("content", "%s has %v of %s, and %d were acknowledged: lost", cart, have, line, least))
	}
	return out
}

func isSet(o Op) bool { return o.Kind == Set }

// stays reports whether the call surely writes the line. A save or a move of what is
// where it is to be writes nothing.
func stays(o Op, line string) bool { return o.puts(line) || o.notes(line) }

// surelyThere finds an acknowledged write that nothing can have taken out.
func surelyThere(writes, takes []Op) (Op, bool) {
	for _, w := range writes {
		if w.Outcome == Acked && !slices.ContainsFunc(takes, func(r Op) bool { return r.end() > w.Begin }) {
			return w, true
		}
	}
	return Op{}, false
}

// surelyGone reports whether every write was seen by a removal that was
// acknowledged: of the user's own, a later one of the same session, or of a guest's,
// as well one of the user's after a merge that had seen the write. last is such a
// removal. Nothing that comes later, such as the same merge again, may bring the line
// back.
func (f feeds) surelyGone(line string) (last Op, gone bool) {
	seenBy := func(w Op, takes []Op) bool {
		return slices.ContainsFunc(takes, func(r Op) bool {
			if r.Outcome != Acked || r.Stale || r.Replayed || r.Session != w.Session || r.Begin < w.end() {
				return false
			}
			last = r
			return true
		})
	}
	takes, writes := that(f.own, line, Op.takes), that(f.own, line, Op.touches)
	n := len(writes)
	for _, w := range writes {
		if !seenBy(w, takes) {
			return last, false
		}
	}
	for guest, ops := range f.merged {
		theirs, writes := that(ops, line, Op.takes), that(ops, line, Op.touches)
		n += len(writes)
		for _, w := range writes {
			if !seenBy(w, theirs) && !f.goneAfterMerge(guest, w, takes, &last) {
				return last, false
			}
		}
	}
	return last, n > 0
}

// goneAfterMerge reports whether a removal of the user's has seen a guest's write,
// since it had seen an answer of a merge that had.
func (f feeds) goneAfterMerge(guest string, w Op, takes []Op, last *Op) bool {
	for _, m := range f.own {
		if m.Kind != Merge || m.Guest != guest || m.Outcome != Acked || m.Replayed ||
			w.Outcome != Acked || w.Replayed || w.Region != m.Region || w.End > m.Begin {
			continue
		}
		for _, r := range takes {
			if r.sees(m) {
				*last = r
				return true
			}
		}
	}
	return false
}

// mostOf is what the line can hold at most.
func mostOf(writes []Op) (most uint64) {
	var set uint64
	for _, w := range writes {
		if w.Kind == Set {
			set = max(set, w.N)
			continue
		}
		most += w.N
	}
	return most + set
}

// leastOf is what the line must hold at least: of a line that was only added to,
// everything that one region acknowledged, in which adds follow each other.
func leastOf(writes, takes []Op) (least uint64) {
	if len(takes) > 0 || slices.ContainsFunc(writes, isSet) {
		return 0
	}
	byRegion := make(map[string]uint64)
	for _, w := range writes {
		// One that was replayed was made elsewhere, perhaps.
		if w.Outcome == Acked && !w.Replayed {
			byRegion[w.Region] += w.N
		}
	}
	for _, n := range byRegion {
		least = max(least, n)
	}
	return least
}
