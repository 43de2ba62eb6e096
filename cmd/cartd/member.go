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

	incarnation uint32                      // of a region that is new; a gateway needs none
	mayForm     func(context.Context) error // see region.Config
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
func openMember(p place, name, dir string, sz sizes, peers []replication.PeerRegion, fatal func(error)) (*member, error) {
	mux, err := p.mux(name, sz.timing.Heartbeat)
	if err != nil {
		return nil, err
	}
	g := &gossipers{place: p, peers: peers, throttle: replication.NewThrottle(sz.repairBandwidth), gossip: replication.DefaultConfig()}
	g.gossip.CatchupRate = sz.catchupRate
	if sz.linkBandwidth > 0 {
		g.links = make(map[crdt.RegionID]*replication.Throttle)
		for _, peer := range peers {
			g.links[peer.ID] = replication.NewThrottle(sz.linkBandwidth)
		}
	}
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
	peers    []replication.PeerRegion
	throttle *replication.Throttle
	links    map[crdt.RegionID]*replication.Throttle
	gossip   replication.Config

	mu      sync.Mutex // guards running
	running map[uint32]*replication.Gossiper
}

func (g *gossipers) run(ctx context.Context, s *shard.Shard) {
	if len(g.peers) == 0 {
		<-ctx.Done()
		return
	}
	gossip, err := replication.New(deltaLog{s}, g.place.region, g.peers, g.gossip, g.place.log,
		replication.Options{Throttle: g.throttle, Links: g.links, Seed: rand.Uint64(), Events: g.place.metrics.gossipEvents(g.place.region)})
	if err != nil {
		g.place.log.Error("gossip not started", slog.Any("err", err))
		return
	}
	g.set(s.ID(), gossip)
	defer g.set(s.ID(), nil)
	if err := gossip.Run(ctx); err != nil && ctx.Err() == nil {
		g.place.log.Error("gossip ended", slog.Any("err", err))
	}
}

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
			Repairing: s.Repairing, DifferentSlots: uint32(s.DifferentSlots), LastError: s.LastError, Via: s.Via,
		})
	}
	return out
}

func unixMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
