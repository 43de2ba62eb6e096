package client

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestConfigReportsEveryBadField(t *testing.T) {
	if err := DefaultConfig().validate(); err != nil {
		t.Errorf("default: %v", err)
	}
	err := Config{}.validate()
	var all interface{ Unwrap() []error }
	if !errors.As(err, &all) || len(all.Unwrap()) != 13 {
		t.Errorf("zero value: %v", err)
	}
	if _, err := New("127.0.0.1:1", Config{}); err == nil {
		t.Error("New takes the zero value")
	}
	for _, bad := range []string{"", "http://", "ftp://x", "http://a b", "http://user@x", "http://x?a=b", "://"} {
		if _, err := New(bad, DefaultConfig()); err == nil {
			t.Errorf("New takes the address %q", bad)
		}
	}
	for in, want := range map[string]string{"h:1": "http://h:1", "HTTPS://H/a/": "https://h/a", "http://[::1]:80/": "http://[::1]:80"} {
		if got, err := baseURL(in); err != nil || got != want {
			t.Errorf("%q is %q, %v, want %q", in, got, err, want)
		}
	}
}

// --- regions ---

// chooser drives regions by hand; time passes a second a step.
type chooser struct {
	*regions

	t   *testing.T
	now time.Time
	log []string
}

func newChooser(t *testing.T, list ...listing) *chooser {
	cfg := DefaultConfig()
	cfg.ReturnAfter = 10 * time.Second
	c := &chooser{regions: newRegions(cfg, "http://front"), t: t, now: t0}
	if len(list) > 0 {
		c.take(c.learn(c.now, list))
	}
	return c
}

func (c *chooser) take(n notices) {
	for _, h := range n.health {
		c.log = append(c.log, fmt.Sprintf("%s healthy=%v", h.Region, h.Healthy))
	}
	for _, m := range n.moved {
		c.log = append(c.log, fmt.Sprintf("%s→%s %s", m.From, m.To, m.Why))
	}
}

// probe measures a region; a negative rtt is a failure.
func (c *chooser) probe(address string, rtt time.Duration) {
	why := ""
	if rtt < 0 {
		why = "refused"
	}
	c.take(c.regions.probed(c.now, address, rtt, why, 0.5))
}

func (c *chooser) fail(address string) {
	n, _ := c.regions.failed(c.now, c.now, address, "NO_QUORUM")
	c.take(n)
}

func (c *chooser) step() { c.now = c.now.Add(time.Second) }

// expect compares what was told since the last time.
func (c *chooser) expect(want ...string) {
	c.t.Helper()
	if !slices.Equal(c.log, want) {
		c.t.Fatalf("told %q, want %q", c.log, want)
	}
	c.log = nil
}

func three() []listing {
	return []listing{{"us", "http://us", true}, {"eu", "http://eu", true}, {"ap", "http://ap", true}}
}

const ms = time.Millisecond

func TestFirstChoiceWaitsForAllProbes(t *testing.T) {
	c := newChooser(t, three()...)
	c.probe("http://ap", 90*ms)
	c.probe("http://eu", 20*ms)
	c.expect() // us may be nearer
	c.probe("http://us", -1)
	c.expect("http://front→eu first choice")
	if order, fit := c.order(""); fmt.Sprint(order, fit) != "[http://eu http://ap http://us http://front] 4" {
		t.Errorf("order %v %d", order, fit)
	}
	if order, _ := c.order("http://ap"); fmt.Sprint(order) != "[http://ap http://eu http://us http://front]" {
		t.Errorf("order with a detour %v", order)
	}
}

// settle makes us the chosen one, of three.
func settle(t *testing.T) *chooser {
	c := newChooser(t, three()...)
	c.probe("http://us", 10*ms)
	c.probe("http://eu", 50*ms)
	c.probe("http://ap", 90*ms)
	c.expect("http://front→us first choice")
	return c
}

func TestRegionIsLeftWhenUnhealthyAndComesBack(t *testing.T) {
	c := settle(t)
	c.fail("http://us")
	c.fail("http://us")
	c.take(c.succeeded(c.now, "http://us"))
	c.fail("http://us")
	c.fail("http://us")
	c.expect() // never three in a row
	c.fail("http://us")
	c.expect("us healthy=false", "us→eu unhealthy")
	if order, fit := c.order("http://us"); order[0] != "http://eu" || order[3] != "http://us" || fit != 3 {
		t.Errorf("order %v %d: a detour to an unhealthy region", order, fit)
	}
	for range 3 {
		c.step()
		c.probe("http://us", 10*ms)
		c.probe("http://eu", 50*ms)
	}
	c.expect("us healthy=true")
	for range 9 {
		c.step()
		c.probe("http://us", 10*ms)
	}
	c.expect() // not for long enough yet
	c.step()
	c.probe("http://us", 10*ms)
	c.expect("eu→us nearer")
}

// A call that waited in vain, while the region answered others, says nothing
// of the region; a probe does.
func TestSlowRegionIsNotLeft(t *testing.T) {
	c := settle(t)
	began := c.now
	c.step()
	c.take(c.succeeded(c.now, "http://us"))
	c.step()
	looks := 0
	for range 10 {
		n, look := c.failed(c.now, began, "http://us", "NO_ANSWER")
		c.take(n)
		if look {
			looks++
		}
	}
	c.expect()
	if looks != 1 {
		t.Errorf("a probe was asked for %d times", looks)
	}
	// Those that began after its last answer do.
	for range 3 {
		n, _ := c.failed(c.now, c.now.Add(-ms), "http://us", "NO_ANSWER")
		c.take(n)
	}
	c.expect("us healthy=false", "us→eu unhealthy")
}

func TestMarginKeepsEqualRegionsFromFlapping(t *testing.T) {
	c := settle(t)
	for i := range 600 {
		c.step()
		c.probe("http://us", 20*ms+time.Duration(i%7)*ms)
		c.probe("http://eu", 17*ms+time.Duration(i%5)*ms)
	}
	c.expect()
	// A jam shorter than ReturnAfter is sat out; one that lasts is not.
	for range 9 {
		c.step()
		c.probe("http://us", 200*ms)
		c.probe("http://eu", 20*ms)
	}
	for range 60 {
		c.step()
		c.probe("http://us", 20*ms)
		c.probe("http://eu", 20*ms)
	}
	c.expect()
	for range 20 {
		c.step()
		c.probe("http://us", 200*ms)
		c.probe("http://eu", 20*ms)
	}
	c.expect("us→eu nearer")
}

func TestNothingHealthyStaysWhereItIs(t *testing.T) {
	c := settle(t)
	for _, at := range []string{"http://ap", "http://eu", "http://us"} {
		for range 3 {
			c.fail(at)
		}
	}
	// The given address is the last resort: it may find what probes do not.
	c.expect("ap healthy=false", "eu healthy=false", "us healthy=false", "us→http://front unhealthy")
	for range 3 {
		c.fail("http://front")
	}
	c.expect("http://front healthy=false")
	for range 3 {
		c.probe("http://ap", 90*ms)
	}
	c.expect("ap healthy=true", "http://front→ap unhealthy")
}

func TestListChanges(t *testing.T) {
	c := settle(t)
	c.take(c.learn(c.now, nil)) // says nothing
	c.expect()
	c.take(c.learn(c.now, []listing{{"eu", "http://eu", true}, {"new", "http://new", false}}))
	c.expect("us→eu unlisted")
	if p := c.find("http://new"); p == nil || p.healthy || c.find("http://eu").rtt == 0 {
		t.Errorf("after a new list: %+v", p)
	}
	due, next := c.due(c.now)
	if !slices.Equal(due, []string{"http://new"}) || !next.After(c.now) {
		t.Errorf("due %v, next %v", due, next)
	}
	// The given address may be a region's own.
	c = newChooser(t, listing{"front", "http://front", true})
	c.probe("http://front", 5*ms)
	c.expect()
	if order, _ := c.order(""); len(order) != 1 || c.label("http://front") != "front" {
		t.Errorf("order %v", order)
	}
}

func TestDoubtIsProbedSoon(t *testing.T) {
	c := settle(t)
	if due, _ := c.due(c.now); len(due) != 0 {
		t.Fatalf("due %v", due)
	}
	n, look := c.failed(c.now, c.now, "http://us", "NO_ANSWER")
	c.take(n)
	if due, _ := c.due(c.now); !look || !slices.Equal(due, []string{"http://us"}) {
		t.Errorf("after a failure: look %v, due %v", look, due)
	}
	c.probe("http://us", -1)
	if due, _ := c.due(c.now.Add(c.cfg.ProbeEvery / 4)); !slices.Equal(due, []string{"http://us"}) {
		t.Errorf("a doubtful region is not probed sooner: %v", due)
	}
}

// TestRegionsKeepTheirLaws runs random histories against a model that only
// remembers what was measured.
func TestRegionsKeepTheirLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := DefaultConfig()
		cfg.ReturnAfter = time.Duration(rapid.IntRange(0, 8).Draw(t, "ReturnAfter")) * time.Second
		cfg.FailuresMax = rapid.IntRange(1, 3).Draw(t, "FailuresMax")
		cfg.RecoveriesMin = rapid.IntRange(1, 3).Draw(t, "RecoveriesMin")
		r := newRegions(cfg, "http://front")
		if rapid.Bool().Draw(t, "home") {
			r.home = "http://us"
		}
		now := t0
		names := []string{"us", "eu", "ap", "sa"}
		better := map[string]time.Time{} // since when each was better than the current one in every decision
		bad := map[string]int{}
		good := map[string]int{}
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 1500).Draw(t, "passed")) * ms)
			before, wasSettled, wasHealthy, wasListed := r.current, r.settled, r.current.healthy, r.current.listed
			name := rapid.SampledFrom(names).Draw(t, "region")
			address := "http://" + name
			healthyBefore := map[string]bool{}
			for _, p := range r.list {
				healthyBefore[p.address] = p.healthy
			}
			var n notices
			known := r.find(address) != nil
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				var list []listing
				for _, name := range names {
					if rapid.IntRange(0, 3).Draw(t, "in") > 0 {
						list = append(list, listing{name, "http://" + name, true})
					}
				}
				n = r.learn(now, list)
				for _, name := range names {
					if r.find("http://"+name) == nil {
						delete(bad, "http://"+name)
						delete(good, "http://"+name)
					}
				}
			case 1:
				n = r.succeeded(now, address)
				bad[address] = 0
				good[address]++
			case 2, 3:
				n, _ = r.failed(now, now, address, "x")
				bad[address]++
				good[address] = 0
			case 4:
				n = r.probed(now, address, 0, "x", 0)
				bad[address]++
				good[address] = 0
			default:
				rtt := time.Duration(rapid.IntRange(1, 100).Draw(t, "rtt")) * ms
				n = r.probed(now, address, rtt, "", 0)
				bad[address] = 0
				good[address]++
			}
			if !known {
				bad[address], good[address] = 0, 0
			}
			// R3
			if p := r.find(address); p != nil && known {
				if healthyBefore[address] && !p.healthy && bad[address] < cfg.FailuresMax {
					t.Fatalf("%s is unhealthy after %d failures", name, bad[address])
				}
				if !healthyBefore[address] && p.healthy && good[address] < cfg.RecoveriesMin {
					t.Fatalf("%s is healthy after %d successes", name, good[address])
				}
				if p.healthy != healthyBefore[address] {
					bad[address], good[address] = 0, 0
				}
			}
			// R1
			if !r.current.healthy {
				for _, p := range r.list {
					if p.candidate() {
						t.Fatalf("%s is current and unhealthy, %s is well", r.current.label(), p.label())
					}
				}
			}
			if r.find(r.current.address) != r.current || !slices.Contains(r.sorted, r.current.address) {
				t.Fatalf("%s is current and not listed", r.current.label())
			}
			// R2
			for _, p := range r.list {
				since, ok := better[p.address]
				is := p != before && p.candidate() && r.beats(p, before)
				switch {
				case is && !ok:
					better[p.address] = now
				case !is:
					delete(better, p.address)
				}
				if r.current == p && p != before && wasSettled && wasHealthy && before.healthy && wasListed && before.listed &&
					(!is || now.Sub(better[p.address]) < cfg.ReturnAfter) {
					t.Fatalf("left %s for %s, better since %v, now %v", before.label(), p.label(), since, now)
				}
			}
			// R4
			if home := r.find(r.home); home != nil && len(n.moved) > 0 {
				if home.candidate() && r.current != home && n.moved[0].Why != Nearer { // it may be waiting for ReturnAfter
					t.Fatalf("moved to %s, home is well", r.current.label())
				}
				if before == home && wasHealthy && home.healthy && home.listed && wasSettled {
					t.Fatalf("left home, which is well, for %s", r.current.label())
				}
			}
			if r.current != before {
				clear(better)
				if len(n.moved) == 0 {
					t.Fatal("a move was not told")
				}
			} else if len(n.moved) > 0 {
				t.Fatalf("told %v, nothing moved", n.moved)
			}
			if r.fit > len(r.sorted) || len(r.sorted) != len(r.list) {
				t.Fatalf("order %v of %d regions, %d healthy", r.sorted, len(r.list), r.fit)
			}
		}
	})
}

// --- budget ---

func TestBudgetBoundsRetries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := DefaultConfig()
		cfg.BudgetShare = rapid.Float64Range(0, 1).Draw(t, "share")
		cfg.BudgetPerSecond = rapid.Float64Range(0, 20).Draw(t, "per second")
		cfg.BudgetMax = rapid.Float64Range(1, 50).Draw(t, "max")
		b := newBudget(cfg)
		now, calls, taken := t0, 0, 0
		b.fill(t0)
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(-5, 200).Draw(t, "passed")) * ms) // clocks of goroutines cross
			if rapid.Bool().Draw(t, "call") {
				b.called(now)
				calls++
			} else if b.take(now) {
				taken++
			}
			elapsed := b.at.Sub(t0).Seconds()
			if most := cfg.BudgetMax + cfg.BudgetShare*float64(calls) + cfg.BudgetPerSecond*elapsed; float64(taken) > most+1e-6 {
				t.Fatalf("%d taken, allowed %v", taken, most)
			}
			if b.tokens < 0 || b.tokens > cfg.BudgetMax {
				t.Fatalf("%v tokens", b.tokens)
			}
		}
	})
}

// --- latencies ---

func TestQuantileIsClose(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l latencies
		all := rapid.SliceOfN(rapid.Map(rapid.IntRange(16, 16_000_000), func(us int) time.Duration {
			return time.Duration(us) * time.Microsecond
		}), learntMin, rememberMax-1).Draw(t, "durations")
		for i, d := range all {
			if _, ok := l.quantile(0.95); ok != (i >= learntMin) {
				t.Fatalf("after %d durations ok is %v", i, ok)
			}
			l.add(d)
		}
		q := rapid.Float64Range(0.01, 0.99).Draw(t, "q")
		slices.Sort(all)
		rank := 0
		for float64(rank) < q*float64(len(all)) {
			rank++
		}
		truth := all[rank-1]
		got, _ := l.quantile(q)
		if float64(got) < float64(truth)*0.9999 || float64(got) > float64(truth)*1.1893 {
			t.Fatalf("quantile %v of %d is %v, said %v", q, len(all), truth, got)
		}
	})
}

func TestQuantileForgets(t *testing.T) {
	var l latencies
	for range 10_000 {
		l.add(time.Second)
	}
	for range 3 * rememberMax {
		l.add(ms)
	}
	if d, _ := l.quantile(0.95); d > 2*ms {
		t.Errorf("p95 is %v long after reads became fast", d)
	}
}

// --- course ---

// TestCourseKeepsItsLaws sends calls through regions that fail at random.
func TestCourseKeepsItsLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := DefaultConfig()
		order := []string{"a", "b", "c", "d"}[:rapid.IntRange(1, 4).Draw(t, "regions")]
		way := course{cfg: cfg, attemptsMax: cfg.AttemptsMax}
		now := t0
		deadline := now.Add(time.Duration(rapid.IntRange(1, 20_000).Draw(t, "deadline")) * ms)
		notYet := map[string]time.Time{}
		everywhere := t0
		failed := map[string]bool{}
		unknown, final := false, false
		var last verdict
		for n := 0; ; n++ {
			s := way.next(now, deadline, order, rapid.Float64Range(0, 1).Draw(t, "jitter"))
			if s.stop {
				break
			}
			if n >= cfg.AttemptsMax {
				t.Fatalf("attempt %d", n+1)
			}
			if final {
				t.Fatal("a final error was tried again")
			}
			begin := now.Add(s.pause)
			if s.timeout <= 0 || begin.Add(s.timeout).After(deadline) {
				t.Fatalf("an attempt of %v at %v, the deadline is %v", s.timeout, begin.Sub(t0), deadline.Sub(t0))
			}
			if begin.Before(notYet[s.address]) || begin.Before(everywhere) {
				t.Fatalf("%s is asked before its Retry-After", s.address)
			}
			if failed[s.address] && len(failed) < len(order) && last.again != later {
				t.Fatalf("%s is asked again, and not all were: %v", s.address, failed)
			}
			if failed[s.address] && last.again != later && s.pause < cfg.BackoffMin/2 {
				t.Fatalf("%s is asked again after %v", s.address, s.pause)
			}
			way.began()
			now = begin.Add(time.Duration(rapid.Int64Range(0, int64(s.timeout)).Draw(t, "took")))
			last = verdict{
				again: scope(rapid.SampledFrom([]int{1, 1, 1, 1, 2, 0}).Draw(t, "scope")),
				taken: taken(rapid.IntRange(0, 2).Draw(t, "taken")),
			}
			wait := time.Duration(rapid.IntRange(0, 1).Draw(t, "wait")*rapid.IntRange(0, 3000).Draw(t, "Retry-After")) * ms
			way.failed(now, s.address, last, wait)
			notYet[s.address] = now.Add(wait)
			if last.again == later {
				everywhere = now.Add(wait)
			}
			failed[s.address] = true
			unknown = unknown || last.taken == perhaps
			final = last.again == nowhere
			if way.unknown != unknown || way.free() != (last.taken == unsent) {
				t.Fatalf("unknown %v, free %v after %+v", way.unknown, way.free(), last)
			}
			rapid.Permutation(order).Draw(t, "order") // health changes meanwhile
		}
	})
}

func TestCourseWaitsLongerEachRound(t *testing.T) {
	cfg := DefaultConfig()
	way := course{cfg: cfg}
	var pauses, timeouts []time.Duration
	for range 10 {
		s := way.next(t0, time.Time{}, []string{"only"}, 1)
		way.began()
		way.failed(t0, s.address, verdicts[codeUnreachable], 0)
		pauses, timeouts = append(pauses, s.pause), append(timeouts, s.timeout)
	}
	if want := []time.Duration{0, 20 * ms, 40 * ms, 80 * ms, 160 * ms, 320 * ms, 640 * ms, 1000 * ms, 1000 * ms, 1000 * ms}; !slices.Equal(pauses, want) {
		t.Errorf("pauses %v", pauses)
	}
	if want := []time.Duration{600 * ms, 1200 * ms, 2400 * ms, 4800 * ms}; !slices.Equal(timeouts[:4], want) {
		t.Errorf("timeouts %v", timeouts)
	}
}

func BenchmarkCore(b *testing.B) {
	r := newRegions(DefaultConfig(), "http://front")
	r.learn(t0, three())
	for i, l := range three() {
		r.probed(t0, l.address, time.Duration(i+1)*ms, "", 0)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	budget := newBudget(DefaultConfig())
	b.ReportAllocs()
	for b.Loop() {
		budget.called(t0)
		order, _ := r.order("")
		r.hedgeAfter(order[0])
		r.read(order[0], time.Duration(rng.IntN(1000))*ms/100)
		r.succeeded(t0, order[0])
	}
}
