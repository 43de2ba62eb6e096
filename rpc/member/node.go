package member

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/region/link"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/region/store"
	"github.com/samecart/samecart/replication"
)

// Config holds a node's settings; the zero value is not valid.
type Config struct {
	MemtableBytes int64  // one Badger memtable
	CacheBytes    int64  // decoded carts in memory
	SegmentBytes  int    // one file of a shard's log; allocated at once
	RetainRows    uint64 // delta log rows kept, per shard, for a region that is away

	Timing shard.Timing
	Gossip replication.Config
	// RepairBandwidth is the most that the repairs of all shards take, in bytes a
	// second; it stands in Gossip's place, which is for one shard.
	RepairBandwidth int
	// LinkBandwidth is the most that this node sends to one other region, in
	// bytes a second; 0: no bound.
	LinkBandwidth int

	// AskFirst has a region without data ask the others before it is formed: it
	// may be one that lost it. Without it new regions need not wait for each other.
	AskFirst bool
	// Tune has the last word on the node's settings; nil: they stay. It must
	// leave the functions and the names that are set as they are, for they join the parts.
	Tune func(*region.Config)
}

// DefaultConfig returns production values, for a node that has its machine for
// itself.
func DefaultConfig() Config {
	gossip := replication.DefaultConfig()
	return Config{
		MemtableBytes: 64 << 20, CacheBytes: 256 << 20, // about a gigabyte with what Badger keeps beside them
		SegmentBytes: 64 << 20,
		RetainRows:   1_000_000, // hours of a busy region
		Timing:       shard.DefaultTiming(),
		Gossip:       gossip, RepairBandwidth: gossip.RepairBandwidth,
		AskFirst: true,
	}
}

// queueMax bounds the commands that wait in one shard.
const queueMax = 8192

// Member is one node with all its parts: its data, its links, its gossip. Open,
// Start, then Stop or Kill; a new one is opened to start the node again.
type Member struct {
	Name string
	Node *region.Node
	Mux  *link.Mux // the node's end of the region's links

	events Events
	fatal  func(error)
	cancel context.CancelFunc // nil: not started
	done   chan struct{}
	err    error // of closing, once done is closed; that of running went to fatal
}

// Open opens a node's data in dir; nothing runs before Start. The node tells
// fatal when it must not go on.
func (p *Part) Open(name, dir string, cfg Config, fatal func(error)) (*Member, error) {
	place := p.Place
	mux, err := place.mux(name, cfg.Timing.Heartbeat)
	if err != nil {
		return nil, err
	}
	g := &gossipers{
		part: p, gossip: cfg.Gossip, throttle: replication.NewThrottle(cfg.RepairBandwidth),
		bandwidth: cfg.LinkBandwidth, links: make(map[crdt.RegionID]*replication.Throttle),
	}
	st := store.DefaultConfig(dir, place.Log)
	st.MemTableBytes = cfg.MemtableBytes
	conf := region.Config{
		Cluster: place.Cluster, Name: place.Region, Node: name, Dir: dir,
		Router: place.router(), Store: st, Limits: place.Limits, Timing: cfg.Timing,
		CacheBytes: cfg.CacheBytes, SegmentBytes: cfg.SegmentBytes, QueueMax: queueMax, RetainRows: cfg.RetainRows,
		Lead: g.run, Peers: g.status, Repair: g.repair,
		Applied: place.Events.applied(name), Fatal: fatal, Log: place.Log,
	}
	if cfg.AskFirst {
		conf.MayForm = p.mayForm
	}
	if cfg.Tune != nil {
		cfg.Tune(&conf)
	}
	node, err := region.Open(conf, mux)
	if err != nil {
		return nil, errors.Join(err, mux.Close())
	}
	place.Events.opened(name, g.all)
	return &Member{Name: name, Node: node, Mux: mux, events: place.Events, fatal: fatal, done: make(chan struct{})}, nil
}

// Start runs the node until Stop or Kill; it takes the region's other
// processes on ln, which it closes.
func (m *Member) Start(ln net.Listener) {
	var ctx context.Context
	ctx, m.cancel = context.WithCancel(context.Background())
	go func() {
		defer close(m.done)
		err := m.Node.Run(ctx, ln)
		m.events.closed(m.Name)
		m.err = m.Node.Close()
		if err != nil {
			m.fatal(fmt.Errorf("node %s: %w", m.Name, err))
		}
	}()
}

// Stop hands leaderships over and closes the node, started or not.
func (m *Member) Stop() error {
	if m.cancel == nil {
		m.events.closed(m.Name)
		return m.Node.Close()
	}
	m.cancel()
	<-m.done
	return m.err
}

// Kill drops a node that was started without a word to the others.
func (m *Member) Kill() {
	m.Node.Kill()
	m.cancel()
	<-m.done
}
