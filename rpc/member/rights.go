package member

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/samecart/samecart/crdt"
	membershipv1 "github.com/samecart/samecart/proto/membership/v1"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/replication"
	"github.com/samecart/samecart/replication/membership"
)

// heard is a call to another region's part of the membership.
type heard struct {
	asked time.Time // when the newest one began
	at    time.Time // when the newest one began that was answered; zero: none was
}

// While a shard with limited uses is led here, the other regions are asked for a sign
// of life every listenEvery, by whichever shard comes first; an answer counts from when
// it was asked for.
const (
	listenEvery   = time.Second
	listenTimeout = time.Second
	listenLook    = 100 * time.Millisecond // between two looks at whether there is a limit
)

// listen tells a shard that is led here which regions are heard from, which its
// lease of rights depends on.
func (g *gossipers) listen(ctx context.Context, s *shard.Shard) {
	tick := time.NewTicker(listenLook)
	defer tick.Stop()
	var asking sync.WaitGroup
	defer asking.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !s.HasLimits() {
			continue
		}
		for id, way := range g.part.Roster.members() {
			g.sign(ctx, &asking, id, way)
		}
		g.mu.Lock()
		all := maps.Clone(g.heard)
		g.mu.Unlock()
		for id, h := range all {
			if !h.at.IsZero() {
				s.Heard(id, h.at)
			}
		}
	}
}

// sign asks a region for a sign of life in the background, unless it was just asked.
func (g *gossipers) sign(ctx context.Context, asking *sync.WaitGroup, id crdt.RegionID, way membership.Peer) {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	h := g.heard[id]
	if now.Sub(h.asked) < listenEvery {
		return
	}
	if g.heard == nil {
		g.heard = make(map[crdt.RegionID]heard)
	}
	h.asked = now
	g.heard[id] = h
	req := &membershipv1.CurrentRequest{RegionId: uint32(g.part.Roster.self), Region: g.part.Roster.name, Membership: g.part.Roster.Newest()}
	asking.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, listenTimeout)
		defer cancel()
		resp, err := way.Current(ctx, req)
		if err != nil {
			return
		}
		g.part.Roster.take(resp.GetMembership())
		g.mu.Lock()
		defer g.mu.Unlock()
		h := g.heard[id]
		h.at = now
		g.heard[id] = h
	})
}

// acking is events that also tell a shard which of its rows other regions have.
func acking(e replication.Events, s *shard.Shard) replication.Events {
	connected, delivered := e.Connected, e.Delivered
	e.Connected = func(c replication.Connected) {
		s.AckedBy(c.Stream, c.Region, c.Cursor)
		if connected != nil {
			connected(c)
		}
	}
	e.Delivered = func(d replication.Delivered) {
		s.AckedBy(d.Stream, d.Region, d.Seq)
		if delivered != nil {
			delivered(d)
		}
	}
	return e
}

// incarnations are those of the regions, as far as they have said.
func (r *Roster) incarnations() map[crdt.RegionID]uint32 {
	out := make(map[crdt.RegionID]uint32)
	for _, m := range r.Newest().GetMembers() {
		out[crdt.RegionID(m.RegionId)] = m.Incarnation
	}
	return out
}

// members are the ways to the other regions that vote.
func (r *Roster) members() map[crdt.RegionID]membership.Peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[crdt.RegionID]membership.Peer)
	for _, m := range r.now.GetMembers() {
		if m.RegionId == uint32(r.self) || !m.State.Votes() {
			continue
		}
		if w, ok := r.wayTo(m); ok {
			out[crdt.RegionID(m.RegionId)] = w.member
		}
	}
	return out
}
