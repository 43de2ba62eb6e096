// Package shard runs one Raft group of a region: it packs commands into log
// entries, applies them to a [store.Space], answers reads, and hands its
// delta log and digests to the replication between regions.
//
// A [Shard] is one node's member of the group. [Open] starts it as a
// follower, [Shard.Run] makes it work, [Shard.Drain] and [Shard.Close] end it.
//
//	Propose ─▶ combiner ─▶ Raft log ─▶ fsm.ApplyBatch ─▶ store.Tx ─▶ carts in
//	           packs        fsync       on decoded        one or      memory,
//	           what waits   majority    carts             more        watchers
//
// command.go has what commands do: pure functions of the entry and the
// space. fsm.go is the bridge to Raft, and has the invariants F1 to F3.
// membership.go is what the document of all regions means to one shard: whom it
// refuses, its vote, and how it begins again. collect.go drops what carts leave behind,
// expiry.go takes out of carts what nobody has edited for too long.
// rights.go has what commands do with the rights of limited codes, lease.go what the
// leader does: it spends under a lease, tells shoppers once a majority of the regions
// knows, and moves rights before they are needed.
//
// What a command changes is decided by its entry alone. The leader writes its
// clock, the limits and the format level into the entry, so every member mints
// the same dots and gives the same refusals, whatever its own configuration.
//
// # Decisions
//
// Proposals are packed. While two entries are under way, later commands
// gather for the next: one disk sync and one transaction for hundreds of
// commands, and nobody waits for a timer. Each command is still judged alone,
// and has its own outcome. Cost: an entry's commands share its fate when the
// leadership is lost. Rejected: one entry a command (a third of the
// throughput), a fixed gathering delay (a cost for the idle shard), more than
// two entries in flight (smaller entries, and more of them to sync).
//
// The marker has a position inside an entry. An entry holds more than
// Badger's transaction may, in the worst case, so a transaction may end
// between two of its commands, and a restart goes on behind the last one that
// is in. A command whose own effects may be too many, a join, is built so that
// doing it again changes nothing, and may be committed in its middle. Where a
// transaction ends follows the node's memtable size, so nothing that is
// written may depend on it. Rejected: small entries by the worst case of every
// command, about ten large carts.
//
// A refusal is not recorded under its op id. It changed nothing, so there is
// nothing that a retry could double, and the retry may be right by then: the
// shopper removed a line and there is room. It is judged anew, as it would be
// in another region, which never hears of refusals. Cost: a retried request
// may succeed after its first answer said no.
//
// Op ids travel with their dots. A row carries the ids of every dot it names,
// the new one and those the line held; a whole cart those of all its dots and
// of what is remembered besides. Whoever knows a dot, from whatever region's
// row, so knows the request that made it, and a retry there is not applied
// again. Cost: 40 bytes for each held dot in a row. Rejected: a separate
// stream of ids, which can arrive after the dot.
//
// Reads rely on the leader's lease. The leader answers from memory without
// asking anyone, but only after a barrier of its own term: until then, what
// earlier leaders acknowledged may not be applied here. A leadership that was
// lost and came back unnoticed is another term, and needs another barrier.
// Raft makes a cut off leader step down before the others elect one, if clocks
// run at about the same rate; a strong read does not rely on that and asks a
// majority, one question for all who ask meanwhile. No reads are answered
// during a drain, as a transfer of leadership does not wait for the lease.
//
// Waiting is by channels. A reader waits on the cart's channel, which is
// closed by the next change; it asks for the channel first and reads
// afterwards, so no change is missed. Changes are published after the
// transaction that has them. Rejected: a queue per reader, which needs a bound
// and a rule for the slow.
//
// A restore is watched by its readers. It fills a new generation beside the
// old one, which is then swept in the background; a read that began in the old
// one is done again in the new. Rejected: a lock around reads.
//
// The install loop is broken here. The library can send one snapshot to one
// follower for ever (raft issues 205 and 697). The third install of one
// snapshot on one follower makes the leader commit a barrier and take a newer
// snapshot, which ends the loop; a follower that just restarts often costs one
// snapshot too many. Rejected: a patched library.
//
// A use of a limited code is told once a majority of the regions acknowledged its
// row: what a region alone knows is lost, and given to others, when it is fenced. Cost:
// a round trip to another region; and uses whose acknowledgement does not come count
// without anybody being told, until they are asked for again: none are made any more
// when the others have not acknowledged a row for a second. Rejected: telling at once
// and recovering nothing, as the paper does.
//
// Customers' counters are in the slot of their code's, so that one entry takes from
// both or from neither. Cost: a code's uses are one shard's work. Rejected: two
// commands, and giving back what the first took, which a crash in between forgets.
//
// The leader checks commands before they are in the log. Applying cannot
// fail, so an entry that no member can apply would end them all, and again at
// each start. Cost: a joined row is decoded twice on the leader. Rejected:
// skipping such an entry, as a newer version would not skip it.
//
// The log's files are read before raft-wal opens them, by InspectLog. raft-wal
// deletes files that its meta store does not list, makes an empty log of one
// that it cannot read, and checks the last commit only; bbolt falls back to its
// older meta page, and with it to an older vote. Cost: three formats are known
// here, those of bbolt 1, raft-wal 0.4 and raft's snapshots, and a start reads
// the log twice. Rejected: opening a copy, which needs room for one.
//
// Two windows of the libraries are closed in OpenStores. A process that ended
// between filling a log file and noting so, or between taking a leader's snapshot
// and dropping the log before it, left a log that took no more entries.
//
// A merge of a guest's cart is two commands in two shards and no transaction. The
// first writes whose the guest's cart is, as a fact that replicates; a mark, in the
// transaction of each change from then on, has the leader join the cart into the
// user's until that is acknowledged. So a merge that was begun is completed by any
// leader, late edits follow, and each region forwards what it has: users' carts are
// equal where guests' carts are, without rows of a new kind. Cost: the forwarding
// repeats the login's own join, one command more; and a mark a change of a merged
// guest's cart. Rejected: a cursor of forwarded rows, which says nothing of carts that
// come whole; a transaction over both shards, which stops both when one is gone.
//
// The idempotency key of a merge is remembered in the user's cart before, by an edit
// without changes, and not with the merge: a key that was used for something else
// must be refused before the guest's cart is closed. The answer of a repeated merge is
// made anew, with the guest's lines as they are by then.
//
// The log's meta store is opened and closed here. raft-wal's Close leaves it
// open, and with it a file lock: the next Open in the same process, a restart
// in a test or a drill, would wait for ever.
package shard
