package riblt

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Item is an element of a set: a digest.
type Item = [16]byte

// Key makes a sketch's hashes its own; take one at random for each sketch.
type Key [16]byte

// ErrCorrupt is wrapped when bytes are no coded symbols, or when no set has
// them.
var ErrCorrupt = errors.New("not coded symbols of a set")

// ErrCollision is returned when two of one's own items have one hash under a
// key: start again with another.
var ErrCollision = errors.New("two items have one hash under this key")

// symbol is a coded symbol: of a set, or of the difference of two.
type symbol struct {
	sum   uint64 // xor of the hashes
	check uint32 // xor of their checksums
	count int64  // items of the one set less those of the other
}

// add puts an element in, or takes it out with a count of -1.
func (s *symbol) add(e *element, count int64) {
	s.sum ^= e.hash
	s.check ^= e.check
	s.count += count
}

func (s *symbol) isZero() bool { return *s == symbol{} }

// isSingle reports whether the symbol may hold one item alone.
func (s *symbol) isSingle() bool { return s.count == 1 || s.count == -1 }

// append encodes a symbol: hash, checksum, and the count as a signed varint.
func (s *symbol) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, s.sum)
	b = binary.BigEndian.AppendUint32(b, s.check)
	return binary.AppendVarint(b, s.count)
}

// countMax bounds the count of a symbol that comes over the wire.
const countMax = 1 << 40

func decodeSymbol(b []byte) (s symbol, rest []byte, err error) {
	if len(b) < 13 {
		return s, nil, fmt.Errorf("%w: %d bytes left of one", ErrCorrupt, len(b))
	}
	s.sum, s.check = binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:])
	count, n := binary.Varint(b[12:])
	if n <= 0 || count < 0 || count > countMax {
		return s, nil, fmt.Errorf("%w: count of one", ErrCorrupt)
	}
	s.count = count
	return s, b[12+n:], nil
}

// element is an item as symbols hold it, and the next symbol that it falls in.
type element struct {
	hash  uint64
	state uint64 // of the source of its symbols
	next  uint64
	check uint32
}

// hashOf is an item's hash under a key; never 0, which a symbol of nothing has.
func hashOf(key *Key, it *Item) uint64 {
	var b [len(Key{}) + len(Item{})]byte
	copy(b[:], key[:])
	copy(b[len(key):], it[:])
	sum := sha256.Sum256(b[:])
	return max(1, binary.BigEndian.Uint64(sum[:]))
}

// elementOf returns the element of a hash, at symbol 0.
func elementOf(key *Key, hash uint64) element {
	var b [len(Key{}) + 8]byte
	copy(b[:], key[:])
	binary.BigEndian.PutUint64(b[len(key):], hash)
	sum := sha256.Sum256(b[:])
	return element{hash: hash, state: binary.BigEndian.Uint64(sum[:]), check: binary.BigEndian.Uint32(sum[8:])}
}

// never is the symbol after the last.
const never = math.MaxUint64

// step moves the element to the next symbol that it falls in.
//
// It is in symbol i with probability 2/(i+2). So it is in none of those after i
// up to j with the product of k/(k+2) for k from i+1 to j, which is
// (i+1)(i+2) / ((j+1)(j+2)); the least j at which that is at most a number
// drawn from (0, 1] is where it goes.
//
// Both ends must find the same j, whatever machine they run on. So the product
// is of integers, and of the other operations none is a multiplication followed
// by an addition, which some machines do with one rounding instead of two.
func (e *element) step() {
	// splitmix64: Steele, Lea, Flood, OOPSLA 2014.
	e.state += 0x9e3779b97f4a7c15
	r := e.state
	r = (r ^ r>>30) * 0xbf58476d1ce4e5b9
	r = (r ^ r>>27) * 0x94d049bb133111eb
	r ^= r >> 31
	if e.next >= 1<<26 { // beyond this the product is not exact
		e.next = never
		return
	}
	drawn := float64(r>>11+1) / (1 << 53)
	product := float64((e.next + 1) * (e.next + 2))
	root := math.Sqrt(product/drawn + 0.25)
	at := math.Ceil(root - 1.5)
	if at >= 1<<40 {
		e.next = never
		return
	}
	e.next = max(e.next+1, uint64(at))
}

// spread puts elements into the run of symbols that starts with number from.
func spread(elements []element, run []symbol, from uint64, count int64) {
	end := from + uint64(len(run))
	for i := range elements {
		e := &elements[i]
		for e.next < end {
			run[e.next-from].add(e, count)
			e.step()
		}
	}
}
