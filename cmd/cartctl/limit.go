package main

import (
	"cmp"
	"fmt"
	"text/tabwriter"

	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	"github.com/samecart/samecart/proto/admin/v1/adminv1connect"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
)

type (
	limitCmd struct {
		Set  limitSetCmd  `cmd:"" help:"Say how often a code may be used, in all regions together. It holds once all member regions have taken note."`
		Show limitShowCmd `cmd:"" help:"Show how the uses of a code are spread over the regions."`
	}
	limitCode struct {
		Code string `arg:"" help:"The code, in any case: 1 to 32 letters, digits, - and _."`
	}
	limitSetCmd struct {
		limitCode
		Uses        uint64 `arg:"" help:"How many uses there are. A limit can be raised, not lowered."`
		PerCustomer uint64 `help:"How many of them one customer may have; 0: any number. It stays as it was set first." placeholder:"N"`
	}
	limitShowCmd struct {
		limitCode
		Region string `help:"Ask this region; else the first." placeholder:"NAME"`
	}
	redeemCmd struct {
		edit
		limitCode
	}
)

// Run sets a limit.
func (c *limitSetCmd) Run(a *app) error {
	req := &adminv1.SetLimitRequest{Code: c.Code, Uses: c.Uses, PerCustomer: c.PerCustomer}
	return a.printLimit(administer(a.ctx, a.operator(), req, adminv1connect.AdminServiceClient.SetLimit))
}

// Run shows a limit.
func (c *limitShowCmd) Run(a *app) error {
	if c.Region == "" {
		regions, err := a.regions()
		if err != nil {
			return err
		}
		for _, r := range regions {
			c.Region = cmp.Or(c.Region, r.Region)
		}
	}
	return a.printLimit(administer(a.ctx, a.operator(), &adminv1.LimitRequest{Region: c.Region, Code: c.Code}, adminv1connect.AdminServiceClient.Limit))
}

func (a *app) printLimit(l *adminv1.LimitResponse, err error) error {
	if err != nil {
		return err
	}
	return a.print(view(l.ProtoReflect()), func(w *tabwriter.Writer) {
		per := ""
		if l.GetPerCustomer() > 0 {
			per = fmt.Sprintf(", %d of one customer", l.GetPerCustomer())
		}
		row(w, fmt.Sprintf("%s: %d of %d used%s", l.GetCode(), l.GetUsed(), l.GetLimit(), per))
		if l.GetGranted() < l.GetLimit() {
			row(w, fmt.Sprintf("%d are given out so far: the rest when all member regions have taken note", l.GetGranted()))
		}
		row(w, "REGION", "INCARNATION", "LEFT", "USED")
		for _, h := range l.GetHolders() {
			row(w, h.GetRegionId(), h.GetIncarnation(), h.GetRights(), h.GetUsed())
		}
	})
}

// Run uses a code once.
func (c *redeemCmd) Run(a *app) error {
	answer, err := call(a, c.shopper, c.key(), nil, &cartv1.RedeemPromotionRequest{Code: c.Code}, cartv1connect.CartServiceClient.RedeemPromotion)
	if err != nil {
		return err
	}
	m := answer.Msg
	return a.print(shown(m.ProtoReflect(), answer.Header()), func(w *tabwriter.Writer) {
		left := ""
		if m.LeftHere != nil {
			left = fmt.Sprintf("; %d are left there", m.GetLeftHere())
		}
		row(w, m.GetCode()+" is redeemed"+optional(", region ", answer.Header().Get("Cart-Region"))+left)
	})
}
