package rpc_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/region/cache"
)

// countOf is the item count that an event's cart has; -1 for what is no cart.
func countOf(t *testing.T, event map[string]string) int {
	t.Helper()
	if event["data"] == "" || event["event"] != "" {
		return -1
	}
	var cart struct {
		ItemCount int `json:"item_count"`
	}
	if err := json.Unmarshal([]byte(event["data"]), &cart); err != nil {
		t.Fatalf("%v: %v", event, err)
	}
	return cart.ItemCount
}

// until reads events until one has the count.
func (e *events) until(t *testing.T, count int) map[string]string {
	t.Helper()
	for {
		b := e.next(t)
		if b == nil {
			t.Fatalf("the stream ended before it showed %d", count)
		}
		if countOf(t, b) == count {
			return b
		}
	}
}

// However many watch a cart, its page is made once for each change.
func TestPageIsMadeOnceForAllWatchers(t *testing.T) {
	w := start(t)
	w.add("SKU-456", "1")
	const watchers = 100
	streams := make([]*events, watchers)
	for i := range streams {
		streams[i] = w.watch("")
		streams[i].until(t, 1)
	}
	if carts, lines := w.handler.Watched(); carts != 1 || lines != 1 {
		t.Errorf("%d carts and %d lines are watched", carts, lines)
	}
	before := w.catalog.calls.Load() // each page made asks the catalogue
	w.add("SKU-456", "1")
	for _, e := range streams {
		e.until(t, 2)
	}
	// Two of the edit, one of the page, and one of the page that is looked at
	// for whether it still stands.
	if n := w.catalog.calls.Load() - before; n > 4 {
		t.Errorf("%d look-ups for one change that %d watch", n, watchers)
	}
	for _, e := range streams {
		e.res.Body.Close()
	}
	eventually(t, "nothing is watched", func() bool { carts, lines := w.handler.Watched(); return carts == 0 && lines == 0 })
}

// rewinding is a region whose answers may be of any moment before, as those of
// followers and of leaders that catch up are.
type rewinding struct {
	*fakeRegion

	mu      sync.Mutex
	history []region.View
	random  *rand.Rand
	rewind  atomic.Bool
}

func (r *rewinding) any(v region.View) region.View {
	r.mu.Lock()
	defer r.mu.Unlock()
	v.Version = cache.Version{Incarnation: 1, Index: uint64(len(v.State.Cart.Lines))}
	r.history = append(r.history, v)
	if !r.rewind.Load() || r.random.IntN(2) == 0 {
		return v
	}
	old := r.history[r.random.IntN(len(r.history))]
	old.Stale = r.random.IntN(2) == 0
	return old
}

func (r *rewinding) Read(ctx context.Context, id string, o region.ReadOptions) (region.View, error) {
	v, err := r.fakeRegion.Read(ctx, id, o)
	if err != nil {
		return v, err
	}
	return r.any(v), nil
}

func (r *rewinding) Wait(ctx context.Context, id string, seen region.Digest) (region.View, error) {
	v, err := r.fakeRegion.Wait(ctx, id, seen)
	if err != nil {
		return v, err
	}
	if r.rewind.Load() { // long enough for watchers to be shown what came before
		late := time.NewTimer(2 * time.Millisecond)
		defer late.Stop()
		select {
		case <-late.C:
		case <-ctx.Done():
			return v, ctx.Err()
		}
	}
	if old := r.any(v); old.Digest != seen {
		return old, nil
	}
	return v, nil
}

// W1: no watcher sees an older cart after a newer one, whatever the region
// answers; all see the newest.
func TestWatchersNeverGoBack(t *testing.T) {
	var back *rewinding
	w := start(t, func(w *world) {
		back = &rewinding{fakeRegion: w.region, random: rand.New(rand.NewPCG(3, 4))}
		w.serves = back
	})
	back.rewind.Store(true)
	w.add("SKU-456", "1")
	const edits = 60
	var watching sync.WaitGroup
	shown := make(chan int, 1000)
	for range 8 {
		e := w.watch("")
		watching.Go(func() {
			last := 0
			for last < 1+edits {
				b := e.next(t)
				if b == nil {
					t.Error("the stream ended")
					return
				}
				n := countOf(t, b)
				if n < 0 {
					continue
				}
				if n < last {
					t.Errorf("%d items after %d", n, last)
				}
				last = n
				shown <- n
			}
		})
	}
	for range edits {
		w.add("SKU-456", "1")
	}
	back.rewind.Store(false)
	watching.Wait()
	if len(shown) < 8 {
		t.Errorf("%d carts shown", len(shown))
	}
}

// A region that lost its state and says so by its incarnation shows what it has.
func TestWatchersSeeAReborn(t *testing.T) {
	var back *rewinding
	w := start(t, func(w *world) {
		back = &rewinding{fakeRegion: w.region, random: rand.New(rand.NewPCG(3, 4))}
		w.serves = reborn{back, w}
	})
	w.add("SKU-456", "3")
	e := w.watch("")
	e.until(t, 3)
	w.set(func(r *fakeRegion) {
		r.now++
		r.replica.Incarnation = 2
		r.put("cart:user-123", &crdt.Cart{})
	})
	e.until(t, 0)
}

// reborn gives views the incarnation of their region.
type reborn struct {
	*rewinding
	w *world
}

func (r reborn) Wait(ctx context.Context, id string, seen region.Digest) (region.View, error) {
	v, err := r.rewinding.Wait(ctx, id, seen)
	r.w.set(func(f *fakeRegion) { v.Version.Incarnation = f.replica.Incarnation })
	return v, err
}

// stalled opens a watch whose answers nobody reads.
func (w *world) stalled() {
	w.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() }) // nobody reads from it
	if err := conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		w.t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET /api/v1/cart/watch HTTP/1.1\r\nHost: cart\r\nX-User-Id: user-123\r\n\r\n"); err != nil {
		w.t.Fatal(err)
	}
}

// W2: a watcher that takes nothing keeps nobody from anything, and is dropped.
func TestStalledWatcherIsDroppedAndBothersNobody(t *testing.T) {
	w := start(t, func(w *world) { w.cfg.Patience = 100 * time.Millisecond; w.cfg.Heartbeat = 20 * time.Millisecond })
	for i := range 100 { // a page of some 30 KB fills buffers soon
		w.add(fmt.Sprintf("SKU-%d", 1+i), "1")
	}
	w.stalled()
	e := w.watch("")
	e.until(t, 100)
	dropped := func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, c := range w.calls {
			if strings.HasSuffix(c.Procedure, "/cart/watch") {
				if c.Code != "OVERLOADED" {
					t.Fatalf("a watch ended with %q", c.Code)
				}
				return true
			}
		}
		return false
	}
	count := 100
	for ; !dropped(); count++ {
		if count > 2000 {
			t.Fatal("2,000 edits, and the watcher that takes nothing is still there")
		}
		w.add("SKU-1", "1")
		if count%900 == 899 {
			w.do("PUT", cartItems+"/SKU-1", `{"quantity":1}`)
			count = 99
		}
		e.until(t, count+1)
	}
	if carts, _ := w.handler.Watched(); carts != 1 {
		t.Errorf("%d carts are watched", carts)
	}
}

// A stream over HTTP/2 outlives the deadline of its last write.
func TestSilentStreamsStand(t *testing.T) {
	w := start(t, func(w *world) { w.cfg.Patience, w.cfg.Heartbeat = 30*time.Millisecond, 100*time.Millisecond })
	w.add("SKU-456", "1")
	w.h1 = w.h2 // server-sent events over HTTP/2
	e := w.watch("")
	if e.res.ProtoMajor != 2 {
		t.Fatalf("HTTP/%d", e.res.ProtoMajor)
	}
	s, err := w.client().WatchCart(t.Context(), request(&cartv1.WatchCartRequest{}))
	if err != nil || !s.Receive() {
		t.Fatalf("%v, %v", err, s.Err())
	}
	t.Cleanup(func() { s.Close() }) //nolint:errcheck // it is at its end
	for alive := 0; alive < 3; {
		b := e.next(t)
		if b == nil {
			t.Fatal("the stream ended")
		}
		if b[""] == "still here" {
			alive++
		}
	}
	w.add("SKU-456", "1")
	e.until(t, 2)
	if !s.Receive() || s.Msg().GetCart().GetItemCount() != 2 {
		t.Errorf("%v, %v", s.Msg(), s.Err())
	}
}

// A page marked stale while the region had no leader loses the mark when it has
// one again, without an edit.
func TestStaleMarkGoesByItself(t *testing.T) {
	w := start(t)
	w.add("SKU-456", "1")
	w.set(func(r *fakeRegion) { r.stale = true })
	e := w.watch("")
	if b := e.until(t, 1); !strings.Contains(b["data"], `"stale":true`) {
		t.Fatalf("%v", b)
	}
	w.set(func(r *fakeRegion) { r.stale = false })
	if b := e.until(t, 1); !strings.Contains(b["data"], `"stale":false`) {
		t.Fatalf("%v", b)
	}
}

// What this caller's token names is no other watcher's matter.
func TestStaleForOneWatcherOnly(t *testing.T) {
	ahead, w := start(t), start(t)
	w.add("SKU-1", "1")
	ahead.region.join("cart:user-123", elsewhere(ahead.region.cart(""), "SKU-2", 1, 100))
	token := ahead.do("GET", "/api/v1/cart", "").header.Get("Cart-Token")
	plain := w.watch("")
	plain.until(t, 1)
	req, err := http.NewRequestWithContext(t.Context(), "GET", w.url+"/api/v1/cart/watch", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-User-ID", "user-123")
	req.Header.Set("Cart-Token", token)
	res, err := w.h1.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	knowing := &events{res, bufio.NewScanner(res.Body)}
	if b := knowing.until(t, 1); !strings.Contains(b["data"], `"stale":true`) || !strings.Contains(b["data"], `"missing":[`) {
		t.Errorf("with a token: %v", b)
	}
	w.add("SKU-1", "1")
	if b := knowing.until(t, 2); !strings.Contains(b["data"], `"stale":true`) {
		t.Errorf("with a token: %v", b)
	}
	if b := plain.until(t, 2); !strings.Contains(b["data"], `"stale":false`) {
		t.Errorf("without: %v", b)
	}
}
