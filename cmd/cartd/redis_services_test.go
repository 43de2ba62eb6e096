//go:build services

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/samecart/samecart/region/cache"
	"github.com/samecart/samecart/region/store"
)

// simulations/redis gives these.
var (
	faultsFlag   = flag.Int("faults", 9, "faults of TestRedisFaults; each kind comes once in seven")
	seedFlag     = flag.Uint64("seed", 1, "what TestRedisFaults draws faults and calls from")
	shoppersFlag = flag.Int("shoppers", 24, "shoppers of TestRedisFaults, with a device in each region")
	clusterFlag  = flag.String("cluster", "", "regions that run already, each with a Redis to start: REGION=REDIS,GATEWAY,NODE,…;…, each a HOST:PORT")
)

// site is one region: processes and a Redis.
type site struct {
	name   string
	doors  []*door // the gateway is the first: it is what reads from Redis most
	redis  *redisServer
	faults atomic.Int32 // above 0 while the Redis is not as it should be
}

// door is a process that serves the API of a region.
type door struct {
	site *site
	kind string
	url  string
}

func newSite(t *testing.T, name, redisAt string, apis []string) *site {
	s := &site{name: name, redis: newRedisServer(t, redisAt)}
	for i, api := range apis {
		kind := "node"
		if i == 0 {
			kind = "gateway"
		}
		s.doors = append(s.doors, &door{site: s, kind: kind, url: "http://" + api})
	}
	return s
}

// openSites returns the regions that run already, or starts three.
func openSites(t *testing.T) []*site {
	t.Helper()
	if *clusterFlag == "" {
		return startSites(t)
	}
	var sites []*site
	for text := range strings.SplitSeq(*clusterFlag, ";") {
		name, list, _ := strings.Cut(text, "=")
		at := strings.Split(list, ",")
		if len(at) < 3 {
			t.Fatalf("-cluster has %q: give REGION=REDIS,GATEWAY,NODE,…", text)
		}
		sites = append(sites, newSite(t, name, at[0], at[1:]))
	}
	return sites
}

// startSites starts three regions of three nodes and a gateway each, as
// processes.
func startSites(t *testing.T) []*site {
	t.Helper()
	const perRegion = 11 // 3 nodes with 3 ports, gateway, Redis
	base := freeRow(len(regions) * perRegion)
	at := func(r, i int) string { return "127.0.0.1:" + strconv.Itoa(base+r*perRegion+i) }
	api, link, peer, gate, hot := 0, 3, 6, 9, 10
	var sites []*site
	for r, region := range regions {
		var nodes, peers, apis []string
		for n := range 3 {
			nodes = append(nodes, fmt.Sprintf("%s/%d=%s", region, n+1, at(r, link+n)))
			apis = append(apis, at(r, api+n))
		}
		for o, other := range regions {
			if o != r {
				peers = append(peers, fmt.Sprintf("%s=http://%s,http://%s,http://%s", other, at(o, peer), at(o, peer+1), at(o, peer+2)))
			}
		}
		sites = append(sites, newSite(t, region, at(r, hot), append([]string{at(r, gate)}, apis...)))
		common := []string{"--log", "warn", "", "--region", region, "--nodes", strings.Join(nodes, ";"), "--shards", "2", "--trust-headers", "--redis", "redis://" + at(r, hot)}
		start := func(command string, more ...string) {
			line := append(append([]string{}, common...), more...)
			line[2] = command
			lives(t, spawn(t, nil, line...))
		}
		for n := range 3 {
			start("node", "--node", strconv.Itoa(n+1), "--data", filepath.Join(t.TempDir(), "node"), "--peers", strings.Join(peers, ";"),
				"--listen", at(r, api+n), "--link-listen", at(r, link+n), "--peer-listen", at(r, peer+n),
				"--memtable", "16777216", "--cart-cache", "33554432")
		}
		start("gateway", "--listen", at(r, gate))
	}
	return sites
}

// lives fails the test if the process ends before it.
func lives(t *testing.T, c *child) {
	t.Cleanup(func() { // runs before the one that kills it
		select {
		case <-c.done:
			t.Errorf("%s ended by itself with %d: %s", c.cmd.Args[3:], c.code, c.errs)
		default:
		}
	})
}

// redisServer is a real Redis that the test breaks.
type redisServer struct {
	t    *testing.T
	bin  string
	host string
	port string
	dir  string
	cmd  *exec.Cmd

	loads, hits int64 // what tally found
	keys        int64 // there were when the counts began
}

func newRedisServer(t *testing.T, at string) *redisServer {
	t.Helper()
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatalf("%v; install it (Debian: deploy/services/install redis-server)", err)
	}
	host, port, ok := strings.Cut(at, ":")
	if !ok {
		t.Fatalf("Redis at %q: give HOST:PORT", at)
	}
	r := &redisServer{t: t, bin: bin, host: host, port: port, dir: t.TempDir()}
	t.Cleanup(func() {
		if r.cmd != nil {
			r.kill()
		}
		if text, err := os.ReadFile(filepath.Join(r.dir, "log")); t.Failed() && err == nil {
			t.Logf("Redis at %s: …%s", at, text[max(0, len(text)-2000):])
		}
	})
	return r
}

// start starts it with what a dump holds, empty without one, and returns once
// it answers.
func (r *redisServer) start(dump []byte) error {
	file := filepath.Join(r.dir, "dump.rdb")
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if dump != nil {
		if err := os.WriteFile(file, dump, 0o600); err != nil {
			return err
		}
	}
	r.cmd = exec.Command(r.bin, "--bind", r.host, "--port", r.port, "--dir", r.dir, "--save", "", "--appendonly", "no",
		"--logfile", filepath.Join(r.dir, "log"))
	if err := r.cmd.Start(); err != nil {
		return err
	}
	var err error
	if _, ok := poll(20*time.Second, func() bool {
		err = r.ask(func(ctx context.Context, c *redis.Client) error { return c.Ping(ctx).Err() })
		return err == nil
	}); !ok {
		return fmt.Errorf("redis-server at %s does not answer after its start: %w", r.port, err)
	}
	return r.begin()
}

// kill ends it at once, as a crash would.
func (r *redisServer) kill() {
	_ = r.cmd.Process.Kill() // it may have ended
	_ = r.cmd.Wait()         // says "killed"
}

func (r *redisServer) signal(s syscall.Signal) error { return r.cmd.Process.Signal(s) }

// ask makes a connection of its own for each call: none is left from before a
// fault.
func (r *redisServer) ask(call func(context.Context, *redis.Client) error) error {
	c := redis.NewClient(&redis.Options{Addr: r.host + ":" + r.port, MaxRetries: -1, Protocol: 2, DisableIdentity: true})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return errors.Join(call(ctx, c), c.Close())
}

// begin begins the counts that tally reads.
func (r *redisServer) begin() error {
	return r.ask(func(ctx context.Context, c *redis.Client) error {
		p := c.TxPipeline()
		size := p.DBSize(ctx)
		p.ConfigResetStat(ctx)
		_, err := p.Exec(ctx)
		r.keys = size.Val()
		return err
	})
}

// tally adds up what was asked of it since begin. A load is a GET. A store
// looks at the key with GETRANGE, which finds nothing exactly when the key is
// new; Redis counts what both find together.
func (r *redisServer) tally() error {
	return r.ask(func(ctx context.Context, c *redis.Client) error {
		p := c.TxPipeline()
		size, stats, commands := p.DBSize(ctx), p.Info(ctx, "stats"), p.Info(ctx, "commandstats")
		if _, err := p.Exec(ctx); err != nil {
			return err
		}
		looked := number(commands.Val(), "cmdstat_getrange:calls=")
		r.loads += number(commands.Val(), "cmdstat_get:calls=")
		r.hits += number(stats.Val(), "keyspace_hits:") - (looked - (size.Val() - r.keys))
		return nil
	})
}

// number is what follows a name in what INFO says; 0 where it says nothing.
func number(info, name string) int64 {
	_, rest, _ := strings.Cut(info, "\n"+name)
	digits := strings.IndexFunc(rest, func(c rune) bool { return c < '0' || c > '9' })
	if digits < 0 {
		digits = len(rest)
	}
	n, _ := strconv.ParseInt(rest[:digits], 10, 64) // no digits: 0
	return n
}

// injector does to regions' Redis what may happen to one.
type injector struct {
	checker *checker
	mu      sync.Mutex // guards what follows
	made    map[string]int
	older   int // entries that came back, older than what sessions had seen
}

// setBack is the kind that brings older entries back.
const setBack = "back to a dump of 1 to 3 s before"

// faultKinds are what is done, each by one function that returns when the
// Redis works again.
var faultKinds = map[string]func(context.Context, *injector, *site, *rand.Rand) error{
	"killed, started again empty": func(_ context.Context, _ *injector, s *site, _ *rand.Rand) error {
		if err := s.redis.tally(); err != nil {
			return err
		}
		s.redis.kill()
		return s.redis.start(nil)
	},
	"stopped for 1 to 5 s": func(ctx context.Context, _ *injector, s *site, rng *rand.Rand) error {
		return s.redis.frozen(ctx, between(rng, time.Second, 5*time.Second))
	},
	"flushed": func(_ context.Context, _ *injector, s *site, _ *rand.Rand) error {
		if err := s.redis.tally(); err != nil {
			return err
		}
		if err := s.redis.ask(func(ctx context.Context, c *redis.Client) error { return c.FlushAll(ctx).Err() }); err != nil {
			return err
		}
		return s.redis.begin()
	},
	"paused for 500 ms": func(ctx context.Context, _ *injector, s *site, _ *rand.Rand) error {
		const pause = 500 * time.Millisecond
		err := s.redis.ask(func(ctx context.Context, c *redis.Client) error { return c.ClientPause(ctx, pause).Err() })
		wait(ctx, pause)
		return err
	},
	"slow by 50 to 300 ms": func(ctx context.Context, _ *injector, s *site, rng *rand.Rand) error {
		for end := time.Now().Add(between(rng, 2*time.Second, 4*time.Second)); time.Now().Before(end) && ctx.Err() == nil; {
			if err := s.redis.frozen(ctx, between(rng, 50*time.Millisecond, 300*time.Millisecond)); err != nil {
				return err
			}
			wait(ctx, between(rng, 2*time.Millisecond, 20*time.Millisecond))
		}
		return nil
	},
	"away for 10 s": func(ctx context.Context, _ *injector, s *site, _ *rand.Rand) error {
		if err := s.redis.tally(); err != nil {
			return err
		}
		if err := s.redis.ask(func(ctx context.Context, c *redis.Client) error { return c.ShutdownNoSave(ctx).Err() }); err != nil {
			return err
		}
		if err := s.redis.cmd.Wait(); err != nil {
			return fmt.Errorf("redis-server told to shut down: %w", err)
		}
		wait(ctx, 10*time.Second)
		return s.redis.start(nil)
	},
	setBack: func(ctx context.Context, in *injector, s *site, rng *rand.Rand) error {
		if err := s.redis.ask(func(ctx context.Context, c *redis.Client) error { return c.Save(ctx).Err() }); err != nil {
			return err
		}
		dump, err := os.ReadFile(filepath.Join(s.redis.dir, "dump.rdb"))
		if err != nil {
			return err
		}
		s.faults.Add(-1) // it works until it is killed
		wait(ctx, between(rng, time.Second, 3*time.Second))
		s.faults.Add(1)
		if err := s.redis.tally(); err != nil {
			return err
		}
		s.redis.kill()
		if err := s.redis.start(dump); err != nil {
			return err
		}
		return in.lookBack(s)
	},
}

// frozen stops the process for a while: connections stay, and what is sent
// to it waits.
func (r *redisServer) frozen(ctx context.Context, d time.Duration) error {
	if err := r.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	wait(ctx, d)
	return r.signal(syscall.SIGCONT)
}

func between(rng *rand.Rand, lo, hi time.Duration) time.Duration {
	return lo + time.Duration(rng.Int64N(int64(hi-lo)))
}

// wait returns early when ctx ends: what a fault began it still ends.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// lookBack counts the entries in a region's Redis that lack what a session
// has seen: only with such is anything proved.
func (in *injector) lookBack(s *site) error {
	cfg := cache.DefaultConfig()
	cfg.Prefix, cfg.OpTimeout, cfg.DialTimeout = "samecart:"+s.name+":", time.Second, time.Second
	c, err := cache.Open("redis://"+s.redis.host+":"+s.redis.port, cfg)
	if err != nil {
		return err
	}
	older := 0
	for _, session := range in.checker.sessions {
		m := session.known.Load()
		if m == nil || m.cartID == "" || session.home != s {
			continue
		}
		e, ok := c.Load(context.Background(), m.cartID)
		if !ok {
			continue
		}
		rec, err := store.DecodeRecord(e.Data)
		if err != nil {
			return errors.Join(fmt.Errorf("cart %s in Redis: %w", m.cartID, err), c.Close())
		}
		if !rec.State.Cart.Context.Covers(m.context) {
			older++
		}
	}
	in.mu.Lock()
	in.older += older
	in.mu.Unlock()
	return errors.Join(c.Close(), s.redis.begin()) // these loads are not the regions'
}

// deal returns so many faults in random order, every kind as often as any
// other.
func deal(rng *rand.Rand, faults int) []string {
	kinds := sortedKeys(faultKinds)
	var out []string
	for len(out) < faults {
		for _, i := range rng.Perm(len(kinds)) {
			out = append(out, kinds[i])
		}
	}
	return out[:faults]
}

// run makes the faults: each region takes the next as soon as it has been
// well for a moment.
func (in *injector) run(ctx context.Context, t *testing.T, sites []*site, seed uint64, faults int) {
	next := make(chan string, faults)
	for _, kind := range deal(rand.New(rand.NewPCG(seed, 0)), faults) {
		next <- kind
	}
	close(next)
	var regions sync.WaitGroup
	for i, s := range sites {
		regions.Go(func() {
			rng := rand.New(rand.NewPCG(seed, ^uint64(i)))
			for kind := range next {
				wait(ctx, between(rng, 500*time.Millisecond, 1500*time.Millisecond))
				if ctx.Err() != nil {
					return
				}
				begin := time.Now()
				s.faults.Add(1)
				err := faultKinds[kind](ctx, in, s, rng)
				s.faults.Add(-1)
				if err != nil {
					t.Errorf("the Redis of %s could not be %s: %v", s.name, kind, err)
					return
				}
				in.mu.Lock()
				in.made[kind]++
				in.mu.Unlock()
				t.Logf("%s: %s (%v)", s.name, kind, time.Since(begin).Round(time.Millisecond))
			}
		})
	}
	regions.Wait()
}

// Redis is a cache: whatever becomes of it, no call fails for it, no answer
// lacks what the caller has seen, and none has to be marked stale for it.
func TestRedisFaults(t *testing.T) {
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	sites := openSites(t)
	for _, s := range sites {
		if err := s.redis.start(nil); err != nil {
			t.Fatal(err)
		}
	}
	c := newChecker(sites, *shoppersFlag, *seedFlag)
	defer c.client.CloseIdleConnections()
	for _, s := range sites {
		for _, p := range s.doors {
			sh := shopper{at: func(url string) string { return url }, client: c.client}
			eventually(t, 30*time.Second, p.url+" is ready", func() bool {
				a, err := sh.try(p.url, "GET", "/readyz", nil)
				return err == nil && a.status == 200
			})
		}
	}
	running, end := context.WithCancel(ctx)
	var sessions sync.WaitGroup
	for _, s := range c.sessions {
		sessions.Go(func() { s.run(running) })
	}
	in := &injector{checker: c, made: make(map[string]int)}
	begin := time.Now()
	in.run(ctx, t, sites, *seedFlag, *faultsFlag)
	wait(ctx, time.Second) // what a fault broke may show only after it
	took := time.Since(begin)
	end()
	sessions.Wait()
	if ctx.Err() != nil {
		t.Fatal("interrupted")
	}

	t.Logf("seed %d, %d sessions, %v:", *seedFlag, len(c.sessions), took.Round(time.Millisecond))
	c.report(t)
	var loads, hits int64
	for _, s := range sites {
		if err := s.redis.tally(); err != nil {
			t.Fatal(err)
		}
		loads, hits = loads+s.redis.loads, hits+s.redis.hits
	}
	t.Logf("Redis answered %d loads, %d of them with an entry", loads, hits)
	if hits == 0 {
		t.Error("nothing was read from Redis: the faults proved nothing")
	}
	total := 0
	for _, kind := range sortedKeys(faultKinds) {
		t.Logf("%7d times %s", in.made[kind], kind)
		total += in.made[kind]
		if in.made[kind] == 0 && *faultsFlag >= len(faultKinds) {
			t.Errorf("no Redis was %s", kind)
		}
	}
	t.Logf("%7d faults; %d entries that came back with a dump were older than what a session had seen", total, in.older)
	if in.made[setBack] > 0 && in.older == 0 {
		t.Error("no entry that came back was older than what sessions had seen: it proved nothing")
	}
	c.converged(t)
}
