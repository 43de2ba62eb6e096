package riblt

import (
	"encoding/binary"
	"math"
	"math/bits"
	"math/rand/v2"
	"testing"
)

// Claims of Yang, Gilad, Alizadeh, arXiv:2402.02668. Seeds are fixed.

func seededKey(rng *rand.Rand) (key Key) {
	binary.BigEndian.PutUint64(key[:], rng.Uint64())
	binary.BigEndian.PutUint64(key[8:], rng.Uint64())
	return key
}

// §4.2: an item falls in symbol i with probability 1/(1+i/2).
func TestPaperProbability(t *testing.T) {
	const items = 200_000
	rng := rand.New(rand.NewPCG(7, 8))
	in := make([]int, 2000)
	for range items {
		hash := rng.Uint64()
		for i := uint32(0); i < uint32(len(in)); i = after(hash, i) {
			in[i]++
		}
	}
	for i, n := range in {
		p := 1 / (1 + float64(i)/2)
		if sigma := math.Sqrt(items * p * (1 - p)); math.Abs(float64(n)-items*p) > 4.5*sigma {
			t.Errorf("symbol %d holds %d items, want %.0f ± %.0f", i, n, items*p, sigma)
		}
	}
}

// §4.3: peeling relies on the checksum of several items not being that of their
// xor. Here of 16 bits, so that chance shows.
func TestPaperChecksum(t *testing.T) {
	const tries = 1 << 20
	rng := rand.New(rand.NewPCG(9, 10))
	for _, items := range []int{2, 3, 5} {
		alike := 0
		for range tries {
			var s symbol
			for range items {
				h := rng.Uint64()
				s.toggle(h, uint32(checkOf(h)))
			}
			if uint16(s.check) == uint16(checkOf(s.sum)) {
				alike++
			}
		}
		if mean := tries >> 16; alike > 3*mean {
			t.Errorf("%d items look like one %d times, want about %d", items, alike, mean)
		}
	}
	if s := (symbol{}); s.isSingle() {
		t.Error("a symbol of nothing looks like an item")
	}
}

// §5 and figure 4: a large difference takes 1.35 symbols for each differing item,
// on average, a small one more.
func TestPaperOverhead(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		differ, tries int
		lo, hi        float64
	}{
		{1, 200, 1, 1}, {4, 5000, 1.74, 1.82}, {10, 2000, 1.68, 1.78}, {100, 200, 1.42, 1.5}, {1000, 20, 1.34, 1.42}, {10_000, 5, 1.33, 1.38},
	} {
		mean := meanSymbols(t, rng, c.differ, c.tries) / float64(c.differ)
		t.Logf("%d differ: %.3f symbols for each", c.differ, mean)
		if mean < c.lo || mean > c.hi {
			t.Errorf("%d differ: %.3f symbols for each, want %v to %v", c.differ, mean, c.lo, c.hi)
		}
	}
}

func meanSymbols(t *testing.T, rng *rand.Rand, differ, tries int) float64 {
	half := differ / 2
	own, theirs := itemsFrom(0, half), itemsFrom(half, differ-half)
	total := 0
	for range tries {
		total += reconcile(t, seededKey(rng), own, theirs, one).Symbols()
	}
	return float64(total) / float64(tries)
}

// The same number without a hash, a path or a checksum: items are bits, which
// are in symbol i with the paper's probability, each drawn for itself.
func TestPaperOverheadOfADumbModel(t *testing.T) {
	const tries = 8000
	rng := rand.New(rand.NewPCG(11, 12))
	for _, differ := range []int{2, 4, 10} {
		total := 0
		for range tries {
			var symbols []uint
			for known := uint(0); known != 1<<differ-1; total++ {
				var s uint
				for k := range differ {
					if rng.Float64() < 1/(1+float64(len(symbols))/2) {
						s |= 1 << k
					}
				}
				symbols = append(symbols, s)
				for more := true; more; {
					more = false
					for _, s := range symbols {
						if left := s &^ known; bits.OnesCount(left) == 1 {
							known |= left
							more = true
						}
					}
				}
			}
		}
		model, mean := float64(total)/tries, meanSymbols(t, rng, differ, tries)
		t.Logf("%d differ: %.3f symbols for each, the model %.3f", differ, mean/float64(differ), model/float64(differ))
		if math.Abs(model-mean) > 0.04*model {
			t.Errorf("%d differ: %.3f symbols, the model takes %.3f", differ, mean, model)
		}
	}
}
