package scan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Slots is the number of slots that carts are spread over.
const Slots = 1024

// Cart is one cart as a region holds it.
type Cart struct {
	Slot   uint32
	ID     string
	Digest []byte
}

// before is the order of a stream.
func (c Cart) before(d Cart) bool {
	if c.Slot != d.Slot {
		return c.Slot < d.Slot
	}
	return c.ID < d.ID
}

// Stream yields carts in order; ok is false at its end.
type Stream interface {
	Next() (c Cart, ok bool, err error)
	// Close ends the stream early; it may be called after its end.
	Close() error
}

// Region is one side of a comparison.
type Region struct {
	Name string
	// Open starts a stream of the carts in slots [lo, hi).
	Open func(ctx context.Context, lo, hi uint32) (Stream, error)
}

// Difference is a cart that regions hold differently.
type Difference struct {
	Slot uint32
	ID   string
	// Digests, one for each region in the order given; nil: it holds none.
	Digests [][]byte
}

// Compare merges one stream of each region over slots [lo, hi), calls differ
// for every cart that is not the same in all, and returns the number of carts
// that any region holds. The difference belongs to the callee.
func Compare(ctx context.Context, regions []Region, lo, hi uint32, differ func(Difference)) (carts int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	heads := make([]head, len(regions))
	defer func() {
		for _, h := range heads {
			if h.stream != nil {
				_ = h.stream.Close() // what counts was read; an early end has its own error
			}
		}
	}()
	// All at once: a region may take long to its first cart.
	var group errgroup.Group
	for i, r := range regions {
		group.Go(func() error {
			stream, err := r.Open(ctx, lo, hi)
			if err != nil {
				return fmt.Errorf("scan region %s: %w", r.Name, err)
			}
			heads[i] = head{region: r.Name, stream: stream}
			return heads[i].advance()
		})
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	for {
		least := -1
		for i := range heads {
			if heads[i].ok && (least < 0 || heads[i].cart.before(heads[least].cart)) {
				least = i
			}
		}
		if least < 0 {
			return carts, nil
		}
		carts++
		cart := heads[least].cart
		equal := true
		for i := range heads {
			if !heads[i].at(cart) || !bytes.Equal(heads[i].cart.Digest, cart.Digest) {
				equal = false
			}
		}
		if !equal {
			d := Difference{Slot: cart.Slot, ID: cart.ID, Digests: make([][]byte, len(heads))}
			for i := range heads {
				if heads[i].at(cart) {
					d.Digests[i] = bytes.Clone(heads[i].cart.Digest)
				}
			}
			differ(d)
		}
		for i := range heads {
			if heads[i].at(cart) {
				if err := heads[i].advance(); err != nil {
					return carts, err
				}
			}
		}
	}
}

// head is a stream and the cart it stands at.
type head struct {
	region string
	stream Stream
	cart   Cart
	ok     bool
	moved  bool
}

func (h *head) at(c Cart) bool { return h.ok && h.cart.Slot == c.Slot && h.cart.ID == c.ID }

func (h *head) advance() error {
	next, ok, err := h.stream.Next()
	if err != nil {
		return fmt.Errorf("scan region %s: %w", h.region, err)
	}
	// Unordered streams would merge into nonsense without a word.
	if ok && h.moved && !h.cart.before(next) {
		return fmt.Errorf("scan region %s: cart %q of slot %d came after cart %q of slot %d: the stream must be ordered by slot and id",
			h.region, next.ID, next.Slot, h.cart.ID, h.cart.Slot)
	}
	h.cart, h.ok, h.moved = next, ok, true
	return nil
}

// Outcome is what Settle found.
type Outcome struct {
	Carts    int          // that any region holds
	Diverged int          // that still differ
	First    []Difference // of those, at most FirstMax
	EqualAt  time.Time    // when the last difference was seen gone; zero while any is left
	Rounds   int          // comparisons that were made
}

// FirstMax is how many differences an Outcome lists.
const FirstMax = 10

// Settle compares all slots, and then the differing ones again every pause,
// until none differs, wait is over or ctx ends. A region that cannot be
// scanned is tried again as long; its error is returned when it still fails at
// the end. Differences that are left are no error.
func Settle(ctx context.Context, regions []Region, wait, pause time.Duration) (Outcome, error) {
	deadline := time.Now().Add(wait)
	var out Outcome
	todo := []span{{0, Slots}}
	first := true
	for {
		out.Rounds++
		carts, differing, err := out.round(ctx, regions, todo)
		switch {
		case err != nil:
			if ctx.Err() != nil {
				return out, fmt.Errorf("compare regions: %w", context.Cause(ctx))
			}
		case first:
			out.Carts, first = carts, false
			todo = differing
		default:
			todo = differing
		}
		if err == nil && len(todo) == 0 {
			out.EqualAt = time.Now()
			return out, nil
		}
		if !time.Now().Add(pause).Before(deadline) {
			return out, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return out, errors.Join(fmt.Errorf("compare regions: %w", context.Cause(ctx)), err)
		}
	}
}

// span is slots [lo, hi).
type span struct{ lo, hi uint32 }

// spansMax bounds the scans of one round; above it, one scan over all the
// slots between is cheaper than many small ones.
const spansMax = 32

// round compares the spans, and returns the carts in them and the spans that
// differ.
func (out *Outcome) round(ctx context.Context, regions []Region, todo []span) (carts int, differing []span, err error) {
	out.Diverged, out.First = 0, nil
	for _, s := range todo {
		n, err := Compare(ctx, regions, s.lo, s.hi, func(d Difference) {
			out.Diverged++
			if len(out.First) < FirstMax {
				out.First = append(out.First, d)
			}
			if k := len(differing); k > 0 && differing[k-1].hi >= d.Slot {
				differing[k-1].hi = d.Slot + 1 // the same slot or the next
				return
			}
			differing = append(differing, span{d.Slot, d.Slot + 1})
		})
		if err != nil {
			return 0, nil, err
		}
		carts += n
	}
	if k := len(differing); k > spansMax {
		differing = []span{{differing[0].lo, differing[k-1].hi}}
	}
	return carts, differing, nil
}

// String names the cart and the digest of each region, for people.
func (d Difference) String() string {
	parts := make([]string, len(d.Digests))
	for i, digest := range d.Digests {
		if digest == nil {
			parts[i] = "none"
			continue
		}
		parts[i] = fmt.Sprintf("%.8x", digest)
	}
	return fmt.Sprintf("%s (slot %d): %s", d.ID, d.Slot, strings.Join(parts, " "))
}
