package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// peer is another node as this one dials it: at most one connection, at most
// one dial under way, which all callers share.
type peer struct {
	m    *Mux
	node string

	mu       sync.Mutex
	conn     *dialed  // nil while there is none
	attempt  *attempt // the dial under way; nil when none
	failures int      // dials or short-lived connections in a row
	retryAt  time.Time
	lastErr  error
}

// attempt is one dial; conn and err are set before done is closed.
type attempt struct {
	done chan struct{}
	conn *dialed
	err  error
}

// stableAfter is how long a connection must live to count as a success.
const stableAfter = time.Second

func (m *Mux) peer(node string) (*peer, error) {
	m.mu.RLock()
	p, closed := m.peers[node], m.closed
	m.mu.RUnlock()
	if p != nil && !closed {
		return p, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, fmt.Errorf("%w: %w", ErrClosed, ErrUnreachable)
	}
	p = m.peers[node]
	if p == nil {
		p = &peer{m: m, node: node}
		m.peers[node] = p
	}
	return p, nil
}

// connect returns the live connection to node, after a dial if need be. All
// its errors wrap ErrUnreachable.
func (m *Mux) connect(ctx context.Context, node string) (*dialed, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	p, err := m.peer(node)
	if err != nil {
		return nil, err
	}
	c, a, err := p.join()
	if c != nil || err != nil {
		return c, err
	}
	select {
	case <-a.done:
		return a.conn, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: dial: %w", ErrUnreachable, ctx.Err())
	}
}

// join returns the live connection, or the dial to wait for, which it starts
// if none is under way, or the error of the last dial while that is fresh.
func (p *peer) join() (*dialed, *attempt, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		return p.conn, nil, nil
	}
	if p.attempt != nil {
		return nil, p.attempt, nil
	}
	if time.Now().Before(p.retryAt) {
		return nil, nil, p.lastErr
	}
	a := &attempt{done: make(chan struct{})}
	if !p.m.spawn(func() { p.dial(a) }) {
		return nil, nil, fmt.Errorf("%w: %w", ErrClosed, ErrUnreachable)
	}
	p.attempt = a
	return nil, a, nil
}

func (p *peer) current() *dialed {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn
}

// dial makes one attempt and starts the goroutines of what it made.
func (p *peer) dial(a *attempt) {
	conn, err := p.open()
	var c *dialed
	if err == nil {
		c = newDialed(p, conn)
	}

	p.mu.Lock()
	p.attempt = nil
	if err == nil && p.m.ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", ErrClosed, ErrUnreachable)
	}
	if err == nil {
		p.conn = c
		a.conn = c
	} else {
		a.err = err
		p.backOff(err)
	}
	p.mu.Unlock()

	if err != nil {
		if conn != nil {
			_ = conn.Close() // nothing was sent on it
		}
		close(a.done)
		if p.m.ctx.Err() == nil {
			p.m.log.Debug("node unreachable", slog.String("peer", p.node), slog.Any("err", err))
		}
		return
	}
	p.m.log.Info("link up", slog.String("peer", p.node))
	p.m.cfg.Events.connected(Connected{Node: p.node, Dialed: true})
	close(a.done)
	c.run()
}

// backOff sets when the next dial may start. The caller holds p.mu.
func (p *peer) backOff(err error) {
	p.lastErr = err
	d := min(p.m.cfg.BackoffMin<<min(p.failures, 16), p.m.cfg.BackoffMax)
	p.failures++
	d -= time.Duration(rand.Int64N(int64(d)/4 + 1)) // spread the nodes that lost the same peer
	p.retryAt = time.Now().Add(d)
}

// open dials and passes the hello. Its errors wrap ErrUnreachable.
func (p *peer) open() (net.Conn, error) {
	cfg := &p.m.cfg
	ctx, cancel := context.WithTimeout(p.m.ctx, cfg.DialTimeout)
	defer cancel()
	conn, err := cfg.Dial(ctx, p.node)
	if err != nil {
		return nil, fmt.Errorf("%w: dial: %w", ErrUnreachable, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends a hello under way
	err = p.greet(conn)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		if errors.Is(err, ErrRefused) {
			p.m.log.Error("link refused", slog.String("peer", p.node), slog.Any("err", err))
		}
		return nil, fmt.Errorf("%w: hello: %w", ErrUnreachable, err)
	}
	return conn, nil
}

// greet is the dialer's side of the hello.
func (p *peer) greet(conn net.Conn) error {
	cfg := &p.m.cfg
	if err := conn.SetDeadline(time.Now().Add(cfg.DialTimeout)); err != nil {
		return err
	}
	h := hello{min: versionMin, max: versionMax, cluster: cfg.Cluster, from: cfg.Self, to: p.node}
	if _, err := conn.Write(encodeHello(h)); err != nil {
		return err
	}
	body, err := readGreeting(conn)
	if err != nil {
		return err
	}
	w, err := decodeWelcome(body)
	switch {
	case err != nil:
		return err
	case w.version == 0:
		return fmt.Errorf("%w by %q: %s", ErrRefused, w.node, w.reason)
	case w.version < versionMin || w.version > versionMax:
		return fmt.Errorf("%w: %q chose link version %d, %q speaks %d to %d", ErrRefused, w.node, w.version, cfg.Self, versionMin, versionMax)
	case w.cluster != cfg.Cluster:
		return fmt.Errorf("%w: %q is of cluster %q, %q is of cluster %q", ErrRefused, w.node, w.cluster, cfg.Self, cfg.Cluster)
	case w.node != p.node:
		return fmt.Errorf("%w: dialed %q, reached %q: check the address book", ErrRefused, p.node, w.node)
	}
	if cfg.Verify != nil {
		if err := cfg.Verify(conn, p.node); err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
	}
	return conn.SetDeadline(time.Time{})
}
