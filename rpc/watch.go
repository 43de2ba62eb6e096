package rpc

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/rpc/causal"
)

// watcher is where one watcher's answers go.
type watcher interface {
	// send sends a frame; cart is nil when it is sent as everybody gets it, else
	// it is the page as this one watcher must see it.
	send(f *frame, cart *cartv1.Cart) error
	// alive is called when nothing was sent for a while.
	alive() error
}

// watch sends the cart now, after each change, and when a product in it changes,
// until ctx ends or the node drains; then it returns nil. resume is the token of
// the last page that the caller has seen: one that is still the same is not sent
// again, and a cart that lacks what was seen is marked stale.
func (s *service) watch(ctx context.Context, c call, resume string, to watcher) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(s.draining, cancel)
	defer stop()

	var seen region.Digest
	if resume != "" {
		t, err := causal.DecodeToken(resume)
		if err != nil || !t.Resume {
			return fault(InvalidToken, "resume token %.20q %v: send back the last one received, or none", resume, causal.ErrBadToken)
		}
		if t.CartID == c.cartID {
			seen = t.Digest
			c.context, c.hasToken = c.context.Join(t.Context), true
		}
	}
	feed := s.feeds.join(c.cartID)
	defer feed.leave()
	f, err := s.firstFrame(ctx, c, feed)
	if err != nil {
		return unlessEnded(ctx, err)
	}
	beat := time.NewTimer(s.cfg.Heartbeat)
	defer beat.Stop()
	for {
		if err := s.show(c, f, seen, to); err != nil {
			return err
		}
		beat.Reset(s.cfg.Heartbeat)
		seen = f.sum
	wait:
		for {
			select {
			case <-f.next:
				break wait
			case <-beat.C:
				if err := to.alive(); err != nil {
					return err
				}
				beat.Reset(s.cfg.Heartbeat)
			case <-ctx.Done():
				return nil
			}
		}
		if f, err = feed.latest(); err != nil {
			return unlessEnded(ctx, err)
		}
	}
}

// firstFrame reads the caller's cart, in a bounded time, and returns a frame that
// is not older.
func (s *service) firstFrame(ctx context.Context, c call, feed *feed) (*frame, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	defer cancel()
	v, err := s.read(ctx, c)
	if err != nil {
		return nil, err
	}
	if !cartOf(v).Context.Covers(c.context) {
		v.Stale = false // of what this caller's token names, which is no other watcher's matter
	}
	return feed.offer(ctx, v)
}

// show sends one frame, unless the watcher has seen it.
func (s *service) show(c call, f *frame, seen region.Digest, to watcher) error {
	// A region that this watcher came to may still lack what it has seen.
	if !f.context.Covers(c.context) {
		cart, err := f.cart()
		if err != nil {
			return err
		}
		cart.Stale, cart.Missing = true, s.missing(c.context, f.context)
		return to.send(f, cart)
	}
	if f.sum == seen {
		return to.alive() // it learns at once that the stream stands
	}
	return to.send(f, nil)
}

// connKey finds a connection in the contexts of its requests.
type connKey struct{}

// streamBuffer is how many bytes may wait in the kernel for a watcher.
const streamBuffer = 64 << 10

// narrow bounds what the kernel keeps for a watcher: it would take megabytes for
// one that is slow, which would be shown what is long over before the newest. An
// HTTP/2 connection has other calls' answers too, and windows of its own.
func narrow(r *http.Request) {
	c, _ := r.Context().Value(connKey{}).(net.Conn)
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = t.NetConn()
	}
	if tcp, ok := c.(*net.TCPConn); ok && r.ProtoMajor == 1 {
		tcp.SetWriteBuffer(streamBuffer) //nolint:errcheck // it works on with more
	}
}

// patient gives each write of a stream its deadline.
type patient struct {
	ctl      *http.ResponseController
	patience time.Duration
}

// write calls do, whose write has a deadline: a watcher that takes nothing must
// not hold its stream for ever.
func (p patient) write(do func() error) error {
	began := time.Now()
	// A writer that knows no deadlines is a test's.
	p.ctl.SetWriteDeadline(began.Add(p.patience)) //nolint:errcheck // see above
	if err := do(); err != nil {
		e := &Error{Code: Canceled, Message: "the caller left the stream", cause: err}
		if time.Since(began) >= p.patience {
			e.Code, e.Message = Overloaded, fmt.Sprintf("the watcher took nothing for %v: watch again, and resume", p.patience)
		}
		return e
	}
	// Over HTTP/2 a deadline ends a stream that is silent as well.
	p.ctl.SetWriteDeadline(time.Time{}) //nolint:errcheck // see above
	return nil
}

// eventStream is a watcher of server-sent events. An event's id is its resume
// token; it has no name, so that a browser's onmessage gets it.
//
// Source: WHATWG HTML, "Server-sent events".
type eventStream struct {
	patient

	w      http.ResponseWriter
	begun  bool
	broken bool
}

func (e *eventStream) emit(event []byte) error {
	if !e.begun {
		e.w.Header().Set("Content-Type", "text/event-stream")
		e.w.Header().Set("X-Accel-Buffering", "no") // else nginx holds events back
		e.begun = true
		event = append([]byte("retry: 1000\n\n"), event...)
	}
	err := e.write(func() error {
		if _, err := e.w.Write(event); err != nil {
			return err
		}
		return e.ctl.Flush()
	})
	e.broken = e.broken || err != nil
	return err
}

func (e *eventStream) send(f *frame, cart *cartv1.Cart) error {
	event, err := []byte(nil), error(nil)
	if cart != nil {
		event, err = eventOf(cart, f.resume)
	} else {
		event, err = f.event()
	}
	if err != nil {
		return err
	}
	return e.emit(event)
}

func (e *eventStream) alive() error { return e.emit([]byte(": still here\n\n")) }

// messageStream is a watcher over Connect, gRPC or gRPC-Web.
type messageStream struct {
	patient

	stream interface {
		Send(*cartv1.WatchCartResponse) error
	}
	binary bool
}

func (m *messageStream) send(f *frame, cart *cartv1.Cart) error {
	if cart == nil {
		cart = new(cartv1.Cart)
		if m.binary { // its bytes are copied as they are; see encodedCart
			cart.ProtoReflect().SetUnknown(f.encoded)
		} else {
			var err error
			if cart, err = f.cart(); err != nil {
				return err
			}
		}
	}
	return m.write(func() error { return m.stream.Send(&cartv1.WatchCartResponse{Cart: cart, Resume: f.resume}) })
}

// alive sends the headers alone, if they were not sent yet; later HTTP/2 has
// signs of life of its own.
func (m *messageStream) alive() error {
	return m.write(func() error { return m.stream.Send(nil) })
}

// unlessEnded drops an error that only says that the stream is over.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
