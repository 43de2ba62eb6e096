// Package replication carries a region's edits to its peer regions.
//
// A shard's Raft group keeps a delta log of its local rows; that is one
// origin stream ([crdt.Stream]). The node that leads the shard runs one
// [Gossiper], which keeps one [Peer] per peer region: a pure state machine
// that decides what to send and when. The far end is a [Sink]; it keeps a
// cursor per stream and takes rows through its own Raft log.
//
//	log ──ReadAfter──▶ Peer ──Send──▶ PushStream ─▶ Codec ─▶ wire
//	 ▲                  ▲                                      │
//	 └──Acked (least)───┴────────── Ack{Cursor, Gap} ◀── Validate ─▶ Sink
//
// # Streaming
//
// The receiver's first ack says where its cursor stands; the log is read from
// there, and each interval starts where the one before ended. Acks are
// cumulative and come after the receiver's commit. An edit goes out at once,
// unless another went out less than Config.Gather before. Until then, and while
// a send is outstanding or the window is full, rows gather in one
// batch, in which rows of one cart and line are combined. Nothing sent is
// kept: after a lost stream the log is read again from the cursor.
//
// # Repair
//
// When the log no longer reaches back to the cursor, the origin notes its
// position, finds the carts that differ, exchanges them, and moves the cursor
// to the position after the last join; then it streams on. Three steps find and
// settle the difference, each at a cost that follows it:
//
//	digests   one per slot; equal slots are done
//	sketch    of the carts in the others, a rateless one (package riblt): some
//	          35 bytes for each cart that differs, however many do not
//	newer     ids and contexts of those: the peer answers with its whole cart
//	          where it has seen more, and is sent ours where it has not
//
// A peer that cannot answer a sketch, or answers one without end, is compared
// by a list of its carts in those slots: bounded, 16 bytes and an id each. All of
// it is throttled, and runs by itself, or when somebody asks (Gossiper.Repair).
//
// # Proof
//
// While connected, digests are compared again and again: what is equal is
// recorded with its time, what stays different without a reason is repaired,
// by one of the two: the other waits a round longer, and does nothing while it
// is told that a repair is under way.
// It also brings what a dead origin had told one region only: the others get its
// carts, whole, from that one.
//
//	failure                       what happens
//	link dead, not all links      within two seconds, calls go through a third region that reaches both
//	stream lost, acks lost        reopen within BackoffMax; rows sent twice are dropped by the cursor
//	leader of the shard changes   its Gossiper starts at the receiver's cursor
//	receiver restarts             as a lost stream; its cursor is in its Raft log
//	peer gone for long            log trimmed by its owner, repair on return
//	peer wiped, cursor included   first ack is 0: stream, or repair when trimmed
//	peer lost carts, not cursors  found by proof once a slot held still for two rounds, at both
//	                              ends, or for eight at ours; repaired
//	peer has more than we         found by proof, taken from the peer
//	peer's digests never agree    repaired again only after a minute, doubling to 16,
//	                              or when we change the slot
//	this region lost rows         AheadSeq in Status and an error in the log: it needs a new incarnation
//
// # Garbage
//
// What nobody has edited for long is expired by the region that edited it last, once
// all agree (Expirer): see the Decisions of package region.
//
// What carts leave behind when they are emptied is collected by one of the regions
// for all (Collector): each must have the cart as it is, and nothing of it may be on
// its way.
//
// # Sources
//
// Almeida, Shoker, Baquero arXiv:1603.01529 (delta intervals); Enes et al.
// ICDE 2019 (efficient synchronisation of state-based CRDTs); DeCandia et al.
// SOSP 2007 (anti-entropy); Yang et al. SIGCOMM 2024, arXiv:2402.02668 (sketches).
//
// # Decisions
//
// A gap reopens the stream. Intervals are pipelined, so one gap makes every
// interval behind it a gap too; answering each would resend the same rows
// several times. A new stream starts with a new cursor and drops all stale
// acks. Cost: one round trip, in a case that needs a fault. Rejected:
// numbering intervals.
//
// Edits that come close together share an interval. Alone, a row costs as much
// again for frames and acks, and compresses badly: at 1,000 edits a second an
// edit took 158 bytes of the link, and takes 60 with ten to an interval
// (BenchmarkGossip). An edit after a pause does not wait. Rejected: a longer wait,
// which a shopper with two devices sees.
//
// Combining is always on, in one batch per peer. It needs no mode switch:
// an idle peer's batch holds one row. Combined rows keep all dots and ops up
// to RowDotsMax, because combining a row costs in proportion to what it
// already carries. Batches end where no combined row crosses, so an interval
// is complete in itself. Rejected: a queue per peer beside the log.
//
// Proof needs no quiet moment. A busy shard never has every row acked, so
// "compare when all is acked" would compare idle shards only. Instead a round
// reads own digests before and after the peer's, judges only slots that held
// still, and a slot must differ twice under one own digest, with all rows of
// the first round acked before the second. Rejected: freezing the log.
//
// A repair of some slots moves no cursor: rows of the other slots may still
// be on their way below the position.
//
// One sketch covers many slots, up to RepairGroup carts. A sketch of few items
// takes more for each, and every sketch takes round trips. Its parts grow by half
// of what came, so the last one wastes at most that. Rejected: a sketch a slot;
// a Merkle tree, whose paths to scattered carts share only their upper levels.
//
// A digest does not tell who is behind, so contexts are compared before carts
// travel. That is a hint, not a proof: a region can have seen all of our dots
// without what one of them took out, when the dot came inside another region's
// line. So what the peer gives is joined here, and only when the result is the
// peer's cart, unchanged, does the peer have all of ours. Rejected: sending both
// sides' carts, twice the bytes; trusting contexts, which loses a removal.
//
// A repair settles both directions of the carts that both have. Carts that only
// the peer has are named in its own sketches alone, and come by its own repair.
//
// What is on its way is bounded by time, not bytes alone (window): as much as the
// link takes in about a second beyond its round trip. Over a link of 20 kB/s and 400 ms
// with a fixed window, what an abandoned stream had sent stood before the next
// one's opening, which was given up in its turn: 8,000 edits took 40 s and many
// openings, and take 25 s and one stream. Timeouts of openings and acks grow where
// acks come late. Cost: a backlog that compresses to almost nothing takes some
// round trips more, since a stream begins with small intervals. Rejected: longer
// timeouts for all, which a dead link would take as well.
//
// A backlog can go out at a pace (CatchupRate), a shard; by default it has none.
// While a region catches up, shoppers' p99 rises from some 5 ms to 25–95 ms on two
// shared cores (BenchmarkDrain, the worst half second), and did so as much at
// 11,000 and 14,000 rows a second as at 20,000; intervals of 32 KiB and commands
// of 64 rows changed nothing either. Edits beside no backlog know no pace.
//
// A bound on the link (Options.Links) is one purse for all shards of a node: rows
// pay after they were sent, a repair may pay only when nothing is owed. Rejected:
// fixed shares, which leave the link idle.
//
// In a partial partition (the link of A and B is dead, both reach C) the transport
// is relayed, not the rows: A, whose direct way has failed for a second, makes
// the same calls to B through a node of C, which passes them on, once, with its
// own certificate and A's name. Cursors and acks stay between A and B whatever
// path a row takes, and C stores nothing. A decides, since it alone sees that its
// rows do not arrive: a link dead in one direction is nothing special. It tries
// the direct way all the time, and takes it again once that has answered for
// two seconds, for longer each time that it breaks soon after: a flapping link is
// not followed. C vouches for A. A false C could so drop or forge A's edits at
// B: it could before, by a whole cart whose context has seen dots that it does
// not hold, or that holds lines nobody wrote. Rejected: rows stored at C for B,
// which doubles what each region writes and adds nothing while A is alive
// and can be asked; when A dies after C has its rows, proof brings them from C. Cost:
// a relayed row crosses two links, and C's nodes copy its bytes.
//
// Timestamps from the future are joined but counted (Clocks): refusing
// them would make regions diverge, adopting them would spread a broken clock.
package replication
