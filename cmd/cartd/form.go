package main

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
func mayForm(ctx context.Context, p place, peers map[string]*rpc.Route) (incarnation uint32, err error) {
	g, ctx := errgroup.WithContext(ctx)
	var mu sync.Mutex
	incarnation = p.incarnation
	for name, peer := range peers {
		g.Go(func() error {
			known, fenced, err := askKnown(ctx, p, name, peer)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if fenced {
				if known == 0 { // it never said; it was formed as it is configured
					known = p.incarnation
				}
				incarnation = max(incarnation, known+1)
				return errSettled
			}
			if known < p.incarnation {
				return nil
			}
			return usageError{fmt.Errorf("region %s knows edits of %s under incarnation %d, and no node of %s has its data: "+
				"put the disk of one back, or fence the region ('cartctl region fence %s', there) and start its nodes again, "+
				"or start all of them with --incarnation %d", name, p.region, known, p.region, p.region, known+1)}
		})
	}
	if err := g.Wait(); err != nil && !errors.Is(err, errSettled) {
		return 0, err
	}
	return incarnation, nil
}

// errSettled ends the asking: one region's answer is enough.
var errSettled = errors.New("settled")

// fencedAs asks whether another region's document says that this one is none of the
// members, and under which incarnation it was one.
func fencedAs(ctx context.Context, p place, peer string) (incarnation uint32, fenced bool) {
	way := p.roster.wayNamed(peer)
	if way == nil {
		return 0, false
	}
	ctx, cancel := context.WithTimeout(ctx, fencedTimeout)
	defer cancel()
	resp, err := way.Current(ctx, &membershipv1.CurrentRequest{RegionId: uint32(p.id), Region: p.region})
	if err != nil || resp.Membership == nil {
		return 0, false
	}
	m := resp.Membership.Of(uint32(p.id))
	return m.GetIncarnation(), !m.GetState().Sends()
}

func askKnown(ctx context.Context, p place, name string, peer *rpc.Route) (highest uint32, fenced bool, err error) {
	say := time.Now().Add(2 * time.Second) // regions may be starting together
	for lo := uint32(0); lo < shard.SlotCount; {
		hello := replication.Hello{
			Version: replication.Version, Region: p.region, Stream: crdt.Stream{Region: p.id},
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
		if was, fenced := fencedAs(ctx, p, name); fenced {
			return was, true, nil
		}
		if time.Now().After(say) {
			say = time.Now().Add(10 * time.Second)
			p.log.Info("waits for another region, which may know this one", slog.String("peer", name), slog.Any("err", err))
		}
		select {
		case <-ctx.Done():
			return 0, false, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	return highest, false, nil
}
