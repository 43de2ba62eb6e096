package rpc

import (
	"errors"
	"fmt"
	"time"
)

// RouteConfig holds the settings of a Route; see DefaultRouteConfig.
type RouteConfig struct {
	// FailAfter is how long the direct way fails before others are taken; > 0.
	FailAfter time.Duration
	// Settle is how long a way must answer, without a failure between, for its
	// earlier failures to be forgotten: the short times in which a flapping link
	// is up are less; > 0.
	Settle time.Duration
	// RelayRest is how long a relay that failed is left alone; > 0.
	RelayRest time.Duration
	// ProbeEvery is the time between two tries of a direct way that is given up,
	// ProbeTimeout how long each may take; > 0.
	ProbeEvery, ProbeTimeout time.Duration
	// BackAfter is how long the direct way must answer every try to be taken
	// again. It doubles, up to BackAfterMax, each time that the way fails again
	// within five times as long; > 0.
	BackAfter, BackAfterMax time.Duration
}

// DefaultRouteConfig returns production values.
func DefaultRouteConfig() RouteConfig {
	return RouteConfig{
		FailAfter:    time.Second,     // a node that restarts is back by then, or its streams are at another
		Settle:       2 * time.Second, // a link that breaks again within it is no better than a broken one
		RelayRest:    time.Second,
		ProbeEvery:   500 * time.Millisecond,
		ProbeTimeout: 3 * time.Second, // three round trips of a new connection with TLS, and a slow answer
		BackAfter:    2 * time.Second, // rows flow either way, so there is no hurry
		BackAfterMax: 30 * time.Second,
	}
}

func (c RouteConfig) validate() error {
	var errs []error
	for _, f := range []struct {
		name string
		d    time.Duration
	}{
		{"FailAfter", c.FailAfter}, {"Settle", c.Settle}, {"RelayRest", c.RelayRest}, {"ProbeEvery", c.ProbeEvery},
		{"ProbeTimeout", c.ProbeTimeout}, {"BackAfter", c.BackAfter}, {"BackAfterMax", c.BackAfterMax - c.BackAfter + 1},
	} {
		if f.d <= 0 {
			errs = append(errs, fmt.Errorf("%s must be above 0, and BackAfterMax not below BackAfter", f.name))
		}
	}
	return errors.Join(errs...)
}

// way is how one way to a region has done.
type way struct {
	failing time.Time // since when it fails; zero: it does not
	failed  time.Time // the last failure
	good    time.Time // since when it answers; zero: the last that was heard is a failure
}

// choice decides which way to a region is taken: the direct one, number 0,
// or one of the relays. It reads no clock and does no I/O. It is not safe for
// concurrent use.
//
//	W1  The direct way is taken unless it is given up and a relay is not at rest.
//	W2  It is given up when it has failed for FailAfter, and taken again only
//	    when it has answered for back without one failure.
type choice struct {
	cfg      RouteConfig
	ways     []way
	down     bool          // the direct way is given up
	relay    int           // the relay that is tried first
	back     time.Duration // how long the direct way must answer
	returned time.Time     // when it was last taken again
	probed   time.Time     // when it was last tried while given up
}

func newChoice(cfg RouteConfig, relays int) *choice {
	return &choice{cfg: cfg, ways: make([]way, 1+relays), relay: 1, back: cfg.BackAfter}
}

// pick returns the way to take now.
func (c *choice) pick(now time.Time) int {
	n := len(c.ways) - 1
	if !c.down || n == 0 {
		return 0
	}
	for k := range n {
		i := 1 + (c.relay-1+k)%n
		if w := &c.ways[i]; !w.good.IsZero() || w.failed.IsZero() || now.Sub(w.failed) >= c.cfg.RelayRest {
			c.relay = i
			return i
		}
	}
	return 0
}

// answered says that the region was heard over a way.
func (c *choice) answered(now time.Time, i int) {
	w := &c.ways[i]
	if w.good.IsZero() {
		w.good = now
	}
	if now.Sub(w.good) >= c.cfg.Settle {
		w.failing = time.Time{}
	}
	if i == 0 && c.down && now.Sub(w.good) >= c.back {
		c.down, c.returned = false, now
	}
}

// failed says that nothing was heard over a way since the given time, or that
// it ended.
func (c *choice) failed(now, since time.Time, i int) {
	w := &c.ways[i]
	settled := !w.good.IsZero() && now.Sub(w.good) >= c.cfg.Settle
	// Two failures with a long time between, in which nobody tried, are no outage.
	apart := since.Sub(w.failed) > 5*c.cfg.FailAfter
	if w.failing.IsZero() || settled || apart {
		w.failing = since
	}
	w.good, w.failed = time.Time{}, now
	if i != 0 || c.down || now.Sub(w.failing) < c.cfg.FailAfter {
		return
	}
	c.down = true
	if c.returned.IsZero() || now.Sub(c.returned) > 5*c.back {
		c.back = c.cfg.BackAfter
	} else {
		c.back = min(2*c.back, c.cfg.BackAfterMax)
	}
}

// probe reports whether to try the direct way now.
func (c *choice) probe(now time.Time) bool {
	if !c.down || now.Sub(c.probed) < c.cfg.ProbeEvery {
		return false
	}
	c.probed = now
	return true
}
