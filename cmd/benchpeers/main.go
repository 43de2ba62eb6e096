package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"github.com/samecart/samecart/cmd/cartctl/api"
	"github.com/samecart/samecart/cmd/cartctl/load"
)

type cli struct {
	Run   runCommand   `cmd:"" default:"withargs" help:"Measure all targets and print a table."`
	Serve serveCommand `cmd:"" hidden:"" help:"Serve a target; used by run."`
}

type runCommand struct {
	Clients  []int         `help:"Connections, one measurement each." default:"64,256"`
	Duration time.Duration `help:"Of one measurement." default:"5s"`
	Rounds   int           `help:"Measurements of each kind." default:"3"`
	Carts    int           `help:"Carts that calls are spread over." default:"10000"`
	Lines    int           `help:"Lines of a cart." default:"10"`
	Targets  []string      `help:"What is measured." default:"empty,redis,etcd,samecart" enum:"empty,redis,etcd,samecart"`
	Ops      []string      `help:"Which calls." default:"add,get" enum:"add,get"`
	Spread   bool          `help:"Spread clients over all nodes of samecart and etcd, not the leader alone."`
	Cartd    string        `help:"The server to measure." default:"bin/cartd" type:"path"`
	Out      string        `help:"Write each measurement also in the format of Go benchmarks, for benchstat." placeholder:"FILE" type:"path"`
	Debug    int           `help:"Serve profiles of the cartd processes on three ports from this one." placeholder:"PORT"`
}

func main() {
	var c cli
	k := kong.Parse(&c, kong.Name("benchpeers"), kong.Description("Measure Samecart beside its peers on this machine."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	k.BindTo(ctx, (*context.Context)(nil))
	if err := k.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "benchpeers:", err)
		os.Exit(1) //nolint:gocritic // nothing is deferred that matters at an exit
	}
}

// Validate is called by kong.
func (c *runCommand) Validate() error {
	for _, n := range c.Clients {
		if n < 1 || n > 10_000 {
			return fmt.Errorf("--clients %d: give 1 to 10000", n)
		}
	}
	switch {
	case c.Duration <= 0:
		return fmt.Errorf("--duration %v must be above 0", c.Duration)
	case c.Rounds < 1:
		return fmt.Errorf("--rounds %d: give at least 1", c.Rounds)
	case c.Carts < 1:
		return fmt.Errorf("--carts %d: give at least 1", c.Carts)
	case c.Lines < 1 || c.Lines > 500:
		return fmt.Errorf("--lines %d: give 1 to 500", c.Lines)
	}
	return nil
}

// measurement is one row of the table, over all rounds.
type measurement struct {
	target, op string
	clients    int
	rounds     []round
}

// round is one measurement, with the processor time that a call took.
type round struct {
	load.Result
	servers, client float64 // microseconds a call
}

// Run starts all targets, measures them in turn and prints the table.
func (c *runCommand) Run(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "benchpeers-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var targets []*target
	defer func() {
		for _, t := range targets {
			t.stop()
		}
	}()
	for _, name := range c.Targets {
		fmt.Fprintf(os.Stderr, "starting %s\n", name)
		t, err := c.start(ctx, name, dir)
		if err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
		targets = append(targets, t)
	}
	var all []*measurement
	for n := range c.Rounds {
		for _, clients := range c.Clients {
			for _, op := range c.Ops {
				for _, t := range targets {
					if !slices.Contains(t.ops, op) {
						continue
					}
					r, err := c.measure(ctx, t, op, clients)
					if err != nil {
						return fmt.Errorf("%s, %s: %w", t.name, op, err)
					}
					fmt.Fprintf(os.Stderr, "round %d of %d: %-8s %-3s %3d clients %8.0f/s  p50 %6.2f ms  p99 %6.2f ms\n",
						n+1, c.Rounds, t.name, op, clients, r.CallsPer, r.P50, r.P99)
					all = add(all, t.name, op, clients, r)
				}
			}
		}
	}
	if c.Out != "" {
		if err := os.WriteFile(c.Out, []byte(benchFormat(all)), 0o644); err != nil {
			return err
		}
	}
	return table(os.Stdout, all)
}

func (c *runCommand) measure(ctx context.Context, t *target, op string, clients int) (round, error) {
	calls, err := t.calls(ctx, op, clients)
	if err != nil {
		return round{}, err
	}
	// A moment first, which opens the connections and warms caches up.
	load.Run(ctx, calls, c.Duration/5, codeOf)
	servers, client, err := t.processorTime()
	if err != nil {
		return round{}, err
	}
	r := round{Result: load.Run(ctx, calls, c.Duration, codeOf)}
	serversAfter, clientAfter, err := t.processorTime()
	if err != nil {
		return r, err
	}
	r.servers = (serversAfter - servers).Seconds() * 1e6 / float64(max(r.Calls, 1))
	r.client = (clientAfter - client).Seconds() * 1e6 / float64(max(r.Calls, 1))
	if ctx.Err() != nil {
		return r, errors.New("interrupted")
	}
	if r.Errors > 0 || r.Calls == 0 {
		return r, fmt.Errorf("%d calls answered, %d failed: %v", r.Calls, r.Errors, r.ByCode)
	}
	return r, nil
}

func codeOf(err error) string {
	d := api.Describe(err)
	return d.Code + " " + d.Message
}

func add(all []*measurement, target, op string, clients int, r round) []*measurement {
	for _, m := range all {
		if m.target == target && m.op == op && m.clients == clients {
			m.rounds = append(m.rounds, r)
			return all
		}
	}
	return append(all, &measurement{target, op, clients, []round{r}})
}

// table prints medians over the rounds; ratios are taken round by round.
func table(out io.Writer, all []*measurement) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "CALL\tCLIENTS\tTARGET\tCALLS/S\tP50 MS\tP99 MS\tSERVERS µS\tCLIENT µS\t÷ EMPTY\t÷ ETCD\t")
	for _, m := range sorted(all) {
		fmt.Fprintf(w, "%s\t%d\t%s\t%.0f\t%.2f\t%.2f\t%.0f\t%.0f\t%s\t%s\t\n", m.op, m.clients, m.target,
			median(m.rounds, func(r round) float64 { return r.CallsPer }),
			median(m.rounds, func(r round) float64 { return r.P50 }),
			median(m.rounds, func(r round) float64 { return r.P99 }),
			median(m.rounds, func(r round) float64 { return r.servers }),
			median(m.rounds, func(r round) float64 { return r.client }),
			ratio(m, find(all, "empty", m.op, m.clients)), ratio(m, find(all, "etcd", m.op, m.clients)))
	}
	return w.Flush()
}

func sorted(all []*measurement) []*measurement {
	out := slices.Clone(all)
	slices.SortStableFunc(out, func(a, b *measurement) int {
		if a.op != b.op {
			return strings.Compare(a.op, b.op)
		}
		return a.clients - b.clients
	})
	return out
}

func find(all []*measurement, target, op string, clients int) *measurement {
	for _, m := range all {
		if m.target == target && m.op == op && m.clients == clients {
			return m
		}
	}
	return nil
}

func ratio(m, base *measurement) string {
	if base == nil {
		return "-"
	}
	var ratios []float64
	for i, r := range m.rounds {
		ratios = append(ratios, r.CallsPer/base.rounds[i].CallsPer)
	}
	slices.Sort(ratios)
	return fmt.Sprintf("%.2f", middle(ratios))
}

func median(rounds []round, of func(round) float64) float64 {
	var xs []float64
	for _, r := range rounds {
		xs = append(xs, of(r))
	}
	slices.Sort(xs)
	return middle(xs)
}

// middle is the median of a sorted list.
func middle(xs []float64) float64 {
	if n := len(xs); n%2 == 0 {
		return (xs[n/2-1] + xs[n/2]) / 2
	}
	return xs[len(xs)/2]
}

// benchFormat writes every measurement as a line that benchstat reads.
func benchFormat(all []*measurement) string {
	var b strings.Builder
	for _, m := range sorted(all) {
		for _, r := range m.rounds {
			fmt.Fprintf(&b, "BenchmarkPeers/%s/target=%s/clients=%d %d %.0f ns/op %.1f calls/s %.3f p50-ms %.3f p99-ms %.1f servers-us/op %.1f client-us/op\n",
				m.op, m.target, m.clients, r.Calls, 1e9/r.CallsPer, r.CallsPer, r.P50, r.P99, r.servers, r.client)
		}
	}
	return b.String()
}
