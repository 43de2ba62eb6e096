package member

import (
	"cmp"
	"context"
	"time"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/proto/catalog/v1/catalogv1connect"
	"github.com/samecart/samecart/rpc"
)

// Surface is what a region's public API is made of, beside its place.
type Surface struct {
	Serves  rpc.Region // a router, or a node that answers in its place
	Names   map[crdt.RegionID]string
	Regions func(context.Context) []rpc.RegionInfo // what clients are told
	Catalog catalogv1connect.CatalogServiceClient
	Auth    rpc.Authenticator
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
	cfg.TokenWait = s.RequestTimeout / 2
	cfg.CatalogTimeout = min(cfg.CatalogTimeout, s.RequestTimeout/2)
	cfg.Events = p.Events.API
	cfg.ShareKey, cfg.ShareURL = s.ShareKey, cmp.Or(s.ShareURL, cfg.ShareURL)
	return rpc.NewHandler(cfg, s.Serves, s.Catalog, s.Auth, p.Log, s.Mounts...)
}
