package rpc

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region"
)

// redeem uses a code of limited uses once, for the caller. It is safe to call again
// with the same idempotency key after every error.
func (s *service) redeem(ctx context.Context, c call, code string) (*cartv1.RedeemPromotionResponse, meta, error) {
	if code == "" {
		return nil, meta{}, fault(MissingField, "code is missing").with("field", "code")
	}
	if err := crdt.CheckCode(code); err != nil {
		return nil, meta{}, fault(InvalidField, "%s", err.Error()).with("field", "code")
	}
	// Of an erased cart's customer nothing is written any more.
	if _, err := s.read(ctx, call{cartID: c.cartID}); err != nil {
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
	out, err := s.region.Redeem(ctx, spend)
	switch {
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
	return &cartv1.RedeemPromotionResponse{Code: code, Redeemed: true, LeftHere: out.GetRightsHere()}, meta{replayed: out.GetReplayed()}, nil
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
	Code     string `json:"code"`
	Redeemed bool   `json:"redeemed"`
	LeftHere uint64 `json:"left_here"`
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
	return writeJSON(w, http.StatusOK, redeemedJSON{Code: res.GetCode(), Redeemed: res.GetRedeemed(), LeftHere: res.GetLeftHere()})
}

// RedeemPromotion implements cartv1connect.CartServiceHandler.
func (h cartServer) RedeemPromotion(ctx context.Context, req *connect.Request[cartv1.RedeemPromotionRequest]) (*connect.Response[cartv1.RedeemPromotionResponse], error) {
	return reading(ctx, req.Header(), func(ctx context.Context, c call) (*cartv1.RedeemPromotionResponse, meta, error) {
		return h.s.redeem(ctx, c, req.Msg.GetCode())
	})
}
