package pricing

import (
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"strings"
	"testing"
)

func TestFormatMoney(t *testing.T) {
	for _, c := range []struct {
		minor    int64
		currency string
		want     string
	}{
		{2999, "USD", "29.99"}, {5, "USD", "0.05"}, {0, "USD", "0.00"}, {-5, "USD", "-0.05"}, {-12345, "EUR", "-123.45"},
		{100, "JPY", "100"}, {0, "JPY", "0"}, {1234, "BHD", "1.234"}, {1, "CLF", "0.0001"}, {10, "", "0.10"},
		{math.MaxInt64, "USD", "92233720368547758.07"}, {math.MinInt64, "USD", "-92233720368547758.08"},
	} {
		if got := FormatMoney(c.minor, c.currency); got != c.want {
			t.Errorf("%d %s is %s, want %s", c.minor, c.currency, got, c.want)
		}
	}
}

func TestParseMoney(t *testing.T) {
	for _, c := range []struct {
		text, currency string
		want           int64
		err            error
	}{
		{"29.99", "USD", 2999, nil}, {"29.990", "USD", 2999, nil}, {"29.9", "USD", 2990, nil}, {"30", "USD", 3000, nil},
		{"0.1", "USD", 10, nil}, {"0", "USD", 0, nil}, {"-0.00", "USD", 0, nil}, {"-1.5", "USD", -150, nil},
		{"2999e-2", "USD", 2999, nil}, {"2.999E1", "USD", 2999, nil}, {"1e2", "USD", 10000, nil}, {"0e99", "USD", 0, nil},
		{"100", "JPY", 100, nil}, {"100.0", "JPY", 100, nil}, {"1.234", "BHD", 1234, nil},
		{"92233720368547758.07", "USD", math.MaxInt64, nil},
		{"100.5", "JPY", 0, ErrTooFine}, {"0.001", "USD", 0, ErrTooFine}, {"1e-5", "USD", 0, ErrTooFine}, {"0.010", "JPY", 0, ErrTooFine},
		{"92233720368547758.08", "USD", 0, ErrTooMuch}, {"1e30", "USD", 0, ErrTooMuch}, {"99999999999999999999", "JPY", 0, ErrTooMuch},
		{"", "USD", 0, ErrNotDecimal}, {"-", "USD", 0, ErrNotDecimal}, {".5", "USD", 0, ErrNotDecimal}, {"5.", "USD", 0, ErrNotDecimal},
		{"+1", "USD", 0, ErrNotDecimal}, {"01", "USD", 0, ErrNotDecimal}, {"1e", "USD", 0, ErrNotDecimal}, {"1e999", "USD", 0, ErrNotDecimal},
		{"NaN", "USD", 0, ErrNotDecimal}, {"1,5", "USD", 0, ErrNotDecimal}, {"0x10", "USD", 0, ErrNotDecimal}, {"--1", "USD", 0, ErrNotDecimal},
		{"1-2", "USD", 0, ErrNotDecimal}, {strings.Repeat("1", 65), "USD", 0, ErrNotDecimal},
	} {
		if got, err := ParseMoney(c.text, c.currency); got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%q %s is %d, %v; want %d, %v", c.text, c.currency, got, err, c.want, c.err)
		}
	}
}

func TestTotalsDoNotWrapAround(t *testing.T) {
	if got := Times(math.MaxInt64/2, 3); got != math.MaxInt64 {
		t.Errorf("product %d", got)
	}
	if got := Add(math.MaxInt64, 1); got != math.MaxInt64 {
		t.Errorf("sum %d", got)
	}
	if got := Add(2, Times(3, 4)); got != 14 {
		t.Errorf("sum %d", got)
	}
	if v := Times(PriceMax, 999) / 1000 * 1000; v <= 0 || v > math.MaxInt64/500 {
		t.Errorf("a full cart of the dearest lines does not fit: %d", v)
	}
}

// Parsing agrees with rational arithmetic, and formatting is its inverse.
func FuzzParseMoney(f *testing.F) {
	for _, s := range []string{"29.99", "1e2", "-0.5", "0.001", "92233720368547758.07", "x"} {
		f.Add(s, "USD")
	}
	f.Add("100", "JPY")
	f.Fuzz(func(t *testing.T, s, currency string) {
		got, err := ParseMoney(s, currency)
		if err != nil {
			return
		}
		if !json.Valid([]byte(s)) {
			t.Fatalf("%q is no JSON number, and was read as %d", s, got)
		}
		exact, ok := new(big.Rat).SetString(s)
		if !ok {
			t.Fatalf("%q is no number, and was read as %d", s, got)
		}
		scale := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(Digits(currency))), nil))
		if exact.Mul(exact, scale).Cmp(new(big.Rat).SetInt64(got)) != 0 {
			t.Fatalf("%q %s was read as %d", s, currency, got)
		}
		if again, err := ParseMoney(FormatMoney(got, currency), currency); err != nil || again != got {
			t.Fatalf("%d %s formatted and read again is %d, %v", got, currency, again, err)
		}
	})
}
