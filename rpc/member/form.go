package member

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/samecart/samecart/crdt"
	membershipv1 "github.com/samecart/samecart/proto/membership/v1"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/replication"
	"github.com/samecart/samecart/rpc"
)

// knownSlots is how many slots are asked about at once, knownTimeout how long
// that may take: the other region looks through the carts in them.
const (
	knownSlots   = 64
	knownTimeout = 30 * time.Second

	fencedTimeout = 2 * time.Second
)

// mayForm asks every other region whether it knows edits of this one under
// its incarnation or a later one: a region that lost all its disks would
// issue their dots again, and what it wrote would be taken for what is known
// already. It waits for regions that do not answer. One that says that this
// region is fenced or removed, or not a member yet, settles it: then nobody
// waits for what was lost, and the region is formed under the next incarnation.
func (p *Part) mayForm(ctx context.Context) (incarnation uint32, err error) {
	configured := p.Place.Incarnation
	g, ctx := errgroup.WithContext(ctx)
	var mu sync.Mutex
	incarnation = configured
	for name, peer := range p.routes {
		g.Go(func() error {
			known, fenced, err := p.askKnown(ctx, name, peer)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if fenced {
				if known == 0 { // it never said; it was formed as it is configured
					known = configured
				}
				incarnation = max(incarnation, known+1)
				return errSettled
			}
			if known < configured {
				return nil
			}
			return LostError{Region: p.Place.Region, Peer: name, Incarnation: known}
		})
	}
	if err := g.Wait(); err != nil && !errors.Is(err, errSettled) {
		return 0, err
	}
	return incarnation, nil
}

// LostError ends a node of a region that has lost the data of all its nodes,
// which another region tells from the edits that it knows.
type LostError struct {
	Region      string // that lost its data
	Peer        string // that knows edits of it
	Incarnation uint32 // the highest that they are of
}

// Error says what to do.
func (e LostError) Error() string {
	return fmt.Sprintf("region %s knows edits of %s under incarnation %d, and no node of %s has its data: "+
		"put the disk of one back, or fence the region ('cartctl region fence %s', there) and start its nodes again, "+
		"or start all of them with --incarnation %d", e.Peer, e.Region, e.Incarnation, e.Region, e.Region, e.Incarnation+1)
}

// errSettled ends the asking: one region's answer is enough.
var errSettled = errors.New("settled")

// fencedAs asks whether another region's document says that this one is none of the
// members, and under which incarnation it was one.
func (p *Part) fencedAs(ctx context.Context, peer string) (incarnation uint32, fenced bool) {
	way := p.Roster.wayNamed(peer)
	if way == nil {
		return 0, false
	}
	ctx, cancel := context.WithTimeout(ctx, fencedTimeout)
	defer cancel()
	resp, err := way.Current(ctx, &membershipv1.CurrentRequest{RegionId: uint32(p.Place.ID), Region: p.Place.Region})
	if err != nil || resp.Membership == nil {
		return 0, false
	}
	m := resp.Membership.Of(uint32(p.Place.ID))
	return m.GetIncarnation(), !m.GetState().Sends()
}

func (p *Part) askKnown(ctx context.Context, name string, peer *rpc.Route) (highest uint32, fenced bool, err error) {
	say := time.Now().Add(2 * time.Second) // regions may be starting together
	for lo := uint32(0); lo < shard.SlotCount; {
		hello := replication.Hello{
			Version: replication.Version, Region: p.Place.Region, Stream: crdt.Stream{Region: p.Place.ID},
			SlotLo: lo, SlotHi: min(lo+knownSlots, shard.SlotCount),
		}
		asking, cancel := context.WithTimeout(ctx, knownTimeout)
		known, err := peer.Known(asking, hello)
		cancel()
		if err == nil {
			highest, lo = max(highest, known), hello.SlotHi
			continue
		}
		// It refuses one that is no member.
		if was, fenced := p.fencedAs(ctx, name); fenced {
			return was, true, nil
		}
		if time.Now().After(say) {
			say = time.Now().Add(10 * time.Second)
			p.Place.Log.Info("waits for another region, which may know this one", slog.String("peer", name), slog.Any("err", err))
		}
		select {
		case <-ctx.Done():
			return 0, false, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	return highest, false, nil
}
