package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	adminv1 "github.com/samecart/samecart/proto/admin/v1"
)

// writers edit one cart each, in all regions in turn, until stopped; then
// every acknowledged edit must be there.
type writers struct {
	t     *testing.T
	stop  context.CancelFunc
	ended sync.WaitGroup

	mu    sync.Mutex       // guards acked
	acked []map[string]int // by SKU, for each cart
	carts []shopper
	last  time.Time     // acknowledged
	gap   time.Duration // longest time without an acknowledgement
}

// write starts n writers. An edit that is not acknowledged is repeated, with
// its key, at the next region.
func (r *running) write(t *testing.T, n int, at ...string) *writers {
	return writeAs(t, n, func() shopper { return r.shopper(t) }, at...)
}

func writeAs(t *testing.T, n int, next func() shopper, at ...string) *writers {
	ctx, stop := context.WithCancel(context.Background())
	w := &writers{t: t, stop: stop, last: time.Now()}
	for range n {
		s := next()
		w.carts = append(w.carts, s)
		lines := make(map[string]int)
		w.acked = append(w.acked, lines)
		w.ended.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				sku := fmt.Sprintf("SKU-%d", i%50+1)
				keyed := s.with("Idempotency-Key", fmt.Sprintf("edit-%d", i))
				for try := 0; ctx.Err() == nil; try++ {
					a, err := keyed.try(at[(i+try)%len(at)], "POST", "/api/v1/cart/items", item(sku, 1))
					if err == nil && a.status == 200 {
						w.mu.Lock()
						lines[sku]++
						w.gap, w.last = max(w.gap, time.Since(w.last)), time.Now()
						w.mu.Unlock()
						break
					}
					if err == nil && a.status < 500 && a.status != 429 {
						t.Errorf("edit %d: %d %s", i, a.status, a.body)
						return
					}
				}
			}
		})
	}
	t.Cleanup(func() { stop(); w.ended.Wait() })
	return w
}

func (w *writers) count() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, lines := range w.acked {
		for _, q := range lines {
			n += q
		}
	}
	return n
}

// more waits until n more edits were acknowledged: there was service.
func (w *writers) more(n int) time.Duration {
	w.t.Helper()
	want := w.count() + n
	return eventually(w.t, 15*time.Second, fmt.Sprintf("%d more edits", n), func() bool { return w.count() >= want })
}

// prove stops the writers and checks their carts in all regions. When all of
// a cart's edits went to one region at a time, and each region had seen those
// before, exact holds: quantities are the number of acknowledged edits.
func (w *writers) prove(exact bool) {
	w.t.Helper()
	w.stop()
	w.ended.Wait()
	for i, s := range w.carts {
		c, _ := s.converge(5 * time.Second)
		for sku, acked := range w.acked[i] {
			got := c.quantity(sku)
			// The last edit may have been applied without an acknowledgement.
			if got == 0 || exact && (got < acked || got > acked+1) {
				w.t.Errorf("%s: %d acknowledged, cart has %d", sku, acked, got)
			}
		}
	}
}

func TestNodeKillLosesNothing(t *testing.T) {
	d := sharedDev(t)
	w := d.write(t, 4, "us-east")
	w.more(20)
	for n := 1; n <= 3; n++ { // one of them leads
		node := fmt.Sprintf("us-east/%d", n)
		d.switchNode(t, adminv1.NodeRequest_ACTION_KILL, node)
		t.Logf("20 edits without %s took %v", node, w.more(20))
		if alive(t, d, "us-east")[node] {
			t.Errorf("%s was killed and is shown alive", node)
		}
		d.switchNode(t, adminv1.NodeRequest_ACTION_START, node)
		eventually(t, 10*time.Second, node+" is back", func() bool { return alive(t, d, "us-east")[node] })
		w.more(20)
	}
	w.prove(true)
}

// alive is what the admin service says of a region's nodes.
func alive(t testing.TB, d *running, region string) map[string]bool {
	t.Helper()
	out := make(map[string]bool)
	for _, n := range status(t, d, region).Nodes {
		out[n.Node] = n.Alive
	}
	return out
}

func status(t testing.TB, d *running, region string) *adminv1.RegionStatus {
	t.Helper()
	resp, err := d.admin("front").Regions(context.Background(), connect.NewRequest(&adminv1.RegionsRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range resp.Msg.Regions {
		if r.Region == region {
			return r
		}
	}
	t.Fatalf("region %s is not shown", region)
	return nil
}

func TestRegionKillLosesNothing(t *testing.T) {
	d := sharedDev(t)
	before := d.shopper(t)
	before.add("us-east", "SKU-3", 3)
	before.converge(2 * time.Second)
	w := d.write(t, 3, "us-east", "eu-west")
	w.more(30)
	t.Cleanup(func() { d.switchRegion(t, adminv1.NodeRequest_ACTION_START, "us-east"); d.ready(t, "us-east") })
	d.switchRegion(t, adminv1.NodeRequest_ACTION_KILL, "us-east")
	// In force once answered: the port refuses.
	if _, err := net.Dial("tcp", strings.TrimPrefix(d.url("us-east"), "http://")); err == nil {
		t.Error("the killed region's port takes connections")
	}
	w.more(30)
	// A client that knows no region is served by the next one.
	if c := before.cart("front"); c.quantity("SKU-3") != 3 || c.Stale {
		t.Errorf("the front shows:\n%s", c)
	}
	if a := before.add("front", "SKU-3", 1); a.header.Get("Cart-Region") != "eu-west" {
		t.Errorf("the front answers from %q", a.header.Get("Cart-Region"))
	}
	if status(t, d, "us-east").Ready {
		t.Error("the killed region is shown ready")
	}
	d.switchRegion(t, adminv1.NodeRequest_ACTION_START, "us-east")
	d.ready(t, "us-east")
	w.more(30)
	w.prove(false)
	if c, _ := before.converge(2 * time.Second); c.quantity("SKU-3") != 4 {
		t.Errorf("after the return all regions show:\n%s", c)
	}
}

func TestLinkDelay(t *testing.T) {
	d := sharedDev(t)
	const delay = 300 * time.Millisecond
	// Tests before this one broke the link, and edits go around it for a while.
	eventually(t, time.Minute, "the direct way is taken", func() bool {
		resp, err := d.admin("front").Regions(context.Background(), connect.NewRequest(&adminv1.RegionsRequest{}))
		return err == nil && !slices.ContainsFunc(peersOf(resp.Msg, "us-east"), func(p *adminv1.PeerStatus) bool { return p.Via != "" || !p.Connected })
	})
	t.Cleanup(func() { d.link(t, adminv1.LinkRequest_ACTION_HEAL, "us-east", "eu-west", 0) })
	d.link(t, adminv1.LinkRequest_ACTION_DELAY, "us-east", "eu-west", delay)
	seen := func(region string) time.Duration {
		s := d.shopper(t)
		s.add("us-east", "SKU-2", 1)
		return eventually(t, 5*time.Second, "the edit is in "+region, func() bool { return s.cart(region).quantity("SKU-2") == 1 })
	}
	if took := seen("eu-west"); took < delay {
		t.Errorf("an edit crossed a link of %v in %v", delay, took)
	}
	// The stream is open now: one way takes the delay and little more.
	took := seen("eu-west")
	t.Logf("over a link of %v: %v; over another: %v", delay, took, seen("ap-south"))
	if took < delay || took > delay+time.Second {
		t.Errorf("an edit crossed a link of %v in %v", delay, took)
	}
	resp, err := d.admin("eu-west").Regions(context.Background(), connect.NewRequest(&adminv1.RegionsRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range resp.Msg.Links {
		if want := l.A == "us-east" && l.B == "eu-west"; l.Cut || (l.DelayMs == delay.Milliseconds()) != want {
			t.Errorf("link %s–%s is shown as cut=%v delay=%d ms", l.A, l.B, l.Cut, l.DelayMs)
		}
	}
}

func TestFaultsThatAreNone(t *testing.T) {
	d := sharedDev(t)
	ctx := context.Background()
	link := func(m *adminv1.LinkRequest) error {
		_, err := d.admin("front").Link(ctx, connect.NewRequest(m))
		return err
	}
	node := func(m *adminv1.NodeRequest) error {
		_, err := d.admin("front").Node(ctx, connect.NewRequest(m))
		return err
	}
	region := func(m *adminv1.RegionRequest) error {
		_, err := d.admin("front").Region(ctx, connect.NewRequest(m))
		return err
	}
	for name, c := range map[string]struct {
		err  error
		code connect.Code
	}{
		"link without action":  {link(&adminv1.LinkRequest{A: "us-east", B: "eu-west"}), connect.CodeInvalidArgument},
		"link to itself":       {link(&adminv1.LinkRequest{Action: adminv1.LinkRequest_ACTION_CUT, A: "us-east", B: "us-east"}), connect.CodeInvalidArgument},
		"link to nowhere":      {link(&adminv1.LinkRequest{Action: adminv1.LinkRequest_ACTION_CUT, A: "us-east", B: "mars"}), connect.CodeNotFound},
		"endless delay":        {link(&adminv1.LinkRequest{Action: adminv1.LinkRequest_ACTION_DELAY, A: "us-east", B: "eu-west", DelayMs: 3_600_000}), connect.CodeInvalidArgument},
		"node without action":  {node(&adminv1.NodeRequest{Node: "us-east/1"}), connect.CodeInvalidArgument},
		"unknown node":         {node(&adminv1.NodeRequest{Action: adminv1.NodeRequest_ACTION_KILL, Node: "us-east/4"}), connect.CodeNotFound},
		"unknown region":       {region(&adminv1.RegionRequest{Action: adminv1.NodeRequest_ACTION_KILL, Region: "mars"}), connect.CodeNotFound},
		"started and running":  {node(&adminv1.NodeRequest{Action: adminv1.NodeRequest_ACTION_START, Node: "us-east/1"}), 0},
		"region starts, is up": {region(&adminv1.RegionRequest{Action: adminv1.NodeRequest_ACTION_START, Region: "us-east"}), 0},
	} {
		if c.code == 0 && c.err != nil || c.code != 0 && connect.CodeOf(c.err) != c.code {
			t.Errorf("%s: %v, want code %v", name, c.err, c.code)
		}
	}
	d.ready(t, "us-east")
}

func TestAdminNeedsItsScope(t *testing.T) {
	d := sharedDev(t)
	s := d.shopper(t)
	path := "/admin.v1.AdminService/Regions"
	if a := s.do(403, "us-east", "POST", path, map[string]any{}); a.code() != "FORBIDDEN" && !strings.Contains(string(a.body), "permission_denied") {
		t.Errorf("answer: %s", a.body)
	}
	s.with("X-Service-Scopes", "admin").do(200, "us-east", "POST", path, map[string]any{})
}

func TestVerifyScansEveryRegion(t *testing.T) {
	d := sharedDev(t)
	s := d.shopper(t)
	s.add("us-east", "SKU-9", 1)
	c, _ := s.converge(2 * time.Second)
	sums := make(map[string]string)
	for _, region := range regions {
		stream, err := d.admin("front").Scan(context.Background(), connect.NewRequest(&adminv1.ScanRequest{Region: region}))
		if err != nil {
			t.Fatal(err)
		}
		for stream.Receive() {
			for _, x := range stream.Msg().Carts {
				if x.CartId == c.CartID {
					sums[region] = fmt.Sprintf("%x", x.Digest)
				}
			}
		}
		if err := stream.Err(); err != nil {
			t.Fatal(err)
		}
	}
	if sums["us-east"] == "" || sums["us-east"] != sums["eu-west"] || sums["us-east"] != sums["ap-south"] {
		t.Errorf("digests of %s: %v", c.CartID, sums)
	}
	for _, bad := range []*adminv1.ScanRequest{{Region: "us-east", SlotLo: 2, SlotHi: 2}, {Region: "us-east", SlotHi: 1025}, {Region: "mars"}} {
		stream, err := d.admin("front").Scan(context.Background(), connect.NewRequest(bad))
		if err == nil {
			for stream.Receive() {
				t.Errorf("%v was scanned", bad)
			}
			err = stream.Err()
		}
		if err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
}
