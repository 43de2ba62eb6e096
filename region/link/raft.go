package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// RaftTransport carries one raft group of this node over the links of a Mux.
// It is a raft.Transport with pre-vote and Close. Addresses are node names.
//
//	R1  A request reaches raft only if it names this group and this server
//	    id: a node that lost its disk has the old address and a new id, and
//	    must not vote or acknowledge in place of the server it was.
//	R2  The AppendEntries of one connection reach raft in the order sent.
//	R3  An RPC that failed never looks like contact with the follower, so
//	    that it extends no leader's lease.
type RaftTransport struct {
	m        *Mux
	group    uint32
	id       raft.ServerID
	addr     raft.ServerAddress
	consumer chan raft.RPC
	beat     atomic.Pointer[func(raft.RPC)] // raft's fast path; nil until set
	ctx      context.Context                // ends with Close, of this or of the Mux
	cancel   context.CancelCauseFunc

	mu      sync.Mutex                       // guards beats, and adding to beating
	beats   map[raft.ServerAddress]time.Time // when the last heartbeat ended
	beating sync.WaitGroup                   // heartbeats that raft has; none are added after Close
}

var (
	_ raft.Transport   = (*RaftTransport)(nil)
	_ raft.WithPreVote = (*RaftTransport)(nil)
	_ raft.WithClose   = (*RaftTransport)(nil)
)

// Raft returns the transport of one raft group, where this node is server
// self and is reached at addr, its node name. From now on frames for that
// group and id come to it. The newest transport owns a group: one made
// before is closed, so that it neither sends nor receives any more.
func (m *Mux) Raft(group uint32, self raft.ServerID, addr raft.ServerAddress) *RaftTransport {
	t := &RaftTransport{
		m:        m,
		group:    group,
		id:       self,
		addr:     addr,
		consumer: make(chan raft.RPC),
		beats:    make(map[raft.ServerAddress]time.Time),
	}
	t.ctx, t.cancel = context.WithCancelCause(m.ctx)
	m.mu.Lock()
	old := m.groups[group]
	m.groups[group] = t
	m.mu.Unlock()
	if old != nil {
		old.cancel(ErrClosed)
	}
	return t
}

// Close makes the group unknown at this node and fails its RPCs under way
// with ErrClosed; it returns when raft has no heartbeat in hand. It leaves the
// Mux alone. Closing twice is fine.
func (t *RaftTransport) Close() error {
	t.m.mu.Lock()
	if t.m.groups[t.group] == t {
		delete(t.m.groups, t.group)
	}
	t.m.mu.Unlock()
	t.mu.Lock()
	t.cancel(ErrClosed)
	t.mu.Unlock()
	t.beating.Wait()
	return nil
}

// beatHandler returns raft's fast path, nil when there is none any more.
// Otherwise beating.Done must be called when it has returned.
func (t *RaftTransport) beatHandler() func(raft.RPC) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fn := t.beat.Load()
	if fn == nil || t.ctx.Err() != nil {
		return nil
	}
	t.beating.Add(1)
	return *fn
}

// Consumer returns the channel on which raft takes the requests of others.
func (t *RaftTransport) Consumer() <-chan raft.RPC { return t.consumer }

// LocalAddr returns this node's name.
func (t *RaftTransport) LocalAddr() raft.ServerAddress { return t.addr }

// EncodePeer returns the node name as bytes.
func (t *RaftTransport) EncodePeer(_ raft.ServerID, addr raft.ServerAddress) []byte {
	return []byte(addr)
}

// DecodePeer undoes EncodePeer.
func (t *RaftTransport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler sets raft's fast path, which must answer or drop a
// request before it returns.
func (t *RaftTransport) SetHeartbeatHandler(fn func(raft.RPC)) {
	if fn == nil {
		t.beat.Store(nil)
		return
	}
	t.beat.Store(&fn)
}

// AppendEntries sends entries or a heartbeat and waits for the answer. What
// does not fit one frame goes as several requests; the answer is then that of
// the last one, or of the first that did not succeed.
func (t *RaftTransport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if isHeartbeat(args) {
		return t.heartbeat(id, target, args, resp)
	}
	parts, err := splitEntries(args, t.bodyMax(id))
	if err != nil {
		return t.wrap("append entries", target, err)
	}
	for _, part := range parts {
		err := t.rpc(target, id, opAppend, "append entries",
			func(b []byte) []byte { return appendAppendRequest(b, part) },
			func(b []byte) error { return decodeAppendResponse(b, resp) })
		if err != nil || !resp.Success {
			return err
		}
	}
	return nil
}

// heartbeat sends a regular heartbeat along with others. One that comes
// sooner than raft's own rhythm was asked for by VerifyLeader: a read waits
// for it, so it is not held.
func (t *RaftTransport) heartbeat(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	t.mu.Lock()
	regular := time.Since(t.beats[target]) >= t.m.cfg.HeartbeatInterval
	t.mu.Unlock()
	var flags uint8
	if !regular {
		flags = flagUrgent
	}
	err := t.exchange(target, id, opHeartbeat, "heartbeat", t.m.cfg.HeartbeatTimeout, flags, regular,
		func(b []byte) []byte { return appendAppendRequest(b, args) },
		func(b []byte) error { return decodeAppendResponse(b, resp) })
	t.mu.Lock()
	t.beats[target] = time.Now()
	t.mu.Unlock()
	return err
}

// RequestVote asks for a vote.
func (t *RaftTransport) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return t.rpc(target, id, opVote, "request vote",
		func(b []byte) []byte { return appendVoteRequest(b, args) },
		func(b []byte) error { return decodeVoteResponse(b, resp) })
}

// RequestPreVote asks whether a vote would be given.
func (t *RaftTransport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return t.rpc(target, id, opPreVote, "request pre-vote",
		func(b []byte) []byte { return appendPreVoteRequest(b, args) },
		func(b []byte) error { return decodePreVoteResponse(b, resp) })
}

// TimeoutNow tells a follower to start an election: a leadership transfer.
func (t *RaftTransport) TimeoutNow(id raft.ServerID, target raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return t.rpc(target, id, opTimeoutNow, "timeout now",
		func(b []byte) []byte { return appendTimeoutNowRequest(b, args) },
		func(b []byte) error { return decodeTimeoutNowResponse(b, resp) })
}

func (t *RaftTransport) rpc(target raft.ServerAddress, id raft.ServerID, op raftOp, what string, enc func([]byte) []byte, dec func([]byte) error) error {
	return t.exchange(target, id, op, what, t.m.cfg.RaftTimeout, 0, false, enc, dec)
}

// exchange sends one request and decodes its answer on this goroutine, so
// that an answer after the time limit touches nothing of raft's.
func (t *RaftTransport) exchange(target raft.ServerAddress, id raft.ServerID, op raftOp, what string, limit time.Duration, flags uint8, held bool, enc func([]byte) []byte, dec func([]byte) error) error {
	ctx, cancel := context.WithTimeout(t.ctx, limit)
	defer cancel()
	c, err := t.connect(ctx, target)
	if err != nil {
		return t.wrap(what, target, err)
	}
	p, err := t.start(ctx, c, op, id, flags, held, false, enc)
	if err != nil {
		return t.wrap(what, target, err)
	}
	answer, err := c.wait(ctx, p)
	if err == nil {
		err = dec(answer)
	}
	return t.wrap(what, target, err)
}

func (t *RaftTransport) wrap(what string, target raft.ServerAddress, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("raft group %d: %s to %s: %w", t.group, what, target, err)
}

// bodyMax is what a frame to server id leaves for an encoded RPC.
func (t *RaftTransport) bodyMax(id raft.ServerID) int {
	return t.m.cfg.FrameBytesMax - frameOverhead - len(appendEnvelope(nil, opAppend, t.group, id))
}

// connect is Mux.connect for raft. Raft never talks to itself; a server that
// has this node's address and is not this one is who this node was before.
func (t *RaftTransport) connect(ctx context.Context, target raft.ServerAddress) (*dialed, error) {
	if t.ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", ErrClosed, ErrUnreachable)
	}
	if string(target) == t.m.cfg.Self {
		return nil, fmt.Errorf("%w: %s is this node", ErrWrongServer, target)
	}
	return t.m.connect(ctx, string(target))
}

// scratch keeps encoding buffers; frames are copied out of them.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

// start encodes a request and puts it on c.
func (t *RaftTransport) start(ctx context.Context, c *dialed, op raftOp, id raft.ServerID, flags uint8, held, credit bool, enc func([]byte) []byte) (*pending, error) {
	buf := scratch.Get().(*[]byte)
	defer func() {
		if cap(*buf) <= keepBytesMax {
			scratch.Put(buf)
		}
	}()
	*buf = enc(appendEnvelope((*buf)[:0], op, t.group, id))
	if len(*buf)+frameOverhead > t.m.cfg.FrameBytesMax {
		return nil, fmt.Errorf("%w: %d bytes, bound %d", ErrTooLarge, len(*buf), t.m.cfg.FrameBytesMax)
	}
	return c.startRaft(ctx, *buf, flags, held, credit)
}

// raftRequest is a raft RPC that came in and passed R1.
type raftRequest struct {
	t        *RaftTransport
	op       raftOp
	id       uint64
	urgent   bool
	deadline time.Time // when its sender gives up; zero: never
	body     []byte
}

// lane is a queue of requests that one goroutine works off in order. A lane
// is in the map exactly while it has its goroutine.
type lane struct{ queue []raftRequest }

const (
	laneMax   = 64              // requests of one group waiting; raft keeps a handful in flight
	beatsMax  = 4096            // heartbeats waiting, of all groups
	beatsLane = uint64(1) << 32 // above every group's number
	installs  = 64              // snapshots coming in at once on one connection
)

// takeRaft checks a raft request against R1 and queues it.
func (a *accepted) takeRaft(f frame) error {
	e, err := decodeEnvelope(f.body)
	if err != nil {
		return err
	}
	t := a.m.group(e.group)
	if t == nil || t.id != e.target {
		a.m.log.Debug("raft frame for a server that is not here", slog.String("peer", a.node), slog.Uint64("shard", uint64(e.group)), slog.String("target", string(e.target)))
		a.m.cfg.Events.refused(Refused{From: a.node, Group: e.group, Target: e.target})
		a.refuse(f.id, statusWrongServer)
		return nil
	}
	q := raftRequest{t: t, op: e.op, id: f.id, urgent: f.flags&flagUrgent != 0, body: e.body}
	if f.timeout > 0 {
		q.deadline = time.Now().Add(f.timeout)
	}
	queued := false
	switch {
	case e.op == opSnapshot:
		return a.takeSnapshot(q)
	case e.op == opHeartbeat && t.beat.Load() != nil:
		queued = a.queue(beatsLane, beatsMax, q, a.answerBeat)
	default:
		queued = a.queue(uint64(e.group), laneMax, q, a.answerRaft)
	}
	if !queued {
		a.refuse(f.id, statusOverloaded)
	}
	return nil
}

// queue appends q to a lane, and starts the lane's goroutine if it has none.
func (a *accepted) queue(key uint64, bound int, q raftRequest, work func(raftRequest)) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.lanes[key]
	if l != nil {
		if len(l.queue) >= bound {
			return false
		}
		l.queue = append(l.queue, q)
		return true
	}
	l = &lane{queue: []raftRequest{q}}
	a.lanes[key] = l
	a.wg.Go(func() {
		for {
			q, ok := a.nextOf(key, l)
			if !ok {
				return
			}
			work(q)
		}
	})
	return true
}

func (a *accepted) nextOf(key uint64, l *lane) (raftRequest, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(l.queue) == 0 || a.err != nil {
		delete(a.lanes, key)
		return raftRequest{}, false
	}
	q := l.queue[0]
	l.queue[0] = raftRequest{}
	l.queue = l.queue[1:]
	return q, true
}

// answerBeat takes a heartbeat through raft's fast path. Raft answers before
// the handler returns, or not at all when it is shutting down.
func (a *accepted) answerBeat(q raftRequest) {
	cmd, err := decodeCommand(q.op, q.body)
	if err != nil {
		a.fail(err)
		return
	}
	take := q.t.beatHandler()
	if take == nil {
		a.refuse(q.id, statusWrongServer)
		return
	}
	answers := make(chan raft.RPCResponse, 1)
	take(raft.RPC{Command: cmd, RespChan: answers})
	q.t.beating.Done()
	select {
	case r := <-answers:
		a.replyRaft(q, r)
	default:
		a.refuse(q.id, statusWrongServer)
	}
}

// answerRaft takes a request through raft's main loop. It gives up when the
// sender has: a vote or entries nobody waits for are better not taken.
func (a *accepted) answerRaft(q raftRequest) {
	cmd, err := decodeCommand(q.op, q.body)
	if err != nil {
		a.fail(err)
		return
	}
	var late <-chan time.Time
	if !q.deadline.IsZero() {
		left := time.Until(q.deadline)
		if left <= 0 {
			return
		}
		timer := time.NewTimer(left)
		defer timer.Stop()
		late = timer.C
	}
	a.consult(q, raft.RPC{Command: cmd}, late)
}

// consult hands a request to raft and sends the answer on.
func (a *accepted) consult(q raftRequest, rpc raft.RPC, late <-chan time.Time) {
	answers := make(chan raft.RPCResponse, 1) // raft never waits for us
	rpc.RespChan = answers
	select {
	case q.t.consumer <- rpc:
	case <-q.t.ctx.Done():
		a.refuse(q.id, statusWrongServer)
		return
	case <-a.done:
		return
	case <-late:
		return
	}
	select {
	case r := <-answers:
		a.replyRaft(q, r)
	case <-q.t.ctx.Done():
		a.refuse(q.id, statusWrongServer)
	case <-a.done:
	case <-late:
	}
}

func (a *accepted) replyRaft(q raftRequest, r raft.RPCResponse) {
	f := frame{typ: frameResponse, id: q.id, status: statusOK}
	if r.Error != nil {
		f.status, f.body = statusError, encodeError(&Error{Message: r.Error.Error()})
	} else {
		var small [128]byte
		f.body = appendAnswer(small[:0], r.Response)
	}
	a.send(&f, q.op == opHeartbeat && !q.urgent)
}

// snapshotBytes is the largest piece of a snapshot in one frame: small, so
// that other frames get between.
const snapshotBytes = 64 << 10

// InstallSnapshot streams a snapshot, as fast as the follower takes it: it
// tells how many bytes it has room for. Neither end holds more than the
// window. The time limits are on progress and on the answer, not on the whole.
func (t *RaftTransport) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	begin := time.Now()
	sent, err := t.sendSnapshot(id, target, args, resp, data)
	err = t.wrap("install snapshot", target, err)
	t.m.cfg.Events.snapshotSent(SnapshotSent{
		Node: string(target), Group: t.group, Target: id, Index: args.LastLogIndex,
		Bytes: sent, Duration: time.Since(begin), Err: err,
	})
	return err
}

func (t *RaftTransport) sendSnapshot(id raft.ServerID, target raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) (sent int64, err error) {
	c, err := t.connect(t.ctx, target)
	if err != nil {
		return 0, err
	}
	p, err := t.start(t.ctx, c, opSnapshot, id, 0, false, true,
		func(b []byte) []byte { return appendSnapshotRequest(b, args) })
	if err != nil {
		return 0, err
	}
	u := upload{t: t, c: c, p: p, stall: time.NewTimer(t.m.cfg.SnapshotStall)}
	defer u.stall.Stop()
	if err := u.stream(data, args.Size); err != nil {
		c.abandon(p)
		return u.sent, err
	}
	answer, err := u.answer()
	if err != nil {
		return u.sent, err
	}
	return u.sent, decodeSnapshotResponse(answer, resp)
}

// upload is one snapshot on its way out.
type upload struct {
	t     *RaftTransport
	c     *dialed
	p     *pending
	stall *time.Timer
	sent  int64
	early *reply // the answer, when it came before the end
}

// stream sends size bytes, or fewer when the answer comes first.
func (u *upload) stream(data io.Reader, size int64) error {
	buf := make([]byte, min(snapshotBytes, u.t.m.cfg.FrameBytesMax-frameOverhead))
	for u.sent < size {
		piece := buf[:min(int64(len(buf)), size-u.sent)]
		if _, err := io.ReadFull(data, piece); err != nil {
			return fmt.Errorf("read snapshot after %d of %d bytes: %w", u.sent, size, err)
		}
		for len(piece) > 0 {
			n, err := u.room(len(piece))
			if err != nil || u.early != nil {
				return err
			}
			if err := u.c.out.pushWait(u.t.ctx, &frame{typ: frameChunk, id: u.p.id, body: piece[:n]}); errors.Is(err, errGone) {
				return fmt.Errorf("%w: after %d bytes", ErrConnectionLost, u.sent)
			} else if err != nil {
				return err
			}
			u.sent += int64(n)
			piece = piece[n:]
		}
	}
	return nil
}

// room waits for credit and takes up to want of it.
func (u *upload) room(want int) (int, error) {
	u.stall.Reset(u.t.m.cfg.SnapshotStall)
	for {
		if n := u.c.takeCredit(u.p, want); n > 0 {
			return n, nil
		}
		select {
		case <-u.p.credit:
		case r := <-u.p.answer:
			u.early = &r
			return 0, nil
		case <-u.stall.C:
			return 0, fmt.Errorf("no progress for %v after %d bytes: %w", u.t.m.cfg.SnapshotStall, u.sent, context.DeadlineExceeded)
		case <-u.t.ctx.Done():
			return 0, ended(u.t.ctx)
		}
	}
}

func (u *upload) answer() ([]byte, error) {
	if u.early != nil {
		return u.early.result(u.c.p.node)
	}
	ctx, cancel := context.WithTimeout(u.t.ctx, u.t.m.cfg.SnapshotAnswer)
	defer cancel()
	return u.c.wait(ctx, u.p)
}

// grant adds credit that the follower sent.
func (c *dialed) grant(id, count uint64) {
	c.mu.Lock()
	p := c.calls[id]
	if p != nil {
		// A window is at most 64 MiB; more is nonsense and does no good.
		p.credits = min(p.credits+int64(min(count, 64<<20)), 64<<20)
	}
	c.mu.Unlock()
	if p != nil && p.credit != nil {
		select {
		case p.credit <- struct{}{}:
		default:
		}
	}
}

func (c *dialed) takeCredit(p *pending, want int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(int64(want), p.credits)
	p.credits -= n
	return int(n)
}

// stream is one snapshot on its way in: the reader that raft drains.
type stream struct {
	a      *accepted
	id     uint64
	window int
	notify chan struct{} // capacity 1: something changed

	mu      sync.Mutex
	chunks  [][]byte // received, not read
	held    int      // bytes in chunks
	awaited int64    // bytes not yet received
	owed    int      // bytes of room not yet told to the sender
	err     error    // the sender or the connection gave up
}

// takeSnapshot lets raft read a snapshot as it arrives, on its own goroutine.
func (a *accepted) takeSnapshot(q raftRequest) error {
	cmd, err := decodeSnapshotRequest(q.body)
	if err != nil {
		return err
	}
	s := &stream{
		a:       a,
		id:      q.id,
		window:  a.m.cfg.SnapshotWindow,
		notify:  make(chan struct{}, 1),
		awaited: cmd.Size,
		owed:    a.m.cfg.SnapshotWindow,
	}
	a.mu.Lock()
	_, twice := a.streams[q.id]
	full := twice || len(a.streams) >= installs
	if !full {
		a.streams[q.id] = s
	}
	a.mu.Unlock()
	if full {
		a.refuse(q.id, statusOverloaded)
		return nil
	}
	a.wg.Go(func() {
		a.consult(q, raft.RPC{Command: cmd, Reader: s}, nil)
		s.end(errors.New("the snapshot was answered"))
		a.mu.Lock()
		delete(a.streams, q.id)
		a.mu.Unlock()
	})
	return nil
}

// takeChunk gives a piece to its stream; one that ended needs it no more.
func (a *accepted) takeChunk(f frame) error {
	a.mu.Lock()
	s := a.streams[f.id]
	a.mu.Unlock()
	if s == nil {
		return nil
	}
	return s.put(f.body)
}

func (s *stream) put(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil
	}
	if len(b) == 0 || s.held+len(b) > s.window || int64(len(b)) > s.awaited {
		return fmt.Errorf("%w: snapshot piece of %d bytes: %d of window %d in use, %d awaited", errFrame, len(b), s.held, s.window, s.awaited)
	}
	s.chunks = append(s.chunks, b)
	s.held += len(b)
	s.awaited -= int64(len(b))
	s.signal()
	return nil
}

func (s *stream) signal() {
	select {
	case s.notify <- struct{}{}:
	default:
	}
}

// end makes reads fail once what arrived is read.
func (s *stream) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.signal()
}

// Read gives raft what arrived and tells the sender of the room made. Room is
// told of only once raft reads, so a queued snapshot holds no memory.
func (s *stream) Read(b []byte) (int, error) {
	for {
		n, credit, err := s.next(b)
		if credit > 0 {
			s.a.send(&frame{typ: frameCredit, id: s.id, count: uint64(credit)}, false)
		}
		if n > 0 || err != nil || len(b) == 0 {
			return n, err
		}
		select {
		case <-s.notify:
		case <-s.a.done:
			return 0, io.ErrUnexpectedEOF
		}
	}
}

func (s *stream) next(b []byte) (n, credit int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.chunks) > 0 {
		n = copy(b, s.chunks[0])
		s.held -= n
		s.owed += n
		if s.chunks[0] = s.chunks[0][n:]; len(s.chunks[0]) == 0 {
			s.chunks[0] = nil
			s.chunks = s.chunks[1:]
		}
	}
	switch {
	case n > 0:
	case s.awaited == 0:
		return 0, 0, io.EOF
	case s.err != nil:
		return 0, 0, fmt.Errorf("snapshot cut short with %d bytes missing: %w", s.awaited, s.err)
	}
	if s.awaited > 0 && s.owed >= s.window/4 {
		credit, s.owed = s.owed, 0
	}
	return n, credit, nil
}
