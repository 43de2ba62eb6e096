package disk

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/hashicorp/raft-wal/types"

	"github.com/samecart/samecart/region/shard"
)

// Faulty tells that a disk has faults of its own: here none, as the shards' logs
// are in memory (see region/shard). What a process had written is there after a
// crash, and after a loss of power as well.
const Faulty = false

// Steps are the durable steps of a log's entries.
var Steps = []string{shard.StepStored}

// Faults are what is wrong with a disk at the moment.
type Faults struct {
	SyncError float64
	Full      bool
	Slow      time.Duration
}

// Disk is one node's.
type Disk struct{}

// New makes a disk; it has no chance in it, and no steps but those of the log.
func New(uint64, func(string)) *Disk { return &Disk{} }

// Files is what the shards' logs lie on: nothing, they are in memory.
func (*Disk) Files() types.VFS { return nil }

// Doubtful reports that no sync failed.
func (*Disk) Doubtful() bool { return false }

// Wait takes no time: a log in memory does not.
func (*Disk) Wait() {}

// Set panics: no plan here has faults of disks.
func (*Disk) Set(f Faults) {
	if f != (Faults{}) {
		panic("disk: there are no faults of disks on WASI")
	}
}

// Crash copies a node's directory and logs to another as its process leaves them
// when it is killed now.
func (*Disk) Crash(from, to string) error {
	for {
		if err := os.RemoveAll(to); err != nil {
			return err
		}
		err := os.CopyFS(to, os.DirFS(from))
		if err == nil {
			shard.CopyLogs(from, to)
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) { // of a file that went meanwhile: an old snapshot
			return err
		}
	}
}

// PowerLoss is Crash: everything is synced.
func (d *Disk) PowerLoss(from, to string) error { return d.Crash(from, to) }

// Remove removes a node's directory and logs.
func (*Disk) Remove(dir string) error {
	shard.RemoveLogs(dir)
	return os.RemoveAll(dir)
}

// FlipBits panics: no plan here has faults of disks.
func (*Disk) FlipBits(string, int) (int, error) {
	panic("disk: there are no faults of disks on WASI")
}
