package pricing

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	promotionv1 "github.com/samecart/samecart/proto/promotion/v1"
)

// CodeBytesMax is how long a promotion code may be.
const CodeBytesMax = 32

// hundred is 100 % in basis points.
const hundred = 10_000

// bundleMax bounds the number of items of a bundle, and of one of them.
const bundleMax = 100

// CanonicalCode gives a code as somebody typed it the form that it has
// everywhere: upper case, without spaces around it. ok is false when it is no
// code: 1 to 32 letters, digits, - and _, of ASCII alone.
func CanonicalCode(typed string) (code string, ok bool) {
	code = strings.TrimSpace(typed)
	if len(code) < 1 || len(code) > CodeBytesMax {
		return "", false
	}
	for i := range len(code) {
		b := code[i]
		if (b < '0' || b > '9') && (b < 'A' || b > 'Z') && (b < 'a' || b > 'z') && b != '-' && b != '_' {
			return "", false
		}
	}
	return strings.ToUpper(code), true
}

// Check reports what is wrong with a rule, all of it at once; nil: it can be
// priced with.
func Check(r *promotionv1.Rule) error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	code, ok := CanonicalCode(r.GetCode())
	check(ok && code == r.GetCode(), "code %.40q must be 1 to %d of A-Z, 0-9, - and _", r.GetCode(), CodeBytesMax)
	money := func(what string, m *promotionv1.Money, least int64) {
		check(IsCurrency(m.GetCurrency()), "%s has the currency %.20q: give a code of ISO 4217, such as USD", what, m.GetCurrency())
		check(m.GetMinorUnits() >= least && m.GetMinorUnits() <= PriceMax, "%s of %s must be from %s to %s", what,
			FormatMoney(m.GetMinorUnits(), m.GetCurrency()), FormatMoney(least, m.GetCurrency()), FormatMoney(PriceMax, m.GetCurrency()))
	}
	switch e := r.GetEffect().(type) {
	case *promotionv1.Rule_Percent:
		bp := e.Percent.GetBasisPoints()
		check(bp >= 1 && bp <= hundred, "percent of %d basis points must be from 1 to %d", bp, hundred)
	case *promotionv1.Rule_Fixed:
		money("fixed amount", e.Fixed.GetAmount(), 1)
	case *promotionv1.Rule_BuyGet:
		b := e.BuyGet
		check(b.GetBuy() >= 1 && b.GetBuy() <= bundleMax && b.GetGet() >= 1 && b.GetGet() <= bundleMax,
			"buy %d, get %d: both must be from 1 to %d", b.GetBuy(), b.GetGet(), bundleMax)
		check(b.GetBasisPoints() <= hundred, "get at %d basis points off: must be at most %d", b.GetBasisPoints(), hundred)
	case *promotionv1.Rule_Bundle:
		errs = append(errs, checkBundle(e.Bundle))
		money("bundle price", e.Bundle.GetPrice(), 0)
	case *promotionv1.Rule_FreeShipping:
	default:
		check(false, "it does nothing: give one of percent, fixed, buy and get, bundle and free shipping")
	}
	if r.GetMinimum() != nil {
		money("minimum", r.GetMinimum(), 1)
	}
	check(r.GetStartsAtMs() >= 0 && r.GetEndsAtMs() >= 0, "its time window is before 1970")
	check(r.GetEndsAtMs() == 0 || r.GetStartsAtMs() < r.GetEndsAtMs(), "its time window ends before it begins")
	check(currenciesAgree(r), "its amounts have different currencies")
	return errors.Join(errs...)
}

func checkBundle(b *promotionv1.Bundle) error {
	if n := len(b.GetItems()); n < 1 || n > bundleMax {
		return fmt.Errorf("a bundle of %d items: give 1 to %d", n, bundleMax)
	}
	var seen []string
	for _, it := range b.GetItems() {
		switch {
		case it.GetSkuId() == "":
			return errors.New("an item of its bundle has no SKU")
		case it.GetQuantity() < 1 || it.GetQuantity() > bundleMax:
			return fmt.Errorf("its bundle has %d of %q: give 1 to %d", it.GetQuantity(), it.GetSkuId(), bundleMax)
		case slices.Contains(seen, it.GetSkuId()):
			return fmt.Errorf("its bundle names %q twice: give the sum as its quantity", it.GetSkuId())
		}
		seen = append(seen, it.GetSkuId())
	}
	return nil
}

// amounts are the rule's amounts of money.
func amounts(r *promotionv1.Rule) []*promotionv1.Money {
	return []*promotionv1.Money{r.GetMinimum(), r.GetFixed().GetAmount(), r.GetBundle().GetPrice()}
}

// currencyOf is the currency of a rule's amounts; empty when it has none.
func currencyOf(r *promotionv1.Rule) string {
	for _, m := range amounts(r) {
		if m != nil {
			return m.GetCurrency()
		}
	}
	return ""
}

func currenciesAgree(r *promotionv1.Rule) bool {
	for _, m := range amounts(r) {
		if m != nil && m.GetCurrency() != currencyOf(r) {
			return false
		}
	}
	return true
}
