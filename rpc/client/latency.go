package client

import (
	"math"
	"time"
)

// latencies remembers how long recent reads took, in buckets a quarter of an
// octave wide. Adding costs one increment, asking one walk over the buckets.
//
//	L1  A quantile is at most a quarter of an octave (19 %) above the true one
//	    of the remembered durations, and never below, between 16 µs and 16 s.
type latencies struct {
	counts [bucketCount]uint32
	total  uint32
}

const (
	bucketCount = 81
	bucketLow   = 16 * time.Microsecond // upper end of the first bucket
	perOctave   = 4
	// rememberMax: the older half weighs half as much as the newer one.
	rememberMax = 512
	// learntMin is how many reads a quantile needs to say anything.
	learntMin = 20
)

func bucketOf(d time.Duration) int {
	if d <= bucketLow {
		return 0
	}
	i := int(math.Ceil(perOctave * math.Log2(float64(d)/float64(bucketLow))))
	return min(i, bucketCount-1)
}

func bucketEnd(i int) time.Duration {
	return time.Duration(float64(bucketLow) * math.Exp2(float64(i)/perOctave))
}

func (l *latencies) add(d time.Duration) {
	l.counts[bucketOf(d)]++
	l.total++
	if l.total < rememberMax {
		return
	}
	l.total = 0
	for i := range l.counts {
		l.counts[i] /= 2
		l.total += l.counts[i]
	}
}

// quantile returns the duration within which the share q of reads ended; ok is
// false while too few are known.
func (l *latencies) quantile(q float64) (d time.Duration, ok bool) {
	if l.total < learntMin {
		return 0, false
	}
	rank := uint32(math.Ceil(q * float64(l.total)))
	var seen uint32
	for i, n := range l.counts {
		if seen += n; seen >= rank {
			return bucketEnd(i), true
		}
	}
	return bucketEnd(bucketCount - 1), true
}
