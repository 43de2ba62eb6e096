package replay

import (
	"bufio"
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

//go:embed orders.csv.gz
var embedded []byte

// Line is one row of the orders.
type Line struct {
	Row      int // line of the file, the header is 1
	Invoice  string
	SKU      string
	Quantity int64
	Pennies  int64 // unit price
	Country  string
	// Sale is false for what is no add: a return, a correction of the books,
	// a price that is not above zero.
	Sale bool
}

// DataError is a row that is not an order line.
type DataError struct {
	File string
	Row  int // line of the file
	Why  string
}

// Error names file and line.
func (e *DataError) Error() string {
	return fmt.Sprintf("%s, line %d: %s", e.File, e.Row, e.Why)
}

// Orders opens the orders in file, compressed or not; an empty name means the
// embedded ones. The caller closes the reader.
func Orders(file string) (*Reader, error) {
	if file == "" {
		return NewReader("embedded orders", io.NopCloser(bytes.NewReader(embedded)))
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("open orders: %w", err)
	}
	r, err := NewReader(file, f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return r, nil
}

// Reader yields order lines. It holds one row at a time, and one copy of each
// invoice, SKU and country name it has met.
type Reader struct {
	name   string
	source io.Closer
	csv    *csv.Reader
	column [len(columns)]int // position of each of columns
	names  map[string]string
	row    int // line of the row last read
}

// columns are those that are read; others may be there.
var columns = [...]string{"InvoiceNo", "StockCode", "Quantity", "UnitPrice", "Country"}

const (
	colInvoice = iota
	colSKU
	colQuantity
	colPrice
	colCountry
)

// NewReader reads orders from r, which it closes; name is for errors. It
// recognises gzip by its first bytes, and reads the header.
func NewReader(name string, r io.ReadCloser) (*Reader, error) {
	plain := bufio.NewReaderSize(r, 64<<10)
	if magic, err := plain.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(plain)
		if err != nil {
			return nil, &DataError{name, 1, "not a gzip file: " + err.Error()}
		}
		plain = bufio.NewReaderSize(z, 64<<10)
	}
	if bom, err := plain.Peek(3); err == nil && string(bom) == "\ufeff" {
		_, _ = plain.Discard(3) // they are in the buffer
	}
	out := &Reader{name: name, source: r, csv: csv.NewReader(plain), names: map[string]string{}}
	out.csv.ReuseRecord = true
	header, err := out.csv.Read()
	if errors.Is(err, io.EOF) {
		return nil, &DataError{name, 1, "the file is empty: the header " + strings.Join(columns[:], ",") + " is missing"}
	}
	if err != nil {
		return nil, out.malformed(err)
	}
	for i, want := range columns {
		at := -1
		for j, have := range header {
			if strings.EqualFold(strings.TrimSpace(have), want) {
				at = j
			}
		}
		if at < 0 {
			return nil, &DataError{name, 1, "the header has no column " + want}
		}
		out.column[i] = at
	}
	return out, nil
}

// Close closes what the reader reads from.
func (r *Reader) Close() error { return r.source.Close() }

// Next returns the next line, io.EOF after the last, and a *DataError for a
// row that cannot be read.
func (r *Reader) Next() (Line, error) {
	record, err := r.csv.Read()
	if errors.Is(err, io.EOF) {
		return Line{}, io.EOF
	}
	if err != nil {
		return Line{}, r.malformed(err)
	}
	row, _ := r.csv.FieldPos(0)
	r.row = row
	// What is not UTF-8 cannot be sent at all; made readable, the region
	// refuses it like any other code that is none.
	field := func(c int) string {
		return strings.ToValidUTF8(strings.TrimSpace(record[r.column[c]]), "\ufffd")
	}
	line := Line{
		Row:     row,
		Invoice: r.intern(field(colInvoice)),
		SKU:     r.intern(field(colSKU)),
		Country: r.intern(field(colCountry)),
	}
	if line.Invoice == "" {
		return Line{}, &DataError{r.name, row, "InvoiceNo is empty"}
	}
	if line.Quantity, err = strconv.ParseInt(field(colQuantity), 10, 64); err != nil {
		return Line{}, &DataError{r.name, row, fmt.Sprintf("Quantity %q is not a whole number", field(colQuantity))}
	}
	if line.Pennies, err = pennies(field(colPrice)); err != nil {
		return Line{}, &DataError{r.name, row, fmt.Sprintf("UnitPrice %q %v", field(colPrice), err)}
	}
	line.Sale = line.Quantity > 0 && line.Pennies > 0 && line.SKU != "" && !strings.HasPrefix(line.Invoice, "C")
	return line, nil
}

// intern returns one copy of s that does not hold its whole row in memory.
func (r *Reader) intern(s string) string {
	if have, ok := r.names[s]; ok {
		return have
	}
	s = strings.Clone(s)
	r.names[s] = s
	return s
}

func (r *Reader) malformed(err error) error {
	var parse *csv.ParseError
	if errors.As(err, &parse) {
		return &DataError{r.name, parse.Line, parse.Err.Error()}
	}
	return &DataError{r.name, r.row + 1, "cannot be read: " + err.Error()}
}

// pennies reads a decimal amount exactly, rounds it half away from zero to two
// digits, and makes a positive amount at least one.
func pennies(s string) (int64, error) {
	digits, negative := strings.CutPrefix(s, "-")
	whole, fraction, _ := strings.Cut(digits, ".")
	if whole+fraction == "" || strings.Trim(whole+fraction, "0123456789") != "" {
		return 0, errors.New("is not a decimal number")
	}
	padded := fraction + "000"
	n, err := strconv.ParseInt(whole+padded[:2], 10, 62)
	if err != nil {
		return 0, errors.New("is too large")
	}
	if padded[2] >= '5' {
		n++
	}
	if n == 0 && strings.Trim(whole+fraction, "0") != "" {
		n = 1
	}
	if negative {
		n = -n
	}
	return n, nil
}

// Count reads all of file, as far as limit sales when that is above 0, and
// returns the number of sales and of other rows among them.
func Count(file string, limit int) (sales, others int, err error) {
	r, err := Orders(file)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for limit <= 0 || sales < limit {
		line, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, 0, err
		}
		if line.Sale {
			sales++
		} else {
			others++
		}
	}
	return sales, others, nil
}
