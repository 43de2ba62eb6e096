package scan

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// held is a fake region: digests by slot and id.
type held map[name]string

// name names a cart.
type name struct {
	slot uint32
	id   string
}

// sliceStream is a fake stream.
type sliceStream struct {
	carts  []Cart
	fail   error // after the carts
	closed *int
}

func (s *sliceStream) Next() (Cart, bool, error) {
	if len(s.carts) == 0 {
		return Cart{}, false, s.fail
	}
	c := s.carts[0]
	s.carts = s.carts[1:]
	return c, true, nil
}

func (s *sliceStream) Close() error {
	if s.closed != nil {
		*s.closed++
	}
	return nil
}

func (h held) stream(lo, hi uint32) *sliceStream {
	var out []Cart
	for k, digest := range h {
		if k.slot >= lo && k.slot < hi {
			out = append(out, Cart{k.slot, k.id, []byte(digest)})
		}
	}
	slices.SortFunc(out, func(a, b Cart) int {
		if a.before(b) {
			return -1
		}
		return 1
	})
	return &sliceStream{carts: out}
}

func (h held) region(name string) Region {
	return Region{name, func(_ context.Context, lo, hi uint32) (Stream, error) { return h.stream(lo, hi), nil }}
}

var anyHeld = rapid.Custom(func(t *rapid.T) held {
	h := held{}
	for range rapid.IntRange(0, 12).Draw(t, "n") {
		h[name{rapid.Uint32Range(0, 4).Draw(t, "slot"), rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "id")}] = rapid.SampledFrom([]string{"x", "y"}).Draw(t, "digest")
	}
	return h
})

// TestCompareAgreesWithMaps compares with the answer of a dumb model.
func TestCompareAgreesWithMaps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := []held{anyHeld.Draw(t, "a"), anyHeld.Draw(t, "b"), anyHeld.Draw(t, "c")}
		var regions []Region
		union := map[name]bool{}
		for i, h := range all {
			regions = append(regions, h.region(fmt.Sprint(i)))
			for k := range h {
				union[k] = true
			}
		}
		want := map[name]bool{}
		for k := range union {
			first, ok := all[0][k]
			for _, h := range all[1:] {
				if other, has := h[k]; has != ok || other != first {
					want[k] = true
				}
			}
		}
		got := map[name]bool{}
		carts, err := Compare(context.Background(), regions, 0, Slots, func(d Difference) {
			k := name{d.Slot, d.ID}
			got[k] = true
			for i, h := range all {
				if digest, ok := h[k]; ok != (d.Digests[i] != nil) || digest != string(d.Digests[i]) {
					t.Fatalf("%v: digest of region %d is %q, want %q", k, i, d.Digests[i], digest)
				}
			}
		})
		if err != nil || carts != len(union) || !maps.Equal(got, want) {
			t.Fatalf("carts %d of %d, err %v, differing %v, want %v", carts, len(union), err, got, want)
		}
	})
}

func TestCompareRefusesDisorder(t *testing.T) {
	for _, carts := range [][]Cart{
		{{1, "b", nil}, {1, "a", nil}},
		{{1, "a", nil}, {1, "a", nil}},
		{{2, "a", nil}, {1, "b", nil}},
	} {
		closed := 0
		r := Region{"us-east", func(context.Context, uint32, uint32) (Stream, error) {
			return &sliceStream{carts: carts, closed: &closed}, nil
		}}
		_, err := Compare(t.Context(), []Region{r}, 0, Slots, func(Difference) {})
		if err == nil || !strings.Contains(err.Error(), "us-east") {
			t.Errorf("%v: err = %v, want one that names the region", carts, err)
		}
		if closed != 1 {
			t.Errorf("stream closed %d times", closed)
		}
	}
}

func TestCompareReportsBrokenStream(t *testing.T) {
	broken := errors.New("connection reset")
	r := Region{"eu-west", func(context.Context, uint32, uint32) (Stream, error) {
		return &sliceStream{carts: []Cart{{1, "a", nil}}, fail: broken}, nil
	}}
	if _, err := Compare(t.Context(), []Region{r}, 0, Slots, func(Difference) {}); !errors.Is(err, broken) {
		t.Errorf("err = %v, want the stream's", err)
	}
}

func TestSettleWaitsForCartsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		arrives := begun.Add(300 * time.Millisecond)
		whole := held{{3, "a"}: "x", {3, "b"}: "x", {900, "z"}: "y"}
		var asked [][2]uint32
		late := Region{"eu-west", func(_ context.Context, lo, hi uint32) (Stream, error) {
			asked = append(asked, [2]uint32{lo, hi})
			if time.Now().Before(arrives) {
				return held{{3, "a"}: "x", {900, "z"}: "old"}.stream(lo, hi), nil
			}
			return whole.stream(lo, hi), nil
		}}
		out, err := Settle(t.Context(), []Region{whole.region("us-east"), late}, 5*time.Second, 50*time.Millisecond)
		if err != nil || out.Carts != 3 || out.Diverged != 0 || out.EqualAt != arrives {
			t.Fatalf("%+v, %v; want 3 carts, equal at %v", out, err, arrives)
		}
		for _, span := range asked[1:] {
			if span != [2]uint32{3, 4} && span != [2]uint32{900, 901} {
				t.Errorf("slots %v were asked for again, though they were equal", span)
			}
		}
	})
}

func TestSettleNamesWhatStaysDifferent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := held{}, held{}
		for i := range 200 {
			k := name{uint32(i * 5), fmt.Sprintf("cart-%d", i)}
			a[k], b[k] = "x", "x"
			if i%2 == 0 {
				b[k] = "y" // planted
			}
		}
		delete(b, name{5, "cart-1"}) // planted
		begun := time.Now()
		out, err := Settle(t.Context(), []Region{a.region("us-east"), b.region("eu-west")}, 2*time.Second, 50*time.Millisecond)
		if err != nil || out.Diverged != 101 || out.Carts != 200 || !out.EqualAt.IsZero() || len(out.First) != FirstMax {
			t.Fatalf("%+v, %v; want 101 of 200 diverged, %d listed", out, err, FirstMax)
		}
		if took := time.Since(begun); took > 2*time.Second || took < time.Second {
			t.Errorf("gave up after %v, want about 2 s", took)
		}
		if got := out.First[1]; got.ID != "cart-1" || got.Digests[1] != nil || !strings.Contains(got.String(), "none") {
			t.Errorf("second difference is %v, want cart-1, missing in eu-west", got)
		}
	})
}

func TestSettleTriesAgainWhereARegionFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("no leader")
		h := held{{1, "a"}: "x"}
		tries := 0
		flaky := Region{"ap-south", func(_ context.Context, lo, hi uint32) (Stream, error) {
			if tries++; tries < 4 {
				return nil, down
			}
			return h.stream(lo, hi), nil
		}}
		out, err := Settle(t.Context(), []Region{h.region("us-east"), flaky}, time.Second, 10*time.Millisecond)
		if err != nil || out.EqualAt.IsZero() || out.Carts != 1 {
			t.Fatalf("%+v, %v", out, err)
		}
		tries = -1000
		if _, err := Settle(t.Context(), []Region{h.region("us-east"), flaky}, time.Second, 10*time.Millisecond); !errors.Is(err, down) {
			t.Fatalf("err = %v, want the region's", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Settle(ctx, []Region{h.region("us-east"), flaky}, time.Hour, time.Minute); !errors.Is(err, context.Canceled) {
			t.Fatalf("err = %v after cancel", err)
		}
	})
}
