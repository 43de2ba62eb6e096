package shard

import (
	"context"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/store"
)

// marksALife is how many clock marks the shard makes within the life of a token.
const marksALife = 24

// mark notes the clock now and then: the marks tell how old a record is, and a row,
// without a time in each.
func (b *batch) mark(w *workspace) {
	life := crdt.Timestamp(w.limits.GetOpLifeMs()) << 16
	m := b.tx.Marker()
	b.tx.Mark(store.Mark{At: w.at, Index: w.index, Seq: m.Seq}, life/marksALife)
}

// collect drops or compacts carts that are still what they were when every region
// said that they may be.
//
//	G1  A cart is collected as what all regions have of it: where it has changed
//	    since, it is left, and its region gives the others again what it saw.
//	G2  Its floor, raised in the same transaction, keeps its dots from being
//	    issued again.
//	G6  It may be committed between two carts: those that are done have another
//	    digest, or none.
func (w *workspace) collect(c *regionv1.Collect, flush func() error) (*regionv1.Outcome, error) {
	for _, e := range c.Carts {
		if w.tx.Full() {
			if err := flush(); err != nil {
				return nil, err
			}
		}
		self := w.tx.Marker()
		old, err := w.record(e.CartId)
		if err != nil {
			return nil, err
		}
		if old == nil || string(old.Digest[:]) != string(e.Digest) {
			continue
		}
		slot := w.slots.Of(e.CartId)
		if old.State.Cart.IsGarbage(w.settled) {
			if !w.tx.Forgotten(old.Asked) {
				continue
			}
			w.markGone(e.CartId, old)
			seq := old.State.Cart.Context.Max(crdt.Replica{Region: self.Region, Incarnation: self.Incarnation})
			w.tx.DropRecord(slot, e.CartId, old)
			w.tx.RaiseFloor(slot, store.Floor{Seq: seq, Before: w.opHorizon()})
			continue
		}
		cart := old.State.Cart.Compact(w.closed)
		if cart == old.State.Cart {
			continue
		}
		w.put(e.CartId, old, crdt.State{Cart: cart, Ops: old.State.Ops, Active: old.State.Active}, old.Asked)
		w.tx.RaiseFloor(slot, store.Floor{Before: w.opHorizon()})
	}
	return &regionv1.Outcome{Index: w.index}, nil
}

// settled says which entries of an empty cart's context may be forgotten.
func (w *workspace) settled(r crdt.Replica) bool {
	return w.members.Settled(uint32(r.Region), r.Incarnation)
}

func (w *workspace) closed(r crdt.Replica) bool {
	return w.members.Closed(uint32(r.Region), r.Incarnation)
}

// horizon is the newest moment that is a token's life ago: a record that has not
// changed since is named by no token, and no request that is remembered.
func (s *Shard) horizon() (m store.Mark, ok bool, err error) {
	before := s.cfg.Clock().Add(-s.cfg.Limits.OpLife)
	err = s.fsm.read(func(sp *store.Space) (err error) {
		m, ok, err = sp.Before(crdt.TimestampAt(before.UnixMilli()))
		return err
	})
	return m, ok, err
}

// Place is where a search for garbage stands; the zero Place is its beginning.
type Place struct {
	slot  uint32
	after string
}

// garbagePage is how many carts one call of Garbage looks at.
const garbagePage = 512

// Garbage looks at some carts from the given place on and returns those that may be
// collected as far as this region knows, and where to go on: after the last cart, at
// the first again.
func (s *Shard) Garbage(ctx context.Context, from Place) (found []store.CartDigest, next Place, err error) {
	old, ok, err := s.horizon()
	if err != nil || !ok {
		return nil, Place{}, err
	}
	lo, hi := s.SlotRange()
	if from.slot < lo || from.slot >= hi {
		from = Place{slot: lo}
	}
	for looked := 0; looked < garbagePage && from.slot < hi; {
		if err := ctx.Err(); err != nil {
			return nil, Place{}, err
		}
		carts, more, err := s.Bucket(from.slot, from.after, garbagePage-looked)
		if err != nil {
			return nil, Place{}, err
		}
		looked += len(carts) + 1
		for _, c := range carts {
			r, err := s.fsm.peek(c.CartID)
			if err != nil {
				return nil, Place{}, err
			}
			if r != nil && r.Digest == c.Digest && s.isGarbage(r, old) {
				found = append(found, c)
			}
		}
		if more {
			from.after = carts[len(carts)-1].CartID
		} else {
			from = Place{slot: from.slot + 1}
		}
	}
	return found, from, nil
}

func (s *Shard) isGarbage(r *store.Record, old store.Mark) bool {
	if r.Index > old.Index {
		return false
	}
	members := s.fsm.members.Load()
	settled := func(rep crdt.Replica) bool { return members.Settled(uint32(rep.Region), rep.Incarnation) }
	return r.State.Cart.IsGarbage(settled) || r.State.Cart.Compact(func(rep crdt.Replica) bool {
		return members.Closed(uint32(rep.Region), rep.Incarnation)
	}) != r.State.Cart
}

// Collectable says for each cart whether it may be collected as far as this region
// knows: it is here as it is there, has not changed for a token's life, and the
// delta log has no row any more that was written here before that.
//
//	G3  A row that is still to be sent, to a region that comes later as well,
//	    would bring back what the cart's context knows to be removed.
func (s *Shard) Collectable(carts []store.CartDigest) ([]bool, error) {
	out := make([]bool, len(carts))
	old, ok, err := s.horizon()
	if err != nil || !ok || s.fsm.marker().Trimmed < old.Seq {
		return out, err
	}
	for i, c := range carts {
		r, err := s.fsm.peek(c.CartID)
		if err != nil {
			return nil, err
		}
		// One that is not here was dropped by a round before, which did not come to
		// its end: that it is garbage there, the other has seen.
		out[i] = r == nil || r.Digest == c.Digest && s.isGarbage(r, old)
	}
	return out, nil
}

// Floors returns what was collected of the slots [lo, hi).
func (s *Shard) Floors(lo, hi uint32) (floors []store.Floor, err error) {
	err = s.fsm.read(func(sp *store.Space) (err error) {
		floors, err = sp.Floors(lo, hi)
		return err
	})
	return floors, err
}
