package store

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"github.com/samecart/samecart/crdt"
)

// An erased cart leaves rows in the delta log and requests among those that are
// remembered, which tell what was in it. They keep their numbers, since what comes
// behind them counts on that, and are written again without what they tell. That
// takes a search, so it comes after the erasure, in steps.

// Erased is a cart whose rows and requests up to the given numbers are to be looked
// through.
type Erased struct {
	CartID    string
	Rows, Ops uint64
}

func (s *Space) erasedKey(id string) []byte {
	return append(s.key(kindErased, len(id)), id...)
}

// MarkErased notes that a cart was erased now.
func (t *Tx) MarkErased(id string) {
	v := binary.BigEndian.AppendUint64(nil, t.marker.Seq)
	t.set(t.space.erasedKey(id), binary.BigEndian.AppendUint64(v, t.marker.Ops))
}

// FinishScrub notes that nothing is to be found of an erased cart any more, at a log
// index.
func (t *Tx) FinishScrub(id string, index uint64) {
	t.delete(t.space.erasedKey(id))
	t.set(t.space.key(kindScrubbed, 0), binary.BigEndian.AppendUint64(nil, index))
}

// ScrubRow writes the n-th row again without its line, if it is of the given cart and
// was not trimmed.
func (t *Tx) ScrubRow(id string, n uint64) error {
	if n <= t.marker.Trimmed || n > t.marker.Seq {
		return nil
	}
	v, err := t.value(&t.rows, kindRow, t.marker.Seq, n)
	if err != nil {
		return fmt.Errorf("read row %d: %w", n, err)
	}
	row, err := crdt.DecodeRow(v)
	if err != nil {
		return fmt.Errorf("decode row %d: %w", n, corrupt(err))
	}
	if row.CartID != id || row.IsErasure() {
		return nil
	}
	return t.replace(&t.rows, kindRow, t.marker.Seq, n, row.Scrubbed().Encode(nil))
}

// ScrubRequest forgets what the n-th request was, if it is of the given cart.
func (t *Tx) ScrubRequest(id string, n uint64) error {
	if n <= t.marker.OpsForgotten || n > t.marker.Ops {
		return nil
	}
	o, err := t.briefAt(n)
	if err != nil || o.cartID != id {
		return err
	}
	if o.apart {
		t.delete(t.space.outcomeKey(n))
	}
	t.delete(t.space.opKey(id, o.op))
	return t.replace(&t.ops, kindOps, t.marker.Ops, n, remembered{age: o.age}.encode())
}

// replace writes the value of a number again that the series has.
func (t *Tx) replace(a *appending, kind byte, last, n uint64, value []byte) error {
	chunk, at := chunkOf(n)
	old := a.tail
	tailChunk, _ := chunkOf(last + 1)
	inTail := chunk == tailChunk
	if !inTail {
		var err error
		if old, err = t.readChunk(kind, chunk); err != nil {
			return fmt.Errorf("read chunk %d of %q: %w", chunk, kind, err)
		}
	}
	fresh := make([]byte, 0, len(old)+len(value))
	found := false
	if err := eachValue(old, func(place int, v []byte) (bool, error) {
		if place == at {
			v, found = value, true
		}
		fresh = append(binary.AppendUvarint(fresh, uint64(len(v))), v...)
		return true, nil
	}); err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("%w: number %d of %q is not there", ErrCorrupt, n, kind)
	}
	t.bytes += int64(len(fresh)) + 64
	t.count++
	if inTail {
		a.tail, a.dirty = fresh, true
		return nil
	}
	t.lastRead = lastRead{}
	// Not by writeChunk: a chunk that is written ahead cannot be read again here.
	if err := t.tx.Set(t.space.chunkKey(kind, chunk), fresh); err != nil {
		t.fail(fmt.Errorf("write: %w", err))
	}
	return nil
}

// NextErased returns a cart that is still to be scrubbed; ok is false when there is
// none.
func (s *Space) NextErased() (e Erased, ok bool, err error) {
	err = s.store.db.View(func(tx *badger.Txn) error {
		opt := badger.DefaultIteratorOptions
		opt.Prefix = s.key(kindErased, 0)
		opt.PrefetchSize = 1
		it := tx.NewIterator(opt)
		defer it.Close()
		it.Rewind()
		if !it.Valid() {
			return nil
		}
		e.CartID, ok = string(it.Item().Key()[len(opt.Prefix):]), true
		return it.Item().Value(func(v []byte) error {
			if len(v) != 16 {
				return fmt.Errorf("%w: mark of erased cart %q has %d bytes", ErrCorrupt, e.CartID, len(v))
			}
			e.Rows, e.Ops = binary.BigEndian.Uint64(v), binary.BigEndian.Uint64(v[8:])
			return nil
		})
	})
	return e, ok && err == nil, err
}

// Traces returns the numbers of the rows and requests that tell of an erased cart. It
// reads all there are, of rows those that another region may still need.
func (s *Space) Traces(e Erased) (rows, ops []uint64, err error) {
	id := []byte(e.CartID)
	err = s.store.db.View(func(tx *badger.Txn) error {
		m, err := s.readMarker(tx)
		if err != nil {
			return err
		}
		n := m.Trimmed
		if err := s.eachOf(tx, kindRow, n, min(e.Rows, m.Seq), func(v []byte) error {
			n++
			if !bytes.Contains(v, id) {
				return nil
			}
			row, err := crdt.DecodeRow(v)
			if err == nil && row.CartID == e.CartID && !row.IsErasure() {
				rows = append(rows, n)
			}
			return corrupt(err)
		}); err != nil {
			return err
		}
		n = m.OpsForgotten
		return s.eachOf(tx, kindOps, n, min(e.Ops, m.Ops), func(v []byte) error {
			n++
			if !bytes.Contains(v, id) {
				return nil
			}
			o, err := decodeRemembered(v)
			if err == nil && o.cartID == e.CartID {
				ops = append(ops, n)
			}
			return err
		})
	})
	if err != nil {
		return nil, nil, fmt.Errorf("look for traces of cart %q: %w", e.CartID, err)
	}
	return rows, ops, nil
}

// Scrubbed returns the newest log index at which all traces of a cart were gone, 0
// when there is none: entries up to it may tell of it.
func (s *Space) Scrubbed() (index uint64, err error) {
	err = s.store.db.View(func(tx *badger.Txn) error {
		v, err := get(tx, s.key(kindScrubbed, 0))
		if err != nil || v == nil {
			return err
		}
		index, err = decodeNumber(v)
		return err
	})
	return index, err
}
