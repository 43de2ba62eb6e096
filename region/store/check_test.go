package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"
)

// database makes a database with all kinds of files: tables, a memtable that
// was full, one that is in use, and a value log with something in it. It
// returns an image of it as of a kill, and what Check must find.
func database(t *testing.T) (dir string, applied map[uint32]uint64) {
	t.Helper()
	live := t.TempDir()
	s := openStore(t, live)
	a, b := openSpace(t, s, 1), openSpace(t, s, 2)
	fillSpace(t, a, 700)
	fillSpace(t, b, 50)
	restore(t, b, snapshotOf(t, a)) // a generation behind a pointer
	setRaw(t, s, a.key('z', 0), bytes.Repeat([]byte("large"), 28<<10))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, live)
	a, b = openSpace(t, s, 1), openSpace(t, s, 2)
	// A reader holds the first memtable, so its file stays when it is in a table.
	tx := s.db.NewTransaction(false)
	it := tx.NewIterator(badger.DefaultIteratorOptions)
	for len(glob(t, live, "*.mem")) < 2 {
		fillSpace(t, a, 50)
	}
	fillSpace(t, b, 5)
	dir = quietImage(t, live)
	applied = map[uint32]uint64{1: a.Marker().Applied, 2: b.Marker().Applied}
	it.Close()
	tx.Discard()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, applied
}

// quietImage is crashImage of a moment in which Badger moves no files, without
// the room that it has set aside in the value log.
func quietImage(t *testing.T, live string) string {
	t.Helper()
	state := func() string {
		return fmt.Sprint(glob(t, live, "*"), string(read(t, filepath.Join(live, "MANIFEST"))))
	}
	for range 100 {
		before := state()
		dir := crashImage(t, live)
		if before != state() {
			continue
		}
		for _, f := range glob(t, dir, "*.vlog") {
			overwrite(t, f, append(bytes.TrimRight(read(t, f), "\x00"), make([]byte, 64)...))
		}
		return dir
	}
	t.Fatal("Badger does not come to rest")
	return ""
}

func glob(t testing.TB, dir, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// copied copies a database.
func copied(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func overwrite(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func filesOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for _, f := range glob(t, dir, "*") {
		out[f] = string(read(t, f))
	}
	return out
}

func garbage(n int) []byte { return bytes.Repeat([]byte("garbage "), n/8+1)[:n] }

func TestCheckFindsWhatOpenDoes(t *testing.T) {
	dir, applied := database(t)
	if len(glob(t, dir, "*.mem")) < 2 || len(glob(t, dir, "*.sst")) < 2 {
		t.Fatalf("the database has %v", glob(t, dir, "*"))
	}
	before := filesOf(t, dir)
	got, err := Check(dir)
	if err != nil || !maps.Equal(got, applied) {
		t.Fatalf("found %v, %v, want %v", got, err, applied)
	}
	if !maps.Equal(before, filesOf(t, dir)) {
		t.Error("the check changed something")
	}
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "none")} {
		if got, err := Check(dir); err != nil || len(got) != 0 {
			t.Errorf("without a database: %v, %v", got, err)
		}
	}
	// After a clean stop all is in tables.
	s := openStore(t, dir)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir)
	sp := openSpace(t, s, 1)
	fillSpace(t, sp, 20)
	applied[1] = sp.Marker().Applied
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := Check(dir); err != nil || !maps.Equal(got, applied) {
		t.Errorf("stopped, found %v, %v, want %v", got, err, applied)
	}
}

// Whatever is done to a file: either Check says so, or Open gives what Check
// found.
func TestDamagedFiles(t *testing.T) {
	whole, applied := database(t)
	mems := glob(t, whole, "*.mem")
	name := filepath.Base
	table, older, last := name(glob(t, whole, "*.sst")[0]), name(mems[0]), name(mems[len(mems)-1])
	value := name(glob(t, whole, "*.vlog")[0])
	const (
		refused  = "refused"
		same     = "nothing is lost"
		rollback = "the newest is lost"
	)
	damages := map[string]func(path string, b []byte){
		"garbage": func(path string, b []byte) { overwrite(t, path, garbage(len(b))) },
		"half":    func(path string, b []byte) { overwrite(t, path, b[:len(b)/2]) },
		"empty":   func(path string, _ []byte) { overwrite(t, path, nil) },
		"cut":     func(path string, b []byte) { overwrite(t, path, b[:len(bytes.TrimRight(b, "\x00"))/2]) },
		"zeros":   func(path string, b []byte) { overwrite(t, path, make([]byte, len(b))) },
		"second half": func(path string, b []byte) {
			overwrite(t, path, append(b[:len(b)/2:len(b)/2], garbage(len(b)-len(b)/2)...))
		},
		"some bytes": func(path string, b []byte) {
			used := len(bytes.TrimRight(b, "\x00"))
			copy(b[used/2:], garbage(32))
			overwrite(t, path, b)
		},
		"gone": func(path string, _ []byte) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
	}
	for _, c := range []struct{ file, damage, want string }{
		{table, "garbage", refused}, {table, "half", refused}, {table, "empty", refused}, {table, "zeros", refused},
		{table, "second half", refused}, {table, "some bytes", refused}, {table, "gone", refused},
		{"MANIFEST", "garbage", refused}, {"MANIFEST", "half", refused}, {"MANIFEST", "empty", refused}, {"MANIFEST", "zeros", refused},
		{"MANIFEST", "second half", refused}, {"MANIFEST", "some bytes", refused}, {"MANIFEST", "gone", refused},
		{"KEYREGISTRY", "garbage", refused}, {"KEYREGISTRY", "half", refused}, {"KEYREGISTRY", "empty", refused}, {"KEYREGISTRY", "zeros", refused},
		{"KEYREGISTRY", "second half", refused}, {"KEYREGISTRY", "gone", same},
		{"DISCARD", "garbage", same}, {"DISCARD", "half", same}, {"DISCARD", "empty", same}, {"DISCARD", "zeros", same},
		{"DISCARD", "second half", same}, {"DISCARD", "gone", same},
		{older, "garbage", refused}, {older, "cut", refused}, {older, "zeros", refused}, {older, "second half", refused}, {older, "some bytes", refused},
		{last, "garbage", refused}, {last, "second half", refused},
		{last, "half", same}, {last, "cut", rollback}, {last, "empty", rollback}, {last, "zeros", rollback}, {last, "some bytes", rollback}, {last, "gone", rollback},
		{value, "garbage", refused}, {value, "half", refused}, {value, "empty", refused}, {value, "zeros", refused},
		{value, "second half", refused}, {value, "some bytes", refused}, {value, "gone", refused},
	} {
		t.Run(c.file+" "+c.damage, func(t *testing.T) {
			dir := copied(t, whole)
			path := filepath.Join(dir, c.file)
			damages[c.damage](path, read(t, path))
			before := filesOf(t, dir)
			got, err := Check(dir)
			if !maps.Equal(before, filesOf(t, dir)) {
				t.Error("the check changed something")
			}
			if err != nil {
				if c.want != refused || !errors.Is(err, ErrCorrupt) || strings.Contains(err.Error(), "\n") {
					t.Errorf("refused with %v, want: %s", err, c.want)
				}
				return
			}
			if c.want == refused {
				t.Fatalf("found %v, want it refused", got)
			}
			if lost := !maps.Equal(got, applied); lost != (c.want == rollback) {
				t.Errorf("found %v, was %v, want: %s", got, applied, c.want)
			}
			s := openStore(t, dir)
			for shard, index := range got {
				if sp := openSpace(t, s, shard); sp.Marker().Applied != index {
					t.Errorf("shard %d: found %d, opened at %d", shard, index, sp.Marker().Applied)
				} else {
					checkSums(t, sp)
				}
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// No byte of a table can change unnoticed.
func TestFlippedBytes(t *testing.T) {
	whole, _ := database(t)
	table := filepath.Base(glob(t, whole, "*.sst")[0])
	b := read(t, filepath.Join(whole, table))
	s := openStore(t, copied(t, whole))
	want := dump(t, s, nil)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	dir := copied(t, whole)
	path, unseen := filepath.Join(dir, table), 0
	for at := 0; at < len(b); at += max(1, len(b)/150) {
		b[at] ^= 0x55
		overwrite(t, path, b)
		if _, err := Check(dir); err == nil {
			unseen++
			s := openStore(t, copied(t, dir))
			equalDumps(t, fmt.Sprintf("byte %d", at), dump(t, s, nil), want)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		} else if !errors.Is(err, ErrCorrupt) {
			t.Errorf("byte %d: %v", at, err)
		}
		b[at] ^= 0x55
	}
	if unseen > 3 {
		t.Errorf("%d changes were not seen", unseen)
	}
}

// A file of a value log that nothing points at may be cut to nothing, as one
// is that Badger was about to delete.
func TestUnusedValueLog(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	fillSpace(t, openSpace(t, s, 1), 3)
	image := quietImage(t, dir)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"empty": nil, "cut in its header": {0, 0, 0}, "gone": {1}} {
		dir := copied(t, image)
		path := glob(t, dir, "*.vlog")[0]
		overwrite(t, path, content)
		if name == "gone" {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := Check(dir); err != nil || got[1] != 3 {
			t.Fatalf("%s: %v, %v", name, got, err)
		}
		for range 2 {
			s := openStore(t, dir)
			if at := openSpace(t, s, 1).Marker().Applied; at != 3 {
				t.Errorf("%s: opened at %d", name, at)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestCorruptMarkerIsFound(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	sp := openSpace(t, s, 1)
	fillSpace(t, sp, 3)
	setRaw(t, s, sp.markerKey(), []byte("short"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Check(dir); !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v, want ErrCorrupt", err)
	}
}

func TestPointersOfWrongSize(t *testing.T) {
	f := newFound()
	if err := f.add([]byte("key"), bitValuePointer, []byte("short")); !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v, want ErrCorrupt", err)
	}
	if err := f.add([]byte("key"), bitValuePointer, binary.NativeEndian.AppendUint32(make([]byte, 8), 1)); err != nil {
		t.Error(err)
	}
}

func BenchmarkCheck(b *testing.B) {
	dir := b.TempDir()
	cfg := smallConfig(dir)
	cfg.MemTableBytes = 16 << 20
	s, err := Open(cfg)
	if err != nil {
		b.Fatal(err)
	}
	sp := openSpace(b, s, 1)
	for range 40 {
		fillSpace(b, sp, 1000)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	var size int64
	for _, f := range glob(b, dir, "*.sst") {
		info, err := os.Stat(f)
		if err != nil {
			b.Fatal(err)
		}
		size += info.Size()
	}
	b.SetBytes(size)
	for b.Loop() {
		if _, err := Check(dir); err != nil {
			b.Fatal(err)
		}
	}
}
