package store

import (
	"encoding/binary"
	"fmt"

	"github.com/samecart/samecart/crdt"
)

// Badge is what a record says without its lines: enough for the number on a shop's
// cart symbol, which is asked for on each page.
type Badge struct {
	Index  uint64
	Digest Digest
	Head
	Context crdt.CausalContext
}

// BadgeBytes is how much of a record's beginning DecodeBadge nearly always needs.
const BadgeBytes = 1 << 10

// DecodeBadge reads a record, or its beginning; what is cut off in what it needs is an
// error.
func DecodeBadge(b []byte) (Badge, error) {
	var out Badge
	var err error
	if out.Index, out.Digest, out.Head, err = DecodeHead(b); err != nil {
		return Badge{}, err
	}
	if len(b) < recordHeader {
		return Badge{}, fmt.Errorf("%w: record of %d bytes", ErrCorrupt, len(b))
	}
	rest, err := skipAsked(b[recordHeader:])
	if err != nil {
		return Badge{}, err
	}
	if out.Context, err = crdt.DecodeSeen(rest); err != nil {
		return Badge{}, fmt.Errorf("decode badge: %w", corrupt(err))
	}
	return out, nil
}

// skipAsked returns what stands behind a list of requests.
func skipAsked(b []byte) (rest []byte, err error) {
	bad := fmt.Errorf("%w: list of a record's requests", ErrCorrupt)
	head, n := binary.Uvarint(b)
	if n <= 0 || head>>1 > askedMax {
		return nil, bad
	}
	b = b[n:]
	if head == 0 {
		return b, nil
	}
	if _, n = binary.Uvarint(b); n <= 0 {
		return nil, bad
	}
	b = b[n:]
	for range head >> 1 {
		if len(b) < 4 {
			return nil, bad
		}
		if _, n = binary.Uvarint(b[4:]); n <= 0 {
			return nil, bad
		}
		b = b[4+n:]
	}
	return b, nil
}

// Badge returns the record's badge.
func (r *Record) Badge() Badge {
	return Badge{Index: r.Index, Digest: r.Digest, Head: r.Head, Context: r.State.Cart.Context}
}

// EncodeBadge returns the record's beginning, without its list of requests.
func (r *Record) EncodeBadge() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, recordHeader+64), r.Index)
	b = append(append(b, r.Digest[:]...), make([]byte, recordHeader-headAt)...)
	r.put(b[headAt:])
	return (&crdt.Cart{Context: r.State.Cart.Context}).Encode(Asked{}.append(b))
}
