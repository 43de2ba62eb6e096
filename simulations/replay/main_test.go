package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// What is left in the end fails, and each of its faults is needed for that.
func TestShrink(t *testing.T) {
	for _, tc := range []struct {
		name   string
		n      int
		before []int
		needed [][]int // it fails when all of one set are there
		want   []int   // left out
	}{
		{"one of four", 4, nil, [][]int{{2}}, []int{0, 1, 3}},
		{"two together", 5, nil, [][]int{{1, 4}}, []int{0, 2, 3}},
		{"either of two", 3, nil, [][]int{{0}, {2}}, []int{1, 2}},
		{"with some left out before", 4, []int{1}, [][]int{{3}}, []int{0, 1, 2}},
		{"none is needed", 3, nil, [][]int{{}}, []int{0, 1, 2}},
		{"all are", 2, nil, [][]int{{0, 1}}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fails := func(without []int) (bool, error) {
				if !slices.IsSorted(without) {
					t.Errorf("left out %v, not ascending", without)
				}
				return slices.ContainsFunc(tc.needed, func(set []int) bool {
					return !slices.ContainsFunc(set, func(i int) bool { return slices.Contains(without, i) })
				}), nil
			}
			got, err := shrink(tc.n, tc.before, fails)
			if err != nil || !slices.Equal(got, tc.want) {
				t.Errorf("shrink left out %v, %v; want %v", got, err, tc.want)
			}
		})
	}
	tried := 0
	if _, err := shrink(64, nil, func(without []int) (bool, error) {
		tried++
		return !slices.Contains(without, 17), nil
	}); err != nil || tried > 16 {
		t.Errorf("one fault of 64 took %d runs to find, %v", tried, err)
	}
	broken := errors.New("broken")
	if _, err := shrink(1, nil, func([]int) (bool, error) { return false, broken }); !errors.Is(err, broken) {
		t.Errorf("shrink: %v, want %v", err, broken)
	}
}

// The command that is printed replays the run.
func TestCommandOfRun(t *testing.T) {
	for want, r := range map[string]run{
		"make sim SEED=7": {seed: 7, shape: "one", safety: 2 * time.Minute},
		`make sim SEED=8 ARGS="-shape full -safety 30s -without 0,12"`: {seed: 8, shape: "full", safety: 30 * time.Second, without: []int{0, 12}},
	} {
		if got := r.String(); got != want {
			t.Errorf("%+v: %s, want %s", r, got, want)
		}
	}
	got, err := parseNumbers("12,0,12")
	if err != nil || !slices.Equal(got, []int{0, 12}) {
		t.Errorf("parseNumbers: %v, %v", got, err)
	}
	for _, bad := range []string{"x", "-1"} {
		if _, err := parseNumbers(bad); err == nil {
			t.Errorf("parseNumbers(%q) took it", bad)
		}
	}
}

// Its clock is all the time a program has: it goes on when looked at.
func TestClock(t *testing.T) {
	var c clock
	a := c.nano()
	c.sleep(int64(time.Second))
	c.sleep(-1)
	if b := c.nano(); b-a != int64(time.Second+time.Microsecond) {
		t.Errorf("from %d to %d", a, b)
	}
	if sec, nsec := c.wall(); sec != epoch+1 || nsec != 3000 {
		t.Errorf("wall clock %d s %d ns, want %d s 3000 ns", sec, nsec, epoch+1)
	}
}

// Of what a program said, the panic counts.
func TestExcerpt(t *testing.T) {
	long := strings.Repeat("x", 2*excerptBytes)
	for said, want := range map[string]string{
		"":                                "",
		"all went\n":                      "all went",
		long:                              long[:excerptBytes],
		long + "\npanic: no\n\ngoroutine": "panic: no\n\ngoroutine",
		"a\nfatal error: no\n" + long:     ("fatal error: no\n" + long)[:excerptBytes-1],
	} {
		if got := excerpt(said); got != want {
			t.Errorf("excerpt of %d bytes is %.40q of %d, want %.40q of %d", len(said), got, len(got), want, len(want))
		}
	}
}
