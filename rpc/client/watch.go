package client

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"connectrpc.com/connect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
)

// Update is the cart after a change.
type Update struct {
	Cart   *cartv1.Cart
	Stale  bool   // it may lack what an earlier Update, or the session, has seen
	Region string // that sent it
	Resume string // for a later watch, to go on from here
}

// Watch returns the cart now and after each change, until ctx ends, the loop
// is left, or an error is final; that error comes last. A stream that ends is
// opened again, where calls go at that time, and goes on from the last Update:
// a cart that was shown is not shown again, and one that lacks what was shown
// is marked Stale. When calls move to another region, the watch follows.
//
// Updates become part of what the session has seen.
func (s *Session) Watch(ctx context.Context, opts ...Option) iter.Seq2[Update, error] {
	return func(yield func(Update, error) bool) {
		var o callOptions
		for _, set := range opts {
			set(&o)
		}
		w := watch{s: s, resume: o.resume, yield: yield}
		if w.resume != "" {
			if err := s.Observe(w.resume); err != nil {
				w.yield(Update{}, err)
				return
			}
		}
		own, cancel := s.c.withClosed(ctx)
		defer cancel()
		w.run(own)
		if !w.left && errors.Is(context.Cause(own), ErrClosed) {
			yield(Update{}, ErrClosed)
		}
	}
}

// watch is one loop over a Watch.
type watch struct {
	s      *Session
	resume string
	yield  func(Update, error) bool
	left   bool // the loop's body wants no more, or has the last error
	plain  bool // a region has refused a token of a newer form
}

// errElsewhere ends a stream for one in the region where calls go.
var errElsewhere = errors.New("calls go to another region")

func (w *watch) run(ctx context.Context) {
	c := w.s.c
	way := course{cfg: c.cfg}
	brief := 0 // streams in a row that did not last
	for {
		order, _ := c.order("")
		next := way.next(time.Now(), time.Time{}, order, jitter())
		if brief > 0 {
			longest := c.cfg.BackoffMin << min(brief, 16)
			next.pause = max(next.pause, time.Duration(jitter()*float64(min(longest, c.cfg.BackoffMax))))
		}
		if pause(ctx, next.pause) != nil {
			return
		}
		way.began()
		begun := time.Now()
		stood, err := w.stream(ctx, next.address)
		if w.left || ctx.Err() != nil {
			return
		}
		if brief++; time.Since(begun) > c.cfg.CallTimeout {
			brief = 0
		}
		if stood {
			way = course{cfg: c.cfg} // the region gets another chance before others do
		}
		if err == nil {
			continue
		}
		if err.Code == "INVALID_TOKEN" && !w.plain {
			if _, unread := decodeToken(w.resume); unread != nil {
				w.resume = "" // the whole cart comes
			}
			w.plain = true
			continue
		}
		v := judge(err, nil)
		if v.illness {
			c.failed(time.Now(), next.address, err.Code) // streams last: when it began says nothing
		}
		if v.again == nowhere {
			w.left = true
			w.yield(Update{}, err)
			return
		}
		if !stood {
			way.failed(time.Now(), next.address, v, err.RetryAfter)
		}
		tell(c.cfg.Events.Retried, Retried{
			Procedure: cartv1connect.CartServiceWatchCartProcedure, From: err.Region, Attempt: way.attempts + 1, Why: err,
		})
	}
}

// stream watches at one region until the stream ends; the error is nil when
// that was in order. stood is true when the region has sent something.
func (w *watch) stream(ctx context.Context, address string) (stood bool, _ *Error) {
	c := w.s.c
	ctx, cancel := context.WithCancelCause(ctx)
	var following sync.WaitGroup
	defer following.Wait()
	defer cancel(nil)
	following.Go(func() { c.follow(ctx, address, func() { cancel(errElsewhere) }) })
	// Opening waits for what the token names, as long as a whole call may.
	opening := time.AfterFunc(c.cfg.CallTimeout, func() { cancel(context.DeadlineExceeded) })
	defer opening.Stop()

	req := connect.NewRequest(&cartv1.WatchCartRequest{Resume: w.resume})
	seen := w.s.look()
	if w.plain {
		seen = seen.known()
	}
	if err := w.s.prepare(ctx, req.Header(), seen.send, read, callOptions{}); err != nil {
		return false, w.describe(&identityError{err}, address)
	}
	stream, err := c.service(address).streams.WatchCart(ctx, req)
	if err != nil {
		return false, w.describe(err, address)
	}
	defer stream.Close() //nolint:errcheck // it has ended, or cancel ends it
	region := stream.ResponseHeader().Get("Cart-Region")
	opening.Stop()
	for stream.Receive() {
		if !stood {
			stood = true
			c.succeeded(address)
		}
		m := stream.Msg()
		w.resume = m.GetResume()
		u := Update{Cart: m.GetCart(), Region: region, Resume: w.resume}
		u.Stale = w.s.shown(w.resume, m.GetCart().GetStale())
		if !w.yield(u, nil) {
			w.left = true
			return stood, nil
		}
	}
	if stream.Err() == nil || errors.Is(context.Cause(ctx), errElsewhere) {
		return stood, nil
	}
	return stood, w.describe(stream.Err(), address)
}

func (w *watch) describe(err error, address string) *Error {
	e := describe(err, time.Now())
	e.Region = w.s.c.label(address)
	return e
}
