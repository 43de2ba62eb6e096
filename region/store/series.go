package store

import (
	"encoding/binary"
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// A series is a log of values under the numbers 1, 2, 3, …, packed chunkLen to
// a key: what an entry's commands append costs one key for many of them. The
// last chunk is written again until it is full, so what is stored follows from
// the values alone, not from where transactions ended.
//
//	chunk = { length value }, the values of chunkLen numbers in order
type series struct {
	kind byte
	// tail is the committed content of the chunk that the next value goes
	// into. The applying goroutine's own; never changed below its length.
	tail []byte
}

// chunkLen is how many values share a key: so few that writing the last chunk
// again costs little when the shard is idle.
const chunkLen = 16

// chunkOf returns the chunk that holds number n, and n's place in it.
func chunkOf(n uint64) (chunk uint64, place int) { return (n - 1) / chunkLen, int((n - 1) % chunkLen) }

func (s *Space) chunkKey(kind byte, chunk uint64) []byte {
	return binary.BigEndian.AppendUint64(s.key(kind, 8), chunk)
}

// eachValue calls do with the values of a chunk and their places, until it
// says false.
func eachValue(chunk []byte, do func(place int, value []byte) (more bool, err error)) error {
	for place := 0; len(chunk) > 0; place++ {
		size, n := binary.Uvarint(chunk)
		if n <= 0 || size > uint64(len(chunk)-n) || place == chunkLen {
			return fmt.Errorf("%w: value %d of a chunk is cut off or too much", ErrCorrupt, place)
		}
		end := n + int(size)
		if more, err := do(place, chunk[n:end]); err != nil || !more {
			return err
		}
		chunk = chunk[end:]
	}
	return nil
}

// load reads the tail of a series whose last number is n.
func (r *series) load(tx *badger.Txn, s *Space, n uint64) error {
	r.tail = nil
	chunk, place := chunkOf(n + 1)
	if place == 0 {
		return nil
	}
	v, err := get(tx, s.chunkKey(r.kind, chunk))
	if err != nil {
		return err
	}
	// What stands behind the place was written ahead of a transaction that
	// never was (see Tx.AppendRow).
	length, found := 0, 0
	if err := eachValue(v, func(_ int, value []byte) (bool, error) {
		length += uvarintLen(uint64(len(value))) + len(value)
		found++
		return found < place, nil
	}); err != nil {
		return err
	}
	if found != place {
		return fmt.Errorf("%w: chunk %d of %q has %d values, want %d", ErrCorrupt, chunk, r.kind, found, place)
	}
	r.tail = v[:length:length]
	return nil
}

func uvarintLen(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

// appending is a series as a transaction changes it.
type appending struct {
	tail  []byte
	dirty bool // tail has values that are not written
}

// append gives value the number n, which follows the series' last.
func (t *Tx) append(a *appending, kind byte, n uint64, value []byte) {
	chunk, place := chunkOf(n)
	if !a.dirty {
		t.count++
		t.bytes += int64(len(a.tail)) + 64
	}
	if place == 0 {
		a.tail = make([]byte, 0, chunkLen*(len(value)+8))
	}
	a.tail = append(binary.AppendUvarint(a.tail, uint64(len(value))), value...)
	a.dirty = true
	t.bytes += int64(len(value)) + 2
	if place == chunkLen-1 {
		t.writeChunk(kind, chunk, a.tail)
		*a = appending{}
	}
}

// finish writes the chunk that is not full; n is the series' last number.
func (t *Tx) finish(a *appending, kind byte, n uint64) {
	if a.dirty {
		chunk, _ := chunkOf(n)
		t.writeChunk(kind, chunk, a.tail)
		a.dirty = false
	}
}

// lastRead is the chunk that a transaction read last: what belongs to one cart
// often came together, and is asked for one by one.
type lastRead struct {
	kind  byte // 0: none
	chunk uint64
	value []byte
}

// readChunk returns a chunk of a series, nil when there is none.
func (t *Tx) readChunk(kind byte, chunk uint64) ([]byte, error) {
	if l := t.lastRead; l.kind == kind && l.chunk == chunk {
		return l.value, nil
	}
	v, err := get(t.tx, t.space.chunkKey(kind, chunk))
	if err == nil {
		t.lastRead = lastRead{kind, chunk, v}
	}
	return v, err
}

// writeChunk writes what append has counted already.
func (t *Tx) writeChunk(kind byte, chunk uint64, value []byte) {
	t.lastRead = lastRead{}
	key := t.space.chunkKey(kind, chunk)
	if kind != kindRow || t.bytes < t.space.store.db.MaxBatchSize()/2 {
		if err := t.tx.Set(key, value); err != nil {
			t.fail(fmt.Errorf("write: %w", err))
		}
		return
	}
	if t.spilled == nil {
		t.spilled = t.space.store.db.NewWriteBatch()
	}
	t.bytes -= int64(len(value))
	if err := t.spilled.Set(key, value); err != nil {
		t.fail(fmt.Errorf("write rows of chunk %d: %w", chunk, err))
	}
}

// value returns the value of number n in a transaction, nil when there is none.
func (t *Tx) value(a *appending, kind byte, last, n uint64) (value []byte, err error) {
	chunk, place := chunkOf(n)
	v := a.tail
	if tailChunk, _ := chunkOf(last + 1); chunk != tailChunk || v == nil { // a reader has no tail
		if v, err = t.readChunk(kind, chunk); err != nil {
			return nil, err
		}
	}
	err = eachValue(v, func(i int, b []byte) (bool, error) {
		if i == place {
			value = b
		}
		return i < place, nil
	})
	return value, err
}
