package riblt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// ErrCorrupt is wrapped when bytes are no coded symbols, or when no set has
// them: ask the peer in another way.
var ErrCorrupt = errors.New("not coded symbols of a set")

// symbol is a coded symbol: of a set, or of the difference of two.
type symbol struct {
	sum   uint64 // xor of the items' hashes
	check uint32 // xor of their checksums
}

// toggle puts an item in, or takes it out.
func (s *symbol) toggle(hash uint64, check uint32) {
	s.sum ^= hash
	s.check ^= check
}

func (s *symbol) isZero() bool { return *s == symbol{} }

// isSingle reports whether the symbol looks like one item alone. One that holds
// several does so once in 2^32.
func (s *symbol) isSingle() bool { return s.check == uint32(checkOf(s.sum)) }

// The stream of a set is a header, then its symbols, of one size:
//
//	header = format n proof; n, the number of items, is a minimal unsigned
//	         varint; proof, the sum of their long checksums, is big-endian
//	symbol = sum check, both big-endian
const (
	format      = 1
	proofBytes  = 8
	symbolBytes = 12

	headerBytesMax = 1 + binary.MaxVarintLen64 + proofBytes
)

// header says what a set amounts to, to tell whether a difference found is the
// whole difference.
type header struct {
	items uint64
	proof uint64 // sum of checkOf, modulo 2^64
}

func (h header) append(b []byte) []byte {
	b = binary.AppendUvarint(append(b, format), h.items)
	return binary.BigEndian.AppendUint64(b, h.proof)
}

func decodeHeader(b []byte) (h header, rest []byte, err error) {
	if b[0] != format {
		return h, nil, fmt.Errorf("%w: format %d, want %d", ErrCorrupt, b[0], format)
	}
	items, n := binary.Uvarint(b[1:])
	if n <= 0 || n != max(1, (bits.Len64(items)+6)/7) {
		return h, nil, fmt.Errorf("%w: number of items", ErrCorrupt)
	}
	b = b[1+n:]
	if len(b) < proofBytes {
		return h, nil, fmt.Errorf("%w: %d bytes left of a proof", ErrCorrupt, len(b))
	}
	return header{items, binary.BigEndian.Uint64(b)}, b[proofBytes:], nil
}

func (s *symbol) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, s.sum)
	return binary.BigEndian.AppendUint32(b, s.check)
}

// decodeSymbol reads the first of b's symbols.
func decodeSymbol(b []byte) symbol {
	return symbol{binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:])}
}
