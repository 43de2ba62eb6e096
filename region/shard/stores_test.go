package shard

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/samecart/samecart/region/store"
)

// A follower that drops conflicting entries cuts its log's tail. The log of
// raft-wal 0.4.0 then could not be read after a restart (raft-wal issue 31):
// the kill test found a node that did not start again.
func TestLogIsReadAfterItsTailWasCut(t *testing.T) {
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	s, err := OpenStores(dir, 1<<20, Disk{}, log)
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= 10; i++ {
		if err := s.Log.StoreLog(&raft.Log{Index: i, Term: 1, Data: []byte{byte(i)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Log.DeleteRange(8, 10); err != nil {
		t.Fatal(err)
	}
	if err := s.Log.StoreLog(&raft.Log{Index: 8, Term: 2, Data: []byte{80}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	if s, err = OpenStores(dir, 1<<20, Disk{}, log); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	last, err := s.Log.LastIndex()
	if err != nil || last != 8 {
		t.Fatalf("log ends at %d, %v; want 8", last, err)
	}
	for i := uint64(1); i <= 8; i++ {
		want := byte(i)
		if i == 8 {
			want = 80
		}
		var l raft.Log
		if err := s.Log.GetLog(i, &l); err != nil || l.Data[0] != want {
			t.Fatalf("entry %d: %v, %v; want %d", i, l.Data, err, want)
		}
	}
}

// A log whose files hold something else opens as an empty one. The member
// must not serve, nor start its group anew: it may have acknowledged what is
// gone.
func TestDamagedLogIsRefused(t *testing.T) {
	dir := t.TempDir()
	servers := []raft.Server{{ID: "n1", Address: "n1"}}
	_, tr := raft.NewInmemTransport("n1")
	m := startMember(t, dir, "n1", tr, servers, start{})
	within(t, 5*time.Second, "leads", m.shard.Leads)
	if _, err := m.shard.Propose(context.Background(), addCommand("cart:u", "SKU-1", 1, 1)); err != nil {
		t.Fatal(err)
	}
	m.stop()
	files, err := filepath.Glob(filepath.Join(dir, "log", "*.wal"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no log files: %v", err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, make([]byte, info.Size()), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	stores, err := OpenStores(dir, 1<<20, Disk{}, slog.New(slog.DiscardHandler))
	if err != nil {
		return // refused even earlier
	}
	defer func() { _ = stores.Close() }()
	st := openStore(t, dir+"/badger", 1<<20)
	defer func() { _ = st.Close() }()
	space, err := st.Space(0, 0, SlotCount)
	if err != nil {
		t.Fatal(err)
	}
	_, tr = raft.NewInmemTransport("n1")
	_, err = Open(Config{
		Slots: NewSlots(1), Region: 1, Server: "n1", Node: "n1", Timing: DefaultTiming(), QueueMax: 1,
		Reborn:    func(uint32) {},
		Published: func(string, *store.Record, []byte, bool) {}, Applied: func(Applied) {}, Fatal: func(error) {}, Log: slog.New(slog.DiscardHandler),
	}, space, stores, tr, servers)
	if !errors.Is(err, ErrLogDamaged) {
		t.Fatalf("opened with %v, want ErrLogDamaged", err)
	}
}

// A member whose log had something in it must not start with an empty one,
// even when its database is gone too: it would vote again.
func TestEmptiedLogIsRefused(t *testing.T) {
	st := openStore(t, t.TempDir(), 1<<20)
	defer func() { _ = st.Close() }()
	space, err := st.Space(0, 0, SlotCount)
	if err != nil {
		t.Fatal(err)
	}
	mem := raft.NewInmemStore()
	_, tr := raft.NewInmemTransport("n1")
	_, err = Open(Config{
		Slots: NewSlots(1), Region: 1, Server: "n1", Node: "n1", Timing: DefaultTiming(), QueueMax: 1, HadState: true,
		Reborn:    func(uint32) {},
		Published: func(string, *store.Record, []byte, bool) {}, Applied: func(Applied) {}, Fatal: func(error) {}, Log: slog.New(slog.DiscardHandler),
	}, space, Stores{Log: mem, Stable: mem, Snapshots: raft.NewInmemSnapshotStore(), Close: func() error { return nil }}, tr,
		[]raft.Server{{ID: "n1", Address: "n1"}})
	if !errors.Is(err, ErrLogDamaged) {
		t.Fatalf("opened with %v, want ErrLogDamaged", err)
	}
}
