package rpc_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

// A cart says when the first of it expires; an empty one does not, nor does one that
// lives for ever.
func TestExpiresAt(t *testing.T) {
	w := start(t, func(w *world) { w.cfg.Lives = crdt.Lives{User: 3_600_000, Guest: 60_000} })
	for _, who := range []struct {
		headers []string
		life    time.Duration
	}{{nil, time.Hour}, {[]string{"X-User-ID", "", "X-Guest-Session", "session-1"}, time.Minute}} {
		if got := w.do("GET", "/api/v1/cart", "", who.headers...).json(t)["expires_at"]; got != nil {
			t.Errorf("an empty cart expires at %v", got)
		}
		w.add("SKU-1", "1", who.headers...)
		cart := w.do("GET", "/api/v1/cart", "", who.headers...).json(t)
		items, _ := cart["items"].([]any)
		if len(items) != 1 {
			t.Fatalf("cart %v", cart)
		}
		item, _ := items[0].(map[string]any)
		text, _ := item["added_at"].(string)
		added, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		text, _ = cart["expires_at"].(string)
		got, err := time.Parse(time.RFC3339, text)
		if err != nil || !got.Equal(added.Add(who.life)) {
			t.Errorf("expires at %q, added at %v: %v", text, added, err)
		}
	}
	w = start(t)
	w.add("SKU-1", "1")
	if got := w.do("GET", "/api/v1/cart", "").json(t)["expires_at"]; got != nil {
		t.Errorf("a cart that lives for ever expires at %v", got)
	}
}

// An edit of a guest's cart that has expired is refused with what to do.
func TestEditOfAnExpiredGuest(t *testing.T) {
	w := start(t)
	w.region.badOutcome = &regionv1.Outcome{Code: regionv1.Outcome_CODE_GUEST_EXPIRED}
	r := w.do("POST", "/api/v1/cart/items", `{"sku_id":"SKU-1","quantity":1}`, "X-User-ID", "", "X-Guest-Session", "session-1")
	if r.status != http.StatusUnauthorized || r.code(t) != "UNAUTHENTICATED" ||
		!strings.Contains(r.body, "guest session has expired: start a new one with POST /guest-sessions") {
		t.Errorf("%d %s", r.status, r.body)
	}

	for _, c := range [][2]string{{"POST", "/api/v1/cart/share"}, {"DELETE", "/api/v1/cart/share/0123456789abcdef0123456789abcdef"}} {
		r := w.do(c[0], c[1], `{"mode":"live"}`, "X-User-ID", "", "X-Guest-Session", "session-1")
		if r.status != http.StatusUnauthorized || r.code(t) != "UNAUTHENTICATED" {
			t.Errorf("%s %s: %d %s", c[0], c[1], r.status, r.body)
		}
	}
	// A cart may be erased after it was read.
	w.region.badOutcome = &regionv1.Outcome{Code: regionv1.Outcome_CODE_ERASED}
	if r := w.do("POST", "/api/v1/cart/share", `{"mode":"live"}`); r.status != http.StatusGone || r.code(t) != "ERASED" {
		t.Errorf("erased meanwhile: %d %s", r.status, r.body)
	}
}
