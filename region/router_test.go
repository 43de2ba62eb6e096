package region

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/cache"
	"github.com/samecart/samecart/region/link"
	"github.com/samecart/samecart/region/store"
)

// follower returns a node that holds a shard and does not lead it.
func (w *world) follower(id uint32) *running {
	w.t.Helper()
	l := w.leader(id)
	for _, name := range w.names {
		if n := w.node(name); n != l && n.here(id) != nil {
			return n
		}
	}
	w.t.Fatalf("shard %d has no follower", id)
	return nil
}

func TestReadYourWritesThroughAnyNode(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 3)
	gate := w.gateway()
	routers := []*Router{gate}
	for _, name := range w.names {
		routers = append(routers, w.node(name).Router)
	}
	var wg sync.WaitGroup
	for c := range 6 {
		cart := w.cartIn(uint32(c)%w.shards, 3+c)
		wg.Go(func() {
			for i := range 20 {
				writer, reader := routers[(c+i)%len(routers)], routers[(c+3*i+1)%len(routers)]
				out, err := writer.Edit(soon(t), sure(addEdit(cart, "tea", 1)))
				if err != nil {
					t.Errorf("edit: %v", err)
					return
				}
				token, err := crdt.DecodeContext(out.Context)
				if err != nil {
					t.Errorf("context of %s: %v", cart, err)
					return
				}
				for _, o := range []ReadOptions{{}, {Strong: true}, {HasToken: true, Context: token}, {Strong: true, HasToken: true, Context: token}} {
					v, err := reader.Read(soon(t), cart, o)
					if err != nil || v.Stale || quantities(v)["tea"] != uint32(i+1) {
						t.Errorf("%+v of %s: %v, stale %v (%v) after %d edits", o, cart, quantities(v), v.Stale, err, i+1)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestRefusalIsAnOutcome(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 1)
	gate := w.gateway()
	cart := w.cartIn(0, 0)
	first := mustEdit(t, gate, opAdd(1, cart, "tea", 1))
	again := mustEdit(t, w.node(w.names[1]).Router, opAdd(1, cart, "tea", 1))
	if !again.Replayed || string(again.Digest) != string(first.Digest) {
		t.Errorf("the same op id again: %v", again)
	}
	other := opAdd(1, cart, "tea", 2)
	other.Fingerprint++
	for want, e := range map[regionv1.Outcome_Code]*regionv1.Edit{
		regionv1.Outcome_CODE_OP_ID_REUSED:     other,
		regionv1.Outcome_CODE_VERSION_CONFLICT: {CartId: cart, IfMatch: make([]byte, 16), Changes: addEdit(cart, "tea", 1).Changes},
	} {
		out, err := gate.Edit(soon(t), e)
		if err != nil || out.Code != want {
			t.Errorf("got %v (%v), want %v", out, err, want)
		}
	}
	wantLines(t, mustRead(t, gate, cart, ReadOptions{}), map[string]uint32{"tea": 1})
}

// TestMalformedEditsNeverReachTheLog: an entry that cannot be applied would
// end every node, and again at each start.
func TestMalformedEditsNeverReachTheLog(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 1)
	cart := w.cartIn(0, 0)
	short := addEdit(cart, "tea", 1)
	short.OpId = []byte("short") // would be retried as if it were remembered
	kind := addEdit(cart, "tea", 1)
	kind.Changes[0].Kind = 99
	for _, r := range []*Router{w.gateway(), w.leader(0).Router} {
		for name, e := range map[string]*regionv1.Edit{
			"op id": short, "kind": kind, "no kind": {CartId: cart, Changes: []*regionv1.Change{{}}}, "no change": {CartId: cart, Changes: []*regionv1.Change{nil}},
		} {
			if out, err := r.Edit(soon(t), e); err == nil || errors.Is(err, ErrNoQuorum) || errors.Is(err, ErrOutcomeUnknown) {
				t.Errorf("%s: %v, %v", name, out, err)
			}
		}
		if err := r.JoinCart(soon(t), cart, []byte("no cart"), 0, 0); err == nil {
			t.Error("joined what is no cart")
		}
	}
	wantLines(t, mustRead(t, w.leader(0).Router, cart, ReadOptions{Strong: true}), map[string]uint32{})
}

func TestWaitWakes(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 1)
	cart := w.cartIn(0, 0)
	for name, r := range map[string]*Router{"owner": w.leader(0).Router, "follower": w.follower(0).Router, "gateway": w.gateway()} {
		seen := mustRead(t, r, cart, ReadOptions{})
		short := limited(t, 50*time.Millisecond)
		if v, err := r.Wait(short, cart, seen.Digest); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: woke without a change: %v (%v)", name, quantities(v), err)
		}
		type woken struct {
			v   View
			err error
		}
		done := make(chan woken, 1)
		go func() { v, err := r.Wait(soon(t), cart, seen.Digest); done <- woken{v, err} }()
		out := mustEdit(t, r, addEdit(cart, "tea", 1))
		got := <-done
		if got.err != nil || got.v.Digest != Digest(out.Digest) || quantities(got.v)["tea"] != quantities(seen)["tea"]+1 {
			t.Errorf("%s: woke with %v (%v)", name, quantities(got.v), got.err)
		}
		// What has changed already is not waited for.
		if v, err := r.Wait(soon(t), cart, seen.Digest); err != nil || v.Digest != got.v.Digest {
			t.Errorf("%s: %v (%v)", name, quantities(v), err)
		}
	}
}

// TestWaitDoesNotGoBack: a follower that is behind has another digest than
// the one seen, but an older one.
func TestWaitDoesNotGoBack(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 1)
	cart := w.cartIn(0, 0)
	gate, follower := w.gateway(), w.follower(0)
	var wrong atomic.Int64
	for i := range 60 {
		seen := mustEdit(t, gate, addEdit(cart, "tea", 1))
		for _, r := range []*Router{gate, follower.Router} {
			ctx, cancel := context.WithTimeout(context.Background(), 15*time.Millisecond)
			v, err := r.Wait(ctx, cart, Digest(seen.Digest))
			cancel()
			if err == nil {
				wrong.Add(1)
				t.Errorf("after edit %d woke with %v at %d, edit was at %d", i, quantities(v), v.Version.Index, seen.Index)
			}
		}
		if wrong.Load() > 3 {
			return
		}
	}
}

func TestNoQuorum(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 2)
	gate := w.gateway()
	cart := w.cartIn(0, 0)
	mustEdit(t, gate, addEdit(cart, "tea", 2))
	w.ready()
	last := w.names[0]
	w.kill(w.names[1:]...)
	alone := w.node(last)
	for name, r := range map[string]*Router{"node": alone.Router, "gateway": gate} {
		within(t, 5*time.Second, "the leadership is given up", func() error {
			if v, err := r.Read(soon(t), cart, ReadOptions{}); err != nil || !v.Stale {
				return fmt.Errorf("read, stale %v: %w", v.Stale, errors.Join(err, errors.New("not stale")))
			}
			return nil
		})
		for _, e := range []*regionv1.Edit{addEdit(cart, "tea", 1), opAdd(7, cart, "coffee", 1)} {
			start := time.Now()
			_, err := r.Edit(limited(t, 400*time.Millisecond), e)
			if !errors.Is(err, ErrNoQuorum) && !errors.Is(err, ErrOutcomeUnknown) {
				t.Errorf("%s: edit without a quorum: %v", name, err)
			}
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("%s: took %v to fail", name, took)
			}
		}
		start := time.Now()
		if _, err := r.Read(limited(t, 400*time.Millisecond), cart, ReadOptions{Strong: true}); !errors.Is(err, ErrNoQuorum) {
			t.Errorf("%s: strong read without a quorum: %v", name, err)
		}
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("%s: took %v to fail", name, took)
		}
		v := mustRead(t, r, cart, ReadOptions{})
		if !v.Stale {
			t.Errorf("%s: read without a quorum is not marked", name)
		}
		wantLines(t, v, map[string]uint32{"tea": 2})
		// A cart that only the node has: the gateway asks it.
		if err := w.cache.Close(); err != nil {
			t.Error(err)
		}
		if v := mustRead(t, r, cart, ReadOptions{}); !v.Stale || quantities(v)["tea"] != 2 {
			t.Errorf("%s: %v, stale %v", name, quantities(v), v.Stale)
		}
		if err := r.Ready(soon(t)); !errors.Is(err, ErrNoQuorum) {
			t.Errorf("%s: ready says %v", name, err)
		}
		if _, err := r.Cursor(limited(t, 200*time.Millisecond), crdt.Stream{Region: otherID}, 0, 1024); !errors.Is(err, ErrNoQuorum) {
			t.Errorf("%s: cursor without a quorum: %v", name, err)
		}
	}
	w.start(w.names[1:]...)
	w.ready()
	before := quantities(mustRead(t, gate, cart, ReadOptions{Strong: true}))["tea"]
	if before < 2 {
		t.Errorf("%d left of 2", before)
	}
	mustEdit(t, gate, addEdit(cart, "tea", 1))
	if v := mustRead(t, gate, cart, ReadOptions{}); v.Stale || quantities(v)["tea"] != before+1 {
		t.Errorf("after recovery: %v, stale %v", quantities(v), v.Stale)
	}
}

// TestAnEditThatMayCountIsNotCalledRefused: the leader took the edit into its
// log before it lost the majority, and no other leader is found.
func TestAnEditThatMayCountIsNotCalledRefused(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 1, func(w *world) {
		// It believes in its majority for a while.
		w.tune = func(c *Config) { c.Timing.Heartbeat, c.Timing.Lease = 1200*time.Millisecond, time.Second }
	})
	l, cart := w.leader(0), w.cartIn(0, 0)
	mustEdit(t, l.Router, opAdd(1, cart, "tea", 1))
	for _, name := range w.names {
		if name != l.name {
			w.kill(name)
		}
	}
	_, err := l.Edit(limited(t, 1800*time.Millisecond), opAdd(2, cart, "tea", 1))
	if !errors.Is(err, ErrOutcomeUnknown) || errors.Is(err, ErrNoQuorum) {
		t.Errorf("got %v, want %v", err, ErrOutcomeUnknown)
	}
	for _, name := range w.names {
		if name != l.name {
			w.start(name)
		}
	}
	w.ready()
	// The op id settles it.
	mustEdit(t, l.Router, opAdd(2, cart, "tea", 1))
	wantLines(t, mustRead(t, l.Router, cart, ReadOptions{Strong: true}), map[string]uint32{"tea": 2})
}

// An edit whose answer was lost is sent again only if it has an id to be known by.
func TestOnlyAnEditWithAnIDIsSentAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	m := w.mux(w.names[0])
	var proposed atomic.Int64
	m.Handle(kindPropose, func(context.Context, string, []byte) ([]byte, error) {
		proposed.Add(1)
		return nil, &link.Error{Code: codeUnknown, Message: "the answer was lost"}
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addrs[w.names[0]] = ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- m.Serve(t.Context(), ln) }()
	t.Cleanup(func() {
		if err := errors.Join(m.Close(), <-served); err != nil {
			t.Error(err)
		}
	})
	gate := w.gateway()
	if _, err := gate.Edit(limited(t, time.Second), addEdit("c", "tea", 1)); !errors.Is(err, ErrOutcomeUnknown) || proposed.Load() != 1 {
		t.Errorf("without an id: proposed %d times, %v", proposed.Load(), err)
	}
	proposed.Store(0)
	if _, err := gate.Edit(limited(t, 300*time.Millisecond), opAdd(1, "c", "tea", 1)); !errors.Is(err, ErrOutcomeUnknown) || proposed.Load() < 2 {
		t.Errorf("with an id: proposed %d times, %v", proposed.Load(), err)
	}
}

func TestNothingInTheRegionAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, 1)
	gate := w.gateway()
	if _, err := gate.Read(soon(t), "c", ReadOptions{}); !errors.Is(err, ErrNoQuorum) {
		t.Errorf("read: %v", err)
	}
	if _, err := gate.Wait(limited(t, 300*time.Millisecond), "c", Digest{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait: %v", err)
	}
	if s := gate.Status(soon(t)); len(s) != 0 {
		t.Errorf("status of %d nodes", len(s))
	}
}

// TestAStaleReadFindsTheCart: a node that was just emptied is asked last.
func TestAStaleReadFindsTheCart(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 1)
	cart := w.cartIn(0, 0)
	mustEdit(t, w.gateway(), addEdit(cart, "tea", 2))
	w.ready()
	if err := w.cache.Close(); err != nil {
		t.Error(err)
	}
	w.stop(w.names...)
	w.loseDisk(w.names[0])
	// The empty node joins, without its vote, and one other: no majority of
	// the old members.
	w.start(w.names[0], w.names[1])
	n := w.node(w.names[0])
	within(t, 5*time.Second, "shard runs", func() error {
		if n.here(0) == nil || w.node(w.names[1]).here(0) == nil {
			return errors.New("not yet")
		}
		return nil
	})
	within(t, 3*time.Second, "the other node's cart is shown", func() error {
		v, err := n.Read(soon(t), cart, ReadOptions{})
		if err != nil || quantities(v)["tea"] != 2 || !v.Stale {
			return fmt.Errorf("got %v, stale %v: %w", quantities(v), v.Stale, errors.Join(err, errors.New("another was wanted")))
		}
		return nil
	})
}

// fetching is a Fetcher for tests: a function per cart, and how often it ran.
type fetching struct {
	mu    sync.Mutex
	carts map[string]*fetched
}

type fetched struct {
	calls int
	fetch fetchFunc
}

type fetchFunc func(ctx context.Context, region crdt.RegionID) ([]byte, error)

func (f *fetching) cart(id string) *fetched {
	if f.carts[id] == nil {
		if f.carts == nil {
			f.carts = make(map[string]*fetched)
		}
		f.carts[id] = &fetched{fetch: unreachable}
	}
	return f.carts[id]
}

// answer sets how a cart is fetched. Before, it is not to be had.
func (f *fetching) answer(cartID string, fetch fetchFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cart(cartID).fetch = fetch
}

func (f *fetching) calls(cartID string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cart(cartID).calls
}

func (f *fetching) Fetch(ctx context.Context, region crdt.RegionID, cartID string) ([]byte, error) {
	f.mu.Lock()
	c := f.cart(cartID)
	c.calls++
	fetch := c.fetch
	f.mu.Unlock()
	return fetch(ctx, region)
}

func unreachable(context.Context, crdt.RegionID) ([]byte, error) {
	return nil, errors.New("unreachable")
}

func TestATokenIsWaitedFor(t *testing.T) {
	t.Parallel()
	fetcher := &fetching{}
	w := startWorld(t, 3, 1, func(w *world) {
		w.fetcher = fetcher
		w.route = func(c *RouterConfig) { c.CoverWait = 5 * time.Second }
	})
	gate := w.gateway()
	for i, r := range []*Router{gate, w.leader(0).Router, w.follower(0).Router} {
		cart := w.cartIn(0, 10+i)
		away := newForeign(cart).add(1, "tea", 3)
		done := make(chan View, 1)
		go func() { done <- mustReadNow(t, r, cart, away.cart.Context) }()
		select {
		case v := <-done:
			t.Errorf("did not wait: %v, stale %v", quantities(v), v.Stale)
			continue
		case <-time.After(400 * time.Millisecond): // longer than one attempt
		}
		if err := gate.JoinCart(soon(t), cart, away.state(), 0, 0); err != nil {
			t.Fatal(err)
		}
		v := <-done
		if n := fetcher.calls(cart); v.Stale || n != 0 {
			t.Errorf("stale %v, fetched %d times", v.Stale, n)
		}
		wantLines(t, v, map[string]uint32{"tea": 3})
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	fetcher := &fetching{}
	w := startWorld(t, 3, 1, func(w *world) { w.fetcher = fetcher })
	gate := w.gateway()

	t.Run("a follower covers it", func(t *testing.T) {
		cart := w.cartIn(0, 0)
		mustEdit(t, gate, addEdit(cart, "tea", 1))
		w.ready()
		f := w.follower(0)
		token := mustRead(t, gate, cart, ReadOptions{}).State.Cart.Context
		// The follower answers by itself: nobody leads as far as it can see.
		asked := limited(t, time.Nanosecond)
		v, err := f.Read(asked, cart, ReadOptions{HasToken: true, Context: token})
		if err != nil || v.Stale {
			t.Fatalf("read: %v, stale %v", err, v.Stale)
		}
		wantLines(t, v, map[string]uint32{"tea": 1})
	})
	t.Run("it is fetched", func(t *testing.T) {
		for i, r := range []*Router{gate, w.leader(0).Router, w.follower(0).Router} {
			cart := w.cartIn(0, 20+i)
			mustEdit(t, gate, addEdit(cart, "coffee", 1))
			away := newForeign(cart).add(1, "tea", 3)
			fetcher.answer(cart, func(_ context.Context, region crdt.RegionID) ([]byte, error) {
				if region != otherID {
					return nil, fmt.Errorf("region %d asked", region)
				}
				return away.state(), nil
			})
			v := mustReadNow(t, r, cart, away.cart.Context)
			if v.Stale {
				t.Error("fetched, but marked stale")
			}
			wantLines(t, v, map[string]uint32{"tea": 3, "coffee": 1})
			// Through the log: every member has it.
			within(t, 2*time.Second, "all have the fetched cart", func() error {
				for _, name := range w.names {
					if got, ok := w.node(name).nearby(soon(t), 0, cart); !ok || got.Digest != v.Digest {
						return fmt.Errorf("%s has %v", name, quantities(got))
					}
				}
				return nil
			})
		}
	})
	t.Run("it cannot be had", func(t *testing.T) {
		n := 30
		for name, fetch := range map[string]fetchFunc{
			"unreachable": unreachable,
			"without it":  func(context.Context, crdt.RegionID) ([]byte, error) { return nil, nil },
			"damaged":     func(context.Context, crdt.RegionID) ([]byte, error) { return []byte("no cart"), nil },
			"behind": func(context.Context, crdt.RegionID) ([]byte, error) {
				return crdt.State{Cart: &crdt.Cart{}}.Encode(nil), nil
			},
			"silent": func(ctx context.Context, _ crdt.RegionID) ([]byte, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			},
		} {
			cart := w.cartIn(0, n)
			n++
			fetcher.answer(cart, fetch)
			away := newForeign(cart)
			token := away.add(1, "tea", 3).cart.Context.Join(crdt.ContextOf(
				crdt.Dot{Replica: crdt.Replica{Region: otherID, Incarnation: 1, Lineage: "guest"}, Seq: 1}))
			start := time.Now()
			v, err := gate.Read(limited(t, 3*time.Second), cart, ReadOptions{HasToken: true, Context: token})
			if err != nil || !v.Stale {
				t.Errorf("%s: stale %v (%v)", name, v.Stale, err)
			}
			if took := time.Since(start); took > 1500*time.Millisecond {
				t.Errorf("%s: answered after %v", name, took)
			}
			if n := fetcher.calls(cart); n != 1 {
				t.Errorf("%s: one region was asked %d times", name, n)
			}
			if gate.leader(0) != w.leader(0).name {
				t.Errorf("%s: the gateway has forgotten who leads", name)
			}
		}
	})
	t.Run("of this region alone", func(t *testing.T) {
		cart := w.cartIn(0, 40)
		token := crdt.ContextOf(crdt.Dot{Replica: crdt.Replica{Region: testID, Incarnation: 1}, Seq: 9})
		v := mustReadNow(t, gate, cart, token)
		if n := fetcher.calls(cart); !v.Stale || n != 0 {
			t.Errorf("stale %v, fetched %d times", v.Stale, n)
		}
	})
}

// mustReadNow reads with a token; it may be called from any goroutine.
func mustReadNow(t *testing.T, r *Router, cart string, token crdt.CausalContext) View {
	v, err := r.Read(soon(t), cart, ReadOptions{HasToken: true, Context: token})
	if err != nil {
		t.Errorf("read %s: %v", cart, err)
	}
	return v
}

// counting is a cache for tests that counts what it is asked.
type counting struct {
	cache.Cache
	loads atomic.Int64
}

func (c *counting) Load(ctx context.Context, key string) (cache.Entry, bool) {
	c.loads.Add(1)
	return c.Cache.Load(ctx, key)
}

func TestCache(t *testing.T) {
	t.Parallel()
	hot := &counting{Cache: cache.NewMemory(8 << 20)}
	w := startWorld(t, 3, 1, func(w *world) { w.cache = hot })
	gate := w.gateway()
	cart := w.cartIn(0, 0)
	filled := func(cart string, index uint64) {
		t.Helper()
		within(t, 5*time.Second, "the cache is filled", func() error {
			if e, ok := hot.Cache.Load(soon(t), cart); !ok || e.Version.Index < index {
				return fmt.Errorf("%v, at %+v", ok, e.Version)
			}
			return nil
		})
	}
	first := mustEdit(t, gate, addEdit(cart, "tea", 1))
	filled(cart, first.Index)
	token, err := crdt.DecodeContext(first.Context)
	if err != nil {
		t.Fatal(err)
	}
	// No node is asked: the caller has no time for that.
	v, err := gate.Read(limited(t, time.Nanosecond), cart, ReadOptions{HasToken: true, Context: token})
	if err != nil || v.Stale || v.Digest != Digest(first.Digest) || v.Version != (cache.Version{Incarnation: 1, Index: first.Index}) {
		t.Fatalf("token read from the cache: %+v (%v), want digest %x at %d", v, err, first.Digest, first.Index)
	}
	second := mustEdit(t, gate, addEdit(cart, "tea", 1))
	filled(cart, second.Index)
	old, _ := hot.Cache.Load(soon(t), cart)
	rec, err := store.DecodeRecord(old.Data)
	if err != nil {
		t.Fatal(err)
	}
	// What is older does not replace it.
	hot.Store(soon(t), cart, cache.Entry{Version: cache.Version{Incarnation: 1, Index: first.Index}, Data: []byte("old")})
	if v := mustReadNow(t, gate, cart, token); quantities(v)["tea"] != 2 {
		t.Errorf("read %v from the cache", quantities(v))
	}
	// Without a token the leader answers, whatever the cache says.
	before := hot.loads.Load()
	if v := mustRead(t, gate, cart, ReadOptions{}); v.Digest != Digest(second.Digest) || hot.loads.Load() != before {
		t.Errorf("read %v, cache asked %d times", quantities(v), hot.loads.Load()-before)
	}
	// A cache behind the token is of no use, and does no harm.
	ahead := cache.Version{Incarnation: 1, Index: second.Index + 1000}
	evil := newForeign("another shopper's").add(1, "secret", 1)
	evil.cart.Context = evil.cart.Context.Join(rec.State.Cart.Context)
	stolen := func(index uint64) []byte {
		return store.NewRecord("another shopper's", index, crdt.State{Cart: evil.cart}, store.Asked{}, store.Head{}).Encode()
	}
	// Under the index that it says itself, so that nothing but its digest tells.
	changed := func(index uint64) []byte {
		more := rec.State.Cart.Apply(rec.State.Cart.SetQuantity(crdt.Writer{Replica: crdt.Replica{Region: testID, Incarnation: 1}}, rec.State.Cart.Lines[0].Key, 77))
		b := store.NewRecord(cart, index, crdt.State{Cart: more}, store.Asked{}, store.Head{}).Encode()
		return append(append(b[:8:8], old.Data[8:8+len(Digest{})]...), b[8+len(Digest{}):]...)
	}
	torn := slices.Clone(old.Data)
	torn[len(torn)/2] ^= 0x40
	plain := func(b []byte) func(uint64) []byte { return func(uint64) []byte { return b } }
	for i, data := range []func(index uint64) []byte{
		plain(nil), plain([]byte("garbage")), plain(old.Data[:len(old.Data)-1]), plain(torn), stolen, changed, plain(make([]byte, 64)),
		plain(old.Data), // under a version that is not its own
	} {
		ahead.Index++
		hot.Store(soon(t), cart, cache.Entry{Version: ahead, Data: data(ahead.Index)})
		v := mustReadNow(t, gate, cart, token)
		if v.Stale || v.Digest != Digest(second.Digest) || v.Version.Index != second.Index {
			t.Errorf("hostile value %d: %v at %+v, stale %v", i, quantities(v), v.Version, v.Stale)
		}
	}
	w.kill(w.names...)
	// Nor does one stand for a cart when no node is there.
	ahead.Index++
	hot.Store(soon(t), cart, cache.Entry{Version: ahead, Data: stolen(ahead.Index)})
	if v, err := gate.Read(soon(t), cart, ReadOptions{}); !errors.Is(err, ErrNoQuorum) {
		t.Errorf("read %v (%v) with no node and a foreign value", quantities(v), err)
	}
}

func TestStaleReadFromTheCache(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 1)
	gate := w.gateway()
	cart := w.cartIn(0, 0)
	out := mustEdit(t, gate, addEdit(cart, "tea", 1))
	within(t, 5*time.Second, "the cache is filled", func() error {
		if _, ok := w.cache.Load(soon(t), cart); !ok {
			return errors.New("not yet")
		}
		return nil
	})
	w.kill(w.names...)
	v := mustRead(t, gate, cart, ReadOptions{})
	if !v.Stale || v.Digest != Digest(out.Digest) {
		t.Errorf("read %v, stale %v", quantities(v), v.Stale)
	}
}

// TestIncarnationIsTheRegions: a gateway's configuration does not know it.
func TestIncarnationIsTheRegions(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 1, func(w *world) { w.tune = func(c *Config) { c.Router.Incarnation = 5 } })
	gate := w.gateway()
	cart := w.cartIn(0, 0)
	out := mustEdit(t, gate, addEdit(cart, "tea", 1))
	want := cache.Version{Incarnation: 5, Index: out.Index}
	if v := mustRead(t, gate, cart, ReadOptions{}); v.Version != want {
		t.Errorf("version %+v from the leader, want %+v", v.Version, want)
	}
	within(t, 5*time.Second, "the cache is filled", func() error {
		if _, ok := w.cache.Load(soon(t), cart); !ok {
			return errors.New("not yet")
		}
		return nil
	})
	token, err := crdt.DecodeContext(out.Context)
	if err != nil {
		t.Fatal(err)
	}
	v, err := gate.Read(limited(t, time.Nanosecond), cart, ReadOptions{HasToken: true, Context: token})
	if err != nil || v.Version != want {
		t.Errorf("version %+v from the cache (%v), want %+v", v.Version, err, want)
	}
}

func TestOverload(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 1, func(w *world) { w.tune = func(c *Config) { c.QueueMax = 1 } })
	cart := w.cartIn(0, 0)
	for name, r := range map[string]*Router{"leader": w.leader(0).Router, "gateway": w.gateway()} {
		var acked, refused, unknown atomic.Int64
		var wg sync.WaitGroup
		before := quantities(mustRead(t, r, cart, ReadOptions{}))["tea"]
		for range 200 {
			wg.Go(func() {
				switch _, err := r.Edit(soon(t), addEdit(cart, "tea", 1)); {
				case err == nil:
					acked.Add(1)
				case errors.Is(err, ErrOverloaded):
					refused.Add(1)
				case errors.Is(err, ErrOutcomeUnknown): // the leader changed
					unknown.Add(1)
				default:
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		wg.Wait()
		if refused.Load() == 0 || acked.Load() == 0 {
			t.Errorf("%s: %d taken, %d refused, want some of both", name, acked.Load(), refused.Load())
		}
		if got := quantities(mustRead(t, r, cart, ReadOptions{}))["tea"] - before; int64(got) < acked.Load() || int64(got) > acked.Load()+unknown.Load() {
			t.Errorf("%s: %d pieces for %d edits taken and %d perhaps", name, got, acked.Load(), unknown.Load())
		}
	}
}

func TestTheCallerLeaves(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 1)
	cart := w.cartIn(0, 0)
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	for name, r := range map[string]*Router{"leader": w.leader(0).Router, "follower": w.follower(0).Router, "gateway": w.gateway()} {
		if _, err := r.Edit(gone, addEdit(cart, "tea", 1)); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: edit: %v", name, err)
		}
		if _, err := r.Read(gone, cart, ReadOptions{Strong: true}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: strong read: %v", name, err)
		}
		if _, err := r.Wait(gone, cart, mustRead(t, r, cart, ReadOptions{}).Digest); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: wait: %v", name, err)
		}
	}
	wantLines(t, mustRead(t, w.leader(0).Router, cart, ReadOptions{Strong: true}), map[string]uint32{})
}

func TestPlacement(t *testing.T) {
	for nodes := 1; nodes <= 7; nodes++ {
		cfg := DefaultRouterConfig()
		for i := range nodes {
			cfg.Nodes = append(cfg.Nodes, fmt.Sprint(i))
		}
		cfg.Shards = 14
		r := NewRouter(cfg, nil)
		held := make(map[string]int)
		for id := range r.Shards() {
			place := r.Placement(id)
			if len(place) != min(nodes, 3) || len(slices.Compact(slices.Sorted(slices.Values(place)))) != len(place) {
				t.Fatalf("%d nodes: shard %d on %v", nodes, id, place)
			}
			for _, n := range place {
				held[n]++
			}
		}
		least, most := 1<<30, 0
		for _, n := range cfg.Nodes {
			least, most = min(least, held[n]), max(most, held[n])
		}
		if most-least > 3 {
			t.Errorf("%d nodes hold %v", nodes, held)
		}
	}
}

// A caller with less patience than the waits take still gets an answer.
func TestATokenIsNotWaitedForLongerThanTheCallerWaits(t *testing.T) {
	t.Parallel()
	fetcher := &fetching{}
	w := startWorld(t, 3, 1, func(w *world) {
		w.fetcher = fetcher
		w.route = func(c *RouterConfig) { c.CoverWait = 20 * time.Second }
	})
	gate := w.gateway()
	for i, r := range []*Router{gate, w.leader(0).Router, w.follower(0).Router} {
		cart := w.cartIn(0, 30+i)
		mustEdit(t, gate, addEdit(cart, "coffee", 1))
		away := newForeign(cart).add(1, "tea", 3)
		asked := limited(t, 800*time.Millisecond)
		v, err := r.Read(asked, cart, ReadOptions{HasToken: true, Context: away.cart.Context})
		if err != nil || !v.Stale || asked.Err() != nil {
			t.Errorf("read: %v, stale %v, and the caller: %v", err, v.Stale, asked.Err())
			continue
		}
		wantLines(t, v, map[string]uint32{"coffee": 1})
	}
}
