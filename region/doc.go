// Package region is one region's truth: carts on a majority of the region's
// disks, in one order per cart, and readable through any node. It knows of
// other regions only what it is given to join.
//
// # Map
//
// A node is one process. Carts are spread over 1024 slots by their ids, slots
// over shards, and a shard is one Raft group on three of the region's nodes.
//
//	api.go       errors, View, ReadOptions
//	router.go    Router: finds a cart's leader; Edit, Read, Wait
//	sink.go      Router: what replication asks: cursors, joins, digests; Status
//	badge.go     Router: a cart's count without its lines
//	kept.go      Router: what is kept of a cart beside its value; the cart elsewhere
//	standing.go  Router: how the region stands among the others, and changes of it
//	rights.go    Router: limited uses of codes
//	node.go      Node: a Router with shards, a database and links of its own
//	form.go      how a region comes to be, and how a node joins it
//	serve.go     what a node answers to others
//	guest.go     Router: merges of guests' carts; Node: forwards them
//	setting.go   Router: settings of the shop
//	identity.go  whose data a directory holds
//
//	shard/       one Raft group: packs commands, applies them, snapshots
//	store/       Badger: keys, records, transactions, generations of a shard
//	link/        one connection per ordered pair of nodes carries everything
//	cache/       the hot cache: Redis or in this process, versioned
//
// A gateway is a Router over a link.Mux and nothing else. An edit goes Router →
// link → the leader's Shard.Propose → log → apply, one transaction → answer;
// the leader offers what it committed to the cache.
//
// A directory has node.json (the identity), badger (all shards), shard-N (log
// and snapshots of one) and, while the node is stopped cleanly, clean.
//
// # Reading
//
//   - Without a token, the leader answers: every write that this region
//     acknowledged before is in it.
//   - Strong: the leader answers after a majority confirmed that it leads.
//   - With a token: the nearest copy that covers it, of this node or of the
//     cache, else the leader.
//   - No leader within StaleAfter: the nearest copy there is, marked Stale. A
//     strong read fails with ErrNoQuorum instead.
//   - A token that nothing here covers: the read waits CoverWait, then fetches
//     the cart from the regions that the token names and joins it through the
//     log, and if that fails answers with what there is, marked Stale. For a
//     gateway, which reaches no other region, the node that it asks does so.
//   - Wait wakes by any copy and answers with the leader's.
//
// Views of one region are ordered by View.Version. A Stale view may be older
// than one read before; no other is, unless a token was sent: then it is at
// least what the token names.
//
// # Writing
//
// ErrNoQuorum, ErrOverloaded and ErrClosed mean that nothing was taken.
// ErrOutcomeUnknown means that nobody knows: send it again with the same op id.
// Edit does so itself, until its context ends, for edits that have one. Edits
// and whole carts are checked before they are proposed: an entry that cannot
// be applied would end each node that holds the shard, and again at each start.
//
// # Forming and joining
//
// The first node of the configuration forms the region once every configured
// node has answered that it knows of none. It writes that down, with the
// server ids of all, before it does anything; the others learn both from it or
// from each other. Each first member then starts its groups with that same
// list (rule B1 in form.go).
//
// A node whose directory is empty has a new server id. It hears that the
// region exists, starts its shards without members, and asks each shard's
// leader to be taken in: the leader removes the server that had the node's
// name, adds the new one without a vote, and gives it the vote when it has
// nearly all of the log.
//
// # Decisions
//
// Reads rest on the leader's lease. Context: most reads carry no token and
// must show what was just written. Choice: the leader answers from memory while
// its lease holds; a strong read pays for a round of heartbeats, shared by all
// that ask meanwhile. Cost: clocks of a region's nodes must run at about the
// same speed, and link must not stretch the lease (see there). Rejected: a round
// for each read, and reads from followers without a token.
//
// Stale after StaleAfter. A shopper rather sees a marked cart than none, so a
// read looks for a leader 600 ms, which outlasts a handover but not an election.
// Cost: while a leader is gone without a word, reads take that long. Rejected:
// waiting for the election (about two seconds, the whole request).
//
// Forming needs every configured node. A majority would be enough to be safe
// once, but a node that lost its disk cannot tell a region that never was from
// one whose other nodes are down; only an answer from each says so. Cost: a new
// region waits for its last node. Rejected: a bootstrap flag, which stays in a
// unit file and forms the second region after the disk is lost.
//
// A region that lost every disk cannot know that it existed, and would issue its
// dots a second time: what is new would be taken for known, and be lost. So the
// node that is about to form it asks first, by Config.MayForm. Other regions know
// which incarnations of this one have written: by their cursors, and by their
// carts, since a repair brings carts before it moves a cursor. One that is spent
// ends the node, and the operator raises it. The incarnation travels with the
// news that the region exists, so a node that comes later needs no right
// configuration. Cost: a new region waits for the other regions too, once, and
// they read all their carts for it. Rejected: a random incarnation, which needs
// nobody, but lets a region whose disks were not mounted come back as another
// without anybody having decided so.
//
// First members travel with the news. With more nodes than replicas the node
// that forms the region holds some shards only, so each member has to start
// its own groups, and must know whether it is still the server in the list. The
// list is kept by all, and answered to whoever asks. Rejected: one node that
// starts all groups.
//
// A raft frame names the server id it is meant for. The node's address outlives
// its disk; its vote must not. With an id in each frame an empty node at the
// old address is never taken for the server it was (link, rule R1). The price of
// a lost disk is one membership change per shard.
//
// A log that is gone stops the node. node.json lists the shards that have a log
// in the directory; a listed log that is missing is damage, because the votes in
// it were given under the id that the directory still has. The remedy is to
// remove the directory, which makes the node a new member.
//
// Damage is found before anything is opened. Open reads the database, the logs
// and the newest snapshots, all of it, with code that changes nothing, and
// compares them: a log must reach what the database has applied from it. What is
// refused stays as it is, byte for byte. Context: the libraries mend while they
// open, drop files that they do not know of, and panic on goroutines of their
// own; and Badger takes a block that it cannot read later for one without the
// key, so damage that is not found at the start is a lost cart. What the log
// brings back is not refused: the end of the newest memtable, or all of it, or
// the whole database. Not found are an older memtable that is gone, a manifest
// that is cut between two records after a kill, the newest file of a log of
// which nothing was applied, and what rots while the node runs. Cost: a start
// reads all that the node has, 0.7 to 1.5 GB/s on two shared cores. Rejected: only
// the tables' indexes, which Badger looks at too.
//
// Badger is wiped after an unclean stop of the machine: another boot id, and no
// clean mark. Memtables rotate without a sync, so an intact newer table may
// stand on a torn older one and the applied index in it lies. Log and snapshots
// are synced, and everything comes from them. Cost: such a node starts as slowly
// as it replays. Where the system names no boots, each unclean stop counts as
// one of the machine. Rejected: syncing each transaction (a second fsync per
// entry), and believing the checksums, which an older table has as well.
//
// The directory itself is locked, with flock, before anything in it is read: the
// wipe must never meet a database in use, and a foreign directory is left
// without so much as a lock file. Cost: Unix only, as is cartd.
//
// Which regions are members stands in the log of every shard, and is applied there
// (proto/membership): a row is refused, or an edit, from one place in the log on,
// the same on every node and after every restart. What a region promised as an
// acceptor stands in the first shard's. Cost: a change is a few entries a shard.
// Rejected: a check where rows arrive, which a row on its way to the log slips by.
//
// A region that begins again does so in a new generation, as a snapshot is
// restored: nothing of the old carts is left to be joined, one pointer decides, and
// only the delta log's rows are copied. Rejected: deleting carts by entries.
//
// Garbage is told by digests, not by rounds. DESIGN has numbered rounds, whose
// digests are compared at equal numbers alone. Here the first member asks all others
// of each cart whether it is the same there, and quiet; a cart that changed meanwhile is
// left, and whoever dropped it gets again what it had seen. So a round that comes to
// half of its end costs a repair of some empty carts, and no number has to be agreed
// on. How old a record is, a mark in the shard an hour tells, not a time in each.
//
// A cart expires when every member says so. Its owner, the region of its newest
// activity, finds it in an index and asks all others whether it is the same there,
// with no newer activity, and due by their clocks; then it takes out what is due, as
// an observed remove. So an edit in a region that is cut off survives, no clock alone
// decides, and the expiry is told once. Context: DESIGN has a watermark of every
// member's clock; a question about the cart itself also says whether something of it
// is still on its way. The activity is no part of the cart's value: an expiry, or two
// regions that know of it at different times, must not make digests differ. Cost: one
// call to each region for a hundred carts, and nothing expires while a member is away,
// until it is fenced. Clocks may each be Skew off, so the owner waits twice that.
//
// The index of due carts is lazy. A cart is put into it when it is new, and moved when
// it becomes due earlier; an edit, which makes it live longer, touches no key, and who
// comes to the entry moves it, once in a cart's life without edits. Cost: a key for
// each new cart, and a record written again for each that was edited since. Rejected:
// an entry moved with each edit, two keys more where an add writes one; and a walk
// over all carts, which is minutes of reading for ten million.
//
// All that a guest's cart has goes at once, and the session with it: what it had set
// aside could not be reached any more. The session's end is written before the rows
// that remove the lines, so that no region merges what is being emptied.
//
// Placement is a rule: shard i is on nodes i, i+1 and i+2 of the configured
// order. Nobody has to agree on anything to find a shard, and a node of six
// holds half of them. Cost: the list of nodes must be the same everywhere and
// for good; adding a node moves shards, which needs a replicated map.
//
// catchUp waits, then fetches, then says stale. Most tokens are a few
// milliseconds ahead of the rows, and a wait costs nobody anything. A fetch asks
// each region once, for Attempt at most, and what it brings is joined through
// the log, so that the next reader has it. Rejected: fetching at once (a storm
// whenever gossip lags), and showing what was fetched without joining it (the
// next read would go back).
//
// Wait confirms with the leader. A follower that is behind differs from what the
// watcher saw, but backwards. Cost: one read of the leader for each wake.
// Rejected: waiting at leaders only, which has to move with the leadership.
//
// Settings of the shop are facts of one more cart, with a fixed id. They replicate, are
// repaired and backed up as carts are, and a region that is cut off goes on with those
// that it has. They are put into commands by who proposes them, so apply stays
// deterministic, and are read every two seconds at most. A setting that this version
// does not know is an error, not the default. Cost: two regions may merge under two
// rules for the time that a change takes to arrive. Rejected: a setting in the
// membership document, which needs a majority of regions to change.
//
// A count is read from a record's first bytes: its head, and what the cart has
// seen, which its encoding begins with. Cost: a byte range of Redis is believed by its
// version alone, as its content is not there to be checked, so a torn value may show
// a wrong number on a badge. Measured, to decode: 144 bytes and 4 allocations, beside
// 4.8 kB and 30 of a record of 10 lines, and 91 kB and 410 of one of 200. Rejected: a
// key of its own in Redis, a second write for each edit.
//
// Values of the cache are checked against their digest, which covers the cart's
// id: a value under another cart's key, or a torn one, is a miss. It is no
// defence against one who may write to Redis; that is the network's task. Cost:
// one encoding and one hash for each read from the cache.
package region
