package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
)

// promotionCmd groups what changes a cart's promotion codes.
type promotionCmd struct {
	Add    promotionAddCmd    `cmd:"" help:"Put a promotion code into a cart."`
	Remove promotionRemoveCmd `cmd:"" help:"Take a promotion code out of a cart."`
}

type code struct {
	Code string `arg:"" help:"The code, in any case."`
}

type (
	promotionAddCmd struct {
		edit
		code
	}
	promotionRemoveCmd struct {
		edit
		code
	}
)

// Run puts a code into the cart.
func (c *promotionAddCmd) Run(a *app) error {
	msg := &cartv1.ApplyPromotionRequest{Code: c.Code}
	return printCart(a)(call(a, c.shopper, c.key(), nil, msg, cartv1connect.CartServiceClient.ApplyPromotion))
}

// Run takes a code out of the cart.
func (c *promotionRemoveCmd) Run(a *app) error {
	msg := &cartv1.RemovePromotionRequest{Code: c.Code}
	return printCart(a)(call(a, c.shopper, c.key(), nil, msg, cartv1connect.CartServiceClient.RemovePromotion))
}

// printTotals prints what the codes of a cart do, and what it costs.
func printTotals(w *tabwriter.Writer, cart *cartv1.Cart) {
	for _, p := range cart.GetPromotionsApplied() {
		var does []string
		if !p.GetFreeShipping() || p.GetDiscount().GetMinorUnits() > 0 {
			does = append(does, "-"+priced(p.GetDiscount()))
		}
		if p.GetFreeShipping() {
			does = append(does, "free shipping")
		}
		row(w, fmt.Sprintf("code %s: %s%s", p.GetCode(), strings.Join(does, ", "), optional(", ", p.GetTitle())))
	}
	for _, p := range cart.GetPromotionsRejected() {
		row(w, fmt.Sprintf("code %s does not count: %s", p.GetCode(), p.GetReason()))
	}
	if len(cart.GetPromotionsApplied())+len(cart.GetPromotionsRejected()) > 0 {
		row(w, fmt.Sprintf("subtotal %s, estimated total %s", priced(cart.GetSubtotal()), priced(cart.GetEstimatedTotal())))
	}
}
