package load

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestRunCountsCallsAndErrors(t *testing.T) {
	odd, even := errors.New("odd"), errors.New("even")
	var clients []Call
	for i := range 3 {
		n := i
		clients = append(clients, func(ctx context.Context) error {
			n++
			select { // each takes a moment, or the loop would measure itself
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Millisecond):
			}
			switch n % 4 {
			case 1:
				return odd
			case 2:
				return even
			}
			return nil
		})
	}
	r := Run(t.Context(), clients, 100*time.Millisecond, error.Error)
	if r.Clients != 3 || r.Calls == 0 || r.Errors != r.ByCode["odd"]+r.ByCode["even"] || len(r.ByCode) != 2 {
		t.Fatalf("%+v", r)
	}
	if r.P50 < 1 || r.P99 < r.P50 || r.Max < r.P99 || r.CallsPer <= 0 || r.Seconds < 0.1 {
		t.Errorf("%+v", r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := Run(ctx, clients, time.Hour, error.Error); r.Calls != 0 || r.Errors != 0 {
		t.Errorf("after the end: %+v", r)
	}
}
