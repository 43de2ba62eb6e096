package crdt

import "slices"

// Write is one surviving write of a register.
type Write[V comparable] struct {
	Dot   Dot
	Value V
}

// Register is a dotted multi-value register: the writes that no seen write
// superseded, sorted by dot. A write replaces those it has seen, so more
// than one survives only when they were concurrent; which value then counts
// is decided on read. Values are immutable.
//
// Source: Shapiro et al. 2011 (multi-value register); dotted form:
// Almeida, Shoker, Baquero, arXiv:1603.01529.
type Register[V comparable] []Write[V]

// only returns the register that holds the one given write.
func only[V comparable](d Dot, v V) Register[V] { return Register[V]{{d, v}} }

// Concurrent reports whether surviving writes disagree.
func (r Register[V]) Concurrent() bool {
	for i := 1; i < len(r); i++ {
		if r[i].Value != r[0].Value {
			return true
		}
	}
	return false
}

// joinRegister keeps a write that both sides hold, or that the side without
// it has not seen. The result shares the memory of a side that it equals.
func joinRegister[V comparable](a, b Register[V], ca, cb CausalContext) Register[V] {
	if slices.Equal(a, b) {
		return a
	}
	switch {
	case len(b) == 0:
		return unseen(a, cb)
	case len(a) == 0:
		return unseen(b, ca)
	}
	out := make(Register[V], 0, max(len(a), len(b)))
	for len(a) > 0 || len(b) > 0 {
		var c int
		switch {
		case len(b) == 0:
			c = -1
		case len(a) == 0:
			c = 1
		default:
			c = a[0].Dot.Compare(b[0].Dot)
		}
		switch {
		case c == 0:
			out = append(out, a[0])
			a, b = a[1:], b[1:]
		case c < 0:
			if !cb.Has(a[0].Dot) {
				out = append(out, a[0])
			}
			a = a[1:]
		default:
			if !ca.Has(b[0].Dot) {
				out = append(out, b[0])
			}
			b = b[1:]
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// unseen returns the writes of r that are not in cc.
func unseen[V comparable](r Register[V], cc CausalContext) Register[V] {
	seen := func(w Write[V]) bool { return cc.Has(w.Dot) }
	if !slices.ContainsFunc(r, seen) {
		return r
	}
	if out := slices.DeleteFunc(slices.Clone(r), seen); len(out) > 0 {
		return out
	}
	return nil
}
