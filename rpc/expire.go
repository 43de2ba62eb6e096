package rpc

import (
	"context"
	"fmt"
	"math"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	replicationv1 "github.com/samecart/samecart/proto/replication/v1"
	"github.com/samecart/samecart/proto/replication/v1/replicationv1connect"
	"github.com/samecart/samecart/replication"
)

// Expirable asks the region which carts may expire as far as it knows.
func (c *PeerClient) Expirable(ctx context.Context, hello replication.Hello, carts []replication.DueCart) ([]bool, error) {
	req := &replicationv1.ExpirableRequest{Hello: peerHello(hello)}
	for _, d := range carts {
		req.Carts = append(req.Carts, &replicationv1.DueCart{
			CartId: d.CartID, Digest: d.Digest[:], ActiveAt: uint64(d.Active.At), ActiveRegion: uint32(d.Active.Region),
		})
	}
	resp, err := peerCall(ctx, c, func(to replicationv1connect.ReplicationServiceClient) (*connect.Response[replicationv1.ExpirableResponse], error) {
		return to.Expirable(ctx, connect.NewRequest(req))
	})
	if err != nil {
		return nil, err
	}
	return resp.Msg.Expirable, nil
}

// Expirable says which carts may expire.
func (h *PeerHandler) Expirable(ctx context.Context, req *connect.Request[replicationv1.ExpirableRequest]) (*connect.Response[replicationv1.ExpirableResponse], error) {
	if _, err := h.hello(ctx, req.Msg.Hello); err != nil {
		return nil, err
	}
	if n := len(req.Msg.Carts); n > h.cfg.Limits.Carts {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("%d carts: at most %d", n, h.cfg.Limits.Carts))
	}
	carts := make([]replication.DueCart, len(req.Msg.Carts))
	for i, c := range req.Msg.Carts {
		if len(c.Digest) != 16 || len(c.CartId) == 0 || len(c.CartId) > h.cfg.Limits.CartIDBytes || c.ActiveRegion > math.MaxUint16 {
			return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("cart id of %d bytes with a digest of %d, active in region %d", len(c.CartId), len(c.Digest), c.ActiveRegion))
		}
		carts[i] = replication.DueCart{
			CartDigest: replication.CartDigest{CartID: c.CartId, Digest: replication.Digest(c.Digest)},
			Active:     crdt.Active{At: crdt.Timestamp(c.ActiveAt), Region: crdt.RegionID(c.ActiveRegion)},
		}
	}
	ok, err := h.sink.Expirable(ctx, carts)
	if err != nil {
		return nil, peerError(fmt.Errorf("look at %d due carts: %w", len(carts), err))
	}
	return connect.NewResponse(&replicationv1.ExpirableResponse{Expirable: ok}), nil
}
