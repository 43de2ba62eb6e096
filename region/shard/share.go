package shard

import (
	"errors"
	"fmt"
	"strings"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

// sharePrefix begins the ids of links' own carts.
const sharePrefix = "share:"

// IsShare reports whether a cart is a link's own: what is in it lives as long as
// the link.
func IsShare(cartID string) bool { return strings.HasPrefix(cartID, sharePrefix) }

const (
	factIDBytesMax    = 128
	factValueBytesMax = 8 << 10
)

// CheckShare refuses a SHARE or UNSHARE that must not come into the log.
func CheckShare(c *regionv1.Change) error {
	switch id, v := c.GetFactId(), c.GetValue(); {
	case id == "" || len(id) > factIDBytesMax:
		return fmt.Errorf("link id of %d bytes; give 1 to %d", len(id), factIDBytesMax)
	case len(v) > factValueBytesMax || crdt.CanonicalPairs(crdt.Pairs(v)) != v:
		return fmt.Errorf("value of link %q: %d bytes that are no canonical pairs, or more than %d", id, len(v), factValueBytesMax)
	}
	for i, l := range c.GetShared() {
		if l.GetLine().GetSeller() == "" || l.GetQuantity() == 0 {
			return fmt.Errorf("shared line %d has no seller or no quantity", i)
		}
	}
	if c.GetKind() == regionv1.Change_KIND_UNSHARE && (len(c.GetShared()) > 0 || c.GetValue() != "") {
		return errors.New("UNSHARE has lines or a value")
	}
	return nil
}

// share writes a link's fact, and before it the lines of a snapshot: rows of
// one stream are joined in their order, so a region that has the fact has all
// lines. It takes out the facts of links that have expired by the entry's time.
func (w *workspace) share(cart *crdt.Cart, writer crdt.Writer, c *regionv1.Change) ([]crdt.Delta, crdt.LineKey, *refusal) {
	var open uint32
	var expired []string
	for id, v := range cart.Facts(crdt.FactShare) {
		switch {
		case id == c.FactId: // written anew
		case crdt.ShareExpiry(v) <= w.at.UnixMilli():
			expired = append(expired, id)
		default:
			open++
		}
	}
	if c.SharesMax > 0 && open >= c.SharesMax {
		return nil, crdt.LineKey{}, &refusal{regionv1.Outcome_CODE_TOO_MANY_SHARES, []string{fmt.Sprint(c.SharesMax)}}
	}
	deltas := make([]crdt.Delta, 0, len(expired)+len(c.Shared)+1)
	write := func(d crdt.Delta) { cart, deltas = cart.Apply(d), append(deltas, d) }
	for _, id := range expired {
		write(cart.DropFact(writer, crdt.FactShare, id))
	}
	for _, l := range c.Shared {
		key := crdt.LineKey{Seller: l.Line.GetSeller(), SKU: l.Line.GetSku(), Options: l.Line.GetOptions()}
		offer := crdt.Offer{Price: l.Price, Currency: l.Currency, AddedAt: crdt.Timestamp(l.AddedAt)}
		write(cart.Add(writer, key, l.Quantity, offer, true))
	}
	write(cart.SetFact(writer, crdt.FactShare, c.FactId, c.Value))
	return deltas, crdt.LineKey{}, nil
}

// unshare takes a link's fact out.
func (w *workspace) unshare(cart *crdt.Cart, writer crdt.Writer, c *regionv1.Change) ([]crdt.Delta, crdt.LineKey, *refusal) {
	if _, ok := cart.Fact(crdt.FactShare, c.FactId); !ok {
		return nil, crdt.LineKey{}, &refusal{code: regionv1.Outcome_CODE_SHARE_NOT_FOUND}
	}
	return []crdt.Delta{cart.DropFact(writer, crdt.FactShare, c.FactId)}, crdt.LineKey{}, nil
}
