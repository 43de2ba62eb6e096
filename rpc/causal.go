package rpc

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/region"
)

// A causal token is, in base64url without padding,
//
//	format, uvarint length of the cart id, cart id, [digest], crdt.CausalContext
//
// The digest is there in resume tokens alone.
const (
	tokenFormat  = 1
	resumeFormat = 2
	// tokenBytesMax bounds an encoded token: a context of some hundred
	// replicas. A cart that has seen more gives no token.
	tokenBytesMax = 16 << 10
)

var errBadToken = errors.New("is no token of this service")

// token is what a client holds of a cart's state.
type token struct {
	cartID  string
	context crdt.CausalContext
	digest  region.Digest
	resume  bool // digest is set
}

func (t token) encode() string {
	b := []byte{tokenFormat}
	if t.resume {
		b[0] = resumeFormat
	}
	b = binary.AppendUvarint(b, uint64(len(t.cartID)))
	b = append(b, t.cartID...)
	if t.resume {
		b = append(b, t.digest[:]...)
	}
	b = t.context.Encode(b)
	if base64.RawURLEncoding.EncodedLen(len(b)) > tokenBytesMax {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// decodeToken reads untrusted text.
func decodeToken(s string) (token, error) {
	if len(s) > tokenBytesMax {
		return token{}, errBadToken
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) == 0 || b[0] != tokenFormat && b[0] != resumeFormat {
		return token{}, errBadToken
	}
	t := token{resume: b[0] == resumeFormat}
	n, used := binary.Uvarint(b[1:])
	if used <= 0 || n > uint64(len(b)-1-used) {
		return token{}, errBadToken
	}
	b = b[1+used:]
	t.cartID, b = string(b[:n]), b[n:]
	if t.resume && copy(t.digest[:], b) < len(t.digest) {
		return token{}, errBadToken
	}
	if t.resume {
		b = b[len(t.digest):]
	}
	if t.context, err = crdt.DecodeContext(b); err != nil {
		return token{}, errBadToken
	}
	return t, nil
}

// etag names a cart's version. It says nothing of prices and stock, which
// come from the catalogue.
func etag(d region.Digest) string { return `"` + hex.EncodeToString(d[:]) + `"` }

// parseETag returns the digest that an If-Match value names; ok is false for
// one that no cart can have.
func parseETag(s string) (d region.Digest, ok bool) {
	if n := len(s); n >= 2 && s[0] == '"' && s[n-1] == '"' {
		s = s[1 : n-1]
	}
	if len(s) != 2*len(d) {
		return d, false
	}
	_, err := hex.Decode(d[:], []byte(s))
	return d, err == nil
}
