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
// cumulative and come after the receiver's commit. An edit goes out at once.
// While a send is outstanding or the window is full, rows gather in one
// batch, in which rows of one cart and line are combined. Nothing sent is
// kept: after a lost stream the log is read again from the cursor.
//
// # Repair
//
// When the log no longer reaches back to the cursor, the origin notes its
// position, compares a digest per slot, then the digests of the carts in
// differing slots, sends the carts that differ whole, and moves the cursor
// to the position after the last join; then it streams on.
//
// # Proof
//
// While connected, digests are compared again and again: what is equal is
// recorded with its time, what stays different without a reason is repaired.
// This also closes a partial partition: a region cut off from the origin
// gets its carts, whole, from a third one that has them.
//
//	failure                       what happens
//	stream lost, acks lost        reopen within BackoffMax; rows sent twice are dropped by the cursor
//	leader of the shard changes   its Gossiper starts at the receiver's cursor
//	receiver restarts             as a lost stream; its cursor is in its Raft log
//	peer gone for long            log trimmed by its owner, repair on return
//	peer wiped, cursor included   first ack is 0: stream, or repair when trimmed
//	peer lost carts, not cursors  found by proof within two rounds, repaired
//	peer has more than we         two rounds differ; one repair, then again only after
//	                              a minute, doubling to 16, or when we change the slot
//	this region lost rows         AheadSeq in Status and an error in the log: it needs a new incarnation
//
// # Sources
//
// Almeida, Shoker, Baquero arXiv:1603.01529 (delta intervals); Enes et al.
// ICDE 2019 (efficient synchronisation of state-based CRDTs); DeCandia et al.
// SOSP 2007 (anti-entropy).
//
// # Decisions
//
// A gap reopens the stream. Intervals are pipelined, so one gap makes every
// interval behind it a gap too; answering each would resend the same rows
// several times. A new stream starts with a new cursor and drops all stale
// acks. Cost: one round trip, in a case that needs a fault. Rejected:
// numbering intervals.
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
// Digests per slot, then per cart, rather than rateless sketches inside a
// slot: with 1,024 slots a bucket of a million carts has about a thousand,
// 16 bytes and an id each; and buckets page, so memory is bounded. Cost: a
// slot that differs in one cart lists all of its carts.
//
// A repair sends a cart also when only the peer has news in it: a digest
// does not tell who is behind. The peer joins it without effect. Fetching the
// peer's cart first would cost the same bytes.
//
// Timestamps from the future are joined but counted (Clocks): refusing
// them would make regions diverge, adopting them would spread a broken clock.
package replication
