package crdt

import (
	"cmp"
	"encoding/binary"
	"math"
	"strconv"
	"strings"
)

// Active is a cart's newest activity: the time of the newest write that a
// shopper made in it, and the region where. It is no part of the lattice value
// and of no digest; it stands beside the cart in a [State], and rows carry it
// (see [Row.Active]). The zero Active says that nobody has told.
//
//	E1  Whoever holds a dot that came with its own row, or with a whole cart,
//	    has an Active at least as new. So of several regions that have the same
//	    cart, the one that wrote last has the newest Active.
type Active struct {
	At     Timestamp
	Region RegionID
}

// Compare orders activities by time, then by region.
func (a Active) Compare(b Active) int {
	return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Region, b.Region))
}

// Join is the newer of the two.
func (a Active) Join(b Active) Active {
	if a.Compare(b) < 0 {
		return b
	}
	return a
}

// Lives are how long things live in a cart that nobody writes to, in
// milliseconds; 0: for ever.
type Lives struct {
	Guest uint64 // all that a guest's cart has
	User  uint64 // what is in a user's cart, codes included
	Saved uint64 // what a user has set aside
}

// Due says when what a cart holds expires, in milliseconds since the Unix
// epoch; 0: never, or there is no such thing in it.
type Due struct {
	InCart int64 // lines in the cart, and codes
	Saved  int64 // lines set aside
}

// First is the earlier of the two, 0 when there is neither.
func (d Due) First() int64 {
	if d.InCart == 0 || d.Saved != 0 && d.Saved < d.InCart {
		return d.Saved
	}
	return d.InCart
}

// Due says when the state's lines expire, those of a guest's cart all at once.
// Where nobody has told of its activity, the newest line was the last write.
func (s State) Due(guest bool, l Lives) Due {
	var in, aside bool
	for _, e := range s.Cart.Lines {
		switch {
		case in && aside:
		case e.Key.IsFact():
			in = in || e.IsCode()
		case e.Line.IsThere():
			if e.Line.placement() == Saved {
				aside = true
			} else {
				in = true
			}
		}
	}
	if !in && !aside {
		return Due{}
	}
	at := s.Active.At
	if s.Active.Region == 0 {
		at = s.Cart.newestOffer()
	}
	after := func(is bool, life uint64) int64 {
		if ms := uint64(at.UnixMilli()); is && life > 0 && life < math.MaxInt64-ms {
			return int64(ms + life)
		}
		return 0
	}
	if guest {
		return Due{InCart: after(in, l.Guest), Saved: after(aside, l.Guest)}
	}
	return Due{InCart: after(in, l.User), Saved: after(aside, l.Saved)}
}

// ShareExpires names, in the value of a FactShare, when the link expires:
// milliseconds since the Unix epoch, in decimal.
const ShareExpires = "expires"

// ShareExpiry says when a link expires, as its fact has it, in milliseconds since
// the Unix epoch. One that does not say has expired, at 1.
func ShareExpiry(v Attributes) int64 {
	for pair := range strings.SplitSeq(v.Pairs, "&") { // read at every write of its cart
		if text, ok := strings.CutPrefix(pair, ShareExpires+"="); ok {
			if ms, err := strconv.ParseInt(text, 10, 64); err == nil && ms > 1 {
				return ms
			}
		}
	}
	return 1
}

// SharesDue says when the first of the cart's links expires, in milliseconds since
// the Unix epoch; 0: it has none.
func (c *Cart) SharesDue() (first int64) {
	for _, v := range c.Facts(FactShare) {
		if ms := ShareExpiry(v); first == 0 || ms < first {
			first = ms
		}
	}
	return first
}

// IsCode reports whether the entry is a promotion code that stands.
func (e MapEntry) IsCode() bool {
	return e.Key.IsFact() && e.Key.Options == string(FactCode) && len(e.Line.Attributes) > 0
}

// newestOffer is the time of the newest offer that the cart's lines hold, 0
// when there is none.
func (c *Cart) newestOffer() (at Timestamp) {
	for _, e := range c.Lines {
		for i := range e.Line.Offer {
			at = max(at, e.Line.Offer[i].Value.AddedAt)
		}
	}
	return at
}

// AppendRest appends what follows the cart in the encoding of a state, so that
// one who has the cart encoded need not encode it again:
//
//	rest   = active ops
//	active = region [distance]; 0: nobody has told. The time is a distance from
//	         that of the newest offer, which is 0 right after an add
func (s State) AppendRest(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(s.Active.Region))
	if s.Active.Region != 0 {
		b = binary.AppendUvarint(b, zigzag(int64(s.Active.At-s.Cart.newestOffer())))
	}
	return AppendOps(b, s.Ops)
}

// active is how State.AppendRest begins.
func (r *reader) active(c *Cart) (a Active) {
	if a.Region = RegionID(r.upTo(math.MaxUint16, "region out of range")); a.Region == 0 {
		return Active{}
	}
	distance := unzigzag(r.uvarint())
	if r.err != nil {
		return Active{}
	}
	a.At = c.newestOffer() + Timestamp(distance)
	return a
}
