package replication

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/samecart/samecart/replication/riblt"
)

// group is the carts of some slots, searched together for those that differ.
type group struct {
	slots []uint32
	carts []CartDigest // slot by slot, by id within one
	ends  []int        // where each slot's carts end
}

// listOwn adds a slot to a group.
func (r *repairer) listOwn(ctx context.Context, slot uint32, g *group) error {
	own := pager{from: r.log, slot: slot, cfg: r.cfg}
	for {
		c, ok, err := own.next(ctx)
		if err != nil {
			return err
		}
		if !ok {
			g.slots = append(g.slots, slot)
			g.ends = append(g.ends, len(g.carts))
			return nil
		}
		g.carts = append(g.carts, c)
	}
}

// group settles a group and empties it.
func (r *repairer) group(ctx context.Context, g *group) error {
	if len(g.slots) == 0 {
		return nil
	}
	ids, less, err := r.sketch(ctx, g)
	if isUnsupported(err) || errors.Is(err, riblt.ErrCorrupt) || errors.Is(err, riblt.ErrCollision) || errors.Is(err, errNoEnd) {
		// Bounded: each cart of the group is named once.
		ids, less, err = r.list(ctx, g)
	}
	if err != nil {
		return fmt.Errorf("search %d slots from %d: %w", len(g.slots), g.slots[0], err)
	}
	*g = group{slots: g.slots[:0], carts: g.carts[:0], ends: g.ends[:0]}
	if less {
		return r.give(ctx, ids)
	}
	return r.exchange(ctx, ids)
}

// errNoEnd: a sketch was longer than a list of all carts.
var errNoEnd = errors.New("the sketch does not end")

// sketchFirst is how many symbols are asked for first, and at least each time:
// they find some twenty carts, and fit one packet.
const sketchFirst = 32

// sketch finds the carts of a group that the peer has not, or has otherwise.
// less says that the peer has nothing there that differs from ours, or that we
// lack. The peer's symbols come in growing parts: a wait for each costs a round
// trip, a part too large costs its bytes, at most half of what was needed.
func (r *repairer) sketch(ctx context.Context, g *group) (ids []string, less bool, err error) {
	own := make([]riblt.Item, len(g.carts))
	names := make(map[riblt.Item]string, len(g.carts))
	for i, c := range g.carts {
		own[i] = c.Digest
		names[c.Digest] = c.CartID
	}
	var key riblt.Key
	if _, err := rand.Read(key[:]); err != nil {
		return nil, false, err
	}
	dec, err := riblt.NewDecoder(key, own)
	if err != nil {
		return nil, false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := r.tr.Sketch(ctx, key, g.slots)
	if err != nil {
		return nil, false, err
	}
	defer s.Close() //nolint:errcheck // it is not read to its end
	for want := sketchFirst; ; want = max(sketchFirst, dec.Symbols()/2) {
		slow := time.AfterFunc(r.cfg.CallTimeout, cancel)
		b, err := s.Next(want)
		slow.Stop()
		if err == nil {
			r.done.Search += len(b)
			err = r.pause(ctx, len(b))
		}
		if err != nil {
			return nil, false, fmt.Errorf("read %d symbols after %d: %w", want, dec.Symbols(), err)
		}
		done, err := dec.Add(b)
		if err != nil {
			return nil, false, err
		}
		if done {
			break
		}
		if dec.Symbols() > 3*len(own)+8*sketchFirst {
			return nil, false, errNoEnd
		}
	}
	for _, d := range dec.Own() {
		ids = append(ids, names[d])
	}
	return ids, dec.Theirs() == 0, nil
}

// list finds the same as sketch from lists of all the peer's carts.
func (r *repairer) list(ctx context.Context, g *group) (ids []string, less bool, err error) {
	own := g.carts
	less = true
	for i, slot := range g.slots {
		theirs := pager{from: r.tr, slot: slot, cfg: r.cfg}
		t, more, err := r.nextTheirs(ctx, &theirs)
		if err != nil {
			return nil, false, err
		}
		for _, c := range own[:g.ends[i]-(len(g.carts)-len(own))] {
			for more && t.CartID < c.CartID {
				less = false
				if t, more, err = r.nextTheirs(ctx, &theirs); err != nil {
					return nil, false, err
				}
			}
			there := more && t.CartID == c.CartID
			if !there || t.Digest != c.Digest {
				ids = append(ids, c.CartID)
				less = less && !there
			}
			if there {
				if t, more, err = r.nextTheirs(ctx, &theirs); err != nil {
					return nil, false, err
				}
			}
		}
		less = less && !more
		own = g.carts[g.ends[i]:]
	}
	return ids, less, nil
}

func (r *repairer) nextTheirs(ctx context.Context, p *pager) (CartDigest, bool, error) {
	before := p.read
	c, ok, err := p.next(ctx)
	if n := p.read - before; n > 0 && err == nil {
		r.done.Search += n
		err = r.pause(ctx, n)
	}
	return c, ok, err
}

// pager lists one slot page by page.
type pager struct {
	from digester
	slot uint32
	cfg  Config

	page  []CartDigest
	after string
	end   bool
	read  int // bytes of the pages so far
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
			p.read += len(c.CartID) + len(c.Digest)
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

// SketchItemsMax is the most carts that one sketch is made of: some 50 MB of
// memory at the side that answers.
const SketchItemsMax = 1 << 20

// NewSketch makes a sketch of the digests of all carts in the given slots: the
// far end of Transport.Sketch. It fails when there are more than
// SketchItemsMax.
func NewSketch(ctx context.Context, from digester, key riblt.Key, slots []uint32) (*riblt.Encoder, error) {
	var items []riblt.Item
	cfg := DefaultConfig()
	cfg.RepairPage = BucketLimit
	for _, slot := range slots {
		p := pager{from: from, slot: slot, cfg: cfg}
		for {
			c, ok, err := p.next(ctx)
			if err != nil {
				return nil, err
			}
			if !ok {
				break
			}
			if len(items) == SketchItemsMax {
				return nil, fmt.Errorf("%w: the slots hold more than %d carts", ErrRefused, SketchItemsMax)
			}
			items = append(items, c.Digest)
		}
	}
	return riblt.NewEncoder(key, items), nil
}

func isUnsupported(err error) bool { return errors.Is(err, ErrUnsupported) }
