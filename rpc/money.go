package rpc

import "github.com/samecart/samecart/region/pricing"

// Amounts are read, written and added up as package pricing does it: these are
// its names for the files of this package.

const priceMax = pricing.PriceMax

func isCurrency(s string) bool { return pricing.IsCurrency(s) }

func formatMoney(minor int64, currency string) string { return pricing.FormatMoney(minor, currency) }

func parseMoney(text, currency string) (int64, error) { return pricing.ParseMoney(text, currency) }

func splitDecimal(text string) (mantissa string, exp int, err error) {
	return pricing.SplitDecimal(text)
}
