package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	promotionv1 "github.com/samecart/samecart/proto/promotion/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/rpc/promotion"
)

const cartCodes = "/api/v1/cart/promotions"

const shopRules = `
promotions:
  - {code: TEN, title: Ten off, percent: 10}
  - {code: FIVE, fixed: 5.00 USD, minimum: 100.00 USD, priority: 1}
  - {code: SHIP, free_shipping: true, priority: 2}
  - {code: MEMBERS, percent: 5, signed_in: true, priority: 3}
  - {code: FORTWO, percent: 1, customers: [user-2], priority: 4}
  - {code: OVER, percent: 50, until: 2020-01-01}
  - {code: LATER, percent: 50, from: 2100-01-01}
  - {code: FEW, percent: 1, uses_max: 3, priority: 5}
  - {code: ONEEACH, percent: 1, per_customer_max: 1, priority: 6}
`

// shop is the embedded promotion service, which can be down, slow or wrong.
type shop struct {
	*promotion.Rules

	down, slow, short, other, senseless atomic.Bool
	calls                               atomic.Int64
}

func (s *shop) LookUp(ctx context.Context, req *connect.Request[promotionv1.LookUpRequest]) (*connect.Response[promotionv1.LookUpResponse], error) {
	s.calls.Add(1)
	switch {
	case s.down.Load():
		return nil, errors.New("connection refused by 10.0.0.8:443")
	case s.slow.Load():
		<-ctx.Done()
		return nil, ctx.Err()
	case s.short.Load():
		return connect.NewResponse(&promotionv1.LookUpResponse{}), nil
	}
	res, err := s.Rules.LookUp(ctx, req)
	for i := range res.Msg.GetRules() {
		switch {
		case s.other.Load():
			res.Msg.Rules[i] = &promotionv1.Rule{Code: "OTHER", Effect: &promotionv1.Rule_Percent{Percent: &promotionv1.Percent{BasisPoints: 10000}}}
		case s.senseless.Load():
			res.Msg.Rules[i] = &promotionv1.Rule{Code: req.Msg.GetCodes()[i], Effect: &promotionv1.Rule_Percent{Percent: &promotionv1.Percent{BasisPoints: 20000}}}
		}
	}
	return res, err
}

// startShop serves carts of a shop with the rules above.
func startShop(t *testing.T, options ...func(*world)) (*world, *shop) {
	t.Helper()
	rules, err := promotion.Read(strings.NewReader(shopRules))
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{Rules: rules}
	return start(t, append([]func(*world){func(w *world) {
		w.cfg.Promotions, w.cfg.PromotionFresh, w.cfg.PromotionRest = s, 0, time.Millisecond
	}}, options...)...), s
}

// giveCode puts a code into user-123's cart.
func (w *world) giveCode(code string, headers ...string) reply {
	w.t.Helper()
	r := w.do("POST", cartCodes, `{"code":"`+code+`"}`, headers...)
	if r.status != 200 {
		w.t.Fatalf("code %s: %d %s", code, r.status, r.body)
	}
	return r
}

// codesIn shows what a page says of codes and totals: "TEN:5.99 LATER?NOT_STARTED = 53.99 of 59.98".
func codesIn(t *testing.T, r reply) string {
	t.Helper()
	v := r.json(t)
	var out []any
	for _, p := range v["promotions_applied"].([]any) {
		p := p.(map[string]any)
		text := fmt.Sprintf("%v:%v", p["code"], p["discount"])
		if p["free_shipping"] == true {
			text += "+shipping"
		}
		out = append(out, text)
	}
	for _, p := range v["promotions_rejected"].([]any) {
		p := p.(map[string]any)
		if p["reason"] == "" {
			t.Errorf("no reason in %v", p)
		}
		out = append(out, fmt.Sprintf("%v?%v", p["code"], p["condition"]))
	}
	return row(append(out, "=", v["estimated_total"], "of", v["subtotal"])...)
}

func TestPromotionCodes(t *testing.T) {
	w, _ := startShop(t)
	w.add("SKU-456", "2") // 59.98
	want := func(r reply, want string) {
		t.Helper()
		if got := codesIn(t, r); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if got := codesIn(t, w.do("GET", "/api/v1/cart", "")); got != want {
			t.Errorf("read again %s\nwant       %s", got, want)
		}
	}
	r := w.giveCode(" ten ")
	want(r, "TEN:6.00 = 53.98 of 59.98")
	if r.header.Get("Cart-Token") == "" || r.header.Get("ETag") != w.do("GET", "/api/v1/cart", "").header.Get("ETag") {
		t.Errorf("headers %v", r.header)
	}
	if !strings.Contains(r.body, `"promotions_applied":[{"code":"TEN","title":"Ten off","discount":6.00}]`) || !strings.Contains(r.body, `"discount":6.00}],"subtotal"`) {
		t.Errorf("body %s", r.body)
	}
	want(w.giveCode("FIVE"), "TEN:6.00 FIVE?MINIMUM = 53.98 of 59.98")
	want(w.giveCode("LATER"), "TEN:6.00 FIVE?MINIMUM LATER?NOT_STARTED = 53.98 of 59.98")
	want(w.giveCode("SHIP"), "TEN:6.00 SHIP:0.00+shipping FIVE?MINIMUM LATER?NOT_STARTED = 53.98 of 59.98")
	w.add("SKU-456", "2") // the minimum is reached
	want(w.do("DELETE", cartCodes+"/later", ""), "TEN:12.00 FIVE:5.00 SHIP:0.00+shipping = 102.96 of 119.96")
	want(w.do("DELETE", cartCodes+"/LATER", ""), "TEN:12.00 FIVE:5.00 SHIP:0.00+shipping = 102.96 of 119.96")
	w.do("DELETE", "/api/v1/cart", "")
	want(w.do("DELETE", cartCodes+"/FIVE", ""), "SHIP?NOTHING_IN_SCOPE TEN?NOTHING_IN_SCOPE = 0.00 of 0.00") // codes outlive the lines
}

// The same over Connect.
func TestPromotionCodesOverConnect(t *testing.T) {
	w, _ := startShop(t)
	w.add("SKU-456", "2")
	c := w.client()
	res, err := c.ApplyPromotion(t.Context(), request(&cartv1.ApplyPromotionRequest{Code: "ten"}))
	if err != nil {
		t.Fatal(err)
	}
	cart := res.Msg
	if p := cart.GetPromotionsApplied(); len(p) != 1 || p[0].GetCode() != "TEN" || p[0].GetDiscount().GetMinorUnits() != 600 || p[0].GetTitle() != "Ten off" {
		t.Errorf("applied %v", p)
	}
	if cart.GetEstimatedTotal().GetMinorUnits() != 5398 || cart.GetSellers()[0].GetDiscount().GetMinorUnits() != 600 || res.Header().Get("ETag") == "" {
		t.Errorf("cart %v", cart)
	}
	read, err := c.GetCart(t.Context(), request(&cartv1.GetCartRequest{}))
	if err != nil || !proto.Equal(read.Msg, cart) {
		t.Errorf("read %v, %v", read.Msg, err)
	}
	x, err := c.ExplainCart(t.Context(), request(&cartv1.ExplainCartRequest{}))
	if f := x.Msg.GetFacts(); err != nil || len(f) != 1 || f[0].GetKind() != "code" || f[0].GetId() != "TEN" || f[0].GetWrites()[0].GetRegion() != "us-east" || f[0].GetWrites()[0].GetAtMs() == 0 {
		t.Errorf("explained %v, %v", f, err)
	}
	if res, err = c.RemovePromotion(t.Context(), request(&cartv1.RemovePromotionRequest{Code: "TEN"})); err != nil || len(res.Msg.GetPromotionsApplied()) != 0 {
		t.Errorf("removed: %v, %v", res.Msg, err)
	}
}

func TestBadPromotionCodes(t *testing.T) {
	w, _ := startShop(t)
	w.add("SKU-456", "1")
	before := w.digest()
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		code                     string
	}{
		{"unknown", "POST", cartCodes, `{"code":"NOPE"}`, 422, "PROMOTION_UNKNOWN"},
		{"ended", "POST", cartCodes, `{"code":"over"}`, 422, "PROMOTION_EXPIRED"},
		{"for another", "POST", cartCodes, `{"code":"FORTWO"}`, 422, "PROMOTION_NOT_ELIGIBLE"},
		{"missing", "POST", cartCodes, `{}`, 400, "MISSING_FIELD"},
		{"null", "POST", cartCodes, `{"code":null}`, 400, "MISSING_FIELD"},
		{"blank", "POST", cartCodes, `{"code":"  "}`, 400, "MISSING_FIELD"},
		{"number", "POST", cartCodes, `{"code":10}`, 400, "INVALID_FIELD"},
		{"characters", "POST", cartCodes, `{"code":"TEN%"}`, 400, "INVALID_FIELD"},
		{"too long", "POST", cartCodes, `{"code":"` + strings.Repeat("A", 33) + `"}`, 400, "INVALID_FIELD"},
		{"other field", "POST", cartCodes, `{"code":"TEN","x":1}`, 400, "UNKNOWN_FIELD"},
		{"no JSON", "POST", cartCodes, `TEN`, 400, "MALFORMED_JSON"},
		{"removed, bad", "DELETE", cartCodes + "/T%20N", "", 400, "INVALID_FIELD"},
		{"other method", "PUT", cartCodes, `{"code":"TEN"}`, 405, "METHOD_NOT_ALLOWED"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if r := w.do(c.method, c.path, c.body); r.status != c.status || r.code(t) != c.code {
				t.Errorf("%d %s, want %d %s", r.status, r.body, c.status, c.code)
			}
			if w.digest() != before {
				t.Error("the cart changed")
			}
		})
	}
	for code, want := range map[string]string{"": "MISSING_FIELD", "T N": "INVALID_FIELD", "NOPE": "PROMOTION_UNKNOWN"} {
		_, err := w.client().ApplyPromotion(t.Context(), request(&cartv1.ApplyPromotionRequest{Code: code}))
		if detailOf(t, err).GetCode() != want || w.digest() != before {
			t.Errorf("code %q: %v, want %s", code, err, want)
		}
	}
	w.set(func(r *fakeRegion) {
		r.badOutcome = &regionv1.Outcome{Code: regionv1.Outcome_CODE_TOO_MANY_CODES, Details: []string{"10"}}
	})
	if r := w.do("POST", cartCodes, `{"code":"TEN"}`); r.status != 422 || r.code(t) != "PROMOTION_TOO_MANY" || r.details(t)["max"] != "10" {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestPromotionIdempotency(t *testing.T) {
	w, _ := startShop(t)
	w.add("SKU-456", "2")
	w.giveCode("TEN", "Idempotency-Key", "k")
	if r := w.giveCode("ten", "Idempotency-Key", "k"); r.header.Get("Idempotent-Replayed") != "true" || codesIn(t, r) != "TEN:6.00 = 53.98 of 59.98" {
		t.Errorf("%v %s", r.header, r.body)
	}
	if r := w.do("POST", cartCodes, `{"code":"SHIP"}`, "Idempotency-Key", "k"); r.code(t) != "IDEMPOTENCY_KEY_REUSED" {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r := w.do("DELETE", cartCodes+"/TEN", "", "If-Match", `"00"`); r.code(t) != "VERSION_CONFLICT" {
		t.Errorf("%d %s", r.status, r.body)
	}
	// Once the edit is in, nothing may say that it is not.
	w.set(func(r *fakeRegion) { r.readErr = errors.New("the disk is gone") })
	if r := w.do("POST", cartCodes, `{"code":"SHIP"}`); r.code(t) != "OUTCOME_UNKNOWN" {
		t.Errorf("%d %s", r.status, r.body)
	}
}

// The cart is served whatever becomes of the promotion service.
func TestPromotionServiceFails(t *testing.T) {
	for name, fail := range map[string]func(*shop){
		"down": func(s *shop) { s.down.Store(true) }, "slow": func(s *shop) { s.slow.Store(true) },
		"short": func(s *shop) { s.short.Store(true) }, "another code": func(s *shop) { s.other.Store(true) },
		"senseless": func(s *shop) { s.senseless.Store(true) },
	} {
		for _, remembered := range []bool{false, true} {
			t.Run(fmt.Sprint(name, remembered), func(t *testing.T) {
				w, s := startShop(t, func(w *world) {
					w.cfg.PromotionTimeout = 20 * time.Millisecond
					if !remembered {
						w.cfg.PromotionOld = 0
					}
				})
				w.add("SKU-456", "2")
				w.giveCode("TEN")
				fail(s)
				for range 5 { // the breaker opens on the way
					r := w.do("GET", "/api/v1/cart", "")
					want := "TEN?NOT_KNOWN_NOW = 59.98 of 59.98"
					warning := "1 codes do not count until they are"
					if remembered {
						want, warning = "TEN:6.00 = 53.98 of 59.98", "1 codes count as they did a few minutes ago"
					}
					if got := codesIn(t, r); got != want || !strings.Contains(r.body, warning) || strings.Contains(r.body, "10.0.0.8") {
						t.Fatalf("%s in %s", got, r.body)
					}
				}
				before := w.digest()
				if r := w.do("POST", cartCodes, `{"code":"SHIP"}`); r.status != 503 || r.code(t) != "DEPENDENCY_DOWN" || w.digest() != before {
					t.Errorf("%d %s", r.status, r.body)
				}
				if r := w.do("DELETE", cartCodes+"/TEN", ""); r.status != 200 { // which needs no rule
					t.Errorf("%d %s", r.status, r.body)
				}
				for _, f := range []*atomic.Bool{&s.down, &s.slow, &s.short, &s.other, &s.senseless} {
					f.Store(false)
				}
				eventually(t, "the service is asked again", func() bool {
					return w.do("POST", cartCodes, `{"code":"SHIP"}`).status == 200
				})
			})
		}
	}
}

// Rules are remembered for a while, and a page with codes is never older than
// they are.
func TestPromotionCache(t *testing.T) {
	w, s := startShop(t, func(w *world) { w.cfg.PromotionFresh, w.cfg.PromotionOld = time.Hour, time.Hour })
	w.add("SKU-456", "2")
	w.giveCode("TEN")
	calls := s.calls.Load()
	for range 3 {
		w.do("GET", "/api/v1/cart", "")
	}
	if got := s.calls.Load(); got != calls {
		t.Errorf("%d calls for 3 reads", got-calls)
	}

	w, s = startShop(t)
	w.add("SKU-456", "2")
	w.giveCode("TEN")
	total := func() int64 { // in protobuf's encoding, which has pages of its own
		t.Helper()
		res, err := w.client().GetCart(t.Context(), request(&cartv1.GetCartRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		return res.Msg.GetEstimatedTotal().GetMinorUnits()
	}
	if got := total(); got != 5398 {
		t.Errorf("total %d", got)
	}
	if err := s.Put(&promotionv1.Rule{Code: "TEN", Effect: &promotionv1.Rule_Percent{Percent: &promotionv1.Percent{BasisPoints: 5000}}}); err != nil {
		t.Fatal(err)
	}
	if got := total(); got != 2999 {
		t.Errorf("after the rule changed: total %d", got)
	}
	s.Remove("TEN")
	if got := codesIn(t, w.do("GET", "/api/v1/cart", "")); got != "TEN?UNKNOWN = 59.98 of 59.98" {
		t.Error(got)
	}
}

func TestCustomersOfCodes(t *testing.T) {
	w, _ := startShop(t)
	guest := []string{"X-User-ID", "", "X-Guest-Session", "user-2"}
	w.add("SKU-456", "1", guest...)
	w.giveCode("MEMBERS", guest...) // who may sign in yet
	w.giveCode("FORTWO", guest...)
	if got := codesIn(t, w.do("GET", "/api/v1/cart", "", guest...)); got != "FORTWO?CUSTOMER MEMBERS?CUSTOMER = 29.99 of 29.99" {
		t.Error(got)
	}
	user := []string{"X-User-ID", "user-2"}
	w.add("SKU-456", "1", user...)
	w.giveCode("FORTWO", user...)
	if got := codesIn(t, w.giveCode("MEMBERS", user...)); got != "MEMBERS:1.50 FORTWO:0.28 = 28.21 of 29.99" {
		t.Error(got)
	}
}

// spentCodes are known to be spent; a limit that is raised is noted as "raise TEN3".
type spentCodes map[string]bool

func (s spentCodes) Spent(_ context.Context, r *promotionv1.Rule, cartID string) bool {
	return s[r.GetCode()+" "+cartID]
}

func (s spentCodes) Limit(_ context.Context, r *promotionv1.Rule) (bool, error) {
	s[fmt.Sprint("raise ", r.GetCode(), r.GetUsesMax())] = true
	return true, nil
}

func TestSpentCodes(t *testing.T) {
	// A code without limits is not asked about.
	w, _ := startShop(t, func(w *world) {
		w.cfg.PromotionUses = spentCodes{"FEW cart:user-123": true, "TEN cart:user-123": true}
	})
	w.add("SKU-456", "1")
	w.giveCode("TEN")
	if got := codesIn(t, w.giveCode("FEW")); got != "TEN:3.00 FEW?SPENT = 26.99 of 29.99" {
		t.Error(got)
	}
	other := []string{"X-User-ID", "user-2"}
	w.add("SKU-456", "1", other...)
	if got := codesIn(t, w.giveCode("FEW", other...)); got != "FEW:0.30 = 29.69 of 29.99" {
		t.Error(got)
	}
}

func TestNoPromotions(t *testing.T) {
	w := start(t)
	if r := w.do("POST", cartCodes, `{"code":"TEN"}`); r.status != 422 || r.code(t) != "PROMOTION_UNKNOWN" {
		t.Errorf("%d %s", r.status, r.body)
	}
}

// Three regions that hold the same cart show the same page: it was put together
// from edits in all of them, with saved lines, another currency and more codes
// than count.
func TestRegionsShowTheSameTotals(t *testing.T) {
	at := crdt.TimestampAt(1_700_000_000_000)
	var parts []*crdt.Cart
	for region := range crdt.RegionID(3) {
		cart := &crdt.Cart{}
		w := crdt.Writer{Replica: crdt.Replica{Region: region + 1, Incarnation: 1}, At: at.Next(at)}
		for n, seller := range []string{"seller-1", "seller-2", "retail"} {
			offer := crdt.Offer{Price: 1000 + int64(region)*7, Currency: "USD", AddedAt: at + crdt.Timestamp(region)}
			sku := fmt.Sprint("SKU-", n+int(region))
			if seller == "retail" {
				sku, offer.Currency, offer.AddedAt = "22423", "GBP", offer.AddedAt+1<<20
			}
			k := crdt.LineKey{Seller: seller, SKU: sku}
			cart = cart.Apply(cart.Add(w, k, uint32(region)+1, offer, false))
			if n == 1 && region == 1 {
				cart = cart.Apply(cart.SetPlacement(w, k, crdt.Saved))
			}
		}
		for n, code := range []string{"TEN", "FIVE", "SHIP", "MEMBERS", "GONE", "LATER"} {
			if n >= 3 {
				code += strings.Repeat("X", int(region)) // other ones in each region
			}
			w.At += 1 << 16
			cart = cart.Apply(cart.SetFact(w, crdt.FactCode, code, ""))
		}
		parts = append(parts, cart)
	}
	pages := map[string]bool{}
	for region, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 0, 2}} {
		w, _ := startShop(t, func(w *world) { w.region = newFakeRegion(crdt.RegionID(region + 1)) })
		for _, i := range order {
			w.region.join("cart:user-123", parts[i])
		}
		r := w.do("GET", "/api/v1/cart", "")
		v := r.json(t)
		applied, rejected := len(v["promotions_applied"].([]any)), len(v["promotions_rejected"].([]any))
		if applied < 3 || applied+rejected != 12 || strings.Count(r.body, "TOO_MANY") != 2 || len(v["saved_items"].([]any)) != 1 || !strings.Contains(r.body, "in no total") {
			t.Errorf("%d applied, %d rejected: %s", applied, rejected, r.body)
		}
		pages[r.body] = true
	}
	if len(pages) != 1 {
		t.Errorf("%d different pages of one cart", len(pages))
	}
}
