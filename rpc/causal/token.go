// Package causal has the form of the causal tokens that answers carry and
// requests send back. Servers give and read them; a client reads them to join
// those of several regions.
package causal

import (
	"encoding/base64"
	"encoding/binary"
	"errors"

	"github.com/samecart/samecart/crdt"
)

// A token is, in base64url without padding,
//
//	format, uvarint length of the cart id, cart id, [digest], crdt.CausalContext
//
// The digest is there in resume tokens alone.
const (
	tokenFormat  = 1
	resumeFormat = 2
)

// TokenBytesMax bounds an encoded token: a context of some hundred replicas. A
// cart that has seen more gives no token.
const TokenBytesMax = 16 << 10

// ErrBadToken is returned for text that is no token, or one of a newer form.
var ErrBadToken = errors.New("is no token of this service")

// Token is a cart's state as far as somebody has seen it.
type Token struct {
	CartID  string
	Context crdt.CausalContext
	// Resume says that Digest, of the very version that was seen, is set: a
	// stream may go on after it.
	Resume bool
	Digest [16]byte
}

// Encode returns "" when the token would be larger than TokenBytesMax.
func (t Token) Encode() string {
	b := []byte{tokenFormat}
	if t.Resume {
		b[0] = resumeFormat
	}
	b = binary.AppendUvarint(b, uint64(len(t.CartID)))
	b = append(b, t.CartID...)
	if t.Resume {
		b = append(b, t.Digest[:]...)
	}
	b = t.Context.Encode(b)
	if base64.RawURLEncoding.EncodedLen(len(b)) > TokenBytesMax {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// DecodeToken is the inverse of Token.Encode, for untrusted text. Its error is
// ErrBadToken.
func DecodeToken(s string) (Token, error) {
	if len(s) > TokenBytesMax {
		return Token{}, ErrBadToken
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) == 0 || b[0] != tokenFormat && b[0] != resumeFormat {
		return Token{}, ErrBadToken
	}
	t := Token{Resume: b[0] == resumeFormat}
	n, used := binary.Uvarint(b[1:])
	if used <= 0 || n > uint64(len(b)-1-used) {
		return Token{}, ErrBadToken
	}
	b = b[1+used:]
	t.CartID, b = string(b[:n]), b[n:]
	if t.Resume && copy(t.Digest[:], b) < len(t.Digest) {
		return Token{}, ErrBadToken
	}
	if t.Resume {
		b = b[len(t.Digest):]
	}
	if t.Context, err = crdt.DecodeContext(b); err != nil {
		return Token{}, ErrBadToken
	}
	return t, nil
}
