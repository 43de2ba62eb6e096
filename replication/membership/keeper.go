package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	pb "github.com/samecart/samecart/proto/membership/v1"
)

// Standing is how one shard of the region stands.
type Standing struct {
	Membership  *pb.Membership // that the shard has applied; nil: none
	Incarnation uint32         // that it writes under
	Empty       bool           // it never wrote, and has no cart
}

// Region is the own region, routed to the leaders of its shards. Methods are safe
// for concurrent use.
type Region interface {
	Voter
	Shards() uint32
	Standing(ctx context.Context, shard uint32) (Standing, error)
	// SetMembership commits a newer document in a shard.
	SetMembership(ctx context.Context, shard uint32, m *pb.Membership) error
	// Reincarnate makes a shard begin again under a higher incarnation, without
	// carts, its own rows kept aside; Reissue writes anew what of those nobody
	// saw.
	Reincarnate(ctx context.Context, shard, incarnation uint32) error
	Reissue(ctx context.Context, shard uint32) error
	// Sent reports whether all of the given regions have all rows of this one.
	Sent(ctx context.Context, regions []string) (bool, error)
	// Filled reports whether the named region has all that each shard had at a
	// moment that is less than within ago.
	Filled(ctx context.Context, region string, within time.Duration) (bool, error)
}

// Peer is another region. Methods are safe for concurrent use.
type Peer interface {
	Voter
	Current(ctx context.Context, r *pb.CurrentRequest) (*pb.CurrentResponse, error)
}

// Config holds the settings of a Keeper.
type Config struct {
	Self uint32 // this region's id
	Name string // and its name
	// First is the document of the first epoch, as configured; the same in
	// every region that is new.
	First *pb.Membership
	// Every is the time between two looks at the other regions; > 0. A change is
	// known everywhere within it.
	Every time.Duration
	// Peers returns the ways to the other regions of a document, those that are
	// no members included: they may know better. It is called often.
	Peers func(*pb.Membership) map[uint32]Peer
}

// Keeper keeps the region's part of the membership. Any process of the region may
// have one, to answer and to make changes; one at a time, that of the node which
// leads the first shard, runs. More than one do no harm: all they do may be done
// twice.
type Keeper struct {
	cfg    Config
	region Region
	log    *slog.Logger

	mu sync.Mutex // guards what follows
	// rebornAs is the incarnation under which all shards were seen, reborn when.
	rebornAs uint32
	reborn   time.Time
	said     string // what was logged last, so that waiting is logged once
}

// New returns a Keeper; it starts nothing.
func New(cfg Config, region Region, log *slog.Logger) *Keeper {
	return &Keeper{cfg: cfg, region: region, log: log}
}

// callTimeout bounds one call to the own region or another one.
const callTimeout = 3 * time.Second

// hearTimeout bounds the exchange of documents, which a silent region holds up.
const hearTimeout = time.Second

// Run looks around until ctx ends, and returns nil.
func (k *Keeper) Run(ctx context.Context) error {
	k.forget() // another may have run meanwhile
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		again, err := k.round(ctx)
		if err != nil && ctx.Err() == nil {
			k.waits(err.Error())
		}
		if again {
			timer.Reset(0)
		} else {
			timer.Reset(k.cfg.Every)
		}
	}
}

// waits logs what is waited for, once.
func (k *Keeper) waits(why string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if why != k.said {
		k.said = why
		k.log.Info("membership waits", slog.String("err", why))
	}
}

// round hears what there is to hear, and does the next thing that the region's own
// state asks for. again: something changed, so there may be more.
func (k *Keeper) round(ctx context.Context) (again bool, err error) {
	now, shards, err := k.newest(ctx)
	if err != nil {
		return false, err
	}
	if err := k.adopt(ctx, now, shards); err != nil {
		return false, err
	}
	change, err := k.duty(ctx, now, shards)
	if change == nil || err != nil {
		return false, err
	}
	next, err := k.Change(ctx, change)
	return next.Newer(now), err
}

// newest returns the newest document that the region's shards or any other region
// has.
//
//	K2  The document of the first epoch is not taken before a majority of its
//	    regions has said that it has none: a region that the others are not
//	    configured with would decide with some of them what others decide
//	    without it.
func (k *Keeper) newest(ctx context.Context) (now *pb.Membership, shards []Standing, err error) {
	own, shards, err := k.standing(ctx)
	if err != nil {
		return nil, nil, err
	}
	now, answered := k.hear(ctx, own)
	if now == nil {
		if need := len(k.cfg.First.Members)/2 + 1; answered+1 < need {
			return nil, nil, fmt.Errorf("%w: the first document needs %d, %d are there", ErrNoMajority, need, answered+1)
		}
		now = k.cfg.First
	}
	return now, shards, nil
}

// standing asks all shards. The document is the newest of any, nil when none has
// one.
func (k *Keeper) standing(ctx context.Context) (now *pb.Membership, shards []Standing, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for id := range k.region.Shards() {
		s, err := k.region.Standing(ctx, id)
		if err != nil {
			return nil, nil, err
		}
		shards = append(shards, s)
		if s.Membership.Newer(now) {
			now = s.Membership
		}
	}
	return now, shards, nil
}

// hear exchanges documents with all regions and returns the newest, and how many
// regions answered.
func (k *Keeper) hear(ctx context.Context, now *pb.Membership) (newest *pb.Membership, answered int) {
	ctx, cancel := context.WithTimeout(ctx, hearTimeout)
	defer cancel()
	var mu sync.Mutex
	var asking sync.WaitGroup
	newest = now
	for _, p := range k.cfg.Peers(now) {
		asking.Go(func() {
			resp, err := p.Current(ctx, &pb.CurrentRequest{RegionId: k.cfg.Self, Region: k.cfg.Name, Membership: now})
			if err != nil {
				return // it may be down: others know as well
			}
			mu.Lock()
			defer mu.Unlock()
			answered++
			if resp.Membership.Newer(newest) {
				newest = resp.Membership
			}
		})
	}
	asking.Wait()
	return newest, answered
}

// adopt puts a document into all shards that have an older one.
//
//	K1  The first shard takes it last: when it has a document, all have.
func (k *Keeper) adopt(ctx context.Context, m *pb.Membership, shards []Standing) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for id := len(shards) - 1; id >= 0; id-- {
		if !m.Newer(shards[id].Membership) {
			continue
		}
		if err := k.region.SetMembership(ctx, uint32(id), m); err != nil {
			return fmt.Errorf("take in the membership of epoch %d: %w", m.Epoch, err)
		}
		shards[id].Membership = m
		if id == 0 {
			k.log.Info("membership", slog.Uint64("epoch", m.Epoch), slog.String("state", m.Of(k.cfg.Self).GetState().Word()))
		}
	}
	return nil
}

// duty does what the region's state asks for, and returns the change that follows
// from it; nil while there is none.
func (k *Keeper) duty(ctx context.Context, now *pb.Membership, shards []Standing) (Change, error) {
	own := now.Of(k.cfg.Self)
	incarnation, empty := uint32(0), true
	for _, s := range shards {
		incarnation, empty = max(incarnation, s.Incarnation), empty && s.Empty
	}
	switch own.GetState() {
	case pb.State_STATE_ACTIVE, pb.State_STATE_DRAINED:
		if own.Incarnation < incarnation {
			return announce(k.cfg.Self, incarnation), nil
		}
	case pb.State_STATE_DRAINING:
		sent, err := k.region.Sent(ctx, k.others(now, pb.State.Sends))
		if err == nil && sent {
			return move(k.cfg.Self, own.Incarnation, pb.State_STATE_DRAINING, pb.State_STATE_DRAINED), nil
		}
		return nil, err
	case pb.State_STATE_FENCED:
		if !empty {
			incarnation++ // it wrote, or has carts of before: these must not be joined
		}
		return enter(k.cfg.Self, incarnation), nil
	case pb.State_STATE_JOINING:
		return k.join(ctx, now, shards)
	case pb.State_STATE_REMOVED, pb.State_STATE_UNSPECIFIED:
		k.waits("this region is no member; 'cartctl region add' takes it in")
	}
	return nil, nil
}

// others are the names of the other regions in a state for which want holds.
func (k *Keeper) others(now *pb.Membership, want func(pb.State) bool) (names []string) {
	for _, m := range now.GetMembers() {
		if m.RegionId != k.cfg.Self && want(m.State) {
			names = append(names, m.Region)
		}
	}
	return names
}

// join takes a joining region through its steps.
func (k *Keeper) join(ctx context.Context, now *pb.Membership, shards []Standing) (Change, error) {
	incarnation := now.Of(k.cfg.Self).Incarnation
	for id, s := range shards {
		if s.Incarnation < incarnation {
			k.forget()
			k.log.Info("shard begins again", slog.Int("shard", id), slog.Uint64("incarnation", uint64(incarnation)))
			if err := k.region.Reincarnate(ctx, uint32(id), incarnation); err != nil {
				return nil, fmt.Errorf("begin shard %d again: %w", id, err)
			}
		}
	}
	within := k.rebornFor(incarnation)
	ways := k.cfg.Peers(now)
	var filling errgroup.Group // none is waited for before another is asked
	for _, m := range now.Members {
		if m.RegionId != k.cfg.Self && m.State.Votes() {
			filling.Go(func() error { return k.filledBy(ctx, now, m, ways[m.RegionId], within) })
		}
	}
	if err := filling.Wait(); err != nil {
		k.waits(err.Error())
		return nil, nil
	}
	for id := range shards {
		if err := k.region.Reissue(ctx, uint32(id)); err != nil {
			return nil, err
		}
	}
	return move(k.cfg.Self, incarnation, pb.State_STATE_JOINING, pb.State_STATE_ACTIVE), nil
}

// rebornFor returns how long all shards have been what they join as: what they were
// given longer ago is gone.
func (k *Keeper) rebornFor(incarnation uint32) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.reborn.IsZero() || k.rebornAs != incarnation {
		k.rebornAs, k.reborn = incarnation, time.Now()
	}
	return time.Since(k.reborn)
}

func (k *Keeper) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reborn = time.Time{}
}

// filledBy returns nil when a member has given this region all that it had at some
// moment since all shards began again.
func (k *Keeper) filledBy(ctx context.Context, now *pb.Membership, m *pb.Member, way Peer, within time.Duration) error {
	if way == nil {
		return fmt.Errorf("there is no way to region %s: give its address to this one's configuration", m.Region)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := way.Current(ctx, &pb.CurrentRequest{
		RegionId: k.cfg.Self, Region: k.cfg.Name, Membership: now, FilledWithinMs: within.Milliseconds(),
	})
	if err != nil {
		return fmt.Errorf("region %s does not answer, which has to send its carts: %w", m.Region, err)
	}
	if !resp.Filled {
		return fmt.Errorf("region %s is still sending its carts", m.Region)
	}
	return nil
}

// Change makes a change and returns the document that has it: decided by a majority
// and taken in here. Changes of others may be decided before. What this region does
// not answer is asked again until ctx ends. Errors wrap ErrRefused or ErrNoMajority.
func (k *Keeper) Change(ctx context.Context, change Change) (*pb.Membership, error) {
	for {
		now, err := k.try(ctx, change)
		if now != nil || errors.Is(err, ErrRefused) || errors.Is(err, ErrNoMajority) {
			return now, err
		}
		if err == nil {
			continue // somebody else's was decided, or this one: see
		}
		timer := time.NewTimer(tryAgain)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		}
	}
}

// tryAgain is the time between two tries of a change while this region does not
// answer.
const tryAgain = 200 * time.Millisecond

// try has a change decided, or what somebody else began to decide. It returns the
// document that has the change, nil when that is not known yet.
func (k *Keeper) try(ctx context.Context, change Change) (*pb.Membership, error) {
	now, shards, err := k.newest(ctx)
	if err != nil {
		return nil, err
	}
	next, err := change(now)
	if err != nil {
		return nil, err
	}
	// The own vote counts as others': by the document that the log has.
	if err := k.adopt(ctx, now, shards); err != nil {
		return nil, err
	}
	if next == nil {
		return now, nil
	}
	voters := map[uint32]Voter{k.cfg.Self: k.region}
	for id, p := range k.cfg.Peers(now) {
		voters[id] = p
	}
	decided, err := decide(ctx, k.cfg.Self, now, voters, next)
	if err != nil {
		return nil, err
	}
	if err := k.adopt(ctx, decided, shards); err != nil {
		return nil, err
	}
	_, _ = k.hear(ctx, decided) // they hear of it at once
	return nil, nil
}

// Force makes a change without a majority: this region's word alone. Only of two
// regions, when the other one is to be fenced: see the package's decisions.
func (k *Keeper) Force(ctx context.Context, name string) (*pb.Membership, error) {
	now, shards, err := k.standing(ctx)
	if err != nil {
		return nil, err
	}
	if now == nil {
		return refusal("this region has no document yet")
	}
	m := now.Named(name)
	if n := voters(now, m.GetRegionId()); n != 1 || !now.Of(k.cfg.Self).GetState().Votes() || m.GetRegionId() == k.cfg.Self {
		_, err := refusal("force is for one region that is left of two; %d others are members: fence %s without it", n, name)
		return nil, err
	}
	next, err := Fence(name)(now)
	if err != nil || next == nil {
		return now, err
	}
	next.ForcedBy = k.cfg.Self
	return next, k.adopt(ctx, next, shards)
}

// Answer answers another region's Current.
func (k *Keeper) Answer(ctx context.Context, r *pb.CurrentRequest) (*pb.CurrentResponse, error) {
	now, shards, err := k.standing(ctx)
	if err != nil {
		return nil, err
	}
	if r.Membership.Newer(now) {
		now = r.Membership
		if err := k.adopt(ctx, now, shards); err != nil {
			return nil, err
		}
	}
	resp := &pb.CurrentResponse{Membership: shards[0].Membership} // K1
	if within := time.Duration(r.FilledWithinMs) * time.Millisecond; within > 0 && !r.Membership.Newer(resp.Membership) {
		resp.Filled, err = k.region.Filled(ctx, r.Region, within)
	}
	return resp, err
}
