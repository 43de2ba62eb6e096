package store

import (
	"encoding/binary"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"github.com/samecart/samecart/crdt"
)

// Tx collects what applied commands change, for one commit. Reads see what
// was written before in the same Tx. For the applying goroutine alone.
type Tx struct {
	space  *Space
	tx     *badger.Txn
	marker Marker
	sums   map[uint32]Sum
	carts  map[string]*dirtyCart
	bytes  int64
	count  int64
	err    error

	rows, ops appending
	floors    map[uint32]Floor // that this transaction raised
	marks     []Mark
	lastRead  lastRead
	loose     []looseOp
	marked    bool // a guest's cart, see MarkGuest
	undos     map[string]dirtyUndo
	// spilled takes rows that would not fit the transaction; see AppendRow.
	spilled *badger.WriteBatch
}

type dirtyCart struct {
	slot   uint32
	record *Record
	size   int64
}

// Begin starts a transaction.
func (s *Space) Begin() *Tx {
	return &Tx{
		space: s, tx: s.store.db.NewTransaction(true), marker: s.marker,
		sums: make(map[uint32]Sum), carts: make(map[string]*dirtyCart),
		rows: appending{tail: s.rows.tail}, ops: appending{tail: s.ops.tail}, marks: s.marks,
	}
}

// Marker is the marker that the commit will write; the caller moves it.
func (t *Tx) Marker() *Marker { return &t.marker }

// Full reports whether the transaction should be committed before another
// command is applied: one command more may not fit.
func (t *Tx) Full() bool {
	db := t.space.store.db
	return t.bytes > db.MaxBatchSize()/3 || t.count > db.MaxBatchCount()/3
}

func (t *Tx) fail(err error) {
	if t.err == nil {
		t.err = err
	}
}

func (t *Tx) set(key, value []byte) {
	t.bytes += int64(len(key) + len(value) + 32)
	t.count++
	if err := t.tx.Set(key, value); err != nil {
		t.fail(fmt.Errorf("write: %w", err))
	}
}

func (t *Tx) delete(key []byte) {
	t.bytes += int64(len(key) + 32)
	t.count++
	if err := t.tx.Delete(key); err != nil {
		t.fail(fmt.Errorf("delete: %w", err))
	}
}

// Dirty returns the record that this transaction wrote for a cart; ok is
// false when it wrote none.
func (t *Tx) Dirty(id string) (r *Record, ok bool) {
	d, ok := t.carts[id]
	if !ok {
		return nil, false
	}
	return d.record, true
}

// Record reads a cart's committed record. A write of this transaction comes
// first, see Dirty.
func (t *Tx) Record(slot uint32, id string) (*Record, error) {
	v, err := get(t.tx, t.space.cartKey(slot, id))
	if err != nil {
		return nil, fmt.Errorf("read cart %q: %w", id, err)
	}
	if v == nil {
		return nil, nil
	}
	return DecodeRecord(v)
}

// PutRecord writes a cart's new record; old is the one it replaces, nil for
// a new cart. The bytes are written once a commit, however often it changes.
func (t *Tx) PutRecord(slot uint32, id string, old, r *Record) {
	sum := t.sum(slot)
	if old != nil {
		sum.take(old.Digest)
	} else {
		t.marker.Carts++
	}
	sum.put(r.Digest)
	t.sums[slot] = sum
	d := t.carts[id]
	if d == nil {
		d = &dirtyCart{slot: slot}
		t.carts[id] = d
		t.count++
	}
	was := uint32(0)
	if old != nil {
		was = old.Due
	}
	t.reindex(id, was, r.Due)
	size := int64(len(r.Encode()) + len(id) + 64)
	t.bytes += size - d.size
	d.size, d.record = size, r
}

// sum is a slot's digest as this transaction has it, which the caller is about to
// change.
func (t *Tx) sum(slot uint32) Sum {
	sum, ok := t.sums[slot]
	if !ok {
		sum = t.space.sums[slot-t.space.slotLo]
		t.count++ // at most: neighbours share a key
		t.bytes += 64
	}
	return sum
}

// AppendRow gives the row the log's next seq and writes it. Rows past half of
// what a transaction holds are written ahead of it: one clear of a full cart
// writes more than small memtables allow. That breaks neither S1 nor the
// entry's unity: the rows are of an entry that is committed, lie beyond the
// marker's Seq until the transaction is, and are written again, the same, when
// the entry is applied again.
func (t *Tx) AppendRow(r crdt.Row) {
	t.marker.Seq++
	r.Seq, r.Last = t.marker.Seq, t.marker.Seq
	t.append(&t.rows, kindRow, r.Seq, r.Encode(nil))
}

// Trim drops the oldest rows up to seq, at most limit of them. Their keys go
// when all rows of a chunk are dropped.
func (t *Tx) Trim(seq uint64, limit int) {
	seq = min(seq, t.marker.Seq)
	for ; limit > 0 && t.marker.Trimmed < seq; limit-- {
		t.marker.Trimmed++
		if chunk, place := chunkOf(t.marker.Trimmed); place == chunkLen-1 {
			t.delete(t.space.chunkKey(kindRow, chunk))
		}
	}
}

// Cursor returns the last joined row of a stream, 0 when none was.
func (t *Tx) Cursor(st crdt.Stream) (uint64, error) { return t.space.cursor(t.tx, st) }

// SetCursor records the last joined row of a stream.
func (t *Tx) SetCursor(st crdt.Stream, seq uint64) {
	t.set(t.space.cursorKey(st), binary.BigEndian.AppendUint64(nil, seq))
}

// Commit writes everything at once and calls each for every cart record
// written, with its bytes, and with nil for one that was dropped. After an error the node must stop: the log has the
// entry, the database does not.
func (t *Tx) Commit(each func(id string, r *Record, encoded []byte)) error {
	for id, d := range t.carts { // map order changes no byte: keys differ
		if d.record == nil {
			t.delete(t.space.cartKey(d.slot, id))
			continue
		}
		t.set(t.space.cartKey(d.slot, id), d.record.encoded)
	}
	t.writeUndos()
	t.writeSums()
	t.finish(&t.rows, kindRow, t.marker.Seq)
	t.finish(&t.ops, kindOps, t.marker.Ops)
	t.set(t.space.markerKey(), t.marker.encode())
	if t.spilled != nil && t.err == nil {
		t.err = t.spilled.Flush()
		t.space.store.steps.At(StepSpilled)
	}
	if t.err != nil {
		t.Discard()
		return t.err
	}
	t.space.store.steps.At(StepCommit)
	if err := t.tx.Commit(); err != nil {
		return fmt.Errorf("commit up to index %d: %w", t.marker.Applied, err)
	}
	t.space.store.steps.At(StepCommitted)
	t.space.marker = t.marker
	t.space.rows.tail, t.space.ops.tail = t.rows.tail, t.ops.tail
	for slot, sum := range t.sums {
		t.space.sums[slot-t.space.slotLo] = sum
	}
	for slot, f := range t.floors {
		t.space.floors[slot] = f
	}
	t.space.marks = t.marks
	for id, d := range t.carts {
		if d.record == nil {
			each(id, nil, nil)
			continue
		}
		encoded := d.record.encoded
		d.record.encoded = nil
		each(id, d.record, encoded)
	}
	return nil
}

// writeSums writes the keys of all digests that changed.
func (t *Tx) writeSums() {
	written := make(map[uint32]bool, len(t.sums))
	for slot := range t.sums {
		first := slot / sumsLen * sumsLen
		if written[first] {
			continue
		}
		written[first] = true
		b := make([]byte, 0, 16*sumsLen)
		for s := first; s < first+sumsLen; s++ {
			var sum Sum // of a slot that is another shard's
			if s >= t.space.slotLo && s < t.space.slotHi {
				sum = t.space.sums[s-t.space.slotLo]
			}
			if changed, ok := t.sums[s]; ok {
				sum = changed
			}
			v := sum.Bytes()
			b = append(b, v[:]...)
		}
		t.set(t.space.digestKey(first), b)
	}
}

// Discard drops a transaction that was not committed.
func (t *Tx) Discard() {
	t.tx.Discard()
	if t.spilled != nil {
		t.spilled.Cancel()
	}
}

// Sums returns the committed bucket digests of the slots [lo, hi), 16 bytes
// each, as they are in the database.
func (s *Space) Sums(lo, hi uint32) ([][16]byte, error) {
	if lo < s.slotLo || hi > s.slotHi || lo > hi {
		return nil, fmt.Errorf("slots [%d,%d) are not in shard %d, which has [%d,%d)", lo, hi, s.shard, s.slotLo, s.slotHi)
	}
	out := make([][16]byte, hi-lo)
	err := s.store.db.View(func(tx *badger.Txn) error {
		return s.readSums(tx, lo, hi, func(slot uint32, sum Sum) { out[slot-lo] = sum.Bytes() })
	})
	if err != nil {
		return nil, fmt.Errorf("read digests of slots [%d,%d): %w", lo, hi, err)
	}
	return out, nil
}
