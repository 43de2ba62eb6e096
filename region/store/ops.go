package store

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/dgraph-io/badger/v4"

	"github.com/samecart/samecart/crdt"
)

// OpRecord is what is remembered of a request with an op id.
type OpRecord struct {
	Fingerprint uint64
	At          crdt.Timestamp
	// Outcome is the encoded outcome; empty when the request was applied in
	// another region and only its effect is known here.
	Outcome []byte
}

// remembered is a request in the series of all that are remembered, in the
// order in which they came.
type remembered struct {
	age    crdt.Timestamp // when it is forgotten by
	cartID string
	op     crdt.OpID
	apart  bool // the outcome has its own key
	OpRecord
}

// outcomeMax is the largest outcome that is remembered in the series, whose last
// chunk is written again with each entry. One of a batch of edits may take a
// hundred times as much as that of one edit: sixteen of them would be as much as
// the smallest transaction takes.
const outcomeMax = 1 << 10

func (o remembered) encode() []byte {
	b := make([]byte, 0, 8+2+len(o.cartID)+len(o.op)+16+len(o.Outcome))
	b = binary.BigEndian.AppendUint64(b, uint64(o.age))
	head := uint64(len(o.cartID)) << 1
	if o.apart {
		head |= 1
	}
	b = binary.AppendUvarint(b, head)
	b = append(append(b, o.cartID...), o.op[:]...)
	b = binary.BigEndian.AppendUint64(b, o.Fingerprint)
	b = binary.BigEndian.AppendUint64(b, uint64(o.At))
	return append(b, o.Outcome...)
}

func decodeRemembered(b []byte) (o remembered, err error) {
	bad := func() (remembered, error) {
		return remembered{}, fmt.Errorf("%w: request of %d bytes", ErrCorrupt, len(b))
	}
	if len(b) < 8 {
		return bad()
	}
	o.age = crdt.Timestamp(binary.BigEndian.Uint64(b))
	head, n := binary.Uvarint(b[8:])
	size, rest := head>>1, b[8+max(n, 0):]
	if n <= 0 || size > uint64(len(rest)) || len(rest)-int(size) < len(o.op)+16 {
		return bad()
	}
	o.apart, o.cartID, rest = head&1 != 0, string(rest[:size]), rest[size:]
	rest = rest[copy(o.op[:], rest):]
	o.Fingerprint = binary.BigEndian.Uint64(rest)
	o.At = crdt.Timestamp(binary.BigEndian.Uint64(rest[8:]))
	o.Outcome = slices.Clone(rest[16:])
	return o, nil
}

// Asked says where a cart's requests are remembered: most edits carry a new op
// id, and it says so without a look into the database. It is of this region
// alone, and no part of the cart's value.
//
//	S3  A request that is remembered for a cart with a record is in the
//	    record's Asked, or Asked is Full and the index has it.
//	S4  A request for a cart without a record is in the index.
type Asked struct {
	// Newest is the number of the newest of them; with it, all are forgotten.
	Newest uint64
	// Full says that there are more than are listed here: all are in the index.
	Full bool
	refs []opRef
}

// opRef is where one request is remembered.
type opRef struct {
	tag uint32 // the op id's first bytes
	n   uint64 // its number in the series
}

// askedMax is how many requests one cart lists, some 6 bytes each: a day of a
// shopper who edits a lot.
const askedMax = 64

func tagOf(op crdt.OpID) uint32 { return binary.BigEndian.Uint32(op[:]) }

// Equal reports whether both say the same.
func (a Asked) Equal(o Asked) bool {
	return a.Newest == o.Newest && a.Full == o.Full && slices.Equal(a.refs, o.refs)
}

func (a Asked) append(b []byte) []byte {
	head := uint64(len(a.refs)) << 1
	if a.Full {
		head |= 1
	}
	b = binary.AppendUvarint(b, head)
	if head == 0 {
		return b
	}
	b = binary.AppendUvarint(b, a.Newest)
	last := uint64(0) // numbers rise
	for _, r := range a.refs {
		b = binary.BigEndian.AppendUint32(b, r.tag)
		b = binary.AppendUvarint(b, r.n-last)
		last = r.n
	}
	return b
}

func decodeAsked(b []byte) (a Asked, rest []byte, err error) {
	bad := func() (Asked, []byte, error) {
		return Asked{}, nil, fmt.Errorf("%w: list of a record's requests", ErrCorrupt)
	}
	head, n := binary.Uvarint(b)
	if n <= 0 || head>>1 > askedMax {
		return bad()
	}
	b = b[n:]
	if head == 0 {
		return a, b, nil
	}
	newest, n := binary.Uvarint(b)
	if n <= 0 {
		return bad()
	}
	a.Newest, a.Full, b = newest, head&1 != 0, b[n:]
	if head>>1 > 0 {
		a.refs = make([]opRef, 0, head>>1)
	}
	last := uint64(0)
	for range head >> 1 {
		if len(b) < 4 {
			return bad()
		}
		tag := binary.BigEndian.Uint32(b)
		more, n := binary.Uvarint(b[4:])
		if n <= 0 {
			return bad()
		}
		last += more
		a.refs = append(a.refs, opRef{tag, last})
		b = b[4+n:]
	}
	return a, b, nil
}

// Op returns what is remembered of a request; r is its cart's record, nil when
// there is none.
func (t *Tx) Op(id string, op crdt.OpID, r *Record) (rec OpRecord, ok bool, err error) {
	if r != nil {
		if rec, ok, err = t.listed(id, op, r.Asked); ok || err != nil || !r.Asked.Full {
			return rec, ok, err
		}
	}
	_, rec, ok, err = t.indexed(id, op)
	return rec, ok, err
}

// listed looks for a request where its cart's list says that it may be.
func (t *Tx) listed(id string, op crdt.OpID, a Asked) (rec OpRecord, ok bool, err error) {
	for _, ref := range a.refs {
		if ref.tag != tagOf(op) || ref.n <= t.marker.OpsForgotten {
			continue
		}
		o, err := t.opAt(ref.n)
		if err != nil {
			return rec, false, err
		}
		if o.op == op && o.cartID == id {
			return o.OpRecord, true, nil
		}
	}
	return rec, false, nil
}

// indexed looks for a request in the index.
func (t *Tx) indexed(id string, op crdt.OpID) (n uint64, rec OpRecord, ok bool, err error) {
	v, err := get(t.tx, t.space.opKey(id, op))
	if err != nil {
		return 0, rec, false, fmt.Errorf("read op of cart %q: %w", id, err)
	}
	if v == nil {
		return 0, rec, false, nil
	}
	if n, err = decodeNumber(v); err != nil || n <= t.marker.OpsForgotten {
		return 0, rec, false, err
	}
	o, err := t.opAt(n)
	if err == nil && (o.op != op || o.cartID != id) {
		err = fmt.Errorf("%w: index of the requests of cart %q", ErrCorrupt, id)
	}
	return n, o.OpRecord, err == nil, err
}

func decodeNumber(v []byte) (uint64, error) {
	if len(v) != 8 {
		return 0, fmt.Errorf("%w: number of %d bytes", ErrCorrupt, len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}

// opAt returns the n-th request that was remembered.
func (t *Tx) opAt(n uint64) (o remembered, err error) {
	if o, err = t.briefAt(n); err != nil || !o.apart {
		return o, err
	}
	if o.Outcome, err = get(t.tx, t.space.outcomeKey(n)); err == nil && o.Outcome == nil {
		err = fmt.Errorf("%w: it is not there", ErrCorrupt)
	}
	if err != nil {
		return o, fmt.Errorf("read outcome of request %d: %w", n, err)
	}
	return o, nil
}

// briefAt is opAt without an outcome that is apart.
func (t *Tx) briefAt(n uint64) (o remembered, err error) {
	v, err := t.value(&t.ops, kindOps, t.marker.Ops, n)
	if err == nil {
		o, err = decodeRemembered(v)
	}
	if err != nil {
		return o, fmt.Errorf("read request %d: %w", n, err)
	}
	return o, nil
}

func (t *Tx) index(id string, op crdt.OpID, n uint64) {
	t.set(t.space.opKey(id, op), binary.BigEndian.AppendUint64(nil, n))
}

// ListNextOp puts the request that PutOp remembers next into its cart's list,
// for the record that the caller writes before: what is remembered has the
// record's digest in it.
func (t *Tx) ListNextOp(id string, op crdt.OpID, a Asked) (Asked, error) {
	return t.list(id, op, t.marker.Ops+1, a)
}

// PutOp remembers a request; now is when it is forgotten by, at the latest:
// one from a region whose clock is ahead must not keep those behind it.
func (t *Tx) PutOp(id string, op crdt.OpID, rec OpRecord, now crdt.Timestamp) {
	t.marker.Ops++
	o := remembered{age: min(rec.At, now), cartID: id, op: op, OpRecord: rec}
	if len(o.Outcome) > outcomeMax {
		t.set(t.space.outcomeKey(t.marker.Ops), o.Outcome)
		o.apart, o.Outcome = true, nil
	}
	t.append(&t.ops, kindOps, t.marker.Ops, o.encode())
}

// list puts a request that is remembered into its cart's list.
func (t *Tx) list(id string, op crdt.OpID, n uint64, a Asked) (Asked, error) {
	if a.Newest <= t.marker.OpsForgotten {
		a = Asked{}
	}
	a.Newest = max(a.Newest, n)
	refs := make([]opRef, 0, len(a.refs)+1) // the old record keeps its own
	for _, r := range a.refs {
		if r.n > t.marker.OpsForgotten {
			refs = append(refs, r)
		}
	}
	if !a.Full && len(refs) < askedMax {
		a.refs = append(refs, opRef{tagOf(op), n})
		return a, nil
	}
	for _, r := range refs {
		o, err := t.briefAt(r.n)
		if err != nil {
			return a, err
		}
		t.index(id, o.op, r.n)
	}
	t.index(id, op, n)
	a.Full, a.refs = true, nil
	return a, nil
}

// PutLooseOp remembers a request whose cart's record is not written with it.
func (t *Tx) PutLooseOp(id string, op crdt.OpID, rec OpRecord, now crdt.Timestamp) {
	t.PutOp(id, op, rec, now)
	t.index(id, op, t.marker.Ops)
	t.loose = append(t.loose, looseOp{id, op, t.marker.Ops})
}

// KnowsOp reports whether a request is remembered for a cart whose list is a.
func (t *Tx) KnowsOp(id string, op crdt.OpID, a Asked) (known bool, err error) {
	if _, known, err = t.listed(id, op, a); known || err != nil || !a.Full {
		return known, err
	}
	_, _, known, err = t.indexed(id, op)
	return known, err
}

// AdoptOp puts a request that is in the index, if it is remembered at all, into
// its cart's list.
func (t *Tx) AdoptOp(id string, op crdt.OpID, a Asked) (_ Asked, known bool, err error) {
	if _, known, err = t.listed(id, op, a); known || err != nil {
		return a, known, err
	}
	n, _, known, err := t.indexed(id, op)
	if err != nil || !known {
		return a, known, err
	}
	if a.Full {
		a.Newest = max(a.Newest, n) // or the list would end before the request does
		return a, true, nil
	}
	a, err = t.list(id, op, n, a)
	return a, true, err
}

// Asked returns the list of all that is remembered for a cart that has no
// record to hold it.
func (t *Tx) Asked(id string) (a Asked, err error) {
	type entry struct {
		op crdt.OpID
		n  uint64
	}
	var found []entry
	// An iterator of this transaction would sort all that it holds. More than a
	// list takes are not counted: a shopper may have sent very many.
	if err := t.space.store.db.View(func(tx *badger.Txn) error {
		return t.space.eachIndexed(tx, id, func(op crdt.OpID, n uint64) (more bool, err error) {
			if n > t.marker.OpsForgotten {
				found = append(found, entry{op, n})
			}
			return len(found) <= askedMax, nil
		})
	}); err != nil {
		return a, err
	}
	for _, o := range t.loose {
		if o.id == id && o.n > t.marker.OpsForgotten && !slices.Contains(found, entry{o.op, o.n}) {
			found = append(found, entry{o.op, o.n})
		}
	}
	if len(found) > askedMax { // all are in the index
		return Asked{Full: true, Newest: t.marker.Ops}, nil
	}
	slices.SortFunc(found, func(a, b entry) int { return cmp.Compare(a.n, b.n) })
	for _, e := range found {
		if a, err = t.list(id, e.op, e.n, a); err != nil {
			return a, err
		}
	}
	return a, nil
}

// looseOp is a request of this transaction that is in the index alone.
type looseOp struct {
	id string
	op crdt.OpID
	n  uint64
}

// ExpireOps forgets requests applied before the given time, in the order in
// which they came, at most limit of them.
func (t *Tx) ExpireOps(before crdt.Timestamp, limit int) error {
	m := &t.marker
	for ; limit > 0 && m.OpsForgotten < m.Ops; limit-- {
		o, err := t.briefAt(m.OpsForgotten + 1)
		if err != nil {
			return err
		}
		if o.age >= before {
			return nil
		}
		m.OpsForgotten++
		if o.apart {
			t.delete(t.space.outcomeKey(m.OpsForgotten))
		}
		// Few are in the index, and one that is may have come again since.
		key := t.space.opKey(o.cartID, o.op)
		v, err := get(t.tx, key)
		if err != nil {
			return fmt.Errorf("read op of cart %q: %w", o.cartID, err)
		}
		if v != nil {
			n, err := decodeNumber(v)
			if err != nil {
				return err
			}
			if n == m.OpsForgotten {
				t.delete(key)
			}
		}
		if chunk, place := chunkOf(m.OpsForgotten); place == chunkLen-1 {
			t.delete(t.space.chunkKey(kindOps, chunk))
		}
	}
	return nil
}

// eachIndexed calls do with the requests of a cart that are in the index, until
// it says that it wants no more.
func (s *Space) eachIndexed(tx *badger.Txn, id string, do func(op crdt.OpID, n uint64) (more bool, err error)) error {
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
			return fmt.Errorf("%w: op key of cart %q", ErrCorrupt, id)
		}
		more := true
		if err := it.Item().Value(func(v []byte) error {
			n, err := decodeNumber(v)
			if err == nil {
				more, err = do(op, n)
			}
			return err
		}); err != nil {
			return fmt.Errorf("read ops of cart %q: %w", id, err)
		}
		if !more {
			return nil
		}
	}
	return nil
}

// RecordAndOps returns a cart's record, nil when there is none, and all
// requests that are remembered for it, both as of one commit.
func (s *Space) RecordAndOps(slot uint32, id string) (r *Record, ops map[crdt.OpID]OpRecord, err error) {
	t, err := s.reader()
	if err != nil {
		return nil, nil, err
	}
	defer t.Discard()
	if r, err = t.Record(slot, id); err != nil {
		return nil, nil, err
	}
	ops = make(map[crdt.OpID]OpRecord)
	take := func(n uint64) error {
		if n <= t.marker.OpsForgotten {
			return nil
		}
		o, err := t.opAt(n)
		if err == nil && o.cartID == id {
			ops[o.op] = o.OpRecord
		}
		return err
	}
	if r != nil {
		for _, ref := range r.Asked.refs {
			if err := take(ref.n); err != nil {
				return nil, nil, err
			}
		}
	}
	if r != nil && !r.Asked.Full { // S3
		return r, ops, nil
	}
	if err := s.eachIndexed(t.tx, id, func(_ crdt.OpID, n uint64) (bool, error) { return true, take(n) }); err != nil {
		return nil, nil, err
	}
	return r, ops, nil
}

// OldestOp returns when the oldest remembered request was applied; ok is
// false when none is remembered.
func (s *Space) OldestOp() (at crdt.Timestamp, ok bool, err error) {
	t, err := s.reader()
	if err != nil {
		return 0, false, err
	}
	defer t.Discard()
	if t.marker.OpsForgotten == t.marker.Ops {
		return 0, false, nil
	}
	o, err := t.briefAt(t.marker.OpsForgotten + 1)
	return o.age, err == nil, err
}

// reader returns a transaction for reading what is committed; any goroutine
// may have one.
func (s *Space) reader() (*Tx, error) {
	t := &Tx{space: s, tx: s.store.db.NewTransaction(false)}
	var err error
	if t.marker, err = s.readMarker(t.tx); err != nil {
		t.Discard()
		return nil, err
	}
	return t, nil
}
