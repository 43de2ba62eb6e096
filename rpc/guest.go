package rpc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/rpc/causal"
)

// newGuest makes a guest session.
func (s *service) newGuest() (*cartv1.GuestSession, error) {
	if s.cfg.Guests == nil {
		return nil, fault(DependencyDown, "this server has no key to sign guest sessions with: use another, or have it started with one").with("dependency", "guest sessions")
	}
	g, err := s.cfg.Guests.create(time.Now())
	if err != nil {
		return nil, fmt.Errorf("make a guest session: %w", err)
	}
	return &cartv1.GuestSession{GuestSessionId: g.id, Token: g.token, ExpiresAtMs: g.expires.UnixMilli()}, nil
}

// merge brings a guest's cart into the caller's. It is safe to call again after
// every error, with or without an idempotency key: a guest comes into a cart once,
// however often that is asked for. What the key adds is that it cannot be meant for
// another request as well.
func (s *service) merge(ctx context.Context, c call, req *cartv1.MergeCartRequest) (*cartv1.MergeCartResponse, meta, error) {
	guest := Principal{Kind: Guest, ID: req.GetGuestSessionId()}
	guestCart, _ := guest.CartID()
	switch {
	case c.principal.Kind != User:
		return nil, meta{}, fault(Forbidden, "a guest's cart is merged into a user's: log in, and send the user's credentials")
	case guest.ID == "":
		return nil, meta{}, missing("guest_session_id")
	case !isID(guest.ID):
		return nil, meta{}, fault(InvalidField, "guest_session_id %.40q must be 1 to %d visible ASCII characters without spaces", guest.ID, idBytesMax).with("field", "guest_session_id")
	}
	if err := s.ofGuest(guest.ID, req.GetGuestToken()); err != nil {
		return nil, meta{}, err
	}
	stale, err := s.awaitToken(ctx, c)
	if err != nil {
		return nil, meta{}, err
	}
	// What the device has seen of the guest's cart should be in what is merged.
	behind, err := s.awaitToken(ctx, c.ofGuest(guestCart))
	if err != nil {
		return nil, meta{}, err
	}
	stale = stale || behind
	// A guest's cart is not bound to a cart that takes nothing of it. One that is
	// erased meanwhile says so itself.
	if v, err := s.region.Read(ctx, c.cartID, region.ReadOptions{}); err == nil && cartOf(v).IsErased() {
		return nil, meta{}, errErased()
	}
	replayed, err := s.reserve(ctx, c, guest.ID)
	if err != nil {
		return nil, meta{}, err
	}
	if err := ctx.Err(); err != nil {
		return nil, meta{}, err // nothing was merged yet
	}
	out, err := s.region.MergeGuest(ctx, guestCart, c.cartID)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			err = fmt.Errorf("%w: %w", region.ErrOutcomeUnknown, err)
		}
		return nil, meta{}, fmt.Errorf("merge: %w", err)
	}
	switch out.GetCode() {
	case regionv1.Outcome_CODE_OK:
	case regionv1.Outcome_CODE_ALREADY_MERGED:
		return nil, meta{}, fault(AlreadyMerged, "the cart of this guest session was merged into another user's: it cannot be merged again").with("guest_session_id", guest.ID)
	case regionv1.Outcome_CODE_ERASED:
		return nil, meta{}, errErased()
	default:
		return nil, meta{}, fmt.Errorf("outcome %v of a merge is not expected", out.GetCode())
	}
	res, m, err := s.merged(c, out)
	if err != nil {
		return nil, meta{}, err
	}
	m.replayed = replayed
	res.Stale = stale
	if s.cfg.Guests != nil {
		if res.GuestSession, err = s.newGuest(); err != nil {
			return nil, meta{}, err
		}
	}
	return res, m, nil
}

// reserve remembers the idempotency key of a merge in the user's cart, and refuses
// one that was used for something else, and an If-Match that does not match.
func (s *service) reserve(ctx context.Context, c call, guest string) (replayed bool, err error) {
	switch {
	case c.unmatched:
		return false, s.versionConflict(ctx, c)
	case c.key == "" && c.ifMatch == nil:
		return false, nil
	}
	edit := &regionv1.Edit{CartId: c.cartID, OpId: c.opID(), Fingerprint: fingerprint([]edit{{sku: "merge", seller: guest}})}
	if c.ifMatch != nil {
		edit.IfMatch = c.ifMatch[:]
	}
	out, err := s.region.Edit(ctx, edit)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return false, fmt.Errorf("remember the key: %w: %w", region.ErrOutcomeUnknown, err)
	case err != nil:
		return false, fmt.Errorf("remember the key: %w", err)
	case out.GetCode() != regionv1.Outcome_CODE_OK:
		return false, s.refusal(ctx, c, nil, out, false)
	}
	return out.GetReplayed(), nil
}

// merged makes the answer of a merge that was made.
func (s *service) merged(c call, out *regionv1.Outcome) (*cartv1.MergeCartResponse, meta, error) {
	cc, err := crdt.DecodeContext(out.GetContext())
	if err != nil {
		return nil, meta{}, fmt.Errorf("decode the context of an outcome: %w", err)
	}
	var d region.Digest
	if copy(d[:], out.GetDigest()) < len(d) {
		return nil, meta{}, fmt.Errorf("digest of an outcome has %d bytes", len(out.GetDigest()))
	}
	both, err := crdt.DecodeCart(out.GetMerged().GetConflicts())
	if err != nil {
		return nil, meta{}, fmt.Errorf("decode the conflicts of an outcome: %w", err)
	}
	res := &cartv1.MergeCartResponse{
		MergedItems: out.GetMerged().GetItems(), ConflictsResolved: uint32(len(both.Lines) + len(out.GetLines())),
		CartId: c.cartID, ItemCount: out.GetItemCount(),
	}
	for _, e := range both.Lines {
		v := e.Line.Visible()
		v.Quantity = min(v.Quantity, s.cfg.QuantityMax)
		res.Conflicts = append(res.Conflicts, conflicts(e, v)...)
	}
	for _, l := range out.GetLines() { // which the shop's rule decided
		k := crdt.LineKey{Seller: l.GetLine().GetSeller(), SKU: l.GetLine().GetSku(), Options: l.GetLine().GetOptions()}
		res.Conflicts = append(res.Conflicts, quantityConflict(k, l.GetQuantity(), l.GetQuantities()))
	}
	if out.GetMerged().GetShared() {
		res.Warnings = append(res.Warnings, sharedWarning)
	}
	return res, meta{token: causal.Token{CartID: c.cartID, Context: cc}.Encode(), etag: etag(d)}, nil
}

// sharedWarning is for each of the carts into which one guest's cart was merged.
const sharedWarning = "a guest's cart was merged into this cart and, in another region at the same time, into another user's: both have its lines"

// guestWarnings says what a shopper should know of the guests merged into a cart.
func guestWarnings(c *crdt.Cart) (out []string) {
	if len(c.SharedGuests()) > 0 {
		out = append(out, sharedWarning)
	}
	return out
}

// ofGuest is a call about a guest's cart, with the token that was sent for it.
func (c call) ofGuest(guestCart string) call {
	out := call{principal: c.principal, cartID: guestCart}
	if c.guestCart == guestCart {
		out.context, out.hasToken = c.guestContext, true
	}
	return out
}

// translate makes a token of a guest's cart one of the cart that it was merged into.
// Before the merge it says nothing of the user's cart.
func (c call) translate(cart *crdt.Cart) (translated call, ok bool) {
	if c.hasToken || !strings.HasPrefix(c.guestCart, "guest:") {
		return c, false
	}
	if _, merged := cart.Fact(crdt.FactGuest, c.guestCart); !merged {
		return c, false
	}
	seen := crdt.Relabel(crdt.State{Cart: &crdt.Cart{Context: c.guestContext}}, c.guestCart)
	c.context, c.hasToken = seen.Cart.Context, true
	return c, true
}

// CreateGuestSession implements cartv1connect.CartServiceHandler.
func (h cartServer) CreateGuestSession(context.Context, *connect.Request[cartv1.CreateGuestSessionRequest]) (*connect.Response[cartv1.GuestSession], error) {
	g, err := h.s.newGuest()
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(g), nil
}

// MergeCart implements cartv1connect.CartServiceHandler.
func (h cartServer) MergeCart(ctx context.Context, req *connect.Request[cartv1.MergeCartRequest]) (*connect.Response[cartv1.MergeCartResponse], error) {
	return reading(ctx, req.Header(), func(ctx context.Context, c call) (*cartv1.MergeCartResponse, meta, error) {
		return h.s.merge(ctx, c, req.Msg)
	})
}

type guestSessionJSON struct {
	ID        string `json:"guest_session_id"`
	Token     string `json:"token"`
	ExpiresAt string `json:"expires_at"`
}

func guestSessionJSONOf(g *cartv1.GuestSession) guestSessionJSON {
	return guestSessionJSON{g.GetGuestSessionId(), g.GetToken(), timeText(g.GetExpiresAtMs())}
}

type mergeJSON struct {
	MergedItems       uint32            `json:"merged_items"`
	ConflictsResolved uint32            `json:"conflicts_resolved"`
	Conflicts         []conflictJSON    `json:"conflicts"`
	Warnings          []string          `json:"warnings"`
	CartID            string            `json:"cart_id"`
	ItemCount         uint64            `json:"item_count"`
	Stale             bool              `json:"stale,omitempty"`
	GuestSession      *guestSessionJSON `json:"guest_session"` // null: the server makes none
}

func mergeJSONOf(m *cartv1.MergeCartResponse) mergeJSON {
	out := mergeJSON{
		MergedItems: m.GetMergedItems(), ConflictsResolved: m.GetConflictsResolved(), Conflicts: mapped(m.GetConflicts(), conflictJSONOf),
		Warnings: append([]string{}, m.GetWarnings()...), CartID: m.GetCartId(), ItemCount: m.GetItemCount(), Stale: m.GetStale(),
	}
	if g := m.GetGuestSession(); g != nil {
		j := guestSessionJSONOf(g)
		out.GuestSession = &j
	}
	return out
}

func (h rest) newGuest(w http.ResponseWriter, _ *request) error {
	g, err := h.s.newGuest()
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, guestSessionJSONOf(g))
}

func (h rest) merge(w http.ResponseWriter, r *request) error {
	req := &cartv1.MergeCartRequest{}
	if err := decodeObject(r.body, fields{
		"guest_session_id": text(&req.GuestSessionId, "guest_session_id", InvalidField),
		"guest_token":      text(&req.GuestToken, "guest_token", InvalidField),
	}); err != nil {
		return err
	}
	c, err := newCall(r.Context(), r.Header)
	if err != nil {
		return err
	}
	res, m, err := h.s.merge(r.Context(), c, req)
	if err != nil {
		return err
	}
	m.write(w.Header())
	return writeJSON(w, http.StatusOK, mergeJSONOf(res))
}
