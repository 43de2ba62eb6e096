package replay

import (
	"bytes"
	"compress/gzip"
	"maps"
	"strings"
	"testing"
)

func zipped(t *testing.T, text string) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestReadPrices(t *testing.T) {
	got, err := ReadPrices(zipped(t, "StockCode,Description,LastUnitPrice\nA,\"x, y\",0.85\nB,b,3\nC,c,1.5\nPADS,p,0.001\nD,d,2.990\nE,e,2.9901\n"))
	want := Prices{"A": 85, "B": 300, "C": 150, "PADS": 1, "D": 299, "E": 300}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	for _, text := range []string{"", "StockCode,Price\nA,1\n", "StockCode,LastUnitPrice\nA,-1\n", "StockCode,LastUnitPrice\nA,x\n", "StockCode,LastUnitPrice\nA\n"} {
		if got, err := ReadPrices(zipped(t, text)); err == nil {
			t.Errorf("%q was read as %v", text, got)
		}
	}
	if _, err := ReadPrices(strings.NewReader("plain")); err == nil {
		t.Error("what is not packed was read")
	}
}

func TestLedgerTotal(t *testing.T) {
	var l ledger
	l.acknowledge("mug", 3, 120)
	l.acknowledge("mug", 2, 100) // the price given last counts for all of the line
	l.acknowledge("tea", 4, 50)
	l.acknowledge("old", 1, 7) // not in the catalogue any more
	got, known := l.total(Prices{"mug": 110, "tea": 45})
	if want := (Total{5*100 + 4*45 + 7, 10}); !known || got != want {
		t.Errorf("%+v, %v; want %+v", got, known, want)
	}
	l.doubt("tea", 1)
	if got, known := l.total(nil); known {
		t.Errorf("%+v of an edit that may not be there", got)
	}
}

func TestTotalsThatAreWrong(t *testing.T) {
	want := Total{500, 3}
	right := func() ShownTotal {
		return ShownTotal{Total: want, Currency: "GBP", Estimated: 500, Sellers: map[string]Total{"retail": want}}
	}
	if wrong := want.wrong(right()); wrong != "" {
		t.Errorf("wrong: %s", wrong)
	}
	if wrong := (Total{}).wrong(ShownTotal{}); wrong != "" {
		t.Errorf("an empty cart: %s", wrong)
	}
	for name, change := range map[string]func(*ShownTotal){
		"a penny more":     func(s *ShownTotal) { s.Pennies++ },
		"an item less":     func(s *ShownTotal) { s.Items-- },
		"currency":         func(s *ShownTotal) { s.Currency = "USD" },
		"estimated":        func(s *ShownTotal) { s.Estimated-- },
		"no seller":        func(s *ShownTotal) { s.Sellers = nil },
		"seller's penny":   func(s *ShownTotal) { s.Sellers["retail"] = Total{499, 3} },
		"another seller":   func(s *ShownTotal) { s.Sellers = map[string]Total{"other": want} },
		"a seller besides": func(s *ShownTotal) { s.Sellers["other"] = Total{0, 1} },
	} {
		shown := right()
		if change(&shown); want.wrong(shown) == "" {
			t.Errorf("%s was not seen", name)
		}
	}
}

// Each line's edits come from one device, and a total that one region shows
// otherwise is found.
func TestRunComparesTotals(t *testing.T) {
	for _, c := range []struct {
		name  string
		more  int64 // pennies that eu-west shows too much
		wrong int
	}{{"right", 0, 0}, {"wrong in one region", 1, 20}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(three...)
			w.bill = func(region string, lines map[string]uint64) (out ShownTotal) {
				for sku, n := range lines {
					price := int64(125) // that of the orders
					if sku == "SKU-1" {
						price = 100 // the catalogue's, which is lower
					}
					out.Pennies += price * int64(n)
					out.Items += n
				}
				if region == "eu-west" {
					out.Pennies += c.more
				}
				out.Currency, out.Estimated, out.Sellers = "GBP", out.Pennies, map[string]Total{"retail": out.Total}
				return out
			}
			cfg := config(three)
			cfg.File, cfg.Prices = ordersFile(t, 20, 10), Prices{"SKU-1": 100, "SKU-2": 300}
			cfg.Cuts = []Cut{cut(t, "us-east,eu-west:10%-90%")}
			report, err := Run(t.Context(), cfg, w, w)
			if err != nil {
				t.Fatal(err)
			}
			if report.TotalsChecked != 20 || report.TotalsWrong != c.wrong || report.Good() != (c.wrong == 0) || report.TotalsPennies == 0 {
				t.Errorf("%+v", report)
			}
			from := map[string]string{}
			regions := map[string]bool{}
			for i, add := range w.sent {
				line := add.User + "/" + add.SKU
				if first, ok := from[line]; ok && first != w.where[i] {
					t.Fatalf("%s from %s and %s", line, first, w.where[i])
				}
				from[line] = w.where[i]
				regions[w.where[i]] = true
			}
			if len(regions) < 2 {
				t.Errorf("all edits from %v", regions)
			}
		})
	}
}
