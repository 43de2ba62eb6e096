package crdt_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/crdt/crdttest"
)

// realistic is crdttest.Realistic by a seed.
func realistic(lines, regions int, span int64, seed uint64) *crdt.Cart {
	return crdttest.Realistic(rand.New(rand.NewPCG(seed, 1)), lines, regions, span)
}

func eachSize(b *testing.B, f func(b *testing.B, c *crdt.Cart)) {
	for _, lines := range []int{10, 200} {
		c := realistic(lines, 3, 4*3_600_000, 1)
		b.Run(fmt.Sprintf("lines=%d", lines), func(b *testing.B) {
			b.ReportAllocs()
			f(b, c)
		})
	}
}

// diverged returns two replicas of c that differ in three lines.
func diverged(c *crdt.Cart) (*crdt.Cart, *crdt.Cart) {
	x, y := c, c
	for i := range 3 {
		at := crdt.TimestampAt(1_770_000_000_000)
		k := c.Lines[i*3].Key
		x = x.Apply(x.SetQuantity(crdt.Writer{Replica: crdt.Replica{Region: 1, Incarnation: 1}, At: at}, k, 7))
		y = y.Apply(y.SetPlacement(crdt.Writer{Replica: crdt.Replica{Region: 2, Incarnation: 1}, At: at}, k, crdt.Saved))
	}
	return x, y
}

func BenchmarkJoin(b *testing.B) {
	eachSize(b, func(b *testing.B, c *crdt.Cart) {
		// As between regions: the two share no memory.
		x, y := diverged(c)
		y, err := crdt.DecodeCart(y.Encode(nil))
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			crdt.Join(x, y)
		}
	})
}

func BenchmarkApplyDelta(b *testing.B) {
	eachSize(b, func(b *testing.B, c *crdt.Cart) {
		x, y := diverged(c)
		d := x.SetQuantity(crdt.Writer{Replica: crdt.Replica{Region: 3, Incarnation: 1}}, c.Lines[0].Key, 9)
		for b.Loop() {
			y.Apply(d)
		}
	})
}

// An edit as a region makes it: the delta, and the cart after it.
func BenchmarkAdd(b *testing.B) {
	eachSize(b, func(b *testing.B, c *crdt.Cart) {
		w := crdt.Writer{Replica: crdt.Replica{Region: 1, Incarnation: 1}}
		k := c.Lines[len(c.Lines)/2].Key
		for b.Loop() {
			c.Apply(c.Add(w, k, 1, crdt.Offer{}, false))
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	eachSize(b, func(b *testing.B, c *crdt.Cart) {
		var buf []byte
		for b.Loop() {
			buf = c.Encode(buf[:0])
		}
		b.ReportMetric(float64(len(buf))/float64(len(c.Lines)), "bytes/line")
	})
}

func BenchmarkDecode(b *testing.B) {
	eachSize(b, func(b *testing.B, c *crdt.Cart) {
		buf := c.Encode(nil)
		for b.Loop() {
			if _, err := crdt.DecodeCart(buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}
