package replay

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

func show(lines ...ShownLine) Shown { return Shown{Lines: lines} }

func TestLedgerCheck(t *testing.T) {
	var l ledger
	l.acknowledge("mug", 3, 100)
	l.acknowledge("mug", 5, 90)
	l.acknowledge("tea", 2, 7)
	l.doubt("tea", 4)
	l.doubt("jam", 1)
	regions := []string{"us-east", "eu-west"}
	good := show(ShownLine{"mug", 5}, ShownLine{"tea", 2})
	for _, c := range []struct {
		name         string
		other        Shown
		lost, excess int
	}{
		{"the largest", good, 0, 0},
		{"the sum", show(ShownLine{"mug", 8}, ShownLine{"tea", 2}), 0, 0},
		{"what may be there is there", show(ShownLine{"mug", 5}, ShownLine{"tea", 6}, ShownLine{"jam", 1}), 0, 0},
		{"below the largest", show(ShownLine{"mug", 4}, ShownLine{"tea", 2}), 1, 0},
		{"above the sum", show(ShownLine{"mug", 9}, ShownLine{"tea", 2}), 0, 1},
		{"a line missing", show(ShownLine{"mug", 5}), 1, 0},
		{"all missing", show(), 2, 0},
		{"at quantity 0", show(ShownLine{"mug", 0}, ShownLine{"tea", 2}), 1, 0},
		{"more than may be there", show(ShownLine{"mug", 5}, ShownLine{"tea", 7}, ShownLine{"jam", 2}), 0, 2},
		{"from nowhere", show(ShownLine{"mug", 5}, ShownLine{"tea", 2}, ShownLine{"pie", 1}), 0, 1},
		{"two lines of one SKU count together", show(ShownLine{"mug", 2}, ShownLine{"mug", 3}, ShownLine{"tea", 2}), 0, 0},
	} {
		for _, shown := range [][]Shown{{good, c.other}, {c.other, good}, {c.other, c.other}} {
			lost, excess := l.check(regions, shown)
			if len(lost) != c.lost || len(excess) != c.excess {
				t.Errorf("%s: lost %v, excess %v; want %d and %d", c.name, lost, excess, c.lost, c.excess)
			}
		}
	}
}

// TestCheckFindsWhatIsPlanted takes a correct cart of a random history, breaks
// one line in one region, and expects exactly that finding.
func TestCheckFindsWhatIsPlanted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l ledger
		largest, sum := map[string]uint64{}, map[string]uint64{}
		n := rapid.IntRange(1, 20).Draw(t, "edits")
		for range n {
			sku := fmt.Sprintf("SKU-%d", rapid.IntRange(0, 5).Draw(t, "sku"))
			quantity := rapid.Uint32Range(1, 50).Draw(t, "quantity")
			l.acknowledge(sku, quantity, 1)
			largest[sku] = max(largest[sku], uint64(quantity))
			sum[sku] += uint64(quantity)
		}
		var right Shown
		for sku := range sum {
			right.Lines = append(right.Lines, ShownLine{sku, rapid.Uint64Range(largest[sku], sum[sku]).Draw(t, "shown")})
		}
		regions := []string{"a", "b", "c"}
		if lost, excess := l.check(regions, []Shown{right, right, right}); len(lost)+len(excess) > 0 {
			t.Fatalf("a correct cart has lost %v, excess %v", lost, excess)
		}
		victim := rapid.IntRange(0, len(right.Lines)-1).Draw(t, "victim")
		where := rapid.IntRange(0, 2).Draw(t, "region")
		wrong := Shown{Lines: append([]ShownLine{}, right.Lines...)}
		sku := wrong.Lines[victim].SKU
		wantLost, wantExcess := 1, 0
		switch rapid.IntRange(0, 2).Draw(t, "how") {
		case 0:
			wrong.Lines[victim] = wrong.Lines[len(wrong.Lines)-1]
			wrong.Lines = wrong.Lines[:len(wrong.Lines)-1]
		case 1:
			wrong.Lines[victim].Quantity = largest[sku] - 1
		case 2:
			wrong.Lines[victim].Quantity = sum[sku] + 1
			wantLost, wantExcess = 0, 1
		}
		shown := []Shown{right, right, right}
		shown[where] = wrong
		lost, excess := l.check(regions, shown)
		if len(lost) != wantLost || len(excess) != wantExcess {
			t.Fatalf("lost %v, excess %v; want %d and %d", lost, excess, wantLost, wantExcess)
		}
		for _, f := range append(lost, excess...) {
			if f.SKU != sku || f.Region != regions[where] {
				t.Fatalf("found %v, planted in %s of %s", f, sku, regions[where])
			}
		}
	})
}

func TestEqual(t *testing.T) {
	a, b := Shown{Fingerprint: [32]byte{1}}, Shown{Fingerprint: [32]byte{2}}
	if !equal([]Shown{a}) || !equal([]Shown{a, a, a}) || equal([]Shown{a, a, b}) || equal([]Shown{b, a, a}) {
		t.Error("equal is not equality of all")
	}
}
