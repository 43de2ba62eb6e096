package rpc

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/region/pricing"
	"github.com/samecart/samecart/rpc/causal"
)

// Promotion codes. Which ones a cart has is a set of facts in it, which edits
// change; what they do is computed when the cart is shown.

// codeEdit reads a code as it was typed.
func codeEdit(kind regionv1.Change_Kind, typed string) (edit, error) {
	code, err := codeOf(typed)
	return edit{kind: kind, code: code}, err
}

func codeOf(typed string) (string, error) {
	if strings.TrimSpace(typed) == "" {
		return "", missing("code")
	}
	code, ok := pricing.CanonicalCode(typed)
	if !ok {
		return "", fault(InvalidField, "code %.40q must be 1 to %d letters, digits, - and _", typed, pricing.CodeBytesMax).with("field", "code")
	}
	return code, nil
}

// isCode reports whether an edit is about a promotion code.
func (e *edit) isCode() bool { return e.code != "" }

// addCode puts a code into the caller's cart. One that could not count as
// things stand now is taken all the same, and shown with the reason; one that
// never can is refused.
func (s *service) addCode(ctx context.Context, c call, typed string) (*cartv1.Cart, meta, error) {
	e, err := codeEdit(regionv1.Change_KIND_ADD_CODE, typed)
	if err != nil {
		return nil, meta{}, err
	}
	r := s.promotions.lookUp(ctx, []string{e.code})[0]
	if !r.answered {
		return nil, meta{}, ruleNotKnown(e.code)
	}
	if err := neverCounts(r, c, e.code); err != nil {
		return nil, meta{}, err
	}
	return s.applyThenRead(ctx, c, e)
}

func ruleNotKnown(code string) error {
	return fault(DependencyDown, "what code %s does is not known at the moment: try again", code).with("dependency", "promotions")
}

// neverCounts says why a code can never count for the caller; r is what was
// answered of it.
func neverCounts(r rule, c call, code string) error {
	if r.Rule == nil {
		return fault(PromotionUnknown, "there is no code %s: check how it is written", code).with("promotion", code)
	}
	why, never := pricing.Never(r.Rule, customerOf(c.cartID), time.Now())
	switch {
	case !never:
		return nil
	case why.Condition == pricing.WrongCustomer:
		return fault(PromotionNotEligible, "code %s cannot be used: %s", code, why.Reason).with("promotion", code)
	}
	return fault(PromotionExpired, "code %s cannot be used: %s", code, why.Reason).with("promotion", code)
}

// dropCode takes a code out of the caller's cart, known or not.
func (s *service) dropCode(ctx context.Context, c call, typed string) (*cartv1.Cart, meta, error) {
	e, err := codeEdit(regionv1.Change_KIND_DROP_CODE, typed)
	if err != nil {
		return nil, meta{}, err
	}
	return s.applyThenRead(ctx, c, e)
}

// applyThenRead applies one edit and shows the cart with it.
func (s *service) applyThenRead(ctx context.Context, c call, e edit) (*cartv1.Cart, meta, error) {
	a, err := s.apply(ctx, c, []edit{e}, false)
	if err != nil {
		return nil, meta{}, err
	}
	after, err := causal.DecodeToken(a.token)
	var v region.View
	if err == nil {
		v, err = s.region.Read(ctx, c.cartID, region.ReadOptions{Context: after.Context, HasToken: true})
	}
	if err != nil {
		// The edit is in: nothing that says otherwise may be answered.
		return nil, meta{}, fmt.Errorf("read the cart after its edit: %w: %w", region.ErrOutcomeUnknown, err)
	}
	v.Stale = v.Stale || a.stale
	m, lacks := s.metaFor(c, v)
	m.replayed = a.replayed
	cart := s.render(ctx, v)
	cart.Missing = lacks
	return cart, m, nil
}

// customerOf is the owner of a cart.
func customerOf(cartID string) pricing.Customer {
	if id, ok := strings.CutPrefix(cartID, "guest:"); ok {
		return pricing.Customer{ID: id, Guest: true}
	}
	return pricing.Customer{ID: strings.TrimPrefix(cartID, "cart:")}
}

// hasCodes reports whether a cart has a promotion code.
func hasCodes(c *crdt.Cart) bool {
	for range c.Facts(crdt.FactCode) {
		return true
	}
	return false
}

// codesOf returns a cart's promotion codes: those that count, the first given
// first, and those beyond most of them, which several regions together may
// have let in.
func codesOf(c *crdt.Cart, most int) (codes, excess []string) {
	var given []crdt.Timestamp
	for code, v := range c.Facts(crdt.FactCode) {
		codes, given = append(codes, code), append(given, v.At)
	}
	if len(codes) <= most {
		return codes, nil
	}
	order := make([]int, len(codes))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(given[a], given[b]), cmp.Compare(codes[a], codes[b]))
	})
	sorted := make([]string, len(codes))
	for n, i := range order {
		sorted[n] = codes[i]
	}
	return sorted[:most], sorted[most:]
}

// priced computes what a cart with codes costs, line by line in the order of
// lines, whose items are given. What could not be found out is in out's warnings.
func (s *service) priced(ctx context.Context, c *crdt.Cart, out *cartv1.Cart, lines []shownLine, items []cartv1.Item) pricing.Result {
	codes, excess := codesOf(c, s.cfg.CodesMax)
	in := pricing.Input{
		Currency: out.GetCurrency(), Lines: make([]pricing.Line, len(lines)), Codes: make([]pricing.Code, len(codes)),
		Excess: excess, CodesMax: s.cfg.CodesMax, Customer: customerOf(out.GetCartId()), Now: time.Now(),
	}
	for i, l := range lines {
		in.Lines[i] = pricing.Line{
			Seller: l.Key.Seller, SKU: l.Key.SKU, Options: l.Key.Options, Quantity: items[i].GetQuantity(),
			Unit: items[i].GetPrice().GetMinorUnits(), Currency: l.value.Offer.Currency, Saved: l.value.Placement == crdt.Saved,
		}
	}
	var unanswered, old int
	for i, r := range s.promotions.lookUp(ctx, codes) {
		in.Codes[i] = pricing.Code{Code: codes[i], Rule: r.Rule, Known: r.answered}
		switch {
		case !r.answered:
			unanswered++
		case r.old:
			old++
		}
		in.Codes[i].Spent = r.isLimited() && s.cfg.PromotionUses != nil && s.cfg.PromotionUses.Spent(ctx, r.Rule, out.GetCartId())
	}
	if unanswered > 0 {
		out.Warnings = append(out.Warnings, fmt.Sprintf("the promotion rules are not known at the moment: %d codes do not count until they are", unanswered))
	}
	if old > 0 {
		out.Warnings = append(out.Warnings, fmt.Sprintf("the promotion rules are not known at the moment: %d codes count as they did a few minutes ago", old))
	}
	return pricing.Price(in)
}

// promote enters into a cart's page what its codes do.
func promote(out *cartv1.Cart, result pricing.Result) {
	money := func(minorUnits int64) *cartv1.Money {
		return &cartv1.Money{Currency: out.GetCurrency(), MinorUnits: minorUnits}
	}
	for _, a := range result.Applied {
		out.PromotionsApplied = append(out.PromotionsApplied, &cartv1.Promotion{
			Code: a.Code, Title: a.Title, Discount: money(a.Discount), FreeShipping: a.FreeShipping,
		})
	}
	for _, r := range result.Rejected {
		out.PromotionsRejected = append(out.PromotionsRejected, &cartv1.RejectedPromotion{Code: r.Code, Reason: r.Reason, Condition: string(r.Condition)})
	}
	for _, t := range result.Sellers {
		if t.Discount > 0 {
			totalOf(out, t.ID).Discount = money(t.Discount)
		}
	}
	out.EstimatedTotal = money(result.Total)
}

// Over REST and Connect.

type codeCall func(ctx context.Context, c call, code string) (*cartv1.Cart, meta, error)

func (h rest) addCode(w http.ResponseWriter, r *request) error {
	var code string
	if err := decodeObject(r.body, fields{"code": text(&code, "code", InvalidField)}); err != nil {
		return err
	}
	return h.withCode(w, r, code, h.s.addCode)
}

func (h rest) dropCode(w http.ResponseWriter, r *request) error {
	return h.withCode(w, r, r.path["code"], h.s.dropCode)
}

func (h rest) withCode(w http.ResponseWriter, r *request, code string, do codeCall) error {
	c, err := newCall(r.Context(), r.Header)
	if err != nil {
		return err
	}
	cart, m, err := do(r.Context(), c, code)
	if err != nil {
		return err
	}
	m.write(w.Header())
	return writeJSON(w, http.StatusOK, cartJSONOf(cart))
}

// ApplyPromotion implements cartv1connect.CartServiceHandler.
func (h cartServer) ApplyPromotion(ctx context.Context, req *connect.Request[cartv1.ApplyPromotionRequest]) (*connect.Response[cartv1.Cart], error) {
	return withCode(ctx, req.Header(), req.Msg.GetCode(), h.s.addCode)
}

// RemovePromotion implements cartv1connect.CartServiceHandler.
func (h cartServer) RemovePromotion(ctx context.Context, req *connect.Request[cartv1.RemovePromotionRequest]) (*connect.Response[cartv1.Cart], error) {
	return withCode(ctx, req.Header(), req.Msg.GetCode(), h.s.dropCode)
}

func withCode(ctx context.Context, header http.Header, code string, do codeCall) (*connect.Response[cartv1.Cart], error) {
	return reading(ctx, header, func(ctx context.Context, c call) (*cartv1.Cart, meta, error) { return do(ctx, c, code) })
}

// The JSON forms of a cart's codes.

type promotionJSON struct {
	Code         string `json:"code"`
	Title        string `json:"title,omitempty"`
	Discount     amount `json:"discount"`
	FreeShipping bool   `json:"free_shipping,omitempty"`
}

func promotionJSONOf(p *cartv1.Promotion) promotionJSON {
	return promotionJSON{p.GetCode(), p.GetTitle(), amountOf(p.GetDiscount()), p.GetFreeShipping()}
}

type rejectedJSON struct {
	Code      string `json:"code"`
	Reason    string `json:"reason"`
	Condition string `json:"condition"`
}

func rejectedJSONOf(r *cartv1.RejectedPromotion) rejectedJSON {
	return rejectedJSON{r.GetCode(), r.GetReason(), r.GetCondition()}
}
