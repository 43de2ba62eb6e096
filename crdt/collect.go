package crdt

// IsGarbage reports whether nothing of the cart is left but what it has seen, all
// of it of replicas for which settled holds: of one that is not, writes may come
// again that only the context tells from new ones. A cart that names a lineage is
// none: it still has a merged guest cart to tell from a new one.
func (c *Cart) IsGarbage(settled func(Replica) bool) bool {
	if len(c.Lines) > 0 {
		return false
	}
	for _, e := range c.Context.entries {
		if e.replica.Lineage != "" || !settled(e.replica) {
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
func (c *Cart) Compact(closed func(Replica) bool) *Cart {
	var held CausalContext
	for _, e := range c.Lines {
		held = held.Join(e.Line.Dots())
	}
	context := c.Context
	for _, e := range c.Context.entries {
		if _, stands := held.find(e.replica); !stands && closed(e.replica) {
			context = context.Without(e.replica)
		}
	}
	if len(context.entries) == len(c.Context.entries) {
		return c
	}
	return &Cart{Context: context, Lines: c.Lines}
}
