package main

import (
	"context"
	"errors"
	"fmt"
	"unicode/utf8"

	"connectrpc.com/connect"

	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	catalogv1 "github.com/samecart/samecart/proto/catalog/v1"
	"github.com/samecart/samecart/rpc"
)

// Bounds on what an edit of a product may say.
const (
	productNameMax = 200        // bytes
	stockMax       = 1 << 40    // units
	gramsMax       = 10_000_000 // of one unit: ten tonnes
)

// PutProduct implements the service.
func (a admin) PutProduct(_ context.Context, req *connect.Request[adminv1.PutProductRequest]) (*connect.Response[adminv1.PutProductResponse], error) {
	products, err := a.ops.catalogue()
	if err != nil {
		return nil, adminError(err)
	}
	m := req.Msg
	invalid := func(format string, args ...any) error {
		return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf(format, args...))
	}
	switch {
	case !rpc.IsName(m.SkuId):
		return nil, invalid("sku_id %.80q must be 1 to 64 letters, digits, spaces and -_.:", m.SkuId)
	case m.SellerId != "" && !rpc.IsName(m.SellerId):
		return nil, invalid("seller_id %.80q must be 1 to 64 letters, digits, spaces and -_.:", m.SellerId)
	case m.Name != nil && (*m.Name == "" || len(*m.Name) > productNameMax || !utf8.ValidString(*m.Name)):
		return nil, invalid("name must be 1 to %d bytes; it has %d", productNameMax, len(*m.Name))
	case m.Currency != nil && m.Price == nil:
		return nil, invalid("currency %.10q without a price: give both", *m.Currency)
	case m.Stock != nil && (*m.Stock < 0 || *m.Stock > stockMax):
		return nil, invalid("stock %d must be 0 to %d", *m.Stock, int64(stockMax))
	case m.WeightGrams != nil && (*m.WeightGrams < 0 || *m.WeightGrams > gramsMax):
		return nil, invalid("weight_grams %d must be 0 to %d", *m.WeightGrams, gramsMax)
	}
	p, err := products.Edit(m.SkuId, m.SellerId, func(p *catalogv1.Product, isNew bool) error {
		if isNew && (m.SellerId == "" || m.Name == nil || m.Price == nil || m.Currency == nil) {
			return fmt.Errorf("%w: the catalogue has no sku_id %q of seller_id %q; a new product needs seller, name, price and currency", errUnknown, m.SkuId, m.SellerId)
		}
		return put(p, m)
	})
	switch {
	case errors.Is(err, errUnknown):
		return nil, adminError(err)
	case err != nil:
		return nil, invalid("%w", err)
	}
	return connect.NewResponse(&adminv1.PutProductResponse{Product: p}), nil
}

// put makes a product what a request says of it.
func put(p *catalogv1.Product, m *adminv1.PutProductRequest) error {
	if m.Currency != nil {
		p.Currency = *m.Currency
	}
	if m.Price != nil {
		price, err := rpc.ParsePrice(*m.Price, p.Currency)
		if err != nil {
			return fmt.Errorf("price %.40q %w", *m.Price, err)
		}
		p.PriceMinorUnits = price
	}
	if m.Name != nil {
		p.Name = *m.Name
	}
	if m.Stock != nil {
		p.Stock = *m.Stock
	}
	if m.WeightGrams != nil {
		p.WeightGrams = *m.WeightGrams
	}
	if p.Seller == "" {
		p.Seller = p.SellerId
	}
	return nil
}
