// Package crdt is the cart as a value that converges.
//
// A [Cart] is a state-based CRDT with deltas: an observed-remove map from
// [LineKey] to [Line], each line a handful of dotted multi-value registers,
// all under one [CausalContext]. Carts form a join semilattice: [Join] is
// idempotent, commutative and associative, so regions that have exchanged
// the same writes, in any order and any number of times, hold the same
// cart. Mutators return a [Delta]; applying it gives the mutated cart, and
// joining it anywhere else has the effect that the mutation had.
//
// # The model
//
// A [Replica] is a region in one incarnation, never a node or a device: the
// region's log orders all its edits. Each write of a line mints one [Dot].
// A write supersedes the dots it has seen; what survives beside it was
// concurrent, and only such survivors are resolved, on read:
//
//	field       concurrent values resolve to
//	quantity    the maximum; a decrease that saw the increase sticks
//	placement   in the cart, before saved
//	offer       the newest, then the lower price
//	attributes  the newest, then the replica order
//
//	operations             outcome
//	add ∥ add              the larger of the two sums
//	add ∥ remove           the line stays, with the added quantity
//	set ∥ set              the larger
//	set ∥ remove           the line stays, with the set quantity
//	set ∥ save             both take effect
//	save ∥ remove          saved, with the quantity it had
//	remove ∥ remove        removed
//	clear ∥ write of L     all lines gone but L
//	save ∥ add             aside, with what was added
//	move ∥ remove          the line stays, in the cart
//	save ∥ move            in the cart, where both saw it aside
//	describe ∥ describe    the newest
//	undo ∥ write of L      as two writes of L; of quantities the larger
//	undo ∥ remove          the line stays
//	note ∥ quantity        both take effect
//	note ∥ remove          the line stays, with its quantity and the note
//	merge ∥ merge          of the same guest: as one, in whatever regions
//	merge ∥ write of L     as two writes of L; of quantities the larger
//	merge ∥ remove         what the remove has not seen of the guest's stays
//	merge ∥ clear          the guest's lines stay, all that only the user had go
//	merge, then remove     gone; the same merge again brings nothing back
//	merge, then a write    it comes into the user's cart too, when it arrives
//	  of the guest's
//	merge ∥ merge of the   both users have the guest's lines, and are told
//	  guest by another
//	undo of merge ∥ write  what the undo has not seen stays
//
// Remove, clear, expiry and checkout drop the dots they have seen.
//
// Every write renews the line's presence dot, which carries all fields as
// they were just after the write. If a concurrent remove dropped a register,
// the value a surviving presence dot carries stands in.
//
// # Laws
//
// For all carts a, b, c of one history, and every mutator's delta d of a:
//
//	Join(a, a) = a                          idempotent
//	Join(a, b) = Join(b, a)                 commutative
//	Join(a, Join(b, c)) = Join(Join(a, b), c)  associative
//	a.Apply(d) = Join(a, d.Fragment())      a delta is a join
//	Decode(Encode(a)) = a; equal values have equal bytes
//
// The package crdttest checks them on random histories; an exhaustive test
// checks every interleaving of small ones against the table above, in every
// region after every step.
//
// A region may hear of a write inside another region's row before the
// write's own row comes. Until it does, what the write replaced may show
// beside it, or a line may be left with registers and no presence. The
// latter is not there ([Line.IsThere]): readers use [Cart.Find] and
// [Cart.Visible], which know that, rather than [Cart.Lines].
//
// # Sources
//
// Shapiro et al. 2011 (CRDTs); Bieniusa et al. arXiv:1210.3368 (optimized
// OR-set); Almeida, Shoker, Baquero arXiv:1603.01529 (delta-CRDTs); Preguiça
// et al. arXiv:1011.5808 (dotted version vectors); Kulkarni et al. 2014
// (hybrid logical clocks).
//
// # Decisions
//
// Immutable values. Carts are shared between the goroutine that applies the
// log and many readers, so a change copies the slice of line pointers and
// the line it touches. Cost: 8 + 48 bytes a line and edit; no locks, no defensive
// copies, no half-applied state. Rejected: in-place joins behind a lock.
//
// One dot per line. A batch or a clear mints a dot and a delta per line.
// With one dot for two lines, a third region that receives the second
// writer's row of one line first takes the other line for removed.
//
// Whole deltas. A delta has every register of its line, not the written one
// alone; its context is the new dot and all dots the line held. With less,
// a region that has not yet received the other writes takes their registers
// for removed.
//
// Presence carries every field as it is after the write, the written one
// included: in the common case all equal the registers, and the codec stores
// one bit. Carrying only the other fields would need a second line shape.
//
// What is left of a removed line, when its own rows have not all come, is
// hidden on read and not dropped by the join: a join that drops it is
// not associative, as a third cart may hold the presence. The first write
// of such a line starts from nothing and supersedes what is left. Cost:
// readers must not take an entry of the map for a line. Rejected: deltas
// with the whole cart's context, which remove other lines.
//
// A stand-in is resolved like the register it stands for. So when a remove
// has seen a decrease, but not two later writes of other fields, of which
// one did not see the decrease either, the larger quantity shows again.
// Nothing left in the cart tells that one value had replaced the other.
// Rejected: keeping with each write the dots that it superseded, which grows
// with the edits, for a line that somebody removed.
//
// A remove of a line that is not there is no write: the caller sees that
// nothing changes and mints nothing, as before and after are the same cart.
//
// Contexts are ranges, not a vector beside a set of exceptions: one
// representation, and a cart whose first dots were dropped (a floor) costs
// nothing extra.
//
// The encoding spends nothing on what rarely is: a line without conflicts
// says each value once, a SKU takes over what it shares with the one before,
// times are offsets of as many bytes as the cart's longest needs. Measured on
// carts of three regions with one line in eight changed since, the header
// included and each seller counted once: identifiers and 11.4 bytes a line
// for 10 lines, 8.6 for 200; a byte more when the lines were added over more
// than 4.6 hours, which takes a cart of 10 lines to 12.4. Rejected: packing
// bits over byte borders, about a byte a line less and hard to read.
//
// Decoders refuse what the encoder would not write. Two encodings of one
// value would be two digests of it, and repair would never end. The checks
// are made on the way and cost no second pass. They do not look for one dot
// in two lines: that takes a sort of all dots, and only a region that is
// broken in other ways sends it.
package crdt
