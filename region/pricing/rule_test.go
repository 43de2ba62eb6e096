package pricing

import (
	"strings"
	"testing"

	promotionv1 "github.com/samecart/samecart/proto/promotion/v1"
)

func TestCanonicalCode(t *testing.T) {
	for typed, want := range map[string]string{
		"SAVE10": "SAVE10", "save10": "SAVE10", " Save-10_x\t": "SAVE-10_X", strings.Repeat("a", 32): strings.Repeat("A", 32),
		"": "", " ": "", "A B": "", "ÄB": "", "ı": "", "a/b": "", "a\x00": "", strings.Repeat("a", 33): "", "\xff": "",
	} {
		if got, ok := CanonicalCode(typed); got != want || ok != (want != "") {
			t.Errorf("%q is %q, %v; want %q", typed, got, ok, want)
		}
	}
}

func FuzzCanonicalCode(f *testing.F) {
	f.Add("save10")
	f.Fuzz(func(t *testing.T, typed string) {
		code, ok := CanonicalCode(typed)
		if !ok {
			return
		}
		if again, ok := CanonicalCode(code); !ok || again != code || len(code) > CodeBytesMax {
			t.Fatalf("%q of %q is %q, %v", code, typed, again, ok)
		}
	})
}

func TestCheck(t *testing.T) {
	gbp := &promotionv1.Money{Currency: "GBP", MinorUnits: 5}
	for want, r := range map[string]*promotionv1.Rule{
		"must be 1 to 32 of A-Z":    percentRule("save10", 1),
		"percent of 0 basis points": percentRule("P", 0),
		"percent of 10001":          percentRule("P", 10001),
		"fixed amount of 0.00":      fixedRule("P", usd(0)),
		"fixed amount of -0.01":     fixedRule("P", usd(-1)),
		"has the currency":          fixedRule("P", nil),
		"1000000000001":             fixedRule("P", &promotionv1.Money{Currency: "JPY", MinorUnits: PriceMax + 1}),
		"buy 0, get 1":              buyGetRule("P", 0, 1, 0, 0),
		"buy 1, get 101":            buyGetRule("P", 1, 101, 0, 0),
		"get at 10001 basis points": buyGetRule("P", 1, 1, 10001, 0),
		"a bundle of 0 items":       bundleRule("P", usd(1), 0),
		"item of its bundle has no": bundleRule("P", usd(1), 0, item("", 1)),
		"its bundle has 0 of \"A\"": bundleRule("P", usd(1), 0, item("A", 0)),
		"names \"A\" twice":         bundleRule("P", usd(1), 0, item("A", 1), item("A", 2)),
		"bundle price of -0.01":     bundleRule("P", usd(-1), 0, item("A", 1)),
		"it does nothing":           {Code: "P"},
		"minimum of 0.00":           with(percentRule("P", 1), func(r *promotionv1.Rule) { r.Minimum = usd(0) }),
		"ends before it begins":     with(percentRule("P", 1), func(r *promotionv1.Rule) { r.StartsAtMs, r.EndsAtMs = 5, 5 }),
		"before 1970":               with(percentRule("P", 1), func(r *promotionv1.Rule) { r.StartsAtMs = -1 }),
		"have different currencies": with(fixedRule("P", usd(1)), func(r *promotionv1.Rule) { r.Minimum = gbp }),
		"":                          with(fixedRule("P", gbp), func(r *promotionv1.Rule) { r.Minimum, r.EndsAtMs = gbp, 5 }),
	} {
		err := Check(r)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
