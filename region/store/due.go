package store

import (
	"encoding/binary"
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// Indexed is an entry of the index of due carts, which has one for each cart of which
// something will expire: a key with the second, since the Unix epoch, up to which
// nobody need look at it.
//
//	D1  A record's entry stands at Record.Due, 0: there is none. Any other entry
//	    of the cart is left over.
//	D2  An entry is not after what it is for. It may be long before: an edit that
//	    makes a cart live longer writes no key, and who comes to the entry moves
//	    it.
type Indexed struct {
	CartID string
	At     uint32
}

func (s *Space) dueKey(e Indexed) []byte {
	b := binary.BigEndian.AppendUint32(s.key(kindDue, 4+len(e.CartID)), e.At)
	return append(b, e.CartID...)
}

// Due lists the entries of the index after the given one whose time is before until,
// in order, at most limit of them; more says that there are others.
func (s *Space) Due(after Indexed, until uint32, limit int) (due []Indexed, more bool, err error) {
	err = s.store.db.View(func(tx *badger.Txn) error {
		opt := badger.DefaultIteratorOptions
		opt.PrefetchValues = false
		opt.Prefix = s.key(kindDue, 0)
		it := tx.NewIterator(opt)
		defer it.Close()
		for it.Seek(s.dueKey(after)); it.Valid(); it.Next() {
			rest := it.Item().Key()[len(opt.Prefix):]
			if len(rest) < 5 {
				return fmt.Errorf("%w: key of a due cart has %d bytes", ErrCorrupt, len(rest))
			}
			e := Indexed{At: binary.BigEndian.Uint32(rest), CartID: string(rest[4:])}
			if e == after {
				continue
			}
			if e.At >= until {
				return nil
			}
			if len(due) == limit {
				more = true
				return nil
			}
			due = append(due, e)
		}
		return nil
	})
	if err != nil {
		return nil, false, fmt.Errorf("read due carts after %d: %w", after.At, err)
	}
	return due, more, nil
}

// reindex moves a cart's entry from one time to another; 0 is none.
func (t *Tx) reindex(id string, from, to uint32) {
	if from == to {
		return
	}
	if from != 0 {
		t.Unindex(Indexed{id, from})
	}
	if to != 0 {
		t.set(t.space.dueKey(Indexed{id, to}), nil)
	}
}

// Unindex drops an entry that is left over.
func (t *Tx) Unindex(e Indexed) { t.delete(t.space.dueKey(e)) }
