package region

import (
	"context"
	"fmt"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/region/store"
)

// DueCart is a cart of which something is due.
type DueCart struct {
	CartDigest
	Active crdt.Active
}

// Expirable says for each cart whether it may expire as far as this region knows, see
// shard.Shard.Expirable.
func (r *Router) Expirable(ctx context.Context, carts []DueCart) ([]bool, error) {
	out := make([]bool, len(carts))
	digests := make([]CartDigest, len(carts))
	for i, c := range carts {
		digests[i] = c.CartDigest
	}
	err := r.byShard(digests, func(shard uint32, places []int, _ []*regionv1.CartDigest) error {
		part := make([]*regionv1.DueCart, len(places))
		for i, j := range places {
			c := &carts[j]
			part[i] = &regionv1.DueCart{
				CartId: c.CartID, Digest: c.Digest[:], ActiveAt: uint64(c.Active.At), ActiveRegion: uint32(c.Active.Region),
			}
		}
		resp, err := r.ask(ctx, &regionv1.ShardRequest{Shard: shard, Request: &regionv1.ShardRequest_Expirable{
			Expirable: &regionv1.Expirable{Carts: part},
		}})
		if err != nil {
			return err
		}
		if len(resp.Expirable) != len(part) {
			return fmt.Errorf("%d answers for %d carts", len(resp.Expirable), len(part))
		}
		for i, j := range places {
			out[j] = resp.Expirable[i]
		}
		return nil
	})
	return out, err
}

func dueIn(carts []*regionv1.DueCart) []shard.DueCart {
	out := make([]shard.DueCart, len(carts))
	for i, c := range carts {
		out[i].CartDigest = store.CartDigest{CartID: c.CartId}
		copy(out[i].Digest[:], c.Digest)
		out[i].Active = crdt.Active{At: crdt.Timestamp(c.ActiveAt), Region: crdt.RegionID(c.ActiveRegion)}
	}
	return out
}
