package rpc_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/golang-jwt/jwt/v5"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/rpc"
)

// keyPair returns PEM files of a key.
func keyPair(t testing.TB, signer crypto.Signer) (private, public []byte) {
	t.Helper()
	a, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		t.Fatal(err)
	}
	b, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: a}), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: b})
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func signers(t testing.TB) map[string]crypto.Signer {
	t.Helper()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{
		"EdDSA": ed,
		"ES256": must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)),
		"RS256": must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048)),
	}
}

func bearer(token string) http.Header {
	return http.Header{"Authorization": {"Bearer " + token}}
}

func TestTokensOfEveryKind(t *testing.T) {
	for name, signer := range signers(t) {
		private, public := keyPair(t, signer)
		a := must[*rpc.TokenAuthenticator](t)(rpc.NewTokenAuthenticator(public))
		want := rpc.Principal{Kind: rpc.User, ID: "user-123", Scopes: []string{"price"}}
		token := must[string](t)(rpc.SignToken(private, want, time.Now(), time.Hour))
		got, err := a.Authenticate(t.Context(), bearer(token))
		if err != nil || got.Kind != want.Kind || got.ID != want.ID || !got.Has("price") || got.Has("admin") {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		// A flipped bit anywhere in the signature is no signature.
		if _, err := a.Authenticate(t.Context(), bearer(token[:len(token)-8]+"AAAAAAAA")); err == nil {
			t.Errorf("%s: a forged signature was taken", name)
		}
	}
}

func TestTokensThatAreRefused(t *testing.T) {
	keys := signers(t)
	edPrivate, edPublic := keyPair(t, keys["EdDSA"])
	rsPrivate, rsPublic := keyPair(t, keys["RS256"])
	_, other, _ := ed25519.GenerateKey(rand.Reader)
	otherPrivate, _ := keyPair(t, other)
	a := must[*rpc.TokenAuthenticator](t)(rpc.NewTokenAuthenticator(edPublic, rsPublic))
	now := time.Now()
	user := rpc.Principal{Kind: rpc.User, ID: "u"}
	sign := func(claims jwt.MapClaims) string {
		base := jwt.MapClaims{"sub": "u", "kind": "user", "iss": "samecart", "aud": "samecart", "exp": now.Add(time.Hour).Unix()}
		for k, v := range claims {
			if v == nil {
				delete(base, k)
			} else {
				base[k] = v
			}
		}
		return must[string](t)(jwt.NewWithClaims(jwt.SigningMethodEdDSA, base).SignedString(keys["EdDSA"]))
	}
	if _, err := a.Authenticate(t.Context(), bearer(sign(nil))); err != nil {
		t.Fatalf("a good token: %v", err)
	}
	if _, err := a.Authenticate(t.Context(), bearer(must[string](t)(rpc.SignToken(rsPrivate, user, now, time.Hour)))); err != nil {
		t.Fatalf("the second key: %v", err)
	}
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." +
		base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"u","kind":"user","iss":"samecart","aud":"samecart","exp":9999999999}`)) + "."
	// The public key as an HMAC secret: the classic confusion.
	hmac := must[string](t)(jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "u", "kind": "user", "iss": "samecart", "aud": "samecart", "exp": 9999999999}).SignedString(rsPublic))
	for name, c := range map[string]struct {
		header http.Header
		code   rpc.Code
	}{
		"no header":      {http.Header{}, rpc.Unauthenticated},
		"two headers":    {http.Header{"Authorization": {"Bearer a", "Bearer b"}}, rpc.InvalidHeader},
		"basic":          {http.Header{"Authorization": {"Basic dTpw"}}, rpc.Unauthenticated},
		"garbage":        {bearer("garbage"), rpc.Unauthenticated},
		"too long":       {bearer(strings.Repeat("a", 9000)), rpc.InvalidHeader},
		"none":           {bearer(none), rpc.Unauthenticated},
		"HMAC":           {bearer(hmac), rpc.Unauthenticated},
		"other key":      {bearer(must[string](t)(rpc.SignToken(otherPrivate, user, now, time.Hour))), rpc.Unauthenticated},
		"expired":        {bearer(must[string](t)(rpc.SignToken(edPrivate, user, now.Add(-2*time.Hour), time.Hour))), rpc.Unauthenticated},
		"no expiry":      {bearer(sign(jwt.MapClaims{"exp": nil})), rpc.Unauthenticated},
		"other issuer":   {bearer(sign(jwt.MapClaims{"iss": "evil"})), rpc.Unauthenticated},
		"other audience": {bearer(sign(jwt.MapClaims{"aud": "else"})), rpc.Unauthenticated},
		"no audience":    {bearer(sign(jwt.MapClaims{"aud": nil})), rpc.Unauthenticated},
		"not yet":        {bearer(sign(jwt.MapClaims{"nbf": now.Add(time.Hour).Unix()})), rpc.Unauthenticated},
		"no subject":     {bearer(sign(jwt.MapClaims{"sub": nil})), rpc.Unauthenticated},
		"bad subject":    {bearer(sign(jwt.MapClaims{"sub": "a b"})), rpc.Unauthenticated},
		"no kind":        {bearer(sign(jwt.MapClaims{"kind": nil})), rpc.Unauthenticated},
		"other kind":     {bearer(sign(jwt.MapClaims{"kind": "root"})), rpc.Unauthenticated},
		"trusted header": {http.Header{"X-User-Id": {"u"}}, rpc.Unauthenticated},
	} {
		p, err := a.Authenticate(t.Context(), c.header)
		var e *rpc.Error
		if !asError(err, &e) || e.Code != c.code {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

func asError(err error, e **rpc.Error) bool {
	return errors.As(err, e)
}

func TestKeysThatAreRefused(t *testing.T) {
	weak := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 1024))
	curve := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	_, weakPublic := keyPair(t, weak)
	curvePrivate, curvePublic := keyPair(t, curve)
	good, goodPublic := keyPair(t, signers(t)["EdDSA"])
	for name, key := range map[string][]byte{
		"no PEM": []byte("key"), "a private key": good, "short RSA": weakPublic, "other curve": curvePublic,
		"not a key": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}),
	} {
		if _, err := rpc.NewTokenAuthenticator(goodPublic, key); err == nil {
			t.Errorf("%s was taken as a verifying key", name)
		}
	}
	if _, err := rpc.NewTokenAuthenticator(); err == nil {
		t.Error("no key was taken")
	}
	user := rpc.Principal{Kind: rpc.User, ID: "u"}
	for name, key := range map[string][]byte{"no PEM": []byte("key"), "a public key": goodPublic, "other curve": curvePrivate} {
		if _, err := rpc.SignToken(key, user, time.Now(), time.Hour); err == nil {
			t.Errorf("%s was taken as a signing key", name)
		}
	}
	for _, p := range []rpc.Principal{{}, {Kind: rpc.User}, {Kind: "root", ID: "u"}, {Kind: rpc.User, ID: "a b"}} {
		if _, err := rpc.SignToken(good, p, time.Now(), time.Hour); err == nil {
			t.Errorf("%+v got a token", p)
		}
	}
	file := filepath.Join(t.TempDir(), "key.pem")
	if _, err := rpc.LoadTokenAuthenticator(file); err == nil {
		t.Error("a missing file was taken")
	}
	if err := os.WriteFile(file, goodPublic, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := rpc.LoadTokenAuthenticator(file); err != nil {
		t.Error(err)
	}
}

// everyCall lists every call there is: REST routes with a body that they
// accept, and every procedure of the schema.
func everyCall() [][3]string {
	calls := [][3]string{
		{"POST", cartItems, `{"sku_id":"SKU-1","quantity":1}`},
		{"PUT", cartItems + "/SKU-1", `{"quantity":1}`},
		{"DELETE", cartItems + "/SKU-1", ""},
		{"GET", "/api/v1/cart", ""},
		{"DELETE", "/api/v1/cart", ""},
		{"GET", "/api/v1/cart/count", ""},
		{"GET", "/api/v1/cart/watch", ""},
		{"GET", "/api/v1/cart/explain", ""},
		{"GET", "/api/v1/cart/shipping", ""},
		{"POST", "/api/v1/cart/batch", `{"edits":[{"clear":{}}]}`},
		{"POST", "/api/v1/cart/merge", `{"guest_session_id":"ada"}`},
		{"POST", cartItems + "/SKU-1/save", ""},
		{"POST", "/api/v1/cart/undo", ""},
		{"GET", "/api/v1/me/export", ""},
		{"DELETE", "/api/v1/me", ""},
		{"POST", "/api/v1/cart/saved/SKU-1/move", ""},
		{"POST", "/api/v1/cart/promotions", `{"code":"TEN"}`},
		{"DELETE", "/api/v1/cart/promotions/TEN", ""},
		{"POST", "/api/v1/cart/share", `{"mode":"live"}`},
		{"DELETE", "/api/v1/cart/share/0123456789abcdef0123456789abcdef", ""},
		{"POST", "/api/v1/shared/token/copy", ""},
		{"POST", redeemTEN, ""},
	}
	methods := cartv1.File_cart_v1_cart_proto.Services().ByName("CartService").Methods()
	for i := range methods.Len() {
		switch name := methods.Get(i).Name(); name {
		case "CreateGuestSession": // public, see TestGuestSessions
		case "GetShared": // public: its token is all that it needs
		default:
			calls = append(calls, [3]string{"POST", "/cart.v1.CartService/" + string(name), `{}`})
		}
	}
	return calls
}

// No call lets in who has no credentials, or acts on another's cart.
func TestEveryCallAuthenticates(t *testing.T) {
	private, public := keyPair(t, signers(t)["EdDSA"])
	w := start(t, func(w *world) {
		w.auth = must[*rpc.TokenAuthenticator](t)(rpc.NewTokenAuthenticator(public))
		w.mounts = []rpc.Mount{
			{Pattern: "/metrics", Public: true, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})},
			{Pattern: "/admin.v1.AdminService/", Scope: rpc.ScopeAdmin, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if p, ok := rpc.PrincipalFrom(r.Context()); !ok || !p.Has(rpc.ScopeAdmin) {
					w.WriteHeader(http.StatusTeapot)
				}
			})},
			{Pattern: "/forgotten", Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})},
		}
	})
	token := func(p rpc.Principal) string {
		return "Bearer " + must[string](t)(rpc.SignToken(private, p, time.Now(), time.Hour))
	}
	ada, bob := token(rpc.Principal{Kind: rpc.User, ID: "ada"}), token(rpc.Principal{Kind: rpc.User, ID: "bob"})
	guest := token(rpc.Principal{Kind: rpc.Guest, ID: "ada"}) // the same id, another kind
	service := token(rpc.Principal{Kind: rpc.Service, ID: "s", Scopes: []string{"price", "admin"}})
	carts := func() string {
		w.region.mu.Lock()
		defer w.region.mu.Unlock()
		var b strings.Builder
		for _, id := range []string{"cart:ada", "guest:ada"} {
			d := digestOf(id, w.region.cart(id))
			b.Write(d[:])
		}
		return b.String()
	}
	for _, who := range []string{ada, guest} {
		if r := w.do("POST", cartItems, `{"sku_id":"SKU-456","quantity":2}`, "Authorization", who); r.status != 200 {
			t.Fatal(r.body)
		}
	}
	before := carts()
	for _, c := range everyCall() {
		// The trusted header of do counts for nothing here.
		if r := w.do(c[0], c[1], c[2]); r.status != 401 && !strings.Contains(r.body, "UNAUTHENTICATED") {
			t.Errorf("%s %s without credentials: %d %s", c[0], c[1], r.status, r.body)
		}
		if r := w.do(c[0], c[1], c[2], "Authorization", service); r.status != 403 && !strings.Contains(r.body, "FORBIDDEN") {
			t.Errorf("%s %s as a service: %d %s", c[0], c[1], r.status, r.body)
		}
		if strings.HasSuffix(c[1], "watch") || strings.HasSuffix(c[1], "WatchCart") {
			continue // it would not end; who is let in is the same code
		}
		r := w.do(c[0], c[1], c[2], "Authorization", bob)
		if strings.Contains(r.body, "ada") || strings.Contains(r.body, "UNAUTHENTICATED") {
			t.Errorf("%s %s as bob: %d %s", c[0], c[1], r.status, r.body)
		}
		if carts() != before {
			t.Fatalf("%s %s as bob changed ada's cart", c[0], c[1])
		}
	}
	// Nothing was left out of the list.
	w.mu.Lock()
	made := map[string]bool{"GET /api/v1/regions": true, "POST /api/v1/guest-sessions": true, "GET /api/v1/shared/{token}": true} // public, below
	for _, c := range w.calls {
		made[c.Procedure] = true
	}
	w.mu.Unlock()
	for _, name := range rpc.RESTRoutes() {
		if !made[name] {
			t.Errorf("%s was not tried", name)
		}
	}
	for _, c := range []struct {
		path, who string
		status    int
	}{
		{"/metrics", "", 200}, {"/api/v1/regions", "", 200}, {"/api/v1/shared/token", "", 404}, {"/healthz", "", 200}, {"/readyz", "", 200},
		{"/admin.v1.AdminService/Regions", "", 401}, {"/admin.v1.AdminService/Regions", ada, 403}, {"/admin.v1.AdminService/Regions", service, 200},
		{"/forgotten", service, 403}, {"/forgotten", ada, 403},
	} {
		if r := w.do("GET", c.path, "", "Authorization", c.who); r.status != c.status {
			t.Errorf("%s as %.12q: %d %s, want %d", c.path, c.who, r.status, r.body, c.status)
		}
	}
	// An administrator's Connect client gets its refusal in Connect's form.
	r := w.do("POST", "/admin.v1.AdminService/Regions", `{}`, "Authorization", ada)
	var body struct{ Code string }
	if err := json.Unmarshal([]byte(r.body), &body); err != nil || body.Code != "permission_denied" {
		t.Errorf("%d %s", r.status, r.body)
	}
	_, err := w.client(connect.WithGRPC()).GetCart(t.Context(), request(&cartv1.GetCartRequest{}))
	if detailOf(t, err).GetCode() != "UNAUTHENTICATED" {
		t.Errorf("gRPC: %v", err)
	}
}

func TestTrustedHeaders(t *testing.T) {
	for name, c := range map[string]struct {
		header http.Header
		cart   string
		code   rpc.Code
	}{
		"user":           {http.Header{"X-User-Id": {"u"}}, "cart:u", ""},
		"guest":          {http.Header{"X-Guest-Session": {"session-abc"}}, "guest:session-abc", ""},
		"both":           {http.Header{"X-User-Id": {"u"}, "X-Guest-Session": {"g"}}, "cart:u", ""},
		"empty user":     {http.Header{"X-User-Id": {""}, "X-Guest-Session": {"g"}}, "", rpc.InvalidHeader},
		"two users":      {http.Header{"X-User-Id": {"u", "v"}}, "", rpc.InvalidHeader},
		"two scopes":     {http.Header{"X-Service-Scopes": {"a", "b"}}, "", rpc.InvalidHeader},
		"not ASCII":      {http.Header{"X-User-Id": {"ü"}}, "", rpc.InvalidHeader},
		"control":        {http.Header{"X-User-Id": {"a\tb"}}, "", rpc.InvalidHeader},
		"nobody":         {http.Header{}, "", rpc.Unauthenticated},
		"service":        {http.Header{"X-Service-Scopes": {" price , admin,"}}, "", ""},
		"128 characters": {http.Header{"X-User-Id": {strings.Repeat("u", 128)}}, "cart:" + strings.Repeat("u", 128), ""},
	} {
		p, err := rpc.TrustedHeaders{}.Authenticate(t.Context(), c.header)
		var e *rpc.Error
		if asError(err, &e); c.code != "" && (e == nil || e.Code != c.code) || c.code == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if id, _ := p.CartID(); err == nil && id != c.cart {
			t.Errorf("%s: cart %q", name, id)
		}
		if name == "service" && (!p.Has("price") || !p.Has("admin") || len(p.Scopes) != 2) {
			t.Errorf("scopes %q", p.Scopes)
		}
	}
}
