package main

import (
	"context"
	"strings"
	"testing"

	"connectrpc.com/connect"

	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	catalogv1 "github.com/samecart/samecart/proto/catalog/v1"
)

func (r fakeRegion) EstimateShipping(_ context.Context, req *connect.Request[cartv1.EstimateShippingRequest]) (*connect.Response[cartv1.EstimateShippingResponse], error) {
	user, err := owner(req.Header())
	if err != nil {
		return nil, err
	}
	if req.Msg.GetCountry() == "ZZ" {
		return nil, apiError(connect.CodeInvalidArgument, "INVALID_FIELD", "country ZZ is no destination that the shop knows")
	}
	return connect.NewResponse(&cartv1.EstimateShippingResponse{
		CartId: "cart:" + user, Total: &cartv1.Money{Currency: "USD", MinorUnits: 395}, Warnings: []string{"to " + req.Msg.GetCountry() + " " + req.Msg.GetPostalCode()},
		Items: []*cartv1.ShippingEstimate{
			{SkuId: "SKU-1", SellerId: "seller-1", Cost: &cartv1.Money{Currency: "USD", MinorUnits: 395}, DeliveryEstimate: "2026-12-03/2026-12-07"},
			{SkuId: "SKU-2", SellerId: "seller-9", Reason: "seller-9 does not send to GB"},
		},
	}), nil
}

func (r fakeRegion) PutProduct(_ context.Context, req *connect.Request[adminv1.PutProductRequest]) (*connect.Response[adminv1.PutProductResponse], error) {
	if req.Msg.Price == nil || req.Msg.GetPrice() != "31.5" {
		return nil, connect.NewError(connect.CodeInvalidArgument, nil)
	}
	return connect.NewResponse(&adminv1.PutProductResponse{Product: &catalogv1.Product{
		SkuId: req.Msg.GetSkuId(), SellerId: req.Msg.GetSellerId(), Name: "Wireless Mouse", Currency: "USD", PriceMinorUnits: 3150, Stock: req.Msg.GetStock(),
	}}), nil
}

func TestShippingCommand(t *testing.T) {
	_, addr := newFake(t)
	r := ctl(t, "shipping", "--addr", addr, "--user", "ada", "--country", "GB", "--postal-code", "SW1", "--json")
	o := r.object(t)
	if r.code != exitGood || at(t, o, "total") != 3.95 || at(t, o, "items", 0, "delivery_estimate") != "2026-12-03/2026-12-07" || at(t, o, "items", 1, "cost") != nil || at(t, o, "warnings", 0) != "to GB SW1" {
		t.Errorf("%d: %v", r.code, o)
	}
	if r := ctl(t, "shipping", "--addr", addr, "--user", "ada", "--country", "GB"); !strings.Contains(r.stdout, "3.95 USD") || !strings.Contains(r.stdout, "does not send to GB") {
		t.Errorf("for people: %s", r.stdout)
	}
	if r := ctl(t, "shipping", "--addr", addr, "--user", "ada", "--country", "ZZ", "--json"); r.code != exitFailed || at(t, r.object(t), "error", "code") != "INVALID_FIELD" {
		t.Errorf("unknown country: %d %s", r.code, r.stdout)
	}
	for _, args := range [][]string{{"--country", "GB"}, {"--user", "ada"}} {
		if r := ctl(t, append([]string{"shipping", "--addr", addr}, args...)...); r.code != exitUsage {
			t.Errorf("%v: %d %s", args, r.code, r.stderr)
		}
	}
}

func TestCatalogSetCommand(t *testing.T) {
	_, addr := newFake(t)
	r := ctl(t, "catalog", "set", "SKU-456", "--seller", "seller-1", "--price", "31.5", "--stock", "0", "--addr", addr, "--json")
	if o := r.object(t); r.code != exitGood || at(t, o, "price") != 31.5 || at(t, o, "stock") != 0.0 || at(t, o, "seller_id") != "seller-1" {
		t.Errorf("%d: %s", r.code, r.stdout)
	}
	if r := ctl(t, "catalog", "set", "SKU-456", "--price", "31.5", "--addr", addr); !strings.Contains(r.stdout, "31.50 USD") {
		t.Errorf("for people: %s", r.stdout)
	}
	if r := ctl(t, "catalog", "set", "SKU-456", "--price", "cheap", "--addr", addr); r.code != exitFailed {
		t.Errorf("bad price: %d", r.code)
	}
	for _, args := range [][]string{{"SKU-456"}, {}, {"SKU-456", "--stock", "many"}} {
		if r := ctl(t, append([]string{"catalog", "set", "--addr", addr}, args...)...); r.code != exitUsage {
			t.Errorf("%v: %d %s", args, r.code, r.stderr)
		}
	}
}
