package client

import "time"

// Events are called synchronously, by the goroutines of calls and of Run, and
// must not block; nil funcs are skipped. They may call Status.
type Events struct {
	Moved     func(Moved)     // calls go to another region from now on
	Health    func(Health)    // a region became healthy, or no longer is
	Probed    func(Probed)    // one measurement of a region
	Listed    func(Listed)    // one look at the list of regions
	Retried   func(Retried)   // a call is about to be tried again
	Hedged    func(Hedged)    // a read was sent to a second region as well
	Won       func(Hedged)    // the second region's answer was taken
	Forwarded func(Forwarded) // a Forwarder passed a call on, and it was answered
	Exhausted func(Exhausted) // the budget had nothing left for a retry or a hedge
}

// Reason says why calls moved to another region.
type Reason string

// The reasons of a move.
const (
	FirstChoice Reason = "first choice" // the regions are known and measured now
	Nearer      Reason = "nearer"       // it was better by the margin for long enough
	Unhealthy   Reason = "unhealthy"    // the region that was used is not healthy
	Unlisted    Reason = "unlisted"     // it is not in the list, or the list names healthy ones again
)

// Moved tells that another region is the chosen one. Regions are named as the
// list names them, or by address while they are in no list.
type Moved struct {
	From, To string
	Why      Reason
}

// Health tells that a region's health changed.
type Health struct {
	Region  string
	Healthy bool
	Why     string        // the last failure, when it is not healthy
	RTT     time.Duration // smoothed; 0: never measured
}

// Probed is one measurement.
type Probed struct {
	Region string
	RTT    time.Duration // of this probe
	Err    error         // the region did not answer, or is not ready
}

// Listed is one look at the list of regions.
type Listed struct {
	From    string // who was asked
	Regions int
	Err     error // the list could not be had, or has entries that cannot be used
}

// Retried is one retry. From and To may be the same region; of a watch, which
// chooses after its pause, To is "".
type Retried struct {
	Procedure string // of the schema, such as /cart.v1.CartService/AddItem; of a Forwarder, the path
	From, To  string
	Attempt   int           // the one that follows: 2 is the first retry
	Pause     time.Duration // before it
	Why       error         // what the last attempt met
}

// Hedged is a read that was sent to two regions.
type Hedged struct {
	Procedure string
	From, To  string
	After     time.Duration // how long the first had not answered
}

// Forwarded is a call that another region answered.
type Forwarded struct {
	Region string
	Status int // of HTTP
}

// Exhausted is a retry or a hedge that was not made.
type Exhausted struct {
	Procedure string
	Hedge     bool
}

// notices are what the core tells; the shell passes them on once it has let
// go of the core.
type notices struct {
	moved  []Moved
	health []Health
}

func (n *notices) add(o notices) {
	n.moved, n.health = append(n.moved, o.moved...), append(n.health, o.health...)
}

func tell[T any](f func(T), v T) {
	if f != nil {
		f(v)
	}
}
