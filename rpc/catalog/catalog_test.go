package catalog_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"connectrpc.com/connect"

	catalogv1 "github.com/samecart/samecart/proto/catalog/v1"
	"github.com/samecart/samecart/proto/catalog/v1/catalogv1connect"
	"github.com/samecart/samecart/rpc/catalog"
)

// Of SKU-1, seller-1.
const (
	goldenName  = "Bamboo Bottle"
	goldenPrice = 7785
)

func embedded(t *testing.T) *catalog.Catalog {
	t.Helper()
	c, err := catalog.New()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// looker is a catalogue, in the process or over the wire.
type looker interface {
	LookUp(ctx context.Context, req *connect.Request[catalogv1.LookUpRequest]) (*connect.Response[catalogv1.LookUpResponse], error)
}

func lookUp(t *testing.T, c looker, pairs ...string) []*catalogv1.Product {
	t.Helper()
	req := &catalogv1.LookUpRequest{}
	for i := 0; i < len(pairs); i += 2 {
		req.Products = append(req.Products, &catalogv1.ProductRef{SkuId: pairs[i], SellerId: pairs[i+1]})
	}
	res, err := c.LookUp(context.Background(), connect.NewRequest(req))
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg.GetProducts()
}

func TestEmbeddedHoldsWhatIsPromised(t *testing.T) {
	c := embedded(t)
	if c.Len() != 3922+999*9 || c.Skipped != 0 {
		t.Fatalf("%d products, %d rows skipped", c.Len(), c.Skipped)
	}
	got := lookUp(t, c, "SKU-456", "", "SKU-456", "seller-1", "SKU-456", "seller-2", "85123A", "", "PADS", "retail", "10002", "",
		"NOPE", "", "SKU-1000", "", "SKU-0", "", "SKU-1", "seller-10", "SKU-1", "retail", "BANK CHARGES", "")
	mouse := got[0]
	if mouse.GetName() != "Wireless Mouse" || mouse.GetPriceMinorUnits() != 2999 || mouse.GetCurrency() != "USD" || mouse.GetSellerId() != "seller-1" || mouse.GetStock() <= 0 {
		t.Errorf("SKU-456 is %v", mouse)
	}
	if got[1] != mouse || got[2].GetSellerId() != "seller-2" || got[2].GetName() != mouse.GetName() {
		t.Errorf("sellers of SKU-456: %v, %v", got[1], got[2])
	}
	if p := got[3]; p.GetSellerId() != "retail" || p.GetCurrency() != "GBP" || p.GetPriceMinorUnits() <= 0 {
		t.Errorf("85123A is %v", p)
	}
	if got[4].GetPriceMinorUnits() != 1 {
		t.Errorf("PADS at 0.001 costs %d pence, must be rounded up to 1", got[4].GetPriceMinorUnits())
	}
	if p := got[5]; p.GetName() != "INFLATABLE POLITICAL GLOBE" || p.GetPriceMinorUnits() != 85 {
		t.Errorf("10002 is %v", p)
	}
	for _, p := range got[6:11] {
		if p.GetSkuId() != "" {
			t.Errorf("unknown product found: %v", p)
		}
	}
	if got[11].GetSkuId() != "BANK CHARGES" {
		t.Error("a SKU with a space is not found")
	}
}

// Every process must show the same demo products.
func TestDemoProductsAreTheSameInEveryProcess(t *testing.T) {
	a, b := embedded(t), embedded(t)
	for _, seller := range []string{"seller-1", "seller-9"} {
		x, y := lookUp(t, a, "SKU-1", seller)[0], lookUp(t, b, "SKU-1", seller)[0]
		if x.String() != y.String() || x.GetPriceMinorUnits() < 299 || x.GetPriceMinorUnits() > 20599 {
			t.Errorf("%v, %v", x, y)
		}
	}
	// A golden value: a change here changes what users see after an upgrade.
	if p := lookUp(t, a, "SKU-1", "seller-1")[0]; p.GetName() != goldenName || p.GetPriceMinorUnits() != goldenPrice {
		t.Errorf("SKU-1 is now %q at %d", p.GetName(), p.GetPriceMinorUnits())
	}
}

func TestLiveEdits(t *testing.T) {
	c := embedded(t)
	before := lookUp(t, c, "SKU-456", "")[0]
	if !c.SetPrice("SKU-456", "", 3499) || !c.SetStock("SKU-456", "seller-1", 0) {
		t.Fatal("edit of a product that is there was refused")
	}
	if c.SetPrice("NOPE", "", 1) || c.SetStock("SKU-1", "nobody", 1) {
		t.Fatal("edit of a product that is not there was taken")
	}
	after := lookUp(t, c, "SKU-456", "")[0]
	if after.GetPriceMinorUnits() != 3499 || after.GetStock() != 0 || before.GetPriceMinorUnits() != 2999 {
		t.Errorf("before %v, after %v", before, after)
	}
	c.Put(&catalogv1.Product{SkuId: "NEW", SellerId: "x", Name: "New", Currency: "JPY", PriceMinorUnits: 100})
	if lookUp(t, c, "NEW", "")[0].GetSellerId() != "x" {
		t.Error("new product has no default seller")
	}
}

func TestReadersAndEditors(t *testing.T) {
	c := embedded(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range int64(200) {
				c.SetPrice("SKU-2", "seller-1", i+1)
			}
		})
		wg.Go(func() {
			for range 200 {
				if p := lookUp(t, c, "SKU-2", "")[0]; p.GetPriceMinorUnits() < 1 {
					t.Error("half an edit was seen")
				}
			}
		})
	}
	wg.Wait()
}

func TestOverHTTP(t *testing.T) {
	mux := http.NewServeMux()
	mux.Handle(catalogv1connect.NewCatalogServiceHandler(embedded(t)))
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	client := catalogv1connect.NewCatalogServiceClient(srv.Client(), srv.URL)
	if p := lookUp(t, client, "NOPE", "", "SKU-456", "")[1]; p.GetName() != "Wireless Mouse" {
		t.Errorf("got %v", p)
	}
	req := &catalogv1.LookUpRequest{Products: make([]*catalogv1.ProductRef, 1001)}
	for i := range req.Products {
		req.Products[i] = &catalogv1.ProductRef{}
	}
	if _, err := client.LookUp(t.Context(), connect.NewRequest(req)); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("1,001 products: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := embedded(t).LookUp(ctx, connect.NewRequest(&catalogv1.LookUpRequest{})); err == nil {
		t.Error("a caller that left was answered")
	}
}
