package shard

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/store"
)

// member is one node's part of a test group, on disk.
type member struct {
	shard *Shard
	store *store.Store
	tr    *raft.InmemTransport
	stop  func()
}

func startMember(t *testing.T, dir, name string, tr *raft.InmemTransport, servers []raft.Server) *member {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	scfg := store.DefaultConfig(dir+"/badger", log)
	scfg.MemTableBytes, scfg.MemTables, scfg.BlockCache = 1<<20, 2, 0
	st, err := store.Open(scfg)
	if err != nil {
		t.Fatal(err)
	}
	slots := NewSlots(1)
	space, err := st.Space(0, 0, SlotCount)
	if err != nil {
		t.Fatal(err)
	}
	stores, err := OpenStores(dir, 1<<20, log)
	if err != nil {
		t.Fatal(err)
	}
	timing := DefaultTiming()
	timing.Heartbeat, timing.Lease, timing.Commit = 200*time.Millisecond, 100*time.Millisecond, 20*time.Millisecond
	sh, err := Open(Config{
		ID: 0, Slots: slots, Region: 1, Server: raft.ServerID(name), Node: name,
		Limits: Limits{Lines: 500, Quantity: 999, OpLife: 24 * time.Hour}, Timing: timing,
		CacheBytes: 16 << 20, QueueMax: 1024, EntryBytesMax: 256 << 10, RetainRows: 1 << 20,
		Published: func(string, *store.Record, bool) {}, Applied: func(Applied) {},
		Fatal: func(err error) { t.Errorf("fatal: %v", err) }, Log: log,
	}, space, stores, tr, servers)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = sh.Run(ctx) }()
	m := &member{shard: sh, store: st, tr: tr}
	m.stop = func() {
		cancel()
		<-done
		if err := sh.Close(); err != nil {
			t.Error(err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}
	return m
}

func within(t *testing.T, d time.Duration, what string, ok func() bool) {
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
	m := startMember(t, dir, "n1", tr, servers)
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
	m = startMember(t, dir, "n1", tr, servers)
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
	var _ crdt.Interval = iv
}
