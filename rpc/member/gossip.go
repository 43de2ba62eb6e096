package member

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/replication"
)

// gossipers sends what the shards led by one node write to the other
// regions.
type gossipers struct {
	part     *Part
	gossip   replication.Config
	throttle *replication.Throttle // of all shards' repairs
	// bandwidth is the most that this node sends to one region; 0: no bound.
	bandwidth int

	mu      sync.Mutex // guards what follows
	running map[uint32]*replication.Gossiper
	heard   map[crdt.RegionID]heard
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
		keeping.Go(func() { _ = g.part.Roster.keeper.Run(ctx) }) // it returns nil
	}
	keeping.Go(func() { g.listen(ctx, s) })
	for ctx.Err() == nil {
		peers, changed, ok := g.part.Roster.gossip(s.Stream().Incarnation)
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
	gossip, err := replication.New(deltaLog{s, s.Stream(), g.part.Roster.incarnations()}, g.part.Place.Region, peers, g.gossip, g.part.Place.Log,
		replication.Options{Throttle: g.throttle, Links: g.bounds(peers), Seed: rand.Uint64(), Events: acking(g.part.Place.Events.Gossip, s)})
	if err != nil {
		g.part.Place.Log.Error("gossip not started", slog.Any("err", err))
		<-ctx.Done()
		return
	}
	g.set(s.ID(), gossip)
	defer g.set(s.ID(), nil)
	lo, hi := s.SlotRange()
	hello := func() replication.Hello {
		return replication.Hello{Version: replication.Version, Region: g.part.Place.Region, Stream: s.Stream(), SlotLo: lo, SlotHi: hi}
	}
	if owns, ask, ok := g.part.Roster.expires(peers); ok {
		e := replication.NewExpirer(&expiries{shard: s, owns: owns}, hello, ask, expireEvery, g.part.Place.Log)
		var expiring sync.WaitGroup
		expiring.Go(func() { e.Run(ctx) })
		defer expiring.Wait()
		defer cancel() // before it is waited for
	}
	if g.part.Roster.collects(peers) {
		c := replication.NewCollector(garbage{Sink{g.part.Roster.router}, s, new(shard.Place)}, hello, peers, collectEvery, g.part.Place.Log)
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
		g.part.Place.Log.Error("gossip ended", slog.Any("err", err))
	}
}

// collectEvery is the time between two looks at some carts of a shard: half a
// thousand carts a second are 40 million a day.
const collectEvery = time.Second

// expireEvery is the time between two looks at what is due in a shard, when there is
// no more at once.
const expireEvery = time.Second

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
			ProvenEqualAtMs: max(0, s.ProvenEqualAt.UnixMilli()), Connected: s.Connected,
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
