package rpc

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region"
)

// A region that has just got its first limit is asked again after firstUsePause, then
// twice that, up to firstUsePauseMax.
const (
	firstUsePause    = 50 * time.Millisecond
	firstUsePauseMax = 400 * time.Millisecond
)

// redeem uses a code of limited uses once, for the caller. It is safe to call again
// with the same idempotency key after every error.
//
// A rule that limits a code's uses also limits its counter: see PromotionUses.Limit.
// While the rules are not known, what a counter says already is what counts; so it
// does in a deployment without rules, where limits are set by operators alone.
func (s *service) redeem(ctx context.Context, c call, typed string) (*cartv1.RedeemPromotionResponse, meta, error) {
	code, err := codeOf(typed)
	if err != nil {
		return nil, meta{}, err
	}
	var r rule
	if s.cfg.Promotions != nil {
		if r = s.promotions.lookUp(ctx, []string{code})[0]; r.answered {
			if err := neverCounts(r, c, code); err != nil {
				return nil, meta{}, err
			}
		}
	}
	// An erased customer's name comes into no limit's document any more.
	if _, err := s.read(ctx, c); err != nil {
		return nil, meta{}, err
	}
	spend := &regionv1.Spend{Code: code, Customer: c.cartID, OpId: c.opID()}
	sum := sha256.Sum256([]byte("redeem " + code))
	spend.Fingerprint = binary.BigEndian.Uint64(sum[:])
	if spend.OpId == nil { // the region itself may have to ask again
		spend.OpId = make([]byte, len(crdt.OpID{}))
		rand.Read(spend.OpId) // it never fails: it ends the process instead
	}
	if err := ctx.Err(); err != nil {
		return nil, meta{}, err // nothing was proposed yet: this is no unknown outcome
	}
	raised := false
	if r.isLimited() && s.cfg.PromotionUses != nil {
		if raised, err = s.cfg.PromotionUses.Limit(ctx, r.Rule); err != nil && !errors.Is(err, region.ErrOutcomeUnknown) {
			return nil, meta{}, fmt.Errorf("limit code %s: %w", code, err)
		}
	}
	out, err := s.region.Redeem(ctx, spend)
	for pause := firstUsePause; raised && errors.Is(err, region.ErrNoRegionMajority) && pause <= firstUsePauseMax; pause *= 2 {
		// Regions begin to listen for each other with the first limit.
		select {
		case <-ctx.Done():
		case <-time.After(pause):
			out, err = s.region.Redeem(ctx, spend)
		}
	}
	switch {
	case err == nil && out.GetCode() == regionv1.Outcome_CODE_LINE_NOT_FOUND && s.cfg.Promotions != nil && !r.answered:
		return nil, meta{}, ruleNotKnown(code)
	case err == nil:
	case errors.Is(err, region.ErrNoQuorum), errors.Is(err, region.ErrOverloaded), errors.Is(err, region.ErrClosed), errors.Is(err, region.ErrNoRegionMajority):
		return nil, meta{}, fmt.Errorf("redeem: %w", err) // it was not taken, whatever else happened
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return nil, meta{}, fmt.Errorf("redeem: %w: %w", region.ErrOutcomeUnknown, err)
	default:
		return nil, meta{}, fmt.Errorf("redeem: %w", err)
	}
	if err := notRedeemed(c, code, out); err != nil {
		return nil, meta{}, err
	}
	res := &cartv1.RedeemPromotionResponse{Code: code, Redeemed: true}
	if capsAlone := r.answered && r.GetUsesMax() == 0 && r.GetPerCustomerMax() > 0; !capsAlone {
		res.LeftHere = proto.Uint64(out.GetRightsHere())
	}
	return res, meta{replayed: out.GetReplayed()}, nil
}

// notRedeemed translates an outcome that is not OK.
func notRedeemed(c call, code string, out *regionv1.Outcome) error {
	var f *Error
	switch out.GetCode() {
	case regionv1.Outcome_CODE_OK:
		return nil
	case regionv1.Outcome_CODE_LIMIT_EXHAUSTED:
		f = fault(PromotionExhausted, "all uses of code %q are gone: remove it", code)
	case regionv1.Outcome_CODE_CUSTOMER_EXHAUSTED:
		f = fault(PromotionCustomerLimit, "you have used code %q as often as one customer may: remove it", code)
	case regionv1.Outcome_CODE_LINE_NOT_FOUND:
		f = fault(PromotionNotLimited, "code %q has no limited uses here, so there is none to redeem", code)
	case regionv1.Outcome_CODE_LIMIT_ELSEWHERE:
		f = fault(PromotionElsewhere, "other regions hold what is left of code %q, and were asked for it: try again, or use another region", code)
	case regionv1.Outcome_CODE_OP_ID_REUSED:
		return fault(IdempotencyKeyReused, "Idempotency-Key %q was used for another request: use a new one", c.key)
	default:
		return fmt.Errorf("outcome %v of a use is not expected", out.GetCode())
	}
	return f.with("code", code)
}

type redeemedJSON struct {
	Code     string  `json:"code"`
	Redeemed bool    `json:"redeemed"`
	LeftHere *uint64 `json:"left_here,omitempty"`
}

func (h rest) redeem(w http.ResponseWriter, r *request) error {
	c, err := newCall(r.Context(), r.Header)
	if err != nil {
		return err
	}
	res, m, err := h.s.redeem(r.Context(), c, r.path["code"])
	if err != nil {
		return err
	}
	m.write(w.Header())
	return writeJSON(w, http.StatusOK, redeemedJSON{Code: res.GetCode(), Redeemed: res.GetRedeemed(), LeftHere: res.LeftHere})
}

// RedeemPromotion implements cartv1connect.CartServiceHandler.
func (h cartServer) RedeemPromotion(ctx context.Context, req *connect.Request[cartv1.RedeemPromotionRequest]) (*connect.Response[cartv1.RedeemPromotionResponse], error) {
	return reading(ctx, req.Header(), func(ctx context.Context, c call) (*cartv1.RedeemPromotionResponse, meta, error) {
		return h.s.redeem(ctx, c, req.Msg.GetCode())
	})
}
