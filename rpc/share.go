package rpc

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region"
)

// A link that shares a cart is a cart of its own, "share:" and the link's id:
// it replicates, and is repaired and kept, as all carts are. It has one fact,
// which says whose cart is shared and until when, and the lines of a snapshot.
//
//	H1  A link is good while its own cart and the owner's both have its fact.
//	    Each arrives in a region by itself; revoking and erasing take effect
//	    with the first that does.
//	H2  The token has 256 random bits, of which a digest alone is kept, the
//	    link's id. Nobody can make the token of it.
//	H3  A link that never was, was revoked or has expired gets one answer.

// The modes of links.
const (
	shareSnapshot = "snapshot"
	shareLive     = "live"
)

// shareExpiresMax is how long a link may be good: no longer than the cart it
// shows lives without an edit.
const shareExpiresMax = 30 * 24 * time.Hour

// sharesMax bounds the links of one cart that have not expired.
const sharesMax = 20

// shareArrivalWait is how long a revocation waits for the link's own cart: the
// owner's cart may have arrived from its region before it.
const shareArrivalWait = 300 * time.Millisecond

// sharesAsked bounds the calls at a time that look for a link in other regions.
// Anybody can make up a token, and each such look costs a second of waiting.
const sharesAsked = 64

// shareCart is the id of a link's own cart. No shopper's cart has one like it.
func shareCart(id string) string { return "share:" + id }

const (
	shareSecretBytes  = 32
	shareIDBytes      = 16
	shareContextBytes = 64 // at most, of a token; a link just made has less than 10
)

// shareToken is what a link's holder has: the secret, and what its cart had
// seen once it was made, so that a region that has not heard of it knows what
// it waits for, and whom to ask.
type shareToken struct {
	secret [shareSecretBytes]byte
	seen   crdt.CausalContext
}

func (t shareToken) id() string {
	sum := sha256.Sum256(t.secret[:])
	return hex.EncodeToString(sum[:shareIDBytes])
}

func (t shareToken) encode() string {
	b := t.secret[:]
	if seen := t.seen.Encode(nil); len(seen) <= shareContextBytes {
		b = append(b, seen...)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// decodeShareToken is for untrusted text.
func decodeShareToken(text string) (t shareToken, ok bool) {
	if len(text) > base64.RawURLEncoding.EncodedLen(shareSecretBytes+shareContextBytes) {
		return t, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < shareSecretBytes {
		return t, false
	}
	copy(t.secret[:], b)
	if b = b[shareSecretBytes:]; len(b) > 0 {
		if t.seen, err = crdt.DecodeContext(b); err != nil {
			return t, false
		}
	}
	return t, true
}

func isShareID(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == shareIDBytes && hex.EncodeToString(b) == s
}

// newShareToken makes a link's secret. A request that comes again under the
// same Idempotency-Key must get the token that it got before, of which nothing
// is kept: so it follows from the key, the cart and the deployment's own key.
func (s *service) newShareToken(c call) (t shareToken) {
	if c.key == "" {
		rand.Read(t.secret[:]) // it never fails: it ends the process instead
		return t
	}
	h := hmac.New(sha256.New, s.cfg.ShareKey)
	h.Write([]byte("share\x00" + c.cartID + "\x00" + c.key)) // no id and no key has a zero byte
	copy(t.secret[:], h.Sum(nil))
	return t
}

// shareFact is what a link's fact says.
type shareFact struct {
	mode             string
	created, expires int64 // milliseconds since the Unix epoch
	// In the link's own cart alone: whose cart is shared, and what that had
	// seen once it had its fact.
	owner string
	seen  crdt.CausalContext
}

func (f shareFact) pairs() string {
	m := map[string]string{
		"mode": f.mode, "created": strconv.FormatInt(f.created, 10), crdt.ShareExpires: strconv.FormatInt(f.expires, 10),
	}
	if f.owner != "" {
		m["owner"] = f.owner
	}
	if b := f.seen.Encode(nil); !f.seen.IsEmpty() && len(b) <= 2<<10 {
		m["seen"] = base64.RawURLEncoding.EncodeToString(b)
	}
	return crdt.CanonicalPairs(m)
}

// shareFactIn reads a link's fact; a broken one is as if it were not there.
func shareFactIn(c *crdt.Cart, id string) (f shareFact, ok bool) {
	v, ok := c.Fact(crdt.FactShare, id)
	if !ok {
		return f, false
	}
	m := crdt.Pairs(v.Pairs)
	f.mode, f.owner = m["mode"], m["owner"]
	var errs [4]error
	f.created, errs[0] = strconv.ParseInt(m["created"], 10, 64)
	f.expires, errs[1] = strconv.ParseInt(m[crdt.ShareExpires], 10, 64)
	if text := m["seen"]; text != "" {
		var b []byte
		if b, errs[2] = base64.RawURLEncoding.DecodeString(text); errs[2] == nil {
			f.seen, errs[3] = crdt.DecodeContext(b)
		}
	}
	return f, errs == [4]error{} && (f.mode == shareLive || f.mode == shareSnapshot)
}

// shareNotFound is the one answer of H3.
func shareNotFound() *Error {
	return fault(ShareNotFound, "there is no such link, or no longer: it was revoked, has expired, or its address is not whole")
}

// shareAsk is a link as its maker asked for it.
type shareAsk struct {
	mode    string
	seconds *uint64 // nil: not given
}

func (a shareAsk) validate() (life time.Duration, err error) {
	switch a.mode {
	case shareLive, shareSnapshot:
	case "":
		return 0, missing("mode")
	default:
		return 0, fault(InvalidField, "mode %.20q is not known: send snapshot or live", a.mode).with("field", "mode")
	}
	if a.seconds == nil {
		return 7 * 24 * time.Hour, nil
	}
	if n := *a.seconds; n < 1 || n > uint64(shareExpiresMax/time.Second) {
		return 0, fault(InvalidField, "expires_in_s %d must be from 1 to %d", n, shareExpiresMax/time.Second).with("field", "expires_in_s")
	}
	return time.Duration(*a.seconds) * time.Second, nil
}

// fingerprint is a digest of what was asked for.
func (a shareAsk) fingerprint() uint64 {
	b := []byte("share\x00" + a.mode)
	if a.seconds != nil {
		b = binary.BigEndian.AppendUint64(append(b, 0), *a.seconds)
	}
	return digest64(b)
}

func digest64(b []byte) uint64 {
	sum := sha256.Sum256(b)
	return binary.BigEndian.Uint64(sum[:])
}

// share makes a link. The owner's cart gets its fact first: a link that its
// owner's cart does not name is good nowhere, and can be found by nobody.
func (s *service) share(ctx context.Context, c call, ask shareAsk) (*cartv1.ShareCartResponse, meta, error) {
	life, err := ask.validate()
	if err != nil {
		return nil, meta{}, err
	}
	if len(s.cfg.ShareKey) == 0 {
		c.key = "" // see Config.ShareKey
	}
	if c.unmatched {
		return nil, meta{}, s.versionConflict(ctx, c)
	}
	v, err := s.read(ctx, c)
	if err != nil {
		return nil, meta{}, err
	}
	token, now := s.newShareToken(c), time.Now()
	id, fact := token.id(), shareFact{mode: ask.mode, created: now.UnixMilli(), expires: now.Add(life).UnixMilli()}
	command := &regionv1.Edit{
		CartId: c.cartID, OpId: c.opID(), Fingerprint: ask.fingerprint(),
		Changes: []*regionv1.Change{{Kind: regionv1.Change_KIND_SHARE, FactId: id, Value: fact.pairs(), SharesMax: sharesMax}},
	}
	if c.ifMatch != nil {
		command.IfMatch = c.ifMatch[:]
	}
	out, err := s.propose(ctx, command)
	if err != nil {
		return nil, meta{}, err
	}
	if out.GetCode() != regionv1.Outcome_CODE_OK {
		return nil, meta{}, s.shareRefusal(ctx, c, out)
	}
	if out.GetReplayed() {
		// The link is the one that the first request made, which may not have
		// come as far as its own cart.
		if v, err = s.read(ctx, c); err != nil {
			return nil, meta{}, err
		}
		var ok bool
		if fact, ok = shareFactIn(cartOf(v), id); !ok {
			return nil, meta{}, shareNotFound()
		}
	}
	m, err := metaOfOutcome(c.cartID, out)
	if err != nil {
		return nil, meta{}, err
	}
	fact.owner, fact.seen = c.cartID, m.context
	own := call{cartID: shareCart(id), key: c.key}
	change := &regionv1.Change{Kind: regionv1.Change_KIND_SHARE, FactId: id, Value: fact.pairs()}
	if fact.mode == shareSnapshot {
		change.Shared = sharedLines(cartOf(v))
	}
	made, err := s.propose(ctx, &regionv1.Edit{CartId: own.cartID, OpId: own.opID(), Fingerprint: ask.fingerprint(), Changes: []*regionv1.Change{change}})
	if err != nil {
		return nil, meta{}, err
	}
	if made.GetCode() != regionv1.Outcome_CODE_OK {
		return nil, meta{}, s.shareRefusal(ctx, c, made)
	}
	if token.seen, err = crdt.DecodeContext(made.GetContext()); err != nil {
		return nil, meta{}, fmt.Errorf("decode the context of a link's outcome: %w", err)
	}
	text := token.encode()
	return &cartv1.ShareCartResponse{
		Id: id, Token: text, Url: s.cfg.ShareURL + text, Mode: fact.mode, ExpiresAtMs: fact.expires, Stale: v.Stale,
	}, m.meta, nil
}

// sharedLines are a snapshot: what shows in the cart, and nothing put aside.
func sharedLines(c *crdt.Cart) []*regionv1.SharedLine {
	var out []*regionv1.SharedLine
	for k, v := range c.Visible() {
		if v.Placement != crdt.InCart {
			continue
		}
		out = append(out, &regionv1.SharedLine{
			Line:     &regionv1.LineKey{Seller: k.Seller, Sku: k.SKU, Options: k.Options},
			Quantity: v.Quantity, Price: v.Offer.Price, Currency: v.Offer.Currency, AddedAt: uint64(v.Offer.AddedAt),
		})
	}
	return out
}

// shareRefusal translates the outcome of a SHARE or UNSHARE that is not OK.
func (s *service) shareRefusal(ctx context.Context, c call, out *regionv1.Outcome) error {
	switch out.GetCode() {
	case regionv1.Outcome_CODE_TOO_MANY_SHARES:
		return fault(TooManyLinks, "the cart has %d links that have not expired, as many as it may: revoke one", sharesMax).with("max", strconv.Itoa(sharesMax))
	case regionv1.Outcome_CODE_SHARE_NOT_FOUND:
		return shareNotFound()
	default: // what any edit is refused for
		return s.refusal(ctx, c, nil, out, false)
	}
}

// revoke ends a link of the caller's cart. Its own cart goes first, while the
// owner's still names it: who is cut off in between can do it again.
func (s *service) revoke(ctx context.Context, c call, id string) (*cartv1.RevokeShareResponse, meta, error) {
	if !isShareID(id) {
		return nil, meta{}, shareNotFound()
	}
	if c.unmatched {
		return nil, meta{}, s.versionConflict(ctx, c)
	}
	v, err := s.read(ctx, c)
	if err != nil {
		return nil, meta{}, err
	}
	match := c.ifMatch == nil || *c.ifMatch == v.Digest
	if _, own := cartOf(v).Fact(crdt.FactShare, id); own && match {
		if err := s.emptyShare(ctx, id); err != nil {
			return nil, meta{}, err
		}
	}
	command := &regionv1.Edit{
		CartId: c.cartID, OpId: c.opID(), Fingerprint: digest64([]byte("unshare\x00" + id)),
		Changes: []*regionv1.Change{{Kind: regionv1.Change_KIND_UNSHARE, FactId: id}},
	}
	if c.ifMatch != nil {
		command.IfMatch = c.ifMatch[:]
	}
	out, err := s.propose(ctx, command)
	if err != nil {
		return nil, meta{}, err
	}
	if out.GetCode() != regionv1.Outcome_CODE_OK {
		return nil, meta{}, s.shareRefusal(ctx, c, out)
	}
	m, err := metaOfOutcome(c.cartID, out)
	if err != nil {
		return nil, meta{}, err
	}
	return &cartv1.RevokeShareResponse{Id: id}, m.meta, nil
}

// emptyShare takes all out of a link's own cart. Where that has not arrived, the
// owner's cart alone ends the link (H1), and what then comes expires.
func (s *service) emptyShare(ctx context.Context, id string) error {
	v, err := s.region.Read(ctx, shareCart(id), region.ReadOptions{})
	if err != nil {
		return fmt.Errorf("read a link's cart: %w", err)
	}
	if cartOf(v).Context.IsEmpty() {
		waiting, cancel := context.WithTimeout(ctx, shareArrivalWait)
		_, _ = s.region.Wait(waiting, v.CartID, v.Digest) // it may not come
		cancel()
	}
	_, err = s.propose(ctx, &regionv1.Edit{CartId: v.CartID, Changes: []*regionv1.Change{
		{Kind: regionv1.Change_KIND_UNSHARE, FactId: id}, {Kind: regionv1.Change_KIND_CLEAR},
	}}) // refused where there is nothing to take out
	return err
}

// shared is what a link shows.
type shared struct {
	id   string
	fact shareFact
	cart *crdt.Cart // lines in the cart alone, each with its visible values alone
	view region.View
}

// openShare finds what a token's link shares.
func (s *service) openShare(ctx context.Context, text string) (*shared, error) {
	token, ok := decodeShareToken(text)
	if !ok {
		return nil, shareNotFound()
	}
	id := token.id()
	own, fact, err := s.findShare(ctx, shareCart(id), id, token.seen)
	if err != nil {
		return nil, err
	}
	if fact.expires <= time.Now().UnixMilli() || fact.owner == "" {
		return nil, shareNotFound()
	}
	v, _, err := s.findShare(ctx, fact.owner, id, fact.seen)
	if err != nil {
		return nil, err
	}
	stale := v.Stale || own.Stale
	if fact.mode == shareSnapshot {
		v = own
	}
	out := &shared{id: id, fact: fact, cart: &crdt.Cart{}}
	for k, value := range cartOf(v).Visible() {
		if value.Placement == crdt.InCart {
			// Presence stands in for registers: no note, no write of before and
			// no conflict is left of the owner's.
			value.Attributes = crdt.Attributes{}
			line := &crdt.Line{Presence: crdt.Register[crdt.Carried]{{Value: value}}}
			out.cart.Lines = append(out.cart.Lines, crdt.MapEntry{Key: k, Line: line})
		}
	}
	out.view = region.View{State: crdt.State{Cart: out.cart}, Stale: stale}
	return out, nil
}

// findShare reads a cart that has a link's fact. Where it does not, and has not
// seen what it had seen once the fact was in it, the region waits for that, and
// asks the region that wrote it.
func (s *service) findShare(ctx context.Context, cartID, id string, seen crdt.CausalContext) (region.View, shareFact, error) {
	v, err := s.region.Read(ctx, cartID, region.ReadOptions{})
	if err != nil {
		return v, shareFact{}, fmt.Errorf("read what a link shares: %w", err)
	}
	fact, ok := shareFactIn(cartOf(v), id)
	if !ok && !cartOf(v).Context.Covers(seen) && s.shareAsks.take() {
		v, err = s.region.Read(ctx, cartID, region.ReadOptions{Context: seen, HasToken: true})
		s.shareAsks.free()
		if err != nil {
			return v, shareFact{}, fmt.Errorf("ask for what a link shares: %w", err)
		}
		fact, ok = shareFactIn(cartOf(v), id)
	}
	if !ok {
		return v, fact, shareNotFound()
	}
	return v, fact, nil
}

// getShared shows what a link shares.
func (s *service) getShared(ctx context.Context, token string) (*cartv1.SharedCart, error) {
	sh, err := s.openShare(ctx, token)
	if err != nil {
		return nil, err
	}
	page := s.render(ctx, sh.view)
	return &cartv1.SharedCart{
		Mode: sh.fact.mode, Items: page.GetItems(), Sellers: page.GetSellers(), Subtotal: page.GetSubtotal(), ItemCount: page.GetItemCount(),
		Currency: page.GetCurrency(), Stale: page.GetStale(), Warnings: page.GetWarnings(),
		CreatedAtMs: sh.fact.created, ExpiresAtMs: sh.fact.expires,
	}, nil
}

// copyShared adds what a link shares to the caller's cart, as one edit.
func (s *service) copyShared(ctx context.Context, c call, token string) (*cartv1.Cart, meta, error) {
	sh, err := s.openShare(ctx, token)
	if err != nil {
		return nil, meta{}, err
	}
	var edits []edit
	for k, v := range sh.cart.Visible() {
		edits = append(edits, edit{
			kind: regionv1.Change_KIND_ADD, sku: k.SKU, seller: k.Seller, options: crdt.Pairs(k.Options),
			quantity: uint64(min(v.Quantity, s.cfg.QuantityMax)),
		})
	}
	// A live cart may have changed when the request comes again: the link is
	// what was asked for.
	c.fingerprint = digest64([]byte("copy\x00" + sh.id))
	a, err := s.apply(ctx, c, edits, false)
	if err != nil {
		return nil, meta{}, err
	}
	c.hasToken, c.context = false, crdt.CausalContext{} // what was applied is at the leader
	cart, m, err := s.cart(ctx, c)
	if err != nil {
		// It was applied: a caller who is told so does not copy again.
		return nil, meta{}, fmt.Errorf("%w: %w", region.ErrOutcomeUnknown, err)
	}
	m.replayed, cart.Stale = a.replayed, cart.GetStale() || a.stale
	return cart, m, nil
}
