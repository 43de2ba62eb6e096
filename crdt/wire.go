package crdt

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrCorrupt is wrapped by every decoding error: the bytes are no value of
// the expected type. Nothing of them was used.
var ErrCorrupt = errors.New("corrupt encoding")

// ErrFormat is wrapped when bytes come from a format that this build does
// not know; a newer build can read them.
var ErrFormat = errors.New("unknown encoding format")

// format is the first byte of every encoding.
const format = 1

// stringBytesMax bounds one decoded string.
const stringBytesMax = 1 << 16

// reader takes values off the front of b; the first error sticks and makes
// every later read return a zero value.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s, %d bytes before the end", ErrCorrupt, what, len(r.b))
		r.b = nil
	}
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || n > 1 && r.b[n-1] == 0 { // a shorter form exists: not canonical
		r.fail("bad number")
		return 0
	}
	r.b = r.b[n:]
	return v
}

// upTo reads a number that may not exceed limit.
func (r *reader) upTo(limit uint64, what string) uint64 {
	v := r.uvarint()
	if v > limit {
		r.fail(what)
		return 0
	}
	return v
}

// count reads a number of elements of which each takes at least size bytes.
func (r *reader) count(size int) int {
	return int(r.upTo(uint64(len(r.b)/size), "count over the data's length"))
}

func (r *reader) bytes(n int) []byte {
	if n > len(r.b) {
		r.fail("short data")
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) string() string {
	n := r.upTo(stringBytesMax, "string too long")
	return string(r.bytes(int(n)))
}

func (r *reader) uint64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) format() {
	if f := r.byte(); r.err == nil && f != format {
		r.err = fmt.Errorf("%w %d; this build reads %d", ErrFormat, f, format)
		r.b = nil
	}
}

// end checks that nothing is left over.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.fail("trailing data")
	}
	return r.err
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func zigzag(v int64) uint64   { return uint64(v<<1) ^ uint64(v>>63) }
func unzigzag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }
