package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pairOfRegions are two regions of one node each, as processes.
type pairOfRegions struct {
	t     *testing.T
	dir   string
	addrs map[string][]string // API, links, peers
}

func newPair(t *testing.T) pairOfRegions {
	t.Helper()
	free := freeAddresses(t, 6)
	return pairOfRegions{t, t.TempDir(), map[string][]string{"us-east": free[:3], "eu-west": free[3:]}}
}

func (p pairOfRegions) data(region string) string { return filepath.Join(p.dir, region) }

func (p pairOfRegions) args(region string, more ...string) []string {
	other := map[string]string{"us-east": "eu-west", "eu-west": "us-east"}[region]
	at := p.addrs[region]
	return append([]string{
		"node", "--region", region, "--node", "1", "--nodes", region + "/1=" + at[1], "--data", p.data(region), "--shards", "2",
		"--listen", at[0], "--link-listen", at[1], "--peer-listen", at[2], "--peers", other + "=http://" + p.addrs[other][2],
		"--trust-headers", "--memtable", "16777216",
	}, more...)
}

func (p pairOfRegions) start(region string, more ...string) *child {
	p.t.Helper()
	c := spawn(p.t, nil, p.args(region, more...)...)
	c.serves(p.t)
	return c
}

func (p pairOfRegions) shopper(user string) shopper {
	return shopper{
		t: p.t, at: func(region string) string { return "http://" + p.addrs[region][0] }, all: []string{"us-east", "eu-west"},
		client: http.DefaultClient, headers: http.Header{"X-User-Id": {user}},
	}
}

func (p pairOfRegions) ready(region string) {
	p.t.Helper()
	s := p.shopper("nobody")
	eventually(p.t, 15*time.Second, region+" is ready", func() bool {
		a, err := s.try(region, "GET", "/readyz", nil)
		return err == nil && a.status == 200
	})
}

func quantities(c cart) string {
	var out []string
	for _, it := range c.Items {
		out = append(out, fmt.Sprintf("%s x%d", it.SKU, it.Quantity))
	}
	return strings.Join(out, ", ")
}

// A region whose disks are all gone must not issue the dots again that it gave
// before: what is new would be taken for what is known, and be lost.
func TestRegionThatLostAllDisks(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	us, eu := p.start("us-east"), p.start("eu-west")
	p.ready("us-east")
	p.ready("eu-west")
	s := p.shopper("user-1")
	s.with("Idempotency-Key", "k1").add("us-east", "SKU-1", 2)
	s.converge(10 * time.Second)
	s.add("eu-west", "SKU-2", 1)
	s.add("us-east", "SKU-3", 1)
	s.remove("us-east", "SKU-3")
	s.converge(10 * time.Second)

	us.terminate(t)
	removeAll(t, p.data("us-east"))
	for range 2 {
		said := refused(t, nil, append([]string{"--log", "error"}, p.args("us-east")...)...)
		for _, want := range []string{"eu-west", "us-east", "under incarnation 1", "--incarnation 2"} {
			if !strings.Contains(said, want) {
				t.Errorf("%q does not say %q", said, want)
			}
		}
	}

	// While the other region is down nobody can know, so the region waits.
	eu.terminate(t)
	us = p.start("us-east", "--incarnation", "2")
	select {
	case <-us.errs.has("waits for another region"):
	case <-us.done:
		t.Fatalf("ended: %s", us.errs)
	case <-time.After(20 * time.Second):
		t.Fatalf("does not say what it waits for: %s", us.errs)
	}
	if a, err := s.try("us-east", "GET", "/readyz", nil); err != nil || a.status == 200 {
		t.Errorf("ready before the region is formed: %v, %v", a.status, err)
	}
	eu = p.start("eu-west")
	p.ready("eu-west")
	p.ready("us-east")

	// Its carts come back from the other region, with the requests that made
	// them.
	t.Logf("the cart is back after %v", eventually(t, 60*time.Second, "the cart is back", func() bool {
		return quantities(s.cart("us-east")) == "SKU-1 x2, SKU-2 x1"
	}))
	if a := s.with("Idempotency-Key", "k1").add("us-east", "SKU-1", 2); a.header.Get("Idempotent-Replayed") != "true" {
		t.Error("a retry from before the loss counted again")
	}
	// New edits are dots of the new incarnation: they count beside the old.
	s.add("us-east", "SKU-1", 1)
	s.add("us-east", "SKU-4", 5)
	s.remove("us-east", "SKU-2")
	s.converge(10 * time.Second)
	s.add("eu-west", "SKU-1", 1)
	c, _ := s.converge(10 * time.Second)
	if got := quantities(c); got != "SKU-1 x4, SKU-4 x5" {
		t.Errorf("converged to %s", got)
	}
	// Started again, its data says which incarnation it is.
	us.terminate(t)
	us = p.start("us-east")
	p.ready("us-east")
	s.add("us-east", "SKU-5", 1)
	c, _ = s.converge(10 * time.Second)
	if got := quantities(c); got != "SKU-1 x4, SKU-4 x5, SKU-5 x1" {
		t.Errorf("after a restart: %s", got)
	}
	explain := fmt.Sprint(string(s.do(200, "eu-west", "GET", "/api/v1/cart/explain", nil).body))
	if strings.Count(explain, `"incarnation":2`) < 3 {
		t.Errorf("the new writes are not of incarnation 2: %s", explain)
	}
	us.terminate(t)
	eu.terminate(t)
}
