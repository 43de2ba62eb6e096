package pricing

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// PriceMax bounds one price in minor units: a full cart of them stays within
// an int64.
const PriceMax = 1_000_000_000_000

// minorDigits lists the currencies whose minor unit is not a hundredth.
//
// Source: ISO 4217 list one, published by SIX as the maintenance agency.
var minorDigits = map[string]int{
	"BIF": 0, "CLP": 0, "DJF": 0, "GNF": 0, "ISK": 0, "JPY": 0, "KMF": 0, "KRW": 0,
	"PYG": 0, "RWF": 0, "UGX": 0, "UYI": 0, "VND": 0, "VUV": 0, "XAF": 0, "XOF": 0, "XPF": 0,
	"BHD": 3, "IQD": 3, "JOD": 3, "KWD": 3, "LYD": 3, "OMR": 3, "TND": 3,
	"CLF": 4, "UYW": 4,
}

// Digits is the number of decimals of a currency.
func Digits(currency string) int {
	if n, ok := minorDigits[currency]; ok {
		return n
	}
	return 2
}

// IsCurrency reports whether s has the form of an ISO 4217 code.
func IsCurrency(s string) bool {
	return len(s) == 3 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// FormatMoney writes minor units as a decimal with the currency's digits:
// 2999 USD is 29.99, 100 JPY is 100.
func FormatMoney(minor int64, currency string) string {
	n := Digits(currency)
	sign, abs := "", uint64(minor)
	if minor < 0 {
		sign, abs = "-", -abs
	}
	s := strconv.FormatUint(abs, 10)
	if n == 0 {
		return sign + s
	}
	if len(s) <= n {
		s = strings.Repeat("0", n+1-len(s)) + s
	}
	return sign + s[:len(s)-n] + "." + s[len(s)-n:]
}

// What may be wrong with an amount: each says it of the text it was read from.
var (
	ErrNotDecimal = errors.New("is no decimal number")
	ErrTooFine    = errors.New("has more decimals than its currency")
	ErrTooMuch    = errors.New("is too large")
)

// ParseMoney reads a JSON number exactly as minor units of a currency. Zeros
// after the currency's digits are fine, other digits there are an error.
func ParseMoney(text, currency string) (int64, error) {
	mantissa, exp, err := SplitDecimal(text)
	if err != nil {
		return 0, err
	}
	negative := strings.HasPrefix(mantissa, "-")
	mantissa = strings.TrimLeft(strings.TrimPrefix(mantissa, "-"), "0")
	if mantissa == "" {
		return 0, nil
	}
	exp += Digits(currency)
	switch {
	case exp < 0:
		if -exp > len(mantissa) || strings.Trim(mantissa[len(mantissa)+exp:], "0") != "" {
			return 0, ErrTooFine
		}
		mantissa = mantissa[:len(mantissa)+exp]
	case len(mantissa)+exp > 19:
		return 0, ErrTooMuch
	default:
		mantissa += strings.Repeat("0", exp)
	}
	if mantissa == "" {
		return 0, nil
	}
	v, err := strconv.ParseUint(mantissa, 10, 64)
	if err != nil || v > math.MaxInt64 {
		return 0, ErrTooMuch
	}
	if negative {
		return -int64(v), nil
	}
	return int64(v), nil
}

// SplitDecimal takes a JSON number apart: its digits without the point, and
// the power of ten that they are to be multiplied with.
func SplitDecimal(text string) (mantissa string, exp int, err error) {
	if len(text) > 64 {
		return "", 0, ErrNotDecimal
	}
	number, power, hasPower := strings.Cut(strings.ToLower(text), "e")
	if hasPower {
		if exp, err = strconv.Atoi(power); err != nil || exp < -100 || exp > 100 {
			return "", 0, ErrNotDecimal
		}
	}
	whole, fraction, hasPoint := strings.Cut(number, ".")
	unsigned := strings.TrimPrefix(whole, "-")
	if !isDigits(unsigned) || len(unsigned) > 1 && unsigned[0] == '0' || hasPoint && !isDigits(fraction) {
		return "", 0, ErrNotDecimal
	}
	return whole + fraction, exp - len(fraction), nil
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// Add adds without wrapping around: what does not fit is the largest
// amount there is.
func Add(a, b int64) int64 {
	if b > 0 && a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// Times multiplies a price that is not negative without wrapping around.
func Times(price int64, quantity uint32) int64 {
	if quantity > 0 && price > math.MaxInt64/int64(quantity) {
		return math.MaxInt64
	}
	return price * int64(quantity)
}
