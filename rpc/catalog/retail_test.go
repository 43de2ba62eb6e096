package catalog

import (
	"strings"
	"testing"
)

func TestBadRowsAreCountedNotFatal(t *testing.T) {
	file := "StockCode,Description,LastUnitPrice\n" +
		"A,Good,1.5\n" +
		"B,Free,0\n" + "B,Free,0.000\n" +
		"C,Negative,-11062.06\n" +
		"D,Words,cheap\n" +
		"E,,1.00\n" +
		"F\n" +
		"\"G,broken\"quote,1\n" +
		"slash/ed,Bad SKU,1.00\n" +
		strings.Repeat("x", 65) + ",Long SKU,1.00\n" +
		"H,Fine,0.001\n" +
		"I,Huge,99999999999999999999\n" +
		"J,Point,.5\n" + "K,Exponent,1e3\n"
	got, skipped, err := readRetail(strings.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].GetPriceMinorUnits() != 150 || got[1].GetPriceMinorUnits() != 1 || skipped != 12 {
		t.Fatalf("%d skipped, products %v", skipped, got)
	}
	for _, bad := range []string{"", "StockCode,Description\nA,B\n"} {
		if _, _, err := readRetail(strings.NewReader(bad)); err == nil {
			t.Errorf("file %q was taken", bad)
		}
	}
}
