package main

import (
	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/proto/admin/v1/adminv1connect"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/rpc"
)

// mounts are what is served beside the API.
func mounts(ops operations, m *metrics) []rpc.Mount {
	path, service := adminv1connect.NewAdminServiceHandler(admin{ops}, connect.WithReadMaxBytes(adminBytesMax))
	return []rpc.Mount{
		{Pattern: path, Handler: service, Scope: rpc.ScopeAdmin, BodyBytesMax: adminBytesMax},
		{Pattern: "/metrics", Handler: m.handler(), Public: true},
	}
}

// ofCarts are the limits that the region itself holds carts to.
func (l limits) ofCarts() shard.Limits {
	return shard.Limits{
		Lines: l.LinesMax, Quantity: l.QuantityMax, OpLife: l.OpLife, Codes: l.CodesMax, Undo: l.Undo,
		Lives: shard.Lives{Guest: l.GuestLife, User: l.UserLife, Saved: l.SavedLife, Skew: l.ClockSkew},
	}
}

// namesOf turns a configuration's region ids round.
func namesOf(regions map[string]uint16) map[crdt.RegionID]string {
	out := make(map[crdt.RegionID]string, len(regions))
	for name, id := range regions {
		out[crdt.RegionID(id)] = name
	}
	return out
}
