package client

import (
	"cmp"
	"slices"
	"time"
)

// regions decides where calls go: it knows the regions, their health and
// their round trips. It reads no clock, does no I/O and is not safe for
// concurrent use.
//
//	R1  While any listed region is healthy and measured, the current one is healthy.
//	R2  A healthy listed region is left only for one that was better by the
//	    margin in every measurement of ReturnAfter, once the first choice is made.
//	R3  A region becomes unhealthy by FailuresMax failures with no success
//	    between them, and healthy again by RecoveriesMin successes with no
//	    failure between them.
//	    A failure counts only if the region has answered nothing since the call
//	    that met it began: one that answers others is slow, not gone.
//	R4  Of regions that calls may go to, the one that is called home is the nearest.
type regions struct {
	cfg     Config
	home    string // address; "" for none
	list    []*place
	seed    *place // the address that the client was given
	current *place
	settled bool // the first choice is made
	sorted  []string
	fit     int // how many of sorted are healthy
}

// place is one region.
type place struct {
	name    string // "" while no list named it
	address string // its key
	listed  bool
	healthy bool
	probed  bool          // at least once, whatever came of it
	rtt     time.Duration // smoothed; 0: never measured
	last    time.Duration // the last measured

	failures, recoveries int       // in a row
	answered             time.Time // last
	lookedAt             time.Time // when a probe was last asked for, or made
	betterSince          time.Time
	probeAt              time.Time
	reads                latencies
}

// listing is a region as the list shows it.
type listing struct {
	name, address string
	healthy       bool
}

func newRegions(cfg Config, address string) *regions {
	seed := &place{address: address, healthy: true}
	r := &regions{cfg: cfg, list: []*place{seed}, seed: seed, current: seed}
	r.sort()
	return r
}

// label is how a region is called towards people.
func (p *place) label() string {
	if p.name != "" {
		return p.name
	}
	return p.address
}

func (r *regions) find(address string) *place {
	for _, p := range r.list {
		if p.address == address {
			return p
		}
	}
	return nil
}

func (r *regions) label(address string) string {
	if p := r.find(address); p != nil {
		return p.label()
	}
	return address
}

// learn takes a new list of regions; an empty one says nothing. What is known
// of a region stays, as long as its address does.
func (r *regions) learn(now time.Time, list []listing) notices {
	if len(list) == 0 {
		return notices{}
	}
	var next []*place
	for _, l := range list {
		p := r.find(l.address)
		if p == nil {
			p = &place{address: l.address, healthy: l.healthy}
		}
		if !slices.Contains(next, p) {
			p.name, p.listed = l.name, true
			next = append(next, p)
		}
	}
	for _, p := range r.list {
		if !slices.Contains(next, p) {
			p.listed = false
		}
	}
	for _, p := range []*place{r.current, r.seed} { // both stay, for want of better
		if !slices.Contains(next, p) {
			next = append(next, p)
		}
	}
	r.list = next
	return r.decide(now)
}

// due returns the regions to probe now, and when the next one is to be.
func (r *regions) due(now time.Time) (addresses []string, next time.Time) {
	for _, p := range r.list {
		if !p.listed {
			continue
		}
		if !p.probeAt.After(now) {
			addresses = append(addresses, p.address)
			continue
		}
		if next.IsZero() || p.probeAt.Before(next) {
			next = p.probeAt
		}
	}
	return addresses, next
}

// doubtful reports whether a region has failed and is still taken for healthy.
func (p *place) doubtful() bool { return p.healthy && p.failures > 0 }

// probed takes the result of a probe; why is "" when it was good. The next one
// comes after ProbeEvery, changed by the jitter, which is 0 to 1.
func (r *regions) probed(now time.Time, address string, rtt time.Duration, why string, jitter float64) (n notices) {
	p := r.find(address)
	if p == nil {
		return n
	}
	p.probed, p.lookedAt = true, now
	if why == "" {
		rtt = max(rtt, 1) // 0 means that it was never measured
		if p.rtt == 0 {
			p.rtt = rtt
		}
		p.rtt += (rtt - p.rtt) / 4
		p.last = rtt
		n = r.well(now, p)
	} else {
		n = r.ill(now, p, why)
	}
	every := r.cfg.ProbeEvery
	if p.doubtful() {
		every /= 4
	}
	p.probeAt = now.Add(time.Duration(float64(every) * (0.8 + 0.4*jitter)))
	return n
}

// succeeded takes a call that the region answered, with whatever answer.
func (r *regions) succeeded(now time.Time, address string) notices {
	p := r.find(address)
	if p == nil {
		return notices{}
	}
	p.answered = now
	if p.healthy && p.failures == 0 {
		return notices{}
	}
	return r.well(now, p)
}

// failed takes a call that says that the region does not serve, and when that
// call began. It reports whether a probe should look at once.
func (r *regions) failed(now, began time.Time, address, why string) (n notices, look bool) {
	p := r.find(address)
	if p == nil {
		return n, false
	}
	if p.answered.After(began) {
		if look = p.healthy && now.Sub(p.lookedAt) >= r.cfg.ProbeEvery/4; look {
			p.probeAt, p.lookedAt = now, now
		}
		return n, look
	}
	n = r.ill(now, p, why)
	if p.doubtful() && p.failures == 1 {
		p.probeAt, look = now, true
	}
	return n, look
}

func (r *regions) well(now time.Time, p *place) (n notices) {
	p.failures = 0
	if !p.healthy {
		if p.recoveries++; p.recoveries >= r.cfg.RecoveriesMin {
			p.healthy = true
			n.health = append(n.health, Health{Region: p.label(), Healthy: true, RTT: p.rtt})
		}
	}
	n.add(r.decide(now))
	return n
}

func (r *regions) ill(now time.Time, p *place, why string) (n notices) {
	p.recoveries = 0
	if p.healthy {
		if p.failures++; p.failures >= r.cfg.FailuresMax {
			p.healthy, p.failures = false, 0
			n.health = append(n.health, Health{Region: p.label(), Why: why, RTT: p.rtt})
		}
	}
	n.add(r.decide(now))
	return n
}

// candidate reports whether calls may be moved to p.
func (p *place) candidate() bool { return p.listed && p.healthy && p.rtt > 0 }

// decide chooses the current region.
func (r *regions) decide(now time.Time) (n notices) {
	defer r.sort()
	var nearest *place
	allProbed, anyListed := true, false
	for _, p := range r.list {
		if !p.listed {
			continue
		}
		anyListed = true
		allProbed = allProbed && p.probed
		if p.candidate() && (nearest == nil || r.nearer(p, nearest)) {
			nearest = p
		}
	}
	better := r.better(now)
	move := func(to *place, why Reason) {
		if to == nil || to == r.current {
			return
		}
		n.moved = append(n.moved, Moved{From: r.current.label(), To: to.label(), Why: why})
		r.current = to
		for _, p := range r.list {
			p.betterSince = time.Time{}
		}
	}
	switch {
	case !r.current.healthy:
		if nearest == nil {
			nearest = r.untested()
		}
		move(nearest, Unhealthy)
	case !anyListed:
	case !r.settled:
		if allProbed && nearest != nil {
			r.settled = true
			move(nearest, FirstChoice)
		}
	case !r.current.listed:
		move(nearest, Unlisted)
	default:
		move(better, Nearer)
	}
	return n
}

// better keeps count of how long others have been better than the current
// region, and returns the nearest that was so for long enough.
func (r *regions) better(now time.Time) (to *place) {
	for _, p := range r.list {
		if p == r.current || !p.candidate() || !r.beats(p, r.current) {
			p.betterSince = time.Time{}
			continue
		}
		if p.betterSince.IsZero() {
			p.betterSince = now
		}
		if now.Sub(p.betterSince) >= r.cfg.ReturnAfter && (to == nil || r.nearer(p, to)) {
			to = p
		}
	}
	return to
}

func (r *regions) nearer(a, b *place) bool {
	return b.address != r.home && (a.address == r.home || a.rtt < b.rtt)
}

// beats reports whether p is nearer than the current region by the margin, both
// smoothed and in the last measurements: smoothing alone would make a jam last
// longer than it does. Whatever was measured beats what was not.
func (r *regions) beats(p, current *place) bool {
	if r.home != "" && (p.address == r.home || current.address == r.home) {
		return p.address == r.home
	}
	far := min(current.rtt, current.last)
	margin := max(r.cfg.MarginMin, time.Duration(r.cfg.MarginShare*float64(far)))
	return far == 0 || max(p.rtt, p.last)+margin <= far
}

// untested returns a region that is said to be healthy; nil when there is none.
func (r *regions) untested() *place {
	for _, p := range r.list {
		if p.healthy {
			return p
		}
	}
	return nil
}

// sort puts regions in the order in which a call asks them: the current one,
// the healthy ones from near to far, the address that the client was given,
// the unhealthy ones.
func (r *regions) sort() {
	rank := func(p *place) int {
		switch {
		case !p.healthy:
			return 4
		case p == r.current:
			return 0
		case !p.listed:
			return 3
		case p.rtt == 0:
			return 2
		}
		return 1
	}
	order := slices.Clone(r.list)
	slices.SortStableFunc(order, func(a, b *place) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.rtt, b.rtt))
	})
	r.sorted, r.fit = make([]string, 0, len(order)), 0
	for _, p := range order {
		r.sorted = append(r.sorted, p.address)
		if p.healthy {
			r.fit++
		}
	}
}

// order returns the addresses in the order in which a call asks them, and how
// many of them are healthy. A detour goes first while it is healthy. The
// slice must not be changed.
func (r *regions) order(detour string) (addresses []string, fit int) {
	i := slices.Index(r.sorted[:r.fit], detour)
	if detour == "" || i <= 0 {
		return r.sorted, r.fit
	}
	out := make([]string, 0, len(r.sorted))
	out = append(out, detour)
	out = append(out, r.sorted[:i]...)
	return append(out, r.sorted[i+1:]...), r.fit
}

// hedgeAfter is how long a read waits before it asks a second region; ok is
// false when it must not.
func (r *regions) hedgeAfter(address string) (d time.Duration, ok bool) {
	if r.cfg.HedgeMax == 0 {
		return 0, false
	}
	p := r.find(address)
	if p == nil {
		return 0, false
	}
	d, learnt := p.reads.quantile(r.cfg.HedgeQuantile)
	if !learnt {
		return r.cfg.HedgeMax, true
	}
	return min(max(d, r.cfg.HedgeMin), r.cfg.HedgeMax), true
}

// read takes how long a read took, or for how long at least when it was
// called off: leaving those out would make the quantile fall with each hedge.
func (r *regions) read(address string, d time.Duration) {
	if p := r.find(address); p != nil {
		p.reads.add(d)
	}
}
