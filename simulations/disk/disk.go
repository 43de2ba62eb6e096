//go:build !wasip1

package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
)

// Faulty tells that a disk has faults of its own.
const Faulty = true

// Steps are the durable steps of a log's entries.
var Steps = []string{StepCreated, StepWritten, StepSynced, StepDeleted}

// Faults are what is wrong with a disk at the moment; the zero Faults are none.
type Faults struct {
	SyncError float64       // share of syncs that fail with EIO
	Full      bool          // writes and new files fail with ENOSPC
	Slow      time.Duration // what a sync takes longer
}

// Stats counts what a disk did.
type Stats struct {
	Writes, Syncs, Failed uint64
	Torn                  uint64 // writes that a power loss took back, whole or in part
}

// syncTime is what a sync takes on a disk that is well.
const syncTime = time.Millisecond

// Disk is one node's. Methods may be called from any goroutine.
type Disk struct {
	real *walfs.FS

	mu     sync.Mutex // guards what follows
	rng    *rand.Rand
	faults Faults
	stats  Stats
	files  map[string]*state // by path, those with something to lose
	doubt  bool              // a sync failed
	// told of each durable step of a log's file
	step func(string)
}

// The durable steps of a log's files.
const (
	StepCreated = "log: file made"
	StepWritten = "log: entries written, before their sync"
	StepSynced  = "log: entries synced"
	StepDeleted = "log: file deleted"
)

// New makes a disk that is well. step, unless nil, is told of each durable step.
func New(seed uint64, step func(string)) *Disk {
	if step == nil {
		step = func(string) {}
	}
	return &Disk{real: walfs.New(), rng: rand.New(rand.NewPCG(seed, 0x6469736b)), files: make(map[string]*state), step: step}
}

// Set says what is wrong from now on.
func (d *Disk) Set(f Faults) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = f
}

// Doubtful reports whether a sync failed: then what a process reads may not be on the
// disk, and a later loss of power takes it, in the middle of what was synced. No
// process can tell before; afterwards the log is found damaged.
func (d *Disk) Doubtful() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.doubt
}

// Wait takes the time of a sync. It is apart from Sync, which is called with locks
// held on which others wait without virtual time going on (shard.Disk.Before).
func (d *Disk) Wait() {
	d.mu.Lock()
	took := syncTime + d.faults.Slow
	d.mu.Unlock()
	time.Sleep(took)
}

// Stats returns what the disk did so far.
func (d *Disk) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stats
}

// state is what is not synced of a file.
type state struct {
	unsynced []write
	created  bool // and its directory not synced since
}

// write is what one write overwrote.
type write struct {
	off int64
	old []byte
	bad bool // its sync failed: only writing it again saves it
}

// page is what a kernel writes whole.
const page = 4096

// save takes the pages that a write touches out of the writes whose sync failed:
// they are written again.
func (s *state) save(w write) {
	from, to := w.off/page*page, (w.off+int64(len(w.old))+page-1)/page*page
	var out []write
	for _, o := range s.unsynced {
		end := o.off + int64(len(o.old))
		if !o.bad || end <= from || o.off >= to {
			out = append(out, o)
			continue
		}
		if o.off < from {
			out = append(out, write{o.off, o.old[:from-o.off], true})
		}
		if end > to {
			out = append(out, write{to, o.old[to-o.off:], true})
		}
	}
	s.unsynced = out
}

// Files is what the shards' logs lie on.
func (d *Disk) Files() types.VFS { return d }

// ListDir implements types.VFS.
func (d *Disk) ListDir(dir string) ([]string, error) { return d.real.ListDir(dir) }

// OpenReader implements types.VFS.
func (d *Disk) OpenReader(dir, name string) (types.ReadableFile, error) {
	return d.real.OpenReader(dir, name)
}

// Create implements types.VFS.
func (d *Disk) Create(dir, name string, size uint64) (types.WritableFile, error) {
	path := filepath.Join(dir, name)
	d.mu.Lock()
	if d.faults.Full {
		d.stats.Failed++
		d.mu.Unlock()
		return nil, &fs.PathError{Op: "create", Path: path, Err: syscall.ENOSPC}
	}
	f, err := d.real.Create(dir, name, size)
	if err == nil {
		d.files[path] = &state{created: true}
	}
	d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	d.step(StepCreated)
	return &file{WritableFile: f, disk: d, path: path}, nil
}

// Delete implements types.VFS.
func (d *Disk) Delete(dir, name string) error {
	if err := d.real.Delete(dir, name); err != nil {
		return err
	}
	d.mu.Lock()
	delete(d.files, filepath.Join(dir, name))
	d.mu.Unlock()
	d.step(StepDeleted)
	return nil
}

// OpenWriter implements types.VFS.
func (d *Disk) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := d.real.OpenWriter(dir, name)
	if err != nil {
		return nil, err
	}
	return &file{WritableFile: f, disk: d, path: filepath.Join(dir, name)}, nil
}

type file struct {
	types.WritableFile
	disk *Disk
	path string
}

// WriteAt implements io.WriterAt.
func (f *file) WriteAt(p []byte, off int64) (int, error) {
	d := f.disk
	d.mu.Lock()
	d.stats.Writes++
	if d.faults.Full {
		d.stats.Failed++
		d.mu.Unlock()
		return 0, &fs.PathError{Op: "write", Path: f.path, Err: syscall.ENOSPC}
	}
	old := make([]byte, len(p))
	n, err := f.ReadAt(old, off)
	if err != nil && !errors.Is(err, io.EOF) {
		d.mu.Unlock()
		return 0, err
	}
	clear(old[n:])
	s := d.files[f.path]
	if s == nil {
		s = &state{}
		d.files[f.path] = s
	}
	next := write{off: off, old: old}
	s.save(next)
	s.unsynced = append(s.unsynced, next)
	n, err = f.WritableFile.WriteAt(p, off)
	d.mu.Unlock()
	if err == nil {
		d.step(StepWritten)
	}
	return n, err
}

// Sync makes what was written stay. What it failed for is lost with the power,
// also when a later Sync succeeds, as Linux has it: only what is written again stays.
func (f *file) Sync() error {
	d := f.disk
	d.mu.Lock()
	d.stats.Syncs++
	if d.rng.Float64() < d.faults.SyncError {
		d.stats.Failed++
		d.doubt = true
		if s := d.files[f.path]; s != nil {
			for i := range s.unsynced {
				s.unsynced[i].bad = true
			}
		}
		d.mu.Unlock()
		return &fs.PathError{Op: "sync", Path: f.path, Err: syscall.EIO}
	}
	if s := d.files[f.path]; s != nil {
		s.created = false
		s.unsynced = slices.DeleteFunc(s.unsynced, func(w write) bool { return !w.bad })
		if len(s.unsynced) == 0 {
			delete(d.files, f.path)
		}
	}
	d.mu.Unlock()
	d.step(StepSynced)
	return nil
}

// Crash copies a node's directory to another as its process leaves it when it is
// killed now: with all that was written. The copy's own losses are carried over,
// so that a power loss may follow.
func (d *Disk) Crash(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := copyDir(from, to); err != nil {
		return err
	}
	d.move(from, to)
	return nil
}

// move lets what is not synced of one directory be that of its copy.
func (d *Disk) move(from, to string) {
	for path, s := range d.files {
		rel, err := filepath.Rel(from, path)
		if err != nil || strings.HasPrefix(rel, "..") {
			continue
		}
		delete(d.files, path)
		d.files[filepath.Join(to, rel)] = s
	}
}

// PowerLoss copies a node's directory to another as its machine leaves it when the
// power goes now: what was not synced is there in part, or not.
func (d *Disk) PowerLoss(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := copyDir(from, to); err != nil {
		return err
	}
	d.move(from, to)
	for path, s := range d.files {
		if rel, err := filepath.Rel(to, path); err != nil || strings.HasPrefix(rel, "..") {
			continue
		}
		delete(d.files, path)
		if err := d.lose(path, s); err != nil && !errors.Is(err, fs.ErrNotExist) { // it may just be removed
			return err
		}
	}
	_, err := os.Stat(filepath.Join(to, "clean"))
	clean := err == nil // the database was synced, and not opened since
	return filepath.WalkDir(to, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(to, path)
		if err != nil {
			return err
		}
		if !clean && strings.HasPrefix(rel, "badger"+string(filepath.Separator)) || strings.Contains(rel, ".tmp"+string(filepath.Separator)) {
			return d.tear(path)
		}
		return nil
	})
}

// sector is what a disk writes whole.
const sector = 512

// lose takes back some of what was not synced of a file: the last writes, and of
// one before them some sectors.
func (d *Disk) lose(path string, s *state) error {
	if s.created && d.rng.IntN(2) == 0 {
		d.stats.Torn++
		return os.Remove(path)
	}
	kept := d.rng.IntN(len(s.unsynced) + 1)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // a simulated disk's real file
	for i := len(s.unsynced) - 1; i >= kept; i-- {
		w := s.unsynced[i]
		d.stats.Torn++
		for at := 0; at < len(w.old); at += sector {
			if i == kept && d.rng.IntN(2) == 0 {
				continue // this sector was written
			}
			end := min(at+sector, len(w.old))
			if _, err := f.WriteAt(w.old[at:end], w.off+int64(at)); err != nil {
				return err
			}
		}
	}
	return nil
}

// tear spoils the end of a file, by chance, as that of one that was never synced.
func (d *Disk) tear(path string) error {
	info, err := os.Stat(path)
	if err != nil || info.Size() == 0 || d.rng.IntN(2) == 0 {
		return err
	}
	d.stats.Torn++
	if d.rng.IntN(2) == 0 {
		return os.Truncate(path, d.rng.Int64N(info.Size()))
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	from := d.rng.Int64N(info.Size())
	_, err = f.WriteAt(make([]byte, min(4096, info.Size()-from)), from)
	return errors.Join(err, f.Close())
}

// Remove removes a node's directory.
func (*Disk) Remove(dir string) error { return os.RemoveAll(dir) }

// FlipBits changes one bit in each of some files of a directory's logs, and returns
// how many. The node must be down.
func (d *Disk) FlipBits(dir string, most int) (flipped int, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "shard-*", "log", "*.wal"))
	if err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rng.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
	for _, path := range files[:min(most, len(files))] {
		b, err := os.ReadFile(path)
		if err != nil || len(b) == 0 {
			return flipped, err
		}
		end := len(b) // what is written comes first, zeros follow
		for end > 1 && b[end-1] == 0 {
			end--
		}
		b[d.rng.IntN(end)] ^= 1 << d.rng.IntN(8)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			return flipped, err
		}
		flipped++
	}
	return flipped, nil
}

// copyDir copies a directory that is in use: the database first, as it may be
// behind the log and never ahead of it. Of the database the files that a list names
// come before the list, and a file that goes meanwhile was no longer needed, if the
// list says so in the end.
func copyDir(from, to string) error {
	for range 100 {
		if err := os.RemoveAll(to); err != nil {
			return err
		}
		before, err := fingerprint(filepath.Join(from, "badger"))
		if err != nil {
			return err
		}
		err = copyTree(filepath.Join(from, "badger"), filepath.Join(to, "badger"))
		after, err2 := fingerprint(filepath.Join(from, "badger"))
		if err2 != nil {
			return err2
		}
		if err == nil && before == after {
			return copyRest(from, to)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return errors.New("the database's files change all the time")
}

// fingerprint names the files of a directory that has come and gone.
func fingerprint(dir string) (string, error) {
	var b strings.Builder
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	for _, e := range entries {
		b.WriteString(e.Name())
		if info, err := e.Info(); err == nil && (e.Name() == "MANIFEST" || e.Name() == "KEYREGISTRY") {
			fmt.Fprint(&b, info.Size(), info.ModTime())
		}
		b.WriteByte(' ')
	}
	return b.String(), err
}

func copyRest(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == "badger" {
			continue
		}
		// What its owner, who lives, removes meanwhile is not there.
		if err := copyTree(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// copyTree copies a file, or a directory with all in it but locks.
func copyTree(from, to string) error {
	info, err := os.Stat(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return copyFile(from, to)
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == "LOCK" {
			continue
		}
		if err := copyTree(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// copyFile copies a file without its holes: logs and memtables are made long, and
// stay empty.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // it was read
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if err := out.Truncate(info.Size()); err != nil {
		return errors.Join(err, out.Close())
	}
	return errors.Join(copyData(in, out), out.Close())
}

// copyData copies what stands in a file, as far as the file system knows holes.
func copyData(in, out *os.File) error {
	const seekData, seekHole = 3, 4 // of Linux's lseek
	for at := int64(0); ; {
		from, err := in.Seek(at, seekData)
		if err == nil {
			at, err = in.Seek(from, seekHole)
		}
		switch {
		case errors.Is(err, syscall.ENXIO):
			return nil // there is no more, or the file was cut between the two: its owner lives
		case err != nil:
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, from), io.NewSectionReader(in, from, at-from)); err != nil {
			return err
		}
	}
}
