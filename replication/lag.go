package replication

import (
	"slices"
	"time"
)

// lagWindow is how far back the distribution of lags reaches, lagSamples how
// many deliveries it remembers at most: the newest.
const (
	lagWindow  = time.Minute
	lagSamples = 1024
)

// lags remembers what lag the last deliveries had reached. Not safe for
// concurrent use.
type lags struct {
	ring []lagSample
	next int
}

type lagSample struct {
	when time.Time
	lag  time.Duration
	cart string
}

func (l *lags) add(s lagSample) {
	if len(l.ring) < lagSamples {
		l.ring = append(l.ring, s)
		return
	}
	l.ring[l.next] = s
	l.next = (l.next + 1) % lagSamples
}

// LagStats is the distribution of the lag over the deliveries of the last
// minute, at most the newest 1,024; zero when there were none. A delivery's
// lag is the age that its oldest row had when the peer acked it.
type LagStats struct {
	P50, P99, Worst time.Duration
	// WorstCart is the cart whose row was the oldest in the worst delivery, or
	// waits even longer now.
	WorstCart string
}

// stats sums up the last minute; waiting is what has not been acked yet.
func (l *lags) stats(now time.Time, waiting waitingRow) (s LagStats) {
	var recent []time.Duration
	for _, v := range l.ring {
		if now.Sub(v.when) > lagWindow {
			continue
		}
		recent = append(recent, v.lag)
		if v.lag >= s.Worst {
			s.Worst, s.WorstCart = v.lag, v.cart
		}
	}
	if a := age(now, waiting.at); a > s.Worst {
		s.Worst, s.WorstCart = a, waiting.cart
	}
	if len(recent) > 0 {
		slices.Sort(recent)
		s.P50, s.P99 = recent[len(recent)/2], recent[min(len(recent)*99/100, len(recent)-1)]
	}
	return s
}
