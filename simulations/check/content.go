package check

import (
	"slices"
	"time"
)

// Content compares what carts hold in the end, in any region once all are equal,
// with what shoppers were told. evaluated counts the lines that were judged.
func Content(ops []Op, final map[string]map[string]uint64) (out []Violation, evaluated int) {
	carts := byCart(ops)
	for cart := range final {
		if carts[cart] == nil && len(final[cart]) > 0 {
			out = append(out, violation("content", "%s has %v, and nobody wrote it", cart, final[cart]))
		}
	}
	for cart, all := range carts {
		var lines []string
		for _, o := range all {
			if o.Line != "" && !slices.Contains(lines, o.Line) {
				lines = append(lines, o.Line)
			}
		}
		for line := range final[cart] {
			if !slices.Contains(lines, line) {
				out = append(out, violation("content", "%s has line %s, which nobody wrote", cart, line))
			}
		}
		for _, line := range lines {
			evaluated++
			out = append(out, content(all, cart, line, final[cart][line])...)
		}
	}
	return out, evaluated
}

// end is when a call may still take effect.
func (o Op) end() time.Duration {
	if o.Outcome == Unknown {
		return 1 << 62
	}
	return o.End
}

func content(all []Op, cart, line string, have uint64) (out []Violation) {
	var writes, takes []Op
	for _, o := range all {
		switch {
		case o.Outcome == Refused || o.reads():
		case o.takes(line):
			takes = append(takes, o)
		case o.puts(line):
			writes = append(writes, o)
		}
	}
	if w, sure := surelyThere(writes, takes); sure && have == 0 {
		out = append(out, violation("content", "%s lost %s: %v, and nothing took it out later", cart, line, w))
	}
	if have > 0 && surelyGone(writes, takes) {
		out = append(out, violation("content", "%s has %d of %s, and everybody who wrote it took it out again: last %v", cart, have, line, takes[len(takes)-1]))
	}
	if most := mostOf(writes); have > most {
		out = append(out, violation("content", "%s has %d of %s, and only %d were ever asked for: doubled", cart, have, line, most))
	}
	if least := leastOf(writes, takes); have < least {
		out = append(out, violation("content", "%s has %d of %s, and %d were acknowledged: lost", cart, have, line, least))
	}
	return out
}

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
// acknowledged: a later one of its own session.
func surelyGone(writes, takes []Op) bool {
	for _, w := range writes {
		seen := slices.ContainsFunc(takes, func(r Op) bool {
			return r.Outcome == Acked && !r.Stale && !r.Replayed && r.Session == w.Session && r.Begin >= w.end()
		})
		if !seen {
			return false
		}
	}
	return len(takes) > 0
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
	if len(takes) > 0 || slices.ContainsFunc(writes, func(w Op) bool { return w.Kind == Set }) {
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
