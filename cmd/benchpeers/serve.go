package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/redis/go-redis/v9"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
	"github.com/samecart/samecart/rpc"
)

// serveCommand is a target that is a Connect handler.
type serveCommand struct {
	Listen string `required:""`
	Redis  string `help:"Keep carts there; without it answers are empty."`
}

// Run serves until ctx ends.
func (c *serveCommand) Run(ctx context.Context) error {
	var carts cartv1connect.CartServiceHandler = emptyCarts{}
	if c.Redis != "" {
		client := redis.NewClient(&redis.Options{Addr: c.Redis, PoolSize: 32})
		defer func() { _ = client.Close() }() // nothing of it is kept
		carts = redisCarts{redis: client}
	}
	_, h := cartv1connect.NewCartServiceHandler(carts)
	ln, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return err
	}
	s := rpc.NewServer(c.Listen, h, slog.New(slog.DiscardHandler))
	go func() { <-ctx.Done(); _ = s.Close() }()
	if err := s.Serve(ln); ctx.Err() == nil {
		return err
	}
	return nil
}

// emptyCarts answers at once: what is left is the cost of a call.
type emptyCarts struct {
	cartv1connect.UnimplementedCartServiceHandler
}

// AddItem implements the cart service.
func (emptyCarts) AddItem(context.Context, *connect.Request[cartv1.AddItemRequest]) (*connect.Response[cartv1.ItemResponse], error) {
	return connect.NewResponse(&cartv1.ItemResponse{}), nil
}

// GetCart implements the cart service.
func (emptyCarts) GetCart(context.Context, *connect.Request[cartv1.GetCartRequest]) (*connect.Response[cartv1.Cart], error) {
	return connect.NewResponse(&cartv1.Cart{}), nil
}

// BatchEdit implements the cart service: there is nothing to fill.
func (emptyCarts) BatchEdit(context.Context, *connect.Request[cartv1.BatchEditRequest]) (*connect.Response[cartv1.BatchEditResponse], error) {
	return connect.NewResponse(&cartv1.BatchEditResponse{}), nil
}

// redisCarts keeps a cart as a hash: a field a line, a quantity each. Adds of
// one line at the same time overwrite each other, as they do in carts that are
// kept so.
type redisCarts struct {
	cartv1connect.UnimplementedCartServiceHandler
	redis *redis.Client
}

const cartLife = 30 * 24 * time.Hour

func cartKey(req connect.AnyRequest) string { return "cart:" + req.Header().Get("X-User-Id") }

// AddItem implements the cart service.
func (c redisCarts) AddItem(ctx context.Context, req *connect.Request[cartv1.AddItemRequest]) (*connect.Response[cartv1.ItemResponse], error) {
	key, line := cartKey(req), req.Msg.GetLine()
	p := c.redis.Pipeline()
	p.HSet(ctx, key, line.GetSkuId(), req.Msg.GetQuantity())
	p.Expire(ctx, key, cartLife)
	all := p.HGetAll(ctx, key)
	if _, err := p.Exec(ctx); err != nil {
		return nil, err
	}
	count, err := countOf(all.Val())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&cartv1.ItemResponse{
		CartId: key, ItemCount: count, Item: &cartv1.Item{SkuId: line.GetSkuId(), Quantity: req.Msg.GetQuantity()},
	}), nil
}

func countOf(fields map[string]string) (sum uint64, err error) {
	for field, v := range fields {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			return 0, fmt.Errorf("field %s: %w", field, err)
		}
		sum += n
	}
	return sum, nil
}

// BatchEdit implements the cart service, for adds.
func (c redisCarts) BatchEdit(ctx context.Context, req *connect.Request[cartv1.BatchEditRequest]) (*connect.Response[cartv1.BatchEditResponse], error) {
	key := cartKey(req)
	p := c.redis.Pipeline()
	for _, e := range req.Msg.GetEdits() {
		p.HSet(ctx, key, e.GetAdd().GetLine().GetSkuId(), e.GetAdd().GetQuantity())
	}
	p.Expire(ctx, key, cartLife)
	if _, err := p.Exec(ctx); err != nil {
		return nil, err
	}
	return connect.NewResponse(&cartv1.BatchEditResponse{CartId: key}), nil
}

// GetCart implements the cart service.
func (c redisCarts) GetCart(ctx context.Context, req *connect.Request[cartv1.GetCartRequest]) (*connect.Response[cartv1.Cart], error) {
	key := cartKey(req)
	fields, err := c.redis.HGetAll(ctx, key).Result()
	if err != nil {
		return nil, err
	}
	out := &cartv1.Cart{CartId: key}
	for sku, v := range fields {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("field %s: %w", sku, err)
		}
		out.Items = append(out.Items, &cartv1.Item{SkuId: strings.Clone(sku), Quantity: uint32(n)})
		out.ItemCount += n
	}
	return connect.NewResponse(out), nil
}
