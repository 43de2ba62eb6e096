package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/samecart/samecart/cmd/cartctl/api"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
)

// shopper says whose cart is meant, and where.
type shopper struct {
	User   string `help:"User whose cart is meant." placeholder:"ID"`
	Guest  string `help:"Guest session whose cart is meant." placeholder:"ID"`
	Region string `help:"Ask this region, not the one that --addr picks." placeholder:"NAME"`
}

// check is called by commands before they do anything; a token names its
// shopper itself.
func (s shopper) check(a *app) error {
	switch {
	case s.User != "" && s.Guest != "":
		return usageError{errors.New("--user and --guest name two carts: give one")}
	case s.User == "" && s.Guest == "" && a.bearer == "":
		return usageError{errors.New("whose cart? give --user, --guest or --token")}
	}
	return nil
}

// edit is what every mutation takes.
type edit struct {
	shopper

	Key string `name:"idempotency-key" help:"Idempotency key; the same key twice is applied once. Made at random when not given." placeholder:"KEY"`
}

// line names a line of a cart.
type line struct {
	SKU     string            `arg:"" name:"sku" help:"SKU of the line."`
	Seller  string            `help:"Seller; not needed where the SKU has one." placeholder:"ID"`
	Options map[string]string `help:"Size, colour: part of what the line is." placeholder:"K=V"`
}

func (l line) ref() *cartv1.LineRef {
	return &cartv1.LineRef{SkuId: l.SKU, SellerId: l.Seller, Options: l.Options}
}

type (
	getCmd struct {
		shopper
		Strong bool `help:"Let the region confirm its leader with a majority first."`
	}
	explainCmd struct{ shopper }
	addCmd     struct {
		edit
		line
		Quantity uint32 `arg:"" optional:"" default:"1" help:"How many to add."`
	}
	setCmd struct {
		edit
		line
		Quantity uint32 `arg:"" help:"The quantity; 0 removes the line."`
	}
	removeCmd struct {
		edit
		line
	}
	clearCmd struct{ edit }
)

// unary is a unary method of the cart service.
type unary[Req, Resp any] func(cartv1connect.CartServiceClient, context.Context, *connect.Request[Req]) (*connect.Response[Resp], error)

// call sends msg for the shopper, with retries; key is empty for a read.
func call[Req, Resp any](a *app, s shopper, key string, header http.Header, msg *Req, method unary[Req, Resp]) (*connect.Response[Resp], error) {
	if err := s.check(a); err != nil {
		return nil, err
	}
	return send(a, s, key, header, msg, method)
}

// send is call for what needs no shopper.
func send[Req, Resp any](a *app, s shopper, key string, header http.Header, msg *Req, method unary[Req, Resp]) (*connect.Response[Resp], error) {
	base := a.base
	if s.Region != "" {
		regions, err := a.regions()
		if err != nil {
			return nil, err
		}
		if base, err = api.Find(regions, s.Region); err != nil {
			return nil, usageError{err}
		}
	}
	client := api.NewCart(a.http, base)
	var answer *connect.Response[Resp]
	policy := api.Interactive()
	policy.Retried = func(err error) { a.notef("cartctl: trying again after %v", api.Describe(err)) }
	err := api.Do(a.ctx, policy, func(ctx context.Context) error {
		req := connect.NewRequest(msg)
		maps.Copy(req.Header(), header)
		api.Identity{User: s.User, Guest: s.Guest, Bearer: a.bearer}.Apply(req.Header())
		if key != "" {
			req.Header().Set("Idempotency-Key", key)
		}
		var err error
		answer, err = method(client, ctx, req)
		return err
	})
	return answer, err
}

// key is the given idempotency key or a new one.
func (e edit) key() string {
	if e.Key != "" {
		return e.Key
	}
	return "cartctl-" + rand.Text()
}

// shown adds to a message what the headers say of it.
func shown(m protoreflect.Message, h http.Header) map[string]any {
	out := view(m)
	if region := h.Get("Cart-Region"); region != "" {
		out["region"] = region
	}
	if h.Get("Idempotent-Replayed") == "true" {
		out["replayed"] = true
	}
	return out
}

// Run shows the cart.
func (c *getCmd) Run(a *app) error {
	header := http.Header{}
	if c.Strong {
		header.Set("Cart-Consistency", "strong")
	}
	return printCart(a)(call(a, c.shopper, "", header, &cartv1.GetCartRequest{}, cartv1connect.CartServiceClient.GetCart))
}

// printCart prints the answer that is the whole cart.
func printCart(a *app) func(*connect.Response[cartv1.Cart], error) error {
	return func(answer *connect.Response[cartv1.Cart], err error) error {
		if err != nil {
			return err
		}
		cart := answer.Msg
		return a.print(shown(cart.ProtoReflect(), answer.Header()), func(w *tabwriter.Writer) {
			row(w, fmt.Sprintf("%s: %d items, subtotal %s%s%s", cart.GetCartId(), cart.GetItemCount(), priced(cart.GetSubtotal()),
				optional(", region ", answer.Header().Get("Cart-Region")), staleness(cart.GetStale())))
			for _, part := range []struct {
				title string
				items []*cartv1.Item
			}{{"SKU", cart.GetItems()}, {"SAVED SKU", cart.GetSavedItems()}} {
				if len(part.items) == 0 {
					continue
				}
				row(w, part.title, "NAME", "SELLER", "OPTIONS", "QTY", "PRICE", "NOW", "ATTRIBUTES")
				for _, item := range part.items {
					row(w, item.GetSkuId(), item.GetName(), item.GetSellerId(), pairs(item.GetOptions()), item.GetQuantity(),
						priced(item.GetPriceAtAdd()), priced(item.GetCurrentPrice()), pairs(item.GetAttributes()))
				}
			}
			printTotals(w, cart)
			printConflicts(w, cart.GetConflicts())
			for _, warning := range cart.GetWarnings() {
				row(w, "warning: "+warning)
			}
		})
	}
}

// Run adds to the cart.
func (c *addCmd) Run(a *app) error {
	msg := &cartv1.AddItemRequest{Line: c.ref(), Quantity: c.Quantity}
	return printItem(a)(call(a, c.shopper, c.key(), nil, msg, cartv1connect.CartServiceClient.AddItem))
}

// Run sets a quantity.
func (c *setCmd) Run(a *app) error {
	msg := &cartv1.SetQuantityRequest{Line: c.ref(), Quantity: c.Quantity}
	return printItem(a)(call(a, c.shopper, c.key(), nil, msg, cartv1connect.CartServiceClient.SetQuantity))
}

// Run removes a line.
func (c *removeCmd) Run(a *app) error {
	msg := &cartv1.RemoveItemRequest{Line: c.ref()}
	return printCount(a)(call(a, c.shopper, c.key(), nil, msg, cartv1connect.CartServiceClient.RemoveItem))
}

// Run removes all lines.
func (c *clearCmd) Run(a *app) error {
	return printCount(a)(call(a, c.shopper, c.key(), nil, &cartv1.ClearCartRequest{}, cartv1connect.CartServiceClient.ClearCart))
}

// printItem prints the answer of an edit that names its line.
func printItem(a *app) func(*connect.Response[cartv1.ItemResponse], error) error {
	return func(answer *connect.Response[cartv1.ItemResponse], err error) error {
		if err != nil {
			return err
		}
		m := answer.Msg
		return a.print(shown(m.ProtoReflect(), answer.Header()), func(w *tabwriter.Writer) {
			if item := m.GetItem(); item != nil {
				row(w, "SKU", "NAME", "SELLER", "OPTIONS", "QTY", "PRICE")
				row(w, item.GetSkuId(), item.GetName(), item.GetSellerId(), pairs(item.GetOptions()), item.GetQuantity(), priced(item.GetPriceAtAdd()))
			}
			printTail(w, m.GetCartId(), m.GetItemCount(), m.GetStale(), answer.Header())
			printConflicts(w, m.GetConflicts())
		})
	}
}

// printCount prints the answer of an edit that took lines away.
func printCount(a *app) func(*connect.Response[cartv1.CountResponse], error) error {
	return func(answer *connect.Response[cartv1.CountResponse], err error) error {
		if err != nil {
			return err
		}
		m := answer.Msg
		return a.print(shown(m.ProtoReflect(), answer.Header()), func(w *tabwriter.Writer) {
			printTail(w, m.GetCartId(), m.GetItemCount(), m.GetStale(), answer.Header())
		})
	}
}

func printTail(w *tabwriter.Writer, cartID string, count uint64, stale bool, h http.Header) {
	replayed := ""
	if h.Get("Idempotent-Replayed") == "true" {
		replayed = ", applied before under this key"
	}
	row(w, fmt.Sprintf("%s: %d items%s%s%s", cartID, count, optional(", region ", h.Get("Cart-Region")), staleness(stale), replayed))
}

func printConflicts(w *tabwriter.Writer, conflicts []*cartv1.Conflict) {
	for _, c := range conflicts {
		row(w, fmt.Sprintf("conflict: %s of %s (%s) is %s, of %s", c.GetField(), c.GetSkuId(), c.GetSellerId(), c.GetValue(), strings.Join(c.GetValues(), ", ")))
	}
}

// Run explains the cart.
func (c *explainCmd) Run(a *app) error {
	answer, err := call(a, c.shopper, "", nil, &cartv1.ExplainCartRequest{}, cartv1connect.CartServiceClient.ExplainCart)
	if err != nil {
		return err
	}
	m := answer.Msg
	return a.print(shown(m.ProtoReflect(), answer.Header()), func(w *tabwriter.Writer) {
		row(w, fmt.Sprintf("%s, seen: %s", m.GetCartId(), m.GetContext()))
		for _, f := range m.GetFacts() {
			for _, write := range f.GetWrites() {
				row(w, fmt.Sprintf("%s %s, written by %s.%d:%d: %s", f.GetKind(), f.GetId(), write.GetRegion(), write.GetIncarnation(), write.GetSeq(), f.GetRule()))
			}
		}
		for _, line := range m.GetLines() {
			for _, field := range line.GetFields() {
				if len(field.GetWrites()) > 1 && field.GetField() != "presence" {
					row(w, fmt.Sprintf("%s: %s", line.GetSkuId(), field.GetWhy()))
				}
			}
		}
		if len(m.GetLines()) == 0 {
			return
		}
		row(w, "LINE", "FIELD", "VALUE", "WRITTEN BY", "WINS", "RULE")
		for _, line := range m.GetLines() {
			name := strings.TrimSpace(line.GetSkuId() + " " + line.GetSellerId() + " " + pairs(line.GetOptions()))
			for _, field := range line.GetFields() {
				for _, write := range field.GetWrites() {
					row(w, name, field.GetField(), write.GetValue(), writtenBy(write), map[bool]string{true: "yes", false: ""}[write.GetWins()], field.GetRule())
				}
			}
		}
	})
}

// writtenBy names a write by its dot.
func writtenBy(w *cartv1.ExplainedWrite) string {
	by := fmt.Sprintf("%s.%d:%d", w.GetRegion(), w.GetIncarnation(), w.GetSeq())
	if w.GetLineage() != "" {
		by += " of " + w.GetLineage()
	}
	return by
}

// pairs writes options in one order.
func pairs(options map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(options)) {
		out = append(out, k+"="+options[k])
	}
	return strings.Join(out, " ")
}

// optional puts label before value, where there is one.
func optional(label, value string) string {
	if value == "" {
		return ""
	}
	return label + value
}

func staleness(stale bool) string {
	if stale {
		return ", STALE: some acknowledged edits may not be shown"
	}
	return ""
}
