// Package scan compares what regions hold, cart by cart, from streams of
// digests that come ordered by slot and id.
//
// # Decisions
//
//   - The streams are merged while they arrive: memory is one cart for each
//     region, whatever the number of carts. Maps of all digests were rejected:
//     a hundred million carts do not fit.
//   - Regions are never stopped for a comparison, so an edit in flight looks
//     like a difference. Settle therefore compares only the differing slots
//     again, until they are equal or the time is over. It can still call a cart
//     diverged that is edited all the time; the list names it.
//   - Once every region shows the same digests for a slot and nobody edits,
//     the slot stays equal: a region's own edits are in what it showed, so none
//     is left that another could still receive. This is why equal slots are not
//     asked for again, and why the last round alone says when all were equal.
package scan
