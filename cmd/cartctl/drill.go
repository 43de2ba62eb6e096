package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/samecart/samecart/cmd/cartctl/api"
	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	"github.com/samecart/samecart/rpc/scan"
	"github.com/samecart/samecart/simulations/drill"
)

// drillCmd makes a drill, or lists them.
type drillCmd struct {
	Name string `arg:"" help:"The drill, or 'list' for what there is, what each expects and risks."`

	Local    bool          `help:"On a cluster of its own, started for it: the default, unless --addr is given on the command line or as SAMECART_ADDR." xor:"where"`
	Cartd    string        `help:"The server's binary, for a cluster of its own; the one beside cartctl when not given." placeholder:"PATH"`
	From     string        `help:"The binary that rolling-upgrade begins with." placeholder:"PATH"`
	Region   string        `help:"The region that is broken; the first when not given." placeholder:"NAME"`
	Hold     time.Duration `help:"How long a fault lasts." default:"10s"`
	Shoppers int           `help:"Shoppers, each with a cart." default:"30"`
	Rate     float64       `help:"Calls a second of all shoppers." default:"60"`
	Report   string        `help:"Write report.md, report.html and timeline.svg into this directory." placeholder:"DIR"`
	DryRun   bool          `help:"Print what would be done, and touch nothing."`
}

// Help is shown by --help.
func (*drillCmd) Help() string {
	var text string
	for _, d := range drill.List() {
		where := ""
		if d.Local != "" {
			where = " Only on a cluster of its own: " + d.Local + "."
		}
		text += fmt.Sprintf("%s: %s. Expected: %s. Risk: %s.%s\n\n", d.Name, d.Does, d.Expects, risk(d), where)
	}
	return text + "Ctrl-C aborts: what was broken is healed, and the report is still written. A second Ctrl-C ends cartctl at once. " +
		"Exit 0 when nothing was violated, 1 when something was, or when the drill was aborted, 2 for wrong usage."
}

func risk(d drill.Drill) string {
	if d.Risks == "" {
		return "none beyond its own processes"
	}
	return d.Risks
}

func (c *drillCmd) options() drill.Options {
	return drill.Options{Shoppers: c.Shoppers, Rate: c.Rate, Hold: c.Hold, Region: c.Region}
}

// Validate is called by kong.
func (c *drillCmd) Validate() error { return c.options().Validate() }

// Run makes the drill.
func (c *drillCmd) Run(a *app) error {
	if c.Name == "list" {
		return c.list(a)
	}
	d, err := drill.Find(c.Name)
	if err != nil {
		return usageError{err}
	}
	cfg, err := c.config(a)
	if err != nil {
		return usageError{err}
	}
	if c.From != "" && d.Name != "rolling-upgrade" {
		return usageError{fmt.Errorf("--from is for rolling-upgrade: %s begins with --cartd", d.Name)}
	}
	if c.DryRun {
		return c.plan(a, d, cfg)
	}
	if err := d.Able(cfg); err != nil {
		return usageError{err}
	}
	if c.Report != "" { // now, not when all is done
		if err := os.MkdirAll(c.Report, 0o755); err != nil {
			return usageError{fmt.Errorf("--report: %w", err)}
		}
	}
	report, err := drill.Run(a.ctx, d, cfg)
	switch {
	case errors.Is(err, drill.ErrCannot):
		return usageError{err}
	case err != nil:
		return err
	}
	if c.Report != "" {
		if err := report.Write(c.Report); err != nil {
			return err
		}
		a.notef("the report is in %s", c.Report)
	}
	err = a.print(report.Object(), func(w *tabwriter.Writer) {
		for _, r := range report.Rows() {
			row(w, r.Name, r.Value, r.Meaning)
		}
		for _, v := range report.Violations {
			row(w, "violated", "", v)
		}
		row(w, "result", "", report.Verdict())
	})
	if err == nil && !report.Good() {
		err = errDisproved
	}
	return err
}

// config is what the drill is run with.
func (c *drillCmd) config(a *app) (drill.Config, error) {
	cfg := drill.Config{
		Options: c.options(), Cartd: c.Cartd, From: c.From,
		Admin: func(base string) drill.Admin { return drillAdmin{operator{api.NewAdmin(a.http, base), a.admin()}} },
		Scan: func(region, base string) scan.Region {
			return scan.NewRegion(region, api.NewAdmin(a.http, base), func(h http.Header) { a.admin().Apply(h) })
		},
		Note: a.notef,
	}
	if a.addressed && !c.Local {
		cfg.Addr = a.base
		return cfg, nil
	}
	if cfg.Cartd == "" {
		self, err := os.Executable()
		if err != nil {
			return cfg, fmt.Errorf("find cartd beside cartctl: %w; name it with --cartd", err)
		}
		cfg.Cartd = filepath.Join(filepath.Dir(self), "cartd")
	}
	return cfg, nil
}

// list prints the drills.
func (c *drillCmd) list(a *app) error {
	type entry struct {
		Name    string `json:"name"`
		Does    string `json:"does"`
		Expects string `json:"expects"`
		Risks   string `json:"risks"`
		Local   string `json:"local_only,omitempty"`
	}
	var all []entry
	for _, d := range drill.List() {
		all = append(all, entry{d.Name, d.Does, d.Expects, risk(d), d.Local})
	}
	return a.print(map[string]any{"drills": all}, func(w *tabwriter.Writer) {
		for _, d := range all {
			row(w, d.Name, "does", d.Does)
			row(w, "", "expects", d.Expects)
			row(w, "", "risks", d.Risks)
			if d.Local != "" {
				row(w, "", "only on its own cluster", d.Local)
			}
		}
	})
}

// plan prints what would be done. An addressed cluster is asked for its
// regions, and for nothing else.
func (c *drillCmd) plan(a *app, d drill.Drill, cfg drill.Config) error {
	regions, err := drill.Regions(a.ctx, cfg)
	if err != nil {
		return err
	}
	lines, err := d.Plan(cfg, regions)
	if err != nil {
		return usageError{err}
	}
	type entry struct {
		At    float64 `json:"at_s"`
		About bool    `json:"or_later"`
		Does  string  `json:"does"`
	}
	var all []entry
	for _, l := range lines {
		all = append(all, entry{l.At.Seconds(), l.About, l.Text})
	}
	return a.print(map[string]any{"drill": d.Name, "dry_run": true, "steps": all}, func(w *tabwriter.Writer) {
		row(w, d.Name, d.Does)
		row(w, "expected", d.Expects)
		row(w, "risk", risk(d))
		row(w)
		for _, l := range all {
			at := fmt.Sprintf("%.0f s", l.At)
			if l.About {
				at += " or later"
			}
			row(w, at, l.Does)
		}
	})
}

// drillAdmin is the operator as drills need it.
type drillAdmin struct{ operator }

var _ drill.Admin = drillAdmin{}

// Delay implements drill.Admin.
func (o drillAdmin) Delay(ctx context.Context, x, y string, delay time.Duration) error {
	return o.link(ctx, adminv1.LinkRequest_ACTION_DELAY, x, y, delay)
}

// Clock implements drill.Admin.
func (o drillAdmin) Clock(ctx context.Context, node string, ahead time.Duration) error {
	return o.clock(ctx, node, ahead)
}

// KillRegion implements drill.Admin.
func (o drillAdmin) KillRegion(ctx context.Context, region string) error {
	return o.region(ctx, adminv1.NodeRequest_ACTION_KILL, region)
}

// StartRegion implements drill.Admin.
func (o drillAdmin) StartRegion(ctx context.Context, region string) error {
	return o.region(ctx, adminv1.NodeRequest_ACTION_START, region)
}
