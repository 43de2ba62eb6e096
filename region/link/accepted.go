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

// accepted is a connection that another node opened to this one: requests
// come in, answers go out.
type accepted struct {
	m      *Mux
	node   string // the dialing node
	conn   net.Conn
	out    *outbox
	ctx    context.Context // ends with the connection
	cancel context.CancelCauseFunc
	done   chan struct{}
	wg     sync.WaitGroup

	mu      sync.Mutex
	err     error
	running map[uint64]context.CancelFunc // users' calls
	waiting int                           // those of them that wait
	lanes   map[uint64]*lane              // raft requests, each lane in order
	streams map[uint64]*stream            // snapshots coming in
}

// Serve accepts the connections of other nodes and answers their calls until
// ctx ends or Close is called; it then ends these connections, waits for the
// handlers, and returns nil. It closes ln in any case. Its error is that of a
// listener that broke.
func (m *Mux) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.ctx, cancel)()
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	defer func() { _ = ln.Close() }() // when Accept broke

	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel() // before the wait: connections end with ctx
	slots := make(chan struct{}, m.cfg.AcceptedMax)
	pause := acceptPauseMin
	for {
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept: %w", err)
		case err != nil:
			// Such as no free file descriptor: others may close theirs.
			m.log.Error("accept", slog.Any("err", err))
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			pause = min(2*pause, acceptPauseMax)
			continue
		}
		pause = acceptPauseMin
		select {
		case slots <- struct{}{}:
		default:
			m.log.Error("too many connections, one refused", slog.Int("max", m.cfg.AcceptedMax))
			_ = conn.Close()
			continue
		}
		wg.Go(func() {
			m.welcome(ctx, conn)
			<-slots
		})
	}
}

const (
	acceptPauseMin = 5 * time.Millisecond
	acceptPauseMax = time.Second
)

// welcome takes an accepted connection through the hello and serves it.
func (m *Mux) welcome(ctx context.Context, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }()
	node, err := m.answerHello(conn)
	if err != nil {
		// Only a hello that does not fit is for an operator; port probes and
		// broken connections are not.
		if errors.Is(err, ErrRefused) {
			m.log.Error("connection refused", slog.String("remote", conn.RemoteAddr().String()), slog.Any("err", err))
		} else {
			m.log.Debug("connection without a hello", slog.String("remote", conn.RemoteAddr().String()), slog.Any("err", err))
		}
		return
	}
	a := &accepted{
		m:       m,
		node:    node,
		conn:    conn,
		done:    make(chan struct{}),
		running: make(map[uint64]context.CancelFunc),
		lanes:   make(map[uint64]*lane),
		streams: make(map[uint64]*stream),
	}
	a.out = newOutbox(&m.cfg, a.done)
	a.ctx, a.cancel = context.WithCancelCause(ctx)
	if old := m.admit(a); old != nil {
		old.fail(fmt.Errorf("%w: %s dialed again", ErrConnectionLost, node))
	}
	m.cfg.Events.connected(Connected{Node: node})
	stopOnEnd := context.AfterFunc(ctx, func() { a.fail(ErrClosed) })
	defer stopOnEnd()
	a.run()
	m.dismiss(a)
}

// answerHello is the listener's side of the hello.
func (m *Mux) answerHello(conn net.Conn) (node string, err error) {
	if err := conn.SetDeadline(time.Now().Add(m.cfg.DialTimeout)); err != nil {
		return "", err
	}
	body, err := readGreeting(conn)
	if err != nil {
		return "", err
	}
	h, err := decodeHello(body)
	if err != nil {
		return "", err
	}
	version, reason := h.judge(m.cfg.Self, m.cfg.Cluster)
	if version != 0 && m.cfg.Verify != nil {
		if err := m.cfg.Verify(conn, h.from); err != nil {
			version, reason = 0, fmt.Sprintf("%q may not call itself %q: %v", conn.RemoteAddr(), h.from, err)
		}
	}
	w := welcome{version: version, cluster: m.cfg.Cluster, node: m.cfg.Self, reason: reason[:min(len(reason), 1024)]}
	if _, err := conn.Write(encodeWelcome(w)); err != nil {
		return "", err
	}
	if version == 0 {
		return "", fmt.Errorf("%w: %s", ErrRefused, reason)
	}
	return h.from, conn.SetDeadline(time.Time{})
}

// admit makes a the connection of its node and returns the one before. One
// connection per dialer: a newer one means that the dialer lost the older.
func (m *Mux) admit(a *accepted) (old *accepted) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old = m.accepted[a.node]
	m.accepted[a.node] = a
	return old
}

func (m *Mux) dismiss(a *accepted) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.accepted[a.node] == a {
		delete(m.accepted, a.node)
	}
}

// run serves until the connection ends, then waits for what it started.
func (a *accepted) run() {
	a.wg.Go(func() {
		err := a.out.run(a.conn, a.m.cfg.PeerTimeout, 0, func(frames, bytes int) {
			a.m.cfg.Events.wrote(Wrote{Node: a.node, Frames: frames, Bytes: bytes})
		})
		if err != nil {
			a.fail(err)
		}
	})
	a.fail(a.read())
	a.wg.Wait()
}

// fail ends the connection; the first cause counts.
func (a *accepted) fail(cause error) {
	a.mu.Lock()
	if a.err != nil {
		a.mu.Unlock()
		return
	}
	a.err = cause
	a.mu.Unlock()
	close(a.done)
	a.cancel(cause)
	_ = a.conn.Close() // its error tells nothing that cause does not
	a.m.log.Debug("link of another node down", slog.String("peer", a.node), slog.Any("err", cause))
	a.m.cfg.Events.disconnected(Disconnected{Node: a.node, Err: cause})
}

func (a *accepted) read() error {
	r := bufio.NewReaderSize(&patientReader{conn: a.conn, timeout: a.m.cfg.PeerTimeout}, readBufferBytes)
	for {
		f, err := readFrame(r, a.m.cfg.FrameBytesMax)
		if err != nil {
			return err
		}
		switch f.typ {
		case frameRequest:
			if f.kind == kindRaft {
				err = a.takeRaft(f)
			} else {
				a.takeCall(f)
			}
		case frameCancel:
			a.takeCancel(f.id)
		case frameChunk:
			err = a.takeChunk(f)
		case framePing:
			a.send(&frame{typ: framePong}, true)
		default:
			err = fmt.Errorf("%w: type %d from a dialer", errFrame, f.typ)
		}
		if err != nil {
			return err
		}
	}
}

// send queues a frame without waiting; the connection ends when the other end
// lets too much pile up.
func (a *accepted) send(f *frame, held bool) {
	if !a.out.push(f, held) {
		a.fail(fmt.Errorf("%w: %s does not read its answers", ErrOverloaded, a.node))
	}
}

func (a *accepted) refuse(id uint64, s status) {
	a.send(&frame{typ: frameResponse, id: id, status: s}, false)
}

// takeCall starts a user's call on its own goroutine, within the bound.
func (a *accepted) takeCall(f frame) {
	h := a.m.handler(f.kind)
	if h == nil {
		a.refuse(f.id, statusUnknownKind)
		return
	}
	var ctx context.Context
	var cancel context.CancelFunc
	if f.timeout > 0 {
		ctx, cancel = context.WithTimeout(a.ctx, f.timeout)
	} else {
		ctx, cancel = context.WithCancel(a.ctx)
	}
	a.mu.Lock()
	_, twice := a.running[f.id]
	full := twice || len(a.running)-a.waiting >= a.m.cfg.InFlightMax
	waits := 0
	if f.kind.waits() {
		full, waits = twice || a.waiting >= a.m.cfg.WaitingMax, 1
	}
	if !full {
		a.running[f.id] = cancel
		a.waiting += waits
	}
	a.mu.Unlock()
	if full {
		cancel()
		a.refuse(f.id, statusOverloaded)
		return
	}
	a.wg.Go(func() {
		answer, err := h(ctx, a.node, f.body)
		// The slot is kept until the answer has room: this bounds the memory
		// that a caller who does not read can hold.
		a.answer(f.id, answer, err)
		cancel()
		a.mu.Lock()
		delete(a.running, f.id)
		a.waiting -= waits
		a.mu.Unlock()
	})
}

// answer sends a handler's result as soon as there is room.
func (a *accepted) answer(id uint64, body []byte, err error) {
	f := frame{typ: frameResponse, id: id, status: statusOK, body: body}
	if err != nil {
		f.status, f.body = statusError, encodeError(asError(err))
	}
	if len(f.body)+frameOverhead > a.m.cfg.FrameBytesMax {
		f.status, f.body = statusTooLarge, nil
	}
	// An error here is the connection's end, which run reports.
	_ = a.out.pushWait(a.ctx, &f)
}

func (a *accepted) takeCancel(id uint64) {
	a.mu.Lock()
	cancel := a.running[id]
	s := a.streams[id]
	a.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	if s != nil {
		s.end(errors.New("the sender gave the snapshot up"))
	}
}
