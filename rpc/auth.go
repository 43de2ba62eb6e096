package rpc

import (
	"context"
	"net/http"
	"slices"
	"strings"
)

// Kind says what sort of caller a Principal is.
type Kind string

// The kinds of callers.
const (
	User    Kind = "user"
	Guest   Kind = "guest"
	Service Kind = "service" // has no cart of its own
)

// Scopes that a service's credentials may carry.
const (
	ScopePrice = "price" // may say the price of what it adds
	ScopeAdmin = "admin" // may operate the cluster
)

// Principal is an authenticated caller.
type Principal struct {
	Kind   Kind
	ID     string // 1 to 128 visible ASCII characters
	Scopes []string
}

// Has reports whether the caller's credentials carry a scope.
func (p Principal) Has(scope string) bool { return slices.Contains(p.Scopes, scope) }

// CartID is the id of the caller's own cart; ok is false for a service. Users
// and guests have different prefixes, so a guest cannot name a user's cart by
// the choice of a session id.
func (p Principal) CartID() (id string, ok bool) {
	switch p.Kind {
	case User:
		return "cart:" + p.ID, true
	case Guest:
		return "guest:" + p.ID, true
	case Service:
	}
	return "", false
}

// Authenticator finds out who sent a request from its headers. It returns an
// *Error with UNAUTHENTICATED, or with INVALID_HEADER when a header has no
// valid form. Implementations are safe for concurrent use.
type Authenticator interface {
	Authenticate(ctx context.Context, h http.Header) (Principal, error)
}

// TrustedHeaders takes identity on trust from X-User-ID, X-Guest-Session and
// X-Service-Scopes. It is for development: whoever reaches the port is
// whoever they say they are.
type TrustedHeaders struct{}

// Authenticate implements Authenticator. A user goes before a guest when both
// headers are there; scopes without either make a service.
func (TrustedHeaders) Authenticate(_ context.Context, h http.Header) (Principal, error) {
	var p Principal
	scopes, err := singleHeader(h, "X-Service-Scopes")
	if err != nil {
		return p, err
	}
	for s := range strings.SplitSeq(scopes, ",") {
		if s = strings.TrimSpace(s); s != "" {
			p.Scopes = append(p.Scopes, s)
		}
	}
	for _, from := range []struct {
		header string
		key    string // as net/http writes it: finding it so makes no new string
		kind   Kind
	}{{"X-User-ID", "X-User-Id", User}, {"X-Guest-Session", "X-Guest-Session", Guest}} {
		if len(h.Values(from.key)) == 0 {
			continue
		}
		id, err := singleHeader(h, from.key)
		if err != nil {
			return p, err
		}
		if !isID(id) {
			return p, fault(InvalidHeader, "%s must be 1 to %d visible ASCII characters without spaces", from.header, idBytesMax)
		}
		p.Kind, p.ID = from.kind, id
		return p, nil
	}
	if len(p.Scopes) > 0 {
		p.Kind, p.ID = Service, "service"
		return p, nil
	}
	return p, fault(Unauthenticated, "the request names no shopper: send X-User-ID or X-Guest-Session")
}

// idBytesMax bounds the id of a user or of a guest session.
const idBytesMax = 128

func isID(s string) bool { return len(s) >= 1 && len(s) <= idBytesMax && isVisible(s) }

// isVisible reports whether s has visible ASCII characters only, no spaces.
func isVisible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// singleHeader returns a header that may be sent once at most.
func singleHeader(h http.Header, name string) (string, error) {
	v := h.Values(name)
	switch len(v) {
	case 0:
		return "", nil
	case 1:
		return v[0], nil
	}
	return "", fault(InvalidHeader, "%s was sent %d times: send it once", name, len(v))
}

// access says who may make a call. The zero value denies everybody, so that a
// route somebody forgot to decide about is closed.
type access struct {
	public  bool
	shopper bool   // needs a cart of its own
	scope   string // needs this scope
}

// admit decides about one caller; p is not looked at when the call is public.
func (a access) admit(p Principal) error {
	switch {
	case a.public:
		return nil
	case a.shopper:
		if _, ok := p.CartID(); !ok {
			return fault(Forbidden, "a service has no cart: use the credentials of the shopper whose cart is meant")
		}
		return nil
	case a.scope != "" && p.Has(a.scope):
		return nil
	case a.scope != "":
		return fault(Forbidden, "this call needs the scope %q, which the credentials do not have", a.scope)
	}
	return fault(Forbidden, "nobody may make this call")
}

type principalKey struct{}

// PrincipalFrom returns who makes the call that ctx belongs to. ok is false
// in public calls.
func PrincipalFrom(ctx context.Context) (p Principal, ok bool) {
	p, ok = ctx.Value(principalKey{}).(Principal)
	return p, ok
}

func withPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}
