package simulations

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"
)

var (
	seed   = flag.Uint64("seed", 1, "first seed")
	runs   = flag.Int("runs", 1, "seeds, from the first on")
	safety = flag.Duration("safety", 10*time.Minute, "virtual time with faults")
	shape  = flag.String("shape", "one", "one or full")
	keep   = flag.String("keep", "", "directory for logs of runs that failed")
	logs   = flag.Bool("logs", false, "print what nodes log, and what happens")
)

func TestTry(t *testing.T) {
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(root)
	how := How{Root: root}
	if *logs {
		how.Log, how.Trace = os.Stdout, os.Stdout
	}
	sh := OneGroup
	if *shape == "full" {
		sh = FullSize
	}
	sum := newTotals()
	for i := range *runs {
		var kept bytes.Buffer
		if *keep != "" {
			how.Log, how.Trace = &kept, &kept
		}
		res := Run(t, PlanOf(*seed+uint64(i), sh, *safety), how)
		if *keep != "" && len(res.Violations) > 0 {
			_ = os.WriteFile(fmt.Sprintf("%s/%d.log", *keep, res.Plan.Seed), fmt.Appendf(kept.Bytes(), "%v\n%v\n", res.Plan, res.Violations), 0o644)
		}
		sum.Join(res.Totals)
		t.Logf("seed %d real %v trace %s", res.Plan.Seed, res.Totals.Real, res.Trace)
		for _, v := range res.Violations {
			t.Errorf("%v", v)
		}
	}
	t.Log(sum)
}
