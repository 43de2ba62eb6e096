package shard

import (
	"fmt"
	"math"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/store"
)

// What a shopper took out of a cart, or brought into it by a merge, can be undone for
// a while, in any region: each keeps what it sees going out.
//
//	U1  The newest removal is kept, by the time of the edit that made it; the rows
//	    of one edit have one time. One that is older than what is kept adds nothing.
//	U2  A line that is there again, whoever wrote it, is no more to be put back. What
//	    is left of a removal stands all the same: nothing older is undone.
//	U3  An undo is an edit as others are: it mints dots, it wins or loses against
//	    concurrent edits, and it is not undone itself.
//
// A line that only a whole cart takes out, in a repair, is not kept: nothing tells
// when, or by whom. Nor is one that a region never showed, since the rows that made it
// and took it out were combined on their way. Then the region where it was taken out
// can undo that, and this one cannot.

// head is what a cart's new record says of it. Whether something is kept is read, not
// taken from the record before: where members commit between two commands differs, and
// what they store must not.
func (w *workspace) head(id string, old *store.Record, cart *crdt.Cart) store.Head {
	return store.Head{
		Count: uint32(min(cart.ItemCount(w.limits.GetQuantity()), math.MaxUint32)),
		Undo:  w.tx.Removed(id, old) != nil,
	}
}

// undoHorizon is the time before which nothing is undone.
func (w *workspace) undoHorizon() crdt.Timestamp {
	life := crdt.Timestamp(w.limits.GetUndoMs()) << 16
	if w.at < life {
		return 0
	}
	return w.at - life
}

// takesOut reports whether an edit may take out lines that an undo puts back.
func takesOut(e *regionv1.Edit) bool {
	for _, c := range e.GetChanges() {
		switch c.GetKind() {
		case regionv1.Change_KIND_REMOVE, regionv1.Change_KIND_CLEAR, regionv1.Change_KIND_SET: // a set to 0
			return true
		default:
		}
	}
	return false
}

// noteEdit keeps what an edit of this region took out, and no more what it brought
// back. cart is the cart after it, old the record before.
func (w *workspace) noteEdit(e *regionv1.Edit, old *store.Record, cart *crdt.Cart, at crdt.Timestamp) {
	w.noteBack(e.CartId, old, cart)
	if w.limits.GetUndoMs() == 0 || !takesOut(e) {
		return
	}
	removed := crdt.Removed{At: at}
	for _, entry := range stateOf(old).Cart.Lines {
		if entry.Line.IsThere() && cart.Find(entry.Key) == nil {
			removed.Lines = append(removed.Lines, entry) // in the order of keys
		}
	}
	if len(removed.Lines) > 0 {
		w.tx.SetRemoved(e.CartId, &removed)
	}
}

// noteRow is noteEdit for a row of another region: of several of one edit, each adds
// its line.
func (w *workspace) noteRow(row crdt.Row, old *store.Record, cart *crdt.Cart) {
	k := row.Delta.Key
	line := stateOf(old).Cart.Find(k)
	now := cart.Find(k)
	switch {
	case line == nil && now != nil:
		w.noteBack(row.CartID, old, cart)
		return
	case line == nil || now != nil || w.limits.GetUndoMs() == 0:
		return
	case row.Age >= row.At || cart.UndoneAt(row.At): // no shopper took it out: it was due, or came with a merge
		return
	// A clock that runs ahead must not keep what follows from being kept.
	case row.At <= w.undoHorizon() || row.At > w.at+clockAheadMax:
		return
	}
	kept := w.tx.Removed(row.CartID, old)
	switch {
	case kept == nil || kept.At < row.At:
		kept = &crdt.Removed{At: row.At}
	case kept.At > row.At:
		return // U1
	}
	next := kept.With(k, line)
	w.tx.SetRemoved(row.CartID, &next)
}

// noteBack takes lines that are there out of what would be put back (U2).
func (w *workspace) noteBack(id string, old *store.Record, cart *crdt.Cart) {
	if !w.tx.MayUndo(id, old) {
		return
	}
	kept := w.tx.Removed(id, old)
	if kept == nil {
		return
	}
	next := *kept
	for _, e := range kept.Lines {
		if cart.Find(e.Key) != nil {
			next = next.Less(e.Key)
		}
	}
	if len(next.Lines) < len(kept.Lines) {
		w.tx.SetRemoved(id, &next)
	}
}

// forgetRemoved drops what was taken out of carts too long ago.
func (w *workspace) forgetRemoved(ids []string) error {
	for _, id := range ids {
		old, err := w.record(id)
		if err != nil {
			return err
		}
		// A key that no record tells of goes too: else the leader would find it again.
		if kept := w.tx.Removed(id, old); kept == nil || kept.At < w.undoHorizon() {
			w.tx.SetRemoved(id, nil)
		}
	}
	return nil
}

// undo undoes the newest of what can be undone. It is refused as a whole where an add
// would be.
func (w *workspace) undo(cart *crdt.Cart, writer crdt.Writer) ([]crdt.Delta, *refusal) {
	horizon := w.undoHorizon()
	var kept crdt.Removed
	if r := w.tx.Removed(w.editing, w.edited); r != nil && r.At > horizon {
		kept = *r
	}
	guest, at, undone := cart.LastMerge()
	if at <= max(horizon, kept.At) || w.limits.GetUndoMs() == 0 {
		return w.putBack(cart, writer, kept)
	}
	var deltas []crdt.Delta
	if !undone {
		deltas = cart.UndoMerge(writer, guest)
	}
	if len(deltas) == 0 { // as after another undo, nothing older is undone
		return nil, &refusal{code: regionv1.Outcome_CODE_NOTHING_TO_UNDO}
	}
	return deltas, nil
}

// putBack writes lines that were taken out as they were seen.
func (w *workspace) putBack(cart *crdt.Cart, writer crdt.Writer, kept crdt.Removed) (deltas []crdt.Delta, r *refusal) {
	if len(kept.Lines) == 0 {
		return nil, &refusal{code: regionv1.Outcome_CODE_NOTHING_TO_UNDO}
	}
	if uint64(linesThere(cart))+uint64(len(kept.Lines)) > uint64(w.limits.Lines) {
		return nil, &refusal{regionv1.Outcome_CODE_TOO_MANY_LINES, []string{fmt.Sprint(w.limits.Lines)}}
	}
	currency := cart.Currency()
	for _, e := range kept.Lines {
		v := e.Line.Visible()
		v.Quantity = min(v.Quantity, w.limits.Quantity) // what was shown
		if currency != "" && v.Offer.Currency != currency {
			return nil, &refusal{regionv1.Outcome_CODE_CURRENCY_MISMATCH, []string{currency, v.Offer.Currency}}
		}
		d := cart.Put(writer, e.Key, v)
		cart = cart.Apply(d)
		deltas = append(deltas, d)
	}
	return deltas, nil
}

// Removed returns what was last taken out of a cart, nil when nothing is kept or it can
// be undone no more.
func (s *Shard) Removed(id string) (r *crdt.Removed, err error) {
	err = s.fsm.read(func(sp *store.Space) (err error) {
		r, err = sp.Removed(id)
		return err
	})
	if err != nil || r == nil || r.At <= crdt.TimestampAt(s.cfg.Clock().Add(-s.cfg.Limits.Undo).UnixMilli()) {
		return nil, err
	}
	return r, nil
}
