package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	catalogv1 "github.com/samecart/samecart/proto/catalog/v1"
	"github.com/samecart/samecart/proto/catalog/v1/catalogv1connect"
	"github.com/samecart/samecart/rpc"
	"github.com/samecart/samecart/rpc/catalog"
)

var errEnough = errors.New("enough")

// follow returns the next n answers after a cursor.
func follow(t *testing.T, c rpc.Catalog, after string, n int) (out []*catalogv1.ChangesResponse) {
	t.Helper()
	err := c.Follow(t.Context(), after, func(r *catalogv1.ChangesResponse) error {
		if out = append(out, r); len(out) == n {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("after %d answers: %v", len(out), err)
	}
	return out
}

func pricesOf(r *catalogv1.ChangesResponse) string {
	var b strings.Builder
	for _, p := range r.GetProducts() {
		fmt.Fprintf(&b, "%s/%s=%d ", p.GetSkuId(), p.GetSellerId(), p.GetPriceMinorUnits())
	}
	return strings.TrimSpace(b.String())
}

// Who follows misses no change, in the process and over the wire, also when it
// was away; each product comes once, as it is.
func TestFollow(t *testing.T) {
	c := embedded(t)
	mux := http.NewServeMux()
	mux.Handle(catalogv1connect.NewCatalogServiceHandler(c))
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	for name, way := range map[string]rpc.Catalog{
		"in the process": c,
		"over the wire":  rpc.RemoteCatalog{CatalogServiceClient: catalogv1connect.NewCatalogServiceClient(srv.Client(), srv.URL)},
	} {
		t.Run(name, func(t *testing.T) {
			first := follow(t, way, "", 1)[0]
			if len(first.GetProducts()) != 0 || first.GetCursor() == "" || first.GetLost() {
				t.Fatalf("first answer %v", first)
			}
			c.SetPrice("SKU-1", "seller-1", 100)
			c.SetPrice("SKU-2", "seller-1", 200)
			c.SetPrice("SKU-1", "seller-1", 101)
			away := follow(t, way, first.GetCursor(), 1)[0]
			if got := pricesOf(away); got != "SKU-1/seller-1=101 SKU-2/seller-1=200" || away.GetLost() {
				t.Fatalf("after a while: %v", away)
			}
			// It is told of what changes while it follows.
			changed := false
			err := way.Follow(t.Context(), away.GetCursor(), func(r *catalogv1.ChangesResponse) error {
				if !changed {
					changed = true
					if len(r.GetProducts()) != 0 {
						t.Errorf("what it knows came again: %v", r)
					}
					c.SetStock("SKU-3", "seller-2", 7)
					return nil
				}
				if len(r.GetProducts()) != 1 || r.GetProducts()[0].GetStock() != 7 {
					t.Errorf("a change: %v", r)
				}
				return errEnough
			})
			if !errors.Is(err, errEnough) {
				t.Fatal(err)
			}
			for _, cursor := range []string{"another.1", "nonsense", first.GetCursor() + "99"} {
				if r := follow(t, way, cursor, 1)[0]; !r.GetLost() || r.GetCursor() == "" {
					t.Errorf("cursor %q: %v", cursor, r)
				}
			}
		})
	}
}

// A follower that was away for too long is told so; one that was away for less
// gets many products in parts, and all of them again when it lost one.
func TestFollowAfterManyChanges(t *testing.T) {
	c := embedded(t)
	cursor := follow(t, c, "", 1)[0].GetCursor()
	edit := func(n int) {
		for i := range n {
			c.SetPrice(fmt.Sprintf("SKU-%d", 1+i%999), fmt.Sprintf("seller-%d", 1+i/999%9), int64(i+1))
		}
	}
	edit(1500)
	parts := follow(t, c, cursor, 2)
	if len(parts[0].GetProducts()) != 1000 || len(parts[1].GetProducts()) != 500 || parts[0].GetCursor() != cursor || parts[1].GetCursor() == cursor {
		t.Fatalf("%d products until %s, then %d", len(parts[0].GetProducts()), parts[0].GetCursor(), len(parts[1].GetProducts()))
	}
	edit(5000)
	if r := follow(t, c, cursor, 1)[0]; !r.GetLost() || len(r.GetProducts()) != 0 {
		t.Fatalf("after 6,500 changes: lost %v, %d products", r.GetLost(), len(r.GetProducts()))
	}
}

func TestFollowEnds(t *testing.T) {
	c := embedded(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := c.Follow(ctx, "", func(*catalogv1.ChangesResponse) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

func TestEditThatIsRefusedChangesNothing(t *testing.T) {
	c := embedded(t)
	before := lookUp(t, c, "SKU-1", "")[0]
	_, err := c.Edit("SKU-1", "", func(p *catalogv1.Product, isNew bool) error {
		p.PriceMinorUnits = 1
		if isNew {
			t.Error("SKU-1 is new")
		}
		return errEnough
	})
	if !errors.Is(err, errEnough) || lookUp(t, c, "SKU-1", "")[0] != before {
		t.Errorf("%v, now %v", err, lookUp(t, c, "SKU-1", "")[0])
	}
	p, err := c.Edit("NEW", "s", func(p *catalogv1.Product, isNew bool) error {
		if !isNew || p.GetSkuId() != "NEW" || p.GetSellerId() != "s" {
			t.Errorf("new %v: %v", isNew, p)
		}
		p.Currency = "USD"
		return nil
	})
	if err != nil || lookUp(t, c, "NEW", "")[0] != p {
		t.Errorf("%v, %v", p, err)
	}
}

// Weights are plausible, and the same in every process.
func TestWeights(t *testing.T) {
	c := embedded(t)
	got := lookUp(t, c, "SKU-456", "seller-1", "SKU-456", "seller-9", "85123A", "retail")
	if w := got[0].GetWeightGrams(); w < 108 || w > 132 || got[1].GetWeightGrams() != w || got[2].GetWeightGrams() != 400 {
		t.Errorf("weights of a mouse %d and %d, of a retail product %d", w, got[1].GetWeightGrams(), got[2].GetWeightGrams())
	}
}

var _ rpc.Catalog = (*catalog.Catalog)(nil)
