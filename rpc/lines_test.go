package rpc_test

import (
	"strings"
	"testing"

	"connectrpc.com/connect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
)

const savedItems = "/api/v1/cart/saved"

func skus(t *testing.T, r reply, field string) string {
	t.Helper()
	var out []string
	for _, it := range r.json(t)[field].([]any) {
		out = append(out, it.(map[string]any)["sku_id"].(string))
	}
	return strings.Join(out, " ")
}

func TestSaveAndMoveAnswerWithTheCart(t *testing.T) {
	w := start(t)
	w.add("SKU-456", "2")
	w.add("SKU-1", "1")
	r := w.do("POST", cartItems+"/SKU-456/save", "")
	if r.status != 200 || skus(t, r, "items") != "SKU-1" || skus(t, r, "saved_items") != "SKU-456" {
		t.Fatalf("save: %d %s", r.status, r.body)
	}
	if got := w.do("GET", "/api/v1/cart", ""); got.body != r.body || got.header.Get("ETag") != r.header.Get("ETag") || got.header.Get("Cart-Token") != r.header.Get("Cart-Token") {
		t.Errorf("save answered %s, the cart is %s", r.body, got.body)
	}
	if n := w.do("GET", "/api/v1/cart/count", ""); n.body != `{"item_count":1}`+"\n" {
		t.Errorf("count with a saved line: %s", n.body)
	}
	// Again, and what is in the cart already: 200, and no write.
	for _, path := range []string{cartItems + "/SKU-456/save", savedItems + "/SKU-1/move"} {
		if again := w.do("POST", path, ""); again.status != 200 || again.body != r.body || again.header.Get("ETag") != r.header.Get("ETag") {
			t.Errorf("%s: %d %s", path, again.status, again.body)
		}
	}
	if r := w.do("POST", savedItems+"/SKU-456/move?seller_id=seller-1", ""); r.status != 200 || skus(t, r, "items") != "SKU-456 SKU-1" || skus(t, r, "saved_items") != "" {
		t.Errorf("move: %d %s", r.status, r.body)
	}
	// A key makes it once.
	first := w.do("POST", cartItems+"/SKU-1/save", "", "Idempotency-Key", "k1")
	w.do("POST", savedItems+"/SKU-1/move", "")
	again := w.do("POST", cartItems+"/SKU-1/save", "", "Idempotency-Key", "k1")
	if first.status != 200 || again.status != 200 || again.header.Get("Idempotent-Replayed") != "true" || skus(t, again, "saved_items") != "" {
		t.Errorf("replay: %d %s %v", again.status, again.body, again.header)
	}
}

func TestSaveAndMoveThatAreRefused(t *testing.T) {
	w := start(t)
	w.add("SKU-456", "2")
	w.do("POST", cartItems, `{"sku_id":"SKU-456","quantity":1,"seller_id":"seller-2"}`)
	w.do("POST", cartItems, `{"sku_id":"SKU-7","quantity":1,"options":{"size":"L"}}`)
	w.do("POST", cartItems, `{"sku_id":"SKU-7","quantity":1,"options":{"size":"M"}}`)
	before := w.do("GET", "/api/v1/cart", "").body
	for _, c := range []struct {
		path   string
		status int
		code   string
	}{
		{cartItems + "/SKU-9/save", 404, "LINE_NOT_FOUND"},
		{savedItems + "/SKU-9/move", 404, "LINE_NOT_FOUND"},
		{cartItems + "/SKU-456/save", 409, "AMBIGUOUS_LINE"},
		{savedItems + "/SKU-456/move", 409, "AMBIGUOUS_LINE"},
		{cartItems + "/SKU-7/save", 409, "AMBIGUOUS_LINE"},
		{cartItems + "/SKU-456/save?seller_id=seller-3", 404, "LINE_NOT_FOUND"},
		{cartItems + "/SKU-456/save?seller_id=a%2Fb", 400, "INVALID_FIELD"},
		{cartItems + "/SKU-456/save?seller=seller-1", 400, "UNKNOWN_FIELD"},
		{cartItems + "/SKU%2F456/save", 400, "INVALID_SKU"},
	} {
		r := w.do("POST", c.path, "")
		if r.status != c.status || !strings.Contains(r.body, `"`+c.code+`"`) {
			t.Errorf("%s: %d %s, want %d %s", c.path, r.status, r.body, c.status, c.code)
		}
	}
	if after := w.do("GET", "/api/v1/cart", "").body; after != before {
		t.Errorf("refused calls changed the cart: %s", after)
	}
}

func TestAttributes(t *testing.T) {
	w := start(t)
	r := w.do("POST", cartItems, `{"sku_id":"SKU-456","quantity":2,"attributes":{"note":"Hello,\nAnna"}}`)
	want := `"item":{"sku_id":"SKU-456","quantity":2,"price":29.99,"seller_id":"seller-1","attributes":{"note":"Hello,\nAnna"}}`
	if r.status != 200 || !strings.Contains(r.body, want) {
		t.Fatalf("%d %s", r.status, r.body)
	}
	// No part of what the line is: another note is no other line.
	for _, step := range []struct{ method, path, body, want string }{
		{"POST", cartItems, `{"sku_id":"SKU-456","quantity":1,"attributes":{"note":"Hi"}}`, `"quantity":3,"price":29.99,"seller_id":"seller-1","attributes":{"note":"Hi"}`},
		{"POST", cartItems, `{"sku_id":"SKU-456","quantity":1}`, `"quantity":4,"price":29.99,"seller_id":"seller-1","attributes":{"note":"Hi"}`},
		{"PUT", cartItems + "/SKU-456", `{"quantity":5,"attributes":{"note":"Hey","wrap":"yes"}}`, `"quantity":5,"price":29.99,"seller_id":"seller-1","attributes":{"note":"Hey","wrap":"yes"}`},
		{"PUT", cartItems + "/SKU-456", `{"attributes":{"wrap":"no"}}`, `"quantity":5,"price":29.99,"seller_id":"seller-1","attributes":{"wrap":"no"}`},
		{"POST", "/api/v1/cart/batch", `{"edits":[{"save":{"sku_id":"SKU-456"}},{"describe":{"sku_id":"SKU-456","attributes":{"a":"b"}}},{"move":{"sku_id":"SKU-456"}}]}`, `"attributes":{"a":"b"}`},
		{"PUT", cartItems + "/SKU-456", `{"attributes":{}}`, `"quantity":5,"price":29.99,"seller_id":"seller-1"}`},
	} {
		if r := w.do(step.method, step.path, step.body); r.status != 200 || !strings.Contains(r.body, step.want) {
			t.Errorf("%s %s: %d %s", step.method, step.body, r.status, r.body)
		}
	}
	if items := w.do("GET", "/api/v1/cart", "").json(t)["items"].([]any); len(items) != 1 {
		t.Errorf("items %v", items)
	}
}

func TestAttributesThatAreRefused(t *testing.T) {
	w := start(t)
	w.add("SKU-456", "2")
	before := w.do("GET", "/api/v1/cart", "").body
	many := `{"a":"","b":"","c":"","d":"","e":"","f":"","g":"","h":"","i":"","j":"","k":""}`
	for _, c := range []struct{ method, path, body, code string }{
		{"POST", cartItems, `{"sku_id":"SKU-456","quantity":1,"attributes":[]}`, "INVALID_FIELD"},
		{"POST", cartItems, `{"sku_id":"SKU-456","quantity":1,"attributes":{"note":7}}`, "INVALID_FIELD"},
		{"POST", cartItems, `{"sku_id":"SKU-456","quantity":1,"attributes":` + many + `}`, "INVALID_FIELD"},
		{"PUT", cartItems + "/SKU-456", `{"quantity":1,"attributes":{"note":"` + strings.Repeat("x", 1025) + `"}}`, "INVALID_FIELD"},
		{"PUT", cartItems + "/SKU-456", `{"attributes":{"a":"` + strings.Repeat("x", 600) + `","b":"` + strings.Repeat("x", 600) + `"}}`, "INVALID_FIELD"},
		{"PUT", cartItems + "/SKU-456", `{"attributes":{"":"x"}}`, "INVALID_FIELD"},
		{"PUT", cartItems + "/SKU-456", `{"attributes":{"note":"\u0000"}}`, "INVALID_FIELD"},
		{"PUT", cartItems + "/SKU-456", `{"quantity":0,"attributes":{"note":"x"}}`, "INVALID_FIELD"},
		{"PUT", cartItems + "/SKU-456", `{"attributes":null}`, "MISSING_FIELD"},
		{"PUT", cartItems + "/SKU-9", `{"attributes":{"note":"x"}}`, "LINE_NOT_FOUND"},
		{"POST", "/api/v1/cart/batch", `{"edits":[{"save":{"sku_id":"SKU-456"}},{"describe":{"sku_id":"SKU-456"}}]}`, "MISSING_FIELD"},
		{"POST", "/api/v1/cart/batch", `{"edits":[{"save":{"sku_id":"SKU-456"}},{"move":{"sku_id":"SKU-9"}}]}`, "LINE_NOT_FOUND"},
		{"POST", "/api/v1/cart/batch", `{"edits":[{"save":{"sku_id":"SKU-456","quantity":1}}]}`, "UNKNOWN_FIELD"},
	} {
		if r := w.do(c.method, c.path, c.body); r.status < 400 || !strings.Contains(r.body, `"`+c.code+`"`) {
			t.Errorf("%s %.80s: %d %.200s, want %s", c.method, c.body, r.status, r.body, c.code)
		}
	}
	if after := w.do("GET", "/api/v1/cart", "").body; after != before {
		t.Errorf("refused calls changed the cart: %s", after)
	}
}

func TestLinesOverConnect(t *testing.T) {
	w := start(t)
	c := w.client()
	line := &cartv1.LineRef{SkuId: "SKU-456"}
	request := func(h interface{ Set(k, v string) }) { h.Set("X-User-Id", "user-123") }
	add := connect.NewRequest(&cartv1.AddItemRequest{Line: line, Quantity: 2, Attributes: map[string]string{"note": "hi"}})
	request(add.Header())
	a, err := c.AddItem(t.Context(), add)
	if err != nil || a.Msg.GetItem().GetAttributes()["note"] != "hi" {
		t.Fatalf("%v, %v", a, err)
	}
	save := connect.NewRequest(&cartv1.SaveItemRequest{Line: line})
	request(save.Header())
	s, err := c.SaveItem(t.Context(), save)
	if err != nil || len(s.Msg.GetSavedItems()) != 1 || s.Header().Get("Cart-Token") == "" {
		t.Fatalf("%v, %v", s, err)
	}
	describe := connect.NewRequest(&cartv1.DescribeItemRequest{Line: line})
	request(describe.Header())
	if d, err := c.DescribeItem(t.Context(), describe); err != nil || len(d.Msg.GetItem().GetAttributes()) != 0 {
		t.Fatalf("%v, %v", d, err)
	}
	move := connect.NewRequest(&cartv1.MoveItemRequest{Line: line})
	request(move.Header())
	m, err := c.MoveItem(t.Context(), move)
	if err != nil || len(m.Msg.GetItems()) != 1 {
		t.Fatalf("%v, %v", m, err)
	}
	move = connect.NewRequest(&cartv1.MoveItemRequest{Line: &cartv1.LineRef{}})
	request(move.Header())
	if _, err := c.MoveItem(t.Context(), move); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("move of no line: %v", err)
	}
}
