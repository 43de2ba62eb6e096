package rpc

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"connectrpc.com/connect"
	promotionv1 "github.com/samecart/samecart/proto/promotion/v1"
	"github.com/samecart/samecart/proto/promotion/v1/promotionv1connect"
	"github.com/samecart/samecart/region/pricing"
)

// ruleLookUpMax is how many codes the promotion service takes in one call.
const ruleLookUpMax = 100

// PromotionUses tells what a region knows of codes with limited uses.
type PromotionUses interface {
	// Spent reports whether no use of the rule's code is left for the owner of a
	// cart, as far as this region knows. Each read of a cart with such a code asks: it
	// must not block, and may be called concurrently.
	Spent(ctx context.Context, rule *promotionv1.Rule, cartID string) bool
	// Limit limits the uses of the rule's code as the rule says, unless the region
	// knows of as high a limit; raised says that it did. Errors: those of
	// Region.Redeem.
	Limit(ctx context.Context, rule *promotionv1.Rule) (raised bool, err error)
}

// rule is what is known of one code now.
type rule struct {
	*promotionv1.Rule // nil: there is no such code, when answered

	answered bool // the service said so, now or before
	old      bool // it said so before, and does not answer now
}

func (r rule) isLimited() bool { return r.GetUsesMax() > 0 || r.GetPerCustomerMax() > 0 }

// promotions asks for the rules of codes.
type promotions struct {
	*bulk[string, *promotionv1.Rule] // nil: there is no such code

	client promotionv1connect.PromotionServiceClient // nil: there are no codes
	log    *slog.Logger
}

func newPromotions(cfg Config, log *slog.Logger) (*promotions, error) {
	p := &promotions{client: cfg.Promotions, log: log}
	var err error
	p.bulk, err = newBulk(bulkConfig{
		name: "promotions", most: ruleLookUpMax, entries: cfg.PromotionEntries, timeout: cfg.PromotionTimeout,
		fresh: cfg.PromotionFresh, old: cfg.PromotionOld, rest: cfg.PromotionRest,
	}, log, p.call)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// lookUp returns what is known of each code, in their order. It never fails:
// what could not be found out is not answered.
func (p *promotions) lookUp(ctx context.Context, codes []string) []rule {
	out := make([]rule, len(codes))
	if p.client == nil {
		for i := range out {
			out[i].answered = true
		}
		return out
	}
	found, _ := p.bulk.lookUp(ctx, codes, p.fresh, time.Time{}, func(code string, got *promotionv1.Rule, asked time.Time) (*promotionv1.Rule, bool) {
		if got.GetCode() == "" {
			got = nil
		} else if err := usableRule(got, code); err != nil {
			// As good as no answer: nothing may be taken off by a rule that is not
			// understood, and the code is not one that does not exist.
			p.log.LogAttrs(ctx, slog.LevelWarn, "promotion rule cannot be used", slog.String("code", code), slog.Any("err", err))
			return nil, false
		}
		p.remember(code, got, asked)
		return got, true
	}) // what is known already has to do
	for i, k := range found {
		out[i] = rule{k.value, k.answered, k.old}
	}
	return out
}

func usableRule(r *promotionv1.Rule, code string) error {
	if r.GetCode() != code {
		return fmt.Errorf("asked for %s, the answer is about %.40q", code, r.GetCode())
	}
	return pricing.Check(r)
}

// call asks for the rules of codes.
func (p *promotions) call(ctx context.Context, codes []string) ([]*promotionv1.Rule, error) {
	res, err := p.client.LookUp(ctx, connect.NewRequest(&promotionv1.LookUpRequest{Codes: codes}))
	if err != nil {
		return nil, err
	}
	return res.Msg.GetRules(), nil
}
