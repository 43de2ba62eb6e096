package rpc_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region"
)

// elsewhere makes an edit of user-123's cart that another region took, on top
// of what that region has seen.
func elsewhere(seen *crdt.Cart, sku string, quantity uint32, price int64) *crdt.Cart {
	w := crdt.Writer{Replica: crdt.Replica{Region: 2, Incarnation: 1}, At: crdt.TimestampAt(1_800_000_000_000)}
	return seen.Apply(seen.Add(w, crdt.LineKey{Seller: "seller-1", SKU: sku}, quantity, crdt.Offer{Price: price, Currency: "USD", AddedAt: w.At}, false))
}

func TestIdempotencyKey(t *testing.T) {
	w := start(t)
	first := w.add("SKU-456", "2", "Idempotency-Key", "k1")
	w.add("SKU-1", "1")
	again := w.add("SKU-456", "2", "Idempotency-Key", "k1")
	if again.header.Get("Idempotent-Replayed") != "true" || again.body != first.body || again.header.Get("ETag") != first.header.Get("ETag") {
		t.Errorf("replay: %v %s", again.header, again.body)
	}
	// The key belongs to the cart, not to everybody.
	if r := w.add("SKU-456", "2", "Idempotency-Key", "k1", "X-User-ID", "other"); r.header.Get("Idempotent-Replayed") != "" {
		t.Error("another shopper's key was taken for this one's")
	}
	// A new price in the catalogue does not make the retry another request.
	w = start(t, ownCatalog)
	w.add("SKU-456", "2", "Idempotency-Key", "k2")
	w.live.SetPrice("SKU-456", "", 100)
	if r := w.add("SKU-456", "2", "Idempotency-Key", "k2"); r.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("retry after a price change: %v", r)
	}
	// Equal requests are equal however they are written.
	scopes := []string{"Idempotency-Key", "k3", "X-Service-Scopes", "price"}
	w.do("POST", cartItems, `{"sku_id":"SKU-2","quantity":1,"price":5.50,"options":{"a":"1","b":"2"}}`, scopes...)
	if r := w.do("POST", cartItems, `{"options":{"b":"2","a":"1"},"quantity":1,"price":5.5,"sku_id":"SKU-2"}`, scopes...); r.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("the same request in other words: %d %s", r.status, r.body)
	}
	if r := w.do("POST", cartItems, `{"options":{"b":"2","a":"1"},"quantity":1,"price":5.6,"sku_id":"SKU-2"}`, scopes...); r.code(t) != "IDEMPOTENCY_KEY_REUSED" {
		t.Errorf("another price: %d %s", r.status, r.body)
	}
}

func TestCausalToken(t *testing.T) {
	w := start(t)
	token := w.add("SKU-456", "2").header.Get("Cart-Token")
	if r := w.do("GET", "/api/v1/cart", "", "Cart-Token", token); r.status != 200 || r.json(t)["stale"] != false {
		t.Errorf("own token: %d %s", r.status, r.body)
	}
	// A region that has not seen what the token names says so, in reads and in writes.
	behind := start(t)
	const lacking = "us-east=1"
	if r := behind.do("GET", "/api/v1/cart", "", "Cart-Token", token); r.json(t)["stale"] != true || r.header.Get("Cart-Missing") != lacking ||
		!strings.Contains(string(r.body), `"missing":[{"region":"us-east","edits":1}]`) {
		t.Errorf("read of a region that is behind: %s, missing %q", r.body, r.header.Get("Cart-Missing"))
	}
	if r := behind.do("GET", "/api/v1/cart/count", "", "Cart-Token", token); r.json(t)["stale"] != true || r.header.Get("Cart-Missing") != lacking {
		t.Errorf("count of a region that is behind: %s, missing %q", r.body, r.header.Get("Cart-Missing"))
	}
	if got, err := behind.client().GetCart(t.Context(), request(&cartv1.GetCartRequest{}, "Cart-Token", token)); err != nil || !got.Msg.Stale ||
		len(got.Msg.Missing) != 1 || got.Msg.Missing[0].Edits != 1 || got.Msg.CartId != "cart:user-123" {
		t.Errorf("page of a region that is behind: %v, %v", got, err)
	}
	// The page that others get is not this caller's.
	if r := behind.do("GET", "/api/v1/cart", ""); r.json(t)["stale"] != false || r.json(t)["missing"] != nil || r.header.Get("Cart-Missing") != "" {
		t.Errorf("read without a token: %s", r.body)
	}
	// The write has the very dot that the token names, in this test: two regions
	// of one name.
	if r := behind.add("SKU-1", "1", "Cart-Token", token); r.json(t)["stale"] != true {
		t.Errorf("write to a region that is behind: %s", r.body)
	}
	// It is ignored for another shopper's cart.
	if r := behind.add("SKU-1", "1", "Cart-Token", token, "X-User-ID", "other"); r.json(t)["stale"] != nil {
		t.Errorf("another cart's token: %s", r.body)
	}
	// When the wait itself takes too long, the write is made all the same.
	slow := start(t, func(w *world) { w.cfg.TokenWait = 10 * time.Millisecond })
	slow.set(func(r *fakeRegion) { r.hangRead = true })
	if r := slow.add("SKU-1", "1", "Cart-Token", token); r.json(t)["stale"] != true {
		t.Errorf("write after a long wait: %s", r.body)
	}
	// So it is when the caller waits for less than TokenWait.
	brief := start(t)
	brief.set(func(r *fakeRegion) { r.hangRead = true })
	res, err := brief.client().AddItem(t.Context(), request(&cartv1.AddItemRequest{Line: &cartv1.LineRef{SkuId: "SKU-1"}, Quantity: 1},
		"Cart-Token", token, "Connect-Timeout-Ms", "500"))
	if err != nil || !res.Msg.GetStale() {
		t.Errorf("write of a caller of little patience: %v, %v", res, err)
	}
	// A region that cannot even read refuses before it proposes.
	down := start(t)
	down.set(func(r *fakeRegion) { r.readErr = region.ErrNoQuorum })
	if r := down.do("POST", cartItems, `{"sku_id":"SKU-1","quantity":1}`, "Cart-Token", token); r.code(t) != "NO_QUORUM" || down.region.edits.Load() != 0 {
		t.Errorf("%d %s", r.status, r.body)
	}
	for _, bad := range []string{"x", "====", token[:len(token)-2], token + "AA", strings.Repeat("A", 20000), "AQ", "\xff"} {
		if r := w.do("GET", "/api/v1/cart", "", "Cart-Token", bad); r.status != 400 || r.code(t) != "INVALID_TOKEN" {
			t.Errorf("token %.20q: %d %s", bad, r.status, r.body)
		}
	}
}

func TestStaleViewIsMarked(t *testing.T) {
	w := start(t)
	w.set(func(r *fakeRegion) { r.stale = true })
	if r := w.do("GET", "/api/v1/cart", ""); r.json(t)["stale"] != true {
		t.Errorf("%s", r.body)
	}
	if r := w.do("GET", "/api/v1/cart/count", ""); r.json(t)["stale"] != true {
		t.Errorf("%s", r.body)
	}
}

func TestConflictsAreShown(t *testing.T) {
	w := start(t, ownCatalog)
	w.add("SKU-456", "2")
	// The other region has not seen this add: the larger quantity counts.
	w.live.SetPrice("SKU-456", "", 2000)
	w.region.join("cart:user-123", elsewhere(&crdt.Cart{}, "SKU-456", 5, 2500))
	v := w.do("GET", "/api/v1/cart", "").json(t)
	want := `[{"sku_id":"SKU-456","seller_id":"seller-1","field":"quantity","value":5,"values":[2,5]},{"sku_id":"SKU-456","seller_id":"seller-1","field":"price","value":"25.00 USD","values":["25.00 USD","29.99 USD"]}]`
	if got := asJSON(t, v["conflicts"]); !sameJSON(t, got, want) {
		t.Errorf("conflicts %s", got)
	}
	it := v["items"].([]any)[0].(map[string]any)
	if row(it["quantity"], it["price_at_add"], it["current_price"], it["price"], it["price_changed"], v["subtotal"]) != "5 25.00 20.00 20.00 true 100.00" {
		t.Errorf("item %v", it)
	}
	x := w.do("GET", "/api/v1/cart/explain", "").json(t)
	fields := x["lines"].([]any)[0].(map[string]any)["fields"].([]any)
	quantity := fields[1].(map[string]any)
	writes := quantity["writes"].([]any)
	if quantity["field"] != "quantity" || quantity["value"] != "5" || !strings.Contains(quantity["rule"].(string), "largest") || len(writes) != 2 {
		t.Fatalf("explained %v", quantity)
	}
	lost, won := writes[0].(map[string]any), writes[1].(map[string]any)
	if lost["region"] != "us-east" || lost["wins"] != false || lost["value"] != "2" || won["region"] != "eu-west" || won["wins"] != true {
		t.Errorf("writes %v", writes)
	}
	// Setting it again, having seen both, ends the conflict.
	w.do("PUT", cartItems+"/SKU-456", `{"quantity":3}`)
	v = w.do("GET", "/api/v1/cart", "").json(t)
	if c := v["conflicts"].([]any); len(c) != 1 || c[0].(map[string]any)["field"] != "price" {
		t.Errorf("after a set: %v", c)
	}
}

func TestBatchTellsWhatBecameOfEachEdit(t *testing.T) {
	w := start(t)
	r := w.do("POST", "/api/v1/cart/batch", `{"edits":[{"add":{"sku_id":"SKU-456","quantity":1}},{"set":{"sku_id":"SKU-456","quantity":2}},{"remove":{"sku_id":"SKU-456"}},{"clear":{}}]}`)
	line := func(item string) string { return `{"cart_id":"cart:user-123","item_count":0,"item":` + item + `}` }
	mouse := func(q string) string {
		return line(`{"sku_id":"SKU-456","quantity":` + q + `,"price":29.99,"seller_id":"seller-1"}`)
	}
	want := `{"cart_id":"cart:user-123","item_count":0,"results":[` + mouse("1") + "," + mouse("2") + "," + line("null") + "," + line("null") + `]}` + "\n"
	if r.status != 200 || r.body != want {
		t.Errorf("%d %s", r.status, r.body)
	}
}

// An add that met concurrent quantities says so at once.
func TestAnswersShowConcurrentQuantities(t *testing.T) {
	w := start(t)
	d := make([]byte, 16)
	w.set(func(r *fakeRegion) {
		r.badOutcome = &regionv1.Outcome{Context: crdt.CausalContext{}.Encode(nil), Digest: d, ItemCount: 5, Lines: []*regionv1.ChangedLine{{
			Line: &regionv1.LineKey{Sku: "SKU-456", Seller: "seller-1", Options: "size=L"}, Quantity: 5, Quantities: []uint32{10, 5, 2, 5}, Price: 1, Currency: "USD",
		}}}
	})
	r := w.add("SKU-456", "2")
	want := `{"cart_id":"cart:user-123","item_count":5,"item":{"sku_id":"SKU-456","quantity":5,"price":0.01,"seller_id":"seller-1","options":{"size":"L"}},` +
		`"conflicts":[{"sku_id":"SKU-456","seller_id":"seller-1","field":"quantity","value":10,"values":[2,5,10]}]}` + "\n"
	if r.body != want {
		t.Errorf("%s", r.body)
	}
}

func TestExplainCarriedSavedAndOps(t *testing.T) {
	w := start(t)
	w.add("SKU-1", "2", "Idempotency-Key", "k")
	key := crdt.LineKey{Seller: "seller-1", SKU: "SKU-1"}
	w.set(func(r *fakeRegion) {
		c := r.cart("cart:user-123")
		here := crdt.Writer{Replica: r.replica, At: crdt.TimestampAt(1_700_000_000_500)}
		there := crdt.Writer{Replica: crdt.Replica{Region: 7, Incarnation: 1}, At: here.At}
		saved := c.Apply(c.SetPlacement(here, key, crdt.Saved))
		saved = saved.Apply(saved.SetAttributes(here, key, "note=hello"))
		r.carts["cart:user-123"] = crdt.Join(saved, c.Apply(c.Remove(there, key)))
	})
	v := w.do("GET", "/api/v1/cart", "").json(t)
	if len(v["items"].([]any)) != 0 || len(v["saved_items"].([]any)) != 1 || row(v["item_count"]) != "0" || row(v["subtotal"]) != "0.00" {
		t.Errorf("cart %v", v)
	}
	b := w.do("GET", "/api/v1/cart/explain", "").body
	for _, want := range []string{`"field":"attributes","value":"note=hello"`, "a concurrent remove dropped", `"value":"saved"`, `"field":"presence"`} {
		if !strings.Contains(b, want) {
			t.Errorf("%s is not in %s", want, b)
		}
	}
	w.add("SKU-2", "1", "Idempotency-Key", "k4")
	if b := w.do("GET", "/api/v1/cart/explain", "").body; !strings.Contains(b, `"op_id":"`) || !strings.Contains(b, `"op_id":null`) {
		t.Errorf("no op id in %s", b)
	}
}

func TestQuantityIsClampedOnRead(t *testing.T) {
	w := start(t)
	w.region.join("cart:user-123", elsewhere(&crdt.Cart{}, "SKU-456", 5000, 2999))
	v := w.do("GET", "/api/v1/cart", "").json(t)
	it := v["items"].([]any)[0].(map[string]any)
	if row(it["quantity"], v["item_count"], v["subtotal"]) != "999 999 29960.01" {
		t.Errorf("cart %v", v)
	}
	if warnings := row(v["warnings"]); !strings.Contains(warnings, "5000") {
		t.Errorf("warnings %s", warnings)
	}
}

// events reads server-sent events.
type events struct {
	res  *http.Response
	scan *bufio.Scanner
}

func (w *world) watch(lastID string) *events {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	w.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", w.url+"/api/v1/cart/watch", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("X-User-ID", "user-123")
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	res, err := w.h1.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { res.Body.Close() })
	return &events{res, bufio.NewScanner(res.Body)}
}

// next returns the next block's lines by their names; a comment's is "".
func (e *events) next(t *testing.T) map[string]string {
	t.Helper()
	block := map[string]string{}
	for e.scan.Scan() {
		line := e.scan.Text()
		if line == "" {
			return block
		}
		name, value, _ := strings.Cut(line, ":")
		block[name] = strings.TrimPrefix(value, " ")
	}
	if len(block) > 0 {
		t.Fatalf("the stream ended inside %v", block)
	}
	return nil
}

func TestServerSentEvents(t *testing.T) {
	w := start(t, func(w *world) { w.cfg.Heartbeat = 20 * time.Millisecond })
	w.add("SKU-456", "2")
	e := w.watch("")
	if e.res.StatusCode != 200 || e.res.Header.Get("Content-Type") != "text/event-stream" || e.res.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v", e.res.StatusCode, e.res.Header)
	}
	if b := e.next(t); b["retry"] != "1000" {
		t.Fatalf("first block %v", b)
	}
	first := e.next(t)
	if first["id"] == "" || !strings.Contains(first["data"], `"item_count":2`) || first["event"] != "" {
		t.Fatalf("first event %v", first)
	}
	if b := e.next(t); b[""] != "still here" {
		t.Fatalf("no heartbeat but %v", b)
	}
	w.add("SKU-456", "1")
	second := e.next(t)
	for second["id"] == "" {
		second = e.next(t)
	}
	if !strings.Contains(second["data"], `"item_count":3`) {
		t.Fatalf("second event %v", second)
	}
	// Resuming at the first: the missed change comes. At the second: nothing but signs of life.
	e = w.watch(first["id"])
	e.next(t)
	if b := e.next(t); !strings.Contains(b["data"], `"item_count":3`) {
		t.Fatalf("resumed at the first: %v", b)
	}
	e = w.watch(second["id"])
	e.next(t)
	if b := e.next(t); b[""] != "still here" {
		t.Fatalf("resumed at the second: %v", b)
	}
	// Another shopper's resume token is no place in this cart.
	w.set(func(r *fakeRegion) { r.waitErr = region.ErrNoQuorum })
	w.add("SKU-456", "1")
	b := e.next(t)
	for b != nil && b["event"] == "" {
		b = e.next(t)
	}
	if b["event"] != "failed" || !strings.Contains(b["data"], "NO_QUORUM") {
		t.Fatalf("lost quorum: %v", b)
	}
	if b := e.next(t); b != nil {
		t.Fatalf("after the failure: %v", b)
	}
}

func TestWatchInARegionThatIsBehind(t *testing.T) {
	ahead, behind := start(t), start(t)
	ahead.add("SKU-456", "2")
	e := ahead.watch("")
	e.next(t)
	id := e.next(t)["id"]
	e = behind.watch(id)
	e.next(t)
	if b := e.next(t); !strings.Contains(b["data"], `"stale":true`) {
		t.Fatalf("%v", b)
	}
	// It catches up.
	ahead.region.mu.Lock()
	c := ahead.region.cart("cart:user-123")
	ahead.region.mu.Unlock()
	behind.region.join("cart:user-123", c)
	if b := e.next(t); !strings.Contains(b["data"], `"stale":false`) || !strings.Contains(b["data"], `"item_count":2`) {
		t.Fatalf("%v", b)
	}
	if r := behind.do("GET", "/api/v1/cart/watch", "", "Last-Event-ID", "nonsense"); r.code(t) != "INVALID_TOKEN" {
		t.Errorf("%d %s", r.status, r.body)
	}
}

// A stopped server does not wait for watchers.
func TestShutdownEndsStreams(t *testing.T) {
	w := start(t)
	e := w.watch("")
	e.next(t)
	w.handler.Drain()
	for b := e.next(t); b != nil; b = e.next(t) {
		if b["event"] == "failed" {
			t.Errorf("the end is no failure: %v", b)
		}
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y any
	if err := json.Unmarshal([]byte(a), &x); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(b), &y); err != nil {
		t.Fatal(err)
	}
	return asJSON(t, x) == asJSON(t, y)
}
