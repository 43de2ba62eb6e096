// Package backup writes a region's carts to a bucket of blobs while the region
// serves, and joins them with a region's carts again.
//
// # What is in a bucket
//
//	backups/ID.json        the manifest of a backup: JSON with a sum
//	data/ID/000001.carts   whole carts
//	data/ID/000002.index   which carts a slot has, and which blob has each
//
// An id begins with the time, so ids sort by age. A manifest names all blobs that
// its backup needs, with sizes and SHA-256; those of an incremental backup are
// partly of earlier ones. What no manifest names is left over from a backup that
// did not come to its end, and may be removed. A bucket, or a prefix of one, is
// for one region.
//
// # What is guaranteed
//
//   - A backup is there whole, or not at all: its manifest is written last.
//   - Every cart is as it was at one moment between the backup's start and end,
//     with the requests that are remembered for it.
//   - A restored backup is exactly that: Run checks every blob and every cart
//     before it joins the first, and joins nothing that is not what was listed.
//   - To restore is to join: whatever the region, or one that it hears of, has
//     seen removed stays removed, and what was edited since stays as edited.
//   - A region never takes a backup of which it could mint a dot again.
//
// # Decisions
//
// No cut across carts. Carts do not refer to each other, so any set of carts,
// each read at one moment, is one that the region could have shown a reader. Cost:
// a backup has no one time, but a start and an end. Rejected: snapshots of all
// shards at one index; they hold Badger's old versions, are as long as the region
// has shards, and nothing could tell the difference.
//
// Carts and not databases. Whole carts go through the region's own reads and
// its log, so a backup fits another number of shards or nodes and a later
// version, and an operator's one restore is what regions do with each other all
// day. Cost: a restore takes as long as a repair of all carts. Rejected: copies of
// data directories, which bring back old votes and cursors.
//
// Each backup has a list of every slot's carts, written again when the slot has
// changed; slots that have not changed refer to the list of an earlier one. So
// the carts of backup k are read from its manifest alone, carts that were dropped
// are no special case, and the next backup finds what is new from digests, without
// reading a cart. Cost: a changed slot of 10,000 carts writes 400 KB of list for one cart
// that changed. Rejected: a log of changes since the full backup, of which a restore
// and the next backup have to read everything.
//
// The digest of a slot in a manifest is the sum over the carts that were
// written, not what the region said: edits go on, and a slot that changed while it was
// read must count as different the next time.
//
// Digests do not cover the requests that are remembered, which are no part of
// a cart's value. A request that changed nothing, such as the removal of what was
// not there, is thus in the next full backup only, and would be judged anew after
// a restore. It would be after a day anyway.
//
// Chains are bounded, as an incremental backup is worth no more than the oldest
// blob that it needs. Before one is built on another, all blobs of the chain
// are looked for, with their sizes; when one is not there, the backup becomes a full
// one. What is inside them only Verify and a restore read.
//
// Read twice, join once. A restore checks all before it joins anything, and reads
// the blobs again to join, checking again, since a backup fits no memory and a local copy may
// fit no disk. Cost: twice the transfer.
//
// Incarnations decide, not names. A dot names a region's id and incarnation; a
// manifest has the highest incarnation of every region that its carts have
// seen, and a region must be above what the backup knows of it. That covers a
// backup of another region too, and needs nobody's word about what was lost. Cost: a
// region that lost nothing is refused as well, where a restore would be of no
// effect. Rejected: a flag that overrides it. A dot that is minted twice is an
// acknowledged edit that is taken for known, and nobody finds it again.
//
// A join needs the contexts that it meets. Regions never forget what they have
// seen removed; once contexts are collected, a manifest must name the round
// that it was made in, and a backup older than what was collected must not be
// joined beside live peers.
//
// Blobs are bounded and held in memory whole: no streams, one hash before a
// byte is decoded, and a blob is written at once or not at all. A restore holds one blob
// of each backup in the chain: 4 MiB unpacked times 31.
//
// gocloud.dev/blob is the library behind Bucket (package bucket): one interface
// over directories, S3 and all that speaks its protocol, in memory for tests;
// others are one import away. Cost: 17 MB of cartctl, and half a minute of its first
// build; cartd has nothing of it. v0.45, as later ones raise versions of modules that
// cartd uses. Rejected: one SDK with our own code for directories, which is less code
// to fetch and more to prove.
package backup
