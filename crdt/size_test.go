package crdt_test

import (
	"testing"

	"github.com/samecart/samecart/crdt"
)

// identifiers counts what no codec can leave out: SKUs, options, and each
// seller once.
func identifiers(c *crdt.Cart) int {
	n, sellers := 0, map[string]bool{}
	for _, e := range c.Lines {
		n += len(e.Key.SKU) + len(e.Key.Options)
		if !sellers[e.Key.Seller] {
			sellers[e.Key.Seller] = true
			n += len(e.Key.Seller)
		}
	}
	return n
}

// At rest a line takes its identifiers and 12 bytes on average, the header
// with the context included (DESIGN §2). A time takes three bytes while a
// cart's lines were added within 4.6 hours, and four within seven weeks: a
// small cart that was filled over days passes the 12 by half a byte.
func TestSizeAtRest(t *testing.T) {
	const carts = 50
	const hour = 3_600_000
	for _, c := range []struct {
		lines, regions int
		hours          int64
		perLineMax     float64
	}{
		{10, 2, 2, 12}, {10, 2, 4, 12}, {10, 2, 48, 12.5},
		{10, 3, 2, 12}, {10, 3, 4, 12}, {10, 3, 48, 12.5},
		{200, 2, 4, 10}, {200, 2, 48, 10},
		{200, 3, 4, 10}, {200, 3, 48, 10},
	} {
		var average, worst float64
		for seed := range uint64(carts) {
			cart := realistic(c.lines, c.regions, c.hours*hour, seed)
			n := float64(len(cart.Encode(nil))-identifiers(cart)) / float64(c.lines)
			average += n / carts
			worst = max(worst, n)
		}
		t.Logf("%3d lines, %d regions, %2d hours: identifiers + %.2f bytes a line, worst cart %.2f",
			c.lines, c.regions, c.hours, average, worst)
		if average > c.perLineMax {
			t.Errorf("%d lines, %d regions, %d hours: identifiers + %.2f bytes a line; at most %v wanted",
				c.lines, c.regions, c.hours, average, c.perLineMax)
		}
	}
}
