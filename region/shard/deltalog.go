package shard

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/region/store"
)

// Stream names the shard's delta log.
func (s *Shard) Stream() crdt.Stream {
	m := s.fsm.marker()
	return crdt.Stream{Region: m.Region, Incarnation: m.Incarnation, Shard: s.cfg.ID}
}

// SlotRange returns the slots [lo, hi) whose carts the shard has.
func (s *Shard) SlotRange() (lo, hi uint32) { return s.cfg.Slots.Range(s.cfg.ID) }

// LastSeq returns the newest row of the delta log.
func (s *Shard) LastSeq() uint64 { return s.fsm.marker().Seq }

// Appended is closed at the next append to the delta log after the call.
func (s *Shard) Appended() <-chan struct{} { return s.fsm.appended() }

// ReadAfter returns the interval that starts after seq, at most maxBytes
// long but at least one row if there is one. ok is false when the log no
// longer reaches back to seq: the caller then ships whole carts.
func (s *Shard) ReadAfter(ctx context.Context, seq uint64, maxBytes int) (iv crdt.Interval, ok bool, err error) {
	if err := ctx.Err(); err != nil {
		return crdt.Interval{}, false, err
	}
	m := s.fsm.marker()
	iv = crdt.Interval{Stream: s.Stream(), Lo: seq, Hi: seq}
	switch {
	case seq < m.Trimmed:
		return iv, false, nil
	case seq > m.Seq:
		// The peer has rows that this log never had: the region lost state
		// that it had acknowledged and did not raise its incarnation.
		return iv, false, fmt.Errorf("peer has rows up to %d of %v, which ends at %d", seq, iv.Stream, m.Seq)
	case seq == m.Seq:
		return iv, true, nil
	}
	if err = s.fsm.read(func(sp *store.Space) (err error) {
		iv.Rows, err = sp.Rows(seq, maxBytes)
		return err
	}); err != nil {
		return iv, false, err
	}
	if len(iv.Rows) == 0 || iv.Rows[0].Seq != seq+1 {
		return iv, false, nil // trimmed since
	}
	iv.Hi = iv.Rows[len(iv.Rows)-1].Last
	return iv, true, nil
}

// acked is how far other regions have the rows of one stream.
type acked struct {
	incarnation uint32
	all, any    uint64
}

// Acked says that every peer region has the rows up to all of the log as it was
// under the given incarnation, and at least one those up to any.
//
//	L1  A shard that begins again numbers its rows anew: what was acknowledged
//	    of the rows before says nothing of them.
func (s *Shard) Acked(incarnation uint32, all, any uint64) {
	s.ackedMu.Lock()
	defer s.ackedMu.Unlock()
	if incarnation > s.acked.incarnation {
		s.acked = acked{incarnation: incarnation}
	}
	if incarnation == s.acked.incarnation {
		s.acked.all, s.acked.any = max(s.acked.all, all), max(s.acked.any, any)
	}
}

// acknowledged is what Acked said of the log as it is now.
func (s *Shard) acknowledged(m store.Marker) (all, any uint64) {
	s.ackedMu.Lock()
	defer s.ackedMu.Unlock()
	if s.acked.incarnation != m.Incarnation {
		return 0, 0
	}
	return s.acked.all, s.acked.any
}

// Digests returns the digests of the slots [lo, hi).
func (s *Shard) Digests(lo, hi uint32) (sums [][16]byte, err error) {
	err = s.fsm.read(func(sp *store.Space) (err error) {
		sums, err = sp.Sums(lo, hi)
		return err
	})
	return sums, err
}

// Bucket lists the carts of a slot, see store.Space.Bucket.
func (s *Shard) Bucket(slot uint32, after string, limit int) (carts []store.CartDigest, more bool, err error) {
	err = s.fsm.read(func(sp *store.Space) (err error) {
		carts, more, err = sp.Bucket(slot, after, limit)
		return err
	})
	return carts, more, err
}

// Cursor returns the last joined row of another region's stream.
func (s *Shard) Cursor(st crdt.Stream) (seq uint64, err error) {
	err = s.fsm.read(func(sp *store.Space) (err error) {
		seq, err = sp.Cursor(st)
		return err
	})
	return seq, err
}

// Incarnation returns the highest incarnation of a region that the carts of a
// slot or the shard's cursors name, see store.Space.Incarnation.
func (s *Shard) Incarnation(region crdt.RegionID, slot uint32) (highest uint32, err error) {
	err = s.fsm.read(func(sp *store.Space) (err error) {
		highest, err = sp.Incarnation(region, slot)
		return err
	})
	return highest, err
}

// Whole returns the cart with every request remembered for it, as another
// region may join it; nil when there is no such cart.
func (s *Shard) Whole(id string) (*crdt.State, error) {
	var r *store.Record
	var ops map[crdt.OpID]store.OpRecord
	err := s.fsm.read(func(sp *store.Space) (err error) {
		// Of one commit: a request without its effect would be taken for
		// applied where the cart arrives.
		r, ops, err = sp.RecordAndOps(s.cfg.Slots.Of(id), id)
		return err
	})
	if err != nil || r == nil {
		return nil, err
	}
	whole := crdt.State{Cart: r.State.Cart, Ops: r.State.Ops, Active: r.State.Active}
	known := make(map[crdt.OpID]bool, len(whole.Ops))
	for _, o := range whole.Ops {
		known[o.ID] = true
	}
	// Requests whose dots are gone are recognised by their id alone: they
	// travel with the zero dot, which sorts first.
	var gone []crdt.Op
	for op, rec := range ops {
		if !known[op] {
			gone = append(gone, crdt.Op{ID: op, Fingerprint: rec.Fingerprint, At: rec.At})
		}
	}
	slices.SortFunc(gone, func(a, b crdt.Op) int { return cmp.Compare(b.At, a.At) })
	gone = gone[:min(len(gone), wholeOpsMax)]
	slices.SortFunc(gone, func(a, b crdt.Op) int { return slices.Compare(a.ID[:], b.ID[:]) })
	whole.Ops = append(gone, whole.Ops...)
	return &whole, nil
}

// wholeOpsMax bounds the requests that travel with a whole cart: two days of
// a shopper who edits every three minutes.
const wholeOpsMax = 1000
