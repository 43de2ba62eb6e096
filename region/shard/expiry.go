package shard

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/store"
)

// guestPrefix begins the ids of guests' carts.
const guestPrefix = "guest:"

// IsGuest reports whether a cart is a guest's.
func IsGuest(cartID string) bool { return strings.HasPrefix(cartID, guestPrefix) }

// Lives are how long things live in a cart after its newest activity; 0: for ever.
type Lives struct {
	Guest, User, Saved time.Duration
	// Skew is how far the clock of any node may be off.
	Skew time.Duration
}

// Of are the lives as carts count them.
func (l Lives) Of() crdt.Lives {
	return crdt.Lives{Guest: uint64(l.Guest.Milliseconds()), User: uint64(l.User.Milliseconds()), Saved: uint64(l.Saved.Milliseconds())}
}

// allowance is what is added to the time at which something is due: as much as two
// clocks may differ, that of the node which took the last edit and the own.
func (l Lives) allowance() time.Duration { return 2 * l.Skew }

// Expired is what a command took out of one cart because it was due.
//
//	E2  A cart's owner alone proposes it, and a command finds the cart as it was
//	    when all members agreed: so what is taken out is taken out once, and told
//	    once, by the region whose log has it. Others take in its rows.
type Expired struct {
	CartID string
	Region crdt.RegionID
	At     crdt.Timestamp // of the entry
	// Guest: the cart's guest session ended with it.
	Guest bool
	Lines []ExpiredLine
	// Where it stands in the log: the index, and a number in the entry.
	Index  uint64
	Number uint32
}

// ExpiredLine is a line as it was.
type ExpiredLine struct {
	Key      crdt.LineKey
	Quantity uint32
	Saved    bool
}

func livesOf(l *regionv1.Limits) crdt.Lives {
	return crdt.Lives{Guest: l.GetGuestLifeMs(), User: l.GetUserLifeMs(), Saved: l.GetSavedLifeMs()}
}

// due is when something of a cart expires, in milliseconds since the Unix epoch; 0:
// never.
type due struct {
	crdt.Due       // its lines and codes
	shares   int64 // the first of its links
}

func (d due) first() int64 {
	if lines := d.First(); lines != 0 && (d.shares == 0 || lines < d.shares) {
		return lines
	}
	return d.shares
}

// dueIn says when something of a cart expires.
//
//	E5  A link's fact goes when the link expires, in the owner's cart and in the
//	    link's own, and in the latter the lines of a snapshot with it, not before
//	    and not later. What is left there without the fact lives as in a user's
//	    cart.
func dueIn(id string, s crdt.State, l crdt.Lives) due {
	d := due{shares: s.Cart.SharesDue()}
	if d.shares == 0 || !IsShare(id) {
		d.Due = s.Due(IsGuest(id), l)
	}
	return d
}

// second is where a cart that is first due at a time stands in the index.
func second(ms int64) uint32 {
	if ms <= 0 {
		return 0
	}
	return uint32(min(max(ms/1000, 1), math.MaxUint32))
}

// dueOf is the earliest second in which something of a cart may be due.
func (w *workspace) dueOf(id string, s crdt.State) uint32 {
	return second(dueIn(id, s, livesOf(w.limits)).first())
}

// indexed is where a cart's new state stands in the index: see store.D2.
func (w *workspace) indexed(id string, old *store.Record, s crdt.State) uint32 {
	due := w.dueOf(id, s)
	if old != nil && old.Due != 0 && (due == 0 || old.Due <= due) {
		return old.Due
	}
	return due
}

// expiryMax bounds the carts of one Expire, and the entries that it moves.
const expiryMax = 100

// expiryLinesMax is how many lines the carts of one Expire have, but for those of
// the last: shoppers' edits wait behind it.
const expiryLinesMax = 500

// expire takes out what is due of carts that are still what they were when all
// regions agreed. place is the command's place in its entry.
//
//	E3  It may be committed between two carts, as Collect may: those that are done
//	    have another digest, those that are moved another place.
//	E4  A guest's session ends in a row before those that remove its lines: a
//	    region that has only some of them takes no edit of it any more.
func (w *workspace) expire(c *regionv1.Expire, place int, flush func() error) (*regionv1.Outcome, error) {
	out := &regionv1.Outcome{Index: w.index}
	full := func() error {
		if w.tx.Full() {
			return flush()
		}
		return nil
	}
	for _, e := range c.Moved {
		if err := full(); err != nil {
			return nil, err
		}
		if err := w.moveDue(store.Indexed{CartID: e.CartId, At: e.At}); err != nil {
			return nil, err
		}
	}
	if !w.members.TakesEdits(uint32(w.tx.Marker().Region)) {
		out.Code = regionv1.Outcome_CODE_FENCED
		return out, nil
	}
	for i, e := range c.Carts {
		if err := full(); err != nil {
			return nil, err
		}
		old, err := w.record(e.CartId)
		if err != nil {
			return nil, err
		}
		if old == nil || string(old.Digest[:]) != string(e.Digest) {
			continue
		}
		if w.expireCart(e.CartId, old, uint32(place)*expiryMax+uint32(i)) {
			out.Expired++
		}
	}
	return out, nil
}

// expireCart reports whether something of the cart was due.
func (w *workspace) expireCart(id string, old *store.Record, number uint32) bool {
	due := dueIn(id, old.State, livesOf(w.limits))
	now := w.at.UnixMilli()
	isDue := func(ms int64) bool { return ms != 0 && ms <= now }
	inCart, saved, shares := isDue(due.InCart), isDue(due.Saved), isDue(due.shares)
	if !inCart && !saved && !shares {
		return false
	}
	shopper := inCart || saved // something that a shopper put there
	if shares && IsShare(id) {
		inCart, saved = true, true
	}
	at := w.now()
	m := w.tx.Marker()
	what := Expired{CartID: id, Region: m.Region, At: at, Index: w.index, Number: number}
	writer := crdt.Writer{
		Replica: crdt.Replica{Region: m.Region, Incarnation: m.Incarnation}, At: at,
		QuantityMax: w.limits.Quantity, Floor: w.tx.Floor(w.slots.Of(id)).Seq,
	}
	cart, ops := old.State.Cart, old.State.Ops
	do := func(d crdt.Delta) {
		cart = cart.Apply(d)
		// No shopper made it: it makes nothing live longer.
		w.tx.AppendRow(crdt.Row{CartID: id, At: at, Age: at, Delta: d, Ops: opsIn(ops, d.Context)})
		ops = w.nextOps(ops, nil, d, cart)
	}
	if _, ended := cart.Fact(crdt.FactExpired, ""); shopper && IsGuest(id) && !ended {
		what.Guest = true
		do(cart.SetFact(writer, crdt.FactExpired, "", ""))
	}
	for id, v := range old.State.Cart.Facts(crdt.FactShare) { // before the lines: nobody is shown a part of them
		if crdt.ShareExpiry(v) <= now {
			do(cart.DropFact(writer, crdt.FactShare, id))
		}
	}
	for _, e := range old.State.Cart.Lines {
		if e.Key.IsFact() {
			if inCart && e.IsCode() {
				do(cart.DropFact(writer, crdt.FactCode, e.Key.SKU))
			}
			continue
		}
		if !e.Line.IsThere() {
			continue
		}
		v := e.Line.Visible()
		if aside := v.Placement == crdt.Saved; aside && saved || !aside && inCart {
			what.Lines = append(what.Lines, ExpiredLine{e.Key, min(v.Quantity, w.limits.Quantity), aside})
			do(cart.Remove(writer, e.Key))
		}
	}
	w.put(id, old, crdt.State{Cart: cart, Ops: ops, Active: old.State.Active}, old.Asked)
	if shopper && !IsShare(id) { // a link is nothing to tell of
		*w.expired = append(*w.expired, what)
	}
	return true
}

// moveDue looks at an entry of the index again: it was written long ago.
func (w *workspace) moveDue(e store.Indexed) error {
	old, err := w.record(e.CartID)
	if err != nil {
		return err
	}
	if old == nil || old.Due != e.At {
		w.tx.Unindex(e)
		return nil
	}
	if due := w.dueOf(e.CartID, old.State); due == 0 || due > e.At {
		w.tx.PutRecord(w.slots.Of(e.CartID), e.CartID, old, old.WithDue(due))
	}
	return nil
}

// hasExpired reports whether a cart is a guest's whose session has ended.
func hasExpired(id string, c *crdt.Cart) bool {
	if !IsGuest(id) {
		return false
	}
	_, ended := c.Fact(crdt.FactExpired, "")
	return ended
}

// DueCart is a cart of which something is due.
type DueCart struct {
	store.CartDigest
	Active crdt.Active
}

// Look is a look at some carts of the index of due carts.
type Look struct {
	Due   []DueCart       // that the region is to expire
	Moved []store.Indexed // entries that are to be looked at by a command
	Next  store.Indexed   // where to go on; zero: this was the end
	// Kept is the first entry that stays; when there is none, one after all that
	// were looked at.
	Kept store.Indexed
}

// Due looks at the index after the given entry and finds what is due by the node's
// clock, with its allowance: of carts whose owner, for which owns holds, is this
// region.
func (s *Shard) Due(ctx context.Context, after store.Indexed, owns func(crdt.RegionID) bool) (l Look, err error) {
	if err := ctx.Err(); err != nil {
		return l, err
	}
	now := s.cfg.Clock().Add(-s.cfg.Limits.Lives.allowance()).UnixMilli()
	if now <= 0 {
		return l, nil
	}
	var entries []store.Indexed
	var more bool
	if err := s.fsm.read(func(sp *store.Space) (err error) {
		entries, more, err = sp.Due(after, second(now), expiryMax)
		return err
	}); err != nil {
		return l, err
	}
	lives := s.cfg.Limits.Lives.Of()
	lines := 0
	for i, e := range entries {
		if lines > expiryLinesMax {
			entries, more = entries[:i], true
			break
		}
		l.Kept = cmp.Or(l.Kept, e)
		r, err := s.fsm.peek(e.CartID)
		if err != nil {
			return l, err
		}
		if r == nil || r.Due != e.At {
			l.move(e)
			continue
		}
		switch first := dueIn(e.CartID, r.State, lives).first(); {
		case first == 0 || first > now:
			l.move(e)
		case owns(r.State.Active.Region):
			l.Due = append(l.Due, DueCart{store.CartDigest{CartID: e.CartID, Digest: r.Digest}, r.State.Active})
			lines += len(r.State.Cart.Lines)
		}
	}
	if more {
		l.Next = entries[len(entries)-1]
	}
	l.Kept = cmp.Or(l.Kept, store.Indexed{At: second(now)})
	return l, nil
}

func (l *Look) move(e store.Indexed) {
	l.Moved = append(l.Moved, e)
	if l.Kept == e {
		l.Kept = store.Indexed{}
	}
}

// Expirable says for each cart whether it may expire as far as this region knows: it
// is here as it is there, its newest activity is known there, and it is due by the
// clock of this node too.
func (s *Shard) Expirable(carts []DueCart) ([]bool, error) {
	out := make([]bool, len(carts))
	now := s.cfg.Clock().UnixMilli()
	lives := s.cfg.Limits.Lives.Of()
	for i, c := range carts {
		r, err := s.fsm.peek(c.CartID)
		if err != nil {
			return nil, err
		}
		if r == nil || r.Digest != c.Digest || r.State.Active.Compare(c.Active) > 0 {
			continue
		}
		state := r.State
		state.Active = c.Active
		first := dueIn(c.CartID, state, lives).first()
		out[i] = first != 0 && first <= now
	}
	return out, nil
}

func checkExpire(s *Shard, c *regionv1.Expire) error {
	if n, m := len(c.GetCarts()), len(c.GetMoved()); n > expiryMax || m > expiryMax {
		return fmt.Errorf("%d carts to expire, %d entries to move: at most %d each", n, m, expiryMax)
	}
	for _, e := range c.GetCarts() {
		if err := s.checkCart(e.GetCartId()); err != nil {
			return err
		}
	}
	for _, e := range c.GetMoved() {
		if err := s.checkCart(e.GetCartId()); err != nil {
			return err
		}
	}
	return nil
}
