package crdt

import (
	"slices"
	"strconv"
	"strings"
)

// CausalContext is the set of dots a cart has seen: per replica a version
// vector entry plus exceptions, held as sorted, disjoint, non-adjacent
// ranges. Rows of one origin arrive in order, so an entry is one range but
// for the short time in which another region's row ran ahead; its size
// follows the number of regions, never the number of edits or devices.
//
// The zero value is empty. Values are immutable: every method that changes
// something returns a new value and shares what it can.
//
// Source: Preguiça et al., arXiv:1011.5808.
type CausalContext struct {
	entries []contextEntry // sorted by replica; no empty ranges
}

type contextEntry struct {
	replica Replica
	ranges  []seqRange // sorted, disjoint, not adjacent, not empty
}

// seqRange holds lo..hi, both inclusive.
type seqRange struct{ lo, hi uint64 }

// ContextOf returns the context that holds exactly the given dots.
func ContextOf(dots ...Dot) CausalContext {
	return contextOf(slices.Clone(dots))
}

// contextOf is ContextOf; it sorts dots in place.
func contextOf(dots []Dot) CausalContext {
	if len(dots) == 0 {
		return CausalContext{}
	}
	slices.SortFunc(dots, Dot.Compare)
	dots = slices.Compact(dots)
	replicas := 1
	for i := 1; i < len(dots); i++ {
		if dots[i].Replica != dots[i-1].Replica {
			replicas++
		}
	}
	entries := make([]contextEntry, 0, replicas)
	ranges := make([]seqRange, 0, len(dots)) // of all entries
	first := 0                               // of the entry in ranges
	for i, d := range dots {
		switch {
		case i == 0 || d.Replica != dots[i-1].Replica:
			first = len(ranges)
			entries = append(entries, contextEntry{replica: d.Replica})
			ranges = append(ranges, seqRange{d.Seq, d.Seq})
		case d.Seq == dots[i-1].Seq+1:
			ranges[len(ranges)-1].hi = d.Seq
		default:
			ranges = append(ranges, seqRange{d.Seq, d.Seq})
		}
		entries[len(entries)-1].ranges = ranges[first:len(ranges):len(ranges)]
	}
	return CausalContext{entries}
}

func (cc CausalContext) find(r Replica) (int, bool) {
	// A context has a handful of entries: a scan beats a binary search.
	for i := range cc.entries {
		if c := cc.entries[i].replica.Compare(r); c >= 0 {
			return i, c == 0
		}
	}
	return len(cc.entries), false
}

// Has reports whether d was seen. Cost: O(replicas + log exceptions).
func (cc CausalContext) Has(d Dot) bool {
	i, ok := cc.find(d.Replica)
	return ok && hasSeq(cc.entries[i].ranges, d.Seq)
}

func hasSeq(rs []seqRange, seq uint64) bool {
	if n := len(rs); n == 1 {
		return rs[0].lo <= seq && seq <= rs[0].hi
	}
	_, found := slices.BinarySearchFunc(rs, seq, func(r seqRange, s uint64) int {
		switch {
		case r.hi < s:
			return -1
		case r.lo > s:
			return 1
		}
		return 0
	})
	return found
}

// Max returns the largest seq seen of r, 0 when none was.
func (cc CausalContext) Max(r Replica) uint64 {
	i, ok := cc.find(r)
	if !ok {
		return 0
	}
	rs := cc.entries[i].ranges
	return rs[len(rs)-1].hi
}

// IsEmpty reports whether no dot was seen.
func (cc CausalContext) IsEmpty() bool { return len(cc.entries) == 0 }

// Replicas returns the replicas of which a dot was seen, in order.
func (cc CausalContext) Replicas() []Replica {
	out := make([]Replica, len(cc.entries))
	for i, e := range cc.entries {
		out[i] = e.replica
	}
	return out
}

// Exceptions returns the number of ranges beyond one per replica: 0 when
// every origin's rows arrived without a gap.
func (cc CausalContext) Exceptions() int {
	n := 0
	for _, e := range cc.entries {
		n += len(e.ranges) - 1
	}
	return n
}

// With returns cc and d.
func (cc CausalContext) With(d Dot) CausalContext {
	i, ok := cc.find(d.Replica)
	if !ok {
		entries := make([]contextEntry, len(cc.entries)+1)
		copy(entries, cc.entries[:i])
		entries[i] = contextEntry{d.Replica, []seqRange{{d.Seq, d.Seq}}}
		copy(entries[i+1:], cc.entries[i:])
		return CausalContext{entries}
	}
	rs := cc.entries[i].ranges
	if hasSeq(rs, d.Seq) {
		return cc
	}
	entries := slices.Clone(cc.entries)
	entries[i].ranges = joinRanges(rs, []seqRange{{d.Seq, d.Seq}})
	return CausalContext{entries}
}

// Without returns cc less all dots of r. Only what every member region has
// seen, and no token can name any more, may be left out.
func (cc CausalContext) Without(r Replica) CausalContext {
	i, ok := cc.find(r)
	if !ok {
		return cc
	}
	return CausalContext{slices.Delete(slices.Clone(cc.entries), i, i+1)}
}

// Join returns the union of cc and o. Cost: O(entries + ranges).
func (cc CausalContext) Join(o CausalContext) CausalContext {
	switch {
	case cc.Covers(o):
		return cc
	case len(cc.entries) == 0:
		return o
	}
	out := make([]contextEntry, 0, max(len(cc.entries), len(o.entries)))
	a, b := cc.entries, o.entries
	for len(a) > 0 && len(b) > 0 {
		switch c := a[0].replica.Compare(b[0].replica); {
		case c < 0:
			out, a = append(out, a[0]), a[1:]
		case c > 0:
			out, b = append(out, b[0]), b[1:]
		default:
			out = append(out, contextEntry{a[0].replica, joinRanges(a[0].ranges, b[0].ranges)})
			a, b = a[1:], b[1:]
		}
	}
	out = append(append(out, a...), b...)
	return CausalContext{out}
}

func joinRanges(a, b []seqRange) []seqRange {
	if coversRanges(a, b) {
		return a
	}
	out := make([]seqRange, 0, len(a)+len(b))
	for len(a) > 0 || len(b) > 0 {
		var r seqRange
		if len(b) == 0 || len(a) > 0 && a[0].lo <= b[0].lo {
			r, a = a[0], a[1:]
		} else {
			r, b = b[0], b[1:]
		}
		if n := len(out); n > 0 && r.lo <= out[n-1].hi+1 {
			out[n-1].hi = max(out[n-1].hi, r.hi)
		} else {
			out = append(out, r)
		}
	}
	return out
}

func coversRanges(a, b []seqRange) bool {
	i := 0
	for _, r := range b {
		for i < len(a) && a[i].hi < r.hi {
			i++
		}
		if i == len(a) || a[i].lo > r.lo {
			return false
		}
	}
	return true
}

// Covers reports whether every dot of o is in cc.
func (cc CausalContext) Covers(o CausalContext) bool {
	for _, e := range o.entries {
		i, ok := cc.find(e.replica)
		if !ok || !coversRanges(cc.entries[i].ranges, e.ranges) {
			return false
		}
	}
	return true
}

// Lack is how many dots of one replica a context lacks.
type Lack struct {
	Replica Replica
	Dots    uint64
}

// Lacks returns what o has seen and cc has not: by replica, in order, and only
// those with a dot.
func (cc CausalContext) Lacks(o CausalContext) []Lack {
	var out []Lack
	for _, e := range o.entries {
		var have []seqRange
		if i, ok := cc.find(e.replica); ok {
			have = cc.entries[i].ranges
		}
		if n := countOf(e.ranges) - countOf(intersect(e.ranges, have)); n > 0 {
			out = append(out, Lack{e.replica, n})
		}
	}
	return out
}

// intersect returns what both lists of ranges hold.
func intersect(a, b []seqRange) []seqRange {
	var out []seqRange
	for len(a) > 0 && len(b) > 0 {
		if lo, hi := max(a[0].lo, b[0].lo), min(a[0].hi, b[0].hi); lo <= hi {
			out = append(out, seqRange{lo, hi})
		}
		if a[0].hi < b[0].hi {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return out
}

func countOf(rs []seqRange) (n uint64) {
	for _, r := range rs {
		n += r.hi - r.lo + 1
	}
	return n
}

// Equal reports whether both hold the same dots.
func (cc CausalContext) Equal(o CausalContext) bool {
	return slices.EqualFunc(cc.entries, o.entries, func(a, b contextEntry) bool {
		return a.replica == b.replica && slices.Equal(a.ranges, b.ranges)
	})
}

// String shows a context as {1.0:1-3,5; 2.0:1-2}.
func (cc CausalContext) String() string {
	var b strings.Builder
	b.WriteByte('{')
	for i, e := range cc.entries {
		if i > 0 {
			b.WriteString("; ")
		}
		for j, r := range e.ranges {
			if j == 0 {
				b.WriteString(Dot{e.replica, r.lo}.String())
			} else {
				b.WriteByte(',')
				b.WriteString(strconv.FormatUint(r.lo, 10))
			}
			if r.hi > r.lo {
				b.WriteByte('-')
				b.WriteString(strconv.FormatUint(r.hi, 10))
			}
		}
	}
	b.WriteByte('}')
	return b.String()
}
