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
//	give code ∥ drop code  the code stays; codes are facts, see [FactKey]
//	give code ∥ clear      all lines gone, the code stays
//
// Remove, clear, expiry and checkout drop the dots they have seen. What comes of
// every pair of operations, as regions make them, is in region/shard/PAIRS.md.
//
// What must never be exceeded, in whatever region and whatever is cut, is a
// [Bounded] counter (bounded.go): an escrow of rights, each spent by the region
// that holds it. It stands in the facts of a cart of its own (bounded_codec.go).
//
//	operations             outcome
//	use ∥ use              both, while each region holds a right; never more than there are
//	use ∥ move of rights   a region spends what it holds: what is on its way to it, later
//	use ∥ fence            the use counts if a majority of the regions had heard of it
//	fence ∥ fence          what is left is taken over once, by the first member
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
// (hybrid logical clocks); Balegas et al. SRDS 2015 (bounded counters).
//
// # Decisions
//
// Rights of who is gone are recovered by seals, not by a clock. DESIGN has them
// recoverable a lease's time, and the drift of clocks, after the fence. But a
// member that has begun to refuse the rows of who is gone, and says how much it
// knew of them then, bounds what a majority can have heard: once all members have
// said so, what is left is known exactly, whatever the clocks do. Cost: all member
// regions must have answered, and a row of each for each counter and epoch. It
// holds while fewer than half of the regions are gone at a time. The lease is kept
// as well: it spares shoppers, not the bound.
//
// Rights are made by one region, the first member, and only once all members have
// sealed under its epoch: two regions that were first one after the other know of
// each other's. Cost: a limit is in force some round trips after it was set, and
// never while a member region is cut off and not fenced. Rejected: a limit as a
// value that all read, which two regions may set at once.
//
// One row for each holder, replaced whole. A row of a counter is a few numbers for
// each region; a fact for each number would cost a dot each, and a use would no
// longer be in the row that the shopper's answer waits for.
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
// When a cart was last edited, and where, stands beside it (Active), not in it: it is
// a maximum, so it converges, but by itself it must not make two carts differ. Rows of
// an expiry say that no shopper made them. Cost: a byte or two after an add, up to
// nine later.
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
// A guest's cart that is merged is joined under its lineage (guest.go). Nothing is
// copied, so nothing can be copied twice: two regions, two devices and a retry do
// the same join. The rules sum and latest cannot be joins alone, since a sum that is
// joined twice must not be one of three: they write once, and FactGuest remembers for
// which of the guest's lines, some 13 bytes each, and for those that differed the two
// quantities, so that the same merge gives the same answer again. Two regions that
// decide at the same time write the same, or the larger counts. The rule of a guest
// is the one that it was first merged under; with another one the sum would come
// later, and surprise. Cost: under sum a line that the user removed in one region
// comes back when another region, cut off, had summed it: its write is concurrent.
// Rejected: copying the guest's lines as adds, which double; telling from the context
// alone which lines have come, which fails when the guest has replaced them.
//
// When a cart was last edited is told by what stands in it: times of adds and
// attributes, and requests that are remembered. A quantity that was set without an op
// id does not tell. Rejected: a time in each quantity, four bytes a line for a rule
// that few shops choose.
//
// What a user's context knows of a guest stays while FactGuest names the guest, also
// where the replica is closed: the guest's own cart still has the writes, and the
// next join would bring back what the user removed.
//
// Decoders refuse what the encoder would not write. Two encodings of one
// value would be two digests of it, and repair would never end. The checks
// are made on the way and cost no second pass. They do not look for one dot
// in two lines: that takes a sort of all dots, and only a region that is
// broken in other ways sends it.
package crdt
