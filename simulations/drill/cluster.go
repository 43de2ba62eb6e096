package drill

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	adminv1 "github.com/samecart/samecart/proto/admin/v1"
)

// Admin is what a drill needs of a region's admin service.
type Admin interface {
	Status(ctx context.Context) (*adminv1.RegionsResponse, error)
	Cut(ctx context.Context, a, b string) error
	Heal(ctx context.Context, a, b string) error
	Delay(ctx context.Context, a, b string, delay time.Duration) error
	Kill(ctx context.Context, node string) error
	Start(ctx context.Context, node string) error
	KillRegion(ctx context.Context, region string) error
	StartRegion(ctx context.Context, region string) error
	// Clock sets how far a node's clock is ahead.
	Clock(ctx context.Context, node string, ahead time.Duration) error
}

// cluster is what a drill is made on. Faults return when they are in force.
type cluster interface {
	regions() []string
	base(region string) string // of its API
	nodes(region string) []string
	admin(region string) Admin

	kill(ctx context.Context, node string) error
	start(ctx context.Context, node string) error
	killRegion(ctx context.Context, region string) error
	startRegion(ctx context.Context, region string) error
	// cut makes nothing pass between two regions, slow makes what passes late.
	cut(ctx context.Context, a, b string) error
	slow(ctx context.Context, a, b string, delay time.Duration, rate int) error
	mend(ctx context.Context, a, b string) error
	setClock(ctx context.Context, node string, ahead time.Duration) error

	// heal ends every fault that is left, in whatever state the drill stopped.
	heal(ctx context.Context) error
	// fallen names the processes that ended by themselves.
	fallen() []string
	close()
}

// remote is a cluster that somebody else started; faults go through its
// admin service, and are remembered until they are ended.
type remote struct {
	names   []string
	at      map[string]string // region to API
	members map[string][]string
	dial    func(base string) Admin
	// whole is true where one process is all regions, as in cartd dev: then any
	// address takes faults of all.
	whole bool

	cuts  map[[2]string]bool
	downs []func(ctx context.Context) error // each starts again what was killed
	clocks
}

// openRemote looks at a cluster, and refuses one on which a drill would not
// prove what it should. It changes nothing.
func openRemote(ctx context.Context, addr string, dial func(base string) Admin) (*remote, error) {
	status, err := dial(addr).Status(ctx)
	if err != nil {
		return nil, err
	}
	r := &remote{at: make(map[string]string), members: make(map[string][]string), dial: dial, whole: true, cuts: make(map[[2]string]bool)}
	for _, region := range status.GetRegions() {
		name := region.GetRegion()
		if region.GetAddress() == "" {
			return nil, fmt.Errorf("region %s has no address: start the cluster with --addresses", name)
		}
		if !region.GetReady() {
			return nil, fmt.Errorf("region %s does not take edits: a drill needs a cluster that is well", name)
		}
		r.names = append(r.names, name)
		r.at[name] = strings.TrimSuffix(region.GetAddress(), "/")
		r.whole = r.whole && len(region.GetNodes()) > 0
	}
	if len(r.names) < 2 {
		return nil, fmt.Errorf("%s names %d regions: a drill needs at least two", addr, len(r.names))
	}
	for _, name := range r.names {
		own, err := r.admin(name).Status(ctx)
		if err != nil {
			return nil, fmt.Errorf("region %s: %w", name, err)
		}
		for _, l := range own.GetLinks() {
			if l.GetCut() || l.GetDelayMs() > 0 {
				return nil, fmt.Errorf("the link %s–%s is cut or delayed already: heal it first (cartctl link heal %s %s)", l.GetA(), l.GetB(), l.GetA(), l.GetB())
			}
		}
		for _, n := range regionOf(own, name).GetNodes() {
			if !n.GetAlive() {
				return nil, fmt.Errorf("node %s is down already: start it first (cartctl node start %s)", n.GetNode(), n.GetNode())
			}
			r.members[name] = append(r.members[name], n.GetNode())
		}
		if len(r.members[name]) == 0 {
			return nil, fmt.Errorf("region %s shows no nodes at %s", name, r.at[name])
		}
	}
	// To heal what is whole changes nothing, and fails where faults are not taken.
	if err := r.admin(r.names[0]).Heal(ctx, r.names[0], r.names[1]); err != nil {
		return nil, fmt.Errorf("faults are not taken there: %w", err)
	}
	return r, nil
}

func regionOf(status *adminv1.RegionsResponse, name string) *adminv1.RegionStatus {
	for _, r := range status.GetRegions() {
		if r.GetRegion() == name {
			return r
		}
	}
	return nil
}

func (r *remote) regions() []string            { return r.names }
func (r *remote) base(region string) string    { return r.at[region] }
func (r *remote) nodes(region string) []string { return r.members[region] }
func (r *remote) admin(region string) Admin    { return r.dial(r.at[region]) }
func (r *remote) fallen() []string             { return nil }
func (r *remote) close()                       {}

// faultTimeout bounds one call that makes or ends a fault: a node closes its
// store before it is gone.
const faultTimeout = 30 * time.Second

// living returns the admin service that takes faults of a region: its own, or,
// where one process is all regions, one that the drill has not killed.
func (r *remote) living(region string) Admin {
	if r.whole {
		return r.dial(r.at[r.names[(indexOf(r.names, region)+1)%len(r.names)]])
	}
	return r.admin(region)
}

func indexOf(names []string, name string) int {
	for i, n := range names {
		if n == name {
			return i
		}
	}
	return 0
}

func (r *remote) kill(ctx context.Context, node string) error {
	region, _, _ := strings.Cut(node, "/")
	r.downs = append(r.downs, func(ctx context.Context) error { return r.start(ctx, node) })
	return r.living(region).Kill(ctx, node)
}

// start starts a node; one that something supervises is waited for.
func (r *remote) start(ctx context.Context, node string) error {
	region, _, _ := strings.Cut(node, "/")
	startErr := r.living(region).Start(ctx, node)
	if startErr == nil {
		return nil
	}
	err := poll(ctx, time.Minute, func(ctx context.Context) error { return r.alive(ctx, region, node) })
	if err != nil {
		return errors.Join(startErr, err)
	}
	return nil
}

// alive is nil once nodes of a region answer; node "" is all of them.
func (r *remote) alive(ctx context.Context, region, node string) error {
	status, err := r.living(region).Status(ctx)
	if err != nil {
		return err
	}
	for _, n := range regionOf(status, region).GetNodes() {
		if (node == "" || n.GetNode() == node) && !n.GetAlive() {
			return fmt.Errorf("node %s is not back", n.GetNode())
		}
	}
	return nil
}

func (r *remote) killRegion(ctx context.Context, region string) error {
	r.downs = append(r.downs, func(ctx context.Context) error { return r.startRegion(ctx, region) })
	return r.living(region).KillRegion(ctx, region)
}

func (r *remote) startRegion(ctx context.Context, region string) error {
	startErr := r.living(region).StartRegion(ctx, region)
	if startErr == nil {
		return nil
	}
	err := poll(ctx, time.Minute, func(ctx context.Context) error { return r.alive(ctx, region, "") })
	if err != nil {
		return errors.Join(startErr, err)
	}
	return nil
}

// ends calls f for each region whose nodes must know of a fault of the link.
func (r *remote) ends(a, b string, f func(Admin) error) error {
	if r.whole {
		return f(r.admin(a))
	}
	return errors.Join(f(r.admin(a)), f(r.admin(b)))
}

func (r *remote) cut(ctx context.Context, a, b string) error {
	r.cuts[[2]string{a, b}] = true
	return r.ends(a, b, func(at Admin) error { return at.Cut(ctx, a, b) })
}

func (r *remote) slow(ctx context.Context, a, b string, delay time.Duration, _ int) error {
	r.cuts[[2]string{a, b}] = true
	return r.ends(a, b, func(at Admin) error { return at.Delay(ctx, a, b, delay) })
}

func (r *remote) mend(ctx context.Context, a, b string) error {
	err := r.ends(a, b, func(at Admin) error { return at.Heal(ctx, a, b) })
	if err == nil {
		delete(r.cuts, [2]string{a, b})
	}
	return err
}

// clocks are the nodes whose clocks a drill has set.
type clocks struct{ off map[string]bool }

// set sets a node's clock.
func (c *clocks) set(ctx context.Context, at Admin, node string, ahead time.Duration) error {
	if c.off == nil {
		c.off = make(map[string]bool)
	}
	c.off[node] = true // also when it fails: it may have been set all the same
	err := at.Clock(ctx, node, ahead)
	if err == nil && ahead == 0 {
		delete(c.off, node)
	}
	return err
}

// right sets all right that are not.
func (c *clocks) right(ctx context.Context, set func(ctx context.Context, node string, ahead time.Duration) error) error {
	var errs []error
	for node := range maps.Clone(c.off) {
		errs = append(errs, set(ctx, node, 0))
	}
	return errors.Join(errs...)
}

func (r *remote) setClock(ctx context.Context, node string, ahead time.Duration) error {
	region, _, _ := strings.Cut(node, "/")
	return r.set(ctx, r.living(region), node, ahead)
}

// heal starts what is down before it heals links, since a process that is down
// cannot be told. What was started already is started again, which changes
// nothing.
func (r *remote) heal(ctx context.Context) error {
	var errs []error
	for _, start := range r.downs {
		ctx, cancel := context.WithTimeout(ctx, faultTimeout)
		errs = append(errs, start(ctx))
		cancel()
	}
	r.downs = nil
	errs = append(errs, r.right(ctx, r.setClock))
	for pair := range r.cuts {
		errs = append(errs, poll(ctx, faultTimeout, func(ctx context.Context) error { return r.mend(ctx, pair[0], pair[1]) }))
	}
	return errors.Join(errs...)
}

// pollEvery is the time between two looks at what is waited for.
const pollEvery = 100 * time.Millisecond

// poll calls f until it succeeds; the error is f's last when the time is over.
func poll(ctx context.Context, within time.Duration, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var last error
	for {
		attempt, done := context.WithTimeout(ctx, 2*time.Second)
		err := f(attempt)
		done()
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil { // that the time is over says less than what was before
			last = err
		}
		if !pause(ctx, pollEvery) {
			return last
		}
	}
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
