package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
)

// view gives a message the form that REST gives it: every field by its
// snake_case name, money as an exact decimal number, times in milliseconds as
// RFC 3339 under the name without _ms, bytes in hex, quantities in conflicts as
// numbers. What is absent is null, empty lists are [].
func view(m protoreflect.Message) map[string]any {
	out := map[string]any{}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		name := string(f.Name())
		value := m.Get(f)
		switch {
		case f.HasPresence() && !m.Has(f):
			out[name] = nil
		case f.IsList():
			list := make([]any, value.List().Len())
			for i := range list {
				list[i] = viewValue(f, value.List().Get(i))
			}
			out[name] = list
		case f.IsMap():
			entries := map[string]any{}
			value.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				entries[k.String()] = viewValue(f.MapValue(), v)
				return true
			})
			out[name] = entries
		case name == "at_ms" || strings.HasSuffix(name, "_at_ms"):
			name = strings.TrimSuffix(name, "_ms")
			out[name] = nil
			if ms := value.Int(); ms != 0 {
				out[name] = time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z07:00")
			}
		default:
			out[name] = viewValue(f, value)
		}
	}
	if c, ok := m.Interface().(*cartv1.Conflict); ok && c.GetField() == "quantity" {
		values := make([]any, len(c.GetValues()))
		for i, v := range c.GetValues() {
			values[i] = number(v)
		}
		out["value"], out["values"] = number(c.GetValue()), values
	}
	return out
}

// number is s as a number where it is one.
func number(s string) any {
	if n, err := strconv.ParseUint(s, 10, 64); err == nil {
		return n
	}
	return s
}

func viewValue(f protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		if money, ok := v.Message().Interface().(*cartv1.Money); ok {
			return json.Number(amount(money))
		}
		return view(v.Message())
	case protoreflect.BytesKind:
		return hex.EncodeToString(v.Bytes())
	case protoreflect.EnumKind:
		if d := f.Enum().Values().ByNumber(v.Enum()); d != nil {
			return string(d.Name())
		}
		return int32(v.Enum())
	default:
		return v.Interface()
	}
}

// minorDigits are the currencies whose minor unit is not a hundredth.
//
// Source: ISO 4217.
var minorDigits = map[string]int{
	"BIF": 0, "CLP": 0, "DJF": 0, "GNF": 0, "ISK": 0, "JPY": 0, "KMF": 0, "KRW": 0, "PYG": 0, "RWF": 0,
	"UGX": 0, "UYI": 0, "VND": 0, "VUV": 0, "XAF": 0, "XOF": 0, "XPF": 0,
	"BHD": 3, "IQD": 3, "JOD": 3, "KWD": 3, "LYD": 3, "OMR": 3, "TND": 3,
	"CLF": 4, "UYW": 4,
}

// amount writes money as a decimal with the currency's digits: 2999 USD is 29.99.
func amount(m *cartv1.Money) string {
	digits, ok := minorDigits[m.GetCurrency()]
	if !ok {
		digits = 2
	}
	sign, s := "", strconv.FormatInt(m.GetMinorUnits(), 10)
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	if digits == 0 {
		return sign + s
	}
	if len(s) <= digits {
		s = strings.Repeat("0", digits+1-len(s)) + s
	}
	return sign + s[:len(s)-digits] + "." + s[len(s)-digits:]
}

// priced writes money for people; a dash where there is none.
func priced(m *cartv1.Money) string {
	if m == nil {
		return "-"
	}
	return fmt.Sprintf("%s %s", amount(m), m.GetCurrency())
}
