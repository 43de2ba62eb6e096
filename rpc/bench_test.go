package rpc_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
)

// ownRecorder drops what is written: the handler is measured, not a test's buffer.
type ownRecorder struct{ header http.Header }

func (r *ownRecorder) Header() http.Header         { return r.header }
func (r *ownRecorder) Write(b []byte) (int, error) { return len(b), nil }
func (r *ownRecorder) WriteHeader(int)             {}

// The handler alone: no network, no log, no disk.
func BenchmarkREST(b *testing.B) {
	for _, lines := range []int{10, 200} {
		w := start(b, func(w *world) { w.cfg.CatalogFresh = time.Minute })
		cart := &crdt.Cart{}
		wr := crdt.Writer{Replica: crdt.Replica{Region: 1, Incarnation: 1}, At: crdt.TimestampAt(1_700_000_000_000)}
		for i := range lines {
			k := crdt.LineKey{Seller: "seller-1", SKU: fmt.Sprintf("SKU-%d", i+1)}
			cart = cart.Apply(cart.Add(wr, k, 1, crdt.Offer{Price: 999, Currency: "USD", AddedAt: wr.At}, false))
		}
		w.region.join("cart:user-123", cart)
		for _, c := range []struct{ method, path, body string }{
			{"GET", "/api/v1/cart", ""},
			{"GET", "/api/v1/cart/count", ""},
			{"PUT", cartItems + "/SKU-1", `{"quantity":3}`},
		} {
			b.Run(fmt.Sprintf("%s %s/%d", c.method, c.path, lines), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					r := httptest.NewRequest(c.method, c.path, bytes.NewReader([]byte(c.body)))
					r.Header.Set("X-User-ID", "user-123")
					r.Header.Set("Content-Type", "application/json")
					w.handler.ServeHTTP(&ownRecorder{http.Header{}}, r)
				}
			})
		}
		w.region.join("cart:user-123", &crdt.Cart{})
	}
}

// One client over one HTTP/1.1 connection.
func BenchmarkConnectAdd(b *testing.B) {
	w := start(b, func(w *world) { w.cfg.CatalogFresh = time.Minute })
	c := w.client(connect.WithHTTPGet())
	for b.Loop() {
		if _, err := c.SetQuantity(b.Context(), request(&cartv1.SetQuantityRequest{Line: &cartv1.LineRef{SkuId: "SKU-1"}})); err != nil {
			b.Fatal(err)
		}
	}
}
