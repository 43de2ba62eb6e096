package riblt

import (
	"errors"
	"fmt"
)

// ErrCollision is returned when two of one's own items have one hash under a
// key: start again with another.
var ErrCollision = errors.New("two items have one hash under this key")

// Decoder finds the difference between one's own set and the one that coded
// symbols are of. Not safe for concurrent use.
//
// It keeps a set that it believes to be theirs, at first its own, and what the
// symbols hold that this does not explain. A symbol that holds one item alone
// corrects the belief; when no symbol holds anything, the belief is the truth.
type Decoder struct {
	own    []Item
	belief set               // own, without those they lack, then those found
	place  map[uint64]uint32 // in belief, by hash
	header header            // of theirs less belief

	symbols  []symbol // of theirs less belief; from received on of belief alone
	received int
	open     int // received symbols that are not zero

	mine   []Item
	theirs int

	look []int    // received symbols that may hold one item alone
	path []uint32 // symbols that the item found falls in
}

// NewDecoder returns a decoder for one's own set, under the key that the other
// side encodes with; it keeps own. It fails with ErrCollision when two items
// have one hash; no item may be in the set twice.
func NewDecoder(key Key, own []Item) (*Decoder, error) {
	d := &Decoder{own: own, place: make(map[uint64]uint32, len(own))}
	d.header.items = -uint64(len(own))
	d.belief.hashes = make([]uint64, len(own))
	d.belief.next = make([]uint32, len(own))
	for k := range own {
		h := key.hash(&own[k])
		d.belief.hashes[k] = h
		d.place[h] = uint32(k)
		d.header.proof -= checkOf(h)
	}
	if len(d.place) < len(own) {
		return nil, ErrCollision
	}
	return d, nil
}

// Add takes the next coded symbols of the other side's set, of an untrusted
// sender: any part of its stream that ends where a symbol ends. done says that
// the whole difference is known. An error wraps ErrCorrupt; the decoder is of
// no use after it. Cost: as for the encoder, and for each item found the
// logarithm of the number of symbols.
//
// A sender can always keep a decoder from being done; Symbols says when it is
// cheaper to ask in another way.
func (d *Decoder) Add(b []byte) (done bool, err error) {
	if d.received == 0 && len(b) > 0 {
		var h header
		if h, b, err = decodeHeader(b); err != nil {
			return false, err
		}
		if len(b) == 0 {
			return false, fmt.Errorf("%w: a header without symbols", ErrCorrupt)
		}
		d.header.items += h.items
		d.header.proof += h.proof
	}
	if len(b)%symbolBytes != 0 {
		return false, fmt.Errorf("%w: %d bytes of a symbol", ErrCorrupt, len(b)%symbolBytes)
	}
	d.extend(d.received + len(b)/symbolBytes)
	for ; len(b) > 0; b = b[symbolBytes:] {
		theirs := decodeSymbol(b)
		s := &d.symbols[d.received]
		s.toggle(theirs.sum, theirs.check)
		if !s.isZero() {
			d.open++
		}
		if s.isSingle() {
			d.look = append(d.look, d.received)
		}
		d.received++
	}
	if err := d.peel(); err != nil || d.received == 0 || d.open > 0 {
		return false, err
	}
	if d.header != (header{}) {
		return false, fmt.Errorf("%w: two items of one hash, or a header of another set", ErrCorrupt)
	}
	return true, nil
}

// extend makes room for n symbols, and for half as many again as there are: it
// goes over all of belief.
func (d *Decoder) extend(n int) {
	from := len(d.symbols)
	if n <= from {
		return
	}
	n = max(n, from+from/2)
	d.symbols = append(d.symbols, make([]symbol, n-from)...)
	d.belief.spread(d.symbols[from:], from)
}

// peel corrects belief for as long as a symbol holds one item alone.
//
//	D1  An item found was not found before, and each of a set's items is found
//	    in a symbol that holds nothing from then on. So of a set's symbols there
//	    are at least as many as items found, and others are refused as soon as
//	    there are not: peeling ends.
func (d *Decoder) peel() error {
	for len(d.look) > 0 {
		i := d.look[len(d.look)-1]
		d.look = d.look[:len(d.look)-1]
		s := d.symbols[i]
		if !s.isSingle() || !d.walk(s.sum, uint32(i)) {
			continue
		}
		if len(d.mine)+d.theirs == d.received {
			return fmt.Errorf("%w: more items than the %d symbols", ErrCorrupt, d.received)
		}
		if err := d.correct(s.sum); err != nil {
			return err
		}
		for _, j := range d.path {
			t := &d.symbols[j]
			was := t.isZero()
			t.toggle(s.sum, s.check)
			if int(j) >= d.received {
				continue
			}
			switch is := t.isZero(); {
			case is && !was:
				d.open--
			case was && !is:
				d.open++
			}
			if t.isSingle() {
				d.look = append(d.look, int(j))
			}
		}
	}
	return nil
}

// walk sets path to the symbols so far that an item falls in, and reports
// whether i is one: else i holds several items that only look like this one.
func (d *Decoder) walk(hash uint64, i uint32) (falls bool) {
	d.path = d.path[:0]
	end := uint32(min(len(d.symbols), indexMax))
	for j := uint32(0); j < end; j = after(hash, j) {
		if j > i && !falls {
			return false
		}
		falls = falls || j == i
		d.path = append(d.path, j)
	}
	return falls
}

// correct takes an item out of belief, or puts it in where path ends.
func (d *Decoder) correct(hash uint64) error {
	k, known := d.place[hash]
	switch {
	case !known:
		d.place[hash] = uint32(len(d.belief.hashes))
		d.belief.add(hash, after(hash, d.path[len(d.path)-1]))
		d.theirs++
		d.header.items--
		d.header.proof -= checkOf(hash)
	case int(k) < len(d.own) && d.belief.next[k] != gone:
		d.belief.next[k] = gone
		d.mine = append(d.mine, d.own[k])
		d.header.items++
		d.header.proof += checkOf(hash)
	default:
		return fmt.Errorf("%w: one item twice", ErrCorrupt)
	}
	return nil
}

// Own returns the items found so far that only one's own set has, in no order.
func (d *Decoder) Own() []Item { return d.mine }

// Theirs returns the number of items found so far that only the other set has.
func (d *Decoder) Theirs() int { return d.theirs }

// Symbols returns the number of symbols taken in.
func (d *Decoder) Symbols() int { return d.received }
