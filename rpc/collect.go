package rpc

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	replicationv1 "github.com/samecart/samecart/proto/replication/v1"
	"github.com/samecart/samecart/proto/replication/v1/replicationv1connect"
	"github.com/samecart/samecart/replication"
)

// Collect asks the region which carts may be collected, or has them collected.
func (c *PeerClient) Collect(ctx context.Context, hello replication.Hello, carts []replication.CartDigest, commit bool) ([]bool, error) {
	req := &replicationv1.CollectRequest{Hello: peerHello(hello), Commit: commit}
	for _, d := range carts {
		req.Carts = append(req.Carts, &replicationv1.CartDigest{CartId: d.CartID, Digest: d.Digest[:]})
	}
	resp, err := peerCall(ctx, c, func(to replicationv1connect.ReplicationServiceClient) (*connect.Response[replicationv1.CollectResponse], error) {
		return to.Collect(ctx, connect.NewRequest(req))
	})
	if err != nil {
		return nil, err
	}
	return resp.Msg.Collectable, nil
}

// ForgottenBefore returns for each of the region's slots the time, in milliseconds
// since the Unix epoch, before which carts last changed that may have been collected
// since; 0: none was.
func (c *PeerClient) ForgottenBefore(ctx context.Context, hello replication.Hello) ([]int64, error) {
	resp, err := peerCall(ctx, c, func(to replicationv1connect.ReplicationServiceClient) (*connect.Response[replicationv1.CollectResponse], error) {
		return to.Collect(ctx, connect.NewRequest(&replicationv1.CollectRequest{Hello: peerHello(hello)}))
	})
	if err != nil {
		return nil, err
	}
	return resp.Msg.ForgottenBeforeMs, nil
}

// Collect says which carts may be collected, or collects them.
func (h *PeerHandler) Collect(ctx context.Context, req *connect.Request[replicationv1.CollectRequest]) (*connect.Response[replicationv1.CollectResponse], error) {
	if _, err := h.hello(ctx, req.Msg.Hello); err != nil {
		return nil, err
	}
	if n := len(req.Msg.Carts); n > h.cfg.Limits.Carts {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("%d carts: at most %d", n, h.cfg.Limits.Carts))
	}
	if len(req.Msg.Carts) == 0 {
		at, err := h.sink.ForgottenBefore(ctx)
		if err != nil {
			return nil, peerError(fmt.Errorf("read what was collected: %w", err))
		}
		return connect.NewResponse(&replicationv1.CollectResponse{ForgottenBeforeMs: at}), nil
	}
	carts := make([]replication.CartDigest, len(req.Msg.Carts))
	for i, c := range req.Msg.Carts {
		if len(c.Digest) != 16 || len(c.CartId) == 0 || len(c.CartId) > h.cfg.Limits.CartIDBytes {
			return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("cart id of %d bytes with a digest of %d", len(c.CartId), len(c.Digest)))
		}
		carts[i] = replication.CartDigest{CartID: c.CartId, Digest: replication.Digest(c.Digest)}
	}
	ok, err := h.sink.Collect(ctx, carts, req.Msg.Commit)
	if err != nil {
		return nil, peerError(fmt.Errorf("collect %d carts: %w", len(carts), err))
	}
	return connect.NewResponse(&replicationv1.CollectResponse{Collectable: ok}), nil
}
