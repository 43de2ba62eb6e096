package store

import (
	"encoding/binary"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"github.com/samecart/samecart/crdt"
)

// Reborn makes the shard begin again without carts, requests and cursors, in a new
// generation that becomes the current one in a single write (S2); it returns the
// new space. The rows of the delta log, and those that were kept before and not
// written again, are kept aside; the membership and what was promised for the
// next one stay. next is the marker to begin with: its counters of what the space
// holds are set here. After an error, or a crash at any point, the space before
// is still the current one. For the applying goroutine, between transactions.
func (s *Space) Reborn(next Marker) (*Space, error) {
	to := s.store.space(s.shard, s.generation+1, s.slotLo, s.slotHi)
	// An earlier try may have died.
	if err := s.store.deleteRange(to.prefix, spacePrefix(s.shard, to.generation+1), func() bool { return false }); err != nil {
		return nil, fmt.Errorf("clear generation %d of shard %d: %w", to.generation, s.shard, err)
	}
	floors := s.floors
	next.Seq, next.Trimmed, next.Ops, next.OpsForgotten, next.Carts, next.Reissued = 0, 0, 0, 0, 0, 0
	wb := s.store.db.NewWriteBatch()
	defer wb.Cancel()
	err := s.store.db.View(func(tx *badger.Txn) (err error) {
		if next.Kept, err = s.keepRows(tx, wb, to); err != nil {
			return err
		}
		for _, kind := range []byte{kindMembership, kindAcceptor} {
			v, err := get(tx, s.key(kind, 0))
			if err != nil {
				return err
			}
			if v == nil {
				continue
			}
			if err := wb.Set(to.key(kind, 0), v); err != nil {
				return err
			}
		}
		return nil
	})
	for slot, f := range floors {
		// The new incarnation counts from the beginning; what was forgotten stays so.
		if err == nil {
			err = wb.Set(to.floorKey(slot), Floor{Before: f.Before}.encode())
		}
	}
	if err == nil {
		err = wb.Set(to.markerKey(), next.encode())
	}
	if err == nil {
		err = wb.Flush()
	}
	if err != nil {
		return nil, fmt.Errorf("begin shard %d again: %w", s.shard, err)
	}
	if err := to.load(); err != nil {
		return nil, err
	}
	s.store.steps.At(StepReborn)
	if err := s.store.point(s.shard, to.generation); err != nil {
		return nil, err
	}
	s.store.steps.At(StepRebornAs)
	return to, nil
}

// point makes a generation the current one.
func (s *Store) point(shard, generation uint32) error {
	err := s.db.Update(func(tx *badger.Txn) error {
		return tx.Set(pointerKey(shard), binary.BigEndian.AppendUint32(nil, generation))
	})
	if err != nil {
		return fmt.Errorf("switch shard %d to generation %d: %w", shard, generation, err)
	}
	return nil
}

// keepRows writes what is to be kept into the new space and returns how many
// rows that is.
func (s *Space) keepRows(tx *badger.Txn, wb *badger.WriteBatch, to *Space) (kept uint64, err error) {
	var chunk []byte
	flush := func() error {
		n, _ := chunkOf(kept)
		err := wb.Set(to.chunkKey(kindKept, n), chunk)
		chunk = nil
		return err
	}
	keep := func(value []byte) error {
		kept++
		chunk = append(binary.AppendUvarint(chunk, uint64(len(value))), value...)
		if _, place := chunkOf(kept); place == chunkLen-1 {
			return flush()
		}
		return nil
	}
	m := s.marker
	// While rows are kept that were not made anew, the log has none but of those
	// that were, which come before them.
	for _, part := range []struct {
		kind     byte
		from, to uint64
	}{{kindRow, m.Trimmed, m.Seq}, {kindKept, m.Reissued, m.Kept}} {
		if err := s.eachOf(tx, part.kind, part.from, part.to, keep); err != nil {
			return 0, err
		}
	}
	if chunk != nil {
		return kept, flush()
	}
	return kept, nil
}

// eachOf calls do with the values of a series numbered (from, to].
func (s *Space) eachOf(tx *badger.Txn, kind byte, from, to uint64, do func(value []byte) error) error {
	for n := from; n < to; {
		chunk, _ := chunkOf(n + 1)
		v, err := get(tx, s.chunkKey(kind, chunk))
		if err != nil {
			return err
		}
		before := n
		if err := eachValue(v, func(place int, value []byte) (bool, error) {
			number := chunk*chunkLen + uint64(place) + 1
			if number > to {
				return false, nil
			}
			if number <= n {
				return true, nil
			}
			n = number
			return true, do(value)
		}); err != nil {
			return err
		}
		if n == before {
			return fmt.Errorf("%w: chunk %d of %q ends before number %d", ErrCorrupt, chunk, kind, n+1)
		}
	}
	return nil
}

// KeptRow returns the n-th row that was kept aside.
func (t *Tx) KeptRow(n uint64) (crdt.Row, error) {
	chunk, at := chunkOf(n)
	v, err := t.readChunk(kindKept, chunk)
	if err != nil {
		return crdt.Row{}, fmt.Errorf("read kept row %d: %w", n, err)
	}
	var row crdt.Row
	found := false
	err = eachValue(v, func(place int, value []byte) (bool, error) {
		if place < at {
			return true, nil
		}
		found = true
		row, err = crdt.DecodeRow(value)
		return false, corrupt(err)
	})
	if err == nil && !found {
		err = fmt.Errorf("%w: it is not there", ErrCorrupt)
	}
	if err != nil {
		return crdt.Row{}, fmt.Errorf("read kept row %d: %w", n, err)
	}
	return row, nil
}

// DropKept forgets the kept rows of a chunk that were all looked at.
func (t *Tx) DropKept() {
	if chunk, place := chunkOf(t.marker.Reissued); place == chunkLen-1 || t.marker.Reissued == t.marker.Kept {
		t.delete(t.space.chunkKey(kindKept, chunk))
	}
}

// Membership returns the encoded membership that the shard has taken in, nil when
// it has none.
func (s *Space) Membership() ([]byte, error) {
	var v []byte
	err := s.store.db.View(func(tx *badger.Txn) (err error) {
		v, err = get(tx, s.key(kindMembership, 0))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read membership: %w", err)
	}
	return v, nil
}

// SetMembership records the membership that the shard takes in.
func (t *Tx) SetMembership(encoded []byte) { t.set(t.space.key(kindMembership, 0), encoded) }

// Acceptor returns what the region has promised and accepted for the next
// membership, encoded; nil when that is nothing.
func (t *Tx) Acceptor() ([]byte, error) {
	v, err := get(t.tx, t.space.key(kindAcceptor, 0))
	if err != nil {
		return nil, fmt.Errorf("read acceptor: %w", err)
	}
	return v, nil
}

// SetAcceptor records what the region promises and accepts.
func (t *Tx) SetAcceptor(encoded []byte) { t.set(t.space.key(kindAcceptor, 0), encoded) }
