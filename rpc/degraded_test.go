package rpc_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	catalogv1 "github.com/samecart/samecart/proto/catalog/v1"
)

// state is one way in which a catalogue fails.
type state struct {
	name string
	make func(*world)
	// What the cart's first item, added as 2 at 29.99, shows then when nothing was
	// remembered of it: name, current_price, price_changed, in_stock, price.
	item string
	// A part of the warnings; empty: there are none.
	warning string
}

// spoil has the catalogue answer with products that are changed.
func spoil(change func(*catalogv1.Product)) func(*world) {
	return func(w *world) {
		f := func(r *catalogv1.LookUpResponse) {
			for i, p := range r.GetProducts() {
				p = clone(p)
				change(p)
				r.Products[i] = p
			}
		}
		w.catalog.spoil.Store(&f)
	}
}

func clone(p *catalogv1.Product) *catalogv1.Product {
	return &catalogv1.Product{
		SkuId: p.GetSkuId(), SellerId: p.GetSellerId(), Name: p.GetName(), Seller: p.GetSeller(), Image: p.GetImage(),
		Currency: p.GetCurrency(), PriceMinorUnits: p.GetPriceMinorUnits(), Stock: p.GetStock(), WeightGrams: p.GetWeightGrams(),
	}
}

const (
	unknown  = "SKU-456 <nil> false <nil> 29.99"
	noAnswer = "the catalogue does not answer: names, stock and current prices of 15 lines are missing"
)

var states = []state{
	{"well", func(*world) {}, "Wireless Mouse 29.99 false true 29.99", ""},
	{"down", func(w *world) { w.catalog.down.Store(true) }, unknown, noAnswer},
	{"slow", func(w *world) { w.catalog.slow.Store(true) }, unknown, noAnswer},
	{"wrong count", func(w *world) { w.catalog.short.Store(true) }, unknown, noAnswer},
	{"negative price", spoil(func(p *catalogv1.Product) { p.PriceMinorUnits = -1 }), unknown, noAnswer},
	{"absurd price", spoil(func(p *catalogv1.Product) { p.PriceMinorUnits = 1 << 60 }), unknown, noAnswer},
	{"no currency", spoil(func(p *catalogv1.Product) { p.Currency = "dollars" }), unknown, noAnswer},
	{"other currency", spoil(func(p *catalogv1.Product) { p.Currency = "JPY" }), "Wireless Mouse <nil> false true 29.99", "now sold in JPY: its price of 29.99 USD stands"},
	{"negative stock", spoil(func(p *catalogv1.Product) { p.Stock = -3 }), "Wireless Mouse 29.99 false false 29.99", ""},
	{"huge names", spoil(func(p *catalogv1.Product) {
		p.Name, p.Seller, p.Image = strings.Repeat("n", 1<<20), strings.Repeat("s", 1<<20), strings.Repeat("i", 1<<20)
	}), "SKU-456 29.99 false true 29.99", ""},
	{"names of no text", spoil(func(p *catalogv1.Product) { p.Name, p.Image = "a\xff", "\xfe" }), "SKU-456 29.99 false true 29.99", ""},
	{"nothing sold", spoil(func(p *catalogv1.Product) { p.SkuId = "" }), "SKU-456 <nil> false false 29.99", "no longer in the catalogue"},
}

// fifteen fills user-123's cart with 15 lines, SKU-456 first.
func (w *world) fifteen() {
	w.t.Helper()
	w.add("SKU-456", "2")
	for i := range 14 {
		w.add(fmt.Sprintf("SKU-%d", i+1), "1")
	}
}

// The cart is shown in every state of the catalogue: with what is known, marked.
// Page and JSON are of one mind; no state empties the cart or changes it.
func TestCartInEveryStateOfTheCatalogue(t *testing.T) {
	for _, st := range states {
		t.Run(st.name, func(t *testing.T) {
			w := start(t, func(w *world) {
				w.cfg.CatalogTimeout, w.cfg.CatalogRest = 5*time.Millisecond, time.Hour
				w.cfg.CatalogFresh, w.cfg.CatalogOld = 0, 0 // nothing is remembered
				if st.name == "well" || st.item != unknown {
					w.cfg.CatalogTimeout = time.Second // the machine may be slow
				}
			})
			w.fifteen()
			before := w.digest()
			st.make(w)
			r := w.do("GET", "/api/v1/cart", "")
			v := r.json(t)
			items := v["items"].([]any)
			it := items[0].(map[string]any)
			if got := row(it["name"], it["current_price"], it["price_changed"], it["in_stock"], it["price"]); got != st.item || len(items) != 15 || r.status != 200 {
				t.Errorf("%d lines, first %s; want 15, %s", len(items), got, st.item)
			}
			warnings := v["warnings"].([]any)
			if (len(warnings) > 0) != (st.warning != "") || !strings.Contains(row(warnings...), st.warning) {
				t.Errorf("warnings %v", warnings)
			}
			if row(v["item_count"]) != "16" || row(v["subtotal"]) != row(v["estimated_total"]) || len(r.body) > 64<<10 {
				t.Errorf("%v items, subtotal %v, total %v, %d bytes", v["item_count"], v["subtotal"], v["estimated_total"], len(r.body))
			}
			for name, options := range map[string][]connect.ClientOption{"binary": nil, "JSON": {connect.WithProtoJSON()}} {
				got, err := w.client(options...).GetCart(t.Context(), request(&cartv1.GetCartRequest{}))
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				first := got.Msg.GetItems()[0]
				stock := "<nil>"
				if first.InStock != nil {
					stock = fmt.Sprint(first.GetInStock())
				}
				if first.GetName() != it["name"] || stock != row(it["in_stock"]) || len(got.Msg.GetWarnings()) != len(warnings) {
					t.Errorf("%s: %v, %v", name, first, got.Msg.GetWarnings())
				}
			}
			if w.digest() != before {
				t.Error("the cart has changed")
			}
		})
	}
}

// BenchmarkCartByCatalogue measures GET /cart, of 15 lines, in every state of the
// catalogue, whose look-ups take 1 ms when it is well. "Cold" remembers nothing,
// so each read asks, as far as the breaker lets it; the first is before it opens.
func BenchmarkCartByCatalogue(b *testing.B) {
	for _, st := range states {
		for _, cold := range []bool{true, false} {
			b.Run(fmt.Sprintf("%s/cold=%v", strings.ReplaceAll(st.name, " ", "-"), cold), func(b *testing.B) {
				w := start(b, func(w *world) {
					w.cfg.CatalogFresh = time.Second
					if cold {
						w.cfg.CatalogFresh, w.cfg.CatalogOld = 0, 0
					}
				})
				w.catalog.takes.Store(int64(time.Millisecond))
				w.fifteen()
				st.make(w)
				var took []time.Duration
				for b.Loop() {
					began := time.Now()
					if r := w.do("GET", "/api/v1/cart", ""); r.status != 200 {
						b.Fatal(r.body)
					}
					took = append(took, time.Since(began))
				}
				b.ReportMetric(float64(took[0].Microseconds())/1000, "ms-first")
				slices.Sort(took)
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-p50")
				b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms-p99")
				b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "ms-max")
			})
		}
	}
}
