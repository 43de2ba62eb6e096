package crdt

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
)

// LineKey identifies a line: two first adds of the same thing, in two
// regions, meet in one line.
type LineKey struct {
	Seller  string
	SKU     string
	Options string // canonical form, see CanonicalPairs
}

// Compare orders keys by seller, SKU, options.
func (k LineKey) Compare(l LineKey) int {
	if c := strings.Compare(k.Seller, l.Seller); c != 0 {
		return c
	}
	if c := strings.Compare(k.SKU, l.SKU); c != 0 {
		return c
	}
	return strings.Compare(k.Options, l.Options)
}

// CanonicalPairs encodes names and values so that equal maps give equal
// strings: sorted by name, in URL query form. Options and attributes use it.
func CanonicalPairs(m map[string]string) string {
	v := make(url.Values, len(m))
	for name, value := range m {
		v.Set(name, value)
	}
	return v.Encode()
}

// Pairs is the inverse of CanonicalPairs; nil for the empty string. What is
// not in query form is left out.
func Pairs(s string) map[string]string {
	v, _ := url.ParseQuery(s) // what does parse is returned beside the error
	if len(v) == 0 {
		return nil
	}
	m := make(map[string]string, len(v))
	for name := range v {
		m[name] = v.Get(name)
	}
	return m
}

// Placement says where a line shows.
type Placement uint8

const (
	// InCart counts towards totals and checkout.
	InCart Placement = iota
	// Saved is put aside for later.
	Saved
)

// Offer is what the shopper was shown when the line was added.
type Offer struct {
	Price    int64  // minor units of Currency
	Currency string // ISO 4217 code
	AddedAt  Timestamp
}

// Attributes are a line's free fields (a gift note) in CanonicalPairs form.
// They are no part of its identity.
type Attributes struct {
	Pairs string
	At    Timestamp
}

// Carried are a line's visible fields just after a write, kept with the
// write's presence dot.
type Carried struct {
	Quantity   uint32
	Placement  Placement
	Offer      Offer
	Attributes Attributes
}

// Line is one entry of the cart's OR-map: a register per field, each with
// its own dots, so that writes of two fields both take effect.
//
//	I1  Every write of a line renews Presence; a line is there while
//	    Presence is not empty.
//	I2  When a concurrent remove dropped a register, the value that the
//	    surviving presence dots carry stands in.
//	I5  A line may hold registers and no presence: a region that gets the
//	    remove of a newer write before the write that took the older ones.
//	    It is not there, and the row on its way takes what is left. The
//	    registers stay until then: a join that dropped them would not be
//	    associative.
//
// Lines in a Cart are shared and never changed.
type Line struct {
	Presence   Register[Carried]
	Quantity   Register[uint32]
	Placement  Register[Placement]
	Offer      Register[Offer]
	Attributes Register[Attributes]
}

// IsThere reports whether the line shows: a write of it survives that no
// remove has seen. A nil line is not there; one in a map may not be either,
// see I5.
func (l *Line) IsThere() bool { return l != nil && len(l.Presence) > 0 }

// isEmpty reports whether nothing of the line survives.
func (l *Line) isEmpty() bool {
	return l == nil || l.writes() == 0
}

// Visible resolves the line's concurrent writes; see the table in the
// package documentation. Nothing is written back. A line that is not there
// shows the zero value.
func (l *Line) Visible() Carried {
	if !l.IsThere() {
		return Carried{}
	}
	return Carried{
		Quantity:   l.quantity(),
		Placement:  l.placement(),
		Offer:      l.offer(),
		Attributes: resolve(l.Attributes, l.Presence, func(c Carried) Attributes { return c.Attributes }, compareAttributes),
	}
}

// quantity, placement and offer resolve one field alone, for those who look
// at every line of a cart.
func (l *Line) quantity() uint32 {
	return resolve(l.Quantity, l.Presence, func(c Carried) uint32 { return c.Quantity },
		func(_, _ Dot, a, b uint32) int { return cmp.Compare(a, b) })
}

func (l *Line) placement() Placement {
	return resolve(l.Placement, l.Presence, func(c Carried) Placement { return c.Placement },
		func(_, _ Dot, a, b Placement) int { return cmp.Compare(b, a) }) // cart before saved
}

func (l *Line) offer() Offer {
	return resolve(l.Offer, l.Presence, func(c Carried) Offer { return c.Offer },
		func(_, _ Dot, a, b Offer) int { return compareOffers(a, b) })
}

// compareOffers: the newest counts, then the lower price, then the currency
// code, so that the order is total.
func compareOffers(a, b Offer) int {
	if c := cmp.Compare(a.AddedAt, b.AddedAt); c != 0 {
		return c
	}
	if c := cmp.Compare(b.Price, a.Price); c != 0 {
		return c
	}
	return strings.Compare(a.Currency, b.Currency)
}

// compareAttributes: the newest counts, then the replica order.
func compareAttributes(da, db Dot, a, b Attributes) int {
	if c := cmp.Compare(a.At, b.At); c != 0 {
		return c
	}
	return da.Compare(db)
}

func resolve[V comparable](r Register[V], p Register[Carried], carried func(Carried) V, compare func(da, db Dot, a, b V) int) V {
	if len(r) == 1 { // nearly always: writes are seldom concurrent
		return r[0].Value
	}
	var best Write[V]
	for i, w := range r {
		if i == 0 || compare(w.Dot, best.Dot, w.Value, best.Value) > 0 {
			best = w
		}
	}
	if len(r) > 0 {
		return best.Value
	}
	for i, w := range p {
		if v := carried(w.Value); i == 0 || compare(w.Dot, best.Dot, v, best.Value) > 0 {
			best = Write[V]{w.Dot, v}
		}
	}
	return best.Value
}

// appendDots appends every dot the line holds to out; one may come twice.
func (l *Line) appendDots(out []Dot) []Dot {
	if l == nil {
		return out
	}
	out = appendDots(out, l.Presence)
	out = appendDots(out, l.Quantity)
	out = appendDots(out, l.Placement)
	out = appendDots(out, l.Offer)
	return appendDots(out, l.Attributes)
}

func appendDots[V comparable](out []Dot, r Register[V]) []Dot {
	for i := range r {
		out = append(out, r[i].Dot)
	}
	return out
}

// lineDots is room for the dots of a line without conflicts and a new one.
type lineDots [8]Dot

// Holds reports whether the line holds a dot; a nil line holds none.
func (l *Line) Holds(d Dot) bool {
	return l != nil && (holds(l.Presence, d) || holds(l.Quantity, d) || holds(l.Placement, d) || holds(l.Offer, d) || holds(l.Attributes, d))
}

func holds[V comparable](r Register[V], d Dot) bool {
	for i := range r {
		if r[i].Dot == d {
			return true
		}
	}
	return false
}

// Dots returns the context of all dots the line holds.
func (l *Line) Dots() CausalContext { return l.dotsAnd() }

// dotsAnd returns the context of all dots the line holds and those given.
func (l *Line) dotsAnd(more ...Dot) CausalContext {
	var room lineDots
	return contextOf(append(l.appendDots(room[:0]), more...))
}

// joinLines joins two states of one line under their contexts; nil means
// that nothing survives.
func joinLines(a, b *Line, ca, cb CausalContext) *Line {
	switch {
	case a.isEmpty():
		return unseenLine(b, ca)
	case b.isEmpty():
		return unseenLine(a, cb)
	case a == b || a.Equal(b):
		return a
	}
	out := &Line{
		Presence:   joinRegister(a.Presence, b.Presence, ca, cb),
		Quantity:   joinRegister(a.Quantity, b.Quantity, ca, cb),
		Placement:  joinRegister(a.Placement, b.Placement, ca, cb),
		Offer:      joinRegister(a.Offer, b.Offer, ca, cb),
		Attributes: joinRegister(a.Attributes, b.Attributes, ca, cb),
	}
	if out.isEmpty() {
		return nil
	}
	return out
}

// unseenLine joins a line with a side that does not hold it: the writes that
// are not in cc survive. It returns l itself when all do.
func unseenLine(l *Line, cc CausalContext) *Line {
	if l.isEmpty() {
		return nil
	}
	out := Line{
		Presence:   unseen(l.Presence, cc),
		Quantity:   unseen(l.Quantity, cc),
		Placement:  unseen(l.Placement, cc),
		Offer:      unseen(l.Offer, cc),
		Attributes: unseen(l.Attributes, cc),
	}
	switch out.writes() {
	case 0:
		return nil
	case l.writes():
		return l
	}
	left := out // only here does it need memory of its own
	return &left
}

// writes counts the surviving writes of all registers.
func (l *Line) writes() int {
	return len(l.Presence) + len(l.Quantity) + len(l.Placement) + len(l.Offer) + len(l.Attributes)
}

// Equal reports whether both hold the same writes.
func (l *Line) Equal(m *Line) bool {
	if l.isEmpty() || m.isEmpty() {
		return l.isEmpty() && m.isEmpty()
	}
	return slices.Equal(l.Presence, m.Presence) && slices.Equal(l.Quantity, m.Quantity) &&
		slices.Equal(l.Placement, m.Placement) && slices.Equal(l.Offer, m.Offer) &&
		slices.Equal(l.Attributes, m.Attributes)
}
