package link

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// dialed is a connection that this node opened: requests go out, answers come
// back. It lives until fail.
type dialed struct {
	p     *peer
	conn  net.Conn
	out   *outbox
	done  chan struct{} // closed by fail
	since time.Time

	mu    sync.Mutex
	err   error // set by fail; no call enters afterwards
	next  uint64
	users [2]int // users' calls in the map: those that wait apart
	calls map[uint64]*pending
}

// pending is a call that awaits its answer. Whoever takes it out of the map
// settles it, so answer gets at most one value.
type pending struct {
	id     uint64
	user   bool
	waits  bool
	answer chan reply    // capacity 1
	credit chan struct{} // capacity 1: credits grew; nil unless a snapshot

	credits int64 // guarded by dialed.mu
}

type reply struct {
	status status
	body   []byte
	err    error // the connection ended
}

func newDialed(p *peer, conn net.Conn) *dialed {
	done := make(chan struct{})
	return &dialed{
		p:     p,
		conn:  conn,
		out:   newOutbox(&p.m.cfg, done),
		done:  done,
		since: time.Now(),
		calls: make(map[uint64]*pending),
	}
}

// run reads and writes until the connection ends.
func (c *dialed) run() {
	m := c.p.m
	var wg sync.WaitGroup
	wg.Go(func() {
		err := c.out.run(c.conn, m.cfg.PeerTimeout, m.cfg.PingInterval, func(frames, bytes int) {
			m.cfg.Events.wrote(Wrote{Node: c.p.node, Frames: frames, Bytes: bytes})
		})
		if err != nil {
			c.fail(err)
		}
	})
	c.fail(c.read())
	wg.Wait()
}

func (c *dialed) read() error {
	r := bufio.NewReaderSize(&patientReader{conn: c.conn, timeout: c.p.m.cfg.PeerTimeout}, readBufferBytes)
	for {
		f, err := readFrame(r, c.p.m.cfg.FrameBytesMax)
		if err != nil {
			return err
		}
		switch f.typ {
		case frameResponse:
			if p := c.remove(f.id); p != nil {
				p.answer <- reply{status: f.status, body: f.body}
			}
		case frameCredit:
			c.grant(f.id, f.count)
		case framePong:
		default:
			return fmt.Errorf("%w: type %d from a listener", errFrame, f.typ)
		}
	}
}

// fail ends the connection; the first cause counts.
func (c *dialed) fail(cause error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = cause
	calls := c.calls
	c.calls = nil
	c.users = [2]int{}
	c.mu.Unlock()

	p := c.p
	p.mu.Lock()
	if p.conn == c {
		p.conn = nil
	}
	lived := time.Since(c.since)
	if lived < stableAfter {
		p.backOff(fmt.Errorf("%w: the connection ended after %v: %w", ErrUnreachable, lived, cause))
	} else {
		p.failures = 0
	}
	p.mu.Unlock()

	close(c.done)
	_ = c.conn.Close() // its error tells nothing that cause does not
	lost := fmt.Errorf("%w: %w", ErrConnectionLost, cause)
	for _, call := range calls {
		call.answer <- reply{err: lost}
	}
	p.m.log.Info("link down", slog.String("peer", p.node), slog.Any("err", cause))
	p.m.cfg.Events.disconnected(Disconnected{Node: p.node, Dialed: true, Err: cause})
}

// inFlight returns where users' calls of a sort are counted, and their bound. It
// is called with mu held.
func (c *dialed) inFlight(waits bool) (users *int, most int) {
	if waits {
		return &c.users[1], c.p.m.cfg.WaitingMax
	}
	return &c.users[0], c.p.m.cfg.InFlightMax
}

// enter adds a call; user calls are bounded.
func (c *dialed) enter(k Kind, credit bool) (*pending, error) {
	p := &pending{user: k >= kindUser, waits: k.waits(), answer: make(chan reply, 1)}
	if credit {
		p.credit = make(chan struct{}, 1)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, fmt.Errorf("%w: %w", errGone, c.err)
	}
	if p.user {
		users, most := c.inFlight(p.waits)
		if *users >= most {
			return nil, fmt.Errorf("%w: %d calls in flight to %s", ErrOverloaded, *users, c.p.node)
		}
		*users++
	}
	c.next++
	p.id = c.next
	c.calls[p.id] = p
	return p, nil
}

// remove takes a call out of the map; nil when it is no longer there.
func (c *dialed) remove(id uint64) *pending {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.calls[id]
	if p == nil {
		return nil
	}
	delete(c.calls, id)
	if p.user {
		users, _ := c.inFlight(p.waits)
		*users--
	}
	return p
}

// startUser sends a user's call or refuses it at a bound.
func (c *dialed) startUser(ctx context.Context, k Kind, payload []byte) (*pending, error) {
	p, err := c.enter(k, false)
	if err != nil {
		return nil, err
	}
	f := frame{typ: frameRequest, id: p.id, kind: k, timeout: timeLeft(ctx), body: payload}
	if !c.out.tryPush(&f) {
		c.remove(p.id)
		return nil, fmt.Errorf("%w: %d bytes wait to be written to %s", ErrOverloaded, c.p.m.cfg.QueueBytesMax, c.p.node)
	}
	return p, nil
}

// startRaft sends a raft RPC: one that is held for company, or one that waits
// for room if it must.
func (c *dialed) startRaft(ctx context.Context, body []byte, flags uint8, held, credit bool) (*pending, error) {
	p, err := c.enter(kindRaft, credit)
	if err != nil {
		return nil, err
	}
	f := frame{typ: frameRequest, id: p.id, kind: kindRaft, flags: flags, timeout: timeLeft(ctx), body: body}
	if held || flags&flagUrgent != 0 {
		if !c.out.push(&f, held) {
			c.remove(p.id)
			return nil, fmt.Errorf("%w: heartbeat to %s", ErrOverloaded, c.p.node)
		}
		return p, nil
	}
	if err := c.out.pushWait(ctx, &f); err != nil {
		c.remove(p.id)
		return nil, err
	}
	return p, nil
}

// timeLeft is the time limit that travels with a call; 0 is none.
func timeLeft(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return max(time.Until(deadline), time.Microsecond)
}

// wait returns the answer, or gives the call up when ctx ends.
func (c *dialed) wait(ctx context.Context, p *pending) ([]byte, error) {
	select {
	case r := <-p.answer:
		return r.result(c.p.node)
	case <-ctx.Done():
	}
	if !c.abandon(p) {
		r := <-p.answer // it came in the same moment: take it
		return r.result(c.p.node)
	}
	return nil, ended(ctx)
}

// ended is why ctx ended: its error, and its cause if that tells more.
func ended(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// abandon forgets a call and tells the other end. It reports false when the
// call is settled, so that its answer is there or about to be.
func (c *dialed) abandon(p *pending) bool {
	if c.remove(p.id) == nil {
		return false
	}
	if p.user || p.credit != nil {
		if !c.out.push(&frame{typ: frameCancel, id: p.id}, false) {
			c.fail(fmt.Errorf("%w: the other end does not read", ErrOverloaded))
		}
	}
	return true
}

// result turns an answer into Call's results.
func (r reply) result(node string) ([]byte, error) {
	if r.err != nil {
		return nil, r.err
	}
	switch r.status {
	case statusOK:
		return r.body, nil
	case statusError:
		e, err := decodeError(r.body)
		if err != nil {
			return nil, fmt.Errorf("answer of %s: %w", node, err)
		}
		return nil, e
	case statusOverloaded:
		return nil, fmt.Errorf("%w: at %s", ErrOverloaded, node)
	case statusUnknownKind:
		return nil, fmt.Errorf("%w: at %s", ErrUnknownKind, node)
	case statusWrongServer:
		return nil, fmt.Errorf("%w: at %s", ErrWrongServer, node)
	case statusTooLarge:
		return nil, fmt.Errorf("%w: at %s", ErrAnswerTooLarge, node)
	}
	panic(fmt.Sprintf("link: status %d passed decodeFrame", r.status))
}

const readBufferBytes = 64 << 10

// patientReader gives every read a deadline, so that silence ends it.
type patientReader struct {
	conn    net.Conn
	timeout time.Duration
}

func (r *patientReader) Read(b []byte) (int, error) {
	if err := r.conn.SetReadDeadline(time.Now().Add(r.timeout)); err != nil {
		return 0, err
	}
	return r.conn.Read(b)
}
