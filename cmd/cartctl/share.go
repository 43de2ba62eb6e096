package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
)

type shareCmd struct {
	Create shareCreateCmd `cmd:"" help:"Make a link to the cart."`
	Revoke shareRevokeCmd `cmd:"" help:"End a link to the cart, in every region."`
	Get    shareGetCmd    `cmd:"" help:"Show what a link shares. Its token is all that is needed."`
	Copy   shareCopyCmd   `cmd:"" help:"Add what a link shares to the shopper's own cart: all of it, or nothing."`
}

type (
	shareCreateCmd struct {
		edit
		Mode    string        `help:"snapshot: the cart as it is now; live: as it is when somebody looks." enum:"snapshot,live" default:"snapshot"`
		Expires time.Duration `help:"How long the link is good, in whole seconds, at most 720h." default:"168h"`
	}
	shareRevokeCmd struct {
		edit
		ID string `arg:"" name:"id" help:"The link's id, which its making printed."`
	}
	sharedToken struct {
		Link string `arg:"" name:"link" help:"The link's token, or its address."`
	}
	shareGetCmd struct {
		sharedToken
		Region string `help:"Ask this region, not the one that --addr picks." placeholder:"NAME"`
	}
	shareCopyCmd struct {
		edit
		sharedToken
	}
)

// token is the last part of an address.
func (t sharedToken) token() string { return t.Link[strings.LastIndexByte(t.Link, '/')+1:] }

// Run makes a link.
func (c *shareCreateCmd) Run(a *app) error {
	if c.Expires < time.Second || c.Expires%time.Second != 0 {
		return usageError{fmt.Errorf("--expires %v: give whole seconds, at least one", c.Expires)}
	}
	seconds := uint64(c.Expires / time.Second)
	msg := &cartv1.ShareCartRequest{Mode: c.Mode, ExpiresInS: &seconds}
	answer, err := call(a, c.shopper, c.key(), nil, msg, cartv1connect.CartServiceClient.ShareCart)
	if err != nil {
		return err
	}
	m := answer.Msg
	return a.print(shown(m.ProtoReflect(), answer.Header()), func(w *tabwriter.Writer) {
		row(w, "id", m.GetId())
		row(w, "url", m.GetUrl())
		row(w, "token", m.GetToken())
		row(w, "until", time.UnixMilli(m.GetExpiresAtMs()).UTC().Format(time.RFC3339)+staleness(m.GetStale()))
	})
}

// Run ends a link.
func (c *shareRevokeCmd) Run(a *app) error {
	answer, err := call(a, c.shopper, c.key(), nil, &cartv1.RevokeShareRequest{Id: c.ID}, cartv1connect.CartServiceClient.RevokeShare)
	if err != nil {
		return err
	}
	m := answer.Msg
	return a.print(shown(m.ProtoReflect(), answer.Header()), func(w *tabwriter.Writer) { row(w, "revoked", m.GetId()) })
}

// Run shows what a link shares.
func (c *shareGetCmd) Run(a *app) error {
	answer, err := send(a, shopper{Region: c.Region}, "", nil, &cartv1.GetSharedRequest{Token: c.token()}, cartv1connect.CartServiceClient.GetShared)
	if err != nil {
		return err
	}
	m := answer.Msg
	return a.print(shown(m.ProtoReflect(), answer.Header()), func(w *tabwriter.Writer) {
		row(w, fmt.Sprintf("%s: %d items, subtotal %s, until %s%s", m.GetMode(), m.GetItemCount(), priced(m.GetSubtotal()),
			time.UnixMilli(m.GetExpiresAtMs()).UTC().Format(time.RFC3339), staleness(m.GetStale())))
		if len(m.GetItems()) > 0 {
			row(w, "SKU", "NAME", "SELLER", "OPTIONS", "QTY", "PRICE", "NOW")
		}
		for _, item := range m.GetItems() {
			row(w, item.GetSkuId(), item.GetName(), item.GetSellerId(), pairs(item.GetOptions()), item.GetQuantity(),
				priced(item.GetPriceAtAdd()), priced(item.GetCurrentPrice()))
		}
		for _, warning := range m.GetWarnings() {
			row(w, "warning: "+warning)
		}
	})
}

// Run copies what a link shares.
func (c *shareCopyCmd) Run(a *app) error {
	return printCart(a)(call(a, c.shopper, c.key(), nil, &cartv1.CopySharedRequest{Token: c.token()}, cartv1connect.CartServiceClient.CopyShared))
}
