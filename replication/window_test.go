package replication

import (
	"testing"
	"time"
)

// fill sends batches through a link of some bytes a second and a round trip,
// for so long, as the window lets it, and returns how much of what the link could
// carry arrived, and how late the latest ack came, after the start.
func fill(rate int, roundTrip, d time.Duration) (share float64, latest time.Duration, size int) {
	cfg := DefaultConfig()
	w := newWindow(cfg)
	type sent struct {
		at, acked time.Time
		n         int
	}
	begin := time.Unix(1000, 0)
	now, free, end := begin, begin, begin.Add(d)
	var flights []sent
	inFlight, arrived := 0, 0
	for now.Before(end) {
		for n := w.batch(cfg.BatchBytesMax); len(flights) == 0 || len(flights) < cfg.WindowIntervals && inFlight+n <= w.size; n = w.batch(cfg.BatchBytesMax) {
			if free.Before(now) {
				free = now
			}
			free = free.Add(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
			flights = append(flights, sent{now, free.Add(roundTrip), n})
			inFlight += n
		}
		f := flights[0]
		flights, now = flights[1:], f.acked
		inFlight -= f.n
		if now.Sub(begin) > d/2 { // when it has found its size
			arrived += f.n
			latest = max(latest, now.Sub(f.at))
		}
		w.acked(now, f.n, now.Sub(f.at))
	}
	return float64(arrived) / (float64(rate) * d.Seconds() / 2), latest, w.size
}

// The window keeps any link busy, and no long queue before it.
func TestWindowFitsTheLink(t *testing.T) {
	for _, c := range []struct {
		rate      int
		roundTrip time.Duration
		share     float64
	}{
		{20_000, 400 * time.Millisecond, 0.9},
		{125_000, 400 * time.Millisecond, 0.9},
		{1_000_000, 50 * time.Millisecond, 0.9},
		{1_000_000, time.Millisecond, 0.9},
		{10_000_000, 300 * time.Millisecond, 0.9},
		{100_000_000, time.Millisecond, 0.9},
	} {
		share, latest, size := fill(c.rate, c.roundTrip, 30*time.Second)
		t.Logf("%9d B/s, %v: %.0f%% of the link, acks within %v, window %d", c.rate, c.roundTrip, 100*share, latest, size)
		if share < c.share {
			t.Errorf("%d B/s, %v: only %.0f%% of the link is used", c.rate, c.roundTrip, 100*share)
		}
		if most := c.roundTrip + 3*DefaultConfig().QueueMax; latest > most {
			t.Errorf("%d B/s, %v: an ack took %v, want at most %v", c.rate, c.roundTrip, latest, most)
		}
	}
}
