package rpc_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"google.golang.org/protobuf/encoding/protojson"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
	"github.com/samecart/samecart/rpc"
)

// request makes a request of user-123, unless the headers name somebody.
func request[T any](msg *T, headers ...string) *connect.Request[T] {
	req := connect.NewRequest(msg)
	req.Header().Set("X-User-ID", "user-123")
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] == "" {
			req.Header().Del(headers[i])
		} else {
			req.Header().Set(headers[i], headers[i+1])
		}
	}
	return req
}

// detailOf returns the API's detail of an error, empty when it has none.
func detailOf(t testing.TB, err error) *cartv1.ErrorDetail {
	t.Helper()
	var e *connect.Error
	if errors.As(err, &e) {
		for _, d := range e.Details() {
			if v, err := d.Value(); err == nil {
				if out, ok := v.(*cartv1.ErrorDetail); ok {
					return out
				}
			}
		}
	}
	return &cartv1.ErrorDetail{}
}

func mountFunc(pattern string, f http.HandlerFunc) rpc.Mount {
	return rpc.Mount{Pattern: pattern, Handler: f, Public: true}
}

var protocols = map[string][]connect.ClientOption{
	"connect binary": nil,
	"connect JSON":   {connect.WithProtoJSON()},
	"connect GET":    {connect.WithHTTPGet()},
	"gRPC":           {connect.WithGRPC()},
	"gRPC-Web":       {connect.WithGRPCWeb()},
	"compressed":     {connect.WithSendGzip()},
}

// Every call means the same on every protocol.
func TestEveryProtocol(t *testing.T) {
	for name, options := range protocols {
		t.Run(name, func(t *testing.T) {
			w := start(t)
			c, ctx := w.client(options...), t.Context()
			line := &cartv1.LineRef{SkuId: "SKU-456"}
			add, err := c.AddItem(ctx, request(&cartv1.AddItemRequest{Line: line, Quantity: 2}, "Idempotency-Key", "k1"))
			if err != nil {
				t.Fatal(err)
			}
			if it := add.Msg.GetItem(); it.GetQuantity() != 2 || it.GetPrice().GetMinorUnits() != 2999 || it.GetName() != "Wireless Mouse" || add.Msg.GetCartId() != "cart:user-123" {
				t.Errorf("add: %v", add.Msg)
			}
			again, err := c.AddItem(ctx, request(&cartv1.AddItemRequest{Line: line, Quantity: 2}, "Idempotency-Key", "k1"))
			if err != nil || again.Header().Get("Idempotent-Replayed") != "true" || again.Msg.GetItemCount() != 2 {
				t.Errorf("replay: %v, %v", again, err)
			}
			set, err := c.SetQuantity(ctx, request(&cartv1.SetQuantityRequest{Line: line, Quantity: 5}))
			if err != nil || set.Msg.GetItem().GetQuantity() != 5 || set.Header().Get("ETag") == "" || set.Header().Get("Cart-Region") != "us-east" {
				t.Errorf("set: %v, %v", set, err)
			}
			batch, err := c.BatchEdit(ctx, request(&cartv1.BatchEditRequest{Edits: []*cartv1.Edit{
				{Edit: &cartv1.Edit_Add{Add: &cartv1.AddItemRequest{Line: &cartv1.LineRef{SkuId: "SKU-1"}, Quantity: 1}}},
				{Edit: &cartv1.Edit_Set{Set: &cartv1.SetQuantityRequest{Line: line, Quantity: 1}}},
				{Edit: &cartv1.Edit_Remove{Remove: &cartv1.RemoveItemRequest{Line: &cartv1.LineRef{SkuId: "SKU-1"}}}},
			}}))
			if err != nil || batch.Msg.GetItemCount() != 1 || len(batch.Msg.GetResults()) != 3 || batch.Msg.GetResults()[2].GetItem() != nil || batch.Msg.GetResults()[1].GetItem().GetQuantity() != 1 {
				t.Errorf("batch: %v, %v", batch, err)
			}
			count, err := c.GetCount(ctx, request(&cartv1.GetCountRequest{}))
			if err != nil || count.Msg.GetItemCount() != 1 {
				t.Errorf("count: %v, %v", count, err)
			}
			cart, err := c.GetCart(ctx, request(&cartv1.GetCartRequest{}, "Cart-Consistency", "strong"))
			if err != nil || len(cart.Msg.GetItems()) != 1 || cart.Msg.GetSubtotal().GetMinorUnits() != 2999 || cart.Header().Get("Cart-Token") == "" {
				t.Errorf("cart: %v, %v", cart, err)
			}
			explained, err := c.ExplainCart(ctx, request(&cartv1.ExplainCartRequest{}))
			if err != nil || len(explained.Msg.GetLines()) != 1 {
				t.Errorf("explain: %v, %v", explained, err)
			}
			removed, err := c.RemoveItem(ctx, request(&cartv1.RemoveItemRequest{Line: line}))
			if err != nil || removed.Msg.GetItemCount() != 0 {
				t.Errorf("remove: %v, %v", removed, err)
			}
			if _, err := c.ClearCart(ctx, request(&cartv1.ClearCartRequest{})); err != nil {
				t.Errorf("clear: %v", err)
			}
			before := w.digest()
			_, err = c.AddItem(ctx, request(&cartv1.AddItemRequest{Line: &cartv1.LineRef{SkuId: "NOPE"}, Quantity: 1}))
			if d := detailOf(t, err); connect.CodeOf(err) != connect.CodeFailedPrecondition || d.GetCode() != "UNKNOWN_SKU" || d.GetDetails()["sku_id"] != "NOPE" {
				t.Errorf("unknown SKU: %v, %v", err, d)
			}
			_, err = c.AddItem(ctx, request(&cartv1.AddItemRequest{Line: line, Quantity: 1}, "X-User-ID", ""))
			if d := detailOf(t, err); connect.CodeOf(err) != connect.CodeUnauthenticated || d.GetCode() != "UNAUTHENTICATED" {
				t.Errorf("nobody: %v, %v", err, d)
			}
			if w.digest() != before {
				t.Error("a refused call changed the cart")
			}
		})
	}
}

func TestRefusalsOverConnect(t *testing.T) {
	w := start(t)
	w.add("SKU-7", "1")
	c, ctx := w.client(), t.Context()
	add := func(l *cartv1.LineRef, q uint32, p *cartv1.Money, headers ...string) error {
		_, err := c.AddItem(ctx, request(&cartv1.AddItemRequest{Line: l, Quantity: q, Price: p}, headers...))
		return err
	}
	sku := &cartv1.LineRef{SkuId: "SKU-1"}
	before := w.digest()
	for name, check := range map[string]struct {
		err  error
		code string
		wire connect.Code
	}{
		"no line":           {add(nil, 1, nil), "MISSING_FIELD", connect.CodeInvalidArgument},
		"bad SKU":           {add(&cartv1.LineRef{SkuId: "a/b"}, 1, nil), "INVALID_SKU", connect.CodeInvalidArgument},
		"quantity 0":        {add(sku, 0, nil), "INVALID_QUANTITY", connect.CodeInvalidArgument},
		"quantity 1000":     {add(sku, 1000, nil), "QUANTITY_TOO_LARGE", connect.CodeFailedPrecondition},
		"price":             {add(sku, 1, &cartv1.Money{Currency: "USD", MinorUnits: 1}), "FORBIDDEN", connect.CodePermissionDenied},
		"price, currency":   {add(sku, 1, &cartv1.Money{MinorUnits: 1}, "X-Service-Scopes", "price"), "INVALID_FIELD", connect.CodeInvalidArgument},
		"price, negative":   {add(sku, 1, &cartv1.Money{Currency: "USD", MinorUnits: -1}, "X-Service-Scopes", "price"), "INVALID_FIELD", connect.CodeInvalidArgument},
		"token":             {add(sku, 1, nil, "Cart-Token", "AAAA"), "INVALID_TOKEN", connect.CodeInvalidArgument},
		"key":               {add(sku, 1, nil, "Idempotency-Key", "a b"), "INVALID_HEADER", connect.CodeInvalidArgument},
		"service":           {add(sku, 1, nil, "X-User-ID", "", "X-Service-Scopes", "price"), "FORBIDDEN", connect.CodePermissionDenied},
		"large":             {add(&cartv1.LineRef{SkuId: strings.Repeat("x", 70000)}, 1, nil), "BODY_TOO_LARGE", connect.CodeInvalidArgument},
		"batch of nothing":  {batchErr(c, ctx), "MISSING_FIELD", connect.CodeInvalidArgument},
		"batch of no edit":  {batchErr(c, ctx, &cartv1.Edit{}), "MISSING_FIELD", connect.CodeInvalidArgument},
		"batch, bad edit":   {batchErr(c, ctx, &cartv1.Edit{Edit: &cartv1.Edit_Clear{Clear: &cartv1.ClearCartRequest{}}}, &cartv1.Edit{Edit: &cartv1.Edit_Add{Add: &cartv1.AddItemRequest{}}}), "MISSING_FIELD", connect.CodeInvalidArgument},
		"watch, bad resume": {watchErr(c, ctx, "nonsense"), "INVALID_TOKEN", connect.CodeInvalidArgument},
	} {
		d := detailOf(t, check.err)
		if connect.CodeOf(check.err) != check.wire || d.GetCode() != check.code {
			t.Errorf("%s: %v, %v", name, check.err, d)
		}
	}
	if w.digest() != before {
		t.Error("a refused call changed the cart")
	}
}

func batchErr(c cartv1connect.CartServiceClient, ctx context.Context, edits ...*cartv1.Edit) error {
	_, err := c.BatchEdit(ctx, request(&cartv1.BatchEditRequest{Edits: edits}))
	return err
}

func watchErr(c cartv1connect.CartServiceClient, ctx context.Context, resume string) error {
	s, err := c.WatchCart(ctx, request(&cartv1.WatchCartRequest{Resume: resume}))
	if err != nil {
		return err
	}
	s.Receive()
	return errors.Join(s.Err(), s.Close())
}

// Bodies that are no message get our codes too, not the library's alone.
func TestMalformedConnectBodies(t *testing.T) {
	w := start(t)
	before := w.digest()
	for _, c := range []struct{ kind, body, code string }{
		{"application/json", `{"line":{"skuId":"SKU-1"},"quantity":`, "MALFORMED_JSON"},
		{"application/json", `{"line":{"skuId":"SKU-1"},"qty":1}`, "UNKNOWN_FIELD"},
		{"application/json", `{"line":{"skuId":"SKU-1"},"quantity":-1}`, "INVALID_QUANTITY"},
		{"application/json", `{"line":{"skuId":"SKU-1"},"quantity":1.5}`, "INVALID_QUANTITY"},
		{"application/json", `{"line":{"skuId":"SKU-1"},"quantity":1e99}`, "INVALID_QUANTITY"},
		{"application/json", "{\"line\":{\"skuId\":\"\xff\"}}", "MALFORMED_JSON"},
		{"application/json", `{"line":{"skuId":5}}`, "MALFORMED_JSON"},
		{"application/proto", "\x0a\xff", "MALFORMED_JSON"},
		{"application/proto", "\x0a\x03\x0a\x01\xff", "MALFORMED_JSON"},
	} {
		r := w.do("POST", cartv1connect.CartServiceAddItemProcedure, c.body, "Content-Type", c.kind)
		if r.status != 400 || !strings.Contains(r.body, `"`+c.code+`"`) {
			t.Errorf("%s: %d %s", c.body, r.status, r.body)
		}
	}
	if r := w.do("POST", cartv1connect.CartServiceAddItemProcedure, "a=b", "Content-Type", "text/plain"); r.status != 400 || !strings.Contains(r.body, "UNSUPPORTED_MEDIA_TYPE") {
		t.Errorf("text: %d %s", r.status, r.body)
	}
	// A client cannot forge a fault: unknown fields are dropped.
	forged := "\x0a\x07\x0a\x05SKU-1\x10\x01" + "\x82\x80\x80\x80\x08\x07" + "FORGED\n"
	if r := w.do("POST", cartv1connect.CartServiceAddItemProcedure, forged, "Content-Type", "application/proto"); r.status != 200 {
		t.Errorf("unknown field in binary: %d %s", r.status, r.body)
	}
	if w.digest() == before {
		t.Error("the last call should have added")
	}
	// A chunked body has no length to be refused by.
	req, _ := http.NewRequest("POST", w.url+cartv1connect.CartServiceAddItemProcedure, io.MultiReader(strings.NewReader(`{"line":{"skuId":"`), strings.NewReader(strings.Repeat("x", 70000))))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-User-ID", "user-123")
	res, err := w.h1.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, _ := io.ReadAll(res.Body); res.StatusCode != 400 || !strings.Contains(string(b), "65536") {
		t.Errorf("chunked: %d %s", res.StatusCode, b)
	}
}

func TestHealthAndReflection(t *testing.T) {
	w := start(t)
	if r := w.do("GET", "/healthz", "", "X-User-ID", ""); r.status != 200 {
		t.Errorf("healthz: %d", r.status)
	}
	if r := w.do("GET", "/readyz", "", "X-User-ID", ""); r.status != 200 || r.body != "ready\n" {
		t.Errorf("readyz: %d %s", r.status, r.body)
	}
	check := func(service string) string {
		return w.do("POST", "/"+grpchealth.HealthV1ServiceName+"/Check", `{"service":"`+service+`"}`, "X-User-ID", "").body
	}
	if b := check(""); !strings.Contains(b, `_SERVING"`) {
		t.Errorf("health: %s", b)
	}
	// Tools learn the schema from the server.
	stream := grpcreflect.NewClient(w.h2, w.url).NewStream(t.Context())
	names, err := stream.ListServices()
	if err != nil || !slices.Contains(names, "cart.v1.CartService") {
		t.Errorf("reflection lists %v, %v", names, err)
	}
	if _, err := stream.Close(); err != nil {
		t.Error(err)
	}
	if b := check("other"); !strings.Contains(b, "not_found") {
		t.Errorf("health of another service: %s", b)
	}
	w.set(func(r *fakeRegion) { r.readyErr = errors.New("secret detail") })
	if r := w.do("GET", "/readyz", ""); r.status != 503 || strings.Contains(r.body, "secret") || r.header.Get("Retry-After") == "" {
		t.Errorf("not ready: %d %s", r.status, r.body)
	}
	if b := check("cart.v1.CartService"); !strings.Contains(b, `NOT_SERVING"`) {
		t.Errorf("health when not ready: %s", b)
	}
	w.set(func(r *fakeRegion) { r.readyErr = nil })
	w.handler.Drain()
	if r := w.do("GET", "/readyz", ""); r.status != 503 || !strings.Contains(r.body, "shutting down") {
		t.Errorf("draining: %d %s", r.status, r.body)
	}
	if r := w.do("GET", "/api/v1/cart", ""); r.status != 200 {
		t.Errorf("calls end with draining: %d", r.status)
	}
}

func TestWatchOverConnect(t *testing.T) {
	for name, options := range protocols {
		t.Run(name, func(t *testing.T) {
			w := start(t)
			w.add("SKU-456", "2")
			c := w.client(options...)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			s, err := c.WatchCart(ctx, request(&cartv1.WatchCartRequest{}))
			if err != nil {
				t.Fatal(err)
			}
			if !s.Receive() || s.Msg().GetCart().GetItemCount() != 2 || s.Msg().GetResume() == "" {
				t.Fatalf("first: %v, %v", s.Msg(), s.Err())
			}
			w.add("SKU-456", "1")
			if !s.Receive() || s.Msg().GetCart().GetItemCount() != 3 {
				t.Fatalf("second: %v, %v", s.Msg(), s.Err())
			}
			resume := s.Msg().GetResume()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			// It goes on from there: the same cart is not sent again.
			s, err = c.WatchCart(ctx, request(&cartv1.WatchCartRequest{Resume: resume}))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() }) //nolint:errcheck // it has ended before
			w.add("SKU-456", "4")
			if !s.Receive() || s.Msg().GetCart().GetItemCount() != 7 {
				t.Fatalf("resumed: %v, %v", s.Msg(), s.Err())
			}
			w.handler.Drain()
			if s.Receive() || s.Err() != nil {
				t.Errorf("drained: %v, %v", s.Msg(), s.Err())
			}
		})
	}
}

// Other programs read our JSON with the schema alone.
func TestConnectJSONIsProtobufJSON(t *testing.T) {
	w := start(t)
	r := w.do("POST", cartv1connect.CartServiceAddItemProcedure, `{"line":{"skuId":"SKU-456"},"quantity":2}`)
	var msg cartv1.ItemResponse
	if err := protojson.Unmarshal([]byte(r.body), &msg); err != nil || msg.GetItemCount() != 2 {
		t.Errorf("%s: %v", r.body, err)
	}
}
