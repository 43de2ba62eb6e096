package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/rpc"
	"github.com/samecart/samecart/rpc/catalog"
)

var orders = flag.String("orders", "", "orders whose totals TestRenderedTotals compares; the first embedded ones when not given")

// embeddedSales keeps the test short where no file is given.
const embeddedSales = 30_000

// shelf is a region with carts that are there already: reading is what the
// test is about.
type shelf map[string]*crdt.Cart

func (s shelf) Read(_ context.Context, id string, _ region.ReadOptions) (region.View, error) {
	return region.View{CartID: id, State: crdt.State{Cart: s[id]}}, nil
}

func (s shelf) Edit(context.Context, *regionv1.Edit) (*regionv1.Outcome, error) {
	return nil, errors.ErrUnsupported
}

func (s shelf) Wait(context.Context, string, region.Digest) (region.View, error) {
	return region.View{}, errors.ErrUnsupported
}

func (s shelf) MergeGuest(context.Context, string, string) (*regionv1.Outcome, error) {
	return nil, errors.ErrUnsupported
}

func (s shelf) Redeem(context.Context, *regionv1.Spend) (*regionv1.Outcome, error) {
	return nil, errors.ErrUnsupported
}

func (s shelf) Ready(context.Context) error { return nil }

// Every invoice of the orders costs, as the API shows it, what the files say: to
// the penny. The edits are made without regions, so that all of them take seconds.
func TestRenderedTotals(t *testing.T) {
	prices, err := ReadPrices(bytes.NewReader(catalog.RetailFile()))
	if err != nil {
		t.Fatal(err)
	}
	products, err := catalog.New()
	if err != nil {
		t.Fatal(err)
	}
	carts, ledgers := shelf{}, map[string]*ledger{}
	r, err := Orders(*orders)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	var sales, refused int
	at := crdt.TimestampAt(1_700_000_000_000)
	for *orders != "" || sales < embeddedSales {
		line, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !line.Sale {
			continue
		}
		sales++
		id := "cart:" + line.Invoice
		cart, book := carts[id], ledgers[id]
		if cart == nil {
			cart, book = &crdt.Cart{}, &ledger{}
			carts[id], ledgers[id] = cart, book
		}
		key := crdt.LineKey{Seller: seller, SKU: line.SKU}
		var have uint32
		if l := cart.Find(key); l != nil {
			have = l.Visible().Quantity
		}
		if prices[line.SKU] == 0 || int64(have)+line.Quantity > 999 || have == 0 && len(cart.Lines) >= 500 {
			refused++
			continue
		}
		at++
		w := crdt.Writer{Replica: crdt.Replica{Region: 1, Incarnation: 1}, At: at}
		carts[id] = cart.Apply(cart.Add(w, key, uint32(line.Quantity), crdt.Offer{Price: line.Pennies, Currency: "GBP", AddedAt: at}, true))
		book.acknowledge(line.SKU, uint32(line.Quantity), line.Pennies)
	}
	cfg := rpc.DefaultConfig("us-east")
	cfg.CatalogFresh, cfg.CatalogOld = time.Hour, time.Hour
	h, err := rpc.NewHandler(cfg, carts, products, rpc.TrustedHeaders{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var all, lower int64
	wrong := 0
	for id, book := range ledgers {
		req := httptest.NewRequest("GET", "/api/v1/cart", nil)
		req.Header.Set("X-User-ID", strings.TrimPrefix(id, "cart:"))
		answer := httptest.NewRecorder()
		h.ServeHTTP(answer, req)
		want, _ := book.total(prices)
		asked, _ := book.total(nil)
		all, lower = all+want.Pennies, lower+asked.Pennies-want.Pennies
		if got := shownIn(t, answer.Body.Bytes()); want.wrong(got) != "" {
			if wrong++; wrong <= findingsMax {
				t.Errorf("%s shows %s, its orders come to %+v", id, want.wrong(got), want)
			}
		}
	}
	t.Logf("%d invoices of %d sales, %d refused: %d wrong; %d pennies, %d less than ordered at", len(ledgers), sales, refused, wrong, all, lower)
	if len(ledgers) < 1000 || lower <= 0 {
		t.Errorf("%d invoices, %d pennies lower than ordered at: the price rule was not tried", len(ledgers), lower)
	}
}

// shownIn reads a cart of REST, whose decimals have two digits.
func shownIn(t *testing.T, body []byte) ShownTotal {
	t.Helper()
	var v struct {
		Subtotal       json.Number `json:"subtotal"`
		EstimatedTotal json.Number `json:"estimated_total"`
		Currency       string      `json:"currency"`
		ItemCount      uint64      `json:"item_count"`
		Sellers        []struct {
			SellerID  string      `json:"seller_id"`
			Subtotal  json.Number `json:"subtotal"`
			ItemCount uint64      `json:"item_count"`
		} `json:"sellers"`
	}
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	exact := func(n json.Number) int64 {
		whole, cents, ok := strings.Cut(n.String(), ".")
		out, err := strconv.ParseInt(whole+cents, 10, 64)
		if err != nil || !ok || len(cents) != 2 {
			t.Fatalf("amount %s: %v", n, err)
		}
		return out
	}
	out := ShownTotal{
		Total:    Total{Pennies: exact(v.Subtotal), Items: v.ItemCount},
		Currency: v.Currency, Estimated: exact(v.EstimatedTotal), Sellers: map[string]Total{},
	}
	for _, s := range v.Sellers {
		out.Sellers[s.SellerID] = Total{exact(s.Subtotal), s.ItemCount}
	}
	return out
}
