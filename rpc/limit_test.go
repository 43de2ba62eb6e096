package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/rpc"
)

func TestOverload(t *testing.T) {
	w := start(t, func(w *world) {
		w.cfg.ConcurrencyMax, w.cfg.StreamsMax = 2, 1
		w.cfg.RequestTimeout, w.cfg.TokenWait = 400*time.Millisecond, 100*time.Millisecond
	})
	w.set(func(r *fakeRegion) { r.hangEdit = true })
	done := make(chan reply, 2)
	for range 2 {
		go func() {
			r, err := w.try("POST", cartItems, `{"sku_id":"SKU-1","quantity":1}`)
			if err != nil {
				t.Error(err)
			}
			done <- r
		}()
	}
	eventually(t, "both calls run", func() bool { return w.region.edits.Load() == 2 })
	r := w.do("GET", "/api/v1/cart", "")
	if r.status != 429 || r.code(t) != "OVERLOADED" || r.header.Get("Retry-After") == "" {
		t.Errorf("%d %s", r.status, r.body)
	}
	_, err := w.client().GetCart(t.Context(), request(&cartv1.GetCartRequest{}))
	if d := detailOf(t, err); connect.CodeOf(err) != connect.CodeResourceExhausted || d.GetCode() != "OVERLOADED" {
		t.Errorf("Connect: %v", err)
	}
	var refused *connect.Error
	if !errors.As(err, &refused) || refused.Meta().Get("Retry-After") != "1" {
		t.Errorf("Connect: %v has no Retry-After", err)
	}
	// Health and streams have room of their own.
	if r := w.do("GET", "/healthz", ""); r.status != 200 {
		t.Errorf("healthz: %d", r.status)
	}
	e := w.watch("")
	e.next(t)
	if r := w.do("GET", "/api/v1/cart/watch", ""); r.code(t) != "OVERLOADED" {
		t.Errorf("second watch: %d %s", r.status, r.body)
	}
	for range 2 {
		if r := <-done; r.code(t) != "OUTCOME_UNKNOWN" {
			t.Errorf("a call that hung ended with %s", r.body)
		}
	}
	w.set(func(r *fakeRegion) { r.hangEdit = false })
	w.add("SKU-1", "1")
}

// A body that never ends holds no slot and ends the call.
func TestSlowBody(t *testing.T) {
	w := start(t, func(w *world) {
		w.cfg.ConcurrencyMax = 1
		w.cfg.RequestTimeout, w.cfg.TokenWait, w.cfg.CatalogTimeout = 200*time.Millisecond, 20*time.Millisecond, 50*time.Millisecond
	})
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() }) //nolint:errcheck // nothing is written any more
	_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nX-User-ID: user-123\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{", cartItems)
	if err != nil {
		t.Fatal(err)
	}
	w.add("SKU-1", "1") // the only slot is free
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := conn.Read(b)
	if err != nil || !strings.HasPrefix(string(b[:n]), "HTTP/1.1 400") || !strings.Contains(string(b[:n]), "did not arrive") {
		t.Errorf("%s, %v", b[:n], err)
	}
}

// A request whose own deadline is short ends at it.
func TestShortDeadlineOfAClient(t *testing.T) {
	w := start(t)
	w.set(func(r *fakeRegion) { r.hangEdit = true })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	for _, o := range []connect.ClientOption{connect.WithGRPC(), connect.WithProtoJSON()} {
		_, err := w.client(o).AddItem(ctx, request(&cartv1.AddItemRequest{Line: &cartv1.LineRef{SkuId: "SKU-1"}, Quantity: 1}))
		if connect.CodeOf(err) != connect.CodeDeadlineExceeded || time.Since(began) > time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	}
}

func TestRegions(t *testing.T) {
	w := start(t)
	if r := w.do("GET", "/api/v1/regions", "", "X-User-ID", ""); r.body != `{"regions":[{"region":"us-east","address":"","healthy":true}]}`+"\n" {
		t.Errorf("%s", r.body)
	}
	w = start(t, func(w *world) {
		w.cfg.Regions = func(context.Context) []rpc.RegionInfo {
			return []rpc.RegionInfo{{"us-east", "http://127.0.0.1:8081", true}, {"eu-west", "http://127.0.0.1:8082", false}}
		}
	})
	want := `{"regions":[{"region":"us-east","address":"http://127.0.0.1:8081","healthy":true},{"region":"eu-west","address":"http://127.0.0.1:8082","healthy":false}]}` + "\n"
	if r := w.do("GET", "/api/v1/regions", ""); r.body != want {
		t.Errorf("%s", r.body)
	}
}

func TestConfigIsChecked(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	_, err := rpc.NewHandler(rpc.Config{}, newFakeRegion(1), sharedCatalog(), rpc.TrustedHeaders{}, log)
	if err == nil {
		t.Fatal("the zero value was taken")
	}
	for _, field := range []string{"Region", "QuantityMax", "BatchMax", "RequestTimeout", "TokenWait", "Heartbeat", "BodyBytesMax", "ConcurrencyMax", "StreamsMax", "CatalogTimeout", "CatalogEntries", "CatalogRest"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%s is not named in: %v", field, err)
		}
	}
	if _, err := rpc.NewHandler(rpc.DefaultConfig("us-east"), newFakeRegion(1), sharedCatalog(), rpc.TrustedHeaders{}, log); err != nil {
		t.Error(err)
	}
}

func TestPathsAreNotTrusted(t *testing.T) {
	w := start(t)
	w.do("POST", cartItems, `{"sku_id":"A B.:-_","quantity":1}`)
	for path, code := range map[string]string{
		cartItems + "/A%20B.:-_": "LINE_NOT_FOUND", // it is valid, and not in the catalogue's cart
		cartItems + "/..":        "LINE_NOT_FOUND",
		cartItems + "/%2e%2e":    "LINE_NOT_FOUND",
		cartItems + "/%ff":       "INVALID_SKU",
		cartItems + "/%00":       "INVALID_SKU",
	} {
		if r := w.do("PUT", path, `{"quantity":1}`); r.code(t) != code {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
	w.add("BANK CHARGES", "1")
	if r := w.do("PUT", cartItems+"/BANK%20CHARGES", `{"quantity":2}`); r.status != 200 || !strings.Contains(r.body, `"quantity":2`) {
		t.Errorf("%d %s", r.status, r.body)
	}
	// Options choose among lines of one SKU.
	w.do("DELETE", "/api/v1/cart", "")
	w.do("POST", cartItems, `{"sku_id":"SKU-8","quantity":1,"options":{"size":"L"}}`)
	w.do("POST", cartItems, `{"sku_id":"SKU-8","quantity":1,"options":{"size":"M"}}`)
	if r := w.do("PUT", cartItems+"/SKU-8?option.size=M", `{"quantity":5}`); r.status != 200 || !strings.Contains(r.body, `"options":{"size":"M"}`) {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r := w.do("PUT", cartItems+"/SKU-8", `{"quantity":6,"options":{"size":"L"}}`); r.status != 200 || !strings.Contains(r.body, `"quantity":6`) {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r := w.do("DELETE", cartItems+"/SKU-8?option.size=L", ""); r.status != 200 || !strings.Contains(r.body, `"item_count":5`) {
		t.Errorf("%d %s", r.status, r.body)
	}
}

// http.Server's Shutdown ends watches, so it does not wait for them.
func TestServerShutdown(t *testing.T) {
	w := start(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := rpc.NewServer("", w.handler, slog.New(slog.DiscardHandler))
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	w.url = "http://" + l.Addr().String()
	e := w.watch("")
	e.next(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Errorf("shutdown waited for a watcher: %v", err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

// A watcher that leaves gives its place to the next.
func TestWatcherThatLeavesFreesItsStream(t *testing.T) {
	w := start(t, func(w *world) { w.cfg.StreamsMax, w.cfg.Heartbeat = 1, 5*time.Millisecond })
	for range 3 {
		var e *events
		eventually(t, "a free stream", func() bool {
			e = w.watch("")
			return e.res.StatusCode == http.StatusOK
		})
		e.next(t)
		if err := e.res.Body.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if b := w.log.String(); strings.Contains(b, "level=ERROR") {
		t.Errorf("leaving is logged as an error: %s", b)
	}
}
