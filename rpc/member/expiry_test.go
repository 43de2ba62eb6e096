//go:build !race

// Days of virtual time are too much for the race detector: its own memory of stacks
// overflows, and the process ends. TestTwoRegions has the same goroutines.

package member_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/rpc/catalog"
)

// links are the ways between regions, which can be cut.
type links struct {
	mu    sync.Mutex
	cut   string // a region that nobody reaches, and that reaches nobody
	conns map[string][]net.Conn
}

func (l *links) dial(ctx context.Context, s *shop, from, to string) (net.Conn, error) {
	l.mu.Lock()
	severed := l.cut == from || l.cut == to
	l.mu.Unlock()
	if severed {
		time.Sleep(time.Millisecond)
		return nil, errNobody
	}
	c, err := s.net.dial(ctx, to+"/peers")
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.conns[from], l.conns[to] = append(l.conns[from], c), append(l.conns[to], c)
	}
	return c, err
}

// sever cuts a region off; an empty name heals.
func (l *links) sever(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = name
	for _, c := range l.conns[name] {
		_ = c.Close() // it may be closed already
	}
	delete(l.conns, name)
}

// as calls a region for a shopper.
func (r *running) as(header, who, method, path, body string) (status int, said string) {
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req.Header.Set(header, who)
	req.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	r.api.ServeHTTP(w, req)
	all, _ := io.ReadAll(w.Body) // from memory
	return w.Code, string(all)
}

// With clocks five minutes ahead and behind, no cart expires before it is due by
// anybody's clock, each once; what is edited near its end, or in a region that is cut
// off, survives.
func TestExpiryWithSkewedClocks(t *testing.T) {
	products, err := catalog.New()
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		offsets := map[string]time.Duration{"us-east": 5 * time.Minute, "eu-west": -5 * time.Minute, "ap-south": 0}
		var mu sync.Mutex
		told := make(map[string][]string) // by cart: the regions that told of its expiry
		ways := &links{conns: make(map[string][]net.Conn)}
		s := &shop{
			t: t, dir: t.TempDir(), net: &network{listeners: make(map[string]*listener)}, catalog: products,
			ids:   map[string]crdt.RegionID{"us-east": 1, "eu-west": 2, "ap-south": 3},
			lives: shard.Lives{Guest: 2 * time.Minute, User: 4 * time.Minute, Saved: 6 * time.Minute, Skew: 5 * time.Minute},
		}
		s.dial = func(ctx context.Context, from, to string) (net.Conn, error) { return ways.dial(ctx, s, from, to) }
		s.tune = func(name string, c *region.Config) {
			c.Machine.Clock = func() time.Time { return time.Now().Add(offsets[name]) }
			c.Applied = func(_ uint32, a shard.Applied) {
				mu.Lock()
				defer mu.Unlock()
				for _, e := range a.Expired {
					told[e.CartID] = append(told[e.CartID], name)
				}
			}
		}
		us, eu, ap := s.start("us-east", false), s.start("eu-west", false), s.start("ap-south", false)
		all := []*running{us, eu, ap}
		for _, r := range all {
			s.eventually(r.name+" is ready", func() bool { return r.router.Ready(t.Context()) == nil })
		}
		const user, guest = "X-User-Id", "X-Guest-Session"
		add := func(r *running, header, who string) {
			t.Helper()
			if status, said := r.as(header, who, http.MethodPost, "/api/v1/cart/items", `{"sku_id":"SKU-1","quantity":1}`); status != http.StatusOK {
				t.Fatalf("add in %s: %d %s", r.name, status, said)
			}
		}
		shows := func(header, who string, quantity int) func() bool {
			return func() bool {
				for _, r := range all {
					status, said := r.as(header, who, http.MethodGet, "/api/v1/cart", "")
					if status != http.StatusOK || !strings.Contains(said, fmt.Sprintf(`"item_count":%d,`, quantity)) ||
						strings.Contains(said, `"expires_at":null`) != (quantity == 0) {
						return false
					}
				}
				return true
			}
		}
		want := func(what, header, who string, quantity int) {
			t.Helper()
			if !shows(header, who, quantity)() {
				t.Errorf("%s: %s does not have %d everywhere", what, who, quantity)
			}
		}
		begin := time.Now()
		until := func(d time.Duration) { time.Sleep(time.Until(begin.Add(d))) }
		add(us, user, "kept-till-the-end")
		add(us, user, "edited")
		add(eu, guest, "session-1")
		s.eventually("all regions have it", shows(user, "kept-till-the-end", 1))
		until(4*time.Minute - time.Second)
		want("before it is due", user, "kept-till-the-end", 1)
		until(13*time.Minute + 50*time.Second)
		want("before it is due by the clock of eu-west", user, "kept-till-the-end", 1)
		add(eu, user, "edited")
		until(16 * time.Minute)
		want("after it was due", user, "kept-till-the-end", 0)
		want("edited near its end", user, "edited", 2)
		want("a guest's", guest, "session-1", 0)
		for _, r := range all {
			status, said := r.as(guest, "session-1", http.MethodPost, "/api/v1/cart/items", `{"sku_id":"SKU-1","quantity":1}`)
			if status != http.StatusUnauthorized || !strings.Contains(said, "UNAUTHENTICATED") || !strings.Contains(said, "POST /guest-sessions") {
				t.Errorf("an edit of an expired guest in %s: %d %s", r.name, status, said)
			}
		}

		// A region that is cut off holds all expiry up.
		begin = time.Now()
		add(us, user, "cut")
		s.eventually("all regions have it", shows(user, "cut", 1))
		until(10 * time.Minute)
		ways.sever("ap-south")
		until(18 * time.Minute)
		want("due while a region is cut off", user, "cut", 1)
		add(ap, user, "cut")
		until(20 * time.Minute)
		ways.sever("")
		s.eventually("the edit of ap-south is everywhere", shows(user, "cut", 2))
		until(22 * time.Minute)
		want("edited in the region that was cut off", user, "cut", 2)
		mu.Lock()
		defer mu.Unlock()
		for cart, by := range map[string]string{"cart:kept-till-the-end": "us-east", "guest:session-1": "eu-west"} {
			if len(told[cart]) != 1 || told[cart][0] != by {
				t.Errorf("%s was told of by %v, want %s once", cart, told[cart], by)
			}
		}
		if len(told["cart:cut"]) != 0 {
			t.Errorf("an edited cart expired: %v", told)
		}
	})
}
