package region

import (
	"context"
	"errors"
	"fmt"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/shard"
)

// Elsewhere returns a cart as another region has it, an encoded crdt.State; nil when
// it has none.
func (r *Router) Elsewhere(ctx context.Context, other crdt.RegionID, cartID string) ([]byte, error) {
	if r.cfg.Fetcher != nil {
		return r.cfg.Fetcher.Fetch(ctx, other, cartID)
	}
	// A gateway reaches no other region; the nodes do.
	resp, err := r.ask(ctx, &regionv1.ShardRequest{Shard: r.shardOf(cartID), Request: &regionv1.ShardRequest_Elsewhere_{
		Elsewhere: &regionv1.ShardRequest_Elsewhere{RegionId: uint32(other), CartId: cartID},
	}})
	if err != nil || len(resp.GetStates()) == 0 {
		return nil, err
	}
	return resp.GetStates()[0], nil
}

// Kept is what a region keeps of a cart beside its value.
type Kept struct {
	Requests []crdt.Op    // that are remembered; without a dot where that is gone
	Removed  crdt.Removed // what an undo would bring back
}

// Kept returns what the region keeps of a cart, as its leader has it.
func (r *Router) Kept(ctx context.Context, cartID string) (Kept, error) {
	resp, err := r.ask(ctx, &regionv1.ShardRequest{Shard: r.shardOf(cartID), Request: &regionv1.ShardRequest_Kept{Kept: cartID}})
	if err != nil {
		return Kept{}, err
	}
	var k Kept
	if len(resp.GetStates()) > 0 && len(resp.GetStates()[0]) > 0 {
		s, err := crdt.DecodeState(resp.GetStates()[0])
		if err != nil {
			return Kept{}, fmt.Errorf("decode what is kept of a cart: %w", err)
		}
		k.Requests = s.Ops
	}
	if len(resp.GetRemoved()) > 0 {
		if k.Removed, err = crdt.DecodeRemoved(resp.GetRemoved()); err != nil {
			return Kept{}, fmt.Errorf("decode what was removed of a cart: %w", err)
		}
	}
	return k, nil
}

// onKept answers Kept and Elsewhere.
func (n *Node) onKept(ctx context.Context, s *shard.Shard, req *regionv1.ShardRequest, resp *regionv1.ShardResponse) error {
	if e := req.GetElsewhere(); e != nil {
		if n.cfg.Router.Fetcher == nil {
			return errors.New("this node reaches no other region")
		}
		state, err := n.cfg.Router.Fetcher.Fetch(ctx, crdt.RegionID(e.GetRegionId()), e.GetCartId())
		if err != nil {
			return err
		}
		resp.States = [][]byte{state}
		return nil
	}
	state, err := wholeCart(s, req.GetKept())
	if err != nil {
		return err
	}
	removed, err := s.Removed(req.GetKept())
	if err != nil {
		return err
	}
	resp.States = [][]byte{state}
	if removed != nil {
		resp.Removed = removed.Encode(nil)
	}
	return nil
}
