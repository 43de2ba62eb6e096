package main

import (
	"bufio"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/samecart/samecart/cmd/cartctl/api"
	"github.com/samecart/samecart/cmd/cartctl/load"
)

// watchResult is what a benchmark of watchers measured.
type watchResult struct {
	Name     string `json:"name"`
	Address  string `json:"address"`
	Watchers int    `json:"watchers"`
	Carts    int    `json:"carts"`
	Lines    int    `json:"lines"`

	OpenedPer float64 `json:"opened_per_s"`
	// Of the server's process, as it says itself; 0 when it does not.
	BytesPer      float64 `json:"bytes_per_watcher"`
	GoroutinesPer float64 `json:"goroutines_per_watcher"`

	Alone   load.WatchResult  `json:"alone"`
	Beside  *load.WatchResult `json:"beside_stalled"` // null: without any
	Stalled int               `json:"stalled"`
	Dropped int               `json:"stalled_dropped"`
}

// stalledPatience is how long a server may take to give up a watcher that takes
// nothing.
const stalledPatience = 20 * time.Second

func (c *benchCmd) watch(a *app, base string) error {
	carts := load.NewCarts(c.WatchedCarts, c.Lines)
	editor := load.NewCartClient(1, carts, a.http, base, a.bearer, c.Codec == "json")
	a.notef("filling %d carts with %d lines each", c.WatchedCarts, c.Lines)
	if err := load.Fill(a.ctx, []*load.CartClient{editor}); err != nil {
		return fmt.Errorf("fill carts: %w", err)
	}
	before := serverOf(a, base)
	a.notef("opening %d watchers", c.Watchers)
	begun := time.Now()
	streams := api.NewHTTPClient(1) // each watcher has a connection of its own
	defer streams.CloseIdleConnections()
	w, err := load.OpenWatchers(a.ctx, c.Watchers, carts, streams, base, a.bearer)
	if err != nil {
		return err
	}
	defer w.Close()
	out := watchResult{
		Name: c.Name, Address: base, Watchers: c.Watchers, Carts: c.WatchedCarts, Lines: c.Lines, Stalled: c.Stalled,
		OpenedPer: float64(int(float64(c.Watchers) / time.Since(begun).Seconds())),
	}
	after := serverOf(a, base)
	per := func(name string) float64 { return max(0, (after[name]-before[name])/float64(c.Watchers)) }
	out.BytesPer, out.GoroutinesPer = float64(int(per("process_resident_memory_bytes"))), per("go_goroutines")
	a.notef("making %d edits", c.Edits)
	if out.Alone, err = w.Measure(a.ctx, c.Edits, editor); err != nil {
		return err
	}
	if c.Stalled > 0 {
		if err := w.Stall(a.ctx, c.Stalled); err != nil {
			return err
		}
		a.notef("making %d edits beside %d stalled watchers", c.Edits, c.Stalled)
		beside, err := w.Measure(a.ctx, c.Edits, editor)
		if err != nil {
			return err
		}
		out.Beside, out.Dropped = &beside, w.Dropped(a.ctx, stalledPatience)
	}
	return a.print(out, func(t *tabwriter.Writer) {
		row(t, fmt.Sprintf("%d watchers of %d carts with %d lines: opened %.0f/s, %.0f bytes and %.2f goroutines each", out.Watchers, out.Carts, out.Lines, out.OpenedPer, out.BytesPer, out.GoroutinesPer))
		row(t, "", "EDITS", "P50 MS", "P99 MS", "MAX MS", "ACK P50", "ALL P50", "ALL MAX")
		row(t, "alone", out.Alone.Edits, out.Alone.P50, out.Alone.P99, out.Alone.Max, out.Alone.AckP50, out.Alone.AllP50, out.Alone.AllWorst)
		if b := out.Beside; b != nil {
			row(t, fmt.Sprintf("beside %d stalled", out.Stalled), b.Edits, b.P50, b.P99, b.Max, b.AckP50, b.AllP50, b.AllWorst)
			row(t, fmt.Sprintf("%d stalled watchers were dropped", out.Dropped))
		}
	})
}

// serverOf reads a server's metrics that have no labels; none when it has none to
// show.
func serverOf(a *app, base string) map[string]float64 {
	out := make(map[string]float64)
	req, err := http.NewRequestWithContext(a.ctx, http.MethodGet, base+"/metrics", nil)
	if err != nil {
		return out
	}
	res, err := a.http.Do(req)
	if err != nil {
		return out
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), " "); ok {
			if v, err := strconv.ParseFloat(value, 64); err == nil {
				out[name] = v
			}
		}
	}
	return out
}
