package riblt

import "fmt"

// Decoder finds the difference between one's own set and the one that coded
// symbols are of. Not safe for concurrent use.
type Decoder struct {
	key   Key
	own   *Encoder
	items map[uint64]Item // own, by hash

	symbols []symbol // of their set less ours, less what is found
	live    int      // symbols that are not zero
	found   []element
	counts  []int64 // 1: theirs, -1: ours; of found
	seen    map[uint64]bool
	mine    []Item
}

// NewDecoder returns a decoder for one's own set, under the key that the other
// side encodes with. It fails with ErrCollision when two items have one hash;
// no item may be in the set twice.
func NewDecoder(key Key, own []Item) (*Decoder, error) {
	d := &Decoder{key: key, own: NewEncoder(key, own), items: make(map[uint64]Item, len(own)), seen: make(map[uint64]bool)}
	for i, it := range own {
		h := d.own.elements[i].hash
		if _, twice := d.items[h]; twice {
			return nil, ErrCollision
		}
		d.items[h] = it
	}
	return d, nil
}

// Add takes the next coded symbols of the other side's set, of an untrusted
// sender. done says that the whole difference is known. An error wraps
// ErrCorrupt; the decoder is of no use after it.
func (d *Decoder) Add(b []byte) (done bool, err error) {
	from := len(d.symbols)
	for len(b) > 0 {
		var s symbol
		if s, b, err = decodeSymbol(b); err != nil {
			return false, err
		}
		d.symbols = append(d.symbols, s)
	}
	run := d.symbols[from:]
	for i, s := range d.own.run(len(run)) {
		run[i].sum ^= s.sum
		run[i].check ^= s.check
		run[i].count -= s.count
	}
	for i := range d.found {
		spread(d.found[i:i+1], run, uint64(from), -d.counts[i])
	}
	var look []int // symbols that may show an item
	for i := range run {
		if !run[i].isZero() {
			d.live++
		}
		if run[i].isSingle() {
			look = append(look, from+i)
		}
	}
	if err := d.peel(look); err != nil {
		return false, err
	}
	return d.live == 0 && len(d.symbols) > 0, nil
}

// peel takes out items for as long as a symbol shows one.
//
//	R1  An item is found once: a set has it once, and it goes out of every
//	    symbol that it falls in. So peeling ends, whatever the symbols are.
func (d *Decoder) peel(look []int) error {
	for len(look) > 0 {
		i := look[len(look)-1]
		look = look[:len(look)-1]
		s := d.symbols[i]
		if !s.isSingle() {
			continue
		}
		e := elementOf(&d.key, s.sum)
		if e.check != s.check {
			continue
		}
		if d.seen[e.hash] {
			return fmt.Errorf("%w: one item twice", ErrCorrupt)
		}
		d.seen[e.hash] = true
		it, own := d.items[e.hash]
		if own != (s.count < 0) {
			return fmt.Errorf("%w: an item on the wrong side", ErrCorrupt)
		}
		if own {
			d.mine = append(d.mine, it)
		}
		for end := uint64(len(d.symbols)); e.next < end; e.step() {
			t := &d.symbols[e.next]
			was := t.isZero()
			t.add(&e, -s.count)
			switch is := t.isZero(); {
			case is && !was:
				d.live--
			case was && !is:
				d.live++
			}
			if t.isSingle() {
				look = append(look, int(e.next))
			}
		}
		d.found = append(d.found, e)
		d.counts = append(d.counts, s.count)
	}
	return nil
}

// Own returns the items found so far that only one's own set has.
func (d *Decoder) Own() []Item { return d.mine }

// Theirs returns the number of items found so far that only the other set has.
func (d *Decoder) Theirs() int { return len(d.found) - len(d.mine) }

// Symbols returns the number of symbols taken in.
func (d *Decoder) Symbols() int { return len(d.symbols) }
