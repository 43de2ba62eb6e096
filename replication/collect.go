package replication

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// Garbage is what a Collector needs of the local shard that this node leads.
// Methods are safe for concurrent use.
type Garbage interface {
	// Next returns some carts that may be collected as far as this region knows,
	// none when there is nothing at the moment. It goes through all carts, call
	// by call, and begins again.
	Next(ctx context.Context) ([]CartDigest, error)
	// Collect is that of Sink.
	Collect(ctx context.Context, carts []CartDigest, commit bool) ([]bool, error)
}

// Collector frees what carts leave behind, in all regions: one of them runs it, for
// each of its shards.
//
//	G4  A cart is collected when every member has said that it may be, of the
//	    same digest: then all have seen the same of it, and nothing of it is on
//	    its way.
//	G5  The own region is told last, and only when all others have collected: if
//	    the round ends early, the cart is found again.
type Collector struct {
	own    Garbage
	hello  func() Hello
	peers  []PeerRegion
	every  time.Duration
	logger *slog.Logger
}

// NewCollector returns a Collector that works with all other members; it starts
// nothing. Every is the time between two looks at some carts.
func NewCollector(own Garbage, hello func() Hello, peers []PeerRegion, every time.Duration, logger *slog.Logger) *Collector {
	return &Collector{own: own, hello: hello, peers: peers, every: every, logger: logger}
}

// Run collects until ctx ends.
func (c *Collector) Run(ctx context.Context) {
	tick := time.NewTicker(c.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n, err := c.round(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			c.logger.Debug("collection put off", slog.Any("err", err))
		case n > 0:
			c.logger.Debug("collected", slog.Int("carts", n))
		}
	}
}

// round collects what it finds at one place.
func (c *Collector) round(ctx context.Context) (n int, err error) {
	carts, err := c.own.Next(ctx)
	if err != nil || len(carts) == 0 {
		return 0, err
	}
	ask := func(who string, collect func(carts []CartDigest) ([]bool, error)) error {
		if len(carts) == 0 {
			return nil
		}
		ok, err := collect(carts)
		if err != nil {
			return fmt.Errorf("ask %s about %d carts: %w", who, len(carts), err)
		}
		if len(ok) != len(carts) {
			return fmt.Errorf("ask %s about %d carts: %d answers", who, len(carts), len(ok))
		}
		var left []CartDigest
		for i, may := range ok {
			if may {
				left = append(left, carts[i])
			}
		}
		carts = left
		return nil
	}
	if err := ask("this region", func(carts []CartDigest) ([]bool, error) { return c.own.Collect(ctx, carts, false) }); err != nil {
		return 0, err
	}
	for _, p := range c.peers {
		if err := ask(p.Name, func(carts []CartDigest) ([]bool, error) { return p.Transport.Collect(ctx, c.hello(), carts, false) }); err != nil {
			return 0, err
		}
	}
	if len(carts) == 0 {
		return 0, nil
	}
	for _, p := range c.peers {
		if _, err := p.Transport.Collect(ctx, c.hello(), carts, true); err != nil {
			return 0, fmt.Errorf("have %s collect %d carts: %w", p.Name, len(carts), err)
		}
	}
	_, err = c.own.Collect(ctx, carts, true)
	return len(carts), err
}
