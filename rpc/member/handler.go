package member

import (
	"cmp"
	"context"
	"time"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/proto/promotion/v1/promotionv1connect"
	"github.com/samecart/samecart/proto/shipping/v1/shippingv1connect"
	"github.com/samecart/samecart/rpc"
)

// Surface is what a region's public API is made of, beside its place.
type Surface struct {
	Serves  rpc.Region // a router, or a node that answers in its place
	Names   map[crdt.RegionID]string
	Regions func(context.Context) []rpc.RegionInfo // what clients are told
	Catalog rpc.Catalog
	// Shipping may be nil: then there are no estimates.
	Shipping shippingv1connect.ShippingServiceClient
	// Promotions are the shop's rules; nil: there are no codes.
	Promotions promotionv1connect.PromotionServiceClient
	Auth       rpc.Authenticator
	Guests     *rpc.GuestSessions // nil: none are made here
	// RequestTimeout is the longest answer to one request.
	RequestTimeout time.Duration
	Mounts         []rpc.Mount // what is served beside the API

	ShareKey []byte // as rpc.Config has it
	ShareURL string // where links are found; empty: at the API, as a path
}

// Handler is the public API of the place's region; [rpc.NewServer] gives it a
// server.
func (p Place) Handler(s Surface) (*rpc.Handler, error) {
	cfg := rpc.DefaultConfig(p.Region)
	cfg.RegionNames, cfg.Regions = s.Names, s.Regions
	cfg.QuantityMax, cfg.RequestTimeout = p.Limits.Quantity, s.RequestTimeout
	cfg.Lives = p.Limits.Lives.Of()
	cfg.TokenWait = s.RequestTimeout / 2
	cfg.CatalogTimeout = min(cfg.CatalogTimeout, s.RequestTimeout/2)
	cfg.Guests, cfg.Events = s.Guests, p.Events.API
	cfg.Records, _ = s.Serves.(rpc.Records) // of a test's region there are none
	cfg.Shipping.Service, cfg.Shipping.Timeout = s.Shipping, min(cfg.Shipping.Timeout, s.RequestTimeout/2)
	cfg.PromotionTimeout = min(cfg.PromotionTimeout, s.RequestTimeout/2)
	cfg.Promotions, cfg.CodesMax = s.Promotions, int(p.Limits.Codes)
	uses, err := usesOf(s.Serves)
	if err != nil {
		return nil, err
	}
	cfg.PromotionUses = uses
	cfg.ShareKey, cfg.ShareURL = s.ShareKey, cmp.Or(s.ShareURL, cfg.ShareURL)
	return rpc.NewHandler(cfg, s.Serves, s.Catalog, s.Auth, p.Log, s.Mounts...)
}
