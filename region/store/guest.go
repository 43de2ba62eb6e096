package store

import (
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// A guest's cart that was merged is marked when it changes, in the transaction
// that changes it, until it is in the carts that it was merged into:
//
//	S5  A merged guest's cart that is not forwarded as it is has a mark with its
//	    digest. Marks are a shard's like its carts: snapshots have them, and a
//	    new leader goes on where the last one was.

func (s *Space) guestKey(id string) []byte { return append(s.key(kindGuest, len(id)), id...) }

// MarkGuest notes that a guest's cart is to be forwarded as it is under a digest,
// or as it is later.
func (t *Tx) MarkGuest(id string, d Digest) {
	t.set(t.space.guestKey(id), d[:])
	t.marked = true
}

// Marked reports whether the transaction marked a guest's cart.
func (t *Tx) Marked() bool { return t.marked }

// ForwardedGuest takes the mark away, unless the cart has changed since it had the
// given digest.
func (t *Tx) ForwardedGuest(id string, d Digest) error {
	key := t.space.guestKey(id)
	v, err := get(t.tx, key)
	if err != nil {
		return fmt.Errorf("read mark of guest %q: %w", id, err)
	}
	if v != nil && string(v) == string(d[:]) {
		t.delete(key)
	}
	return nil
}

// MarkedGuests lists the marks with ids above after, in id order, at most limit of
// them.
func (s *Space) MarkedGuests(after string, limit int) (marks []CartDigest, err error) {
	err = s.store.db.View(func(tx *badger.Txn) error {
		opt := badger.DefaultIteratorOptions
		opt.Prefix = s.key(kindGuest, 0)
		it := tx.NewIterator(opt)
		defer it.Close()
		for it.Seek(s.guestKey(after)); it.Valid() && len(marks) < limit; it.Next() {
			m := CartDigest{CartID: string(it.Item().Key()[len(opt.Prefix):])}
			if m.CartID <= after {
				continue
			}
			if err := it.Item().Value(func(v []byte) error {
				if copy(m.Digest[:], v) != len(m.Digest) || len(v) > len(m.Digest) {
					return fmt.Errorf("%w: mark of guest %q has %d bytes", ErrCorrupt, m.CartID, len(v))
				}
				return nil
			}); err != nil {
				return err
			}
			marks = append(marks, m)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read marks of guests: %w", err)
	}
	return marks, nil
}
