package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/store"
)

// inFlightMax is how many entries are between Propose and their answers.
// While they are, later commands gather for the next one: the busier the
// shard, the more commands share a disk sync.
const inFlightMax = 2

// commandsMax bounds the commands of one entry, and so the time that one
// entry takes to apply.
const commandsMax = 512

// enqueueWait bounds how long Raft may take to accept an entry.
const enqueueWait = time.Second

type proposal struct {
	ctx  context.Context
	cmd  *regionv1.Command
	size int
	done chan result // room for one: nobody has to take it
}

type result struct {
	outcome *regionv1.Outcome
	err     error
}

// Propose puts a command into the shard's log and returns what it did once
// a majority has it on disk and this node has applied it. When ctx ends
// after the command was taken, the error wraps ErrOutcomeUnknown.
func (s *Shard) Propose(ctx context.Context, cmd *regionv1.Command) (*regionv1.Outcome, error) {
	if spend := cmd.GetSpend(); spend != nil {
		return s.proposeSpend(ctx, spend)
	}
	return s.commit(ctx, cmd)
}

func (s *Shard) commit(ctx context.Context, cmd *regionv1.Command) (*regionv1.Outcome, error) {
	if !s.Leads() || s.draining.Load() {
		return nil, s.notLeader()
	}
	if err := s.check(cmd); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	p := &proposal{ctx: ctx, cmd: cmd, size: proto.Size(cmd), done: make(chan result, 1)}
	if limit := max(s.cfg.EntryBytesMax, s.cfg.CommandBytesMax); p.size > limit {
		return nil, fmt.Errorf("%w: %d bytes, an entry holds %d", ErrTooLarge, p.size, limit)
	}
	select {
	case s.queue <- p:
	default:
		return nil, ErrOverloaded
	}
	select {
	case r := <-p.done:
		return r.outcome, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrOutcomeUnknown, ctx.Err())
	case <-s.stopped:
	}
	select {
	case r := <-p.done:
		return r.outcome, r.err
	default: // not proposed, and never will be
		return nil, s.notLeader()
	}
}

// combine packs waiting commands into entries until ctx ends. When it
// returns, all that was proposed is answered; who waits with anything else is
// told by stopped.
func (s *Shard) combine(ctx context.Context) {
	slots := make(chan struct{}, inFlightMax)
	var first *proposal // did not fit the entry before
	defer func() {
		for range inFlightMax {
			slots <- struct{}{}
		}
		close(s.stopped)
	}()
	for {
		if first == nil {
			select {
			case <-ctx.Done():
				return
			case first = <-s.queue:
			}
		}
		select {
		case <-ctx.Done():
			return
		case slots <- struct{}{}:
		}
		var batch []*proposal
		batch, first = s.gather(first)
		if len(batch) == 0 {
			<-slots
			continue
		}
		s.propose(batch, func() { <-slots })
	}
}

// gather takes what waits, up to an entry's bounds; rest is the first
// command that did not fit. Commands whose callers have gone are dropped:
// they were told that the outcome is unknown, and nothing is one.
func (s *Shard) gather(first *proposal) (batch []*proposal, rest *proposal) {
	bytes := 0
	for p := first; ; {
		if p.ctx.Err() == nil {
			if bytes+p.size > s.cfg.EntryBytesMax && len(batch) > 0 {
				return batch, p
			}
			bytes += p.size
			batch = append(batch, p)
		}
		if len(batch) == commandsMax {
			return batch, nil
		}
		select {
		case p = <-s.queue:
		default:
			return batch, nil
		}
	}
}

// entry makes a log entry of commands, with all that decides their outcome.
func (s *Shard) entry(commands []*regionv1.Command) *regionv1.Entry {
	l := s.cfg.Limits
	lives := l.Lives.Of()
	return &regionv1.Entry{
		Level: formatLevel,
		At:    uint64(crdt.TimestampAt(s.cfg.Clock().UnixMilli())),
		Limits: &regionv1.Limits{
			Lines: l.Lines, Quantity: l.Quantity, OpLifeMs: uint64(l.OpLife.Milliseconds()),
			Codes: l.Codes, UndoMs: uint64(l.Undo.Milliseconds()),
			GuestLifeMs: lives.Guest, UserLifeMs: lives.User, SavedLifeMs: lives.Saved,
		},
		Commands: commands,
	}
}

func (s *Shard) propose(batch []*proposal, done func()) {
	commands := make([]*regionv1.Command, len(batch))
	for i, p := range batch {
		commands[i] = p.cmd
	}
	data, err := marshal(s.entry(commands))
	if err != nil {
		done()
		fail(batch, fmt.Errorf("encode entry: %w", err))
		return
	}
	// Apply hands the entry over here, so entries keep their order; only the
	// answer is waited for elsewhere.
	future := s.raft.Apply(data, enqueueWait)
	go func() {
		defer done()
		if err := future.Error(); err != nil {
			fail(batch, s.applyError(err))
			return
		}
		outcomes, ok := future.Response().(answer)
		if !ok || len(outcomes) != len(batch) {
			fail(batch, fmt.Errorf("%w: the entry was applied before", ErrOutcomeUnknown))
			return
		}
		for i, p := range batch {
			p.done <- result{outcome: outcomes[i]}
		}
	}()
}

func fail(batch []*proposal, err error) {
	for _, p := range batch {
		p.done <- result{err: err}
	}
}

// applyError tells what was certainly not proposed from what may have been.
func (s *Shard) applyError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return s.notLeader()
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return ErrOverloaded
	}
	return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
}

// housekeep proposes what only time brings about: forgetting delta log rows
// that every peer has, and op ids past their life.
func (s *Shard) housekeep(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !s.Leads() || s.draining.Load() {
			continue
		}
		s.keep(ctx, func() *regionv1.Command { return s.trimCommand(n%10 == 0) })
		s.keep(ctx, s.scrubs())
		if n%10 == 0 {
			s.keep(ctx, s.expireCommand)
		}
	}
}

// keep proposes commands until there is none: a shard must forget as fast as
// it writes.
func (s *Shard) keep(ctx context.Context, next func() *regionv1.Command) {
	for cmd := next(); cmd != nil; cmd = next() {
		one, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := s.Propose(one, cmd)
		cancel()
		if err != nil {
			s.log.Debug("housekeeping", slog.Any("err", err))
			return
		}
	}
}

// trimCommand returns nil when nothing is worth an entry: a full batch of
// rows always is, less than that when told to tidy.
func (s *Shard) trimCommand(tidy bool) *regionv1.Command {
	m := s.fsm.marker()
	all, any := s.acknowledged(m)
	to := min(all, m.Seq)
	if m.Seq > s.cfg.RetainRows {
		// A peer that is away longer is repaired. But what no region has stays: if
		// this one is fenced, the rows are all that tells what to write anew.
		to = max(to, min(m.Seq-s.cfg.RetainRows, any))
	}
	if to <= m.Trimmed || !tidy && to-m.Trimmed < trimMax {
		return nil
	}
	return &regionv1.Command{Command: &regionv1.Command_TrimLog{TrimLog: &regionv1.TrimLog{Seq: to}}}
}

func (s *Shard) expireCommand() *regionv1.Command {
	var oldest crdt.Timestamp
	var ok bool
	err := s.fsm.read(func(sp *store.Space) (err error) {
		oldest, ok, err = sp.OldestOp()
		return err
	})
	var undone []string
	if err == nil {
		err = s.fsm.read(func(sp *store.Space) (err error) {
			undone, err = sp.RemovedBefore(crdt.TimestampAt(s.cfg.Clock().Add(-s.cfg.Limits.Undo).UnixMilli()), undoneMax)
			return err
		})
	}
	// An entry's time is in whole milliseconds, an op's may be a little after one.
	old := ok && time.Since(time.UnixMilli(oldest.UnixMilli())) > s.cfg.Limits.OpLife+time.Millisecond
	if err != nil || !old && len(undone) == 0 {
		return nil
	}
	return &regionv1.Command{Command: &regionv1.Command_ExpireOps{ExpireOps: &regionv1.ExpireOps{Limit: expireMax, Undone: undone}}}
}
