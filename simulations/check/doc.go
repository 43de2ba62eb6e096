// Package check judges what a simulation or a drill has seen: it knows nothing of
// the system, only what shoppers asked, what they were answered, and what there
// was in the end.
//
//	history.go       calls and their answers
//	content.go       acknowledged writes are there, those of merged guests' carts too;
//	                 nothing came back, nothing doubled
//	registers.go     an acknowledged save, move or note is what shows, if it was the last
//	session.go       read-your-writes and monotonic reads, or marked stale
//	linear.go        one region's edits and strong reads of a cart have one order; not
//	                 of carts that guests' were merged into
//	dots.go          a dot is issued once, for one line and one request
//
// Each check returns a violation for everything that cannot have happened in a
// system that keeps its promises. A call whose outcome nobody knows may have
// happened at any time after it began, or never: what that makes uncertain is not
// judged.
//
// # Decisions
//
// What a line must hold is bounded, not predicted: of concurrent writes in two
// regions the larger counts, and which were concurrent a history does not say. The
// bounds are tight where it matters: a line to which shoppers only add holds at
// least what one region acknowledged and at most what was asked for; one without
// removals is there; one that its only writer has removed is not.
//
// A merge is judged by what feeds a cart: the calls of the cart and of the guests'
// carts that may have been merged into it. Least, what an acknowledged merge must
// have brought: that a guest's line is there, and of one that all only add to the
// larger of what one region acknowledged to the guest or to the user; the two do not
// add up, as the maximum counts. Most, what may be there: what user and guests asked
// for together, since a user may add to what a guest has brought; of sets the
// largest counts once, and once for each cart under the rule that sums up. A second
// merge, or one in another region, adds nothing to either. Where a rule other than
// the maximum has written a line that both have, it is not judged whether it is gone:
// that write is nobody's.
//
// Carts into which guests' were merged have no one order that a history could tell,
// as what a guest does comes to the user's cart later, by itself. Linearizable leaves
// them out; simulations keep carts that nobody merges into.
//
// The search for one order is porcupine's (github.com/anishathalye/porcupine, the
// algorithm of Lowe, "Testing for linearizability", 2017): the one kept library for
// it in Go, and others use it for the same.
package check
