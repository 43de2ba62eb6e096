package simulations

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/samecart/samecart/simulations/check"
	"github.com/samecart/samecart/simulations/network"
)

// Totals counts what simulations did; those of several runs add up.
type Totals struct {
	mu sync.Mutex // guards what follows

	Runs    int               `json:"runs"`
	Overlap int               `json:"runs_with_overlapping_faults"`
	Virtual time.Duration     `json:"virtual_ns"`
	Real    time.Duration     `json:"real_ns"`
	Ops     map[string]uint64 `json:"ops"`     // by kind and outcome
	Faults  map[string]uint64 `json:"faults"`  // by kind, that were brought about
	Skipped map[string]uint64 `json:"skipped"` // by kind, that could not be
	Checks  map[string]uint64 `json:"checks"`  // evaluations, by check
	Steps   map[string]uint64 `json:"steps"`   // durable steps passed, by name
	Crashes map[string]uint64 `json:"crashes"` // at each of them
	Exits   map[string]uint64 `json:"exits"`   // processes that ended by themselves, by why
	Net     network.Stats     `json:"network"`
	Found   int               `json:"violations"`
}

func newTotals() *Totals {
	return &Totals{
		Ops: map[string]uint64{}, Faults: map[string]uint64{}, Skipped: map[string]uint64{}, Checks: map[string]uint64{},
		Steps: map[string]uint64{}, Crashes: map[string]uint64{}, Exits: map[string]uint64{},
	}
}

func (t *Totals) count(of map[string]uint64, key string, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	of[key] += uint64(n)
}

func (t *Totals) step(name string)             { t.count(t.Steps, name, 1) }
func (t *Totals) crashedAt(name string)        { t.count(t.Crashes, name, 1) }
func (t *Totals) fault(k FaultKind)            { t.count(t.Faults, string(k), 1) }
func (t *Totals) skipped(k FaultKind)          { t.count(t.Skipped, string(k), 1) }
func (t *Totals) evaluated(name string, n int) { t.count(t.Checks, name, n) }
func (t *Totals) exited(why string)            { t.count(t.Exits, why, 1) }
func (t *Totals) op(o check.Op)                { t.count(t.Ops, o.Kind.String()+" "+o.Outcome.String(), 1) }

// Join adds what other runs counted. The other must not be in use.
func (t *Totals) Join(o *Totals) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Runs, t.Overlap, t.Found = t.Runs+o.Runs, t.Overlap+o.Overlap, t.Found+o.Found
	t.Virtual, t.Real = t.Virtual+o.Virtual, t.Real+o.Real
	for _, m := range []struct{ to, from map[string]uint64 }{
		{t.Ops, o.Ops}, {t.Faults, o.Faults}, {t.Skipped, o.Skipped}, {t.Checks, o.Checks}, {t.Steps, o.Steps}, {t.Crashes, o.Crashes}, {t.Exits, o.Exits},
	} {
		for k, n := range m.from {
			m.to[k] += n
		}
	}
	t.Net.Dials += o.Net.Dials
	t.Net.Refused += o.Net.Refused
	t.Net.Resets += o.Net.Resets
	t.Net.Writes += o.Net.Writes
	t.Net.Bytes += o.Net.Bytes
	t.Net.Lost += o.Net.Lost
	t.Net.Held += o.Net.Held
}

// String is a summary of some lines.
func (t *Totals) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%d runs (%d with overlapping faults), %.1f virtual hours, %d violations\n", t.Runs, t.Overlap, t.Virtual.Hours(), t.Found)
	for _, m := range []struct {
		name string
		m    map[string]uint64
	}{{"faults", t.Faults}, {"skipped", t.Skipped}, {"crashes", t.Crashes}, {"exits", t.Exits}, {"ops", t.Ops}, {"checks", t.Checks}} {
		var sum uint64
		for _, n := range m.m {
			sum += n
		}
		fmt.Fprintf(&b, "%s %d:", m.name, sum)
		for _, k := range slices.Sorted(maps.Keys(m.m)) {
			fmt.Fprintf(&b, " %s %d,", k, m.m[k])
		}
		b.WriteByte('\n')
	}
	return b.String()
}
