package crdt

// IsGarbage reports whether nothing of the cart is left but what it has seen, all
// of it of replicas for which settled holds: of one that is not, writes may come
// again that only the context tells from new ones. A cart that names a lineage is
// none: it still has a merged guest cart to tell from a new one. A guest's cart of
// which nothing is left but that it has expired, and whose it was, is.
func (c *Cart) IsGarbage(settled func(Replica) bool) bool {
	if len(c.Lines) > 0 && !c.isSpent() {
		return false
	}
	for _, e := range c.Context.entries {
		if e.replica.Lineage != "" || !settled(e.replica) {
			return false
		}
	}
	return true
}

// isSpent reports whether the cart is an expired guest's without lines.
func (c *Cart) isSpent() bool {
	if _, expired := c.Fact(FactExpired, ""); !expired {
		return false
	}
	for _, e := range c.Lines {
		if !e.Key.IsFact() || e.Key.Options != string(FactExpired) && e.Key.Options != string(FactMerged) {
			return false
		}
	}
	return true
}

// Compact returns the cart without the entries of its context for which closed
// holds, where no line holds a dot of them; c itself when there are none. Nobody may
// write under a closed replica any more, and every region must have the cart as it
// is: two that compact the same cart have the same again, and one that has not
// gives the entries back.
//
//	C1  What the context knows of a merged guest stays while FactGuest names the
//	    guest, whatever became of the replica: the guest's own cart still has those
//	    writes, and joins again. Once the guest is forgotten it goes.
func (c *Cart) Compact(closed func(Replica) bool) *Cart {
	var held CausalContext
	for _, e := range c.Lines {
		held = held.Join(e.Line.Dots())
	}
	context := c.Context
	for _, e := range c.Context.entries {
		drop := closed(e.replica)
		if guest := e.replica.Lineage; guest != "" {
			_, named := c.Fact(FactGuest, guest)
			drop = !named
		}
		if _, stands := held.find(e.replica); !stands && drop {
			context = context.Without(e.replica)
		}
	}
	if len(context.entries) == len(c.Context.entries) {
		return c
	}
	return &Cart{Context: context, Lines: c.Lines}
}
