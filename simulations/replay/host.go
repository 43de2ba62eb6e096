package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"

	"github.com/samecart/samecart/simulations/check"
)

// outcome is what one run came to, as the program writes it.
type outcome struct {
	Head       string   // the plan but for its faults
	Faults     []string // all of the seed, also those left out
	Trace      string   // hash of what happened
	Violations []check.Violation
}

// fails reports whether a check found something.
func (o outcome) fails(name string) bool {
	for _, v := range o.Violations {
		if v.Check == name {
			return true
		}
	}
	return false
}

// run is one run of the program.
type run struct {
	seed    uint64
	shape   string
	safety  time.Duration
	without []int     // faults left out, ascending
	happens io.Writer // what happens is written there; nil: nowhere
}

// host runs the program, compiled once, each time in a machine of its own.
type host struct {
	runtime wazero.Runtime
	code    wazero.CompiledModule
	scratch string // the machines' disks are below
}

// newHost compiles the program, or takes it from cache where it was compiled before.
func newHost(ctx context.Context, program, cache string) (*host, error) {
	wasm, err := os.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("read the program: %w; make sim builds it", err)
	}
	kept, err := wazero.NewCompilationCacheWithDir(cache)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", cache, err)
	}
	h := &host{runtime: wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigCompiler().WithCompilationCache(kept))}
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, h.runtime); err != nil {
		return nil, errors.Join(err, h.close(ctx))
	}
	if h.code, err = h.runtime.CompileModule(ctx, wasm); err != nil {
		return nil, errors.Join(fmt.Errorf("compile %s: %w", program, err), h.close(ctx))
	}
	for _, dir := range []string{"/dev/shm", ""} { // in memory, where there is such a place
		if h.scratch, err = os.MkdirTemp(dir, "samecart-replay-"); err == nil {
			return h, nil
		}
	}
	return nil, errors.Join(err, h.close(ctx))
}

func (h *host) close(ctx context.Context) error {
	err := h.runtime.Close(ctx)
	if h.scratch != "" {
		err = errors.Join(err, os.RemoveAll(h.scratch))
	}
	return err
}

// clock is all the time there is: it goes on by a microsecond whenever it is looked
// at, and by what the program sleeps.
type clock struct{ ns int64 }

// epoch is when every run begins.
const epoch = 1_767_225_600 // 2026-01-01

func (c *clock) nano() int64 {
	c.ns += int64(time.Microsecond)
	return c.ns
}

func (c *clock) wall() (sec int64, nsec int32) {
	now := c.nano()
	return epoch + now/int64(time.Second), int32(now % int64(time.Second))
}

func (c *clock) sleep(ns int64) { c.ns += max(ns, 0) }

// do runs the program once. What it may learn of the world is the run's alone: a
// random source, clocks, arguments, and an empty disk.
func (h *host) do(ctx context.Context, r run) (out outcome, err error) {
	disk, err := os.MkdirTemp(h.scratch, "run-")
	if err != nil {
		return out, err
	}
	defer os.RemoveAll(disk) //nolint:errcheck // it goes with h.scratch
	if err := os.Mkdir(filepath.Join(disk, "tmp"), 0o700); err != nil {
		return out, err
	}
	args := []string{
		"sim", "-test.run", "^TestReplaySeed$", "-test.timeout", "0", "-seed", strconv.FormatUint(r.seed, 10),
		"-shape", r.shape, "-safety", r.safety.String(), "-without", numbers(r.without), "-result", "/result.json",
	}
	var said bytes.Buffer
	to := io.Writer(&said)
	if r.happens != nil {
		to = io.MultiWriter(r.happens, &said)
	}
	var key [32]byte
	for i := range 8 {
		key[i] = byte(r.seed >> (8 * i))
	}
	var c clock
	config := wazero.NewModuleConfig().WithName("").WithArgs(args...).WithEnv("TMPDIR", "/tmp").WithEnv("PWD", "/").
		WithStdout(to).WithStderr(to).
		WithFSConfig(wazero.NewFSConfig().WithDirMount(disk, "/")).
		WithRandSource(rand.NewChaCha8(key)).
		WithNanotime(c.nano, sys.ClockResolution(time.Microsecond)).
		WithWalltime(c.wall, sys.ClockResolution(time.Microsecond)).
		WithNanosleep(c.sleep)
	module, err := h.runtime.InstantiateModule(ctx, h.code, config)
	if module != nil {
		err = errors.Join(err, module.Close(ctx))
	}
	b, readErr := os.ReadFile(filepath.Join(disk, "result.json"))
	if readErr == nil {
		if err := json.Unmarshal(b, &out); err != nil {
			return out, fmt.Errorf("read what the program found: %w", err)
		}
		return out, nil
	}
	var exit *sys.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != panicked {
		return out, fmt.Errorf("the program ended without a result: %w\n%s", errors.Join(err, readErr), excerpt(said.String()))
	}
	return outcome{Violations: []check.Violation{{Check: "panic", Text: excerpt(said.String())}}}, nil
}

// panicked is the exit status of a Go program that panicked.
const panicked = 2

// numbers writes numbers with commas.
func numbers(of []int) string {
	var s []string
	for _, n := range of {
		s = append(s, strconv.Itoa(n))
	}
	return strings.Join(s, ",")
}

// excerpt is the part of what a program said that tells why it ended: from the last
// panic on, or the end.
func excerpt(said string) string {
	from := max(strings.LastIndex(said, "\npanic: "), strings.LastIndex(said, "\nfatal error: "), 0)
	if from == 0 {
		from = max(0, len(said)-excerptBytes)
	}
	return strings.TrimSpace(said[from:min(len(said), from+excerptBytes)])
}

// excerptBytes is more than a panic's own goroutine takes.
const excerptBytes = 4 << 10
