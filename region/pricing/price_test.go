package pricing

import (
	"fmt"
	"math"
	"math/big"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	promotionv1 "github.com/samecart/samecart/proto/promotion/v1"
)

var (
	noon    = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	user    = Customer{ID: "user-1"}
	someone = Customer{ID: "abc", Guest: true}
)

func percentRule(code string, bp uint32) *promotionv1.Rule {
	return &promotionv1.Rule{Code: code, Effect: &promotionv1.Rule_Percent{Percent: &promotionv1.Percent{BasisPoints: bp}}}
}

func usd(n int64) *promotionv1.Money { return &promotionv1.Money{Currency: "USD", MinorUnits: n} }

func fixedRule(code string, m *promotionv1.Money) *promotionv1.Rule {
	return &promotionv1.Rule{Code: code, Effect: &promotionv1.Rule_Fixed{Fixed: &promotionv1.Fixed{Amount: m}}}
}

func buyGetRule(code string, buy, get, bp, most uint32) *promotionv1.Rule {
	return &promotionv1.Rule{Code: code, Effect: &promotionv1.Rule_BuyGet{BuyGet: &promotionv1.BuyGet{Buy: buy, Get: get, BasisPoints: bp, UnitsMax: most}}}
}

func bundleRule(code string, price *promotionv1.Money, most uint32, items ...*promotionv1.BundleItem) *promotionv1.Rule {
	return &promotionv1.Rule{Code: code, Effect: &promotionv1.Rule_Bundle{Bundle: &promotionv1.Bundle{Price: price, TimesMax: most, Items: items}}}
}

func shipping(code string) *promotionv1.Rule {
	return &promotionv1.Rule{Code: code, Effect: &promotionv1.Rule_FreeShipping{FreeShipping: &promotionv1.FreeShipping{}}}
}

// with changes a rule.
func with(r *promotionv1.Rule, change func(*promotionv1.Rule)) *promotionv1.Rule {
	change(r)
	return r
}

func known(rules ...*promotionv1.Rule) []Code {
	var out []Code
	for _, r := range rules {
		out = append(out, Code{Code: r.GetCode(), Rule: r, Known: true})
	}
	return out
}

// drawn values: few SKUs and sellers, so that scopes and bundles meet lines.
var (
	sellers    = rapid.SampledFrom([]string{"seller-1", "seller-2", "seller-3"})
	skus       = rapid.SampledFrom([]string{"A", "B", "C", "D"})
	currencies = rapid.SampledFrom([]string{"JPY", "USD", "KWD"})
)

func drawLines(t *rapid.T, currency string) []Line {
	lines := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) Line {
		return Line{
			Seller: sellers.Draw(t, "seller"), SKU: skus.Draw(t, "sku"), Options: rapid.SampledFrom([]string{"", "size=L"}).Draw(t, "options"),
			Quantity: rapid.Uint32Range(1, 12).Draw(t, "quantity"), Unit: rapid.Int64Range(0, 5000).Draw(t, "unit"),
			Currency: rapid.SampledFrom([]string{currency, currency, currency, "SEK"}).Draw(t, "currency"),
			Saved:    rapid.IntRange(0, 4).Draw(t, "saved") == 0,
		}
	}), 0, 12, func(l Line) string { return l.Seller + "/" + l.SKU + "/" + l.Options }).Draw(t, "lines")
	return lines
}

func drawRule(t *rapid.T, code, currency string) *promotionv1.Rule {
	money := func(name string, least int64) *promotionv1.Money {
		return &promotionv1.Money{Currency: currency, MinorUnits: rapid.Int64Range(least, 20_000).Draw(t, name)}
	}
	small := rapid.Uint32Range(1, 3)
	var r *promotionv1.Rule
	switch rapid.IntRange(0, 4).Draw(t, "kind") {
	case 0:
		r = percentRule(code, rapid.Uint32Range(1, hundred).Draw(t, "bp"))
	case 1:
		r = fixedRule(code, money("fixed", 1))
	case 2:
		r = buyGetRule(code, small.Draw(t, "buy"), small.Draw(t, "get"), rapid.Uint32Range(0, hundred).Draw(t, "bp"), rapid.Uint32Range(0, 5).Draw(t, "most"))
	case 3:
		var items []*promotionv1.BundleItem
		for _, sku := range rapid.SliceOfNDistinct(skus, 1, 3, rapid.ID[string]).Draw(t, "bundle") {
			items = append(items, &promotionv1.BundleItem{SkuId: sku, Quantity: small.Draw(t, "of each")})
		}
		r = bundleRule(code, money("price", 0), rapid.Uint32Range(0, 3).Draw(t, "times"), items...)
	default:
		r = shipping(code)
	}
	if rapid.Bool().Draw(t, "one seller") {
		r.SellerId = sellers.Draw(t, "of")
	}
	if rapid.Bool().Draw(t, "some SKUs") {
		r.SkuIds = rapid.SliceOfNDistinct(skus, 1, 3, rapid.ID[string]).Draw(t, "skus")
	}
	if rapid.IntRange(0, 3).Draw(t, "has minimum") == 0 {
		r.Minimum = money("minimum", 1)
	}
	r.Priority = rapid.Int32Range(-1, 2).Draw(t, "priority")
	r.Group = rapid.SampledFrom([]string{"", "", "g", "h"}).Draw(t, "group")
	r.Exclusive = rapid.IntRange(0, 5).Draw(t, "exclusive") == 0
	r.SignedIn = rapid.IntRange(0, 5).Draw(t, "signed in") == 0
	if rapid.IntRange(0, 5).Draw(t, "window") == 0 {
		r.StartsAtMs = noon.UnixMilli() + rapid.Int64Range(-2, 2).Draw(t, "from")
		r.EndsAtMs = r.StartsAtMs + rapid.Int64Range(1, 2).Draw(t, "for")
	}
	if err := Check(r); err != nil {
		t.Fatalf("a drawn rule is not right: %v", err)
	}
	return r
}

func drawInput(t *rapid.T) Input {
	currency := currencies.Draw(t, "currency")
	in := Input{Currency: currency, Lines: drawLines(t, currency), Customer: user, Now: noon, CodesMax: 10}
	if rapid.Bool().Draw(t, "guest") {
		in.Customer = someone
	}
	for n := range rapid.IntRange(0, 6).Draw(t, "codes") {
		c := Code{Code: fmt.Sprint("CODE", n), Known: true, Spent: rapid.IntRange(0, 9).Draw(t, "spent") == 0}
		switch rapid.IntRange(0, 9).Draw(t, "known") {
		case 0:
			c.Known = false
		case 1:
		default:
			c.Rule = drawRule(t, c.Code, currency)
		}
		in.Codes = append(in.Codes, c)
	}
	return in
}

// The laws of the package's documentation.
func TestPriceLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		out := Price(in)

		var subtotal, discounts, byCode, bySeller, sellersSubtotal int64
		for i, l := range in.Lines {
			amount := int64(0)
			if !l.Saved && l.Currency == in.Currency {
				amount = l.Unit * int64(l.Quantity)
			}
			if d := out.Discounts[i]; d < 0 || d > amount {
				t.Fatalf("%d off a line of %d", d, amount)
			}
			if out.FreeShipping[i] && (l.Saved || l.Currency != in.Currency) {
				t.Fatalf("shipping of line %d is free, and it does not count", i)
			}
			subtotal += amount
			discounts += out.Discounts[i]
		}
		for _, a := range out.Applied {
			if a.Discount < 0 || a.Discount == 0 && !a.FreeShipping {
				t.Fatalf("%s counts and takes %d off", a.Code, a.Discount)
			}
			byCode += a.Discount
		}
		for _, s := range out.Sellers {
			bySeller += s.Discount
			sellersSubtotal += s.Subtotal
		}
		switch {
		case out.Subtotal != subtotal || sellersSubtotal != subtotal:
			t.Fatalf("subtotal %d, the sellers' %d, of lines that come to %d", out.Subtotal, sellersSubtotal, subtotal)
		case byCode != discounts || bySeller != discounts:
			t.Fatalf("discounts %d of lines, %d of codes, %d of sellers", discounts, byCode, bySeller)
		case out.Total != subtotal-discounts || out.Total < 0:
			t.Fatalf("total %d of %d less %d", out.Total, subtotal, discounts)
		case len(out.Applied)+len(out.Rejected) != len(in.Codes):
			t.Fatalf("%d codes: %d count, %d do not", len(in.Codes), len(out.Applied), len(out.Rejected))
		}
		for _, r := range out.Rejected {
			if r.Reason == "" || r.Condition == "" {
				t.Fatalf("no reason given: %+v", r)
			}
		}
	})
}

// Neither the order of the lines nor that of the codes matters: it is another
// one in every region.
func TestOrderChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		want := Price(in)
		places := make([]int, len(in.Lines))
		for i := range places {
			places[i] = i
		}
		places = rapid.Permutation(places).Draw(t, "order of lines")
		other := in
		other.Lines = nil
		for _, i := range places {
			other.Lines = append(other.Lines, in.Lines[i])
		}
		other.Codes = rapid.Permutation(in.Codes).Draw(t, "order of codes")
		got := Price(other)
		for n, i := range places {
			if got.Discounts[n] != want.Discounts[i] || got.FreeShipping[n] != want.FreeShipping[i] {
				t.Fatalf("%+v: %d off, was %d", in.Lines[i], got.Discounts[n], want.Discounts[i])
			}
		}
		got.Discounts, got.FreeShipping, want.Discounts, want.FreeShipping = nil, nil, nil, nil
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("in another order\n%+v, was\n%+v", got, want)
		}
	})
}

// At most one code of a group counts, an exclusive one counts alone, and codes
// that do not count change nothing: without them all is the same.
func TestStacking(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		out := Price(in)
		rules := map[string]*promotionv1.Rule{}
		for _, c := range in.Codes {
			rules[c.Code] = c.Rule
		}
		groups := map[string]string{}
		for n, a := range out.Applied {
			r := rules[a.Code]
			if n > 0 {
				before := rules[out.Applied[n-1].Code]
				if before.GetPriority() > r.GetPriority() || before.GetPriority() == r.GetPriority() && before.GetCode() > r.GetCode() {
					t.Fatalf("%s goes before %s", before.GetCode(), a.Code)
				}
			}
			if r.GetExclusive() && len(out.Applied) > 1 {
				t.Fatalf("%s is exclusive and one of %d", a.Code, len(out.Applied))
			}
			if g := r.GetGroup(); g != "" {
				if groups[g] != "" {
					t.Fatalf("%s and %s of group %s", groups[g], a.Code, g)
				}
				groups[g] = a.Code
			}
		}
		alone := in
		alone.Codes = slices.DeleteFunc(slices.Clone(in.Codes), func(c Code) bool {
			return slices.ContainsFunc(out.Rejected, func(r Rejected) bool { return r.Code == c.Code })
		})
		again := Price(alone)
		if again.Total != out.Total || !reflect.DeepEqual(again.Applied, out.Applied) {
			t.Fatalf("without the codes that do not count: %+v, was %+v", again, out)
		}
	})
}

// More of a line, at a higher price too, never lowers the total, where one
// code without a minimum counts. What completes a bundle may.
func TestMoreNeverCostsLess(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		in.Codes = nil
		r := drawRule(t, "CODE", in.Currency)
		r.Minimum = nil
		if r.GetBuyGet() != nil {
			r.GetBuyGet().BasisPoints = 0 // a part of a unit is rounded line by line
		}
		if len(in.Lines) == 0 || r.GetBundle() != nil {
			return
		}
		in.Codes = known(r)
		before := Price(in)
		i := rapid.IntRange(0, len(in.Lines)-1).Draw(t, "line")
		in.Lines[i].Quantity += rapid.Uint32Range(0, 4).Draw(t, "more")
		if r.GetBuyGet() == nil { // a dearer unit may be one that is not free any more
			in.Lines[i].Unit += rapid.Int64Range(0, 100).Draw(t, "dearer")
		}
		if after := Price(in); after.Total < before.Total {
			t.Fatalf("%d, was %d with less", after.Total, before.Total)
		}
	})
}

// Parts are the exact proportion, rounded up or down, and never above their
// weights.
func TestSplit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.SampledFrom([]int64{10, 1000, math.MaxInt64 / 8}).Draw(t, "most")
		var weights []taken
		for n, w := range rapid.SliceOfN(rapid.Int64Range(0, most), 1, 8).Draw(t, "weights") {
			weights = append(weights, taken{n, w})
		}
		whole := rapid.Int64Range(0, sum(weights)).Draw(t, "whole")
		parts := split(whole, weights)
		if sum(parts) != whole {
			t.Fatalf("%v sum to %d, not %d", parts, sum(parts), whole)
		}
		for n, part := range parts {
			exact := new(big.Rat).Mul(big.NewRat(whole, 1), big.NewRat(weights[n].amount, sum(weights)))
			off := new(big.Rat).Sub(exact, big.NewRat(part.amount, 1))
			if part.amount > weights[n].amount || off.Abs(off).Cmp(big.NewRat(1, 1)) >= 0 {
				t.Fatalf("%d of %d is %v, which differs by %v", part.amount, weights[n].amount, exact, off)
			}
		}
	})
}

func TestPercentRoundsHalfUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		amount := rapid.Int64Range(0, math.MaxInt64).Draw(t, "amount")
		bp := rapid.Uint32Range(0, hundred).Draw(t, "bp")
		want := new(big.Int).Mul(big.NewInt(amount), big.NewInt(int64(bp)))
		want.Add(want, big.NewInt(hundred/2)).Div(want, big.NewInt(hundred))
		if got := percent(amount, bp); !want.IsInt64() || got != want.Int64() {
			t.Fatalf("%d basis points of %d are %d, want %v", bp, amount, got, want)
		}
	})
}

// The same number of minor units whatever their size: 10 % of 15.05 USD, of
// 1,505 JPY and of 1.505 KWD.
func TestCurrencyDigits(t *testing.T) {
	for _, c := range []struct{ currency, subtotal, total string }{
		{"USD", "15.05", "13.54"}, {"JPY", "1505", "1354"}, {"KWD", "1.505", "1.354"},
	} {
		out := Price(Input{
			Currency: c.currency, Now: noon, Codes: known(percentRule("TEN", 1000)),
			Lines: []Line{{Seller: "s", SKU: "A", Quantity: 1, Unit: 1505, Currency: c.currency}},
		})
		if got := FormatMoney(out.Subtotal, c.currency); got != c.subtotal {
			t.Errorf("subtotal %s %s, want %s", got, c.currency, c.subtotal)
		}
		if got := FormatMoney(out.Total, c.currency); got != c.total {
			t.Errorf("total %s %s, want %s", got, c.currency, c.total)
		}
	}
}

// Amounts that no cart of the API has do not wrap around, and parts still sum
// to the whole.
func TestLargestAmounts(t *testing.T) {
	in := Input{Currency: "USD", Now: noon, Codes: known(percentRule("A", 9999), fixedRule("B", usd(PriceMax)), buyGetRule("C", 1, 1, 0, 0))}
	for _, sku := range []string{"A", "B", "C"} {
		in.Lines = append(in.Lines, Line{Seller: "s", SKU: sku, Quantity: math.MaxUint32, Unit: PriceMax, Currency: "USD"})
	}
	out := Price(in)
	var off int64
	for _, d := range out.Discounts {
		if d < 0 {
			t.Errorf("discount %d", d)
		}
		off += d
	}
	if out.Subtotal != math.MaxInt64 || out.Total < 0 || out.Subtotal-off != out.Total {
		t.Errorf("%+v", out)
	}
}

func TestUnitPrice(t *testing.T) {
	for _, c := range [][3]int64{{5, 3, 3}, {3, 5, 3}, {4, 4, 4}, {0, 9, 0}, {-1, 9, 0}} {
		if got := UnitPrice(c[0], c[1]); got != c[2] {
			t.Errorf("of %d and %d counts %d", c[0], c[1], got)
		}
	}
}
