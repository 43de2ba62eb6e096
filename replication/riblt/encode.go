package riblt

import "slices"

// Encoder turns a set into coded symbols. Not safe for concurrent use.
type Encoder struct {
	set    set
	header header
	made   int
	ahead  []symbol // made but not asked for yet
}

// NewEncoder returns an encoder of a set; it does not keep items. An item that
// is there twice, or two of one hash, make a stream that no decoder takes for
// that of a set: it ends with ErrCorrupt.
func NewEncoder(key Key, items []Item) *Encoder {
	e := &Encoder{header: header{items: uint64(len(items))}}
	e.set.hashes = make([]uint64, len(items))
	e.set.next = make([]uint32, len(items))
	for i := range items {
		h := key.hash(&items[i])
		e.set.hashes[i] = h
		e.header.proof += checkOf(h)
	}
	return e
}

// Append appends the next n coded symbols, and before the first a header. What
// the parts are, does not change the stream, and hardly its cost: symbols are
// made ahead, up to half as many as there are, because to make some goes over
// all items once.
func (e *Encoder) Append(dst []byte, n int) []byte {
	if n <= 0 {
		return dst
	}
	dst = slices.Grow(dst, headerBytesMax+n*symbolBytes)
	if e.made == 0 {
		dst = e.header.append(dst)
	}
	for n > 0 {
		if len(e.ahead) == 0 {
			e.ahead = make([]symbol, max(n, e.made/2))
			e.set.spread(e.ahead, e.made)
		}
		part := e.ahead[:min(n, len(e.ahead))]
		for i := range part {
			dst = part[i].append(dst)
		}
		e.ahead = e.ahead[len(part):]
		e.made += len(part)
		n -= len(part)
	}
	return dst
}
