package load

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"strings"
	"sync"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/cmd/cartctl/api"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
)

// Carts are the carts that calls are spread over.
type Carts struct {
	Count int
	Lines int // of each, from the demo catalogue
	run   string
}

// NewCarts returns carts that no run before had.
func NewCarts(count, lines int) Carts {
	return Carts{Count: count, Lines: lines, run: strings.ToLower(rand.Text()[:8])}
}

// CartClient calls the cart service for random carts. It does not decode what
// comes back: what a device does with a cart is not the service's cost. It is not
// safe for concurrent use.
type CartClient struct {
	carts  Carts
	rpc    cartv1connect.CartServiceClient
	add    *connect.Client[Wire, Wire]
	read   *connect.Client[Wire, Wire]
	bearer string
	codec  WireCodec
	random *mathrand.Rand
	id     string
	keys   uint64 // idempotency keys given out
}

// NewCartClient returns a client of the service at base; what it draws follows
// from the seed.
func NewCartClient(seed int, carts Carts, hc *http.Client, base, bearer string, asJSON bool) *CartClient {
	codec, opts := WireCodec{}, []connect.ClientOption(nil)
	if asJSON {
		codec.JSON, opts = true, append(opts, connect.WithProtoJSON())
	}
	call := func(procedure string) *connect.Client[Wire, Wire] {
		return connect.NewClient[Wire, Wire](hc, base+procedure, connect.WithCodec(codec), connect.WithAcceptCompression("gzip", nil, nil))
	}
	return &CartClient{
		carts: carts, bearer: bearer, id: strings.ToLower(rand.Text()[:12]), codec: codec,
		rpc: api.NewCart(hc, base, opts...),
		add: call(cartv1connect.CartServiceAddItemProcedure), read: call(cartv1connect.CartServiceGetCartProcedure),
		random: mathrand.New(mathrand.NewPCG(uint64(seed), 1)),
	}
}

// Add adds one to a random line of a random cart.
func (c *CartClient) Add(ctx context.Context) error {
	return c.addOnce(ctx, c.random.IntN(c.carts.Count), c.key())
}

// AddTo adds one to a random line of the cart-th cart, and tries again until that
// is certain.
func (c *CartClient) AddTo(ctx context.Context, cart int) error {
	key := c.key()
	return api.Do(ctx, api.Interactive(), func(ctx context.Context) error { return c.addOnce(ctx, cart, key) })
}

func (c *CartClient) addOnce(ctx context.Context, cart int, key string) error {
	w, err := c.codec.Encode(&cartv1.AddItemRequest{Line: c.carts.line(c.random.IntN(c.carts.Lines)), Quantity: 1})
	if err != nil {
		return err
	}
	req := connect.NewRequest(w)
	c.sign(req, cart)
	req.Header().Set("Idempotency-Key", key)
	_, err = c.add.CallUnary(ctx, req)
	return err
}

// Read reads a random cart.
func (c *CartClient) Read(ctx context.Context) error {
	w, err := c.codec.Encode(&cartv1.GetCartRequest{})
	if err != nil {
		return err
	}
	req := connect.NewRequest(w)
	c.sign(req, c.random.IntN(c.carts.Count))
	_, err = c.read.CallUnary(ctx, req)
	return err
}

// Mixed makes one add to nine reads.
func (c *CartClient) Mixed(ctx context.Context) error {
	if c.random.IntN(10) == 0 {
		return c.Add(ctx)
	}
	return c.Read(ctx)
}

// Fill gives every cart its lines, in as many calls at once as there are
// clients.
func Fill(ctx context.Context, clients []*CartClient) error {
	errs := make([]error, len(clients))
	var wait sync.WaitGroup
	for i, c := range clients {
		wait.Go(func() {
			for cart := i; cart < c.carts.Count && errs[i] == nil; cart += len(clients) {
				errs[i] = c.fill(ctx, cart)
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

func (c *CartClient) fill(ctx context.Context, cart int) error {
	edits := make([]*cartv1.Edit, c.carts.Lines)
	for n := range edits {
		edits[n] = &cartv1.Edit{Edit: &cartv1.Edit_Add{Add: &cartv1.AddItemRequest{Line: c.carts.line(n), Quantity: 1}}}
	}
	key := c.key()
	return api.Do(ctx, api.Interactive(), func(ctx context.Context) error {
		req := connect.NewRequest(&cartv1.BatchEditRequest{Edits: edits})
		c.sign(req, cart)
		req.Header().Set("Idempotency-Key", key)
		_, err := c.rpc.BatchEdit(ctx, req)
		return err
	})
}

func (Carts) line(n int) *cartv1.LineRef { return &cartv1.LineRef{SkuId: fmt.Sprintf("SKU-%d", n+1)} }

func (c *CartClient) key() string {
	c.keys++
	return fmt.Sprintf("bench-%s-%d", c.id, c.keys)
}

// Owner is the user whose cart is the n-th.
func (c Carts) Owner(n int) string { return fmt.Sprintf("bench-%s-%d", c.run, n) }

// sign sets the identity of the cart-th shopper.
func (c *CartClient) sign(req connect.AnyRequest, cart int) {
	api.Identity{User: c.carts.Owner(cart), Bearer: c.bearer}.Apply(req.Header())
}
