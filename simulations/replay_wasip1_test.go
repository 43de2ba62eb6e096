package simulations

import (
	"encoding/json"
	"flag"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/samecart/samecart/simulations/check"
)

// What simulations/replay passes; see there.
var (
	shapeFlag   = flag.String("shape", "one", "one group, or full size")
	safetyFlag  = flag.Duration("safety", 2*time.Minute, "virtual time with faults")
	withoutFlag = flag.String("without", "", "faults of the plan to leave out, by number from 0, with commas")
	resultFlag  = flag.String("result", "", "file that the outcome goes to")
)

// One seed, run so that it can be run again: simulations/replay calls this in a
// world where chance and clocks are the seed's.
func TestReplaySeed(t *testing.T) {
	shape := OneGroup
	if *shapeFlag == "full" {
		shape = FullSize
	}
	plan := PlanOf(*seedFlag, shape, *safetyFlag)
	var out struct { // as simulations/replay reads it
		Head       string
		Faults     []string
		Trace      string
		Violations []check.Violation
	}
	for _, f := range plan.Faults {
		out.Faults = append(out.Faults, f.String())
	}
	for _, s := range slices.Backward(strings.FieldsFunc(*withoutFlag, func(r rune) bool { return r == ',' })) {
		i, err := strconv.Atoi(s)
		if err != nil || i < 0 || i >= len(plan.Faults) {
			t.Fatalf("-without %s: %q is no number of a fault, or they do not ascend; the plan has %d", *withoutFlag, s, len(plan.Faults))
		}
		plan.Faults = slices.Delete(plan.Faults, i, i+1)
	}
	out.Head, _, _ = strings.Cut(plan.String(), "\n")
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	// What happens is always printed: it would be another run without that.
	res := Run(t, plan, How{Root: root, Log: os.Stdout, Trace: os.Stdout})
	out.Trace, out.Violations = res.Trace, res.Violations
	b, err := json.Marshal(out)
	if err == nil {
		err = os.WriteFile(*resultFlag, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
