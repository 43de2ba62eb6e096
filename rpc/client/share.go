package client

import (
	"context"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
)

// Share makes a link that shows the cart to whoever has its token.
func (s *Session) Share(ctx context.Context, msg *cartv1.ShareCartRequest, opts ...Option) (Answer[cartv1.ShareCartResponse], error) {
	return perform(ctx, s, cartv1connect.CartServiceShareCartProcedure, mutation, msg, cartv1connect.CartServiceClient.ShareCart, opts)
}

// RevokeShare ends a link of the cart, in every region.
func (s *Session) RevokeShare(ctx context.Context, id string, opts ...Option) (Answer[cartv1.RevokeShareResponse], error) {
	return perform(ctx, s, cartv1connect.CartServiceRevokeShareProcedure, mutation, &cartv1.RevokeShareRequest{Id: id}, cartv1connect.CartServiceClient.RevokeShare, opts)
}

// Shared shows what a link shares, whoever's cart it is.
func (s *Session) Shared(ctx context.Context, token string, opts ...Option) (Answer[cartv1.SharedCart], error) {
	return perform(ctx, s, cartv1connect.CartServiceGetSharedProcedure, read, &cartv1.GetSharedRequest{Token: token}, cartv1connect.CartServiceClient.GetShared, opts)
}

// CopyShared adds what a link shares to the session's own cart: all, or nothing.
func (s *Session) CopyShared(ctx context.Context, token string, opts ...Option) (Answer[cartv1.Cart], error) {
	return perform(ctx, s, cartv1connect.CartServiceCopySharedProcedure, mutation, &cartv1.CopySharedRequest{Token: token}, cartv1connect.CartServiceClient.CopyShared, opts)
}
