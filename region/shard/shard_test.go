package shard

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/store"
)

// member is one node's part of a test group.
type member struct {
	shard  *Shard
	store  *store.Store
	stores Stores
	tr     *raft.InmemTransport
	stop   func()
}

// start says how a member is started; the zero value is on disk with the
// test's usual settings.
type start struct {
	stores  *Stores // raft's stores; nil for those in the directory
	segment int     // bytes of a log file in the directory; 0 for 1 MiB
	noRun   bool    // Run is the test's to call
	// memTable is Badger's, in bytes; 0 for 1 MiB.
	memTable int64
	with     func(*Config)
}

// memStores are raft's stores of one node in memory: they outlive its
// restarts.
func memStores() *Stores {
	s := raft.NewInmemStore()
	return &Stores{Log: s, Stable: s, Snapshots: raft.NewInmemSnapshotStore(), Close: func() error { return nil }}
}

func startMember(t testing.TB, dir, name string, tr *raft.InmemTransport, servers []raft.Server, how start) *member {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	st := openStore(t, dir+"/badger", cmp.Or(how.memTable, 1<<20))
	slots := NewSlots(1)
	space, err := st.Space(0, 0, SlotCount)
	if err != nil {
		t.Fatal(err)
	}
	if how.stores == nil {
		stores, err := OpenStores(dir, cmp.Or(how.segment, 1<<20), Disk{}, log)
		if err != nil {
			t.Fatal(err)
		}
		how.stores = &stores
	}
	timing := DefaultTiming()
	timing.Heartbeat, timing.Lease, timing.Commit = 200*time.Millisecond, 100*time.Millisecond, 20*time.Millisecond
	cfg := Config{
		ID: 0, Slots: slots, Region: 1, Server: raft.ServerID(name), Node: name,
		Limits: Limits{Lines: 500, Codes: 10, Quantity: 100_000, OpLife: 24 * time.Hour, Undo: 10 * time.Minute}, Timing: timing,
		CacheBytes: 16 << 20, QueueMax: 1024, EntryBytesMax: 256 << 10, RetainRows: 1 << 20,
		Reborn:    func(uint32) {},
		Published: func(string, *store.Record, []byte, bool) {}, Applied: func(Applied) {},
		Fatal: func(err error) { t.Errorf("fatal: %v", err) }, Log: log,
	}
	if how.with != nil {
		how.with(&cfg)
	}
	sh, err := Open(cfg, space, *how.stores, tr, servers)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if !how.noRun {
			_ = sh.Run(ctx) // has no other end than ctx
		}
	}()
	return &member{shard: sh, store: st, stores: *how.stores, tr: tr, stop: sync.OnceFunc(func() {
		cancel()
		<-done
		if err := sh.Close(); err != nil {
			t.Error(err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})}
}

// startAlone starts a group of one member and waits until it leads.
func startAlone(t testing.TB, how start) *member {
	t.Helper()
	_, tr := raft.NewInmemTransport("n1")
	if how.stores == nil {
		how.stores = memStores()
	}
	m := startMember(t, t.TempDir(), "n1", tr, []raft.Server{{ID: "n1", Address: "n1"}}, how)
	t.Cleanup(m.stop)
	if !how.noRun {
		within(t, 5*time.Second, "leads", m.shard.Leads)
	}
	return m
}

func within(t testing.TB, d time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(d)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("%s: not within %v", what, d)
		case <-tick.C:
		}
	}
}

func addCommand(cart, sku string, n uint32, op byte) *regionv1.Command {
	e := &regionv1.Edit{CartId: cart, Changes: []*regionv1.Change{{
		Kind: regionv1.Change_KIND_ADD, Quantity: n, Price: 2999, Currency: "USD",
		Line: &regionv1.LineKey{Seller: "seller-1", Sku: sku},
	}}}
	if op != 0 {
		e.OpId = make([]byte, 16)
		e.OpId[0] = op
		e.Fingerprint = uint64(op)
	}
	return &regionv1.Command{Command: &regionv1.Command_Edit{Edit: e}}
}

func TestProposeAndRestart(t *testing.T) {
	dir := t.TempDir()
	_, tr := raft.NewInmemTransport("n1")
	servers := []raft.Server{{ID: "n1", Address: "n1"}}
	m := startMember(t, dir, "n1", tr, servers, start{})
	within(t, 5*time.Second, "leads", m.shard.Leads)
	ctx := context.Background()
	for i := range 20 {
		out, err := m.shard.Propose(ctx, addCommand("cart:u", fmt.Sprintf("SKU-%d", i%5), 1, byte(i+1)))
		if err != nil || out.Code != regionv1.Outcome_CODE_OK {
			t.Fatal(out, err)
		}
	}
	out, err := m.shard.Propose(ctx, addCommand("cart:u", "SKU-0", 1, 1))
	if err != nil || !out.Replayed || out.Lines[0].Quantity != 1 {
		t.Fatalf("a retried add must replay its outcome: %v, %v", out, err)
	}
	r, err := m.shard.Read(ctx, "cart:u", true)
	if err != nil || r.State.Cart.ItemCount(0) != 20 {
		t.Fatalf("read: %v, %v", r, err)
	}
	m.stop()

	_, tr = raft.NewInmemTransport("n1")
	m = startMember(t, dir, "n1", tr, servers, start{})
	defer m.stop()
	within(t, 5*time.Second, "leads again", m.shard.Leads)
	r2, err := m.shard.Read(ctx, "cart:u", false)
	if err != nil || r2.Digest != r.Digest || !r2.State.Cart.Equal(r.State.Cart) {
		t.Fatalf("after restart: %v, %v", r2, err)
	}
	if got := m.shard.LastSeq(); got != 20 {
		t.Fatalf("delta log ends at %d, want 20", got)
	}
	iv, ok, err := m.shard.ReadAfter(ctx, 15, 1<<20)
	if err != nil || !ok || len(iv.Rows) != 5 || iv.Hi != 20 {
		t.Fatalf("interval %v ok=%v err=%v", iv, ok, err)
	}
}

// One shopper may fill a cart with the largest lines and clear it. The rows of
// that outgrow a transaction of a small memtable; the entry is committed, so
// failing to apply it would end every member, at each start again.
func TestClearOfTheLargestCart(t *testing.T) {
	dir := t.TempDir()
	_, tr := raft.NewInmemTransport("n1")
	m := startMember(t, dir, "n1", tr, []raft.Server{{ID: "n1", Address: "n1"}}, start{memTable: 4 << 20})
	defer m.stop()
	within(t, 5*time.Second, "leads", m.shard.Leads)
	id := "cart:" + strings.Repeat("u", 128)
	for from := 0; from < 500; from += 50 {
		e := &regionv1.Edit{CartId: id}
		for i := range 50 {
			e.Changes = append(e.Changes, &regionv1.Change{
				Kind: regionv1.Change_KIND_ADD, Quantity: 1, Currency: "USD",
				Line: &regionv1.LineKey{Seller: "s", Sku: fmt.Sprint(from + i), Options: strings.Repeat("o", 1024)},
			})
		}
		out, err := m.shard.Propose(t.Context(), &regionv1.Command{Command: &regionv1.Command_Edit{Edit: e}})
		if err != nil || out.Code != regionv1.Outcome_CODE_OK {
			t.Fatal(out, err)
		}
	}
	e := &regionv1.Edit{CartId: id, Changes: []*regionv1.Change{{Kind: regionv1.Change_KIND_CLEAR}}}
	out, err := m.shard.Propose(t.Context(), &regionv1.Command{Command: &regionv1.Command_Edit{Edit: e}})
	if err != nil || out.Code != regionv1.Outcome_CODE_OK || out.ItemCount != 0 {
		t.Fatal(out, err)
	}
	if got := m.shard.LastSeq(); got != 1000 {
		t.Fatalf("delta log ends at %d, want 1000", got)
	}
}
