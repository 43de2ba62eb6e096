package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
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

	silent atomic.Pointer[silence]
}

// silence is what is wrong with one host.
type silence struct {
	host string
	mute bool // what it is asked for is done, and its answers are lost
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
	s := f.silent.Load()
	if s == nil || s.host != r.URL.Host {
		return f.Transport.RoundTrip(r)
	}
	if s.mute {
		if resp, err := f.Transport.RoundTrip(r); err == nil {
			_ = resp.Body.Close() // lost on its way
		}
	}
	<-r.Context().Done()
	return nil, r.Context().Err()
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

// buying says how buyers buy.
type buying struct {
	shoppers int
	every    time.Duration // between two calls of one shopper, of which a third are reads
	// homes are the regions that devices are near to: each shopper has one device
	// at each of them. With two, it goes from one to the other, with what was
	// seen there, every moveEvery calls.
	homes     []string
	moveEvery int
	tune      func(*client.Config)
}

// buyers have a cart each that nobody else edits, until stopped; the devices
// of one home share one client.
type buyers struct {
	buying

	t     testing.TB
	nets  []*far
	c     []*client.Client // by home
	moved chan client.Moved
	stop  context.CancelFunc
	ended sync.WaitGroup
	all   []*buyer

	mu     sync.Mutex // guards what follows
	phase  string
	phases map[string]*tally
	wrong  int // broken promises
}

// tally is what was counted in one phase.
type tally struct {
	began             time.Time
	took              time.Duration
	gap               time.Duration // longest between two successful calls of one buyer
	editGap           time.Duration // longest between two acknowledged edits of one buyer
	longest           time.Duration // call
	edits, staleEdits int
	reads, staleReads int
	failed            int
	retried           int
	by                map[string]int // answers, by region
}

func (t *tally) calls() int { return t.edits + t.reads }

// buyer adds one piece at a time, each under its own op id.
type buyer struct {
	*buyers

	shopper  shopper
	sessions []*client.Session // by home
	at       int
	last     time.Time // call
	lastEdit time.Time

	acked   map[string]int // by SKU
	unknown map[string]int // of these it is not known whether they count
	largest map[string]int // that an acknowledgement showed
	// torn lines were added to where the region lacked what was seen: of the
	// two sums the larger counts.
	torn  map[string]bool
	shown int // the largest count of a cart that was not stale
}

func hostOf(d *running, region string) string { return strings.TrimPrefix(d.url(region), "http://") }

// buy starts n buyers near us-east.
func (r *running) buy(t testing.TB, n int) *buyers {
	return r.buyAs(t, buying{shoppers: n, every: 25 * time.Millisecond, homes: regions[:1], tune: func(c *client.Config) {
		c.ProbeEvery, c.ReturnAfter = 300*time.Millisecond, time.Second
	}})
}

func (r *running) buyAs(t testing.TB, how buying) *buyers {
	ctx, stop := context.WithCancel(context.Background())
	b := &buyers{buying: how, t: t, stop: stop, moved: make(chan client.Moved, 100), phases: make(map[string]*tally)}
	b.enter("quiet")
	t.Cleanup(func() {
		stop()
		b.ended.Wait()
		for i, c := range b.c {
			c.Close()
			b.nets[i].CloseIdleConnections()
		}
	})
	for _, home := range how.homes {
		b.connect(ctx, r, home)
		b.movedTo(home)
	}
	for range how.shoppers {
		s := r.shopper(t)
		one := &buyer{
			buyers: b, shopper: s,
			acked: map[string]int{}, unknown: map[string]int{}, largest: map[string]int{}, torn: map[string]bool{},
		}
		for _, c := range b.c {
			one.sessions = append(one.sessions, c.Session(client.User(s.headers.Get("X-User-Id"))))
		}
		b.all = append(b.all, one)
		b.ended.Go(func() { one.run(ctx) })
	}
	return b
}

// connect makes the client of a home.
func (b *buyers) connect(ctx context.Context, r *running, home string) {
	away := make(map[string]time.Duration)
	at := slices.Index(regions, home)
	for i, region := range regions {
		away[hostOf(r, region)] = time.Duration((i-at+len(regions))%len(regions)) * distance
	}
	net := newFar(away)
	cfg := client.DefaultConfig()
	cfg.Transport = net
	cfg.Events.Moved = func(m client.Moved) {
		b.t.Logf("calls of devices near %s move from %s to %s: %s", home, m.From, m.To, m.Why)
		b.moved <- m
	}
	cfg.Events.Retried = func(client.Retried) { b.count(func(t *tally) { t.retried++ }) }
	if b.tune != nil {
		b.tune(&cfg)
	}
	c, err := client.New(r.url("front"), cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	b.c, b.nets = append(b.c, c), append(b.nets, net)
	b.ended.Go(func() {
		if err := c.Run(ctx); err != nil {
			b.t.Errorf("Run: %v", err)
		}
	})
}

// movedTo waits until calls go to a region.
func (b *buyers) movedTo(region string) {
	b.t.Helper()
	if b.moves(region, 20*time.Second) {
		return
	}
	for _, c := range b.c {
		b.t.Logf("%+v", c.Status())
	}
	b.t.Fatalf("calls do not move to %s", region)
}

// moves reports whether calls go to a region in time.
func (b *buyers) moves(region string, within time.Duration) bool {
	over := time.After(within)
	for {
		select {
		case m := <-b.moved:
			if m.To == region {
				return true
			}
		case <-over:
			return false
		}
	}
}

// enter begins a phase, which what comes is counted for.
func (b *buyers) enter(phase string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if last := b.phases[b.phase]; last != nil {
		last.took += now.Sub(last.began)
	}
	if b.phases[phase] == nil {
		b.phases[phase] = &tally{by: make(map[string]int)}
	}
	b.phase = phase
	b.phases[phase].began = now
}

// count counts in the phase that it is.
func (b *buyers) count(what func(*tally)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	what(b.phases[b.phase])
}

// goOn lets the buyers buy until there were n more calls.
func (b *buyers) goOn(phase string, n int) {
	b.t.Helper()
	b.enter(phase)
	calls := func() (n int) {
		b.count(func(t *tally) { n = t.calls() })
		return n
	}
	want := calls() + n
	eventually(b.t, 60*time.Second, fmt.Sprintf("%d more calls", n), func() bool { return calls() >= want })
}

// goOnFor is goOn for as many calls as that takes at the buyers' pace.
func (b *buyers) goOnFor(phase string, d time.Duration) {
	b.t.Helper()
	b.goOn(phase, int(float64(b.shoppers)*d.Seconds()/b.every.Seconds()))
}

// violated counts a promise that was not kept.
func (b *buyers) violated(format string, args ...any) {
	b.t.Helper()
	b.mu.Lock()
	b.wrong++
	n := b.wrong
	b.mu.Unlock()
	if n <= 20 { // the first ones tell
		b.t.Errorf(format, args...)
	} else {
		b.t.Fail()
	}
}

// made counts a call that succeeded.
func (b *buyer) made(begun time.Time, edit, stale bool, region string) {
	now := time.Now()
	b.count(func(t *tally) {
		t.longest = max(t.longest, now.Sub(begun))
		t.by[region]++
		if !b.last.IsZero() {
			t.gap = max(t.gap, now.Sub(b.last))
		}
		if !edit {
			t.reads++
			if stale {
				t.staleReads++
			}
			return
		}
		t.edits++
		if stale {
			t.staleEdits++
		}
		if !b.lastEdit.IsZero() {
			t.editGap = max(t.editGap, now.Sub(b.lastEdit))
		}
	})
	b.last = now
	if edit {
		b.lastEdit = now
	}
}

// run buys at the pace, whatever answers take: what was late is made up for.
func (b *buyer) run(ctx context.Context) {
	begin := time.Now().Add(rand.N(b.every))
	for i := 0; ; i++ {
		wait := time.NewTimer(time.Until(begin.Add(time.Duration(i) * b.every)))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return
		}
		if b.moveEvery > 0 && i > 0 && i%b.moveEvery == 0 {
			b.move()
		}
		switch i % 6 {
		case 2:
			b.look()
		case 5:
			b.glance()
		case 0, 3: // lines that grow: what counts twice shows
			b.add(fmt.Sprintf("SKU-%d", i%10+1))
		default: // lines of few pieces: what is lost shows, whatever was concurrent
			b.add(fmt.Sprintf("SKU-%d", 100+i%60))
		}
	}
}

// move goes on with the next device, which is told what was seen.
func (b *buyer) move() {
	token := b.sessions[b.at].Token()
	b.at = (b.at + 1) % len(b.sessions)
	if token == "" {
		return
	}
	if err := b.sessions[b.at].Observe(token); err != nil {
		b.violated("token of the other device: %v", err)
	}
}

func (b *buyer) add(sku string) {
	begun := time.Now()
	// A call that has begun ends: an edit must not be left in doubt by the test.
	a, err := b.sessions[b.at].Add(context.Background(), &cartv1.AddItemRequest{Line: &cartv1.LineRef{SkuId: sku}, Quantity: 1})
	if err != nil {
		b.count(func(t *tally) { t.failed++ })
		var e *client.Error
		if !errors.As(err, &e) {
			b.violated("add: %v", err)
		} else if e.Unknown {
			b.unknown[sku]++
		}
		return
	}
	b.acked[sku]++
	b.made(begun, true, a.Stale, a.Region)
	have := int(a.Msg.GetItem().GetQuantity())
	if a.Stale {
		b.torn[sku] = true
	}
	if !b.torn[sku] && !a.Replayed && (have < b.acked[sku] || have > b.acked[sku]+b.unknown[sku]) {
		b.violated("an add in %s shows %d of %s, %d were acknowledged and %d are unknown", a.Region, have, sku, b.acked[sku], b.unknown[sku])
	}
	b.largest[sku] = max(b.largest[sku], have)
}

// look reads the cart.
func (b *buyer) look() {
	begun := time.Now()
	a, err := b.sessions[b.at].Get(context.Background())
	if err != nil {
		b.count(func(t *tally) { t.failed++ })
		return // there is no promise that reads succeed; the gap tells
	}
	b.made(begun, false, a.Stale, a.Region)
	if a.Stale {
		return
	}
	have := make(map[string]int)
	for _, it := range a.Msg.GetItems() {
		have[it.GetSkuId()] = int(it.GetQuantity())
	}
	b.judge(a.Region+" shows", have)
	b.counted(a.Region, int(a.Msg.GetItemCount()))
}

// glance reads the count alone.
func (b *buyer) glance() {
	begun := time.Now()
	a, err := b.sessions[b.at].Count(context.Background())
	if err != nil {
		b.count(func(t *tally) { t.failed++ })
		return
	}
	b.made(begun, false, a.Stale, a.Region)
	if !a.Stale {
		b.counted(a.Region, int(a.Msg.GetItemCount()))
	}
}

// counted judges a count that is not stale.
func (b *buyer) counted(region string, n int) {
	least, most := 0, 0
	for sku, acked := range b.acked {
		least, most = least+b.least(sku), most+acked
	}
	for _, unknown := range b.unknown {
		most += unknown
	}
	if n < b.shown || n < least || n > most {
		b.violated("%s counts %d pieces, %d were seen before, want %d to %d", region, n, b.shown, least, most)
	}
	b.shown = max(b.shown, n)
}

// least is what must be of a line. Whatever was acknowledged with its sum is
// there, or in a larger sum.
func (b *buyer) least(sku string) int {
	if b.torn[sku] {
		return b.largest[sku]
	}
	return b.acked[sku]
}

// judge compares a cart with what the buyer knows.
func (b *buyer) judge(who string, have map[string]int) (lost, doubled int) {
	b.t.Helper()
	for sku, acked := range b.acked {
		least, most := b.least(sku), acked+b.unknown[sku]
		lost, doubled = lost+max(0, least-have[sku]), doubled+max(0, have[sku]-most)
		if have[sku] < least || have[sku] > most {
			b.violated("%s %d of %s, want %d to %d", who, have[sku], sku, least, most)
		}
	}
	return lost, doubled
}

// verdict is what became of all that was bought.
type bought struct{ acked, unknown, torn, lost, doubled int }

// prove stops the buyers and checks their carts in all regions.
func (b *buyers) prove() (all bought) {
	b.t.Helper()
	b.stop()
	b.ended.Wait()
	b.enter("") // the last one's time is known now
	for _, one := range b.all {
		c, _ := one.shopper.converge(20 * time.Second)
		have := make(map[string]int)
		for _, it := range c.Items {
			have[it.SKU] = it.Quantity
		}
		lost, doubled := one.judge("all regions hold", have)
		all.lost, all.doubled = all.lost+lost, all.doubled+doubled
		for sku := range one.acked {
			all.acked, all.unknown = all.acked+one.acked[sku], all.unknown+one.unknown[sku]
		}
		all.torn += len(one.torn)
	}
	b.t.Logf("%+v", all)
	for _, phase := range slices.Sorted(maps.Keys(b.phases)) {
		p := b.phases[phase]
		if p.calls() == 0 {
			continue
		}
		b.t.Logf("%-8s %5.1f s, %5d edits (%d stale), %5d reads (%d stale), %d failed, %d retries, by %v, longest call %v, longest gap %v, between edits %v", phase, p.took.Seconds(),
			p.edits, p.staleEdits, p.reads, p.staleReads, p.failed, p.retried, p.by,
			p.longest.Round(time.Millisecond), p.gap.Round(time.Millisecond), p.editGap.Round(time.Millisecond))
	}
	return all
}

// noGap fails the test where a buyer had no successful call for long.
func (b *buyers) noGap() {
	b.t.Helper()
	for phase, p := range b.phases {
		if p.gap > 5*time.Second {
			b.t.Errorf("a buyer had no successful call for %v, %s", p.gap, phase)
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
		for u, err := range b.c[0].Session(client.User(first.headers.Get("X-User-Id"))).Watch(watching) {
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
	b.noGap()
	if cutOff && b.phases["killed"].staleReads+b.phases["killed"].staleEdits == 0 {
		t.Error("edits were in the killed region alone, and no answer was stale")
	}
	want := int64(first.cart("eu-west").ItemCount)
	eventually(t, 5*time.Second, "the watch shows the last cart", func() bool { return last.Load() == want })
	t.Logf("the watch showed %d carts", updates.Load())
}

func TestClientMovesWhenARegionIsSilent(t *testing.T) {
	d := sharedDev(t)
	t.Run("deaf", func(t *testing.T) { clientMovesWhenARegionIsSilent(t, d, false) })
	// It makes the edits, which are made again elsewhere.
	t.Run("mute", func(t *testing.T) { clientMovesWhenARegionIsSilent(t, d, true) })
}

func clientMovesWhenARegionIsSilent(t *testing.T, d *running, mute bool) {
	b := d.buy(t, 4)
	b.goOn("quiet", 100)
	b.enter("silent")
	b.nets[0].silent.Store(&silence{hostOf(d, "us-east"), mute})
	b.movedTo("eu-west")
	b.goOn("silent", 100)
	b.nets[0].silent.Store(nil)
	b.movedTo("us-east")
	b.goOn("back", 50)
	b.prove()
	b.noGap()
}
