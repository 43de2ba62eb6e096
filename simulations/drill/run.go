package drill

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/samecart/samecart/rpc/scan"
)

// Options are what an operator may choose.
type Options struct {
	Shoppers int           // ≥ 1
	Rate     float64       // calls a second of all of them; > 0, at most RateMost a shopper
	Hold     time.Duration // how long a fault lasts; > 0
	Region   string        // that is broken; "": the first
}

// RateMost is the most calls a second that one shopper may make: the API's own
// limit.
const RateMost = 5

// DefaultOptions suit a machine of two cores that runs the cluster too.
func DefaultOptions() Options { return Options{Shoppers: 30, Rate: 60, Hold: 10 * time.Second} }

// Validate reports every bad field at once.
func (o Options) Validate() error {
	var errs []error
	if o.Shoppers < 1 || o.Shoppers > 1000 {
		errs = append(errs, fmt.Errorf("--shoppers %d: give 1 to 1000", o.Shoppers))
	}
	if !(o.Rate > 0) || o.Rate > RateMost*float64(max(1, o.Shoppers)) {
		errs = append(errs, fmt.Errorf("--rate %g: give more than 0, and at most %d for each of %d shoppers", o.Rate, RateMost, o.Shoppers))
	}
	if o.Hold < time.Second || o.Hold > time.Hour {
		errs = append(errs, fmt.Errorf("--hold %v: give 1s to 1h", o.Hold))
	}
	return errors.Join(errs...)
}

func (o Options) scene(regions []string, own bool) scene {
	if o.Region != "" {
		regions = rotated(regions, o.Region)
	}
	return scene{regions: regions, hold: o.Hold, own: own}
}

// Config is what a drill is run with.
type Config struct {
	Options

	Addr  string // of a cluster; "": one of the drill's own
	Cartd string // the binary, for a cluster of its own
	From  string // the binary that rolling-upgrade begins with

	// Admin returns the admin service at an address, and Scan a region to be
	// compared.
	Admin func(base string) Admin
	Scan  func(region, base string) scan.Region
	// Note tells people what happens.
	Note func(format string, args ...any)
}

// ErrCannot is returned, before anything was touched, where a drill cannot be
// made.
var ErrCannot = errors.New("this drill cannot be made here")

// run is one drill on its way.
type run struct {
	drill    Drill
	cfg      Config
	cluster  cluster
	own      *local // nil: the cluster is somebody else's
	rec      *recorder
	shoppers *shoppers
	watcher  *watcher
	wrong    []string
}

// note takes down what was done, and tells it.
func (r *run) note(text string) {
	r.rec.note(text)
	r.cfg.Note("%6.1f s  %s", r.rec.since().Seconds(), text)
}

// violated takes down a broken promise.
func (r *run) violated(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.wrong = append(r.wrong, text)
	r.note("VIOLATION: " + text)
}

// Able is nil when a drill can be made as configured, as far as that shows
// without a look at the cluster.
func (d Drill) Able(cfg Config) error {
	if cfg.Addr != "" && d.Local != "" {
		return d.onlyLocal()
	}
	if cfg.Addr == "" {
		if err := executable(cfg.Cartd); err != nil {
			return fmt.Errorf("%w: the server's binary: %w; name it with --cartd", ErrCannot, err)
		}
	}
	if d.able != nil {
		if err := d.able(cfg); err != nil {
			return fmt.Errorf("%w: %w", ErrCannot, err)
		}
	}
	return nil
}

func (d Drill) onlyLocal() error {
	return fmt.Errorf("%w: %s needs a cluster of its own (--local): %s", ErrCannot, d.Name, d.Local)
}

// Regions are those that a drill takes place in.
func Regions(ctx context.Context, cfg Config) ([]string, error) {
	if cfg.Addr == "" {
		return slices.Clone(localRegions), nil
	}
	status, err := cfg.Admin(cfg.Addr).Status(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, r := range status.GetRegions() {
		out = append(out, r.GetRegion())
	}
	return out, nil
}

// open finds or starts the cluster.
func (r *run) open(ctx context.Context) error {
	cfg := r.cfg
	if cfg.Addr != "" {
		c, err := openRemote(ctx, cfg.Addr, cfg.Admin)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCannot, err)
		}
		r.cluster = c
		if err := cfg.known(c.names); err != nil {
			return err
		}
		return r.places(ctx)
	}
	if err := cfg.known(localRegions); err != nil {
		return err
	}
	binary := cfg.Cartd
	if cfg.From != "" {
		binary = cfg.From
	}
	l, err := newLocal(binary, cfg.Admin)
	if err != nil {
		return err
	}
	r.cluster, r.own = l, l
	if r.drill.set != nil {
		if err := r.drill.set(ctx, cfg.scene(localRegions, true), l); err != nil {
			return err
		}
	}
	cfg.Note("starting %s on loopback, in %s", strings.Join(localRegions, ", "), l.dir)
	if err := l.up(ctx); err != nil {
		return err
	}
	return poll(ctx, time.Minute, func(ctx context.Context) error { return allWell(ctx, l) })
}

// known is nil when the region that is to be broken is one.
func (c Config) known(regions []string) error {
	if name := c.Region; name != "" && !slices.Contains(regions, name) {
		return fmt.Errorf("%w: --region %q is unknown: there are %s", ErrCannot, name, strings.Join(regions, ", "))
	}
	return nil
}

// places is nil when an addressed cluster has what the drill breaks, and takes
// shoppers by name.
func (r *run) places(ctx context.Context) error {
	for _, region := range r.cluster.regions() {
		if n := len(r.cluster.nodes(region)); n < localNodes {
			return fmt.Errorf("%w: region %s has %d nodes, and a drill needs %d", ErrCannot, region, n, localNodes)
		}
		w := &watcher{cluster: r.cluster, http: http.DefaultClient}
		if _, err := w.cart(ctx, region, "drill-nobody"); err != nil {
			return fmt.Errorf("%w: region %s does not answer a shopper by name (X-User-ID), as cartd dev and --trust-headers do: %w", ErrCannot, region, err)
		}
	}
	return nil
}

const (
	// wayOutMost bounds each part of what comes after the fault.
	wayOutMost = 2 * time.Minute
	// equalWithin is how long the regions may take to become equal once nobody
	// edits.
	equalWithin = time.Minute
	settlePause = 50 * time.Millisecond
)

// Run makes a drill. The error is that it could not be made; what it proved is in
// the report. When ctx ends, what was broken is healed, and the report says that
// it was aborted.
func Run(ctx context.Context, d Drill, cfg Config) (*Report, error) {
	if err := d.Able(cfg); err != nil {
		return nil, err
	}
	r := &run{drill: d, cfg: cfg, rec: newRecorder()}
	defer func() {
		if r.cluster != nil {
			r.cluster.close()
		}
	}()
	if err := r.open(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("interrupted before anything was broken: %w", ctx.Err())
		}
		return nil, err
	}
	return r.make(ctx)
}

// make is the drill on a cluster that is well.
func (r *run) make(ctx context.Context) (*Report, error) {
	d, cfg := r.drill, r.cfg
	scene := cfg.scene(r.cluster.regions(), r.own != nil)
	tag := strings.ToLower(rand.Text()[:8])
	begun := time.Now()
	r.rec = newRecorder()
	var err error
	if r.watcher, err = watch(ctx, r.cluster, r.rec, tag); err != nil {
		return nil, err
	}
	defer r.watcher.close()
	if r.shoppers, err = buy(r.cluster, r.rec, tag, cfg.Shoppers, cfg.Rate, d.homesOf(scene)); err != nil {
		return nil, err
	}
	defer r.shoppers.close()
	r.note(fmt.Sprintf("%d shoppers make %g calls a second", cfg.Shoppers, cfg.Rate))

	aborted := !pause(ctx, warmUp)
	for _, st := range d.steps(scene) {
		if aborted || st.after > 0 && !pause(ctx, st.after) {
			aborted = true
			break
		}
		if err := r.step(ctx, st); err != nil {
			if ctx.Err() == nil {
				r.violated("%s: %v", st.say, err)
			}
			break
		}
	}
	aborted = aborted || ctx.Err() != nil
	if aborted {
		r.note("ABORTED: healing what was broken")
	}

	// The way out must be gone also when the drill was aborted.
	ctx = context.WithoutCancel(ctx)
	healed := r.heal(ctx)
	recovered := r.recover(ctx, healed)
	if !aborted {
		pause(ctx, after)
	}
	r.shoppers.finish()
	stopped := r.rec.since()
	r.note("the shoppers have stopped")
	out := r.prove(ctx, stopped)
	r.watcher.finish()
	for _, f := range r.cluster.fallen() {
		r.violated("%s", f)
	}
	if r.own == nil {
		limited, cancel := context.WithTimeout(ctx, time.Minute)
		if err := errors.Join(r.shoppers.empty(limited), r.watcher.empty(limited)); err != nil {
			r.note("some of the drill's carts are left: " + err.Error())
		}
		cancel()
	}
	out.Drill, out.Begun, out.Aborted = d, begun, aborted
	out.Options, out.Own = cfg.Options, r.own != nil
	out.Regions, out.RecoveredIn = r.cluster.regions(), recovered
	out.record, out.until = r.rec.record, stopped
	out.finish(r)
	return out, nil
}

// step makes one step.
func (r *run) step(ctx context.Context, st step) error {
	// A fault is over when its end begins: what that takes is recovery.
	if !st.late {
		r.rec.leave(st.close)
	}
	if st.open != "" && st.open != r.lastBand() {
		r.rec.enter(st.open)
	}
	r.note(st.say)
	limited, cancel := context.WithTimeout(ctx, wayOutMost)
	defer cancel()
	err := st.do(limited, r)
	if st.late {
		r.rec.leave(st.close)
	}
	return err
}

// lastBand is the label of the fault in force, "" when there is none.
func (r *run) lastBand() (label string) {
	r.rec.do(func(x *record) {
		if n := len(x.bands); n > 0 && x.bands[n-1].to == 0 {
			label = x.bands[n-1].label
		}
	})
	return label
}

// heal ends all that is left and returns when the last fault was over.
func (r *run) heal(ctx context.Context) time.Duration {
	limited, cancel := context.WithTimeout(ctx, wayOutMost)
	defer cancel()
	if err := r.cluster.heal(limited); err != nil {
		r.violated("heal: %v", err)
	}
	r.rec.leaveAll()
	var last time.Duration
	r.rec.do(func(x *record) {
		for _, b := range x.bands {
			last = max(last, b.to)
		}
	})
	return last
}

// recover waits until all is as before, and returns how long that took.
func (r *run) recover(ctx context.Context, since time.Duration) time.Duration {
	err := poll(ctx, max(pollEvery, r.drill.RecoversWithin-(r.rec.since()-since)), func(ctx context.Context) error { return allWell(ctx, r.cluster) })
	took := r.rec.since() - since
	if err != nil {
		r.violated("not as before %v after the fault: %v", took.Round(100*time.Millisecond), err)
		return took
	}
	r.note(fmt.Sprintf("all is as before, %.1f s after the fault", took.Seconds()))
	return took
}

// prove compares all regions and judges every cart.
func (r *run) prove(ctx context.Context, stopped time.Duration) *Report {
	out := &Report{}
	var regions []scan.Region
	for _, region := range r.cluster.regions() {
		all := r.cfg.Scan(region, r.cluster.base(region))
		if r.own == nil { // others may go on editing theirs
			all = only(all, "cart:drill-"+r.shoppers.tag+"-")
		}
		regions = append(regions, all)
	}
	limited, cancel := context.WithTimeout(ctx, equalWithin+30*time.Second)
	defer cancel()
	settled, err := scan.Settle(limited, regions, equalWithin, settlePause)
	switch {
	case err != nil:
		r.violated("compare the regions: %v", err)
	case settled.Diverged > 0:
		r.violated("%d of %d carts differ between regions after %v, first %v", settled.Diverged, settled.Carts, equalWithin, settled.First[0])
	default:
		out.EqualIn = max(0, settled.EqualAt.Sub(r.rec.begun)-stopped)
		r.note(fmt.Sprintf("%d carts are equal in all regions", settled.Carts))
	}
	out.Carts, out.Diverged = settled.Carts, settled.Diverged
	for i, one := range r.shoppers.all {
		region := r.cluster.regions()[i%len(r.cluster.regions())]
		var cart map[string]uint32
		err := poll(ctx, 30*time.Second, func(ctx context.Context) (err error) {
			cart, err = r.watcher.cart(ctx, region, one.name)
			return err
		})
		if err != nil {
			r.violated("%v", err)
			continue
		}
		v := one.oracle.judge(cart)
		out.Acked += one.oracle.acked
		out.Lost += v.lost
		out.Doubled += v.doubled
		out.Unsure += v.unsure
		one.violated(v.wrong...)
	}
	return out
}
