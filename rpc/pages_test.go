package rpc_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
	"github.com/samecart/samecart/rpc"
	"github.com/samecart/samecart/rpc/catalog"
)

// A page that was remembered is the page that would be made: after edits, price
// and stock changes, in and out of a catalogue's outage, stale and not. JSON is
// made anew each time.
func TestRememberedPagesAreCurrent(t *testing.T) {
	live, err := catalog.New()
	if err != nil {
		t.Fatal(err)
	}
	w := start(t, func(w *world) {
		w.live = live
		w.cfg.CatalogOld, w.cfg.CatalogRest = 0, 1 // an outage is over when the catalogue is back
	})
	clients := []cartv1connect.CartServiceClient{w.client(), w.client(connect.WithGRPC()), w.client(connect.WithGRPCWeb())}
	random := rand.New(rand.NewPCG(1, 2))
	same := 0
	var last *cartv1.Cart
	for step := range 400 {
		sku := fmt.Sprintf("SKU-%d", 1+random.IntN(5))
		switch random.IntN(8) {
		case 0:
			w.catalog.down.Store(false)
			w.add(sku, "1")
		case 1:
			w.do("DELETE", cartItems+"/"+sku, "")
		case 2:
			live.SetPrice(sku, "seller-1", int64(100+random.IntN(3)))
		case 3:
			live.SetStock(sku, "seller-1", int64(random.IntN(2)))
		case 4:
			w.catalog.down.Store(random.IntN(3) == 0)
		case 5:
			w.set(func(r *fakeRegion) { r.stale = random.IntN(2) == 0 })
		default: // nothing changes
		}
		want, err := w.client(connect.WithProtoJSON()).GetCart(t.Context(), request(&cartv1.GetCartRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range clients {
			got, err := c.GetCart(t.Context(), request(&cartv1.GetCartRequest{}))
			if err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(got.Msg, want.Msg) {
				t.Fatalf("step %d: got %v, want %v", step, got.Msg, want.Msg)
			}
			if got.Header().Get("ETag") != want.Header().Get("ETag") || got.Header().Get("Cart-Token") != want.Header().Get("Cart-Token") {
				t.Fatalf("step %d: headers %v, want %v", step, got.Header(), want.Header())
			}
		}
		if last != nil && proto.Equal(want.Msg, last) {
			same++
		}
		last = want.Msg
	}
	if same < 50 || same > 350 {
		t.Errorf("%d of 400 steps changed nothing: the test proves little", same)
	}
	if pages, _ := w.handler.PageBytes(); pages != 1 {
		t.Errorf("%d pages of one cart", pages)
	}
}

// A GET names its encoding in the query; the content type of a body that it does
// not have, as some clients send it, says nothing.
func TestPageInTheQuerysEncoding(t *testing.T) {
	w := start(t)
	w.add("SKU-1", "2")
	path := cartv1connect.CartServiceGetCartProcedure + "?connect=v1&encoding=json&message=%7B%7D"
	got := w.do("GET", path, "", "Content-Type", "application/proto").json(t)
	if got["itemCount"] != "2" {
		t.Errorf("page %v", got)
	}
}

// Pages stay within their bytes; without any, every page is made anew.
func TestPagesAreBounded(t *testing.T) {
	for _, limit := range []int{0, 4000} {
		w := start(t, func(w *world) { w.cfg.PageBytes = limit })
		c := w.client()
		for i := range 40 {
			user := []string{"X-User-ID", fmt.Sprint("reader-", i)}
			w.add("SKU-1", "2", user...)
			for range 2 {
				got, err := c.GetCart(t.Context(), request(&cartv1.GetCartRequest{}, user...))
				if err != nil || got.Msg.GetItemCount() != 2 || got.Msg.GetCartId() != fmt.Sprint("cart:reader-", i) {
					t.Fatalf("cart %d: %v, %v", i, got, err)
				}
			}
			if pages, bytes := w.handler.PageBytes(); bytes > limit || (pages > 0) != (limit > 0) || pages == 0 && bytes != 0 {
				t.Fatalf("%d pages of %d bytes, limit %d", pages, bytes, limit)
			}
		}
	}
	cfg := rpc.DefaultConfig("us-east")
	cfg.PageBytes = -1
	if _, err := rpc.NewHandler(cfg, newFakeRegion(1), sharedCatalog(), rpc.TrustedHeaders{}, nil); err == nil {
		t.Error("negative PageBytes were taken")
	}
}
