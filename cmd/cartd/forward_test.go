package main

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
)

// twoRegions are two regions of one node each, as processes; us-east has two
// gateways, of which one passes calls on.
type twoRegions struct {
	t    *testing.T
	api  map[string]string // host:port by name
	args map[string][]string
	run  map[string]*child
}

func startTwoRegions(t *testing.T) *twoRegions {
	t.Helper()
	a := freeAddresses(t, 8)
	w := &twoRegions{
		t: t, run: make(map[string]*child),
		api: map[string]string{"us-east": a[0], "eu-west": a[1], "gateway": a[2], "stays": a[3]},
	}
	links, peers := map[string]string{"us-east": a[4], "eu-west": a[5]}, map[string]string{"us-east": a[6], "eu-west": a[7]}
	addresses := fmt.Sprintf("us-east=http://%s;eu-west=http://%s", a[2], a[1])
	dir := t.TempDir()
	node := func(region, other string) []string {
		return []string{
			"node", "--region", region, "--node", "1", "--nodes", region + "/1=" + links[region], "--data", filepath.Join(dir, region), "--shards", "1",
			"--listen", w.api[region], "--link-listen", links[region], "--peer-listen", peers[region], "--peers", other + "=http://" + peers[other],
			"--addresses", addresses, "--trust-headers", "--memtable", "16777216",
		}
	}
	gateway := func(listen string, more ...string) []string {
		return append([]string{
			"gateway", "--region", "us-east", "--nodes", "us-east/1=" + links["us-east"], "--shards", "1", "--listen", listen, "--addresses", addresses, "--trust-headers",
		}, more...)
	}
	w.args = map[string][]string{
		"us-east": node("us-east", "eu-west"), "eu-west": node("eu-west", "us-east"),
		"gateway": gateway(a[2]), "stays": gateway(a[3], "--no-forward"),
	}
	for name := range w.args {
		w.start(name)
	}
	for name := range w.args {
		w.ready(name)
	}
	return w
}

func (w *twoRegions) start(name string) {
	w.t.Helper()
	w.run[name] = spawn(w.t, nil, w.args[name]...)
	w.run[name].serves(w.t)
}

func (w *twoRegions) ready(name string) {
	w.t.Helper()
	s := w.shopper()
	eventually(w.t, 20*time.Second, name+" is ready", func() bool {
		a, err := s.try(name, "GET", "/readyz", nil)
		return err == nil && a.status == 200
	})
}

func (w *twoRegions) kill(name string) {
	w.t.Helper()
	if err := w.run[name].cmd.Process.Kill(); err != nil {
		w.t.Fatal(err)
	}
	<-w.run[name].done
}

func (w *twoRegions) url(name string) string { return "http://" + w.api[name] }

func (w *twoRegions) shopper() shopper {
	s := (&running{}).shopper(w.t)
	s.at, s.all = w.url, []string{"us-east", "eu-west"}
	return s
}

func by(a answer) string { return a.header.Get("Cart-Region") }

// A gateway whose region is gone answers through another one, and comes back.
func TestGatewayPassesCallsOn(t *testing.T) {
	t.Parallel()
	w := startTwoRegions(t)
	s := w.shopper()
	// Until it has found its region ready, it may pass calls on.
	first := s.with("Idempotency-Key", "first")
	eventually(t, 30*time.Second, "the gateway answers for its region", func() bool {
		a, err := first.try("gateway", "POST", "/api/v1/cart/items", item("SKU-1", 1))
		return err == nil && a.status == 200 && by(a) == "us-east"
	})
	token := s.cart("gateway").token
	s.converge(10 * time.Second)
	w.kill("us-east")

	// The same key in all attempts: whatever was done meanwhile counts once.
	keyed := s.with("Idempotency-Key", "once").with("Cart-Token", token)
	begin := time.Now()
	a := keyed.do(200, "gateway", "POST", "/api/v1/cart/items", item("SKU-1", 2))
	t.Logf("the first edit after the kill took %v", time.Since(begin).Round(time.Millisecond))
	if by(a) != "eu-west" || strings.Contains(string(a.body), `"stale":true`) {
		t.Errorf("answered by %q: %s", by(a), a.body)
	}
	if again := keyed.do(200, "gateway", "POST", "/api/v1/cart/items", item("SKU-1", 2)); again.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("sent again: %v %s", again.header, again.body)
	}
	w.said("gateway", "calls are passed on to another region")
	for range 20 { // without keys: the region that does not serve is not asked
		if a := s.set("gateway", "SKU-1", 4); by(a) != "eu-west" {
			t.Errorf("answered by %q", by(a))
		}
	}
	if c := s.cart("gateway"); c.quantity("SKU-1") != 4 {
		t.Errorf("the cart is:\n%s", c)
	}
	// The gateway's own region is still not ready, for whoever chooses regions.
	s.do(503, "gateway", "GET", "/readyz", nil)
	// What came from another gateway, or to one that does not pass on, stays.
	for name, stay := range map[string]shopper{"gateway": s.with("Cart-Forwarded-By", "eu-west"), "stays": s} {
		if a := stay.do(503, name, "POST", "/api/v1/cart/items", item("SKU-1", 1)); a.code() != "NO_QUORUM" || a.header.Get("Cart-Error") != "NO_QUORUM" {
			t.Errorf("%s: %v %s", name, a.header, a.body)
		}
	}
	w.protocols(s)
	w.watches(s)

	w.start("us-east")
	w.said("gateway", "calls are served by this region again")
	// It has just started, and may be slow now and then.
	again := s.with("Idempotency-Key", "home")
	eventually(t, 30*time.Second, "edits are answered at home", func() bool {
		a, err := again.try("gateway", "POST", "/api/v1/cart/items", item("SKU-2", 1))
		return err == nil && a.status == 200 && by(a) == "us-east"
	})
	s.converge(10 * time.Second)
	metrics := string(s.do(200, "gateway", "GET", "/metrics", nil).body)
	if !strings.Contains(metrics, `samecart_forwarded_calls_total{peer="eu-west",region="us-east",status="200"}`) {
		t.Error("calls that were passed on are not counted")
	}
	w.run["gateway"].terminate(t)
}

// said waits until a process has logged something.
func (w *twoRegions) said(name, what string) {
	w.t.Helper()
	select {
	case <-w.run[name].errs.has(what):
	case <-time.After(40 * time.Second):
		w.t.Fatalf("%s does not say %q:\n%s", name, what, w.run[name].errs)
	}
}

// protocols makes calls in the forms that are not REST.
func (w *twoRegions) protocols(s shopper) {
	w.t.Helper()
	both := new(http.Protocols)
	both.SetUnencryptedHTTP2(true)
	h2 := &http.Client{Transport: &http.Transport{Protocols: both}}
	w.t.Cleanup(h2.CloseIdleConnections)
	for name, options := range map[string][]connect.ClientOption{
		"Connect": nil, "Connect JSON": {connect.WithProtoJSON()}, "gRPC": {connect.WithGRPC()}, "gRPC-Web": {connect.WithGRPCWeb()},
	} {
		c := cartv1connect.NewCartServiceClient(h2, w.url("gateway"), options...)
		read := connect.NewRequest(&cartv1.GetCartRequest{})
		read.Header().Set("X-User-Id", s.headers.Get("X-User-Id"))
		got, err := c.GetCart(context.Background(), read)
		if err != nil || got.Header().Get("Cart-Region") != "eu-west" || got.Msg.GetItemCount() != 4 {
			w.t.Errorf("%s: %v, %v", name, got, err)
		}
		wrong := connect.NewRequest(&cartv1.AddItemRequest{Line: &cartv1.LineRef{SkuId: "no such thing"}, Quantity: 1})
		wrong.Header().Set("X-User-Id", s.headers.Get("X-User-Id"))
		if _, err := c.AddItem(context.Background(), wrong); connect.CodeOf(err) != connect.CodeFailedPrecondition {
			w.t.Errorf("%s: an error arrives as %v", name, err)
		}
	}
}

// watches sees at the gateway what is edited in the other region.
func (w *twoRegions) watches(s shopper) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	shown := s.events(ctx, "gateway")
	first := <-shown
	s.add("eu-west", "SKU-3", 7)
	for {
		select {
		case c, ok := <-shown:
			if !ok {
				w.t.Fatal("the watch has ended")
			}
			if c.quantity("SKU-3") == 7 {
				s.remove("eu-west", "SKU-3")
				return
			}
		case <-time.After(5 * time.Second):
			w.t.Fatalf("the watch shows no more than\n%s", first)
		}
	}
}
