package riblt

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// itemsFrom returns n items, those of the numbers from from on.
func itemsFrom(from, n int) []Item {
	items := make([]Item, n)
	for i := range items {
		sum := sha256.Sum256(fmt.Appendf(nil, "item %d", from+i))
		items[i] = Item(sum[:16])
	}
	return items
}

func newDecoder(t rapid.TB, key Key, own []Item) *Decoder {
	t.Helper()
	dec, err := NewDecoder(key, own)
	if err != nil {
		t.Fatal(err)
	}
	return dec
}

// reconcile decodes theirs against own, as many symbols at a time as part says,
// and returns the decoder; it fails when that takes too many.
func reconcile(t rapid.TB, key Key, own, theirs []Item, part func() int) *Decoder {
	t.Helper()
	enc, dec := NewEncoder(key, theirs), newDecoder(t, key, own)
	for limit := 100 + 5*(len(own)+len(theirs)); dec.Symbols() <= limit; {
		done, err := dec.Add(enc.Append(nil, part()))
		if err != nil {
			t.Fatalf("after %d symbols: %v", dec.Symbols(), err)
		}
		if done {
			return dec
		}
	}
	t.Fatalf("no end after %d symbols: %d and %d found", dec.Symbols(), len(dec.Own()), dec.Theirs())
	return nil
}

func one() int { return 1 }

func sorted(items []Item) []Item {
	return slices.SortedFunc(slices.Values(items), func(a, b Item) int { return bytes.Compare(a[:], b[:]) })
}

func drawKey(t *rapid.T) Key { return Key(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "key")) }

// The law: whatever the sets, the key and the parts, the decoder finds what only
// its own set has and the number of what only theirs has; and so with the roles
// changed.
func TestDifferenceIsFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shared := rapid.IntRange(0, 300).Draw(t, "shared")
		ours := rapid.IntRange(0, 60).Draw(t, "ours")
		others := rapid.IntRange(0, 60).Draw(t, "theirs")
		key := drawKey(t)
		both, mine, yours := itemsFrom(0, shared), itemsFrom(1000, ours), itemsFrom(2000, others)
		a, b := slices.Concat(both, mine), slices.Concat(yours, both)
		part := func() int { return rapid.OneOf(rapid.IntRange(0, 3), rapid.IntRange(0, 70)).Draw(t, "part") }
		want := func(dec *Decoder, own []Item, theirs int) {
			t.Helper()
			if got := sorted(dec.Own()); !slices.Equal(got, sorted(own)) || dec.Theirs() != theirs {
				t.Fatalf("%d own items and %d of theirs, want %d and %d", len(got), dec.Theirs(), len(own), theirs)
			}
		}
		dec := reconcile(t, key, a, b, part)
		want(dec, mine, others)
		want(reconcile(t, key, b, a, part), yours, ours)
		// More symbols change nothing.
		enc := NewEncoder(key, b)
		enc.Append(nil, dec.Symbols())
		if done, err := dec.Add(enc.Append(nil, 1+part())); !done || err != nil {
			t.Fatalf("after the end: done %v, %v", done, err)
		}
		want(dec, mine, others)
	})
}

func TestEqualSetsTakeOneSymbol(t *testing.T) {
	for _, n := range []int{0, 1, 1000} {
		set := itemsFrom(0, n)
		d := reconcile(t, Key{7}, set, set, one)
		if d.Symbols() != 1 || d.Theirs() != 0 || d.Own() != nil {
			t.Errorf("%d items: %d symbols, %d and %d found", n, d.Symbols(), len(d.Own()), d.Theirs())
		}
	}
}

// The stream does not depend on how it is asked for.
func TestPartsMakeOneStream(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key, set := drawKey(t), itemsFrom(0, rapid.IntRange(0, 200).Draw(t, "items"))
		parts := rapid.SliceOf(rapid.IntRange(-1, 90)).Draw(t, "parts")
		enc := NewEncoder(key, set)
		got := []byte("before")
		total := 0
		for _, n := range parts {
			got = enc.Append(got, n)
			total += max(0, n)
		}
		if want := NewEncoder(key, set).Append([]byte("before"), total); !bytes.Equal(got, want) {
			t.Fatal("parts of a stream are not the stream")
		}
	})
}

// The stream of a set is that of any order of it, and the xor of two sets' is
// that of their difference: what decoding rests on.
func TestStreamsAreLinear(t *testing.T) {
	symbols := func(items []Item) []symbol {
		e := NewEncoder(Key{4}, items)
		out := make([]symbol, 300)
		e.set.spread(out, 0)
		return out
	}
	a, b := symbols(itemsFrom(0, 70)), symbols(itemsFrom(50, 70))
	for i, s := range symbols(slices.Concat(itemsFrom(70, 50), itemsFrom(0, 50))) {
		a[i].toggle(b[i].sum, b[i].check)
		if a[i] != s {
			t.Fatalf("symbol %d is %v, want %v", i, a[i], s)
		}
	}
}

// No item is lost in silence when two have one hash, or one is there twice:
// one's own set is refused, and the peer's is seen for none.
func TestCollisionIsSeen(t *testing.T) {
	twice := append(itemsFrom(0, 20), itemsFrom(3, 1)...)
	if _, err := NewDecoder(Key{}, twice); !errors.Is(err, ErrCollision) {
		t.Errorf("own: got %v", err)
	}
	for name, own := range map[string][]Item{
		"without": slices.Concat(itemsFrom(0, 3), itemsFrom(4, 16)),
		"with":    itemsFrom(0, 20),
		"other":   itemsFrom(10, 20),
	} {
		enc, dec := NewEncoder(Key{}, twice), newDecoder(t, Key{}, own)
		for range 200 {
			done, err := dec.Add(enc.Append(nil, 1))
			if done {
				t.Fatalf("%s: done with %d and %d found", name, len(dec.Own()), dec.Theirs())
			}
			if err != nil {
				if !errors.Is(err, ErrCorrupt) {
					t.Errorf("%s: %v", name, err)
				}
				break
			}
		}
		if dec.Symbols() > 100 {
			t.Errorf("%s: not seen in %d symbols", name, dec.Symbols())
		}
	}
}
