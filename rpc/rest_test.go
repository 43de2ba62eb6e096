package rpc_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/samecart/samecart/crdt"
)

const cartItems = "/api/v1/cart/items"

func TestAddAnswersAsDocumented(t *testing.T) {
	w := start(t)
	r := w.do("POST", cartItems, `{"sku_id":"SKU-456","quantity":2,"seller_id":"seller-1"}`)
	want := `{"cart_id":"cart:user-123","item_count":2,"item":{"sku_id":"SKU-456","quantity":2,"price":29.99,"seller_id":"seller-1"}}` + "\n"
	if r.status != 200 || r.body != want {
		t.Fatalf("%d %s", r.status, r.body)
	}
	for name, want := range map[string]string{"Cart-Region": "us-east", "Cache-Control": "no-store", "Content-Type": "application/json"} {
		if got := r.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if r.header.Get("Cart-Token") == "" || len(r.header.Get("ETag")) != 34 || r.header.Get("Idempotent-Replayed") != "" {
		t.Errorf("headers %v", r.header)
	}
	if c := w.lastCall(); c.Procedure != "POST /api/v1/cart/items" || c.Code != "" || c.Duration <= 0 {
		t.Errorf("event %+v", c)
	}
}

func TestGetCartHasEveryField(t *testing.T) {
	w := start(t)
	w.add("SKU-456", "2")
	w.do("POST", cartItems, `{"sku_id":"SKU-456","quantity":1,"seller_id":"seller-2","options":{"size":"L","colour":"red"}}`)
	r := w.do("GET", "/api/v1/cart", "")
	want := `{"cart_id":"cart:user-123","items":[` +
		`{"sku_id":"SKU-456","name":"Wireless Mouse","quantity":2,"seller_id":"seller-1","seller":"Harbour Goods","options":{},"price":29.99,"price_at_add":29.99,"current_price":29.99,"price_changed":false,"in_stock":true,"image":null,"added_at":"2023-11-14T22:13:20.001Z","delivery_estimate":null},` +
		`{"sku_id":"SKU-456","name":"Wireless Mouse","quantity":1,"seller_id":"seller-2","seller":"Lantern Street","options":{"colour":"red","size":"L"},"price":P2,"price_at_add":P2,"current_price":P2,"price_changed":false,"in_stock":true,"image":null,"added_at":"2023-11-14T22:13:20.002Z","delivery_estimate":null}],` +
		`"saved_items":[],"sellers":[{"seller_id":"seller-1","subtotal":59.98,"item_count":2},{"seller_id":"seller-2","subtotal":P2,"item_count":1}],` +
		`"subtotal":SUM,"item_count":3,"currency":"USD","promotions_applied":[],"promotions_rejected":[],"estimated_total":SUM,"expires_at":null,"stale":false,"conflicts":[],"warnings":[]}` + "\n"
	items := r.json(t)["items"].([]any)
	p2 := items[1].(map[string]any)["price"].(json.Number).String()
	want = strings.ReplaceAll(want, "P2", p2)
	want = strings.ReplaceAll(want, "SUM", r.json(t)["subtotal"].(json.Number).String())
	if r.status != 200 || r.body != want {
		t.Fatalf("got  %s\nwant %s", r.body, want)
	}
}

func TestUnknownCartIsEmpty(t *testing.T) {
	w := start(t)
	r := w.do("GET", "/api/v1/cart", "")
	want := `{"cart_id":"cart:user-123","items":[],"saved_items":[],"sellers":[],"subtotal":0.00,"item_count":0,"currency":"","promotions_applied":[],"promotions_rejected":[],"estimated_total":0.00,"expires_at":null,"stale":false,"conflicts":[],"warnings":[]}` + "\n"
	if r.status != 200 || r.body != want {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if r := w.do("GET", "/api/v1/cart/count", ""); r.body != `{"item_count":0}`+"\n" {
		t.Errorf("count: %s", r.body)
	}
	if r := w.do("GET", "/api/v1/cart/explain", ""); r.body != `{"cart_id":"cart:user-123","context":"{}","lines":[]}`+"\n" {
		t.Errorf("explain: %s", r.body)
	}
}

func TestSetRemoveClear(t *testing.T) {
	w := start(t)
	w.add("SKU-456", "2")
	w.add("SKU-1", "1")
	for _, step := range []struct{ method, path, body, want string }{
		{"PUT", cartItems + "/SKU-456", `{"quantity":3}`, `{"cart_id":"cart:user-123","item_count":4,"item":{"sku_id":"SKU-456","quantity":3,"price":29.99,"seller_id":"seller-1"}}`},
		{"PUT", cartItems + "/SKU-456?seller_id=seller-1", `{"quantity":4}`, `{"cart_id":"cart:user-123","item_count":5,"item":{"sku_id":"SKU-456","quantity":4,"price":29.99,"seller_id":"seller-1"}}`},
		{"PUT", cartItems + "/SKU-456", `{"quantity":0}`, `{"cart_id":"cart:user-123","item_count":1,"item":null}`},
		{"PUT", cartItems + "/SKU-456", `{"quantity":0}`, `{"cart_id":"cart:user-123","item_count":1,"item":null}`},
		{"DELETE", cartItems + "/SKU-456", "", `{"cart_id":"cart:user-123","item_count":1}`},
		{"DELETE", cartItems + "/NOPE?seller_id=nobody", "", `{"cart_id":"cart:user-123","item_count":1}`},
		{"DELETE", cartItems + "/SKU-1", "", `{"cart_id":"cart:user-123","item_count":0}`},
		{"DELETE", "/api/v1/cart", "", `{"cart_id":"cart:user-123","item_count":0}`},
	} {
		r := w.do(step.method, step.path, step.body)
		if r.status != 200 || r.body != step.want+"\n" {
			t.Errorf("%s %s: %d %s", step.method, step.path, r.status, r.body)
		}
	}
	w.add("SKU-1", "7")
	if r := w.do("DELETE", "/api/v1/cart", ""); r.body != `{"cart_id":"cart:user-123","item_count":0}`+"\n" {
		t.Errorf("clear: %s", r.body)
	}
	if got := w.do("GET", "/api/v1/cart", "").json(t)["items"].([]any); len(got) != 0 {
		t.Errorf("items after clear: %v", got)
	}
}

func TestJoinedCurrencies(t *testing.T) {
	w := start(t)
	w.add("SKU-456", "2")
	other := &crdt.Cart{}
	wr := crdt.Writer{Replica: crdt.Replica{Region: 2, Incarnation: 1}, At: crdt.TimestampAt(1_800_000_000_000)}
	other = other.Apply(other.Add(wr, crdt.LineKey{Seller: "retail", SKU: "10002"}, 3, crdt.Offer{Price: 85, Currency: "GBP", AddedAt: wr.At}, false))
	w.region.join("cart:user-123", other)
	v := w.do("GET", "/api/v1/cart", "").json(t)
	if v["currency"] != "USD" || v["subtotal"].(json.Number) != "59.98" || v["item_count"].(json.Number) != "5" {
		t.Errorf("cart %v", v)
	}
	if warnings := v["warnings"].([]any); len(warnings) != 1 || !strings.Contains(warnings[0].(string), "GBP") {
		t.Errorf("warnings %v", warnings)
	}
	if sellers := v["sellers"].([]any); len(sellers) != 2 || sellers[0].(map[string]any)["subtotal"].(json.Number) != "0.00" {
		t.Errorf("sellers %v", sellers)
	}
}
