package rpc

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/region/pricing"
	"github.com/samecart/samecart/region/shard"
)

// render shows a cart: resolved values, totals by the price rule, and what
// the shopper should know about both. It never fails: what the catalogue does
// not say is left out, and a warning names it.
func (s *service) render(ctx context.Context, v region.View) *cartv1.Cart {
	return s.renderWith(ctx, v, s.cfg.CatalogFresh).cart
}

// rendered is a cart's page, and which products it was made from.
type rendered struct {
	cart  *cartv1.Cart
	refs  []productRef
	known []product // of refs
	timed bool      // the page depends on more than these: what codes do, and when
}

// renderWith is render with a bound on how old what is known of products may be
// before the catalogue is asked again.
func (s *service) renderWith(ctx context.Context, v region.View, fresh time.Duration) rendered {
	c := cartOf(v)
	out := &cartv1.Cart{CartId: v.CartID, Stale: v.Stale, Currency: c.Currency()}
	out.ExpiresAtMs = crdt.State{Cart: c, Active: v.State.Active}.Due(shard.IsGuest(v.CartID), s.cfg.Lives).First()
	lines := make([]shownLine, 0, len(c.Lines))
	for _, e := range c.Lines {
		if e.Line.IsThere() {
			lines = append(lines, shownLine{e, e.Line.Visible()})
		}
	}
	// In the order of adding, which the shopper remembers; the key makes the
	// order the same everywhere.
	slices.SortStableFunc(lines, func(a, b shownLine) int { return cmp.Compare(a.value.Offer.AddedAt, b.value.Offer.AddedAt) })
	refs := make([]productRef, len(lines))
	for i, l := range lines {
		refs[i] = productRef{l.Key.SKU, l.Key.Seller}
	}
	known := s.products.look(ctx, refs, fresh)
	// All lines' messages come from two pieces of memory: a page of a cart is
	// mostly small messages.
	items, money := make([]cartv1.Item, len(lines)), make([]prices, len(lines))
	out.Items = make([]*cartv1.Item, 0, len(lines))
	var subtotal int64
	var unanswered, old int
	for i, e := range lines {
		p, value, it := known[i], e.value, &items[i]
		stored := value.Quantity
		value.Quantity = min(stored, s.cfg.QuantityMax)
		warning := item(it, &money[i], e.Key, value, p)
		if warning != "" {
			out.Warnings = append(out.Warnings, warning)
		}
		if !p.answered {
			unanswered++
		} else if p.old {
			old++
		}
		if stored > s.cfg.QuantityMax {
			out.Warnings = append(out.Warnings, fmt.Sprintf("sku_id %q has quantity %d after edits in several places; %d is the most, and what counts", e.Key.SKU, stored, s.cfg.QuantityMax))
		}
		out.Conflicts = append(out.Conflicts, conflicts(e.MapEntry, value)...)
		if value.Placement == crdt.Saved {
			out.SavedItems = append(out.SavedItems, it)
			continue
		}
		out.Items = append(out.Items, it)
		out.ItemCount += uint64(value.Quantity)
		t := totalOf(out, e.Key.Seller)
		t.ItemCount += uint64(value.Quantity)
		if value.Offer.Currency != out.GetCurrency() {
			out.Warnings = append(out.Warnings, fmt.Sprintf("sku_id %q is priced in %s, not in the cart's %s: it is in no total, and checkout needs it removed", e.Key.SKU, value.Offer.Currency, out.GetCurrency()))
			continue
		}
		amount := pricing.LineAmount(it.GetPrice().GetMinorUnits(), value.Quantity, subtotal)
		t.Subtotal.MinorUnits += amount
		subtotal += amount
	}
	out.Warnings = append(out.Warnings, guestWarnings(c)...)
	slices.SortFunc(out.GetSellers(), func(a, b *cartv1.SellerTotal) int { return cmp.Compare(a.GetSellerId(), b.GetSellerId()) })
	out.Subtotal = &cartv1.Money{Currency: out.GetCurrency(), MinorUnits: subtotal}
	out.EstimatedTotal = &cartv1.Money{Currency: out.GetCurrency(), MinorUnits: subtotal}
	if unanswered > 0 {
		out.Warnings = append(out.Warnings, fmt.Sprintf("the catalogue does not answer: names, stock and current prices of %d lines are missing", unanswered))
	}
	if old > 0 {
		out.Warnings = append(out.Warnings, fmt.Sprintf("the catalogue does not answer: stock and current prices of %d lines are as they were a few minutes ago", old))
	}
	timed := hasCodes(c)
	if timed {
		promote(out, s.priced(ctx, c, out, lines, items))
	}
	return rendered{out, refs, known, timed}
}

// shownLine is a line with what it shows.
type shownLine struct {
	crdt.MapEntry
	value crdt.Carried
}

// totalOf returns a seller's total in a cart's page, which it makes when there
// is none: a cart has few sellers.
func totalOf(out *cartv1.Cart, seller string) *cartv1.SellerTotal {
	for _, t := range out.GetSellers() {
		if t.GetSellerId() == seller {
			return t
		}
	}
	t := &cartv1.SellerTotal{SellerId: seller, Subtotal: &cartv1.Money{Currency: out.GetCurrency()}}
	out.Sellers = append(out.Sellers, t)
	return t
}

// prices are the messages of one line's prices.
type prices struct {
	atAdd, current, counts cartv1.Money
	inStock                bool
}

// item shows one line in it, whose prices are those of m. The lower of the
// price at adding and the current one counts.
func item(it *cartv1.Item, m *prices, k crdt.LineKey, v crdt.Carried, p product) (warning string) {
	m.atAdd.Currency, m.atAdd.MinorUnits = v.Offer.Currency, v.Offer.Price
	m.counts.Currency, m.counts.MinorUnits = v.Offer.Currency, v.Offer.Price
	it.SkuId, it.Name, it.Quantity, it.SellerId, it.Seller = k.SKU, k.SKU, v.Quantity, k.Seller, k.Seller
	it.Attributes = crdt.Pairs(v.Attributes.Pairs)
	it.Options, it.PriceAtAdd, it.Price, it.AddedAtMs = crdt.Pairs(k.Options), &m.atAdd, &m.counts, v.Offer.AddedAt.UnixMilli()
	switch {
	case !p.answered:
		return ""
	case p.Product == nil:
		it.InStock = &m.inStock
		return fmt.Sprintf("sku_id %q is no longer in the catalogue", k.SKU)
	}
	m.inStock = p.GetStock() > 0
	it.InStock, it.Image = &m.inStock, p.GetImage()
	it.Name, it.Seller = cmp.Or(p.GetName(), k.SKU), cmp.Or(p.Product.GetSeller(), k.Seller)
	if p.GetCurrency() != v.Offer.Currency {
		return fmt.Sprintf("sku_id %q is now sold in %s: its price of %s %s stands", k.SKU, p.GetCurrency(), formatMoney(v.Offer.Price, v.Offer.Currency), v.Offer.Currency)
	}
	m.current.Currency, m.current.MinorUnits = p.GetCurrency(), p.GetPriceMinorUnits()
	it.CurrentPrice = &m.current
	it.PriceChanged = p.GetPriceMinorUnits() != v.Offer.Price
	m.counts.MinorUnits = pricing.UnitPrice(v.Offer.Price, p.GetPriceMinorUnits())
	return ""
}

// Names of a line's fields in conflicts and explanations.
const (
	fieldPresence   = "presence"
	fieldQuantity   = "quantity"
	fieldPlacement  = "placement"
	fieldPrice      = "price"
	fieldAttributes = "attributes"
)

// conflicts names the fields of a line that were written concurrently to
// different values.
func conflicts(e crdt.MapEntry, v crdt.Carried) []*cartv1.Conflict {
	var out []*cartv1.Conflict
	add := func(field, value string, values []string) {
		// Two regions that add the same thing at the same price differ in
		// the time alone: nothing a shopper could decide.
		slices.Sort(values)
		if values = slices.Compact(values); len(values) > 1 {
			out = append(out, &cartv1.Conflict{SkuId: e.Key.SKU, SellerId: e.Key.Seller, Field: field, Value: value, Values: values})
		}
	}
	if e.Line.Quantity.Concurrent() {
		q := make([]uint32, len(e.Line.Quantity))
		for i, w := range e.Line.Quantity {
			q[i] = w.Value
		}
		out = append(out, quantityConflict(e.Key, v.Quantity, q))
	}
	if e.Line.Placement.Concurrent() {
		add(fieldPlacement, placementText(v.Placement), texts(e.Line.Placement, placementText))
	}
	if e.Line.Offer.Concurrent() {
		add(fieldPrice, offerText(v.Offer), texts(e.Line.Offer, offerText))
	}
	if e.Line.Attributes.Concurrent() {
		add(fieldAttributes, v.Attributes.Pairs, texts(e.Line.Attributes, func(a crdt.Attributes) string { return a.Pairs }))
	}
	return out
}

// quantityConflict lists quantities in numeric order, each once.
func quantityConflict(k crdt.LineKey, value uint32, quantities []uint32) *cartv1.Conflict {
	c := &cartv1.Conflict{SkuId: k.SKU, SellerId: k.Seller, Field: fieldQuantity, Value: quantityText(value)}
	for _, q := range slices.Compact(slices.Sorted(slices.Values(quantities))) {
		c.Values = append(c.Values, quantityText(q))
	}
	return c
}

func texts[V comparable](r crdt.Register[V], text func(V) string) []string {
	out := make([]string, len(r))
	for i, w := range r {
		out[i] = text(w.Value)
	}
	return out
}

func quantityText(q uint32) string { return strconv.FormatUint(uint64(q), 10) }

func placementText(p crdt.Placement) string {
	if p == crdt.Saved {
		return "saved"
	}
	return "cart"
}

func offerText(o crdt.Offer) string {
	return formatMoney(o.Price, o.Currency) + " " + o.Currency
}
