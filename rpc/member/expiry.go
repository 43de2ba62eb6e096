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
	// first is before all entries that the last pass has left, but for those that
	// came since with a time that was over, as a repair may bring them. A pass that
	// begins there does not step over what is deleted before.
	first  store.Indexed
	kept   bool // first is of this pass
	passes int
}

// wholePass is how many passes there are to one that begins at the beginning of the
// index: with one a second, ten minutes.
const wholePass = 600

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
	if !e.kept && (look.Next == store.Indexed{} || look.Kept.CartID != "") {
		e.first, e.kept = look.Kept, true
	}
	if e.place = look.Next; e.place == (store.Indexed{}) {
		if e.passes++; e.passes%wholePass == 0 {
			e.first = store.Indexed{}
		}
		e.place, e.kept = before(e.first), false
	}
	out := make([]replication.DueCart, len(look.Due))
	for i, c := range look.Due {
		out[i] = replication.DueCart{CartDigest: replication.CartDigest{CartID: c.CartID, Digest: replication.Digest(c.Digest)}, Active: c.Active}
	}
	return out, len(look.Moved) > 0, nil
}

// before is an entry before the given one, and after those of earlier seconds.
func before(e store.Indexed) store.Indexed { return store.Indexed{At: e.At} }

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
