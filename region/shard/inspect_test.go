package shard

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"pgregory.net/rapid"
)

const segmentBytes = 16 << 10

func openStores(t fataler, dir string) Stores {
	t.Helper()
	s, err := OpenStores(dir, segmentBytes, Disk{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("open log: %v", err)
	}
	return s
}

// appendLogs appends entries of a term, n at once.
func appendLogs(t fataler, s Stores, term uint64, n, size int) {
	t.Helper()
	last, err := s.Log.LastIndex()
	if err != nil {
		t.Fatalf("last index: %v", err)
	}
	var logs []*raft.Log
	for i := range n {
		logs = append(logs, &raft.Log{Index: last + 1 + uint64(i), Term: term, Data: bytes.Repeat([]byte{1, 2, 3, 4, 5}, size/5)})
	}
	if err := errors.Join(s.Stable.SetUint64([]byte("CurrentTerm"), term), s.Log.StoreLogs(logs)); err != nil {
		t.Fatalf("append: %v", err)
	}
}

func takeSnapshot(t fataler, s Stores, index, term uint64) {
	t.Helper()
	_, tr := raft.NewInmemTransport("n1")
	sink, err := s.Snapshots.Create(1, index, term, raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: "n1"}}}, 1, tr)
	if err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	_, err = fmt.Fprintf(sink, "state of %d, and then some more of it", index)
	if err := errors.Join(err, sink.Close()); err != nil {
		t.Fatalf("snapshot: %v", err)
	}
}

// logContent is the log as raft reads it: index → term.
func logContent(t fataler, s Stores) map[uint64]uint64 {
	t.Helper()
	st, err := s.state()
	if err != nil {
		t.Fatalf("state: %v", err)
	}
	out := make(map[uint64]uint64)
	for i := st.First; i > 0 && i <= st.Last; i++ {
		var l raft.Log
		if err := s.Log.GetLog(i, &l); err != nil || l.Index != i || len(l.Data) == 0 {
			t.Fatalf("entry %d: %d, %d bytes, %v", i, l.Index, len(l.Data), err)
		}
		out[i] = l.Term
	}
	return out
}

// files lists a directory with the content of its files.
func files(t fataler, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			out[path] = "directory"
			return err
		}
		b, err := os.ReadFile(path)
		out[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	return out
}

// InspectLog finds what OpenStores does, whatever was done to a log before,
// and changes nothing.
func TestInspectLogAgrees(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatalf("%v", err)
		}
		term := uint64(1)
		for range rapid.IntRange(1, 3).Draw(rt, "runs") {
			s := openStores(rt, dir)
			for range rapid.IntRange(0, 6).Draw(rt, "steps") {
				st, err := s.state()
				if err != nil {
					rt.Fatalf("state: %v", err)
				}
				switch rapid.SampledFrom([]string{"append", "append", "append", "cut the end", "cut the start", "snapshot", "restore", "vote"}).Draw(rt, "step") {
				case "append":
					appendLogs(rt, s, term, rapid.IntRange(1, 8).Draw(rt, "entries"), rapid.IntRange(5, 3000).Draw(rt, "size"))
				case "cut the end":
					term++
					if st.Last > st.First+2 && st.Last-2 > st.Snapshot {
						err = s.Log.DeleteRange(st.Last-1, st.Last)
						appendLogs(rt, s, term, 1, 100)
					}
				case "cut the start":
					if st.Snapshot > st.First+1 {
						err = s.Log.DeleteRange(st.First, st.Snapshot-1)
					}
				case "snapshot":
					if st.Last > st.Snapshot {
						takeSnapshot(rt, s, st.Last, term)
					}
				case "restore": // from a leader that is far ahead
					takeSnapshot(rt, s, st.Last+100, term)
					if st.Last > 0 {
						err = s.Log.DeleteRange(st.First, st.Last)
					}
					err = errors.Join(err, s.Log.StoreLog(&raft.Log{Index: st.Last + 101, Term: term, Data: []byte("x")}),
						s.Stable.SetUint64([]byte("CurrentTerm"), term))
				case "vote":
					err = errors.Join(s.Stable.SetUint64([]byte("CurrentTerm"), term), s.Stable.SetUint64([]byte("LastVoteTerm"), term),
						s.Stable.Set([]byte("LastVoteCand"), bytes.Repeat([]byte("n"), rapid.IntRange(1, 3000).Draw(rt, "name"))))
				}
				if err != nil {
					rt.Fatalf("%v", err)
				}
			}
			want, err := s.state()
			if err := errors.Join(err, s.Close()); err != nil {
				rt.Fatalf("close: %v", err)
			}
			before := files(rt, dir)
			got, err := InspectLog(dir)
			if err != nil || got != want {
				rt.Fatalf("found %+v, %v, want %+v", got, err, want)
			}
			if err := got.Check(want.Last, true); err != nil && want.Begun {
				rt.Fatalf("refused: %v", err)
			}
			if !maps.Equal(before, files(rt, dir)) {
				rt.Fatalf("the inspection changed something")
			}
		}
	})
}

// damagedLog makes a log of several files, and snapshots.
func damagedLog(t *testing.T) (dir string, content map[uint64]uint64) {
	t.Helper()
	dir = t.TempDir()
	s := openStores(t, dir)
	for i := range 15 {
		appendLogs(t, s, uint64(1+i/4), 4, 1000)
		if i == 5 || i == 8 {
			takeSnapshot(t, s, uint64(4*i), 2)
		}
	}
	if err := errors.Join(s.Log.DeleteRange(1, 10), s.Stable.SetUint64([]byte("LastVoteTerm"), 3), s.Stable.Set([]byte("LastVoteCand"), []byte("n2"))); err != nil {
		t.Fatal(err)
	}
	content = logContent(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, content
}

func TestDamagedLogFiles(t *testing.T) {
	t.Parallel()
	whole, content := damagedLog(t)
	glob := func(pattern string) []string {
		t.Helper()
		f, err := filepath.Glob(filepath.Join(whole, pattern))
		if err != nil || len(f) == 0 {
			t.Fatalf("nothing matches %s: %v", pattern, err)
		}
		return f
	}
	segments, snapshots := glob("log/*.wal"), glob("snapshots/*/state.bin")
	if len(segments) < 3 || len(snapshots) != 2 {
		t.Fatalf("the log has %v and %v", segments, snapshots)
	}
	const (
		refused = "refused"
		same    = "nothing is lost"
		either  = "refused, or nothing is lost"
		lost    = "applied entries are lost"
	)
	damages := map[string]func(b []byte) []byte{
		"garbage": func(b []byte) []byte { return bytes.Repeat([]byte("garbage "), len(b)/8+1)[:len(b)] },
		"half":    func(b []byte) []byte { return b[:len(b)/2] },
		"empty":   func([]byte) []byte { return nil },
		"zeros":   func(b []byte) []byte { return make([]byte, len(b)) },
		"second half": func(b []byte) []byte {
			return append(b[:len(b)/2:len(b)/2], bytes.Repeat([]byte("garbage "), len(b)/16+1)...)
		},
		"some bytes":  func(b []byte) []byte { copy(b[len(bytes.TrimRight(b, "\x00"))/2:], "garbage garbage"); return b },
		"early bytes": func(b []byte) []byte { copy(b[len(bytes.TrimRight(b, "\x00"))/8:], "garbage garbage"); return b },
		"first bytes": func(b []byte) []byte { copy(b, "garbage!"); return b },
		"page":        func(b []byte) []byte { copy(b[len(b)/2:], bytes.Repeat([]byte("garbage "), 512)); return b },
		"older meta":  func(b []byte) []byte { copy(b[4096:8192], make([]byte, 4096)); return b },
		"newer meta":  func(b []byte) []byte { copy(b[:4096], make([]byte, 4096)); return b },
		"last commit": func(b []byte) []byte { b[len(bytes.TrimRight(b, "\x00"))-100] ^= 1; return b },
		"gone":        nil,
	}
	first, last := segments[0], segments[len(segments)-1]
	older, newer := filepath.Dir(snapshots[0]), filepath.Dir(snapshots[1])
	meta := whole + "/log/wal-meta.db"
	for _, c := range []struct {
		file    string
		damages []string
		want    string
	}{
		{meta, []string{"garbage", "half", "empty", "zeros", "first bytes", "older meta", "newer meta", "gone"}, refused},
		{first, []string{"garbage", "half", "empty", "zeros", "second half", "some bytes", "first bytes", "last commit", "gone"}, refused},
		{meta, []string{"second half"}, either},
		{last, []string{"garbage", "half", "early bytes", "some bytes", "first bytes"}, refused},
		{last, []string{"empty", "zeros", "last commit", "gone"}, lost},
		{newer + "/meta.json", []string{"garbage", "half", "empty", "zeros", "second half", "some bytes", "first bytes", "gone"}, refused},
		{newer + "/state.bin", []string{"garbage", "half", "empty", "zeros", "second half", "some bytes", "first bytes", "gone"}, refused},
		{older + "/meta.json", []string{"garbage", "half", "empty", "zeros", "gone"}, same},
		{older + "/state.bin", []string{"garbage", "half", "empty", "zeros", "gone"}, same},
	} {
		for _, damage := range c.damages {
			rel := strings.TrimPrefix(c.file, whole+"/")
			t.Run(rel+" "+damage, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "copy")
				if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
					t.Fatal(err)
				}
				path := filepath.Join(dir, rel)
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if change := damages[damage]; change != nil {
					err = os.WriteFile(path, change(b), 0o600)
				} else {
					err = os.Remove(path)
				}
				if err != nil {
					t.Fatal(err)
				}
				before := files(t, dir)
				got, err := InspectLog(dir)
				if !maps.Equal(before, files(t, dir)) {
					t.Error("the inspection changed something")
				}
				if (err != nil) != (c.want == refused) && c.want != either {
					t.Fatalf("found %+v, %v, want: %s", got, err, c.want)
				}
				if err != nil {
					if !errors.Is(err, ErrLogDamaged) || strings.Contains(err.Error(), "\n") {
						t.Errorf("refused with %v", err)
					}
					return
				}
				if err := got.Check(60, true); (err != nil) != (c.want == lost) {
					t.Errorf("%+v against 60 applied: %v, want: %s", got, err, c.want)
				}
				s := openStores(t, dir)
				defer func() { _ = s.Close() }() // only read
				if got.Last < got.Snapshot {     // OpenStores drops it
					got.First, got.Last = 0, 0
				}
				if st, err := s.state(); err != nil || st != got {
					t.Errorf("found %+v, opened with %+v, %v", got, st, err)
				}
				for i, term := range logContent(t, s) {
					if content[i] != term {
						t.Errorf("entry %d is of term %d, was of %d", i, term, content[i])
					}
				}
			})
		}
	}
}

// A directory without its snapshots has a log that begins nowhere.
func TestLogWithoutItsSnapshots(t *testing.T) {
	t.Parallel()
	dir, _ := damagedLog(t)
	if err := os.RemoveAll(filepath.Join(dir, "snapshots")); err != nil {
		t.Fatal(err)
	}
	st, err := InspectLog(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Check(60, true); !errors.Is(err, ErrLogDamaged) {
		t.Errorf("%+v: got %v, want %v", st, err, ErrLogDamaged)
	}
}

// Whatever few bytes are changed: what is not refused reads as before, but for
// a vote, and for what the machine may have been writing.
func TestFlippedBytesOfALog(t *testing.T) {
	t.Parallel()
	whole, content := damagedLog(t)
	all := files(t, whole)
	rapid.Check(t, func(rt *rapid.T) {
		path := rapid.SampledFrom(sortedFiles(all)).Draw(rt, "file")
		b := []byte(all[path])
		at := rapid.IntRange(0, len(b)-1).Draw(rt, "at")
		if used := len(bytes.TrimRight(b, "\x00")); rapid.Bool().Draw(rt, "in use") {
			at = min(at, used-1)
		}
		for i := at; i < min(at+rapid.IntRange(1, 40).Draw(rt, "bytes"), len(b)); i++ {
			b[i] ^= rapid.Byte().Draw(rt, "xor")
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			rt.Fatalf("%v", err)
		}
		defer func() {
			if err := os.WriteFile(path, []byte(all[path]), 0o600); err != nil {
				rt.Fatalf("%v", err)
			}
		}()
		st, err := InspectLog(whole)
		if err != nil {
			return
		}
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err == nil {
			err = os.CopyFS(dir, os.DirFS(whole))
		}
		if err != nil {
			rt.Fatalf("%v", err)
		}
		s := openStores(rt, dir)
		defer func() { _ = s.Close() }() // only read
		if st.Last < st.Snapshot {       // OpenStores drops it
			st.First, st.Last = 0, 0
		}
		if got, err := s.state(); err != nil || got != st {
			rt.Fatalf("found %+v, opened with %+v, %v", st, got, err)
		}
		for i, term := range logContent(rt, s) {
			if content[i] != term {
				rt.Fatalf("entry %d is of term %d, was of %d", i, term, content[i])
			}
		}
	})
}

// raft-wal 0.4.1 seals a file that is full, and notes so a moment later. A
// process that ends in between left a log that took no more entries: "segment
// is sealed".
func TestLogGoesOnAfterAFullFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStores(t, dir)
	for i := 0; i < 40; i += 4 {
		appendLogs(t, s, 1, 4, 1000)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// Undo the note, and what is done after it.
	meta := &metadb.BoltMetaDB{}
	logDir := filepath.Join(dir, "log")
	st, err := meta.Load(logDir)
	if err != nil {
		t.Fatal(err)
	}
	n := len(st.Segments)
	if n < 3 {
		t.Fatalf("the log has %d files", n)
	}
	last := &st.Segments[n-2]
	full := last.MaxIndex
	if err := os.Remove(filepath.Join(logDir, segment.FileName(st.Segments[n-1]))); err != nil {
		t.Fatal(err)
	}
	last.SealTime, last.MaxIndex, last.IndexStart = time.Time{}, 0, 0
	st.Segments, st.NextSegmentID = st.Segments[:n-1], st.NextSegmentID-1
	if err := errors.Join(meta.CommitState(st), meta.Close()); err != nil {
		t.Fatal(err)
	}

	for run := range uint64(2) {
		got, err := InspectLog(dir)
		if err != nil || got.Last != full+run {
			t.Fatalf("found %+v, %v, want it to end at %d", got, err, full+run)
		}
		s = openStores(t, dir)
		appendLogs(t, s, 1, 1, 100)
		if n := len(logContent(t, s)); n != int(full+run+1) {
			t.Errorf("%d entries, want %d", n, full+run+1)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A process that ends while it takes its leader's snapshot leaves a log that
// ends before that: it took no more entries, "non-monotonic log entries".
func TestLogThatEndsBeforeItsSnapshot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStores(t, dir)
	appendLogs(t, s, 1, 10, 1000)
	takeSnapshot(t, s, 20, 2)
	if err := errors.Join(s.Stable.SetUint64([]byte("CurrentTerm"), 2), s.Close()); err != nil {
		t.Fatal(err)
	}
	s = openStores(t, dir)
	if err := s.Log.StoreLog(&raft.Log{Index: 21, Term: 2, Data: []byte("x")}); err != nil {
		t.Error(err)
	}
	if got := logContent(t, s); !maps.Equal(got, map[uint64]uint64{21: 2}) {
		t.Errorf("the log has %v", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := InspectLog(dir); err != nil || got.Check(21, true) != nil {
		t.Errorf("found %+v, %v, %v", got, err, got.Check(21, true))
	}
}

func sortedFiles(all map[string]string) []string {
	var out []string
	for path, content := range all {
		if content != "directory" {
			out = append(out, path)
		}
	}
	slices.Sort(out)
	return out
}
