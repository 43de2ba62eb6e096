package region

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/samecart/samecart/region/store"
)

// once starts and stops a node of a region of one, and returns its data.
func once(t *testing.T) (w *world, name, dir string) {
	t.Helper()
	w = startWorld(t, 1, 2)
	name = w.names[0]
	mustEdit(t, w.node(name).Router, addEdit(w.cartIn(0, 0), "tea", 2))
	w.stop(name)
	return w, name, w.dir(name)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// rewrite changes fields of an identity file.
func rewrite(t *testing.T, dir string, fields map[string]any) {
	t.Helper()
	path := filepath.Join(dir, identityFile)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]any{}
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	maps.Copy(all, fields)
	if b, err = json.Marshal(all); err != nil {
		t.Fatal(err)
	}
	write(t, path, string(b))
}

func TestRefusesADirectoryThatIsNotItsOwn(t *testing.T) {
	t.Parallel()
	w, name, own := once(t)
	damage := func(content string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { write(t, filepath.Join(dir, identityFile), content) }
	}
	set := func(field string, value any) func(*testing.T, string) {
		return func(t *testing.T, dir string) { rewrite(t, dir, map[string]any{field: value}) }
	}
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, dir string)
		want    error
		names   []string // what the message has to name
	}{
		{"other cluster", set("cluster", "mall"), ErrForeignData, []string{"cluster", "mall", testCluster}},
		{"other region", set("region", "eu"), ErrForeignData, []string{"region", "eu", testRegion}},
		{"other region id", set("region_id", 7), ErrForeignData, []string{"region id", "7", "1"}},
		{"other node", set("node", "us/9"), ErrForeignData, []string{"node", "us/9", "us/0"}},
		{"other shards", set("shards", 64), ErrForeignData, []string{"shards", "64", "2"}},
		{"value with a line break", set("cluster", "a\nb"), ErrForeignData, []string{"cluster"}},
		{"newer format", set("format", identityFormat+1), ErrForeignData, []string{"format 3", "install"}},
		{"no server id", set("server_id", ""), ErrDamagedData, []string{"server id"}},
		{"no incarnation", set("incarnation", 0), ErrDamagedData, []string{"incarnation"}},
		{"cut short", damage(`{"format": 2, "clus`), ErrDamagedData, []string{"restore"}},
		{"empty file", damage(""), ErrDamagedData, []string{"restore"}},
		{"other bytes", damage("\x00\x00\x00\n\x00"), ErrDamagedData, []string{"restore"}},
		{"other type", damage(`[1]`), ErrDamagedData, []string{"restore"}},
		{"unreadable", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, identityFile)); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, identityFile, "x"), "a directory in its place")
		}, ErrDamagedData, []string{identityFile}},
		{"no identity", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, identityFile)); err != nil {
				t.Fatal(err)
			}
		}, ErrForeignData, []string{"badger", "empty"}},
		{"something else", func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "holiday.jpg"), "beach")
		}, ErrForeignData, []string{"holiday.jpg", "empty"}},
		{"a file", func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			write(t, dir, "a file")
		}, ErrForeignData, []string{"directory"}},
		{"log of a shard gone", func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "shard-0")); err != nil {
				t.Fatal(err)
			}
		}, ErrDamagedData, []string{"shard-0", "log"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			if err := os.CopyFS(dir, os.DirFS(own)); err != nil {
				t.Fatal(err)
			}
			c.prepare(t, dir)
			before := tree(t, dir)
			m := w.mux(name)
			t.Cleanup(func() {
				if err := m.Close(); err != nil {
					t.Error(err)
				}
			})
			cfg := w.config(name)
			cfg.Dir = dir
			n, err := Open(cfg, m)
			if err == nil {
				_ = n.Close() // the test has failed anyway
				t.Fatal("opened")
			}
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			for _, s := range append(c.names, dir, "give") {
				if s == "give" && (c.name == "newer format" || errors.Is(c.want, ErrDamagedData)) {
					continue
				}
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q does not name %q", err, s)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%q has several lines", err)
			}
			if after := tree(t, dir); !maps.Equal(before, after) {
				t.Errorf("directory was changed: %d files before, %d after", len(before), len(after))
			}
		})
	}
}

func TestANewDirectoryMayHoldWhatMeansNothing(t *testing.T) {
	t.Parallel()
	for _, entry := range []string{
		"lost+found/",         // what a new file system has
		identityFile + ".new", // a node that died before it had an identity
	} {
		t.Run(entry, func(t *testing.T) {
			w := newWorld(t, 1, 1)
			path := filepath.Join(w.dir(w.names[0]), entry)
			if strings.HasSuffix(entry, "/") {
				if err := os.MkdirAll(path, 0o700); err != nil {
					t.Fatal(err)
				}
			} else {
				write(t, path, `{"form`)
			}
			w.start(w.names...)
			w.ready()
		})
	}
}

func TestADirectoryInUseIsLeftAlone(t *testing.T) {
	t.Parallel()
	for _, boot := range []string{"", "another boot"} {
		w := startWorld(t, 1, 1)
		name := w.names[0]
		cart := w.cartIn(0, 0)
		mustEdit(t, w.node(name).Router, addEdit(cart, "tea", 2))
		if boot != "" {
			// As on a system that does not name its boots: the running node's
			// database looks like one that a machine left behind.
			rewrite(t, w.dir(name), map[string]any{"boot": boot})
		}
		before := tree(t, w.dir(name))
		n, err := w.open(name)
		if err == nil {
			_ = n.Close() // the test has failed anyway
			t.Fatal("opened twice")
		}
		if !errors.Is(err, ErrInUse) || errors.Is(err, ErrDamagedData) || !strings.Contains(err.Error(), w.dir(name)) {
			t.Errorf("got %v, want %v naming the directory", err, ErrInUse)
		}
		for path := range before {
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		mustEdit(t, w.node(name).Router, addEdit(cart, "tea", 1))
		w.stop(name)
		w.start(name)
		w.ready()
		wantLines(t, mustRead(t, w.node(name).Router, cart, ReadOptions{Strong: true}), map[string]uint32{"tea": 3})
	}
}

func TestADamagedDatabaseIsNotADamagedNode(t *testing.T) {
	t.Parallel()
	w, name, dir := once(t)
	db := filepath.Join(dir, "badger")
	write(t, filepath.Join(db, "MANIFEST"), "no manifest")
	n, err := w.open(name)
	if err == nil {
		_ = n.Close() // the test has failed anyway
		t.Fatal("opened a damaged database")
	}
	if !errors.Is(err, ErrDamagedData) || !strings.Contains(err.Error(), "remove "+db) {
		t.Fatalf("got %v, want %v with the remedy", err, ErrDamagedData)
	}
	// The remedy works: all that the database has comes from the log.
	if err := os.RemoveAll(db); err != nil {
		t.Fatal(err)
	}
	w.start(name)
	w.ready()
	wantLines(t, mustRead(t, w.node(name).Router, w.cartIn(0, 0), ReadOptions{}), map[string]uint32{"tea": 2})
}

func TestACleanStopIsRemembered(t *testing.T) {
	t.Parallel()
	w, name, dir := once(t)
	if _, err := os.Stat(filepath.Join(dir, cleanFile)); err != nil {
		t.Errorf("no clean mark after a clean stop: %v", err)
	}
	// With the mark the database is trusted in another boot.
	rewrite(t, dir, map[string]any{"boot": "another boot"})
	w.start(name)
	w.ready()
	if _, err := os.Stat(filepath.Join(dir, cleanFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("clean mark while the node runs: %v", err)
	}
	wantLines(t, mustRead(t, w.node(name).Router, w.cartIn(0, 0), ReadOptions{}), map[string]uint32{"tea": 2})
	w.kill(name)
	if _, err := os.Stat(filepath.Join(dir, cleanFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("clean mark after a kill: %v", err)
	}
}

// The mark goes before the database is opened, which changes its files: a machine
// that loses its power in between must not come back with a torn database that is
// trusted. Found by a simulation.
func TestTheCleanMarkGoesFirst(t *testing.T) {
	t.Parallel()
	w, name, dir := once(t)
	n, err := w.open(name)
	if err != nil {
		t.Fatal(err)
	}
	c := w.config(name)
	c.Store.Dir = filepath.Join(dir, "badger")
	other, err := store.Open(c.Store) // so that the node cannot
	if err != nil {
		t.Fatal(err)
	}
	if err := n.openStore(); err == nil {
		t.Error("the database was opened twice")
	}
	if _, err := os.Stat(filepath.Join(dir, cleanFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("clean mark after the database was to be opened: %v", err)
	}
	if err := errors.Join(other.Close(), n.Close()); err != nil {
		t.Error(err)
	}
}

func TestTrust(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		was, is     string
		clean, want bool
	}{
		{"a", "a", false, true}, {"a", "b", false, false}, {"a", "b", true, true},
		{"", "", false, false}, {"", "a", false, false}, {"", "", true, true},
	} {
		mark := filepath.Join(dir, cleanFile)
		if err := os.RemoveAll(mark); err != nil {
			t.Fatal(err)
		}
		if c.clean {
			write(t, mark, "")
		}
		if got := (identity{Boot: c.was}).trusted(dir, c.is); got != c.want {
			t.Errorf("ran in boot %q, is %q, clean %v: trusted is %v", c.was, c.is, c.clean, got)
		}
	}
}

func TestRunEndsWhenItsListenerDoes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	n, err := w.open(w.names[0])
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if err := n.Run(limited(t, 10e9), ln); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Run over a closed listener ended with %v", err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

// An identity that did not reach the disk does not take the place of the one that
// did, and is an error. What is written to /dev/null cannot be synced.
func TestIdentityIsSynced(t *testing.T) {
	dir := t.TempDir()
	if err := (identity{ServerID: "old"}).save(dir, nil); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, identityFile)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(os.DevNull, path+newSuffix); err != nil {
		t.Fatal(err)
	}
	if err := (identity{ServerID: "new"}).save(dir, nil); err == nil {
		t.Error("an identity that could not be synced was saved")
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, before) {
		t.Errorf("identity is %q, %v, want the old one, %q", after, err, before)
	}
}

// That the identity is in its directory is synced too: where that fails, it is not
// saved, or after a power failure the old one would be back.
func TestIdentitysDirectoryIsSynced(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "node")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	err := (identity{ServerID: "new"}).save(dir, func(step string) {
		if step != StepRenamed {
			return
		}
		if err := os.Rename(dir, dir+".gone"); err != nil {
			t.Error(err)
		}
	})
	if err == nil {
		t.Error("an identity in a directory that could not be synced was saved")
	}
}
