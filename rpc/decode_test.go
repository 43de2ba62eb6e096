package rpc

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/region"
)

func TestETag(t *testing.T) {
	d := region.Digest{0xab, 15: 0xcd}
	for _, s := range []string{etag(d), strings.Trim(etag(d), `"`), strings.ToUpper(etag(d))} {
		if got, ok := parseETag(s); !ok || got != d {
			t.Errorf("%s: %x, %v", s, got, ok)
		}
	}
	for _, s := range []string{"", `"`, `""`, "W/" + etag(d), etag(d) + "," + etag(d), `"zz000000000000000000000000000000"`} {
		if _, ok := parseETag(s); ok {
			t.Errorf("%s was read", s)
		}
	}
}

// A request never panics: it is read, or refused with one of our codes.
func FuzzDecodeBody(f *testing.F) {
	for _, s := range []string{
		`{"sku_id":"SKU-456","quantity":2,"seller_id":"seller-1","options":{"a":"b"},"price":29.99,"currency":"USD"}`,
		`{"quantity":3}`, `{"edits":[{"add":{"sku_id":"S","quantity":1}},{"set":{"sku_id":"S","quantity":0}},{"remove":{"sku_id":"S"}},{"clear":{}}]}`,
		`[]`, `{`, `null`, `{"edits":null}`, `{"edits":[null]}`, `{"price":-}`, "\xff",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var set edit
		_, addErr := decodeAdd(b)
		_, batchErr := decodeBatch(b, func(int) error { return nil })
		for _, err := range []error{addErr, decodeQuantity(b, &set), batchErr} {
			var e *Error
			switch {
			case err == nil && !json.Valid(b):
				t.Fatalf("%q is no JSON, and was read", b)
			case err != nil && (!errors.As(err, &e) || e.Status() < 400 || e.Status() > 499 || e.Message == ""):
				t.Fatalf("%q: %v", b, err)
			}
		}
		if e, err := decodeAdd(b); err == nil {
			c := call{principal: Principal{Kind: User, ID: "u", Scopes: []string{ScopePrice}}}
			if e.validate(c, 999) == nil {
				if again, _ := decodeAdd(b); fingerprint([]edit{e}) != fingerprint([]edit{again}) {
					t.Fatal("one request has two fingerprints")
				}
				if e.price != nil {
					e.price.minorUnits("JPY") //nolint:errcheck // it must not panic
				}
			}
		}
	})
}

// Decoding of Connect bodies leaves either a message or a fault.
func FuzzCodecs(f *testing.F) {
	f.Add([]byte(`{"line":{"skuId":"SKU-1"},"quantity":1}`))
	f.Add([]byte(`{"quantity":-1}`))
	f.Add([]byte("\x0a\x07\x0a\x05SKU-1\x10\x01"))
	f.Add([]byte("\x82\x80\x80\x80\x08\x07FORGED\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m cartv1.AddItemRequest
		if err := (binaryCodec{}).Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		var e *Error
		if err := decodeFault(&m); err != nil && (!errors.As(err, &e) || e.Code != MalformedJSON) {
			t.Fatalf("binary %q: %v", b, err)
		}
		m.Reset()
		if err := (jsonCodec{}).Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		if err := decodeFault(&m); err != nil && (!errors.As(err, &e) || e.Status() != 400 || e.Message == "") {
			t.Fatalf("JSON %q: %v", b, err)
		}
		if _, err := (jsonCodec{}).Marshal(&m); err == nil {
			if _, err := (binaryCodec{}).Marshal(proto.Message(&m)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestCodecsRefuseWhatIsNoMessage(t *testing.T) {
	for _, c := range []interface {
		Marshal(any) ([]byte, error)
		Unmarshal([]byte, any) error
	}{binaryCodec{}, jsonCodec{}} {
		if _, err := c.Marshal(1); err == nil {
			t.Error("a number was encoded")
		}
		if err := c.Unmarshal(nil, new(int)); err == nil {
			t.Error("a number was decoded")
		}
	}
	if err := decodeFault(1); err != nil {
		t.Error(err)
	}
}

// Every code has its place in the table, and every cause a code.
func TestEveryCodeIsWired(t *testing.T) {
	for code, w := range wires {
		if w.status < 400 || w.connect == 0 {
			t.Errorf("%s: %+v", code, w)
		}
	}
	for _, c := range causes {
		if _, ok := wires[c.code]; !ok || c.message == "" {
			t.Errorf("%v has code %s", c.err, c.code)
		}
	}
}

// What a caller may do is denied until somebody decides.
func TestAccessIsDeniedByDefault(t *testing.T) {
	everything := Principal{Kind: User, ID: "u", Scopes: []string{ScopeAdmin, ScopePrice, ""}}
	if (access{}).admit(everything) == nil {
		t.Error("the zero value lets somebody in")
	}
	for _, rt := range restRoutes {
		if rt.access == (access{}) {
			t.Errorf("%s %s: nobody may make it", rt.method, rt.pattern)
		}
	}
}
