package region

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/region/store"
)

// Badge is a View without the cart: how many items it has.
type Badge struct {
	CartID  string
	Count   uint64
	Erased  bool
	Context crdt.CausalContext
	Digest  Digest
	Stale   bool // see View
}

// Count returns the badge of a cart, as Read does the cart, and reads no line where
// it need not: what the leader has in memory, or the first bytes of what a node or the
// cache has. A value of the cache is believed by its version alone: its content, which
// the digest covers, is not there.
func (r *Router) Count(ctx context.Context, cartID string, o ReadOptions) (Badge, error) {
	id := r.shardOf(cartID)
	if o.HasToken && !o.Strong {
		if b, ok := r.nearbyBadge(ctx, id, cartID); ok && b.Context.Covers(o.Context) {
			return badgeOf(cartID, b), nil
		}
	}
	b, err := r.leaderBadge(ctx, &regionv1.ReadRequest{Shard: id, CartId: cartID, Strong: o.Strong, Badge: true}, o.Strong)
	switch {
	case err == nil && (!o.HasToken || b.Context.Covers(o.Context)):
		return b, nil
	case errors.Is(err, ErrFenced):
		return Badge{}, err
	}
	// No leader, or it lacks what the token names: Read knows what to do.
	v, err := r.Read(ctx, cartID, o)
	if err != nil {
		return Badge{}, err
	}
	return Badge{
		CartID: cartID, Count: uint64(v.Count), Erased: v.State.Cart.IsErased(),
		Context: v.State.Cart.Context, Digest: v.Digest, Stale: v.Stale,
	}, nil
}

func badgeOf(cartID string, b store.Badge) Badge {
	return Badge{CartID: cartID, Count: uint64(b.Count), Erased: b.Erased, Context: b.Context, Digest: Digest(b.Digest)}
}

// recordBadge is the badge of a record; nil is a cart that is not there.
func recordBadge(cartID string, rec *store.Record) Badge {
	if rec == nil {
		return Badge{CartID: cartID, Digest: Digest(shard.DigestOfRecord(cartID, nil))}
	}
	return badgeOf(cartID, rec.Badge())
}

// nearbyBadge is nearby for a badge: of a cart that is there.
func (r *Router) nearbyBadge(ctx context.Context, id uint32, cartID string) (store.Badge, bool) {
	if s := r.here(id); s != nil {
		rec, err := s.Local(cartID)
		if err != nil || rec == nil {
			return store.Badge{}, false
		}
		return rec.Badge(), true
	}
	e, ok := r.cfg.Cache.LoadHead(ctx, cartID, store.BadgeBytes)
	if !ok || len(e.Data) == 0 {
		return store.Badge{}, false
	}
	b, err := store.DecodeBadge(e.Data)
	return b, err == nil && b.Index == e.Version.Index
}

func (r *Router) leaderBadge(ctx context.Context, req *regionv1.ReadRequest, wait bool) (Badge, error) {
	if s := r.here(req.Shard); s != nil && s.Leads() {
		if rec, err := s.Read(ctx, req.CartId, req.Strong); err == nil {
			return recordBadge(req.CartId, rec), nil
		}
	}
	payload, err := proto.Marshal(req)
	if err != nil {
		return Badge{}, fmt.Errorf("encode read: %w", err)
	}
	limited := ctx
	if !wait {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, r.cfg.StaleAfter)
		defer cancel()
	}
	answer, err := r.atLeader(limited, request{shard: req.Shard, kind: kindRead, payload: payload, harmless: true})
	if err != nil {
		return Badge{}, unread(ctx, err)
	}
	var resp regionv1.ReadResponse
	if err := proto.Unmarshal(answer, &resp); err != nil {
		return Badge{}, fmt.Errorf("decode answer: %w", err)
	}
	if len(resp.Record) == 0 {
		return recordBadge(req.CartId, nil), nil
	}
	b, err := store.DecodeBadge(resp.Record)
	if err != nil {
		return Badge{}, fmt.Errorf("decode answer: %w", err)
	}
	return badgeOf(req.CartId, b), nil
}
