package simulations

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	seedFlag   = flag.Uint64("seed", 1, "first seed")
	oneFlag    = flag.Int("one", oneRuns, "runs of one group")
	fullFlag   = flag.Int("full", fullRuns, "runs of full size")
	crashFlag  = flag.Int("crash", crashRuns, "runs of crashes at durable steps")
	logFlag    = flag.String("log", "", "directory for what happened in runs that failed; empty: a temporary one")
	tableFlag  = flag.String("table", "", "file in which the table of totals is brought up to date")
	totalsFlag = flag.String("totals", "", "file of totals that these runs are added to; runs go on after the last seed in it")
)

// TestMain trades memory for time: a run leaves much behind, and soon all of it.
func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(800)
	debug.SetMemoryLimit(2 << 30)
	code := m.Run()
	if *tableFlag != "" {
		if err := writeTable(*tableFlag); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// The virtual time with faults of one run.
const (
	safetyOfOne  = 10 * time.Minute
	safetyOfFull = time.Minute
)

// A region keeps its promises, whatever its processes, machines, disks, clocks and
// links do.
func TestOneGroup(t *testing.T) {
	simulate(t, "one", *oneFlag, func(seed uint64) Plan { return PlanOf(seed, OneGroup, safetyOfOne) })
}

// So do three regions, between which links fail as well.
func TestFullSize(t *testing.T) {
	simulate(t, "full", *fullFlag, func(seed uint64) Plan { return PlanOf(seed, FullSize, safetyOfFull) })
}

// A crash at any durable step loses nothing, and the node starts again.
func TestCrashPoints(t *testing.T) {
	simulate(t, "crash", *crashFlag, func(seed uint64) Plan { return CrashPlanOf(seed, safetyOfOne) })
}

// simulate runs seeds, two at a time: a run keeps one core busy.
func simulate(t *testing.T, name string, runs int, plan func(seed uint64) Plan) {
	t.Parallel()
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	began, first := time.Now(), *seedFlag
	sum := newTotals()
	kept := readTotals(t, name)
	first = max(first, kept.Next)
	var mu sync.Mutex // guards next
	next := first
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for {
				mu.Lock()
				seed := next
				next++
				mu.Unlock()
				if seed >= first+uint64(runs) {
					return
				}
				if total := oneSeed(t, plan(seed), root); total != nil {
					sum.Join(total)
				}
			}
		})
	}
	workers.Wait()
	sum.Real = time.Since(began)
	t.Logf("%.1f virtual hours a minute; %v", sum.Virtual.Hours()/sum.Real.Minutes(), sum)
	kept.Totals.Join(sum)
	kept.Next = first + uint64(runs)
	kept.write(t, name)
}

// oneSeed runs a plan and keeps what happened when a promise was broken.
func oneSeed(t *testing.T, plan Plan, root string) (total *Totals) {
	t.Run(fmt.Sprint(plan.Seed), func(t *testing.T) {
		var happened bytes.Buffer
		res := Run(t, plan, How{Root: root, Log: &happened, Trace: &happened})
		total = res.Totals
		if len(res.Violations) == 0 {
			return
		}
		for _, v := range res.Violations {
			t.Errorf("%v", v)
		}
		dir := *logFlag
		if dir == "" {
			dir = os.TempDir()
		}
		file := filepath.Join(dir, fmt.Sprintf("samecart-sim-%v-%d.log", plan.Shape, plan.Seed))
		if err := os.WriteFile(file, fmt.Appendf(nil, "%v\n%s\n%v\n", plan, happened.Bytes(), res.Violations), 0o600); err != nil {
			t.Error(err)
		}
		t.Errorf("seed %d of %v; what happened is in %s", plan.Seed, plan.Shape, file)
	})
	return total
}

// keptTotals are those of all slices of a nightly run so far.
type keptTotals struct {
	Next   uint64  `json:"next_seed"`
	Totals *Totals `json:"totals"`
}

func totalsFile(name string) string {
	return strings.TrimSuffix(*totalsFlag, ".json") + "-" + name + ".json"
}

func readTotals(t *testing.T, name string) keptTotals {
	t.Helper()
	kept := keptTotals{Totals: newTotals()}
	if *totalsFlag == "" {
		return kept
	}
	b, err := os.ReadFile(totalsFile(name))
	if errors.Is(err, fs.ErrNotExist) {
		return kept
	}
	if err == nil {
		err = json.Unmarshal(b, &kept)
	}
	if err != nil {
		t.Fatalf("%s: %v; remove it to begin anew", totalsFile(name), err)
	}
	return kept
}

func (k keptTotals) write(t *testing.T, name string) {
	t.Helper()
	if *totalsFlag == "" {
		return
	}
	b, err := json.MarshalIndent(k, "", " ")
	if err == nil {
		err = os.WriteFile(totalsFile(name), append(b, '\n'), 0o600)
	}
	if err != nil {
		t.Error(err)
	}
}

// A seed's plan is the same each time, half of them have faults that overlap, and
// all kinds of faults are in some.
func TestPlans(t *testing.T) {
	overlap, seen := 0, make(map[FaultKind]bool)
	const n = 200
	for seed := range uint64(n) {
		p := PlanOf(seed, FullSize, safetyOfFull)
		if again := PlanOf(seed, FullSize, safetyOfFull); p.String() != again.String() {
			t.Fatalf("seed %d gives two plans", seed)
		}
		if p.Overlap() {
			overlap++
		}
		for _, f := range p.Faults {
			seen[f.Kind] = true
		}
	}
	if overlap < n/2 {
		t.Errorf("faults overlap in %d of %d plans", overlap, n)
	}
	for _, k := range append(append([]FaultKind(nil), kinds...), wide...) {
		if !seen[k] {
			t.Errorf("no plan has %q", k)
		}
	}
}
