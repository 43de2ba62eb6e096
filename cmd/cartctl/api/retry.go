package api

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// Policy bounds the attempts of one call. All durations must be above
// zero.
type Policy struct {
	Attempt time.Duration // for one attempt
	Total   time.Duration // from the first attempt to giving up
	Longest time.Duration // between two attempts, also when Retry-After asks for more
	// Dial also retries where nothing accepts connections.
	Dial bool
	// Retried is called before each further attempt, when not nil.
	Retried func(err error)
}

// Interactive is the policy of a command that a person waits for.
func Interactive() Policy {
	return Policy{Attempt: 5 * time.Second, Total: 15 * time.Second, Longest: time.Second}
}

// firstPause is what the pauses between attempts grow from. A leader election
// takes hundreds of milliseconds, an overloaded queue drains in a few.
const firstPause = 5 * time.Millisecond

// Do calls f until the verdict over its error is not Again, the policy's
// time is over or ctx ends, and returns the last error. f must send the same
// idempotency key each time, and may be called from one goroutine at a time.
func Do(ctx context.Context, p Policy, f func(ctx context.Context) error) error {
	deadline := time.Now().Add(p.Total)
	pause := firstPause
	for attempt := 1; ; attempt++ {
		actx, cancel := context.WithTimeout(ctx, p.Attempt)
		err := f(actx)
		cancel()
		if Judge(err) != Again || ended(ctx) {
			return err
		}
		if _, nobody := Unreachable(err); nobody && !p.Dial {
			return err
		}
		// Jitter: clients that failed together shall not come back together.
		wait := pause/2 + rand.N(pause)
		wait = min(max(wait, retryAfter(err)), p.Longest)
		pause = min(2*pause, p.Longest)
		if time.Now().Add(wait).After(deadline) {
			return fmt.Errorf("gave up after %d attempts in %v: %w", attempt, p.Total, err)
		}
		if p.Retried != nil {
			p.Retried(err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}
