// Package store keeps one node's state in Badger: for every shard the node
// holds, its carts, delta log, op ids, cursors, digests and applied index.
//
// A [Store] is the node's one database; a [Space] is one shard's keys in it,
// in one generation. All that one Raft entry changes is written in one [Tx],
// together with the marker that says how far the log is applied.
//
//	S1  What a marker says was applied is in the database, and nothing after
//	    it is.
//	S2  A generation becomes current by one write of one key; a generation
//	    that is not current is never read and is deleted.
//
// # Decisions
//
// The log is not here. Writes are not synced: Raft's log has them on disk,
// and after an unclean stop of the machine the whole database is thrown away
// and built again from the newest snapshot and the log. A stop of the
// process alone loses nothing, as the memtable's file is mapped memory.
//
// All is read before Badger opens it, by Check. Badger reads of a table its index
// and its last block, on goroutines of its own where a panic ends the process,
// and later passes over blocks that it cannot read. Check goes through every
// block on its own goroutines, knows the formats of what it cannot ask Badger
// for, and finds the markers on the way, so that the log can be compared before
// a byte is changed. Cost: the size of the database at each start, and code that
// a newer Badger may have to be followed with; a table or manifest of a version
// that it does not know is refused. Rejected: opening it read-only, which Badger
// refuses to do after a kill and which panics like the other.
//
// Generations make a restore atomic. Writing the marker first and then the
// carts lost acknowledged writes when the process died in between; here a
// restore fills a new generation and then moves one pointer. DropPrefix stops
// all writers of a database that shards share, so old generations are
// deleted in batches; only those below the current one, as a restore may be
// filling the next.
//
// A marker has a position inside an entry. An entry packs hundreds of
// commands and Badger bounds a transaction by the memtable's size, so a
// transaction may end between two commands of one entry: the marker then says
// how many of them are in. Rejected: WriteBatch, which commits part of
// itself without saying so; a bound on entries by their worst case, which
// would be about ten large carts.
//
// Bucket digests are sums, not a tree: a cart's digest is taken out of and
// put into its slot's sum, so an edit costs the same whatever the number of
// carts.
//
// Rows and remembered requests are packed sixteen to a key, and slots' digests
// too. Badger's cost is per key: with a key for each, an add wrote five and a
// half, and a third of what a follower did for it was to find their places in
// the memtable. Now an add writes one, its cart, and shares four. Cost: an idle
// shard writes the last chunk again with each add, a few kilobytes. Rejected:
// one key for all of an entry, as what is stored would follow from where
// transactions ended.
//
// What was last taken out of a cart has a key of its own, and a record's head says that
// there may be one: else each edit would look for it. In the record it would go to the
// cache and to other nodes with each read.
//
// What tells of an erased cart in the series is written again in its place, as the
// numbers behind it count. Badger has the old values until it compacts the tables that
// they are in, and a full log file until all of its entries were dropped: nothing here
// forces either. Rejected: a key for each cart to encrypt its rows with, which makes
// them useless at once when it is dropped, and costs a look-up for each row that is
// read or sent.
//
// A record says where its cart's requests are remembered, since most edits
// bring a new op id: finding out in the database took as long as making the
// cart's new state. Past askedMax of them, and for carts without a record, there
// is an index, a key for each. Rejected: a filter over a shard's op ids in
// memory, which each start would have to fill from a day of them.
package store
