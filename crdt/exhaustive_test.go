package crdt_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/crdt/crdttest"
)

// The exhaustive check walks every history of a two-line cart in three
// regions up to a number of steps. A step is an edit in a region or the
// delivery of the next row of one region to one other. Every replica is
// compared with the model after every step; then, from every history, what
// is left is delivered in two orders, compared on the way, and all replicas
// must be equal.
//
// Histories that differ only by the names of regions or lines count once: a
// step may name only a region or a line that was named before, or the next
// one. Times are the numbers of the steps, so no rule that prefers a region
// by its name decides anything.

const exRegions, exLines = 3, 2

type exStep struct {
	deliver    bool
	region     int // where the edit is made, or whose row is delivered
	to         int
	kind       crdttest.EditKind
	line       int
	regionsCap int // regions and lines named so far, this step included
	linesCap   int
}

type exState struct {
	carts    [exRegions]*crdt.Cart
	views    [exRegions]view
	rows     [exRegions][]exRow
	received [exRegions][exRegions]int // [to][from]
	regions  int                       // named so far
	lines    int
	step     int
}

type exRow struct {
	delta crdt.Delta
	model modelRow
}

type explorer struct {
	m         model
	kinds     []crdttest.EditKind
	path      []string
	histories int
	compared  int
	fail      string
}

var exKinds = []crdttest.EditKind{crdttest.Add, crdttest.AddRenew, crdttest.Set, crdttest.Save,
	crdttest.Move, crdttest.Attributes, crdttest.Remove}

var exFewKinds = []crdttest.EditKind{crdttest.Add, crdttest.Set, crdttest.Save, crdttest.Attributes, crdttest.Remove}

// Quantities and prices go up and down from step to step, so that of two
// concurrent writes now the earlier and now the later is the larger.
var exQuantity = [...]uint32{4, 7, 2, 9, 1, 5, 3, 8}

func exEdit(kind crdttest.EditKind, line, step int) crdttest.Edit {
	return crdttest.Edit{
		Kind: kind, Key: crdttest.Keys()[line], Quantity: exQuantity[step%len(exQuantity)], Pairs: fmt.Sprint("note=", step),
		Offer: crdt.Offer{Price: int64(exQuantity[step%len(exQuantity)]), Currency: "EUR", AddedAt: crdt.TimestampAt(int64(step + 1))},
	}
}

// steps lists the steps that s allows.
func (s *exState) steps(kinds []crdttest.EditKind) []exStep {
	var out []exStep
	regions := min(s.regions+1, exRegions)
	lines := min(s.lines+1, exLines)
	for region := range regions {
		named := max(s.regions, region+1)
		for line := range lines {
			there := s.views[region].there(line)
			for _, kind := range kinds {
				if kind == crdttest.Add || there {
					out = append(out, exStep{region: region, kind: kind, line: line, regionsCap: named, linesCap: max(s.lines, line+1)})
				}
			}
		}
		if len(s.carts[region].Lines) > 0 {
			out = append(out, exStep{region: region, kind: crdttest.Clear, regionsCap: named, linesCap: s.lines})
		}
	}
	for from := range s.regions {
		for to := range regions {
			if to != from && s.received[to][from] < len(s.rows[from]) {
				out = append(out, exStep{deliver: true, region: from, to: to, regionsCap: max(s.regions, to+1), linesCap: s.lines})
			}
		}
	}
	return out
}

// take returns s after the step; s itself stays as it is.
func (x *explorer) take(s *exState, st exStep) *exState {
	n := *s
	n.regions, n.lines = st.regionsCap, st.linesCap
	n.step++
	if st.deliver {
		x.deliver(&n, st.region, st.to)
		return &n
	}
	e := exEdit(st.kind, st.line, s.step)
	w := crdt.Writer{Replica: crdt.Replica{Region: crdt.RegionID(st.region + 1)}, At: crdt.TimestampAt(int64(s.step + 1))}
	rows := n.rows[st.region]
	rows = rows[:len(rows):len(rows)]
	for _, d := range e.Do(n.carts[st.region], w) {
		n.carts[st.region] = n.carts[st.region].Apply(d)
		rows = append(rows, exRow{d, x.m.write(&n.views[st.region], x.m.line(d.Key), d.Dots[0], w.At, e)})
	}
	n.rows[st.region] = rows
	x.compare(&n, st.region)
	return &n
}

func (x *explorer) deliver(s *exState, from, to int) {
	r := s.rows[from][s.received[to][from]]
	s.received[to][from]++
	s.carts[to] = s.carts[to].Apply(r.delta)
	s.views[to].receive(r.model)
	x.compare(s, to)
}

func (x *explorer) compare(s *exState, region int) {
	x.compared++
	if d := x.m.differs(&s.views[region], s.carts[region]); d != "" && x.fail == "" {
		x.fail = fmt.Sprintf("%s\nregion %d: %s\n%s", strings.Join(x.path, "\n"), region, d, crdttest.Show(s.carts[region]))
	}
}

// settle delivers what is left, origin after origin in the given order or
// one row of each in turns, and checks that all replicas are equal.
func (x *explorer) settle(s exState, origins [exRegions]int, turns bool) {
	for left := true; left; {
		left = false
		for _, from := range origins {
			for to := range exRegions {
				for to != from && s.received[to][from] < len(s.rows[from]) {
					x.deliver(&s, from, to)
					left = true
					if turns {
						break
					}
				}
			}
		}
	}
	x.converged(&s)
}

func (x *explorer) converged(s *exState) {
	var first []byte
	for region, c := range s.carts {
		b := c.Encode(nil)
		if region == 0 {
			first = b
		}
		if (!c.Equal(s.carts[0]) || !bytes.Equal(b, first) || c.Context.Exceptions() != 0) && x.fail == "" {
			x.fail = fmt.Sprintf("%s\nregion %d differs from region 0 when all is delivered:\n%s\n%s",
				strings.Join(x.path, "\n"), region, crdttest.Show(c), crdttest.Show(s.carts[0]))
		}
	}
	for line := range exLines {
		for f := range fields {
			if got, want := s.views[0].alive(line, f), x.m.final(line, f); got != want && x.fail == "" {
				x.fail = fmt.Sprintf("%s\nline %d field %d stands %b; by the causal pasts %b", strings.Join(x.path, "\n"), line, f, got, want)
			}
		}
	}
}

// explore visits s and everything at most depth steps after it.
func (x *explorer) explore(s *exState, depth int) {
	x.histories++
	x.settle(*s, [exRegions]int{0, 1, 2}, false)
	x.settle(*s, [exRegions]int{2, 1, 0}, true)
	if depth == 0 || x.fail != "" {
		return
	}
	for _, st := range s.steps(x.kinds) {
		x.branch(s, st, depth)
	}
}

func (x *explorer) branch(s *exState, st exStep, depth int) {
	writes := len(x.m.writes)
	x.path = append(x.path, st.String())
	x.explore(x.take(s, st), depth-1)
	x.path = x.path[:len(x.path)-1]
	x.m.writes = x.m.writes[:writes]
}

func (st exStep) String() string {
	if st.deliver {
		return fmt.Sprintf("deliver %d to %d", st.region, st.to)
	}
	return fmt.Sprintf("region %d: %v line %d", st.region, st.kind, st.line)
}

func TestEveryInterleaving(t *testing.T) {
	add := func(region, line int) exStep {
		return exStep{region: region, kind: crdttest.Add, line: line, regionsCap: region + 1, linesCap: line + 1}
	}
	edit := func(region int, kind crdttest.EditKind) exStep {
		return exStep{region: region, kind: kind, regionsCap: exRegions, linesCap: 1}
	}
	give := func(from, to int) exStep {
		return exStep{deliver: true, region: from, to: to, regionsCap: exRegions, linesCap: exLines}
	}
	for _, start := range []struct {
		name  string
		depth int
		kinds []crdttest.EditKind
		steps []exStep
	}{
		{"an empty cart", 5, exKinds, nil},
		// Without the moves and renewals, which write as a save and an add do.
		{"one line everywhere", 4, exFewKinds, []exStep{add(0, 0), give(0, 1), give(0, 2)}},
		{"a line of one region and a line of another, everywhere", 3, exKinds,
			[]exStep{add(0, 0), add(1, 1), give(0, 1), give(0, 2), give(1, 0), give(1, 2)}},
		// Removing the set where both have come leaves a line that is not
		// there (I5) where the first remove has not.
		{"a set and a remove that have not met", 3, exKinds,
			[]exStep{add(0, 0), give(0, 2), edit(0, crdttest.Set), give(0, 1), give(0, 1), edit(2, crdttest.Remove)}},
	} {
		t.Run(start.name, func(t *testing.T) {
			depth := start.depth - exhaustiveLess
			begin := func() (*explorer, *exState) {
				x := &explorer{m: model{keys: crdttest.Keys()[:exLines]}, kinds: start.kinds}
				s := &exState{carts: [exRegions]*crdt.Cart{{}, {}, {}}}
				for _, st := range start.steps {
					x.path = append(x.path, st.String())
					s = x.take(s, st)
				}
				return x, s
			}
			// Two workers share the prefixes of two steps.
			type prefix [2]exStep
			work := make(chan prefix)
			var mu sync.Mutex
			total := explorer{histories: 1} // of less than two steps; the start is one
			var group sync.WaitGroup
			for range 2 {
				group.Go(func() {
					x, s := begin()
					x.histories = 0
					for p := range work {
						writes := len(x.m.writes)
						x.path = append(x.path, p[0].String())
						x.branch(x.take(s, p[0]), p[1], depth-1)
						x.path = x.path[:len(x.path)-1]
						x.m.writes = x.m.writes[:writes]
					}
					mu.Lock()
					defer mu.Unlock()
					total.histories += x.histories
					total.compared += x.compared
					if total.fail == "" {
						total.fail = x.fail
					}
				})
			}
			x, s := begin()
			for _, first := range s.steps(x.kinds) {
				writes := len(x.m.writes)
				next := x.take(s, first)
				x.explore(next, 0)
				total.histories++
				for _, second := range next.steps(x.kinds) {
					work <- prefix{first, second}
				}
				x.m.writes = x.m.writes[:writes]
			}
			close(work)
			group.Wait()
			if total.fail == "" {
				total.fail = x.fail
			}
			if total.fail != "" {
				t.Fatalf("history:\n%s", total.fail)
			}
			t.Logf("%d histories of up to %d steps, %d comparisons with the model", total.histories, depth, total.compared)
		})
	}
}
