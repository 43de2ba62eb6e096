package main

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	"github.com/samecart/samecart/rpc"
)

// guest is a shopper who has not logged in, with a session of its own making, as
// cartd dev takes it on trust.
type guest struct {
	shopper
	id string
}

func (r *running) guest(t testing.TB) guest {
	id := fmt.Sprintf("session-%x", rand.Uint64())
	return guest{shopper{t: t, at: r.url, all: regions, client: http.DefaultClient, headers: http.Header{"X-Guest-Session": {id}}}, id}
}

// mergeAnswer is what a merge says.
type mergeAnswer struct {
	Merged    int `json:"merged_items"`
	Resolved  int `json:"conflicts_resolved"`
	Conflicts []struct {
		SKU    string `json:"sku_id"`
		Field  string `json:"field"`
		Value  int    `json:"value"`
		Values []int  `json:"values"`
	} `json:"conflicts"`
	Warnings []string `json:"warnings"`
	Next     struct {
		ID    string `json:"guest_session_id"`
		Token string `json:"token"`
	} `json:"guest_session"`
}

func mergeBody(g guest) map[string]any { return map[string]any{"guest_session_id": g.id} }

// merge brings a guest's cart into the shopper's.
func (s shopper) merge(region string, g guest) mergeAnswer {
	s.t.Helper()
	var m mergeAnswer
	a := s.do(200, region, "POST", "/api/v1/cart/merge", mergeBody(g))
	if err := json.Unmarshal(a.body, &m); err != nil {
		s.t.Fatalf("%s: %v", a.body, err)
	}
	return m
}

func (c cart) quantities() map[string]int {
	out := make(map[string]int)
	for _, it := range c.Items {
		out[it.SKU] = it.Quantity
	}
	return out
}

// shows waits until the shopper's cart has these lines and no others in all regions.
func (s shopper) shows(want map[string]int) {
	s.t.Helper()
	var c cart
	_, ok := poll(20*time.Second, func() bool {
		for _, region := range s.all {
			if c = s.cart(region); !maps.Equal(c.quantities(), want) {
				return false
			}
		}
		return true
	})
	if !ok {
		s.t.Fatalf("cart has %v, want %v", c.quantities(), want)
	}
	s.converge(20 * time.Second)
}

// example makes the carts of the login that everybody thinks of.
func example(t testing.TB, d *running, region string) (guest, shopper) {
	t.Helper()
	g, u := d.guest(t), d.shopper(t)
	u.add(region, "SKU-2", 1)
	u.add(region, "SKU-4", 3)
	g.add(region, "SKU-1", 1)
	g.add(region, "SKU-2", 2)
	g.add(region, "SKU-3", 1)
	return g, u
}

var exampleMerged = map[string]int{"SKU-1": 1, "SKU-2": 2, "SKU-3": 1, "SKU-4": 3}

func TestLogin(t *testing.T) {
	d := sharedDev(t)
	g, u := example(t, d, "us-east")
	first := u.merge("us-east", g)
	if first.Merged != 3 || first.Resolved != 1 || len(first.Conflicts) != 1 || len(first.Warnings) != 0 {
		t.Errorf("merge says %+v", first)
	} else if c := first.Conflicts[0]; c.SKU != "SKU-2" || c.Field != "quantity" || c.Value != 2 || fmt.Sprint(c.Values) != "[1 2]" {
		t.Errorf("conflict %+v", c)
	}
	if first.Next.ID == "" || first.Next.Token == "" || first.Next.ID == g.id {
		t.Errorf("no new session for the device: %+v", first.Next)
	}
	if c := u.cart("us-east"); !maps.Equal(c.quantities(), exampleMerged) { // at once
		t.Errorf("cart has %v", c.quantities())
	}
	u.shows(exampleMerged)
	// Again, in each region: the same answer, and nothing changes.
	before := u.cart("us-east").etag
	for _, region := range regions {
		if m := u.merge(region, g); m.Merged != 3 || m.Resolved != 1 {
			t.Errorf("again in %s: %+v", region, m)
		}
		if after := u.cart(region).etag; after != before {
			t.Errorf("again in %s: the cart changed", region)
		}
	}
	// Another user is too late.
	other := d.shopper(t)
	other.add("eu-west", "SKU-5", 1)
	if a := other.do(409, "eu-west", "POST", "/api/v1/cart/merge", mergeBody(g)); a.code() != "ALREADY_MERGED" {
		t.Errorf("%s", a.body)
	}
	other.shows(map[string]int{"SKU-5": 1})
	// A late edit, from a tab that is still open, in a third region.
	g.set("ap-south", "SKU-1", 4)
	g.add("ap-south", "SKU-7", 2)
	u.shows(map[string]int{"SKU-1": 4, "SKU-2": 2, "SKU-3": 1, "SKU-4": 3, "SKU-7": 2})
}

// The same merge in two regions that are cut off, a removal in one of them.
func TestLoginInTwoRegionsThatAreCutOff(t *testing.T) {
	d := sharedDev(t)
	g, u := example(t, d, "us-east")
	g.converge(10 * time.Second)
	u.converge(10 * time.Second)
	heal := d.cut(t, links...)
	for _, region := range []string{"us-east", "eu-west"} {
		if m := u.merge(region, g); m.Merged != 3 || m.Resolved != 1 {
			t.Errorf("merge in %s: %+v", region, m)
		}
	}
	u.remove("us-east", "SKU-3")
	u.add("eu-west", "SKU-9", 1)
	g.add("ap-south", "SKU-8", 1) // where nobody knows of the merge
	heal()
	u.shows(map[string]int{"SKU-1": 1, "SKU-2": 2, "SKU-4": 3, "SKU-8": 1, "SKU-9": 1})
}

// A guest of whom a region has not heard is merged; the lines follow.
func TestLoginOfAnUnknownGuest(t *testing.T) {
	d := sharedDev(t)
	heal := d.cut(t, links...)
	g, u := d.guest(t), d.shopper(t)
	g.add("us-east", "SKU-1", 2)
	u.add("eu-west", "SKU-2", 1)
	if m := u.merge("eu-west", g); m.Merged != 0 || m.Resolved != 0 {
		t.Errorf("merge of an unknown guest: %+v", m)
	}
	u.remove("eu-west", "SKU-2")
	heal()
	u.shows(map[string]int{"SKU-1": 2})
}

// Two users take the same guest's cart at the same time in regions that are cut
// off: both have its lines and are told.
func TestLoginOfTwoUsers(t *testing.T) {
	d := sharedDev(t)
	g, one := example(t, d, "us-east")
	two := d.shopper(t)
	two.add("eu-west", "SKU-6", 1)
	g.converge(10 * time.Second)
	heal := d.cut(t, links...)
	one.merge("us-east", g)
	two.merge("eu-west", g)
	heal()
	g.converge(10 * time.Second)
	g.add("ap-south", "SKU-7", 1)
	one.shows(map[string]int{"SKU-1": 1, "SKU-2": 2, "SKU-3": 1, "SKU-4": 3, "SKU-7": 1})
	two.shows(map[string]int{"SKU-1": 1, "SKU-2": 2, "SKU-3": 1, "SKU-6": 1, "SKU-7": 1})
	for _, u := range []shopper{one, two} {
		if c := u.cart("ap-south"); len(c.Warnings) != 1 {
			t.Errorf("warnings %q", c.Warnings)
		}
		if m := u.merge("us-east", g); len(m.Warnings) != 1 { // both may merge again
			t.Errorf("merge warns %q", m.Warnings)
		}
	}
}

// Twenty devices log in at once.
func TestParallelLogins(t *testing.T) {
	d := sharedDev(t)
	g, u := example(t, d, "us-east")
	var logins sync.WaitGroup
	for i := range 20 {
		logins.Go(func() {
			eventually(t, 20*time.Second, "the merge is acknowledged", func() bool {
				a, err := u.try(regions[i%len(regions)], "POST", "/api/v1/cart/merge", mergeBody(g))
				return err == nil && a.status == 200
			})
		})
	}
	logins.Wait()
	u.shows(exampleMerged)
}

// A merged cart may hold two currencies: both stay, and the page says so.
func TestLoginWithAnotherCurrency(t *testing.T) {
	d := sharedDev(t)
	g, u := d.guest(t), d.shopper(t)
	u.add("us-east", "SKU-1", 1)
	g.do(200, "us-east", "POST", "/api/v1/cart/items", map[string]any{"sku_id": "85123A", "quantity": 2})
	u.merge("us-east", g)
	u.shows(map[string]int{"SKU-1": 1, "85123A": 2})
	if c := u.cart("us-east"); len(c.Warnings) != 1 {
		t.Errorf("warnings %q", c.Warnings)
	}
}

// A token of the guest's cart is one of the user's, once that has it.
func TestTokenOfAMergedGuest(t *testing.T) {
	d := sharedDev(t)
	g, u := example(t, d, "us-east")
	u.merge("us-east", g)
	for i := range 5 {
		name := fmt.Sprintf("SKU-%d", 20+i)
		token := g.add("us-east", name, 1).header.Get("Cart-Token")
		for _, region := range regions {
			eventually(t, 10*time.Second, region+" knows of the merge", func() bool {
				c := u.with("Cart-Token", token).cart(region)
				return !c.Stale && c.quantity(name) == 1
			})
		}
	}
}

func TestSettingOfTheMergeRule(t *testing.T) {
	d := start(t, "", "--ephemeral") // its settings are everybody's
	ctx := t.Context()
	change := func(region, name, value string) (*connect.Response[adminv1.SettingsResponse], error) {
		return d.admin(region).Settings(ctx, connect.NewRequest(&adminv1.SettingsRequest{Name: name, Value: value}))
	}
	for _, bad := range [][2]string{{"merge-rule", "least"}, {"rule", "max"}} {
		if _, err := change("us-east", bad[0], bad[1]); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%v: %v", bad, err)
		}
	}
	if all, err := change("us-east", "merge-rule", "sum"); err != nil || all.Msg.Settings[0].Value != "sum" {
		t.Fatalf("set: %v, %v", all, err)
	}
	eventually(t, 10*time.Second, "the setting is in force in eu-west", func() bool {
		g, u := example(t, d, "eu-west")
		u.merge("eu-west", g)
		return u.cart("eu-west").quantity("SKU-2") == 3
	})
	g, u := example(t, d, "eu-west")
	if m := u.merge("eu-west", g); m.Merged != 3 || m.Resolved != 1 || m.Conflicts[0].Value != 3 {
		t.Errorf("merge says %+v", m)
	}
	u.shows(map[string]int{"SKU-1": 1, "SKU-2": 3, "SKU-3": 1, "SKU-4": 3})
	u.merge("us-east", g)
	g.set("ap-south", "SKU-2", 4) // counts by maximum
	u.shows(map[string]int{"SKU-1": 1, "SKU-2": 4, "SKU-3": 1, "SKU-4": 3})
}

// guestKey makes the key that guests' sessions are signed with.
func (a *authority) guestKey() string {
	a.t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		a.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.pem("guest.key", "PRIVATE KEY", der)
}

// testSignedGuest: a session that one region made is a session in the other; a merge
// needs its token.
func testSignedGuest(t *testing.T, d *deployment) {
	var session struct {
		ID    string `json:"guest_session_id"`
		Token string `json:"token"`
	}
	made := d.nobody().do(200, "us-east/2", "POST", "/api/v1/guest-sessions", nil)
	if err := json.Unmarshal(made.body, &session); err != nil || session.Token == "" {
		t.Fatalf("%s: %v", made.body, err)
	}
	g := d.nobody().with("Authorization", "Bearer "+session.Token)
	g.add("eu-west/1", "SKU-1", 2)
	u := d.shopper()
	u.add("us-east/1", "SKU-2", 1)
	merge := map[string]any{"guest_session_id": session.ID}
	u.do(400, "us-east/1", "POST", "/api/v1/cart/merge", merge)
	other := d.bearer(rpc.Principal{Kind: rpc.User, ID: "other"})
	merge["guest_token"] = other[len("Bearer "):]
	u.do(403, "us-east/1", "POST", "/api/v1/cart/merge", merge)
	merge["guest_token"] = session.Token
	u.do(200, "us-east/1", "POST", "/api/v1/cart/merge", merge)
	u.shows(map[string]int{"SKU-1": 2, "SKU-2": 1})
	d.nobody().do(503, "gateway", "POST", "/api/v1/guest-sessions", nil) // which was given no key
}

// A key is remembered with the user's cart, and an If-Match is about it.
func TestLoginWithAKey(t *testing.T) {
	d := sharedDev(t)
	g, u := example(t, d, "us-east")
	other := d.guest(t)
	other.add("us-east", "SKU-9", 1)
	stale := u.cart("us-east").etag
	u.add("us-east", "SKU-4", 1)
	if a := u.with("If-Match", stale).do(409, "us-east", "POST", "/api/v1/cart/merge", mergeBody(g)); a.code() != "VERSION_CONFLICT" {
		t.Errorf("%s", a.body)
	}
	keyed := u.with("Idempotency-Key", "login-1")
	for _, replayed := range []string{"", "true"} {
		if a := keyed.do(200, "us-east", "POST", "/api/v1/cart/merge", mergeBody(g)); a.header.Get("Idempotent-Replayed") != replayed {
			t.Errorf("replayed %q, want %q", a.header.Get("Idempotent-Replayed"), replayed)
		}
	}
	if a := keyed.do(422, "us-east", "POST", "/api/v1/cart/merge", mergeBody(other)); a.code() != "IDEMPOTENCY_KEY_REUSED" {
		t.Errorf("%s", a.body)
	}
	u.shows(map[string]int{"SKU-1": 1, "SKU-2": 2, "SKU-3": 1, "SKU-4": 4})
	d.shopper(t).merge("us-east", other) // which was not closed by what was refused
}
