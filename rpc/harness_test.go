package rpc_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
	"github.com/samecart/samecart/rpc"
	"github.com/samecart/samecart/rpc/catalog"
)

// sharedCatalog is read only: tests that edit prices make their own.
var sharedCatalog = sync.OnceValue(func() *catalog.Catalog {
	c, err := catalog.New()
	if err != nil {
		panic(err)
	}
	return c
})

// lockedBuffer is a log that tests read while handlers write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// world is one region's API on a real HTTP server.
type world struct {
	t       testing.TB
	region  *fakeRegion
	serves  rpc.Region // nil: region itself
	catalog *fakeCatalog
	sells   rpc.Catalog // nil: catalog itself
	live    *catalog.Catalog
	cfg     rpc.Config
	auth    rpc.Authenticator
	mounts  []rpc.Mount
	log     lockedBuffer
	handler *rpc.Handler
	url     string
	h1, h2  *http.Client

	mu    sync.Mutex
	calls []rpc.Call
}

// start serves; the options change the world before.
func start(t testing.TB, options ...func(*world)) *world {
	t.Helper()
	w := &world{t: t, region: newFakeRegion(1), live: sharedCatalog(), cfg: rpc.DefaultConfig("us-east"), auth: rpc.TrustedHeaders{}}
	w.cfg.RegionNames = map[crdt.RegionID]string{1: "us-east", 2: "eu-west"}
	w.cfg.CatalogFresh = 0 // each call asks, so that tests see edits at once
	w.cfg.Events.Call = func(c rpc.Call) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.calls = append(w.calls, c)
	}
	w.catalog = &fakeCatalog{}
	for _, o := range options {
		o(w)
	}
	w.catalog.Catalog = w.live
	if w.sells == nil {
		w.sells = w.catalog
	}
	if w.serves == nil {
		w.serves = w.region
	}
	h, err := rpc.NewHandler(w.cfg, w.serves, w.sells, w.auth, slog.New(slog.NewTextHandler(&w.log, nil)), w.mounts...)
	if err != nil {
		t.Fatal(err)
	}
	w.handler = h
	running, stop := context.WithCancel(context.Background())
	var beside sync.WaitGroup
	beside.Go(func() {
		if err := h.Run(running); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { stop(); beside.Wait() })
	srv := httptest.NewUnstartedServer(h)
	srv.Config = rpc.NewServer("", h, slog.New(slog.NewTextHandler(&w.log, nil)))
	srv.Start()
	t.Cleanup(func() {
		h.Drain()
		srv.Close()
	})
	w.url = srv.URL
	w.h1 = srv.Client()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	h2 := &http.Transport{Protocols: protocols}
	t.Cleanup(h2.CloseIdleConnections)
	w.h2 = &http.Client{Transport: h2}
	return w
}

func (w *world) lastCall() rpc.Call {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.calls) == 0 {
		return rpc.Call{}
	}
	return w.calls[len(w.calls)-1]
}

func (w *world) client(options ...connect.ClientOption) cartv1connect.CartServiceClient {
	return cartv1connect.NewCartServiceClient(w.h2, w.url, options...)
}

// reply is an answer, read whole.
type reply struct {
	status int
	header http.Header
	body   string
}

func (r reply) json(t testing.TB) map[string]any {
	t.Helper()
	var v map[string]any
	d := json.NewDecoder(strings.NewReader(r.body))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("status %d, body %q: %v", r.status, r.body, err)
	}
	return v
}

// code is the error code of an answer; empty when it is no error.
func (r reply) code(t testing.TB) string {
	t.Helper()
	e, _ := r.json(t)["error"].(map[string]any)
	code, _ := e["code"].(string)
	if (code == "") != (r.status < 400) {
		t.Fatalf("status %d with body %s", r.status, r.body)
	}
	return code
}

func (r reply) details(t testing.TB) map[string]any {
	t.Helper()
	e, _ := r.json(t)["error"].(map[string]any)
	d, _ := e["details"].(map[string]any)
	return d
}

// do sends a request as user-123, unless the headers name somebody; a header
// without a value is not sent.
func (w *world) do(method, path, body string, headers ...string) reply {
	w.t.Helper()
	r, err := w.try(method, path, body, headers...)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// try is do for goroutines, which may not end the test.
func (w *world) try(method, path, body string, headers ...string) (reply, error) {
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, w.url+path, reader)
	if err != nil {
		return reply{}, err
	}
	req.Header.Set("X-User-ID", "user-123")
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] == "" {
			req.Header.Del(headers[i])
		} else {
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	res, err := w.h1.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(b)}, err
}

// add puts something in user-123's cart.
func (w *world) add(sku string, quantity string, headers ...string) reply {
	w.t.Helper()
	r := w.do("POST", "/api/v1/cart/items", `{"sku_id":"`+sku+`","quantity":`+quantity+`}`, headers...)
	if r.status != 200 {
		w.t.Fatalf("add %s: %d %s", sku, r.status, r.body)
	}
	return r
}

// digest is of user-123's cart; with it a test proves that nothing changed.
func (w *world) digest() string {
	w.region.mu.Lock()
	defer w.region.mu.Unlock()
	d := digestOf("cart:user-123", w.region.cart("cart:user-123"))
	return string(d[:])
}

func (w *world) set(change func(*fakeRegion)) {
	w.region.mu.Lock()
	defer w.region.mu.Unlock()
	change(w.region)
}

// row shows values with a blank between each two.
func row(values ...any) string { return strings.TrimSuffix(fmt.Sprintln(values...), "\n") }
