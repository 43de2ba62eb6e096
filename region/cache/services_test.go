//go:build services

package cache

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// testRedis is the address of the real Redis; it fails the test if there is none.
func testRedis(tb testing.TB) string {
	tb.Helper()
	addr := os.Getenv("SAMECART_TEST_REDIS")
	if addr == "" {
		tb.Fatal("SAMECART_TEST_REDIS is not set; it names a real Redis, such as redis://127.0.0.1:6379")
	}
	if !strings.Contains(addr, "://") {
		addr = "redis://" + addr
	}
	return addr
}

// servicePrefix gives each test keys of its own, as the Redis may be shared.
var servicePrefix atomic.Int64

// openService is a rig on the real servers at addr.
func openService(t *testing.T, addr string) rig {
	t.Helper()
	cfg := testConfig()
	cfg.Prefix = fmt.Sprintf("samecart-test-%d-%d-%d:", os.Getpid(), time.Now().UnixNano(), servicePrefix.Add(1))
	r := mustOpen(t, addr, cfg)
	admin := mustOpen(t, addr, cfg) // tests close r
	forget := func(t *testing.T) {
		t.Helper()
		ctx := context.Background()
		drop := func(ctx context.Context, c *redis.Client) error {
			for it := c.Scan(ctx, 0, cfg.Prefix+"*", 1000).Iterator(); ; {
				if !it.Next(ctx) {
					return it.Err()
				}
				if err := c.Del(ctx, it.Val()).Err(); err != nil {
					return err
				}
			}
		}
		var err error
		switch c := admin.client.(type) {
		case *redis.ClusterClient:
			err = c.ForEachMaster(ctx, drop)
		case *redis.Client:
			err = drop(ctx, c)
		}
		if err != nil {
			t.Errorf("drop test keys: %v", err)
		}
	}
	t.Cleanup(func() { forget(t) })
	return rig{
		cache:  r,
		flush:  forget,
		reopen: func(t *testing.T) Cache { return mustOpen(t, addr, cfg) },
		plant: func(t *testing.T, key, value string) {
			t.Helper()
			var err error
			if value == listMarker {
				err = admin.client.RPush(context.Background(), cfg.Prefix+key, "x").Err()
			} else {
				err = admin.client.Set(context.Background(), cfg.Prefix+key, value, time.Minute).Err()
			}
			if err != nil {
				t.Fatal(err)
			}
		},
	}
}

func TestServiceRedisSuite(t *testing.T) {
	addr := testRedis(t)
	testSuite(t, func(t *testing.T) rig { return openService(t, addr) })
}

// The default timeouts, not those of a patient test.
func TestServiceDefaultConfig(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Prefix = fmt.Sprintf("samecart-test-default-%d:", os.Getpid())
	cfg.TTL, cfg.TombstoneTTL = time.Minute, time.Second
	c := mustOpen(t, testRedis(t), cfg)
	ctx := context.Background()
	e := Entry{Version{1, 1, uint64(time.Now().UnixNano())}, make([]byte, 8000)}
	eventually(t, "a hit", 10*time.Second, func() bool {
		c.Store(ctx, "k", e)
		got, ok := c.Load(ctx, "k")
		return ok && equal(got, e)
	})
	c.Store(ctx, "k", Entry{Version: Version{2, 0, 0}})
	eventually(t, "end of the removal", 10*time.Second, func() bool { _, ok := c.Load(ctx, "k"); return !ok })
}

// server is a process that the test started.
type server struct {
	cmd  *exec.Cmd
	port int
	log  string
}

// startRedis runs redis-server (or redis-sentinel) from PATH in a directory of
// its own, on a free port, with extra configuration lines.
func startRedis(t *testing.T, program string, env []string, lines ...string) *server {
	t.Helper()
	bin, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%v; install redis-server and redis-sentinel", err)
	}
	dir, ports := t.TempDir(), freePorts(t, 2)
	s := &server{port: ports[0], log: filepath.Join(dir, "log")}
	conf := append([]string{
		"port " + strconv.Itoa(s.port), "bind 127.0.0.1", "protected-mode no", "dir " + dir, "logfile " + s.log, "daemonize no",
	}, lines...)
	if program == "redis-server" {
		conf = append(conf, `save ""`, "appendonly no", "cluster-port "+strconv.Itoa(ports[1]), "repl-diskless-sync-delay 0")
	}
	file := filepath.Join(dir, "conf")
	if err := os.WriteFile(file, []byte(strings.Join(conf, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.cmd = exec.Command(bin, file)
	s.cmd.Env = append(os.Environ(), env...)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			if text, err := os.ReadFile(s.log); err == nil {
				t.Logf("%s:%d\n%s", program, s.port, text)
			}
		}
	})
	c := s.client(t)
	eventually(t, program+" answers", 20*time.Second, func() bool { return c.Ping(context.Background()).Err() == nil })
	return s
}

func (s *server) host() string { return "127.0.0.1:" + strconv.Itoa(s.port) }

// kill ends the process at once, as a crash would. It may be called again.
func (s *server) kill() {
	if s.cmd.ProcessState == nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait() // says "killed"
	}
}

func (s *server) client(t *testing.T) *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: s.host()})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// freePorts are free now; something else could take one before Redis does, and
// then its start fails the test.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var out []int
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = ln.Close() }()
		out = append(out, ln.Addr().(*net.TCPAddr).Port)
	}
	return out
}

// R2: the order of versions must not depend on the locale of the server. The
// test builds a locale whose order is not that of bytes, so it is there everywhere.
func TestServiceLocale(t *testing.T) {
	dir := t.TempDir()
	const name = "en_US.UTF-8"
	if out, err := exec.Command("localedef", "-i", "en_US", "-f", "UTF-8", filepath.Join(dir, name)).CombinedOutput(); err != nil {
		t.Fatalf("build locale: %v; install localedef and its sources (Debian: locales)\n%s", err, out)
	}
	s := startRedis(t, "redis-server", []string{"LOCPATH=" + dir, "LC_ALL=" + name})
	if n, err := s.client(t).Eval(context.Background(), `return ('a' < 'B') and 1 or 0`, nil).Int(); err != nil || n != 1 {
		t.Fatalf("Lua in this Redis orders by bytes, so the test proves nothing: %d, %v", n, err)
	}
	testSuite(t, func(t *testing.T) rig { return openService(t, "redis://"+s.host()) })
}

func TestServiceLoginAndRestart(t *testing.T) {
	ctx := context.Background()
	s := startRedis(t, "redis-server", nil, "user cart on >p@ss:word ~* +@all")
	cfg := testConfig()
	cfg.BreakerOpen = 100 * time.Millisecond
	c := mustOpen(t, "redis://cart:p%40ss%3Aword@"+s.host()+"/3", cfg)
	e := Entry{Version{1, 1, 1}, []byte("cart")}
	c.Store(ctx, "k", e)
	wantEntry(t, c, "k", e)
	if got := s.client(t).DBSize(ctx).Val(); got != 0 {
		t.Errorf("%d keys in database 0, want them in 3", got)
	}
	if err := mustOpen(t, "redis://cart:wrong@"+s.host(), cfg).Ping(ctx); err == nil {
		t.Error("a wrong password is taken")
	}

	s.kill()
	eventually(t, "breaker opens", 10*time.Second, func() bool {
		wantMiss(t, c, "k")
		_, err := c.breakers.allow(0)
		return err != nil
	})
	s.cmd = exec.Command(s.cmd.Path, s.cmd.Args[1:]...)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "back after a restart, script forgotten", 20*time.Second, func() bool {
		c.StoreMany(ctx, []string{"k", "l"}, []Entry{e, e})
		_, k := c.Load(ctx, "k")
		_, l := c.Load(ctx, "l")
		return k && l
	})
}

// A full Redis refuses writes and goes on serving reads.
func TestServiceFullMemory(t *testing.T) {
	ctx := context.Background()
	s := startRedis(t, "redis-server", nil, "maxmemory-policy noeviction")
	count := newCounter()
	cfg := testConfig()
	cfg.Events = count.events()
	c := mustOpen(t, "redis://"+s.host(), cfg)
	e := Entry{Version{1, 1, 1}, []byte("cart")}
	c.Store(ctx, "k", e)
	if err := s.client(t).ConfigSet(ctx, "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	for range 30 {
		c.Store(ctx, "k", Entry{Version{1, 1, 2}, []byte("newer")})
	}
	if n := count.of(OpStore, Failed); n != 30 {
		t.Errorf("%d stores failed, want 30; last %v", n, count.lastErr)
	}
	wantEntry(t, c, "k", e)
}

func TestServiceSentinel(t *testing.T) {
	ctx := context.Background()
	master := startRedis(t, "redis-server", nil)
	replica := startRedis(t, "redis-server", nil, "replicaof 127.0.0.1 "+strconv.Itoa(master.port))
	var hosts []string
	var sentinels []*server
	for range 3 {
		s := startRedis(t, "redis-sentinel", nil,
			"sentinel monitor carts 127.0.0.1 "+strconv.Itoa(master.port)+" 2",
			"sentinel down-after-milliseconds carts 1000",
			"sentinel failover-timeout carts 3000")
		sentinels, hosts = append(sentinels, s), append(hosts, s.host())
	}
	addr := "redis+sentinel://" + strings.Join(hosts, ",") + "/carts"
	for _, s := range sentinels {
		c := s.client(t)
		eventually(t, "sentinel sees the replica and its peers", 30*time.Second, func() bool {
			got, err := c.Do(ctx, "SENTINEL", "CKQUORUM", "carts").Text()
			replicas, errR := c.Do(ctx, "SENTINEL", "REPLICAS", "carts").Slice()
			return err == nil && strings.HasPrefix(got, "OK 3") && errR == nil && len(replicas) == 1
		})
	}
	t.Run("suite", func(t *testing.T) {
		testSuite(t, func(t *testing.T) rig { return openService(t, addr) })
	})

	cfg := testConfig()
	cfg.BreakerOpen = 200 * time.Millisecond
	c := mustOpen(t, addr, cfg)
	old := Entry{Version{1, 1, 1}, []byte("old")}
	c.Store(ctx, "k", old)
	rc := replica.client(t)
	eventually(t, "the replica has it", 20*time.Second, func() bool { return rc.Exists(ctx, cfg.Prefix+"k").Val() == 1 })
	master.kill()
	newer := Entry{Version{1, 1, 2}, []byte("newer")}
	eventually(t, "failover", 60*time.Second, func() bool {
		c.Store(ctx, "k", newer)
		got, ok := c.Load(ctx, "k")
		return ok && equal(got, newer)
	})
	c.Store(ctx, "k", old)
	wantEntry(t, c, "k", newer)
	if role := rc.Do(ctx, "ROLE").String(); !strings.Contains(role, "master") {
		t.Errorf("the replica's role is %s", role)
	}
}

func TestServiceCluster(t *testing.T) {
	ctx := context.Background()
	var nodes []*server
	var hosts []string
	for i := range 3 {
		s := startRedis(t, "redis-server", nil, "cluster-enabled yes", "cluster-node-timeout 1000", "cluster-require-full-coverage no")
		lo, hi := i*clusterSlots/3, (i+1)*clusterSlots/3-1
		if err := s.client(t).ClusterAddSlotsRange(ctx, lo, hi).Err(); err != nil {
			t.Fatal(err)
		}
		nodes, hosts = append(nodes, s), append(hosts, s.host())
	}
	first := nodes[0].client(t)
	for i, s := range nodes {
		c := s.client(t)
		if err := c.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range nodes[1:] {
		bus := s.client(t).ConfigGet(ctx, "cluster-port").Val()["cluster-port"]
		if err := first.Do(ctx, "CLUSTER", "MEET", "127.0.0.1", s.port, bus).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range nodes {
		c := s.client(t)
		eventually(t, "cluster forms", 30*time.Second, func() bool {
			info := c.ClusterInfo(ctx).Val()
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_size:3") &&
				strings.Contains(info, "cluster_slots_ok:16384")
		})
	}
	addr := "redis+cluster://" + strings.Join(hosts[:2], ",")
	t.Run("suite", func(t *testing.T) {
		testSuite(t, func(t *testing.T) rig { return openService(t, addr) })
	})
	t.Run("slots", func(t *testing.T) {
		for i := range 1000 {
			for _, key := range []string{fmt.Sprint("k", i), fmt.Sprintf("a{%d}b", i), fmt.Sprintf("{}%d", i)} {
				if want := first.ClusterKeySlot(ctx, key).Val(); int64(slot(key)) != want {
					t.Fatalf("slot of %q is %d, the server says %d", key, slot(key), want)
				}
			}
		}
	})

	// One node dies: its slots leave the path, the others do not notice.
	count := newCounter()
	cfg := testConfig()
	cfg.OpTimeout = 200 * time.Millisecond
	cfg.BreakerFailures = 2
	cfg.BreakerOpen = time.Minute
	cfg.Events = count.events()
	c := mustOpen(t, addr, cfg)
	e := Entry{Version{1, 1, 1}, []byte("cart")}
	var keys []string
	var es []Entry
	for i := range 300 {
		keys, es = append(keys, fmt.Sprint("k", i)), append(es, e)
	}
	c.StoreMany(ctx, keys, es)
	if n := count.of(OpStore, Stored); n != len(keys) {
		t.Fatalf("%d of %d stored: %v", n, len(keys), count.lastErr)
	}
	nodes[2].kill()
	// The range that the dead node shares with a living one goes with it.
	lost := func(key string) bool { return c.breakers.index(cfg.Prefix+key) >= 2*clusterSlots/3/slotsPerRange }
	eventually(t, "every range of the dead node is out of the path", 60*time.Second, func() bool {
		before := count.of(OpLoad, Failed)
		for _, k := range keys {
			if lost(k) {
				c.Load(ctx, k)
			}
		}
		return count.of(OpLoad, Failed) == before
	})
	start := time.Now()
	alive := 0
	for _, k := range keys {
		if !lost(k) {
			wantEntry(t, c, k, e)
			alive++
		} else if slot(cfg.Prefix+k) >= 2*clusterSlots/3 {
			wantMiss(t, c, k)
		}
	}
	if took := time.Since(start); took > 5*time.Second || alive == 0 {
		t.Errorf("300 loads, %d of living nodes, took %v", alive, took)
	}
	stored := count.of(OpStore, Stored)
	for i := range es {
		es[i].Version.Index++
	}
	c.StoreMany(ctx, keys, es)
	if n := count.of(OpStore, Stored) - stored; n < alive {
		t.Errorf("%d stored with a node dead, want at least %d: %v", n, alive, count.lastErr)
	}
}

func BenchmarkServiceRedis(b *testing.B) {
	cfg := testConfig()
	cfg.Prefix = fmt.Sprintf("samecart-bench-%d:", os.Getpid())
	cfg.TTL, cfg.TombstoneTTL = 5*time.Minute, time.Second
	benchCache(b, mustOpen(b, testRedis(b), cfg))
}
