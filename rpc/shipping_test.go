package rpc_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	shippingv1 "github.com/samecart/samecart/proto/shipping/v1"
	"github.com/samecart/samecart/rpc"
	"github.com/samecart/samecart/rpc/promotion"
	"github.com/samecart/samecart/rpc/shipping"
)

const shippingPath = "/api/v1/cart/shipping"

// fakeShipping is a shipping service that can be down, slow or wrong.
type fakeShipping struct {
	*shipping.Service

	calls      atomic.Int64
	down, slow atomic.Bool
	wrong      atomic.Pointer[func(*shippingv1.EstimateResponse)]
}

func (s *fakeShipping) Estimate(ctx context.Context, req *connect.Request[shippingv1.EstimateRequest]) (*connect.Response[shippingv1.EstimateResponse], error) {
	s.calls.Add(1)
	switch {
	case s.down.Load():
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("10.0.0.9 refused"))
	case s.slow.Load():
		<-ctx.Done()
		return nil, ctx.Err()
	}
	res, err := s.Service.Estimate(ctx, req)
	if wrong := s.wrong.Load(); wrong != nil && err == nil {
		(*wrong)(res.Msg)
	}
	return res, err
}

// sending gives a world a shipping service; it is Tuesday, 2026-12-01.
func sending(s *fakeShipping) func(*world) {
	return func(w *world) {
		table, err := shipping.Default()
		if err != nil {
			w.t.Fatal(err)
		}
		s.Service = shipping.New(table, func() time.Time { return time.Date(2026, 12, 1, 9, 0, 0, 0, time.UTC) })
		w.cfg.Shipping.Service = s
		w.cfg.Shipping.Fresh, w.cfg.Shipping.Old = 0, 0 // nothing is remembered
	}
}

func TestShippingEstimates(t *testing.T) {
	s := &fakeShipping{}
	w := start(t, sending(s))
	w.add("SKU-456", "2")
	w.do("POST", cartItems, `{"sku_id":"SKU-456","quantity":1,"seller_id":"seller-9"}`)
	w.do("POST", cartItems, `{"sku_id":"SKU-7","quantity":1,"seller_id":"seller-4","options":{"size":"M"}}`)
	v := w.do("GET", shippingPath+"?country=gb&postal_code=SW1A+1AA", "").json(t)
	var got []string
	for _, it := range v["items"].([]any) {
		it := it.(map[string]any)
		got = append(got, row(it["sku_id"], it["seller_id"], it["cost"], it["currency"], it["delivery_estimate"], it["reason"], it["options"]))
	}
	want := "SKU-456 seller-1 14.95 USD 2026-12-10/2026-12-18 <nil> <nil>|" +
		"SKU-456 seller-9 <nil> <nil> <nil> seller-9 does not send to GB <nil>|" +
		"SKU-7 seller-4 26.95 USD 2026-12-10/2026-12-18 <nil> map[size:M]"
	if strings.Join(got, "|") != want || row(v["total"], v["currency"], v["cart_id"], v["stale"], v["warnings"]) != "41.90 USD cart:user-123 false []" {
		t.Errorf("%s\n%v", strings.Join(got, "|"), v)
	}
	for name, options := range protocols {
		res, err := w.client(options...).EstimateShipping(t.Context(), request(&cartv1.EstimateShippingRequest{Country: "US"}))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if m := res.Msg; len(m.GetItems()) != 3 || m.GetItems()[1].GetCost().GetMinorUnits() == 0 || m.GetTotal().GetCurrency() != "USD" || res.Header().Get("Cart-Token") == "" {
			t.Errorf("%s: %v", name, m)
		}
	}
	empty := w.do("GET", shippingPath+"?country=GB", "", "X-User-ID", "nobody").json(t)
	if row(empty["items"], empty["total"]) != "[] 0.00" {
		t.Errorf("empty cart: %v", empty)
	}
}

func TestShippingThatACodePays(t *testing.T) {
	s := &fakeShipping{}
	w, _ := startShop(t, sending(s), func(w *world) {
		rules, err := promotion.Read(strings.NewReader("promotions: [{code: SHIP, free_shipping: true, sku_ids: [SKU-456], minimum: 50.00 USD}]"))
		if err != nil {
			t.Fatal(err)
		}
		w.cfg.Promotions = rules
	})
	w.add("SKU-456", "1")
	w.do("POST", cartItems, `{"sku_id":"SKU-7","quantity":1,"seller_id":"seller-4"}`)
	w.giveCode("SHIP")
	costs := func() string {
		v := w.do("GET", shippingPath+"?country=GB", "").json(t)
		var got []any
		for _, it := range v["items"].([]any) {
			it := it.(map[string]any)
			got = append(got, it["cost"], it["free_shipping"], it["delivery_estimate"] != nil, "|")
		}
		return row(append(got, v["total"])...)
	}
	if got := costs(); got != "14.95 <nil> true | 26.95 <nil> true | 41.90" {
		t.Errorf("below the minimum: %s", got)
	}
	w.add("SKU-456", "1")
	if got := costs(); got != "0.00 true true | 26.95 <nil> true | 26.95" {
		t.Errorf("with the code: %s", got)
	}
}

func TestShippingRefusals(t *testing.T) {
	s := &fakeShipping{}
	w := start(t, sending(s))
	w.add("SKU-456", "2")
	before := w.digest()
	for query, want := range map[string]string{
		"":                            "MISSING_FIELD country",
		"?country=":                   "MISSING_FIELD country",
		"?country=GBR":                "INVALID_FIELD country",
		"?country=1X":                 "INVALID_FIELD country",
		"?country=%C3%A4%C3%B6":       "INVALID_FIELD country",
		"?country=ZZ":                 "INVALID_FIELD country",
		"?country=ZZ&postal_code=1":   "INVALID_FIELD country",
		"?country=GB&postal_code=a/b": "INVALID_FIELD postal_code",
		"?country=GB&country=DE":      "INVALID_FIELD country",
		"?country=GB&postcode=SW1":    "UNKNOWN_FIELD <nil>",
		"?country=%zz":                "INVALID_FIELD <nil>",
		"?country=GB&postal_code=" + strings.Repeat("1", 17): "INVALID_FIELD postal_code",
	} {
		r := w.do("GET", shippingPath+query, "")
		if got := row(r.code(t), r.details(t)["field"]); got != want || r.status != 400 {
			t.Errorf("%s: %d %s, want %s: %s", query, r.status, got, want, r.body)
		}
		if values, err := url.ParseQuery(strings.TrimPrefix(query, "?")); err == nil && len(values["country"]) == 1 {
			_, err := w.client().EstimateShipping(t.Context(), request(&cartv1.EstimateShippingRequest{Country: values.Get("country"), PostalCode: values.Get("postal_code")}))
			if d := detailOf(t, err); !strings.HasPrefix(want, "UNKNOWN") && (connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.HasPrefix(want, d.GetCode())) {
				t.Errorf("%s over Connect: %v", query, err)
			}
		}
	}
	if r := w.do("GET", shippingPath+"?country=ZZ", ""); !strings.Contains(r.body, "ZZ") {
		t.Errorf("the value is not named: %s", r.body)
	}
	if w.digest() != before {
		t.Error("the cart has changed")
	}
	// Destinations that are not known are answers: the breaker stays closed.
	if r := w.do("GET", shippingPath+"?country=GB", ""); r.status != 200 {
		t.Errorf("after refusals: %d %s", r.status, r.body)
	}
	none := start(t)
	none.add("SKU-1", "1")
	if r := none.do("GET", shippingPath+"?country=GB", ""); r.code(t) != "DEPENDENCY_DOWN" {
		t.Errorf("without a service: %d %s", r.status, r.body)
	}
}

func TestShippingDown(t *testing.T) {
	wrong := func(change func(*shippingv1.EstimateResponse)) func(*fakeShipping) {
		return func(s *fakeShipping) { s.wrong.Store(&change) }
	}
	for name, fail := range map[string]func(*fakeShipping){
		"refuses":     func(s *fakeShipping) { s.down.Store(true) },
		"hangs":       func(s *fakeShipping) { s.slow.Store(true) },
		"wrong count": wrong(func(r *shippingv1.EstimateResponse) { r.Estimates = nil }),
	} {
		t.Run(name, func(t *testing.T) {
			s := &fakeShipping{}
			w := start(t, sending(s), func(w *world) { w.cfg.Shipping.Timeout, w.cfg.Shipping.Rest = 5*time.Millisecond, time.Hour })
			w.add("SKU-456", "2")
			fail(s)
			before := w.digest()
			for range 5 {
				r := w.do("GET", shippingPath+"?country=GB", "")
				if r.status != 503 || r.code(t) != "DEPENDENCY_DOWN" || r.details(t)["dependency"] != "shipping" || r.header.Get("Retry-After") == "" || strings.Contains(r.body, "10.0.0") {
					t.Fatalf("%d %s", r.status, r.body)
				}
			}
			if n := s.calls.Load(); n != 3 {
				t.Errorf("%d calls; the breaker opens after 3", n)
			}
			_, err := w.client().EstimateShipping(t.Context(), request(&cartv1.EstimateShippingRequest{Country: "GB"}))
			if connect.CodeOf(err) != connect.CodeUnavailable || detailOf(t, err).GetCode() != "DEPENDENCY_DOWN" {
				t.Errorf("Connect: %v", err)
			}
			// The cart itself needs no shipping service.
			v := w.do("GET", "/api/v1/cart", "").json(t)
			if it := v["items"].([]any)[0].(map[string]any); row(it["delivery_estimate"], v["subtotal"], v["warnings"]) != "<nil> 59.98 []" {
				t.Errorf("cart %v", v)
			}
			if w.digest() != before {
				t.Error("the cart has changed")
			}
		})
	}
}

// An estimate that cannot be used is left out, and the answer says so.
func TestShippingAbsurdEstimates(t *testing.T) {
	s := &fakeShipping{}
	w := start(t, sending(s))
	w.add("SKU-456", "2")
	w.add("SKU-1", "1")
	for name, change := range map[string]func(*shippingv1.Estimate){
		"negative cost":     func(e *shippingv1.Estimate) { e.CostMinorUnits = -1 },
		"huge cost":         func(e *shippingv1.Estimate) { e.CostMinorUnits = 1 << 60 },
		"no currency":       func(e *shippingv1.Estimate) { e.Currency = "usd" },
		"no dates":          func(e *shippingv1.Estimate) { e.Earliest, e.Latest = "", "" },
		"no such day":       func(e *shippingv1.Estimate) { e.Latest = "2026-02-30" },
		"late before early": func(e *shippingv1.Estimate) { e.Latest = "2026-01-01" },
		"endless reason":    func(e *shippingv1.Estimate) { e.Refused = strings.Repeat("no ", 1000) },
	} {
		first := func(r *shippingv1.EstimateResponse) { change(r.GetEstimates()[0]) }
		s.wrong.Store(&first)
		v := w.do("GET", shippingPath+"?country=GB", "").json(t)
		it := v["items"].([]any)[0].(map[string]any)
		if row(it["cost"], it["delivery_estimate"], it["reason"], v["total"]) != "<nil> <nil> not known 26.95" || !strings.Contains(row(v["warnings"]), "SKU-456") {
			t.Errorf("%s: %v", name, v)
		}
	}
	pounds := func(r *shippingv1.EstimateResponse) { r.GetEstimates()[0].Currency = "GBP" }
	s.wrong.Store(&pounds)
	v := w.do("GET", shippingPath+"?country=GB", "").json(t)
	if it := v["items"].([]any)[0].(map[string]any); row(it["cost"], it["currency"], v["total"]) != "14.95 GBP 26.95" || !strings.Contains(row(v["warnings"]), "GBP") {
		t.Errorf("other currency: %v", v)
	}
}

func TestRememberedEstimatesStandIn(t *testing.T) {
	s := &fakeShipping{}
	w := start(t, sending(s), func(w *world) { w.cfg.Shipping.Old = time.Hour })
	w.add("SKU-456", "2")
	w.do("GET", shippingPath+"?country=GB", "")
	s.down.Store(true)
	v := w.do("GET", shippingPath+"?country=GB", "").json(t)
	if row(v["total"]) != "14.95" || !strings.Contains(row(v["warnings"]), "minutes ago") {
		t.Errorf("%v", v)
	}
	// Another destination, or another quantity, was never estimated.
	if r := w.do("GET", shippingPath+"?country=DE", ""); r.code(t) != "DEPENDENCY_DOWN" {
		t.Errorf("%d %s", r.status, r.body)
	}
	w.add("SKU-456", "1")
	if r := w.do("GET", shippingPath+"?country=GB", ""); r.code(t) != "DEPENDENCY_DOWN" {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestFreshEstimatesAreNotAskedForAgain(t *testing.T) {
	s := &fakeShipping{}
	w := start(t, sending(s), func(w *world) { w.cfg.Shipping.Fresh, w.cfg.Shipping.Old = time.Hour, time.Hour })
	w.add("SKU-456", "2")
	for range 5 {
		w.do("GET", shippingPath+"?country=GB", "")
	}
	if n := s.calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
}

// Without the catalogue the weight is a guess, and said to be one.
func TestShippingWithoutWeights(t *testing.T) {
	s := &fakeShipping{}
	w := start(t, sending(s), func(w *world) { w.cfg.CatalogOld = 0 })
	w.add("SKU-456", "2")
	w.catalog.down.Store(true)
	v := w.do("GET", shippingPath+"?country=GB", "").json(t)
	if row(v["total"]) != "26.95" || !strings.Contains(row(v["warnings"]), "guessed") { // a kilogram
		t.Errorf("%v", v)
	}
}

func TestShippingSettings(t *testing.T) {
	cfg := rpc.DefaultConfig("us-east")
	cfg.Shipping = rpc.ShippingConfig{Fresh: 2, Old: 1}
	_, err := rpc.NewHandler(cfg, newFakeRegion(1), sharedCatalog(), rpc.TrustedHeaders{}, nil)
	for _, field := range []string{"Shipping.Timeout", "Shipping.Old", "Shipping.Entries", "Shipping.Rest"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}
