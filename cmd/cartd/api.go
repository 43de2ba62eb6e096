package main

import (
	"context"
	"log/slog"
	"net/http"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/proto/admin/v1/adminv1connect"
	"github.com/samecart/samecart/proto/catalog/v1/catalogv1connect"
	"github.com/samecart/samecart/rpc"
)

// surface is what a region's public handler is made of.
type surface struct {
	region  string
	names   map[crdt.RegionID]string
	regions func(context.Context) []rpc.RegionInfo
	serves  rpc.Region
	catalog catalogv1connect.CatalogServiceClient
	auth    rpc.Authenticator
	admin   adminv1connect.AdminServiceHandler
	limits  limits
	metrics *metrics
	log     *slog.Logger
}

func (s surface) handler() (*rpc.Handler, error) {
	cfg := rpc.DefaultConfig(s.region)
	cfg.RegionNames, cfg.Regions = s.names, s.regions
	cfg.QuantityMax, cfg.RequestTimeout = s.limits.QuantityMax, s.limits.RequestTimeout
	cfg.TokenWait = s.limits.RequestTimeout / 2
	cfg.CatalogTimeout = min(cfg.CatalogTimeout, s.limits.RequestTimeout/2)
	cfg.Events = s.metrics.rpcEvents(s.region)
	path, admin := adminv1connect.NewAdminServiceHandler(s.admin, connect.WithReadMaxBytes(adminBytesMax))
	return rpc.NewHandler(cfg, s.serves, s.catalog, s.auth, s.log,
		rpc.Mount{Pattern: path, Handler: admin, Scope: rpc.ScopeAdmin, BodyBytesMax: adminBytesMax},
		rpc.Mount{Pattern: "/metrics", Handler: s.metrics.handler(), Public: true},
	)
}

// namesOf turns a configuration's region ids round.
func namesOf(regions map[string]uint16) map[crdt.RegionID]string {
	out := make(map[crdt.RegionID]string, len(regions))
	for name, id := range regions {
		out[crdt.RegionID(id)] = name
	}
	return out
}

var _ http.Handler = (*rpc.Handler)(nil)
