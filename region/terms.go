package region

import (
	"context"
	"math"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/region/store"
)

// Terms are what a shop's rule says of a code's limited uses. The zero value limits
// nothing.
type Terms struct {
	Uses, PerCustomer uint64 // 0: any number
}

// usesMax is how many uses a counter can have.
const usesMax = math.MaxUint32

// uses is the limit of a counter that holds the terms: one customer's uses are
// counted among those of all, of which there are then as many as can be.
func (t Terms) uses() uint64 {
	if t.Uses == 0 && t.PerCustomer > 0 {
		return usesMax
	}
	return min(t.Uses, usesMax)
}

// RaiseLimit sets a code's limit as the terms say, when this region knows of none or of
// a lower one; raised says that it did. A cap of one customer stays as it was set
// first. Errors: those of Read and Edit, and ErrNoRegionMajority.
func (r *Router) RaiseLimit(ctx context.Context, code string, t Terms) (raised bool, err error) {
	if err := crdt.CheckCode(code); err != nil || t.uses() == 0 {
		return false, err
	}
	id := crdt.LimitID(code, "")
	v, ok := r.nearby(ctx, r.shardOf(id), id)
	if !ok {
		if v, err = r.Read(ctx, id, ReadOptions{}); err != nil {
			return false, err
		}
	}
	if v.State.Cart.Bounded().Limit() >= t.uses() {
		return false, nil
	}
	ok, err = r.SetLimit(ctx, code, t.uses(), min(t.PerCustomer, usesMax))
	if err == nil && !ok {
		err = ErrFenced
	}
	return err == nil, err
}

// Spent reports whether no use of a code is left for a customer, or for anybody when
// customer is empty, as far as this region knows: a use elsewhere that it has not heard
// of may make it wrong. Errors: those of Read.
func (r *Router) Spent(ctx context.Context, code, customer string, t Terms) (bool, error) {
	read := func(id string) (crdt.Bounded, error) {
		v, err := r.Read(ctx, id, ReadOptions{})
		if err != nil {
			return crdt.Bounded{}, err
		}
		return v.State.Cart.Bounded(), nil
	}
	return spent(code, customer, t, read)
}

// SpentHere is Spent of what this node holds itself: it asks nobody. known is false
// when that is nothing.
func (r *Router) SpentHere(code, customer string, t Terms) (is, known bool) {
	s := r.here(r.shardOf(crdt.LimitID(code, "")))
	if s == nil {
		return false, false
	}
	is, err := spent(code, customer, t, func(id string) (crdt.Bounded, error) {
		rec, err := s.Local(id)
		return boundedOf(rec), err
	})
	return is, err == nil
}

func boundedOf(rec *store.Record) crdt.Bounded {
	if rec == nil {
		return crdt.Bounded{}
	}
	return rec.State.Cart.Bounded()
}

// spent judges a code's counter and, where that caps its customers, one's.
func spent(code, customer string, t Terms, read func(id string) (crdt.Bounded, error)) (bool, error) {
	b, err := read(crdt.LimitID(code, ""))
	if err != nil {
		return false, err
	}
	most, homes, granted := b.Customers()
	switch {
	case !granted:
		return false, nil
	case b.Used() >= max(b.Limit(), t.uses()): // what the terms add is granted when it is asked for
		return true, nil
	case most == 0, customer == "":
		return false, nil
	}
	id := crdt.LimitID(code, customer) // in the same shard
	of, err := read(id)
	if err != nil {
		return false, err
	}
	return of.WithInitial(crdt.Home(homes, id), most).Left() == 0, nil
}
