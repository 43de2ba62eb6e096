package main

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	"github.com/samecart/samecart/proto/admin/v1/adminv1connect"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
)

// A product is edited through one region, and who watches a cart with it sees it
// in every region, at once.
func TestEditedProductsReachWatchersInEveryRegion(t *testing.T) {
	d := sharedDev(t)
	s := d.shopper(t)
	put := func(price string, stock int64) *connect.Response[adminv1.PutProductResponse] {
		t.Helper()
		res, err := d.admin("us-east").PutProduct(t.Context(), connect.NewRequest(&adminv1.PutProductRequest{
			SkuId: "SKU-777", SellerId: "tester", Name: new("A Thing"), Currency: new("USD"), Price: &price, Stock: &stock, WeightGrams: new(int64(250)),
		}))
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	put("10.00", 5)
	s.do(http.StatusOK, "us-east", "POST", "/api/v1/cart/items", map[string]any{"sku_id": "SKU-777", "seller_id": "tester", "quantity": 1})
	s.converge(10 * time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	streams := make(map[string]*connect.ServerStreamForClient[cartv1.WatchCartResponse])
	for _, region := range regions {
		req := connect.NewRequest(&cartv1.WatchCartRequest{})
		req.Header().Set("X-User-Id", s.headers.Get("X-User-Id"))
		stream, err := cartv1connect.NewCartServiceClient(http.DefaultClient, d.url(region)).WatchCart(ctx, req)
		if err != nil || !stream.Receive() {
			t.Fatalf("watch in %s: %v", region, err)
		}
		defer stream.Close() //nolint:errcheck // it is at its end
		streams[region] = stream
	}
	if p := put("12.5", 0).Msg.GetProduct(); p.GetPriceMinorUnits() != 1250 || p.GetStock() != 0 || p.GetSeller() != "tester" {
		t.Errorf("put: %v", p)
	}
	for region, stream := range streams {
		for {
			if !stream.Receive() {
				t.Fatalf("%s: %v", region, stream.Err())
			}
			it := stream.Msg().GetCart().GetItems()[0]
			if it.GetCurrentPrice().GetMinorUnits() == 1250 {
				if !it.GetPriceChanged() || it.GetInStock() || it.GetPrice().GetMinorUnits() != 1000 {
					t.Errorf("%s shows %v", region, it)
				}
				break
			}
		}
	}
	// The lines of the cart can be sent.
	a := s.do(http.StatusOK, "eu-west", "GET", "/api/v1/cart/shipping?country=US", nil)
	if !strings.Contains(string(a.body), `"cost":3.95`) {
		t.Errorf("shipping: %s", a.body)
	}
}

func TestEditsOfProductsThatAreRefused(t *testing.T) {
	d := sharedDev(t)
	admin := d.admin("us-east")
	for want, req := range map[string]*adminv1.PutProductRequest{
		"sku_id":                 {SkuId: "a/b", Price: new("1")},
		"seller_id":              {SkuId: "SKU-1", SellerId: "ä", Price: new("1")},
		"name must":              {SkuId: "SKU-1", Name: new("")},
		"it has 201":             {SkuId: "SKU-1", Name: new(strings.Repeat("n", 201))},
		`price "cheap"`:          {SkuId: "SKU-1", Price: new("cheap")},
		`price "-1"`:             {SkuId: "SKU-1", Price: new("-1")},
		"USD has 2":              {SkuId: "SKU-1", Price: new("1.001")},
		`price "99999999999999"`: {SkuId: "SKU-1", Price: new("99999999999999")},
		"no code of ISO 4217":    {SkuId: "SKU-1", Price: new("1"), Currency: new("usd")},
		"without a price":        {SkuId: "SKU-1", Currency: new("EUR")},
		"stock -1":               {SkuId: "SKU-1", Stock: new(int64(-1))},
		"weight_grams":           {SkuId: "SKU-1", WeightGrams: new(int64(1 << 40))},
	} {
		if _, err := admin.PutProduct(t.Context(), connect.NewRequest(req)); connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	for _, req := range []*adminv1.PutProductRequest{
		{SkuId: "NO-SUCH", Price: new("1")},
		{SkuId: "SKU-1", SellerId: "nobody", Stock: new(int64(1))},
		{SkuId: "NO-SUCH", SellerId: "s", Name: new("n"), Price: new("1")},
	} {
		if _, err := admin.PutProduct(t.Context(), connect.NewRequest(req)); connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("%v: %v", req, err)
		}
	}
	anyone := adminv1connect.NewAdminServiceClient(http.DefaultClient, d.url("us-east"))
	if _, err := anyone.PutProduct(t.Context(), connect.NewRequest(&adminv1.PutProductRequest{SkuId: "SKU-1", Price: new("1")})); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("without the scope: %v", err)
	}
	// Nodes of a region each have a catalogue of their own.
	if _, err := (&server{}).catalogue(); !errors.Is(err, errRefused) {
		t.Errorf("a node: %v", err)
	}
}
