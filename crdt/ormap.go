package crdt

import "slices"

// ORMap maps line keys to lines, sorted by key. Together with a causal
// context it is an observed-remove map: what a context has seen and the map
// does not hold was removed, so no tombstone is stored. Values are
// immutable; changed copies share the untouched lines.
//
// Source: Bieniusa et al., arXiv:1210.3368.
type ORMap []MapEntry

// MapEntry is one line under its key.
type MapEntry struct {
	Key  LineKey
	Line *Line // not empty
}

func (m ORMap) find(k LineKey) (int, bool) {
	return slices.BinarySearchFunc(m, k, func(e MapEntry, k LineKey) int { return e.Key.Compare(k) })
}

// Find returns the line under k, nil when there is none.
func (m ORMap) Find(k LineKey) *Line {
	if i, ok := m.find(k); ok {
		return m[i].Line
	}
	return nil
}

// with returns m with the line of k replaced, or taken out when it is nil.
func (m ORMap) with(k LineKey, l *Line) ORMap {
	i, ok := m.find(k)
	switch {
	case ok && l != nil:
		out := slices.Clone(m)
		out[i].Line = l
		return out
	case ok:
		out := make(ORMap, 0, len(m)-1)
		return append(append(out, m[:i]...), m[i+1:]...)
	case l == nil:
		return m
	}
	out := make(ORMap, 0, len(m)+1)
	return append(append(append(out, m[:i]...), MapEntry{k, l}), m[i:]...)
}

// joinMaps joins two maps under their contexts. Cost: O(dots(a) + dots(b)).
func joinMaps(a, b ORMap, ca, cb CausalContext) ORMap {
	out := make(ORMap, 0, max(len(a), len(b)))
	keep := func(k LineKey, x, y *Line) {
		if l := joinLines(x, y, ca, cb); l != nil {
			out = append(out, MapEntry{k, l})
		}
	}
	for len(a) > 0 && len(b) > 0 {
		switch c := a[0].Key.Compare(b[0].Key); {
		case c < 0:
			keep(a[0].Key, a[0].Line, nil)
			a = a[1:]
		case c > 0:
			keep(b[0].Key, nil, b[0].Line)
			b = b[1:]
		default:
			keep(a[0].Key, a[0].Line, b[0].Line)
			a, b = a[1:], b[1:]
		}
	}
	for _, e := range a {
		keep(e.Key, e.Line, nil)
	}
	for _, e := range b {
		keep(e.Key, nil, e.Line)
	}
	return out
}

// Equal reports whether both maps hold the same writes under the same keys.
func (m ORMap) Equal(n ORMap) bool {
	return slices.EqualFunc(m, n, func(a, b MapEntry) bool { return a.Key == b.Key && a.Line.Equal(b.Line) })
}
