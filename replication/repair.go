package replication

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Throttle spreads bytes over time. One may be shared by the Gossipers of a
// node, so that the repair of many shards takes no more than its share of
// the network. It is safe for concurrent use.
type Throttle struct {
	perSecond int

	mu   sync.Mutex
	free time.Time // when everything taken so far is paid for
}

// NewThrottle returns a Throttle of the given bytes a second; > 0.
func NewThrottle(bytesPerSecond int) *Throttle {
	return &Throttle{perSecond: max(1, bytesPerSecond)}
}

// take books n bytes and returns how long to wait before sending more.
func (t *Throttle) take(now time.Time, n int) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.free.Before(now) {
		t.free = now
	}
	t.free = t.free.Add(time.Duration(float64(n) / float64(t.perSecond) * float64(time.Second)))
	return t.free.Sub(now)
}

// repairer gives one peer the whole carts that it lacks.
type repairer struct {
	log   Log
	tr    Transport
	hello Hello
	cfg   Config
	// pause waits after n bytes were sent.
	pause func(ctx context.Context, n int) error

	out   []WholeCart // waiting to be sent
	bytes int
	done  Repaired
}

// run compares the given slots (nil: all) and sends what differs.
//
//	I1  The position is read before the digests, and the cursor moves to it
//	    after the last join: what happened since is in the log after it.
//	    It moves only when all slots were gone through: a row of a slot left
//	    out may still be on its way.
//	I2  A cart is sent when its digest there is another or missing. So a
//	    peer equal in a slot is sent nothing of it, and carts that only the
//	    peer has are left to the peer's own streams.
//	I3  Memory: one page of each side, one Join.
func (r *repairer) run(ctx context.Context, slots []uint32) Repaired {
	r.done = Repaired{Position: r.log.LastSeq(), Own: make(map[uint32]Digest)}
	r.done.Err = r.slots(ctx, slots)
	return r.done
}

func (r *repairer) slots(ctx context.Context, slots []uint32) error {
	lo, hi := r.log.Slots()
	own, err := r.digests(ctx, r.log, lo, hi)
	if err != nil {
		return fmt.Errorf("read own digests of slots %d to %d: %w", lo, hi, err)
	}
	theirs, err := r.digests(ctx, r.tr, lo, hi)
	if err != nil {
		return fmt.Errorf("read the peer's digests of slots %d to %d: %w", lo, hi, err)
	}
	visit := func(slot uint32) error {
		if slot < lo || slot >= hi || own[slot-lo] == theirs[slot-lo] {
			return nil
		}
		r.done.Own[slot] = own[slot-lo]
		if own[slot-lo] == (Digest{}) {
			return nil // nothing to give
		}
		if err := r.slot(ctx, slot); err != nil {
			return fmt.Errorf("repair slot %d: %w", slot, err)
		}
		return nil
	}
	if slots != nil {
		for _, slot := range slots {
			if err := visit(slot); err != nil {
				return err
			}
		}
		return r.flush(ctx, 0)
	}
	for slot := lo; slot < hi; slot++ {
		if err := visit(slot); err != nil {
			return err
		}
	}
	return r.flush(ctx, r.done.Position)
}

func (r *repairer) digests(ctx context.Context, d digester, lo, hi uint32) ([]Digest, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.CallTimeout)
	defer cancel()
	return digests(ctx, d, lo, hi)
}

// slot goes through both sides of one slot in the order of the cart ids.
func (r *repairer) slot(ctx context.Context, slot uint32) error {
	own := pager{from: r.log, slot: slot, cfg: r.cfg}
	theirs := pager{from: r.tr, slot: slot, cfg: r.cfg}
	t, more, err := theirs.next(ctx)
	if err != nil {
		return err
	}
	var ids []string
	for {
		c, ok, err := own.next(ctx)
		if err != nil {
			return err
		}
		if !ok {
			return r.send(ctx, ids)
		}
		for more && t.CartID < c.CartID {
			if t, more, err = theirs.next(ctx); err != nil {
				return err
			}
		}
		if more && t == c {
			continue
		}
		if ids = append(ids, c.CartID); len(ids) == r.cfg.RepairCarts {
			if err := r.send(ctx, ids); err != nil {
				return err
			}
			ids = ids[:0]
		}
	}
}

// send reads whole carts and sends every full Join.
func (r *repairer) send(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	carts, err := r.log.States(ctx, ids)
	if err != nil {
		return fmt.Errorf("read %d carts from %q: %w", len(ids), ids[0], err)
	}
	for _, c := range carts {
		if len(c.Data) == 0 {
			continue
		}
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
	if n == 0 {
		return nil
	}
	return r.pause(ctx, n)
}

// pager lists one slot page by page.
type pager struct {
	from digester
	slot uint32
	cfg  Config

	page  []CartDigest
	after string
	end   bool
}

func (p *pager) next(ctx context.Context) (CartDigest, bool, error) {
	if len(p.page) == 0 && !p.end {
		ctx, cancel := context.WithTimeout(ctx, p.cfg.CallTimeout)
		defer cancel()
		page, more, err := p.from.Bucket(ctx, p.slot, p.after, p.cfg.RepairPage)
		if err != nil {
			return CartDigest{}, false, fmt.Errorf("list carts after %q: %w", p.after, err)
		}
		// Without these a peer could keep a repair going for ever.
		if more && len(page) == 0 {
			return CartDigest{}, false, fmt.Errorf("list carts after %q: an empty page that is not the last", p.after)
		}
		last := p.after
		for i, c := range page {
			if c.CartID <= last && (i > 0 || p.after != "") {
				return CartDigest{}, false, fmt.Errorf("list carts after %q: %q is out of order", p.after, c.CartID)
			}
			last = c.CartID
		}
		p.page, p.end, p.after = page, !more, strings.Clone(last)
	}
	if len(p.page) == 0 {
		return CartDigest{}, false, nil
	}
	c := p.page[0]
	p.page = p.page[1:]
	return c, true, nil
}
