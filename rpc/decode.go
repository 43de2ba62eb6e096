package rpc

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"unicode/utf8"

	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

// REST bodies are decoded by hand: encoding/json takes a field in any case,
// the last of two of the same name, and replaces what is not UTF-8, and each
// of these would be an edit that nobody asked for.

// fields maps the names of an object to what reads their values.
type fields map[string]func(value json.RawMessage) error

// decodeObject reads one JSON object and nothing after it.
func decodeObject(body []byte, want fields) error {
	if !utf8.Valid(body) {
		return fault(MalformedJSON, "the body is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return malformed(d, err, "the body must be a JSON object")
	}
	seen := make(map[string]bool, len(want))
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return malformed(d, err, "a field name must be a string")
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return malformed(d, err, "a value is missing")
		}
		read := want[name]
		switch {
		case read == nil:
			return fault(UnknownField, "field %.80q is not known: check its name", name).with("field", name[:min(len(name), 80)])
		case seen[name]:
			return fault(MalformedJSON, "field %q is there twice", name)
		}
		seen[name] = true
		if string(value) == "null" {
			continue // as good as absent
		}
		if err := read(value); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return malformed(d, err, "the object does not end")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fault(MalformedJSON, "there is more after the JSON object, at byte %d", d.InputOffset())
	}
	return nil
}

func malformed(d *json.Decoder, err error, what string) *Error {
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return fault(MalformedJSON, "the body is no JSON at byte %d: %s", syntax.Offset, syntax.Error())
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fault(MalformedJSON, "the body is empty or ends too early, after byte %d", d.InputOffset())
	}
	return fault(MalformedJSON, "the body is no JSON for this call, at byte %d: %s", d.InputOffset(), what)
}

// text reads a string; code is the error of another type.
func text(to *string, field string, code Code) func(json.RawMessage) error {
	return func(v json.RawMessage) error {
		if err := json.Unmarshal(v, to); err != nil {
			return fault(code, "%s must be a string", field).with("field", field)
		}
		return nil
	}
}

func options(to *map[string]string) func(json.RawMessage) error {
	return func(v json.RawMessage) error {
		if err := json.Unmarshal(v, to); err != nil {
			return fault(InvalidField, "options must be an object of strings").with("field", "options")
		}
		return nil
	}
}

// quantity reads a whole number. has is set when it was there.
func quantity(to *uint64, has *bool) func(json.RawMessage) error {
	return func(v json.RawMessage) error {
		n, err := strconv.ParseUint(string(v), 10, 64)
		if err != nil {
			return fault(InvalidQuantity, "quantity %.40s must be a whole number that is not negative", v)
		}
		*to, *has = n, true
		return nil
	}
}

func missing(field string) *Error {
	return fault(MissingField, "%s is missing", field).with("field", field)
}

// decodeAdd reads the body of an add.
func decodeAdd(body []byte) (edit, error) {
	e := edit{kind: regionv1.Change_KIND_ADD}
	var has bool
	var price, currency string
	err := decodeObject(body, fields{
		"sku_id": text(&e.sku, "sku_id", InvalidSKU), "seller_id": text(&e.seller, "seller_id", InvalidField),
		"quantity": quantity(&e.quantity, &has), "options": options(&e.options),
		"currency": text(&currency, "currency", InvalidField), "attributes": attributes(&e),
		"price": func(v json.RawMessage) error {
			if price = string(v); price[0] != '-' && (price[0] < '0' || price[0] > '9') {
				return fault(InvalidField, "price must be a decimal number such as 29.99").with("field", "price")
			}
			return nil
		},
	})
	switch {
	case err != nil:
		return e, err
	case e.sku == "":
		return e, missing("sku_id")
	case !has:
		return e, missing("quantity")
	case price == "" && currency != "":
		return e, missing("price")
	}
	if price != "" {
		e.price = &statedPrice{decimal: price, currency: currency}
	}
	return e, nil
}

// decodeQuantity reads the body of a set, whose line is in the path. One with
// attributes alone leaves the quantity as it is.
func decodeQuantity(body []byte, e *edit) error {
	var has bool
	var inBody map[string]string
	err := decodeObject(body, fields{"quantity": quantity(&e.quantity, &has), "options": options(&inBody), "attributes": attributes(e)})
	if !has && e.hasAttributes {
		e.kind = regionv1.Change_KIND_DESCRIBE
	}
	switch {
	case err != nil:
		return err
	case !has && !e.hasAttributes:
		return missing("quantity")
	case len(inBody) > 0 && len(e.options) > 0:
		return fault(InvalidField, "options are in the body and in the query: give them once").with("field", "options")
	case len(inBody) > 0:
		e.options = inBody
	}
	return nil
}

// decodeLine reads an edit of a batch that names a line which is there.
func decodeLine(body []byte, kind regionv1.Change_Kind) (edit, error) {
	e := edit{kind: kind}
	var has bool
	want := fields{
		"sku_id": text(&e.sku, "sku_id", InvalidSKU), "seller_id": text(&e.seller, "seller_id", InvalidField),
		"options": options(&e.options),
	}
	if kind == regionv1.Change_KIND_SET {
		want["quantity"] = quantity(&e.quantity, &has)
	}
	if kind == regionv1.Change_KIND_SET || kind == regionv1.Change_KIND_DESCRIBE {
		want["attributes"] = attributes(&e)
	}
	err := decodeObject(body, want)
	switch {
	case err != nil:
		return e, err
	case e.sku == "":
		return e, missing("sku_id")
	case kind == regionv1.Change_KIND_SET && !has:
		return e, missing("quantity")
	case kind == regionv1.Change_KIND_DESCRIBE && !e.hasAttributes:
		return e, missing("attributes")
	}
	return e, nil
}

// decodeBatch reads {"edits":[{"add":{…}},{"set":{…}},{"remove":{…}},{"clear":{}},
// {"save":{…}},{"move":{…}},{"describe":{…}}]}.
// check says whether so many edits are allowed.
func decodeBatch(body []byte, check func(n int) error) ([]edit, error) {
	var raw []json.RawMessage
	err := decodeObject(body, fields{"edits": func(v json.RawMessage) error {
		if err := json.Unmarshal(v, &raw); err != nil {
			return fault(InvalidField, "edits must be a list").with("field", "edits")
		}
		return nil
	}})
	if err != nil {
		return nil, err
	}
	if err := check(len(raw)); err != nil {
		return nil, err
	}
	out := make([]edit, len(raw))
	for i, v := range raw {
		if out[i], err = decodeEdit(v); err != nil {
			var e *Error
			if errors.As(err, &e) {
				return nil, inEdit(e, i)
			}
			return nil, err
		}
	}
	return out, nil
}

func decodeEdit(body []byte) (e edit, err error) {
	n := 0
	as := func(decode func(json.RawMessage) (edit, error)) func(json.RawMessage) error {
		return func(v json.RawMessage) (err error) {
			n++
			e, err = decode(v)
			return err
		}
	}
	err = decodeObject(body, fields{
		"add": as(func(v json.RawMessage) (edit, error) { return decodeAdd(v) }),
		"set": as(func(v json.RawMessage) (edit, error) { return decodeLine(v, regionv1.Change_KIND_SET) }),
		"remove": as(func(v json.RawMessage) (edit, error) {
			return decodeLine(v, regionv1.Change_KIND_REMOVE)
		}),
		"save": as(func(v json.RawMessage) (edit, error) { return decodeLine(v, regionv1.Change_KIND_SAVE) }),
		"move": as(func(v json.RawMessage) (edit, error) { return decodeLine(v, regionv1.Change_KIND_MOVE) }),
		"describe": as(func(v json.RawMessage) (edit, error) {
			return decodeLine(v, regionv1.Change_KIND_DESCRIBE)
		}),
		"clear": as(func(v json.RawMessage) (edit, error) {
			return edit{kind: regionv1.Change_KIND_CLEAR}, decodeObject(v, nil)
		}),
	})
	switch {
	case err != nil:
		return e, err
	case n == 0:
		return e, fault(MissingField, "one of %s is missing", batchEdits)
	case n > 1:
		return e, fault(InvalidField, "an edit is one of %s; this has %d", batchEdits, n)
	}
	return e, nil
}
