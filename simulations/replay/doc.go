// Command sim runs simulations so that they can be run again, exactly: the same seed
// gives the same hash of all that happened. On a plan under which a promise was
// broken it leaves out faults one by one, and prints the command that replays what
// is left.
//
//	make sim SEED=7 RUNS=5
//	make sim SEED=7 ARGS="-shape full -safety 1m -v"
//	make sim SEED=7 ARGS="-without 0,2,5"
//
// # How
//
// What differs from run to run of a native program is scheduling, and what comes
// from the operating system. The test program of package simulations is built for
// GOOS=wasip1 GOARCH=wasm, and runs under wazero. There is one thread, and no
// goroutine is interrupted. What is left of chance is the host's: one random
// source, which decides the order of maps, which case a select takes, and what
// math/rand, math/rand/v2 and crypto/rand give; and one clock for both time of day
// and monotonic time, that goes on by a microsecond at each look and by what is
// slept. Each run has a machine of its own, with an empty disk, so no run knows of
// another. The bubble of testing/synctest is in there as it is natively.
//
// # What differs from a native run
//
// WASI has no mapped memory, file locks or allocation of files. So the log is in
// memory, by directory, and a crashed node's is handed to the next; Badger is in
// memory and empty at each start, and is built again from snapshots and log. A disk
// therefore has no faults of its own: bit flips, failed and slow syncs and full disks
// are left out of plans, and a loss of power takes nothing that a kill does not. All
// else is the same code: a seed's plan is that of the native run without those faults.
// What happens under it is not the same, since chance falls otherwise. So a violation
// that a native run finds is looked for here among several seeds; faults of disks are
// for native runs alone.
//
// # Decisions
//
// What happens is printed by the program always, and passed on only with -v: a
// program that prints more allocates more, collects garbage at other moments, and
// is another run. For the same reason a hash holds for one build: another version
// of Go, or any change of the code, may give another.
//
// Faults are left out from the last on, and passes go on until none can be: each
// fault that is left is needed. A removal counts when the check that was broken
// first is broken again, whatever else is. The times of faults are kept, since the
// commands stay short that way.
//
// The program is compiled to machine code once and kept (-cache), by its content.
package main
