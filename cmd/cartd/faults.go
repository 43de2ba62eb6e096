package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
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
	conns map[net.Conn]struct{}
}

func newFaults() *faults { return &faults{links: make(map[pair]*linkFault)} }

// link is called with mu held.
func (f *faults) link(p pair) *linkFault {
	l := f.links[p]
	if l == nil {
		l = &linkFault{conns: make(map[net.Conn]struct{})}
		f.links[p] = l
	}
	return l
}

// set puts a fault in force: open connections end, and new ones are refused
// or delayed.
func (f *faults) set(p pair, cut bool, delay time.Duration) {
	f.mu.Lock()
	l := f.link(p)
	l.cut, l.delay = cut, delay
	conns := l.conns
	l.conns = make(map[net.Conn]struct{})
	f.mu.Unlock()
	for c := range conns {
		_ = c.Close() // it ends either way
	}
}

// state returns what is in force.
func (f *faults) state(p pair) (cut bool, delay time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.link(p)
	return l.cut, l.delay
}

// track makes c end with the next fault of its link; it fails when the link
// is cut. Call the returned function when c is closed.
func (f *faults) track(p pair, c net.Conn) (delay time.Duration, closed func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.link(p)
	if l.cut {
		return 0, nil, fmt.Errorf("link %s–%s is cut", p.a, p.b)
	}
	l.conns[c] = struct{}{}
	return l.delay, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.link(p).conns, c)
	}, nil
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
	delay, closed, err := f.track(p, c)
	if err != nil {
		_ = c.Close() // the cut is the error to tell
		return nil, err
	}
	fc := &faultConn{Conn: c, closed: closed}
	if delay == 0 {
		return fc, nil
	}
	return newDelayedConn(fc, delay), nil
}

type faultConn struct {
	net.Conn
	once   sync.Once
	closed func()
}

// Close implements net.Conn.
func (c *faultConn) Close() error {
	c.once.Do(c.closed)
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
		defer w.Close()
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
