package main

import (
	"context"
	"errors"
	"fmt"
	"math"

	"connectrpc.com/connect"

	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	membershipv1 "github.com/samecart/samecart/proto/membership/v1"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/region/pricing"
)

// uses is a region as the limited uses of codes are set and looked at there.
type uses interface {
	Limit(ctx context.Context, code string) (l region.Limit, ok bool, err error)
	// SetLimit does nothing, and ok is false, where the region takes no requests.
	SetLimit(ctx context.Context, code string, most, perCustomer uint64) (ok bool, err error)
}

func (d *dev) limits(name string) (uses, error) {
	r, err := d.find(name)
	if err != nil {
		return nil, err
	}
	return r.router, nil
}

func (s *server) limits(name string) (uses, error) {
	if name != s.conf.Region {
		return nil, fmt.Errorf("%w: limits are set in region %s, and this is %s; ask at its own address", errUnknown, name, s.conf.Region)
	}
	return s.router, nil
}

// usesMax bounds a limit, and what one customer may have of it.
const usesMax = math.MaxUint32

// canonical is a code in the form in which it is redeemed.
func canonical(typed string) (string, error) {
	code, ok := pricing.CanonicalCode(typed)
	if !ok {
		return "", fmt.Errorf("code %.40q must be 1 to %d letters, digits, - and _", typed, pricing.CodeBytesMax)
	}
	return code, nil
}

// SetLimit implements the service.
func (a admin) SetLimit(ctx context.Context, req *connect.Request[adminv1.SetLimitRequest]) (*connect.Response[adminv1.LimitResponse], error) {
	m := req.Msg
	code, err := canonical(m.Code)
	switch {
	case err != nil:
	case m.Uses == 0 || m.Uses > usesMax:
		err = fmt.Errorf("%d uses: give 1 to %d", m.Uses, uint64(usesMax))
	case m.PerCustomer > m.Uses:
		err = fmt.Errorf("%d uses of one customer, of %d in all: give at most that, or 0 for any number", m.PerCustomer, m.Uses)
	}
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	var first string
	for _, e := range a.ops.regions(ctx).GetMembership().GetMembers() {
		if e.State == membershipv1.State_STATE_ACTIVE {
			first = e.Region
			break
		}
	}
	if first == "" {
		return nil, adminError(errors.New("it is not known yet which regions are members; try again"))
	}
	at, err := a.ops.limits(first)
	if err != nil {
		return nil, adminError(err)
	}
	have, there, err := at.Limit(ctx, code)
	if err != nil {
		return nil, adminError(err)
	}
	_, _, inForce := have.Rights.Customers()
	switch {
	case there && m.Uses < have.Limit:
		return nil, adminError(fmt.Errorf("%w: code %s has %d uses, which regions may have given away; a limit is raised, not lowered", errRefused, code, have.Limit))
	case inForce && m.PerCustomer != have.PerCustomer:
		return nil, adminError(fmt.Errorf("%w: one customer has %d uses of code %s (0: any number), and that stays", errRefused, have.PerCustomer, code))
	}
	switch ok, err := at.SetLimit(ctx, code, m.Uses, m.PerCustomer); {
	case err != nil:
		return nil, adminError(err)
	case !ok:
		return nil, adminError(fmt.Errorf("region %s takes no requests any more; try again", first))
	}
	return a.limit(ctx, at, code)
}

// Limit implements the service.
func (a admin) Limit(ctx context.Context, req *connect.Request[adminv1.LimitRequest]) (*connect.Response[adminv1.LimitResponse], error) {
	code, err := canonical(req.Msg.Code)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	at, err := a.ops.limits(req.Msg.Region)
	if err != nil {
		return nil, adminError(err)
	}
	return a.limit(ctx, at, code)
}

func (a admin) limit(ctx context.Context, at uses, code string) (*connect.Response[adminv1.LimitResponse], error) {
	l, ok, err := at.Limit(ctx, code)
	if err == nil && !ok {
		err = fmt.Errorf("%w: code %s has no limit", errUnknown, code)
	}
	if err != nil {
		return nil, adminError(err)
	}
	out := &adminv1.LimitResponse{Code: code, Limit: l.Limit, Granted: l.Rights.Granted(), Used: l.Rights.Used(), PerCustomer: l.PerCustomer}
	for _, h := range l.Rights.Holders() {
		row, _ := l.Rights.Row(h)
		out.Holders = append(out.Holders, &adminv1.LimitHolder{
			RegionId: uint32(h.Region), Incarnation: h.Incarnation, Rights: l.Rights.Rights(h), Used: row.Used,
		})
	}
	return connect.NewResponse(out), nil
}
