package rpc

import (
	"encoding/hex"

	"github.com/samecart/samecart/region"
)

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
