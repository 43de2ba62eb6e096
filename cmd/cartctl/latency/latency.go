// Package latency summarises measured durations.
//
// # Decisions
//
// Samples are kept whole and sorted once, not put into buckets: a replay or a
// benchmark has at most a few million, 8 bytes each, and an exact percentile
// needs no explanation of its error. A histogram would bound the memory; it
// was rejected because the tools that use this run for minutes.
package latency

import (
	"math"
	"slices"
	"time"
)

// Sample is a set of durations in any order. It is not safe for concurrent
// use: keep one per goroutine and join them with append.
type Sample []time.Duration

// Sort orders the sample in place, as Percentile needs it.
func (s Sample) Sort() { slices.Sort(s) }

// Percentile returns the smallest duration that at least p percent of the
// sorted sample do not exceed (nearest rank); 0 for an empty sample. p below 0
// counts as 0, above 100 as 100.
func (s Sample) Percentile(p float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	p = min(max(p, 0), 100)
	rank := int(math.Ceil(p / 100 * float64(len(s))))
	return s[min(max(rank, 1), len(s))-1]
}

// Milliseconds returns d in milliseconds, rounded to whole microseconds.
func Milliseconds(d time.Duration) float64 {
	return math.Round(float64(d)/float64(time.Microsecond)) / 1000
}
