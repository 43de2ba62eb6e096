package rpc_test

import (
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region"
)

const redeemTEN = "/api/v1/cart/promotions/TEN/redeem"

func TestRedeemAnswersAsDocumented(t *testing.T) {
	w := start(t)
	w.region.badOutcome = &regionv1.Outcome{RightsHere: 32, Replayed: true}
	r := w.do("POST", redeemTEN, "")
	if want := `{"code":"TEN","redeemed":true,"left_here":32}` + "\n"; r.status != 200 || r.body != want {
		t.Errorf("%d %s, want %s", r.status, r.body, want)
	}
	if r.header.Get("Idempotent-Replayed") != "true" || r.header.Get("Cart-Region") != "us-east" {
		t.Errorf("headers %v", r.header)
	}
	req := connect.NewRequest(&cartv1.RedeemPromotionRequest{Code: "TEN"})
	req.Header().Set("X-User-ID", "user-123")
	res, err := w.client().RedeemPromotion(t.Context(), req)
	if err != nil || res.Msg.GetCode() != "TEN" || !res.Msg.GetRedeemed() || res.Msg.GetLeftHere() != 32 || res.Header().Get("Idempotent-Replayed") != "true" {
		t.Errorf("Connect answers %v, %v", res, err)
	}
}

// Every refusal and fault has its code, in REST and in Connect.
func TestRedeemRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		code    string // of the promotion
		outcome regionv1.Outcome_Code
		err     error
		status  int
		want    string
	}{
		"exhausted":   {"TEN", regionv1.Outcome_CODE_LIMIT_EXHAUSTED, nil, 422, "PROMOTION_EXHAUSTED"},
		"customer":    {"TEN", regionv1.Outcome_CODE_CUSTOMER_EXHAUSTED, nil, 422, "PROMOTION_CUSTOMER_LIMIT"},
		"not limited": {"TEN", regionv1.Outcome_CODE_LINE_NOT_FOUND, nil, 422, "PROMOTION_NOT_LIMITED"},
		"elsewhere":   {"TEN", regionv1.Outcome_CODE_LIMIT_ELSEWHERE, nil, 503, "PROMOTION_ELSEWHERE"},
		"key reused":  {"TEN", regionv1.Outcome_CODE_OP_ID_REUSED, nil, 422, "IDEMPOTENCY_KEY_REUSED"},
		"cut off":     {"TEN", 0, fmt.Errorf("redeem: %w", region.ErrNoRegionMajority), 503, "NO_REGION_MAJORITY"},
		"fenced":      {"TEN", 0, region.ErrFenced, 503, "REGION_FENCED"},
		"unknown":     {"TEN", 0, region.ErrOutcomeUnknown, 504, "OUTCOME_UNKNOWN"},
		"bad code":    {"TEN%25", 0, nil, 400, "INVALID_FIELD"},
		"long code":   {strings.Repeat("A", 65), 0, nil, 400, "INVALID_FIELD"},
		"slash":       {"A%2FB", 0, nil, 400, "INVALID_FIELD"},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t)
			w.region.badOutcome, w.region.editErr = &regionv1.Outcome{Code: c.outcome}, c.err
			r := w.do("POST", "/api/v1/cart/promotions/"+c.code+"/redeem", "", "Idempotency-Key", "k-1")
			if r.status != c.status || r.code(t) != c.want {
				t.Errorf("%d %s, want %d %s", r.status, r.body, c.status, c.want)
			}
			if c.status == 503 && r.header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			code, _ := strings.CutSuffix(c.code, "%25")
			if code != c.code {
				code += "%"
			}
			req := connect.NewRequest(&cartv1.RedeemPromotionRequest{Code: strings.ReplaceAll(code, "%2F", "/")})
			req.Header().Set("X-User-ID", "user-123")
			req.Header().Set("Idempotency-Key", "k-1")
			_, err := w.client().RedeemPromotion(t.Context(), req)
			if got := detailOf(t, err).GetCode(); got != c.want {
				t.Errorf("Connect answers %v (%s), want %s", err, got, c.want)
			}
		})
	}
}

// A code is judged by its rule, which also limits its counter; what the rules say is
// about the code in upper case.
func TestRedeemHoldsToTheRules(t *testing.T) {
	const few = "/api/v1/cart/promotions/few/redeem"
	uses := spentCodes{}
	w, rules := startShop(t, func(w *world) { w.cfg.PromotionUses, w.cfg.PromotionOld = uses, 0 })
	w.region.badOutcome = &regionv1.Outcome{RightsHere: 2}
	for code, want := range map[string]string{"nope": "PROMOTION_UNKNOWN", "over": "PROMOTION_EXPIRED", "fortwo": "PROMOTION_NOT_ELIGIBLE"} {
		if r := w.do("POST", "/api/v1/cart/promotions/"+code+"/redeem", ""); r.status != 422 || r.code(t) != want {
			t.Errorf("%s: %d %s, want %s", code, r.status, r.body, want)
		}
	}
	if r := w.do("POST", "/api/v1/cart/promotions/ten/redeem", ""); r.status != 200 || len(uses) != 0 {
		t.Errorf("a rule without a limit: %d %s, raised %v", r.status, r.body, uses)
	}
	if r := w.do("POST", few, ""); r.status != 200 || !strings.Contains(r.body, `"code":"FEW"`) || !strings.Contains(r.body, `"left_here":2`) || !uses["raise FEW3"] {
		t.Errorf("%d %s, raised %v", r.status, r.body, uses)
	}
	// Where one customer's uses alone are counted, how many are left says nothing.
	if r := w.do("POST", "/api/v1/cart/promotions/oneeach/redeem", ""); r.status != 200 || strings.Contains(r.body, "left_here") {
		t.Errorf("%d %s", r.status, r.body)
	}
	// While the rules are not known, what the counter says counts.
	clear(uses)
	rules.down.Store(true)
	if r := w.do("POST", few, ""); r.status != 200 || len(uses) != 0 {
		t.Errorf("rules are down: %d %s, raised %v", r.status, r.body, uses)
	}
	w.region.badOutcome = &regionv1.Outcome{Code: regionv1.Outcome_CODE_LINE_NOT_FOUND}
	if r := w.do("POST", few, ""); r.status != 503 || r.code(t) != "DEPENDENCY_DOWN" {
		t.Errorf("rules are down and there is no counter: %d %s", r.status, r.body)
	}
}

func TestRedeemIsAShoppers(t *testing.T) {
	w := start(t)
	for name, headers := range map[string][]string{
		"nobody":     {"X-User-ID", ""},
		"key spaces": {"Idempotency-Key", "a b"},
	} {
		if r := w.do("POST", redeemTEN, "", headers...); r.status != 400 && r.status != 401 {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	req := connect.NewRequest(&cartv1.RedeemPromotionRequest{})
	req.Header().Set("X-User-ID", "user-123")
	_, err := w.client().RedeemPromotion(t.Context(), req)
	if got := detailOf(t, err).GetCode(); got != "MISSING_FIELD" {
		t.Errorf("no code: %v (%s)", err, got)
	}
}

// An erased cart's customer redeems nothing: it would be written of whom it was.
func TestRedeemForAnErasedCart(t *testing.T) {
	w := start(t)
	w.add("SKU-1", "1")
	w.do("DELETE", "/api/v1/me", "")
	if r := w.do("POST", "/api/v1/cart/promotions/TEN/redeem", ""); r.status != 410 || r.code(t) != "ERASED" {
		t.Errorf("%d %s", r.status, r.body)
	}
}
