package region

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/shard"
)

// A use of a code for which another region has the rights waits for them: asked again
// after elsewherePause, then twice that, and so on, for elsewhereMax of the time that
// the caller waits.
const (
	elsewherePause = 30 * time.Millisecond
	elsewhereMax   = 3 // quarters
)

// Redeem uses a code once for a customer: one use for one op id, which it must have.
// The outcome is OK once a majority of the regions knows of it. Errors: those of Edit,
// and ErrNoRegionMajority.
func (r *Router) Redeem(ctx context.Context, s *regionv1.Spend) (*regionv1.Outcome, error) {
	if err := crdt.CheckCode(s.GetCode()); err != nil {
		return nil, err
	}
	if len(s.OpId) != len(crdt.OpID{}) {
		return nil, fmt.Errorf("use of code %q: op id of %d bytes; give %d", s.Code, len(s.OpId), len(crdt.OpID{}))
	}
	waiting := ctx
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		waiting, cancel = context.WithTimeout(ctx, time.Until(end)*elsewhereMax/4)
		defer cancel()
	}
	cmd := &regionv1.Command{Command: &regionv1.Command_Spend{Spend: s}}
	for pause := elsewherePause; ; pause *= 2 {
		out, err := r.propose(ctx, r.shardOf(crdt.LimitID(s.Code, "")), cmd, true)
		switch {
		case errors.Is(err, shard.ErrNoRegionMajority), err == nil && out.Code == regionv1.Outcome_CODE_NO_REGION_MAJORITY:
			return nil, fmt.Errorf("%w: use of code %q", ErrNoRegionMajority, s.Code)
		case errors.Is(err, shard.ErrFenced), err == nil && out.Code == regionv1.Outcome_CODE_FENCED:
			return nil, ErrFenced
		case err != nil || out.Code != regionv1.Outcome_CODE_LIMIT_ELSEWHERE || !sleep(waiting, pause):
			return out, err
		}
	}
}

// Limit is a code's limited uses as a region knows them.
type Limit struct {
	// Limit is how many uses there shall be, PerCustomer how many of one customer,
	// 0: any number.
	Limit, PerCustomer uint64
	Rights             crdt.Bounded
}

// Limit returns what the region knows of a code's limited uses; ok is false when
// there is no limit. Errors: those of Read.
func (r *Router) Limit(ctx context.Context, code string) (l Limit, ok bool, err error) {
	if err := crdt.CheckCode(code); err != nil {
		return l, false, err
	}
	v, err := r.Read(ctx, crdt.LimitID(code, ""), ReadOptions{})
	if err != nil {
		return l, false, err
	}
	l.Rights = v.State.Cart.Bounded()
	most, _, granted := l.Rights.Customers()
	for _, h := range l.Rights.Holders() {
		row, _ := l.Rights.Row(h)
		if !granted {
			most = max(most, row.Cap)
		}
	}
	l.Limit, l.PerCustomer = l.Rights.Limit(), most
	return l, l.Limit > 0, nil
}

// SetLimit says how often a code may be used, and how often by one customer: the first
// of the active members makes the rights once it has heard of it. ok is false when
// this region takes no requests.
func (r *Router) SetLimit(ctx context.Context, code string, uses, perCustomer uint64) (ok bool, err error) {
	if err := crdt.CheckCode(code); err != nil {
		return false, err
	}
	id := crdt.LimitID(code, "")
	out, err := r.propose(ctx, r.shardOf(id), &regionv1.Command{Command: &regionv1.Command_TendRights{
		TendRights: &regionv1.TendRights{CartId: id, Limit: uses, PerCustomer: perCustomer},
	}}, true)
	switch {
	case err != nil:
		return false, err
	case out.Code == regionv1.Outcome_CODE_NO_REGION_MAJORITY:
		return false, fmt.Errorf("%w: not all regions have said under which incarnation they write", ErrNoRegionMajority)
	}
	return out.Code == regionv1.Outcome_CODE_OK, nil
}
