package main

import (
	"context"
	"fmt"
	"net"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/rpc/member"
)

// peers are the other regions. Addresses are looked up at each dial: regions come
// later, and come back elsewhere.
func (r *devRegion) peers() member.Peers {
	out := member.Peers{Regions: make(map[string]member.Peer), Dial: r.dialPeer}
	for _, o := range devRegions {
		if o.name != r.name {
			out.Regions[o.name] = member.Peer{ID: crdt.RegionID(o.id), URLs: []string{"http://" + o.name}}
		}
	}
	return out
}

func (r *devRegion) dialPeer(name string) member.DialFunc {
	through := r.dev.faults.dialer(r.name, name)
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		addr, err := r.dev.peerAddress(name)
		if err != nil {
			return nil, err
		}
		return through(ctx, network, addr)
	}
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
	s, err := r.part.PeerServer(nil)
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
