package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// sharedLink is a link as its maker is told.
type sharedLink struct {
	ID        string    `json:"id"`
	Token     string    `json:"token"`
	URL       string    `json:"url"`
	Mode      string    `json:"mode"`
	ExpiresAt time.Time `json:"expires_at"`
}

func (s shopper) share(region, mode string, more ...any) sharedLink {
	s.t.Helper()
	body := map[string]any{"mode": mode}
	for i := 0; i < len(more); i += 2 {
		body[more[i].(string)] = more[i+1]
	}
	return s.insist(200, region, "POST", "/api/v1/cart/share", body).link(s.t)
}

func (a answer) link(t testing.TB) sharedLink {
	t.Helper()
	var l sharedLink
	if err := json.Unmarshal(a.body, &l); err != nil {
		t.Fatalf("%s: %v", a.body, err)
	}
	return l
}

const cartItems = "/api/v1/cart/items"

// answered makes a call, again until the region can say something of it: a machine
// with much else to do may change leaders at any time.
func (s shopper) answered(region, method, path string, body any) (a answer) {
	s.t.Helper()
	if method != http.MethodGet && s.headers.Get("Idempotency-Key") == "" {
		s = s.with("Idempotency-Key", rand.Text())
	}
	eventually(s.t, 30*time.Second, "an answer", func() bool {
		var err error
		a, err = s.try(region, method, path, body)
		return err == nil && a.status < http.StatusInternalServerError && a.status != http.StatusTooManyRequests
	})
	return a
}

// insist makes a call that must be answered with the status.
func (s shopper) insist(status int, region, method, path string, body any) answer {
	s.t.Helper()
	a := s.answered(region, method, path, body)
	if a.status != status {
		s.t.Fatalf("%s %s at %s: status %d, want %d: %s", method, path, region, a.status, status, a.body)
	}
	return a
}

// stranger is somebody without credentials.
func (s shopper) stranger() shopper {
	s.headers = http.Header{}
	return s
}

// opened is what a link shows at a region to somebody without credentials.
func (s shopper) opened(region string, l sharedLink) cart {
	s.t.Helper()
	return s.stranger().insist(200, region, "GET", "/api/v1/shared/"+l.Token, nil).cart(s.t)
}

// isGone reports whether a link shows nothing at a region.
func (s shopper) isGone(region string, l sharedLink) bool {
	s.t.Helper()
	a := s.stranger().answered(region, "GET", "/api/v1/shared/"+l.Token, nil)
	if a.status != 200 && (a.status != 404 || a.code() != "SHARE_NOT_FOUND") {
		s.t.Fatalf("%d %s", a.status, a.body)
	}
	return a.status == 404
}

// holds fails when a region says of a link what it must not.
func (c cart) holds(t testing.TB, want map[string]int) {
	t.Helper()
	n := 0
	for sku, q := range want {
		n += q
		if c.quantity(sku) != q {
			t.Errorf("%s is there %d times, want %d:\n%s", sku, c.quantity(sku), q, c)
		}
	}
	if len(c.Items) != len(want) || c.ItemCount != n {
		t.Errorf("%d lines and %d items, want %v", len(c.Items), c.ItemCount, want)
	}
}

// A link made in one region shows at once in every other: what has not arrived
// is waited for, and asked for.
func TestSharedCartShowsInEveryRegion(t *testing.T) {
	d := sharedDev(t)
	s := d.shopper(t)
	s.insist(200, "us-east", "POST", cartItems, item("SKU-1", 2))
	s.insist(200, "us-east", "POST", cartItems, item("SKU-456", 1))
	for _, mode := range []string{"snapshot", "live"} {
		l := s.share("us-east", mode)
		if want := d.url("front") + "/api/v1/shared/" + l.Token; l.URL != want || l.Mode != mode || time.Until(l.ExpiresAt).Round(time.Hour) != 7*24*time.Hour {
			t.Errorf("made %+v, want url %s, for 7 days", l, want)
		}
		for _, region := range append([]string{"front"}, regions...) {
			s.opened(region, l).holds(t, map[string]int{"SKU-1": 2, "SKU-456": 1})
		}
		// Nothing tells whose it is.
		a := s.stranger().insist(200, "eu-west", "GET", "/api/v1/shared/"+l.Token, nil)
		user := s.headers.Get("X-User-Id")
		for _, text := range []string{string(a.body), fmt.Sprint(a.header)} {
			for _, of := range []string{user, "cart_id", "saved_items", "conflicts", "promotions"} {
				if strings.Contains(text, of) {
					t.Errorf("a shared cart tells %q: %s", of, text)
				}
			}
		}
		if a.header.Get("Cache-Control") != "no-store" || a.header.Get("Referrer-Policy") != "no-referrer" || a.header.Get("Cart-Token") != "" || a.header.Get("ETag") != "" {
			t.Errorf("headers %v", a.header)
		}
	}
}

func TestLiveLinkFollowsAndSnapshotDoesNot(t *testing.T) {
	d := sharedDev(t)
	s := d.shopper(t)
	s.insist(200, "us-east", "POST", cartItems, item("SKU-1", 2))
	live, snapshot := s.share("us-east", "live"), s.share("us-east", "snapshot")
	s.insist(200, "us-east", "PUT", cartItems+"/"+"SKU-1", map[string]any{"quantity": 5})
	s.insist(200, "us-east", "POST", cartItems, item("SKU-2", 1))
	s.opened("us-east", live).holds(t, map[string]int{"SKU-1": 5, "SKU-2": 1})
	s.opened("us-east", snapshot).holds(t, map[string]int{"SKU-1": 2})
	s.insist(200, "us-east", "DELETE", "/api/v1/cart", nil)
	s.opened("us-east", live).holds(t, nil)
	s.converge(10 * time.Second)
	for _, region := range regions {
		s.opened(region, live).holds(t, nil)
		s.opened(region, snapshot).holds(t, map[string]int{"SKU-1": 2})
	}
}

func TestRevokedLinkIsGoneEverywhere(t *testing.T) {
	d := sharedDev(t)
	s := d.shopper(t)
	s.insist(200, "us-east", "POST", cartItems, item("SKU-1", 2))
	for _, mode := range []string{"snapshot", "live"} {
		l, other := s.share("us-east", mode), s.share("us-east", mode)
		s.opened("eu-west", l)
		// Only its owner may; to others it is as if there were none.
		stranger := d.shopper(t)
		if a := stranger.insist(404, "us-east", "DELETE", "/api/v1/cart/share/"+l.ID, nil); a.code() != "SHARE_NOT_FOUND" {
			t.Errorf("%s", a.body)
		}
		s.opened("us-east", l)
		s.converge(10 * time.Second)
		s.insist(200, "ap-south", "DELETE", "/api/v1/cart/share/"+l.ID, nil)
		for _, region := range regions {
			eventually(t, 10*time.Second, "the link is gone at "+region, func() bool { return s.isGone(region, l) })
		}
		for _, region := range regions {
			s.opened(region, other).holds(t, map[string]int{"SKU-1": 2})
		}
		// One of a link's two carts is enough for it to be gone; the other may still be
		// on its way, and then there is something to revoke.
		eventually(t, 10*time.Second, "there is nothing to revoke at us-east", func() bool {
			return s.answered("us-east", "DELETE", "/api/v1/cart/share/"+l.ID, nil).status == 404
		})
	}
	s.converge(10 * time.Second)
}

// Several shards: the two carts of a link take ways of their own, and whoever
// has the owner's token may revoke a link at once where the link's own cart has
// not arrived. Once gone, it never shows again.
func TestLinkRevokedAsSoonAsMade(t *testing.T) {
	d := start(t, "", "--ephemeral", "--shards", "3")
	s := d.shopper(t)
	s.insist(200, "us-east", "POST", cartItems, item("SKU-1", 2))
	var gone []sharedLink
	for i := range 12 {
		a := s.insist(200, "us-east", "POST", "/api/v1/cart/share", map[string]any{"mode": []string{"live", "snapshot"}[i%2]})
		l := a.link(t)
		s.opened(regions[i%3], l).holds(t, map[string]int{"SKU-1": 2})
		s.with("Cart-Token", a.header.Get("Cart-Token")).insist(200, "ap-south", "DELETE", "/api/v1/cart/share/"+l.ID, nil)
		if !s.isGone("ap-south", l) {
			t.Fatalf("link %d shows where it was revoked", i)
		}
		gone = append(gone, l)
	}
	s.converge(10 * time.Second)
	for _, l := range gone {
		for _, region := range regions {
			if !s.isGone(region, l) {
				t.Errorf("link %s shows at %s", l.ID, region)
			}
		}
	}
}

// A region that is cut off goes on showing a link that was revoked elsewhere,
// and no longer once it has healed; a link that is made there opens nowhere
// else until then.
func TestLinkAcrossACut(t *testing.T) {
	d := sharedDev(t)
	s := d.shopper(t)
	s.insist(200, "us-east", "POST", cartItems, item("SKU-1", 2))
	live, snapshot := s.share("us-east", "live"), s.share("us-east", "snapshot")
	s.converge(10 * time.Second)
	s.opened("ap-south", live)
	s.opened("ap-south", snapshot)
	heal := d.cut(t, [2]string{"us-east", "ap-south"}, [2]string{"eu-west", "ap-south"})
	s.insist(200, "eu-west", "DELETE", "/api/v1/cart/share/"+live.ID, nil)
	s.insist(200, "eu-west", "DELETE", "/api/v1/cart/share/"+snapshot.ID, nil)
	away := s.share("ap-south", "live")
	for _, l := range []sharedLink{live, snapshot} {
		s.opened("ap-south", l).holds(t, map[string]int{"SKU-1": 2})
		eventually(t, 10*time.Second, "the link is gone on the other side", func() bool { return s.isGone("us-east", l) })
	}
	if !s.isGone("us-east", away) {
		t.Error("a link shows that cannot have arrived")
	}
	heal()
	for _, region := range regions {
		for _, l := range []sharedLink{live, snapshot} {
			eventually(t, 20*time.Second, "the link is gone at "+region, func() bool { return s.isGone(region, l) })
		}
		eventually(t, 20*time.Second, "the new link shows at "+region, func() bool { return !s.isGone(region, away) })
	}
}

func TestLinkExpiresByTheClock(t *testing.T) {
	d := sharedDev(t)
	s := d.shopper(t)
	s.insist(200, "eu-west", "POST", cartItems, item("SKU-1", 1))
	l := s.share("eu-west", "live", "expires_in_s", 1)
	lasting := s.share("eu-west", "live", "expires_in_s", 30*24*3600)
	for _, region := range regions {
		eventually(t, 10*time.Second, "the link has expired at "+region, func() bool { return s.isGone(region, l) })
		s.opened(region, lasting)
	}
	if time.Now().Before(l.ExpiresAt) {
		t.Errorf("it was gone before %v", l.ExpiresAt)
	}
	other := d.shopper(t)
	if a := other.insist(404, "eu-west", "POST", "/api/v1/shared/"+l.Token+"/copy", nil); a.code() != "SHARE_NOT_FOUND" {
		t.Errorf("%s", a.body)
	}
}

func TestSharedCartIsCopied(t *testing.T) {
	d := sharedDev(t)
	owner, s := d.shopper(t), d.shopper(t)
	owner.insist(200, "us-east", "POST", cartItems, item("SKU-1", 2))
	owner.insist(200, "us-east", "POST", cartItems, item("SKU-456", 1))
	owner.insist(200, "us-east", "POST", "/api/v1/cart/items", map[string]any{"sku_id": "SKU-7", "seller_id": "seller-3", "quantity": 1, "options": map[string]string{"size": "L"}})
	l := owner.share("us-east", "live")
	s.insist(200, "eu-west", "POST", cartItems, item("SKU-1", 5))
	keyed := s.with("Idempotency-Key", "copy-1")
	path := "/api/v1/shared/" + l.Token + "/copy"
	want := map[string]int{"SKU-1": 7, "SKU-456": 1, "SKU-7": 1}
	c := keyed.insist(200, "eu-west", "POST", path, nil).cart(t)
	c.holds(t, want)
	if c.CartID != "cart:"+s.headers.Get("X-User-Id") {
		t.Errorf("the answer is cart %q", c.CartID)
	}
	// The same request again, although the owner's cart is another by now.
	owner.insist(200, "us-east", "POST", cartItems, item("SKU-2", 1))
	again := keyed.insist(200, "eu-west", "POST", path, nil)
	if again.header.Get("Idempotent-Replayed") != "true" {
		t.Error("a copy sent again was not known")
	}
	again.cart(t).holds(t, want)
	owner.insist(200, "us-east", "GET", "/api/v1/cart", nil).cart(t).holds(t, map[string]int{"SKU-1": 2, "SKU-456": 1, "SKU-7": 1, "SKU-2": 1})
	// All or nothing: one line would be too many.
	s.insist(200, "eu-west", "PUT", cartItems+"/"+"SKU-1", map[string]any{"quantity": 998})
	if a := s.insist(422, "eu-west", "POST", path, nil); a.code() != "QUANTITY_TOO_LARGE" || !strings.Contains(string(a.body), "SKU-1") {
		t.Errorf("%s", a.body)
	}
	s.insist(200, "eu-west", "GET", "/api/v1/cart", nil).cart(t).holds(t, map[string]int{"SKU-1": 998, "SKU-456": 1, "SKU-7": 1})
	// A cart of another currency.
	pounds := d.shopper(t)
	pounds.insist(200, "eu-west", "POST", cartItems, item("85123A", 1))
	if a := pounds.insist(422, "eu-west", "POST", path, nil); a.code() != "CURRENCY_MISMATCH" {
		t.Errorf("%s", a.body)
	}
	pounds.insist(200, "eu-west", "GET", "/api/v1/cart", nil).cart(t).holds(t, map[string]int{"85123A": 1})
}

// The same key gives the same link, in another region as well; for another
// request it is refused.
func TestShareAgainUnderTheSameKey(t *testing.T) {
	d := sharedDev(t)
	s := d.shopper(t)
	s.insist(200, "us-east", "POST", cartItems, item("SKU-1", 2))
	keyed := s.with("Idempotency-Key", "share-1")
	l := keyed.share("us-east", "snapshot")
	s.insist(200, "us-east", "PUT", cartItems+"/"+"SKU-1", map[string]any{"quantity": 3})
	a := keyed.insist(200, "us-east", "POST", "/api/v1/cart/share", map[string]any{"mode": "snapshot"})
	if b := a.link(t); b != l || a.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("again: %+v, before %+v", b, l)
	}
	s.opened("us-east", l).holds(t, map[string]int{"SKU-1": 2})
	if a := keyed.insist(422, "us-east", "POST", "/api/v1/cart/share", map[string]any{"mode": "live"}); a.code() != "IDEMPOTENCY_KEY_REUSED" {
		t.Errorf("%s", a.body)
	}
	s.converge(10 * time.Second)
	if b := keyed.share("ap-south", "snapshot"); b.ID != l.ID || !b.ExpiresAt.Equal(l.ExpiresAt) {
		t.Errorf("in another region: %+v, before %+v", b, l)
	}
	if other := s.with("Idempotency-Key", "share-2").share("us-east", "snapshot"); other.ID == l.ID {
		t.Error("another key gives the same link")
	}
	if other := d.shopper(t).with("Idempotency-Key", "share-1").share("us-east", "snapshot"); other.ID == l.ID {
		t.Error("another shopper gets the same link")
	}
	revoke := s.with("Idempotency-Key", "revoke-1")
	revoke.insist(200, "us-east", "DELETE", "/api/v1/cart/share/"+l.ID, nil)
	if a := revoke.insist(200, "us-east", "DELETE", "/api/v1/cart/share/"+l.ID, nil); a.header.Get("Idempotent-Replayed") != "true" {
		t.Error("a revocation sent again was not known")
	}
	if a := keyed.insist(404, "us-east", "POST", "/api/v1/cart/share", map[string]any{"mode": "snapshot"}); a.code() != "SHARE_NOT_FOUND" {
		t.Errorf("%s", a.body)
	}
	if !s.isGone("us-east", l) {
		t.Error("a link that was revoked is good again")
	}
}

func TestShareBadInput(t *testing.T) {
	d := sharedDev(t)
	s := d.shopper(t)
	s.insist(200, "us-east", "POST", cartItems, item("SKU-1", 2))
	l := s.share("us-east", "live")
	before := s.insist(200, "us-east", "GET", "/api/v1/cart", nil).header.Get("ETag")
	for _, c := range []struct {
		method, path string
		body         any
		status       int
		code         string
	}{
		{"POST", "cart/share", map[string]any{}, 400, "MISSING_FIELD"},
		{"POST", "cart/share", map[string]any{"mode": "public"}, 400, "INVALID_FIELD"},
		{"POST", "cart/share", map[string]any{"mode": 1}, 400, "INVALID_FIELD"},
		{"POST", "cart/share", map[string]any{"mode": "live", "expires_in_s": 0}, 400, "INVALID_FIELD"},
		{"POST", "cart/share", map[string]any{"mode": "live", "expires_in_s": -1}, 400, "INVALID_FIELD"},
		{"POST", "cart/share", map[string]any{"mode": "live", "expires_in_s": 1.5}, 400, "INVALID_FIELD"},
		{"POST", "cart/share", map[string]any{"mode": "live", "expires_in_s": "60"}, 400, "INVALID_FIELD"},
		{"POST", "cart/share", map[string]any{"mode": "live", "expires_in_s": 30*24*3600 + 1}, 400, "INVALID_FIELD"},
		{"POST", "cart/share", map[string]any{"mode": "live", "days": 1}, 400, "UNKNOWN_FIELD"},
		{"DELETE", "cart/share/x", nil, 404, "SHARE_NOT_FOUND"},
		{"DELETE", "cart/share/" + strings.ToUpper(l.ID), nil, 404, "SHARE_NOT_FOUND"},
		{"DELETE", "cart/share/" + strings.Repeat("0", 32), nil, 404, "SHARE_NOT_FOUND"},
		{"GET", "shared/x", nil, 404, "SHARE_NOT_FOUND"},
		{"GET", "shared/" + l.ID, nil, 404, "SHARE_NOT_FOUND"},
		{"GET", "shared/" + l.Token + "A", nil, 404, "SHARE_NOT_FOUND"},
		{"GET", "shared/B" + l.Token[1:], nil, 404, "SHARE_NOT_FOUND"},
		{"GET", "shared/" + strings.Repeat("A", 4000), nil, 404, "SHARE_NOT_FOUND"},
		{"POST", "shared/x/copy", nil, 404, "SHARE_NOT_FOUND"},
		{"PUT", "shared/" + l.Token, nil, 405, "METHOD_NOT_ALLOWED"},
		{"GET", "shared/" + l.Token + "/more", nil, 404, "NOT_FOUND"},
	} {
		if l.Token[0] == 'B' && strings.HasPrefix(c.path, "shared/B") {
			continue // it is the token itself
		}
		a := s.insist(c.status, "us-east", c.method, "/api/v1/"+c.path, c.body)
		if a.code() != c.code || strings.Contains(string(a.body), l.Token[1:]) {
			t.Errorf("%s %.80s: %s, want %s", c.method, c.path, a.body, c.code)
		}
	}
	if a := s.with("If-Match", `"0123456789abcdef0123456789abcdef"`).insist(409, "us-east", "POST", "/api/v1/cart/share", map[string]any{"mode": "live"}); a.code() != "VERSION_CONFLICT" {
		t.Errorf("%s", a.body)
	}
	if a := s.with("If-Match", `"0123456789abcdef0123456789abcdef"`).insist(409, "us-east", "DELETE", "/api/v1/cart/share/"+l.ID, nil); a.code() != "VERSION_CONFLICT" {
		t.Errorf("%s", a.body)
	}
	if s.insist(200, "us-east", "GET", "/api/v1/cart", nil).header.Get("ETag") != before {
		t.Error("what was refused changed the cart")
	}
	s.opened("us-east", l)
	// What was unknown, malformed, revoked or expired: one answer.
	gone := s.share("us-east", "live")
	s.insist(200, "us-east", "DELETE", "/api/v1/cart/share/"+gone.ID, nil)
	brief := s.share("us-east", "live", "expires_in_s", 1)
	eventually(t, 10*time.Second, "the link has expired", func() bool { return s.isGone("us-east", brief) })
	var said []string
	for _, token := range []string{"x", "C" + l.Token[1:], gone.Token, brief.Token} {
		a := s.stranger().insist(404, "us-east", "GET", "/api/v1/shared/"+token, nil)
		a.header.Del("Date")
		said = append(said, fmt.Sprint(a.header, string(a.body)))
	}
	if slices.Sort(said); len(slices.Compact(said)) != 1 {
		t.Errorf("several answers: %s", said)
	}
	// As many links as there may be, and then one more; expired ones count no more.
	for range 19 {
		s.share("us-east", "live")
	}
	if a := s.insist(422, "us-east", "POST", "/api/v1/cart/share", map[string]any{"mode": "live"}); a.code() != "TOO_MANY_LINKS" {
		t.Errorf("%s", a.body)
	}
	s.insist(200, "us-east", "DELETE", "/api/v1/cart/share/"+l.ID, nil)
	s.share("us-east", "live")
}

func TestKeyOfLinks(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "share.key")
	first, err := openKey(path)
	made := first.bytes
	if err != nil || len(made) < 32 {
		t.Fatalf("%d bytes, %v", len(made), err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("opening wrote a file: %v", err)
	}
	if err := first.keep(); err != nil {
		t.Fatal(err)
	}
	if again, err := openKey(path); err != nil || again.fresh || !bytes.Equal(again.bytes, made) {
		t.Errorf("the key that was made is not kept: %v", err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("others may read the key: %v, %v", st.Mode(), err)
	}
	log := slog.New(slog.DiscardHandler)
	if key, err := (sharing{ShareKey: path}).key(log); err != nil || !bytes.Equal(key, made) {
		t.Errorf("--share-key: %v", err)
	}
	if key, err := (sharing{}).key(log); err != nil || key != nil {
		t.Errorf("without --share-key: %d bytes, %v", len(key), err)
	}
	short := filepath.Join(dir, "short")
	if err := os.WriteFile(short, made[:31], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{short, dir, filepath.Join(dir, "none")} {
		if _, err := (sharing{ShareKey: bad}).key(log); err == nil || !strings.Contains(err.Error(), "--share-key") {
			t.Errorf("--share-key %s: %v", bad, err)
		}
	}
	if _, err := openKey(short); err == nil {
		t.Error("a key of 31 bytes was taken")
	}
	node := []string{"node", "--region", "us-east", "--node", "1", "--nodes", "us-east/1=127.0.0.1:1", "--data", dir, "--link-listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--trust-headers"}
	errs := newOutput()
	if code := run(t.Context(), append(node, "--share-url", "shop"), newOutput(), errs); code != 2 || !strings.Contains(errs.String(), "--share-url") {
		t.Errorf("exit %d, %s", code, errs)
	}
}

// An erasure takes the links along, in every region, and its receipt says so; nothing
// comes into the cart any more.
func TestErasureTakesLinksAlong(t *testing.T) {
	d := sharedDev(t)
	s := d.shopper(t)
	s.insist(200, "us-east", "POST", cartItems, item("SKU-1", 2))
	links := []sharedLink{s.share("us-east", "snapshot"), s.share("us-east", "live")}
	s.converge(10 * time.Second)
	export := string(s.insist(200, "eu-west", "GET", "/api/v1/me/export", nil).body)
	var erased struct {
		Complete bool     `json:"complete"`
		Also     []string `json:"also"`
	}
	a := s.insist(200, "eu-west", "DELETE", "/api/v1/me", nil)
	if err := json.Unmarshal(a.body, &erased); err != nil || !erased.Complete {
		t.Fatalf("%v, %s", err, a.body)
	}
	for _, l := range links {
		if !strings.Contains(export, l.ID) || !slices.Contains(erased.Also, "share:"+l.ID) {
			t.Errorf("link %s is not in %s, or not in %s", l.ID, export, a.body)
		}
		for _, region := range regions {
			if !s.isGone(region, l) {
				t.Errorf("%s shows link %s", region, l.ID)
			}
		}
	}
	for _, region := range regions {
		s.insist(410, region, "POST", "/api/v1/cart/merge", map[string]any{"guest_session_id": "of-" + s.headers.Get("X-User-Id")})
	}
}
