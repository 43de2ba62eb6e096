package cache

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// rig is one backend under the behaviour suite.
type rig struct {
	cache  Cache
	flush  func(t *testing.T)                    // loses everything
	plant  func(t *testing.T, key, value string) // puts a foreign value; nil: cannot
	reopen func(t *testing.T) Cache              // a second client of the same data; nil: cannot
}

// testSuite is what every backend must do: memory, the miniredis fake, and, with
// the services tag, real servers.
func testSuite(t *testing.T, open func(t *testing.T) rig) {
	ctx := context.Background()

	t.Run("miss then hit", func(t *testing.T) {
		c := open(t).cache
		wantMiss(t, c, "k")
		all := make([]byte, 256)
		for i := range all {
			all[i] = byte(i)
		}
		e := Entry{Version{1, 2, 3}, all}
		c.Store(ctx, "k", e)
		wantEntry(t, c, "k", e)
		wantMiss(t, c, "other")
	})

	t.Run("only newer replaces", func(t *testing.T) {
		c := open(t).cache
		for i, pair := range versionPairs() {
			key := fmt.Sprint("k", i)
			older, newer := Entry{pair[0], []byte("older")}, Entry{pair[1], []byte("newer")}
			c.Store(ctx, key, older)
			wantEntry(t, c, key, older)
			c.Store(ctx, key, Entry{older.Version, []byte("same version again")})
			wantEntry(t, c, key, older)
			c.Store(ctx, key, newer)
			wantEntry(t, c, key, newer)
			c.Store(ctx, key, older)
			wantEntry(t, c, key, newer)
		}
	})

	t.Run("removal is a version", func(t *testing.T) {
		c := open(t).cache
		c.Store(ctx, "k", Entry{Version{1, 1, 5}, []byte("cart")})
		c.Store(ctx, "k", Entry{Version: Version{1, 1, 6}})
		wantEntry(t, c, "k", Entry{Version: Version{1, 1, 6}})
		c.Store(ctx, "k", Entry{Version{1, 1, 5}, []byte("late reader's fill")})
		wantEntry(t, c, "k", Entry{Version: Version{1, 1, 6}})
		c.Store(ctx, "k", Entry{Version{1, 1, 7}, []byte("back")})
		wantEntry(t, c, "k", Entry{Version{1, 1, 7}, []byte("back")})
	})

	t.Run("store many", func(t *testing.T) {
		c := open(t).cache
		c.StoreMany(ctx, nil, nil)
		var keys []string
		var es []Entry
		for i := range 300 {
			keys = append(keys, fmt.Sprint("k", i%100)) // each key three times
			es = append(es, Entry{Version{1, 1, uint64(i*7) % 300}, fmt.Appendf(nil, "v%d", i)})
		}
		c.StoreMany(ctx, keys, es)
		best := make(map[string]Entry)
		for i, k := range keys {
			if old, ok := best[k]; !ok || es[i].Version.Compare(old.Version) > 0 {
				best[k] = es[i]
			}
		}
		for k, e := range best {
			wantEntry(t, c, k, e)
		}
	})

	t.Run("any sequence leaves the newest", func(t *testing.T) {
		c := open(t).cache
		run := 0
		rapid.Check(t, func(rt *rapid.T) {
			run++
			key := fmt.Sprint("r", run)
			vs := rapid.SliceOfN(genVersion(), 1, 12).Draw(rt, "versions")
			var newest Entry
			var keys []string
			var es []Entry
			for i, v := range vs {
				e := Entry{v, fmt.Appendf(nil, "%d", i)}
				if i == 0 || v.Compare(newest.Version) > 0 {
					newest = e // the first of equals stays
				}
				keys, es = append(keys, key), append(es, e)
			}
			split := rapid.IntRange(0, len(vs)).Draw(rt, "split")
			for i := range split {
				c.Store(ctx, key, es[i])
			}
			c.StoreMany(ctx, keys[split:], es[split:])
			got, ok := c.Load(ctx, key)
			if !ok || !equal(got, newest) {
				rt.Fatalf("got %v %v, want %v", got, ok, newest)
			}
		})
	})

	t.Run("stale set race", func(t *testing.T) {
		r := open(t)
		clients := []Cache{r.cache}
		if r.reopen != nil {
			clients = append(clients, r.reopen(t))
		}
		const writers, stores = 8, 40
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				c, last := clients[w%len(clients)], Version{}
				for i := range stores {
					// Half of the writers go up, half go down, over the same versions.
					n := uint64(i*writers + w)
					if w%2 == 1 {
						n = uint64((stores-1-i)*writers + w)
					}
					c.Store(ctx, "k", Entry{Version{1, 1, n}, fmt.Append(nil, n)})
					if e, ok := c.Load(ctx, "k"); ok {
						if e.Version.Compare(last) < 0 {
							t.Errorf("version went back from %v to %v", last, e.Version)
						}
						if want := fmt.Append(nil, e.Version.Index); !bytes.Equal(e.Data, want) {
							t.Errorf("version %v holds %q", e.Version, e.Data)
						}
						last = e.Version
					}
				}
			})
		}
		wg.Wait()
		n := uint64(writers*stores - 1)
		wantEntry(t, r.cache, "k", Entry{Version{1, 1, n}, fmt.Append(nil, n)})
	})

	t.Run("flush loses hits only", func(t *testing.T) {
		r := open(t)
		r.cache.Store(ctx, "k", Entry{Version{1, 1, 9}, []byte("nine")})
		r.flush(t)
		wantMiss(t, r.cache, "k")
		eight := Entry{Version{1, 1, 8}, []byte("eight")}
		r.cache.Store(ctx, "k", eight) // a cache without memory takes it; its version tells readers
		wantEntry(t, r.cache, "k", eight)
		r.cache.Store(ctx, "k", Entry{Version{1, 1, 9}, []byte("nine")})
		wantEntry(t, r.cache, "k", Entry{Version{1, 1, 9}, []byte("nine")})
	})

	t.Run("foreign value is a miss and is overwritten", func(t *testing.T) {
		r := open(t)
		if r.plant == nil {
			return // nothing else writes into this backend
		}
		good := Entry{Version{0, 0, 1}, []byte("cart")}
		for i, junk := range []string{
			"", "x", "smc1", magic + "short", string(encode(Entry{})[:headerSize-1]),
			"smc2" + string(bytes.Repeat([]byte{0xff}, 40)), string(bytes.Repeat([]byte{0xff}, 100)),
			listMarker,
		} {
			key := fmt.Sprint("junk", i)
			r.plant(t, key, junk)
			wantMiss(t, r.cache, key)
			r.cache.Store(ctx, key, good)
			wantEntry(t, r.cache, key, good)
		}
	})

	t.Run("ended context", func(t *testing.T) {
		c := open(t).cache
		e := Entry{Version{1, 1, 1}, []byte("cart")}
		c.Store(ctx, "k", e)
		ended, cancel := context.WithCancel(ctx)
		cancel()
		for range 50 { // far more than would open a breaker, were they failures
			if got, ok := c.Load(ended, "k"); ok && !equal(got, e) {
				t.Fatalf("got %v", got)
			}
			c.Store(ended, "k", e)
		}
		wantEntry(t, c, "k", e)
	})

	t.Run("ping and close", func(t *testing.T) {
		c := open(t).cache
		if err := c.Ping(ctx); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		c.Store(ctx, "k", Entry{Version{1, 1, 1}, []byte("cart")})
		wantMiss(t, c, "k")
	})

	t.Run("uneven lengths panic", func(t *testing.T) {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		open(t).cache.StoreMany(ctx, []string{"k"}, nil)
	})
}

// listMarker asks plant for a value of another Redis type.
const listMarker = "a list"

// versionPairs are (older, newer) versions around every byte border of every
// field: where a comparison of the wrong width, sign or locale goes wrong.
func versionPairs() [][2]Version {
	var out [][2]Version
	for shift := range 64 {
		n := uint64(1) << shift
		out = append(out, [2]Version{{1, 1, n - 1}, {1, 1, n}})
		if shift < 32 {
			m := uint32(n)
			out = append(out,
				[2]Version{{m - 1, math.MaxUint32, math.MaxUint64}, {m, 0, 0}},
				[2]Version{{7, m - 1, math.MaxUint64}, {7, m, 0}})
		}
	}
	return append(out, [2]Version{
		{math.MaxUint32, math.MaxUint32, math.MaxUint64 - 1},
		{math.MaxUint32, math.MaxUint32, math.MaxUint64},
	})
}

func genVersion() *rapid.Generator[Version] {
	small := rapid.Custom(func(t *rapid.T) Version {
		return Version{
			rapid.Uint32Range(0, 2).Draw(t, "incarnation"),
			rapid.Uint32Range(0, 2).Draw(t, "epoch"),
			rapid.Uint64Range(0, 300).Draw(t, "index"),
		}
	})
	large := rapid.Custom(func(t *rapid.T) Version {
		return Version{rapid.Uint32().Draw(t, "incarnation"), rapid.Uint32().Draw(t, "epoch"), rapid.Uint64().Draw(t, "index")}
	})
	return rapid.OneOf(small, large)
}

func equal(a, b Entry) bool { return a.Version == b.Version && bytes.Equal(a.Data, b.Data) }

func wantEntry(t *testing.T, c Cache, key string, want Entry) {
	t.Helper()
	got, ok := c.Load(context.Background(), key)
	if !ok || !equal(got, want) {
		t.Fatalf("load %q: got %v %v, want %v", key, got, ok, want)
	}
	if len(want.Data) > 0 {
		wantHead(t, c, key, want)
	}
}

// wantHead: the first bytes of an entry are those of the whole.
func wantHead(t *testing.T, c Cache, key string, want Entry) {
	t.Helper()
	for _, n := range []int{1, len(want.Data), len(want.Data) + 9} {
		got, ok := c.LoadHead(context.Background(), key, n)
		if !ok || got.Version != want.Version || !bytes.Equal(got.Data, want.Data[:min(len(want.Data), n)]) {
			t.Fatalf("load %d bytes of %q: got %v %v, want those of %v", n, key, got, ok, want)
		}
	}
	if got, ok := c.LoadHead(context.Background(), key+"?", 9); ok {
		t.Fatalf("load the head of nothing: got %v, want a miss", got)
	}
}

func wantMiss(t *testing.T, c Cache, key string) {
	t.Helper()
	if got, ok := c.Load(context.Background(), key); ok {
		t.Fatalf("load %q: got %v, want a miss", key, got)
	}
}

// eventually polls until ok or fails the test.
func eventually(t *testing.T, what string, within time.Duration, ok func() bool) {
	t.Helper()
	deadline := time.After(within)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not within %v: %s", within, what)
		case <-tick.C:
		}
	}
}

// counter sums Done events by operation and outcome.
type counter struct {
	mu       sync.Mutex
	n        map[string]int
	breaker  []string
	lastErr  error
	evicted  int
	worstFor time.Duration
}

func newCounter() *counter { return &counter{n: make(map[string]int)} }

func (c *counter) events() Events {
	return Events{
		Done: func(d Done) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.n[string(d.Op)+" "+string(d.Outcome)] += d.Count
			c.worstFor = max(c.worstFor, d.Took)
			if d.Err != nil {
				c.lastErr = d.Err
			}
		},
		Breaker: func(b Breaker) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.breaker = append(c.breaker, b.Name+" "+b.To)
		},
		Evicted: func(n int) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.evicted += n
		},
	}
}

func (c *counter) of(op Op, out Outcome) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[string(op)+" "+string(out)]
}
