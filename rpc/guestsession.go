package rpc

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"time"
)

// GuestSessions makes guests' sessions: a random id, and a token that proves it,
// signed with a key of the servers. Every region must take the tokens of every
// other, so all have the same key.
type GuestSessions struct {
	key  []byte // PEM, PKCS #8
	life time.Duration
	auth *TokenAuthenticator // takes what key signed
}

// GuestTokenLife is how long a guest's token holds. It is longer than a guest's cart
// is kept without an edit: the cart ends a session, not the token.
const GuestTokenLife = 30 * 24 * time.Hour

// NewGuestSessions makes them with a private key, PEM in PKCS #8 form.
func NewGuestSessions(privateKey []byte) (*GuestSessions, error) {
	public, err := publicHalf(privateKey)
	if err != nil {
		return nil, err
	}
	auth, err := NewTokenAuthenticator(public)
	if err != nil {
		return nil, err
	}
	return &GuestSessions{key: privateKey, life: GuestTokenLife, auth: auth}, nil
}

// LoadGuestSessions makes them with the private key in a file.
func LoadGuestSessions(file string) (*GuestSessions, error) {
	key, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the key of guest sessions: %w", err)
	}
	return NewGuestSessions(key)
}

// EphemeralGuestSessions makes them with a key that nobody else has and that goes
// with the process.
func EphemeralGuestSessions() (*GuestSessions, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return NewGuestSessions(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// guestSession is a session with its proof.
type guestSession struct {
	id, token string
	expires   time.Time
}

// create makes a session that nobody has had: its id has 130 random bits.
func (g *GuestSessions) create(now time.Time) (guestSession, error) {
	s := guestSession{id: rand.Text(), expires: now.Add(g.life)}
	var err error
	s.token, err = SignToken(g.key, Principal{Kind: Guest, ID: s.id}, now, g.life)
	return s, err
}

// prove returns the session that a token of these sessions proves.
func (g *GuestSessions) prove(token string) (session string, err error) {
	return g.auth.proveGuest(token)
}

// proveGuest returns the session that a guest's token proves.
func (a *TokenAuthenticator) proveGuest(token string) (session string, err error) {
	if len(token) > bearerBytesMax || strings.ContainsAny(token, " \t\r\n") {
		return "", fault(Forbidden, "guest_token is no token of this service: send the one that came with the guest session")
	}
	p, err := a.principal(token)
	if err != nil {
		return "", fault(Forbidden, "guest_token does not hold any more, or is not signed for this service: send the one that came with the guest session")
	}
	if p.Kind != Guest {
		return "", fault(Forbidden, "guest_token is of a %s, not of a guest session", p.Kind)
	}
	return p.ID, nil
}

// guestProver is an Authenticator that does not take a guest's session on trust.
type guestProver interface {
	proveGuest(token string) (session string, err error)
}

// ofGuest checks the proof that the caller had the guest session. Where identity is
// taken on trust none is needed, but one that is sent must be right.
func (s *service) ofGuest(session, token string) error {
	var prove func(string) (string, error)
	switch {
	case s.prover != nil:
		if token == "" {
			return missing("guest_token")
		}
		prove = s.prover.proveGuest
	case token == "" || s.cfg.Guests == nil:
		return nil
	default:
		prove = s.cfg.Guests.prove
	}
	proved, err := prove(token)
	if err != nil {
		return err
	}
	if proved != session {
		return fault(Forbidden, "guest_token is of another guest session than guest_session_id names")
	}
	return nil
}
