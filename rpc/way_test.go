package rpc

import (
	"testing"
	"time"
)

// play lets a direct way be up or down at each moment, tries it every step as
// a Gossiper would, and probes it while it is given up. It returns how often
// the way taken changed, and what is taken at the end.
func play(c *choice, d, step time.Duration, up func(at time.Duration) bool) (changes, last int) {
	begin := time.Unix(1000, 0)
	for at := time.Duration(0); at < d; at += step {
		now := begin.Add(at)
		i := c.pick(now)
		switch {
		case i != last:
			changes, last = changes+1, i
		}
		if i > 0 {
			c.answered(now, i)
		}
		if i == 0 || c.probe(now) {
			if up(at) {
				c.answered(now, 0)
			} else {
				c.failed(now, now, 0)
			}
		}
	}
	return changes, last
}

const step = 20 * time.Millisecond

func TestChoiceTakesARelayAndComesBack(t *testing.T) {
	cfg := DefaultRouteConfig()
	c := newChoice(cfg, 1)
	if n, last := play(c, 900*time.Millisecond, step, func(time.Duration) bool { return false }); n != 0 || last != 0 {
		t.Errorf("a short failure: %d changes, way %d", n, last)
	}
	var at []time.Duration // of changes
	c = newChoice(cfg, 1)
	begin, last := time.Unix(1000, 0), 0
	for d := time.Duration(0); d < 20*time.Second; d += step {
		now, up := begin.Add(d), d < 5*time.Second || d >= 10*time.Second
		i := c.pick(now)
		if i != last {
			at, last = append(at, d), i
		}
		if i == 1 {
			c.answered(now, 1)
		}
		if i == 0 || c.probe(now) {
			if up {
				c.answered(now, 0)
			} else {
				c.failed(now, now, 0)
			}
		}
	}
	if len(at) != 2 || at[0] < 6*time.Second || at[0] > 6100*time.Millisecond || at[1] < 12*time.Second || at[1] > 13*time.Second {
		t.Errorf("changes at %v, want a second after the cut at 5 s and two or three after its end at 10 s", at)
	}
}

// However a link flaps, the ways do not change with it.
func TestChoiceDoesNotFlap(t *testing.T) {
	for _, c := range []struct {
		up, down time.Duration
		changes  int // at most, in ten minutes
	}{
		{300 * time.Millisecond, 700 * time.Millisecond, 1},
		{time.Second, time.Second, 1},
		{5 * time.Second, 5 * time.Second, 5},
		{40 * time.Second, 20 * time.Second, 21},
	} {
		for phase := range 10 {
			shift := time.Duration(phase) * (c.up + c.down) / 10
			choice := newChoice(DefaultRouteConfig(), 1)
			n, _ := play(choice, 10*time.Minute, step, func(at time.Duration) bool { return (at+shift)%(c.up+c.down) < c.up })
			if n > c.changes || n == 0 {
				t.Errorf("up %v, down %v, phase %v: %d changes, want 1 to %d", c.up, c.down, shift, n, c.changes)
			}
		}
	}
}

// A link that has not failed for long is trusted again after BackAfter.
func TestChoiceForgivesAfterALongTime(t *testing.T) {
	cfg := DefaultRouteConfig()
	c := newChoice(cfg, 1)
	up := func(at time.Duration) bool { return at%(2*time.Minute) < 110*time.Second }
	play(c, 20*time.Minute, step, up)
	if c.back != cfg.BackAfter {
		t.Errorf("the way must answer for %v, want %v", c.back, cfg.BackAfter)
	}
}

// A silence is as long as it was when it is told of.
func TestChoiceCountsSilence(t *testing.T) {
	c := newChoice(DefaultRouteConfig(), 1)
	now := time.Unix(1000, 0)
	c.answered(now, 0)
	now = now.Add(2 * time.Second)
	c.failed(now, now.Add(-1500*time.Millisecond), 0)
	if c.pick(now) != 1 {
		t.Error("the direct way is taken after a silence of 1.5 s")
	}
}

// Failures far apart are no outage, however few answers came between.
func TestChoiceForgetsRareFailures(t *testing.T) {
	c := newChoice(DefaultRouteConfig(), 1)
	now := time.Unix(1000, 0)
	for range 100 {
		c.failed(now, now, 0)
		now = now.Add(time.Minute)
		if c.pick(now) != 0 {
			t.Fatal("given up after failures a minute apart")
		}
	}
}

// Relays that fail rest; when all do, the direct way is tried.
func TestChoiceAmongRelays(t *testing.T) {
	cfg := DefaultRouteConfig()
	c := newChoice(cfg, 2)
	now := time.Unix(1000, 0)
	c.failed(now, now.Add(-2*time.Second), 0)
	for n, want := range []int{1, 2, 0} {
		if got := c.pick(now); got != want {
			t.Fatalf("way %d, want %d after %d relays failed", got, want, n)
		}
		c.failed(now, now, want)
	}
	now = now.Add(cfg.RelayRest)
	if got := c.pick(now); got == 0 {
		t.Error("no relay is tried after its rest")
	}
	c.answered(now, 2)
	c.failed(now, now, 1)
	for range 5 {
		if got := c.pick(now); got != 2 {
			t.Errorf("way %d, want the relay that works", got)
		}
	}
}

func TestRouteConfig(t *testing.T) {
	if err := DefaultRouteConfig().validate(); err != nil {
		t.Error(err)
	}
	if _, err := NewRoute(nil, nil, RouteConfig{}, nil); err == nil {
		t.Error("the zero config is valid")
	}
}
