package client

import (
	"encoding/base64"
	"encoding/binary"
	"errors"

	"github.com/samecart/samecart/crdt"
)

// A causal token is what rpc gives: in base64url without padding,
//
//	format, uvarint length of the cart id, cart id, [digest], crdt.CausalContext
//
// The digest is there in resume tokens alone. A client reads tokens, which no
// server asks of it, to join those of several regions: see doc.go.
const (
	tokenFormat  = 1
	resumeFormat = 2
	digestBytes  = 16
	// tokenBytesMax is what servers take.
	tokenBytesMax = 16 << 10
)

var errForeignToken = errors.New("the token has a form that this client does not know")

// token is a cart's state as far as somebody has seen it.
type token struct {
	cartID  string
	context crdt.CausalContext
}

// lackedBy reports whether o has seen less of the same cart.
func (t token) lackedBy(o token) bool {
	return t.cartID == o.cartID && !o.context.Covers(t.context)
}

// encode returns "" when the token is larger than servers take.
func (t token) encode() string {
	b := []byte{tokenFormat}
	b = binary.AppendUvarint(b, uint64(len(t.cartID)))
	b = append(b, t.cartID...)
	b = t.context.Encode(b)
	if base64.RawURLEncoding.EncodedLen(len(b)) > tokenBytesMax {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// decodeToken reads a causal token or a resume token.
func decodeToken(s string) (t token, err error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) == 0 || b[0] != tokenFormat && b[0] != resumeFormat {
		return t, errForeignToken
	}
	resume := b[0] == resumeFormat
	n, used := binary.Uvarint(b[1:])
	if used <= 0 || n > uint64(len(b)-1-used) {
		return t, errForeignToken
	}
	b = b[1+used:]
	t.cartID, b = string(b[:n]), b[n:]
	if resume {
		if len(b) < digestBytes {
			return t, errForeignToken
		}
		b = b[digestBytes:]
	}
	if t.context, err = crdt.DecodeContext(b); err != nil {
		return t, errForeignToken
	}
	return t, nil
}
