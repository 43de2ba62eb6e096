package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region"
)

// Each refusal has its status and code, says something, and changes nothing.
func TestRefusalsOverREST(t *testing.T) {
	w := start(t)
	w.add("SKU-456", "2")
	w.do("POST", cartItems, `{"sku_id":"SKU-456","quantity":1,"seller_id":"seller-2"}`)
	w.add("SKU-7", "990")
	w.do("POST", cartItems, `{"sku_id":"SKU-8","quantity":1,"options":{"size":"L"}}`)
	w.do("POST", cartItems, `{"sku_id":"SKU-8","quantity":1,"options":{"size":"M"}}`)
	w.add("SKU-9", "1", "Idempotency-Key", "used")
	big := `{"sku_id":"` + strings.Repeat("x", 70000) + `"}`
	long := strings.Repeat("k", 256)
	add := func(body string) [3]string { return [3]string{"POST", cartItems, body} }
	for _, c := range []struct {
		name    string
		call    [3]string
		headers []string
		status  int
		code    string
		says    string
	}{
		{"empty body", add(" "), nil, 400, "MALFORMED_JSON", "empty"},
		{"no JSON", add(`{"sku_id":`), nil, 400, "MALFORMED_JSON", "byte"},
		{"list", add(`[]`), nil, 400, "MALFORMED_JSON", "object"},
		{"bad syntax", add(`{"sku_id":"SKU-1" "quantity":1}`), nil, 400, "MALFORMED_JSON", "byte"},
		{"no end", add(`{"sku_id":"SKU-1"`), nil, 400, "MALFORMED_JSON", ""},
		{"two objects", add(`{"sku_id":"SKU-1","quantity":1}{}`), nil, 400, "MALFORMED_JSON", "more"},
		{"field twice", add(`{"sku_id":"SKU-1","quantity":1,"quantity":2}`), nil, 400, "MALFORMED_JSON", "twice"},
		{"not UTF-8", add("{\"sku_id\":\"\xff\",\"quantity\":1}"), nil, 400, "MALFORMED_JSON", "UTF-8"},
		{"unknown field", add(`{"sku_id":"SKU-1","quantity":1,"qty":2}`), nil, 400, "UNKNOWN_FIELD", "qty"},
		{"other case", add(`{"SKU_ID":"SKU-1","quantity":1}`), nil, 400, "UNKNOWN_FIELD", "SKU_ID"},
		{"no SKU", add(`{"quantity":1}`), nil, 400, "MISSING_FIELD", "sku_id"},
		{"null SKU", add(`{"sku_id":null,"quantity":1}`), nil, 400, "MISSING_FIELD", "sku_id"},
		{"no quantity", add(`{"sku_id":"SKU-1"}`), nil, 400, "MISSING_FIELD", "quantity"},
		{"SKU a number", add(`{"sku_id":5,"quantity":1}`), nil, 400, "INVALID_SKU", "string"},
		{"SKU with a slash", add(`{"sku_id":"a/b","quantity":1}`), nil, 400, "INVALID_SKU", "a/b"},
		{"SKU too long", add(`{"sku_id":"` + strings.Repeat("s", 65) + `","quantity":1}`), nil, 400, "INVALID_SKU", "64"},
		{"SKU not ASCII", add(`{"sku_id":"naïve","quantity":1}`), nil, 400, "INVALID_SKU", ""},
		{"seller with a slash", add(`{"sku_id":"SKU-1","quantity":1,"seller_id":"a/b"}`), nil, 400, "INVALID_FIELD", "seller_id"},
		{"seller a number", add(`{"sku_id":"SKU-1","quantity":1,"seller_id":1}`), nil, 400, "INVALID_FIELD", "seller_id"},
		{"quantity 0", add(`{"sku_id":"SKU-1","quantity":0}`), nil, 400, "INVALID_QUANTITY", "0"},
		{"quantity negative", add(`{"sku_id":"SKU-1","quantity":-1}`), nil, 400, "INVALID_QUANTITY", "-1"},
		{"quantity fraction", add(`{"sku_id":"SKU-1","quantity":1.5}`), nil, 400, "INVALID_QUANTITY", "1.5"},
		{"quantity huge", add(`{"sku_id":"SKU-1","quantity":4294967297}`), nil, 400, "INVALID_QUANTITY", ""},
		{"quantity enormous", add(`{"sku_id":"SKU-1","quantity":99999999999999999999999}`), nil, 400, "INVALID_QUANTITY", ""},
		{"quantity text", add(`{"sku_id":"SKU-1","quantity":"2"}`), nil, 400, "INVALID_QUANTITY", ""},
		{"quantity list", add(`{"sku_id":"SKU-1","quantity":[2]}`), nil, 400, "INVALID_QUANTITY", ""},
		{"quantity 1000", add(`{"sku_id":"SKU-1","quantity":1000}`), nil, 422, "QUANTITY_TOO_LARGE", "999"},
		{"sum over 999", add(`{"sku_id":"SKU-7","quantity":10}`), nil, 422, "QUANTITY_TOO_LARGE", "SKU-7"},
		{"options no object", add(`{"sku_id":"SKU-1","quantity":1,"options":[1]}`), nil, 400, "INVALID_FIELD", "options"},
		{"option number", add(`{"sku_id":"SKU-1","quantity":1,"options":{"a":1}}`), nil, 400, "INVALID_FIELD", "options"},
		{"option without name", add(`{"sku_id":"SKU-1","quantity":1,"options":{"":"x"}}`), nil, 400, "INVALID_FIELD", "option"},
		{"option control character", add(`{"sku_id":"SKU-1","quantity":1,"options":{"a":"\u0000"}}`), nil, 400, "INVALID_FIELD", "option"},
		{"option too long", add(`{"sku_id":"SKU-1","quantity":1,"options":{"a":"` + strings.Repeat("x", 257) + `"}}`), nil, 400, "INVALID_FIELD", "option"},
		{"options too long together", add(`{"sku_id":"SKU-1","quantity":1,"options":{"a":"` + strings.Repeat("ü", 120) + `","b":"` + strings.Repeat("ü", 120) + `"}}`), nil, 400, "INVALID_FIELD", "options"},
		{"too many options", add(`{"sku_id":"SKU-1","quantity":1,"options":{"a":"","b":"","c":"","d":"","e":"","f":"","g":"","h":"","i":"","j":"","k":""}}`), nil, 400, "INVALID_FIELD", "options"},
		{"price of a shopper", add(`{"sku_id":"SKU-1","quantity":1,"price":0.01}`), nil, 403, "FORBIDDEN", "price"},
		{"price too fine", add(`{"sku_id":"SKU-1","quantity":1,"price":0.001}`), []string{"X-Service-Scopes", "price"}, 400, "INVALID_FIELD", "0.001"},
		{"price negative", add(`{"sku_id":"SKU-1","quantity":1,"price":-1}`), []string{"X-Service-Scopes", "price"}, 400, "INVALID_FIELD", "-1"},
		{"price text", add(`{"sku_id":"SKU-1","quantity":1,"price":"1"}`), []string{"X-Service-Scopes", "price"}, 400, "INVALID_FIELD", "decimal"},
		{"price enormous", add(`{"sku_id":"SKU-1","quantity":1,"price":1e30}`), []string{"X-Service-Scopes", "price"}, 400, "INVALID_FIELD", "1e30"},
		{"price absurd", add(`{"sku_id":"SKU-1","quantity":1,"price":1e999}`), []string{"X-Service-Scopes", "price"}, 400, "INVALID_FIELD", "1e999"},
		{"price in words", add(`{"sku_id":"SKU-1","quantity":1,"price":1,"currency":"dollar"}`), []string{"X-Service-Scopes", "price"}, 400, "INVALID_FIELD", "dollar"},
		{"currency alone", add(`{"sku_id":"SKU-1","quantity":1,"currency":"USD"}`), []string{"X-Service-Scopes", "price"}, 400, "MISSING_FIELD", "price"},
		{"price in another currency", add(`{"sku_id":"SKU-1","quantity":1,"price":1,"currency":"EUR"}`), []string{"X-Service-Scopes", "price"}, 422, "CURRENCY_MISMATCH", "EUR"},
		{"unknown SKU", add(`{"sku_id":"NOPE","quantity":1}`), nil, 422, "UNKNOWN_SKU", "NOPE"},
		{"unknown seller", add(`{"sku_id":"SKU-1","quantity":1,"seller_id":"nobody"}`), nil, 422, "UNKNOWN_SKU", "nobody"},
		{"other currency", add(`{"sku_id":"10002","quantity":1}`), nil, 422, "CURRENCY_MISMATCH", "10002"},
		{"form", add(`a=b`), []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "UNSUPPORTED_MEDIA_TYPE", "application/json"},
		{"no type", add(`{}`), []string{"Content-Type", ""}, 415, "UNSUPPORTED_MEDIA_TYPE", ""},
		{"latin-1", add(`{}`), []string{"Content-Type", "application/json; charset=iso-8859-1"}, 415, "UNSUPPORTED_MEDIA_TYPE", ""},
		{"gzip", add(`{}`), []string{"Content-Encoding", "gzip"}, 415, "UNSUPPORTED_MEDIA_TYPE", "gzip"},
		{"large body", add(big), nil, 413, "BODY_TOO_LARGE", "65536"},
		{"key reused", add(`{"sku_id":"SKU-9","quantity":2}`), []string{"Idempotency-Key", "used"}, 422, "IDEMPOTENCY_KEY_REUSED", "used"},
		{"key too long", add(`{"sku_id":"SKU-1","quantity":1}`), []string{"Idempotency-Key", long}, 400, "INVALID_HEADER", "255"},
		{"key with a blank", add(`{"sku_id":"SKU-1","quantity":1}`), []string{"Idempotency-Key", "a b"}, 400, "INVALID_HEADER", "Idempotency-Key"},
		{"token garbage", add(`{"sku_id":"SKU-1","quantity":1}`), []string{"Cart-Token", "garbage!"}, 400, "INVALID_TOKEN", "Cart-Token"},
		{"If-Match too long", add(`{"sku_id":"SKU-1","quantity":1}`), []string{"If-Match", long}, 400, "INVALID_HEADER", "If-Match"},
		{"If-Match of nothing", add(`{"sku_id":"SKU-1","quantity":1}`), []string{"If-Match", `"nonsense"`}, 409, "VERSION_CONFLICT", "ETag"},
		{"If-Match of another", add(`{"sku_id":"SKU-1","quantity":1}`), []string{"If-Match", `"00000000000000000000000000000000"`}, 409, "VERSION_CONFLICT", "ETag"},
		{"consistency", [3]string{"GET", "/api/v1/cart", ""}, []string{"Cart-Consistency", "weak"}, 400, "INVALID_HEADER", "strong"},
		{"nobody", [3]string{"GET", "/api/v1/cart", ""}, []string{"X-User-ID", ""}, 401, "UNAUTHENTICATED", "X-User-ID"},
		{"long user", [3]string{"GET", "/api/v1/cart", ""}, []string{"X-User-ID", long}, 400, "INVALID_HEADER", "X-User-ID"},
		{"user with a blank", [3]string{"GET", "/api/v1/cart", ""}, []string{"X-User-ID", "a b"}, 400, "INVALID_HEADER", "X-User-ID"},
		{"long guest", [3]string{"GET", "/api/v1/cart", ""}, []string{"X-User-ID", "", "X-Guest-Session", long}, 400, "INVALID_HEADER", "X-Guest-Session"},
		{"service", [3]string{"GET", "/api/v1/cart", ""}, []string{"X-User-ID", "", "X-Service-Scopes", "price"}, 403, "FORBIDDEN", "service"},
		{"set absent line", [3]string{"PUT", cartItems + "/SKU-99", `{"quantity":1}`}, nil, 404, "LINE_NOT_FOUND", "SKU-99"},
		{"set absent seller", [3]string{"PUT", cartItems + "/SKU-456?seller_id=seller-9", `{"quantity":1}`}, nil, 404, "LINE_NOT_FOUND", "seller-9"},
		{"set ambiguous", [3]string{"PUT", cartItems + "/SKU-456", `{"quantity":1}`}, nil, 409, "AMBIGUOUS_LINE", "2 sellers"},
		{"set ambiguous options", [3]string{"PUT", cartItems + "/SKU-8", `{"quantity":1}`}, nil, 409, "AMBIGUOUS_LINE", "options"},
		{"remove ambiguous", [3]string{"DELETE", cartItems + "/SKU-456", ""}, nil, 409, "AMBIGUOUS_LINE", "seller_id"},
		{"set without quantity", [3]string{"PUT", cartItems + "/SKU-456", `{}`}, nil, 400, "MISSING_FIELD", "quantity"},
		{"set negative", [3]string{"PUT", cartItems + "/SKU-456", `{"quantity":-3}`}, nil, 400, "INVALID_QUANTITY", "-3"},
		{"set 1000", [3]string{"PUT", cartItems + "/SKU-7", `{"quantity":1000}`}, nil, 422, "QUANTITY_TOO_LARGE", "999"},
		{"set unknown field", [3]string{"PUT", cartItems + "/SKU-7", `{"quantity":1,"sku_id":"SKU-7"}`}, nil, 400, "UNKNOWN_FIELD", "sku_id"},
		{"options twice", [3]string{"PUT", cartItems + "/SKU-8?option.size=L", `{"quantity":2,"options":{"size":"L"}}`}, nil, 400, "INVALID_FIELD", "options"},
		{"escaped slash", [3]string{"DELETE", cartItems + "/a%2Fb", ""}, nil, 400, "INVALID_SKU", ""},
		{"unknown query", [3]string{"DELETE", cartItems + "/SKU-7?seller=x", ""}, nil, 400, "UNKNOWN_FIELD", "seller"},
		{"query twice", [3]string{"DELETE", cartItems + "/SKU-7?seller_id=x&seller_id=y", ""}, nil, 400, "INVALID_FIELD", "seller_id"},
		{"bad query", [3]string{"DELETE", cartItems + "/SKU-7?%zz", ""}, nil, 400, "INVALID_FIELD", "query"},
		{"empty batch", [3]string{"POST", "/api/v1/cart/batch", `{"edits":[]}`}, nil, 400, "MISSING_FIELD", "edits"},
		{"no batch", [3]string{"POST", "/api/v1/cart/batch", `{}`}, nil, 400, "MISSING_FIELD", "edits"},
		{"batch no list", [3]string{"POST", "/api/v1/cart/batch", `{"edits":{}}`}, nil, 400, "INVALID_FIELD", "edits"},
		{"batch too long", [3]string{"POST", "/api/v1/cart/batch", `{"edits":[` + strings.Repeat(`{"clear":{}},`, 100) + `{"clear":{}}]}`}, nil, 400, "INVALID_FIELD", "101"},
		{"batch of nothing", [3]string{"POST", "/api/v1/cart/batch", `{"edits":[{}]}`}, nil, 400, "MISSING_FIELD", "edits[0]"},
		{"batch of two in one", [3]string{"POST", "/api/v1/cart/batch", `{"edits":[{"clear":{},"remove":{"sku_id":"SKU-7"}}]}`}, nil, 400, "INVALID_FIELD", "edits[0]"},
		{"batch unknown", [3]string{"POST", "/api/v1/cart/batch", `{"edits":[{"clear":{"all":true}}]}`}, nil, 400, "UNKNOWN_FIELD", "all"},
		{"batch set without quantity", [3]string{"POST", "/api/v1/cart/batch", `{"edits":[{"set":{"sku_id":"SKU-7"}}]}`}, nil, 400, "MISSING_FIELD", "quantity"},
		{"batch remove without SKU", [3]string{"POST", "/api/v1/cart/batch", `{"edits":[{"remove":{}}]}`}, nil, 400, "MISSING_FIELD", "sku_id"},
		{"batch, second invalid", [3]string{"POST", "/api/v1/cart/batch", `{"edits":[{"remove":{"sku_id":"SKU-7"}},{"add":{"sku_id":"SKU-1","quantity":0}}]}`}, nil, 400, "INVALID_QUANTITY", "edits[1]"},
		{"batch, second unknown", [3]string{"POST", "/api/v1/cart/batch", `{"edits":[{"remove":{"sku_id":"SKU-7"}},{"add":{"sku_id":"NOPE","quantity":1}}]}`}, nil, 422, "UNKNOWN_SKU", "edits[1]"},
		{"batch, second refused", [3]string{"POST", "/api/v1/cart/batch", `{"edits":[{"remove":{"sku_id":"SKU-7"}},{"set":{"sku_id":"SKU-77","quantity":1}}]}`}, nil, 404, "LINE_NOT_FOUND", "edits[1]"},
		{"nothing there", [3]string{"GET", "/api/v1/carts", ""}, nil, 404, "NOT_FOUND", "/api/v1/carts"},
		{"no SKU in path", [3]string{"DELETE", cartItems + "/", ""}, nil, 404, "NOT_FOUND", ""},
		{"too deep", [3]string{"DELETE", cartItems + "/a/b", ""}, nil, 404, "NOT_FOUND", ""},
		{"nothing outside", [3]string{"GET", "/favicon.ico", ""}, nil, 404, "NOT_FOUND", "/favicon.ico"},
		{"method", [3]string{"PATCH", "/api/v1/cart", `{}`}, nil, 405, "METHOD_NOT_ALLOWED", "GET or DELETE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := w.digest()
			r := w.do(c.call[0], c.call[1], c.call[2], c.headers...)
			if r.status != c.status || r.code(t) != c.code {
				t.Fatalf("%d %s, want %d %s", r.status, r.body, c.status, c.code)
			}
			message := r.json(t)["error"].(map[string]any)["message"].(string)
			if message == "" || !strings.Contains(message, c.says) {
				t.Errorf("message %q does not say %q", message, c.says)
			}
			if w.digest() != before {
				t.Error("the cart has changed")
			}
			if got := w.lastCall().Code; string(got) != c.code {
				t.Errorf("event has code %q", got)
			}
		})
	}
	r := w.do("PUT", cartItems+"/SKU-456", `{"quantity":1}`)
	if s := fmt.Sprint(r.details(t)["sellers"]); s != "[seller-1 seller-2]" {
		t.Errorf("ambiguous line names sellers %s", s)
	}
	if r := w.do("PATCH", "/api/v1/cart", `{}`); r.header.Get("Allow") != "GET, DELETE" {
		t.Errorf("Allow: %q", r.header.Get("Allow"))
	}
}

// The current cart comes with a conflict, and its ETag then matches.
func TestVersionConflictCarriesTheCart(t *testing.T) {
	w := start(t)
	old := w.add("SKU-456", "2").header.Get("ETag")
	w.add("SKU-456", "1")
	r := w.do("PUT", cartItems+"/SKU-456", `{"quantity":9}`, "If-Match", old)
	if r.status != 409 || r.code(t) != "VERSION_CONFLICT" {
		t.Fatalf("%d %s", r.status, r.body)
	}
	cart := r.details(t)["cart"].(map[string]any)
	if fmt.Sprint(cart["item_count"]) != "3" || cart["cart_id"] != "cart:user-123" {
		t.Errorf("cart %v", cart)
	}
	if r.header.Get("Cart-Token") == "" {
		t.Error("no token of the current cart")
	}
	now := r.header.Get("ETag")
	if r := w.do("PUT", cartItems+"/SKU-456", `{"quantity":9}`, "If-Match", now); r.status != 200 {
		t.Errorf("with the current ETag: %d %s", r.status, r.body)
	}
	if r := w.do("PUT", cartItems+"/SKU-456", `{"quantity":8}`, "If-Match", "*"); r.status != 200 {
		t.Errorf("with *: %d %s", r.status, r.body)
	}
	_, err := w.client().AddItem(t.Context(), request(&cartv1.AddItemRequest{Line: &cartv1.LineRef{SkuId: "SKU-1"}, Quantity: 1}, "If-Match", old))
	if d := detailOf(t, err); connect.CodeOf(err) != connect.CodeAborted || d.GetCode() != "VERSION_CONFLICT" || d.GetCart().GetItemCount() != 8 {
		t.Errorf("Connect: %v, %v", err, d)
	}
}

// What the region answers, as clients see it.
func TestRegionErrors(t *testing.T) {
	quick := func(w *world) {
		w.cfg.RequestTimeout, w.cfg.TokenWait, w.cfg.CatalogTimeout = 100*time.Millisecond, 20*time.Millisecond, 50*time.Millisecond
	}
	for _, c := range []struct {
		name   string
		set    func(*fakeRegion)
		reads  bool // also reads meet it
		status int
		code   string
		retry  string
	}{
		{"no quorum", func(r *fakeRegion) {
			r.editErr, r.readErr = fmt.Errorf("shard 3: %w", region.ErrNoQuorum), region.ErrNoQuorum
		}, true, 503, "NO_QUORUM", "1"},
		{"closed", func(r *fakeRegion) { r.editErr, r.readErr = region.ErrClosed, region.ErrClosed }, true, 503, "NO_QUORUM", "1"},
		{"overloaded", func(r *fakeRegion) { r.editErr, r.readErr = region.ErrOverloaded, region.ErrOverloaded }, true, 429, "OVERLOADED", "1"},
		{"overloaded in time", func(r *fakeRegion) { r.editErr = errors.Join(region.ErrOverloaded, context.DeadlineExceeded) }, false, 429, "OVERLOADED", "1"},
		{"unknown", func(r *fakeRegion) { r.editErr = region.ErrOutcomeUnknown }, false, 504, "OUTCOME_UNKNOWN", ""},
		{"edit hangs", func(r *fakeRegion) { r.hangEdit = true }, false, 504, "OUTCOME_UNKNOWN", ""},
		{"canceled inside", func(r *fakeRegion) { r.editErr = context.Canceled }, false, 504, "OUTCOME_UNKNOWN", ""},
		{"bug", func(r *fakeRegion) {
			r.editErr, r.readErr = errors.New("open /secret/path: disk"), errors.New("/secret/path")
		}, true, 500, "INTERNAL", ""},
		{"panic", func(r *fakeRegion) { r.panicEdit = true }, false, 500, "INTERNAL", ""},
		{"unknown outcome code", func(r *fakeRegion) { r.badOutcome = &regionv1.Outcome{Code: 99} }, false, 500, "INTERNAL", ""},
		{"nothing to undo", func(r *fakeRegion) { r.badOutcome = &regionv1.Outcome{Code: regionv1.Outcome_CODE_NOTHING_TO_UNDO} }, false, 404, "LINE_NOT_FOUND", ""},
		{"outcome for streams", func(r *fakeRegion) { r.badOutcome = &regionv1.Outcome{Code: regionv1.Outcome_CODE_GAP} }, false, 500, "INTERNAL", ""},
		{"bad context", func(r *fakeRegion) { r.badOutcome = &regionv1.Outcome{Context: []byte{99}} }, false, 500, "INTERNAL", ""},
		{"bad digest", func(r *fakeRegion) { r.badOutcome = &regionv1.Outcome{Context: []byte{1, 0}} }, false, 500, "INTERNAL", ""},
		{"too many lines", func(r *fakeRegion) { r.linesMax = 0 }, false, 422, "TOO_MANY_LINES", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := start(t, quick)
			w.set(c.set)
			before := w.digest()
			calls := []reply{w.do("POST", cartItems, `{"sku_id":"SKU-1","quantity":1}`)}
			if c.reads {
				calls = append(calls, w.do("GET", "/api/v1/cart", ""), w.do("GET", "/api/v1/cart/count", ""), w.do("GET", "/api/v1/cart/explain", ""), w.do("GET", "/api/v1/cart/watch", ""))
			}
			for _, r := range calls {
				if r.status != c.status || r.code(t) != c.code || r.header.Get("Retry-After") != c.retry {
					t.Errorf("%d %v %s", r.status, r.header, r.body)
				}
				if strings.Contains(r.body, "secret") || strings.Contains(r.body, "goroutine") || strings.Contains(r.body, "shard 3") {
					t.Errorf("the inside leaves: %s", r.body)
				}
			}
			_, err := w.client().AddItem(t.Context(), request(&cartv1.AddItemRequest{Line: &cartv1.LineRef{SkuId: "SKU-1"}, Quantity: 1}))
			if d := detailOf(t, err); d.GetCode() != c.code || strings.Contains(err.Error(), "secret") {
				t.Errorf("Connect: %v, %v", err, d)
			}
			if w.digest() != before {
				t.Error("the cart has changed")
			}
			if c.code == "INTERNAL" {
				id := calls[0].details(t)["error_id"].(string)
				if !strings.Contains(w.log.String(), id) {
					t.Errorf("the log does not know error %s: %s", id, w.log.String())
				}
			}
		})
	}
}

func TestReadTimesOutAsUnavailable(t *testing.T) {
	w := start(t, func(w *world) {
		w.cfg.RequestTimeout, w.cfg.TokenWait, w.cfg.CatalogTimeout = 50*time.Millisecond, 20*time.Millisecond, 20*time.Millisecond
	})
	w.set(func(r *fakeRegion) { r.hangRead = true })
	if r := w.do("GET", "/api/v1/cart", ""); r.status != 503 || r.code(t) != "NO_QUORUM" {
		t.Errorf("%d %s", r.status, r.body)
	}
	// A client cannot ask for more time than the service gives.
	began := time.Now()
	_, err := w.client().GetCart(t.Context(), request(&cartv1.GetCartRequest{}, "Connect-Timeout-Ms", "600000"))
	if d := detailOf(t, err); d.GetCode() != "NO_QUORUM" || time.Since(began) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}

// Whoever passes calls on learns an error's code from a header, in every
// protocol, and in the time that it gives.
func TestErrorsAreNamedInAHeader(t *testing.T) {
	w := start(t)
	w.set(func(r *fakeRegion) { r.readErr = region.ErrNoQuorum })
	if r := w.do("GET", "/api/v1/cart", ""); r.header.Get("Cart-Error") != "NO_QUORUM" {
		t.Errorf("REST: %v", r.header)
	}
	for name, o := range map[string][]connect.ClientOption{"Connect": nil, "gRPC": {connect.WithGRPC()}, "gRPC-Web": {connect.WithGRPCWeb()}} {
		var got http.Header
		seen := connect.WithInterceptors(connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
			return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
				res, err := next(ctx, req)
				var e *connect.Error
				if errors.As(err, &e) {
					got = e.Meta()
				}
				return res, err
			}
		}))
		_, err := w.client(append(o, seen)...).GetCart(t.Context(), request(&cartv1.GetCartRequest{}))
		if err == nil || got.Get("Cart-Error") != "NO_QUORUM" {
			t.Errorf("%s: %v with %v", name, err, got)
		}
	}
	w.set(func(r *fakeRegion) { r.readErr = nil })
	if r := w.do("GET", "/api/v1/cart", ""); r.header.Get("Cart-Error") != "" {
		t.Errorf("an answer that is no error: %v", r.header)
	}
	w.set(func(r *fakeRegion) { r.hangRead = true })
	began := time.Now()
	r := w.do("GET", "/api/v1/cart", "", "Connect-Timeout-Ms", "50")
	if took := time.Since(began); r.code(t) != "NO_QUORUM" || took > time.Second {
		t.Errorf("%d %s after %v", r.status, r.body, took)
	}
}

// A panic's log has the stack, and the server goes on.
func TestPanicIsLoggedAndSurvived(t *testing.T) {
	w := start(t, func(w *world) {
		w.mounts = append(w.mounts, mountFunc("/boom", func(http.ResponseWriter, *http.Request) { panic("secret") }))
	})
	if r := w.do("GET", "/boom", ""); r.status != 500 || r.code(t) != "INTERNAL" || strings.Contains(r.body, "secret") {
		t.Errorf("%d %s", r.status, r.body)
	}
	if !strings.Contains(w.log.String(), "goroutine") {
		t.Error("no stack in the log")
	}
	if r := w.do("GET", "/api/v1/cart", ""); r.status != 200 {
		t.Errorf("afterwards: %d", r.status)
	}
}
