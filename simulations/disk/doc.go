// Package disk is a disk for simulations, under real files: it is slow, fails, fills
// up, and forgets what was not synced.
//
// A Disk is what one node's data directory lies on. It stands under the shards' logs
// at raft-wal's own seam (types.VFS), and keeps of each file what a power loss
// would take: the bytes before each write since the last sync. [Disk.Crash] copies a
// directory as a process leaves it that is killed, [Disk.PowerLoss] as a machine
// leaves it that lost its power.
//
// # Decisions
//
// The files are real ones, so that what reads them past the seam, as the check of
// a log at the start does, finds them; and the database maps its own. Of the
// database nothing is known about syncs: after a power loss its files are torn at
// random, each by itself, so that an older memtable may be torn beside an intact
// newer one. It is the node that has to know that it cannot trust them.
//
// Of raft's snapshots and the log's list of files (bbolt) each is synced before it
// counts, by code that is not ours; a snapshot that was not finished is torn here.
//
// For exact replay under WASI the package is another, without faults of its own: the
// logs are in memory there (region/shard), and nothing written is ever lost.
package disk
