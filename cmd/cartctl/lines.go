package main

import (
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
)

type (
	saveCmd struct {
		edit
		line
	}
	moveCmd struct {
		edit
		line
	}
	undoCmd struct{ edit }
	noteCmd struct {
		edit
		line
		Attributes map[string]string `arg:"" optional:"" help:"The attributes that the line has from then on, as note=TEXT; none: it has none."`
	}
)

// Run puts a line aside.
func (c *saveCmd) Run(a *app) error {
	return printCart(a)(call(a, c.shopper, c.key(), nil, &cartv1.SaveItemRequest{Line: c.ref()}, cartv1connect.CartServiceClient.SaveItem))
}

// Run puts a line back.
func (c *moveCmd) Run(a *app) error {
	return printCart(a)(call(a, c.shopper, c.key(), nil, &cartv1.MoveItemRequest{Line: c.ref()}, cartv1connect.CartServiceClient.MoveItem))
}

// Run replaces a line's attributes.
func (c *noteCmd) Run(a *app) error {
	msg := &cartv1.DescribeItemRequest{Line: c.ref(), Attributes: c.Attributes}
	return printItem(a)(call(a, c.shopper, c.key(), nil, msg, cartv1connect.CartServiceClient.DescribeItem))
}

// Run undoes what was taken out last.
func (c *undoCmd) Run(a *app) error {
	return printCart(a)(call(a, c.shopper, c.key(), nil, &cartv1.UndoRequest{}, cartv1connect.CartServiceClient.Undo))
}
