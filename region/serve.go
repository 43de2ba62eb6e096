package region

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/link"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/region/store"
)

// handle registers what this node answers to others.
func (n *Node) handle() {
	n.mux.Handle(kindPropose, n.onPropose)
	n.mux.Handle(kindRead, n.onRead)
	n.mux.Handle(kindWait, n.onRead)
	n.mux.Handle(kindShard, n.onShard)
	n.mux.Handle(kindForm, n.onForm)
	n.mux.Handle(kindAdmit, n.onAdmit)
	n.mux.Handle(kindStatus, n.onStatus)
	n.mux.Handle(kindFirst, n.onFirst)
}

// shard returns a shard of this node, or the error that says it has none.
func (n *Node) shard(id uint32) (*shard.Shard, error) {
	if s := n.here(id); s != nil {
		return s, nil
	}
	return nil, &link.Error{Code: codeNotHere, Message: fmt.Sprintf("node %s does not run shard %d", n.cfg.Node, id)}
}

// crossing turns a shard's error into one that keeps its meaning on the way.
func crossing(err error) error {
	var other *shard.NotLeaderError
	switch {
	case errors.As(err, &other):
		return &link.Error{Code: codeNotLeader, Message: err.Error(), Detail: []byte(other.Leader)}
	case errors.Is(err, shard.ErrFenced):
		return &link.Error{Code: codeFenced, Message: err.Error()}
	case errors.Is(err, shard.ErrNoRegionMajority):
		return &link.Error{Code: codeNoRegionMajority, Message: err.Error()}
	case errors.Is(err, shard.ErrOverloaded):
		return &link.Error{Code: codeOverloaded, Message: err.Error()}
	case errors.Is(err, shard.ErrOutcomeUnknown), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, ErrClosed): // another node may still take it
		return &link.Error{Code: codeUnknown, Message: err.Error()}
	}
	return err
}

func (n *Node) onPropose(ctx context.Context, _ string, payload []byte) ([]byte, error) {
	var req regionv1.ProposeRequest
	if err := proto.Unmarshal(payload, &req); err != nil {
		return nil, fmt.Errorf("decode request: %w", err)
	}
	if req.Command.GetCommand() == nil {
		return nil, errors.New("request has no command that this version knows")
	}
	if e := req.Command.GetEdit(); e != nil {
		if err := validEdit(e); err != nil {
			return nil, err
		}
	}
	s, err := n.shard(req.Shard)
	if err != nil {
		return nil, err
	}
	out, err := s.Propose(ctx, req.Command)
	if err != nil {
		return nil, crossing(err)
	}
	return proto.Marshal(out)
}

func (n *Node) onRead(ctx context.Context, _ string, payload []byte) ([]byte, error) {
	var req regionv1.ReadRequest
	if err := proto.Unmarshal(payload, &req); err != nil {
		return nil, fmt.Errorf("decode request: %w", err)
	}
	s, err := n.shard(req.Shard)
	if err != nil {
		return nil, err
	}
	if !req.Any && !s.Leads() {
		_, err := s.Read(ctx, req.CartId, req.Strong)
		if err != nil {
			return nil, crossing(err)
		}
	}
	rec, err := n.readFor(ctx, s, &req)
	if err != nil {
		return nil, crossing(err)
	}
	resp := &regionv1.ReadResponse{Incarnation: n.Incarnation()}
	if rec != nil {
		if req.Badge {
			resp.Record = rec.EncodeBadge()
		} else {
			resp.Record = rec.Encode()
		}
	}
	return proto.Marshal(resp)
}

func (n *Node) readFor(ctx context.Context, s *shard.Shard, req *regionv1.ReadRequest) (*store.Record, error) {
	switch {
	case len(req.Covers) > 0:
		want, err := crdt.DecodeContext(req.Covers)
		if err != nil {
			return nil, err
		}
		if req.Fetch {
			rec, err := s.Local(req.CartId)
			if err != nil {
				return nil, err
			}
			if _, err := n.catchUp(ctx, req.Shard, view(req.CartId, rec, n.Incarnation()), want); err != nil {
				return nil, err
			}
		}
		return n.waitLocal(ctx, s, req.CartId, covering(want))
	case len(req.Differs) > 0:
		var seen Digest
		copy(seen[:], req.Differs)
		return n.waitLocal(ctx, s, req.CartId, differing(req.CartId, seen))
	case req.Any:
		return s.Local(req.CartId)
	}
	return s.Read(ctx, req.CartId, req.Strong)
}

// onShard answers what repair asks of a shard's leader.
func (n *Node) onShard(ctx context.Context, _ string, payload []byte) ([]byte, error) {
	var req regionv1.ShardRequest
	if err := proto.Unmarshal(payload, &req); err != nil {
		return nil, fmt.Errorf("decode request: %w", err)
	}
	s, err := n.shard(req.Shard)
	if err != nil {
		return nil, err
	}
	if !s.Leads() {
		return nil, crossing(&shard.NotLeaderError{Shard: req.Shard, Leader: s.Leader()})
	}
	var resp regionv1.ShardResponse
	switch r := req.Request.(type) {
	case *regionv1.ShardRequest_Digests:
		sums, err := s.Digests(r.Digests.Lo, r.Digests.Hi)
		if err != nil {
			return nil, err
		}
		floors, err := s.Floors(r.Digests.Lo, r.Digests.Hi)
		if err != nil {
			return nil, err
		}
		for i, d := range sums {
			resp.Digests = append(resp.Digests, slices.Clone(d[:]))
			resp.ForgottenBeforeMs = append(resp.ForgottenBeforeMs, floors[i].Before.UnixMilli())
		}
	case *regionv1.ShardRequest_Bucket_:
		carts, more, err := s.Bucket(r.Bucket.Slot, r.Bucket.After, int(min(r.Bucket.Limit, 4096)))
		if err != nil {
			return nil, err
		}
		for _, c := range carts {
			resp.Carts = append(resp.Carts, &regionv1.CartDigest{CartId: c.CartID, Digest: slices.Clone(c.Digest[:])})
		}
		resp.More = more
	case *regionv1.ShardRequest_Whole_:
		if s.IsOfBefore() {
			return nil, crossing(fmt.Errorf("%w: its carts are of before", shard.ErrFenced))
		}
		for _, id := range r.Whole.CartIds {
			b, err := wholeCart(s, id)
			if err != nil {
				return nil, err
			}
			resp.States = append(resp.States, b)
		}
	case *regionv1.ShardRequest_Cursor:
		cur, err := s.Cursor(crdt.Stream{
			Region: crdt.RegionID(r.Cursor.RegionId), Incarnation: r.Cursor.Incarnation, Shard: r.Cursor.Shard,
		})
		if err != nil {
			return nil, err
		}
		resp.Cursor = cur
	case *regionv1.ShardRequest_Known_:
		highest, err := s.Incarnation(crdt.RegionID(r.Known.RegionId), r.Known.Slot)
		if err != nil {
			return nil, err
		}
		resp.Incarnation = highest
	case *regionv1.ShardRequest_Collectable_:
		ok, err := s.Collectable(digestsIn(r.Collectable.Carts))
		if err != nil {
			return nil, err
		}
		resp.Collectable = ok
	case *regionv1.ShardRequest_Expirable:
		ok, err := s.Expirable(dueIn(r.Expirable.Carts))
		if err != nil {
			return nil, err
		}
		resp.Expirable = ok
	case *regionv1.ShardRequest_Standing_:
		m := s.Marker()
		resp.Membership, resp.Incarnation, resp.Kept, resp.Left = s.Membership(), m.Incarnation, m.Kept, m.Kept-m.Reissued
		resp.Empty = m.Seq == 0 && m.Carts == 0
	case *regionv1.ShardRequest_Elsewhere_, *regionv1.ShardRequest_Kept:
		if err := n.onKept(ctx, s, &req, &resp); err != nil {
			return nil, err
		}
	case *regionv1.ShardRequest_Repair:
		if n.cfg.Repair == nil {
			return nil, fmt.Errorf("node %s knows no other region", n.cfg.Node)
		}
		if err := n.cfg.Repair(req.Shard, r.Repair); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("unknown request %T", req.Request)
	}
	return proto.Marshal(&resp)
}

func digestsIn(carts []*regionv1.CartDigest) []store.CartDigest {
	out := make([]store.CartDigest, len(carts))
	for i, c := range carts {
		out[i].CartID = c.CartId
		copy(out[i].Digest[:], c.Digest)
	}
	return out
}

func wholeCart(s *shard.Shard, id string) ([]byte, error) {
	whole, err := s.Whole(id)
	if err != nil || whole == nil {
		return nil, err
	}
	return whole.Encode(nil), nil
}

func (n *Node) onStatus(context.Context, string, []byte) ([]byte, error) {
	resp := &regionv1.StatusResponse{Node: n.cfg.Node}
	select {
	case <-n.formed:
		resp.Incarnation = n.Incarnation()
	default: // what is configured need not be what the region has
	}
	for _, id := range n.heldShards() {
		s := n.here(id)
		if s == nil {
			continue
		}
		m := s.Marker()
		resp.State = s.Membership().Of(uint32(n.cfg.Router.Region)).GetState()
		st := &regionv1.StatusResponse_Shard{
			Shard: id, Leader: s.Leader(), Leads: s.Leads(), Applied: m.Applied, LogSeq: m.Seq, Carts: m.Carts,
		}
		if st.Leads && n.cfg.Peers != nil {
			st.Peers = n.cfg.Peers(id)
		}
		resp.Shards = append(resp.Shards, st)
	}
	return proto.Marshal(resp)
}

// Shard returns this node's member of a shard's group; ok is false while it has
// none that runs.
func (n *Node) Shard(id uint32) (s *shard.Shard, ok bool) {
	s, err := n.shard(id)
	return s, err == nil
}
