package client

import (
	"context"
	"testing"

	"connectrpc.com/connect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
)

// RedeemPromotion is an edit to the fake.
func (r *fakeRegion) RedeemPromotion(_ context.Context, req *connect.Request[cartv1.RedeemPromotionRequest]) (*connect.Response[cartv1.RedeemPromotionResponse], error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	cc, replayed := r.edit(req.Header().Get("Idempotency-Key"))
	res := fakeAnswer(r, &cartv1.RedeemPromotionResponse{Code: req.Msg.GetCode(), Redeemed: true}, cc)
	if replayed {
		res.Header().Set("Idempotent-Replayed", "true")
	}
	return res, nil
}

// A use whose answer was lost is asked for elsewhere under the same op id: one use.
func TestRedeemIsOneOperation(t *testing.T) {
	bubble(t, func(t *testing.T, g *rig) {
		g.us.set(func(r *fakeRegion) { r.broken = 1 })
		a, err := g.s.Redeem(t.Context(), "TEN")
		if err != nil || !a.Msg.GetRedeemed() || a.Msg.GetCode() != "TEN" || a.Region != "eu" {
			t.Fatalf("%+v, %v", a, err)
		}
		us, eu := g.us.calls(), g.eu.calls()
		if len(us) != 1 || len(eu) != 1 || us[0].opID != eu[0].opID || eu[0].opID != a.OpID || a.OpID == "" {
			t.Errorf("op ids: us %v, eu %v", us, eu)
		}
	})
}

// Each method makes its own call; codes are mutations, estimates are not.
func TestCodesAndShippingAreCalled(t *testing.T) {
	bubble(t, func(t *testing.T, g *rig) {
		g.s.ApplyPromotion(t.Context(), "TEN")                                    //nolint:errcheck // the fake has no codes
		g.s.RemovePromotion(t.Context(), "TEN")                                   //nolint:errcheck // nor these
		g.s.Shipping(t.Context(), &cartv1.EstimateShippingRequest{Country: "GB"}) //nolint:errcheck // nor these
		ops := map[string]bool{}
		for _, c := range append(append(g.us.calls(), g.eu.calls()...), g.ap.calls()...) {
			ops[c.method] = c.opID != ""
		}
		if read, ok := ops["EstimateShipping"]; len(ops) != 3 || !ops["ApplyPromotion"] || !ops["RemovePromotion"] || !ok || read {
			t.Errorf("calls with op ids: %v", ops)
		}
	})
}
