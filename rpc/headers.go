package rpc

import (
	"context"
	"fmt"
	"net/http"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/rpc/causal"
)

const (
	keyBytesMax  = 255 // Idempotency-Key
	etagBytesMax = 128 // If-Match: ours have 34
)

// call is what a request's headers say, the same for REST and Connect.
type call struct {
	principal Principal
	cartID    string
	key       string // Idempotency-Key; empty: none
	context   crdt.CausalContext
	hasToken  bool // a token for this very cart was sent
	// guestCart and guestContext are what the token says when it is of another
	// cart: of the guest's, at the login.
	guestCart    string
	guestContext crdt.CausalContext
	strong       bool
	// ifMatch is the digest the cart must have. unmatched is true when the
	// value sent can be no cart's digest.
	ifMatch   *region.Digest
	unmatched bool
	// fingerprint, where the call sets it, stands for what was asked for in
	// place of the edits that follow from it.
	fingerprint uint64
}

// newCall reads the headers of a call whose caller has been admitted.
func newCall(ctx context.Context, h http.Header) (call, error) {
	p, ok := PrincipalFrom(ctx)
	id, own := p.CartID()
	if !ok || !own {
		return call{}, fault(Unauthenticated, "the request names no shopper")
	}
	c := call{principal: p, cartID: id}
	if len(h.Values("Idempotency-Key")) > 0 {
		key, err := singleHeader(h, "Idempotency-Key")
		if err != nil {
			return c, err
		}
		if key == "" || len(key) > keyBytesMax || !isVisible(key) {
			return c, fault(InvalidHeader, "Idempotency-Key must be 1 to %d visible ASCII characters without spaces; it has %d bytes", keyBytesMax, len(key))
		}
		c.key = key
	}
	switch consistency, err := singleHeader(h, "Cart-Consistency"); {
	case err != nil:
		return c, err
	case consistency == "strong":
		c.strong = true
	case consistency != "" || len(h.Values("Cart-Consistency")) > 0:
		return c, fault(InvalidHeader, "Cart-Consistency %.20q is not known: send strong, or leave it out", consistency)
	}
	if err := c.readToken(h); err != nil {
		return c, err
	}
	match, err := singleHeader(h, "If-Match")
	switch {
	case err != nil:
		return c, err
	case len(match) > etagBytesMax || !isVisible(match):
		return c, fault(InvalidHeader, "If-Match must be one ETag of an earlier answer; it has %d bytes", len(match))
	case match == "" || match == "*": // every cart exists, if only as an empty one
	default:
		d, ok := parseETag(match)
		if ok {
			c.ifMatch = &d
		} else {
			c.unmatched = true
		}
	}
	return c, nil
}

// readToken reads Cart-Token. Another cart's token says nothing of this one, unless
// that is a guest's and was merged into it: after a login a device may still hold
// its guest cart's. See call.translate.
func (c *call) readToken(h http.Header) error {
	text, err := singleHeader(h, "Cart-Token")
	if err != nil || text == "" {
		return err
	}
	t, err := causal.DecodeToken(text)
	if err != nil {
		return fault(InvalidToken, "Cart-Token %.20q %v: send back what an earlier answer gave, or leave it out", text, err)
	}
	if t.CartID == c.cartID {
		c.context, c.hasToken = t.Context, true
	} else {
		c.guestCart, c.guestContext = t.CartID, t.Context
	}
	return nil
}

func (c *call) readOptions() region.ReadOptions {
	return region.ReadOptions{Strong: c.strong, Context: c.context, HasToken: c.hasToken}
}

// meta is what an answer says in its headers.
type meta struct {
	token    string
	etag     string
	replayed bool
	missing  string // see missingText
}

func metaOf(v region.View) meta {
	return meta{token: tokenOf(v), etag: etag(v.Digest)}
}

// outcomeMeta is what an edit's answer says in its headers, and what its cart
// had seen then.
type outcomeMeta struct {
	meta

	context crdt.CausalContext
}

func metaOfOutcome(cartID string, out *regionv1.Outcome) (m outcomeMeta, err error) {
	if m.context, err = crdt.DecodeContext(out.GetContext()); err != nil {
		return m, fmt.Errorf("decode the context of an outcome: %w", err)
	}
	var d region.Digest
	if copy(d[:], out.GetDigest()) < len(d) {
		return m, fmt.Errorf("digest of an outcome has %d bytes", len(out.GetDigest()))
	}
	m.token, m.etag = causal.Token{CartID: cartID, Context: m.context}.Encode(), etag(d)
	m.replayed = out.GetReplayed()
	return m, nil
}

// metaFor is metaOf, and what the view lacks of what the caller has seen.
func (s *service) metaFor(c call, v region.View) (m meta, missing []*cartv1.Missing) {
	m = metaOf(v)
	if v.Stale && c.hasToken {
		missing = s.missing(c.context, cartOf(v).Context)
		m.missing = missingText(missing)
	}
	return m, missing
}

func tokenOf(v region.View) string {
	t := causal.Token{CartID: v.CartID}
	if v.State.Cart != nil {
		t.Context = v.State.Cart.Context
	}
	return t.Encode()
}

// write sets the answer's headers.
func (m meta) write(h http.Header) {
	if m.token != "" {
		h.Set("Cart-Token", m.token)
	}
	if m.etag != "" {
		h.Set("ETag", m.etag)
	}
	if m.replayed {
		h.Set("Idempotent-Replayed", "true")
	}
	if m.missing != "" {
		h.Set("Cart-Missing", m.missing)
	}
}
