package riblt

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func item(n int) Item {
	sum := sha256.Sum256(fmt.Appendf(nil, "item %d", n))
	return Item(sum[:16])
}

// reconcile decodes theirs against own, part symbols at a time, and returns the
// decoder; it fails when that takes too many.
func reconcile(t testing.TB, key Key, own, theirs []Item, part int) *Decoder {
	t.Helper()
	enc := NewEncoder(key, theirs)
	dec, err := NewDecoder(key, own)
	if err != nil {
		t.Fatal(err)
	}
	for limit := 50 + 4*(len(own)+len(theirs)); ; {
		done, err := dec.Add(enc.Append(nil, part))
		if err != nil {
			t.Fatal(err)
		}
		if done {
			return dec
		}
		if dec.Symbols() > limit {
			t.Fatalf("no end after %d symbols: %d found", dec.Symbols(), len(dec.found))
		}
	}
}

func sorted(items []Item) []Item {
	items = slices.Clone(items)
	slices.SortFunc(items, func(a, b Item) int { return slices.Compare(a[:], b[:]) })
	return items
}

func TestDifferenceIsFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shared := rapid.IntRange(0, 300).Draw(t, "shared")
		ours := rapid.IntRange(0, 60).Draw(t, "ours")
		others := rapid.IntRange(0, 60).Draw(t, "theirs")
		part := rapid.IntRange(1, 70).Draw(t, "part")
		var key Key
		copy(key[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "key"))
		var own, theirs, want []Item
		for n := range shared + ours + others {
			it := item(n)
			switch {
			case n < shared:
				own, theirs = append(own, it), append(theirs, it)
			case n < shared+ours:
				own, want = append(own, it), append(want, it)
			default:
				theirs = append(theirs, it)
			}
		}
		enc := NewEncoder(key, theirs)
		dec, err := NewDecoder(key, own)
		if err != nil {
			t.Fatal(err)
		}
		for done := false; !done; {
			if done, err = dec.Add(enc.Append(nil, part)); err != nil {
				t.Fatal(err)
			}
			if dec.Symbols() > 100+5*(ours+others)+part {
				t.Fatalf("no end after %d symbols", dec.Symbols())
			}
		}
		if got := sorted(dec.Own()); !slices.Equal(got, sorted(want)) || dec.Theirs() != others {
			t.Fatalf("%d own items and %d of theirs, want %d and %d", len(got), dec.Theirs(), len(want), others)
		}
	})
}

func TestEqualSetsTakeOneSymbol(t *testing.T) {
	var set []Item
	for n := range 1000 {
		set = append(set, item(n))
	}
	for _, s := range [][]Item{nil, set[:1], set} {
		if d := reconcile(t, Key{7}, s, s, 1); d.Symbols() != 1 || d.Theirs()+len(d.Own()) != 0 {
			t.Errorf("%d items: %d symbols, %d found", len(s), d.Symbols(), len(d.found))
		}
	}
}

// The stream does not depend on how it is asked for.
func TestRunsMakeOneStream(t *testing.T) {
	var set []Item
	for n := range 200 {
		set = append(set, item(n))
	}
	whole := NewEncoder(Key{1}, set).Append(nil, 100)
	enc := NewEncoder(Key{1}, set)
	var parts []byte
	for _, n := range []int{1, 0, 31, 3, 65} {
		parts = enc.Append(parts, n)
	}
	if !slices.Equal(whole, parts) {
		t.Error("two runs of symbols are not the run of both")
	}
}

// Both ends must compute the same on every machine: these bytes are fixed.
func TestGoldenSymbols(t *testing.T) {
	var set []Item
	for n := range 50 {
		set = append(set, item(n))
	}
	key := Key([]byte("a key of 16 byte"))
	b := NewEncoder(key, set).Append(nil, 5000)
	sum := sha256.Sum256(b)
	if got, want := hex.EncodeToString(b[:39]), goldenSymbols; got != want {
		t.Errorf("the first symbols are\n%s, want\n%s", got, want)
	}
	if got := hex.EncodeToString(sum[:8]); got != goldenSum {
		t.Errorf("5,000 symbols have the hash %s, want %s", got, goldenSum)
	}
	e := elementOf(&key, 42)
	var at []uint64
	for range 12 {
		at = append(at, e.next)
		e.step()
	}
	if got := fmt.Sprint(at); got != goldenSteps {
		t.Errorf("element 42 is in symbols %s, want %s", got, goldenSteps)
	}
}

// Arithmetic far out: indices rise, and end.
func TestStepsRise(t *testing.T) {
	for n := range 2000 {
		e := elementOf(&Key{3}, uint64(n))
		for last := e.next; e.next != never; last = e.next {
			if e.step(); e.next <= last {
				t.Fatalf("element %d: %d after %d", n, e.next, last)
			}
		}
	}
}

func TestCollisionIsSeen(t *testing.T) {
	if _, err := NewDecoder(Key{}, []Item{item(1), item(2), item(1)}); !errors.Is(err, ErrCollision) {
		t.Errorf("got %v", err)
	}
}

func TestHostileSymbols(t *testing.T) {
	own := []Item{item(1), item(2), item(3)}
	key := Key{9}
	e := elementOf(&key, 77)
	single := symbol{e.hash, e.check, 1}
	h := elementOf(&key, hashOf(&key, &own[0]))
	stream := func(s ...symbol) (b []byte) {
		for _, s := range s {
			b = s.append(b)
		}
		return b
	}
	// Added to a row that says "exactly own", what stands here is the difference.
	honest := NewEncoder(key, own).run(8)
	plus := func(i int, s symbol) []symbol {
		out := slices.Clone(honest)
		out[i].sum ^= s.sum
		out[i].check ^= s.check
		out[i].count += s.count
		return out
	}
	for name, b := range map[string][]byte{
		"cut off":            stream(single)[:12],
		"count cut off":      append(stream(single)[:12], 0x80),
		"negative count":     stream(symbol{1, 2, -1}),
		"count without end":  append(stream(single)[:12], 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"large count":        stream(symbol{1, 2, countMax + 1}),
		"not where it is":    stream(plus(7, single)...),
		"ours, as theirs":    stream(plus(0, symbol{h.hash, h.check, 1})...),
		"the same in others": stream(append(plus(0, single)[:1], slices.Concat(plus(1, single)[1:2], honest[2:])...)...),
	} {
		dec, err := NewDecoder(key, own)
		if err != nil {
			t.Fatal(err)
		}
		done, err := dec.Add(b)
		if done || err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: done %v, %v", name, done, err)
		}
		if len(dec.found) > 8 {
			t.Errorf("%s: found %d items", name, len(dec.found))
		}
	}
}

func FuzzAdd(f *testing.F) {
	var own, theirs []Item
	for n := range 40 {
		own, theirs = append(own, item(n)), append(theirs, item(n+3))
	}
	key := Key{5}
	for _, n := range []int{1, 3, 40} {
		f.Add(NewEncoder(key, theirs).Append(nil, n), uint8(n))
	}
	f.Add([]byte{0xff}, uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, cut uint8) {
		dec, err := NewDecoder(key, own)
		if err != nil {
			t.Fatal(err)
		}
		at := min(int(cut), len(b))
		for _, part := range [][]byte{b[:at], b[at:]} {
			done, err := dec.Add(part)
			if err != nil {
				if !errors.Is(err, ErrCorrupt) || done {
					t.Fatalf("done %v, %v", done, err)
				}
				return
			}
		}
		if n := len(dec.found); n > 3*dec.Symbols()+3 {
			t.Fatalf("%d items of %d symbols", n, dec.Symbols())
		}
	})
}

// The paper's claims about the number of symbols, §5.2 and figure 4 there:
// 1.35 for each differing item of a large difference, at most 1.72 for a small
// one, on average. The seeds are fixed, so this cannot flake.
func TestPaperOverhead(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		differ, tries int
		lo, hi        float64
	}{
		{1, 200, 1, 1}, {4, 400, 1.3, 1.75}, {10, 400, 1.4, 1.8}, {100, 60, 1.3, 1.6}, {1000, 12, 1.3, 1.45}, {10_000, 3, 1.3, 1.4},
	} {
		total := 0
		for range c.tries {
			var key Key
			for i := range key {
				key[i] = byte(rng.Uint32())
			}
			items := make([]Item, c.differ)
			for n := range items {
				items[n] = item(n)
			}
			half := c.differ / 2
			total += reconcile(t, key, items[:half], items[half:], 1).Symbols()
		}
		mean := float64(total) / float64(c.tries) / float64(c.differ)
		t.Logf("%d differ: %.3f symbols for each", c.differ, mean)
		if mean < c.lo || mean > c.hi {
			t.Errorf("%d differ: %.3f symbols for each, want %v to %v", c.differ, mean, c.lo, c.hi)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		items := make([]Item, n)
		for i := range items {
			items[i] = item(i)
		}
		b.Run(fmt.Sprintf("items=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				NewEncoder(Key{1}, items).Append(nil, 128)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/item")
			b.ReportMetric(float64(len(NewEncoder(Key{1}, items).Append(nil, 128)))/128, "B/symbol")
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		items := make([]Item, 100_000+n)
		for i := range items {
			items[i] = item(i)
		}
		own, theirs := items[:100_000+n/2], items[n/2:]
		row := NewEncoder(Key{1}, theirs).Append(nil, 2*n+20)
		b.Run(fmt.Sprintf("items=100000/differ=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				dec, err := NewDecoder(Key{1}, own)
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if done, err := dec.Add(row); err != nil || !done {
					b.Fatal(done, err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/differing")
		})
	}
}

const (
	goldenSymbols = "39765e670a2b45a8ba75539564badc446cabe389ea8338c01b4058809668c22f2a67256c2c7632"
	goldenSum     = "0af8146149d270f5"
	goldenSteps   = "[0 1 26 85 107 314 449 2715 5172 6216 10989 16887]"
)
