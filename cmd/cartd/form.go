package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/replication"
	"github.com/samecart/samecart/rpc"
)

// knownSlots is how many slots are asked about at once, knownTimeout how long
// that may take: the other region looks through the carts in them.
const (
	knownSlots   = 64
	knownTimeout = 30 * time.Second
)

// mayForm asks every other region whether it knows edits of this one under
// its incarnation or a later one: a region that lost all its disks would
// issue their dots again, and what it wrote would be taken for what is known
// already. It waits for regions that do not answer.
func mayForm(ctx context.Context, p place, peers map[string]*rpc.Route) error {
	g, ctx := errgroup.WithContext(ctx)
	for name, peer := range peers {
		g.Go(func() error {
			known, err := askKnown(ctx, p, name, peer)
			if err != nil {
				return err
			}
			if known < p.incarnation {
				return nil
			}
			return usageError{fmt.Errorf("region %s knows edits of %s under incarnation %d, and no node of %s has its data: "+
				"put the disk of one back, or start all of them with --incarnation %d", name, p.region, known, p.region, known+1)}
		})
	}
	return g.Wait()
}

func askKnown(ctx context.Context, p place, name string, peer *rpc.Route) (highest uint32, err error) {
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
		if time.Now().After(say) {
			say = time.Now().Add(10 * time.Second)
			p.log.Info("waits for another region, which may know this one", slog.String("peer", name), slog.Any("err", err))
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	return highest, nil
}
