package shard

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/store"
)

// Erasing a cart.
//
//	E1  With the fact that a cart was erased, in one transaction, what an undo would
//	    bring back goes, and no request of the cart is known any more. From then on
//	    the cart takes no edits, and what other regions send of it changes nothing.
//	E2  Rows of the delta log and remembered requests that tell of the cart are
//	    written again without it, in steps: the leader looks for them (Scrub).
//	E3  Then each member takes snapshots until no older one is left, and drops the
//	    entries of its log up to there, at most once every Timing.Forget.
//
// What the disk has is gone when files are: a log's file when it is full and all of its
// entries were dropped, an older value of a key in the database at its compaction.

// erasedOutcome answers an edit of an erased cart: erasing it again finds it done.
func (w *workspace) erasedOutcome(e *regionv1.Edit, r *store.Record) *regionv1.Outcome {
	if len(e.GetChanges()) == 1 && e.GetChanges()[0].GetKind() == regionv1.Change_KIND_ERASE {
		out := w.outcome(e.CartId, r)
		out.Lines = []*regionv1.ChangedLine{{Removed: true}}
		return out
	}
	return w.refused(e.CartId, r, 0, refusal{code: regionv1.Outcome_CODE_ERASED})
}

// forgets reports whether a cart has been erased, and if that is new, drops what is
// kept beside it (E1). The caller puts the record, without requests.
func (w *workspace) forgets(id string, old *store.Record, cart *crdt.Cart) bool {
	if !cart.IsErased() {
		return false
	}
	if !stateOf(old).Cart.IsErased() {
		w.tx.SetRemoved(id, nil)
		w.tx.MarkErased(id)
	}
	return true
}

// scrubMax bounds the rows and the requests of one Scrub: each writes a chunk of its
// series again.
const scrubMax = 8

// scrub does one step of E2.
func (w *workspace) scrub(s *regionv1.Scrub) (*regionv1.Outcome, error) {
	out := &regionv1.Outcome{Index: w.index}
	r, err := w.record(s.CartId)
	if err != nil {
		return nil, err
	}
	if !stateOf(r).Cart.IsErased() {
		s = &regionv1.Scrub{CartId: s.CartId, Done: s.Done} // nothing of it is to go
	}
	for _, n := range s.Rows {
		if err := w.tx.ScrubRow(s.CartId, n); err != nil {
			return nil, err
		}
	}
	for _, n := range s.Requests {
		if err := w.tx.ScrubRequest(s.CartId, n); err != nil {
			return nil, err
		}
	}
	if s.Done {
		w.tx.FinishScrub(s.CartId, w.index)
	}
	return out, nil
}

// scrubs returns what gives the commands that scrub all erased carts, one after the
// other, then nil.
func (s *Shard) scrubs() func() *regionv1.Command {
	var waiting []*regionv1.Command
	return func() *regionv1.Command {
		if len(waiting) == 0 {
			var err error
			if waiting, err = s.findTraces(); err != nil {
				s.log.Error("look for traces of an erased cart", slog.Any("err", err))
			}
		}
		if len(waiting) == 0 {
			return nil
		}
		next := waiting[0]
		waiting = waiting[1:]
		return next
	}
}

// findTraces makes the commands that scrub one erased cart.
func (s *Shard) findTraces() (commands []*regionv1.Command, err error) {
	err = s.fsm.read(func(sp *store.Space) error {
		commands = nil
		e, ok, err := sp.NextErased()
		if err != nil || !ok {
			return err
		}
		rows, ops, err := sp.Traces(e)
		if err != nil {
			return err
		}
		for {
			c := &regionv1.Scrub{CartId: e.CartID, Rows: rows[:min(len(rows), scrubMax)], Requests: ops[:min(len(ops), scrubMax)]}
			rows, ops = rows[len(c.Rows):], ops[len(c.Requests):]
			c.Done = len(rows)+len(ops) == 0
			commands = append(commands, &regionv1.Command{Command: &regionv1.Command_Scrub{Scrub: c}})
			if c.Done {
				return nil
			}
		}
	})
	return commands, err
}

// forgetLog does E3 on this member; done is the index up to which it did so before.
func (s *Shard) forgetLog(ctx context.Context, done uint64) (uint64, error) {
	var to uint64
	if err := s.fsm.read(func(sp *store.Space) (err error) {
		to, err = sp.Scrubbed()
		return err
	}); err != nil || to <= done {
		return done, err
	}
	// Raft keeps the two newest snapshots, and entries behind the newest.
	usual := s.raft.ReloadableConfig()
	none := usual
	none.TrailingLogs = 0
	if err := s.raft.ReloadConfig(none); err != nil {
		return done, err
	}
	defer func() {
		if err := s.raft.ReloadConfig(usual); err != nil {
			s.log.Error("set how much of the log is kept", slog.Any("err", err))
		}
	}()
	for range 2 {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		if err := s.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
			return done, err
		}
	}
	gone, err := s.hasForgotten(to)
	if err == nil && gone {
		s.log.Info("log and snapshots forgot erased carts", slog.Uint64("index", to))
		return to, nil
	}
	return done, err
}

// hasForgotten reports whether no snapshot and no entry is left of an index or before.
func (s *Shard) hasForgotten(index uint64) (bool, error) {
	first, err := s.stores.Log.FirstIndex()
	if err != nil || first != 0 && first <= index {
		return false, err
	}
	snapshots, err := s.stores.Snapshots.List()
	if err != nil {
		return false, err
	}
	for _, m := range snapshots {
		if m.Index < index {
			return false, nil
		}
	}
	return true, nil
}

// forget runs forgetLog until ctx ends.
func (s *Shard) forget(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var done uint64
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !last.IsZero() && time.Since(last) < s.cfg.Timing.Forget {
			continue
		}
		next, err := s.forgetLog(ctx, done)
		if err != nil {
			s.log.Warn("log not forgotten yet", slog.Any("err", err)) // tried again
		}
		if next > done {
			done, last = next, time.Now()
		}
	}
}
