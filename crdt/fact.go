package crdt

import "iter"

// FactKind says what a fact is about.
type FactKind string

// The kinds of facts. A kind without an id stands in a cart once at most.
const (
	// FactErased is the top of the lattice: whatever it is joined with, nothing
	// else is left of the cart, for good. Without an id.
	FactErased FactKind = "erased"
	// FactExpired: the guest session of this cart has ended. Without an id.
	FactExpired FactKind = "expired"
	// FactMerged: this is a guest's cart, and the id is the user's cart that it
	// was merged into.
	FactMerged FactKind = "merged"
	// FactGuest: the id is a guest's cart that was merged into this one.
	FactGuest FactKind = "guest"
	// FactCode: the id is a promotion code that the shopper gave.
	FactCode FactKind = "code"
	// FactShare: the id is a link that shares the cart, until ShareExpires.
	FactShare FactKind = "share"
	// FactRights: the id is a region in one incarnation, whose part of a bounded
	// counter the value is.
	FactRights FactKind = "rights"
	// FactSetting: the id is a setting of the shop, in the document that has them.
	FactSetting FactKind = "setting"
)

// FactKey is the key under which a fact stands in the OR-map: one without a
// seller, which no line has. A fact is an entry with the register Attributes
// alone, and no presence:
//
//	F1  It is never there as a line, see Line.IsThere: what reads lines does
//	    not see facts.
//	F2  A write replaces what it has seen, a removal takes out what it has
//	    seen, so facts of one kind are an observed-remove set of their ids.
//	F3  FactErased, if it is there, is the first entry of the map.
func FactKey(kind FactKind, id string) LineKey { return LineKey{SKU: id, Options: string(kind)} }

// IsFact reports whether k is the key of a fact.
func (k LineKey) IsFact() bool { return k.Seller == "" }

var erasedKey = FactKey(FactErased, "")

// Fact returns what the cart knows; of concurrent writes the newest, then the
// one of the later replica.
func (c *Cart) Fact(kind FactKind, id string) (Attributes, bool) {
	return c.Lines.Find(FactKey(kind, id)).fact()
}

func (l *Line) fact() (Attributes, bool) {
	if l == nil || len(l.Attributes) == 0 {
		return Attributes{}, false
	}
	return resolve(l.Attributes, nil, nil, compareAttributes), true
}

// Facts iterates, by id, over what the cart knows of one kind.
func (c *Cart) Facts(kind FactKind) iter.Seq2[string, Attributes] {
	return func(yield func(string, Attributes) bool) {
		for _, e := range c.Lines {
			if !e.Key.IsFact() {
				return // facts come before all lines
			}
			if e.Key.Options != string(kind) {
				continue
			}
			if v, ok := e.Line.fact(); ok && !yield(e.Key.SKU, v) {
				return
			}
		}
	}
}

// SetFact writes a fact. pairs are its value in CanonicalPairs form.
func (c *Cart) SetFact(w Writer, kind FactKind, id, pairs string) Delta {
	k, d := FactKey(kind, id), c.next(w)
	return Delta{
		Key: k, Dots: []Dot{d}, Context: c.Lines.Find(k).dotsAnd(d),
		Line: &Line{Attributes: only(d, Attributes{Pairs: pairs, At: w.At})},
	}
}

// DropFact takes out the writes of a fact that the cart has seen.
func (c *Cart) DropFact(w Writer, kind FactKind, id string) Delta {
	return c.Remove(w, FactKey(kind, id))
}

// Erase makes the cart one of which nothing is left but that it was erased.
func (c *Cart) Erase(w Writer) Delta { return c.SetFact(w, FactErased, "", "") }

// IsErased reports whether the cart was erased.
func (c *Cart) IsErased() bool { return len(c.Lines) > 0 && c.Lines[0].Key == erasedKey }

// IsErasure reports whether a row tells nothing of its cart but that it was erased,
// and what it had seen.
func (r Row) IsErasure() bool { return r.Delta.Key == erasedKey }

// Scrubbed is what is left of a row of an erased cart: that its dots were seen. What
// comes behind it in its stream is joined as before, and the cart's erasure is there.
func (r Row) Scrubbed() Row {
	return Row{
		Seq: r.Seq, Last: r.Last, CartID: r.CartID, At: r.At, Age: r.Age,
		Delta: Delta{Key: erasedKey, Dots: r.Delta.Dots, Context: r.Delta.Context},
	}
}

// erased is m, or what is left of it once it was erased.
func (m ORMap) erased() ORMap {
	if len(m) > 1 && m[0].Key == erasedKey {
		return m[:1:1]
	}
	return m
}
