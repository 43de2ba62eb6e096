package pricing

import (
	"fmt"
	"strings"
	"testing"
	"time"

	promotionv1 "github.com/samecart/samecart/proto/promotion/v1"
)

func item(sku string, n uint32) *promotionv1.BundleItem {
	return &promotionv1.BundleItem{SkuId: sku, Quantity: n}
}

// line is of seller-1 in USD.
func line(sku string, quantity uint32, unit int64) Line {
	return Line{Seller: "seller-1", SKU: sku, Quantity: quantity, Unit: unit, Currency: "USD"}
}

func of(seller string, l Line) Line {
	l.Seller = seller
	return l
}

func saved(l Line) Line {
	l.Saved = true
	return l
}

func in(currency string, l Line) Line {
	l.Currency = currency
	return l
}

// show is a result in one line: the total, what each code takes off, what
// each line has taken off, and why the other codes do not count.
func show(r Result) string {
	var b strings.Builder
	fmt.Fprint(&b, r.Total)
	for _, a := range r.Applied {
		fmt.Fprintf(&b, " %s:%d", a.Code, a.Discount)
		if a.FreeShipping {
			b.WriteString("+shipping")
		}
	}
	fmt.Fprintf(&b, " %v", r.Discounts)
	for _, j := range r.Rejected {
		fmt.Fprintf(&b, " %s:%s", j.Code, j.Condition)
	}
	return b.String()
}

func TestEffects(t *testing.T) {
	onSeller := func(seller string) func(*promotionv1.Rule) {
		return func(r *promotionv1.Rule) { r.SellerId = seller }
	}
	onSKUs := func(skus ...string) func(*promotionv1.Rule) {
		return func(r *promotionv1.Rule) { r.SkuIds = skus }
	}
	least := func(n int64) func(*promotionv1.Rule) {
		return func(r *promotionv1.Rule) { r.Minimum = usd(n) }
	}
	for _, c := range []struct {
		name  string
		lines []Line
		codes []Code
		want  string
	}{
		{"percent of all", []Line{line("A", 2, 1000), line("B", 1, 333)}, known(percentRule("P", 1000)), "2100 P:233 [200 33]"},
		{"percent rounds once", []Line{line("A", 1, 5), line("B", 1, 5), line("C", 1, 5)}, known(percentRule("P", 1000)), "13 P:2 [1 1 0]"},
		{"percent of one seller", []Line{line("A", 1, 1000), of("seller-2", line("A", 1, 1000))}, known(with(percentRule("P", 5000), onSeller("seller-2"))), "1500 P:500 [0 500]"},
		{"percent of some SKUs", []Line{line("A", 1, 100), line("B", 1, 200), line("C", 1, 400)}, known(with(percentRule("P", 5000), onSKUs("A", "C"))), "450 P:250 [50 0 200]"},
		{"all of it", []Line{line("A", 1, 100)}, known(percentRule("P", hundred)), "0 P:100 [100]"},
		{"fixed, split", []Line{line("A", 1, 1000), line("B", 1, 2000)}, known(fixedRule("F", usd(100))), "2900 F:100 [33 67]"},
		{"fixed above what is there", []Line{line("A", 1, 70)}, known(fixedRule("F", usd(100))), "0 F:70 [70]"},
		{"one after the other", []Line{line("A", 1, 1000)}, known(percentRule("A", 5000), fixedRule("B", usd(100))), "400 A:500 B:100 [600]"},
		{"nothing left", []Line{line("A", 1, 1000)}, known(percentRule("A", hundred), fixedRule("B", usd(100))), "0 A:1000 [1000] B:NOTHING_IN_SCOPE"},
		{"three for two", []Line{line("A", 3, 1000)}, known(buyGetRule("B", 2, 1, 0, 0)), "2000 B:1000 [1000]"},
		{"the cheapest is free", []Line{line("A", 1, 900), line("B", 1, 300), line("C", 1, 500)}, known(buyGetRule("B", 2, 1, 0, 0)), "1400 B:300 [0 300 0]"},
		{"two groups", []Line{line("A", 4, 900), line("B", 3, 300)}, known(buyGetRule("B", 2, 1, 0, 0)), "3900 B:600 [0 600]"},
		{"part of a group", []Line{line("A", 2, 900)}, known(buyGetRule("B", 1, 3, 0, 0)), "900 B:900 [900]"},
		{"half price", []Line{line("A", 2, 999)}, known(buyGetRule("B", 1, 1, 5000, 0)), "1498 B:500 [500]"},
		{"at most one", []Line{line("A", 9, 100)}, known(buyGetRule("B", 1, 1, 0, 1)), "800 B:100 [100]"},
		{"too few", []Line{line("A", 2, 100)}, known(buyGetRule("B", 2, 1, 0, 0)), "200 [0] B:NOTHING_IN_SCOPE"},
		{"bundle", []Line{line("A", 1, 1000), line("B", 2, 500)}, known(bundleRule("U", usd(1200), 0, item("A", 1), item("B", 1))), "1700 U:300 [200 100]"},
		{"bundle twice", []Line{line("A", 2, 1000), line("B", 3, 500)}, known(bundleRule("U", usd(1200), 0, item("A", 1), item("B", 1))), "2900 U:600 [400 200]"},
		{"bundle at most once", []Line{line("A", 2, 1000), line("B", 2, 500)}, known(bundleRule("U", usd(1200), 1, item("A", 1), item("B", 1))), "2700 U:300 [200 100]"},
		{"the dearer line is in the bundle", []Line{line("A", 1, 1000), of("seller-2", line("A", 1, 1100))}, known(bundleRule("U", usd(900), 1, item("A", 1))), "1900 U:200 [0 200]"},
		{"half a bundle", []Line{line("A", 1, 1000)}, known(bundleRule("U", usd(1), 0, item("A", 1), item("B", 1))), "1000 [0] U:NOTHING_IN_SCOPE"},
		{"bundle that is dearer", []Line{line("A", 1, 1000)}, known(bundleRule("U", usd(1001), 0, item("A", 1))), "1000 [0] U:NOTHING_IN_SCOPE"},
		{"free shipping", []Line{line("A", 1, 1000)}, known(shipping("S")), "1000 S:0+shipping [0]"},
		{"minimum reached to the cent", []Line{line("A", 2, 1000)}, known(with(percentRule("P", 1000), least(2000))), "1800 P:200 [200]"},
		{"minimum missed by a cent", []Line{line("A", 1, 1999)}, known(with(percentRule("P", 1000), least(2000))), "1999 [0] P:MINIMUM"},
		{"minimum before discounts", []Line{line("A", 1, 2000)}, known(percentRule("A", 5000), with(percentRule("P", 1000), least(2000))), "900 A:1000 P:100 [1100]"},
		{"minimum of the scope alone", []Line{line("A", 1, 1000), of("seller-2", line("A", 1, 9000))}, known(with(with(percentRule("P", 1000), least(2000)), onSeller("seller-1"))), "10000 [0 0] P:MINIMUM"},
		{"saved lines", []Line{saved(line("A", 1, 1000)), line("B", 1, 100)}, known(fixedRule("F", usd(500)), buyGetRule("B", 1, 1, 0, 0)), "0 F:100 [0 100] B:NOTHING_IN_SCOPE"},
		{"another currency", []Line{in("GBP", line("A", 1, 1000)), line("B", 1, 100)}, known(percentRule("P", 5000)), "50 P:50 [0 50]"},
		{"a code in another currency", []Line{line("A", 1, 1000)}, known(fixedRule("F", &promotionv1.Money{Currency: "GBP", MinorUnits: 1})), "1000 [0] F:CURRENCY"},
		{"an empty cart", nil, known(fixedRule("F", usd(1)), percentRule("P", 1)), "0 [] F:NOTHING_IN_SCOPE P:NOTHING_IN_SCOPE"},
		{"too little to round up", []Line{line("A", 1, 4)}, known(percentRule("P", 1000)), "4 [0] P:NOTHING_IN_SCOPE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, code := range c.codes {
				if err := Check(code.Rule); err != nil {
					t.Fatal(err)
				}
			}
			got := show(Price(Input{Currency: "USD", Lines: c.lines, Codes: c.codes, Customer: user, Now: noon}))
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestConditions(t *testing.T) {
	at := noon.UnixMilli()
	rule := func(change func(*promotionv1.Rule)) *promotionv1.Rule { return with(percentRule("P", 1000), change) }
	ten := rule(func(*promotionv1.Rule) {})
	for _, c := range []struct {
		name     string
		code     Code
		customer Customer
		now      time.Time
		want     Condition
		reason   string
	}{
		{"counts", Code{"P", ten, true, false}, user, noon, "", ""},
		{"unknown", Code{"P", nil, true, false}, user, noon, Unknown, "there is no such code"},
		{"not known now", Code{"P", nil, false, false}, user, noon, NotKnownNow, "not known at the moment"},
		{"spent", Code{"P", ten, true, true}, user, noon, Spent, "spent"},
		{"just begun", Code{"P", rule(func(r *promotionv1.Rule) { r.StartsAtMs = at }), true, false}, user, noon, "", ""},
		{"not yet begun", Code{"P", rule(func(r *promotionv1.Rule) { r.StartsAtMs = at + 1 }), true, false}, user, noon, NotStarted, "it begins on 2026-03-04 12:00:00 UTC"},
		{"about to end", Code{"P", rule(func(r *promotionv1.Rule) { r.EndsAtMs = at + 1 }), true, false}, user, noon, "", ""},
		{"ended", Code{"P", rule(func(r *promotionv1.Rule) { r.EndsAtMs = at }), true, false}, user, noon, Expired, "it ended on 2026-03-04 12:00:00 UTC"},
		{"for this one", Code{"P", rule(func(r *promotionv1.Rule) { r.Customers = []string{"user-0", "user-1"} }), true, false}, user, noon, "", ""},
		{"for another one", Code{"P", rule(func(r *promotionv1.Rule) { r.Customers = []string{"user-0"} }), true, false}, user, noon, WrongCustomer, "other customers"},
		{"for a guest of that name", Code{"P", rule(func(r *promotionv1.Rule) { r.Customers = []string{"abc"} }), true, false}, someone, noon, WrongCustomer, "sign in"},
		{"signed in", Code{"P", rule(func(r *promotionv1.Rule) { r.SignedIn = true }), true, false}, user, noon, "", ""},
		{"not signed in", Code{"P", rule(func(r *promotionv1.Rule) { r.SignedIn = true }), true, false}, someone, noon, WrongCustomer, "sign in"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := Price(Input{Currency: "USD", Lines: []Line{line("A", 1, 1000)}, Codes: []Code{c.code}, Customer: c.customer, Now: c.now})
			if c.want == "" {
				if len(out.Rejected) > 0 || out.Total != 900 {
					t.Errorf("%s", show(out))
				}
				return
			}
			if len(out.Rejected) != 1 || out.Rejected[0].Condition != c.want || !strings.Contains(out.Rejected[0].Reason, c.reason) || out.Total != 1000 {
				t.Errorf("%+v, want %s with %q", out.Rejected, c.want, c.reason)
			}
		})
	}
}

func TestExclusion(t *testing.T) {
	p := func(code string, priority int32, group string, exclusive bool) *promotionv1.Rule {
		return with(percentRule(code, 1000), func(r *promotionv1.Rule) { r.Priority, r.Group, r.Exclusive = priority, group, exclusive })
	}
	for _, c := range []struct {
		name  string
		codes []Code
		want  string
	}{
		{"stack", known(p("A", 0, "", false), p("B", 0, "", false)), "810 A:100 B:90 [190]"},
		{"priority before code", known(p("A", 2, "", false), p("B", 1, "", false)), "810 B:100 A:90 [190]"},
		{"one of a group", known(p("A", 0, "g", false), p("B", 0, "g", false), p("C", 0, "h", false)), "810 A:100 C:90 [190] B:EXCLUDED"},
		{"exclusive first", known(p("A", 0, "", true), p("B", 0, "", false)), "900 A:100 [100] B:EXCLUDED"},
		{"exclusive later", known(p("A", 1, "", true), p("B", 0, "", false)), "900 B:100 [100] A:EXCLUDED"},
		{"one that does not count excludes none", known(
			with(p("A", 0, "g", true), func(r *promotionv1.Rule) { r.Minimum = usd(1001) }), p("B", 0, "g", false)), "900 B:100 [100] A:MINIMUM"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := show(Price(Input{Currency: "USD", Lines: []Line{line("A", 1, 1000)}, Codes: c.codes, Now: noon})); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestNever(t *testing.T) {
	ended := with(percentRule("P", 1), func(r *promotionv1.Rule) { r.EndsAtMs = noon.UnixMilli() })
	begins := with(percentRule("P", 1), func(r *promotionv1.Rule) { r.StartsAtMs = noon.UnixMilli() + 1 })
	others := with(percentRule("P", 1), func(r *promotionv1.Rule) { r.Customers = []string{"user-0"} })
	for _, c := range []struct {
		rule     *promotionv1.Rule
		customer Customer
		want     Condition
	}{
		{ended, user, Expired}, {ended, someone, Expired}, {begins, user, ""}, {others, user, WrongCustomer},
		{others, someone, ""}, {others, Customer{ID: "user-0"}, ""}, {percentRule("P", 1), someone, ""},
	} {
		if why, never := Never(c.rule, c.customer, noon); never != (c.want != "") || why.Condition != c.want {
			t.Errorf("%v of %v: %v, %v; want %q", c.rule, c.customer, why, never, c.want)
		}
	}
}

func TestExcessCodes(t *testing.T) {
	out := Price(Input{Currency: "USD", Lines: []Line{line("A", 1, 1000)}, Codes: known(percentRule("P", 1000)), Excess: []string{"X"}, CodesMax: 1, Now: noon})
	if got := show(out); got != "900 P:100 [100] X:TOO_MANY" {
		t.Error(got)
	}
}
