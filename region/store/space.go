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
}

// load reads the marker and the bucket digests.
func (s *Space) load() error {
	return s.store.db.View(func(tx *badger.Txn) error {
		v, err := get(tx, s.markerKey())
		if err != nil || v == nil {
			return err
		}
		if s.marker, err = decodeMarker(v); err != nil {
			return err
		}
		for slot := s.slotLo; slot < s.slotHi; slot++ {
			v, err := get(tx, s.digestKey(slot))
			if err != nil {
				return err
			}
			if v == nil {
				continue
			}
			if len(v) != 16 {
				return fmt.Errorf("%w: digest of slot %d has %d bytes", ErrCorrupt, slot, len(v))
			}
			s.sums[slot-s.slotLo] = Sum{binary.BigEndian.Uint64(v), binary.BigEndian.Uint64(v[8:])}
		}
		return nil
	})
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

// Ops lists every request remembered for a cart: its op id and record.
func (s *Space) Ops(id string) (ops map[crdt.OpID]OpRecord, err error) {
	err = s.store.db.View(func(tx *badger.Txn) error {
		ops, err = s.ops(tx, id)
		return err
	})
	return ops, err
}

// RecordAndOps returns a cart's record, nil when there is none, and its
// requests, both as of one commit.
func (s *Space) RecordAndOps(slot uint32, id string) (r *Record, ops map[crdt.OpID]OpRecord, err error) {
	err = s.store.db.View(func(tx *badger.Txn) error {
		v, err := get(tx, s.cartKey(slot, id))
		if err != nil {
			return fmt.Errorf("read cart %q: %w", id, err)
		}
		if v == nil {
			return nil
		}
		if r, err = DecodeRecord(v); err != nil {
			return err
		}
		ops, err = s.ops(tx, id)
		return err
	})
	return r, ops, err
}

func (s *Space) ops(tx *badger.Txn, id string) (map[crdt.OpID]OpRecord, error) {
	out := make(map[crdt.OpID]OpRecord)
	opt := badger.DefaultIteratorOptions
	opt.Prefix = append(append(s.key(kindOp, len(id)+1), id...), 0)
	it := tx.NewIterator(opt)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		var op crdt.OpID
		rest := it.Item().Key()[len(opt.Prefix):]
		if len(rest) > len(op) {
			continue // of a cart whose id goes on after a zero byte
		}
		if copy(op[:], rest) != len(op) {
			return nil, fmt.Errorf("%w: op key of cart %q", ErrCorrupt, id)
		}
		if err := it.Item().Value(func(v []byte) (err error) {
			out[op], err = decodeOpRecord(v)
			return err
		}); err != nil {
			return nil, fmt.Errorf("read ops of cart %q: %w", id, err)
		}
	}
	return out, nil
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

// Rows returns the committed rows after seq, in order, at most maxBytes of
// them encoded, but at least one when there is one.
func (s *Space) Rows(seq uint64, maxBytes int) ([]crdt.Row, error) {
	var rows []crdt.Row
	err := s.store.db.View(func(tx *badger.Txn) error {
		opt := badger.DefaultIteratorOptions
		opt.Prefix = s.key(kindRow, 0)
		it := tx.NewIterator(opt)
		defer it.Close()
		size := 0
		for it.Seek(s.rowKey(seq + 1)); it.Valid(); it.Next() {
			size += int(it.Item().ValueSize())
			if len(rows) > 0 && size > maxBytes {
				return nil
			}
			if err := it.Item().Value(func(v []byte) error {
				r, err := crdt.DecodeRow(v)
				rows = append(rows, r)
				return corrupt(err)
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

// OldestOp returns when the oldest remembered request was applied; ok is
// false when none is remembered.
func (s *Space) OldestOp() (at crdt.Timestamp, ok bool, err error) {
	err = s.store.db.View(func(tx *badger.Txn) error {
		opt := badger.DefaultIteratorOptions
		opt.PrefetchValues = false
		opt.Prefix = s.key(kindOpAge, 0)
		it := tx.NewIterator(opt)
		defer it.Close()
		it.Rewind()
		if !it.Valid() {
			return nil
		}
		rest := it.Item().Key()[len(opt.Prefix):]
		if len(rest) < 8 {
			return fmt.Errorf("%w: op age key of %d bytes", ErrCorrupt, len(rest))
		}
		at, ok = crdt.Timestamp(binary.BigEndian.Uint64(rest)), true
		return nil
	})
	return at, ok, err
}
