package store

import (
	"encoding/binary"
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

// GuestMark is what is to be forwarded of a guest's cart.
type GuestMark struct {
	CartID string
	// Digest is the cart's, zero once it was dropped.
	Digest Digest
	// Gone are the carts that are to be told that it was dropped.
	Gone []string
}

// MarkGuest notes that a guest's cart is to be forwarded as it is under a digest,
// or as it is later.
func (t *Tx) MarkGuest(id string, d Digest) {
	t.set(t.space.guestKey(id), d[:])
	t.marked = true
}

// MarkGone notes that a guest's cart was dropped, and who is to be told so.
func (t *Tx) MarkGone(id string, users []string) {
	b := make([]byte, len(Digest{}), 64)
	for _, u := range users {
		b = append(binary.AppendUvarint(b, uint64(len(u))), u...)
	}
	t.set(t.space.guestKey(id), b)
	t.marked = true
}

func decodeGuestMark(id string, b []byte) (GuestMark, error) {
	m := GuestMark{CartID: id}
	bad := func() (GuestMark, error) {
		return m, fmt.Errorf("%w: mark of guest %q has %d bytes", ErrCorrupt, id, len(b))
	}
	if copy(m.Digest[:], b) != len(m.Digest) {
		return bad()
	}
	for rest := b[len(m.Digest):]; len(rest) > 0; {
		size, n := binary.Uvarint(rest)
		if n <= 0 || size > uint64(len(rest)-n) {
			return bad()
		}
		m.Gone = append(m.Gone, string(rest[n:n+int(size)]))
		rest = rest[n+int(size):]
	}
	return m, nil
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
	if len(v) >= len(d) && string(v[:len(d)]) == string(d[:]) {
		t.delete(key)
	}
	return nil
}

// MarkedGuests lists the marks with ids above after, in id order, at most limit of
// them.
func (s *Space) MarkedGuests(after string, limit int) (marks []GuestMark, err error) {
	err = s.store.db.View(func(tx *badger.Txn) error {
		opt := badger.DefaultIteratorOptions
		opt.Prefix = s.key(kindGuest, 0)
		it := tx.NewIterator(opt)
		defer it.Close()
		for it.Seek(s.guestKey(after)); it.Valid() && len(marks) < limit; it.Next() {
			id := string(it.Item().Key()[len(opt.Prefix):])
			if id <= after {
				continue
			}
			if err := it.Item().Value(func(v []byte) error {
				m, err := decodeGuestMark(id, v)
				marks = append(marks, m)
				return err
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read marks of guests: %w", err)
	}
	return marks, nil
}
