package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
)

type (
	exportCmd struct{ shopper }
	eraseCmd  struct {
		edit
		Wait    bool          `help:"Wait until all regions have erased the cart."`
		Timeout time.Duration `help:"How long to wait." default:"10m"`
	}
)

// Run shows what is kept.
func (c *exportCmd) Run(a *app) error {
	answer, err := call(a, c.shopper, "", nil, &cartv1.ExportCartRequest{}, cartv1connect.CartServiceClient.ExportCart)
	if err != nil {
		return err
	}
	m := answer.Msg
	return a.print(shown(m.ProtoReflect(), answer.Header()), func(w *tabwriter.Writer) {
		row(w, fmt.Sprintf("%s, as %s keeps it, seen: %s", m.GetCartId(), m.GetRegion(), m.GetContext()))
		row(w, "KEPT", "WHAT", "DETAIL")
		for _, part := range []struct {
			kept  string
			items []*cartv1.Item
		}{{"in the cart", m.GetCart().GetItems()}, {"saved", m.GetCart().GetSavedItems()}, {"removed, for an undo", m.GetRemovedItems()}} {
			for _, item := range part.items {
				row(w, part.kept, item.GetSkuId(), fmt.Sprintf("%d of %s %s %s", item.GetQuantity(), item.GetSellerId(), pairs(item.GetOptions()), pairs(item.GetAttributes())))
			}
		}
		for _, f := range m.GetFacts() {
			row(w, f.GetKind(), f.GetId(), f.GetRule())
		}
		for _, r := range m.GetRequests() {
			row(w, "request", r.GetOpId(), time.UnixMilli(r.GetAtMs()).UTC().Format(time.RFC3339))
		}
	})
}

// Run erases. A region that is cut off hears of it when it is reached again; --wait
// asks until all have.
func (c *eraseCmd) Run(a *app) error {
	ctx, cancel := context.WithTimeout(a.ctx, c.Timeout)
	defer cancel()
	erase := func() (*connect.Response[cartv1.EraseCartResponse], error) {
		return call(a, c.shopper, c.key(), nil, &cartv1.EraseCartRequest{}, cartv1connect.CartServiceClient.EraseCart)
	}
	answer, err := erase()
	if err != nil {
		return err
	}
	also := answer.Msg.GetAlso() // the first answer alone knows them
	for c.Wait && !answer.Msg.GetComplete() {
		t := time.NewTimer(time.Second)
		select {
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("not all regions have erased the cart after %v: ask again: %w", c.Timeout, ctx.Err())
		case <-t.C:
		}
		if answer, err = erase(); err != nil {
			return err
		}
	}
	answer.Msg.Also = also
	m := answer.Msg
	return a.print(shown(m.ProtoReflect(), answer.Header()), func(w *tabwriter.Writer) {
		row(w, fmt.Sprintf("%s: erased%s", m.GetCartId(), map[bool]string{true: " in all regions"}[m.GetComplete()]))
		for _, id := range also {
			row(w, "also "+id)
		}
		row(w, "REGION", "ERASED AT", "LOG INDEX", "PENDING")
		for _, r := range m.GetRegions() {
			at := ""
			if r.GetErasedAtMs() != 0 {
				at = time.UnixMilli(r.GetErasedAtMs()).UTC().Format(time.RFC3339)
			}
			row(w, r.GetRegion(), at, r.GetLogIndex(), r.GetPending())
		}
	})
}
