package client

import "github.com/samecart/samecart/rpc/causal"

// lacks reports whether t has seen less than seen of the same cart.
func lacks(t, seen causal.Token) bool {
	return t.CartID == seen.CartID && !t.Context.Covers(seen.Context)
}

// decodeToken reads a causal token, or a resume token as one.
func decodeToken(text string) (causal.Token, error) {
	t, err := causal.DecodeToken(text)
	return causal.Token{CartID: t.CartID, Context: t.Context}, err
}
