package rpc_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"pgregory.net/rapid"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/rpc"
)

// A token, or what may be one, is in no line of the log, in no event, and in no
// answer but the one that made it.
func TestShareTokensAreRepeatedNowhere(t *testing.T) {
	var log lockedBuffer
	var calls []rpc.Call
	cfg := rpc.DefaultConfig("us-east")
	cfg.Events.Call = func(c rpc.Call) { calls = append(calls, c) } // the test makes one call at a time
	region := newFakeRegion(1)
	h, err := rpc.NewHandler(cfg, region, sharedCatalog(), rpc.TrustedHeaders{}, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	token := base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("t", 32)))
	ask := func(method, path, body string) string {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Header.Set("X-User-ID", "u")
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if strings.Contains(w.Body.String(), token) {
			t.Errorf("%s %s: %s", method, path, w.Body)
		}
		return w.Body.String()
	}
	for _, broken := range []error{nil, errCatalogDown} { // an error of the inside is logged
		region.readErr = broken
		for _, c := range [][3]string{
			{"GET", "/api/v1/shared/" + token, ""},
			{"POST", "/api/v1/shared/" + token, ""},
			{"DELETE", "/api/v1/shared/" + token, ""},
			{"POST", "/api/v1/shared/" + token + "/copy", ""},
			{"GET", "/api/v1/shared/" + token + "/copy", ""},
			{"GET", "/api/v1/shared/" + token + "/more", ""},
			{"DELETE", "/api/v1/cart/share/" + token, ""},
			{"POST", "/cart.v1.CartService/GetShared", `{"token":"` + token + `"}`},
			{"POST", "/cart.v1.CartService/CopyShared", `{"token":"` + token + `"}`},
			{"POST", "/cart.v1.CartService/RevokeShare", `{"id":"` + token + `"}`},
			{"GET", "/cart.v1.CartService/GetShared?connect=v1&encoding=json&message=%7B%22token%22%3A%22" + token + "%22%7D", ""},
		} {
			if body := ask(c[0], c[1], c[2]); body == "" {
				t.Errorf("%s %s: no answer", c[0], c[1])
			}
		}
	}
	if strings.Contains(log.String(), token) || !strings.Contains(log.String(), "/api/v1/shared/{token}") {
		t.Errorf("log: %s", log.String())
	}
	for _, c := range calls {
		if strings.Contains(c.Procedure, token) {
			t.Errorf("event of %q", c.Procedure)
		}
	}
}

// A link shows while its own cart and the owner's both name it, and neither is
// of another form, erased, or past the link's time.
func TestLinkNeedsBothCarts(t *testing.T) {
	secret := []byte(strings.Repeat("t", 32))
	sum := sha256.Sum256(secret)
	id, token := hex.EncodeToString(sum[:16]), base64.RawURLEncoding.EncodeToString(secret)
	writer := crdt.Writer{Replica: crdt.Replica{Region: 1, Incarnation: 1}, At: crdt.TimestampAt(1)}
	fact := func(c *crdt.Cart, m map[string]string) *crdt.Cart {
		return c.Apply(c.SetFact(writer, crdt.FactShare, id, crdt.CanonicalPairs(m)))
	}
	values := func(change func(map[string]string)) map[string]string {
		m := map[string]string{"mode": "snapshot", "created": "1", "expires": fmt.Sprint(time.Now().Add(time.Hour).UnixMilli()), "owner": "cart:ada"}
		change(m)
		return m
	}
	good := values(func(map[string]string) {})
	lines := func(q uint32) *crdt.Cart {
		c := &crdt.Cart{}
		c = c.Apply(c.Add(writer, crdt.LineKey{Seller: "seller-1", SKU: "SKU-456"}, q, crdt.Offer{Price: 2999, Currency: "USD"}, false))
		c = c.Apply(c.SetAttributes(writer, crdt.LineKey{Seller: "seller-1", SKU: "SKU-456"}, "note=for+Bob"))
		c = c.Apply(c.Add(writer, crdt.LineKey{Seller: "seller-1", SKU: "SKU-7"}, 1, crdt.Offer{Price: 5, Currency: "USD"}, false))
		return c.Apply(c.SetPlacement(writer, crdt.LineKey{Seller: "seller-1", SKU: "SKU-7"}, crdt.Saved))
	}
	own, owner := fact(lines(2), good), fact(lines(3), good)
	for name, c := range map[string]struct {
		own, owner *crdt.Cart
		status     int
		count      string // items that show
	}{
		"both, snapshot":   {own, owner, 200, `"item_count":2`},
		"both, live":       {fact(lines(2), values(func(m map[string]string) { m["mode"] = "live" })), owner, 200, `"item_count":3`},
		"own alone":        {own, lines(3), 404, ""},
		"owner's alone":    {lines(2), owner, 404, ""},
		"owner is erased":  {own, owner.Apply(owner.Erase(writer)), 404, ""},
		"own is erased":    {own.Apply(own.Erase(writer)), owner, 404, ""},
		"of no owner":      {fact(lines(2), values(func(m map[string]string) { delete(m, "owner") })), owner, 404, ""},
		"of another mode":  {fact(lines(2), values(func(m map[string]string) { m["mode"] = "public" })), owner, 404, ""},
		"has expired":      {fact(lines(2), values(func(m map[string]string) { m["expires"] = "2" })), owner, 404, ""},
		"expires never":    {fact(lines(2), values(func(m map[string]string) { delete(m, "expires") })), owner, 404, ""},
		"seen is no token": {fact(lines(2), values(func(m map[string]string) { m["seen"] = "?" })), owner, 404, ""},
	} {
		w := start(t)
		w.region.join("share:"+id, c.own)
		w.region.join("cart:ada", c.owner)
		r := w.do("GET", "/api/v1/shared/"+token, "", "X-User-ID", "")
		if r.status != c.status || !strings.Contains(r.body, c.count) {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
		if strings.Contains(r.body, "Bob") || strings.Contains(r.body, "SKU-7") || strings.Contains(r.body, "ada") {
			t.Errorf("%s: tells too much: %s", name, r.body)
		}
		// What is put aside is not copied either.
		r = w.do("POST", "/api/v1/shared/"+token+"/copy", "", "X-User-ID", "bob")
		if r.status != c.status || !strings.Contains(r.body, c.count) || strings.Contains(r.body, "SKU-7") || strings.Contains(r.body, "for Bob") {
			t.Errorf("%s: the copy: %d %s", name, r.status, r.body)
		}
	}
}

// Whatever stands in the place of a token, the answer is the one of a link that
// is not there.
func TestAnyTextIsNoToken(t *testing.T) {
	w := start(t)
	rapid.Check(t, func(rt *rapid.T) {
		text := rapid.OneOf(
			rapid.StringMatching("[A-Za-z0-9_=-]{1,200}"),
			rapid.Map(rapid.SliceOfN(rapid.Byte(), 32, 96), base64.RawURLEncoding.EncodeToString),
		).Draw(rt, "token")
		if r := w.do("GET", "/api/v1/shared/"+text, "", "X-User-ID", ""); r.status != 404 || r.code(t) != "SHARE_NOT_FOUND" {
			rt.Fatalf("%d %s", r.status, r.body)
		}
	})
}

// Connect says the same of bad input as REST.
func TestShareBadInputOverConnect(t *testing.T) {
	w := start(t)
	c := w.client()
	number := func(n uint64) *uint64 { return &n }
	for name, m := range map[string]struct {
		req  *cartv1.ShareCartRequest
		code rpc.Code
	}{
		"no mode":      {&cartv1.ShareCartRequest{}, rpc.MissingField},
		"unknown mode": {&cartv1.ShareCartRequest{Mode: "Live"}, rpc.InvalidField},
		"no time":      {&cartv1.ShareCartRequest{Mode: "live", ExpiresInS: number(0)}, rpc.InvalidField},
		"too long":     {&cartv1.ShareCartRequest{Mode: "live", ExpiresInS: number(30*24*3600 + 1)}, rpc.InvalidField},
		"for ever":     {&cartv1.ShareCartRequest{Mode: "live", ExpiresInS: number(1<<64 - 1)}, rpc.InvalidField},
	} {
		_, err := c.ShareCart(t.Context(), request(m.req))
		if detailOf(t, err).GetCode() != string(m.code) || connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, call := range map[string]func() error{
		"get": func() error {
			_, err := c.GetShared(t.Context(), connect.NewRequest(&cartv1.GetSharedRequest{Token: "x"}))
			return err
		},
		"copy": func() error {
			_, err := c.CopyShared(t.Context(), request(&cartv1.CopySharedRequest{}))
			return err
		},
		"revoke": func() error {
			_, err := c.RevokeShare(t.Context(), request(&cartv1.RevokeShareRequest{Id: "x"}))
			return err
		},
	} {
		if err := call(); detailOf(t, err).GetCode() != "SHARE_NOT_FOUND" || connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := w.region.edits.Load(); n != 0 {
		t.Errorf("%d edits were proposed", n)
	}
}

func TestShareConfigIsChecked(t *testing.T) {
	for name, spoil := range map[string]func(*rpc.Config){
		"ShareKey": func(c *rpc.Config) { c.ShareKey = make([]byte, rpc.ShareKeyBytesMin-1) },
		"ShareURL": func(c *rpc.Config) { c.ShareURL = "" },
	} {
		cfg := rpc.DefaultConfig("us-east")
		spoil(&cfg)
		_, err := rpc.NewHandler(cfg, newFakeRegion(1), sharedCatalog(), rpc.TrustedHeaders{}, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
