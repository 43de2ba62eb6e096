package member

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/samecart/samecart/crdt"
	membershipv1 "github.com/samecart/samecart/proto/membership/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/replication"
	"github.com/samecart/samecart/replication/membership"
	"github.com/samecart/samecart/rpc"
)

// way is how another region is reached.
type way struct {
	gossip replication.PeerRegion
	carts  wholeCarts
	member membership.Peer
}

// over is the way with all that carries carts over a route.
func (w way) over(r *rpc.Route) way {
	w.gossip.Transport, w.carts = r, r
	return w
}

// wholeCarts is where whole carts of another region come from.
type wholeCarts interface {
	Fetch(ctx context.Context, cartIDs []string) ([]replication.WholeCart, error)
	// ForgottenBefore is that of replication.Sink.
	ForgottenBefore(ctx context.Context, hello replication.Hello) ([]int64, error)
}

// Restorable is the region as backups are restored into it.
type Restorable struct {
	Sink
	roster *Roster
}

// ForgottenBefore is the latest of any member region: what is joined here goes to
// all.
func (r Restorable) ForgottenBefore(ctx context.Context) ([]int64, error) {
	out, err := r.Sink.ForgottenBefore(ctx)
	if err != nil {
		return nil, err
	}
	hello := replication.Hello{
		Version: replication.Version, Region: r.roster.name, Stream: crdt.Stream{Region: r.roster.self}, SlotHi: shard.SlotCount,
	}
	for id, name := range r.roster.names() {
		from, ok := r.roster.carts(id)
		if !ok {
			return nil, fmt.Errorf("there is no way to region %s, which may have collected carts", name)
		}
		at, err := from.ForgottenBefore(ctx, hello)
		if err != nil {
			return nil, fmt.Errorf("ask region %s what it has collected (fence it when it is gone for good): %w", name, err)
		}
		for slot, ms := range at {
			if slot < len(out) {
				out[slot] = max(out[slot], ms)
			}
		}
	}
	return out, nil
}

// Roster is what a process knows of the membership: with which regions its own
// exchanges carts now. Methods may be called from any goroutine.
type Roster struct {
	self   crdt.RegionID
	name   string
	log    *slog.Logger
	first  *membershipv1.Membership
	keeper *membership.Keeper
	// connect makes the way to a region that is not configured, at the addresses
	// that the document has; nil: there are no such regions.
	connect func(m *membershipv1.Member) (way, error)

	router *region.Router // set by attach, before anything runs

	mu      sync.Mutex // guards what follows
	ways    map[crdt.RegionID]way
	now     *membershipv1.Membership // nil: none is known
	changed chan struct{}            // closed and replaced when now changes
}

// keepEvery is how often regions look at each other's documents.
const keepEvery = time.Second

// newRoster makes a roster of the configured regions; ids has all of them.
func newRoster(name string, ids map[string]crdt.RegionID, ways map[crdt.RegionID]way, log *slog.Logger) *Roster {
	all := make(map[string]uint32, len(ids))
	for n, id := range ids {
		all[n] = uint32(id)
	}
	r := &Roster{
		self: ids[name], name: name, log: log, first: membership.First(all),
		ways: maps.Clone(ways), changed: make(chan struct{}),
	}
	return r
}

// attach tells through which router the region is reached.
func (r *Roster) attach(router *region.Router) {
	r.router = router
	r.keeper = membership.New(membership.Config{
		Self: uint32(r.self), Name: r.name, First: r.first, Every: keepEvery, Peers: r.all,
	}, ownRegion{router}, r.log)
}

// run follows the region's document until ctx ends.
func (r *Roster) run(ctx context.Context) {
	// A node looks at its own shards; a gateway asks, and less often.
	every := 100 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	for turn := 0; ; turn++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		m := r.router.Membership()
		if m == nil && turn%5 == 0 {
			asking, cancel := context.WithTimeout(ctx, time.Second)
			st, err := r.router.Standing(asking, 0)
			cancel()
			if err != nil {
				continue
			}
			m = st.Membership
		}
		r.take(m)
	}
}

// take takes a newer document in.
func (r *Roster) take(m *membershipv1.Membership) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m == nil || !m.Newer(r.now) {
		return
	}
	r.now = m
	close(r.changed)
	r.changed = make(chan struct{})
}

// wayTo returns the way to a region; ok is false when there is none. It is called
// with mu held.
func (r *Roster) wayTo(m *membershipv1.Member) (way, bool) {
	id := crdt.RegionID(m.RegionId)
	w, ok := r.ways[id]
	if ok || r.connect == nil || len(m.Peers) == 0 {
		return w, ok
	}
	w, err := r.connect(m)
	if err != nil {
		r.log.Error("no way to a region", slog.String("peer", m.Region), slog.Any("err", err))
		return w, false
	}
	r.ways[id] = w
	return w, true
}

// gossip returns the regions that rows go to now, none when there is no other
// member, and a channel that is closed when that may be others. ok is false when this
// region may send to none what it writes under the given incarnation.
func (r *Roster) gossip(incarnation uint32) (peers []replication.PeerRegion, changed <-chan struct{}, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now == nil {
		for _, w := range r.ways {
			peers = append(peers, w.gossip)
		}
		return peers, r.changed, true
	}
	if r.now.Refuses(uint32(r.self), incarnation) {
		return nil, r.changed, false
	}
	others := false // that may come back, and then have none of these rows
	for _, m := range r.now.Members {
		if m.RegionId == uint32(r.self) || !m.State.Sends() {
			continue
		}
		if w, there := r.wayTo(m); there {
			peers = append(peers, w.gossip)
		}
	}
	for _, m := range r.now.Members {
		others = others || m.RegionId != uint32(r.self) && m.State != membershipv1.State_STATE_REMOVED
	}
	return peers, r.changed, len(peers) > 0 || !others
}

// collects reports whether this region is the one that frees what carts leave
// behind: the first of the members. Every other member must be among the peers, and
// none may be on its way in, which has not all carts yet.
func (r *Roster) collects(peers []replication.PeerRegion) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now == nil {
		return false
	}
	members := 0
	for _, m := range r.now.Members {
		switch {
		case m.State == membershipv1.State_STATE_JOINING, m.State.Votes() && m.RegionId < uint32(r.self):
			return false
		case m.State.Votes():
			members++
		}
	}
	return members == len(peers)+1
}

// expires says whose carts this region expires, and which of the peers must agree:
// all other members. ok is false when it may expire none, or does not reach all of
// them.
func (r *Roster) expires(peers []replication.PeerRegion) (owns func(crdt.RegionID) bool, ask []replication.PeerRegion, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now == nil || !r.now.TakesEdits(uint32(r.self)) {
		return nil, nil, false
	}
	first := r.self
	active := make(map[crdt.RegionID]bool)
	for _, m := range r.now.Members {
		id := crdt.RegionID(m.RegionId)
		if m.State == membershipv1.State_STATE_ACTIVE {
			active[id] = true
			first = min(first, id)
		}
		if id == r.self || !m.State.Votes() {
			continue
		}
		i := slices.IndexFunc(peers, func(p replication.PeerRegion) bool { return p.ID == id })
		if i < 0 {
			return nil, nil, false
		}
		ask = append(ask, peers[i])
	}
	self := r.self
	return func(id crdt.RegionID) bool { return id == self || !active[id] && first == self }, ask, true
}

// names are the regions that rows and carts are taken from now.
func (r *Roster) names() map[crdt.RegionID]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[crdt.RegionID]string)
	m := r.now
	if m == nil {
		m = r.first
	}
	for _, e := range m.Members {
		if e.RegionId != uint32(r.self) && e.State.Sends() {
			out[crdt.RegionID(e.RegionId)] = e.Region
		}
	}
	return out
}

// carts is where whole carts of a region come from; ok is false when none may be
// joined now, or there is no way to it.
func (r *Roster) carts(id crdt.RegionID) (from wholeCarts, ok bool) {
	_, member := r.names()[id]
	r.mu.Lock()
	defer r.mu.Unlock()
	w, there := r.ways[id]
	// One on its way in may still have the carts of before.
	filled := r.now == nil || r.now.Of(uint32(id)).GetState().Votes()
	return w.carts, there && member && filled
}

// Regions are the names of all other regions, members or not.
func (r *Roster) Regions() (names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range slices.Concat(r.first.Members, r.now.GetMembers()) {
		if m.Region != r.name && !slices.Contains(names, m.Region) {
			names = append(names, m.Region)
		}
	}
	return names
}

// knows reports whether a name is another region's, member or not.
func (r *Roster) knows(name string) bool {
	return slices.Contains(r.Regions(), name)
}

// all are the ways to all other regions of a document, and those configured.
func (r *Roster) all(m *membershipv1.Membership) map[uint32]membership.Peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range m.GetMembers() {
		if e.RegionId != uint32(r.self) {
			r.wayTo(e) // so that it is among them
		}
	}
	out := make(map[uint32]membership.Peer)
	for id, w := range r.ways {
		out[uint32(id)] = w.member
	}
	return out
}

// wayNamed is the way to a configured region, nil when there is none.
func (r *Roster) wayNamed(name string) membership.Peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.ways {
		if w.gossip.Name == name {
			return w.member
		}
	}
	return nil
}

// Newest is the newest document known, nil when none is.
func (r *Roster) Newest() *membershipv1.Membership {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

// Change has the regions agree on a change of the membership; see
// membership.Keeper.
func (r *Roster) Change(ctx context.Context, change membership.Change) (*membershipv1.Membership, error) {
	now, err := r.keeper.Change(ctx, change)
	r.take(now)
	return now, err
}

// Force fences a region without a majority; see membership.Keeper.
func (r *Roster) Force(ctx context.Context, region string) (*membershipv1.Membership, error) {
	now, err := r.keeper.Force(ctx, region)
	r.take(now)
	return now, err
}

// voter is the region as others ask it.
func (r *Roster) voter() voter { return voter{r} }

type voter struct{ roster *Roster }

// Prepare implements membership.Voter.
func (v voter) Prepare(ctx context.Context, r *membershipv1.PrepareRequest) (*membershipv1.Vote, error) {
	return v.roster.router.Prepare(ctx, r)
}

// Accept implements membership.Voter.
func (v voter) Accept(ctx context.Context, r *membershipv1.AcceptRequest) (*membershipv1.Vote, error) {
	return v.roster.router.Accept(ctx, r)
}

// Answer implements rpc.MembershipRegion.
func (v voter) Answer(ctx context.Context, r *membershipv1.CurrentRequest) (*membershipv1.CurrentResponse, error) {
	resp, err := v.roster.keeper.Answer(ctx, r)
	v.roster.take(resp.GetMembership())
	return resp, err
}

// ownRegion is the region as its keeper needs it.
type ownRegion struct{ *region.Router }

var _ membership.Region = ownRegion{}

// Standing implements membership.Region.
func (o ownRegion) Standing(ctx context.Context, shard uint32) (membership.Standing, error) {
	st, err := o.Router.Standing(ctx, shard)
	return membership.Standing{Membership: st.Membership, Incarnation: st.Incarnation, Empty: st.Empty}, err
}

// Sent implements membership.Region.
func (o ownRegion) Sent(ctx context.Context, regions []string) (bool, error) {
	return o.eachPair(ctx, regions, func(p pairStatus) bool { return p.Connected && p.Acked >= p.seq }), nil
}

// Filled implements membership.Region. Where it does not hold, a repair begins:
// whoever asks waits for it.
func (o ownRegion) Filled(ctx context.Context, region string, within time.Duration) (bool, error) {
	if o.eachPair(ctx, []string{region}, func(p pairStatus) bool {
		return p.Connected && p.RepairedAllAgoMs > 0 && p.RepairedAllAgoMs < within.Milliseconds()
	}) {
		return true, nil
	}
	_ = o.Repair(ctx, region) // a shard that has no leader yet is told the next time
	return false, nil
}

// pairStatus is how one shard stands with another region.
type pairStatus struct {
	*regionv1.StatusResponse_Peer
	seq uint64 // of the shard's newest row
}

// eachPair reports whether something holds for every shard and each of the
// regions; a shard without a leader holds nothing.
func (o ownRegion) eachPair(ctx context.Context, regions []string, holds func(pairStatus) bool) bool {
	good := make(map[uint32]bool)
	for _, node := range o.Status(ctx) {
		for _, s := range node.Shards {
			if !s.Leads {
				continue
			}
			good[s.Shard] = !slices.ContainsFunc(regions, func(name string) bool {
				at := slices.IndexFunc(s.Peers, func(p *regionv1.StatusResponse_Peer) bool { return p.Region == name })
				return at < 0 || !holds(pairStatus{s.Peers[at], s.LogSeq})
			})
		}
	}
	for id := range o.Shards() {
		if !good[id] {
			return false
		}
	}
	return true
}
