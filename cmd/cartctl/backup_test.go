package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/samecart/samecart/crdt"
)

// hold puts a cart with one line into a region of the fake.
func (f *fake) hold(region, id string, quantity uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := &crdt.Cart{}
	w := crdt.Writer{Replica: crdt.Replica{Region: 1, Incarnation: f.reborn}, At: crdt.TimestampAt(1_700_000_000_000)}
	c = c.Apply(c.Add(w, crdt.LineKey{Seller: "seller-1", SKU: "SKU-456"}, quantity, crdt.Offer{Price: 2999, Currency: "USD", AddedAt: w.At}, false))
	f.whole[region][id] = crdt.State{Cart: c}
}

func TestBackupAndRestore(t *testing.T) {
	f, addr := newFake(t)
	dir := filepath.Join(t.TempDir(), "backups")
	for i := range 20 {
		f.hold("us-east", fmt.Sprintf("cart:user-%d", i), uint32(i+1))
	}
	good := func(args string) map[string]any {
		t.Helper()
		// Another region's address: the command finds the right one.
		r := ctl(t, append(strings.Fields(args), "--json", "--addr", f.address["ap-south"])...)
		if r.code != exitGood {
			t.Fatalf("%s: exit %d, %s", args, r.code, r.stderr)
		}
		return r.object(t)
	}
	f.busy = 2 // a shard without a leader for a moment
	first := good("backup --region us-east --to " + dir)
	if first["carts"] != 20.0 || first["carts_written"] != 20.0 || first["incremental"] != false || first["bytes"].(float64) < 100 {
		t.Errorf("first: %v", first)
	}
	if _, ok := first["took_ms"].(float64); !ok {
		t.Errorf("took_ms is %v", first["took_ms"])
	}
	f.hold("us-east", "cart:user-3", 9)
	second := good("backup --region us-east --to file://" + dir)
	if second["carts"] != 20.0 || second["carts_written"] != 1.0 || second["incremental"] != true {
		t.Errorf("second: %v", second)
	}
	if full := good("backup --region us-east --full --to " + dir); full["incremental"] != false || full["carts_written"] != 20.0 {
		t.Errorf("full: %v", full)
	}
	if full := good("backup --region us-east --full-every 0 --to " + dir); full["incremental"] != false {
		t.Errorf("full by --full-every 0: %v", full)
	}
	list := good("backup list --from " + dir)
	if at(t, list, "backups", 0, "id") != first["id"] || at(t, list, "backups", 1, "previous") != first["id"] || at(t, list, "backups", 3, "region") != "us-east" {
		t.Errorf("list: %v", list)
	}
	if v := good("backup verify --from " + dir); v["carts"] != 20.0 {
		t.Errorf("verify: %v", v)
	}

	// The region has lost all, and is started as it was.
	f.mu.Lock()
	held := f.whole["us-east"]
	f.whole["us-east"] = map[string]crdt.State{}
	f.mu.Unlock()
	r := ctl(t, "restore", "--region", "us-east", "--from", dir, "--json", "--addr", addr)
	if r.code != exitFailed || !strings.Contains(r.stderr, "--incarnation 2") || strings.Count(r.stderr, "\n") != 1 || len(f.whole["us-east"]) > 0 {
		t.Errorf("restore under the old incarnation: exit %d, %q", r.code, r.stderr)
	}
	f.reborn = 2
	if got := good("restore --region us-east --from " + dir + " --at " + second["id"].(string)); got["carts"] != 20.0 || got["id"] != second["id"] {
		t.Errorf("restored: %v", got)
	}
	for id, s := range held {
		if got := f.whole["us-east"][id].Cart; got == nil || !got.Equal(s.Cart) {
			t.Errorf("cart %s is another", id)
		}
	}
	if r := ctl(t, "backup", "--region", "eu-west", "--to", dir, "--addr", addr); r.code != exitFailed || !strings.Contains(r.stderr, "us-east") {
		t.Errorf("another region's backup: exit %d, %q", r.code, r.stderr)
	}
}

func TestDamagedBackup(t *testing.T) {
	f, addr := newFake(t)
	dir := t.TempDir()
	f.hold("us-east", "cart:user-1", 1)
	if r := ctl(t, "backup", "--region", "us-east", "--to", dir, "--addr", addr); r.code != exitGood || !strings.Contains(r.stdout, "full") {
		t.Fatalf("exit %d, %s%s", r.code, r.stdout, r.stderr)
	}
	files, err := filepath.Glob(filepath.Join(dir, "data", "*", "*.carts"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	if err := os.Truncate(files[0], 7); err != nil {
		t.Fatal(err)
	}
	f.reborn = 2
	f.whole["us-east"] = map[string]crdt.State{}
	for _, command := range []string{"restore --region us-east", "backup verify"} {
		r := ctl(t, append(strings.Fields(command), "--from", dir, "--addr", addr)...)
		if r.code != exitFailed || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, "damaged") || !strings.Contains(r.stderr, ".carts") || r.stdout != "" {
			t.Errorf("%s: exit %d, %q%q", command, r.code, r.stdout, r.stderr)
		}
	}
	if len(f.whole["us-east"]) > 0 {
		t.Error("carts of a damaged backup were joined")
	}
	// The next backup says why it is not built on that one.
	f.hold("us-east", "cart:user-1", 1)
	r := ctl(t, "backup", "--region", "us-east", "--to", dir, "--addr", addr)
	if r.code != exitGood || !strings.Contains(r.stderr, "this one is full") {
		t.Errorf("exit %d, %q", r.code, r.stderr)
	}
	// One whose manifest is spoilt is listed as such.
	manifests, err := filepath.Glob(filepath.Join(dir, "backups", "*.json"))
	if err != nil || len(manifests) != 2 {
		t.Fatalf("%v, %v", manifests, err)
	}
	if err := os.WriteFile(manifests[1], []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := ctl(t, "backup", "list", "--from", dir); r.code != exitGood || !strings.Contains(r.stdout, "the backup is damaged") || strings.Count(r.stdout, "us-east") != 1 {
		t.Errorf("exit %d, %s", r.code, r.stdout)
	}
	if r := ctl(t, "backup", "list", "--from", dir, "--json"); at(t, r.object(t), "backups", 1, "error") == "" {
		t.Errorf("no error in %s", r.stdout)
	}
}
