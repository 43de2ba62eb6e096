package rpc

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/region"
)

// render shows a cart: resolved values, totals by the price rule, and what
// the shopper should know about both. It never fails: what the catalogue does
// not say is left out, and a warning names it.
func (s *service) render(ctx context.Context, v region.View) *cartv1.Cart {
	c := cartOf(v)
	out := &cartv1.Cart{CartId: v.CartID, Stale: v.Stale, Currency: c.Currency()}
	lines := slices.DeleteFunc(slices.Clone(c.Lines), func(e crdt.MapEntry) bool { return !e.Line.IsThere() })
	refs := make([]productRef, len(lines))
	for i, e := range lines {
		refs[i] = productRef{e.Key.SKU, e.Key.Seller}
	}
	known := s.products.lookUp(ctx, refs)

	visible := make(map[crdt.LineKey]crdt.Carried, len(lines))
	for _, e := range lines {
		visible[e.Key] = e.Line.Visible()
	}
	// In the order of adding, which the shopper remembers; the key makes the
	// order the same everywhere.
	slices.SortStableFunc(lines, func(a, b crdt.MapEntry) int {
		return cmp.Compare(visible[a.Key].Offer.AddedAt, visible[b.Key].Offer.AddedAt)
	})
	totals := map[string]*cartv1.SellerTotal{}
	var subtotal int64
	var unanswered, old int
	for _, e := range lines {
		p := known[productRef{e.Key.SKU, e.Key.Seller}]
		value := visible[e.Key]
		stored := value.Quantity
		value.Quantity = min(stored, s.cfg.QuantityMax)
		it, warning := item(e.Key, value, p)
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
		out.Conflicts = append(out.Conflicts, conflicts(e, value)...)
		if value.Placement == crdt.Saved {
			out.SavedItems = append(out.SavedItems, it)
			continue
		}
		out.Items = append(out.Items, it)
		out.ItemCount += uint64(value.Quantity)
		t := totals[e.Key.Seller]
		if t == nil {
			t = &cartv1.SellerTotal{SellerId: e.Key.Seller, Subtotal: &cartv1.Money{Currency: out.GetCurrency()}}
			totals[e.Key.Seller] = t
			out.Sellers = append(out.Sellers, t)
		}
		t.ItemCount += uint64(value.Quantity)
		if value.Offer.Currency != out.GetCurrency() {
			out.Warnings = append(out.Warnings, fmt.Sprintf("sku_id %q is priced in %s, not in the cart's %s: it is in no total, and checkout needs it removed", e.Key.SKU, value.Offer.Currency, out.GetCurrency()))
			continue
		}
		amount := timesMoney(max(it.GetPrice().GetMinorUnits(), 0), value.Quantity)
		t.Subtotal.MinorUnits = addMoney(t.Subtotal.MinorUnits, amount)
		subtotal = addMoney(subtotal, amount)
	}
	slices.SortFunc(out.GetSellers(), func(a, b *cartv1.SellerTotal) int { return cmp.Compare(a.GetSellerId(), b.GetSellerId()) })
	out.Subtotal = &cartv1.Money{Currency: out.GetCurrency(), MinorUnits: subtotal}
	out.EstimatedTotal = &cartv1.Money{Currency: out.GetCurrency(), MinorUnits: subtotal}
	if unanswered > 0 {
		out.Warnings = append(out.Warnings, fmt.Sprintf("the catalogue does not answer: names, stock and current prices of %d lines are missing", unanswered))
	}
	if old > 0 {
		out.Warnings = append(out.Warnings, fmt.Sprintf("the catalogue does not answer: stock and current prices of %d lines are as they were a few minutes ago", old))
	}
	return out
}

// item shows one line. The lower of the price at adding and the current one
// counts.
func item(k crdt.LineKey, v crdt.Carried, p product) (it *cartv1.Item, warning string) {
	it = &cartv1.Item{
		SkuId: k.SKU, Name: k.SKU, Quantity: v.Quantity, SellerId: k.Seller, Seller: k.Seller, Options: crdt.Pairs(k.Options),
		PriceAtAdd: &cartv1.Money{Currency: v.Offer.Currency, MinorUnits: v.Offer.Price},
		Price:      &cartv1.Money{Currency: v.Offer.Currency, MinorUnits: v.Offer.Price},
		AddedAtMs:  v.Offer.AddedAt.UnixMilli(),
	}
	switch {
	case !p.answered:
		return it, ""
	case p.Product == nil:
		gone := false
		it.InStock = &gone
		return it, fmt.Sprintf("sku_id %q is no longer in the catalogue", k.SKU)
	}
	inStock := p.GetStock() > 0
	it.InStock, it.Image = &inStock, p.GetImage()
	it.Name, it.Seller = cmp.Or(p.GetName(), k.SKU), cmp.Or(p.Product.GetSeller(), k.Seller)
	if p.GetCurrency() != v.Offer.Currency {
		return it, fmt.Sprintf("sku_id %q is now sold in %s: its price of %s %s stands", k.SKU, p.GetCurrency(), formatMoney(v.Offer.Price, v.Offer.Currency), v.Offer.Currency)
	}
	it.CurrentPrice = &cartv1.Money{Currency: p.GetCurrency(), MinorUnits: p.GetPriceMinorUnits()}
	it.PriceChanged = p.GetPriceMinorUnits() != v.Offer.Price
	it.Price.MinorUnits = min(v.Offer.Price, p.GetPriceMinorUnits())
	return it, ""
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
