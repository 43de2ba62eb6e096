package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/replication/riblt"
)

// node is one region of one shard for the tests in virtual time: a Log and,
// for the others, a Sink. It is a fake: its "Raft log" is a mutex.
type node struct {
	mu      *sync.Mutex // of all nodes: the checks look across
	r       *modelRegion
	log     *modelLog
	changed chan struct{}
	acked   uint64
}

func newNodes(t *testing.T, n int) []*node {
	w := &world{t: t, now: time.Now()}
	var out []*node
	mu := new(sync.Mutex)
	for i := range n {
		r := &modelRegion{w: w, id: crdt.RegionID(i + 1), carts: make(map[string]*crdt.Cart),
			digests: make(map[string]Digest), cursors: make(map[crdt.Stream]uint64)}
		log := &modelLog{r: r, stream: crdt.Stream{Region: r.id, Incarnation: 1}}
		r.logs[0] = log
		w.regions = append(w.regions, r)
		out = append(out, &node{mu: mu, r: r, log: log, changed: make(chan struct{})})
	}
	return out
}

func (n *node) add(cart, sku string, quantity uint32) {
	n.mu.Lock()
	defer n.mu.Unlock()
	at := crdt.TimestampAt(time.Now().UnixMilli())
	c := n.r.cart(cart)
	w := crdt.Writer{Replica: crdt.Replica{Region: n.r.id, Incarnation: 1}, At: at}
	d := c.Add(w, crdt.LineKey{Seller: "s", SKU: sku}, quantity, crdt.Offer{Price: 1, Currency: "USD", AddedAt: at}, false)
	n.r.set(cart, c.Apply(d))
	seq := n.log.last() + 1
	n.log.all = append(n.log.all, crdt.Row{Seq: seq, Last: seq, CartID: cart, At: at, Delta: d})
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *node) Stream() crdt.Stream     { return n.log.stream }
func (n *node) Slots() (uint32, uint32) { return 0, modelSlots }
func (n *node) LastSeq() uint64         { n.mu.Lock(); defer n.mu.Unlock(); return n.log.last() }
func (n *node) Changed() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}
func (n *node) ReadAfter(_ context.Context, seq uint64, bytesMax int) (crdt.Interval, bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	iv, ok := n.log.read(seq, bytesMax)
	return iv, ok, nil
}
func (n *node) Acked(seq, _ uint64) {
	if seq < n.acked {
		panic("acks went back")
	}
	n.acked = seq
}
func (n *node) Digests(ctx context.Context, lo, hi uint32) ([]Digest, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.r.Digests(ctx, lo, hi)
}
func (n *node) Bucket(ctx context.Context, slot uint32, after string, limit int) ([]CartDigest, bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.r.Bucket(ctx, slot, after, limit)
}
func (n *node) States(ctx context.Context, ids []string) ([]WholeCart, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.r.States(ctx, ids)
}

func (n *node) JoinCarts(_ context.Context, carts []WholeCart, _ crdt.RegionID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.r.joinCarts(carts)
	return nil
}
func (n *node) Fetch(ctx context.Context, ids []string) ([]WholeCart, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.r.Fetch(ctx, ids)
}

// wireFake is an in-memory Transport to one node, with a delay and a switch.
// A cut one swallows: calls hang until their ctx ends. A broken one refuses.
type wireFake struct {
	to      *node
	delay   time.Duration
	join    time.Duration // what a join takes there
	buffer  int           // intervals that the network holds
	closing time.Duration // what closing a stream takes

	receivers      sync.WaitGroup
	mu             sync.Mutex
	cut            chan struct{} // closed while cut
	broken         bool
	kill           []context.CancelFunc
	opened, closed int
	sent           []crdt.Interval
	joins          int
}

func newWire(to *node, delay time.Duration) *wireFake {
	return &wireFake{to: to, delay: delay, buffer: 100, cut: make(chan struct{})}
}

// setCut cuts silently, or heals; streams that were open stay dead.
func (f *wireFake) setCut(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if on {
		close(f.cut)
	} else {
		f.cut = make(chan struct{})
	}
}

// setBroken ends every open stream and refuses new ones, or stops to.
func (f *wireFake) setBroken(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = on
	for _, kill := range f.kill {
		kill()
	}
	f.kill = nil
}

// hop is one way over the network.
func (f *wireFake) hop(ctx context.Context, cut <-chan struct{}, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-cut:
		<-ctx.Done()
		return ctx.Err()
	default:
		return nil
	}
}

func (f *wireFake) way() (cut <-chan struct{}, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken {
		err = errors.New("connection refused")
	}
	return f.cut, err
}

func (f *wireFake) Push(ctx context.Context, h Hello) (PushStream, error) {
	cut, err := f.way()
	if err != nil {
		return nil, err
	}
	if h.Version != Version || h.Region != "us" || h.SlotHi != modelSlots {
		return nil, fmt.Errorf("bad hello %+v", h)
	}
	ctx, kill := context.WithCancel(ctx)
	f.mu.Lock()
	f.kill = append(f.kill, kill)
	f.opened++
	f.mu.Unlock()
	if err := f.hop(ctx, cut, f.delay); err != nil {
		return nil, err
	}
	f.to.mu.Lock()
	defer f.to.mu.Unlock()
	s := &streamFake{f: f, ctx: ctx, kill: kill, cut: cut, up: make(chan onWire, f.buffer), acks: make(chan onWire, 1000)}
	s.acks <- onWire{ack: Ack{Cursor: f.to.r.cursors[h.Stream]}, due: time.Now().Add(f.delay)}
	f.receivers.Go(s.receive)
	return s, nil
}

// onWire arrives when it is due.
type onWire struct {
	iv  crdt.Interval
	ack Ack
	due time.Time
}

type streamFake struct {
	f        *wireFake
	ctx      context.Context
	kill     context.CancelFunc
	cut      <-chan struct{}
	up, acks chan onWire
}

// receive is the far end: one interval after the other.
func (s *streamFake) receive() {
	for {
		select {
		case m := <-s.up:
			if s.f.hop(s.ctx, s.cut, time.Until(m.due)+s.f.join) != nil {
				return
			}
			s.f.to.mu.Lock()
			s.f.sent = append(s.f.sent, m.iv)
			cursor, ok := s.f.to.r.join(m.iv)
			s.f.to.mu.Unlock()
			s.acks <- onWire{ack: Ack{cursor, !ok}, due: time.Now().Add(s.f.delay)}
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *streamFake) Send(iv crdt.Interval) error {
	select {
	case s.up <- onWire{iv: iv, due: time.Now().Add(s.f.delay)}:
		return nil
	case <-s.ctx.Done():
		return io.EOF
	}
}

func (s *streamFake) Recv() (Ack, error) {
	select {
	case m := <-s.acks:
		return m.ack, s.f.hop(s.ctx, s.cut, time.Until(m.due))
	case <-s.ctx.Done():
		return Ack{}, s.ctx.Err()
	}
}

func (s *streamFake) SentBytes() int { return 10 }

// Close takes its time: Run must wait for it.
func (s *streamFake) Close() error {
	s.kill()
	time.Sleep(s.f.closing)
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	s.f.closed++
	return nil
}

func (f *wireFake) call(ctx context.Context) error {
	cut, err := f.way()
	if err == nil {
		err = f.hop(ctx, cut, f.delay)
	}
	return err
}

func (f *wireFake) Digests(ctx context.Context, lo, hi uint32) ([]Digest, error) {
	if err := f.call(ctx); err != nil {
		return nil, err
	}
	return f.to.Digests(ctx, lo, hi)
}

func (f *wireFake) Bucket(ctx context.Context, slot uint32, after string, limit int) ([]CartDigest, bool, error) {
	if err := f.call(ctx); err != nil {
		return nil, false, err
	}
	return f.to.Bucket(ctx, slot, after, limit)
}

func (f *wireFake) Sketch(ctx context.Context, key riblt.Key, slots []uint32) (SketchStream, error) {
	enc, err := NewSketch(ctx, f.to, key, slots)
	return sketchFake{enc, func() error { return f.call(ctx) }}, err
}

func (f *wireFake) Newer(ctx context.Context, carts []Seen) ([][]byte, error) {
	if err := f.call(ctx); err != nil {
		return nil, err
	}
	return Newer(ctx, f.to, carts, 300)
}

func (f *wireFake) Repairing(ctx context.Context, _ Hello) (bool, error) {
	return false, f.call(ctx)
}

func (f *wireFake) Join(ctx context.Context, carts []WholeCart, h Hello, cursor uint64) error {
	if err := f.call(ctx); err != nil {
		return err
	}
	f.to.mu.Lock()
	defer f.to.mu.Unlock()
	f.joins += len(carts)
	f.to.r.joinCarts(carts)
	f.to.r.move(h.Stream, cursor)
	return nil
}

// leader runs a Gossiper for nodes[0] towards the wires until stop.
func leader(t *testing.T, from *node, wires []*wireFake, opt Options) (g *Gossiper, stop func()) {
	t.Helper()
	var peers []PeerRegion
	for _, f := range wires {
		peers = append(peers, PeerRegion{f.to.r.id, fmt.Sprintf("region-%d", f.to.r.id), f})
	}
	g, err := New(from, "us", peers, DefaultConfig(), slog.New(slog.DiscardHandler), opt)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- g.Run(ctx) }()
	return g, func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		for _, f := range wires {
			f.receivers.Wait() // Run closed every stream
		}
	}
}

// same fails unless the peers hold what the first node holds.
func same(t *testing.T, nodes []*node) {
	t.Helper()
	nodes[0].mu.Lock()
	defer nodes[0].mu.Unlock()
	for id, want := range nodes[0].r.carts {
		for _, n := range nodes[1:] {
			if !n.r.cart(id).Equal(want) {
				t.Errorf("region %d: %s is %v, want %v", n.r.id, id, n.r.cart(id).Context, want.Context)
			}
		}
	}
}

func TestGossipDeliversAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := newNodes(t, 3)
		wires := []*wireFake{newWire(nodes[1], 40*time.Millisecond), newWire(nodes[2], 5*time.Millisecond)}
		var delivered, proved, connected int
		var worst time.Duration
		var mu sync.Mutex
		g, stop := leader(t, nodes[0], wires, Options{Events: Events{
			Connected: func(Connected) { mu.Lock(); connected++; mu.Unlock() },
			Delivered: func(d Delivered) { mu.Lock(); delivered++; worst = max(worst, d.Lag); mu.Unlock() },
			Proved:    func(p ProofDone) { mu.Lock(); proved++; mu.Unlock() },
		}})
		time.Sleep(time.Second)
		for i := range 50 {
			nodes[0].add("cart:a", "tea", 1)
			time.Sleep(time.Duration(i) * 10 * time.Millisecond)
			if i == 20 {
				time.Sleep(40 * time.Millisecond)
				same(t, nodes[:2]) // within one way and no batching delay
			}
		}
		time.Sleep(10 * time.Second)
		same(t, nodes)
		stop()
		if nodes[0].acked != 50 || connected != 2 || proved < 2 || delivered < 60 {
			t.Errorf("acked %d, connected %d, proved %d, delivered %d", nodes[0].acked, connected, proved, delivered)
		}
		if worst > 85*time.Millisecond {
			t.Errorf("an edit took %v to be acked over 40 ms each way", worst)
		}
		for _, s := range g.Status() {
			if !s.Connected || s.Lag != 0 || s.AckedSeq != 50 || s.LastSeq != 50 || s.BytesWaiting != 0 ||
				s.ProvenEqualAt.IsZero() || s.RowsSent+s.RowsCombined != 50 || s.BytesSent != 10*s.Intervals {
				t.Errorf("status %+v", s)
			}
		}
	})
}

func TestGossipCutAndHeal(t *testing.T) {
	for _, outage := range []time.Duration{2 * time.Second, time.Minute, time.Hour} {
		for _, silent := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				nodes := newNodes(t, 3)
				wires := []*wireFake{newWire(nodes[1], 40*time.Millisecond), newWire(nodes[2], 5*time.Millisecond)}
				set := wires[0].setBroken
				if silent {
					set = wires[0].setCut
				}
				g, stop := leader(t, nodes[0], wires, Options{})
				defer stop()
				time.Sleep(time.Second)
				set(true)
				for i := range 30 {
					nodes[0].add(fmt.Sprintf("cart:%d", i%7), "tea", 1)
				}
				time.Sleep(outage)
				if s := g.Status()[0]; s.Connected || s.Lag < outage-time.Second || s.LastError == "" {
					t.Errorf("status in the outage: %+v", s)
				}
				if s := g.Status()[1]; s.Lag != 0 || !s.Connected {
					t.Errorf("the other peer suffers: %+v", s)
				}
				set(false)
				time.Sleep(2 * time.Second)
				same(t, nodes)
				if n := wires[0].opened; n > 10+int(outage/time.Second)*4 {
					t.Errorf("%d streams were opened in %v", n, outage)
				}
			})
		}
	}
}

func TestGossipPoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := newNodes(t, 2)
		wire := newWire(nodes[1], time.Millisecond)
		g, stop := leader(t, nodes[0], []*wireFake{wire}, Options{})
		defer stop()
		wire.setBroken(true)
		nodes[0].add("cart:a", "tea", 1)
		time.Sleep(time.Minute)
		wire.setBroken(false)
		g.Poke(2)
		g.Poke(2)
		g.Poke(77) // no such region
		time.Sleep(20 * time.Millisecond)
		same(t, nodes)
	})
}

func TestGossipLeaderChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := newNodes(t, 2)
		wire := newWire(nodes[1], 20*time.Millisecond)
		for round := range 10 {
			_, stop := leader(t, nodes[0], []*wireFake{wire}, Options{Seed: uint64(round)})
			for range 20 {
				nodes[0].add("cart:a", fmt.Sprint(round), 1)
				time.Sleep(7 * time.Millisecond)
			}
			stop() // with rows and acks on their way
		}
		_, stop := leader(t, nodes[0], []*wireFake{wire}, Options{})
		time.Sleep(time.Second)
		same(t, nodes)
		stop()
		for i, iv := range wire.sent[1:] {
			if before := wire.sent[i]; iv.Lo > before.Hi {
				t.Errorf("(%d, %d] came after (%d, %d]", iv.Lo, iv.Hi, before.Lo, before.Hi)
			}
		}
	})
}

// A slow peer gets fewer rows than edits, the fast one does not wait for it.
func TestGossipSlowPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := newNodes(t, 3)
		wires := []*wireFake{newWire(nodes[1], 20*time.Millisecond), newWire(nodes[2], time.Millisecond)}
		wires[0].join, wires[0].buffer = 500*time.Millisecond, 2
		g, stop := leader(t, nodes[0], wires, Options{})
		defer stop()
		time.Sleep(time.Second)
		for range 500 {
			nodes[0].add("cart:a", "tea", 1)
			time.Sleep(2 * time.Millisecond)
		}
		time.Sleep(10 * time.Millisecond)
		if s := g.Status()[1]; s.AckedSeq != 500 {
			t.Errorf("the fast peer has %d rows", s.AckedSeq)
		}
		time.Sleep(20 * time.Second)
		same(t, nodes)
		if s := g.Status()[0]; s.RowsSent > 50 || s.AckedSeq != 500 {
			t.Errorf("the slow peer was sent %d rows, acked %d", s.RowsSent, s.AckedSeq)
		}
	})
}

func TestGossipRepairsWhenTheLogIsTrimmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := newNodes(t, 2)
		wire := newWire(nodes[1], 5*time.Millisecond)
		for i := range 900 {
			nodes[0].add(fmt.Sprintf("cart:%d", i%600), fmt.Sprint(i), 1)
		}
		nodes[0].log.base = 890
		var repaired []RepairDone
		throttle := NewThrottle(20_000)
		g, stop := leader(t, nodes[0], []*wireFake{wire}, Options{
			Throttle: throttle,
			Events:   Events{Repaired: func(r RepairDone) { repaired = append(repaired, r) }},
		})
		time.Sleep(40 * time.Millisecond)
		if s := g.Status()[0]; !s.Repairing || s.Connected {
			t.Errorf("status %+v", s)
		}
		wire.setBroken(true) // in the middle of it
		time.Sleep(10 * time.Second)
		wire.setBroken(false)
		time.Sleep(time.Minute)
		same(t, nodes)
		stop()
		last := repaired[len(repaired)-1]
		if last.Err != nil || repaired[0].Err == nil || wire.joins > 900 || wire.joins < 600 {
			t.Errorf("%d repairs, %d carts joined, last %+v", len(repaired), wire.joins, last)
		}
		if s := g.Status()[0]; s.Repairs != 1 || s.AckedSeq != 900 || s.Repairing {
			t.Errorf("status %+v", s)
		}
	})
}

func TestGossipRunWaitsForItsGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := newNodes(t, 2)
		wire := newWire(nodes[1], time.Millisecond)
		wire.closing = time.Second
		_, stop := leader(t, nodes[0], []*wireFake{wire}, Options{})
		time.Sleep(time.Second)
		stop()
		if wire.opened != 1 || wire.closed != 1 {
			t.Errorf("%d of %d streams closed when Run returned", wire.closed, wire.opened)
		}
	})
}

func TestGossipWithoutPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := newNodes(t, 1)
		_, stop := leader(t, nodes[0], nil, Options{})
		nodes[0].add("cart:a", "tea", 1)
		synctest.Wait()
		nodes[0].add("cart:a", "tea", 1)
		synctest.Wait()
		stop()
		if nodes[0].acked != 2 {
			t.Errorf("acked %d", nodes[0].acked)
		}
	})
}

// Rows may go when the slowest peer has them.
func TestGossipAcksTheLeast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := newNodes(t, 3)
		wires := []*wireFake{newWire(nodes[1], time.Millisecond), newWire(nodes[2], time.Millisecond)}
		wires[1].setBroken(true)
		var lost []Disconnected
		_, stop := leader(t, nodes[0], wires, Options{Events: Events{Disconnected: func(d Disconnected) { lost = append(lost, d) }}})
		nodes[0].add("cart:a", "tea", 1)
		time.Sleep(time.Minute)
		synctest.Wait()
		if nodes[0].acked != 0 {
			t.Errorf("acked %d while a peer never answered", nodes[0].acked)
		}
		wires[1].setBroken(false)
		time.Sleep(2 * time.Second)
		stop()
		if nodes[0].acked != 1 || len(lost) == 0 || !strings.Contains(lost[0].Err.Error(), "connection refused") {
			t.Errorf("acked %d, lost %v", nodes[0].acked, lost)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := newNodes(t, 2)
		logger := slog.New(slog.DiscardHandler)
		wire := newWire(nodes[1], time.Millisecond)
		for name, peers := range map[string][]PeerRegion{
			"itself":       {{1, "us", wire}},
			"twice":        {{2, "eu", wire}, {2, "ap", wire}},
			"no transport": {{2, "eu", nil}},
			"no name":      {{2, "", wire}},
		} {
			if _, err := New(nodes[0], "us", peers, DefaultConfig(), logger, Options{}); err == nil {
				t.Errorf("%s: it was taken", name)
			}
		}
		if _, err := New(nodes[0], "us", nil, Config{}, logger, Options{}); err == nil {
			t.Error("an empty config was taken")
		}
	})
}

// Collect is of no use here: nobody collects.
func (f *wireFake) Collect(context.Context, Hello, []CartDigest, bool) ([]bool, error) {
	return nil, ErrUnsupported
}

// Expirable is of no use here: nothing expires.
func (f *wireFake) Expirable(context.Context, Hello, []DueCart) ([]bool, error) {
	return nil, ErrUnsupported
}
