package rpc

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

const (
	nameBytesMax    = 64 // SKU, seller id
	optionsMax      = 10
	optionNameMax   = 64  // bytes
	optionValueMax  = 256 // bytes
	optionsBytesMax = 1 << 10
)

// edit is one edit as the shopper asked for it, before the catalogue was
// asked for seller and price.
type edit struct {
	kind     regionv1.Change_Kind
	sku      string
	seller   string // empty: not given
	options  map[string]string
	quantity uint64 // as sent; checked by validate
	// attributes replace those of the line, when hasAttributes says so.
	attributes    map[string]string
	hasAttributes bool
	price         *statedPrice
	code          string // canonical; empty: the edit is about a line, or about all
}

// statedPrice is a price that a service states. In REST it has no currency of
// its own: the product's is meant.
type statedPrice struct {
	decimal  string // a JSON number
	currency string // empty: the product's
	minor    bool   // it came in minor units, which mean nothing without a currency
}

// validate checks all that can be checked without the catalogue and the cart.
func (e *edit) validate(c call, quantityMax uint32) error {
	switch e.kind {
	case regionv1.Change_KIND_CLEAR, regionv1.Change_KIND_UNDO, regionv1.Change_KIND_ERASE:
		return nil
	case regionv1.Change_KIND_ADD_CODE, regionv1.Change_KIND_DROP_CODE: // codeEdit has looked at the code
		return nil
	default:
	}
	if e.sku == "" {
		return fault(MissingField, "sku_id is missing").with("field", "sku_id")
	}
	if !isName(e.sku) {
		return fault(InvalidSKU, "sku_id %.80q must be 1 to %d letters, digits, spaces and -_.:", e.sku, nameBytesMax)
	}
	if e.seller != "" && !isName(e.seller) {
		return fault(InvalidField, "seller_id %.80q must be 1 to %d letters, digits, spaces and -_.:", e.seller, nameBytesMax).with("field", "seller_id")
	}
	if err := validateOptions(e.options); err != nil {
		return err
	}
	if err := e.validateAttributes(); err != nil {
		return err
	}
	switch e.kind {
	case regionv1.Change_KIND_ADD, regionv1.Change_KIND_SET:
		least := uint64(0)
		if e.kind == regionv1.Change_KIND_ADD {
			least = 1
		}
		switch {
		case e.quantity < least || e.quantity > math.MaxUint32:
			return fault(InvalidQuantity, "quantity %d must be a whole number from %d to %d", e.quantity, least, quantityMax)
		case e.quantity > uint64(quantityMax):
			return quantityTooLarge(e.quantity, quantityMax)
		}
	default:
	}
	if e.price == nil {
		return nil
	}
	if !c.principal.Has(ScopePrice) {
		return fault(Forbidden, "price may be given with the scope %q only: leave it out, and the catalogue's price counts", ScopePrice)
	}
	if e.price.currency != "" && !isCurrency(e.price.currency) || e.price.currency == "" && e.price.minor {
		return fault(InvalidField, "currency %.20q must be a code of ISO 4217, such as USD", e.price.currency).with("field", "price")
	}
	// How many decimals it may have depends on its currency, which the
	// catalogue may have to tell.
	if _, _, err := splitDecimal(e.price.decimal); err != nil {
		return e.price.fault(err)
	}
	return nil
}

func quantityTooLarge(q any, limit uint32) *Error {
	return fault(QuantityTooLarge, "quantity %v is too large: a line holds at most %d", q, limit).with("max", fmt.Sprint(limit))
}

// minorUnits is the price in a currency's minor unit.
func (p *statedPrice) minorUnits(currency string) (int64, *Error) {
	v, err := parseMoney(p.decimal, currency)
	if err == nil && (v < 0 || v > priceMax) {
		err = fmt.Errorf("must be from 0 to %s", formatMoney(priceMax, currency))
	}
	if err != nil {
		return 0, p.fault(err)
	}
	return v, nil
}

func (p *statedPrice) fault(why error) *Error {
	return fault(InvalidField, "price %.40s %v: send a decimal number such as 29.99", p.decimal, why).with("field", "price")
}

// isName reports whether s is a valid SKU or seller id.
func isName(s string) bool {
	if len(s) < 1 || len(s) > nameBytesMax {
		return false
	}
	for i := range len(s) {
		b := s[i]
		if (b < '0' || b > '9') && (b < 'A' || b > 'Z') && (b < 'a' || b > 'z') && !strings.ContainsRune(" -_.:", rune(b)) {
			return false
		}
	}
	return true
}

func validateOptions(options map[string]string) error {
	return validatePairs("option", options, optionValueMax, isText)
}

// validatePairs checks names and values of what is called what, in the field
// of that name in the plural.
func validatePairs(what string, pairs map[string]string, valueMax int, isValue func(string) bool) error {
	invalid := func(format string, args ...any) error {
		return fault(InvalidField, format, args...).with("field", what+"s")
	}
	if len(pairs) > optionsMax {
		return invalid("%ss has %d entries; at most %d are allowed", what, len(pairs), optionsMax)
	}
	for name, value := range pairs {
		switch {
		case name == "" || len(name) > optionNameMax || !isText(name):
			return invalid("%s name %.80q must be 1 to %d bytes of text", what, name, optionNameMax)
		case len(value) > valueMax || !isValue(value):
			return invalid("%s %.80q has a value of %d bytes; it must be text of at most %d", what, name, len(value), valueMax)
		}
	}
	if n := len(crdt.CanonicalPairs(pairs)); n > optionsBytesMax {
		return invalid("%ss take %d bytes together, escaped as in a URL; at most %d are allowed", what, n, optionsBytesMax)
	}
	return nil
}

// isText reports whether s is UTF-8 without control characters.
func isText(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, unicode.IsControl) < 0
}

// lineKey is the key under which the region finds the line of a set or a
// remove; what was not given is resolved there, where the cart is.
func (e *edit) lineKey() *regionv1.LineKey {
	return &regionv1.LineKey{
		Seller: e.seller, Sku: e.sku, Options: crdt.CanonicalPairs(e.options),
		AnySeller: e.seller == "", AnyOptions: len(e.options) == 0,
	}
}

// opID is the id of a request in its cart; nil without an idempotency key.
// The cart id is part of it, so two shoppers may use the same key.
func (c *call) opID() []byte {
	if c.key == "" {
		return nil
	}
	h := sha256.New()
	h.Write([]byte(c.cartID))
	h.Write([]byte{0})
	h.Write([]byte(c.key))
	return h.Sum(nil)[:16]
}

// fingerprint is a digest of what was asked for, as it was asked for: not of
// the seller or the price that the catalogue gave, which may have changed
// when the request is sent again.
func fingerprint(edits []edit) uint64 {
	var b []byte
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	for _, e := range edits {
		b = binary.AppendUvarint(b, uint64(e.kind))
		if e.isCode() {
			text(e.code)
			continue
		}
		text(e.sku)
		text(e.seller)
		text(crdt.CanonicalPairs(e.options))
		b = binary.AppendUvarint(b, e.quantity)
		if e.price == nil {
			b = append(b, 0)
		} else {
			b = append(b, 1)
			text(e.price.currency)
			text(canonicalDecimal(e.price.decimal))
		}
		if e.hasAttributes {
			b = append(b, 0) // no kind of edit: it does not begin the next one
			text(crdt.CanonicalPairs(e.attributes))
		}
	}
	sum := sha256.Sum256(b)
	return binary.BigEndian.Uint64(sum[:])
}

// canonicalDecimal gives equal numbers equal text: 29.9 and 29.90.
func canonicalDecimal(s string) string {
	mantissa, exp, err := splitDecimal(s)
	if err != nil {
		return s
	}
	trimmed := strings.TrimRight(mantissa, "0")
	exp += len(mantissa) - len(trimmed)
	trimmed = strings.TrimLeft(trimmed, "0")
	if trimmed == "" {
		return "0"
	}
	return fmt.Sprintf("%se%d", trimmed, exp)
}

// editsOf translates a request's edits; the index of a bad one is in the error.
func editsOf(edits []*cartv1.Edit) ([]edit, error) {
	out := make([]edit, len(edits))
	for i, e := range edits {
		switch {
		case e.GetAdd() != nil:
			out[i] = addEdit(e.GetAdd())
		case e.GetSet() != nil:
			out[i] = setEdit(e.GetSet())
		case e.GetRemove() != nil:
			out[i] = removeEdit(e.GetRemove())
		case e.GetClear() != nil:
			out[i] = edit{kind: regionv1.Change_KIND_CLEAR}
		case e.GetSave() != nil:
			out[i] = saveEdit(e.GetSave())
		case e.GetMove() != nil:
			out[i] = moveEdit(e.GetMove())
		case e.GetDescribe() != nil:
			out[i] = describeEdit(e.GetDescribe())
		default:
			return nil, inEdit(fault(MissingField, "one of %s is missing", batchEdits), i)
		}
	}
	return out, nil
}

func lineEdit(kind regionv1.Change_Kind, l *cartv1.LineRef, quantity uint32) edit {
	return edit{kind: kind, sku: l.GetSkuId(), seller: l.GetSellerId(), options: l.GetOptions(), quantity: uint64(quantity)}
}

func addEdit(r *cartv1.AddItemRequest) edit {
	e := lineEdit(regionv1.Change_KIND_ADD, r.GetLine(), r.GetQuantity())
	if p := r.GetPrice(); p != nil {
		e.price = &statedPrice{decimal: formatMoney(p.GetMinorUnits(), p.GetCurrency()), currency: p.GetCurrency(), minor: true}
	}
	return e.with(r.GetAttributes())
}

func setEdit(r *cartv1.SetQuantityRequest) edit {
	return lineEdit(regionv1.Change_KIND_SET, r.GetLine(), r.GetQuantity()).with(r.GetAttributes())
}

func removeEdit(r *cartv1.RemoveItemRequest) edit {
	return lineEdit(regionv1.Change_KIND_REMOVE, r.GetLine(), 0)
}

// inEdit says which edit of a batch was wrong.
func inEdit(e *Error, index int) *Error {
	e.Message = fmt.Sprintf("edits[%d]: %s", index, e.Message)
	return e.with("edit", fmt.Sprint(index))
}
