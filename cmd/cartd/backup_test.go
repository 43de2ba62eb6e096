package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	"github.com/samecart/samecart/proto/admin/v1/adminv1connect"
)

// tool is cartctl as a process, built from the source beside this.
type tool struct {
	t    *testing.T
	path string
	addr string // of any region
}

func buildTool(t *testing.T, addr string) tool {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cartctl")
	begin := time.Now()
	if out, err := exec.Command("go", "build", "-o", path, "../cartctl").CombinedOutput(); err != nil {
		t.Fatalf("build cartctl: %v: %s", err, out)
	}
	t.Logf("cartctl was built in %v", time.Since(begin))
	return tool{t, path, addr}
}

// run returns the command's object, which must come with that exit code, and
// what it says on standard error.
func (c tool) run(code int, args ...string) (object map[string]any, said string) {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), c.path, append(args, "--json", "--addr", c.addr)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	got := 0
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		got = failed.ExitCode()
	} else if err != nil {
		c.t.Fatal(err)
	}
	if got != code {
		c.t.Fatalf("cartctl %s: exit %d, want %d: %s%s", args, got, code, out, &stderr)
	}
	if err := json.Unmarshal(out, &object); err != nil {
		c.t.Fatalf("cartctl %s: %v in %q", args, err, out)
	}
	return object, stderr.String()
}

// A region that lost all its disks takes an old backup beside a live peer. What
// was removed since stays removed, what was edited since stays as edited, and
// what only backups have comes back, with its requests.
func TestRestoreBesideLivePeer(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	addresses := []string{"--regions", "us-east=1;eu-west=2", "--addresses", fmt.Sprintf("us-east=http://%s;eu-west=http://%s", p.addrs["us-east"][0], p.addrs["eu-west"][0])}
	us, eu := p.start("us-east", addresses...), p.start("eu-west", addresses...)
	p.ready("us-east")
	p.ready("eu-west")
	ctl := buildTool(t, "http://"+p.addrs["eu-west"][0])
	dir := filepath.Join(t.TempDir(), "backups")

	one, two := p.shopper("user-1"), p.shopper("user-2")
	one.add("us-east", "SKU-1", 2)
	one.add("us-east", "SKU-2", 1)
	one.add("us-east", "SKU-3", 4)
	two.add("eu-west", "SKU-1", 1)
	one.converge(10 * time.Second)
	two.converge(10 * time.Second)
	old, _ := ctl.run(0, "backup", "--region", "us-east", "--to", dir)
	if old["carts"] != 2.0 || old["incremental"] != false {
		t.Errorf("first backup: %v", old)
	}

	one.remove("us-east", "SKU-2")
	one.set("eu-west", "SKU-3", 7)
	one.add("us-east", "SKU-4", 5)
	one.converge(10 * time.Second)
	two.converge(10 * time.Second)
	// Only us-east and its backup ever know of this one.
	eu.terminate(t)
	three := p.shopper("user-3")
	three.with("Idempotency-Key", "k3").add("us-east", "SKU-9", 3)
	ctl.addr = "http://" + p.addrs["us-east"][0]
	last, _ := ctl.run(0, "backup", "--region", "us-east", "--to", dir)
	if last["carts"] != 3.0 || last["carts_written"] != 2.0 || last["incremental"] != true {
		t.Errorf("second backup: %v", last)
	}

	// The region as it is mints dots of the backup's incarnation.
	if _, said := ctl.run(1, "restore", "--region", "us-east", "--from", dir); !strings.Contains(said, "--incarnation 2") || strings.Count(said, "\n") != 1 {
		t.Errorf("restore without a raised incarnation: %q", said)
	}
	us.terminate(t)
	removeAll(t, p.data("us-east"))
	eu = p.start("eu-west", addresses...)
	p.ready("eu-west")
	us = p.start("us-east", append(addresses, "--incarnation", "2")...)
	p.ready("us-east")

	// At once: repair from eu-west has hardly begun.
	if got, _ := ctl.run(0, "restore", "--region", "us-east", "--from", dir, "--at", old["id"].(string)); got["carts"] != 2.0 {
		t.Errorf("restored: %v", got)
	}
	c, took := one.converge(60 * time.Second)
	t.Logf("equal %v after the old backup was restored", took)
	if got := quantities(c); got != "SKU-1 x2, SKU-3 x7, SKU-4 x5" {
		t.Errorf("after the old backup: %s", got)
	}
	ctl.run(0, "restore", "--region", "us-east", "--from", dir)
	if got := quantities(three.cart("us-east")); got != "SKU-9 x3" {
		t.Errorf("the cart that only the backup had: %q", got)
	}
	if a := three.with("Idempotency-Key", "k3").add("us-east", "SKU-9", 3); a.header.Get("Idempotent-Replayed") != "true" {
		t.Error("a retry of what the backup has counted again")
	}
	// And all of it is in both regions, with what is new.
	one.add("us-east", "SKU-1", 1)
	two.add("us-east", "SKU-2", 1)
	if got, _ := ctl.run(0, "verify", "--wait", "60s"); got["carts"] != 3.0 || got["diverged"] != 0.0 {
		t.Errorf("verify: %v", got)
	}
	for s, want := range map[*shopper]string{&one: "SKU-1 x3, SKU-3 x7, SKU-4 x5", &two: "SKU-1 x1, SKU-2 x1", &three: "SKU-9 x3"} {
		if c, _ := s.converge(10 * time.Second); quantities(c) != want {
			t.Errorf("%v: %s, want %s", s.headers, quantities(c), want)
		}
	}
	us.terminate(t)
	eu.terminate(t)
}

// Carts go in and come out whole, also one that is larger than a shopper's
// request may be; what no region would take is refused before the log.
func TestWholeCarts(t *testing.T) {
	d := sharedDev(t)
	call := func(region string, carts ...*adminv1.WholeCart) error {
		_, err := d.admin("front").Import(t.Context(), connect.NewRequest(&adminv1.ImportRequest{Region: region, Carts: carts}))
		return err
	}
	c := &crdt.Cart{}
	w := crdt.Writer{Replica: crdt.Replica{Region: 9, Incarnation: 1}, At: crdt.TimestampAt(1_700_000_000_000)}
	for i := range 400 {
		key := crdt.LineKey{Seller: "seller-1", SKU: fmt.Sprintf("SKU-%d", i), Options: strings.Repeat("x", 1000)}
		c = c.Apply(c.Add(w, key, 1, crdt.Offer{Price: 1, Currency: "USD", AddedAt: w.At}, false))
	}
	big := &adminv1.WholeCart{CartId: "cart:big", State: crdt.State{Cart: c}.Encode(nil)}
	for _, r := range devRegions {
		if err := call(r.name, big); err != nil {
			t.Fatalf("import %d bytes into %s: %v", len(big.State), r.name, err)
		}
		stream, err := d.admin("front").Export(t.Context(), connect.NewRequest(&adminv1.ExportRequest{Region: r.name, CartIds: []string{"cart:none", "cart:big"}}))
		if err != nil {
			t.Fatal(err)
		}
		var got []*adminv1.WholeCart
		for stream.Receive() {
			got = append(got, stream.Msg().Carts...)
		}
		if err := stream.Err(); err != nil || len(got) != 1 || got[0].CartId != "cart:big" || !bytes.Equal(got[0].State, big.State) {
			t.Errorf("%s: exported %d carts, %v", r.name, len(got), err)
		}
	}
	many := make([]*adminv1.WholeCart, importMax+1)
	for i := range many {
		many[i] = &adminv1.WholeCart{CartId: "cart:small", State: crdt.State{Cart: &crdt.Cart{}}.Encode(nil)}
	}
	for name, c := range map[string]struct {
		err  error
		code connect.Code
	}{
		"garbage":        {call("us-east", &adminv1.WholeCart{CartId: "cart:bad", State: []byte("no cart")}), connect.CodeInvalidArgument},
		"no id":          {call("us-east", &adminv1.WholeCart{State: big.State}), connect.CodeInvalidArgument},
		"too many":       {call("us-east", many...), connect.CodeInvalidArgument},
		"unknown region": {call("mars", big), connect.CodeNotFound},
	} {
		if connect.CodeOf(c.err) != c.code {
			t.Errorf("%s: %v, want %v", name, c.err, c.code)
		}
	}
	// Nobody but an operator.
	anyone := adminv1connect.NewAdminServiceClient(http.DefaultClient, d.url("us-east"))
	if _, err := anyone.Import(t.Context(), connect.NewRequest(&adminv1.ImportRequest{Region: "us-east"})); connect.CodeOf(err) != connect.CodePermissionDenied && connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("without a scope: %v", err)
	}
}
