// Package riblt finds in which items two sets differ, at a cost that follows
// the difference and not the sets: rateless invertible Bloom lookup tables.
//
// One side turns its set into an endless row of coded symbols ([Encoder]); the
// other subtracts the symbols of its own set and peels ([Decoder]). After some
// 1.4 symbols for each differing item, more for a few items, the decoder knows
// the whole difference, and the first side stops. Nobody needs to know before
// how large the difference is.
//
// Symbol i holds an item with probability 2/(i+2): symbol 0 holds all of them.
// A symbol is the xor of its items' hashes, the xor of their checksums, and
// their number. One that holds a single item of the difference shows it; taken
// out of the other symbols, it makes more of them show theirs.
//
//	items that differ     1     10    100  1,000  10,000
//	symbols an item    1.00   1.73   1.44   1.38    1.35
//
// On the wire a symbol takes 12 bytes and its count, 13 to 15 in all. Both sides
// need 24 bytes of memory an item, the decoder also what it takes to find an
// item by its hash.
//
// # Sources
//
// Yang, Gilad, Alizadeh: Practical Rateless Set Reconciliation, SIGCOMM 2024,
// arXiv:2402.02668.
//
// # Decisions
//
// What travels is a keyed hash of 64 bits for an item of 16 bytes: the side that
// decodes looks up its own items by it, and of the other side's it needs only
// the number. Half the bytes; a hash that two of a million own items share is
// seen and reported, once in 30 million tries. Rejected: the items themselves.
//
// The key is chosen anew for each sketch by the side that decodes, so nobody can
// prepare items that collide, or that all fall into the same symbols.
//
// The checksum is 32 bits and a function of the hash. One in four billion wrong
// symbols looks pure; it spoils the row, which then does not end, and the caller
// starts again with another key. Rejected: 64 bits, a quarter more on the wire.
//
// Symbols are made in runs: a run goes over all items once and puts each into
// the symbols it falls in. Rejected: a heap of the items by their next symbol,
// which is what one symbol at a time would need; runs of 32 and more take less.
package riblt
