package replication

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// On a bounded link rows take what they need, up to all of it; a repair, of as
// many shards as there are, takes the rest and no more.
func TestLinkBandwidthGoesToRowsFirst(t *testing.T) {
	const bound = 100_000 // bytes a second
	for _, rows := range []int{0, 30_000, 90_000, 200_000} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			shared := NewThrottle(bound)
			var mu sync.Mutex
			var sentRows, sentRepairs int
			var running sync.WaitGroup
			for range 4 { // shards
				l := &link{g: &Gossiper{throttle: NewThrottle(1 << 30)}, bandwidth: shared}
				running.Go(func() {
					for l.pause(ctx, 2_000) == nil {
						mu.Lock()
						sentRepairs += 2_000
						mu.Unlock()
					}
				})
				if rows == 0 {
					continue
				}
				running.Go(func() {
					for due := time.Now(); ctx.Err() == nil; due = due.Add(100 * time.Millisecond) {
						_ = wait(ctx, time.Until(due))
						l.paid(ctx, rows/40)
						mu.Lock()
						sentRows += rows / 40
						mu.Unlock()
					}
				})
			}
			const d = 60 * time.Second
			time.Sleep(d)
			cancel()
			running.Wait()
			gotRows, gotRepairs := float64(sentRows)/d.Seconds(), float64(sentRepairs)/d.Seconds()
			t.Logf("rows want %d B/s: they get %.0f, repairs %.0f", rows, gotRows, gotRepairs)
			if wantRows := min(float64(rows), bound); gotRows < 0.97*wantRows {
				t.Errorf("rows get %.0f B/s, want %.0f", gotRows, wantRows)
			}
			if all := gotRows + gotRepairs; all > 1.03*bound || all < 0.95*bound {
				t.Errorf("the link takes %.0f B/s, want %d", all, bound)
			}
		})
	}
}
