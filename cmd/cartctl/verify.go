package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/samecart/samecart/cmd/cartctl/scan"
)

// verifyCmd compares all regions.
type verifyCmd struct {
	Wait time.Duration `help:"How long a cart may stay different while edits are on their way." default:"5s"`
}

// settlePause is the time between two comparisons of what differs.
const settlePause = 25 * time.Millisecond

// Run compares all regions.
func (c *verifyCmd) Run(a *app) error {
	status, err := a.operator().Status(a.ctx)
	if err != nil {
		return err
	}
	regions, err := a.cluster(status)
	if err != nil {
		return err
	}
	outcome, err := scan.Settle(a.ctx, a.scans(regions), c.Wait, settlePause)
	if err != nil {
		return err
	}
	// The lag after the comparison: before it, the edits were still coming.
	if status, err = a.operator().Status(a.ctx); err != nil {
		return err
	}
	pairs := lags(status)
	first := []string{}
	for _, d := range outcome.First {
		first = append(first, d.ID)
	}
	object := map[string]any{
		"carts": outcome.Carts, "diverged": outcome.Diverged, "lag_ms": lagMS(pairs),
		"diverged_carts": first, "regions": regions.names, "rounds": outcome.Rounds,
	}
	err = a.print(object, func(w *tabwriter.Writer) {
		row(w, fmt.Sprintf("%d carts compared in %d regions, %d diverged", outcome.Carts, len(regions.names), outcome.Diverged))
		for _, d := range outcome.First {
			row(w, d)
		}
		if len(pairs) > 0 {
			row(w, "LAG", "MS")
			for _, key := range sortedKeys(pairs) {
				row(w, key, pairs[key].ms)
			}
		}
	})
	if err == nil && outcome.Diverged > 0 {
		err = errDisproved
	}
	return err
}
