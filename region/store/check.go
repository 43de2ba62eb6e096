package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	"github.com/dgraph-io/ristretto/v2/z"
	"golang.org/x/sync/errgroup"
)

// Check reads the database in dir, all of it, and changes nothing. It returns
// how far each shard's log is applied, as far as Open will find it; nothing
// when there is no database. Errors wrap ErrCorrupt when the files are damaged,
// and then Open must not be called: Badger looks at little of what it opens, on
// goroutines of its own, and panics there.
//
// Cost: the database's size, read once, on all cores.
func Check(dir string) (applied map[uint32]uint64, err error) {
	c := checker{dir: dir, found: newFound()}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("check database: %w", err)
	}
	for _, e := range entries {
		c.files = append(c.files, e.Name())
	}
	for _, step := range []func() error{c.tables, c.keyRegistry, c.memtables, c.valueLog} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("check database %s: %w", dir, err)
		}
	}
	return c.found.applied()
}

type checker struct {
	dir   string
	files []string

	mu    sync.Mutex // guards found while tables are read
	found *found
}

// named lists the files with a suffix, in the order of their numbers.
func (c *checker) named(suffix string) []string {
	var out []string
	for _, f := range c.files {
		if strings.HasSuffix(f, suffix) {
			out = append(out, f)
		}
	}
	// Numbers are padded with zeros until they are too long for that.
	slices.SortFunc(out, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	return out
}

// tables checks the manifest, and every block of every table that it lists.
// Nobody would notice later: Badger takes a block that it cannot read for one
// that does not have the key.
func (c *checker) tables() error {
	listed, err := c.manifest()
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for id, m := range listed {
		g.Go(func() error {
			name := table.IDToFilename(id)
			if !slices.Contains(c.files, name) {
				return fmt.Errorf("%w: table %s is gone", ErrCorrupt, name)
			}
			own := newFound()
			if err := guarded(name, func() error { return readTable(filepath.Join(c.dir, name), m.Compression, own) }); err != nil {
				return err
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			c.found.include(own)
			return nil
		})
	}
	return g.Wait()
}

// levelsMax is Badger's default, which Open keeps.
const levelsMax = 7

func (c *checker) manifest() (map[uint64]badger.TableManifest, error) {
	f, err := os.Open(filepath.Join(c.dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) {
		// It is made before all of these. Badger would make another, and
		// delete what is not in it.
		for _, suffix := range []string{".sst", ".mem", ".vlog", badger.KeyRegistryFileName} {
			if there := c.named(suffix); len(there) > 0 {
				return nil, fmt.Errorf("%w: %s is gone, %s is there", ErrCorrupt, badger.ManifestFilename, there[0])
			}
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	m, end, err := badger.ReplayManifestFile(f, 0, badger.Options{})
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrCorrupt, firstLine(err))
	}
	if end != info.Size() {
		return nil, fmt.Errorf("%w: %s ends within a record", ErrCorrupt, badger.ManifestFilename)
	}
	for id, t := range m.Tables {
		if t.Level >= levelsMax || t.KeyID != 0 {
			return nil, fmt.Errorf("%w: %s has table %d at level %d with key %d", ErrCorrupt, badger.ManifestFilename, id, t.Level, t.KeyID)
		}
	}
	return m.Tables, nil
}

// firstLine keeps a message of Badger's on one line.
func firstLine(err error) string {
	first, _, _ := strings.Cut(err.Error(), "\n")
	return first
}

// guarded runs what may panic, or touch mapped memory that a disk fails to
// deliver, because a file is not what it should be.
func guarded(name string, f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil { // Badger's texts are pages long
			err = fmt.Errorf("%w: table %s cannot be read", ErrCorrupt, name)
		}
	}()
	return f()
}

func readTable(path string, compression options.CompressionType, into *found) error {
	name := filepath.Base(path)
	mapped, err := z.OpenMmapFile(path, os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("%w: table %s: %s", ErrCorrupt, name, firstLine(err))
	}
	// Not DecrRef: that of the last reference deletes the file.
	defer func() { _ = mapped.Close(-1) }() // only read
	t, err := table.OpenTable(mapped, table.Options{
		ReadOnly: true, ChkMode: options.OnBlockRead, Compression: compression, BlockSize: badger.DefaultOptions("").BlockSize,
	})
	if err != nil {
		return fmt.Errorf("%w: table %s: %s", ErrCorrupt, name, firstLine(err))
	}
	it := t.NewIterator(table.NOCACHE)
	defer func() { _ = it.Close() }() // only read
	var keys uint32
	for it.Rewind(); it.Valid(); it.Next() {
		v := it.Value()
		if err := into.add(it.Key(), v.Meta, v.Value); err != nil {
			return err
		}
		keys++
	}
	// The iterator says no more than that it is at its end.
	if keys != t.KeyCount() {
		return fmt.Errorf("%w: table %s: %d of %d keys can be read", ErrCorrupt, name, keys, t.KeyCount())
	}
	return nil
}

// registryLen is the length of a key registry without keys: there is no
// encryption.
const registryLen = 16 + len(registryText)

const registryText = "Hello Badger"

func (c *checker) keyRegistry() error {
	b, err := os.ReadFile(filepath.Join(c.dir, badger.KeyRegistryFileName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it holds nothing, and is made again
	}
	if err != nil {
		return err
	}
	if len(b) != registryLen || !bytes.HasSuffix(b, []byte(registryText)) {
		return fmt.Errorf("%w: %s is none", ErrCorrupt, badger.KeyRegistryFileName)
	}
	return nil
}

// found is what is known of a database's content.
type found struct {
	pointers map[uint32]newest    // generation of a shard
	markers  map[[2]uint32]newest // marker of a shard's generation
	valueLog map[uint32]int64     // by file: how much of it is pointed at
}

type newest struct {
	version uint64
	value   []byte // nil: deleted
}

func newFound() *found {
	return &found{pointers: make(map[uint32]newest), markers: make(map[[2]uint32]newest), valueLog: make(map[uint32]int64)}
}

// Bits of the meta byte of Badger's entries.
const (
	bitDelete       = 1 << 0
	bitValuePointer = 1 << 1
	bitTxn          = 1 << 6
	bitFinTxn       = 1 << 7
)

// add takes in one entry: key is with its version, as Badger has it.
func (f *found) add(key []byte, meta byte, value []byte) error {
	if meta&bitValuePointer != 0 && meta&bitDelete == 0 {
		if len(value) != 12 {
			return fmt.Errorf("%w: pointer of %d bytes into the value log", ErrCorrupt, len(value))
		}
		file := binary.NativeEndian.Uint32(value)
		end := int64(binary.NativeEndian.Uint32(value[4:])) + int64(binary.NativeEndian.Uint32(value[8:]))
		f.valueLog[file] = max(end, f.valueLog[file])
		return nil
	}
	n := newest{version: y.ParseTs(key), value: value}
	if meta&bitDelete != 0 {
		n.value = nil
	}
	key = y.ParseKey(key)
	switch {
	case len(key) == 5 && key[0] == topPointer:
		shard := binary.BigEndian.Uint32(key[1:])
		f.pointers[shard] = later(f.pointers[shard], n.own())
	case len(key) == 10 && key[0] == topSpace && key[9] == kindMarker:
		space := [2]uint32{binary.BigEndian.Uint32(key[1:]), binary.BigEndian.Uint32(key[5:])}
		f.markers[space] = later(f.markers[space], n.own())
	}
	return nil
}

// own is n with a copy of the value, which is a table's memory.
func (n newest) own() newest {
	n.value = slices.Clone(n.value)
	return n
}

func later(a, b newest) newest {
	if b.version >= a.version {
		return b
	}
	return a
}

// include takes in what another has found.
func (f *found) include(o *found) {
	for k, n := range o.pointers {
		f.pointers[k] = later(f.pointers[k], n)
	}
	for k, n := range o.markers {
		f.markers[k] = later(f.markers[k], n)
	}
	for k, end := range o.valueLog {
		f.valueLog[k] = max(end, f.valueLog[k])
	}
}

// applied reads the markers of the current generations.
func (f *found) applied() (map[uint32]uint64, error) {
	out := make(map[uint32]uint64)
	for space, n := range f.markers {
		shard, generation := space[0], uint32(0)
		if p := f.pointers[shard].value; len(p) == 4 {
			generation = binary.BigEndian.Uint32(p)
		}
		if space[1] != generation || n.value == nil {
			continue
		}
		m, err := decodeMarker(n.value)
		if err != nil {
			return nil, fmt.Errorf("marker of shard %d: %w", shard, err)
		}
		out[shard] = m.Applied
	}
	return out, nil
}

// memtables checks the memtables' files. All but the newest were full when the
// next was begun, and must be whole. The newest ends where the process did, or
// where it is damaged: what is lost then is the newest of all, and the log has
// it.
func (c *checker) memtables() error {
	files := c.named(".mem")
	for i, name := range files {
		if err := c.memtable(name, i == len(files)-1); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) memtable(name string, last bool) error {
	l, err := openLogFile(filepath.Join(c.dir, name))
	if err != nil || l == nil {
		return err
	}
	defer l.close()
	whole, read, err := l.replay(c.found.add)
	if err != nil {
		return err
	}
	end, err := l.lastByte(read)
	if err != nil {
		return err
	}
	if last {
		// What a killed process leaves is a part of one entry, which a
		// transaction holds: 15 % of a memtable, which has half of its file.
		if end-read > l.size*15/200+64<<10 {
			return fmt.Errorf("%w: memtable %s cannot be read from byte %d, and has %d more", ErrCorrupt, name, read, end-read)
		}
		return nil
	}
	if end > whole || whole == logHeader {
		return fmt.Errorf("%w: memtable %s cannot be read from byte %d", ErrCorrupt, name, whole)
	}
	return nil
}

// valueLog checks that the value log has what the tables and memtables point
// at; it is for values that are too large for them.
func (c *checker) valueLog() error {
	ends := make(map[uint32]int64)
	for _, name := range c.named(".vlog") {
		var id uint32
		if _, err := fmt.Sscanf(name, "%d.vlog", &id); err != nil {
			return fmt.Errorf("%w: %s is no file of the value log", ErrCorrupt, name)
		}
		end, err := c.valueFile(name, c.found.valueLog[id] > 0)
		if err != nil {
			return err
		}
		ends[id] = end
	}
	for id, used := range c.found.valueLog {
		if ends[id] < used {
			return fmt.Errorf("%w: file %d of the value log can be read up to byte %d, and is used up to %d", ErrCorrupt, id, ends[id], used)
		}
	}
	return nil
}

func (c *checker) valueFile(name string, used bool) (end int64, err error) {
	l, err := openLogFile(filepath.Join(c.dir, name))
	if err != nil || l == nil {
		return 0, err
	}
	defer l.close()
	for used {
		if _, err := l.next(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return 0, err
		}
	}
	return l.at, nil
}
