package crdttest

import (
	"fmt"
	"math/rand/v2"

	"github.com/samecart/samecart/crdt"
)

// Realistic returns a cart as a shopper would leave it after span
// milliseconds: lines of one to three sellers, added from the given number
// of regions in turns, each region hearing of the others' edits; then one
// line in eight gets another quantity. Equally seeded, it is the same cart.
func Realistic(rnd *rand.Rand, lines, regions int, span int64) *crdt.Cart {
	c := &crdt.Cart{}
	start := int64(1_760_000_000_000) + rnd.Int64N(1e10)
	edits := lines + (lines+7)/8
	sellers := 1 + rnd.IntN(3)
	var keys []crdt.LineKey
	have := map[crdt.LineKey]bool{}
	for i := range edits {
		at := crdt.TimestampAt(start + span*int64(i)/int64(edits) + rnd.Int64N(span/int64(edits)+1))
		w := crdt.Writer{Replica: crdt.Replica{Region: crdt.RegionID(1 + rnd.IntN(regions)), Incarnation: 1}, At: at}
		if i >= lines {
			k := keys[rnd.IntN(len(keys))]
			c = c.Apply(c.SetQuantity(w, k, uint32(1+rnd.IntN(200))))
			continue
		}
		var k crdt.LineKey
		for k.SKU == "" || have[k] {
			k = crdt.LineKey{Seller: "retail", SKU: fmt.Sprint(10000 + rnd.IntN(80000))}
			if s := rnd.IntN(sellers); s > 0 {
				k.Seller = fmt.Sprintf("seller-%d", s)
			}
		}
		have[k] = true
		keys = append(keys, k)
		offer := crdt.Offer{Price: 42 + rnd.Int64N(9995-42+1), Currency: "GBP", AddedAt: at}
		c = c.Apply(c.Add(w, k, uint32(1+rnd.IntN(200)), offer, false))
	}
	return c
}
