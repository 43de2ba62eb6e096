package check

import "slices"

// Sessions checks that no session was shown less than it had seen: of a line to
// which shoppers only add, its quantity never falls; and a line that one session
// alone writes is as that session left it. Answers that were marked stale promise
// nothing. evaluated counts the answers that were judged.
//
// What a merge brings only adds to a line; not so under the rule Latest, and where
// merges are undone. Undos write whatever was there, for whoever wrote it. Carts
// with those are left out.
func Sessions(ops []Op, rule Rule) (out []Violation, evaluated int) {
	carts := byCart(ops)
	for cart, all := range carts {
		bySession := make(map[int][]Op)
		for _, o := range all {
			bySession[o.Session] = append(bySession[o.Session], o)
		}
		onlyAdded, owner := kindsOfLines(all, rule)
		for _, guest := range feedsOf(carts, cart).guests() {
			for _, o := range guest {
				delete(owner, o.Line)
				if o.takes(o.Line) || o.Kind == Set {
					delete(onlyAdded, o.Line)
				}
			}
		}
		for session, own := range bySession {
			slices.SortFunc(own, func(a, b Op) int { return int(a.Begin - b.Begin) })
			v, n := monotonic(cart, session, own, onlyAdded)
			out, evaluated = append(out, v...), evaluated+n
			v, n = readYourWrites(cart, session, own, owner)
			out, evaluated = append(out, v...), evaluated+n
		}
	}
	return out, evaluated
}

// kindsOfLines says which lines were only added to, and which were written by one
// session alone, and by which.
func kindsOfLines(all []Op, rule Rule) (onlyAdded map[string]bool, owner map[string]int) {
	onlyAdded, owner = make(map[string]bool), make(map[string]int)
	cleared, by := false, make(map[string]map[int]bool)
	for _, o := range all {
		if o.reads() {
			continue
		}
		switch o.Kind {
		case Clear, Undo:
			cleared = true
			continue
		case Merge:
			cleared = cleared || rule == Latest
			continue
		default:
		}
		if by[o.Line] == nil {
			by[o.Line], onlyAdded[o.Line] = make(map[int]bool), true
		}
		by[o.Line][o.Session] = true
		onlyAdded[o.Line] = onlyAdded[o.Line] && !o.takes(o.Line) && o.Kind != Set
	}
	if cleared {
		return nil, nil // by anybody, of anything
	}
	for line, sessions := range by {
		if len(sessions) == 1 {
			for s := range sessions {
				owner[line] = s
			}
		}
	}
	return onlyAdded, owner
}

// shows reports whether the answer has the whole cart.
func (o Op) shows() bool { return o.reads() || o.Kind == Save || o.Kind == Move || o.Kind == Undo }

// shown is how much an answer shows of a line.
func (o Op) shown(line string) (n uint64, ok bool) {
	if o.Outcome != Acked {
		return 0, false
	}
	switch {
	case o.shows():
		return o.Lines[line].N, true
	case (o.Kind == Add || o.Kind == Set || o.Kind == Describe) && o.Line == line:
		return o.Quantity, true
	}
	return 0, false
}

// after is what a line is after a call that writes it, where nothing is concurrent.
func (i Item) after(o Op) Item {
	switch o.Kind {
	case Add:
		i.N += o.N
		i.Saved = false
	case Set:
		i.N = o.N
	case Save, Move:
		i.Saved = o.Kind == Save
	default:
	}
	switch {
	case i.N == 0 || o.Kind == Remove || o.Kind == Clear:
		return Item{}
	case o.Note != "":
		i.Note = o.Note
	}
	return i
}

func monotonic(cart string, session int, own []Op, onlyAdded map[string]bool) (out []Violation, evaluated int) {
	for line, yes := range onlyAdded {
		if !yes {
			continue
		}
		var most uint64
		var from Op
		for _, o := range own {
			n, ok := o.shown(line)
			if !ok {
				continue
			}
			// What is replayed is the answer of before.
			if o.Stale || o.Replayed {
				continue
			}
			evaluated++
			if n < most {
				out = append(out, violation("session", "%s: session %d saw %d of %s, then %d, which was not marked stale: %v; before: %v", cart, session, most, line, n, o, from))
			}
			if n > most {
				most, from = n, o
			}
		}
	}
	return out, evaluated
}

// readYourWrites follows a line that the session alone writes for as long as
// nothing about it is uncertain.
func readYourWrites(cart string, session int, own []Op, owner map[string]int) (out []Violation, evaluated int) {
	for line, by := range owner {
		if by != session {
			continue
		}
		var have Item
		for _, o := range own {
			wrote := o.touches(line) || o.takes(line)
			if wrote && (o.Outcome == Unknown || o.Stale || o.Replayed) {
				break // from here on two values may be concurrent
			}
			if wrote && o.Outcome == Acked {
				have = have.after(o)
			}
			n, ok := o.shown(line)
			if !ok || o.Stale {
				continue
			}
			evaluated++
			if n != have.N || o.shows() && o.Lines[line] != have {
				out = append(out, violation("session", "%s: session %d has %v of %s and was shown %v of %d, not marked stale: %v", cart, session, have, line, o.Lines[line], n, o))
			}
		}
	}
	return out, evaluated
}
