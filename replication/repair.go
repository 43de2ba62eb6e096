package replication

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/samecart/samecart/crdt"
)

// repairer makes one peer equal in what this region has, and takes what the
// peer has more of the same carts.
type repairer struct {
	log   Log
	tr    Transport
	hello Hello
	peer  crdt.RegionID
	cfg   Config
	// pause waits after n bytes were sent or received.
	pause func(ctx context.Context, n int) error

	out   []WholeCart // waiting to be sent
	bytes int
	done  Repaired
}

// run compares the slots of m, sends what the peer lacks and joins what this
// region lacks of the same carts.
//
//	I1  The position is read before the digests, and the cursor moves to it
//	    after the last join: what happened since is in the log after it.
//	    It moves only when all slots were gone through: a row of a slot left
//	    out may still be on its way.
//	I2  A cart is sent when its digest there is another or missing, unless the
//	    peer's, joined with ours, is the peer's still: then nothing of ours is
//	    missing there. Contexts only say who goes first: a peer that has seen
//	    all of our dots may still hold what one of them took out.
//	I3  Carts that only the peer has are left to the peer's own repair.
//	I4  Memory: the digests of one group, one chunk of whole carts, one Join.
func (r *repairer) run(ctx context.Context, m Repair) Repaired {
	r.done = Repaired{Position: r.log.LastSeq(), Own: make(map[uint32]Digest)}
	if m.Leave && r.peerRepairs(ctx) {
		r.done.Left = true
		return r.done
	}
	r.done.Err = r.slots(ctx, m)
	return r.done
}

// peerRepairs reports whether the peer is at it from its side. One that cannot
// say so is taken not to be.
func (r *repairer) peerRepairs(ctx context.Context) bool {
	call, cancel := context.WithTimeout(ctx, r.cfg.CallTimeout)
	defer cancel()
	busy, err := r.tr.Repairing(call, r.hello)
	return err == nil && busy
}

func (r *repairer) slots(ctx context.Context, m Repair) error {
	lo, hi := r.log.Slots()
	own, err := r.digests(ctx, r.log, lo, hi)
	if err != nil {
		return fmt.Errorf("read own digests of slots %d to %d: %w", lo, hi, err)
	}
	theirs, err := r.digests(ctx, r.tr, lo, hi)
	if err != nil {
		return fmt.Errorf("read the peer's digests of slots %d to %d: %w", lo, hi, err)
	}
	r.done.Search += len(Digest{}) * len(theirs)
	slots := m.Slots
	if slots == nil {
		for slot := lo; slot < hi; slot++ {
			slots = append(slots, slot)
		}
	}
	var g group
	for _, slot := range slots {
		if slot < lo || slot >= hi || own[slot-lo] == theirs[slot-lo] {
			continue
		}
		r.done.Own[slot] = own[slot-lo]
		switch (Digest{}) {
		case own[slot-lo]: // nothing to give
			continue
		case theirs[slot-lo]: // nothing there to compare with
			err = r.giveSlot(ctx, slot)
		default:
			err = r.listOwn(ctx, slot, &g)
		}
		if err == nil && len(g.carts) >= r.cfg.RepairGroup {
			err = r.group(ctx, &g)
		}
		if err != nil {
			return fmt.Errorf("repair slot %d: %w", slot, err)
		}
	}
	if err := r.group(ctx, &g); err != nil {
		return err
	}
	if !m.Cursor {
		return r.flush(ctx, 0)
	}
	return r.flush(ctx, r.done.Position)
}

func (r *repairer) digests(ctx context.Context, d digester, lo, hi uint32) ([]Digest, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.CallTimeout)
	defer cancel()
	return digests(ctx, d, lo, hi)
}

// giveSlot sends all carts of a slot that is empty at the peer.
func (r *repairer) giveSlot(ctx context.Context, slot uint32) error {
	own := pager{from: r.log, slot: slot, cfg: r.cfg}
	for ok := true; ok; {
		var ids []string
		for len(ids) < r.cfg.RepairCarts {
			c, more, err := own.next(ctx)
			if err != nil {
				return err
			}
			if ok = more; !ok {
				break
			}
			ids = append(ids, c.CartID)
		}
		if err := r.give(ctx, ids); err != nil {
			return err
		}
	}
	return nil
}

// give sends carts, whatever the peer has of them.
func (r *repairer) give(ctx context.Context, ids []string) error {
	for part := range slices.Chunk(ids, r.cfg.RepairCarts) {
		carts, err := r.states(ctx, part)
		if err != nil {
			return err
		}
		if err := r.send(ctx, carts); err != nil {
			return err
		}
	}
	return nil
}

// states reads whole carts; those that are gone are left out.
func (r *repairer) states(ctx context.Context, ids []string) ([]WholeCart, error) {
	carts, err := r.log.States(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("read %d carts from %q: %w", len(ids), ids[0], err)
	}
	return slices.DeleteFunc(carts, func(c WholeCart) bool { return len(c.Data) == 0 }), nil
}

// exchange settles carts that differ: each goes the way that it lacks, or
// both.
func (r *repairer) exchange(ctx context.Context, ids []string) error {
	for part := range slices.Chunk(ids, r.cfg.RepairCarts) {
		carts, err := r.states(ctx, part)
		if err != nil {
			return err
		}
		news, err := r.newer(ctx, carts)
		if err != nil {
			return err
		}
		var give, take []WholeCart
		for i, c := range carts {
			if news[i] == nil {
				give = append(give, c)
			} else {
				take = append(take, WholeCart{c.CartID, news[i]})
			}
		}
		behind, err := r.take(ctx, take)
		if err != nil {
			return err
		}
		if err := r.send(ctx, append(give, behind...)); err != nil {
			return err
		}
	}
	return nil
}

// newer asks the peer for those of the carts that it has seen more of: one
// answer a cart, nil for the others.
func (r *repairer) newer(ctx context.Context, carts []WholeCart) (news [][]byte, err error) {
	seen := make([]Seen, len(carts))
	for i, c := range carts {
		s, err := crdt.DecodeState(c.Data)
		if err != nil {
			return nil, fmt.Errorf("decode own cart %q: %w", c.CartID, err)
		}
		seen[i] = Seen{c.CartID, s.Cart.Context}
		r.done.Search += len(c.CartID) + len(s.Cart.Context.Encode(nil))
	}
	for len(news) < len(carts) {
		some, err := r.askNewer(ctx, seen[len(news):])
		if isUnsupported(err) {
			return make([][]byte, len(carts)), nil // all are given
		}
		if err != nil {
			return nil, fmt.Errorf("compare %d carts from %q: %w", len(seen)-len(news), seen[len(news)].CartID, err)
		}
		news = append(news, some...)
	}
	return news, nil
}

func (r *repairer) askNewer(ctx context.Context, seen []Seen) ([][]byte, error) {
	call, cancel := context.WithTimeout(ctx, r.cfg.CallTimeout)
	defer cancel()
	some, err := r.tr.Newer(call, seen)
	if err != nil {
		return nil, err
	}
	// Without this a peer could keep a repair going for ever.
	if len(some) == 0 || len(some) > len(seen) {
		return nil, fmt.Errorf("%w: %d answers for %d carts", ErrRefused, len(some), len(seen))
	}
	n := 0
	for _, data := range some {
		n += len(data)
	}
	return some, r.pause(ctx, n)
}

// take joins the peer's carts here and returns those of which the peer lacks
// something all the same: see I2.
func (r *repairer) take(ctx context.Context, carts []WholeCart) (behind []WholeCart, err error) {
	if len(carts) == 0 {
		return nil, nil
	}
	limits := DefaultLimits()
	limits.Now = time.Now()
	if _, err := ValidateCarts(carts, limits); err != nil {
		return nil, err
	}
	if err := r.log.JoinCarts(ctx, carts, r.peer); err != nil {
		return nil, fmt.Errorf("join the peer's %d carts from %q: %w", len(carts), carts[0].CartID, err)
	}
	ids := make([]string, len(carts))
	theirs := make(map[string][]byte, len(carts))
	for i, c := range carts {
		ids[i], theirs[c.CartID] = c.CartID, c.Data
		r.done.Taken++
		r.done.TakenBytes += len(c.Data)
	}
	joined, err := r.states(ctx, ids)
	if err != nil {
		return nil, err
	}
	for _, c := range joined {
		same, err := sameCart(c.Data, theirs[c.CartID])
		if err != nil {
			return nil, fmt.Errorf("compare cart %q: %w", c.CartID, err)
		}
		if !same {
			behind = append(behind, c)
		}
	}
	return behind, nil
}

// sameCart compares the carts of two states. What is remembered of requests
// beside them is forgotten in each region by its own clock.
func sameCart(a, b []byte) (bool, error) {
	if bytes.Equal(a, b) {
		return true, nil
	}
	sa, err := crdt.DecodeState(a)
	if err != nil {
		return false, err
	}
	sb, err := crdt.DecodeState(b)
	return err == nil && sa.Cart.Equal(sb.Cart), err
}

// send puts carts into Joins and sends every full one.
func (r *repairer) send(ctx context.Context, carts []WholeCart) error {
	for _, c := range carts {
		n := len(c.CartID) + len(c.Data)
		if len(r.out) > 0 && (r.bytes+n > r.cfg.RepairBytes || len(r.out) == r.cfg.RepairCarts) {
			if err := r.flush(ctx, 0); err != nil {
				return err
			}
		}
		r.out = append(r.out, c)
		r.bytes += n
	}
	return nil
}

// flush sends what waits, and moves the cursor unless it is 0.
func (r *repairer) flush(ctx context.Context, cursor uint64) error {
	if len(r.out) == 0 && cursor == 0 {
		return nil
	}
	call, cancel := context.WithTimeout(ctx, r.cfg.CallTimeout)
	defer cancel()
	if err := r.tr.Join(call, r.out, r.hello, cursor); err != nil {
		return fmt.Errorf("join %d carts at the peer, cursor %d: %w", len(r.out), cursor, err)
	}
	n := r.bytes
	r.done.Carts += len(r.out)
	r.done.Bytes += n
	r.out, r.bytes = nil, 0
	return r.pause(ctx, n)
}
