package replication

import (
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/samecart/samecart/crdt"
)

// ErrRefused is wrapped by what Validate refuses: the sender is broken or
// hostile, and sending the same again is of no use.
var ErrRefused = errors.New("refused")

// Limits bound what a peer region may send. They are far above what an
// honest region of this build sends, so that settings may differ.
type Limits struct {
	Rows        int // rows of one interval
	Dots        int // new dots of one row
	Ops         int // ops of one row
	Replicas    int // replicas in one row's context
	Exceptions  int // gaps in one row's context
	Writes      int // surviving writes in one register
	CartIDBytes int // 1 to CartIDBytes
	KeyBytes    int // seller, SKU and options together
	PairsBytes  int // attributes of one write
	Carts       int // whole carts of one Join
	CartLines   int // lines of one whole cart
	CartOps     int // ops of one whole cart

	Now        time.Time     // the receiver's clock
	ClockAhead time.Duration // how far a sender's clock may be ahead of it
}

// DefaultLimits returns production values; Now is for the caller to set.
func DefaultLimits() Limits {
	return Limits{
		Rows:        1 << 16,
		Dots:        1 << 12,
		Ops:         1 << 13,
		Replicas:    1 << 12, // regions × incarnations, and a lineage for every merged guest
		Exceptions:  1 << 14,
		Writes:      1 << 10,
		CartIDBytes: 255,
		KeyBytes:    8 << 10,
		PairsBytes:  32 << 10,
		Carts:       1 << 12,
		CartLines:   1 << 14, // the cap is checked per region: a join may hold more
		CartOps:     1 << 17,
		ClockAhead:  time.Minute, // NTP holds regions within a second
	}
}

// Clocks is what Validate found out about the sender's clock. A row from a
// clock that is ahead is still joined, or regions would diverge; but the
// receiver must not take its own hybrid clock forward to it, or one broken
// clock would drag every region's along.
type Clocks struct {
	// Adopt is the largest timestamp within the bound: the receiver's
	// hybrid clock may be taken forward to it.
	Adopt crdt.Timestamp
	// Ahead counts timestamps beyond the bound.
	Ahead int
}

func (c *Clocks) see(t, bound crdt.Timestamp) {
	if t > bound {
		c.Ahead++
	} else {
		c.Adopt = max(c.Adopt, t)
	}
}

func (l Limits) bound() crdt.Timestamp {
	return crdt.TimestampAt(l.Now.Add(l.ClockAhead).UnixMilli())
}

// Validate checks an interval from the region from before it may be joined:
// its stream and every new dot belong to that region's incarnation, rows are
// in order and inside it, every dot is in its row's context, sizes are
// within the limits. An error wraps ErrRefused and names the row.
//
// What it cannot check: the values of registers, and dots of other regions
// in a row's context. A region that lies about those is trusted like any
// member of the system; who may be one is for the transport to say.
func Validate(iv crdt.Interval, from crdt.RegionID, l Limits) (Clocks, error) {
	var c Clocks
	s := iv.Stream
	switch {
	case s.Region != from:
		return c, fmt.Errorf("%w: interval of region %d from region %d", ErrRefused, s.Region, from)
	case iv.Hi <= iv.Lo:
		return c, fmt.Errorf("%w: interval (%d, %d] is empty", ErrRefused, iv.Lo, iv.Hi)
	case len(iv.Rows) > l.Rows:
		return c, fmt.Errorf("%w: interval of %d rows: at most %d", ErrRefused, len(iv.Rows), l.Rows)
	}
	bound := l.bound()
	last := iv.Lo
	for i := range iv.Rows {
		r := &iv.Rows[i]
		if r.Seq <= last || r.Last < r.Seq || r.Last > iv.Hi {
			return c, fmt.Errorf("%w: row %d to %d after row %d in interval (%d, %d]", ErrRefused, r.Seq, r.Last, last, iv.Lo, iv.Hi)
		}
		last = r.Seq
		if err := l.row(r, s); err != nil {
			return c, fmt.Errorf("%w: row %d: %w", ErrRefused, r.Seq, err)
		}
		c.see(r.At, bound)
		c.ops(r.Ops, bound)
		c.line(r.Delta.Line, bound)
	}
	return c, nil
}

func (l Limits) row(r *crdt.Row, s crdt.Stream) error {
	if err := l.cartID(r.CartID); err != nil {
		return err
	}
	d := &r.Delta
	if err := l.key(d.Key); err != nil {
		return err
	}
	switch {
	case len(d.Dots) == 0:
		return errors.New("no new dot")
	case len(d.Dots) > l.Dots:
		return fmt.Errorf("%d new dots: at most %d", len(d.Dots), l.Dots)
	case len(r.Ops) > l.Ops:
		return fmt.Errorf("%d ops: at most %d", len(r.Ops), l.Ops)
	}
	if err := l.context(d.Context); err != nil {
		return err
	}
	for i, dot := range d.Dots {
		switch {
		case dot.Replica.Region != s.Region || dot.Replica.Incarnation != s.Incarnation:
			return fmt.Errorf("new dot %v is not of region %d, incarnation %d", dot, s.Region, s.Incarnation)
		case i > 0 && dot.Compare(d.Dots[i-1]) <= 0:
			return fmt.Errorf("new dot %v is out of order", dot)
		case dot.Seq == 0 || dot.Seq > crdt.SeqMax || !d.Context.Has(dot):
			return fmt.Errorf("new dot %v is not in the row's context", dot)
		}
	}
	for _, o := range r.Ops {
		if !d.Context.Has(o.Dot) {
			return fmt.Errorf("op of dot %v, which is not in the row's context", o.Dot)
		}
	}
	return l.line(d.Line, d.Context)
}

func (l Limits) cartID(id string) error {
	if id == "" || len(id) > l.CartIDBytes {
		return fmt.Errorf("cart id of %d bytes: want 1 to %d", len(id), l.CartIDBytes)
	}
	return text("cart id", id)
}

func (l Limits) key(k crdt.LineKey) error {
	if n := len(k.Seller) + len(k.SKU) + len(k.Options); n > l.KeyBytes {
		return fmt.Errorf("line key of %d bytes: at most %d", n, l.KeyBytes)
	}
	return errors.Join(text("seller", k.Seller), text("SKU", k.SKU), text("options", k.Options))
}

// text refuses what would break logs, file names or a reader's screen.
func text(what, s string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("%s %q is not UTF-8", what, s)
	}
	for _, r := range s {
		if r < ' ' || r == 0x7f {
			return fmt.Errorf("%s %q has a control character", what, s)
		}
	}
	return nil
}

func (l Limits) context(cc crdt.CausalContext) error {
	if n := len(cc.Replicas()); n > l.Replicas {
		return fmt.Errorf("context of %d replicas: at most %d", n, l.Replicas)
	}
	if n := cc.Exceptions(); n > l.Exceptions {
		return fmt.Errorf("context with %d gaps: at most %d", n, l.Exceptions)
	}
	return nil
}

func (l Limits) line(line *crdt.Line, cc crdt.CausalContext) error {
	if line == nil {
		return nil
	}
	for _, w := range line.Attributes {
		if n := len(w.Value.Pairs); n > l.PairsBytes {
			return fmt.Errorf("attributes of %d bytes: at most %d", n, l.PairsBytes)
		}
	}
	for _, w := range line.Presence {
		if n := len(w.Value.Attributes.Pairs); n > l.PairsBytes {
			return fmt.Errorf("attributes of %d bytes: at most %d", n, l.PairsBytes)
		}
	}
	return errors.Join(
		register(l, "presence", line.Presence, cc), register(l, "quantity", line.Quantity, cc),
		register(l, "placement", line.Placement, cc), register(l, "offer", line.Offer, cc),
		register(l, "attributes", line.Attributes, cc))
}

func register[V comparable](l Limits, name string, r crdt.Register[V], cc crdt.CausalContext) error {
	if len(r) > l.Writes {
		return fmt.Errorf("%s has %d writes: at most %d", name, len(r), l.Writes)
	}
	for i := range r {
		if !cc.Has(r[i].Dot) {
			return fmt.Errorf("%s has dot %v, which is not in the context", name, r[i].Dot)
		}
		if i > 0 && r[i].Dot.Compare(r[i-1].Dot) <= 0 {
			return fmt.Errorf("%s has dot %v out of order", name, r[i].Dot)
		}
	}
	return nil
}

func (c *Clocks) ops(ops []crdt.Op, bound crdt.Timestamp) {
	for i := range ops {
		c.see(ops[i].At, bound)
	}
}

func (c *Clocks) line(l *crdt.Line, bound crdt.Timestamp) {
	if l == nil {
		return
	}
	for i := range l.Offer {
		c.see(l.Offer[i].Value.AddedAt, bound)
	}
	for i := range l.Attributes {
		c.see(l.Attributes[i].Value.At, bound)
	}
}

// ValidateCarts does for whole carts what Validate does for rows: every one
// decodes, and is within the limits. Whole carts carry every region's dots,
// so it cannot check whose they are.
func ValidateCarts(carts []WholeCart, l Limits) (Clocks, error) {
	var c Clocks
	if len(carts) > l.Carts {
		return c, fmt.Errorf("%w: %d whole carts: at most %d", ErrRefused, len(carts), l.Carts)
	}
	bound := l.bound()
	for i := range carts {
		if err := l.whole(&carts[i], &c, bound); err != nil {
			return c, fmt.Errorf("%w: whole cart %q: %w", ErrRefused, carts[i].CartID, err)
		}
	}
	return c, nil
}

func (l Limits) whole(w *WholeCart, c *Clocks, bound crdt.Timestamp) error {
	if err := l.cartID(w.CartID); err != nil {
		return err
	}
	s, err := crdt.DecodeState(w.Data)
	if err != nil {
		return err
	}
	if len(s.Cart.Lines) > l.CartLines || len(s.Ops) > l.CartOps {
		return fmt.Errorf("%d lines, %d ops: at most %d and %d", len(s.Cart.Lines), len(s.Ops), l.CartLines, l.CartOps)
	}
	for _, e := range s.Cart.Lines {
		if err := errors.Join(l.key(e.Key), l.line(e.Line, s.Cart.Context)); err != nil {
			return err
		}
		c.line(e.Line, bound)
	}
	c.ops(s.Ops, bound)
	return nil
}
