package client

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"
)

// call is one logical call, whatever its messages are.
type call[T any] struct {
	procedure string
	hedged    bool
	detour    string
	send      func(ctx context.Context, address string) (*connect.Response[T], error)
	stale     func(*connect.Response[T]) bool
}

// result is how a call ended well.
type result[T any] struct {
	res      *connect.Response[T]
	address  string
	attempts int
	hedged   bool // the hedge's answer
	moved    bool // a region failed before
}

// attempt is how one request ended.
type attempt[T any] struct {
	address string
	res     *connect.Response[T]
	err     *Error
	verdict verdict
}

// run makes attempts until one is answered, or none is left to make.
func run[T any](ctx context.Context, c *Client, k call[T]) (result[T], *Error) {
	done, err := c.begin()
	if err != nil {
		return result[T]{}, &Error{Code: codeClosed, Message: err.Error(), cause: err}
	}
	defer done()
	ctx, stop := c.withClosed(ctx)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, c.cfg.CallTimeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	c.called()

	way := course{cfg: c.cfg, attemptsMax: c.cfg.AttemptsMax}
	order, fit := c.order(k.detour)
	next := way.next(time.Now(), deadline, order, 0)
	if next.stop {
		return result[T]{}, ended(ctx, &Error{Code: codeSilent, Message: "the call's deadline has passed", cause: context.DeadlineExceeded}, way)
	}
	for {
		way.began()
		second := ""
		if k.hedged && fit > 1 && order[0] == next.address {
			second = order[1]
		}
		a, hedge := race(ctx, c, k, next, second)
		if a.err == nil {
			return result[T]{res: a.res, address: a.address, attempts: way.attempts, hedged: hedge != nil && a.address == second, moved: len(way.asked) > 0}, nil
		}
		now := time.Now()
		if hedge != nil && hedge.err != nil {
			way.failed(now, hedge.address, hedge.verdict, hedge.err.RetryAfter)
		}
		way.failed(now, a.address, a.verdict, a.err.RetryAfter)
		if ctx.Err() != nil {
			return result[T]{}, ended(ctx, a.err, way)
		}
		order, fit = c.order(k.detour)
		next = way.next(now, deadline, order, jitter())
		if next.stop {
			return result[T]{}, ended(ctx, a.err, way)
		}
		if !way.free() && !c.spend(k.procedure, false) {
			a.err.Exhausted = true
			return result[T]{}, ended(ctx, a.err, way)
		}
		tell(c.cfg.Events.Retried, Retried{
			Procedure: k.procedure, From: c.label(a.address), To: c.label(next.address),
			Attempt: way.attempts + 1, Pause: next.pause, Why: a.err,
		})
		if pause(ctx, next.pause) != nil {
			return result[T]{}, ended(ctx, a.err, way)
		}
	}
}

// ended completes the error that a call ends with.
func ended(ctx context.Context, e *Error, way course) *Error {
	e.Attempts, e.Unknown = way.attempts, way.unknown
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, ErrClosed):
		e.cause = ErrClosed
	case cause != nil && e.cause != nil && !errors.Is(e.cause, cause):
		e.cause = errors.Join(cause, e.cause)
	}
	return e
}

// race makes one attempt and, when second is not "" and the first takes
// longer than reads do, the same one at a second region. An answer calls the
// other attempt off, unless it is stale: then the other one's may be better.
// hedge is the second attempt, once it was sent and has ended.
func race[T any](ctx context.Context, c *Client, k call[T], at step, second string) (first attempt[T], hedge *attempt[T]) {
	after, may := c.hedgeAfter(at.address)
	if second == "" || !may || after >= at.timeout {
		return try(ctx, c, k, at.address, at.timeout), nil
	}
	firstCtx, callFirstOff := context.WithCancel(ctx)
	defer callFirstOff()
	hedgeCtx, callHedgeOff := context.WithCancel(ctx)
	defer callHedgeOff()
	good := func(a attempt[T]) bool { return a.err == nil && !k.stale(a.res) }
	answered := make(chan *attempt[T], 1)
	begun := time.Now()
	c.work.Add(1) // while run holds one: never from zero
	timer := time.AfterFunc(after, func() {
		defer c.work.Done()
		if hedgeCtx.Err() != nil || !c.spend(k.procedure, true) {
			answered <- nil
			return
		}
		event := Hedged{Procedure: k.procedure, From: c.label(at.address), To: c.label(second), After: after}
		tell(c.cfg.Events.Hedged, event)
		a := try(hedgeCtx, c, k, second, at.timeout)
		if good(a) {
			callFirstOff()
		}
		answered <- &a
	})
	first = try(firstCtx, c, k, at.address, at.timeout)
	if timer.Stop() {
		c.work.Done()
		return first, nil
	}
	if good(first) {
		return first, nil
	}
	hedge = <-answered
	switch {
	case hedge == nil:
		return first, nil
	case good(*hedge), first.err != nil && hedge.err == nil:
		if firstCtx.Err() != nil && ctx.Err() == nil {
			c.read(at.address, time.Since(begun))
		}
		tell(c.cfg.Events.Won, Hedged{Procedure: k.procedure, From: c.label(at.address), To: c.label(second), After: after})
		return *hedge, &first
	}
	return first, hedge
}

// try makes one request and tells the core what became of it.
func try[T any](ctx context.Context, c *Client, k call[T], address string, timeout time.Duration) attempt[T] {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	begun := time.Now()
	res, err := k.send(limited, address)
	took := time.Since(begun)
	a := attempt[T]{address: address, res: res}
	if err == nil {
		c.succeeded(address)
		if k.hedged {
			c.read(address, took)
		}
		return a
	}
	a.err = describe(err, time.Now())
	a.err.Region = c.label(address)
	if ctx.Err() != nil { // the caller left, or the other attempt won
		a.verdict = verdict{again: nowhere, taken: perhaps}
		return a
	}
	a.verdict = judge(a.err, limited.Err())
	switch {
	case a.verdict.illness:
		c.failed(begun, address, a.err.Code)
	case a.err.cause == nil:
		c.succeeded(address)
	}
	return a
}
