package promotion

import (
	"context"
	"fmt"
	"sync"

	"connectrpc.com/connect"

	promotionv1 "github.com/samecart/samecart/proto/promotion/v1"
	"github.com/samecart/samecart/proto/promotion/v1/promotionv1connect"
	"github.com/samecart/samecart/region/pricing"
)

// lookUpMax is how many codes one call may ask for.
const lookUpMax = 100

// Rules answers promotion.v1 from memory. It is at once the service's handler
// and an in-process client of it. The zero value has no rules. All methods may
// be called concurrently.
type Rules struct {
	mu    sync.RWMutex
	rules map[string]*promotionv1.Rule // by code; values are never changed, only replaced
}

var (
	_ promotionv1connect.PromotionServiceHandler = (*Rules)(nil)
	_ promotionv1connect.PromotionServiceClient  = (*Rules)(nil)
)

// Put adds a rule or replaces that of its code. r is kept and must not be
// changed afterwards. An error says what is wrong with it.
func (s *Rules) Put(r *promotionv1.Rule) error {
	if err := pricing.Check(r); err != nil {
		return fmt.Errorf("code %s: %w", r.GetCode(), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rules == nil {
		s.rules = map[string]*promotionv1.Rule{}
	}
	s.rules[r.GetCode()] = r
	return nil
}

// Remove takes a rule out.
func (s *Rules) Remove(code string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.rules, code)
}

// Len returns the number of rules.
func (s *Rules) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.rules)
}

// LookUp implements promotion.v1.PromotionService.
func (s *Rules) LookUp(ctx context.Context, req *connect.Request[promotionv1.LookUpRequest]) (*connect.Response[promotionv1.LookUpResponse], error) {
	if err := ctx.Err(); err != nil {
		return nil, connect.NewError(connect.CodeCanceled, err)
	}
	asked := req.Msg.GetCodes()
	if len(asked) > lookUpMax {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("%d codes were asked for: ask for at most %d", len(asked), lookUpMax))
	}
	res := &promotionv1.LookUpResponse{Rules: make([]*promotionv1.Rule, len(asked))}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i, code := range asked {
		if res.Rules[i] = s.rules[code]; res.Rules[i] == nil {
			res.Rules[i] = &promotionv1.Rule{}
		}
	}
	return connect.NewResponse(res), nil
}
