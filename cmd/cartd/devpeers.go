package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/replication"
	"github.com/samecart/samecart/rpc"
)

// connectPeers makes the region's ways to the others. Addresses are looked
// up at each dial: other regions come later, and come back elsewhere.
func (r *devRegion) connectPeers() error {
	ways := make(map[crdt.RegionID]way)
	r.clients = make(map[string]*rpc.PeerClient)
	for _, o := range devRegions {
		if o.name == r.name {
			continue
		}
		through := r.dev.faults.dialer(r.name, o.name)
		dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
			addr, err := r.dev.peerAddress(o.name)
			if err != nil {
				return nil, err
			}
			return through(ctx, network, addr)
		}
		client, err := peerClient(r.name, dial, nil, []string{"http://" + o.name})
		if err != nil {
			return err
		}
		member, err := membershipClient(r.name, dial, nil, []string{"http://" + o.name})
		if err != nil {
			return err
		}
		r.clients[o.name] = client
		ways[crdt.RegionID(o.id)] = way{gossip: replication.PeerRegion{ID: crdt.RegionID(o.id), Name: o.name}, member: member}
	}
	var err error
	if r.routes, err = routes(r.clients, r.dev.log.With(slog.String("region", r.name))); err != nil {
		return err
	}
	for id, w := range ways {
		ways[id] = w.over(r.routes[w.gossip.Name])
	}
	ids := make(map[string]uint16)
	for _, o := range devRegions {
		ids[o.name] = o.id
	}
	r.roster = newRoster(r.name, ids, ways, r.dev.log.With(slog.String("region", r.name)))
	return nil
}

// peerAddress is where a region takes other regions' rows now.
func (d *dev) peerAddress(name string) (string, error) {
	d.addrMu.Lock()
	defer d.addrMu.Unlock()
	addr, ok := d.addrs[name]
	if !ok {
		return "", fmt.Errorf("region %s is not up", name)
	}
	return addr, nil
}

func (d *dev) setPeerAddress(name, addr string) {
	d.addrMu.Lock()
	defer d.addrMu.Unlock()
	if addr == "" {
		delete(d.addrs, name)
		return
	}
	d.addrs[name] = addr
}

// acceptPeers opens the region to the others.
func (r *devRegion) acceptPeers() error {
	s, err := peerServer(r.router, r.roster, r.clients, nil)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	s.Addr = ln.Addr().String()
	r.inbound = s
	r.dev.setPeerAddress(r.name, s.Addr)
	go r.dev.serve(s, ln)
	return nil
}

// closePeers shuts the region to the others; they repeat what was not
// acknowledged.
func (r *devRegion) closePeers() {
	if r.inbound == nil {
		return
	}
	r.dev.setPeerAddress(r.name, "")
	_ = r.inbound.Close() // open streams end as they may
	r.inbound = nil
}
