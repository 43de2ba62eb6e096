// Package simulations runs the service, all of it, under faults in virtual time, and
// judges it by what shoppers saw.
//
//	plan.go      what a seed decides: sizes, settings, shoppers, faults
//	world.go     nodes on machines: network, disks, clocks, processes
//	workload.go  shoppers, with the client that shops use
//	nemesis.go   brings faults about, and puts them right; supervisors of processes
//	run.go       one run: faults, then peace, then the judgement
//	steps.go     the durable steps at which nodes are made to crash
//	totals.go    what was done, added up over runs
//	trace.go     what happened, as one hash
//	scenario.go  plays scripts of testdata/, a case each, and writes down the answers:
//	             scenario_calls.go what shoppers do, scenario_world.go faults, time and
//	             settings, scenario_text.go what a transcript says
//	network/     net.Conn with latency, loss, cuts; in virtual time
//	disk/        files that are slow, fail, fill up, and forget what was not synced
//	check/       the judges, which know nothing of the system
//	replay/      one run, the same to the bit each time, under WASI
//	mutants/     bugs planted on purpose, and the tests that find them
//	drill/       faults of real processes: what cartctl drill does
//
// What runs is the code that production runs, put together by the same package
// (rpc/member): raft, Badger, shards, links, gossip, repair, the API over HTTP and
// the client. Only what a machine gives is simulated: its network, the files of the
// Raft logs, its clock, its power.
//
// A run lives in one testing/synctest bubble, where time passes when all
// goroutines wait: ten minutes take a second or two. It has a safety phase, with
// faults anywhere, and then a phase in which all is put right: within thirty seconds
// every region must serve, and a minute later all nodes must hold the same.
//
// # What is judged
//
//	content            acknowledged writes are there unless something took them out
//	                   later, those of merged guests in the users' carts too; the last
//	                   save, move and note show; nothing came back, by a second merge
//	                   neither; nothing counts twice
//	session            a session sees what it wrote and saw, or is told that it may not
//	linear             one region's edits and strong reads of a cart have one order; of
//	                   carts that no guest's was merged into
//	dots               a dot stands for one line and one request, everywhere
//	applied            what a process has applied only grows
//	equal              nodes and regions hold the same in the end, slot for slot
//	bounded            a cart's context has an entry a region, and no more for each
//	                   guest merged into it; no exceptions
//	liveness           regions serve, and become equal, in time
//	snapshot loop      no snapshot is installed once all is equal
//	replay of the log  a node without its database gets it back from its log
//	start              a process starts again on what a crash or a power loss left
//
// # Decisions
//
// A crash is a copy. The process's host leaves the network and its directory is
// copied, at one moment at which everything else waits; the process, which does not
// know, is then ended, and what it still writes is thrown away. At a durable step
// of a name (region.Machine.Steps) the copy is made by the goroutine that came to
// it, while others go on: there the database is copied before the log, of which it
// may be behind.
//
// A refusal is not remembered under its op id, since other regions would not know
// of it; so of a mutation that arrives twice, and was refused, the second may be
// made. Such a call's outcome counts as unknown.
//
// Disks are lost one at a time in a region, and the next only once the node is a
// member again: what a majority of disks held is gone with them, and no checker can
// ask for it.
//
// A bubble is not exactly repeatable: goroutines run on two cores, and select and
// maps are random. A seed gives the same plan each time, and about the same run.
//
// Scenarios (testdata/README.md) say what a reader may expect of one case, where runs
// say what holds of all. Their transcripts have nothing in them that is chance: no
// time, no dot, no leader's name. A client of theirs knows one region and asks once: a
// call that went elsewhere would be another case. Rejected: the mutators of crdt alone,
// which have no op ids, tokens or links.
//
// Carts are not all treated alike, as some of what shoppers do leaves little to be
// judged: one cart is cleared, and undone; guests' are merged into others, into one of
// which that is undone; one has neither, so that its sessions and its order are judged
// in full. Of guests there are two at a time, in four times of a run, and of the time
// before one is edited now and then: by a tab that is still open.
//
// Expiry, promotion codes, shared carts, checkout and what else the service has not
// yet are not simulated yet; they come with their features.
package simulations
