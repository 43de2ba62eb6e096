package client

import (
	"context"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
)

// ApplyPromotion puts a code into the cart.
func (s *Session) ApplyPromotion(ctx context.Context, code string, opts ...Option) (Answer[cartv1.Cart], error) {
	return perform(ctx, s, cartv1connect.CartServiceApplyPromotionProcedure, mutation, &cartv1.ApplyPromotionRequest{Code: code}, cartv1connect.CartServiceClient.ApplyPromotion, opts)
}

// RemovePromotion takes a code out of the cart.
func (s *Session) RemovePromotion(ctx context.Context, code string, opts ...Option) (Answer[cartv1.Cart], error) {
	return perform(ctx, s, cartv1connect.CartServiceRemovePromotionProcedure, mutation, &cartv1.RemovePromotionRequest{Code: code}, cartv1connect.CartServiceClient.RemovePromotion, opts)
}

// Redeem uses a code of limited uses once. Tried again under the same operation it is
// one use, whichever region answers.
func (s *Session) Redeem(ctx context.Context, code string, opts ...Option) (Answer[cartv1.RedeemPromotionResponse], error) {
	return perform(ctx, s, cartv1connect.CartServiceRedeemPromotionProcedure, mutation, &cartv1.RedeemPromotionRequest{Code: code}, cartv1connect.CartServiceClient.RedeemPromotion, opts)
}

// Shipping estimates what sending the cart's lines costs, and when they come.
func (s *Session) Shipping(ctx context.Context, msg *cartv1.EstimateShippingRequest, opts ...Option) (Answer[cartv1.EstimateShippingResponse], error) {
	return perform(ctx, s, cartv1connect.CartServiceEstimateShippingProcedure, read, msg, cartv1connect.CartServiceClient.EstimateShipping, opts)
}
