package replication

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/samecart/samecart/crdt"
)

// DueCart is a cart of which something is due, as its region has it.
type DueCart struct {
	CartDigest
	Active crdt.Active // the newest activity that is known there
}

// Expiries is what an Expirer needs of the local shard that this node leads. Methods
// are safe for concurrent use.
type Expiries interface {
	// Due returns some carts of this region that are due by the own clock. It goes
	// through all that are due, call by call, and begins again. moved says that it
	// found others where they were not due any more, and put that right.
	Due(ctx context.Context) (carts []DueCart, moved bool, err error)
	// Expire takes out what is due of those carts that are as they were.
	Expire(ctx context.Context, carts []DueCart) error
}

// Expirer takes out of carts what nobody has edited for as long as it lives.
//
//	X1  A cart is expired by one region, the one of its newest activity, and only
//	    when every member has said that it is the same there, that it knows of no
//	    newer activity, and that it is due by the clock there. So while a region is
//	    cut off nothing expires, no region's clock alone decides, and of two that
//	    take themselves for the owner at most one hears yes from all.
//	X2  What is edited after a region has said yes was not seen by the expiry, and
//	    survives it.
type Expirer struct {
	own    Expiries
	hello  func() Hello
	peers  []PeerRegion
	every  time.Duration
	logger *slog.Logger
}

// NewExpirer returns an Expirer that asks the given regions, which are all other
// members; it starts nothing. Every is the time between two looks, after one that
// found nothing to do.
func NewExpirer(own Expiries, hello func() Hello, peers []PeerRegion, every time.Duration, logger *slog.Logger) *Expirer {
	return &Expirer{own: own, hello: hello, peers: peers, every: every, logger: logger}
}

// Run expires carts until ctx ends.
func (e *Expirer) Run(ctx context.Context) {
	tick := time.NewTicker(e.every)
	defer tick.Stop()
	for {
		did, err := e.round(ctx)
		if err != nil && ctx.Err() == nil {
			e.logger.Debug("expiry put off", slog.Any("err", err))
		}
		if did && err == nil && ctx.Err() == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// askWait is how long a region may take to answer about some carts.
const askWait = 5 * time.Second

// round expires what it finds at one place; did says that it changed something.
func (e *Expirer) round(ctx context.Context) (did bool, err error) {
	carts, did, err := e.own.Due(ctx)
	if err != nil {
		return false, err
	}
	for _, p := range e.peers {
		if len(carts) == 0 {
			return did, nil
		}
		ok, err := e.ask(ctx, p, carts)
		if err != nil {
			return false, fmt.Errorf("ask %s about %d carts: %w", p.Name, len(carts), err)
		}
		var left []DueCart
		for i, may := range ok {
			if may {
				left = append(left, carts[i])
			}
		}
		carts = left
	}
	if len(carts) == 0 {
		return did, nil
	}
	return true, e.own.Expire(ctx, carts)
}

func (e *Expirer) ask(ctx context.Context, p PeerRegion, carts []DueCart) ([]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	ok, err := p.Transport.Expirable(ctx, e.hello(), carts)
	if err == nil && len(ok) != len(carts) {
		err = fmt.Errorf("%w: %d answers", ErrRefused, len(ok))
	}
	return ok, err
}
