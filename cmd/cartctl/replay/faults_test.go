package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"
)

func TestParseFaults(t *testing.T) {
	for text, want := range map[string]string{ // empty: refused
		"us-east,eu-west:33%-66%":      "eu-west,us-east:33%-66%",
		"eu-west, us-east : 0%-100%":   "eu-west,us-east:0%-100%",
		"a,b:33.3%-33.4%":              "a,b:33.3%-33.4%",
		"a,b:66%-33%":                  "",
		"a,b:33%-33%":                  "",
		"a,b:33-66":                    "",
		"a,b:33%":                      "",
		"a,b:-5%-66%":                  "",
		"a,b:1%-101%":                  "",
		"a,b:NaN%-66%":                 "",
		"a,b":                          "",
		"a:33%-66%":                    "",
		"a,a:33%-66%":                  "",
		"a,b,c:33%-66%":                "",
		",b:33%-66%":                   "",
		"":                             "",
		"us-east/2:40%-60%":            "", // a kill, no cut
		"us-east,eu-west:33%-66%,1%-2": "",
	} {
		var c Cut
		err := c.UnmarshalText([]byte(text))
		if (want == "") != (err != nil) || (err == nil && c.String() != want) {
			t.Errorf("cut %q: %v, %v; want %q", text, c, err, want)
		}
	}
	for text, want := range map[string]string{
		"us-east/2:40%-60%": "us-east/2:40%-60%",
		"us-east:40%-60%":   "",
		"us-east/x:40%-60%": "",
		"/1:40%-60%":        "",
		"us-east/1:40%":     "",
		"us-east/1":         "",
		"a/b/1:40%-60%":     "",
	} {
		var k Kill
		err := k.UnmarshalText([]byte(text))
		if (want == "") != (err != nil) || (err == nil && k.String() != want) {
			t.Errorf("kill %q: %v, %v; want %q", text, k, err, want)
		}
	}
}

func cut(t testing.TB, text string) Cut {
	t.Helper()
	var c Cut
	if err := c.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return c
}

func kill(t testing.TB, text string) Kill {
	t.Helper()
	var k Kill
	if err := k.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return k
}

func TestCheckFaults(t *testing.T) {
	regions := []string{"ap-south", "eu-west", "us-east"}
	for _, c := range []struct {
		cuts, kills []string
		says        string // empty: good
	}{
		{[]string{"us-east,eu-west:33%-66%", "us-east,ap-south:33%-66%"}, []string{"us-east/1:1%-9%", "us-east/2:1%-9%"}, ""},
		{[]string{"us-east,eu-west:10%-20%", "eu-west,us-east:20%-30%"}, nil, ""},
		{[]string{"us-east,eu-west:10%-20%", "eu-west,us-east:19%-30%"}, nil, "overlap"},
		{nil, []string{"us-east/1:10%-20%", "us-east/1:15%-16%"}, "overlap"},
		{[]string{"us-east,mars:10%-20%"}, nil, `"mars" is unknown`},
		{nil, []string{"mars/1:10%-20%"}, "ap-south, eu-west, us-east"},
	} {
		var cuts []Cut
		for _, s := range c.cuts {
			cuts = append(cuts, cut(t, s))
		}
		var kills []Kill
		for _, s := range c.kills {
			kills = append(kills, kill(t, s))
		}
		err := CheckFaults(cuts, kills, regions)
		if (c.says == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%v %v: %v, want %q", c.cuts, c.kills, err, c.says)
		}
	}
}

func TestTimeline(t *testing.T) {
	events := timeline(
		[]Cut{cut(t, "us-east,eu-west:33%-66%"), cut(t, "us-east,eu-west:66%-70%"), cut(t, "a,b:99.99%-100%")},
		[]Kill{kill(t, "us-east/2:40%-100%")}, 100)
	var got []string
	for _, e := range events {
		got = append(got, fmt.Sprint(e.at, " ", e))
	}
	// The last cut has no edit in it; what ends goes before what begins.
	want := []string{
		"33 cut eu-west us-east", "40 kill us-east/2", "66 heal eu-west us-east", "66 cut eu-west us-east",
		"70 heal eu-west us-east", "100 start us-east/2",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// TestTimelineCoversTheWindow checks that edit n is inside exactly when
// From ≤ 100·n/total < To.
func TestTimelineCoversTheWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.IntRange(0, 300).Draw(t, "total")
		from := rapid.IntRange(0, 99).Draw(t, "from")
		to := rapid.IntRange(from+1, 100).Draw(t, "to")
		events := timeline([]Cut{{"a", "b", Window{float64(from), float64(to)}}}, nil, total)
		inForce := false
		for n := range total {
			for _, e := range events {
				if e.at == n {
					inForce = e.begin
				}
			}
			if want := from*total <= 100*n && 100*n < to*total; inForce != want {
				t.Fatalf("%d%%-%d%% of %d: edit %d has the fault: %v, want %v", from, to, total, n, inForce, want)
			}
		}
	})
}

// TestGateHoldsEditsBack passes many edits at once. No edit may pass before the
// events that come before it, and no event may happen before an edit asks for it.
func TestGateHoldsEditsBack(t *testing.T) {
	const total = 400
	events := timeline([]Cut{cut(t, "a,b:25%-75%"), cut(t, "a,b:75%-80%")}, []Kill{kill(t, "a/1:50%-60%")}, total)
	var mu sync.Mutex
	var applied []string
	asked := -1
	g := newGate(events, func(_ context.Context, e event) error {
		mu.Lock()
		defer mu.Unlock()
		applied = append(applied, e.String())
		if asked < e.at {
			t.Errorf("%v before edit %d, but only edit %d was asked for", e, e.at, asked)
		}
		return nil
	})
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		g.run(t.Context(), stop)
	}()
	var next atomic.Int64
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for n := int(next.Add(1) - 1); n < total; n = int(next.Add(1) - 1) {
				mu.Lock()
				asked = max(asked, n)
				mu.Unlock()
				if err := g.pass(t.Context(), int64(n)); err != nil {
					t.Errorf("edit %d: %v", n, err)
					return
				}
				due := 0
				for _, e := range events {
					if e.at <= n {
						due++
					}
				}
				mu.Lock()
				if len(applied) < due {
					t.Errorf("edit %d passed after %q; %d events come before it", n, applied, due)
				}
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	close(stop)
	<-done
	want := []string{"cut a b", "kill a/1", "start a/1", "heal a b", "cut a b", "heal a b"}
	if !slices.Equal(applied, want) || len(g.open) != 0 || g.lastEnd.IsZero() {
		t.Errorf("applied %q, open %v; want %q", applied, g.open, want)
	}
}

func TestGateReportsAFaultThatCannotBe(t *testing.T) {
	refused := errors.New("drills are off")
	g := newGate(timeline([]Cut{cut(t, "a,b:0%-50%")}, nil, 10), func(context.Context, event) error { return refused })
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.run(t.Context(), nil)
	}()
	for n := range int64(3) {
		if err := g.pass(t.Context(), n); !errors.Is(err, refused) {
			t.Errorf("edit %d: %v, want the fault's error", n, err)
		}
	}
	<-done
	if len(g.open) != 1 {
		t.Errorf("open %v: a fault of unknown outcome must be ended", g.open)
	}
}
