package rpc

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/replication"
	"github.com/samecart/samecart/replication/riblt"
)

// wayFake is a way that can be cut, which it tells at once, or swallow all
// that is sent, which it does not.
type wayFake struct {
	mu             sync.Mutex
	isCut, swallow bool
	isLate         bool // calls are not answered, streams are
	calls, pushes  int
	streams        []*streamFake
	answer         error // of the region itself
}

var errCut = connect.NewError(connect.CodeUnavailable, errors.New("connection refused"))

func (w *wayFake) set(cut, swallow bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isCut, w.swallow = cut, swallow
	if cut {
		for _, s := range w.streams {
			s.end(errCut)
		}
		w.streams = nil
	}
}

func (w *wayFake) late(is bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isLate = is
}

// made returns how many calls and streams went this way.
func (w *wayFake) made() (calls, pushes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls, w.pushes
}

func (w *wayFake) call(ctx context.Context) error {
	w.mu.Lock()
	w.calls++
	cut, swallow, answer := w.isCut, w.swallow || w.isLate, w.answer
	w.mu.Unlock()
	if cut {
		return errCut
	}
	if swallow {
		<-ctx.Done()
		return connect.NewError(connect.CodeDeadlineExceeded, ctx.Err())
	}
	return answer
}

func (w *wayFake) Digests(ctx context.Context, _, _ uint32) ([]replication.Digest, error) {
	return nil, w.call(ctx)
}

func (w *wayFake) Bucket(ctx context.Context, _ uint32, _ string, _ int) ([]replication.CartDigest, bool, error) {
	return nil, true, w.call(ctx)
}

func (w *wayFake) Sketch(ctx context.Context, _ riblt.Key, _ []uint32) (replication.SketchStream, error) {
	return sketchFake{ctx, w}, nil
}

type sketchFake struct {
	ctx context.Context
	w   *wayFake
}

func (s sketchFake) Next(int) ([]byte, error) { return nil, s.w.call(s.ctx) }
func (s sketchFake) Close() error             { return nil }

func (w *wayFake) Newer(ctx context.Context, _ []replication.Seen) ([][]byte, error) {
	return nil, w.call(ctx)
}

func (w *wayFake) Repairing(ctx context.Context, _ replication.Hello) (bool, error) {
	return true, w.call(ctx)
}

func (w *wayFake) Collect(ctx context.Context, _ replication.Hello, _ []replication.CartDigest, _ bool) ([]bool, error) {
	return nil, w.call(ctx)
}

func (w *wayFake) Expirable(ctx context.Context, _ replication.Hello, _ []replication.DueCart) ([]bool, error) {
	return nil, w.call(ctx)
}

func (w *wayFake) ForgottenBefore(ctx context.Context, _ replication.Hello) ([]int64, error) {
	return nil, w.call(ctx)
}

func (w *wayFake) Join(ctx context.Context, _ []replication.WholeCart, _ replication.Hello, _ uint64) error {
	return w.call(ctx)
}

func (w *wayFake) Fetch(ctx context.Context, _ []string) ([]replication.WholeCart, error) {
	return nil, w.call(ctx)
}

func (w *wayFake) Known(ctx context.Context, _ replication.Hello) (uint32, error) {
	return 7, w.call(ctx)
}

func (w *wayFake) Push(ctx context.Context, _ replication.Hello) (replication.PushStream, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pushes++
	if w.isCut {
		return nil, errCut
	}
	ctx, cancel := context.WithCancelCause(ctx)
	s := &streamFake{w: w, ctx: ctx, end: cancel, acks: make(chan replication.Ack, 100)}
	if !w.swallow {
		s.acks <- replication.Ack{}
	}
	w.streams = append(w.streams, s)
	return s, nil
}

type streamFake struct {
	w    *wayFake
	ctx  context.Context
	end  context.CancelCauseFunc
	acks chan replication.Ack
}

func (s *streamFake) Send(iv crdt.Interval) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if !s.w.swallow {
		s.acks <- replication.Ack{Cursor: iv.Hi}
	}
	return nil
}

func (s *streamFake) Recv() (replication.Ack, error) {
	select {
	case a := <-s.acks:
		return a, nil
	case <-s.ctx.Done():
		if cause := context.Cause(s.ctx); !errors.Is(cause, context.Canceled) {
			return replication.Ack{}, cause
		}
		return replication.Ack{}, connect.NewError(connect.CodeCanceled, s.ctx.Err())
	}
}

func (s *streamFake) Close() error { s.end(context.Canceled); return nil }

// sender keeps a stream open and sends a row every 20 ms, as a Gossiper
// does: it gives a silent stream up, and waits between two tries.
type sender struct {
	route *Route
	mu    sync.Mutex
	acked []time.Time
	err   error
}

func (s *sender) run(ctx context.Context) {
	for ctx.Err() == nil {
		s.stream(ctx)
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (s *sender) stream(ctx context.Context) {
	stream, err := s.route.Push(ctx, replication.Hello{})
	if err != nil {
		return
	}
	acks := make(chan error)
	ctx, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			_, err := stream.Recv()
			s.mu.Lock()
			if s.err = err; err == nil {
				s.acked = append(s.acked, time.Now())
			}
			s.mu.Unlock()
			select {
			case acks <- err:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	})
	defer reading.Wait()
	defer func() { _ = stream.Close() }()
	defer cancel()
	for hi := uint64(1); ; hi++ {
		select {
		case err := <-acks:
			if err != nil {
				return
			}
		case <-time.After(1500 * time.Millisecond):
			return
		case <-ctx.Done():
			return
		}
		time.Sleep(20 * time.Millisecond)
		_ = stream.Send(crdt.Interval{Lo: hi - 1, Hi: hi})
	}
}

// longest is the longest time without an ack since then.
func (s *sender) longest(since time.Time) (gap time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := since
	for _, at := range append(slices.Clone(s.acked), time.Now()) {
		if at.After(last) {
			gap, last = max(gap, at.Sub(last)), at
		}
	}
	return gap
}

type routeWorld struct {
	direct, relay *wayFake
	route         *Route
	changes       []string
	*sender
}

// inRoute runs a test with a route of one relay, in virtual time.
func inRoute(t *testing.T, test func(t *testing.T, w *routeWorld)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &routeWorld{direct: &wayFake{}, relay: &wayFake{}}
		var mu sync.Mutex
		r, err := NewRoute(w.direct, []Relay{{"ap", w.relay}}, DefaultRouteConfig(), func(via string) {
			mu.Lock()
			defer mu.Unlock()
			w.changes = append(w.changes, via)
		})
		if err != nil {
			t.Fatal(err)
		}
		w.route, w.sender = r, &sender{route: r}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { w.sender.run(ctx) })
		time.Sleep(5 * time.Second)
		test(t, w)
		cancel()
		running.Wait()
		if len(r.open) != 0 {
			t.Errorf("%d streams are still known", len(r.open))
		}
		time.Sleep(10 * time.Second) // every goroutine ends, or synctest fails
	})
}

func TestRouteGoesAroundACut(t *testing.T) {
	inRoute(t, func(t *testing.T, w *routeWorld) {
		cut := time.Now()
		w.direct.set(true, false)
		time.Sleep(20 * time.Second)
		if gap := w.longest(cut); gap > 1500*time.Millisecond {
			t.Errorf("no ack for %v", gap)
		}
		if via := w.route.Via(); via != "ap" {
			t.Errorf("via %q", via)
		}
		// Calls go the same way, all of them.
		before, _ := w.direct.made()
		hello := replication.Hello{}
		ctx := t.Context()
		_, err := w.route.Fetch(ctx, nil)
		_, more, err2 := w.route.Bucket(ctx, 0, "", 1)
		_, err3 := w.route.Newer(ctx, nil)
		busy, err4 := w.route.Repairing(ctx, hello)
		known, err5 := w.route.Known(ctx, hello)
		sketch, err6 := w.route.Sketch(ctx, riblt.Key{}, nil)
		_, err7 := sketch.Next(1)
		if err := errors.Join(err, err2, err3, err4, err5, err6, err7, w.route.Join(ctx, nil, hello, 0), sketch.Close()); err != nil || !more || !busy || known != 7 {
			t.Errorf("calls through the relay: %v, %v %v %d", err, more, busy, known)
		}
		direct, _ := w.direct.made()
		if relayed, _ := w.relay.made(); direct != before || relayed != 7 {
			t.Errorf("%d calls went the direct way, %d through the relay", direct-before, relayed)
		}

		healed := time.Now()
		w.direct.set(false, false)
		time.Sleep(3 * time.Second)
		if via := w.route.Via(); via != "" {
			t.Errorf("via %q after the heal", via)
		}
		time.Sleep(10 * time.Second)
		if gap := w.longest(healed); gap > 300*time.Millisecond {
			t.Errorf("no ack for %v while going back", gap)
		}
		w.relay.mu.Lock()
		defer w.relay.mu.Unlock()
		if n := len(w.relay.streams); n == 0 || w.relay.streams[n-1].ctx.Err() == nil {
			t.Errorf("of %d streams through the relay the last is still open", n)
		}
		if !slices.Equal(w.changes, []string{"ap", ""}) {
			t.Errorf("told of %q", w.changes)
		}
	})
}

func TestRouteGoesAroundABlackHole(t *testing.T) {
	inRoute(t, func(t *testing.T, w *routeWorld) {
		cut := time.Now()
		w.direct.set(false, true)
		time.Sleep(30 * time.Second)
		if gap := w.longest(cut); gap > 2*time.Second {
			t.Errorf("no ack for %v", gap)
		}
		w.direct.set(false, false)
		time.Sleep(6 * time.Second) // the last try may have begun just before
		if via := w.route.Via(); via != "" {
			t.Errorf("via %q after the heal", via)
		}
	})
}

// A silent stream leaves a relay as soon as a call has failed there.
func TestRouteLeavesARelayThatFailed(t *testing.T) {
	inRoute(t, func(t *testing.T, w *routeWorld) {
		w.direct.set(true, false)
		time.Sleep(5 * time.Second)
		if via := w.route.Via(); via != "ap" {
			t.Fatalf("via %q", via)
		}
		w.direct.set(false, false)
		w.relay.set(false, true)
		lost := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
		defer cancel()
		if _, err := w.route.Fetch(ctx, nil); err == nil {
			t.Fatal("a call came through a relay that has failed")
		}
		time.Sleep(5 * time.Second)
		if gap := w.longest(lost); gap > 800*time.Millisecond {
			t.Errorf("no ack for %v", gap)
		}
	})
}

// One that is answered stays, though a call to the region came too late.
func TestRouteStaysWithARelayThatAnswers(t *testing.T) {
	inRoute(t, func(t *testing.T, w *routeWorld) {
		w.direct.set(true, false)
		time.Sleep(5 * time.Second)
		w.relay.mu.Lock()
		streams := len(w.relay.streams)
		w.relay.mu.Unlock()
		w.relay.late(true)
		ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
		defer cancel()
		if _, err := w.route.Fetch(ctx, nil); err == nil {
			t.Fatal("a late call came through")
		}
		w.relay.late(false)
		time.Sleep(5 * time.Second)
		w.relay.mu.Lock()
		defer w.relay.mu.Unlock()
		if n := len(w.relay.streams); n != streams {
			t.Errorf("%d streams were opened anew", n-streams)
		}
	})
}

// A region that says no is reached all the same.
func TestRouteStaysWithARegionThatRefuses(t *testing.T) {
	inRoute(t, func(t *testing.T, w *routeWorld) {
		for _, answer := range []error{
			connect.NewWireError(connect.CodeUnavailable, errors.New("no leader")),
			connect.NewWireError(connect.CodePermissionDenied, errors.New("who are you")),
			connect.NewError(connect.CodeUnimplemented, errors.New("404")),
			errors.New("digests of 3 bytes are no digests"),
		} {
			w.direct.mu.Lock()
			w.direct.answer = answer
			w.direct.mu.Unlock()
			for range 20 {
				if _, err := w.route.Digests(t.Context(), 0, 4); !errors.Is(err, answer) {
					t.Errorf("got %v, want %v", err, answer)
				}
				time.Sleep(200 * time.Millisecond)
			}
		}
		if calls, pushes := w.relay.made(); calls+pushes > 0 {
			t.Errorf("%d calls and %d streams went through the relay", calls, pushes)
		}
	})
}

// With no way at all both are tried, neither often; the first that opens is
// taken.
func TestRouteWithNoWay(t *testing.T) {
	inRoute(t, func(t *testing.T, w *routeWorld) {
		w.direct.set(true, false)
		w.relay.set(true, false)
		time.Sleep(30 * time.Second)
		_, direct := w.direct.made()
		if _, relayed := w.relay.made(); direct+relayed > 155 || direct < 20 || relayed < 20 {
			t.Errorf("tried %d times directly and %d through the relay in 30 s", direct, relayed)
		}
		healed := time.Now()
		w.relay.set(false, false)
		time.Sleep(5 * time.Second)
		if gap := w.longest(healed); gap > 1500*time.Millisecond {
			t.Errorf("no ack for %v", gap)
		}
	})
}

// Callers that open no stream come back too.
func TestRouteOfCallsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		direct, relay := &wayFake{}, &wayFake{}
		r, err := NewRoute(direct, []Relay{{"ap", relay}}, DefaultRouteConfig(), nil)
		if err != nil {
			t.Fatal(err)
		}
		fetch := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			_, err := r.Fetch(ctx, nil)
			return err
		}
		direct.set(false, true)
		begin := time.Now()
		for fetch() != nil {
			time.Sleep(100 * time.Millisecond)
		}
		if d := time.Since(begin); d > 2*time.Second {
			t.Errorf("fetches fail for %v", d)
		}
		direct.set(false, false)
		for range 50 {
			time.Sleep(200 * time.Millisecond)
			if err := fetch(); err != nil {
				t.Fatal(err)
			}
		}
		if r.Via() != "" {
			t.Error("fetches still go through the relay")
		}
		time.Sleep(10 * time.Second)
	})
}
