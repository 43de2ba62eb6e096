// Command mutants plants bugs in the code, one at a time, and reports whether
// the test that should find each one does.
//
//	go run ./simulations/mutants [-run NAME] [-table FILE] [-v]
//
// The bugs are in mutants.txt, each a small change of one file, with what a
// shopper would notice of it and the test that must fail. The work tree is
// never changed: the compiler is given the changed file by an overlay. Exit 0
// when each mutant is killed or is an explained survivor, 1 when not, 2 when
// nothing could be run.
//
// # Decisions
//
// Bugs are written by hand. A tool that makes mutants of every operator finds
// thousands, of which most mean nothing; these are the ones that the design is
// about, and each says what it would cost. Cost: a mutant must be mended when
// its lines change, which a fast test of this package tells.
//
// One named test each. That a mutant is killed by anything would say little of
// which test guards what, and would take hours. Named tests are run without a
// mutant first, as one that fails anyway kills nothing; and a test that was
// skipped has judged nothing, which is an error.
//
// A mutant that ends a test by its time limit counts as killed: some of the bugs
// are loops without end.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code, err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
	}
	os.Exit(code)
}

func run(ctx context.Context, args []string, out io.Writer) (code int, err error) {
	flags := flag.NewFlagSet("mutants", flag.ContinueOnError)
	only := flags.String("run", "", "mutants to run, by name, separated by commas; empty: all")
	data := flags.String("data", "simulations/mutants/mutants.txt", "data file, relative to the module")
	tableFile := flags.String("table", "", "file whose table to rewrite; empty: none")
	limit := flags.Duration("timeout", time.Minute, "of one test")
	verbose := flags.Bool("v", false, "print what the tests say")
	if err := flags.Parse(args); err != nil {
		return 2, nil // it was printed
	}
	if *tableFile != "" && *only != "" {
		return 2, fmt.Errorf("-table %s needs all mutants: leave -run out", *tableFile)
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return 2, err
	}
	text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(*data)))
	if err != nil {
		return 2, err
	}
	mutants, err := parse(string(text))
	if err != nil {
		return 2, fmt.Errorf("%s:\n%w", *data, err)
	}
	if mutants, err = choose(mutants, *only); err != nil {
		return 2, err
	}
	scratch, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return 2, err
	}
	defer func() { _ = os.RemoveAll(scratch) }() // a temporary directory

	j := judge{root: root, scratch: scratch, limit: *limit}
	progress("the tests without a mutant")
	if err := j.baseline(ctx, mutants); err != nil {
		return 2, err
	}
	var verdicts []verdict
	for i, m := range mutants {
		progress("%d of %d: %s", i+1, len(mutants), m.name)
		v := j.judge(ctx, m)
		if ctx.Err() != nil {
			return 2, ctx.Err()
		}
		if *verbose {
			progress("")
			if _, err := fmt.Fprintf(out, "%s: %v\n%s\n", m.name, v, strings.TrimSpace(v.output)); err != nil {
				return 2, err
			}
		}
		verdicts = append(verdicts, v)
	}
	progress("")
	if *tableFile != "" {
		err = rewrite(*tableFile, table(verdicts))
	} else {
		_, err = fmt.Fprint(out, table(verdicts))
	}
	if err != nil {
		return 2, err
	}
	if bad := unexplained(verdicts); len(bad) > 0 {
		return 1, fmt.Errorf("%d of %d mutants:\n%s", len(bad), len(verdicts), strings.Join(bad, "\n"))
	}
	return 0, nil
}

// unexplained lists what somebody must look at.
func unexplained(verdicts []verdict) (bad []string) {
	for _, v := range verdicts {
		if v.unexplained() {
			bad = append(bad, v.name+": "+v.String())
		}
	}
	return bad
}

// choose returns the mutants of the given names, all for "".
func choose(mutants []mutant, names string) ([]mutant, error) {
	if names == "" {
		return mutants, nil
	}
	var out []mutant
	for _, name := range strings.Split(names, ",") {
		i := slices.IndexFunc(mutants, func(m mutant) bool { return m.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no mutant %q", name)
		}
		out = append(out, mutants[i])
	}
	return out, nil
}

func moduleRoot(ctx context.Context) (string, error) {
	b, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	path := strings.TrimSpace(string(b))
	if err != nil || path == "" || path == os.DevNull {
		return "", fmt.Errorf("no module here (%w): run it in the repository", err)
	}
	return filepath.Dir(path), nil
}

// progress shows one line on a terminal, nothing elsewhere.
func progress(format string, args ...any) {
	if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		fmt.Fprintf(os.Stderr, "\r\x1b[K"+format, args...)
	}
}
