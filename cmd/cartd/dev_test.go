package main

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	adminv1 "github.com/samecart/samecart/proto/admin/v1"
)

// What the README shows first.
func TestEditInOneRegionIsReadInAll(t *testing.T) {
	d := sharedDev(t)
	s := d.shopper(t)
	a := s.add("us-east", "SKU-456", 2)
	if got := a.header.Get("Cart-Region"); got != "us-east" {
		t.Errorf("Cart-Region is %q", got)
	}
	c, took := s.converge(2 * time.Second)
	t.Logf("in all regions after %v", took)
	if want := "SKU-456 x2 at 29.99\n"; c.String() != want {
		t.Errorf("cart:\n%swant:\n%s", c, want)
	}
	if got := s.cart("front"); got.String() != c.String() {
		t.Errorf("the front shows:\n%swant:\n%s", got, c)
	}
	if !strings.Contains(d.out.String(), d.url("front")) {
		t.Errorf("the banner does not name %s:\n%s", d.url("front"), d.out)
	}
}

func TestWatchSeesOtherRegionsEdit(t *testing.T) {
	s := sharedDev(t).shopper(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := s.events(ctx, "eu-west")
	<-events // the cart as it is
	s.add("us-east", "SKU-7", 3)
	deadline := time.After(2 * time.Second)
	for {
		select {
		case c, ok := <-events:
			if !ok {
				t.Fatal("the stream ended")
			}
			if c.quantity("SKU-7") == 3 {
				return
			}
		case <-deadline:
			t.Fatal("no event with the edit within 2 s")
		}
	}
}

// explained is one line's registers with their writes.
type explained struct {
	Lines []struct {
		SKU    string `json:"sku_id"`
		Fields []struct {
			Field  string `json:"field"`
			Value  string `json:"value"`
			Writes []struct {
				Region string  `json:"region"`
				OpID   *string `json:"op_id"`
				Value  string  `json:"value"`
				Wins   bool    `json:"wins"`
			} `json:"writes"`
		} `json:"fields"`
	} `json:"lines"`
}

func TestExplainNamesBothWrites(t *testing.T) {
	d := sharedDev(t)
	s := d.shopper(t)
	heal := d.cut(t, links...)
	s.with("Idempotency-Key", "from-us").add("us-east", "SKU-1", 2)
	s.with("Idempotency-Key", "from-eu").add("eu-west", "SKU-1", 5)
	heal()
	s.converge(2 * time.Second)
	var x explained
	if err := json.Unmarshal(s.do(200, "ap-south", "GET", "/api/v1/cart/explain", nil).body, &x); err != nil {
		t.Fatal(err)
	}
	wins := map[string]bool{}
	for _, f := range x.Lines[0].Fields {
		if f.Field != "quantity" {
			continue
		}
		for _, w := range f.Writes {
			wins[w.Region+" "+w.Value] = w.Wins
			if w.OpID == nil {
				t.Errorf("the write of %s names no op id", w.Region)
			}
		}
	}
	if want := map[string]bool{"us-east 2": false, "eu-west 5": true}; !maps.Equal(wins, want) {
		t.Errorf("writes: %v, want %v", wins, want)
	}
}

func TestRetryInAnotherRegionCountsOnce(t *testing.T) {
	d := sharedDev(t)
	s := d.shopper(t).with("Idempotency-Key", "k1")
	s.add("us-east", "SKU-1", 2)
	s.converge(2 * time.Second)
	again := s.add("eu-west", "SKU-1", 2)
	if again.header.Get("Idempotent-Replayed") != "true" {
		t.Error("the retry is not said to be one")
	}
	if c, _ := s.converge(2 * time.Second); c.quantity("SKU-1") != 2 {
		t.Errorf("cart:\n%s", c)
	}
	// The same key with another payload is a mistake, in any region.
	if a := s.do(422, "ap-south", "POST", "/api/v1/cart/items", item("SKU-1", 3)); a.code() != "IDEMPOTENCY_KEY_REUSED" {
		t.Errorf("another payload: %s", a.body)
	}
}

// A retry that overtakes its op id, over a cut link, meets the first attempt
// as a concurrent write: the maximum of two equal numbers.
func TestRetryAcrossACutCountsOnce(t *testing.T) {
	d := sharedDev(t)
	s := d.shopper(t).with("Idempotency-Key", "k1")
	heal := d.cut(t, links...)
	s.add("us-east", "SKU-1", 2)
	s.add("eu-west", "SKU-1", 2)
	heal()
	if c, _ := s.converge(2 * time.Second); c.quantity("SKU-1") != 2 {
		t.Errorf("cart:\n%s", c)
	}
}

// DESIGN §3: us-east applies K, ap-south edits the line, ap-south's row
// reaches eu-west before us-east's does, and the retry of K there must not
// count again.
func TestRetryKnownSecondHandCountsOnce(t *testing.T) {
	d := sharedDev(t)
	s := d.shopper(t)
	d.cut(t, [2]string{"us-east", "eu-west"})
	k := s.with("Idempotency-Key", "k1")
	k.add("us-east", "SKU-1", 2)
	eventually(t, 2*time.Second, "K is in ap-south", func() bool { return s.cart("ap-south").quantity("SKU-1") == 2 })
	s.add("ap-south", "SKU-1", 3)
	eventually(t, 2*time.Second, "ap-south's edit is in eu-west", func() bool { return s.cart("eu-west").quantity("SKU-1") == 5 })
	k.add("eu-west", "SKU-1", 2)
	if c := s.cart("eu-west"); c.quantity("SKU-1") != 5 {
		t.Errorf("the retry counted again; eu-west shows:\n%s", c)
	}
}

func TestTokenIsReadInAnotherRegion(t *testing.T) {
	d := sharedDev(t)
	for i := range 20 { // each before the row has had time to arrive
		s := d.shopper(t)
		token := s.add("us-east", "SKU-1", i+1).header.Get("Cart-Token")
		if c := s.with("Cart-Token", token).cart("eu-west"); c.quantity("SKU-1") != i+1 || c.Stale {
			t.Fatalf("read with the write's token: stale=%v\n%s", c.Stale, c)
		}
	}
	// What cannot be had is said to be missing, on reads and on writes.
	s := d.shopper(t)
	heal := d.cut(t, links...)
	token := s.add("us-east", "SKU-1", 2).header.Get("Cart-Token")
	tokened := s.with("Cart-Token", token)
	if c := tokened.cart("eu-west"); !c.Stale {
		t.Errorf("read across a cut is not marked stale:\n%s", c)
	}
	if c := tokened.add("eu-west", "SKU-2", 1).cart(t); !c.Stale {
		t.Error("write across a cut is not marked stale")
	}
	if c := tokened.cart("us-east"); c.Stale || c.quantity("SKU-1") != 2 {
		t.Errorf("the region that wrote it: stale=%v\n%s", c.Stale, c)
	}
	heal()
	eventually(t, 2*time.Second, "no longer stale", func() bool { return !tokened.cart("eu-west").Stale })
}

func TestStrongReadSeesTheLastWrite(t *testing.T) {
	d := sharedDev(t)
	s := d.shopper(t)
	for i := range 10 {
		s.set0(i)
		if c := s.with("Cart-Consistency", "strong").cart("us-east"); c.quantity("SKU-1") != i+1 || c.Stale {
			t.Fatalf("after write %d: stale=%v\n%s", i, c.Stale, c)
		}
	}
	// Without a majority a strong read is refused, a plain one is marked.
	for _, n := range []string{"us-east/1", "us-east/2"} {
		t.Cleanup(func() { d.switchNode(t, adminv1.NodeRequest_ACTION_START, n); d.ready(t, "us-east") })
		d.switchNode(t, adminv1.NodeRequest_ACTION_KILL, n)
	}
	if a := s.with("Cart-Consistency", "strong").do(503, "us-east", "GET", "/api/v1/cart", nil); a.code() != "NO_QUORUM" || a.header.Get("Retry-After") == "" {
		t.Errorf("strong read without a majority: %s", a.body)
	}
	eventually(t, 5*time.Second, "a plain read is marked stale", func() bool {
		c := s.cart("us-east")
		return c.Stale && c.quantity("SKU-1") == 10
	})
	// The other regions serve on, and the front goes there.
	if a := s.add("front", "SKU-2", 1); a.header.Get("Cart-Region") == "us-east" {
		t.Error("the front sends edits to a region without a majority")
	}
}

// set0 writes quantity i+1, whatever was there.
func (s shopper) set0(i int) {
	s.t.Helper()
	if i == 0 {
		s.add("us-east", "SKU-1", 1)
		return
	}
	s.set("us-east", "SKU-1", i+1)
}

func TestIfMatch(t *testing.T) {
	d := sharedDev(t)
	s := d.shopper(t)
	old := s.add("us-east", "SKU-1", 1).header.Get("ETag")
	c, _ := s.converge(2 * time.Second)
	if c.etag != old {
		t.Errorf("ETag %s at the write, %s in all regions", old, c.etag)
	}
	s.with("If-Match", old).set("eu-west", "SKU-1", 2)
	s.converge(2 * time.Second)
	a := s.with("If-Match", old).do(409, "ap-south", "PUT", "/api/v1/cart/items/SKU-1", map[string]any{"quantity": 9})
	if a.code() != "VERSION_CONFLICT" || !strings.Contains(string(a.body), `"quantity":2`) {
		t.Errorf("answer: %s", a.body)
	}
	if c := s.cart("ap-south"); c.quantity("SKU-1") != 2 {
		t.Errorf("the refused edit was applied:\n%s", c)
	}
}

func TestRegionsNamesAddresses(t *testing.T) {
	d := sharedDev(t)
	var list struct {
		Regions []struct {
			Region, Address string
			Healthy         bool
		}
	}
	s := shopper{t: t, at: d.url, client: http.DefaultClient} // nobody in particular
	if err := json.Unmarshal(s.do(200, "front", "GET", "/api/v1/regions", nil).body, &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Regions) != 3 {
		t.Fatalf("regions: %v", list)
	}
	for i, r := range list.Regions {
		if r.Region != regions[i] || r.Address != d.url(r.Region) || !r.Healthy {
			t.Errorf("region %d is %+v", i, r)
		}
	}
}

func TestMetricsOfDev(t *testing.T) {
	d := sharedDev(t)
	d.shopper(t).add("us-east", "SKU-1", 1)
	s := shopper{t: t, at: d.url, client: http.DefaultClient}
	body := string(s.do(200, "us-east", "GET", "/metrics", nil).body)
	for _, want := range []string{
		`samecart_call_seconds_count{code="",procedure="POST /api/v1/cart/items",region="us-east"}`,
		`samecart_applied_commands_total{node="us-east/1",region="us-east",shard="0"}`,
		`samecart_gossip_connected{peer="eu-west",region="us-east",shard="0"} 1`,
		`peer="eu-west",quantile="0.99",region="us-east",shard="0"}`,
		`samecart_gossip_rows_waiting{node="us-east/`,
		`samecart_proven_equal_timestamp_seconds{node="us-east/`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
}
