package main

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
func (l deltaLog) JoinCarts(ctx context.Context, carts []replication.WholeCart) error {
	return eachCart(carts, func(c replication.WholeCart) error {
		if _, err := crdt.DecodeState(c.Data); err != nil {
			return fmt.Errorf("join cart %q: %w", c.CartID, err) // in the log it would end every node
		}
		_, err := l.Propose(ctx, &regionv1.Command{Command: &regionv1.Command_JoinCart{
			JoinCart: &regionv1.JoinCart{CartId: c.CartID, State: c.Data},
		}})
		return err
	})
}

// sink is a region as other regions send to it.
type sink struct{ router *region.Router }

var _ replication.Sink = sink{}

// Cursor implements replication.Sink.
func (s sink) Cursor(ctx context.Context, h replication.Hello) (uint64, error) {
	return s.router.Cursor(ctx, h.Stream, h.SlotLo, h.SlotHi)
}

// Join implements replication.Sink.
func (s sink) Join(ctx context.Context, iv crdt.Interval, slotLo, slotHi uint32) (uint64, bool, error) {
	return s.router.JoinInterval(ctx, iv, slotLo, slotHi)
}

// joinsMax is how many whole carts are proposed at a time; they share log
// entries.
const joinsMax = 64

// JoinCarts implements replication.Sink.
func (s sink) JoinCarts(ctx context.Context, carts []replication.WholeCart, from crdt.Stream) error {
	return eachCart(carts, func(c replication.WholeCart) error {
		return s.router.JoinCart(ctx, c.CartID, c.Data, from.Region, from.Incarnation)
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
func (s sink) MoveCursor(ctx context.Context, h replication.Hello, cursor uint64) error {
	return s.router.MoveCursor(ctx, h.Stream, h.SlotLo, h.SlotHi, cursor)
}

// Known implements replication.Sink.
func (s sink) Known(ctx context.Context, h replication.Hello) (uint32, error) {
	return s.router.Known(ctx, h.Stream.Region, h.SlotLo, h.SlotHi)
}

// Collect implements replication.Sink.
func (s sink) Collect(ctx context.Context, carts []replication.CartDigest, commit bool) ([]bool, error) {
	out := make([]region.CartDigest, len(carts))
	for i, c := range carts {
		out[i] = region.CartDigest{CartID: c.CartID, Digest: region.Digest(c.Digest)}
	}
	if commit {
		return nil, s.router.Collect(ctx, out)
	}
	return s.router.Collectable(ctx, out)
}

// ForgottenBefore implements replication.Sink.
func (s sink) ForgottenBefore(ctx context.Context) ([]int64, error) {
	return s.router.ForgottenBefore(ctx, 0, shard.SlotCount)
}

// garbage is a shard that is led here as collection needs it. For one goroutine.
type garbage struct {
	sink
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
func (s sink) Repairing(ctx context.Context, h replication.Hello) (bool, error) {
	return s.router.Repairing(ctx, h.Region, h.SlotLo, h.SlotHi)
}

// Digests implements replication.Sink.
func (s sink) Digests(ctx context.Context, lo, hi uint32) ([]replication.Digest, error) {
	return s.router.Digests(ctx, lo, hi)
}

// Bucket implements replication.Sink.
func (s sink) Bucket(ctx context.Context, slot uint32, after string, limit int) ([]replication.CartDigest, bool, error) {
	carts, more, err := s.router.Bucket(ctx, slot, after, limit)
	out := make([]replication.CartDigest, len(carts))
	for i, c := range carts {
		out[i] = replication.CartDigest{CartID: c.CartID, Digest: replication.Digest(c.Digest)}
	}
	return out, more, err
}

// Fetch implements replication.Sink.
func (s sink) Fetch(ctx context.Context, cartIDs []string) ([]replication.WholeCart, error) {
	states, err := s.router.States(ctx, cartIDs)
	if err != nil {
		return nil, err
	}
	out := make([]replication.WholeCart, len(cartIDs))
	for i, id := range cartIDs {
		out[i] = replication.WholeCart{CartID: id, Data: states[i]}
	}
	return out, nil
}
