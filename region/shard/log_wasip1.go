package shard

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/samecart/samecart/region/store"
)

// On WASI there is no raft-wal, since bbolt and what allocates its files need more
// of a system than that has. It is built for the exact replay of simulations alone,
// and so a log outlives its Stores, not its process: it is kept here, by directory.
var memory = struct {
	sync.Mutex
	logs map[string]*memoryLog
}{logs: make(map[string]*memoryLog)}

// CopyLogs gives all directories below to what the logs of those below from have
// now, as a copy of the files would.
func CopyLogs(from, to string) {
	memory.Lock()
	defer memory.Unlock()
	for dir, log := range memory.logs {
		if below, ok := strings.CutPrefix(dir, from+string(filepath.Separator)); ok {
			memory.logs[filepath.Join(to, below)] = log.clone()
		}
	}
}

// RemoveLogs forgets the logs below a directory.
func RemoveLogs(dir string) {
	memory.Lock()
	defer memory.Unlock()
	maps.DeleteFunc(memory.logs, func(at string, _ *memoryLog) bool {
		return strings.HasPrefix(at, dir+string(filepath.Separator))
	})
}

// memoryLog is a Raft log, and a member's vote, in memory. What it was given stays
// at once: it is as a disk that syncs each write.
type memoryLog struct {
	mu          sync.RWMutex // guards what follows
	steps       store.Steps  // of the process that has it open
	first, last uint64
	entries     map[uint64]*raft.Log
	values      map[string][]byte
	numbers     map[string]uint64
}

func newMemoryLog() *memoryLog {
	return &memoryLog{entries: make(map[uint64]*raft.Log), values: make(map[string][]byte), numbers: make(map[string]uint64)}
}

// clone shares the entries: raft changes none that it has stored.
func (m *memoryLog) clone() *memoryLog {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return &memoryLog{
		first: m.first, last: m.last,
		entries: maps.Clone(m.entries), values: maps.Clone(m.values), numbers: maps.Clone(m.numbers),
	}
}

// FirstIndex implements raft.LogStore.
func (m *memoryLog) FirstIndex() (uint64, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.first, nil
}

// LastIndex implements raft.LogStore.
func (m *memoryLog) LastIndex() (uint64, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.last, nil
}

// GetLog implements raft.LogStore.
func (m *memoryLog) GetLog(index uint64, to *raft.Log) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	l, ok := m.entries[index]
	if !ok {
		return raft.ErrLogNotFound
	}
	*to = *l
	return nil
}

// StoreLog implements raft.LogStore.
func (m *memoryLog) StoreLog(l *raft.Log) error { return m.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore.
func (m *memoryLog) StoreLogs(logs []*raft.Log) error {
	m.mu.Lock()
	for _, l := range logs {
		if m.last > 0 && l.Index != m.last+1 {
			m.mu.Unlock()
			return fmt.Errorf("entry %d does not follow %d", l.Index, m.last)
		}
		kept := *l
		m.entries[l.Index], m.last = &kept, l.Index
		if m.first == 0 {
			m.first = l.Index
		}
	}
	steps := m.steps
	m.mu.Unlock()
	steps.At(StepStored)
	return nil
}

// DeleteRange implements raft.LogStore.
func (m *memoryLog) DeleteRange(from, to uint64) error {
	m.mu.Lock()
	for i := from; i <= to; i++ {
		delete(m.entries, i)
	}
	if from <= m.first {
		m.first = to + 1
	}
	if to >= m.last {
		m.last = from - 1
	}
	if m.first > m.last {
		m.first, m.last = 0, 0
	}
	steps := m.steps
	m.mu.Unlock()
	steps.At(StepSegments)
	return nil
}

// IsMonotonic implements raft.MonotonicLogStore: as with raft-wal, an entry follows
// the one before it.
func (m *memoryLog) IsMonotonic() bool { return true }

// errNoKey has the text that raft looks for.
var errNoKey = errors.New("not found")

// Set implements raft.StableStore.
func (m *memoryLog) Set(key, value []byte) error {
	m.mu.Lock()
	m.values[string(key)] = append([]byte(nil), value...)
	steps := m.steps
	m.mu.Unlock()
	steps.At(StepStable)
	return nil
}

// Get implements raft.StableStore.
func (m *memoryLog) Get(key []byte) ([]byte, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	v, ok := m.values[string(key)]
	if !ok {
		return nil, errNoKey
	}
	return v, nil
}

// SetUint64 implements raft.StableStore.
func (m *memoryLog) SetUint64(key []byte, value uint64) error {
	m.mu.Lock()
	m.numbers[string(key)] = value
	steps := m.steps
	m.mu.Unlock()
	steps.At(StepStable)
	return nil
}

// GetUint64 implements raft.StableStore.
func (m *memoryLog) GetUint64(key []byte) (uint64, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	v, ok := m.numbers[string(key)]
	if !ok {
		return 0, errNoKey
	}
	return v, nil
}

// StepStored is the durable step of entries in memory, which are stored and synced
// in one.
const StepStored = "log: entries stored"

// OpenStores opens or makes a shard's log in memory, and its snapshots in dir.
func OpenStores(dir string, _ int, disk Disk, log *slog.Logger) (Stores, error) {
	logger := raftLogger(log)
	logDir := filepath.Join(dir, "log")
	if err := os.MkdirAll(logDir, 0o700); err != nil {
		return Stores{}, fmt.Errorf("make raft log directory: %w", err)
	}
	memory.Lock()
	m := memory.logs[logDir]
	if m == nil {
		m = newMemoryLog()
		memory.logs[logDir] = m
	}
	memory.Unlock()
	m.mu.Lock()
	m.steps = disk.Steps
	m.mu.Unlock()
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, 2, logger)
	if err != nil {
		return Stores{}, fmt.Errorf("open snapshots in %s: %w", dir, err)
	}
	cache, err := raft.NewLogCache(512, m)
	if err == nil {
		err = finishInstall(m, snaps)
	}
	if err != nil {
		return Stores{}, fmt.Errorf("open raft log in %s: %w", dir, err)
	}
	return Stores{Log: cache, Stable: m, Snapshots: snaps, Close: func() error { return nil }}, nil
}

func inspectLog(dir string) (LogState, error) {
	newest, err := inspectSnapshots(filepath.Join(dir, "snapshots"))
	s := LogState{Snapshot: newest.Index}
	if err != nil {
		return s, err
	}
	memory.Lock()
	m := memory.logs[filepath.Join(dir, "log")]
	memory.Unlock()
	if m == nil {
		s.Begun = s.Snapshot > 0
		return s, nil
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	s.First, s.Last = m.first, m.last
	s.Begun = s.Last > 0 || s.Snapshot > 0 || len(m.numbers) > 0
	return s, nil
}
