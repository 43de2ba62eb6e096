package client

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// guide is what the calls of a process share: where they go, and how often
// they may be sent again. A Client has one, a Forwarder another.
type guide struct {
	cfg     Config
	seed    string
	unary   *http.Client
	poke    chan struct{} // a region wants to be probed at once
	running sync.Mutex    // held by Run
	// home asks the region of this process whether it serves; nil when the
	// process is of none. Its address is the seed, and the list of regions was given.
	home func(context.Context) error

	mu      sync.Mutex // guards what follows
	regions *regions
	budget  budget
	moved   chan struct{} // closed and replaced when calls move to another region
}

// newGuide returns a guide that knows one address. cfg has its transports.
func newGuide(cfg Config, seed string) guide {
	return guide{
		cfg: cfg, seed: seed, unary: &http.Client{Transport: cfg.Transport}, poke: make(chan struct{}, 1),
		regions: newRegions(cfg, seed), budget: newBudget(cfg), moved: make(chan struct{}),
	}
}

// update changes the core and passes on what it tells.
func (g *guide) update(change func(now time.Time) notices) {
	g.mu.Lock()
	n := change(time.Now())
	if len(n.moved) > 0 {
		close(g.moved)
		g.moved = make(chan struct{})
	}
	g.mu.Unlock()
	for _, h := range n.health {
		tell(g.cfg.Events.Health, h)
	}
	for _, m := range n.moved {
		tell(g.cfg.Events.Moved, m)
	}
}

func (g *guide) succeeded(address string) {
	g.update(func(now time.Time) notices { return g.regions.succeeded(now, address) })
}

func (g *guide) failed(began time.Time, address, why string) {
	look := false
	g.update(func(now time.Time) (n notices) {
		n, look = g.regions.failed(now, began, address, why)
		return n
	})
	if look {
		select {
		case g.poke <- struct{}{}:
		default: // Run is about to look
		}
	}
}

// order returns the regions in the order in which a call asks them.
func (g *guide) order(detour string) (addresses []string, fit int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.regions.order(detour)
}

func (g *guide) label(address string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.regions.label(address)
}

// called brings a call's share to the budget.
func (g *guide) called() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.budget.called(time.Now())
}

// spend takes what a retry or a hedge costs.
func (g *guide) spend(procedure string, hedge bool) bool {
	g.mu.Lock()
	ok := g.budget.take(time.Now())
	g.mu.Unlock()
	if !ok {
		tell(g.cfg.Events.Exhausted, Exhausted{Procedure: procedure, Hedge: hedge})
	}
	return ok
}

// hedgeAfter is that of regions.
func (g *guide) hedgeAfter(address string) (time.Duration, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.regions.hedgeAfter(address)
}

// read is that of regions.
func (g *guide) read(address string, took time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.regions.read(address, took)
}

// follow calls end when calls have moved away from a region, or when they have
// not gone there for ReturnAfter. It does so a moment later, which is spread:
// all watches of a process must not come to a region at the same time.
func (g *guide) follow(ctx context.Context, address string, end func()) {
	patience := g.cfg.ReturnAfter
	for {
		chosen, moved := g.chosen(address)
		if chosen {
			select {
			case <-moved:
			case <-ctx.Done():
				return
			}
			patience = 0
			continue
		}
		if pause(ctx, patience+time.Duration(jitter()*float64(g.cfg.BackoffMax))) != nil {
			return
		}
		if chosen, _ = g.chosen(address); !chosen {
			end()
			return
		}
	}
}

// chosen reports whether calls go to a region, and what is closed when they
// move.
func (g *guide) chosen(address string) (yes bool, moved <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.regions.current.address == address, g.moved
}

func (g *guide) status() Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.budget.fill(time.Now())
	s := Status{Budget: g.budget.tokens}
	for _, address := range g.regions.sorted {
		p := g.regions.find(address)
		after, _ := g.regions.hedgeAfter(address)
		s.Regions = append(s.Regions, RegionStatus{
			Region: p.name, Address: p.address, Listed: p.listed, Healthy: p.healthy, RTT: p.rtt, Failures: p.failures, HedgeAfter: after,
		})
	}
	return s
}

// pause waits, unless ctx ends before.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func jitter() float64 { return rand.Float64() }
