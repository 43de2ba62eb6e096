package client

import (
	"context"
	"net/http"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
)

// NewGuest makes a guest session, with the token that proves it.
func (c *Client) NewGuest(ctx context.Context) (*cartv1.GuestSession, error) {
	anybody := c.Session(func(context.Context, http.Header) error { return nil })
	a, err := perform(ctx, anybody, cartv1connect.CartServiceCreateGuestSessionProcedure, read, &cartv1.CreateGuestSessionRequest{}, cartv1connect.CartServiceClient.CreateGuestSession, nil)
	return a.Msg, err
}

// Merge brings a guest's cart into the shopper's, at the login: once, however often
// it is asked for. A new session that first Observes the guest session's Token has
// the merge wait for what the device has seen of the guest's cart.
func (s *Session) Merge(ctx context.Context, msg *cartv1.MergeCartRequest, opts ...Option) (Answer[cartv1.MergeCartResponse], error) {
	return perform(ctx, s, cartv1connect.CartServiceMergeCartProcedure, mutation, msg, cartv1connect.CartServiceClient.MergeCart, opts)
}
