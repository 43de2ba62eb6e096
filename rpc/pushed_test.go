package rpc_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	catalogv1 "github.com/samecart/samecart/proto/catalog/v1"
)

// remembering makes a world ask for nothing twice: what it shows of a change was
// pushed to it.
func remembering(w *world) {
	w.cfg.CatalogFresh, w.cfg.CatalogOld = time.Hour, time.Hour
}

// following waits until a world follows its catalogue.
func (w *world) following() {
	eventually(w.t, "the catalogue is followed", func() bool { return w.catalog.follows.Load() > 0 })
}

func TestWatchersSeePricesAndStock(t *testing.T) {
	w := start(t, ownCatalog, remembering)
	w.following()
	w.add("SKU-456", "2")
	w.add("SKU-1", "1", "X-User-ID", "other")
	e := w.watch("")
	e.until(t, 2)
	s, err := w.client().WatchCart(t.Context(), request(&cartv1.WatchCartRequest{}))
	if err != nil || !s.Receive() {
		t.Fatalf("%v, %v", err, s.Err())
	}
	t.Cleanup(func() { s.Close() }) //nolint:errcheck // it is at its end
	asked := w.catalog.calls.Load()
	w.live.SetPrice("SKU-1", "", 1) // in nobody's cart that is watched
	w.live.SetPrice("SKU-456", "", 3500)
	if b := e.until(t, 2); !strings.Contains(b["data"], `"current_price":35.00,"price_changed":true,"in_stock":true`) {
		t.Errorf("price: %v", b)
	}
	if it := receive(t, s); it.GetCurrentPrice().GetMinorUnits() != 3500 || !it.GetPriceChanged() || !it.GetInStock() {
		t.Errorf("price over Connect: %v", it)
	}
	w.live.SetStock("SKU-456", "", 0)
	b := e.until(t, 2)
	if !strings.Contains(b["data"], `"in_stock":false`) {
		t.Errorf("stock: %v", b)
	}
	if it := receive(t, s); it.GetInStock() {
		t.Errorf("stock over Connect: %v", it)
	}
	if n := w.catalog.calls.Load() - asked; n != 0 {
		t.Errorf("%d look-ups for what was pushed", n)
	}
	// Everybody else sees it as well, without a look-up.
	if got := w.do("GET", "/api/v1/cart", "").body; !strings.Contains(got, `"in_stock":false`) {
		t.Errorf("read: %s", got)
	}
	// Who resumes and has missed a change of price is sent the page again.
	w.live.SetPrice("SKU-456", "", 3600)
	b = e.until(t, 2)
	again := w.watch(b["id"])
	again.next(t)
	if c := again.next(t); c[""] != "still here" {
		t.Errorf("resumed at the newest page: %v", c)
	}
	e.res.Body.Close()
	again.res.Body.Close()
	w.live.SetPrice("SKU-456", "", 3700)
	if it := receive(t, s); it.GetCurrentPrice().GetMinorUnits() != 3600 {
		t.Errorf("over Connect: %v", it)
	}
	if it := receive(t, s); it.GetCurrentPrice().GetMinorUnits() != 3700 {
		t.Errorf("over Connect: %v", it)
	}
	late := w.watch(b["id"])
	if c := late.until(t, 2); !strings.Contains(c["data"], `"current_price":37.00`) {
		t.Errorf("resumed at an older page: %v", c)
	}
}

// receive returns the one item of the next cart.
func receive(t *testing.T, s *connect.ServerStreamForClient[cartv1.WatchCartResponse]) *cartv1.Item {
	t.Helper()
	if !s.Receive() || len(s.Msg().GetCart().GetItems()) != 1 {
		t.Fatalf("%v, %v", s.Msg(), s.Err())
	}
	return s.Msg().GetCart().GetItems()[0]
}

// pushing is a catalogue whose changes a test makes up.
type pushing struct {
	*fakeCatalog

	mu     sync.Mutex
	after  []string // cursors that were given
	send   chan *catalogv1.ChangesResponse
	broken chan error
}

func newPushing() *pushing {
	return &pushing{send: make(chan *catalogv1.ChangesResponse), broken: make(chan error)}
}

func (p *pushing) Follow(ctx context.Context, after string, got func(*catalogv1.ChangesResponse) error) error {
	p.mu.Lock()
	p.after = append(p.after, after)
	p.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-p.broken:
			return err
		case r := <-p.send:
			if err := got(r); err != nil {
				return err
			}
		}
	}
}

func (p *pushing) given() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string{}, p.after...)
}

// A catalogue that fails is followed again, from where it was; what is sent that
// makes no sense is as if it were not sent; what is gone is shown to be.
func TestChangesThatAreLostOrAbsurd(t *testing.T) {
	p := newPushing()
	w := start(t, ownCatalog, remembering, func(w *world) { p.fakeCatalog, w.sells = w.catalog, p })
	p.send <- &catalogv1.ChangesResponse{Cursor: "1"}
	w.add("SKU-456", "2")
	e := w.watch("")
	e.until(t, 2)
	p.broken <- errors.New("connection reset")
	p.send <- &catalogv1.ChangesResponse{Cursor: "2", Products: []*catalogv1.Product{
		{SkuId: "", SellerId: "seller-1"},
		{SkuId: "SKU-456", SellerId: "seller-1", Name: "Mouse", Currency: "USD", PriceMinorUnits: 100, Stock: -7},
	}}
	if b := e.until(t, 2); !strings.Contains(b["data"], `"name":"Mouse"`) || !strings.Contains(b["data"], `"current_price":1.00`) || !strings.Contains(b["data"], `"in_stock":false`) {
		t.Errorf("%v", b)
	}
	if got := strings.Join(p.given(), ","); got != ",1" {
		t.Errorf("followed after %q", got)
	}
	// Without a usable price the catalogue is asked, which has the old one.
	asked := w.catalog.calls.Load()
	p.send <- &catalogv1.ChangesResponse{Cursor: "3", Products: []*catalogv1.Product{{SkuId: "SKU-456", SellerId: "seller-1", Currency: "USD", PriceMinorUnits: -1}}}
	if b := e.until(t, 2); !strings.Contains(b["data"], `"name":"Wireless Mouse"`) || w.catalog.calls.Load() == asked {
		t.Errorf("%v", b)
	}
	p.send <- &catalogv1.ChangesResponse{Cursor: "4", Removed: []*catalogv1.ProductRef{{SkuId: "SKU-456", SellerId: "seller-1"}}}
	if b := e.until(t, 2); !strings.Contains(b["data"], "no longer in the catalogue") || !strings.Contains(b["data"], `"price":29.99`) {
		t.Errorf("gone: %v", b)
	}
	// What changed meanwhile is not known: all is asked for again.
	w.live.SetPrice("SKU-456", "", 4000)
	p.send <- &catalogv1.ChangesResponse{Cursor: "5", Lost: true}
	if b := e.until(t, 2); !strings.Contains(b["data"], `"current_price":40.00`) {
		t.Errorf("after a loss: %v", b)
	}
	// A catalogue without changes is left alone, and everything else works.
	p.broken <- connect.NewError(connect.CodeUnimplemented, errors.New("no such procedure"))
	w.add("SKU-456", "1")
	e.until(t, 3)
	if got := strings.Join(p.given(), ","); got != ",1" {
		t.Errorf("followed after %q", got)
	}
}

// An answer that was on its way when a change came is older than it.
func TestChangeWinsOverAnOlderAnswer(t *testing.T) {
	p := newPushing()
	w := start(t, ownCatalog, func(w *world) { p.fakeCatalog, w.sells = w.catalog, p })
	p.send <- &catalogv1.ChangesResponse{Cursor: "1"}
	w.add("SKU-456", "2")
	hold := make(chan struct{})
	w.catalog.held.Store(&hold)
	asked := w.catalog.calls.Load()
	answered := make(chan reply)
	go func() {
		r, err := w.try("GET", "/api/v1/cart", "")
		if err != nil {
			t.Error(err)
		}
		answered <- r
	}()
	eventually(t, "the catalogue is asked", func() bool { return w.catalog.calls.Load() > asked })
	p.send <- &catalogv1.ChangesResponse{Cursor: "2", Products: []*catalogv1.Product{{SkuId: "SKU-456", SellerId: "seller-1", Name: "Mouse", Currency: "USD", PriceMinorUnits: 100}}}
	p.send <- &catalogv1.ChangesResponse{Cursor: "3"} // what was sent before is in
	close(hold)
	if r := <-answered; !strings.Contains(r.body, `"current_price":1.00`) {
		t.Errorf("%s", r.body)
	}
}
