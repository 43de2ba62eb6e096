package crdt

import "slices"

// Delta is the effect of one write of one line, whole for every dot it
// names. Joining it has the same effect as joining the writer's cart,
// restricted to this line.
type Delta struct {
	Key LineKey
	// Dots are the new dots: one, or several when deltas were combined.
	Dots []Dot
	// Context holds Dots and every dot the line held before the write.
	Context CausalContext
	// Line is the line after the write; nil when it was removed.
	Line *Line
}

// Has reports whether d is one of the delta's new dots.
func (d Delta) Has(dot Dot) bool { return slices.Contains(d.Dots, dot) }

// Fragment returns the delta as a cart that holds this line alone.
func (d Delta) Fragment() *Cart {
	c := &Cart{Context: d.Context}
	if !d.Line.isEmpty() {
		c.Lines = ORMap{{d.Key, d.Line}}
	}
	return c
}

// Combine returns the join of two deltas of the same line: what a receiver
// would hold of the line after both.
func Combine(a, b Delta) Delta {
	dots := slices.Clone(a.Dots)
	for _, d := range b.Dots {
		if !slices.Contains(dots, d) {
			dots = append(dots, d)
		}
	}
	slices.SortFunc(dots, Dot.Compare)
	return Delta{
		Key:     a.Key,
		Dots:    dots,
		Context: a.Context.Join(b.Context),
		Line:    joinLines(a.Line, b.Line, a.Context, b.Context),
	}
}

// Equal reports whether both are the same delta.
func (d Delta) Equal(e Delta) bool {
	return d.Key == e.Key && slices.Equal(d.Dots, e.Dots) && d.Context.Equal(e.Context) && d.Line.Equal(e.Line)
}

// OpID is the digest of a caller's idempotency key and cart id.
type OpID [16]byte

// Op ties a dot to the request that made it. It travels with its dot, so a
// retry is recognised in every region that knows the dot.
type Op struct {
	Dot         Dot
	ID          OpID
	Fingerprint uint64    // digest of the request's payload
	At          Timestamp // when the request was applied
}

// State is a cart with the requests that made the dots it still holds (at
// rest) or of all requests still remembered (in a whole-cart transfer).
type State struct {
	Cart *Cart
	Ops  []Op // sorted by dot
	// Active is the newest activity in the cart.
	Active Active
}

// Row is one entry of a shard's delta log.
type Row struct {
	// Seq is the row's place in its origin stream, from 1. Last is the
	// place of the last row combined into it; equal to Seq for a plain row.
	Seq, Last uint64
	CartID    string
	At        Timestamp
	// Age is how much older than At the newest write of a shopper in the row is: 0
	// for an edit; At for a row that no shopper made, such as one of an expiry.
	Age   Timestamp
	Delta Delta
	// Ops are the requests behind the delta's dots, the new and the held.
	Ops []Op
}

// Active is the newest activity in a row that comes from the given region; zero
// when no shopper made it.
func (r Row) Active(region RegionID) Active {
	if r.Age >= r.At {
		return Active{}
	}
	return Active{r.At - r.Age, region}
}

// CombineRows puts b, a later row of the same stream, cart and line, into
// the place of a.
func CombineRows(a, b Row) Row {
	at := max(a.At, b.At)
	return Row{
		Seq: a.Seq, Last: max(a.Last, b.Last), CartID: a.CartID, At: at, Age: at - max(a.At-a.Age, b.At-b.Age),
		Delta: Combine(a.Delta, b.Delta),
		Ops:   joinOps(a.Ops, b.Ops),
	}
}

func joinOps(a, b []Op) []Op {
	out := append(slices.Clone(a), b...)
	slices.SortFunc(out, func(x, y Op) int {
		if c := x.Dot.Compare(y.Dot); c != 0 {
			return c
		}
		return slices.Compare(x.ID[:], y.ID[:])
	})
	return slices.Compact(out)
}

// Stream names one delta log of one origin. A new incarnation is a new
// stream.
type Stream struct {
	Region      RegionID
	Incarnation uint32
	Shard       uint32
}

// Interval is what one stream says about (Lo, Hi]: every row in it, some
// combined. It joins only where the receiver's cursor has reached Lo.
//
// Source: Almeida, Shoker, Baquero, arXiv:1603.01529, Definition 6.
type Interval struct {
	Stream Stream
	Lo, Hi uint64
	Rows   []Row // by Seq, ascending
}
