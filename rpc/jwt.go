package rpc

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	tokenIssuer   = "samecart"
	tokenAudience = "samecart"
	// bearerBytesMax bounds the header before anything of it is parsed.
	bearerBytesMax = 8 << 10
	// tokenLeeway is how far the clocks of signer and server may differ.
	tokenLeeway = 30 * time.Second
	rsaBitsMin  = 2048
)

// claims is the body of a token.
type claims struct {
	jwt.RegisteredClaims

	Kind   Kind     `json:"kind"`
	Scopes []string `json:"scopes,omitempty"`
}

// TokenAuthenticator takes identity from a signed JWT in the Authorization
// header: EdDSA, ES256 or RS256, by the kind of the keys it was made with.
// The claims sub, kind and exp are required; iss and aud must be "samecart".
type TokenAuthenticator struct {
	keys   map[string][]jwt.VerificationKey // by algorithm
	parser *jwt.Parser
	guests *GuestSessions // whose tokens are taken as well; nil: nobody's
}

// LoadTokenAuthenticator reads the PEM files of the public keys that may sign
// tokens; with several, keys can be changed without a moment when no token holds.
func LoadTokenAuthenticator(files ...string) (*TokenAuthenticator, error) {
	pems := make([][]byte, len(files))
	for i, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read token key: %w", err)
		}
		pems[i] = b
	}
	return NewTokenAuthenticator(pems...)
}

// NewTokenAuthenticator makes one from PEM-encoded public keys (PKIX).
func NewTokenAuthenticator(publicKeys ...[]byte) (*TokenAuthenticator, error) {
	if len(publicKeys) == 0 {
		return nil, errors.New("no token key was given")
	}
	a := &TokenAuthenticator{keys: map[string][]jwt.VerificationKey{}}
	var algorithms []string
	for i, b := range publicKeys {
		block, _ := pem.Decode(b)
		if block == nil {
			return nil, fmt.Errorf("token key %d is no PEM file", i)
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("token key %d is no public key in PKIX form: %w", i, err)
		}
		method, err := signingMethod(key)
		if err != nil {
			return nil, fmt.Errorf("token key %d: %w", i, err)
		}
		if len(a.keys[method.Alg()]) == 0 {
			algorithms = append(algorithms, method.Alg())
		}
		a.keys[method.Alg()] = append(a.keys[method.Alg()], key)
	}
	a.parser = jwt.NewParser(
		jwt.WithValidMethods(algorithms), // by allow-list: never "none", never a secret in place of a key
		jwt.WithExpirationRequired(),
		jwt.WithIssuer(tokenIssuer),
		jwt.WithAudience(tokenAudience),
		jwt.WithLeeway(tokenLeeway),
		jwt.WithStrictDecoding(),
	)
	return a, nil
}

// signingMethod is the one algorithm that a key is used with.
func signingMethod(key crypto.PublicKey) (jwt.SigningMethod, error) {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return jwt.SigningMethodEdDSA, nil
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return nil, fmt.Errorf("curve %s cannot be used: make a P-256 or an Ed25519 key", k.Curve.Params().Name)
		}
		return jwt.SigningMethodES256, nil
	case *rsa.PublicKey:
		if k.N.BitLen() < rsaBitsMin {
			return nil, fmt.Errorf("an RSA key of %d bits is too short: make one of %d", k.N.BitLen(), rsaBitsMin)
		}
		return jwt.SigningMethodRS256, nil
	}
	return nil, fmt.Errorf("a key of type %T cannot be used: make an Ed25519, P-256 or RSA key", key)
}

// Authenticate implements Authenticator.
func (a *TokenAuthenticator) Authenticate(_ context.Context, h http.Header) (Principal, error) {
	header, err := singleHeader(h, "Authorization")
	if err != nil {
		return Principal{}, err
	}
	if header == "" {
		return Principal{}, fault(Unauthenticated, "the request has no credentials: send Authorization: Bearer TOKEN")
	}
	if len(header) > bearerBytesMax {
		return Principal{}, fault(InvalidHeader, "Authorization has %d bytes; at most %d are read", len(header), bearerBytesMax)
	}
	scheme, text, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return Principal{}, fault(Unauthenticated, "Authorization must be: Bearer TOKEN")
	}
	return a.principal(text)
}

// principal checks a token and returns whose it is.
func (a *TokenAuthenticator) principal(text string) (Principal, error) {
	p, err := a.signedBy(text, a.keys)
	if err != nil && a.guests != nil {
		// The servers' own key says who a guest is, and nothing else.
		if g, guestErr := a.guests.auth.signedBy(text, a.guests.auth.keys); guestErr == nil && g.Kind == Guest {
			return Principal{Kind: Guest, ID: g.ID}, nil
		}
	}
	return p, err
}

// WithGuests returns an authenticator that also takes the tokens of guest sessions.
func (a *TokenAuthenticator) WithGuests(g *GuestSessions) *TokenAuthenticator {
	out := *a
	out.guests = g
	return &out
}

// signedBy checks a token against the given keys.
func (a *TokenAuthenticator) signedBy(text string, keys map[string][]jwt.VerificationKey) (Principal, error) {
	var c claims
	_, err := a.parser.ParseWithClaims(text, &c, func(t *jwt.Token) (any, error) {
		return jwt.VerificationKeySet{Keys: keys[t.Method.Alg()]}, nil
	})
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return Principal{}, fault(Unauthenticated, "the token has expired: get a new one")
	case err != nil: // which check refused it helps nobody but a forger
		return Principal{}, fault(Unauthenticated, "the token is not valid here: get one that is signed for this service")
	case !isID(c.Subject) || c.Kind != User && c.Kind != Guest && c.Kind != Service:
		return Principal{}, fault(Unauthenticated, "the token needs the claims sub (1 to %d visible ASCII characters) and kind (user, guest or service)", idBytesMax)
	}
	return Principal{Kind: c.Kind, ID: c.Subject, Scopes: c.Scopes}, nil
}

// SignToken makes a token for p that holds from now on for life. privateKey
// is a PEM file in PKCS #8 form: Ed25519, P-256 or RSA.
func SignToken(privateKey []byte, p Principal, now time.Time, life time.Duration) (string, error) {
	if !isID(p.ID) || p.Kind != User && p.Kind != Guest && p.Kind != Service {
		return "", fmt.Errorf("a token needs an id of 1 to %d visible ASCII characters and a kind; got %q, %q", idBytesMax, p.ID, p.Kind)
	}
	signer, err := parseSigner(privateKey)
	if err != nil {
		return "", err
	}
	method, err := signingMethod(signer.Public())
	if err != nil {
		return "", err
	}
	text, err := jwt.NewWithClaims(method, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Subject: p.ID, Issuer: tokenIssuer, Audience: jwt.ClaimStrings{tokenAudience},
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(life)),
		},
		Kind: p.Kind, Scopes: p.Scopes,
	}).SignedString(signer)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return text, nil
}

// parseSigner reads a private key, PEM in PKCS #8 form.
func parseSigner(privateKey []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(privateKey)
	if block == nil {
		return nil, errors.New("the signing key is no PEM file")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the signing key is no private key in PKCS #8 form: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T cannot sign", key)
	}
	return signer, nil
}

// publicHalf is the public key that goes with a private one, both PEM.
func publicHalf(privateKey []byte) ([]byte, error) {
	signer, err := parseSigner(privateKey)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, fmt.Errorf("public half of the signing key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}
