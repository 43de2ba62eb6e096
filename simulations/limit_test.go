package simulations

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/samecart/samecart/crdt"
	membershipv1 "github.com/samecart/samecart/proto/membership/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/replication/membership"
	"github.com/samecart/samecart/simulations/network"
)

var (
	limitSeeds = flag.Int("limit-seeds", 2, "seeds of TestLimitedCode")
	limitFrom  = flag.Uint64("limit-from", 1, "the first of them")
	limitTries = flag.Int("limit-tries", 900, "tries to use the code, in each")
)

// A code of 100 uses in three regions of real nodes whose links are cut and healed at
// random, and one of which is fenced half of the times and comes back: no more than 100
// are told that they won, and once all is healed at least 95 are used, and all
// regions know of the same. How it comes about is crdt's TestLimitUnderPartition, with
// more seeds and more tries.
func TestLimitedCode(t *testing.T) {
	t.Parallel()
	for seed := *limitFrom; seed < *limitFrom+uint64(*limitSeeds); seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			inWorld(t, seed, func(t *testing.T, w *world) { limitedCode(t, w, seed) })
		})
	}
}

// inWorld runs a test in three regions of a node each, in virtual time.
func inWorld(t *testing.T, seed uint64, do func(t *testing.T, w *world)) {
	t.Helper()
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	plan := Plan{
		Seed: seed, Shape: Shape{Regions: 3, Nodes: 1, Shards: 1}, Latency: 40 * time.Millisecond,
		Heartbeat: time.Second, SnapshotAfter: 8192, Trailing: 4096, Segment: 1 << 20,
	}
	synctest.Test(t, func(t *testing.T) {
		w, err := newWorld(plan, root, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer w.close()
		if err := w.startAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		do(t, w)
	})
}

// router reaches a region.
func (w *world) router(region int) *region.Router {
	return w.anyOf(regionNames[region]).member.Node.Router
}

// between cuts or heals the link of two regions.
func (w *world) between(a, b int, cut bool) {
	way := network.Way{Cut: cut}
	w.set(regionNames[a], regionNames[b], way)
	w.set(regionNames[b], regionNames[a], way)
}

// limit sets a limit and waits until it is in force.
func (w *world) limit(t *testing.T, code string, uses, perCustomer uint64) {
	t.Helper()
	err := w.await(t.Context(), time.Minute, func(ctx context.Context) error {
		if ok, err := w.router(0).SetLimit(ctx, code, uses, perCustomer); err != nil || !ok {
			return fmt.Errorf("set: %v %w", ok, err)
		}
		for r := range 3 {
			if l, _, err := w.router(r).Limit(ctx, code); err != nil || l.Rights.Granted() != uses {
				return fmt.Errorf("%s knows of %d: %w", regionNames[r], l.Rights.Granted(), err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// redeemer uses a code, as shoppers do with the answers they get.
type redeemer struct {
	w    *world
	code string

	mu      sync.Mutex // guards what follows
	rng     *rand.Rand
	tries   int
	won     map[string]bool
	unknown []string // keys of requests whose outcome is not known
	asking  map[string]bool
	codes   map[string]int
}

func (r *redeemer) note(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.codes[what]++
}

// try uses the code once in a region: for somebody new, or again for one whose request
// was not answered, there or elsewhere.
func (r *redeemer) try(region int, customer string) {
	r.mu.Lock()
	r.tries++
	key := fmt.Sprint("shopper-", r.tries)
	if n := len(r.unknown); n > 0 && r.rng.IntN(2) == 0 {
		i := r.rng.IntN(n)
		key = r.unknown[i]
		r.unknown = slices.Delete(r.unknown, i, i+1)
	}
	r.mu.Unlock()
	if customer == "" {
		customer = "cart:" + key
	}
	sum := sha256.Sum256([]byte(key))
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	out, err := r.w.router(region).Redeem(ctx, &regionv1.Spend{Code: r.code, Customer: customer, OpId: sum[:16], Fingerprint: 1})
	r.judge(key, out, err)
}

func (r *redeemer) judge(key string, out *regionv1.Outcome, err error) {
	switch {
	case err == nil:
		r.note(out.Code.String())
	case errors.Is(err, region.ErrOutcomeUnknown):
		r.note("unknown")
	case errors.Is(err, region.ErrNoRegionMajority):
		r.note("no majority")
	case errors.Is(err, region.ErrFenced):
		r.note("fenced")
	default:
		r.note(err.Error())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	again := r.asking[key] // it was not answered, and is asked for until it is
	switch {
	case err == nil && out.Code == regionv1.Outcome_CODE_OK:
		r.won[key] = true
	case again, errors.Is(err, region.ErrOutcomeUnknown):
		r.unknown, r.asking[key] = append(r.unknown, key), true
	}
}

func (r *redeemer) wins() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.won)
}

func limitedCode(t *testing.T, w *world, seed uint64) {
	const uses = 100
	w.limit(t, "TEN", uses, 0)
	r := &redeemer{w: w, code: "TEN", rng: rand.New(rand.NewPCG(seed, 1)), won: make(map[string]bool), asking: make(map[string]bool), codes: make(map[string]int)}
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { // links
		rng := rand.New(rand.NewPCG(seed, 2))
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(200+rng.IntN(4000)) * time.Millisecond):
			}
			a := rng.IntN(3)
			w.between(a, (a+1)%3, rng.IntN(2) == 0)
		}
	})
	fenced := false
	if seed%2 == 0 {
		running.Go(func() {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Second):
			}
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			_, err := w.anyOf(regionNames[1]).part.Roster.Change(ctx, membership.Fence(regionNames[0]))
			fenced = err == nil
		})
	}
	var trying sync.WaitGroup
	for region := range 3 {
		trying.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(10+region)))
			for range *limitTries / 6 {
				r.try(region, "")
				time.Sleep(time.Duration(rng.IntN(1500)) * time.Millisecond)
				if n := r.wins(); n > uses {
					t.Errorf("%d have won a code of %d uses", n, uses)
					return
				}
			}
		})
	}
	trying.Wait()
	close(stop)
	running.Wait()
	before := r.wins()
	for a := range 3 {
		w.between(a, (a+1)%3, false)
	}
	if err := w.await(t.Context(), time.Minute, w.ready); err != nil {
		t.Fatal(err)
	}
	for i := range *limitTries / 2 {
		r.try(i%3, "")
		time.Sleep(20 * time.Millisecond)
	}
	if err := w.await(t.Context(), time.Minute, w.equal); err != nil {
		t.Error(err)
	}
	l, _, err := w.router(2).Limit(t.Context(), "TEN")
	if err != nil {
		t.Fatal(err)
	}
	used, taken := l.Rights.Used(), uint64(0)
	for _, h := range l.Rights.Holders() {
		row, _ := l.Rights.Row(h)
		for _, share := range row.Reclaimed {
			taken += share.N
		}
	}
	t.Logf("%d tries: %d have won, %d of them before all was healed; %d used; fenced: %v, %d rights taken over; %v", r.tries, r.wins(), before, used, fenced, taken, r.codes)
	if n := r.wins(); n > uses || used > uses || n > int(used) || used < 95 {
		t.Errorf("%d have won and %d are used, of %d: want 95 to 100", n, used, uses)
	}
	if m := w.router(0).Membership(); fenced && m.Named(regionNames[0]).GetIncarnation() < 2 {
		t.Errorf("%s was fenced and has not come back: %v", regionNames[0], m)
	}
	if m := w.router(0).Membership(); m.Named(regionNames[0]).GetState() != membershipv1.State_STATE_ACTIVE {
		t.Errorf("%s is %v", regionNames[0], m.Named(regionNames[0]).GetState())
	}
}

// One customer asks in three regions that are cut off from each other, and on and on once
// they are not: never more than the cap, and all of it in the end.
func TestCustomerCapAcrossRegions(t *testing.T) {
	t.Parallel()
	inWorld(t, 7, func(t *testing.T, w *world) {
		w.limit(t, "ONE", 90, 2)
		r := &redeemer{w: w, code: "ONE", rng: rand.New(rand.NewPCG(7, 1)), won: make(map[string]bool), asking: make(map[string]bool), codes: make(map[string]int)}
		round := func(n int) {
			var trying sync.WaitGroup
			for region := range 3 {
				trying.Go(func() {
					for range n {
						r.try(region, "cart:ann")
						time.Sleep(100 * time.Millisecond)
					}
				})
			}
			trying.Wait()
			if n := r.wins(); n > 2 {
				t.Fatalf("%d uses of one customer, who has 2", n)
			}
		}
		for a := range 3 {
			w.between(a, (a+1)%3, true)
		}
		round(8)
		if r.wins() > 0 {
			t.Error("a region that is alone told somebody of a use")
		}
		for a := range 3 {
			w.between(a, (a+1)%3, false)
		}
		round(20)
		t.Logf("%d won: %v", r.wins(), r.codes)
		if r.wins() != 2 {
			t.Errorf("%d won once the regions had met and those without an answer had asked again, want 2", r.wins())
		}
		if err := w.await(t.Context(), time.Minute, w.equal); err != nil {
			t.Error(err)
		}
		v, err := w.router(1).Read(t.Context(), crdt.LimitID("ONE", "cart:ann"), region.ReadOptions{})
		if err != nil || v.State.Cart.Bounded().Used() != 2 {
			t.Errorf("%d uses in the end, want 2: %v", v.State.Cart.Bounded().Used(), err)
		}
	})
}
