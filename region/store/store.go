package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"github.com/samecart/samecart/crdt"
)

// ErrCorrupt is wrapped when a value in the database is not what its key
// says. The node must stop: it cannot know what else is wrong.
var ErrCorrupt = errors.New("corrupt database")

// corrupt marks what a decoder refused; bytes of a newer format are sound.
func corrupt(err error) error {
	if err == nil || errors.Is(err, crdt.ErrFormat) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}

// Config holds the settings of a Store; see DefaultConfig.
type Config struct {
	Dir           string
	MemTableBytes int64 // one memtable; a transaction may take 15 % of it; ≥ 1 MiB
	MemTables     int   // kept in memory before writers wait; ≥ 2
	Steps         Steps // nil in production
	Log           *slog.Logger
}

// DefaultConfig gives settings for a node that has a machine of its own:
// Badger's own.
func DefaultConfig(dir string, log *slog.Logger) Config {
	return Config{Dir: dir, MemTableBytes: 64 << 20, MemTables: 5, Log: log}
}

func (c Config) validate() error {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("store directory is empty"))
	}
	if c.MemTableBytes < 1<<20 {
		errs = append(errs, fmt.Errorf("memtable of %d bytes: at least 1 MiB is needed", c.MemTableBytes))
	}
	if c.MemTables < 2 {
		errs = append(errs, fmt.Errorf("%d memtables: at least 2 are needed", c.MemTables))
	}
	return errors.Join(errs...)
}

// Store is one node's database. Methods may be called from any goroutine.
type Store struct {
	db    *badger.DB
	steps Steps
}

// Open opens or makes the database in cfg.Dir. It fails when another process
// has it open. Its files must not be damaged: see [Check].
func Open(cfg Config) (*Store, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	opt := badger.DefaultOptions(cfg.Dir).
		WithSyncWrites(false).
		WithDetectConflicts(false). // one writer a shard: the goroutine that applies its log
		WithMetricsEnabled(false).  // Badger's metrics are process-wide globals
		WithMemTableSize(cfg.MemTableBytes).
		WithNumMemtables(cfg.MemTables).
		WithNumCompactors(2).
		WithBaseTableSize(min(2<<20, cfg.MemTableBytes)).
		WithValueLogFileSize(64 << 20).
		WithBlockCacheSize(0).         // it is for blocks that are compressed; others are mapped memory
		WithCompression(options.None). // carts are packed already; snappy took as long as a third of the flush
		WithLogger(badgerLog{cfg.Log})
	// Carts stay in the LSM tree, but a transaction must be able to hold the
	// largest value: Badger wants the threshold below 15 % of a memtable.
	opt = opt.WithValueThreshold(min(opt.ValueThreshold, cfg.MemTableBytes/8))
	db, err := open(opt)
	if err != nil {
		return nil, err
	}
	return &Store{db: db, steps: cfg.Steps}, nil
}

// Close flushes and closes the database. Spaces must not be used after it.
func (s *Store) Close() error { return s.db.Close() }

// Sync writes the active memtable's file to disk.
func (s *Store) Sync() error {
	if err := s.db.Sync(); err != nil {
		return err
	}
	s.steps.At(StepFlushed)
	return nil
}

// Space opens the current generation of a shard, empty at first. What other
// generations left behind is Sweep's to delete.
func (s *Store) Space(shard, slotLo, slotHi uint32) (*Space, error) {
	gen, err := s.generation(shard)
	if err != nil {
		return nil, err
	}
	sp := s.space(shard, gen, slotLo, slotHi)
	if err := sp.load(); err != nil {
		return nil, err
	}
	return sp, nil
}

func (s *Store) space(shard, gen, slotLo, slotHi uint32) *Space {
	return &Space{
		store: s, shard: shard, generation: gen, prefix: spacePrefix(shard, gen),
		slotLo: slotLo, slotHi: slotHi, sums: make([]Sum, slotHi-slotLo),
		rows: series{kind: kindRow}, ops: series{kind: kindOps},
	}
}

func (s *Store) generation(shard uint32) (uint32, error) {
	var gen uint32
	err := s.db.View(func(tx *badger.Txn) error {
		item, err := tx.Get(pointerKey(shard))
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return item.Value(func(v []byte) error {
			if len(v) != 4 {
				return fmt.Errorf("%w: generation of shard %d has %d bytes", ErrCorrupt, shard, len(v))
			}
			gen = binary.BigEndian.Uint32(v)
			return nil
		})
	})
	if err != nil {
		return 0, fmt.Errorf("read generation of shard %d: %w", shard, err)
	}
	return gen, nil
}

// Sweep deletes the generations of a shard that were current before the one
// that is. It may run beside reads, writes and restores: a restore fills a
// later generation. stop is polled between batches.
func (s *Store) Sweep(shard uint32, stop func() bool) error {
	gen, err := s.generation(shard)
	if err != nil {
		return err
	}
	return s.sweep(shard, gen, stop)
}

func (s *Store) sweep(shard, gen uint32, stop func() bool) error {
	s.steps.At(StepSweeping)
	if err := s.deleteRange(spacePrefix(shard, 0), spacePrefix(shard, gen), stop); err != nil {
		return fmt.Errorf("sweep shard %d: %w", shard, err)
	}
	return nil
}

// deleteBatch is how many keys are deleted at once.
const deleteBatch = 1000

// deleteRange deletes the keys in [from, to), in batches; stop is polled
// before each.
func (s *Store) deleteRange(from, to []byte, stop func() bool) error {
	for !stop() {
		keys, err := s.keys(from, to, deleteBatch)
		if err != nil || len(keys) == 0 {
			return err
		}
		wb := s.db.NewWriteBatch()
		for _, k := range keys {
			if err := wb.Delete(k); err != nil {
				wb.Cancel()
				return err
			}
		}
		if err := wb.Flush(); err != nil {
			return err
		}
		// From the start again, each batch would step over all that the ones
		// before it deleted.
		from = keys[len(keys)-1]
	}
	return nil
}

// keys lists at most limit keys in [from, to), in order.
func (s *Store) keys(from, to []byte, limit int) ([][]byte, error) {
	var keys [][]byte
	err := s.db.View(func(tx *badger.Txn) error {
		opt := badger.DefaultIteratorOptions
		opt.PrefetchValues = false
		it := tx.NewIterator(opt)
		defer it.Close()
		for it.Seek(from); it.Valid() && len(keys) < limit; it.Next() {
			if bytes.Compare(it.Item().Key(), to) >= 0 {
				return nil
			}
			keys = append(keys, it.Item().KeyCopy(nil))
		}
		return nil
	})
	return keys, err
}

// badgerLog passes Badger's warnings and errors on; the rest is for its
// developers.
type badgerLog struct{ log *slog.Logger }

func (l badgerLog) Errorf(f string, a ...any) {
	l.log.Error("badger", slog.String("err", fmt.Sprintf(f, a...)))
}
func (l badgerLog) Warningf(f string, a ...any) {
	l.log.Warn("badger", slog.String("err", fmt.Sprintf(f, a...)))
}
func (badgerLog) Infof(string, ...any)  {}
func (badgerLog) Debugf(string, ...any) {}
