package replication

import (
	"sync"
	"time"
)

// Throttle spreads bytes over time. One may be shared by the Gossipers of a
// node, so that the repair of many shards takes no more than its share of
// the network. It is safe for concurrent use.
type Throttle struct {
	perSecond int

	mu   sync.Mutex
	free time.Time // when everything taken so far is paid for
}

// NewThrottle returns a Throttle of the given bytes a second; > 0.
func NewThrottle(bytesPerSecond int) *Throttle {
	return &Throttle{perSecond: max(1, bytesPerSecond)}
}

// take books n bytes and returns how long to wait before sending more.
func (t *Throttle) take(now time.Time, n int) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.free.Before(now) {
		t.free = now
	}
	t.free = t.free.Add(time.Duration(float64(n) / float64(t.perSecond) * float64(time.Second)))
	return t.free.Sub(now)
}

// leftover books n bytes when nothing else waits, and returns how long to wait
// before sending more; else ok is false, and it is to be asked again after d.
func (t *Throttle) leftover(now time.Time, n int) (d time.Duration, ok bool) {
	t.mu.Lock()
	waits := t.free.Sub(now)
	t.mu.Unlock()
	if waits > 0 {
		return waits, false
	}
	return t.take(now, n), true
}
