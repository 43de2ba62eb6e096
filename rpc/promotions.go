package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"connectrpc.com/connect"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/sony/gobreaker/v2"

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

type rememberedRule struct {
	rule *promotionv1.Rule // nil: there is no such code
	at   time.Time
}

// promotions asks for the rules of codes and remembers them for a bounded time,
// as products does with the catalogue.
type promotions struct {
	cfg     Config
	client  promotionv1connect.PromotionServiceClient // nil: there are no codes
	breaker *gobreaker.CircuitBreaker[[]*promotionv1.Rule]
	cache   *lru.Cache[string, rememberedRule]
	log     *slog.Logger
}

func newPromotions(cfg Config, log *slog.Logger) (*promotions, error) {
	cache, err := lru.New[string, rememberedRule](cfg.PromotionEntries)
	if err != nil {
		return nil, fmt.Errorf("make promotion cache: %w", err)
	}
	return &promotions{
		cfg: cfg, client: cfg.Promotions, cache: cache, log: log,
		breaker: gobreaker.NewCircuitBreaker[[]*promotionv1.Rule](gobreaker.Settings{
			Name:        "promotions",
			MaxRequests: 1, // one caller at a time pays for finding out
			Timeout:     cfg.PromotionRest,
			ReadyToTrip: func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= 3 },
			IsExcluded:  func(err error) bool { return errors.Is(err, errCallerLeft) },
			OnStateChange: func(_ string, _, to gobreaker.State) {
				log.Info("promotions breaker changed state", slog.String("to", to.String()))
			},
		}),
	}, nil
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
	var ask []int // places in codes
	now := time.Now()
	for i, code := range codes {
		r, ok := p.cache.Get(code)
		switch age := now.Sub(r.at); {
		case ok && age <= p.cfg.PromotionFresh:
			out[i] = rule{Rule: r.rule, answered: true}
			continue
		case ok && age <= p.cfg.PromotionOld:
			out[i] = rule{Rule: r.rule, answered: true, old: true}
		}
		ask = append(ask, i)
	}
	for part := range slices.Chunk(ask, ruleLookUpMax) {
		found, err := p.breaker.Execute(func() ([]*promotionv1.Rule, error) { return p.call(ctx, codes, part) })
		if err != nil {
			break // what is known already has to do
		}
		for n, i := range part {
			got := found[n]
			if got.GetCode() == "" {
				got = nil
			} else if err := usableRule(got, codes[i]); err != nil {
				// As good as no answer: nothing may be taken off by a rule that is not
				// understood, and the code is not one that does not exist.
				p.log.LogAttrs(ctx, slog.LevelWarn, "promotion rule cannot be used", slog.String("code", codes[i]), slog.Any("err", err))
				continue
			}
			out[i] = rule{Rule: got, answered: true}
			p.cache.Add(codes[i], rememberedRule{got, now})
		}
	}
	return out
}

func usableRule(r *promotionv1.Rule, code string) error {
	if r.GetCode() != code {
		return fmt.Errorf("asked for %s, the answer is about %.40q", code, r.GetCode())
	}
	return pricing.Check(r)
}

// call asks for the rules of the codes at the given places.
func (p *promotions) call(ctx context.Context, codes []string, places []int) ([]*promotionv1.Rule, error) {
	req := &promotionv1.LookUpRequest{Codes: make([]string, len(places))}
	for n, i := range places {
		req.Codes[n] = codes[i]
	}
	limited, cancel := context.WithTimeout(ctx, p.cfg.PromotionTimeout)
	defer cancel()
	res, err := p.client.LookUp(limited, connect.NewRequest(req))
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, errCallerLeft
	case err != nil:
		return nil, fmt.Errorf("look up %d codes: %w", len(places), err)
	case len(res.Msg.GetRules()) != len(places):
		return nil, fmt.Errorf("look up %d codes: the service answered with %d rules", len(places), len(res.Msg.GetRules()))
	}
	return res.Msg.GetRules(), nil
}
