package rpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/rpc/causal"
)

// service is the one implementation of the cart's operations. REST and
// Connect translate their requests to its methods and its answers back.
type service struct {
	cfg        Config
	region     Region
	products   *products
	pages      *pages
	estimates  *estimates
	promotions *promotions
	prover     guestProver // nil: a guest's session is taken on trust
	shareAsks  slots       // links that are looked for in other regions
	log        *slog.Logger
	feeds      *feeds
	draining   context.Context // ended: streams end
}

// applied is what became of the edits of one request.
type applied struct {
	meta

	cartID  string
	count   uint64
	stale   bool
	results []*cartv1.ItemResponse // one for each edit
	context crdt.CausalContext     // of the cart after them
	index   uint64                 // in the shard's log
}

// apply validates edits, asks the catalogue for what the shopper did not say,
// proposes all of them as one command and tells what became of each. batch
// says whether errors name the edit.
//
// It is safe to call again with the same idempotency key after every error.
func (s *service) apply(ctx context.Context, c call, edits []edit, batch bool) (*applied, error) {
	for i := range edits {
		if err := edits[i].validate(c, s.cfg.QuantityMax); err != nil {
			var e *Error
			if batch && errors.As(err, &e) {
				return nil, inEdit(e, i)
			}
			return nil, err
		}
	}
	changes, err := s.changes(ctx, edits, batch)
	if err != nil {
		return nil, err
	}
	stale, err := s.awaitToken(ctx, c)
	if err != nil {
		return nil, err
	}
	if c.unmatched {
		return nil, s.versionConflict(ctx, c)
	}
	command := &regionv1.Edit{CartId: c.cartID, OpId: c.opID(), Fingerprint: cmp.Or(c.fingerprint, fingerprint(edits)), Changes: changes}
	if c.ifMatch != nil {
		command.IfMatch = c.ifMatch[:]
	}
	out, err := s.propose(ctx, command)
	if err != nil {
		return nil, err
	}
	if out.GetCode() != regionv1.Outcome_CODE_OK {
		return nil, s.refusal(ctx, c, edits, out, batch)
	}
	return s.describe(ctx, c, edits, out, stale)
}

// propose has the region apply an edit. An error after which it may have been
// applied wraps region.ErrOutcomeUnknown.
func (s *service) propose(ctx context.Context, e *regionv1.Edit) (*regionv1.Outcome, error) {
	if err := ctx.Err(); err != nil {
		return nil, err // nothing was proposed yet: this is no unknown outcome
	}
	out, err := s.region.Edit(ctx, e)
	switch {
	case err == nil:
		return out, nil
	case errors.Is(err, region.ErrNoQuorum), errors.Is(err, region.ErrOverloaded), errors.Is(err, region.ErrClosed):
		return nil, fmt.Errorf("edit: %w", err) // it was not taken, whatever else happened
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return nil, fmt.Errorf("edit: %w: %w", region.ErrOutcomeUnknown, err)
	}
	return nil, fmt.Errorf("edit: %w", err)
}

// awaitToken waits until the region has what the caller's token names, so
// that the edit is made on top of it. stale is true when that did not come in
// time: the edit is applied all the same, and the answer says so. A caller's
// own deadline bounds the wait as well, and leaves some of it for the edit.
func (s *service) awaitToken(ctx context.Context, c call) (stale bool, err error) {
	if !c.hasToken || c.context.IsEmpty() {
		return false, nil
	}
	wait := s.cfg.TokenWait
	if end, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(end)*3/4)
	}
	limited, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	v, err := s.region.Read(limited, c.cartID, region.ReadOptions{Context: c.context, HasToken: true})
	switch {
	case err != nil && limited.Err() != nil && ctx.Err() == nil:
		return true, nil
	case err != nil:
		return false, fmt.Errorf("wait for what the token names: %w", err)
	}
	return v.Stale, nil
}

// changes completes edits with what the catalogue says.
func (s *service) changes(ctx context.Context, edits []edit, batch bool) ([]*regionv1.Change, error) {
	refs := make([]productRef, len(edits))
	for i, e := range edits {
		if e.kind == regionv1.Change_KIND_ADD {
			refs[i] = productRef{e.sku, e.seller}
		}
	}
	known := s.products.lookUp(ctx, refs)
	out := make([]*regionv1.Change, len(edits))
	for i := range edits {
		e := &edits[i]
		change := &regionv1.Change{Kind: e.kind, Quantity: uint32(e.quantity)}
		switch e.kind {
		case regionv1.Change_KIND_ADD:
			if err := e.offer(known[i], change); err != nil {
				if batch {
					err = inEdit(err, i)
				}
				return nil, err
			}
		case regionv1.Change_KIND_CLEAR, regionv1.Change_KIND_UNDO, regionv1.Change_KIND_ERASE:
		case regionv1.Change_KIND_ADD_CODE, regionv1.Change_KIND_DROP_CODE:
			change.FactId = e.code
		default:
			change.Line = e.lineKey()
			if e.kind == regionv1.Change_KIND_SET && e.quantity == 0 { // a set to 0 removes, and may do so twice
				change.Kind = regionv1.Change_KIND_REMOVE
			}
		}
		e.describes(change)
		out[i] = change
	}
	return out, nil
}

// offer fills in the seller and the price of an add.
func (e *edit) offer(p product, change *regionv1.Change) *Error {
	seller := e.seller
	switch {
	case p.answered && p.Product == nil && e.seller != "":
		return fault(UnknownSKU, "the catalogue has no sku_id %q of seller_id %q", e.sku, e.seller).with("sku_id", e.sku).with("seller_id", e.seller)
	case p.answered && p.Product == nil:
		return fault(UnknownSKU, "the catalogue has no sku_id %q", e.sku).with("sku_id", e.sku)
	case p.answered:
		seller, change.Price, change.Currency = p.GetSellerId(), p.GetPriceMinorUnits(), p.GetCurrency()
	case e.price == nil || e.price.currency == "" || seller == "":
		return fault(DependencyDown, "the catalogue does not answer, and the price of sku_id %q is not known: try again", e.sku).with("dependency", "catalog")
	}
	change.Line = &regionv1.LineKey{Seller: seller, Sku: e.sku, Options: crdt.CanonicalPairs(e.options)}
	if e.price == nil {
		return nil
	}
	if e.price.currency != "" {
		if p.answered && e.price.currency != p.GetCurrency() {
			return fault(CurrencyMismatch, "price is in %s, but sku_id %q is sold in %s", e.price.currency, e.sku, p.GetCurrency())
		}
		change.Currency = e.price.currency
	}
	v, err := e.price.minorUnits(change.Currency)
	if err != nil {
		return err
	}
	change.Price, change.RenewOffer = v, true
	return nil
}

// refusal translates an outcome that is not OK.
func (s *service) refusal(ctx context.Context, c call, edits []edit, out *regionv1.Outcome, batch bool) error {
	var e edit
	if i := int(out.GetChange()); i < len(edits) {
		e = edits[i]
	}
	named := fmt.Sprintf("sku_id %q", e.sku)
	if e.seller != "" {
		named += fmt.Sprintf(" of seller_id %q", e.seller)
	}
	var f *Error
	switch out.GetCode() {
	case regionv1.Outcome_CODE_LINE_NOT_FOUND:
		f = fault(LineNotFound, "the cart has no line of %s: add it first", named)
	case regionv1.Outcome_CODE_AMBIGUOUS_LINE:
		sellers := slices.Compact(slices.Sorted(slices.Values(out.GetDetails())))
		if len(sellers) == 1 {
			f = fault(AmbiguousLine, "the cart has several lines of %s with other options: name the options", named)
		} else {
			f = fault(AmbiguousLine, "the cart has sku_id %q from %d sellers: name one as seller_id", e.sku, len(sellers))
		}
		f = f.with("sellers", sellers)
	case regionv1.Outcome_CODE_TOO_MANY_LINES:
		f = fault(TooManyLines, "the cart is full: remove a line before adding %s", named)
		if d := out.GetDetails(); len(d) > 0 {
			f = f.with("max", d[0])
		}
	case regionv1.Outcome_CODE_QUANTITY_TOO_LARGE:
		f = fault(QuantityTooLarge, "%s would have more than %d: a line holds no more", named, s.cfg.QuantityMax).with("max", fmt.Sprint(s.cfg.QuantityMax))
	case regionv1.Outcome_CODE_TOO_MANY_CODES:
		f = fault(PromotionTooMany, "the cart holds no more codes: remove one before giving %s", e.code).with("promotion", e.code)
		if d := out.GetDetails(); len(d) > 0 {
			f = f.with("max", d[0])
		}
	case regionv1.Outcome_CODE_CURRENCY_MISMATCH:
		f = fault(CurrencyMismatch, "%s is sold in another currency than the cart's: one cart holds one currency", named)
		if d := out.GetDetails(); len(d) > 0 {
			f = f.with("currency", d[0])
		}
	case regionv1.Outcome_CODE_VERSION_CONFLICT:
		return s.versionConflict(ctx, c)
	case regionv1.Outcome_CODE_ERASED:
		return errErased()
	case regionv1.Outcome_CODE_NOTHING_TO_UNDO:
		return fault(LineNotFound, "there is nothing to undo: the last remove, clear or merge was undone already, or was longer ago than it can be undone")
	case regionv1.Outcome_CODE_OP_ID_REUSED:
		return fault(IdempotencyKeyReused, "Idempotency-Key %q was used for another request: use a new one", c.key)
	case regionv1.Outcome_CODE_GUEST_EXPIRED:
		return fault(Unauthenticated, "guest session has expired: start a new one with POST /guest-sessions")
	default:
		return fmt.Errorf("outcome %v of an edit is not expected", out.GetCode())
	}
	if e.sku != "" {
		f = f.with("sku_id", e.sku)
	}
	if batch {
		f = inEdit(f, int(out.GetChange()))
	}
	return f
}

// versionConflict answers an If-Match that does not match with the cart as it
// is, and with its token and ETag.
func (s *service) versionConflict(ctx context.Context, c call) error {
	v, err := s.region.Read(ctx, c.cartID, c.readOptions())
	if err != nil {
		return fmt.Errorf("read the cart that If-Match did not match: %w", err)
	}
	f := fault(VersionConflict, "the cart is not the one that If-Match names: look at the current one, and send its ETag")
	f.Cart = s.render(ctx, v)
	f.header = map[string][]string{}
	metaOf(v).write(f.header)
	return f
}

// describe makes the answer of edits that were applied.
func (s *service) describe(ctx context.Context, c call, edits []edit, out *regionv1.Outcome, stale bool) (*applied, error) {
	m, err := metaOfOutcome(c.cartID, out)
	if err != nil {
		return nil, err
	}
	a := &applied{
		meta:   m.meta,
		cartID: c.cartID, count: out.GetItemCount(), stale: stale, context: m.context, index: out.GetIndex(),
		results: make([]*cartv1.ItemResponse, len(edits)),
	}
	if stale {
		a.missing = missingText(s.missing(c.context, m.context))
	}
	lines := out.GetLines()
	refs := make([]productRef, len(lines))
	for i, l := range lines {
		if l.GetLine().GetSku() != "" && !l.GetRemoved() {
			refs[i] = productRef{l.GetLine().GetSku(), l.GetLine().GetSeller()}
		}
	}
	known := s.products.lookUp(ctx, refs)
	for i := range edits {
		r := &cartv1.ItemResponse{CartId: c.cartID, ItemCount: a.count, Stale: stale}
		a.results[i] = r
		if i >= len(lines) || lines[i].GetRemoved() || lines[i].GetLine().GetSku() == "" {
			continue
		}
		l := lines[i]
		key := crdt.LineKey{Seller: l.GetLine().GetSeller(), SKU: l.GetLine().GetSku(), Options: l.GetLine().GetOptions()}
		r.Item = new(cartv1.Item)
		item(r.Item, new(prices), key, crdt.Carried{
			Quantity:   min(l.GetQuantity(), s.cfg.QuantityMax),
			Offer:      crdt.Offer{Price: l.GetPrice(), Currency: l.GetCurrency(), AddedAt: crdt.Timestamp(l.GetAddedAt())},
			Attributes: crdt.Attributes{Pairs: l.GetAttributes()},
		}, known[i])
		if q := l.GetQuantities(); len(q) > 1 {
			r.Conflicts = []*cartv1.Conflict{quantityConflict(key, slices.Max(q), q)}
		}
	}
	return a, nil
}

// read returns the caller's cart as the region holds it.
func (s *service) read(ctx context.Context, c call) (region.View, error) {
	v, err := s.region.Read(ctx, c.cartID, c.readOptions())
	if err != nil {
		return v, fmt.Errorf("read cart: %w", err)
	}
	if t, ok := c.translate(cartOf(v)); ok && !cartOf(v).Context.Covers(t.context) {
		if v, err = s.region.Read(ctx, t.cartID, t.readOptions()); err != nil {
			return v, fmt.Errorf("read cart: %w", err)
		}
	}
	if cartOf(v).IsErased() {
		return v, errErased()
	}
	return v, nil
}

// cart reads the caller's cart and renders it.
func (s *service) cart(ctx context.Context, c call) (*cartv1.Cart, meta, error) {
	v, err := s.read(ctx, c)
	if err != nil {
		return nil, meta{}, err
	}
	m, missing := s.metaFor(c, v)
	cart := s.render(ctx, v)
	cart.Missing = missing
	return cart, m, nil
}

// count reads the number of items in the caller's cart.
func (s *service) count(ctx context.Context, c call) (*cartv1.CountResponse, meta, error) {
	// What a guest's token says of a user's cart, the cart's facts tell: a badge has none.
	if s.cfg.Records != nil && !c.ofAnotherGuest() {
		return s.badge(ctx, c)
	}
	v, err := s.read(ctx, c)
	if err != nil {
		return nil, meta{}, err
	}
	m, _ := s.metaFor(c, v)
	return &cartv1.CountResponse{CartId: v.CartID, ItemCount: cartOf(v).ItemCount(s.cfg.QuantityMax), Stale: v.Stale}, m, nil
}

// badge is count without the cart.
func (s *service) badge(ctx context.Context, c call) (*cartv1.CountResponse, meta, error) {
	b, err := s.cfg.Records.Count(ctx, c.cartID, c.readOptions())
	switch {
	case err != nil:
		return nil, meta{}, fmt.Errorf("count cart: %w", err)
	case b.Erased:
		return nil, meta{}, errErased()
	}
	m := meta{token: causal.Token{CartID: c.cartID, Context: b.Context}.Encode(), etag: etag(b.Digest)}
	if b.Stale && c.hasToken {
		m.missing = missingText(s.missing(c.context, b.Context))
	}
	return &cartv1.CountResponse{CartId: c.cartID, ItemCount: b.Count, Stale: b.Stale}, m, nil
}

// cartOf returns a view's cart; a cart that nobody knows is an empty one.
func cartOf(v region.View) *crdt.Cart {
	if v.State.Cart == nil {
		return &crdt.Cart{}
	}
	return v.State.Cart
}
