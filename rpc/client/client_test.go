package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/rpc/causal"
)

// bubble runs a test with a rig in virtual time; at its end no goroutine of
// the client may be left.
func bubble(t *testing.T, test func(t *testing.T, g *rig), change ...func(*Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newRig(t, change...)) })
}

func TestLostAnswerIsRetriedElsewhereUnderTheSameOpID(t *testing.T) {
	bubble(t, func(t *testing.T, g *rig) {
		first := g.add()
		g.eu.gossip(g.us)
		g.us.set(func(r *fakeRegion) { r.broken = 1 })
		begun := time.Now()
		a := g.add()
		if a.Region != "eu" || a.Attempts != 2 || a.Replayed || a.Stale {
			t.Errorf("answer %+v", a)
		}
		if took := time.Since(begun); took != 50*ms {
			t.Errorf("took %v, want both round trips", took)
		}
		us, eu := g.us.calls(), g.eu.calls()
		if len(us) != 2 || len(eu) != 1 || us[1].opID != eu[0].opID || us[1].opID != a.OpID || us[0].opID == us[1].opID || us[0].opID != first.OpID {
			t.Errorf("op ids: us %v, eu %v", us, eu)
		}
		if eu[0].token == "" || eu[0].token != us[1].token {
			t.Errorf("tokens: us %v, eu %v", us, eu)
		}
		if told := g.told(); told != "retry 2 us→eu CONNECTION_LOST" {
			t.Errorf("told %q", told)
		}
		// The edit counts once, wherever it was applied.
		g.eu.gossip(g.us)
		if b := g.add(OpID(a.OpID)); !b.Replayed || b.OpID != a.OpID || b.Msg.GetItemCount() != 2 {
			t.Errorf("again: %+v", b)
		}
	})
}

func TestKilledRegionIsLeftAndComesBackTo(t *testing.T) {
	bubble(t, func(t *testing.T, g *rig) {
		g.add()
		g.eu.gossip(g.us)
		g.us.kill()
		var longest time.Duration
		for range 20 {
			begun := time.Now()
			if a := g.add(); a.Region != "eu" {
				t.Fatalf("answered by %s", a.Region)
			}
			longest = max(longest, time.Since(begun))
			time.Sleep(50 * ms)
		}
		if longest != 40*ms {
			t.Errorf("an add took %v, its region was %v away", longest, 40*ms)
		}
		if st := g.Status(); st.Budget != 10 || st.Regions[0].Region != "eu" || !st.Regions[0].Listed || st.Regions[2].Healthy {
			t.Errorf("status %+v", st)
		}
		g.told()
		g.us.start()
		g.us.gossip(g.eu)
		back := time.Now()
		for g.add().Region != "us" {
			time.Sleep(50 * ms)
			g.us.gossip(g.eu)
			if time.Since(back) > time.Minute {
				t.Fatal("not back within a minute")
			}
		}
		took := time.Since(back)
		if least := g.cfg.ReturnAfter; took < least || took > least+5*g.cfg.ProbeEvery {
			t.Errorf("back after %v, ReturnAfter is %v", took, least)
		}
		if told := g.told(); told != "us healthy=true; eu→us nearer" {
			t.Errorf("told %q", told)
		}
	}, func(c *Config) { c.BudgetMax, c.BudgetShare, c.BudgetPerSecond = 10, 0, 0 }) // whatever is taken shows
}

func TestSilentRegionCostsOneAttempt(t *testing.T) {
	bubble(t, func(t *testing.T, g *rig) {
		g.us.set(func(r *fakeRegion) { r.silent = true })
		begun := time.Now()
		a := g.add()
		if took := time.Since(begun); a.Region != "eu" || took != g.cfg.AttemptTimeout+40*ms {
			t.Errorf("%s after %v", a.Region, took)
		}
		time.Sleep(5 * time.Second) // probes notice as well
		if g.Status().Regions[0].Region != "eu" {
			t.Errorf("status %+v", g.Status())
		}
	})
}

func TestUnreadyRegionIsLeft(t *testing.T) {
	bubble(t, func(t *testing.T, g *rig) {
		g.us.set(func(r *fakeRegion) { r.unready = true })
		time.Sleep(10 * time.Second)
		if told := g.told(); told != "us healthy=false; us→eu unhealthy" {
			t.Errorf("told %q", told)
		}
	})
}

func TestRetryAfterIsHonoured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(10 * ms)
		cfg := DefaultConfig()
		cfg.Transport = n
		c, err := New("us", cfg) // no Run: calls work all the same
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s := c.Session(User("u"))
		n.regions["us"].set(func(r *fakeRegion) { r.err = apiError(connect.CodeUnavailable, "NO_QUORUM", "2") })
		begun := time.Now()
		_, err = s.Add(t.Context(), addOne())
		var e *Error
		if !errors.As(err, &e) || e.Code != "NO_QUORUM" || e.RetryAfter != 2*time.Second || e.Unknown || e.Attempts != 3 || e.OpID == "" {
			t.Errorf("%+v", e)
		}
		at := n.regions["us"].calls()
		for i := range at[1:] {
			if gap := at[i+1].at.Sub(at[i].at); gap < 2*time.Second {
				t.Errorf("asked again after %v", gap)
			}
		}
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
		// What cannot be awaited is not.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun = time.Now()
		if _, err = s.Add(ctx, addOne()); !errors.As(err, &e) || e.Attempts != 1 || time.Since(begun) != 10*ms {
			t.Errorf("with a near deadline: %+v after %v", e, time.Since(begun))
		}
		// A limit of the shopper's is not got round by another region.
		n.regions["us"].set(func(r *fakeRegion) { r.err = apiError(connect.CodeResourceExhausted, "RATE_LIMITED", "1") })
		time.AfterFunc(500*ms, func() { n.regions["us"].set(func(r *fakeRegion) { r.err = nil }) })
		if a, err := s.Add(t.Context(), addOne()); err != nil || a.Attempts != 2 {
			t.Errorf("limited: %+v, %v", a, err)
		}
	})
}

func TestFinalErrorsAreNotRetried(t *testing.T) {
	bubble(t, func(t *testing.T, g *rig) {
		var e *Error
		g.us.set(func(r *fakeRegion) { r.err = apiError(connect.CodeFailedPrecondition, "UNKNOWN_SKU", "") })
		if _, err := g.s.Add(t.Context(), addOne()); !errors.As(err, &e) || e.Code != "UNKNOWN_SKU" || e.Attempts != 1 || e.Unknown || e.Region != "us" || e.Error() != "UNKNOWN_SKU (us): told to" {
			t.Errorf("%+v", e)
		}
		// A refusal after a lost answer does not say that nothing happened.
		g.us.set(func(r *fakeRegion) { r.err, r.broken = nil, 1 })
		g.eu.set(func(r *fakeRegion) { r.err = apiError(connect.CodeAborted, "VERSION_CONFLICT", "") })
		if _, err := g.s.Add(t.Context(), addOne(), OpID("mine"), IfMatch("x")); !errors.As(err, &e) || e.Code != "VERSION_CONFLICT" || !e.Unknown || e.OpID != "mine" {
			t.Errorf("%+v", e)
		}
		gone := errors.New("the key is gone")
		s := g.Session(Bearer(func(context.Context) (string, error) { return "", gone }))
		if _, err := s.Get(t.Context()); !errors.Is(err, gone) || !errors.As(err, &e) || e.Code != "IDENTITY" || e.Attempts != 1 {
			t.Errorf("%+v", err)
		}
	})
}

func TestOutageDoesNotMultiplyLoad(t *testing.T) {
	bubble(t, func(t *testing.T, g *rig) {
		for _, r := range g.net.regions {
			r.set(func(r *fakeRegion) { r.err = apiError(connect.CodeDeadlineExceeded, "OUTCOME_UNKNOWN", "") })
		}
		const callers, each = 50, 60
		var calling sync.WaitGroup
		var mu sync.Mutex
		exhausted := 0
		for range callers {
			s := g.Session(User("u"))
			calling.Go(func() {
				for range each {
					_, err := s.Add(t.Context(), addOne())
					var e *Error
					if !errors.As(err, &e) || !e.Unknown {
						t.Errorf("%v", err)
						return
					}
					if e.Exhausted {
						mu.Lock()
						exhausted++
						mu.Unlock()
					}
					time.Sleep(20 * ms)
				}
			})
		}
		begun := time.Now()
		calling.Wait()
		requests := len(g.us.calls()) + len(g.eu.calls()) + len(g.ap.calls())
		most := callers*each + int(g.cfg.BudgetMax+g.cfg.BudgetShare*callers*each+g.cfg.BudgetPerSecond*time.Since(begun).Seconds()) + 1
		if requests > most || exhausted == 0 {
			t.Errorf("%d calls made %d requests, at most %d are allowed; %d were denied a retry", callers*each, requests, most, exhausted)
		}
		t.Logf("%d calls, %d requests in %v", callers*each, requests, time.Since(begun))
	})
}

func TestSlowReadIsHedged(t *testing.T) {
	bubble(t, func(t *testing.T, g *rig) {
		for range 50 {
			g.get()
		}
		if told := g.told(); told != "" {
			t.Fatalf("told %q", told)
		}
		delay := g.Status().Regions[0].HedgeAfter
		if delay < 10*ms || delay > 12*ms {
			t.Errorf("reads take 10 ms, hedged after %v", delay)
		}
		g.us.calls()
		g.us.set(func(r *fakeRegion) { r.slow = 500 * ms })
		begun := time.Now()
		a := g.get()
		if took := time.Since(begun); !a.Hedged || a.Region != "eu" || took != delay+40*ms || a.Attempts != 1 {
			t.Errorf("%+v after %v", a, took)
		}
		if told := g.told(); told != fmt.Sprintf("hedge us→eu after %v; won eu", delay) {
			t.Errorf("told %q", told)
		}
		synctest.Wait()
		if us := g.us.calls(); len(us) != 1 || !us[0].left {
			t.Errorf("the slow attempt was not called off: %+v", us)
		}
		// Writes are not hedged, however slow.
		g.eu.calls()
		begun = time.Now()
		if a := g.add(); a.Region != "us" || time.Since(begun) != 510*ms || len(g.eu.calls()) != 0 {
			t.Errorf("%+v after %v", a, time.Since(begun))
		}
		// Where the first answers in time after all, the hedge is called off.
		g.eu.gossip(g.us)
		g.us.set(func(r *fakeRegion) { r.slow = 20 * ms })
		g.told()
		g.eu.calls()
		a = g.get()
		synctest.Wait()
		if eu := g.eu.calls(); a.Hedged || a.Region != "us" || len(eu) != 1 || !eu[0].left {
			t.Errorf("%+v, hedge %+v", a, eu)
		}
	})
}

func TestStaleHedgeDoesNotWin(t *testing.T) {
	bubble(t, func(t *testing.T, g *rig) {
		for range 50 {
			g.get()
		}
		g.add() // not gossiped
		g.us.set(func(r *fakeRegion) { r.slow = 300 * ms })
		if a := g.get(); a.Stale || a.Region != "us" || a.Hedged {
			t.Errorf("%+v", a)
		}
		// When the first fails, a stale answer is better than none.
		g.us.set(func(r *fakeRegion) { r.broken = 1 })
		if a := g.get(); !a.Stale || a.Region != "eu" || !a.Hedged {
			t.Errorf("%+v", a)
		}
	})
}

func TestHedgesEndWithTheBudget(t *testing.T) {
	bubble(t, func(t *testing.T, g *rig) {
		g.us.set(func(r *fakeRegion) { r.slow = 500 * ms })
		for range 3 {
			g.get()
		}
		if told := g.told(); told != "hedge us→eu after 300ms; won eu; exhausted hedge=true; exhausted hedge=true" {
			t.Errorf("told %q", told)
		}
	}, func(c *Config) { c.BudgetMax, c.BudgetShare, c.BudgetPerSecond = 1, 0, 0 })
}

func TestSessionSeesItsWritesOrIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, g *rig) {
		if a := g.get(); a.Stale || a.Msg.GetItemCount() != 0 {
			t.Errorf("%+v", a)
		}
		g.add()
		g.eu.gossip(g.us)
		g.ap.gossip(g.us)
		g.add() // us alone has it
		g.us.kill()
		a := g.get()
		if !a.Stale || a.Region != "eu" || a.Msg.GetItemCount() != 1 {
			t.Errorf("after a move: %+v", a)
		}
		// What us alone has is not asked for again and again, but not forgotten.
		g.eu.calls()
		b := g.add()
		if !b.Stale || b.Region != "eu" || g.eu.calls()[0].token == g.s.Token() {
			t.Errorf("a write on top of less: %+v", b)
		}
		g.eu.kill()
		// ap lacks both; with eu's it still lacks what us has.
		if a := g.get(); !a.Stale || a.Region != "ap" || a.Msg.GetItemCount() != 1 {
			t.Errorf("in the third region: %+v", a)
		}
		g.ap.gossip(g.eu)
		if a := g.get(); !a.Stale || a.Msg.GetItemCount() != 2 || a.Msg.GetStale() {
			t.Errorf("with one of two: %+v", a)
		}
		g.ap.gossip(g.us)
		if a := g.get(); a.Stale || a.Msg.GetItemCount() != 3 {
			t.Errorf("with both: %+v", a)
		}
		g.ap.calls()
		if g.get(); g.ap.calls()[0].token != g.s.Token() {
			t.Error("all that was seen is not asked for again")
		}
		// Another process goes on where this one ended.
		other := g.Session(User("u"))
		if err := other.Observe(g.s.Token()); err != nil || other.Observe("nonsense") == nil {
			t.Errorf("observe: %v", err)
		}
		g.ap.set(func(r *fakeRegion) { r.context = r.context.Without(r.context.Replicas()[0]) })
		if a, err := other.Get(t.Context()); err != nil || !a.Stale {
			t.Errorf("%+v, %v", a, err)
		}
	})
}

func TestSessionStaysWhereItWasAnswered(t *testing.T) {
	bubble(t, func(t *testing.T, g *rig) {
		g.us.set(func(r *fakeRegion) { r.err = apiError(connect.CodeUnavailable, "NO_QUORUM", "1") })
		if a := g.add(); a.Region != "eu" || a.Attempts != 2 {
			t.Errorf("%+v", a)
		}
		if a := g.add(); a.Region != "eu" || a.Attempts != 1 || a.Stale {
			t.Errorf("%+v", a)
		}
		// Others still go where calls go.
		if a, err := g.Session(User("v")).Add(t.Context(), addOne()); err != nil || a.Attempts != 2 {
			t.Errorf("%+v, %v", a, err)
		}
		g.us.set(func(r *fakeRegion) { r.err = nil })
		g.us.gossip(g.eu)
		time.Sleep(g.cfg.DetourFor)
		if a := g.add(); a.Region != "us" || a.Attempts != 1 || a.Stale {
			t.Errorf("%+v", a)
		}
	})
}

func TestUpdateThatLacksWhatWasSeenIsStale(t *testing.T) {
	bubble(t, func(t *testing.T, g *rig) {
		g.add()
		old := g.s.Token()
		g.add()
		// The region need not know what the session has seen meanwhile.
		if !g.s.shown(old, false) || g.s.shown(g.s.Token(), false) {
			t.Error("an update of before the last write is taken for new, or a new one is not")
		}
		if g.us.calls(); g.get().Stale || g.us.calls()[0].token != g.s.Token() {
			t.Error("an old update changes what is asked for")
		}
	})
}

func TestForeignTokenIsSentBack(t *testing.T) {
	bubble(t, func(t *testing.T, g *rig) {
		before := g.s.look()
		if g.s.answered(before, "bmV3ZXI", true) != true || g.s.Token() != "bmV3ZXI" {
			t.Errorf("token %q", g.s.Token())
		}
		g.add()
		if us := g.us.calls(); us[0].token != "bmV3ZXI" || g.s.Token() == "bmV3ZXI" {
			t.Errorf("sent %q, then holds %q", us[0].token, g.s.Token())
		}
		// An answer about another cart begins anew: the shopper has logged in.
		if g.s.answered(g.s.look(), causal.Token{CartID: "cart:v"}.Encode(), false) || g.s.seen.CartID != "cart:v" {
			t.Errorf("%+v", g.s.seen)
		}
	})
}

// In the midst of an upgrade a region may give tokens that another one refuses.
func TestForeignTokenIsNotForEveryRegion(t *testing.T) {
	bubble(t, func(t *testing.T, g *rig) {
		g.add()
		g.s.answered(g.s.look(), "bmV3ZXI", false)
		g.us.set(func(r *fakeRegion) { r.old = true })
		g.us.calls()
		a := g.add()
		us := g.us.calls()
		if len(us) != 2 || us[0].token != "bmV3ZXI" || us[1].token == "" || us[0].opID != us[1].opID {
			t.Errorf("sent %+v", us)
		}
		if !a.Stale || g.s.Token() != "bmV3ZXI" {
			t.Errorf("stale %v, the session holds %q: nobody knows whether the region has what it names", a.Stale, g.s.Token())
		}
		if a := g.get(); !a.Stale {
			t.Error("a read at the older region is not marked")
		}
		ctx, leave := context.WithCancel(t.Context())
		ch := g.updates(ctx)
		time.Sleep(time.Second)
		if got := shown(ch); len(got) != 1 || got[0] != "us 2 stale=true" {
			t.Errorf("a watch there shows %q", got)
		}
		leave()
		synctest.Wait()
		g.us.set(func(r *fakeRegion) { r.old = false })
		if a := g.get(); a.Stale || g.s.Token() == "bmV3ZXI" {
			t.Errorf("a region that reads it: stale %v, the session holds %q", a.Stale, g.s.Token())
		}
	})
}

// An attempt whose answer was lost may have been made where something was
// lacking; the region that has it from there cannot tell.
func TestReplayedEditMayLackWhatWasSeen(t *testing.T) {
	bubble(t, func(t *testing.T, g *rig) {
		if a := g.add(OpID("first")); a.Stale || a.Replayed {
			t.Errorf("%+v", a)
		}
		if a := g.add(OpID("first")); !a.Stale || !a.Replayed {
			t.Errorf("%+v", a)
		}
		if a := g.get(); a.Stale {
			t.Errorf("the next call: %+v", a)
		}
	})
}

// A session that asks for less than it has seen takes no hedge's answer that
// lacks what the first one's has.
func TestHedgeThatLacksWhatWasSeenDoesNotWin(t *testing.T) {
	bubble(t, func(t *testing.T, g *rig) {
		for range 50 {
			g.get()
		}
		g.add() // not gossiped
		g.us.kill()
		if a := g.get(); !a.Stale || a.Region != "eu" {
			t.Fatalf("%+v", a)
		}
		g.us.start()
		time.Sleep(DefaultConfig().DetourFor)
		g.us.set(func(r *fakeRegion) { r.slow = 300 * ms })
		if a := g.get(); a.Stale || a.Region != "us" || a.Hedged {
			t.Errorf("%+v", a)
		}
	})
}

// updates collects what a watch shows, until the channel is closed.
func (g *rig) updates(ctx context.Context) <-chan string {
	out := make(chan string, 100)
	go func() {
		defer close(out)
		for u, err := range g.s.Watch(ctx) {
			if err != nil {
				out <- err.Error()
				return
			}
			out <- fmt.Sprintf("%s %d stale=%v", u.Region, u.Cart.GetItemCount(), u.Stale)
		}
	}()
	return out
}

// shown returns what a watch showed by now.
func shown(ch <-chan string) (out []string) {
	synctest.Wait()
	for {
		select {
		case s, ok := <-ch:
			if !ok {
				return append(out, "end")
			}
			out = append(out, s)
		default:
			return out
		}
	}
}

func TestWatchGoesOnOverFailures(t *testing.T) {
	bubble(t, func(t *testing.T, g *rig) {
		ctx, cancel := context.WithCancel(t.Context())
		ch := g.updates(ctx)
		expect := func(want ...string) {
			t.Helper()
			time.Sleep(3 * time.Second)
			if got := shown(ch); !slices.Equal(got, want) {
				t.Errorf("shown %q, want %q", got, want)
			}
		}
		n := 0
		change := func(r *fakeRegion) {
			n++
			r.set(func(r *fakeRegion) { r.edit(fmt.Sprint(n)) })
		}
		expect("us 0 stale=false")
		change(g.us)
		expect("us 1 stale=false")
		g.eu.gossip(g.us)
		change(g.us)
		expect("us 2 stale=false")
		// eu has not seen the last one: it shows its cart as what it is.
		g.us.kill()
		expect("eu 1 stale=true")
		g.eu.gossip(g.us)
		expect("eu 2 stale=false")
		// Nothing is shown twice: ap has what was seen.
		g.ap.gossip(g.eu)
		g.eu.kill()
		expect()
		change(g.ap)
		expect("ap 3 stale=false")
		// Back where calls go.
		g.us.gossip(g.ap)
		g.us.start()
		time.Sleep(30 * time.Second)
		change(g.us)
		expect("us 4 stale=false")
		g.us.set(func(r *fakeRegion) {
			r.err = apiError(connect.CodePermissionDenied, "FORBIDDEN", "")
			r.wake()
		})
		expect("FORBIDDEN (us): told to", "end")
		cancel()
		for u, err := range g.s.Watch(t.Context(), Resume("nonsense")) {
			if err == nil {
				t.Errorf("%+v", u)
			}
		}
	})
}

func TestWatchEndsWithItsLoopItsContextAndTheClient(t *testing.T) {
	bubble(t, func(t *testing.T, g *rig) {
		for u, err := range g.s.Watch(t.Context()) {
			if err != nil || u.Region != "us" {
				t.Errorf("%+v, %v", u, err)
			}
			break
		}
		ctx, cancel := context.WithCancel(t.Context())
		ch := g.updates(ctx)
		time.Sleep(time.Second)
		cancel()
		if got := shown(ch); !slices.Equal(got, []string{"us 0 stale=false", "end"}) {
			t.Errorf("shown %q", got)
		}
		ch = g.updates(t.Context())
		time.Sleep(time.Second)
		g.Close()
		if got := shown(ch); !slices.Equal(got, []string{"us 0 stale=false", ErrClosed.Error(), "end"}) {
			t.Errorf("shown %q", got)
		}
	})
}

func TestCloseEndsEverything(t *testing.T) {
	bubble(t, func(t *testing.T, g *rig) {
		if err := g.Run(t.Context()); !errors.Is(err, errRunning) {
			t.Errorf("a second Run: %v", err)
		}
		for _, r := range g.net.regions {
			r.set(func(r *fakeRegion) { r.silent = true })
		}
		ended := make(chan error, 2)
		go func() { _, err := g.s.Get(t.Context()); ended <- err }()
		go func() { _, err := g.s.Add(t.Context(), addOne()); ended <- err }()
		time.Sleep(500 * ms)
		g.Close()
		for range 2 {
			if err := <-ended; !errors.Is(err, ErrClosed) {
				t.Errorf("under way: %v", err)
			}
		}
		var e *Error
		if _, err := g.s.Get(t.Context()); !errors.Is(err, ErrClosed) || !errors.As(err, &e) || e.Code != "CLOSED" {
			t.Errorf("after: %v", err)
		}
		if err := g.Run(t.Context()); err == nil {
			t.Error("a closed client runs")
		}
		g.Close()
	})
}

func TestCallersContextIsKept(t *testing.T) {
	bubble(t, func(t *testing.T, g *rig) {
		for _, r := range g.net.regions {
			r.set(func(r *fakeRegion) { r.silent = true })
		}
		ctx, cancel := context.WithTimeout(t.Context(), 1200*ms)
		defer cancel()
		begun := time.Now()
		_, err := g.s.Add(ctx, addOne())
		var e *Error
		if took := time.Since(begun); took != 1200*ms || !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &e) || !e.Unknown || e.Attempts != 2 {
			t.Errorf("%+v after %v", e, took)
		}
		begun = time.Now()
		if _, err := g.s.Get(t.Context()); err == nil || time.Since(begun) != g.cfg.CallTimeout {
			t.Errorf("without a deadline: %v after %v", err, time.Since(begun))
		}
		gone, leave := context.WithCancel(t.Context())
		time.AfterFunc(100*ms, leave)
		if _, err := g.s.Get(gone); !errors.Is(err, context.Canceled) {
			t.Errorf("a caller who left: %v", err)
		}
	})
}
