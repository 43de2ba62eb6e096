package replay

import (
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// What a cart must cost is computed here from the files alone, in whole
// pennies: of no code that serves carts is anything used.

// Prices are the prices of a catalogue in pennies, by SKU.
type Prices map[string]int64

// ReadPrices reads the catalogue's file: CSV under gzip, with the columns
// StockCode and LastUnitPrice. A price finer than a penny counts as the next
// one.
func ReadPrices(r io.Reader) (Prices, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("unpack prices: %w", err)
	}
	rows := csv.NewReader(z)
	header, err := rows.Read()
	if err != nil {
		return nil, fmt.Errorf("read header of prices: %w", err)
	}
	sku, price := slices.Index(header, "StockCode"), slices.Index(header, "LastUnitPrice")
	if sku < 0 || price < 0 {
		return nil, errors.New("prices lack the column StockCode or LastUnitPrice")
	}
	out := Prices{}
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read prices: %w", err)
		}
		pennies, err := penniesUp(row[price])
		if err != nil {
			return nil, fmt.Errorf("price %q of %q: %w", row[price], row[sku], err)
		}
		out[row[sku]] = pennies
	}
}

// penniesUp reads a decimal amount and rounds it up to a whole penny.
func penniesUp(s string) (int64, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	cents := (fraction + "00")[:2]
	n, err := strconv.ParseInt(whole+cents, 10, 62)
	if err != nil || n < 0 {
		return 0, errors.New("no amount that a product costs")
	}
	if len(fraction) > len(cents) && strings.Trim(fraction[len(cents):], "0") != "" {
		n++
	}
	return n, nil
}

// Total is what a cart costs.
type Total struct {
	Pennies int64
	Items   uint64
}

// ShownTotal is what a region says that a cart costs.
type ShownTotal struct {
	Total
	Currency  string
	Estimated int64 // after promotions, of which a replay has none
	Sellers   map[string]Total
}

// seller is the one seller of the orders.
const seller = "retail"

// total is what the acknowledged edits of a cart come to: of each line all that
// was added, at the lower of the price given last and the catalogue's. known
// is false when the outcome of an edit, and so the total, is not known.
func (l *ledger) total(prices Prices) (want Total, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.lines {
		if e.maybe > 0 {
			return Total{}, false
		}
		price := e.pennies
		if now, ok := prices[e.sku]; ok {
			price = min(price, now)
		}
		want.Pennies += price * int64(e.sum)
		want.Items += e.sum
	}
	return want, true
}

// wrong says what a region shows otherwise than it must be; empty: nothing.
func (t Total) wrong(shown ShownTotal) string {
	sellers := Total{}
	for _, s := range shown.Sellers {
		sellers.Pennies += s.Pennies
		sellers.Items += s.Items
	}
	switch {
	case shown.Total != t:
		return fmt.Sprintf("%d items for %d pennies", shown.Items, shown.Pennies)
	case t.Items > 0 && shown.Currency != "GBP":
		return "the currency " + shown.Currency
	case shown.Estimated != t.Pennies:
		return fmt.Sprintf("an estimated total of %d pennies", shown.Estimated)
	case sellers != t || t.Items > 0 && shown.Sellers[seller] != t:
		return fmt.Sprintf("sellers with %d items for %d pennies", sellers.Items, sellers.Pennies)
	}
	return ""
}
