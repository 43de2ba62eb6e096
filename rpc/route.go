package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/replication"
	"github.com/samecart/samecart/replication/riblt"
)

// PeerWay is one way to a peer region; a PeerClient is one.
type PeerWay interface {
	replication.Transport
	Fetch(ctx context.Context, cartIDs []string) ([]replication.WholeCart, error)
	Known(ctx context.Context, hello replication.Hello) (uint32, error)
	ForgottenBefore(ctx context.Context, hello replication.Hello) ([]int64, error)
}

// Relay is a way through another region.
type Relay struct {
	Region string
	Way    PeerWay // see PeerClient.Through
}

// Route reaches a peer region directly, or, while that fails, through
// another region that reaches it: see the Decisions of package replication. The
// far end is the same either way. It is a replication.Transport, safe for concurrent use.
type Route struct {
	cfg     RouteConfig
	relays  []Relay
	ways    []PeerWay // the direct one first
	changed func(via string)

	mu     sync.Mutex
	choice *choice
	via    string // as last told
	open   map[*routedStream]struct{}
}

// NewRoute returns a route; it starts nothing. changed, unless nil, is called
// with the region that calls go through from then on, "" for none; it must not
// block.
func NewRoute(direct PeerWay, relays []Relay, cfg RouteConfig, changed func(via string)) (*Route, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configure route: %w", err)
	}
	r := &Route{
		cfg: cfg, relays: relays, ways: []PeerWay{direct}, changed: changed,
		choice: newChoice(cfg, len(relays)), open: make(map[*routedStream]struct{}),
	}
	for _, relay := range relays {
		r.ways = append(r.ways, relay.Way)
	}
	return r, nil
}

var _ replication.Transport = (*Route)(nil)

// Via returns the region that calls go through now, "" when none.
func (r *Route) Via() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nameOf(r.choice.pick(time.Now()))
}

func (r *Route) nameOf(i int) string {
	if i == 0 {
		return ""
	}
	return r.relays[i-1].Region
}

// pick returns the way to take now.
func (r *Route) pick() (int, PeerWay) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := r.choice.pick(time.Now())
	return i, r.ways[i]
}

// unreached reports whether err says that a call did not reach the region, or
// its answer not us. What the region itself says is an answer; so is a call of
// a kind that it does not know, and what we cannot read or do not take.
func unreached(ctx context.Context, err error) bool {
	var c *connect.Error
	if !errors.As(err, &c) || connect.IsWireError(err) {
		return false
	}
	switch c.Code() {
	case connect.CodeUnimplemented, connect.CodeResourceExhausted:
		return false
	default:
		return !errors.Is(ctx.Err(), context.Canceled)
	}
}

// note takes in how a call went that began, or was last heard of, at since.
func (r *Route) note(i int, since time.Time, failed bool) {
	now := time.Now()
	r.mu.Lock()
	wasDown := r.choice.down
	if failed {
		r.choice.failed(now, since, i)
	} else {
		r.choice.answered(now, i)
	}
	picked := r.choice.pick(now)
	var leave []*routedStream
	why := errDirect
	back, lost := wasDown && !r.choice.down, failed && i != 0 && picked != i
	if lost {
		why = errRelay
	}
	for s := range r.open {
		if s.way != 0 && back || s.way == i && lost && s.isSilent(now) {
			leave = append(leave, s)
		}
	}
	via := r.nameOf(picked)
	told := via == r.via
	r.via = via
	r.mu.Unlock()
	for _, s := range leave {
		s.cancel(why) // the sender opens it again, on the way that is picked
	}
	if !told && r.changed != nil {
		r.changed(via)
	}
}

// Why a stream is to be opened again, over another way.
var (
	errDirect = errors.New("the direct way to the region is open again")
	errRelay  = errors.New("the region between has failed")
)

// routed makes one call over the way to take; when that fails and another is
// to be taken from now on, over that.
func routed[T any](ctx context.Context, r *Route, call func(PeerWay) (T, error)) (T, error) {
	r.probeOnce(ctx)
	for n := 1; ; n++ {
		i, to := r.pick()
		out, err := call(to)
		if errors.Is(ctx.Err(), context.Canceled) {
			return out, err
		}
		bad := unreached(ctx, err)
		r.note(i, time.Now(), bad)
		if next, _ := r.pick(); !bad || ctx.Err() != nil || next == i || n == len(r.ways) {
			return out, err
		}
	}
}

// probeOnce tries a direct way that is given up, for callers that open no
// stream: it does not keep them waiting.
func (r *Route) probeOnce(ctx context.Context) {
	r.mu.Lock()
	due := len(r.open) == 0 && r.choice.probe(time.Now())
	r.mu.Unlock()
	if due {
		go r.probe(context.WithoutCancel(ctx))
	}
}

// probe tries the direct way: the least call that its region's leaders answer.
func (r *Route) probe(ctx context.Context) {
	call, cancel := context.WithTimeout(ctx, r.cfg.ProbeTimeout)
	defer cancel()
	begin := time.Now()
	_, err := r.ways[0].Digests(call, 0, 1)
	if ctx.Err() != nil {
		return // nobody is interested any more
	}
	bad := unreached(call, err)
	if c, ok := r.ways[0].(interface{ CloseIdleConnections() }); bad && ok {
		// A connection that an outage has made wait long before it sends again
		// would fail the next tries too.
		c.CloseIdleConnections()
	}
	r.note(0, begin, bad)
}

// Push opens a stream over the way to take. One through a relay ends when the
// direct way is taken again, and when a call shows that the relay has failed while
// the stream is silent: it would itself tell only after long.
func (r *Route) Push(ctx context.Context, hello replication.Hello) (replication.PushStream, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	i, to := r.pick()
	now := time.Now()
	inner, err := to.Push(ctx, hello)
	if err != nil {
		if !errors.Is(ctx.Err(), context.Canceled) {
			r.note(i, now, unreached(ctx, err))
		}
		cancel(nil)
		return nil, r.named(i, err)
	}
	s := &routedStream{route: r, way: i, inner: inner, ctx: ctx, cancel: cancel, waits: now}
	r.mu.Lock()
	r.open[s] = struct{}{}
	down := r.choice.down
	r.mu.Unlock()
	if down {
		go s.probe()
	}
	return s, nil
}

// named says which region an error came through.
func (r *Route) named(i int, err error) error {
	if err == nil || i == 0 || errors.Is(err, io.EOF) {
		return err
	}
	return fmt.Errorf("through %s: %w", r.nameOf(i), err)
}

// Digests implements replication.Transport.
func (r *Route) Digests(ctx context.Context, lo, hi uint32) ([]replication.Digest, error) {
	return routed(ctx, r, func(w PeerWay) ([]replication.Digest, error) { return w.Digests(ctx, lo, hi) })
}

// Bucket implements replication.Transport.
func (r *Route) Bucket(ctx context.Context, slot uint32, after string, limit int) (carts []replication.CartDigest, more bool, err error) {
	carts, err = routed(ctx, r, func(w PeerWay) (page []replication.CartDigest, err error) {
		page, more, err = w.Bucket(ctx, slot, after, limit)
		return page, err
	})
	return carts, more, err
}

// Newer implements replication.Transport.
func (r *Route) Newer(ctx context.Context, carts []replication.Seen) ([][]byte, error) {
	return routed(ctx, r, func(w PeerWay) ([][]byte, error) { return w.Newer(ctx, carts) })
}

// Repairing implements replication.Transport.
func (r *Route) Repairing(ctx context.Context, hello replication.Hello) (bool, error) {
	return routed(ctx, r, func(w PeerWay) (bool, error) { return w.Repairing(ctx, hello) })
}

// Join implements replication.Transport.
func (r *Route) Join(ctx context.Context, carts []replication.WholeCart, hello replication.Hello, cursor uint64) error {
	_, err := routed(ctx, r, func(w PeerWay) (struct{}, error) { return struct{}{}, w.Join(ctx, carts, hello, cursor) })
	return err
}

// Fetch returns the region's whole carts: see PeerClient.Fetch.
func (r *Route) Fetch(ctx context.Context, cartIDs []string) ([]replication.WholeCart, error) {
	return routed(ctx, r, func(w PeerWay) ([]replication.WholeCart, error) { return w.Fetch(ctx, cartIDs) })
}

// Known asks the region which incarnation it knows: see PeerClient.Known.
func (r *Route) Known(ctx context.Context, hello replication.Hello) (uint32, error) {
	return routed(ctx, r, func(w PeerWay) (uint32, error) { return w.Known(ctx, hello) })
}

// Sketch implements replication.Transport.
func (r *Route) Sketch(ctx context.Context, key riblt.Key, slots []uint32) (replication.SketchStream, error) {
	i, to := r.pick()
	s, err := to.Sketch(ctx, key, slots)
	if err != nil {
		r.note(i, time.Now(), unreached(ctx, err))
		return nil, r.named(i, err)
	}
	return &routedSketch{SketchStream: s, route: r, way: i, ctx: ctx}, nil
}

// routedSketch notes how a sketch does.
type routedSketch struct {
	replication.SketchStream
	route *Route
	way   int
	ctx   context.Context
}

// Next implements replication.SketchStream.
func (s *routedSketch) Next(n int) ([]byte, error) {
	out, err := s.SketchStream.Next(n)
	if !errors.Is(s.ctx.Err(), context.Canceled) {
		s.route.note(s.way, time.Now(), unreached(s.ctx, err))
	}
	return out, s.route.named(s.way, err)
}

// routedStream notes how a stream does.
type routedStream struct {
	route  *Route
	way    int
	inner  replication.PushStream
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu    sync.Mutex
	waits time.Time // since when an answer is due; zero: none is
	sent  uint64    // up to which rows were sent
	done  bool      // how it ended is noted
}

// isSilent reports whether an answer is due for longer than one takes.
func (s *routedStream) isSilent(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.waits.IsZero() && now.Sub(s.waits) >= s.route.cfg.FailAfter/4
}

// Send implements replication.PushStream.
func (s *routedStream) Send(iv crdt.Interval) error {
	s.mu.Lock()
	s.sent = max(s.sent, iv.Hi)
	if s.waits.IsZero() {
		s.waits = time.Now()
	}
	s.mu.Unlock()
	err := s.inner.Send(iv)
	if err != nil && !errors.Is(err, io.EOF) && s.ctx.Err() == nil { // after EOF, Recv says why
		s.ended(unreached(s.ctx, err))
	}
	return s.route.named(s.way, err)
}

// SentBytes is what the last Send took.
func (s *routedStream) SentBytes() int {
	if c, ok := s.inner.(interface{ SentBytes() int }); ok {
		return c.SentBytes()
	}
	return 0
}

// Recv implements replication.PushStream.
func (s *routedStream) Recv() (replication.Ack, error) {
	a, err := s.inner.Recv()
	if err != nil {
		if why := context.Cause(s.ctx); errors.Is(why, errDirect) || errors.Is(why, errRelay) {
			return replication.Ack{}, why
		}
		if !errors.Is(s.ctx.Err(), context.Canceled) {
			s.ended(unreached(s.ctx, err))
		}
		return replication.Ack{}, s.route.named(s.way, err)
	}
	s.mu.Lock()
	s.waits = time.Time{}
	if a.Cursor < s.sent {
		s.waits = time.Now()
	}
	s.mu.Unlock()
	s.route.note(s.way, time.Now(), false)
	return a, nil
}

// ended notes once how the stream ended.
func (s *routedStream) ended(failed bool) {
	s.mu.Lock()
	first, since := !s.done, s.waits
	s.done = true
	s.mu.Unlock()
	if since.IsZero() {
		since = time.Now()
	}
	if first {
		s.route.note(s.way, since, failed)
	}
}

// Close implements replication.PushStream. A stream that its user gives up
// for its silence has failed.
func (s *routedStream) Close() error {
	s.mu.Lock()
	silent := !s.waits.IsZero() && time.Since(s.waits) >= s.route.cfg.FailAfter/2
	s.mu.Unlock()
	if silent {
		s.ended(true)
	}
	s.cancel(nil)
	err := s.inner.Close()
	s.route.mu.Lock()
	defer s.route.mu.Unlock()
	delete(s.route.open, s)
	return err
}

// probe tries the direct way now and then until it is taken again or the
// stream ends. Of all streams one does it at a time.
func (s *routedStream) probe() {
	r := s.route
	tick := time.NewTicker(r.cfg.ProbeEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		}
		r.mu.Lock()
		down, due := r.choice.down, r.choice.probe(time.Now())
		r.mu.Unlock()
		if !down {
			return
		}
		if due {
			r.probe(s.ctx)
		}
	}
}

// Collect implements replication.Transport.
func (r *Route) Collect(ctx context.Context, hello replication.Hello, carts []replication.CartDigest, commit bool) ([]bool, error) {
	return routed(ctx, r, func(w PeerWay) ([]bool, error) { return w.Collect(ctx, hello, carts, commit) })
}

// Expirable implements replication.Transport.
func (r *Route) Expirable(ctx context.Context, hello replication.Hello, carts []replication.DueCart) ([]bool, error) {
	return routed(ctx, r, func(w PeerWay) ([]bool, error) { return w.Expirable(ctx, hello, carts) })
}

// ForgottenBefore returns what was collected there: see PeerClient.ForgottenBefore.
func (r *Route) ForgottenBefore(ctx context.Context, hello replication.Hello) ([]int64, error) {
	return routed(ctx, r, func(w PeerWay) ([]int64, error) { return w.ForgottenBefore(ctx, hello) })
}
