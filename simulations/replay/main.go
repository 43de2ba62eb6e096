package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := command(ctx, os.Args[1:], os.Stdout)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "sim:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string, to io.Writer) (err error) {
	flags := flag.NewFlagSet("sim", flag.ContinueOnError)
	program := flags.String("program", "bin/sim.wasm", "simulations, built by go test -c for GOOS=wasip1 GOARCH=wasm")
	cache := flags.String("cache", "bin/sim-cache", "directory for the program in machine code")
	seed := flags.Uint64("seed", 1, "first seed")
	runs := flags.Uint64("runs", 1, "how many seeds")
	shape := flags.String("shape", "one", "one (a region of three nodes, one shard) or full (three regions, two shards)")
	safety := flags.Duration("safety", 2*time.Minute, "virtual time with faults")
	without := flags.String("without", "", "faults of the plan to leave out, by number, with commas")
	shrinks := flags.Bool("shrink", true, "leave out faults of a plan that fails, as long as it still fails")
	happens := flags.Bool("v", false, "print what happens")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *shape != "one" && *shape != "full" {
		return fmt.Errorf("-shape %q: give one or full", *shape)
	}
	if *safety < time.Second {
		return fmt.Errorf("-safety %v: give at least 1s", *safety)
	}
	first := run{shape: *shape, safety: *safety}
	if first.without, err = parseNumbers(*without); err != nil {
		return fmt.Errorf("-without %q: %w", *without, err)
	}
	if *happens {
		first.happens = to
	}
	h, err := newHost(ctx, *program, *cache)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close(ctx)) }()
	failed := 0
	for i := range *runs {
		r := first
		r.seed = *seed + i
		out, err := h.do(ctx, r)
		if err != nil {
			return fmt.Errorf("seed %d: %w", r.seed, err)
		}
		say(to, "trace %s\n", hash(out))
		if len(out.Violations) == 0 {
			continue
		}
		failed++
		report(to, r, out)
		if *shrinks {
			if err := shrinkAndTell(ctx, h, to, r, out); err != nil {
				return err
			}
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d seeds broke a promise", failed, *runs)
	}
	return nil
}

// hash is the trace's; a run that panicked has none, and what it said is hashed
// nowhere: zeros.
func hash(o outcome) string {
	if o.Trace == "" {
		return strings.Repeat("0", 32)
	}
	return o.Trace
}

// report says what a run found, of which plan, and how to run it again.
func report(to io.Writer, r run, out outcome) {
	say(to, "%v\n", out.Head)
	for i, f := range out.Faults {
		if !slices.Contains(r.without, i) {
			say(to, "%3d %s\n", i, f)
		}
	}
	for _, v := range out.Violations {
		say(to, "violated: %v\n", v)
	}
	say(to, "replay: %s\n", r)
}

// String is the command that does the run again.
func (r run) String() string {
	var args []string
	if r.shape != "one" {
		args = append(args, "-shape "+r.shape)
	}
	if r.safety != 2*time.Minute {
		args = append(args, "-safety "+r.safety.String())
	}
	if len(r.without) > 0 {
		args = append(args, "-without "+numbers(r.without))
	}
	s := fmt.Sprintf("make sim SEED=%d", r.seed)
	if len(args) > 0 {
		s += fmt.Sprintf(" ARGS=%q", strings.Join(args, " "))
	}
	return s
}

// shrinkAndTell looks for the fewest faults that break the same promise.
func shrinkAndTell(ctx context.Context, h *host, to io.Writer, r run, out outcome) error {
	name := out.Violations[0].Check
	tried := 0
	last := out
	r.happens = nil
	without, err := shrink(len(out.Faults), r.without, func(without []int) (bool, error) {
		tried++
		again := r
		again.without = without
		got, err := h.do(ctx, again)
		if err != nil || !got.fails(name) {
			return false, err
		}
		last = got
		say(to, "left with %d of the faults, %q is broken: %s\n", len(out.Faults)-len(without), name, again) // a shrinking that is stopped leaves the last
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("shrink seed %d: %w", r.seed, err)
	}
	r.without = without
	say(to, "\nshrunk by %d runs from %d faults to %d, with which %q is broken as well:\ntrace %s\n", tried, len(out.Faults), len(out.Faults)-len(without), name, hash(last))
	report(to, r, last)
	return nil
}

// shrink leaves out faults of n as long as what is left still fails: half of them,
// then quarters, and so on down to single ones, from the last, until no single one
// can go. It returns what is left out in the end, ascending.
//
// Source: Zeller, Hildebrandt, "Simplifying and isolating failure-inducing
// input", IEEE TSE 2002, without its tests of subsets alone.
func shrink(n int, without []int, fails func(without []int) (bool, error)) ([]int, error) {
	var left []int
	for i := range n {
		if !slices.Contains(without, i) {
			left = append(left, i)
		}
	}
	for size := max(1, len(left)/2); ; {
		smaller := false
		for end := len(left); end > 0; end -= size {
			begin := max(0, end-size)
			fewer := slices.Concat(left[:begin], left[end:])
			bad, err := fails(complement(n, fewer))
			if err != nil {
				return complement(n, left), err
			}
			if bad {
				left, smaller = fewer, true
			}
		}
		switch {
		case size > 1:
			size /= 2
		case !smaller:
			return complement(n, left), nil
		}
	}
}

// complement returns the numbers below n that are not in some, ascending.
func complement(n int, some []int) (out []int) {
	for i := range n {
		if !slices.Contains(some, i) {
			out = append(out, i)
		}
	}
	return out
}

func parseNumbers(s string) ([]int, error) {
	var out []int
	for _, f := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' }) {
		n, err := strconv.Atoi(f)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%q is no number of a fault", f)
		}
		out = append(out, n)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// say prints for whoever runs it; when nobody can read it, there is nobody to tell.
func say(to io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(to, format, args...) }
