package rpc_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/rpc"
)

const mergePath = "/api/v1/cart/merge"

// guestKey is a key that signs guests' sessions, and what takes them.
func guestKey(t testing.TB) (private []byte, sessions *rpc.GuestSessions) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, _ = keyPair(t, key)
	return private, must[*rpc.GuestSessions](t)(rpc.NewGuestSessions(private))
}

// inPublic has callers known by tokens, guests by those that the server signs.
func inPublic(t testing.TB, sign *func(p rpc.Principal) string, guests *rpc.GuestSessions) func(*world) {
	private, public := keyPair(t, signers(t)["EdDSA"])
	*sign = func(p rpc.Principal) string {
		return must[string](t)(rpc.SignToken(private, p, time.Now(), time.Hour))
	}
	return func(w *world) {
		w.auth = must[*rpc.TokenAuthenticator](t)(rpc.NewTokenAuthenticator(public)).WithGuests(guests)
		w.cfg.Guests = guests
	}
}

// session asks for a guest session.
func (w *world) session() (id, token string) {
	w.t.Helper()
	r := w.do("POST", "/api/v1/guest-sessions", "")
	v := r.json(w.t)
	id, _ = v["guest_session_id"].(string)
	token, _ = v["token"].(string)
	expires, _ := v["expires_at"].(string)
	at, err := time.Parse(time.RFC3339, expires)
	if r.status != 200 || len(id) < 26 || token == "" || err != nil || time.Until(at) < 24*time.Hour {
		w.t.Fatalf("%d %s", r.status, r.body)
	}
	return id, token
}

func body(t testing.TB, pairs ...string) string {
	t.Helper()
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestGuestSessions(t *testing.T) {
	_, guests := guestKey(t)
	var sign func(rpc.Principal) string
	w := start(t, inPublic(t, &sign, guests))
	id, token := w.session()
	if other, _ := w.session(); other == id {
		t.Error("two sessions have one id")
	}
	// The token is the guest's, and nobody else's.
	if r := w.do("POST", cartItems, `{"sku_id":"SKU-456","quantity":2}`, "Authorization", "Bearer "+token); r.status != 200 || r.json(t)["cart_id"] != "guest:"+id {
		t.Fatalf("%d %s", r.status, r.body)
	}
	// Over Connect as well, without credentials.
	s, err := w.client().CreateGuestSession(t.Context(), connect.NewRequest(&cartv1.CreateGuestSessionRequest{}))
	if err != nil || s.Msg.GetToken() == "" || s.Msg.GetGuestSessionId() == "" || s.Msg.GetExpiresAtMs() == 0 {
		t.Errorf("%v, %v", s, err)
	}
}

// The key of guests' sessions says who a guest is, and nothing else.
func TestGuestKeyMakesNoUsers(t *testing.T) {
	private, guests := guestKey(t)
	var sign func(rpc.Principal) string
	w := start(t, inPublic(t, &sign, guests))
	for _, p := range []rpc.Principal{
		{Kind: rpc.User, ID: "ada"}, {Kind: rpc.Service, ID: "s", Scopes: []string{"admin"}},
	} {
		forged := must[string](t)(rpc.SignToken(private, p, time.Now(), time.Hour))
		if r := w.do("GET", "/api/v1/cart", "", "Authorization", "Bearer "+forged); r.status != 401 {
			t.Errorf("%s by the guests' key: %d", p.Kind, r.status)
		}
	}
	scoped := must[string](t)(rpc.SignToken(private, rpc.Principal{Kind: rpc.Guest, ID: "g", Scopes: []string{"price"}}, time.Now(), time.Hour))
	r := w.do("POST", cartItems, `{"sku_id":"SKU-456","quantity":2,"price":1}`, "Authorization", "Bearer "+scoped)
	if r.status != 403 {
		t.Errorf("a guest with a scope: %d %s", r.status, r.body)
	}
}

func TestServerWithoutGuestKey(t *testing.T) {
	w := start(t)
	if r := w.do("POST", "/api/v1/guest-sessions", ""); r.status != 503 || r.code(t) != "DEPENDENCY_DOWN" {
		t.Errorf("%d %s", r.status, r.body)
	}
	r := w.do("POST", mergePath, body(t, "guest_session_id", "g"))
	if v := r.json(t); r.status != 200 || v["guest_session"] != nil {
		t.Errorf("%d %s", r.status, r.body)
	}
}

// The example of the contract, in REST and over Connect.
func TestMerge(t *testing.T) {
	_, guests := guestKey(t)
	w := start(t, func(w *world) { w.cfg.Guests = guests })
	for sku, n := range map[string]string{"SKU-2": "1", "SKU-4": "3"} {
		w.add(sku, n)
	}
	for sku, n := range map[string]string{"SKU-1": "1", "SKU-2": "2", "SKU-3": "1"} {
		w.add(sku, n, "X-User-ID", "", "X-Guest-Session", "session-abc")
	}
	r := w.do("POST", mergePath, body(t, "guest_session_id", "session-abc"))
	v := r.json(t)
	conflicts, _ := v["conflicts"].([]any)
	if r.status != 200 || row(v["merged_items"], v["conflicts_resolved"], v["item_count"], v["cart_id"]) != "3 1 7 cart:user-123" || len(conflicts) != 1 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if c, _ := conflicts[0].(map[string]any); row(c["sku_id"], c["field"], c["value"], c["values"]) != "SKU-2 quantity 2 [1 2]" {
		t.Errorf("conflict %v", c)
	}
	if next, _ := v["guest_session"].(map[string]any); next["guest_session_id"] == "session-abc" || next["token"] == nil {
		t.Errorf("session for after the logout: %v", next)
	}
	page := w.do("GET", "/api/v1/cart", "")
	if r.header.Get("ETag") != page.header.Get("ETag") || r.header.Get("Cart-Token") != page.header.Get("Cart-Token") {
		t.Errorf("the answer is not about the cart as it is: %v, %v", r.header, page.header)
	}
	m, err := w.client().MergeCart(t.Context(), request(&cartv1.MergeCartRequest{GuestSessionId: "session-abc"}))
	if err != nil || m.Msg.GetMergedItems() != 3 || m.Msg.GetConflictsResolved() != 1 || m.Header().Get("ETag") != r.header.Get("ETag") {
		t.Errorf("again over Connect: %v, %v", m, err)
	}
	_, err = w.client().MergeCart(t.Context(), request(&cartv1.MergeCartRequest{}))
	if detailOf(t, err).GetCode() != "MISSING_FIELD" {
		t.Errorf("over Connect without a session: %v", err)
	}
}

func TestMergesThatAreRefused(t *testing.T) {
	w := start(t)
	w.add("SKU-1", "1")
	w.add("SKU-2", "1", "X-User-ID", "", "X-Guest-Session", "taken")
	if r := w.do("POST", mergePath, body(t, "guest_session_id", "taken"), "X-User-ID", "other"); r.status != 200 {
		t.Fatal(r.body)
	}
	before := w.digest()
	for _, c := range []struct {
		name, body, code string
		status           int
		headers          []string
	}{
		{"no JSON", `{`, "MALFORMED_JSON", 400, nil},
		{"unknown field", `{"guest":"x"}`, "UNKNOWN_FIELD", 400, nil},
		{"no session", `{}`, "MISSING_FIELD", 400, nil},
		{"empty session", `{"guest_session_id":""}`, "MISSING_FIELD", 400, nil},
		{"number", `{"guest_session_id":7}`, "INVALID_FIELD", 400, nil},
		{"spaces", `{"guest_session_id":"a b"}`, "INVALID_FIELD", 400, nil},
		{"long", `{"guest_session_id":"` + strings.Repeat("x", 129) + `"}`, "INVALID_FIELD", 400, nil},
		{"token is a number", `{"guest_session_id":"g","guest_token":7}`, "INVALID_FIELD", 400, nil},
		{"of another user", `{"guest_session_id":"taken"}`, "ALREADY_MERGED", 409, nil},
		{"as a guest", `{"guest_session_id":"g"}`, "FORBIDDEN", 403, []string{"X-User-ID", "", "X-Guest-Session", "h"}},
		{"as a service", `{"guest_session_id":"g"}`, "FORBIDDEN", 403, []string{"X-User-ID", "", "X-Service-Scopes", "admin"}},
		{"if-match", `{"guest_session_id":"g"}`, "VERSION_CONFLICT", 409, []string{"If-Match", `"0123456789abcdef0123456789abcdef"`}},
		{"bad if-match", `{"guest_session_id":"g"}`, "VERSION_CONFLICT", 409, []string{"If-Match", `"x"`}},
		{"long key", `{"guest_session_id":"g"}`, "INVALID_HEADER", 400, []string{"Idempotency-Key", strings.Repeat("k", 256)}},
	} {
		r := w.do("POST", mergePath, c.body, c.headers...)
		if r.status != c.status || r.code(t) != c.code {
			t.Errorf("%s: %d %s, want %d %s", c.name, r.status, r.body, c.status, c.code)
		}
		if w.digest() != before {
			t.Fatalf("%s: the cart changed", c.name)
		}
	}
	w.set(func(r *fakeRegion) { r.editErr = region.ErrNoQuorum })
	if r := w.do("POST", mergePath, body(t, "guest_session_id", "g")); r.status != 503 || r.code(t) != "NO_QUORUM" {
		t.Errorf("no quorum: %d %s", r.status, r.body)
	}
}

// A key may be sent again for the same merge, and for nothing else.
func TestKeyOfAMerge(t *testing.T) {
	w := start(t)
	w.add("SKU-2", "1", "X-User-ID", "", "X-Guest-Session", "g")
	w.add("SKU-1", "1")
	merge := func(session string) reply {
		return w.do("POST", mergePath, body(t, "guest_session_id", session), "Idempotency-Key", "k1")
	}
	for _, replayed := range []string{"", "true"} {
		if r := merge("g"); r.status != 200 || r.header.Get("Idempotent-Replayed") != replayed || r.json(t)["merged_items"] != json.Number("1") {
			t.Errorf("%d %v %s", r.status, r.header, r.body)
		}
	}
	if r := merge("h"); r.status != 422 || r.code(t) != "IDEMPOTENCY_KEY_REUSED" {
		t.Errorf("another guest: %d %s", r.status, r.body)
	}
	if r := w.do("POST", cartItems, `{"sku_id":"SKU-456","quantity":2}`, "Idempotency-Key", "k1"); r.status != 422 {
		t.Errorf("an add: %d %s", r.status, r.body)
	}
	etag := w.do("GET", "/api/v1/cart", "").header.Get("ETag")
	if r := w.do("POST", mergePath, body(t, "guest_session_id", "g"), "If-Match", etag); r.status != 200 {
		t.Errorf("If-Match: %d %s", r.status, r.body)
	}
}

// In public a merge needs proof of both identities.
func TestMergeNeedsBothProofs(t *testing.T) {
	_, guests := guestKey(t)
	_, others := guestKey(t)
	var sign func(rpc.Principal) string
	w := start(t, inPublic(t, &sign, guests))
	user := "Bearer " + sign(rpc.Principal{Kind: rpc.User, ID: "user-123"})
	id, token := w.session()
	_, another := w.session()
	foreign := start(t, func(w *world) { w.cfg.Guests = others })
	_, forged := foreign.session()
	w.do("POST", cartItems, `{"sku_id":"SKU-456","quantity":2}`, "Authorization", "Bearer "+token)
	before := w.digest()
	for _, c := range []struct {
		name, token, code string
		status            int
	}{
		{"none", "", "MISSING_FIELD", 400},
		{"no token", "abc", "FORBIDDEN", 403},
		{"spaces", "abc def", "FORBIDDEN", 403},
		{"very long", strings.Repeat("x", 9<<10), "FORBIDDEN", 403},
		{"another guest's", another, "FORBIDDEN", 403},
		{"by another key", forged, "FORBIDDEN", 403},
		{"a user's", strings.TrimPrefix(user, "Bearer "), "FORBIDDEN", 403},
	} {
		r := w.do("POST", mergePath, body(t, "guest_session_id", id, "guest_token", c.token), "Authorization", user)
		if r.status != c.status || r.code(t) != c.code {
			t.Errorf("%s: %d %s, want %d %s", c.name, r.status, r.body, c.status, c.code)
		}
	}
	if w.digest() != before {
		t.Fatal("a merge without proof changed the cart")
	}
	if r := w.do("POST", mergePath, body(t, "guest_session_id", id, "guest_token", token), "Authorization", user); r.status != 200 || r.json(t)["merged_items"] != json.Number("1") {
		t.Errorf("with both: %d %s", r.status, r.body)
	}
	// One that the shop signed itself is as good.
	own := sign(rpc.Principal{Kind: rpc.Guest, ID: "g"})
	if r := w.do("POST", mergePath, body(t, "guest_session_id", "g", "guest_token", own), "Authorization", user); r.status != 200 {
		t.Errorf("a guest's token of the shop: %d %s", r.status, r.body)
	}
	// In development none is needed, but one that is sent must be right.
	dev := start(t, func(w *world) { w.cfg.Guests = guests })
	if r := dev.do("POST", mergePath, body(t, "guest_session_id", "g", "guest_token", token)); r.status != 403 {
		t.Errorf("another guest's token in development: %d %s", r.status, r.body)
	}
}

// A token of the guest's cart is translated for the user's, once it was merged.
func TestTokenOfAGuest(t *testing.T) {
	w := start(t)
	token := w.add("SKU-2", "1", "X-User-ID", "", "X-Guest-Session", "g").header.Get("Cart-Token")
	if r := w.do("GET", "/api/v1/cart", "", "Cart-Token", token); r.json(t)["stale"] != false {
		t.Errorf("before the merge it says nothing: %s", r.body)
	}
	w.do("POST", mergePath, body(t, "guest_session_id", "g"), "Cart-Token", token)
	if r := w.do("GET", "/api/v1/cart", "", "Cart-Token", token); r.json(t)["stale"] != false {
		t.Errorf("what was merged is there: %s", r.body)
	}
	token = w.add("SKU-2", "1", "X-User-ID", "", "X-Guest-Session", "g").header.Get("Cart-Token")
	if r := w.do("GET", "/api/v1/cart", "", "Cart-Token", token); r.json(t)["stale"] != true {
		t.Errorf("what is not there yet was not missed: %s", r.body)
	}
}

// A count asks for it too, where it is read from badges.
func TestCountWithATokenOfAGuest(t *testing.T) {
	for _, set := range []func(*world){func(*world) {}, withRecords(records{})} {
		w := start(t, set)
		token := w.add("SKU-2", "1", "X-User-ID", "", "X-Guest-Session", "g").header.Get("Cart-Token")
		w.do("POST", mergePath, body(t, "guest_session_id", "g"), "Cart-Token", token)
		if r := w.do("GET", "/api/v1/cart/count", "", "Cart-Token", token); r.body != `{"item_count":1}`+"\n" {
			t.Errorf("what was merged is there: %s", r.body)
		}
		token = w.add("SKU-2", "1", "X-User-ID", "", "X-Guest-Session", "g").header.Get("Cart-Token")
		if r := w.do("GET", "/api/v1/cart/count", "", "Cart-Token", token); r.json(t)["stale"] != true {
			t.Errorf("what is not there yet was not missed: %s", r.body)
		}
	}
}

// A user's cart that was erased takes no guest's cart, and leaves that the guest's.
func TestMergeIntoAnErasedCart(t *testing.T) {
	w := start(t)
	w.add("SKU-1", "1")
	w.add("SKU-2", "1", "X-User-ID", "", "X-Guest-Session", "g")
	if r := w.do("DELETE", "/api/v1/me", ""); r.status != 200 {
		t.Fatal(r.body)
	}
	for _, headers := range [][]string{nil, {"Idempotency-Key", "k"}} {
		if r := w.do("POST", mergePath, body(t, "guest_session_id", "g"), headers...); r.status != 410 || r.code(t) != "ERASED" {
			t.Errorf("%v: %d %s", headers, r.status, r.body)
		}
	}
	if r := w.do("POST", mergePath, body(t, "guest_session_id", "g"), "X-User-ID", "other"); r.status != 200 || row(r.json(t)["merged_items"]) != "1" {
		t.Errorf("into another user's: %d %s", r.status, r.body)
	}
	// It may be erased in between.
	w.set(func(r *fakeRegion) { r.badOutcome = &regionv1.Outcome{Code: regionv1.Outcome_CODE_ERASED} })
	if r := w.do("POST", mergePath, body(t, "guest_session_id", "g"), "X-User-ID", "other"); r.status != 410 || r.code(t) != "ERASED" {
		t.Errorf("erased in between: %d %s", r.status, r.body)
	}
}
