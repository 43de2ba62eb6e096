package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/rpc/client"
)

// far is an http.RoundTripper that makes the regions of one machine far apart,
// and one of them silent.
type far struct {
	http.Transport

	silent atomic.Pointer[string] // a host that answers nothing
}

// newFar returns a transport to regions that are so far away, by host.
func newFar(away map[string]time.Duration) *far {
	f := new(far)
	f.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, addr)
		return farConn{conn, away[addr]}, err
	}
	f.MaxIdleConnsPerHost = 64
	return f
}

// RoundTrip implements http.RoundTripper.
func (f *far) RoundTrip(r *http.Request) (*http.Response, error) {
	if host := f.silent.Load(); host != nil && *host == r.URL.Host {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return f.Transport.RoundTrip(r)
}

// farConn is a connection whose bytes are on their way for long.
type farConn struct {
	net.Conn

	away time.Duration
}

// Read implements net.Conn.
func (c farConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	<-time.After(c.away)
	return n, err
}

// buyers use one client, a cart each that nobody else edits, until stopped.
type buyers struct {
	t     *testing.T
	net   *far
	c     *client.Client
	moved chan client.Moved
	stop  context.CancelFunc
	ended sync.WaitGroup
	all   []*buyer

	mu      sync.Mutex // guards what follows
	phase   string
	gaps    map[string]time.Duration // longest between two successful calls of one buyer
	longest map[string]time.Duration // call
	calls   map[string]int
	stale   map[string]int
	retried map[string]int
}

// buyer adds one piece at a time, each under its own op id.
type buyer struct {
	*buyers

	shopper shopper
	session *client.Session
	last    time.Time

	acked   map[string]int // by SKU
	unknown map[string]int // of these it is not known whether they count
	// torn lines were added to where the region lacked what was seen: of the
	// two sums the larger counts. The value is the largest shown.
	torn  map[string]int
	shown int // the largest count of a cart that was not stale
}

func hostOf(d *running, region string) string { return strings.TrimPrefix(d.url(region), "http://") }

func (r *running) buy(t *testing.T, n int) *buyers {
	ctx, stop := context.WithCancel(context.Background())
	b := &buyers{
		t: t, stop: stop, moved: make(chan client.Moved, 100), phase: "quiet",
		gaps: map[string]time.Duration{}, longest: map[string]time.Duration{}, calls: map[string]int{}, stale: map[string]int{}, retried: map[string]int{},
	}
	away := make(map[string]time.Duration)
	for i, region := range regions {
		away[hostOf(r, region)] = time.Duration(i) * 20 * time.Millisecond
	}
	b.net = newFar(away)
	cfg := client.DefaultConfig()
	cfg.Transport = b.net
	cfg.ProbeEvery, cfg.ReturnAfter = 300*time.Millisecond, time.Second
	cfg.Events.Moved = func(m client.Moved) {
		t.Logf("calls move from %s to %s: %s", m.From, m.To, m.Why)
		b.moved <- m
	}
	cfg.Events.Retried = func(client.Retried) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.retried[b.phase]++
	}
	var err error
	if b.c, err = client.New(r.url("front"), cfg); err != nil {
		t.Fatal(err)
	}
	b.ended.Go(func() {
		if err := b.c.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() { stop(); b.ended.Wait(); b.c.Close(); b.net.CloseIdleConnections() })
	b.movedTo("us-east")
	for range n {
		s := r.shopper(t)
		one := &buyer{
			buyers: b, shopper: s, session: b.c.Session(client.User(s.headers.Get("X-User-Id"))), last: time.Now(),
			acked: map[string]int{}, unknown: map[string]int{}, torn: map[string]int{},
		}
		b.all = append(b.all, one)
		b.ended.Go(func() { one.run(ctx) })
	}
	return b
}

// movedTo waits until calls go to a region.
func (b *buyers) movedTo(region string) {
	b.t.Helper()
	within := time.NewTimer(20 * time.Second)
	defer within.Stop()
	for {
		select {
		case m := <-b.moved:
			if m.To == region {
				return
			}
		case <-within.C:
			b.t.Fatalf("calls do not move to %s: %+v", region, b.c.Status())
		}
	}
}

// enter begins a phase, which what comes is counted for.
func (b *buyers) enter(phase string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.phase = phase
}

// goOn lets the buyers buy until there were n more calls.
func (b *buyers) goOn(phase string, n int) {
	b.t.Helper()
	b.enter(phase)
	b.mu.Lock()
	want := b.calls[phase] + n
	b.mu.Unlock()
	eventually(b.t, 20*time.Second, fmt.Sprintf("%d more calls", n), func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.calls[phase] >= want
	})
}

// made counts a call that succeeded.
func (b *buyer) made(took time.Duration, stale bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gaps[b.phase] = max(b.gaps[b.phase], time.Since(b.last))
	b.longest[b.phase] = max(b.longest[b.phase], took)
	b.calls[b.phase]++
	if stale {
		b.stale[b.phase]++
	}
	b.last = time.Now()
}

func (b *buyer) run(ctx context.Context) {
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if i%3 == 2 {
			b.look()
		} else {
			b.add(fmt.Sprintf("SKU-%d", i%10+1))
		}
	}
}

func (b *buyer) add(sku string) {
	begun := time.Now()
	// A call that has begun ends: an edit must not be left in doubt by the test.
	a, err := b.session.Add(context.Background(), &cartv1.AddItemRequest{Line: &cartv1.LineRef{SkuId: sku}, Quantity: 1})
	if err != nil {
		var e *client.Error
		if !errors.As(err, &e) {
			b.t.Errorf("add: %v", err)
		} else if e.Unknown {
			b.unknown[sku]++
		}
		return
	}
	b.acked[sku]++
	b.made(time.Since(begun), a.Stale)
	have := int(a.Msg.GetItem().GetQuantity())
	switch {
	case a.Stale:
		b.torn[sku] = max(b.torn[sku], have)
	case b.torn[sku] == 0 && !a.Replayed && (have < b.acked[sku] || have > b.acked[sku]+b.unknown[sku]):
		b.t.Errorf("an add in %s shows %d of %s, %d were acknowledged and %d are unknown", a.Region, have, sku, b.acked[sku], b.unknown[sku])
	}
	if _, torn := b.torn[sku]; torn {
		b.torn[sku] = max(b.torn[sku], have)
	}
}

func (b *buyer) look() {
	begun := time.Now()
	a, err := b.session.Get(context.Background())
	if err != nil {
		return // there is no promise that reads succeed; the gap tells
	}
	b.made(time.Since(begun), a.Stale)
	if a.Stale {
		return
	}
	have := make(map[string]int)
	for _, it := range a.Msg.GetItems() {
		have[it.GetSkuId()] = int(it.GetQuantity())
	}
	b.judge(a.Region+" shows", have)
	if n := int(a.Msg.GetItemCount()); n < b.shown {
		b.t.Errorf("%s shows %d pieces, %d were seen before", a.Region, n, b.shown)
	} else {
		b.shown = n
	}
}

// judge compares a cart with what the buyer knows.
func (b *buyer) judge(who string, have map[string]int) {
	b.t.Helper()
	for sku, acked := range b.acked {
		least, most := acked, acked+b.unknown[sku]
		if q, torn := b.torn[sku]; torn {
			least = q
		}
		if have[sku] < least || have[sku] > most {
			b.t.Errorf("%s %d of %s, want %d to %d", who, have[sku], sku, least, most)
		}
	}
}

// prove stops the buyers and checks their carts in all regions.
func (b *buyers) prove() {
	b.t.Helper()
	b.stop()
	b.ended.Wait()
	acked, unknown, torn := 0, 0, 0
	for _, one := range b.all {
		c, _ := one.shopper.converge(5 * time.Second)
		have := make(map[string]int)
		for _, it := range c.Items {
			have[it.SKU] = it.Quantity
		}
		one.judge("all regions hold", have)
		for sku := range one.acked {
			acked, unknown = acked+one.acked[sku], unknown+one.unknown[sku]
		}
		torn += len(one.torn)
	}
	b.t.Logf("%d adds acknowledged, %d unknown, %d lines added to where something was missing", acked, unknown, torn)
	for _, phase := range slices.Sorted(maps.Keys(b.calls)) {
		b.t.Logf("%-8s %4d calls, %3d stale, %3d retries, longest call %v, longest gap %v", phase, b.calls[phase], b.stale[phase], b.retried[phase],
			b.longest[phase].Round(time.Millisecond), b.gaps[phase].Round(time.Millisecond))
		if b.gaps[phase] > 5*time.Second {
			b.t.Errorf("a buyer had no successful call for %v, %s", b.gaps[phase], phase)
		}
	}
}

func TestClientMovesWhenARegionIsKilled(t *testing.T) {
	d := sharedDev(t)
	t.Run("whole", func(t *testing.T) { clientMovesWhenARegionIsKilled(t, d, false) })
	// It has edits that no other region has: answers elsewhere must say so.
	t.Run("cut off before", func(t *testing.T) { clientMovesWhenARegionIsKilled(t, d, true) })
}

func clientMovesWhenARegionIsKilled(t *testing.T, d *running, cutOff bool) {
	b := d.buy(t, 6)
	// Somebody looks on, and is shown the cart as it grows.
	first := b.all[0].shopper
	watching, leave := context.WithCancel(t.Context())
	var last, updates atomic.Int64
	var looking sync.WaitGroup
	looking.Go(func() {
		for u, err := range b.c.Session(client.User(first.headers.Get("X-User-Id"))).Watch(watching) {
			switch n := int64(u.Cart.GetItemCount()); {
			case err != nil:
				t.Errorf("watch: %v", err)
			case u.Stale:
			case n < last.Load():
				t.Errorf("%s shows %d pieces, %d were seen before", u.Region, n, last.Load())
			default:
				last.Store(n)
				updates.Add(1)
			}
		}
	})
	t.Cleanup(func() { leave(); looking.Wait() })

	b.goOn("quiet", 200)
	t.Cleanup(func() { d.switchRegion(t, adminv1.NodeRequest_ACTION_START, "us-east"); d.ready(t, "us-east") })
	heal := func() {}
	if cutOff {
		heal = d.cut(t, links[0], links[1])
		b.goOn("quiet", 100)
	}
	b.enter("killed")
	d.switchRegion(t, adminv1.NodeRequest_ACTION_KILL, "us-east")
	b.movedTo("eu-west")
	b.goOn("killed", 400)
	heal()
	d.switchRegion(t, adminv1.NodeRequest_ACTION_START, "us-east")
	b.movedTo("us-east")
	b.goOn("back", 200)
	b.prove()
	if cutOff && b.stale["killed"] == 0 {
		t.Error("edits were in the killed region alone, and no answer was stale")
	}
	want := int64(first.cart("eu-west").ItemCount)
	eventually(t, 5*time.Second, "the watch shows the last cart", func() bool { return last.Load() == want })
	t.Logf("the watch showed %d carts", updates.Load())
}

func TestClientMovesWhenARegionIsSilent(t *testing.T) {
	d := sharedDev(t)
	b := d.buy(t, 4)
	b.goOn("quiet", 100)
	b.enter("silent")
	host := hostOf(d, "us-east")
	b.net.silent.Store(&host)
	b.movedTo("eu-west")
	b.goOn("silent", 100)
	b.net.silent.Store(nil)
	b.movedTo("us-east")
	b.goOn("back", 50)
	b.prove()
}
