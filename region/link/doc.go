// Package link is the transport between the nodes of one region. A Mux keeps
// one connection per ordered pair of nodes, from the one that calls to the one
// that answers, and carries everything on it: the raft RPCs of all shard
// groups, forwarded requests, admission calls.
//
// # Use
//
// New makes a Mux, Handle gives it the handlers, Raft its raft groups, Serve
// answers other nodes, Call asks one. Nothing runs before Serve or the first
// Call; Close ends what they started. TLS is the matter of the Dialer and of
// the listener given to Serve; Config.Verify then binds a node's name to its
// certificate.
//
// # Outcomes
//
// ErrUnreachable, ErrOverloaded, ErrTooLarge and ErrUnknownKind mean that no
// handler saw the request. ErrConnectionLost, and a context's error without
// ErrUnreachable, mean that nobody knows. *Error is the handler's answer.
//
// # Bounds
//
// A frame, the bytes that wait to be written, the users' calls in flight, the
// connections accepted, the raft requests that wait per group, the snapshots
// coming in and the bytes of each: all have a bound, and what exceeds one is
// refused with ErrOverloaded or ends the connection. Users' calls and raft
// have separate bounds: a flood of calls leaves heartbeats their place.
//
// # Format
//
// A connection opens with a hello: magic, the range of versions spoken, the
// cluster, both names; the answer is the version chosen or the reason why
// not. Then come frames: a 4-byte length, a type, and the fields listed at
// frameType. A dialer sends requests, cancels, pieces of snapshots and pings;
// a listener answers, credit and pongs. Anything else ends the connection.
//
// # Decisions
//
// One connection per ordered pair. Two per pair of nodes, rather than one
// shared by both directions: no tie to break when both dial at once, and the
// calls of one end fail alone when its connection does. The cost is one
// socket more per pair. A newer connection of the same node replaces the
// older, which its dialer has lost without this end knowing.
//
// The server id travels with every raft request. Raft itself checks who
// asks, not who is asked. A node that lost its disk has its old address; were
// it to answer requests meant for the server it was, its empty log could vote
// an acknowledged entry away. So a request reaches raft only when it names the
// id that the group has here (rule R1).
//
// Failed requests do not come out of a pipeline. raft v1.8.0 counts whatever
// does as contact with the follower before it looks at the error, so a broken
// connection would extend the leader's lease, on which reads rest (rule R3).
// A failed request ends the pipeline instead, raft notices at its next send,
// at most two CommitTimeouts later, and falls back to single requests.
//
// Heartbeats have a time limit of their own. Raft dates contact by the
// arrival of the answer. The lease is safe while the answer's age and the
// lease together are below the election timeout: keep HeartbeatTimeout below
// raft's HeartbeatTimeout less LeaderLeaseTimeout, 500 ms by raft's defaults.
// The answer to an AppendEntries with entries may be older (RaftTimeout, for a
// slow fsync), but the follower counts contact after the fsync, not before:
// there only a network delay of that length could stretch a lease.
//
// Heartbeats wait for company. A heartbeat or its answer waits up to
// HeartbeatHold, unless another frame goes first, and then all go in one
// write. In the test with 64 groups and a hold of 5 ms 407 heartbeats a second
// need 136 writes a second each way: 3 frames share one. A longer hold batches
// better and lets everything that waits for a heartbeat wait longer. A heartbeat sooner than raft's own rhythm is one that
// VerifyLeader asked for; a strong read waits for it, so it is not held, and
// neither is its answer. A frame of many heartbeats would save some bytes and
// no writes; rejected.
//
// One goroutine per lane. Requests of one group on one connection reach raft
// in order (R2), each after the answer to the one before, as with raft's own
// transport; heartbeats have a lane of their own, so a slow disk delays none.
// A lane has a goroutine only while it has work.
//
// A closed transport has no heartbeat in hand. Raft takes heartbeats on the
// link's goroutines and does not wait for them when it shuts down; one of a
// newer term then met a closed log, and the process panicked during a clean
// stop (seen under the race detector). Closing the transport waits for them.
//
// A large AppendEntries is split into several, each valid on its own and with
// its commit index bounded by its own last entry: raft v1.8.0 bounds a
// follower's commit index by the follower's last entry, not by the last one
// received. Frames can therefore be small whatever MaxAppendEntries is. The
// rejected ways: frames as large as the largest request (heartbeats wait
// behind them), and cutting the caller's request short (raft would have to
// look at it again). A single entry must fit a frame.
//
// Snapshots have credit. The receiver says how many bytes it has room for and
// begins only when raft reads, so a snapshot holds at most a window of memory
// and leaves gaps for other frames. Time limits are on progress and on the
// answer; raft's own transport limits the whole, by its size.
//
// A codec of our own. Encoding and decoding one AppendEntries of 64 entries of
// 300 bytes takes 7 µs and 3 allocations, with go-msgpack 89 µs and 326; an
// empty one 0.14 µs instead of 1.6 (BenchmarkAppendEntriesCodec). The cost is
// that a field which a newer raft adds is not carried: a test fills every
// field by reflection and fails then.
//
// Decoded entries share the frame's memory. It saves a copy; one entry kept
// keeps its frame. Raft keeps neighbours together, so little is wasted.
//
// Frames are copied into one buffer and written by one goroutine. A write per
// wake-up and no buffer of a caller is held after Call returned. Rejected:
// writev of the callers' own buffers, which TLS turns into many records. The
// writer yields once before it takes the buffer: calls of 300 bytes over the
// loopback with 64 callers went from 7.3 to 2.8 µs each on two cores (20 µs
// with one caller, both ways), measured four times each.
//
// Calls that wait for something to happen (KindWaits and above) are counted
// apart. A gateway has one for each cart that is watched there: with the bound of
// other calls, 4,096 watched carts kept every read and edit off the link.
// Rejected: one call that waits for many carts, which is sent anew, whole, at
// each change of one of them.
//
// Errors have no codes of this package on the wire but the five statuses of
// frame.go; users' codes are theirs.
package link
