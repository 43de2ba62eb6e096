package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"

	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	"github.com/samecart/samecart/proto/admin/v1/adminv1connect"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
)

type (
	shippingCmd struct {
		shopper
		Country    string `help:"Where to: two letters of ISO 3166-1, such as GB." required:"" placeholder:"CODE"`
		PostalCode string `help:"Postal code there." placeholder:"CODE"`
	}
	catalogCmd struct {
		Set catalogSetCmd `cmd:"" help:"Change a product of cartd dev's catalogue, or add one; carts that are watched show it at once."`
	}
	catalogSetCmd struct {
		SKU      string  `arg:"" name:"sku" help:"SKU of the product."`
		Seller   string  `help:"Seller; not needed where the SKU's default one is meant." placeholder:"ID"`
		Name     *string `help:"Name." placeholder:"TEXT"`
		Price    *string `help:"Price, such as 31.50." placeholder:"DECIMAL"`
		Currency *string `help:"Currency of the price; not needed where it stays." placeholder:"CODE"`
		Stock    *int64  `help:"Units on hand." placeholder:"N"`
		Grams    *int64  `help:"Weight of one unit." placeholder:"N"`
	}
)

// Run estimates what sending the cart costs.
func (c *shippingCmd) Run(a *app) error {
	msg := &cartv1.EstimateShippingRequest{Country: c.Country, PostalCode: c.PostalCode}
	answer, err := call(a, c.shopper, "", nil, msg, cartv1connect.CartServiceClient.EstimateShipping)
	if err != nil {
		return err
	}
	m := answer.Msg
	return a.print(shown(m.ProtoReflect(), answer.Header()), func(w *tabwriter.Writer) {
		row(w, fmt.Sprintf("%s: shipping %s%s%s", m.GetCartId(), priced(m.GetTotal()), optional(", region ", answer.Header().Get("Cart-Region")), staleness(m.GetStale())))
		if len(m.GetItems()) > 0 {
			row(w, "SKU", "SELLER", "OPTIONS", "COST", "DELIVERY")
		}
		for _, item := range m.GetItems() {
			delivery := item.GetDeliveryEstimate()
			if delivery == "" {
				delivery = item.GetReason()
			}
			cost := priced(item.GetCost())
			if item.GetFreeShipping() {
				cost = "free, by a code"
			}
			row(w, item.GetSkuId(), item.GetSellerId(), pairs(item.GetOptions()), cost, delivery)
		}
		for _, warning := range m.GetWarnings() {
			row(w, "warning: "+warning)
		}
	})
}

// Run changes a product.
func (c *catalogSetCmd) Run(a *app) error {
	if c.Name == nil && c.Price == nil && c.Stock == nil && c.Grams == nil {
		return usageError{errors.New("nothing to change: give --price, --stock, --name or --grams")}
	}
	msg := &adminv1.PutProductRequest{SkuId: c.SKU, SellerId: c.Seller, Name: c.Name, Price: c.Price, Currency: c.Currency, Stock: c.Stock, WeightGrams: c.Grams}
	answer, err := administer(a.ctx, a.operator(), msg, adminv1connect.AdminServiceClient.PutProduct)
	if err != nil {
		return err
	}
	p := answer.GetProduct()
	price := &cartv1.Money{Currency: p.GetCurrency(), MinorUnits: p.GetPriceMinorUnits()}
	out := view(p.ProtoReflect())
	out["price"] = json.Number(amount(price))
	delete(out, "price_minor_units")
	return a.print(out, func(w *tabwriter.Writer) {
		row(w, "SKU", "NAME", "SELLER", "PRICE", "STOCK", "GRAMS")
		row(w, p.GetSkuId(), p.GetName(), p.GetSellerId(), priced(price), p.GetStock(), p.GetWeightGrams())
	})
}
