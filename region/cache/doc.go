// Package cache is the hot cache of one region: the newest known state of each
// cart, by key, in Redis or in this process. Nodes that do not own a cart's
// shard answer from it, and it shows a cart, marked stale, while its shard has
// no leader. A shard's owner does not read through it: its disk is nearer.
//
// Nothing lives only here. Losing, flushing or delaying the cache loses hits
// and no write. It does not promise the newest state either: after a flush or
// an eviction a late, older state may come in. A reader that must not go back
// compares Entry.Version, or the cart's own context, with what its caller has
// seen.
//
// What the cache promises: while it holds a key, the version of that key never
// goes down, whoever stores in whatever order; and no call takes longer than
// about Config.OpTimeout, or any time worth naming while the breaker is open.
//
// # Decisions
//
// Versioned set instead of set and delete. Context: a reader that missed fills
// the cache with what it read before a write that has stored already; with
// delete-on-write the old state stays until its time is over. Choice: each
// entry carries (incarnation, slot epoch, log index), and a Lua script refuses
// what is not newer. Removal is a newer version with no data. Cost: 20 bytes
// per value, and stores run a script. Rejected: delete (forgets the version it
// guards), WATCH and MULTI (two round trips, and retries under contention),
// leases (a second kind of state, for what a version gives at once).
//
// Compare bytes one by one. Context: the header is big-endian so that byte
// order is version order. But < on strings in Redis' Lua is strcoll: under
// en_US.UTF-8 it put the bytes 0x7f, 0x80, 0xc8 out of order, and the suite
// failed with that comparison (TestServiceLocale; the C locale and the fake do
// not show it). Choice: string.byte in a loop. Cost: at most 16 steps of Lua. Rejected: struct.unpack (numbers in Lua are doubles: an index past
// 2^53 would lose bits, and the fake has no struct).
//
// A magic in each value. A value of another layout, type or length is a miss
// and the next store overwrites it. Two binaries with different magics then
// overwrite each other while both run: misses, no wrong carts. There is no
// checksum: the canonical cart codec refuses what it cannot read, and a
// checksum that Lua does not check would not unblock the key.
//
// No hash tags. Every script and command touches one key, and go-redis splits
// pipelines by node, so cluster keys may spread freely; a prefix with braces,
// which would put all carts in one slot, is refused.
//
// Timeouts and no retries. One try inside OpTimeout; dialing has its own
// longer bound and goes on in the background. RESP2, no client-side cache, no
// maintenance notifications: each would start something this package must
// answer for.
//
// One breaker per Redis, or per 256 slots of a cluster. Context: one breaker
// for a whole cluster opens for everybody, or never, when one node of three
// dies. Choice: 64 breakers by slot range. Cost: each range of the dead node
// finds out by itself, and a range that two nodes share goes with the dead
// one. Rejected: a breaker per node address (go-redis picks the node after the
// call was let in, and moves it on redirects). OOM and WRONGTYPE are answers,
// not failures: a full Redis still serves loads. A caller that leaves in the
// first half of OpTimeout says nothing about Redis.
//
// In-process cache: least recently used, bounded by bytes, one mutex
// (BenchmarkMemory says what that costs). An entry that is too big keeps its
// version only, so that an older state cannot come back. Entries do not age,
// so it is for one process: others' writes are not seen.
//
// Filler: the apply path offers and never waits; the newest entry per key
// waits, in the place of the first, and the oldest is dropped when the queue
// is full. Dropping the oldest keeps what shoppers are most likely to ask for
// next. Rejected: a channel (cannot coalesce) and dropping the new (leaves the
// cache behind for as long as it is slow).
package cache
