package shard

import (
	"errors"
	"fmt"
	"slices"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/store"
)

// A guest's cart and a user's are two shards' matter as a rule, and there is no
// transaction over both:
//
//	M1  CloseGuest writes into the guest's cart whose it is now. From then on each
//	    change of it leaves a mark (store, S5), and the leader of its shard joins
//	    it into the user's, in every region for itself.
//	M2  JoinGuest is a join. It is made by the login itself, so that its answer
//	    shows the lines, and again for the mark; nothing depends on how often.
//	M3  A guest's cart is never emptied by a merge, and its lines are never taken
//	    for removed: what was merged keeps standing in both.

// writer is whom the shard writes a cart for, at the next moment.
func (w *workspace) writer(id string) crdt.Writer {
	m := w.tx.Marker()
	return crdt.Writer{
		Replica: crdt.Replica{Region: m.Region, Incarnation: m.Incarnation},
		At:      w.now(), QuantityMax: w.limits.Quantity, Floor: w.tx.Floor(w.slots.Of(id)).Seq,
	}
}

// closeGuest applies a CloseGuest.
func (w *workspace) closeGuest(c *regionv1.CloseGuest) (*regionv1.Outcome, error) {
	id := c.GuestCartId
	old, err := w.record(id)
	if err != nil {
		return nil, err
	}
	if !w.members.TakesEdits(uint32(w.tx.Marker().Region)) {
		return w.refused(id, old, 0, refusal{code: regionv1.Outcome_CODE_FENCED}), nil
	}
	state, rec := stateOf(old), old
	_, merged := state.Cart.Fact(crdt.FactMerged, c.UserCartId)
	if !merged {
		for range state.Cart.Facts(crdt.FactMerged) {
			return w.refused(id, old, 0, refusal{code: regionv1.Outcome_CODE_ALREADY_MERGED}), nil
		}
	}
	if !merged && state.Cart.Joins() {
		wr := w.writer(id)
		d := state.Cart.SetFact(wr, crdt.FactMerged, c.UserCartId, "")
		w.tx.AppendRow(crdt.Row{CartID: id, At: wr.At, Delta: d})
		state.Cart, state.Active = state.Cart.Apply(d), state.Active.Join(crdt.Active{At: wr.At, Region: wr.Replica.Region})
		asked, err := w.asked(id, old)
		if err != nil {
			return nil, err
		}
		rec = w.put(id, old, state, asked)
	}
	out := w.outcome(id, rec)
	out.GuestState = state.Encode(nil)
	return out, nil
}

// joinGuest applies a JoinGuest.
func (w *workspace) joinGuest(j *regionv1.JoinGuest) (*regionv1.Outcome, error) {
	old, err := w.record(j.CartId)
	if err != nil {
		return nil, err
	}
	if !w.members.TakesEdits(uint32(w.tx.Marker().Region)) {
		return w.refused(j.CartId, old, 0, refusal{code: regionv1.Outcome_CODE_FENCED}), nil
	}
	if j.Gone {
		return w.forgetGuest(j, old)
	}
	guest, err := crdt.DecodeState(j.State)
	if err != nil {
		return nil, fmt.Errorf("guest %q of cart %q at index %d: %w", j.GuestCartId, j.CartId, w.index, err)
	}
	if stateOf(old).Cart.IsErased() {
		return w.joinErased(j.CartId, old, guest.Cart), nil
	}
	state, wr := stateOf(old), w.writer(j.CartId)
	m := state.MergeGuest(wr, crdt.Guest{ID: j.GuestCartId, State: guest, Shared: j.Shared}, crdt.MergeRule(j.Rule))
	ops := joinOps(state.Ops, byDot(guest.Ops))
	active := state.Active.Join(guest.Active)
	for _, d := range m.Deltas {
		active = active.Join(crdt.Active{At: wr.At, Region: wr.Replica.Region})
		w.tx.AppendRow(crdt.Row{CartID: j.CartId, At: wr.At, Delta: d, Ops: opsIn(ops, d.Context)})
	}
	held := crdt.CausalContext{}
	for _, e := range m.Cart.Lines {
		held = held.Join(e.Line.Dots())
	}
	oldest := w.opHorizon()
	ops = slices.DeleteFunc(ops, func(o crdt.Op) bool { return o.At < oldest || !held.Has(o.Dot) })
	rec := old
	if !m.Cart.Equal(state.Cart) || !slices.Equal(ops, state.Ops) || active != state.Active {
		asked, err := w.asked(j.CartId, old)
		if err != nil {
			return nil, err
		}
		rec = w.put(j.CartId, old, crdt.State{Cart: m.Cart, Ops: ops, Active: active}, asked)
	}
	out := w.outcome(j.CartId, rec)
	out.Merged = &regionv1.MergedGuest{
		Items: uint32(m.Items), Conflicts: m.Conflicts.Encode(nil), Shared: slices.Contains(m.Cart.SharedGuests(), j.GuestCartId),
	}
	for _, d := range m.Decided {
		l := w.changed(m.Cart, d.Key, regionv1.Change_KIND_UNSPECIFIED)
		l.Quantities = []uint32{d.User, d.Guest}
		out.Lines = append(out.Lines, l)
	}
	return out, nil
}

// joinErased refuses a guest's cart where the user's was erased. That its writes were
// seen comes along: so it did in a region that joined them before it heard of the
// erasure, and regions are to be equal.
func (w *workspace) joinErased(id string, old *store.Record, guest *crdt.Cart) *regionv1.Outcome {
	rec := old
	if cart := crdt.Join(old.State.Cart, guest); !cart.Equal(old.State.Cart) {
		rec = w.put(id, old, crdt.State{Cart: cart, Active: old.State.Active}, store.Asked{})
	}
	return w.refused(id, rec, 0, refusal{code: regionv1.Outcome_CODE_ERASED})
}

// forgetGuest takes FactGuest out of a user's cart: what its context knows of the
// guest may go from then on, see crdt.Cart.Compact.
func (w *workspace) forgetGuest(j *regionv1.JoinGuest, old *store.Record) (*regionv1.Outcome, error) {
	state := stateOf(old)
	if _, named := state.Cart.Fact(crdt.FactGuest, j.GuestCartId); !named {
		return w.outcome(j.CartId, old), nil
	}
	wr := w.writer(j.CartId)
	d := state.Cart.DropFact(wr, crdt.FactGuest, j.GuestCartId)
	w.tx.AppendRow(crdt.Row{CartID: j.CartId, At: wr.At, Age: wr.At, Delta: d}) // no shopper's
	asked, err := w.asked(j.CartId, old)
	if err != nil {
		return nil, err
	}
	state.Cart = state.Cart.Apply(d)
	return w.outcome(j.CartId, w.put(j.CartId, old, state, asked)), nil
}

// guestForwarded applies a GuestForwarded.
func (w *workspace) guestForwarded(g *regionv1.GuestForwarded) (*regionv1.Outcome, error) {
	var d store.Digest
	copy(d[:], g.Digest)
	return &regionv1.Outcome{Index: w.index}, w.tx.ForwardedGuest(g.GuestCartId, d)
}

// markGuest marks a guest's cart that was merged and has changed.
func (w *workspace) markGuest(id string, old, r *store.Record) {
	c := r.State.Cart
	if len(c.Lines) == 0 || !c.Lines[0].Key.IsFact() || old != nil && old.Digest == r.Digest {
		return // nearly every write ends here: facts come first
	}
	for range c.Facts(crdt.FactMerged) {
		if c.Joins() {
			w.tx.MarkGuest(id, r.Digest)
		}
		return
	}
}

// markGone marks a merged guest's cart that is dropped. All regions have agreed that
// it has expired, so none of them forwards it any more.
func (w *workspace) markGone(id string, r *store.Record) {
	var users []string
	for user := range r.State.Cart.Facts(crdt.FactMerged) {
		users = append(users, user)
	}
	if len(users) > 0 {
		w.tx.MarkGone(id, users)
	}
}

// MarkedGuests lists guests' carts that are to be forwarded, see
// store.Space.MarkedGuests.
func (s *Shard) MarkedGuests(after string, limit int) (marks []store.GuestMark, err error) {
	err = s.fsm.read(func(sp *store.Space) (err error) {
		marks, err = sp.MarkedGuests(after, limit)
		return err
	})
	return marks, err
}

// GuestsMarked is closed when a guest's cart is marked after the call.
func (s *Shard) GuestsMarked() <-chan struct{} {
	s.fsm.mu.RLock()
	defer s.fsm.mu.RUnlock()
	return s.fsm.marked
}

// userIDBytesMax bounds the id of a user's cart, as that of every cart between
// regions.
const userIDBytesMax = 255

func (s *Shard) checkGuest(cmd *regionv1.Command) error {
	switch c := cmd.GetCommand().(type) {
	case *regionv1.Command_CloseGuest:
		user := c.CloseGuest.GetUserCartId()
		if n := len(user); n < 1 || n > userIDBytesMax || user == c.CloseGuest.GetGuestCartId() {
			return fmt.Errorf("guest %q cannot be merged into %.300q", c.CloseGuest.GetGuestCartId(), user)
		}
		return s.checkCart(c.CloseGuest.GetGuestCartId())
	case *regionv1.Command_JoinGuest:
		j := c.JoinGuest
		if !j.GetGone() {
			guest, err := crdt.DecodeState(j.GetState())
			if err != nil {
				return fmt.Errorf("state of guest %q: %w", j.GetGuestCartId(), err)
			}
			if !guest.Cart.IsOfGuests() {
				return fmt.Errorf("state of guest %q has dots of no guest's", j.GetGuestCartId())
			}
		}
		switch {
		case j.GetGuestCartId() == "" || j.GetGuestCartId() == j.GetCartId():
			return fmt.Errorf("guest %q cannot join %q", j.GetGuestCartId(), j.GetCartId())
		case regionv1.MergeRule_name[int32(j.GetRule())] == "":
			return fmt.Errorf("merge rule %d is not known here; install the version that sends it", j.GetRule())
		}
		return s.checkCart(j.GetCartId())
	case *regionv1.Command_GuestForwarded:
		if n := len(c.GuestForwarded.GetDigest()); n != len(store.Digest{}) {
			return fmt.Errorf("digest of %d bytes, want %d", n, len(store.Digest{}))
		}
		return s.checkCart(c.GuestForwarded.GetGuestCartId())
	}
	return errors.New("no command of a guest's")
}
