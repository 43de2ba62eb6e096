package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"
)

// pipeNet is a fake network for tests: named listeners, joined by net.Pipe,
// so that it works inside synctest bubbles. Writes block until read, as if
// the kernel had no buffers.
type pipeNet struct {
	mu        sync.Mutex
	listeners map[string]*pipeListener
	conns     map[net.Conn]string // dialer's end -> "from>to"
	dials     int
}

func newPipeNet() *pipeNet {
	return &pipeNet{listeners: make(map[string]*pipeListener), conns: make(map[net.Conn]string)}
}

type pipeListener struct {
	name  string
	queue chan net.Conn
	done  chan struct{}
	once  sync.Once
}

type pipeAddr string

func (a pipeAddr) Network() string { return "pipe" }
func (a pipeAddr) String() string  { return string(a) }

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr(l.name) }

func (n *pipeNet) listen(name string) *pipeListener {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &pipeListener{name: name, queue: make(chan net.Conn), done: make(chan struct{})}
	n.listeners[name] = l
	return l
}

func (n *pipeNet) dialer(from string) Dialer {
	return func(ctx context.Context, node string) (net.Conn, error) {
		n.mu.Lock()
		l := n.listeners[node]
		n.dials++
		n.mu.Unlock()
		if l == nil {
			return nil, fmt.Errorf("no listener %q", node)
		}
		near, far := net.Pipe()
		select {
		case l.queue <- far:
		case <-l.done:
			return nil, errors.New("connection refused")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		n.mu.Lock()
		n.conns[near] = from + ">" + node
		n.mu.Unlock()
		return near, nil
	}
}

// cut ends the connections from one node to another.
func (n *pipeNet) cut(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c, way := range n.conns {
		if way == from+">"+to {
			_ = c.Close()
			delete(n.conns, c)
		}
	}
}

// cluster is a few nodes on one pipeNet.
type cluster struct {
	net   *pipeNet
	nodes map[string]*node
}

type node struct {
	*Mux
	stop   context.CancelFunc
	served chan error
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{net: newPipeNet(), nodes: make(map[string]*node)}
	t.Cleanup(func() { c.close(t) })
	return c
}

func testConfig(self string, dial Dialer) Config {
	cfg := DefaultConfig(self, "test", dial)
	return cfg
}

// add makes a node; setup may change its settings and take its Mux.
func (c *cluster) add(t *testing.T, name string, tune func(*Config), setup func(*Mux)) *node {
	t.Helper()
	cfg := testConfig(name, c.net.dialer(name))
	if tune != nil {
		tune(&cfg)
	}
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if setup != nil {
		setup(m)
	}
	ctx, stop := context.WithCancel(context.Background())
	n := &node{Mux: m, stop: stop, served: make(chan error, 1)}
	ln := c.net.listen(name)
	go func() { n.served <- m.Serve(ctx, ln) }()
	c.nodes[name] = n
	return n
}

// shut ends a node and waits for it.
func (n *node) shut() error {
	n.stop()
	err := <-n.served
	n.served <- err
	if e := n.Close(); e != nil {
		return e
	}
	return err
}

func (c *cluster) close(t *testing.T) {
	t.Helper()
	for _, n := range c.nodes {
		n.stop()
		_ = n.Close() // always nil
	}
	for _, n := range c.nodes {
		if err := <-n.served; err != nil {
			t.Errorf("Serve = %v, want nil", err)
		}
	}
}

func short(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}
