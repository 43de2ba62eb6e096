package catalog

import (
	"bytes"
	"compress/gzip"
	_ "embed" // the data file below
	"encoding/csv"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"strconv"
	"strings"

	catalogv1 "github.com/samecart/samecart/proto/catalog/v1"
)

//go:embed online_retail.csv.gz
var onlineRetail []byte

const (
	retailSeller = "retail"
	skuBytesMax  = 64
	// retailGrams is what a retail product is taken to weigh: the data does not
	// say, and most are small gifts.
	retailGrams = 400
)

// RetailFile is the embedded file as it is, for those who compute from it
// on their own.
func RetailFile() []byte { return bytes.Clone(onlineRetail) }

func readEmbedded() (products []*catalogv1.Product, skipped int, err error) {
	z, err := gzip.NewReader(bytes.NewReader(onlineRetail))
	if err != nil {
		return nil, 0, fmt.Errorf("unpack: %w", err)
	}
	return readRetail(z)
}

// readRetail reads the file's rows; those that cannot be used are counted.
func readRetail(r io.Reader) (products []*catalogv1.Product, skipped int, err error) {
	rows := csv.NewReader(r)
	rows.FieldsPerRecord = -1 // a short row is skipped like any bad one
	header, err := rows.Read()
	if err != nil {
		return nil, 0, fmt.Errorf("read header: %w", err)
	}
	column := map[string]int{}
	for i, name := range header {
		column[name] = i
	}
	for _, name := range []string{"StockCode", "Description", "LastUnitPrice"} {
		if _, ok := column[name]; !ok {
			return nil, 0, fmt.Errorf("column %s is missing", name)
		}
	}
	for {
		row, err := rows.Read()
		var bad *csv.ParseError
		switch {
		case errors.Is(err, io.EOF):
			return products, skipped, nil
		case errors.As(err, &bad):
			skipped++
			continue
		case err != nil:
			return nil, 0, fmt.Errorf("read row %d: %w", len(products)+skipped+1, err)
		}
		value := func(name string) string {
			if i := column[name]; i < len(row) {
				return row[i]
			}
			return ""
		}
		sku, name := value("StockCode"), strings.TrimSpace(value("Description"))
		pence, ok := penceOf(value("LastUnitPrice"))
		if !ok || !isSKU(sku) || name == "" {
			skipped++
			continue
		}
		products = append(products, &catalogv1.Product{
			SkuId: sku, SellerId: retailSeller, Name: name, Seller: "Online Retail",
			Currency: "GBP", PriceMinorUnits: pence, Stock: stockOf(sku, retailSeller), WeightGrams: retailGrams,
		})
	}
}

// penceOf reads a positive decimal amount of pounds, rounded up to the next
// penny.
func penceOf(s string) (pence int64, ok bool) {
	whole, fraction, _ := strings.Cut(s, ".")
	if len(whole) > 12 || !isDigits(whole) || fraction != "" && !isDigits(fraction) {
		return 0, false
	}
	more := ""
	if len(fraction) > 2 {
		fraction, more = fraction[:2], fraction[2:]
	}
	pence, err := strconv.ParseInt(whole+fraction+strings.Repeat("0", 2-len(fraction)), 10, 64)
	if err != nil {
		return 0, false
	}
	if strings.Trim(more, "0") != "" {
		pence++
	}
	return pence, pence > 0
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// isSKU is the API's rule, without which a product could not be added.
func isSKU(s string) bool {
	ok := func(r rune) bool {
		return r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || strings.ContainsRune(" -_.:", r)
	}
	return len(s) >= 1 && len(s) <= skuBytesMax && strings.IndexFunc(s, func(r rune) bool { return !ok(r) }) < 0
}

// hash gives every product numbers of its own.
func hash(parts ...string) uint64 {
	h := fnv.New64a()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	// The last bytes reach the low bits alone: spread them.
	v := h.Sum64()
	v ^= v >> 33
	v *= 0xff51afd7ed558ccd
	return v ^ v>>33
}

// stockOf is 0 for about one product in twenty, else up to 499 units.
func stockOf(sku, seller string) int64 {
	v := hash("stock", sku, seller)
	if v%20 == 0 {
		return 0
	}
	return int64(v/20%499) + 1
}
