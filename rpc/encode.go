package rpc

import (
	"encoding/json"
	"strconv"
	"time"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
)

// The JSON forms of REST answers: every field is there in every answer, but
// for those that say "omitempty", which are there when there is something to
// say.

// amount is money as a JSON number with its currency's digits, never a float;
// nil, unknown money, is null.
type amount = *json.Number

func amountOf(m *cartv1.Money) amount {
	if m == nil {
		return nil
	}
	n := json.Number(formatMoney(m.GetMinorUnits(), m.GetCurrency()))
	return &n
}

type itemJSON struct {
	SKU              string            `json:"sku_id"`
	Name             string            `json:"name"`
	Quantity         uint32            `json:"quantity"`
	SellerID         string            `json:"seller_id"`
	Seller           string            `json:"seller"`
	Options          map[string]string `json:"options"`
	Price            amount            `json:"price"`
	PriceAtAdd       amount            `json:"price_at_add"`
	CurrentPrice     amount            `json:"current_price"`
	PriceChanged     bool              `json:"price_changed"`
	InStock          *bool             `json:"in_stock"`
	Image            *string           `json:"image"`
	AddedAt          string            `json:"added_at"`
	DeliveryEstimate *string           `json:"delivery_estimate"`
	Attributes       map[string]string `json:"attributes,omitempty"`
}

type conflictJSON struct {
	SKU      string `json:"sku_id"`
	SellerID string `json:"seller_id"`
	Field    string `json:"field"`
	Value    any    `json:"value"`
	Values   []any  `json:"values"`
}

type sellerJSON struct {
	SellerID  string `json:"seller_id"`
	Subtotal  amount `json:"subtotal"`
	ItemCount uint64 `json:"item_count"`
	Discount  amount `json:"discount,omitempty"`
}

func sellerJSONOf(t *cartv1.SellerTotal) sellerJSON {
	return sellerJSON{t.GetSellerId(), amountOf(t.GetSubtotal()), t.GetItemCount(), amountOf(t.GetDiscount())}
}

type missingJSON struct {
	Region string `json:"region"`
	Edits  uint64 `json:"edits"`
}

type cartJSON struct {
	CartID             string          `json:"cart_id"`
	Items              []itemJSON      `json:"items"`
	SavedItems         []itemJSON      `json:"saved_items"`
	Sellers            []sellerJSON    `json:"sellers"`
	Subtotal           amount          `json:"subtotal"`
	ItemCount          uint64          `json:"item_count"`
	Currency           string          `json:"currency"`
	PromotionsApplied  []promotionJSON `json:"promotions_applied"`
	PromotionsRejected []rejectedJSON  `json:"promotions_rejected"`
	EstimatedTotal     amount          `json:"estimated_total"`
	ExpiresAt          *string         `json:"expires_at"`
	Stale              bool            `json:"stale"`
	Missing            []missingJSON   `json:"missing,omitempty"`
	Conflicts          []conflictJSON  `json:"conflicts"`
	Warnings           []string        `json:"warnings"`
}

// mapped translates a list; none is an empty list, never null.
func mapped[A, B any](in []A, f func(A) B) []B {
	out := make([]B, len(in))
	for i, v := range in {
		out[i] = f(v)
	}
	return out
}

func itemJSONOf(it *cartv1.Item) itemJSON {
	options := it.GetOptions()
	if options == nil {
		options = map[string]string{}
	}
	return itemJSON{
		SKU: it.GetSkuId(), Name: it.GetName(), Quantity: it.GetQuantity(), SellerID: it.GetSellerId(), Seller: it.GetSeller(),
		Options: options, Price: amountOf(it.GetPrice()), PriceAtAdd: amountOf(it.GetPriceAtAdd()),
		CurrentPrice: amountOf(it.GetCurrentPrice()), PriceChanged: it.GetPriceChanged(), InStock: it.InStock,
		Image: known(it.GetImage()), AddedAt: timeText(it.GetAddedAtMs()), DeliveryEstimate: known(it.GetDeliveryEstimate()),
		Attributes: it.GetAttributes(),
	}
}

// known is null for what nobody has said.
func known(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func timeText(ms int64) string {
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z07:00")
}

func conflictJSONOf(c *cartv1.Conflict) conflictJSON {
	value := func(s string) any {
		if c.GetField() == fieldQuantity {
			if n, err := strconv.ParseUint(s, 10, 32); err == nil {
				return n
			}
		}
		return s
	}
	return conflictJSON{SKU: c.GetSkuId(), SellerID: c.GetSellerId(), Field: c.GetField(), Value: value(c.GetValue()), Values: mapped(c.GetValues(), value)}
}

// timeOrNull is null for 0, which stands for never.
func timeOrNull(ms int64) *string {
	if ms == 0 {
		return nil
	}
	return known(timeText(ms))
}

func cartJSONOf(c *cartv1.Cart) cartJSON {
	return cartJSON{
		CartID: c.GetCartId(), Items: mapped(c.GetItems(), itemJSONOf), SavedItems: mapped(c.GetSavedItems(), itemJSONOf),
		Sellers:  mapped(c.GetSellers(), sellerJSONOf),
		Subtotal: amountOf(c.GetSubtotal()), ItemCount: c.GetItemCount(), Currency: c.GetCurrency(),
		PromotionsApplied: mapped(c.GetPromotionsApplied(), promotionJSONOf), PromotionsRejected: mapped(c.GetPromotionsRejected(), rejectedJSONOf),
		EstimatedTotal: amountOf(c.GetEstimatedTotal()), ExpiresAt: timeOrNull(c.GetExpiresAtMs()), Stale: c.GetStale(),
		Missing:   mapped(c.GetMissing(), func(m *cartv1.Missing) missingJSON { return missingJSON{m.GetRegion(), m.GetEdits()} }),
		Conflicts: mapped(c.GetConflicts(), conflictJSONOf), Warnings: append([]string{}, c.GetWarnings()...),
	}
}

type shortItemJSON struct {
	SKU      string            `json:"sku_id"`
	Quantity uint32            `json:"quantity"`
	Price    amount            `json:"price"`
	SellerID string            `json:"seller_id"`
	Options  map[string]string `json:"options,omitempty"`

	Attributes map[string]string `json:"attributes,omitempty"`
}

type lineJSON struct {
	CartID    string         `json:"cart_id"`
	ItemCount uint64         `json:"item_count"`
	Item      *shortItemJSON `json:"item"` // null: removed
	Conflicts []conflictJSON `json:"conflicts,omitempty"`
	Stale     bool           `json:"stale,omitempty"`
}

func lineJSONOf(r *cartv1.ItemResponse) lineJSON {
	out := lineJSON{CartID: r.GetCartId(), ItemCount: r.GetItemCount(), Conflicts: mapped(r.GetConflicts(), conflictJSONOf), Stale: r.GetStale()}
	if it := r.GetItem(); it != nil {
		out.Item = &shortItemJSON{it.GetSkuId(), it.GetQuantity(), amountOf(it.GetPrice()), it.GetSellerId(), it.GetOptions(), it.GetAttributes()}
	}
	return out
}

func lineAnswer(a *applied) any { return lineJSONOf(a.results[0]) }

type countJSON struct {
	CartID    string `json:"cart_id,omitempty"`
	ItemCount uint64 `json:"item_count"`
	Stale     bool   `json:"stale,omitempty"`
}

func countAnswer(a *applied) any {
	return countJSON{CartID: a.cartID, ItemCount: a.count, Stale: a.stale}
}

type batchJSON struct {
	CartID    string     `json:"cart_id"`
	ItemCount uint64     `json:"item_count"`
	Results   []lineJSON `json:"results"`
	Stale     bool       `json:"stale,omitempty"`
}

func batchAnswer(a *applied) any {
	return batchJSON{CartID: a.cartID, ItemCount: a.count, Results: mapped(a.results, lineJSONOf), Stale: a.stale}
}

type writeJSONForm struct {
	Region      string  `json:"region"`
	Incarnation uint32  `json:"incarnation"`
	Lineage     string  `json:"lineage"`
	Seq         uint64  `json:"seq"`
	OpID        *string `json:"op_id"`
	At          *string `json:"at"`
	Value       string  `json:"value"`
	Wins        bool    `json:"wins"`
	Lost        string  `json:"lost,omitempty"`
}

type fieldJSON struct {
	Field  string          `json:"field"`
	Value  string          `json:"value"`
	Rule   string          `json:"rule"`
	Why    string          `json:"why"`
	Writes []writeJSONForm `json:"writes"`
}

type factJSON struct {
	Kind   string          `json:"kind"`
	ID     string          `json:"id"`
	Rule   string          `json:"rule"`
	Writes []writeJSONForm `json:"writes"`
}

type explainedLineJSON struct {
	SKU      string            `json:"sku_id"`
	SellerID string            `json:"seller_id"`
	Options  map[string]string `json:"options"`
	Fields   []fieldJSON       `json:"fields"`
}

type explainJSON struct {
	CartID  string              `json:"cart_id"`
	Context string              `json:"context"`
	Lines   []explainedLineJSON `json:"lines"`
	Facts   []factJSON          `json:"facts,omitempty"`
}

func writeJSONOf(w *cartv1.ExplainedWrite) writeJSONForm {
	out := writeJSONForm{
		Region: w.GetRegion(), Incarnation: w.GetIncarnation(), Lineage: w.GetLineage(), Seq: w.GetSeq(),
		OpID: known(w.GetOpId()), Value: w.GetValue(), Wins: w.GetWins(), Lost: w.GetLost(),
	}
	if w.GetAtMs() != 0 {
		out.At = known(timeText(w.GetAtMs()))
	}
	return out
}

func factJSONOf(f *cartv1.ExplainedFact) factJSON {
	return factJSON{f.GetKind(), f.GetId(), f.GetRule(), mapped(f.GetWrites(), writeJSONOf)}
}

func explainJSONOf(x *cartv1.ExplainCartResponse) explainJSON {
	field := func(f *cartv1.ExplainedField) fieldJSON {
		return fieldJSON{f.GetField(), f.GetValue(), f.GetRule(), f.GetWhy(), mapped(f.GetWrites(), writeJSONOf)}
	}
	return explainJSON{
		CartID: x.GetCartId(), Context: x.GetContext(),
		Lines: mapped(x.GetLines(), func(l *cartv1.ExplainedLine) explainedLineJSON {
			options := l.GetOptions()
			if options == nil {
				options = map[string]string{}
			}
			return explainedLineJSON{l.GetSkuId(), l.GetSellerId(), options, mapped(l.GetFields(), field)}
		}),
		Facts: mapped(x.GetFacts(), factJSONOf),
	}
}

type regionJSON struct {
	Region  string `json:"region"`
	Address string `json:"address"`
	Healthy bool   `json:"healthy"`
}

type regionsJSON struct {
	Regions []regionJSON `json:"regions"`
}

func regionsJSONOf(list []RegionInfo) regionsJSON {
	return regionsJSON{mapped(list, func(r RegionInfo) regionJSON { return regionJSON(r) })}
}

type errorBodyJSON struct {
	Code    Code           `json:"code"`
	Message string         `json:"message"`
	Details map[string]any `json:"details"`
}

type errorJSON struct {
	Error errorBodyJSON `json:"error"`
}

func errorJSONOf(e *Error) errorJSON {
	details := map[string]any{}
	for k, v := range e.Details {
		details[k] = v
	}
	if e.Cart != nil {
		details["cart"] = cartJSONOf(e.Cart)
	}
	return errorJSON{errorBodyJSON{e.Code, e.Message, details}}
}
