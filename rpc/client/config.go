package client

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Config holds the settings of a Client; the zero value is not valid, see
// DefaultConfig.
type Config struct {
	// CallTimeout bounds one call with all its attempts and pauses; a nearer
	// deadline of the call's context goes before. > 0
	CallTimeout time.Duration
	// AttemptTimeout is the silence after which a call's first attempt is given
	// up; it doubles with each further one. > 0, at most CallTimeout
	AttemptTimeout time.Duration
	AttemptsMax    int           // of one call; hedges are not counted; ≥ 1
	BackoffMin     time.Duration // first pause before a region is asked again; > 0
	BackoffMax     time.Duration // longest such pause, unless Retry-After is longer; ≥ BackoffMin
	// DetourFor is how long a session goes on asking the region that answered
	// it when the chosen one did not. ≥ 0
	DetourFor time.Duration

	DiscoverEvery time.Duration // between two looks at the list of regions; > 0
	ProbeEvery    time.Duration // between two probes of one region; a quarter of it while the region fails; > 0
	ProbeTimeout  time.Duration // of one probe, and of one look at the list; > 0
	FailuresMax   int           // failures in a row that make a region unhealthy; ≥ 1
	RecoveriesMin int           // successes in a row that make it healthy again; ≥ 1

	// Another healthy region is taken once its round trip was shorter than the
	// current one's by MarginMin and by MarginShare of the current one's, in
	// every measurement of ReturnAfter.
	ReturnAfter time.Duration // ≥ 0
	MarginMin   time.Duration // ≥ 0
	MarginShare float64       // 0 to 1

	// A read that has no answer after the HedgeQuantile of recent reads is
	// also sent to the next region, not before HedgeMin, and at HedgeMax at
	// the latest. HedgeMax 0 turns hedges off.
	HedgeQuantile float64       // above 0, below 1
	HedgeMin      time.Duration // > 0
	HedgeMax      time.Duration // 0, or ≥ HedgeMin

	// Retries and hedges that a server may have to work for take a token each
	// from a bucket, which calls and time fill.
	BudgetShare     float64 // tokens that each call brings; 0 to 1
	BudgetPerSecond float64 // tokens that each second brings; ≥ 0
	BudgetMax       float64 // what the bucket holds, and begins with; ≥ 1

	ConnsPerRegion int // idle connections kept to each region; ≥ 1

	// Transport carries everything but watches, and StreamTransport carries
	// watches: it must speak HTTP/2. nil: ones of the client's own.
	Transport       http.RoundTripper
	StreamTransport http.RoundTripper

	Events Events
}

// DefaultConfig returns production settings.
func DefaultConfig() Config {
	return Config{
		CallTimeout:     5 * time.Second,
		AttemptTimeout:  600 * time.Millisecond, // a region gone without a word costs less than a second, a busy next one included
		AttemptsMax:     5,                      // three regions, and two of them once more
		BackoffMin:      20 * time.Millisecond,
		BackoffMax:      time.Second,
		DetourFor:       3 * time.Second, // a shard elects a leader in about as long
		DiscoverEvery:   30 * time.Second,
		ProbeEvery:      2 * time.Second,
		ProbeTimeout:    800 * time.Millisecond, // twice round the world
		FailuresMax:     3,                      // one lost connection is no lost region
		RecoveriesMin:   3,
		ReturnAfter:     10 * time.Second,     // a move costs token waits: not for a passing jam
		MarginMin:       5 * time.Millisecond, // less is the noise of a shared network
		MarginShare:     0.2,
		HedgeQuantile:   0.95, // one read in twenty is sent twice
		HedgeMin:        5 * time.Millisecond,
		HedgeMax:        300 * time.Millisecond,
		BudgetShare:     0.1, // an outage adds a tenth to the load
		BudgetPerSecond: 5,   // so that a client of few calls may retry at all
		BudgetMax:       100, // what is under way when a region dies
		ConnsPerRegion:  64,
	}
}

// validate reports every bad field at once and changes none.
func (c Config) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	positive := func(name string, d time.Duration) { check(d > 0, "%s is %v: want more than 0", name, d) }
	notBelow := func(name string, d, least time.Duration) {
		check(d >= least, "%s is %v: want at least %v", name, d, least)
	}
	atLeastOne := func(name string, n int) { check(n >= 1, "%s is %d: want at least 1", name, n) }
	share := func(name string, v float64) { check(v >= 0 && v <= 1, "%s is %v: want 0 to 1", name, v) }
	positive("CallTimeout", c.CallTimeout)
	check(c.AttemptTimeout > 0 && c.AttemptTimeout <= c.CallTimeout, "AttemptTimeout is %v: want more than 0, at most CallTimeout (%v)", c.AttemptTimeout, c.CallTimeout)
	atLeastOne("AttemptsMax", c.AttemptsMax)
	positive("BackoffMin", c.BackoffMin)
	notBelow("BackoffMax", c.BackoffMax, c.BackoffMin)
	notBelow("DetourFor", c.DetourFor, 0)
	positive("DiscoverEvery", c.DiscoverEvery)
	positive("ProbeEvery", c.ProbeEvery)
	positive("ProbeTimeout", c.ProbeTimeout)
	atLeastOne("FailuresMax", c.FailuresMax)
	atLeastOne("RecoveriesMin", c.RecoveriesMin)
	notBelow("ReturnAfter", c.ReturnAfter, 0)
	notBelow("MarginMin", c.MarginMin, 0)
	share("MarginShare", c.MarginShare)
	check(c.HedgeQuantile > 0 && c.HedgeQuantile < 1, "HedgeQuantile is %v: want more than 0, less than 1", c.HedgeQuantile)
	positive("HedgeMin", c.HedgeMin)
	check(c.HedgeMax == 0 || c.HedgeMax >= c.HedgeMin, "HedgeMax is %v: want 0, or at least HedgeMin (%v)", c.HedgeMax, c.HedgeMin)
	share("BudgetShare", c.BudgetShare)
	check(c.BudgetPerSecond >= 0, "BudgetPerSecond is %v: want at least 0", c.BudgetPerSecond)
	check(c.BudgetMax >= 1, "BudgetMax is %v: want at least 1", c.BudgetMax)
	atLeastOne("ConnsPerRegion", c.ConnsPerRegion)
	return errors.Join(errs...)
}
