package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	"github.com/samecart/samecart/proto/admin/v1/adminv1connect"
)

// line is one direction of a bad link between two regions. All connections
// share it. What it takes it delivers, in order, or its connections end:
// as TCP does.
type line struct {
	delay time.Duration
	rate  int // bytes a second; 0: no bound
	// A segment that is lost holds up all that is behind it for one round trip,
	// until it has been sent again; losses in that time are made good with it. lost is
	// how likely that is. That TCP also sends less after a loss is for rate to say.
	lost      float64
	roundTrip time.Duration

	mu   sync.Mutex
	rand *rand.Rand
	free time.Time     // when all that was taken has left
	held time.Time     // until when a lost segment holds up the rest
	open chan struct{} // closed while bytes pass
}

func newLine(seed uint64) *line {
	l := &line{rand: rand.New(rand.NewPCG(seed, 1)), open: make(chan struct{})}
	close(l.open)
	return l
}

// hole lets no byte through, or all again. Nobody is told.
func (l *line) hole(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.open:
		if on {
			l.open = make(chan struct{})
		}
	default:
		if !on {
			close(l.open)
		}
	}
}

// take returns when n bytes arrive.
func (l *line) take(n int) (due time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); l.free.Before(now) {
		l.free = now
	}
	if l.rate > 0 {
		l.free = l.free.Add(time.Duration(n) * time.Second / time.Duration(l.rate))
	}
	if l.lost > 0 && l.free.After(l.held) && l.rand.Float64() < l.lost {
		l.held = l.free.Add(l.roundTrip)
	}
	if l.held.After(l.free) {
		return l.held.Add(l.delay)
	}
	return l.free.Add(l.delay)
}

func (l *line) passes(done <-chan struct{}) bool {
	l.mu.Lock()
	open := l.open
	l.mu.Unlock()
	select {
	case <-open:
		return true
	case <-done:
		return false
	}
}

// segment is what a packet carries.
const segment = 1460

// carry takes what one end of a connection sends to the other.
func (l *line) carry(from, to net.Conn, done <-chan struct{}, end func()) {
	parcels := make(chan parcel, 64) // some 90 KB are on their way at most, then the sender waits
	var delivering sync.WaitGroup
	delivering.Go(func() {
		for p := range parcels {
			t := time.NewTimer(time.Until(p.due))
			select {
			case <-t.C:
			case <-done:
				t.Stop()
				continue
			}
			if !l.passes(done) {
				continue
			}
			if _, err := to.Write(p.data); err != nil {
				end()
			}
		}
		end()
	})
	defer delivering.Wait()
	defer close(parcels)
	for {
		b := make([]byte, segment)
		n, err := from.Read(b)
		if n > 0 {
			select {
			case parcels <- parcel{l.take(n), b[:n]}:
			case <-done:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// badLink is what two regions' connections go through: A is the first region.
type badLink struct {
	toA, toB *line

	mu    sync.Mutex
	down  bool
	conns map[net.Conn]func()
}

// listen opens a port at which a region is reached: what callers send goes
// over there, what they are answered over back.
func (b *badLink) listen(t testing.TB, to string, there, back *line) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { _ = ln.Close(); b.cut(true); all.Wait() })
	all.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() { b.connect(in, to, there, back) })
		}
	})
	return ln.Addr().String()
}

func (b *badLink) connect(in net.Conn, to string, there, back *line) {
	out, err := net.Dial("tcp", to)
	if err != nil {
		_ = in.Close()
		return
	}
	done := make(chan struct{})
	end := sync.OnceFunc(func() { close(done); _, _ = in.Close(), out.Close() })
	b.mu.Lock()
	b.conns[in] = end
	down := b.down
	b.mu.Unlock()
	if down {
		end()
	}
	var both sync.WaitGroup
	both.Go(func() { there.carry(in, out, done, end) })
	both.Go(func() { back.carry(out, in, done, end) })
	both.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, in)
}

// cut ends all connections and lets no new one live, or lets them.
func (b *badLink) cut(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = on
	if on {
		for _, end := range b.conns {
			end()
		}
	}
}

// badPair is two regions of one node each, as processes, with a bad link
// between them.
type badPair struct {
	t     *testing.T
	link  *badLink
	names []string
	urls  []string
	admin []adminv1connect.AdminServiceClient
}

func startBadPair(t *testing.T, seed uint64, flags ...string) *badPair {
	t.Helper()
	free := freeAddresses(t, 6)
	link := &badLink{toA: newLine(seed), toB: newLine(seed + 1), conns: make(map[net.Conn]func())}
	p := &badPair{t: t, link: link, names: []string{"us-east", "eu-west"}}
	to := []string{link.listen(t, free[2], link.toA, link.toB), link.listen(t, free[5], link.toB, link.toA)}
	dir := t.TempDir()
	var all []*child
	for i, name := range p.names {
		at, other := free[3*i:], 1-i
		c := spawn(t, nil, append([]string{"--log", "info", "node", "--region", name, "--node", "1", "--nodes", name + "/1=" + at[1], "--data", filepath.Join(dir, name), "--shards", "1",
			"--memtable", "16777216", "--listen", at[0], "--link-listen", at[1], "--peer-listen", at[2], "--trust-headers",
			"--peers", p.names[other] + "=http://" + to[other]}, flags...)...)
		all = append(all, c)
		p.urls = append(p.urls, "http://"+at[0])
		p.admin = append(p.admin, adminv1connect.NewAdminServiceClient(http.DefaultClient, "http://"+at[0]))
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("%s: %s", name, c.errs)
			}
		})
	}
	for _, c := range all {
		c.serves(t)
	}
	for i := range p.names {
		eventually(t, 30*time.Second, p.names[i]+" is connected", func() bool { return p.peer(i).Connected })
	}
	return p
}

// peer is how region i stands with the other.
func (p *badPair) peer(i int) *adminv1.PeerStatus {
	resp, err := p.admin[i].Regions(context.Background(), asAdmin(&adminv1.RegionsRequest{}))
	if err != nil {
		return &adminv1.PeerStatus{}
	}
	for _, s := range peersOf(resp.Msg, p.names[i]) {
		return s
	}
	return &adminv1.PeerStatus{}
}

func (p *badPair) shopper() shopper {
	user := fmt.Sprintf("u%x", rand.Uint64())
	return shopper{t: p.t, client: http.DefaultClient, headers: http.Header{"X-User-Id": {user}}, all: p.names, at: func(region string) string {
		if region == p.names[0] {
			return p.urls[0]
		}
		return p.urls[1]
	}}
}

// load is carts that were edited in both regions, and how many lines each got
// in each.
type load struct {
	carts []shopper
	lines int
}

// load edits n carts for a while, each in both regions every 50 ms.
func (p *badPair) load(n int, d time.Duration) load {
	p.t.Helper()
	var l load
	for range n {
		l.carts = append(l.carts, p.shopper())
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); time.Since(begin) < d; <-tick.C {
		var all sync.WaitGroup
		for _, s := range l.carts {
			all.Go(func() {
				for i, name := range p.names {
					s.add(name, fmt.Sprintf("SKU-%d", 1+2*l.lines+i), 1)
				}
			})
		}
		all.Wait()
		l.lines++
	}
	return l
}

// acked waits until each region has acknowledged the other's rows: whole carts
// that a repair brings are not what is asked for.
func (p *badPair) acked(within time.Duration) time.Duration {
	p.t.Helper()
	return eventually(p.t, within, "all rows are acknowledged", func() bool {
		for i := range p.names {
			if s := p.peer(i); s.Region == "" || s.RowsWaiting > 0 {
				return false
			}
		}
		return true
	})
}

// converge waits until both regions show all edits of all carts, and returns
// how long it took after the load had ended.
func (p *badPair) converge(l load, within time.Duration) time.Duration {
	p.t.Helper()
	begin := time.Now()
	for _, s := range l.carts {
		c, _ := s.converge(max(time.Second, within-time.Since(begin)))
		if len(c.Items) != 2*l.lines {
			p.t.Errorf("%d lines, want %d", len(c.Items), 2*l.lines)
		}
	}
	took := time.Since(begin)
	if took > within {
		p.t.Errorf("equal after %v, want %v", took, within)
	}
	return took
}

// A direction that swallows bytes stops both regions' acks. Afterwards all is
// there within seconds.
func TestOneWayBlackHole(t *testing.T) {
	p := startBadPair(t, 1)
	for name, l := range map[string]*line{"towards eu-west": p.link.toB, "towards us-east": p.link.toA} {
		t.Run(name, func(t *testing.T) {
			p.t = t
			l.hole(true)
			made := p.load(4, 5*time.Second)
			l.hole(false)
			t.Logf("%d edits, equal %v after the hole", 8*made.lines, p.converge(made, 5*time.Second))
		})
	}
}

// A link that is up for 300 ms and down for 700 ms carries what is edited in
// the meantime; when it stops flapping, the rest comes within seconds.
func TestFlappingLink(t *testing.T) {
	for seed := range uint64(2) {
		for _, kind := range []string{"ends connections", "swallows bytes"} {
			t.Run(fmt.Sprintf("seed=%d/%s", seed, kind), func(t *testing.T) {
				t.Parallel()
				p := startBadPair(t, seed)
				set := p.link.cut
				if kind == "swallows bytes" {
					set = func(on bool) { p.link.toA.hole(on); p.link.toB.hole(on) }
				}
				stop, stopped := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(stopped)
					r := rand.New(rand.NewPCG(seed, 2))
					for down := true; ; down = !down {
						d := 300 * time.Millisecond
						if down {
							d = 700 * time.Millisecond
						}
						set(down)
						select {
						case <-time.After(d*3/4 + time.Duration(r.Int64N(int64(d/2)))):
						case <-stop:
							set(false)
							return
						}
					}
				}()
				before := p.load(2, 4*time.Second)
				flapping := p.converge(before, 10*time.Second)
				made := p.load(2, 4*time.Second)
				close(stop)
				<-stopped
				t.Logf("equal %v after the load while the link flaps, %v after it stopped", flapping, p.converge(made, 5*time.Second))
			})
		}
	}
}

// slow makes the link as bad as a satellite's in the rain: 200 ms one way, some
// bytes a second, and of 100 segments five are lost.
func (p *badPair) slow(rate int) {
	for _, l := range []*line{p.link.toA, p.link.toB} {
		l.mu.Lock()
		l.delay, l.rate, l.lost, l.roundTrip = 200*time.Millisecond, rate, 0.05, 400*time.Millisecond
		l.mu.Unlock()
	}
}

// Over a slow link that loses much, edits are seconds late and no more, and a
// backlog of edits is carried about as fast as the link can.
func TestSlowLink(t *testing.T) {
	p := startBadPair(t, 1)
	p.slow(1_000_000 / 8)
	made := p.load(4, 10*time.Second)
	took := p.acked(5 * time.Second)
	t.Logf("steady: %d edits, acknowledged %v after the load", 8*made.lines, took)
	p.converge(made, 5*time.Second)
	for i := range p.names {
		if s := p.peer(i); s.LagP99Ms > 5000 {
			t.Errorf("lag of %s: %d ms at p50, %d ms at p99", p.names[i], s.LagP50Ms, s.LagP99Ms)
		} else {
			t.Logf("lag of %s: %d ms at p50, %d ms at p99", p.names[i], s.LagP50Ms, s.LagP99Ms)
		}
	}
	p.link.cut(true)
	p.slow(20_000) // what TCP makes of 1 Mbit/s with these losses and this round trip
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 10 {
				s := p.shopper()
				for i := range 25 {
					s.with("Idempotency-Key", fmt.Sprintf("%016x", rand.Uint64())).add("us-east", fmt.Sprintf("SKU-%d", i+1), 1)
				}
			}
		})
	}
	all.Wait()
	p.link.cut(false)
	took = p.acked(40 * time.Second)
	t.Logf("backlog: 4000 edits, acknowledged %v after the cut; last error %q", took, p.peer(0).LastError)
}
