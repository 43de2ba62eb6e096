package region

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// quick makes a region of one node that elects itself at once, and takes
// snapshots soon.
func quick(w *world) {
	w.tune = func(c *Config) {
		c.Timing.Heartbeat, c.Timing.Lease = slowdown*50*time.Millisecond, slowdown*50*time.Millisecond
		c.Timing.SnapshotEvery, c.Timing.SnapshotAfter, c.Timing.Trailing = 20*time.Millisecond, 40, 200
		c.SegmentBytes = 16 << 10
	}
}

// inUse makes a node's directory as a kill leaves it, with files of all kinds:
// several of the log, snapshots, a table and a memtable of the database.
func inUse(t *testing.T) (w *world, dir string, want map[string]uint32) {
	t.Helper()
	w = startWorld(t, 1, 1, quick)
	name := w.names[0]
	cart := w.cartIn(0, 0)
	want = make(map[string]uint32)
	edits := func(n int) {
		for range n {
			sku := fmt.Sprintf("sku-%d", len(want)%40)
			mustEdit(t, w.node(name).Router, addEdit(cart, sku, 1))
			want[sku]++
			mustEdit(t, w.node(name).Router, addEdit(w.cartIn(0, 1+len(want)), "tea", 1))
		}
	}
	find := func(pattern string) int {
		found, err := filepath.Glob(filepath.Join(w.dir(name), pattern))
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	edits(60)
	w.stop(name)
	w.start(name)
	w.ready()
	edits(60)
	for find("shard-0/snapshots/*-*-*/state.bin") < 2 {
		edits(20)
	}
	edits(10)
	// Nothing is under way now, but the next snapshot may be.
	within(t, 5*time.Second, "the directory is at rest", func() error {
		before := tree(t, w.dir(name))
		<-time.After(60 * time.Millisecond)
		dir = copyOf(t, w.dir(name))
		if !maps.Equal(before, tree(t, w.dir(name))) {
			return errors.New("it changes")
		}
		return nil
	})
	for _, kind := range []string{"badger/*.sst", "badger/*.mem", "badger/*.vlog", "shard-0/log/*.wal"} {
		if find(kind) == 0 || kind == "shard-0/log/*.wal" && find(kind) < 2 {
			t.Fatalf("the directory has %d of %s", find(kind), kind)
		}
	}
	w.stop(name)
	// What Badger sets aside for large values is most of the directory.
	cut(t, dir, "badger/*.vlog", 64)
	return w, dir, want
}

func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// cut shortens the files that match.
func cut(t *testing.T, dir, pattern string, size int64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("nothing matches %s: %v", pattern, err)
	}
	for _, f := range files {
		if err := os.Truncate(f, size); err != nil {
			t.Fatal(err)
		}
	}
}

// damages are what can happen to a file, but for its removal.
var damages = map[string]func(b []byte) []byte{
	"garbage":     func(b []byte) []byte { return garbage(len(b)) },
	"half":        func(b []byte) []byte { return b[:len(b)/2] },
	"empty":       func([]byte) []byte { return nil },
	"zeros":       func(b []byte) []byte { return make([]byte, len(b)) },
	"second half": func(b []byte) []byte { return append(b[:len(b)/2:len(b)/2], garbage(len(b)-len(b)/2)...) },
	"some bytes": func(b []byte) []byte {
		copy(b[len(bytes.TrimRight(b, "\x00"))/2:], garbage(32))
		return b
	},
	"gone": nil,
}

func garbage(n int) []byte { return bytes.Repeat([]byte("garbage "), n/8+1)[:n] }

// harmless lists the damage that a node starts with: what is lost holds
// nothing, or comes again from the log. In the names, the newest of several
// files of a kind is "newest".
var harmless = regexp.MustCompile(`^(` + strings.Join([]string{
	`badger/LOCK: .*`,
	`badger/DISCARD: .*`,
	`badger/KEYREGISTRY: gone`,
	`badger/newest\.mem: (half|empty|zeros|gone)`,
	`badger/.*\.vlog: (half|empty|zeros|second half|some bytes|gone)`, // nothing is in it
	`shard-0/log/newest\.wal: second half`,                            // behind what is written
	`shard-0/snapshots/\d+-\d+-\d+/(meta\.json|state\.bin): .*`,       // of the older one
}, "|") + `)$`)

// perhaps lists the damage of which it depends: a page that is free, as much of
// the newest as the machine may have been writing, entries that a snapshot has.
var perhaps = regexp.MustCompile(`^(` + strings.Join([]string{
	`shard-0/log/wal-meta\.db: (second half|some bytes)`,
	`badger/newest\.mem: some bytes`,
	`shard-0/log/newest\.wal: (empty|zeros|gone)`,
}, "|") + `)$`)

// newest renames the newest of a kind.
func newest(name string, all []string) string {
	for kind, to := range map[string]string{
		`^badger/\d+\.mem$`:          "badger/newest.mem",
		`^shard-0/log/[\d-a-f]+.wal`: "shard-0/log/newest.wal",
	} {
		re, last := regexp.MustCompile(kind), ""
		for _, f := range all {
			if re.MatchString(f) {
				last = max(last, f)
			}
		}
		if name == last {
			return to
		}
	}
	if dir := filepath.Dir(name); filepath.Dir(dir) == "shard-0/snapshots" {
		var indexes [2]int // of this one, and of another
		for _, f := range all {
			if filepath.Base(f) == "state.bin" {
				var term, index, ms int
				if _, err := fmt.Sscanf(filepath.Base(filepath.Dir(f)), "%d-%d-%d", &term, &index, &ms); err != nil {
					panic(err)
				}
				if filepath.Dir(f) == dir {
					indexes[0] = index
				} else {
					indexes[1] = index
				}
			}
		}
		if indexes[0] > indexes[1] {
			return "shard-0/snapshots/newest/" + filepath.Base(name)
		}
	}
	return name
}

// Whatever happens to whatever file: the node refuses its directory, says so on
// one line and leaves it as it is, or it starts with everything in it.
func TestDamagedDirectory(t *testing.T) {
	t.Parallel()
	w, whole, want := inUse(t)
	var all []string
	err := fs.WalkDir(os.DirFS(whole), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		info, err := os.Stat(filepath.Join(whole, file))
		if err != nil {
			t.Fatal(err)
		}
		for damage, change := range damages {
			if change != nil && info.Size() == 0 {
				continue // there is nothing in it to damage
			}
			as := newest(file, all) + ": " + damage
			t.Run(as, func(t *testing.T) {
				t.Parallel()
				dir := copyOf(t, whole)
				path := filepath.Join(dir, file)
				b, err := os.ReadFile(path)
				switch {
				case err != nil:
				case change == nil:
					err = os.Remove(path)
				default:
					err = os.WriteFile(path, change(b), 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
				n := w.opensOrRefuses(t, dir)
				if opens := harmless.MatchString(as); (n != nil) != opens && !perhaps.MatchString(as) {
					t.Errorf("opened: %v, want %v", n != nil, opens)
				}
				// Where the content is not looked at, all damage is one.
				if once := damage == "garbage" || damage == "empty" || damage == "gone" || strings.Contains(as, "newest"); n != nil && once {
					w.holds(t, n, want)
				}
			})
		}
	}
	for name, c := range map[string]struct {
		damage func(t *testing.T, dir string)
		opens  bool
	}{
		"snapshots: gone": {func(t *testing.T, dir string) { removeAll(t, dir+"/shard-0/snapshots") }, false},
		"database: gone":  {func(t *testing.T, dir string) { removeAll(t, dir+"/badger") }, true},
		// A machine that stopped uncleanly leaves a database that is dropped;
		// the log must be whole before that.
		"wal-meta.db: garbage after the machine stopped": {func(t *testing.T, dir string) {
			rewrite(t, dir, map[string]any{"boot": "the boot before"})
			write(t, dir+"/shard-0/log/wal-meta.db", string(garbage(32<<10)))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := copyOf(t, whole)
			c.damage(t, dir)
			n := w.opensOrRefuses(t, dir)
			if (n != nil) != c.opens {
				t.Errorf("opened: %v, want %v", n != nil, c.opens)
			}
			if n != nil {
				w.holds(t, n, want)
			}
		})
	}
}

func removeAll(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// opensOrRefuses opens a directory, which must change nothing. It returns nil
// when it was refused.
func (w *world) opensOrRefuses(t *testing.T, dir string) *Node {
	t.Helper()
	name := w.names[0]
	m := w.mux(name)
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	cfg := w.config(name)
	cfg.Dir, cfg.Fatal = dir, func(err error) { t.Errorf("fatal: %v", err) }
	before := tree(t, dir)
	n, err := Open(cfg, m)
	if after := tree(t, dir); !maps.Equal(before, after) {
		t.Errorf("opening it changed the directory (%v)", err)
	}
	if err != nil {
		if !errors.Is(err, ErrDamagedData) && !errors.Is(err, ErrForeignData) || !strings.Contains(err.Error(), dir) || strings.Contains(err.Error(), "\n") {
			t.Errorf("refused with %q", err)
		}
		return nil
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// holds runs a node and looks for what must be in it.
func (w *world) holds(t *testing.T, n *Node, want map[string]uint32) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx, ln) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ended with %v", err)
		}
	}()
	within(t, 10*time.Second, "the node is ready", func() error { return n.Ready(context.Background()) })
	wantLines(t, mustRead(t, n.Router, w.cartIn(0, 0), ReadOptions{Strong: true}), want)
	mustEdit(t, n.Router, addEdit(w.cartIn(0, 0), "last", 1))
}
