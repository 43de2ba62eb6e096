// Package load measures a service under a closed loop: each client waits for
// its answer before it sends the next call.
//
// # Decisions
//
// The loop is closed, so a slow service is asked less often and its latency
// is that of the service at the given number of calls at once, not of a queue
// in front of it. What it says of a service at a given rate is what `cartctl
// replay --rate` is for. Calls that the end cuts off do not count.
package load

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/samecart/samecart/cmd/cartctl/latency"
)

// Call makes one call. It is called by one goroutine at a time.
type Call func(ctx context.Context) error

// Result is what one run measured.
type Result struct {
	Clients  int            `json:"clients"`
	Seconds  float64        `json:"seconds"`
	Calls    int            `json:"calls"` // answered without an error
	Errors   int            `json:"errors"`
	ByCode   map[string]int `json:"errors_by_code"`
	CallsPer float64        `json:"calls_per_s"`
	P50      float64        `json:"p50_ms"`
	P90      float64        `json:"p90_ms"`
	P99      float64        `json:"p99_ms"`
	Max      float64        `json:"max_ms"`
}

// Run makes calls for the duration, each client's one after the other and all
// clients at once, without retries: what fails is counted under its code, not
// hidden. It ends early when ctx does.
func Run(ctx context.Context, clients []Call, d time.Duration, code func(error) string) Result {
	type tally struct {
		took   latency.Sample
		errors map[string]int
	}
	tallies := make([]tally, len(clients))
	begun := time.Now()
	// No deadline: the last calls would carry it to the server, which would
	// answer them with a time-out of its own.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer time.AfterFunc(d, cancel).Stop()
	var wait sync.WaitGroup
	for i, call := range clients {
		wait.Go(func() {
			t := tally{errors: make(map[string]int)}
			for ctx.Err() == nil {
				begun := time.Now()
				err := call(ctx)
				took := time.Since(begun)
				if ctx.Err() != nil {
					break
				}
				if err == nil {
					t.took = append(t.took, took)
				} else {
					t.errors[code(err)]++
				}
			}
			tallies[i] = t
		})
	}
	wait.Wait()
	elapsed := time.Since(begun)
	out := Result{Clients: len(clients), Seconds: round(elapsed.Seconds(), 1000), ByCode: make(map[string]int)}
	var all latency.Sample
	for _, t := range tallies {
		all = append(all, t.took...)
		for code, n := range t.errors {
			out.ByCode[code] += n
			out.Errors += n
		}
	}
	all.Sort()
	out.Calls = len(all)
	out.CallsPer = round(float64(len(all))/elapsed.Seconds(), 10)
	out.P50 = latency.Milliseconds(all.Percentile(50))
	out.P90 = latency.Milliseconds(all.Percentile(90))
	out.P99 = latency.Milliseconds(all.Percentile(99))
	out.Max = latency.Milliseconds(all.Percentile(100))
	return out
}

func round(x, parts float64) float64 { return math.Round(x*parts) / parts }
