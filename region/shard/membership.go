package shard

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/samecart/samecart/crdt"
	membershipv1 "github.com/samecart/samecart/proto/membership/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/store"
)

// Membership returns the newest membership document that the shard has applied,
// nil when it has none: read only.
func (s *Shard) Membership() *membershipv1.Membership { return s.fsm.members.Load() }

// IsOfBefore reports whether the shard still has the carts of an incarnation that is
// over: the region is on its way in, and the shard has not begun again. Nobody may
// join them.
func (s *Shard) IsOfBefore() bool {
	m := s.Membership().Of(uint32(s.cfg.Region))
	return m.GetState() == membershipv1.State_STATE_JOINING && s.Marker().Incarnation < m.Incarnation
}

// loadMembership reads what the space has.
func loadMembership(sp *store.Space) (*membershipv1.Membership, error) {
	b, err := sp.Membership()
	if err != nil || b == nil {
		return nil, err
	}
	m := new(membershipv1.Membership)
	if err := unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("decode membership: %w", err)
	}
	return m, nil
}

// stable encodes a message so that every node stores the same bytes.
func stable(m proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// setMembership takes a newer document in. What was promised and accepted for its
// epoch is of no use any more.
func (w *workspace) setMembership(next *membershipv1.Membership) (*regionv1.Outcome, error) {
	if next.Newer(w.members) && next.Keeps(w.members) {
		b, err := stable(next)
		if err != nil {
			return nil, err
		}
		w.tx.SetMembership(b)
		w.tx.SetAcceptor(nil)
		w.members = next
	}
	return &regionv1.Outcome{Index: w.index}, nil
}

// vote answers for the region as an acceptor of the next document.
//
//	V1  A region votes under the incarnation that the document names: one that
//	    lost what it promised is another acceptor. Of one or two, all must vote
//	    for anything, so the other one remembers; and before a region is named
//	    with one, it must be able to say it.
func (w *workspace) vote(ask func(*membershipv1.Acceptor) *membershipv1.Vote) (*regionv1.Outcome, error) {
	out := &regionv1.Outcome{Index: w.index, Vote: &membershipv1.Vote{}}
	m := w.tx.Marker()
	if known := w.members.Of(uint32(m.Region)).GetIncarnation(); known != 0 && known != m.Incarnation && w.members.Voters() > 2 {
		return out, nil
	}
	var a membershipv1.Acceptor
	b, err := w.tx.Acceptor()
	if err == nil {
		err = unmarshal(b, &a)
	}
	if err != nil {
		return nil, fmt.Errorf("read acceptor: %w", err)
	}
	if out.Vote = ask(&a); !out.Vote.Granted {
		return out, nil
	}
	if b, err = stable(&a); err == nil {
		w.tx.SetAcceptor(b)
	}
	return out, err
}

// notJoining refuses what only a region does that is on its way in: it may have
// been fenced again since it was asked for.
func (w *workspace) notJoining(incarnation uint32) *regionv1.Outcome {
	m := w.members.Of(uint32(w.tx.Marker().Region))
	if m.GetState() == membershipv1.State_STATE_JOINING && m.Incarnation == incarnation {
		return nil
	}
	return &regionv1.Outcome{Code: regionv1.Outcome_CODE_FENCED, Index: w.index}
}

// reincarnate makes the shard begin again without carts. A crash before the end
// leaves it as it was, and the entry is applied again.
func (b *batch) reincarnate(w *workspace, r *regionv1.Reincarnate, place int) (*regionv1.Outcome, error) {
	if out := w.notJoining(r.Incarnation); out != nil {
		return out, nil
	}
	if r.Incarnation > b.tx.Marker().Incarnation {
		if err := b.flush(); err != nil {
			return nil, err
		}
		b.tx.Discard()
		next := *b.tx.Marker()
		next.Incarnation = r.Incarnation
		next.Partial, next.Done = w.index, uint32(place+1)
		space, err := b.fsm.current().Reborn(next)
		if err != nil {
			return nil, err
		}
		b.fsm.replace(space)
		b.tx = space.Begin()
		w.tx = b.tx
	}
	m := b.tx.Marker()
	return &regionv1.Outcome{Index: w.index, Left: m.Kept - m.Reissued}, nil
}

// reissue writes rows anew that were kept aside, up to the given number. The
// marker says how far it came, so it may be committed in the middle.
//
//	R1  It is done before the region takes edits again: see crdt.Cart.Reissue.
func (w *workspace) reissue(to uint64, flush func() error) (*regionv1.Outcome, error) {
	if out := w.notJoining(w.tx.Marker().Incarnation); out != nil {
		return out, nil
	}
	m := w.tx.Marker()
	for m.Reissued < min(to, m.Kept) {
		row, err := w.tx.KeptRow(m.Reissued + 1)
		if err != nil {
			return nil, err
		}
		if err := w.reissueRow(row); err != nil {
			return nil, err
		}
		m.Reissued++
		w.tx.DropKept()
		if w.tx.Full() {
			if err := flush(); err != nil {
				return nil, err
			}
			m = w.tx.Marker()
		}
	}
	return &regionv1.Outcome{Index: w.index, Left: m.Kept - m.Reissued}, nil
}

// reissueRow writes one row anew.
//
//	R2  What a region did with rights is not made anew: nobody was told of what no
//	    other region had heard, and the rights are others' by now.
func (w *workspace) reissueRow(row crdt.Row) error {
	if crdt.IsLimit(row.CartID) {
		return nil
	}
	old, err := w.record(row.CartID)
	if err != nil {
		return err
	}
	state := stateOf(old)
	at := w.now()
	m := w.tx.Marker()
	writer := crdt.Writer{Replica: crdt.Replica{Region: m.Region, Incarnation: m.Incarnation}, At: at, QuantityMax: w.limits.Quantity,
		Floor: w.tx.Floor(w.slots.Of(row.CartID)).Seq}
	d, ok := state.Cart.Reissue(writer, row.Delta)
	if !ok {
		return nil
	}
	cart := state.Cart.Apply(d)
	active := row.Active(m.Region) // not now: it was written then
	out := crdt.Row{CartID: row.CartID, At: at, Age: at - min(at, active.At), Delta: d}
	if w.forgets(row.CartID, old, cart) {
		w.tx.AppendRow(out)
		w.put(row.CartID, old, crdt.State{Cart: cart}, store.Asked{})
		return nil
	}
	var made []crdt.Op // the requests behind the lost dots are now behind the new one
	for _, o := range row.Ops {
		if row.Delta.Has(o.Dot) {
			o.Dot = d.Dots[0]
			made = append(made, o)
		}
	}
	out.Ops = joinOps(opsIn(state.Ops, d.Context), made)
	w.tx.AppendRow(out)
	asked, err := w.asked(row.CartID, old)
	if err == nil {
		asked, err = w.learnOps(row.CartID, made, asked)
	}
	if err != nil {
		return err
	}
	w.put(row.CartID, old, crdt.State{
		Cart: cart, Ops: w.nextOps(state.Ops, made, d, cart), Active: state.Active.Join(active),
	}, asked)
	return nil
}
