package shard

import (
	"fmt"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

// changeCode puts a promotion code into a cart or takes it out. Which codes there
// are is not known here: who proposes the change has asked.
//
// A code that the cart has already is written again: who gives it now means to
// have it, also against a removal at the same time elsewhere.
func (w *workspace) changeCode(cart *crdt.Cart, writer crdt.Writer, c *regionv1.Change) ([]crdt.Delta, crdt.LineKey, *refusal) {
	key := crdt.FactKey(crdt.FactCode, c.FactId)
	_, has := cart.Fact(crdt.FactCode, c.FactId)
	switch {
	case c.Kind == regionv1.Change_KIND_DROP_CODE && has:
		return []crdt.Delta{cart.DropFact(writer, crdt.FactCode, c.FactId)}, key, nil
	case c.Kind == regionv1.Change_KIND_DROP_CODE:
		return nil, key, nil
	case !has && codesThere(cart) >= w.limits.Codes:
		return nil, key, &refusal{regionv1.Outcome_CODE_TOO_MANY_CODES, []string{fmt.Sprint(w.limits.Codes)}}
	}
	return []crdt.Delta{cart.SetFact(writer, crdt.FactCode, c.FactId, "")}, key, nil
}

func codesThere(cart *crdt.Cart) (n uint32) {
	for range cart.Facts(crdt.FactCode) {
		n++
	}
	return n
}
