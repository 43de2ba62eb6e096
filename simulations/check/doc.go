// Package check judges what a simulation or a drill has seen: it knows nothing of
// the system, only what shoppers asked, what they were answered, and what there
// was in the end.
//
//	history.go       calls and their answers
//	content.go       acknowledged writes are there, nothing came back, nothing doubled
//	session.go       read-your-writes and monotonic reads, or marked stale
//	linear.go        one region's edits and strong reads of a cart have one order
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
// The search for one order is porcupine's (github.com/anishathalye/porcupine, the
// algorithm of Lowe, "Testing for linearizability", 2017): the one kept library for
// it in Go, and others use it for the same.
package check
