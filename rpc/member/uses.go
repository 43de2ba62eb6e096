package member

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	promotionv1 "github.com/samecart/samecart/proto/promotion/v1"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/rpc"
)

// What is known of a code's uses is not looked at again for usesFresh, which is less
// than what a use takes to be told to all regions when links are slow. Where this
// node does not hold the counter, the one that does is asked in the background, by
// usesAsking readers at most.
const (
	usesFresh   = time.Second
	usesEntries = 16384 // about 150 bytes each
	usesAsking  = 8
	usesTimeout = time.Second
)

// counters is what a region tells of limited uses; a region.Router does.
type counters interface {
	Spent(ctx context.Context, code, customer string, t region.Terms) (bool, error)
	SpentHere(code, customer string, t region.Terms) (is, known bool)
	RaiseLimit(ctx context.Context, code string, t region.Terms) (raised bool, err error)
}

// uses remembers which codes are spent.
type uses struct {
	of    counters
	known *lru.Cache[use, *judged]
	asked chan struct{} // holds one for each reader
}

type use struct {
	code     string
	customer string // empty: all of them
	terms    region.Terms
}

type judged struct {
	at     atomic.Int64 // when it was last looked at, in nanoseconds since the Unix epoch; 0: never
	spent  atomic.Bool
	asking atomic.Bool
}

// usesOf is what a region knows of limited uses; nil: it says nothing of them.
func usesOf(r rpc.Region) (rpc.PromotionUses, error) {
	of, ok := r.(counters)
	if !ok {
		return nil, nil
	}
	u, err := newUses(of)
	if err != nil {
		return nil, err // no interface that holds a nil
	}
	return u, nil
}

func newUses(of counters) (*uses, error) {
	known, err := lru.New[use, *judged](usesEntries)
	if err != nil {
		return nil, fmt.Errorf("make cache of uses: %w", err)
	}
	return &uses{of: of, known: known, asked: make(chan struct{}, usesAsking)}, nil
}

func termsOf(r *promotionv1.Rule) region.Terms {
	return region.Terms{Uses: r.GetUsesMax(), PerCustomer: r.GetPerCustomerMax()}
}

// Spent implements rpc.PromotionUses. What is known of the code itself serves all
// customers; of one nothing is asked but where the rule has a cap.
func (u *uses) Spent(ctx context.Context, r *promotionv1.Rule, cartID string) bool {
	t := termsOf(r)
	return u.isSpent(ctx, use{code: r.GetCode(), terms: t}) ||
		t.PerCustomer > 0 && u.isSpent(ctx, use{r.GetCode(), cartID, t})
}

func (u *uses) isSpent(ctx context.Context, key use) bool {
	j, ok := u.known.Get(key)
	now := time.Now()
	if ok {
		// A clock that was set back makes nothing fresh for longer.
		if age := now.Sub(time.Unix(0, j.at.Load())); age >= 0 && age < usesFresh {
			return j.spent.Load()
		}
	}
	if !ok {
		j = &judged{}
		u.known.Add(key, j)
	}
	if is, here := u.of.SpentHere(key.code, key.customer, key.terms); here {
		j.spent.Store(is)
		j.at.Store(now.UnixNano())
		return is
	}
	u.ask(context.WithoutCancel(ctx), key, j)
	return j.spent.Load()
}

// ask finds out in the background, unless that is being done already or there is too
// much to ask: then a later read of the cart has it done.
func (u *uses) ask(ctx context.Context, key use, j *judged) {
	if !j.asking.CompareAndSwap(false, true) {
		return
	}
	select {
	case u.asked <- struct{}{}:
	default:
		j.asking.Store(false)
		return
	}
	go func() {
		defer func() { <-u.asked; j.asking.Store(false) }()
		ctx, cancel := context.WithTimeout(ctx, usesTimeout)
		defer cancel()
		if is, err := u.of.Spent(ctx, key.code, key.customer, key.terms); err == nil {
			j.spent.Store(is)
			j.at.Store(time.Now().UnixNano())
		}
	}()
}

// Limit implements rpc.PromotionUses.
func (u *uses) Limit(ctx context.Context, r *promotionv1.Rule) (raised bool, err error) {
	return u.of.RaiseLimit(ctx, r.GetCode(), termsOf(r))
}
