package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	membershipv1 "github.com/samecart/samecart/proto/membership/v1"
	"github.com/samecart/samecart/region/shard"
)

// traffic is shoppers who add a new line again and again, each from a region of
// their own while it answers, and note what was acknowledged.
type traffic struct {
	d    *running
	stop context.CancelFunc
	done sync.WaitGroup

	mu    sync.Mutex // guards what follows
	acked map[string]map[string]int
	by    map[string]int // acknowledged edits by region
}

const (
	trafficUsers = 9
	linesOfACart = 60
)

func (r *running) traffic(t *testing.T) *traffic {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	tr := &traffic{d: r, stop: cancel, acked: make(map[string]map[string]int), by: make(map[string]int)}
	for i := range trafficUsers {
		tr.done.Go(func() { tr.shop(ctx, t, i) })
	}
	t.Cleanup(tr.end)
	return tr
}

func (tr *traffic) end() { tr.stop(); tr.done.Wait() }

func (tr *traffic) shop(ctx context.Context, t *testing.T, i int) {
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-pace.C:
		}
		user := fmt.Sprint("load-", i, "-", n/linesOfACart)
		sku, quantity := fmt.Sprint("SKU-", 1+n%linesOfACart), 1+(n+i)%5
		keyed := tr.d.shopper(t).with("X-User-Id", user).with("Idempotency-Key", fmt.Sprint("k", n))
		for try := 0; ctx.Err() == nil; try++ {
			region := regions[(i+try)%len(regions)]
			a, err := keyed.try(region, http.MethodPost, "/api/v1/cart/items", item(sku, quantity))
			if err != nil || a.status >= 500 || a.status == http.StatusTooManyRequests {
				continue
			}
			if a.status != http.StatusOK {
				t.Errorf("add in %s: %d %s", region, a.status, a.body)
				return
			}
			tr.mu.Lock()
			if tr.acked[user] == nil {
				tr.acked[user] = make(map[string]int)
			}
			tr.acked[user][sku] = quantity
			tr.by[region]++
			tr.mu.Unlock()
			break
		}
	}
}

// more waits until the region has acknowledged n edits more.
func (tr *traffic) more(t *testing.T, region string, n int) {
	t.Helper()
	count := func() int {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		return tr.by[region]
	}
	want := count() + n
	eventually(t, time.Minute, fmt.Sprint(n, " edits in ", region), func() bool { return count() >= want })
}

// prove ends the load and compares: all regions equal, and every acknowledged line
// there, with its quantity. Each was added once, as a new line, so that whatever
// was sent twice, or written anew, must not show.
func (tr *traffic) prove(t *testing.T) {
	t.Helper()
	tr.end()
	eventually(t, 60*time.Second, "all regions are equal", func() bool { return tr.d.equal(t) })
	edits := 0
	for user, lines := range tr.acked {
		for _, region := range regions {
			have := tr.d.shopper(t).with("X-User-Id", user).cart(region)
			if len(have.Items) < len(lines) {
				t.Errorf("%s in %s: %d lines, %d were acknowledged", user, region, len(have.Items), len(lines))
			}
			for sku, quantity := range lines {
				if got := have.quantity(sku); got != quantity {
					t.Errorf("%s in %s: %s x%d, acknowledged was x%d", user, region, sku, got, quantity)
				}
			}
		}
		edits += len(lines)
	}
	t.Logf("%d edits acknowledged, by region: %v", edits, tr.by)
}

// equal reports whether all regions have the same digests.
func (r *running) equal(t *testing.T) bool {
	t.Helper()
	var first [][]byte
	for _, region := range regions {
		resp, err := r.admin("front").Digests(t.Context(), connect.NewRequest(&adminv1.DigestsRequest{Region: region}))
		if err != nil || len(resp.Msg.Digests) != shard.SlotCount {
			return false
		}
		if first == nil {
			first = resp.Msg.Digests
		}
		if !slices.EqualFunc(first, resp.Msg.Digests, slices.Equal[[]byte]) {
			return false
		}
	}
	return true
}

func (r *running) member(t *testing.T, action adminv1.MemberRequest_Action, region string) {
	t.Helper()
	if _, err := r.admin("front").Member(t.Context(), connect.NewRequest(&adminv1.MemberRequest{Action: action, Region: region})); err != nil {
		t.Fatalf("%v %s: %v", action, region, err)
	}
}

// state waits until a region has come to a state, and returns its entry.
func (r *running) state(t *testing.T, region string, want membershipv1.State) (m *membershipv1.Member) {
	t.Helper()
	eventually(t, 2*time.Minute, region+" is "+want.Word(), func() bool {
		resp, err := r.admin("front").Regions(t.Context(), connect.NewRequest(&adminv1.RegionsRequest{}))
		if err == nil {
			m = resp.Msg.Membership.Named(region)
		}
		return m.GetState() == want
	})
	return m
}

// A region's whole life, under load: no acknowledged edit is lost, none counts
// twice, and all regions are equal at the end.
func TestLifeOfARegionUnderLoad(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "dev")
	d := start(t, dir, "--shards", "2")
	for _, region := range regions {
		d.ready(t, region)
	}
	load := d.traffic(t)
	load.more(t, "ap-south", 30)

	t.Log("drained, and back")
	d.member(t, adminv1.MemberRequest_ACTION_DRAIN, "ap-south")
	d.state(t, "ap-south", membershipv1.State_STATE_DRAINED)
	eventually(t, time.Minute, "a drained region says so", func() bool {
		a, err := d.shopper(t).with("Idempotency-Key", "late").try("ap-south", http.MethodPost, "/api/v1/cart/items", item("SKU-1", 1))
		if err == nil && a.status < 500 {
			t.Fatalf("a drained region takes an edit: %d %s", a.status, a.body)
		}
		return err == nil && a.code() == "REGION_FENCED"
	})
	d.member(t, adminv1.MemberRequest_ACTION_ADD, "ap-south")
	d.state(t, "ap-south", membershipv1.State_STATE_ACTIVE)
	load.more(t, "ap-south", 30)

	if m := string(d.shopper(t).do(http.StatusOK, "us-east", http.MethodGet, "/metrics", nil).body); !strings.Contains(m, `samecart_member_state{member="ap-south",region="us-east",state="`) {
		t.Error("the metrics do not have the members")
	}

	t.Log("drained, removed, added")
	d.member(t, adminv1.MemberRequest_ACTION_DRAIN, "ap-south")
	d.state(t, "ap-south", membershipv1.State_STATE_DRAINED)
	d.member(t, adminv1.MemberRequest_ACTION_REMOVE, "ap-south")
	load.more(t, "us-east", 30)
	d.member(t, adminv1.MemberRequest_ACTION_ADD, "ap-south")
	if m := d.state(t, "ap-south", membershipv1.State_STATE_ACTIVE); m.Incarnation != 2 {
		t.Errorf("added again: %v", m)
	}
	load.more(t, "ap-south", 30)

	t.Log("cut off, fenced while it takes edits, and back")
	heal := d.cut(t, links[1], links[2])
	load.more(t, "ap-south", 30)
	d.member(t, adminv1.MemberRequest_ACTION_FENCE, "ap-south")
	load.more(t, "ap-south", 30) // nobody sees these
	load.more(t, "us-east", 30)
	heal()
	if m := d.state(t, "ap-south", membershipv1.State_STATE_ACTIVE); m.Incarnation != 3 {
		t.Errorf("back from being fenced: %v", m)
	}
	load.more(t, "ap-south", 30)

	// What only its disks have goes with them, so it is drained first.
	t.Log("killed, wiped, and back")
	d.member(t, adminv1.MemberRequest_ACTION_DRAIN, "eu-west")
	d.state(t, "eu-west", membershipv1.State_STATE_DRAINED)
	d.switchRegion(t, adminv1.NodeRequest_ACTION_KILL, "eu-west")
	d.member(t, adminv1.MemberRequest_ACTION_FENCE, "eu-west")
	if err := os.RemoveAll(filepath.Join(dir, "eu-west")); err != nil {
		t.Fatal(err)
	}
	load.more(t, "us-east", 30)
	d.switchRegion(t, adminv1.NodeRequest_ACTION_START, "eu-west")
	// It is formed under 2, and goes on to 3 if it took edits before it heard of the
	// others' document.
	if m := d.state(t, "eu-west", membershipv1.State_STATE_ACTIVE); m.Incarnation < 2 {
		t.Errorf("wiped and back: %v", m)
	}
	load.more(t, "eu-west", 30)
	load.prove(t)
}

// A third region, that the two others are not configured with, is added while they
// serve: it is sent all carts, and its edits reach them.
func TestNewRegionIsAdded(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.start("us-east")
	p.start("eu-west")
	p.ready("us-east")
	p.ready("eu-west")
	s := p.shopper("user-1")
	s.add("us-east", "SKU-1", 2)
	s.add("eu-west", "SKU-2", 3)
	s.converge(10 * time.Second)

	north := freeAddresses(t, 3)
	p.addrs["north"] = north
	third := spawn(t, nil, "node", "--region", "north", "--node", "1", "--nodes", "north/1="+north[1], "--data", p.data("north"),
		"--regions", "us-east=1;eu-west=2;north=4", "--shards", "3",
		"--listen", north[0], "--link-listen", north[1], "--peer-listen", north[2],
		"--peers", fmt.Sprintf("us-east=http://%s;eu-west=http://%s", p.addrs["us-east"][2], p.addrs["eu-west"][2]),
		"--trust-headers", "--memtable", "16777216")
	third.serves(t)
	// It hears that it is none of them, and serves nobody.
	eventually(t, 20*time.Second, "the new region knows that it is no member", func() bool {
		a, err := s.try("north", http.MethodGet, "/api/v1/cart", nil)
		return err == nil && a.status == http.StatusServiceUnavailable && a.code() == "REGION_FENCED"
	})
	if a := s.do(http.StatusServiceUnavailable, "north", http.MethodPost, "/api/v1/cart/items", item("SKU-9", 1)); a.code() != "REGION_FENCED" {
		t.Errorf("an edit there: %s", a.code())
	}
	ctl := buildTool(t, "http://"+p.addrs["eu-west"][0])
	if _, said := ctl.run(1, "region", "add", "north"); !strings.Contains(said, "--id") {
		t.Errorf("added without an id: %q", said)
	}
	added, _ := ctl.run(0, "region", "add", "north", "--id", "4", "--peers", "http://"+north[2], "--address", "http://"+north[0])
	if added["state"] != "active" || added["region"] != "north" {
		t.Errorf("added: %v", added)
	}
	p.ready("north")
	if got := quantities(s.cart("north")); got != "SKU-1 x2, SKU-2 x3" {
		t.Errorf("the new region has %s", got)
	}
	s.add("north", "SKU-3", 1)
	s.all = append(s.all, "north")
	c, _ := s.converge(10 * time.Second)
	if got := quantities(c); got != "SKU-1 x2, SKU-2 x3, SKU-3 x1" {
		t.Errorf("converged to %s", got)
	}
	// Clients are told of it.
	if list := string(s.do(200, "us-east", http.MethodGet, "/api/v1/regions", nil).body); !strings.Contains(list, north[0]) {
		t.Errorf("regions: %s", list)
	}
	// Its part in decisions is as any other's: with it, the two are three, so one
	// may be fenced.
	third.terminate(t)
	if fenced, _ := ctl.run(0, "region", "fence", "north"); fenced["state"] != "fenced" {
		t.Errorf("fenced: %v", fenced)
	}
	removed, _ := ctl.run(0, "region", "remove", "north")
	if removed["state"] != "removed" {
		t.Errorf("removed: %v", removed)
	}
	if list := string(s.do(200, "us-east", http.MethodGet, "/api/v1/regions", nil).body); strings.Contains(list, north[0]) {
		t.Errorf("regions after it was removed: %s", list)
	}
}

// Of two regions one may be forced out by the other. What it had acknowledged is
// written anew when it is back, with its data; without, it is filled.
func TestOneOfTwoIsForcedOut(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.start("us-east")
	eu := p.start("eu-west")
	p.ready("us-east")
	p.ready("eu-west")
	s := p.shopper("user-1")
	s.add("us-east", "SKU-1", 2)
	s.add("us-east", "SKU-2", 1)
	s.converge(10 * time.Second)
	ctl := buildTool(t, "http://"+p.addrs["us-east"][0])

	eu.terminate(t)
	if _, said := ctl.run(1, "region", "fence", "eu-west"); !strings.Contains(said, "majority") {
		t.Errorf("fenced without a majority: %q", said)
	}
	if out, _ := ctl.run(0, "region", "fence", "eu-west", "--force"); out["state"] != "fenced" {
		t.Errorf("forced: %v", out)
	}
	s.remove("us-east", "SKU-2")
	eu = p.start("eu-west")
	ctl.run(0, "region", "add", "eu-west") // waits until it is back
	p.ready("eu-west")
	c, _ := s.converge(10 * time.Second)
	if got := quantities(c); got != "SKU-1 x2" {
		t.Errorf("back from being fenced: %s", got)
	}

	eu.terminate(t)
	ctl.run(0, "region", "fence", "eu-west", "--force")
	removeAll(t, p.data("eu-west"))
	s.add("us-east", "SKU-3", 3)
	p.start("eu-west") // as it is configured: the other one says under which incarnation
	ctl.run(0, "region", "add", "eu-west")
	p.ready("eu-west")
	c, _ = s.converge(10 * time.Second)
	if got := quantities(c); got != "SKU-1 x2, SKU-3 x3" {
		t.Errorf("back without its data: %s", got)
	}
	s.add("eu-west", "SKU-4", 1)
	s.add("us-east", "SKU-4", 1)
	c, _ = s.converge(10 * time.Second)
	if got := c.quantity("SKU-4"); got < 1 || got > 2 {
		t.Errorf("edits after the return: %s", quantities(c))
	}
}

// Regions that were all begun again under a raised incarnation, as after the loss of
// every disk, agree on it and on what follows.
func TestRaisedIncarnation(t *testing.T) {
	t.Parallel()
	d := start(t, filepath.Join(t.TempDir(), "dev"), "--incarnation", "2")
	for _, region := range regions {
		d.ready(t, region)
		eventually(t, time.Minute, region+" says its incarnation", func() bool {
			return d.state(t, region, membershipv1.State_STATE_ACTIVE).Incarnation == 2
		})
	}
	s := d.shopper(t)
	s.surely("us-east", "SKU-1", 3)
	s.converge(10 * time.Second)
	d.member(t, adminv1.MemberRequest_ACTION_FENCE, "ap-south")
	eventually(t, time.Minute, "ap-south is back", func() bool {
		return d.state(t, "ap-south", membershipv1.State_STATE_ACTIVE).Incarnation == 3
	})
	s.converge(10 * time.Second)
}
