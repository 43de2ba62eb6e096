package disk

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft-wal/types"
)

const size = 64 << 10

// made is a log's file on a disk, in a node's directory.
func made(t *testing.T, d *Disk) (dir string, f types.WritableFile) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "node")
	log := filepath.Join(dir, "shard-0", "log")
	if err := os.MkdirAll(log, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := d.Create(log, "1.wal", size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return dir, f
}

func put(t *testing.T, f types.WritableFile, off int64, fill byte, n int, sync bool) {
	t.Helper()
	if _, err := f.WriteAt(bytes.Repeat([]byte{fill}, n), off); err != nil {
		t.Fatal(err)
	}
	if sync {
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
}

// content is the copy's file; nil when there is none.
func content(t *testing.T, dir string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "shard-0", "log", "1.wal"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return b
}

// A killed process leaves all that it wrote; a power loss what was synced, and of
// what follows some, or nothing, but never something that was not written.
func TestCrashAndPowerLoss(t *testing.T) {
	torn, whole, none := 0, 0, 0
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			d := New(seed, nil)
			dir, f := made(t, d)
			put(t, f, 0, 'a', 1000, true)
			put(t, f, 1000, 'b', 2000, false)
			killed, lost := dir+"-killed", dir+"-lost"
			if err := d.Crash(dir, killed); err != nil {
				t.Fatal(err)
			}
			if b := content(t, killed); !bytes.Equal(b[:3000], append(bytes.Repeat([]byte{'a'}, 1000), bytes.Repeat([]byte{'b'}, 2000)...)) {
				t.Error("a kill lost what was written")
			}
			if err := d.PowerLoss(killed, lost); err != nil {
				t.Fatal(err)
			}
			b := content(t, lost)
			if !bytes.Equal(b[:1000], bytes.Repeat([]byte{'a'}, 1000)) {
				t.Error("a power loss took what was synced")
			}
			for _, c := range b[1000:3000] {
				if c != 0 && c != 'b' {
					t.Fatalf("there is %q, which nobody wrote", c)
				}
			}
			switch n := bytes.Count(b[1000:3000], []byte{'b'}); n {
			case 0:
				none++
			case 2000:
				whole++
			default:
				torn++
			}
		})
	}
	if torn == 0 || whole == 0 || none == 0 {
		t.Errorf("of 60 power losses %d took all, %d tore, %d took nothing", none, torn, whole)
	}
}

// What a sync failed for is lost with the power, also when a later one succeeds;
// what is written again is not. Source: "Can Applications Recover from fsync
// Failures?", Rebello et al., ATC 2020.
func TestFailedSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(1, nil)
		dir, f := made(t, d)
		put(t, f, 0, 'a', page, false)
		put(t, f, 2*page, 'b', page, false)
		d.Set(Faults{SyncError: 1})
		if err := f.Sync(); !errors.Is(err, syscall.EIO) {
			t.Fatalf("sync: %v", err)
		}
		d.Set(Faults{})
		put(t, f, 0, 'c', page, true)
		for i := range 50 {
			lost := dir + "-lost" + string(rune('A'+i))
			d2 := New(uint64(i), nil)
			d2.files = map[string]*state{}
			for k, s := range d.files {
				d2.files[k] = &state{unsynced: append([]write(nil), s.unsynced...)}
			}
			if err := d2.PowerLoss(dir, lost); err != nil {
				t.Fatal(err)
			}
			b := content(t, lost)
			if !bytes.Equal(b[:page], bytes.Repeat([]byte{'c'}, page)) {
				t.Fatal("what was written again and synced is lost")
			}
			if bytes.Equal(b[2*page:3*page], make([]byte, page)) {
				return // as it must be possible
			}
		}
		t.Error("what a sync failed for is never lost")
	})
}

func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(1, nil)
		dir, f := made(t, d)
		d.Set(Faults{Full: true})
		if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("write: %v", err)
		}
		if _, err := d.Create(filepath.Join(dir, "shard-0", "log"), "2.wal", size); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("create: %v", err)
		}
		d.Set(Faults{})
		put(t, f, 0, 'a', 10, true)
	})
}

// A bit is changed where something is written.
func TestFlipBits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(1, nil)
		dir, f := made(t, d)
		put(t, f, 0, 'a', 1000, true)
		before := content(t, dir)
		if n, err := d.FlipBits(dir, 1); n != 1 || err != nil {
			t.Fatalf("%d: %v", n, err)
		}
		differ := 0
		for i, c := range content(t, dir) {
			if c != before[i] {
				differ++
			}
		}
		if differ != 1 {
			t.Errorf("%d bytes differ", differ)
		}
	})
}
