package shard

import (
	"log/slog"
	"testing"

	"github.com/hashicorp/raft"
)

// A follower that drops conflicting entries cuts its log's tail. The log of
// raft-wal 0.4.0 then could not be read after a restart (raft-wal issue 31):
// the kill test found a node that did not start again.
func TestLogIsReadAfterItsTailWasCut(t *testing.T) {
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	s, err := OpenStores(dir, 1<<20, log)
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

	if s, err = OpenStores(dir, 1<<20, log); err != nil {
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
