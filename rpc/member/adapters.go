package member

import (
	"context"
	"errors"
	"fmt"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/replication"
)

// deltaLog is a shard as gossip needs it.
type deltaLog struct {
	*shard.Shard
	stream crdt.Stream // as it was when the gossip began
	// incarnations are those of the peers, as they were then; 0: not known.
	incarnations map[crdt.RegionID]uint32
}

var _ replication.Log = deltaLog{}

// Slots implements replication.Log.
func (l deltaLog) Slots() (lo, hi uint32) { return l.SlotRange() }

// Stream implements replication.Log.
func (l deltaLog) Stream() crdt.Stream { return l.stream }

// Acked implements replication.Log.
func (l deltaLog) Acked(all, any uint64) { l.Shard.Acked(l.stream.Incarnation, all, any) }

// Changed implements replication.Log.
func (l deltaLog) Changed() <-chan struct{} { return l.Appended() }

// Digests implements replication.Log.
func (l deltaLog) Digests(_ context.Context, lo, hi uint32) ([]replication.Digest, error) {
	return l.Shard.Digests(lo, hi)
}

// Bucket implements replication.Log.
func (l deltaLog) Bucket(_ context.Context, slot uint32, after string, limit int) ([]replication.CartDigest, bool, error) {
	carts, more, err := l.Shard.Bucket(slot, after, limit)
	out := make([]replication.CartDigest, len(carts))
	for i, c := range carts {
		out[i] = replication.CartDigest{CartID: c.CartID, Digest: replication.Digest(c.Digest)}
	}
	return out, more, err
}

// States implements replication.Log.
func (l deltaLog) States(_ context.Context, cartIDs []string) ([]replication.WholeCart, error) {
	out := make([]replication.WholeCart, 0, len(cartIDs))
	for _, id := range cartIDs {
		whole, err := l.Whole(id)
		if err != nil {
			return nil, err
		}
		if whole != nil {
			out = append(out, replication.WholeCart{CartID: id, Data: whole.Encode(nil)})
		}
	}
	return out, nil
}

// JoinCarts implements replication.Log.
func (l deltaLog) JoinCarts(ctx context.Context, carts []replication.WholeCart, from crdt.RegionID) error {
	return eachCart(carts, func(c replication.WholeCart) error {
		if _, err := crdt.DecodeState(c.Data); err != nil {
			return fmt.Errorf("join cart %q: %w", c.CartID, err) // in the log it would end every node
		}
		out, err := l.Propose(ctx, &regionv1.Command{Command: &regionv1.Command_JoinCart{
			JoinCart: &regionv1.JoinCart{CartId: c.CartID, State: c.Data, RegionId: uint32(from), Incarnation: l.incarnations[from]},
		}})
		if err == nil && out.Code == regionv1.Outcome_CODE_FENCED {
			err = fmt.Errorf("%w: cart %q of region %d", shard.ErrFenced, c.CartID, from)
		}
		return err
	})
}

// Sink is a region as other regions send to it.
type Sink struct{ Router *region.Router }

var _ replication.Sink = Sink{}

// Cursor implements replication.Sink.
func (s Sink) Cursor(ctx context.Context, h replication.Hello) (uint64, error) {
	return s.Router.Cursor(ctx, h.Stream, h.SlotLo, h.SlotHi)
}

// Join implements replication.Sink.
func (s Sink) Join(ctx context.Context, iv crdt.Interval, slotLo, slotHi uint32) (uint64, bool, error) {
	return s.Router.JoinInterval(ctx, iv, slotLo, slotHi)
}

// joinsMax is how many whole carts are proposed at a time; they share log
// entries.
const joinsMax = 64

// JoinCarts implements replication.Sink.
func (s Sink) JoinCarts(ctx context.Context, carts []replication.WholeCart, from crdt.Stream) error {
	return eachCart(carts, func(c replication.WholeCart) error {
		return s.Router.JoinCart(ctx, c.CartID, c.Data, from.Region, from.Incarnation)
	})
}

// eachCart calls join for every cart, joinsMax at a time.
func eachCart(carts []replication.WholeCart, join func(replication.WholeCart) error) error {
	slots := make(chan struct{}, joinsMax)
	errs := make(chan error, len(carts))
	for _, c := range carts {
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			errs <- join(c)
		}()
	}
	var err error
	for range carts {
		err = errors.Join(err, <-errs)
	}
	return err
}

// MoveCursor implements replication.Sink.
func (s Sink) MoveCursor(ctx context.Context, h replication.Hello, cursor uint64) error {
	return s.Router.MoveCursor(ctx, h.Stream, h.SlotLo, h.SlotHi, cursor)
}

// Known implements replication.Sink.
func (s Sink) Known(ctx context.Context, h replication.Hello) (uint32, error) {
	return s.Router.Known(ctx, h.Stream.Region, h.SlotLo, h.SlotHi)
}

// Collect implements replication.Sink.
func (s Sink) Collect(ctx context.Context, carts []replication.CartDigest, commit bool) ([]bool, error) {
	out := make([]region.CartDigest, len(carts))
	for i, c := range carts {
		out[i] = region.CartDigest{CartID: c.CartID, Digest: region.Digest(c.Digest)}
	}
	if commit {
		return nil, s.Router.Collect(ctx, out)
	}
	return s.Router.Collectable(ctx, out)
}

// ForgottenBefore implements replication.Sink.
func (s Sink) ForgottenBefore(ctx context.Context) ([]int64, error) {
	return s.Router.ForgottenBefore(ctx, 0, shard.SlotCount)
}

// garbage is a shard that is led here as collection needs it. For one goroutine.
type garbage struct {
	Sink
	shard *shard.Shard
	place *shard.Place // where it looked last
}

var _ replication.Garbage = garbage{}

// Next implements replication.Garbage.
func (g garbage) Next(ctx context.Context) ([]replication.CartDigest, error) {
	found, next, err := g.shard.Garbage(ctx, *g.place)
	if err != nil {
		return nil, err
	}
	*g.place = next
	out := make([]replication.CartDigest, len(found))
	for i, c := range found {
		out[i] = replication.CartDigest{CartID: c.CartID, Digest: replication.Digest(c.Digest)}
	}
	return out, nil
}

// Repairing implements replication.Sink.
func (s Sink) Repairing(ctx context.Context, h replication.Hello) (bool, error) {
	return s.Router.Repairing(ctx, h.Region, h.SlotLo, h.SlotHi)
}

// Digests implements replication.Sink.
func (s Sink) Digests(ctx context.Context, lo, hi uint32) ([]replication.Digest, error) {
	return s.Router.Digests(ctx, lo, hi)
}

// Bucket implements replication.Sink.
func (s Sink) Bucket(ctx context.Context, slot uint32, after string, limit int) ([]replication.CartDigest, bool, error) {
	carts, more, err := s.Router.Bucket(ctx, slot, after, limit)
	out := make([]replication.CartDigest, len(carts))
	for i, c := range carts {
		out[i] = replication.CartDigest{CartID: c.CartID, Digest: replication.Digest(c.Digest)}
	}
	return out, more, err
}

// Fetch implements replication.Sink.
func (s Sink) Fetch(ctx context.Context, cartIDs []string) ([]replication.WholeCart, error) {
	states, err := s.Router.States(ctx, cartIDs)
	if err != nil {
		return nil, err
	}
	out := make([]replication.WholeCart, len(cartIDs))
	for i, id := range cartIDs {
		out[i] = replication.WholeCart{CartID: id, Data: states[i]}
	}
	return out, nil
}
