package cache

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
)

func testConfig() Config {
	cfg := DefaultConfig()
	cfg.Prefix = "test:"
	cfg.OpTimeout = time.Second // a busy test machine is not a slow Redis
	cfg.DialTimeout = time.Second
	return cfg
}

func mustOpen(tb testing.TB, addr string, cfg Config) *remote {
	tb.Helper()
	c, err := Open(addr, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() }) // some tests close it themselves
	return c.(*remote)
}

// openMini is a rig on miniredis: a fake, a Redis in this process written in
// Go, with another Lua. The same suite runs on real servers with the services tag.
func openMini(t *testing.T) (rig, *miniredis.Miniredis, *remote) {
	t.Helper()
	srv := miniredis.RunT(t)
	addr := "redis://" + srv.Addr()
	r := mustOpen(t, addr, testConfig())
	return rig{
		cache:  r,
		flush:  func(*testing.T) { srv.FlushAll() },
		reopen: func(t *testing.T) Cache { return mustOpen(t, addr, testConfig()) },
		plant: func(t *testing.T, key, value string) {
			t.Helper()
			var err error
			if value == listMarker {
				_, err = srv.Push("test:"+key, "x")
			} else {
				err = srv.Set("test:"+key, value)
			}
			if err != nil {
				t.Fatal(err)
			}
		},
	}, srv, r
}

func TestFakeRedisSuite(t *testing.T) {
	testSuite(t, func(t *testing.T) rig { r, _, _ := openMini(t); return r })
}

func TestTTL(t *testing.T) {
	ctx := context.Background()
	_, srv, r := openMini(t)
	var lo, hi time.Duration
	for i := range 50 {
		key := fmt.Sprint("k", i)
		r.Store(ctx, key, Entry{Version{1, 1, 1}, []byte("cart")})
		ttl := srv.TTL("test:" + key)
		if ttl > r.cfg.TTL || ttl < r.cfg.TTL*9/10 {
			t.Fatalf("ttl %v, want within 10 %% under %v", ttl, r.cfg.TTL)
		}
		if i == 0 {
			lo, hi = ttl, ttl
		}
		lo, hi = min(lo, ttl), max(hi, ttl)
	}
	if hi-lo < r.cfg.TTL/100 {
		t.Errorf("50 entries end within %v: no jitter", hi-lo)
	}
	r.Store(ctx, "gone", Entry{Version: Version{1, 1, 1}})
	if ttl := srv.TTL("test:gone"); ttl <= 0 || ttl > r.cfg.TombstoneTTL {
		t.Errorf("ttl of a removal is %v", ttl)
	}
	srv.FastForward(r.cfg.TTL)
	wantMiss(t, r, "k1")
}

func TestErrorReplies(t *testing.T) {
	ctx := context.Background()
	count := newCounter()
	srv := miniredis.RunT(t)
	cfg := testConfig()
	cfg.Events = count.events()
	r := mustOpen(t, "redis://"+srv.Addr(), cfg)

	// Full memory: stores fail, loads must go on, so the breaker stays closed.
	r.Store(ctx, "k", Entry{Version{1, 1, 1}, []byte("cart")})
	srv.SetError("OOM command not allowed when used memory > 'maxmemory'.")
	for range 30 {
		r.Store(ctx, "k", Entry{Version{1, 1, 2}, []byte("cart")})
	}
	srv.SetError("")
	if n := count.of(OpStore, Failed); n != 30 {
		t.Errorf("%d failed stores, want 30", n)
	}
	if err := fmt.Sprint(count.lastErr); !strings.Contains(err, `store "test:k"`) || !strings.Contains(err, "OOM") {
		t.Errorf("error is %q", err)
	}
	wantEntry(t, r, "k", Entry{Version{1, 1, 1}, []byte("cart")})

	// Any other error, each time: Redis leaves the path.
	srv.SetError("LOADING Redis is loading the dataset in memory")
	for range 30 {
		wantMiss(t, r, "k")
	}
	if f, s := count.of(OpLoad, Failed), count.of(OpLoad, Skipped); f != int(cfg.BreakerFailures) || s != 30-f {
		t.Errorf("%d failed and %d skipped loads, want %d and %d", f, s, cfg.BreakerFailures, 30-cfg.BreakerFailures)
	}
	if err := r.Ping(ctx); err == nil || !strings.Contains(err.Error(), srv.Addr()) {
		t.Errorf("ping of a loading Redis: %v", err)
	}
}

// The script cache of a Redis is empty after a restart or a failover.
func TestScriptForgotten(t *testing.T) {
	ctx := context.Background()
	_, _, r := openMini(t)
	for i := range uint64(3) {
		e := Entry{Version{1, 1, i}, fmt.Append(nil, i)}
		r.StoreMany(ctx, []string{"a", "b"}, []Entry{e, e})
		wantEntry(t, r, "a", e)
		wantEntry(t, r, "b", e)
		if err := r.client.ScriptFlush(ctx).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBreaker(t *testing.T) {
	ctx := context.Background()
	srv := miniredis.RunT(t)
	p := newProxy(t, srv.Addr())
	count := newCounter()
	cfg := testConfig()
	cfg.OpTimeout = 40 * time.Millisecond
	cfg.BreakerFailures = 3
	cfg.BreakerOpen = 150 * time.Millisecond
	cfg.Events = count.events()
	var logged strings.Builder
	cfg.Log = slog.New(slog.NewTextHandler(&logged, nil))
	r := mustOpen(t, "redis://"+p.addr, cfg)
	old := Entry{Version{1, 1, 1}, []byte("old")}
	eventually(t, "first store", 5*time.Second, func() bool {
		r.Store(ctx, "k", old)
		_, ok := r.Load(ctx, "k")
		return ok
	})

	p.stall(true)
	start := time.Now()
	for count.of(OpLoad, Skipped) == 0 {
		if _, ok := r.Load(ctx, "k"); ok {
			t.Fatal("a hit through a stalled connection")
		}
		if time.Since(start) > 10*time.Second {
			t.Fatal("breaker did not open")
		}
	}
	// Open: neither loads nor stores wait. The best of some, as other tests share the processors.
	best := time.Hour
	for range 20 {
		start := time.Now()
		r.Load(ctx, "k")
		r.StoreMany(ctx, []string{"k", "l"}, []Entry{old, old})
		best = min(best, time.Since(start))
	}
	if best > cfg.OpTimeout/4 {
		t.Errorf("calls take %v while the breaker is open", best)
	}
	if count.of(OpStore, Skipped) == 0 {
		t.Error("no store was skipped")
	}
	count.mu.Lock()
	worst := count.worstFor
	count.mu.Unlock()
	if worst > cfg.OpTimeout+2*time.Second { // go-redis waits 5 s unless told
		t.Errorf("a call took %v with an op timeout of %v", worst, cfg.OpTimeout)
	}
	if err := r.Ping(ctx); err == nil {
		t.Error("a stalled Redis answers a ping")
	}

	p.stall(false)
	newer := Entry{Version{1, 1, 2}, []byte("newer")}
	eventually(t, "recovery", 10*time.Second, func() bool {
		r.Store(ctx, "k", newer)
		got, ok := r.Load(ctx, "k")
		return ok && equal(got, newer)
	})
	if err := r.Ping(ctx); err != nil {
		t.Error(err)
	}
	count.mu.Lock()
	defer count.mu.Unlock()
	states := strings.Join(count.breaker, ",")
	if !strings.HasPrefix(states, "redis open,redis half-open,") || !strings.HasSuffix(states, "redis closed") {
		t.Errorf("breaker went %s", states)
	}
	if !strings.Contains(logged.String(), "cache breaker changed state") {
		t.Error("nothing logged")
	}
}

// Many callers at once, each with its own deadline, must all be let go.
func TestStallBoundsEveryCaller(t *testing.T) {
	srv := miniredis.RunT(t)
	p := newProxy(t, srv.Addr())
	p.stall(true)
	cfg := testConfig()
	cfg.OpTimeout = 50 * time.Millisecond
	cfg.PoolSize = 2 // most wait for a connection
	cfg.BreakerFailures = 1 << 20
	cfg.BreakerRequests = 1 << 20
	r := mustOpen(t, "redis://"+p.addr, cfg)
	start := time.Now()
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if i%2 == 0 {
				r.Load(context.Background(), "k")
			} else {
				r.Store(context.Background(), "k", Entry{})
			}
		})
	}
	wg.Wait()
	if took := time.Since(start); took > 2*time.Second { // one after the other: 2.5 s or more
		t.Errorf("100 callers took %v", took)
	}
}

// A caller that leaves early says nothing about Redis; one that leaves late does.
func TestCallerLeaves(t *testing.T) {
	srv := miniredis.RunT(t)
	p := newProxy(t, srv.Addr())
	p.stall(true)
	count := newCounter()
	cfg := testConfig()
	cfg.Events = count.events()
	r := mustOpen(t, "redis://"+p.addr, cfg)
	load := func(wait time.Duration) {
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		defer cancel()
		if _, ok := r.Load(ctx, "k"); ok {
			t.Error("hit")
		}
		r.Store(ctx, "k", Entry{})
	}
	for range 20 {
		load(time.Millisecond)
	}
	if n, f := count.of(OpLoad, Cancelled), count.of(OpLoad, Failed); n != 20 || f != 0 {
		t.Errorf("%d cancelled, %d failed of 20", n, f)
	}
	if n := count.of(OpStore, Cancelled); n != 20 {
		t.Errorf("%d stores cancelled of 20", n)
	}
	load(cfg.OpTimeout * 3 / 4)
	if n := count.of(OpLoad, Failed); n != 1 {
		t.Errorf("%d failed, want 1", n)
	}
}

func TestBreakerRatio(t *testing.T) {
	count := newCounter()
	cfg := RedisConfig{Config: testConfig()}
	cfg.Events = count.events()
	b := newBreakers(cfg)
	for i := range 2 * int(cfg.BreakerRequests) {
		done, err := b.allow(0)
		if err != nil {
			if i < int(cfg.BreakerRequests)-1 {
				t.Errorf("open after %d requests", i)
			}
			return
		}
		if i%2 == 0 {
			done(io.EOF)
		} else {
			done(nil)
		}
	}
	t.Error("a Redis that fails every second call stays in the path")
}

// proxy is a TCP proxy that can hold back every byte: a fake of a slow network.
type proxy struct {
	addr string

	mu    sync.Mutex
	open  chan struct{} // closed while bytes flow
	held  bool
	conns []net.Conn
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: ln.Addr().String(), open: make(chan struct{})}
	close(p.open)
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = ln.Close()
		p.stall(false)
		p.mu.Lock()
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				_ = in.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, in, out)
			p.mu.Unlock()
			wg.Go(func() { p.pipe(in, out) })
			wg.Go(func() { p.pipe(out, in) })
		}
	})
	return p
}

func (p *proxy) pipe(from, to net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		open := p.open
		p.mu.Unlock()
		<-open
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			_ = from.Close()
			_ = to.Close()
			return
		}
	}
}

func (p *proxy) stall(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if on == p.held {
		return
	}
	p.held = on
	if on {
		p.open = make(chan struct{})
	} else {
		close(p.open)
	}
}
