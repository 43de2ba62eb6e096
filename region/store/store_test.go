package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"

	"github.com/samecart/samecart/crdt"
)

const slotsMax = 1024

// smallConfig makes memtables rotate and transactions fill up soon.
func smallConfig(dir string) Config {
	c := DefaultConfig(dir, slog.New(slog.DiscardHandler))
	c.MemTableBytes, c.MemTables = 1<<20, 2
	return c
}

func openStore(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(smallConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What a process leaves that ended while it made a database is not in the way: a
// database is made beside its place. Found by a simulation.
func TestADatabaseIsMadeAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "badger")
	if err := os.MkdirAll(dir+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"KEYREGISTRY", "MANIFEST", "000001.vlog"} {
		if err := os.WriteFile(filepath.Join(dir+".new", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Check(dir); err != nil {
		t.Errorf("check of what was not made yet: %v", err)
	}
	s := openStore(t, dir)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir + ".new"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was left behind is still there: %v", err)
	}
	if _, err := Check(dir); err != nil {
		t.Errorf("check of a new one: %v", err)
	}
}

func newStore(t testing.TB) *Store {
	t.Helper()
	s := openStore(t, t.TempDir())
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// fataler is what the helpers need of a test: *testing.T or *rapid.T.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func openSpace(t fataler, s *Store, shard uint32) *Space {
	t.Helper()
	sp, err := s.Space(shard, 0, slotsMax)
	if err != nil {
		t.Fatalf("open space: %v", err)
	}
	return sp
}

// commit runs one entry's changes.
func commit(t fataler, sp *Space, change func(tx *Tx)) {
	t.Helper()
	tx := sp.Begin()
	change(tx)
	tx.Marker().Applied++
	if err := tx.Commit(func(string, *Record, []byte) {}); err != nil {
		t.Fatalf("commit: %v", err)
	}
}

// put writes a cart's state as applying a command does.
func put(t fataler, tx *Tx, slot uint32, id string, s crdt.State) *Record {
	t.Helper()
	old, dirty := tx.Dirty(id)
	if !dirty {
		var err error
		if old, err = tx.Record(slot, id); err != nil {
			t.Fatalf("read %q: %v", id, err)
		}
	}
	r := NewRecord(id, tx.Marker().Applied+1, s, Asked{}, Head{})
	tx.PutRecord(slot, id, old, r)
	return r
}

func writer(region crdt.RegionID) crdt.Writer {
	return crdt.Writer{Replica: crdt.Replica{Region: region}, At: crdt.TimestampAt(1000)}
}

// cartOf returns a cart with n lines, and the op of its first dot.
func cartOf(n int) crdt.State {
	c := &crdt.Cart{}
	for i := range n {
		key := crdt.LineKey{Seller: "seller", SKU: fmt.Sprintf("sku-%d", i)}
		c = c.Apply(c.Add(writer(1), key, uint32(i+1), crdt.Offer{Price: 100, Currency: "EUR"}, false))
	}
	return crdt.State{Cart: c, Ops: []crdt.Op{{Dot: crdt.Dot{Replica: crdt.Replica{Region: 1}, Seq: 1}, ID: crdt.OpID{7}, Fingerprint: 9, At: 5}}}
}

// opsOf is all that is remembered for a cart.
func opsOf(sp *Space, id string) (map[crdt.OpID]OpRecord, error) {
	_, ops, err := sp.RecordAndOps(9, id)
	return ops, err
}

func rowOf(id string) crdt.Row {
	c := &crdt.Cart{}
	return crdt.Row{CartID: id, At: 5, Delta: c.Add(writer(1), crdt.LineKey{SKU: "sku"}, 1, crdt.Offer{Price: 1, Currency: "EUR"}, false)}
}

// dump returns every pair under a prefix, by what follows it in the key.
func dump(t fataler, s *Store, prefix []byte) map[string]string {
	t.Helper()
	out := make(map[string]string)
	eachItem(t, s, prefix, func(key string, item *badger.Item) error {
		v, err := item.ValueCopy(nil)
		out[key] = string(v)
		return err
	})
	return out
}

// versions returns the version of every key under a prefix.
func versions(t fataler, s *Store, prefix []byte) map[string]uint64 {
	t.Helper()
	out := make(map[string]uint64)
	eachItem(t, s, prefix, func(key string, item *badger.Item) error {
		out[key] = item.Version()
		return nil
	})
	return out
}

func eachItem(t fataler, s *Store, prefix []byte, do func(key string, item *badger.Item) error) {
	t.Helper()
	err := s.db.View(func(tx *badger.Txn) error {
		opt := badger.DefaultIteratorOptions
		opt.Prefix = prefix
		it := tx.NewIterator(opt)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			if err := do(string(it.Item().Key()[len(prefix):]), it.Item()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("read the database: %v", err)
	}
}

func setRaw(t fataler, s *Store, key, value []byte) {
	t.Helper()
	if err := s.db.Update(func(tx *badger.Txn) error { return tx.Set(key, value) }); err != nil {
		t.Fatalf("set: %v", err)
	}
}

// crashImage copies a database that is in use, as a killed process would
// leave it; the lock stays behind.
func crashImage(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "LOCK" {
			return err
		}
		in, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) { // a table that was compacted meanwhile
			return nil
		}
		if err != nil {
			return err
		}
		out, err := os.Create(filepath.Join(to, d.Name()))
		if err != nil {
			return errors.Join(err, in.Close())
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, in.Close(), out.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

func TestConfigIsChecked(t *testing.T) {
	_, err := Open(Config{MemTableBytes: 1, MemTables: 1})
	if err == nil {
		t.Fatal("a config with nothing right was taken")
	}
	for _, want := range []string{"directory", "at least 1 MiB", "at least 2"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error does not name %q: %v", want, err)
		}
	}
}

func TestOpenTwiceIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	if _, err := Open(smallConfig(dir)); err == nil || !strings.Contains(err.Error(), dir) {
		t.Fatalf("second open: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := openStore(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
}

// A block cache turns compression on; the data stays readable.
func TestDefaultConfig(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(DefaultConfig(dir, slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	sp := openSpace(t, s, 1)
	commit(t, sp, func(tx *Tx) { put(t, tx, 3, "c", cartOf(2)) })
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir)
	if r, err := openSpace(t, s, 1).Record(3, "c"); err != nil || r == nil {
		t.Fatalf("record %v, %v", r, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// S1: what a marker says is there after a reopen, and after a kill.
func TestReopenKeepsEverything(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	sp := openSpace(t, s, 4)
	st := crdt.Stream{Region: 2, Incarnation: 1, Shard: 3}
	for i := range 400 { // several memtables
		commit(t, sp, func(tx *Tx) {
			id := fmt.Sprintf("cart-%d", i%50)
			put(t, tx, uint32(i%50), id, cartOf(20+i%7))
			tx.AppendRow(rowOf(id))
			tx.PutLooseOp(id, crdt.OpID{byte(i), byte(i >> 8)}, OpRecord{Fingerprint: uint64(i), At: crdt.Timestamp(i + 1), Outcome: []byte("done")}, 1<<62)
			tx.SetCursor(st, uint64(i))
		})
	}
	marker, want := sp.Marker(), dump(t, s, sp.prefix)
	image := crashImage(t, dir)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, d := range map[string]string{"closed": dir, "killed": image} {
		s := openStore(t, d)
		sp := openSpace(t, s, 4)
		if sp.Marker() != marker || marker.Applied != 400 || marker.Seq != 400 || marker.Carts != 50 {
			t.Errorf("%s: marker %+v, want %+v", name, sp.Marker(), marker)
		}
		equalDumps(t, name, dump(t, s, sp.prefix), want)
		checkSums(t, sp)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func equalDumps(t fataler, what string, got, want map[string]string) {
	t.Helper()
	for k, v := range want {
		if g, ok := got[k]; !ok || g != v {
			t.Fatalf("%s: key %q is %q (there: %v), want %q", what, k, g, ok, v)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s: %d keys, want %d", what, len(got), len(want))
	}
}

// checkSums compares the bucket digests, in memory and on disk, with a
// recount from all records.
func checkSums(t fataler, sp *Space) {
	t.Helper()
	var want [slotsMax]Sum
	carts := uint64(0)
	for slot := range uint32(slotsMax) {
		list, more, err := sp.Bucket(slot, "", 1<<20)
		if err != nil || more {
			t.Fatalf("bucket: more=%v %v", more, err)
		}
		for _, c := range list {
			r, err := sp.Record(slot, c.CartID)
			if err != nil || r == nil {
				t.Fatalf("record %q: %v, %v", c.CartID, r, err)
			}
			if d := DigestOf(c.CartID, r.State.Cart.Encode(nil)); d != c.Digest || d != r.Digest {
				t.Fatalf("cart %q: digest %x in its record, %x in the bucket, want %x", c.CartID, r.Digest, c.Digest, d)
			}
			want[slot].put(c.Digest)
			carts++
		}
	}
	got, err := sp.Sums(0, slotsMax)
	if err != nil {
		t.Fatalf("sums: %v", err)
	}
	for slot := range want {
		if got[slot] != want[slot].Bytes() || sp.sums[slot] != want[slot] {
			t.Fatalf("slot %d: digest %x on disk, %x in memory, recount %x", slot, got[slot], sp.sums[slot].Bytes(), want[slot].Bytes())
		}
	}
	if sp.Marker().Carts != carts {
		t.Fatalf("marker counts %d carts, there are %d", sp.Marker().Carts, carts)
	}
}

func every(int, []byte) (bool, error) { return true, nil }

// raw returns the value under a key.
func raw(t *testing.T, s *Store, key []byte) (v []byte) {
	t.Helper()
	if err := s.db.View(func(tx *badger.Txn) (err error) { v, err = get(tx, key); return err }); err != nil {
		t.Fatal(err)
	}
	return v
}

// Values that are not what their keys say stop the caller.
func TestCorruptValues(t *testing.T) {
	s := newStore(t)
	shard := uint32(0)
	fresh := func() *Space {
		shard++
		sp := openSpace(t, s, shard)
		commit(t, sp, func(tx *Tx) {
			put(t, tx, 1, "c", cartOf(1))
			for i := range chunkLen + 4 { // a full chunk, and a tail
				tx.AppendRow(rowOf("c"))
				tx.PutLooseOp("c", crdt.OpID{byte(i + 1)}, OpRecord{At: 5, Outcome: []byte{1}}, 1<<62)
			}
		})
		return sp
	}
	reopen := func(sp *Space) error { _, err := s.Space(sp.shard, 0, slotsMax); return err }
	st := crdt.Stream{Region: 2}
	good := NewRecord("c", 1, cartOf(1), Asked{}, Head{}).Encode()
	tests := []struct {
		name  string
		key   func(sp *Space) []byte
		value []byte
		read  func(sp *Space) error
	}{
		{"generation", func(sp *Space) []byte { return pointerKey(sp.shard) }, []byte{1}, reopen},
		{"generation, on sweep", func(sp *Space) []byte { return pointerKey(sp.shard) }, []byte{1}, func(sp *Space) error { return s.Sweep(sp.shard, func() bool { return false }) }},
		{"marker", (*Space).markerKey, []byte{1, 2, 3}, reopen},
		{"digest, on open", func(sp *Space) []byte { return sp.digestKey(1) }, []byte{1}, reopen},
		{"digest", func(sp *Space) []byte { return sp.digestKey(1) }, []byte{1}, func(sp *Space) error { _, err := sp.Sums(0, 2); return err }},
		{"digest, too long", func(sp *Space) []byte { return sp.digestKey(1) }, make([]byte, 16*sumsLen+1), func(sp *Space) error { _, err := sp.Sums(0, 2); return err }},
		{"short record", func(sp *Space) []byte { return sp.cartKey(1, "c") }, []byte{1}, func(sp *Space) error { _, err := sp.Record(1, "c"); return err }},
		{"cut record", func(sp *Space) []byte { return sp.cartKey(1, "c") }, good[:len(good)-3], func(sp *Space) error { _, err := sp.Record(1, "c"); return err }},
		{"cut record, in a transaction", func(sp *Space) []byte { return sp.cartKey(1, "c") }, good[:len(good)-3], func(sp *Space) error {
			tx := sp.Begin()
			defer tx.Discard()
			_, err := tx.Record(1, "c")
			return err
		}},
		{"short record in a bucket", func(sp *Space) []byte { return sp.cartKey(1, "c") }, []byte{1}, func(sp *Space) error { _, _, err := sp.Bucket(1, "", 9); return err }},
		{"row", func(sp *Space) []byte { return sp.chunkKey(kindRow, 0) }, []byte{2, 1, 1}, func(sp *Space) error { _, err := sp.Rows(0, 1); return err }},
		{"row cut off", func(sp *Space) []byte { return sp.chunkKey(kindRow, 0) }, []byte{9, 1, 1}, func(sp *Space) error { _, err := sp.Rows(0, 1); return err }},
		{"too many rows", func(sp *Space) []byte { return sp.chunkKey(kindRow, 0) }, make([]byte, chunkLen+1), func(sp *Space) error { return eachValue(raw(t, s, sp.chunkKey(kindRow, 0)), every) }},
		{"last rows, on open", func(sp *Space) []byte { return sp.chunkKey(kindRow, 1) }, make([]byte, 3), reopen},
		{"last rows cut off, on open", func(sp *Space) []byte { return sp.chunkKey(kindRow, 1) }, []byte{200}, reopen},
		{"cursor", func(sp *Space) []byte { return sp.cursorKey(st) }, []byte{1}, func(sp *Space) error { _, err := sp.Cursor(st); return err }},
		{"op", func(sp *Space) []byte { return sp.opKey("c", crdt.OpID{1}) }, []byte{1}, func(sp *Space) error { _, err := opsOf(sp, "c"); return err }},
		{"op, in a transaction", func(sp *Space) []byte { return sp.opKey("c", crdt.OpID{1}) }, []byte{1}, func(sp *Space) error {
			tx := sp.Begin()
			defer tx.Discard()
			_, _, err := tx.Op("c", crdt.OpID{1}, nil)
			return err
		}},
		{"op key", func(sp *Space) []byte { return append(append(sp.key(kindOp, 9), "c\x00"...), 1) }, make([]byte, 16), func(sp *Space) error { _, err := opsOf(sp, "c"); return err }},
		{"op age", func(sp *Space) []byte { return sp.chunkKey(kindOps, 0) }, []byte{1, 1}, func(sp *Space) error { _, _, err := sp.OldestOp(); return err }},
		{"op age cut off", func(sp *Space) []byte { return sp.chunkKey(kindOps, 0) }, []byte{9}, func(sp *Space) error { _, _, err := sp.OldestOp(); return err }},
		{"op age, on expiry", func(sp *Space) []byte { return sp.chunkKey(kindOps, 0) }, nil, func(sp *Space) error {
			tx := sp.Begin()
			defer tx.Discard()
			return tx.ExpireOps(100, 10)
		}},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			sp := fresh()
			if err := c.read(sp); err != nil {
				t.Fatalf("before: %v", err)
			}
			setRaw(t, s, c.key(sp), c.value)
			if err := c.read(sp); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("got %v, want ErrCorrupt", err)
			}
		})
	}
}

// A process killed while Badger removes a memtable's file leaves it empty:
// the kill test found a node that did not start again.
func TestEmptyMemtableFileIsPassedOver(t *testing.T) {
	dir := t.TempDir()
	cfg := DefaultConfig(dir, slog.New(slog.DiscardHandler))
	cfg.MemTableBytes = 1 << 20
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	space, err := s.Space(0, 0, 1024)
	if err != nil {
		t.Fatal(err)
	}
	tx := space.Begin()
	tx.AppendRow(crdt.Row{CartID: "cart:u", Delta: crdt.Delta{Dots: []crdt.Dot{{Seq: 1}}, Context: crdt.ContextOf(crdt.Dot{Seq: 1})}})
	tx.Marker().Applied = 7
	if err := tx.Commit(func(string, *Record, []byte) {}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "00009.mem"), nil, 0o600); err != nil {
		t.Fatal(err)
	}

	if s, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if space, err = s.Space(0, 0, 1024); err != nil {
		t.Fatal(err)
	}
	if got := space.Marker().Applied; got != 7 {
		t.Fatalf("applied index is %d, want 7", got)
	}
}
