package store

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"github.com/samecart/samecart/crdt"
)

// Space is one shard's state in one generation. One goroutine, the one that
// applies the shard's log, writes; any may read what is committed.
type Space struct {
	store          *Store
	shard          uint32
	generation     uint32
	prefix         []byte
	slotLo, slotHi uint32

	// Below: the applying goroutine's own.
	marker Marker
	sums   []Sum // by slot - slotLo, as after the last commit
	floors map[uint32]Floor
	marks  []Mark
	rows   series
	ops    series
}

// load reads the marker, the bucket digests and the tails of the series.
func (s *Space) load() error {
	return s.store.db.View(func(tx *badger.Txn) error {
		var err error
		if s.marker, err = s.readMarker(tx); err != nil {
			return err
		}
		if err := s.loadCollected(tx); err != nil {
			return err
		}
		if err := s.readSums(tx, s.slotLo, s.slotHi, func(slot uint32, sum Sum) { s.sums[slot-s.slotLo] = sum }); err != nil {
			return err
		}
		return errors.Join(s.rows.load(tx, s, s.marker.Seq), s.ops.load(tx, s, s.marker.Ops))
	})
}

// readSums calls do with the digests of the slots [lo, hi) that have one.
func (s *Space) readSums(tx *badger.Txn, lo, hi uint32, do func(slot uint32, sum Sum)) error {
	for first := lo / sumsLen * sumsLen; first < hi; first += sumsLen {
		v, err := get(tx, s.digestKey(first))
		if err != nil {
			return err
		}
		if v == nil {
			continue
		}
		if len(v) != 16*sumsLen {
			return fmt.Errorf("%w: digests of the slots from %d have %d bytes", ErrCorrupt, first, len(v))
		}
		for slot := max(lo, first); slot < min(hi, first+sumsLen); slot++ {
			b := v[16*(slot-first):]
			do(slot, Sum{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])})
		}
	}
	return nil
}

// get returns a copy of the value under key, nil when there is none.
func get(tx *badger.Txn, key []byte) ([]byte, error) {
	item, err := tx.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	v, err := item.ValueCopy(nil)
	if v == nil && err == nil {
		v = []byte{}
	}
	return v, err
}

// Marker returns the marker as of the last commit. For the applying
// goroutine.
func (s *Space) Marker() Marker { return s.marker }

// Generation returns the generation's number.
func (s *Space) Generation() uint32 { return s.generation }

// Record returns the committed record of a cart, nil when there is none.
func (s *Space) Record(slot uint32, id string) (*Record, error) {
	var v []byte
	err := s.store.db.View(func(tx *badger.Txn) (err error) {
		v, err = get(tx, s.cartKey(slot, id))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read cart %q: %w", id, err)
	}
	if v == nil {
		return nil, nil
	}
	return DecodeRecord(v)
}

// CartDigest is one cart's id and digest.
type CartDigest struct {
	CartID string
	Digest Digest
}

// Bucket lists the committed carts of a slot with ids above after, in id
// order, at most limit of them; more says that there are others.
func (s *Space) Bucket(slot uint32, after string, limit int) (carts []CartDigest, more bool, err error) {
	err = s.store.db.View(func(tx *badger.Txn) error {
		opt := badger.DefaultIteratorOptions
		opt.Prefix = s.slotKey(slot, 0)
		it := tx.NewIterator(opt)
		defer it.Close()
		for it.Seek(s.cartKey(slot, after)); it.Valid(); it.Next() {
			item := it.Item()
			id := string(item.Key()[len(opt.Prefix):])
			if id <= after && after != "" {
				continue
			}
			if len(carts) == limit {
				more = true
				return nil
			}
			c := CartDigest{CartID: id}
			if err := item.Value(func(v []byte) error {
				if len(v) < recordHeader {
					return fmt.Errorf("%w: record of cart %q has %d bytes", ErrCorrupt, id, len(v))
				}
				copy(c.Digest[:], v[8:])
				return nil
			}); err != nil {
				return err
			}
			carts = append(carts, c)
		}
		return nil
	})
	if err != nil {
		return nil, false, fmt.Errorf("read bucket %d: %w", slot, err)
	}
	return carts, more, nil
}

// Sweep deletes the shard's generations before this one, see Store.Sweep.
// Nobody may read them any more.
func (s *Space) Sweep(stop func() bool) error {
	return s.store.sweep(s.shard, s.generation, stop)
}

// Cursor returns the last joined row of a stream, 0 when none was.
func (s *Space) Cursor(st crdt.Stream) (uint64, error) {
	var cur uint64
	err := s.store.db.View(func(tx *badger.Txn) (err error) {
		cur, err = s.cursor(tx, st)
		return err
	})
	return cur, err
}

func (s *Space) cursor(tx *badger.Txn, st crdt.Stream) (uint64, error) {
	v, err := get(tx, s.cursorKey(st))
	if err != nil {
		return 0, fmt.Errorf("read cursor of stream %v: %w", st, err)
	}
	if v == nil {
		return 0, nil
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("%w: cursor of stream %v has %d bytes", ErrCorrupt, st, len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}

// Rows returns the committed rows after seq that were not trimmed, in order,
// at most maxBytes of them encoded, but at least one when there is one.
func (s *Space) Rows(seq uint64, maxBytes int) ([]crdt.Row, error) {
	var rows []crdt.Row
	err := s.store.db.View(func(tx *badger.Txn) error {
		m, err := s.readMarker(tx)
		if err != nil {
			return err
		}
		seq = max(seq, m.Trimmed)
		first, _ := chunkOf(seq + 1)
		size, more := 0, true
		for chunk := first; more && chunk*chunkLen < m.Seq; chunk++ {
			v, err := get(tx, s.chunkKey(kindRow, chunk))
			if err != nil {
				return err
			}
			if err := eachValue(v, func(place int, b []byte) (bool, error) {
				switch n := chunk*chunkLen + uint64(place) + 1; {
				case n <= seq:
					return true, nil
				case n > m.Seq:
					return false, nil // written ahead, see Tx.AppendRow
				}
				size += len(b)
				if more = len(rows) == 0 || size <= maxBytes; !more {
					return false, nil
				}
				r, err := crdt.DecodeRow(b)
				rows = append(rows, r)
				return true, corrupt(err)
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read delta log after %d: %w", seq, err)
	}
	return rows, nil
}

func (s *Space) readMarker(tx *badger.Txn) (m Marker, err error) {
	v, err := get(tx, s.markerKey())
	if err != nil || v == nil {
		return m, err
	}
	return decodeMarker(v)
}
