package main

import (
	"context"
	"strings"
	"testing"

	"connectrpc.com/connect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
)

// ApplyPromotion knows one code that counts; others do not count yet, or are
// not known.
func (r fakeRegion) ApplyPromotion(_ context.Context, req *connect.Request[cartv1.ApplyPromotionRequest]) (*connect.Response[cartv1.Cart], error) {
	user, err := owner(req.Header())
	if err != nil {
		return nil, err
	}
	money := func(n int64) *cartv1.Money { return &cartv1.Money{Currency: "USD", MinorUnits: n} }
	cart := &cartv1.Cart{CartId: "cart:" + user, ItemCount: 2, Subtotal: money(5998), EstimatedTotal: money(5998)}
	switch strings.ToUpper(req.Msg.GetCode()) {
	case "TEN":
		cart.PromotionsApplied = []*cartv1.Promotion{{Code: "TEN", Discount: money(600), Title: "Ten off", FreeShipping: true}}
		cart.EstimatedTotal = money(5398)
	case "LATER":
		cart.PromotionsRejected = []*cartv1.RejectedPromotion{{Code: "LATER", Reason: "it begins on Monday", Condition: "NOT_STARTED"}}
	default:
		return nil, apiError(connect.CodeFailedPrecondition, "PROMOTION_UNKNOWN", "there is no such code")
	}
	return connect.NewResponse(cart), nil
}

// RemovePromotion answers with a cart that has no code.
func (r fakeRegion) RemovePromotion(_ context.Context, req *connect.Request[cartv1.RemovePromotionRequest]) (*connect.Response[cartv1.Cart], error) {
	user, err := owner(req.Header())
	return connect.NewResponse(&cartv1.Cart{CartId: "cart:" + user, ItemCount: 2}), err
}

func TestPromotionCommands(t *testing.T) {
	_, addr := newFake(t)
	t.Setenv("SAMECART_ADDR", addr)
	r := ctl(t, "promotion", "add", "ten", "--user", "u")
	for _, want := range []string{"cart:u: 2 items", "code TEN: -6.00 USD, free shipping, Ten off", "subtotal 59.98 USD, estimated total 53.98 USD"} {
		if r.code != exitGood || !strings.Contains(r.stdout, want) {
			t.Errorf("%d, %q is not in\n%s%s", r.code, want, r.stdout, r.stderr)
		}
	}
	if r := ctl(t, "promotion", "add", "later", "--user", "u"); !strings.Contains(r.stdout, "code LATER does not count: it begins on Monday") {
		t.Errorf("%+v", r)
	}
	if o := ctl(t, "promotion", "add", "ten", "--user", "u", "--json").object(t); at(t, o, "promotions_applied", 0, "discount") != 6.0 || at(t, o, "estimated_total") != 53.98 {
		t.Errorf("%v", o)
	}
	if o := ctl(t, "promotion", "remove", "ten", "--user", "u", "--json").object(t); len(at(t, o, "promotions_applied").([]any)) != 0 {
		t.Errorf("%v", o)
	}
	if r := ctl(t, "promotion", "add", "nope", "--user", "u"); r.code != exitFailed || !strings.Contains(r.stderr, "PROMOTION_UNKNOWN") {
		t.Errorf("%+v", r)
	}
	for _, args := range [][]string{{"promotion", "add", "--user", "u"}, {"promotion", "--user", "u"}, {"promotion", "add", "ten"}} {
		if r := ctl(t, args...); r.code != exitUsage {
			t.Errorf("%v: %+v", args, r)
		}
	}
}
