package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/region/cache"
	"github.com/samecart/samecart/region/link"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/region/store"
	"github.com/samecart/samecart/replication"
)

// place says which region and which nodes a process belongs to.
type place struct {
	cluster string
	region  string
	id      crdt.RegionID
	nodes   []string
	shards  uint32

	incarnation uint32                                // of a region that is new; a gateway needs none
	mayForm     func(context.Context) (uint32, error) // see region.Config
	roster      *roster                               // nil for a gateway
	dial        link.Dialer
	verify      func(conn net.Conn, node string) error // nil: links are not checked
	hot         cache.Cache
	fetcher     region.Fetcher
	limits      limits
	metrics     *metrics
	log         *slog.Logger
}

func (p place) routerConfig() region.RouterConfig {
	c := region.DefaultRouterConfig()
	c.Region, c.Incarnation, c.Nodes, c.Shards = p.id, p.incarnation, p.nodes, p.shards
	c.Cache, c.Fetcher, c.Log = p.hot, p.fetcher, p.log
	return c
}

// mux makes a process's end of the region's links; heartbeat is the silence
// after which Raft takes a leader for lost.
func (p place) mux(self string, heartbeat time.Duration) (*link.Mux, error) {
	c := link.DefaultConfig(self, p.cluster+"/"+p.region, p.dial)
	c.Verify, c.Log, c.Events = p.verify, p.log, p.metrics.linkEvents(p.region, self)
	c.HeartbeatInterval = heartbeat / 10 // Raft's own
	return link.New(c)
}

// sizes are a node's settings that depend on what machine it has.
type sizes struct {
	memtable, cartCache int64
	segment             int
	retainRows          uint64
	repairBandwidth     int // bytes a second
	catchupRate         int // rows a second of a shard's backlog; 0: no bound
	linkBandwidth       int // bytes a second to one peer region; 0: no bound
	timing              shard.Timing
}

// member is one node with all its parts.
type member struct {
	name   string
	node   *region.Node
	mux    *link.Mux
	fatal  func(error)
	forget func()             // takes the node's gauges out of the metrics
	cancel context.CancelFunc // nil: not started
	done   chan struct{}
	err    error // of closing, once done is closed; that of running went to fatal
}

// openMember opens a node's data; nothing runs before start. The node tells
// fatal when it must not go on.
func openMember(p place, name, dir string, sz sizes, fatal func(error)) (*member, error) {
	mux, err := p.mux(name, sz.timing.Heartbeat)
	if err != nil {
		return nil, err
	}
	g := &gossipers{
		place: p, throttle: replication.NewThrottle(sz.repairBandwidth), bandwidth: sz.linkBandwidth,
		gossip: replication.DefaultConfig(), links: make(map[crdt.RegionID]*replication.Throttle),
	}
	g.gossip.CatchupRate = sz.catchupRate
	st := store.DefaultConfig(dir, p.log)
	st.MemTableBytes = sz.memtable
	node, err := region.Open(region.Config{
		Cluster: p.cluster, Name: p.region, Node: name, Dir: dir,
		Router: p.routerConfig(), Store: st,
		Limits: shard.Limits{Lines: p.limits.LinesMax, Quantity: p.limits.QuantityMax, OpLife: p.limits.OpLife},
		Timing: sz.timing, CacheBytes: sz.cartCache, SegmentBytes: sz.segment,
		QueueMax: 8192, RetainRows: sz.retainRows,
		MayForm: p.mayForm, Lead: g.run, Peers: g.status, Repair: g.repair,
		Applied: p.metrics.applied(p.region, name),
		Fatal:   fatal, Log: p.log,
	}, mux)
	if err != nil {
		return nil, errors.Join(err, mux.Close())
	}
	return &member{
		name: name, node: node, mux: mux, fatal: fatal, done: make(chan struct{}),
		forget: p.metrics.pairs.of(p.region, name, g.all),
	}, nil
}

// start runs the node until stop or kill; it takes the region's other
// processes on ln.
func (m *member) start(ln net.Listener) {
	var ctx context.Context
	ctx, m.cancel = context.WithCancel(context.Background())
	go func() {
		defer close(m.done)
		err := m.node.Run(ctx, ln)
		m.forget()
		m.err = m.node.Close()
		if err != nil {
			m.fatal(fmt.Errorf("node %s: %w", m.name, err))
		}
	}()
}

// stop hands leaderships over and closes the node.
func (m *member) stop() error {
	if m.cancel == nil {
		m.forget()
		return m.node.Close()
	}
	m.cancel()
	<-m.done
	return m.err
}

// kill drops the node without a word to the others.
func (m *member) kill() {
	m.node.Kill()
	m.cancel()
	<-m.done
}

// gossipers sends what the shards led by one node write to the other
// regions.
type gossipers struct {
	place    place
	throttle *replication.Throttle
	gossip   replication.Config
	// bandwidth is the most that this node sends to one region; 0: no bound.
	bandwidth int

	mu      sync.Mutex // guards what follows
	running map[uint32]*replication.Gossiper
	links   map[crdt.RegionID]*replication.Throttle
}

// bounds are the bounds of the links to the given regions, one for all shards.
func (g *gossipers) bounds(peers []replication.PeerRegion) map[crdt.RegionID]*replication.Throttle {
	if g.bandwidth == 0 {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make(map[crdt.RegionID]*replication.Throttle)
	for _, p := range peers {
		if g.links[p.ID] == nil {
			g.links[p.ID] = replication.NewThrottle(g.bandwidth)
		}
		out[p.ID] = g.links[p.ID]
	}
	return out
}

// run gossips while the shard is led here, with those who are members; the first
// shard's leader keeps the region's part of the membership as well.
func (g *gossipers) run(ctx context.Context, s *shard.Shard) {
	var keeping sync.WaitGroup
	defer keeping.Wait()
	if s.ID() == 0 {
		keeping.Go(func() { _ = g.place.roster.keeper.Run(ctx) }) // it returns nil
	}
	for ctx.Err() == nil {
		peers, changed, ok := g.place.roster.gossip(s.Stream().Incarnation)
		if !ok {
			// Nobody takes this region's rows, or not under this incarnation: they
			// stay, for when somebody does.
			again := time.NewTimer(notYet)
			select {
			case <-ctx.Done():
			case <-changed:
			case <-again.C:
			}
			again.Stop()
			continue
		}
		g.with(ctx, s, peers, changed)
	}
}

// notYet is the time between two looks at whether rows may be sent.
const notYet = 100 * time.Millisecond

// with gossips with the given peers until ctx ends or they change.
func (g *gossipers) with(ctx context.Context, s *shard.Shard, peers []replication.PeerRegion, changed <-chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	gossip, err := replication.New(deltaLog{s, s.Stream()}, g.place.region, peers, g.gossip, g.place.log,
		replication.Options{Throttle: g.throttle, Links: g.bounds(peers), Seed: rand.Uint64(), Events: g.place.metrics.gossipEvents(g.place.region)})
	if err != nil {
		g.place.log.Error("gossip not started", slog.Any("err", err))
		<-ctx.Done()
		return
	}
	g.set(s.ID(), gossip)
	defer g.set(s.ID(), nil)
	if g.place.roster.collects(peers) {
		lo, hi := s.SlotRange()
		hello := func() replication.Hello {
			return replication.Hello{Version: replication.Version, Region: g.place.region, Stream: s.Stream(), SlotLo: lo, SlotHi: hi}
		}
		c := replication.NewCollector(garbage{sink{g.place.roster.router}, s, new(shard.Place)}, hello, peers, collectEvery, g.place.log)
		var collecting sync.WaitGroup
		collecting.Go(func() { c.Run(ctx) })
		defer collecting.Wait()
		defer cancel() // before it is waited for
	}
	go func() {
		select {
		case <-changed:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := gossip.Run(ctx); err != nil && ctx.Err() == nil {
		g.place.log.Error("gossip ended", slog.Any("err", err))
	}
}

// collectEvery is the time between two looks at some carts of a shard: half a
// thousand carts a second are 40 million a day.
const collectEvery = time.Second

func (g *gossipers) set(id uint32, gossip *replication.Gossiper) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.running == nil {
		g.running = make(map[uint32]*replication.Gossiper)
	}
	if gossip == nil {
		delete(g.running, id)
		return
	}
	g.running[id] = gossip
}

// all says how all shards led here stand with the other regions.
func (g *gossipers) all() (out []replication.Status) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, gossip := range g.running {
		out = append(out, gossip.Status()...)
	}
	return out
}

// repair begins a repair of a shard led here.
func (g *gossipers) repair(id uint32, region string) error {
	g.mu.Lock()
	gossip := g.running[id]
	g.mu.Unlock()
	if gossip == nil {
		return fmt.Errorf("shard %d is not led here, or has no peer", id)
	}
	return gossip.Repair(region)
}

// status says how a shard led here stands with the other regions.
func (g *gossipers) status(id uint32) []*regionv1.StatusResponse_Peer {
	g.mu.Lock()
	gossip := g.running[id]
	g.mu.Unlock()
	if gossip == nil {
		return nil
	}
	var out []*regionv1.StatusResponse_Peer
	for _, s := range gossip.Status() {
		out = append(out, &regionv1.StatusResponse_Peer{
			Region: s.Name, Acked: s.AckedSeq, LagMs: s.Lag.Milliseconds(),
			ProvenEqualAtMs: unixMilli(s.ProvenEqualAt), Connected: s.Connected,
			LagP50Ms: s.Lags.P50.Milliseconds(), LagP99Ms: s.Lags.P99.Milliseconds(), LagWorstMs: s.Lags.Worst.Milliseconds(),
			WorstCart: s.Lags.WorstCart, RowsWaiting: s.LastSeq - min(s.LastSeq, s.AckedSeq), BytesWaiting: uint64(s.BytesWaiting),
			Repairing: s.Repairing, DifferentSlots: uint32(s.DifferentSlots), LastError: s.LastError, RepairedAllAgoMs: ago(s.RepairedAll), Via: s.Via,
		})
	}
	return out
}

// ago is how long ago something was, in milliseconds, at least 1; 0: it never was.
func ago(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(1, time.Since(t).Milliseconds())
}

func unixMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
