package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/samecart/samecart/rpc/scan"
)

// verifyCmd compares all regions.
type verifyCmd struct {
	Wait  time.Duration `help:"How long a cart may stay different while edits are on their way." default:"5s"`
	Watch bool          `help:"Compare again and again, a line a round, until interrupted; exit 1 when any round found a difference that stayed, or failed."`
	Every time.Duration `help:"With --watch: from the end of one round to the beginning of the next." default:"5s"`
}

// settlePause is the time between two comparisons of what differs.
const settlePause = 25 * time.Millisecond

// verified is what one comparison of all regions found.
type verified struct {
	regions []string
	leftOut []string // regions that are no members
	outcome scan.Outcome
	pairs   map[string]lag
}

func (c *verifyCmd) once(a *app) (v verified, err error) {
	status, err := a.operator().Status(a.ctx)
	if err != nil {
		return v, err
	}
	regions, err := a.cluster(status)
	if err != nil {
		return v, err
	}
	// One that is fenced, removed or still being filled has not what the others
	// have, and answers nobody.
	v.leftOut = regions.keep(func(name string) bool {
		m := status.GetMembership().Named(name)
		return m == nil || m.GetState().Votes()
	})
	v.regions = regions.names
	if v.outcome, err = scan.Settle(a.ctx, a.scans(regions), c.Wait, settlePause); err != nil {
		return v, err
	}
	// The lag after the comparison: before it, the edits were still coming.
	if status, err = a.operator().Status(a.ctx); err != nil {
		return v, err
	}
	v.pairs = lags(status)
	return v, nil
}

// object is a comparison for programs.
func (v verified) object() map[string]any {
	first := []string{}
	for _, d := range v.outcome.First {
		first = append(first, d.ID)
	}
	return map[string]any{
		"carts": v.outcome.Carts, "diverged": v.outcome.Diverged, "lag_ms": lagMS(v.pairs),
		"diverged_carts": first, "regions": v.regions, "left_out": v.leftOut, "rounds": v.outcome.Rounds,
	}
}

// Run compares all regions.
func (c *verifyCmd) Run(a *app) error {
	if c.Watch {
		return c.watch(a)
	}
	v, err := c.once(a)
	if err != nil {
		return err
	}
	err = a.print(v.object(), func(w *tabwriter.Writer) {
		row(w, fmt.Sprintf("%d carts compared in %d regions, %d diverged", v.outcome.Carts, len(v.regions), v.outcome.Diverged))
		for _, d := range v.outcome.First {
			row(w, d)
		}
		if len(v.pairs) > 0 {
			row(w, "LAG", "MS")
			for _, key := range sortedKeys(v.pairs) {
				row(w, key, v.pairs[key].ms)
			}
		}
	})
	if err == nil && v.outcome.Diverged > 0 {
		err = errDisproved
	}
	return err
}

// watch compares until the user has seen enough. A round that fails is told,
// and the next one comes: a region that is away is what one watches for.
func (c *verifyCmd) watch(a *app) error {
	if c.Every <= 0 {
		return usageError{fmt.Errorf("--every %v: give a time above zero, such as 5s", c.Every)}
	}
	var last verified
	var worst int64
	rounds, diverged, failed := 0, 0, 0
	for {
		v, err := c.once(a)
		if a.ctx.Err() != nil {
			break
		}
		rounds++
		if err != nil {
			failed++
		} else {
			last = v
			if v.outcome.Diverged > 0 {
				diverged++
			}
			for _, l := range v.pairs {
				worst = max(worst, l.ms)
			}
		}
		if err := a.round(v, err); err != nil {
			return err
		}
		if !pause(a.ctx, c.Every) {
			break
		}
	}
	object := last.object()
	object["rounds"], object["diverged_rounds"], object["failed_rounds"], object["worst_lag_ms"] = rounds, diverged, failed, worst
	err := a.print(object, func(w *tabwriter.Writer) {
		row(w, fmt.Sprintf("%d rounds: %d with differences that stayed, %d failed; largest lag %v",
			rounds, diverged, failed, time.Duration(worst)*time.Millisecond))
	})
	if err == nil && diverged+failed > 0 {
		err = errDisproved
	}
	return err
}

// round tells one round of watch: to people as a line, to programs on standard
// error, as the last object is the result.
func (a *app) round(v verified, failure error) error {
	now := time.Now().UTC().Format(time.RFC3339)
	if a.JSON {
		object := map[string]any{"at": now}
		if failure != nil {
			object["error"] = failure.Error()
		} else {
			for k, val := range v.object() {
				object[k] = val
			}
		}
		return json.NewEncoder(a.stderr).Encode(object)
	}
	if failure != nil {
		_, err := fmt.Fprintf(a.stdout, "%s  FAILED: %v\n", now, failure)
		return err
	}
	largest := slices.Max(append(lagsOf(v.pairs), 0))
	verdict := "equal"
	if n := v.outcome.Diverged; n > 0 {
		verdict = fmt.Sprintf("%d DIVERGED, first %v", n, v.outcome.First[0])
	}
	_, err := fmt.Fprintf(a.stdout, "%s  %d carts in %d regions: %s; largest lag %v\n",
		now, v.outcome.Carts, len(v.regions), verdict, time.Duration(largest)*time.Millisecond)
	return err
}

func lagsOf(pairs map[string]lag) []int64 {
	var out []int64
	for _, l := range pairs {
		out = append(out, l.ms)
	}
	return out
}

// pause waits; it reports false when ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
