package rpc

import (
	"context"
	"errors"
	"fmt"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/rpc/causal"
)

// watch sends the cart now and after each change, until ctx ends or the node
// drains; then it returns nil. resume is the token of the last cart that the
// caller has seen: a cart that is still the same is not sent again, and one
// that lacks what was seen is marked stale.
// alive is called when nothing was sent for a while.
func (s *service) watch(ctx context.Context, c call, resume string, send func(cart *cartv1.Cart, resume string) error, alive func() error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(s.draining, cancel)
	defer stop()

	var seen region.Digest
	var resumed bool
	if resume != "" {
		t, err := causal.DecodeToken(resume)
		if err != nil || !t.Resume {
			return fault(InvalidToken, "resume token %.20q %v: send back the last one received, or none", resume, causal.ErrBadToken)
		}
		if t.CartID == c.cartID {
			seen, resumed = t.Digest, true
			c.context, c.hasToken = c.context.Join(t.Context), true
		}
	}
	first, done := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	v, err := s.read(first, c)
	done()
	if err != nil {
		return unlessEnded(ctx, err)
	}
	for {
		if cartOf(v).IsErased() {
			return errErased()
		}
		// A region that this watcher came to may still lack what it has seen.
		v.Stale = v.Stale || !cartOf(v).Context.Covers(c.context)
		if resumed && v.Digest == seen {
			if err := alive(); err != nil { // it learns at once that the stream stands
				return gone(err)
			}
		} else {
			next := causal.Token{CartID: c.cartID, Context: cartOf(v).Context, Digest: v.Digest, Resume: true}.Encode()
			cart := s.render(ctx, v)
			_, cart.Missing = s.metaFor(c, v)
			if err := send(cart, next); err != nil {
				return gone(err)
			}
		}
		seen, resumed = v.Digest, true
		if v, err = s.await(ctx, c.cartID, seen, alive); err != nil {
			return unlessEnded(ctx, err)
		}
	}
}

// await returns the cart when it is no longer the one seen.
func (s *service) await(ctx context.Context, cartID string, seen region.Digest, alive func() error) (region.View, error) {
	for {
		beat, cancel := context.WithTimeout(ctx, s.cfg.Heartbeat)
		v, err := s.region.Wait(beat, cartID, seen)
		cancel()
		switch {
		case err == nil:
			return v, nil
		case ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded):
			return v, fmt.Errorf("wait for a change: %w", err)
		}
		if err := alive(); err != nil {
			return v, gone(err)
		}
	}
}

// gone is the end of a stream whose caller takes nothing any more.
func gone(err error) error {
	return &Error{Code: Canceled, Message: "the caller left the stream", cause: err}
}

// unlessEnded drops an error that only says that the stream is over.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
