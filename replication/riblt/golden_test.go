package riblt

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"
	"math/rand/v2"
	"testing"
)

// Both ends must compute the same on every machine and in every version: what
// is here is fixed. A change of it is another format.

// The vector for a message of 16 bytes of the SipHash authors.
func TestSipHashVector(t *testing.T) {
	var key Key
	var it Item
	for i := range key {
		key[i], it[i] = byte(i), byte(i)
	}
	if got, want := key.hash(&it), uint64(0x3f2acc7f57c29bdb); got != want {
		t.Errorf("%x, want %x", got, want)
	}
}

func TestGoldenStream(t *testing.T) {
	key := Key([]byte("a key of 16 byte"))
	b := NewEncoder(key, itemsFrom(0, 200)).Append(nil, 5000)
	const start = "01c80167dd9bfa08d94aa37ac0ae8b3a4becfc07071f05784c5b86eb7f84d0ff2d7f3f"
	if got := hex.EncodeToString(b[:35]); got != start {
		t.Errorf("it starts with\n%s, want\n%s", got, start)
	}
	const whole = "6eb2d92e9a30e8ff"
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:8]) != whole {
		t.Errorf("5,000 symbols have the hash %x, want %s", sum[:8], whole)
	}
}

func TestGoldenPaths(t *testing.T) {
	for hash, want := range map[uint64]string{
		0:                  "[0 1 3 4 16 24 26 42 247 297 331 531 1043 1674 2119 3797 6559 10347 14352 22663 65799 96729 121518 134051 217596 377438 404407 511181 905244 987458 1029073 1182282 12599698 15649175 29679277 33142823]",
		42:                 "[0 1 5 6 15 36 148 180 225 283 291 507 700 840 1467 1598 1657 5250 7870 12688 16110 41792 53055 65473 135749 325534 465138 1140958 1379340 3307360 3815572 4020676 10900295 11716602 21146480 26589699]",
		0xfedcba9876543210: "[0 1 12 16 41 89 123 162 189 209 221 528 948 1371 1582 3387 3773 3971 11305 75982 147004 182110 191698 512449 1416678 2102004 2393765 2802574 9388181 9982004 21092716 21502243 24898434 31791977]",
	} {
		var path []uint32
		for i := uint32(0); i != never; i = after(hash, i) {
			path = append(path, i)
		}
		if got := fmt.Sprint(path); got != want {
			t.Errorf("%#x falls in\n%s, want\n%s", hash, got, want)
		}
	}
	// Far more of them than can be read.
	var paths []byte
	for n := range uint64(10_000) {
		for i := uint32(0); i != never; i = after(mix(n), i) {
			paths = binary.BigEndian.AppendUint32(paths, i)
		}
	}
	sum := sha256.Sum256(paths)
	const all = "76c4f9cdc3baed73"
	if got := hex.EncodeToString(sum[:8]); got != all {
		t.Errorf("10,000 paths have the hash %s, want %s", got, all)
	}
}

// after is the inverse that its comment says, worked out in whole numbers.
func TestAfterIsExact(t *testing.T) {
	// passes reports whether an item at i that draws r/2^53 goes further than j.
	passes := func(i, j uint32, r uint64) bool {
		n := func(v uint32) *big.Int { return new(big.Int).SetUint64((uint64(v) + 1) * (uint64(v) + 2)) }
		return new(big.Int).Lsh(n(i), 53).Cmp(n(j).Mul(n(j), new(big.Int).SetUint64(r))) >= 0
	}
	check := func(i uint32, r uint64) {
		t.Helper()
		j := after(drawing(i, r), i)
		if j > never || j <= i || j < never && passes(i, j, r) || !passes(i, j-1, r) {
			t.Fatalf("after %d, drawing %#x: %d", i, r, j)
		}
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for range 50_000 {
		check(rng.Uint32()>>(8+rng.UintN(24)), rng.Uint64()>>11+1)
	}
	for _, i := range []uint32{0, 1, 2, 1000, indexMax / 2, indexMax - 2, indexMax - 1} {
		for _, r := range []uint64{1, 2, 1 << 52, 1<<53 - 1, 1 << 53} {
			check(i, r)
		}
	}
}

// The smallest steps, where a rounding down would repeat an index.
func TestAfterRises(t *testing.T) {
	for i := uint32(0); i < indexMax; i += 1 + i/1000 {
		if j := after(drawing(i, 1<<53), i); j != i+1 {
			t.Fatalf("%d after %d", j, i)
		}
	}
}

// drawing returns a hash that draws r/2^53 at symbol i.
func drawing(i uint32, r uint64) uint64 {
	// mix backwards: its multiplications by their inverses, its shifts undone.
	x := (r - 1) << 11
	x ^= x>>31 ^ x>>62
	x *= 0x319642b2d24d8ec3
	x ^= x>>27 ^ x>>54
	x *= 0x96de1b173f119089
	x ^= x>>30 ^ x>>60
	return x - (uint64(i)+1)*0x9e3779b97f4a7c15
}
