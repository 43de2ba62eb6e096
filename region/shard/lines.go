package shard

import (
	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

// place puts a line aside, or back into the cart. One that is where it is to be
// is not written: a write that says nothing new would win over a concurrent one
// that does. Of two concurrent placements the cart shows; putting the line there
// is then a write, since a remove that has seen that one alone would else leave
// the line aside.
func place(cart *crdt.Cart, writer crdt.Writer, c *regionv1.Change) ([]crdt.Delta, crdt.LineKey, *refusal) {
	key, r := resolve(cart, c)
	if r != nil {
		return nil, key, r
	}
	to := crdt.InCart
	if c.Kind == regionv1.Change_KIND_SAVE {
		to = crdt.Saved
	}
	if l := cart.Find(key); l.Visible().Placement == to && !l.Placement.Concurrent() {
		return nil, key, nil
	}
	return []crdt.Delta{cart.SetPlacement(writer, key, to)}, key, nil
}

// describe replaces a line's attributes.
func describe(cart *crdt.Cart, writer crdt.Writer, c *regionv1.Change) ([]crdt.Delta, crdt.LineKey, *refusal) {
	key, r := resolve(cart, c)
	if r != nil {
		return nil, key, r
	}
	return []crdt.Delta{cart.SetAttributes(writer, key, c.GetAttributes())}, key, nil
}

// described is a write of a line and, where the change brings attributes, a second
// one of those: a write has one dot, and each of the two its register.
func described(cart *crdt.Cart, writer crdt.Writer, key crdt.LineKey, c *regionv1.Change, d crdt.Delta) []crdt.Delta {
	if c.Attributes == nil {
		return []crdt.Delta{d}
	}
	return []crdt.Delta{d, cart.Apply(d).SetAttributes(writer, key, c.GetAttributes())}
}
