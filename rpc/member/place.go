package member

import (
	"log/slog"
	"net"
	"time"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/region/cache"
	"github.com/samecart/samecart/region/link"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/replication"
	"github.com/samecart/samecart/rpc"
)

// Place says which region a process belongs to, and how it reaches the
// region's nodes.
type Place struct {
	Cluster string // the shop's name
	Region  string
	ID      crdt.RegionID
	Nodes   []string // all of the region, named like "us-east/1"
	Shards  uint32   // of a region that is new

	// Incarnation is that of a region that is new; a gateway needs none.
	Incarnation uint32
	// Dial opens links to the region's nodes. TLS, when used, is its matter.
	Dial link.Dialer
	// Verify checks who is at the other end of a link; nil: nobody does.
	Verify func(conn net.Conn, node string) error
	Cache  cache.Cache
	Limits shard.Limits
	Events Events
	Log    *slog.Logger

	fetcher region.Fetcher // nil: no other region is reached
}

// Events are called synchronously and must not block; nil funcs are skipped.
type Events struct {
	// Link returns the events of a process's end of the region's links.
	Link func(process string) link.Events
	// Gossip are those of all nodes' gossip.
	Gossip replication.Events
	// Applied returns what is called for each transaction of a node's shards.
	Applied func(node string) func(id uint32, a shard.Applied)
	// Opened is told of a node when its data is open, Closed when it runs no
	// more. In between, status says how the shards that are led there stand with
	// the other regions.
	Opened func(node string, status func() []replication.Status)
	Closed func(node string)
	// API are those of the region's public API.
	API rpc.Events
}

func (e Events) link(process string) link.Events {
	if e.Link == nil {
		return link.Events{}
	}
	return e.Link(process)
}

func (e Events) applied(node string) func(uint32, shard.Applied) {
	if e.Applied == nil {
		return func(uint32, shard.Applied) {}
	}
	return e.Applied(node)
}

func (e Events) opened(node string, status func() []replication.Status) {
	if e.Opened != nil {
		e.Opened(node, status)
	}
}

func (e Events) closed(node string) {
	if e.Closed != nil {
		e.Closed(node)
	}
}

// Gateway makes a process's end of the region's links, and a router over it, for
// a process that is none of the region's nodes. heartbeat is the silence after which
// Raft takes a leader for lost. Close the Mux when nothing uses the router.
func (p Place) Gateway(process string, heartbeat time.Duration) (*region.Router, *link.Mux, error) {
	mux, err := p.mux(process, heartbeat)
	if err != nil {
		return nil, nil, err
	}
	return region.NewRouter(p.router(), mux), mux, nil
}

func (p Place) router() region.RouterConfig {
	c := region.DefaultRouterConfig()
	c.Region, c.Incarnation, c.Nodes, c.Shards = p.ID, p.Incarnation, p.Nodes, p.Shards
	c.Cache, c.Fetcher, c.Log = p.Cache, p.fetcher, p.Log
	return c
}

func (p Place) mux(process string, heartbeat time.Duration) (*link.Mux, error) {
	c := link.DefaultConfig(process, p.Cluster+"/"+p.Region, p.Dial)
	c.Verify, c.Log, c.Events = p.Verify, p.Log, p.Events.link(process)
	c.HeartbeatInterval = heartbeat / 10 // Raft's own
	return link.New(c)
}
