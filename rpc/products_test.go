package rpc_test

import (
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	catalogv1 "github.com/samecart/samecart/proto/catalog/v1"
	"github.com/samecart/samecart/rpc/catalog"
)

// ownCatalog gives a world a catalogue that it may edit.
func ownCatalog(w *world) {
	c, err := catalog.New()
	if err != nil {
		w.t.Fatal(err)
	}
	w.live = c
}

func TestPriceRule(t *testing.T) {
	w := start(t, ownCatalog)
	w.add("SKU-456", "2")
	show := func() string {
		v := w.do("GET", "/api/v1/cart", "").json(t)
		it := v["items"].([]any)[0].(map[string]any)
		return row(it["price_at_add"], it["current_price"], it["price"], it["price_changed"], v["subtotal"], v["estimated_total"], it["in_stock"])
	}
	w.live.SetPrice("SKU-456", "", 3500)
	if got := show(); got != "29.99 35.00 29.99 true 59.98 59.98 true" {
		t.Errorf("after a rise: %s", got)
	}
	w.live.SetPrice("SKU-456", "", 1000)
	w.live.SetStock("SKU-456", "", 0)
	if got := show(); got != "29.99 10.00 10.00 true 20.00 20.00 false" {
		t.Errorf("after a fall: %s", got)
	}
	// Stock never refuses an add, and the answer shows the price that counts.
	if r := w.add("SKU-456", "1"); !strings.Contains(r.body, `"price":10.00`) {
		t.Errorf("add: %s", r.body)
	}
	// Sold in another currency now: the old price stands.
	w.live.Put(&catalogv1.Product{SkuId: "SKU-456", SellerId: "seller-1", Name: "Mouse", Currency: "JPY", PriceMinorUnits: 1, Stock: 1})
	if got := show(); got != "29.99 <nil> 29.99 false 89.97 89.97 true" {
		t.Errorf("other currency: %s", got)
	}
	if b := w.do("GET", "/api/v1/cart", "").body; !strings.Contains(b, "now sold in JPY") {
		t.Errorf("no warning in %s", b)
	}
}

func TestDigitsOfCurrencies(t *testing.T) {
	for currency, want := range map[string]string{"JPY": `"price":1234,`, "BHD": `"price":1.234,`, "CLF": `"price":0.1234,`, "EUR": `"price":12.34,`} {
		w := start(t, ownCatalog)
		w.live.Put(&catalogv1.Product{SkuId: "X", SellerId: "s", Name: "X", Currency: currency, PriceMinorUnits: 1234, Stock: 1})
		if r := w.add("X", "1"); !strings.Contains(r.body, want) {
			t.Errorf("%s: %s", currency, r.body)
		}
	}
}

func TestServicePrice(t *testing.T) {
	w := start(t)
	add := func(body string) reply {
		return w.do("POST", cartItems, body, "X-Service-Scopes", "price,admin")
	}
	if r := add(`{"sku_id":"SKU-456","quantity":1,"price":12.5}`); r.status != 200 || !strings.Contains(r.body, `"price":12.50`) {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r := add(`{"sku_id":"SKU-456","quantity":1,"price":12.50e0,"currency":"USD"}`); r.status != 200 || !strings.Contains(r.body, `"price":12.50`) {
		t.Errorf("%d %s", r.status, r.body)
	}
	// While the catalogue is down a service that says all may still add.
	w.catalog.down.Store(true)
	if r := add(`{"sku_id":"ANY","seller_id":"s","quantity":1,"price":3,"currency":"USD"}`); r.status != 200 || !strings.Contains(r.body, `"price":3.00`) {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r := add(`{"sku_id":"ANY2","seller_id":"s","quantity":1,"price":3}`); r.code(t) != "DEPENDENCY_DOWN" {
		t.Errorf("%d %s", r.status, r.body)
	}
	_, err := w.client().AddItem(t.Context(), request(&cartv1.AddItemRequest{
		Line: &cartv1.LineRef{SkuId: "ANY", SellerId: "s"}, Quantity: 1, Price: &cartv1.Money{Currency: "USD", MinorUnits: 301},
	}, "X-Service-Scopes", "price"))
	if err != nil {
		t.Error(err)
	}
}

func TestCatalogDown(t *testing.T) {
	var opened []bool
	for name, fail := range map[string]func(*world){
		"refuses": func(w *world) { w.catalog.down.Store(true) },
		"hangs":   func(w *world) { w.catalog.slow.Store(true) },
		"lies":    func(w *world) { w.catalog.short.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, func(w *world) {
				w.cfg.CatalogTimeout, w.cfg.CatalogRest = 5*time.Millisecond, time.Hour
				w.cfg.CatalogFresh, w.cfg.CatalogOld = 0, 0 // nothing is remembered
				w.cfg.Events.Catalog = func(open bool) { opened = append(opened, open) }
			})
			w.add("SKU-456", "2")
			fail(w)
			before := w.digest()
			// The cart still renders, with what is known, and says what is not.
			v := w.do("GET", "/api/v1/cart", "").json(t)
			it := v["items"].([]any)[0].(map[string]any)
			if got := row(it["name"], it["quantity"], it["current_price"], it["in_stock"], it["price"], v["subtotal"]); got != "SKU-456 2 <nil> <nil> 29.99 59.98" {
				t.Errorf("item %s", got)
			}
			if warnings := row(v["warnings"]); !strings.Contains(warnings, "catalogue does not answer") {
				t.Errorf("warnings %s", warnings)
			}
			r := w.do("POST", cartItems, `{"sku_id":"SKU-1","quantity":1}`)
			if r.status != 503 || r.code(t) != "DEPENDENCY_DOWN" || r.header.Get("Retry-After") == "" || strings.Contains(r.body, "10.0.0.7") {
				t.Errorf("add: %d %s", r.status, r.body)
			}
			_, err := w.client().AddItem(t.Context(), request(&cartv1.AddItemRequest{Line: &cartv1.LineRef{SkuId: "SKU-1"}, Quantity: 1}))
			if d := detailOf(t, err); connect.CodeOf(err) != connect.CodeUnavailable || d.GetCode() != "DEPENDENCY_DOWN" {
				t.Errorf("Connect: %v", err)
			}
			if w.digest() != before {
				t.Error("the cart has changed")
			}
			// What needs no catalogue works on.
			if r := w.do("PUT", cartItems+"/SKU-456", `{"quantity":3}`); r.status != 200 || !strings.Contains(r.body, `"price":29.99`) {
				t.Errorf("set: %d %s", r.status, r.body)
			}
			// The breaker leaves a failing catalogue alone.
			calls := w.catalog.calls.Load()
			for range 5 {
				w.do("GET", "/api/v1/cart", "")
			}
			if got := w.catalog.calls.Load(); got != calls {
				t.Errorf("%d more calls with an open breaker", got-calls)
			}
			if len(opened) == 0 || !opened[len(opened)-1] {
				t.Errorf("no event of the breaker: %v", opened)
			}
		})
	}
}

func TestRememberedProductsStandIn(t *testing.T) {
	w := start(t, func(w *world) { w.cfg.CatalogRest = 10 * time.Millisecond })
	w.add("SKU-456", "2")
	w.catalog.down.Store(true)
	v := w.do("GET", "/api/v1/cart", "").json(t)
	it := v["items"].([]any)[0].(map[string]any)
	if row(it["name"], it["current_price"]) != "Wireless Mouse 29.99" || !strings.Contains(row(v["warnings"]), "minutes ago") {
		t.Errorf("%v", v)
	}
	w.do("POST", cartItems, `{"sku_id":"SKU-456","quantity":1,"seller_id":"seller-1"}`)
	w.catalog.down.Store(false)
	// After its rest the catalogue is asked again.
	eventually(t, "no more warnings", func() bool {
		return len(w.do("GET", "/api/v1/cart", "").json(t)["warnings"].([]any)) == 0
	})
}

func TestFreshProductsAreNotAskedForAgain(t *testing.T) {
	w := start(t, func(w *world) { w.cfg.CatalogFresh = time.Hour; w.cfg.CatalogOld = time.Hour })
	w.add("SKU-456", "1", "X-User-ID", "a")
	calls := w.catalog.calls.Load()
	for range 5 {
		w.add("SKU-456", "1")
		w.do("GET", "/api/v1/cart", "")
	}
	if got := w.catalog.calls.Load() - calls; got != 0 {
		t.Errorf("%d calls for what is fresh", got)
	}
}

func TestProductsThatAreGoneOrAbsurd(t *testing.T) {
	w := start(t, ownCatalog)
	w.live.Put(&catalogv1.Product{SkuId: "X", SellerId: "s", Name: "X", Currency: "USD", PriceMinorUnits: 100, Stock: 1})
	w.add("X", "1")
	w.live.Put(&catalogv1.Product{SkuId: "", SellerId: "s"})
	for _, p := range []*catalogv1.Product{
		{SkuId: "X", SellerId: "s", Currency: "USD", PriceMinorUnits: -1},
		{SkuId: "X", SellerId: "s", Currency: "usd", PriceMinorUnits: 1},
		{SkuId: "X", SellerId: "s", Currency: "USD", PriceMinorUnits: 1 << 60},
	} {
		w.live.Put(p)
		v := w.do("GET", "/api/v1/cart", "").json(t)
		if row(v["subtotal"]) != "1.00" || len(v["warnings"].([]any)) == 0 {
			t.Errorf("with %v: %v", p, v)
		}
	}
	gone := start(t)
	gone.region.join("cart:user-123", elsewhere(gone.region.cart(""), "GONE", 1, 500))
	v := gone.do("GET", "/api/v1/cart", "").json(t)
	it := v["items"].([]any)[0].(map[string]any)
	if row(it["in_stock"], it["price"], it["name"]) != "false 5.00 GONE" || !strings.Contains(row(v["warnings"]), "no longer") {
		t.Errorf("%v", v)
	}
}
