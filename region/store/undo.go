package store

import (
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"github.com/samecart/samecart/crdt"
)

// What was last taken out of a cart is kept for a while, so that it can be put
// back, under a key of the cart's own. A record says by Undo that there may be such
// a key: edits look for it where there is one.

func (s *Space) undoKey(id string) []byte {
	return append(s.key(kindUndo, len(id)), id...)
}

// dirtyUndo is what a transaction will write of a cart's last removal.
type dirtyUndo struct {
	removed *crdt.Removed // nil: the key is deleted
	size    int64
}

// Removed returns what was last taken out of a cart, nil when nothing is kept; old is
// the cart's record. An error ends the transaction.
func (t *Tx) Removed(id string, old *Record) *crdt.Removed {
	if d, ok := t.undos[id]; ok {
		return d.removed
	}
	if old == nil || !old.Undo {
		return nil
	}
	v, err := get(t.tx, t.space.undoKey(id))
	if err != nil || v == nil {
		if err != nil {
			t.fail(fmt.Errorf("read what was removed of cart %q: %w", id, err))
		}
		return nil
	}
	r, err := crdt.DecodeRemoved(v)
	if err != nil {
		t.fail(fmt.Errorf("decode what was removed of cart %q: %w", id, corrupt(err)))
		return nil
	}
	return &r
}

// SetRemoved keeps what was taken out of a cart, in the place of what is kept; nil
// forgets it. It is written once a commit.
func (t *Tx) SetRemoved(id string, r *crdt.Removed) {
	if t.undos == nil {
		t.undos = make(map[string]dirtyUndo)
	}
	d, ok := t.undos[id]
	if !ok {
		t.count++
	}
	size := int64(len(id) + 64)
	if r != nil {
		for _, e := range r.Lines {
			size += int64(removedLineBytes + len(e.Key.SKU) + len(e.Key.Options) + len(e.Line.Visible().Attributes.Pairs))
		}
	}
	t.bytes += size - d.size
	t.undos[id] = dirtyUndo{r, size}
}

// removedLineBytes is what a line takes beside its texts, in most carts less.
const removedLineBytes = 64

// MayUndo is what a record says of the key that its cart has.
func (t *Tx) MayUndo(id string, old *Record) bool {
	if d, ok := t.undos[id]; ok {
		return d.removed != nil
	}
	return old != nil && old.Undo
}

// writeUndos writes what SetRemoved collected.
func (t *Tx) writeUndos() {
	for id, d := range t.undos { // map order changes no byte: keys differ
		t.bytes -= d.size // counted again
		if d.removed == nil {
			t.delete(t.space.undoKey(id))
			continue
		}
		t.set(t.space.undoKey(id), d.removed.Encode(nil))
	}
}

// RemovedBefore returns carts whose last removal was before the given time, at most
// limit of them.
func (s *Space) RemovedBefore(at crdt.Timestamp, limit int) (ids []string, err error) {
	err = s.store.db.View(func(tx *badger.Txn) error {
		opt := badger.DefaultIteratorOptions
		opt.Prefix = s.key(kindUndo, 0)
		it := tx.NewIterator(opt)
		defer it.Close()
		for it.Rewind(); it.Valid() && len(ids) < limit; it.Next() {
			id := string(it.Item().Key()[len(opt.Prefix):])
			if err := it.Item().Value(func(v []byte) error {
				removedAt, err := crdt.RemovedAt(v)
				if err == nil && removedAt < at {
					ids = append(ids, id)
				}
				return corrupt(err)
			}); err != nil {
				return fmt.Errorf("read what was removed of cart %q: %w", id, err)
			}
		}
		return nil
	})
	return ids, err
}

// Removed returns what was last taken out of a cart as of the last commit, nil when
// nothing is kept.
func (s *Space) Removed(id string) (r *crdt.Removed, err error) {
	err = s.store.db.View(func(tx *badger.Txn) error {
		v, err := get(tx, s.undoKey(id))
		if err != nil || v == nil {
			return err
		}
		removed, err := crdt.DecodeRemoved(v)
		r = &removed
		return corrupt(err)
	})
	if err != nil {
		return nil, fmt.Errorf("read what was removed of cart %q: %w", id, err)
	}
	return r, nil
}
