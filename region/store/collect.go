package store

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/dgraph-io/badger/v4"

	"github.com/samecart/samecart/crdt"
)

// Floor is what is left of the carts of a slot that were dropped.
type Floor struct {
	// Seq is the highest that this region's dots of them had: a cart that comes
	// again starts above it.
	Seq uint64
	// Before is the time before which carts last changed that were dropped, or
	// lost a part of their context.
	Before crdt.Timestamp
}

func (f Floor) encode() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, f.Seq), uint64(f.Before))
}

func (s *Space) floorKey(slot uint32) []byte {
	return binary.BigEndian.AppendUint16(s.key(kindFloor, 2), uint16(slot))
}

// Mark is a moment of the shard's clock: what was written up to Index, and the row
// Seq, was written by At.
type Mark struct {
	At         crdt.Timestamp
	Index, Seq uint64
}

// marksMax bounds the marks that are kept, the oldest go.
const marksMax = 64

const markLen = 24

// loadCollected reads floors and marks.
func (s *Space) loadCollected(tx *badger.Txn) error {
	s.floors = make(map[uint32]Floor)
	opt := badger.DefaultIteratorOptions
	opt.Prefix = s.key(kindFloor, 0)
	it := tx.NewIterator(opt)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		rest := it.Item().Key()[len(opt.Prefix):]
		if err := it.Item().Value(func(v []byte) error {
			if len(rest) != 2 || len(v) != 16 {
				return fmt.Errorf("%w: floor under a key of %d bytes has %d", ErrCorrupt, len(rest), len(v))
			}
			s.floors[uint32(binary.BigEndian.Uint16(rest))] = Floor{binary.BigEndian.Uint64(v), crdt.Timestamp(binary.BigEndian.Uint64(v[8:]))}
			return nil
		}); err != nil {
			return err
		}
	}
	v, err := get(tx, s.key(kindMarks, 0))
	if err != nil {
		return err
	}
	if len(v)%markLen != 0 {
		return fmt.Errorf("%w: clock marks have %d bytes", ErrCorrupt, len(v))
	}
	s.marks = nil
	for b := range slices.Chunk(v, markLen) {
		s.marks = append(s.marks, Mark{crdt.Timestamp(binary.BigEndian.Uint64(b)), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])})
	}
	return nil
}

// Floors returns what was collected of the slots [lo, hi), as it is in the
// database.
func (s *Space) Floors(lo, hi uint32) ([]Floor, error) {
	out := make([]Floor, hi-lo)
	err := s.store.db.View(func(tx *badger.Txn) error {
		read := Space{store: s.store, prefix: s.prefix}
		if err := read.loadCollected(tx); err != nil {
			return err
		}
		for slot, f := range read.floors {
			if lo <= slot && slot < hi {
				out[slot-lo] = f
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read what was collected: %w", err)
	}
	return out, nil
}

// Before returns the newest mark that is not after at; ok is false when there is
// none. It reads the database.
func (s *Space) Before(at crdt.Timestamp) (m Mark, ok bool, err error) {
	err = s.store.db.View(func(tx *badger.Txn) error {
		read := Space{store: s.store, prefix: s.prefix}
		if err := read.loadCollected(tx); err != nil {
			return err
		}
		for _, mark := range read.marks {
			if mark.At <= at {
				m, ok = mark, true
			}
		}
		return nil
	})
	if err != nil {
		return m, false, fmt.Errorf("read clock marks: %w", err)
	}
	return m, ok, nil
}

// Mark notes the clock, unless it was noted less than every ago.
func (t *Tx) Mark(m Mark, every crdt.Timestamp) {
	if n := len(t.marks); n > 0 && m.At < t.marks[n-1].At+every {
		return
	}
	t.marks = append(slices.Clone(t.marks[max(0, len(t.marks)-marksMax+1):]), m) // readers keep the old ones
	b := make([]byte, 0, markLen*len(t.marks))
	for _, m := range t.marks {
		b = binary.BigEndian.AppendUint64(b, uint64(m.At))
		b = binary.BigEndian.AppendUint64(b, m.Index)
		b = binary.BigEndian.AppendUint64(b, m.Seq)
	}
	t.set(t.space.key(kindMarks, 0), b)
}

// Floor is what was collected of a slot, with what this transaction did.
func (t *Tx) Floor(slot uint32) Floor {
	if f, ok := t.floors[slot]; ok {
		return f
	}
	return t.space.floors[slot]
}

// RaiseFloor notes that carts of a slot were collected.
func (t *Tx) RaiseFloor(slot uint32, f Floor) {
	old := t.Floor(slot)
	f = Floor{max(f.Seq, old.Seq), max(f.Before, old.Before)}
	if t.floors == nil {
		t.floors = make(map[uint32]Floor)
	}
	t.floors[slot] = f
	t.set(t.space.floorKey(slot), f.encode())
}

// DropRecord deletes a cart's record; its requests must be forgotten already.
func (t *Tx) DropRecord(slot uint32, id string, old *Record) {
	sum := t.sum(slot)
	sum.take(old.Digest)
	t.sums[slot] = sum
	t.marker.Carts--
	t.reindex(id, old.Due, 0)
	d := t.carts[id]
	if d == nil {
		d = &dirtyCart{slot: slot}
		t.carts[id] = d
		t.count++
	}
	t.bytes += int64(len(id)+64) - d.size
	d.size, d.record = int64(len(id)+64), nil
}

// Forgotten reports whether no request of a list is remembered any more.
func (t *Tx) Forgotten(a Asked) bool { return a.Newest <= t.marker.OpsForgotten }
