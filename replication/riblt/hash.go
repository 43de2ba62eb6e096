package riblt

import (
	"encoding/binary"
	"math/bits"
)

// Item is an element of a set: a digest.
type Item = [16]byte

// Key makes a stream's hashes its own; take one at random for each stream.
type Key [16]byte

// hash is what symbols hold of an item: SipHash-2-4 of its 16 bytes. Whoever
// does not know the key can neither find two items of one hash nor tell in
// which symbols an item falls.
//
// Source: Aumasson, Bernstein: SipHash: a fast short-input PRF, INDOCRYPT 2012.
func (k *Key) hash(it *Item) uint64 {
	k0, k1 := binary.LittleEndian.Uint64(k[:]), binary.LittleEndian.Uint64(k[8:])
	v := sipState{k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d, k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573}
	for _, m := range [...]uint64{
		binary.LittleEndian.Uint64(it[:]),
		binary.LittleEndian.Uint64(it[8:]),
		uint64(len(it)) << 56, // the length ends a message
	} {
		v.d ^= m
		v = v.round().round()
		v.a ^= m
	}
	v.c ^= 0xff
	v = v.round().round().round().round()
	return v.a ^ v.b ^ v.c ^ v.d
}

type sipState struct{ a, b, c, d uint64 }

func (v sipState) round() sipState {
	v.a += v.b
	v.c += v.d
	v.b = bits.RotateLeft64(v.b, 13) ^ v.a
	v.d = bits.RotateLeft64(v.d, 16) ^ v.c
	v.a = bits.RotateLeft64(v.a, 32)
	v.c += v.b
	v.a += v.d
	v.b = bits.RotateLeft64(v.b, 17) ^ v.c
	v.d = bits.RotateLeft64(v.d, 21) ^ v.a
	v.c = bits.RotateLeft64(v.c, 32)
	return v
}

// checkOf is the long checksum of a hash; its low half is that of symbols. It
// has no key of its own: a hash is as good as random to whoever lacks the key.
func checkOf(hash uint64) uint64 { return mix(hash ^ 0x243f6a8885a308d3) }

// mix is the last step of splitmix64: a permutation that is far from linear.
//
// Source: Steele, Lea, Flood: Fast splittable pseudorandom number generators,
// OOPSLA 2014.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
