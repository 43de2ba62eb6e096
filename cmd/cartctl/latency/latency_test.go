package latency

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestPercentile(t *testing.T) {
	ten := Sample{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	for _, c := range []struct {
		s    Sample
		p    float64
		want time.Duration
	}{
		{nil, 50, 0},
		{Sample{7}, 0, 7}, {Sample{7}, 50, 7}, {Sample{7}, 100, 7},
		{ten, 50, 5}, {ten, 51, 6}, {ten, 99, 10}, {ten, 90, 9}, {ten, 0, 1}, {ten, -5, 1}, {ten, 500, 10},
	} {
		if got := c.s.Percentile(c.p); got != c.want {
			t.Errorf("%v.Percentile(%v) = %v, want %v", c.s, c.p, got, c.want)
		}
	}
}

// TestPercentileMeaning checks the definition itself: enough samples are at
// or below the answer, and too few are below it.
func TestPercentileMeaning(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Sample(rapid.SliceOfN(rapid.Custom(func(t *rapid.T) time.Duration {
			return time.Duration(rapid.IntRange(0, 50).Draw(t, "d"))
		}), 1, 80).Draw(t, "sample"))
		p := float64(rapid.IntRange(1, 100).Draw(t, "p"))
		s.Sort()
		got := s.Percentile(p)
		if !slices.Contains(s, got) {
			t.Fatalf("%v is not in the sample", got)
		}
		var atOrBelow, below int
		for _, d := range s {
			if d <= got {
				atOrBelow++
			}
			if d < got {
				below++
			}
		}
		n := float64(len(s))
		if float64(atOrBelow) < p/100*n-1e-9 || float64(below) >= p/100*n {
			t.Fatalf("p%v of %v = %v: %d at or below, %d below", p, s, got, atOrBelow, below)
		}
	})
}

func TestMilliseconds(t *testing.T) {
	if got := Milliseconds(1234567 * time.Nanosecond); got != 1.235 {
		t.Errorf("got %v, want 1.235", got)
	}
}
