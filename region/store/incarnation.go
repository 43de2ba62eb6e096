package store

import (
	"encoding/binary"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"github.com/samecart/samecart/crdt"
)

// Incarnation returns the highest incarnation of a region that is known here:
// by the cursors of its streams, and by the contexts of a slot's carts, which a
// repair may have brought without a cursor. 0: none is. Cost: the slot's carts
// are decoded.
func (s *Space) Incarnation(region crdt.RegionID, slot uint32) (highest uint32, err error) {
	err = s.store.db.View(func(tx *badger.Txn) error {
		if err := s.ofCursors(tx, region, &highest); err != nil {
			return err
		}
		opt := badger.DefaultIteratorOptions
		opt.Prefix = s.slotKey(slot, 0)
		it := tx.NewIterator(opt)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			err := it.Item().Value(func(v []byte) error {
				rec, err := DecodeRecord(v)
				if err != nil {
					return err
				}
				for _, r := range rec.State.Cart.Context.Replicas() {
					if r.Region == region {
						highest = max(highest, r.Incarnation)
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("look for incarnations of region %d in slot %d: %w", region, slot, err)
	}
	return highest, nil
}

func (s *Space) ofCursors(tx *badger.Txn, region crdt.RegionID, highest *uint32) error {
	opt := badger.DefaultIteratorOptions
	opt.PrefetchValues = false
	opt.Prefix = binary.BigEndian.AppendUint16(s.key(kindCursor, 2), uint16(region))
	it := tx.NewIterator(opt)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		rest := it.Item().Key()[len(opt.Prefix):]
		if len(rest) != 8 {
			return fmt.Errorf("%w: cursor key of region %d has %d bytes more", ErrCorrupt, region, len(rest))
		}
		*highest = max(*highest, binary.BigEndian.Uint32(rest))
	}
	return nil
}
