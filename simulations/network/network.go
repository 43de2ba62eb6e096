package network

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Way is how what is sent from one host to another gets there.
type Way struct {
	Latency   time.Duration // one way; at least a microsecond is taken
	Jitter    time.Duration // up to this much more, drawn for each write
	Loss      float64       // share of writes that are lost once, and sent again; below 1
	Bandwidth int           // bytes a second; 0: no bound
	Cut       bool          // nothing gets through until it is healed
}

// resend is what a lost write takes longer, at least; TCP's least timeout.
const resend = 200 * time.Millisecond

// buffer is how much of a connection's direction may be under way.
const buffer = 1 << 20

// Stats counts what a network did.
type Stats struct {
	Dials, Refused, Resets uint64
	Writes, Bytes          uint64
	Lost, Held             uint64 // writes: sent again; kept back by a cut
}

// Network joins hosts. Methods may be called from any goroutine.
type Network struct {
	mu    sync.Mutex // guards what follows, and all connections
	rng   *rand.Rand
	hosts map[string]*Host // alive, by name
	way   func(from, to string) Way
	conns map[*conn]bool // both ends
	stats Stats
	// told of each write that is handed over; for traces
	delivered func(from, to string, bytes int)
}

// New makes a network. way says how a host reaches another, now: it is asked for
// each write, and must not call the network. delivered, unless nil, is told of
// every write as it is handed to its reader, and must not block.
func New(seed uint64, way func(from, to string) Way, delivered func(from, to string, bytes int)) *Network {
	if delivered == nil {
		delivered = func(string, string, int) {}
	}
	return &Network{
		rng: rand.New(rand.NewPCG(seed, 0x6e6574)), hosts: make(map[string]*Host), way: way,
		conns: make(map[*conn]bool), delivered: delivered,
	}
}

// Stats returns what the network did so far.
func (n *Network) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stats
}

// Host is one process's place in the network.
type Host struct {
	net       *Network
	name      string
	dead      bool // guarded by net.mu
	listeners map[string]*listener
}

// Host gives a process its place, of which there is one for each name at a time.
func (n *Network) Host(name string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hosts[name] != nil {
		panic(fmt.Sprintf("network: host %q is there already", name))
	}
	h := &Host{net: n, name: name, listeners: make(map[string]*listener)}
	n.hosts[name] = h
	return h
}

// Kill takes the host away: nothing more comes from it or goes to it. The others
// are told when its machine goes on, and are not when silent.
func (h *Host) Kill(silent bool) {
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if h.dead {
		return
	}
	h.dead = true
	delete(n.hosts, h.name)
	for _, l := range h.listeners {
		l.close()
	}
	for c := range n.conns {
		switch {
		case c.host == h:
			c.reset(errKilled)
			delete(n.conns, c)
		case c.peer.host == h && silent:
			// What it sends is lost, and nothing comes from there any more.
		case c.peer.host == h:
			c.resetSoon(errReset)
		}
	}
}

// Healed hands over what cuts held back between hosts that are not cut any more:
// after a while, as TCP tries again ever more rarely.
func (n *Network) Healed() {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for c := range n.conns {
		if !c.in.held || n.way(c.peer.host.name, c.host.name).Cut {
			continue
		}
		c.in.held = false
		at := now.Add(resend/4 + time.Duration(n.rng.Int64N(int64(2*resend))))
		for i := range c.in.queue {
			if c.in.queue[i].due.IsZero() {
				c.in.queue[i].due = at
			}
		}
		c.in.last = at
		c.in.wake()
	}
}

var (
	errRefused = errors.New("connection refused")
	errReset   = errors.New("connection reset by peer")
	errKilled  = errors.New("host is dead")
	errInUse   = errors.New("address already in use")
)

// Name is what others dial, with a port behind it.
func (h *Host) Name() string { return h.name }

// Listen opens a port.
func (h *Host) Listen(port string) (net.Listener, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.dead {
		return nil, errKilled
	}
	if h.listeners[port] != nil {
		return nil, fmt.Errorf("listen on %s:%s: %w", h.name, port, errInUse)
	}
	l := &listener{host: h, port: port, queue: make(chan *conn, 128), done: make(chan struct{})}
	h.listeners[port] = l
	return l, nil
}

// Dial opens a connection to "name:port". It takes a round trip; while the way
// there or back is cut, and to a host without power, it takes as long as ctx has.
func (h *Host) Dial(ctx context.Context, addr string) (net.Conn, error) {
	name, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	c, err := h.dial(ctx, name, port)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "sim", Addr: address(addr), Err: err}
	}
	return c, nil
}

func (h *Host) dial(ctx context.Context, name, port string) (net.Conn, error) {
	n := h.net
	for tries := 1; ; tries++ {
		n.mu.Lock()
		n.stats.Dials++
		if h.dead {
			n.mu.Unlock()
			return nil, errKilled
		}
		there, back := n.way(h.name, name), n.way(name, h.name)
		cut := there.Cut || back.Cut || n.rng.Float64() < there.Loss+back.Loss
		trip := there.delay(n.rng) + back.delay(n.rng)
		n.mu.Unlock()
		if cut {
			trip = time.Duration(tries) * time.Second // the first packet, again
		}
		if err := sleep(ctx, trip); err != nil {
			return nil, err
		}
		if !cut {
			return n.connect(h, name, port)
		}
	}
}

func (n *Network) connect(h *Host, name, port string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	to := n.hosts[name]
	if h.dead {
		return nil, errKilled
	}
	if to == nil || to.listeners[port] == nil {
		n.stats.Refused++
		return nil, errRefused
	}
	near, far := n.pair(h, to, port)
	select {
	case to.listeners[port].queue <- far:
	default:
		n.stats.Refused++
		return nil, errRefused
	}
	n.conns[near], n.conns[far] = true, true
	return near, nil
}

// delay is what one write takes to get there, were it alone.
func (w Way) delay(rng *rand.Rand) time.Duration {
	d := max(w.Latency, time.Microsecond)
	if w.Jitter > 0 {
		d += time.Duration(rng.Int64N(int64(w.Jitter)))
	}
	return d
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// address is a name with a port.
type address string

func (address) Network() string  { return "sim" }
func (a address) String() string { return string(a) }

type listener struct {
	host  *Host
	port  string
	queue chan *conn
	done  chan struct{}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.host.net.mu.Lock()
	defer l.host.net.mu.Unlock()
	l.close()
	return nil
}

// close is called with the network's mu held.
func (l *listener) close() {
	if l.host.listeners[l.port] != l {
		return
	}
	delete(l.host.listeners, l.port)
	close(l.done)
	for {
		select {
		case c := <-l.queue: // never accepted
			c.reset(net.ErrClosed)
			c.peer.resetSoon(errReset)
		default:
			return
		}
	}
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return address(l.host.name + ":" + l.port) }
