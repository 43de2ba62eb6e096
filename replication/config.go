package replication

import (
	"errors"
	"fmt"
	"time"
)

// Config holds the settings of a Gossiper and its Peers; the zero value is
// not valid, see DefaultConfig.
type Config struct {
	BatchBytesMax   int           // estimated size of one interval sent; 1 KiB to 4 MiB
	SpanBytesMax    int           // log bytes combined into one interval; ≥ BatchBytesMax
	WindowBytes     int           // estimated size of intervals not yet acked; ≥ BatchBytesMax
	QueueMax        time.Duration // how much later than the fastest an ack may come before less is sent; > 0
	WindowIntervals int           // number of intervals not yet acked; ≥ 1
	Gather          time.Duration // from one interval to the next, unless the next is full; ≥ 0
	CatchupRate     int           // rows a second that a shard sends while a backlog waits; 0: no bound
	RowDotsMax      int           // new dots of one combined row; 1 to DefaultLimits().Dots

	BackoffMin  time.Duration // wait before the first reconnect; > 0
	BackoffMax  time.Duration // longest wait before a reconnect; ≥ BackoffMin
	OpenTimeout time.Duration // from opening a stream to the first ack; to 4 times as long where acks come late; > 0
	StallAfter  time.Duration // silence with unacked intervals after which a stream is given up; doubles, to 16 times, without progress; > 0

	ProofEvery time.Duration // between two comparisons while something changes; > 0
	ProofIdle  time.Duration // between two comparisons while nothing does; ≥ ProofEvery

	CallTimeout     time.Duration // of one unary call in proof and repair; > 0
	RepairPage      int           // carts in one page of a bucket; 1 to BucketLimit
	RepairGroup     int           // own carts searched together for those that differ, about; ≥ 1
	RepairCarts     int           // carts in one Join; 1 to NewerCartsMax
	RepairBytes     int           // size of one Join, or one cart; 1 KiB to 4 MiB
	RepairBandwidth int           // bytes of whole carts a second when no Throttle is shared; > 0
}

// DefaultConfig returns production values.
func DefaultConfig() Config {
	return Config{
		BatchBytesMax:   256 << 10,             // one Raft entry of the receiver; some thousand rows
		SpanBytesMax:    8 << 20,               // enough for hot lines to fold, read in tens of milliseconds
		WindowBytes:     4 << 20,               // 100 Mbit/s at 300 ms
		QueueMax:        time.Second,           // above what a lost segment delays, below what looks like a stall
		WindowIntervals: 64,                    // small intervals at the rate of a WAN's round trips
		Gather:          10 * time.Millisecond, // a third of what the lag may be, and then some ten edits share what an interval costs
		CatchupRate:     0,                     // a pace made shoppers' p99 no better when it was measured
		RowDotsMax:      128,                   // combining is quadratic in it
		BackoffMin:      20 * time.Millisecond,
		BackoffMax:      500 * time.Millisecond,  // a healed cut must converge within two seconds
		OpenTimeout:     time.Second,             // it bounds, with BackoffMax, what a healed cut takes
		StallAfter:      1500 * time.Millisecond, // receivers repeat their ack while a join takes long
		ProofEvery:      5 * time.Second,
		ProofIdle:       time.Minute,
		CallTimeout:     10 * time.Second,
		RepairPage:      512,
		RepairGroup:     1 << 16, // some 10 MB while it is searched
		RepairCarts:     256,
		RepairBytes:     512 << 10,
		RepairBandwidth: 8 << 20, // leaves most of a 1 Gbit/s link to the edits
	}
}

// BucketLimit is the most carts that one Bucket call may ask for.
const BucketLimit = 4096

// validate reports every bad field at once and changes none.
func (c Config) validate() error {
	var errs []error
	within := func(name string, v, lo, hi int) {
		if v < lo || v > hi {
			errs = append(errs, fmt.Errorf("%s is %d: want %d to %d", name, v, lo, hi))
		}
	}
	atLeast := func(name string, v, lo time.Duration) {
		if v < lo {
			errs = append(errs, fmt.Errorf("%s is %v: want at least %v", name, v, lo))
		}
	}
	const many = 1 << 30
	within("BatchBytesMax", c.BatchBytesMax, 1<<10, 4<<20)
	within("SpanBytesMax", c.SpanBytesMax, max(1, c.BatchBytesMax), many)
	within("WindowBytes", c.WindowBytes, max(1, c.BatchBytesMax), many)
	within("WindowIntervals", c.WindowIntervals, 1, many)
	within("RowDotsMax", c.RowDotsMax, 1, DefaultLimits().Dots)
	within("CatchupRate", c.CatchupRate, 0, many)
	atLeast("QueueMax", c.QueueMax, time.Microsecond)
	atLeast("Gather", c.Gather, 0)
	atLeast("BackoffMin", c.BackoffMin, time.Microsecond)
	atLeast("BackoffMax", c.BackoffMax, c.BackoffMin)
	atLeast("OpenTimeout", c.OpenTimeout, time.Microsecond)
	atLeast("StallAfter", c.StallAfter, time.Microsecond)
	atLeast("ProofEvery", c.ProofEvery, time.Microsecond)
	atLeast("ProofIdle", c.ProofIdle, c.ProofEvery)
	atLeast("CallTimeout", c.CallTimeout, time.Microsecond)
	within("RepairPage", c.RepairPage, 1, BucketLimit)
	within("RepairGroup", c.RepairGroup, 1, SketchItemsMax/2)
	within("RepairCarts", c.RepairCarts, 1, NewerCartsMax)
	within("RepairBytes", c.RepairBytes, 1<<10, 4<<20)
	within("RepairBandwidth", c.RepairBandwidth, 1, many)
	return errors.Join(errs...)
}
