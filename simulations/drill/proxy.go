package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// way is one direction of the link of two regions.
type way struct{ from, to string }

func (w way) back() way { return way{w.to, w.from} }

// trouble is what is wrong with one direction of a link; the zero value is
// nothing.
type trouble struct {
	Cut   bool          // connections end with a reset, and none is accepted
	Mute  bool          // nothing passes and nothing says so, until it ends
	Delay time.Duration // of all that passes
	Rate  int           // bytes a second, of all connections; 0: no bound
}

// links are the TCP proxies that stand between regions. Each connection from one
// region to another goes through one, so its trouble is the drill's to make,
// and needs nothing of the processes at its ends.
type links struct {
	mu     sync.Mutex // guards what follows
	ways   map[way]*wire
	doors  []net.Listener
	closed bool
	ended  sync.WaitGroup
}

// wire is the state of one direction.
type wire struct {
	trouble
	changed chan struct{} // closed with the next change
	free    time.Time     // when what was sent before has passed, where there is a rate
	conns   map[*crossing]struct{}
}

// crossing is one connection through a proxy, and its two halves.
type crossing struct {
	near, far net.Conn
	once      sync.Once
	done      chan struct{}
}

// end closes both halves; reset makes them end as if nobody were there.
func (c *crossing) end(reset bool) {
	c.once.Do(func() {
		close(c.done)
		for _, conn := range []net.Conn{c.near, c.far} {
			if tcp, ok := conn.(*net.TCPConn); ok && reset {
				_ = tcp.SetLinger(0) // it is closed either way
			}
			_ = conn.Close() // as above
		}
	})
}

func newLinks() *links { return &links{ways: make(map[way]*wire)} }

// wire is called with mu held.
func (l *links) wire(w way) *wire {
	have := l.ways[w]
	if have == nil {
		have = &wire{changed: make(chan struct{}), conns: make(map[*crossing]struct{})}
		l.ways[w] = have
	}
	return have
}

// open makes a proxy on loopback for connections of the way's first region to
// an address of its second, and returns the proxy's address.
func (l *links) open(w way, to string) (string, error) {
	door, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("open a proxy for %s to %s: %w", w.from, w.to, err)
	}
	l.mu.Lock()
	l.doors = append(l.doors, door)
	l.mu.Unlock()
	l.ended.Go(func() {
		for {
			conn, err := door.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil { // of files there are too many: the caller tries again
				continue
			}
			l.ended.Go(func() { l.cross(w, conn, to) })
		}
	})
	return door.Addr().String(), nil
}

// cross carries one connection until it ends.
func (l *links) cross(w way, near net.Conn, to string) {
	c := &crossing{near: near, done: make(chan struct{})}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	l.mu.Lock()
	cut := l.closed || l.wire(w).Cut || l.wire(w.back()).Cut
	l.mu.Unlock()
	if !cut {
		far, err := new(net.Dialer).DialContext(ctx, "tcp", to)
		if err != nil {
			cut = true // nobody is there, which is what a reset says
		} else {
			c.far = far
		}
	}
	if c.far == nil {
		c.far = near
	}
	l.mu.Lock()
	// It may have been cut meanwhile.
	cut = cut || l.closed || l.wire(w).Cut || l.wire(w.back()).Cut
	if !cut {
		l.wire(w).conns[c], l.wire(w.back()).conns[c] = struct{}{}, struct{}{}
	}
	l.mu.Unlock()
	if cut {
		c.end(true)
		return
	}
	var both sync.WaitGroup
	both.Go(func() { l.carry(w, c, c.near, c.far) })
	both.Go(func() { l.carry(w.back(), c, c.far, c.near) })
	both.Wait()
	c.end(false)
	l.mu.Lock()
	delete(l.wire(w).conns, c)
	delete(l.wire(w.back()).conns, c)
	l.mu.Unlock()
}

// parcel is what was read at once, and when it may be written.
type parcel struct {
	due  time.Time
	data []byte
}

// parcelsMax bounds what one direction of a connection holds; further bytes
// stay with the sender.
const parcelsMax = 256

// carry moves bytes one way until its source ends, which it passes on; what else
// ends it ends the connection.
func (l *links) carry(w way, c *crossing, from, to net.Conn) {
	held := make(chan parcel, parcelsMax)
	var failure error // once held is closed
	var reader sync.WaitGroup
	defer reader.Wait()
	reader.Go(func() {
		defer close(held)
		for {
			b := make([]byte, 16<<10)
			n, err := from.Read(b)
			if n > 0 {
				select {
				case held <- parcel{l.due(w, n), b[:n]}:
				case <-c.done:
					return
				}
			}
			if err != nil {
				failure = err
				return
			}
		}
	})
	for p := range held {
		if !l.wait(w, p.due, c.done) {
			return
		}
		if _, err := to.Write(p.data); err != nil {
			c.end(false)
			return
		}
	}
	half, ok := to.(*net.TCPConn)
	if !errors.Is(failure, io.EOF) || !ok || half.CloseWrite() != nil {
		c.end(false)
	}
}

// due is when n bytes that come now may pass.
func (l *links) due(w way, n int) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	wire, now := l.wire(w), time.Now()
	if wire.Rate > 0 {
		if wire.free.Before(now) {
			wire.free = now
		}
		wire.free = wire.free.Add(time.Duration(n) * time.Second / time.Duration(wire.Rate))
		return wire.free.Add(wire.Delay)
	}
	return now.Add(wire.Delay)
}

// wait returns when the bytes may pass; false: the connection has ended.
func (l *links) wait(w way, due time.Time, done <-chan struct{}) bool {
	for {
		l.mu.Lock()
		wire := l.wire(w)
		mute, slow, changed := wire.Mute, wire.Delay > 0 || wire.Rate > 0, wire.changed
		l.mu.Unlock()
		rest := time.Until(due)
		if !mute && (rest <= 0 || !slow) { // what ended holds nothing back
			return true
		}
		var over <-chan time.Time
		var timer *time.Timer
		if !mute {
			timer = time.NewTimer(rest)
			over = timer.C
		}
		select {
		case <-over:
		case <-changed:
		case <-done:
		}
		if timer != nil {
			timer.Stop()
		}
		select {
		case <-done:
			return false
		default:
		}
	}
}

// set puts a direction's trouble in force.
func (l *links) set(w way, t trouble) {
	l.mu.Lock()
	wire := l.wire(w)
	wire.trouble = t
	close(wire.changed)
	wire.changed = make(chan struct{})
	var ends []*crossing
	if t.Cut {
		for c := range wire.conns {
			ends = append(ends, c)
		}
	}
	l.mu.Unlock()
	for _, c := range ends {
		c.end(true)
	}
}

// heal ends all trouble.
func (l *links) heal() {
	l.mu.Lock()
	var all []way
	for w, wire := range l.ways {
		if wire.trouble != (trouble{}) {
			all = append(all, w)
		}
	}
	l.mu.Unlock()
	for _, w := range all {
		l.set(w, trouble{})
	}
}

// close ends all proxies and waits for them.
func (l *links) close() {
	l.mu.Lock()
	l.closed = true
	for _, door := range l.doors {
		_ = door.Close() // nothing is lost with it
	}
	var ends []*crossing
	for _, wire := range l.ways {
		for c := range wire.conns {
			ends = append(ends, c)
		}
	}
	l.mu.Unlock()
	for _, c := range ends {
		c.end(true)
	}
	l.ended.Wait()
}
