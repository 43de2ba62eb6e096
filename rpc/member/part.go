package member

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"slices"

	"github.com/samecart/samecart/crdt"
	membershipv1 "github.com/samecart/samecart/proto/membership/v1"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/replication"
	"github.com/samecart/samecart/rpc"
)

// Peer is another region as a process is configured to reach it.
type Peer struct {
	ID   crdt.RegionID
	URLs []string // of its nodes' peer ports; one that works is kept to
}

// Peers are the other regions as a process is configured to reach them.
type Peers struct {
	Regions map[string]Peer // by name
	// Dial returns what opens connections to a region.
	Dial func(region string) DialFunc
	// TLS is what regions prove to each other who they are with; nil: calls are
	// in clear.
	TLS *tls.Config
	// Newcomers lets regions that are not configured be reached at the addresses
	// that the membership has of them; else they are not reached.
	Newcomers bool
}

// Part is a process's part in its region: the ways to the other regions and
// what is known of the membership. All that the process has of the region, nodes
// and doors to the outside, is made of it. Methods may be called from any
// goroutine, but for Attach.
type Part struct {
	Place  Place // not to be changed
	Roster *Roster

	peers   Peers
	clients map[string]*rpc.PeerClient // the direct ways to the configured regions
	routes  map[string]*rpc.Route      // those, and the ways around
}

// Connect makes the ways to the other regions; it dials nobody yet, so the
// order in which regions start does not matter. An error begins with the name of the
// region that it is about.
func Connect(place Place, peers Peers) (*Part, error) {
	p := &Part{Place: place, peers: peers, clients: make(map[string]*rpc.PeerClient)}
	ways := make(map[crdt.RegionID]way)
	ids := map[string]crdt.RegionID{place.Region: place.ID}
	for _, name := range slices.Sorted(maps.Keys(peers.Regions)) {
		peer := peers.Regions[name]
		client, w, err := p.wayTo(peer.ID, name, peer.URLs)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		p.clients[name], ways[peer.ID], ids[name] = client, w, peer.ID
	}
	var err error
	if p.routes, err = routes(p.clients, place.Log); err != nil {
		return nil, err
	}
	for id, w := range ways {
		ways[id] = w.over(p.routes[w.gossip.Name])
	}
	p.Roster = newRoster(place.Region, ids, ways, place.Log)
	if peers.Newcomers {
		p.Roster.connect = p.connect
	}
	p.Place.fetcher = fetcher{p.Roster}
	return p, nil
}

// wayTo makes the direct way to another region.
func (p *Part) wayTo(id crdt.RegionID, name string, urls []string) (*rpc.PeerClient, way, error) {
	dial := p.peers.Dial(name)
	client, err := PeerClient(p.Place.Region, dial, p.peers.TLS, urls)
	if err != nil {
		return nil, way{}, err
	}
	member, err := membershipClient(p.Place.Region, dial, p.peers.TLS, urls)
	if err != nil {
		return nil, way{}, err
	}
	return client, way{gossip: replication.PeerRegion{ID: id, Name: name}, member: member}, nil
}

// connect makes the way to a region that is not configured.
func (p *Part) connect(m *membershipv1.Member) (way, error) {
	client, w, err := p.wayTo(crdt.RegionID(m.RegionId), m.Region, m.Peers)
	if err != nil {
		return w, err
	}
	// Others may not know it yet, so there is no way around.
	direct, err := routes(map[string]*rpc.PeerClient{m.Region: client}, p.Place.Log)
	return w.over(direct[m.Region]), err
}

// Attach tells through which router the process reaches its region. Call it
// once, before Run, and before a node starts or a peer is served.
func (p *Part) Attach(router *region.Router) { p.Roster.attach(router) }

// Run follows the membership until ctx ends.
func (p *Part) Run(ctx context.Context) { p.Roster.run(ctx) }

// Route is the way to a configured region, direct or around; ok is false when
// there is none of that name.
func (p *Part) Route(name string) (route *rpc.Route, ok bool) {
	route, ok = p.routes[name]
	return route, ok
}

// Restorable is the region as backups are restored into it.
func (p *Part) Restorable() Restorable { return Restorable{Sink{p.Roster.router}, p.Roster} }
