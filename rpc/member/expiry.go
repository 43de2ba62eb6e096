package member

import (
	"context"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/region/store"
	"github.com/samecart/samecart/replication"
)

// Expirable implements replication.Sink.
func (s Sink) Expirable(ctx context.Context, carts []replication.DueCart) ([]bool, error) {
	out := make([]region.DueCart, len(carts))
	for i, c := range carts {
		out[i] = region.DueCart{CartDigest: region.CartDigest{CartID: c.CartID, Digest: region.Digest(c.Digest)}, Active: c.Active}
	}
	return s.Router.Expirable(ctx, out)
}

// expiries is a shard that is led here as expiry needs it. For one goroutine.
type expiries struct {
	shard *shard.Shard
	owns  func(crdt.RegionID) bool
	place store.Indexed // where it looked last
}

var _ replication.Expiries = (*expiries)(nil)

// Due implements replication.Expiries. It puts the index right on its way.
func (e *expiries) Due(ctx context.Context) ([]replication.DueCart, bool, error) {
	look, err := e.shard.Due(ctx, e.place, e.owns)
	if err != nil {
		return nil, false, err
	}
	if len(look.Moved) > 0 {
		c := &regionv1.Expire{}
		for _, m := range look.Moved {
			c.Moved = append(c.Moved, &regionv1.Indexed{CartId: m.CartID, At: m.At})
		}
		if err := e.propose(ctx, c); err != nil {
			return nil, false, err
		}
	}
	e.place = look.Next
	out := make([]replication.DueCart, len(look.Due))
	for i, c := range look.Due {
		out[i] = replication.DueCart{CartDigest: replication.CartDigest{CartID: c.CartID, Digest: replication.Digest(c.Digest)}, Active: c.Active}
	}
	return out, len(look.Moved) > 0, nil
}

// Expire implements replication.Expiries.
func (e *expiries) Expire(ctx context.Context, carts []replication.DueCart) error {
	c := &regionv1.Expire{}
	for _, d := range carts {
		c.Carts = append(c.Carts, &regionv1.CartDigest{CartId: d.CartID, Digest: d.Digest[:]})
	}
	return e.propose(ctx, c)
}

func (e *expiries) propose(ctx context.Context, c *regionv1.Expire) error {
	_, err := e.shard.Propose(ctx, &regionv1.Command{Command: &regionv1.Command_Expire{Expire: c}})
	return err
}
