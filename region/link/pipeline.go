package link

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// pipeline keeps a few AppendEntries under way to one follower, all on one
// connection. Answers are consumed in the order of the requests.
//
// A request that fails ends the pipeline and is not given to raft's consumer:
// raft v1.8.0 takes whatever comes out of a pipeline as contact with the
// follower, before it looks at the result (R3). It learns of the end by the
// next AppendEntries, which it sends at least every CommitTimeout.
type pipeline struct {
	t      *RaftTransport
	c      *dialed
	id     raft.ServerID
	target raft.ServerAddress
	ctx    context.Context
	cancel context.CancelCauseFunc
	slots  chan struct{}          // one token per request under way
	order  chan *appendFuture     // under way; has room for every slot
	ready  chan raft.AppendFuture // answered; a slot is free once raft's side has room
}

type appendFuture struct {
	p     *pipeline
	start time.Time
	args  *raft.AppendEntriesRequest
	resp  *raft.AppendEntriesResponse
	parts []*pending
	ctx   context.Context
	stop  context.CancelFunc
	done  chan struct{} // closed when err and resp are set
	err   error
}

// Error waits for the answer and returns why there is none.
func (f *appendFuture) Error() error {
	<-f.done
	return f.err
}

// Start returns when the request was sent.
func (f *appendFuture) Start() time.Time { return f.start }

// Request returns the request.
func (f *appendFuture) Request() *raft.AppendEntriesRequest { return f.args }

// Response returns the answer; valid after Error returned nil.
func (f *appendFuture) Response() *raft.AppendEntriesResponse { return f.resp }

func (f *appendFuture) finish(err error) {
	f.err = err
	f.stop()
	close(f.done)
}

// AppendEntriesPipeline opens a pipeline to a follower, which the caller must
// close.
func (t *RaftTransport) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	ctx, cancel := context.WithTimeout(t.ctx, t.m.cfg.RaftTimeout)
	defer cancel()
	c, err := t.connect(ctx, target)
	if err != nil {
		return nil, t.wrap("open pipeline", target, err)
	}
	n := t.m.cfg.PipelineInFlight
	p := &pipeline{
		t:      t,
		c:      c,
		id:     id,
		target: target,
		slots:  make(chan struct{}, n),
		order:  make(chan *appendFuture, n),
		ready:  make(chan raft.AppendFuture, n),
	}
	p.ctx, p.cancel = context.WithCancelCause(t.ctx)
	if !t.m.spawn(p.collect) {
		p.cancel(ErrClosed)
		return nil, t.wrap("open pipeline", target, fmt.Errorf("%w: %w", ErrClosed, ErrUnreachable))
	}
	return p, nil
}

// AppendEntries sends a request; it waits while too many are under way.
func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	select {
	case p.slots <- struct{}{}:
	case <-p.ctx.Done():
		return nil, p.ended()
	}
	if p.ctx.Err() != nil {
		return nil, p.ended()
	}
	f := &appendFuture{p: p, start: time.Now(), args: args, resp: resp, done: make(chan struct{})}
	f.ctx, f.stop = context.WithTimeout(p.ctx, p.t.m.cfg.RaftTimeout)
	if err := p.send(f); err != nil {
		p.cancel(err)
		f.finish(err)
		p.forget(f)
		return nil, p.t.wrap("pipeline", p.target, err)
	}
	p.order <- f
	if p.ctx.Err() != nil {
		p.drain() // collect may be past its own
	}
	return f, nil
}

func (p *pipeline) ended() error {
	return p.t.wrap("pipeline", p.target, fmt.Errorf("%w: %w", raft.ErrPipelineShutdown, context.Cause(p.ctx)))
}

func (p *pipeline) send(f *appendFuture) error {
	parts, err := splitEntries(f.args, p.t.bodyMax(p.id))
	if err != nil {
		return err
	}
	for _, part := range parts {
		call, err := p.t.start(f.ctx, p.c, opAppend, p.id, 0, false, false,
			func(b []byte) []byte { return appendAppendRequest(b, part) })
		if err != nil {
			return err
		}
		f.parts = append(f.parts, call)
	}
	return nil
}

// collect gives the answers to raft, in order, until one is missing.
func (p *pipeline) collect() {
	defer p.drain()
	for {
		select {
		case f := <-p.order:
			err := p.await(f)
			f.finish(err)
			if err != nil {
				p.forget(f)
				p.cancel(err)
				return
			}
			select {
			case p.ready <- f:
				<-p.slots
			case <-p.ctx.Done():
				return
			}
		case <-p.ctx.Done():
			return
		}
	}
}

// await sets the response of f: that of its last part, or of the first part
// that did not succeed.
func (p *pipeline) await(f *appendFuture) error {
	for _, call := range f.parts {
		answer, err := p.c.wait(f.ctx, call)
		if err != nil {
			return err
		}
		if err := decodeAppendResponse(answer, f.resp); err != nil {
			return err
		}
		if !f.resp.Success {
			p.forget(f)
			return nil
		}
	}
	return nil
}

// forget drops the calls of f that are still open.
func (p *pipeline) forget(f *appendFuture) {
	for _, call := range f.parts {
		p.c.abandon(call)
	}
}

// drain ends what is under way when the pipeline has ended.
func (p *pipeline) drain() {
	for {
		select {
		case f := <-p.order:
			p.forget(f)
			f.finish(p.ended())
		default:
			return
		}
	}
}

// Consumer returns the channel of answered requests.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.ready }

// Close ends the pipeline; requests under way fail with an error that wraps
// raft.ErrPipelineShutdown.
func (p *pipeline) Close() error {
	p.cancel(raft.ErrPipelineShutdown)
	return nil
}
