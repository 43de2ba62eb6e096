package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/samecart/samecart/rpc"
)

// faults are the cuts and delays of links between regions that drills ask
// for. All connections between regions are opened through it.
type faults struct {
	mu    sync.Mutex // guards what follows
	links map[pair]*linkFault
}

// pair is two regions in the order of their names: faults hold both ways.
type pair struct{ a, b string }

func pairOf(a, b string) pair { return pair{min(a, b), max(a, b)} }

type linkFault struct {
	cut   bool
	delay time.Duration
	// ends are called, once each, when the fault changes: they close what is
	// open over the link.
	ends map[*func()]struct{}
}

func newFaults() *faults { return &faults{links: make(map[pair]*linkFault)} }

// link is called with mu held.
func (f *faults) link(p pair) *linkFault {
	l := f.links[p]
	if l == nil {
		l = &linkFault{ends: make(map[*func()]struct{})}
		f.links[p] = l
	}
	return l
}

// forget drops a link that has no fault and no use: callers say what they
// are called, and may say anything. It is called with mu held.
func (f *faults) forget(p pair) {
	if l := f.links[p]; l != nil && !l.cut && l.delay == 0 && len(l.ends) == 0 {
		delete(f.links, p)
	}
}

// set puts a fault in force: open connections end, and new ones are refused
// or delayed.
func (f *faults) set(p pair, cut bool, delay time.Duration) {
	f.mu.Lock()
	l := f.link(p)
	l.cut, l.delay = cut, delay
	ends := l.ends
	l.ends = make(map[*func()]struct{})
	f.forget(p)
	f.mu.Unlock()
	for end := range ends {
		(*end)()
	}
}

// state returns what is in force.
func (f *faults) state(p pair) (cut bool, delay time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.links[p]
	if l == nil {
		return false, 0
	}
	return l.cut, l.delay
}

// enter lets something use the link: end is called with the link's next
// fault. It fails when the link is cut. Call leave when the use is over.
func (f *faults) enter(p pair, end func()) (delay time.Duration, leave func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.link(p)
	if l.cut {
		return 0, nil, fmt.Errorf("link %s–%s is cut", p.a, p.b)
	}
	l.ends[&end] = struct{}{}
	return l.delay, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.link(p).ends, &end)
		f.forget(p)
	}, nil
}

// guard subjects calls from other regions to the faults of their links: the
// process at the other end may not know of them.
func (f *faults) guard(region string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		delay, leave, err := f.enter(pairOf(region, r.Header.Get(rpc.HeaderRegion)), cancel)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		defer leave()
		if delay > 0 {
			t := time.NewTimer(delay)
			defer t.Stop()
			select {
			case <-t.C:
			case <-ctx.Done():
				return
			}
		}
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}

// dialer opens connections from one region to another, subject to faults.
func (f *faults) dialer(from, to string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	p := pairOf(from, to)
	var d net.Dialer
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if cut, _ := f.state(p); cut {
			return nil, fmt.Errorf("link %s–%s is cut", p.a, p.b)
		}
		c, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return f.wrap(p, c)
	}
}

func (f *faults) wrap(p pair, c net.Conn) (net.Conn, error) {
	delay, leave, err := f.enter(p, func() { _ = c.Close() }) // it ends either way
	if err != nil {
		_ = c.Close() // the cut is the error to tell
		return nil, err
	}
	fc := &faultConn{Conn: c, leave: leave}
	if delay == 0 {
		return fc, nil
	}
	return newDelayedConn(fc, delay), nil
}

type faultConn struct {
	net.Conn
	once  sync.Once
	leave func()
}

// Close implements net.Conn.
func (c *faultConn) Close() error {
	c.once.Do(c.leave)
	return c.Conn.Close()
}

// delayedConn holds what passes, each way, for a time. It keeps order and
// does not bound the rate.
type delayedConn struct {
	net.Conn
	delay time.Duration
	in    *io.PipeReader
	out   chan parcel

	once sync.Once
	done chan struct{}
}

type parcel struct {
	due  time.Time
	data []byte
}

// parcelsMax bounds what one direction of a slow link holds.
const parcelsMax = 1024

func newDelayedConn(c net.Conn, delay time.Duration) *delayedConn {
	r, w := io.Pipe()
	d := &delayedConn{Conn: c, delay: delay, in: r, out: make(chan parcel, parcelsMax), done: make(chan struct{})}
	received := make(chan parcel, parcelsMax)
	go func() { // the link's far end
		defer close(received)
		for {
			b := make([]byte, 32<<10)
			n, err := c.Read(b)
			if n > 0 {
				select {
				case received <- parcel{time.Now().Add(delay), b[:n]}:
				case <-d.done:
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	go func() {
		defer func() { _ = w.Close() }() // never fails
		for p := range received {
			if !d.until(p.due) {
				return
			}
			if _, err := w.Write(p.data); err != nil {
				return
			}
		}
	}()
	go func() {
		for {
			select {
			case p := <-d.out:
				if !d.until(p.due) {
					return
				}
				if _, err := c.Write(p.data); err != nil {
					_ = d.Close() // the reader sees the end
					return
				}
			case <-d.done:
				return
			}
		}
	}()
	return d
}

func (d *delayedConn) until(due time.Time) bool {
	t := time.NewTimer(time.Until(due))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-d.done:
		return false
	}
}

// Read implements net.Conn.
func (d *delayedConn) Read(b []byte) (int, error) { return d.in.Read(b) }

// Write implements net.Conn.
func (d *delayedConn) Write(b []byte) (int, error) {
	select {
	case <-d.done: // also while there is room
		return 0, net.ErrClosed
	default:
	}
	select {
	case d.out <- parcel{time.Now().Add(d.delay), append([]byte(nil), b...)}:
		return len(b), nil
	case <-d.done:
		return 0, net.ErrClosed
	}
}

// Close implements net.Conn.
func (d *delayedConn) Close() error {
	d.once.Do(func() { close(d.done) })
	_ = d.in.Close() // never fails
	return d.Conn.Close()
}
