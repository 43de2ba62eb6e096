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
// A symbol is the xor of its items' hashes and the xor of their checksums. One
// that holds a single item of the difference shows it; taken out of the other
// symbols, it makes more of them show theirs.
//
//	items that differ     1      4     10    100  1,000  10,000
//	symbols an item    1.00   1.78   1.73   1.46   1.38    1.36
//
// On the wire a symbol takes 12 bytes, and before the first comes a header of 10
// to 19. The encoder needs 12 bytes of memory an item, the decoder 36 beside the
// item itself, and both 16 a symbol, made up to half as many ahead.
//
// # Guarantee
//
// When [Decoder.Add] says done, what it found is the whole difference and
// nothing else, but for a chance of one in 2^64 for each item of ours and each
// of theirs to have one hash; another key misses something else. That holds for
// a peer that sends the stream of a set. Whatever else it sends, Add ends, finds
// at most as many items as there are symbols, and is done only if what was sent
// is the stream of the set that was found.
//
// It does not hold that a stream is ever done: the caller counts
// [Decoder.Symbols], and asks in another way when they cost more than a list.
//
//	own set has two items of one hash      NewDecoder: ErrCollision, try another key
//	the peer's set has                     Add: ErrCorrupt, as soon as all else is known
//	a symbol of several looks like one     ErrCorrupt, or a stream without end
//	another format, bytes cut off          ErrCorrupt
//
// # Sources
//
// Yang, Gilad, Alizadeh: Practical Rateless Set Reconciliation, SIGCOMM 2024,
// arXiv:2402.02668. Aumasson, Bernstein: SipHash, INDOCRYPT 2012.
//
// # Decisions
//
// What travels is a keyed hash of 64 bits for an item of 16 bytes: the side that
// decodes looks up its own items by it, and of the other side's it needs only
// the number. Half the bytes; two of a million own items share a hash once in 37
// million keys, and that is seen and reported. Rejected: the items themselves.
//
// The key is chosen anew for each stream by the side that decodes, so nobody can
// prepare items that collide, or that all fall into the same symbols. SipHash is
// made for that: a function that is random to whoever lacks the key. Checksums
// and paths follow from the hash and need no key. Rejected: SHA-256, at 3.5
// times the cost.
//
// A symbol has no count, as the paper's have: it says only which side a single
// item is from, and one's own items are known. It would also tell some symbols
// of several from those of one; a byte of checksum does that better. The number
// of all items is in the header. Saved: 1 to 3 bytes of 13 to 15, and a number
// that a peer could make up. Cost: two items of one hash in the peer's set leave
// no trace in the symbols, and show in the header only.
//
// The checksum of a symbol is 32 bits. One in four billion that hold several
// items looks like one, and of these only those count in which the item that
// they look like would fall: less than one stream of 10,000 differences in
// 100,000 is spoiled, and repeated under another key or replaced by a list. That
// a difference is whole is said on 64 bits more, of the header: a sum, where
// symbols have the xor, so one does not follow from the other. Rejected: 64 bits
// in each symbol, a third more on the wire.
//
// Symbols are made in runs: a run goes over all items once and puts each into
// the symbols it falls in, and it is half as long as the stream so far, or as
// what is asked for. So the runs are few, whatever the parts asked for, and at
// most a third of the symbols is made for nothing. Rejected: a heap of the items
// by their next symbol: nothing for nothing, but a logarithm of the set for each
// item of each symbol.
//
// The next symbol of an item is drawn from its hash and the last one, with no
// state between: 8 bytes less an item, and paths can be walked again.
package riblt
