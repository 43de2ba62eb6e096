package rpc

import (
	"errors"
	"fmt"

	"github.com/samecart/samecart/region/pricing"
)

// IsName reports whether s is a valid SKU or seller id, as every call has them.
func IsName(s string) bool { return isName(s) }

// ParsePrice reads a price written as a decimal number, such as 31.50, as minor
// units of a currency. The error says what is wrong with the text.
func ParsePrice(decimal, currency string) (minorUnits int64, err error) {
	if !isCurrency(currency) {
		return 0, fmt.Errorf("is in currency %.10q, which is no code of ISO 4217", currency)
	}
	v, err := parseMoney(decimal, currency)
	switch {
	case errors.Is(err, pricing.ErrTooFine):
		return 0, fmt.Errorf("%w: %s has %d", err, currency, pricing.Digits(currency))
	case err != nil:
		return 0, err
	case v < 0 || v > priceMax:
		return 0, fmt.Errorf("must be 0 to %s", formatMoney(priceMax, currency))
	}
	return v, nil
}
