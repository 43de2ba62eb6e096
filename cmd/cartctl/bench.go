package main

import (
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/samecart/samecart/cmd/cartctl/api"
	"github.com/samecart/samecart/cmd/cartctl/load"
)

// benchCmd measures one address in a closed loop.
type benchCmd struct {
	Name     string        `arg:"" enum:"add,get,mixed,watch" help:"What is measured: add, get, mixed (one add to nine gets), or watch (how long after an edit watchers have it)."`
	Clients  int           `help:"Calls at once." default:"64"`
	Duration time.Duration `help:"How long." default:"10s"`
	Carts    int           `help:"Carts that the calls are spread over." default:"1000"`
	Lines    int           `help:"Lines of a cart; the median order of the real data has 15." default:"15"`
	Region   string        `help:"Measure this region, not the one that --addr picks." placeholder:"NAME"`
	Codec    string        `help:"How Connect messages are written: binary or json." enum:"binary,json" default:"binary"`

	Watchers     int `help:"With watch: how many, by server-sent events." default:"5000"`
	WatchedCarts int `help:"With watch: carts that the watchers are spread over." default:"1"`
	Edits        int `help:"With watch: how many, one after the other; made again beside the stalled watchers." default:"100"`
	Stalled      int `help:"With watch: watchers that take nothing." default:"1"`
}

// demoProducts is how many SKUs the demo catalogue has.
const demoProducts = 999

// Validate is called by kong.
func (c *benchCmd) Validate() error {
	switch {
	case c.Clients < 1 || c.Clients > connections:
		return fmt.Errorf("--clients %d: give 1 to %d", c.Clients, connections)
	case c.Duration <= 0:
		return fmt.Errorf("--duration %v must be above 0", c.Duration)
	case c.Carts < 1:
		return fmt.Errorf("--carts %d: give at least 1", c.Carts)
	case c.Watchers < 1 || c.WatchedCarts < 1 || c.Edits < 1 || c.Stalled < 0:
		return errors.New("give --watchers, --watched-carts and --edits of at least 1, and --stalled of at least 0")
	case c.Lines < 1 || c.Lines > demoProducts:
		return fmt.Errorf("--lines %d: give 1 to %d", c.Lines, demoProducts)
	}
	return nil
}

// benchResult is what one benchmark measured, and of what.
type benchResult struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Carts   int    `json:"carts"`
	Lines   int    `json:"lines"`
	Codec   string `json:"codec"`
	load.Result
}

// Run measures and prints.
func (c *benchCmd) Run(a *app) error {
	base := a.base
	if c.Region != "" {
		regions, err := a.regions()
		if err != nil {
			return err
		}
		if base, err = api.Find(regions, c.Region); err != nil {
			return usageError{err}
		}
	}
	if c.Name == "watch" {
		return c.watch(a, base)
	}
	carts := load.NewCarts(c.Carts, c.Lines)
	clients := make([]*load.CartClient, c.Clients)
	calls := make([]load.Call, c.Clients)
	for i := range clients {
		clients[i] = load.NewCartClient(i, carts, a.http, base, a.bearer, c.Codec == "json")
		calls[i] = map[string]load.Call{"add": clients[i].Add, "get": clients[i].Read, "mixed": clients[i].Mixed}[c.Name]
	}
	// One call first: it makes what cannot work at all an error, not a result.
	if err := clients[0].Read(a.ctx); err != nil {
		return err
	}
	a.notef("filling %d carts with %d lines each", c.Carts, c.Lines)
	if err := load.Fill(a.ctx, clients); err != nil {
		return fmt.Errorf("fill carts: %w", err)
	}
	measured := load.Run(a.ctx, calls, c.Duration, func(err error) string { return api.Describe(err).Code })
	if a.ctx.Err() != nil {
		return errors.New("interrupted")
	}
	result := benchResult{Name: c.Name, Address: base, Carts: c.Carts, Lines: c.Lines, Codec: c.Codec, Result: measured}
	err := a.print(result, func(w *tabwriter.Writer) {
		row(w, "NAME", "CLIENTS", "CALLS/S", "P50 MS", "P90 MS", "P99 MS", "MAX MS", "ERRORS")
		row(w, result.Name, result.Clients, result.CallsPer, result.P50, result.P90, result.P99, result.Max, result.Errors)
		for _, code := range sortedKeys(result.ByCode) {
			row(w, "  "+code, result.ByCode[code])
		}
	})
	if err == nil && result.Calls == 0 {
		err = errDisproved
	}
	return err
}
