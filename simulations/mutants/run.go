package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// verdict is what became of one mutant.
type verdict struct {
	mutant
	killed  bool
	timeout bool // killed, but by the end of its time
	took    time.Duration
	err     error // it could not be judged
	output  string
}

// unexplained reports whether the verdict is one that somebody must look at.
func (v verdict) unexplained() bool { return v.err != nil || !v.killed && v.survives == "" }

// String says it in a word or two.
func (v verdict) String() string {
	switch {
	case v.err != nil:
		return "error: " + v.err.Error()
	case v.killed && v.survives != "":
		return "killed, though it is said to survive"
	case v.timeout:
		return "killed by its time limit"
	case v.killed:
		return "killed"
	case v.survives != "":
		return "survived, as explained"
	}
	return "SURVIVED"
}

// judge plants mutants in copies of files, never in the tree.
type judge struct {
	root    string        // of the module
	scratch string        // a directory of its own
	limit   time.Duration // of one test
}

// errBuild: the compiler, not a test, found the mutant.
var errBuild = errors.New("does not compile")

// judge runs the mutant's test against it. Cost: the build of what depends on
// the file, a link, the test.
func (j judge) judge(ctx context.Context, m mutant) (v verdict) {
	v.mutant = m
	begun := time.Now()
	defer func() { v.took = time.Since(begun) }()
	if v.err = m.hasTest(j.root); v.err != nil {
		return v
	}
	var text string
	if text, v.err = m.apply(j.root); v.err != nil {
		return v
	}
	var overlay string
	if overlay, v.err = j.overlay(m, text); v.err != nil {
		return v
	}
	var out outcome
	if out, v.err = j.test(ctx, m.pkg, append(slices.Clone(m.flags), "-overlay", overlay), "^"+m.test+"$"); v.err != nil {
		return v
	}
	v.killed, v.timeout, v.output = !out.passed, out.timeout, out.text
	return v
}

// overlay writes the file with the bug, and what tells the compiler to take it.
func (j judge) overlay(m mutant, text string) (path string, err error) {
	file := filepath.Join(j.scratch, "mutant.go")
	replace := map[string]map[string]string{"Replace": {filepath.Join(j.root, filepath.FromSlash(m.file)): file}}
	b, err := json.Marshal(replace)
	if err != nil {
		return "", err
	}
	path = filepath.Join(j.scratch, "overlay.json")
	return path, errors.Join(os.WriteFile(file, []byte(text), 0o600), os.WriteFile(path, b, 0o600))
}

// outcome is that of a run of tests.
type outcome struct {
	passed, timeout bool
	text            string
}

// test builds a package's tests and runs those of the pattern. The error says
// that they could not be run: a test that ended the process has failed.
func (j judge) test(ctx context.Context, pkg string, flags []string, pattern string) (outcome, error) {
	binary := filepath.Join(j.scratch, "mutant.test")
	// Without symbols, since linking is what takes long.
	args := append([]string{"test", "-c", "-vet=off", "-ldflags=-s -w", "-o", binary}, flags...)
	build := exec.CommandContext(ctx, "go", append(args, pkg)...)
	build.Dir = j.root
	if b, err := build.CombinedOutput(); err != nil {
		return outcome{}, errors.Join(ctx.Err(), fmt.Errorf("%w: %w\n%s", errBuild, err, bytes.TrimSpace(b)))
	}
	// The test ends itself at its limit; what hangs beyond that is killed.
	ctx, cancel := context.WithTimeout(ctx, j.limit+20*time.Second)
	defer cancel()
	args = []string{"-test.run", pattern, "-test.count=1", "-test.failfast", "-test.parallel=1", "-test.v", "-test.timeout", j.limit.String()}
	text, err := tests(j.root, pkg)
	if err != nil {
		return outcome{}, err
	}
	if strings.Contains(text, `"pgregory.net/rapid"`) {
		// The same values each time, no time to find smaller ones, and no file of them.
		args = append(args, "-rapid.seed=1", "-rapid.shrinktime=1ms", "-rapid.nofailfile")
	}
	run := exec.CommandContext(ctx, binary, args...)
	run.Dir = filepath.Join(j.root, filepath.FromSlash(pkg))
	run.WaitDelay = time.Second
	b, err := run.CombinedOutput()
	text = string(b)
	var exit *exec.ExitError
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return outcome{}, ctx.Err()
	case err != nil && !errors.As(err, &exit) && ctx.Err() == nil:
		return outcome{}, fmt.Errorf("run the tests: %w", err)
	case !strings.Contains(text, "=== RUN"):
		return outcome{}, fmt.Errorf("no test of %s ran for %q:\n%s", pkg, pattern, text)
	case err == nil && strings.Contains(text, "--- SKIP"):
		return outcome{}, fmt.Errorf("a test of %s was skipped:\n%s", pkg, text)
	}
	return outcome{passed: err == nil, timeout: ctx.Err() != nil || strings.Contains(text, "panic: test timed out"), text: text}, nil
}

// baseline runs all tests that the mutants name without any: a test that fails
// anyway kills nothing.
func (j judge) baseline(ctx context.Context, mutants []mutant) error {
	type key struct{ pkg, flags string }
	named := make(map[key][]string)
	var order []key
	for _, m := range mutants {
		if m.hasTest(j.root) != nil {
			continue // judge says so
		}
		k := key{m.pkg, strings.Join(m.flags, " ")}
		if named[k] == nil {
			order = append(order, k)
		}
		if !slices.Contains(named[k], m.test) {
			named[k] = append(named[k], m.test)
		}
	}
	var errs []error
	for _, k := range order {
		many := j
		many.limit *= time.Duration(len(named[k]))
		var out outcome
		var err error
		for range 2 { // on a busy machine a test may fail that sound code passes
			out, err = many.test(ctx, k.pkg, strings.Fields(k.flags), "^("+strings.Join(named[k], "|")+")$")
			if err != nil || out.passed {
				break
			}
		}
		if err == nil && !out.passed {
			err = fmt.Errorf("tests of %s fail without a mutant, twice:\n%s", k.pkg, out.text)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
