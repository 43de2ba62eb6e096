package riblt

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// stream encodes symbols as they are.
func stream(h header, symbols []symbol) []byte {
	b := h.append(nil)
	for _, s := range symbols {
		b = s.append(b)
	}
	return b
}

// symbolsOf returns the header and the first n symbols of a set.
func symbolsOf(key Key, items []Item, n int) (header, []symbol) {
	e := NewEncoder(key, items)
	out := make([]symbol, n)
	e.set.spread(out, 0)
	return e.header, out
}

func TestAddRefuses(t *testing.T) {
	key, own := Key{9}, itemsFrom(0, 30)
	h, symbols := symbolsOf(key, own, 4)
	good := stream(h, symbols)
	items := func(n ...byte) []byte { return slices.Concat([]byte{format}, n, good[2:]) }
	for name, b := range map[string][]byte{
		"another format":     slices.Concat([]byte{format + 1}, good[1:]),
		"format alone":       good[:1],
		"header cut off":     good[:5],
		"header alone":       good[:10],
		"symbol cut off":     good[:len(good)-1],
		"a byte more":        append(slices.Clone(good), 0),
		"items not minimal":  items(30|0x80, 0),
		"zero not minimal":   items(0x80, 0),
		"items of 65 bits":   items(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02),
		"items without end":  items(slices.Repeat([]byte{0xff}, 20)...),
		"an item less":       items(29),
		"all items there be": stream(header{math.MaxUint64, h.proof}, symbols),
		"another proof":      stream(header{h.items, h.proof + 1}, symbols),
	} {
		if done, err := newDecoder(t, key, own).Add(b); done || !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: done %v, %v", name, done, err)
		}
	}
	dec := newDecoder(t, key, own)
	if done, err := dec.Add(nil); done || err != nil {
		t.Errorf("nothing: done %v, %v", done, err)
	}
	if done, err := dec.Add(good); !done || err != nil {
		t.Errorf("own symbols: done %v, %v", done, err)
	}
}

// What is added to a stream that says "exactly your set" stands there as the
// difference.
func TestHostileSymbols(t *testing.T) {
	key, own := Key{9}, itemsFrom(0, 30)
	h, honest := symbolsOf(key, own, 64)
	x, mine := key.hash(&itemsFrom(77, 1)[0]), key.hash(&own[3])
	path := func(hash uint64) (path []int) {
		for i := uint32(0); i < uint32(len(honest)); i = after(hash, i) {
			path = append(path, int(i))
		}
		return path
	}
	off := 0 // a symbol that x does not fall in
	for slices.Contains(path(x), off) {
		off++
	}
	for name, c := range map[string]struct {
		hash  uint64
		at    []int
		found int
		fails bool
	}{
		"where it is not":      {hash: x, at: []int{off}},
		"in one of its own":    {hash: x, at: path(x)[:1], found: 1, fails: true},
		"in all of them":       {hash: x, at: path(x), found: 1, fails: true}, // the header lacks it
		"in one of others":     {hash: x, at: append(path(x), off), found: 1},
		"ours, in one":         {hash: mine, at: path(mine)[:1], found: 1, fails: true},
		"ours, where it's not": {hash: mine, at: []int{63}},
	} {
		symbols := slices.Clone(honest)
		for _, i := range c.at {
			symbols[i].toggle(c.hash, uint32(checkOf(c.hash)))
		}
		dec := newDecoder(t, key, own)
		done, err := dec.Add(stream(h, symbols))
		if done || errors.Is(err, ErrCorrupt) != c.fails || len(dec.Own())+dec.Theirs() != c.found {
			t.Errorf("%s: done %v, %d found, %v", name, done, len(dec.Own())+dec.Theirs(), err)
		}
	}
	for name, s := range map[string]symbol{"all ones": {math.MaxUint64, math.MaxUint32}, "no checksum": {1, 0}, "no sum": {0, 1}} {
		dec := newDecoder(t, key, own)
		done, err := dec.Add(stream(h, slices.Repeat([]symbol{s}, 1000)))
		if done || err != nil || len(dec.Own())+dec.Theirs() != 0 {
			t.Errorf("%s: done %v, %d found, %v", name, done, len(dec.Own())+dec.Theirs(), err)
		}
	}
}

// D1: to find more items than there are symbols takes checksums made to fit,
// 2^32 tries for one; here the count stands for them.
func TestPeelingIsBounded(t *testing.T) {
	key := Key{1}
	h, symbols := symbolsOf(key, itemsFrom(0, 1), 10)
	dec := newDecoder(t, key, nil)
	dec.theirs = len(symbols)
	if done, err := dec.Add(stream(h, symbols)); done || !errors.Is(err, ErrCorrupt) || dec.Theirs() != len(symbols) {
		t.Errorf("done %v, %d found, %v", done, dec.Theirs(), err)
	}
}

// wantSound checks what holds whatever a peer sends: the count of open symbols
// is right, there are no more items than symbols, and done is said only of
// symbols and a header that are exactly those of the set that was found.
func wantSound(t rapid.TB, d *Decoder, sent []byte, done bool, err error) {
	t.Helper()
	if err != nil {
		if done || !errors.Is(err, ErrCorrupt) {
			t.Fatalf("done %v, %v", done, err)
		}
		return
	}
	if n := len(d.Own()) + d.Theirs(); n > d.Symbols() {
		t.Fatalf("%d items of %d symbols", n, d.Symbols())
	}
	open := 0
	for i := range d.symbols[:d.received] {
		if !d.symbols[i].isZero() {
			open++
		}
	}
	if open != d.open || done != (d.received > 0 && open == 0) {
		t.Fatalf("done %v with %d symbols open, %d counted", done, open, d.open)
	}
	if !done {
		return
	}
	var found set
	var h header
	for k, hash := range d.belief.hashes {
		if d.belief.next[k] != gone {
			found.add(hash, 0)
			h.items++
			h.proof += checkOf(hash)
		}
	}
	symbols := make([]symbol, d.received)
	found.spread(symbols, 0)
	if got := stream(h, symbols); !slices.Equal(got, sent) {
		t.Fatalf("done, but what was sent is not the stream of the %d items found", h.items)
	}
}

// Streams that are nearly those of sets: real items where they belong and where
// they do not.
func TestHostileStreamsAreSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := drawKey(t)
		own := itemsFrom(0, rapid.IntRange(0, 20).Draw(t, "own"))
		pool := itemsFrom(0, 30)
		h, symbols := symbolsOf(key, pool[rapid.IntRange(0, 10).Draw(t, "theirs"):], rapid.IntRange(1, 60).Draw(t, "symbols"))
		for range rapid.IntRange(0, 8).Draw(t, "changes") {
			hash := key.hash(&pool[rapid.IntRange(0, len(pool)-1).Draw(t, "item")])
			i := uint32(rapid.IntRange(0, len(symbols)-1).Draw(t, "symbol"))
			// From there on, or there alone.
			for all := rapid.Bool().Draw(t, "all"); i < uint32(len(symbols)); i = after(hash, i) {
				symbols[i].toggle(hash, uint32(checkOf(hash)))
				if !all {
					break
				}
			}
			if rapid.Bool().Draw(t, "header") {
				h.items++
				h.proof += checkOf(hash)
			}
		}
		b := stream(h, symbols)
		dec := newDecoder(t, key, own)
		at := len(b) - symbolBytes*rapid.IntRange(0, len(symbols)-1).Draw(t, "later")
		done, err := dec.Add(b[:at])
		wantSound(t, dec, b[:at], done, err)
		if err == nil {
			done, err = dec.Add(b[at:])
			wantSound(t, dec, b, done, err)
		}
	})
}

func FuzzAdd(f *testing.F) {
	key := Key{5}
	own, theirs := itemsFrom(0, 40), itemsFrom(3, 40)
	for _, n := range []int{1, 3, 40} {
		f.Add(NewEncoder(key, theirs).Append(nil, n), uint16(n))
		f.Add(NewEncoder(key, own).Append(nil, n), uint16(headerBytesMax))
	}
	f.Add([]byte{0xff}, uint16(0))
	f.Add(binary.AppendUvarint([]byte{format}, math.MaxUint64), uint16(0))
	f.Fuzz(func(t *testing.T, b []byte, cut uint16) {
		dec := newDecoder(t, key, own)
		at := min(int(cut), len(b))
		done, err := dec.Add(b[:at])
		wantSound(t, dec, b[:at], done, err)
		if err == nil {
			done, err = dec.Add(b[at:])
			wantSound(t, dec, b, done, err)
		}
	})
}
