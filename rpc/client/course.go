package client

import "time"

// course is the way of one call through the regions: which one is asked next,
// when, and for how long. It reads no clock. All its attempts may be repeats
// of each other: a read, or a mutation under one op id.
//
//	C1  A region that failed is not asked again while one that was not asked is
//	    left, but where the failure was about the shopper.
//	C2  No region is asked before its Retry-After has passed.
//	C3  Nothing is awaited that comes after the deadline.
type course struct {
	cfg         Config
	attemptsMax int // 0: no bound

	attempts int
	asked    []asked // regions that failed
	unknown  bool    // an attempt may have been applied
	last     verdict
	lastAt   string    // where
	notYet   time.Time // for every region
}

type asked struct {
	address string
	times   int
	notYet  time.Time
}

// step is the next attempt, or why there is none.
type step struct {
	stop    bool
	address string
	pause   time.Duration // before it
	timeout time.Duration // of it
}

// failed takes an attempt's verdict. wait is its Retry-After.
func (c *course) failed(now time.Time, address string, v verdict, wait time.Duration) {
	c.last, c.lastAt = v, address
	c.unknown = c.unknown || v.taken == perhaps
	until := now.Add(wait)
	if v.again == later && until.After(c.notYet) {
		c.notYet = until
	}
	for i := range c.asked {
		if c.asked[i].address == address {
			c.asked[i].times++
			c.asked[i].notYet = until
			return
		}
	}
	c.asked = append(c.asked, asked{address, 1, until})
}

// free reports whether the next attempt is no load on any server: none saw
// the last one.
func (c *course) free() bool { return c.attempts == 0 || c.last.taken == unsent }

// next returns the next step. order is that of regions.order; jitter is 0 to 1.
// The zero deadline is none.
func (c *course) next(now, deadline time.Time, order []string, jitter float64) step {
	if c.attempts > 0 && (c.last.again == nowhere || c.attemptsMax > 0 && c.attempts >= c.attemptsMax) {
		return step{stop: true}
	}
	s := c.choose(now, order, jitter)
	begin := now.Add(max(s.pause, c.notYet.Sub(now)))
	s.pause = begin.Sub(now)
	s.timeout = c.timeout()
	if !deadline.IsZero() {
		if !begin.Before(deadline) {
			return step{stop: true}
		}
		s.timeout = min(s.timeout, deadline.Sub(begin))
	}
	return s
}

// choose returns the first region that was not asked yet, at once; or, when
// all were, the one that was asked least, after a pause.
func (c *course) choose(now time.Time, order []string, jitter float64) step {
	if c.attempts > 0 && c.last.again == later {
		return step{address: c.lastAt}
	}
	var least *asked
	for _, address := range order {
		a := c.find(address)
		if a == nil {
			return step{address: address}
		}
		if least == nil || a.times < least.times {
			least = a
		}
	}
	// The pause doubles with each round through the regions, and is spread:
	// clients that failed together must not come back together.
	pause := c.cfg.BackoffMin
	for range least.times - 1 {
		pause = min(2*pause, c.cfg.BackoffMax)
	}
	pause = pause/2 + time.Duration(jitter*float64(pause)/2)
	return step{address: least.address, pause: max(pause, least.notYet.Sub(now))}
}

func (c *course) find(address string) *asked {
	for i := range c.asked {
		if c.asked[i].address == address {
			return &c.asked[i]
		}
	}
	return nil
}

// timeout grows with the attempts: where every region is slow, waiting longer
// is what helps.
func (c *course) timeout() time.Duration {
	d := c.cfg.AttemptTimeout
	for range c.attempts {
		if d *= 2; d >= c.cfg.CallTimeout {
			return c.cfg.CallTimeout
		}
	}
	return d
}

// began counts an attempt.
func (c *course) began() { c.attempts++ }
