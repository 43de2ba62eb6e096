package store

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/samecart/samecart/crdt"
)

// Digest is the digest of one cart: the first half of the SHA-256 of its id
// and canonical encoding, context included.
type Digest [16]byte

// DigestOf returns the digest of a cart from its id and crdt.Cart.Encode.
func DigestOf(id string, encoded []byte) Digest {
	var room [2 << 10]byte // a cart of ordinary size needs no memory of its own
	sum := sha256.Sum256(append(append(append(room[:0], id...), 0), encoded...))
	return Digest(sum[:16])
}

// Sum is the digest of a slot: the sum of its carts' digests, in two halves
// of 64 bits, so that carts can be put in and taken out.
type Sum struct{ A, B uint64 }

func (s *Sum) put(d Digest) {
	s.A += binary.BigEndian.Uint64(d[:8])
	s.B += binary.BigEndian.Uint64(d[8:])
}

func (s *Sum) take(d Digest) {
	s.A -= binary.BigEndian.Uint64(d[:8])
	s.B -= binary.BigEndian.Uint64(d[8:])
}

// Bytes returns the sum as it goes over the wire.
func (s Sum) Bytes() [16]byte {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], s.A)
	binary.BigEndian.PutUint64(b[8:], s.B)
	return b
}

// Record is one cart at rest. Shared and never changed once stored.
type Record struct {
	// Index is the log index of the command that wrote the record.
	Index  uint64
	Digest Digest
	State  crdt.State
	// Asked says where the cart's requests are remembered.
	Asked Asked
	Head
	// Due is where the cart stands in the index of due carts, see Indexed; 0:
	// nowhere.
	Due uint32

	encoded []byte // until the commit that writes it
	memory  int    // bytes that the decoded record takes, about
}

// Head is what a record says of its cart to one who does not decode it.
type Head struct {
	// Count is the sum of the quantities in the cart, see crdt.Cart.ItemCount.
	Count uint32
	// Undo says that what was last taken out of the cart may be kept, see
	// Tx.Removed. It is of this region alone, and no part of the cart's value.
	Undo bool
	// Erased says that nothing is left of the cart, for good.
	Erased bool
}

// The bits of a head's last byte.
const (
	headUndo   = 1 << 0
	headErased = 1 << 1
)

func (h Head) put(b []byte) {
	binary.BigEndian.PutUint32(b, h.Count)
	b[4] = 0
	if h.Undo {
		b[4] |= headUndo
	}
	if h.Erased {
		b[4] |= headErased
	}
}

const (
	// A record begins with its index, digest and Head.
	headAt = 8 + len(Digest{})
	dueAt  = headAt + 5
	// recordHeader is what stands before the list of requests and the encoded state,
	// the place in the index of due carts last.
	recordHeader = dueAt + 4
)

// DecodeHead reads the beginning of a record.
func DecodeHead(b []byte) (index uint64, digest Digest, h Head, err error) {
	if len(b) < dueAt || b[dueAt-1]&^(headUndo|headErased) != 0 {
		return 0, digest, h, fmt.Errorf("%w: record of %d bytes", ErrCorrupt, len(b))
	}
	copy(digest[:], b[8:])
	flags := b[dueAt-1]
	h = Head{Count: binary.BigEndian.Uint32(b[headAt:]), Undo: flags&headUndo != 0, Erased: flags&headErased != 0}
	return binary.BigEndian.Uint64(b), digest, h, nil
}

// NewRecord makes the record of a cart's new state, which is not in the index of due
// carts; Erased follows from it.
func NewRecord(id string, index uint64, s crdt.State, asked Asked, head Head) *Record {
	head.Erased = s.Cart.IsErased()
	r := &Record{Index: index, State: s, Asked: asked, Head: head}
	b := make([]byte, recordHeader, recordHeader+96+8*len(asked.refs)+32*len(s.Cart.Lines)+40*len(s.Ops))
	binary.BigEndian.PutUint64(b, index)
	head.put(b[headAt:])
	b = asked.append(b)
	from := len(b)
	b = s.Cart.Encode(b)
	r.Digest = DigestOf(id, b[from:])
	copy(b[8:], r.Digest[:])
	r.encoded = s.AppendRest(b)
	r.memory = r.memoryBytes()
	return r
}

// SetDue gives a new record its place in the index.
func (r *Record) SetDue(at uint32) {
	r.Due = at
	binary.BigEndian.PutUint32(r.encoded[dueAt:], at)
}

// WithDue is the record at another place of the index.
func (r *Record) WithDue(at uint32) *Record {
	moved := *r
	moved.Due, moved.encoded = at, nil
	moved.encoded = moved.Encode()
	return &moved
}

// Encode returns the record's bytes: index, digest, Head, place in the
// index of due carts, Asked, crdt.State.
func (r *Record) Encode() []byte {
	if r.encoded != nil {
		return r.encoded
	}
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 256), r.Index)
	b = append(append(b, r.Digest[:]...), make([]byte, recordHeader-headAt)...)
	r.put(b[headAt:])
	binary.BigEndian.PutUint32(b[dueAt:], r.Due)
	return r.State.Encode(r.Asked.append(b))
}

// DecodeRecord is the inverse of Record.Encode.
func DecodeRecord(b []byte) (*Record, error) {
	var r Record
	var err error
	if r.Index, r.Digest, r.Head, err = DecodeHead(b); err != nil {
		return nil, err
	}
	if len(b) < recordHeader {
		return nil, fmt.Errorf("%w: record of %d bytes", ErrCorrupt, len(b))
	}
	r.Due = binary.BigEndian.Uint32(b[dueAt:])
	asked, rest, err := decodeAsked(b[recordHeader:])
	if err != nil {
		return nil, err
	}
	s, err := crdt.DecodeState(rest)
	if err != nil {
		return nil, fmt.Errorf("decode record: %w", corrupt(err))
	}
	r.Asked, r.State = asked, s
	r.memory = r.memoryBytes()
	return &r, nil
}

// MemoryBytes estimates what the decoded record takes in memory.
func (r *Record) MemoryBytes() int { return r.memory }

func (r *Record) memoryBytes() int {
	return 192 + 16*len(r.Asked.refs) + r.State.Cart.MemoryBytes() + 88*len(r.State.Ops)
}

// Marker says how far a shard's log is applied, with the counters that
// applying moves.
type Marker struct {
	// Applied is the last index whose effects are all in the database.
	Applied uint64
	// Partial is the index of an entry of which the first Done commands are
	// in; 0 when there is none.
	Partial uint64
	Done    uint32
	// Seq is the newest row of the delta log, Trimmed the newest one that
	// was dropped from it.
	Seq, Trimmed uint64
	// Ops is the number of requests that were ever remembered, OpsForgotten
	// of those that were forgotten again: the first ones.
	Ops, OpsForgotten uint64
	// At is the newest timestamp given out.
	At crdt.Timestamp
	// Region and Incarnation are set by the shard's first entry.
	Region      crdt.RegionID
	Incarnation uint32
	Carts       uint64
	// Kept is the number of rows of earlier incarnations that were kept aside,
	// Reissued that of those which were looked at since: the first ones.
	Kept, Reissued uint64
}

// markerLen is the length of a marker: its fields, and the version of all that is
// in the space.
const markerLen = 8 + 8 + 4 + 8 + 8 + 8 + 2 + 4 + 8 + 8 + 8 + 8 + 8 + 1

// spaceVersion is the version that this build reads and writes. Markers of before
// the versions had no such byte.
const spaceVersion = 3

func (m Marker) encode() []byte {
	b := make([]byte, 0, markerLen)
	b = binary.BigEndian.AppendUint64(b, m.Applied)
	b = binary.BigEndian.AppendUint64(b, m.Partial)
	b = binary.BigEndian.AppendUint32(b, m.Done)
	b = binary.BigEndian.AppendUint64(b, m.Seq)
	b = binary.BigEndian.AppendUint64(b, m.Trimmed)
	b = binary.BigEndian.AppendUint64(b, uint64(m.At))
	b = binary.BigEndian.AppendUint16(b, uint16(m.Region))
	b = binary.BigEndian.AppendUint32(b, m.Incarnation)
	b = binary.BigEndian.AppendUint64(b, m.Carts)
	b = binary.BigEndian.AppendUint64(b, m.Ops)
	b = binary.BigEndian.AppendUint64(b, m.OpsForgotten)
	b = binary.BigEndian.AppendUint64(b, m.Kept)
	return append(binary.BigEndian.AppendUint64(b, m.Reissued), spaceVersion)
}

func decodeMarker(b []byte) (Marker, error) {
	if n := len(b); n == markerLen-1 || n == markerLen-17 || n == markerLen && b[n-1] != spaceVersion {
		return Marker{}, fmt.Errorf("%w: the carts were stored by another version; remove the directory, and the node fills again from the others", crdt.ErrFormat)
	}
	if len(b) != markerLen {
		return Marker{}, fmt.Errorf("%w: marker of %d bytes, want %d", ErrCorrupt, len(b), markerLen)
	}
	return Marker{
		Applied:     binary.BigEndian.Uint64(b),
		Partial:     binary.BigEndian.Uint64(b[8:]),
		Done:        binary.BigEndian.Uint32(b[16:]),
		Seq:         binary.BigEndian.Uint64(b[20:]),
		Trimmed:     binary.BigEndian.Uint64(b[28:]),
		At:          crdt.Timestamp(binary.BigEndian.Uint64(b[36:])),
		Region:      crdt.RegionID(binary.BigEndian.Uint16(b[44:])),
		Incarnation: binary.BigEndian.Uint32(b[46:]),
		Carts:       binary.BigEndian.Uint64(b[50:]),

		Ops:          binary.BigEndian.Uint64(b[58:]),
		OpsForgotten: binary.BigEndian.Uint64(b[66:]),
		Kept:         binary.BigEndian.Uint64(b[74:]),
		Reissued:     binary.BigEndian.Uint64(b[82:]),
	}, nil
}
