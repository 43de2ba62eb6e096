package crdt

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// LimitPrefix begins the ids of carts that are bounded counters: those of a code's
// uses, LimitPrefix + code, and those of one customer of it, with "/" and the
// customer's cart after that.
const LimitPrefix = "limit:"

// IsLimit reports whether a cart of that id is a bounded counter.
func IsLimit(cartID string) bool { return strings.HasPrefix(cartID, LimitPrefix) }

// LimitID is the id of a code's counter, and with a customer, of the customer's. That
// bears no name, but 128 bits of a hash of it: a cap holds for good, and what stays of
// an erased customer does not say who it was to those who do not know already.
func LimitID(code, customer string) string {
	if customer == "" {
		return LimitPrefix + code
	}
	sum := sha256.Sum256([]byte(code + "/" + customer))
	return LimitPrefix + code + "/" + hex.EncodeToString(sum[:16])
}

// CodeBytesMax bounds a code of limited uses.
const CodeBytesMax = 64

// CheckCode says what is wrong with a code of limited uses.
func CheckCode(code string) error {
	ok := len(code) >= 1 && len(code) <= CodeBytesMax
	for i := range len(code) {
		c := code[i]
		ok = ok && (c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '-' || c == '_')
	}
	if !ok {
		return fmt.Errorf("code %.80q must be 1 to %d letters, digits and -_", code, CodeBytesMax)
	}
	return nil
}

// Bounded is the counter that a cart's facts of the kind FactRights make: each a
// holder's row. What cannot be read, which only a region that is broken in other ways
// sends, is left out: nobody gains by that what somebody else has.
func (c *Cart) Bounded() Bounded {
	var b Bounded
	for _, e := range c.Lines {
		if !e.Key.IsFact() {
			break
		}
		if e.Key.Options != string(FactRights) {
			continue
		}
		h, err := ParseHolder(e.Key.SKU)
		if err != nil {
			continue
		}
		// The holder's newest write: nobody else writes here.
		for _, w := range slices.Backward(e.Line.Attributes) {
			if w.Dot.Replica != h.Replica() {
				continue
			}
			if row, err := DecodeRightsRow(w.Value.Pairs); err == nil {
				b = b.With(h, w.Dot.Seq, row)
			}
			break
		}
	}
	return b
}

// SetRights writes a holder's row, which is that of the writer.
func (c *Cart) SetRights(w Writer, row RightsRow) Delta {
	h := Holder{w.Replica.Region, w.Replica.Incarnation}
	return c.SetFact(w, FactRights, h.String(), row.Encode())
}

// String is the holder as REGION.INCARNATION.
func (h Holder) String() string { return fmt.Sprintf("%d.%d", h.Region, h.Incarnation) }

// ParseHolder is the inverse of Holder.String.
func ParseHolder(s string) (Holder, error) {
	region, incarnation, _ := strings.Cut(s, ".")
	r, err := strconv.ParseUint(region, 10, 16)
	i, err2 := strconv.ParseUint(incarnation, 10, 32)
	h := Holder{RegionID(r), uint32(i)}
	if err := errors.Join(err, err2); err != nil || h.String() != s {
		return Holder{}, fmt.Errorf("%q is no REGION.INCARNATION", s)
	}
	return h, nil
}

// The names of a row's pairs. Names with a holder end in a dot and the holder.
const (
	rowGranted   = "granted"
	rowUsed      = "used"
	rowWant      = "want"
	rowLimit     = "limit"
	rowCap       = "cap"
	rowHomes     = "homes"
	rowEpoch     = "epoch"
	rowSent      = "sent"
	rowReclaimed = "back"
	rowSeal      = "seal"
)

// Encode returns the row's canonical form, which is one of CanonicalPairs.
func (r RightsRow) Encode() string {
	m := make(map[string]string)
	number := func(name string, n uint64) {
		if n > 0 {
			m[name] = strconv.FormatUint(n, 10)
		}
	}
	number(rowGranted, r.Granted)
	number(rowUsed, r.Used)
	number(rowWant, r.Want)
	number(rowLimit, r.Limit)
	number(rowCap, r.Cap)
	number(rowEpoch, r.Epoch)
	for name, shares := range map[string][]Share{rowSent: r.Sent, rowReclaimed: r.Reclaimed, rowSeal: r.Seals} {
		for _, s := range shares {
			number(name+"."+s.Holder.String(), s.N)
		}
	}
	if len(r.Homes) > 0 {
		homes := make([]string, len(r.Homes))
		for i, h := range r.Homes {
			homes[i] = h.String()
		}
		m[rowHomes] = strings.Join(homes, " ")
	}
	return CanonicalPairs(m)
}

// DecodeRightsRow is the inverse of Encode. It refuses what Encode would not write.
func DecodeRightsRow(s string) (r RightsRow, err error) {
	for name, value := range Pairs(s) {
		if name == rowHomes {
			for h := range strings.SplitSeq(value, " ") {
				home, err := ParseHolder(h)
				if err != nil {
					return RightsRow{}, fmt.Errorf("rights: %s: %w", name, err)
				}
				r.Homes = append(r.Homes, home)
			}
			continue
		}
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil || n == 0 || n > SeqMax {
			return RightsRow{}, fmt.Errorf("rights: %s is %q, want a number of 1 to %d", name, value, uint64(SeqMax))
		}
		if err := r.set(name, n); err != nil {
			return RightsRow{}, err
		}
	}
	for _, shares := range [][]Share{r.Sent, r.Reclaimed, r.Seals} {
		slices.SortFunc(shares, func(a, b Share) int { return a.Holder.Compare(b.Holder) })
	}
	if r.Encode() != s {
		return RightsRow{}, fmt.Errorf("rights: %q is not in canonical form", s)
	}
	return r, nil
}

func (r *RightsRow) set(name string, n uint64) error {
	plain := map[string]*uint64{
		rowGranted: &r.Granted, rowUsed: &r.Used, rowWant: &r.Want, rowLimit: &r.Limit, rowCap: &r.Cap, rowEpoch: &r.Epoch,
	}
	if p := plain[name]; p != nil {
		*p = n
		return nil
	}
	kind, holder, _ := strings.Cut(name, ".")
	shares := map[string]*[]Share{rowSent: &r.Sent, rowReclaimed: &r.Reclaimed, rowSeal: &r.Seals}[kind]
	if shares == nil {
		return fmt.Errorf("rights: there is no %q", name)
	}
	h, err := ParseHolder(holder)
	if err != nil {
		return fmt.Errorf("rights: %s: %w", kind, err)
	}
	*shares = append(*shares, Share{h, n})
	return nil
}
