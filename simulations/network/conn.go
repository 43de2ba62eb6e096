package network

import (
	"io"
	"net"
	"os"
	"time"
)

// conn is one end of a connection. The network's mu guards it.
type conn struct {
	host   *Host
	peer   *conn
	local  address
	remote address
	in     stream // what comes to this end

	closed                      bool // by this end
	readDeadline, writeDeadline deadline
}

// stream is one direction of a connection.
type stream struct {
	queue  []segment
	bytes  int       // in queue
	last   time.Time // when the last of them is due
	ended  bool      // nothing follows the queue
	held   bool      // a cut keeps some of it back
	broken error     // nothing is handed over any more
	change chan struct{}
}

// segment is what one write sent.
type segment struct {
	data []byte
	due  time.Time // zero: when a cut has healed
	end  bool      // the writer closed
	rst  error     // the connection breaks here
}

// wake tells whoever waits for the stream that it has changed.
func (s *stream) wake() {
	close(s.change)
	s.change = make(chan struct{})
}

func (n *Network) pair(from, to *Host, port string) (near, far *conn) {
	near = &conn{host: from, local: address(from.name + ":0"), remote: address(to.name + ":" + port)}
	far = &conn{host: to, local: near.remote, remote: near.local, peer: near}
	near.peer = far
	for _, c := range []*conn{near, far} {
		c.in.change = make(chan struct{})
		c.readDeadline.init()
		c.writeDeadline.init()
	}
	return near, far
}

// push puts a segment on its way to this end.
func (c *conn) push(s segment) {
	n, in := c.host.net, &c.in
	w := n.way(c.peer.host.name, c.host.name)
	now := time.Now()
	switch {
	case w.Cut || in.held:
		if w.Cut {
			n.stats.Held++
		}
		in.held = true
	default:
		d := w.delay(n.rng)
		if w.Bandwidth > 0 {
			from := now
			if in.last.After(now.Add(d)) {
				from = in.last.Add(-d) // behind what is being sent
			}
			d += from.Sub(now) + time.Duration(len(s.data))*time.Second/time.Duration(w.Bandwidth)
		}
		for lost := resend; n.rng.Float64() < w.Loss; lost *= 2 {
			n.stats.Lost++
			d += lost
		}
		s.due = now.Add(d)
		if s.due.Before(in.last) {
			s.due = in.last
		}
		in.last = s.due
	}
	in.queue = append(in.queue, s)
	in.bytes += len(s.data)
	in.wake()
}

// reset breaks this end at once.
func (c *conn) reset(err error) {
	if c.in.broken == nil {
		c.in.broken = err
		c.host.net.stats.Resets++
	}
	c.in.queue, c.in.bytes = nil, 0
	c.in.wake()
	c.peer.in.wake() // its writes are waited for by this end
}

// resetSoon breaks this end once word of it has come, behind what was sent before.
func (c *conn) resetSoon(err error) {
	if c.in.broken == nil && !c.in.ended {
		c.push(segment{rst: err})
	}
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	n := c.host.net
	n.mu.Lock()
	for {
		expired := c.readDeadline.passed()
		if got, done, err := c.read(p); done || err != nil {
			n.mu.Unlock()
			return got, c.opError("read", err)
		}
		if expired {
			n.mu.Unlock()
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		}
		change, timeout := c.in.change, c.readDeadline.c
		var due <-chan time.Time
		var timer *time.Timer
		if len(c.in.queue) > 0 && !c.in.queue[0].due.IsZero() {
			timer = time.NewTimer(time.Until(c.in.queue[0].due))
			due = timer.C
		}
		n.mu.Unlock()
		select {
		case <-change:
		case <-timeout:
		case <-due:
		}
		if timer != nil {
			timer.Stop()
		}
		n.mu.Lock()
	}
}

// read takes what is due; done says that the call returns.
func (c *conn) read(p []byte) (got int, done bool, err error) {
	in := &c.in
	now := time.Now()
	if c.closed {
		return 0, true, net.ErrClosed
	}
	for len(in.queue) > 0 && in.broken == nil {
		s := &in.queue[0]
		if s.due.IsZero() || s.due.After(now) {
			break
		}
		if s.rst != nil {
			if got > 0 {
				return got, true, nil
			}
			c.reset(s.rst)
			break
		}
		if s.end {
			if got > 0 {
				return got, true, nil
			}
			in.ended = true
			return 0, true, io.EOF
		}
		if got == len(p) {
			break
		}
		k := copy(p[got:], s.data)
		got += k
		in.bytes -= k
		if s.data = s.data[k:]; len(s.data) == 0 {
			in.queue = in.queue[1:]
		}
	}
	if got > 0 {
		c.host.net.delivered(c.peer.host.name, c.host.name, got)
		in.wake() // there is room
		return got, true, nil
	}
	if in.broken != nil {
		return 0, true, in.broken
	}
	return 0, len(p) == 0, nil
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	n := c.host.net
	n.mu.Lock()
	defer n.mu.Unlock()
	out := &c.peer.in
	for sent := 0; ; {
		switch {
		case c.closed:
			return sent, c.opError("write", net.ErrClosed)
		case c.in.broken != nil:
			return sent, c.opError("write", c.in.broken)
		case c.writeDeadline.passed():
			return sent, c.opError("write", os.ErrDeadlineExceeded)
		}
		if room := buffer - out.bytes; room > 0 && sent < len(p) {
			part := p[sent:min(len(p), sent+room)]
			n.stats.Writes++
			n.stats.Bytes += uint64(len(part))
			if c.peer.host.dead || out.broken != nil {
				out.bytes += len(part) // nobody takes it
			} else {
				c.peer.push(segment{data: append([]byte(nil), part...)})
			}
			sent += len(part)
		}
		if sent == len(p) {
			return sent, nil
		}
		change, own, timeout := out.change, c.in.change, c.writeDeadline.c
		n.mu.Unlock()
		select {
		case <-change:
		case <-own:
		case <-timeout:
		}
		n.mu.Lock()
	}
}

// Close implements net.Conn.
func (c *conn) Close() error {
	n := c.host.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.closed {
		return c.opError("close", net.ErrClosed)
	}
	c.closed = true
	if c.peer.in.broken == nil && c.in.broken == nil && !c.host.dead && !c.peer.host.dead {
		c.peer.push(segment{end: true})
	}
	delete(n.conns, c)
	c.in.queue, c.in.bytes = nil, 0
	c.in.wake()
	c.peer.in.wake()
	return nil
}

func (c *conn) opError(op string, err error) error {
	if err == nil || err == io.EOF { //nolint:errorlint // it is what readers compare with
		return err
	}
	return &net.OpError{Op: op, Net: "sim", Source: c.local, Addr: c.remote, Err: err}
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	c.set(&c.readDeadline, t)
	c.set(&c.writeDeadline, t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error { c.set(&c.readDeadline, t); return nil }

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error { c.set(&c.writeDeadline, t); return nil }

func (c *conn) set(d *deadline, t time.Time) {
	c.host.net.mu.Lock()
	defer c.host.net.mu.Unlock()
	d.set(t)
	c.in.wake() // whoever waits looks at the new one
	c.peer.in.wake()
}

// deadline is a moment after which calls fail; the network's mu guards it.
type deadline struct {
	at    time.Time
	timer *time.Timer
	c     chan struct{} // closed when at has passed
}

func (d *deadline) init() { d.c = make(chan struct{}) }

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) set(t time.Time) {
	if d.timer != nil {
		d.timer.Stop()
	}
	d.at, d.timer, d.c = t, nil, make(chan struct{})
	if left := time.Until(t); !t.IsZero() && left > 0 {
		c := d.c
		d.timer = time.AfterFunc(left, func() { close(c) })
	}
}
