//go:build !wasip1

package shard

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"

	"github.com/samecart/samecart/region/store"
)

// metaStore tells of the steps of the log's meta store.
type metaStore struct {
	*metadb.BoltMetaDB
	steps store.Steps
}

// CommitState implements types.MetaStore.
func (m metaStore) CommitState(s types.PersistentState) error {
	err := m.BoltMetaDB.CommitState(s)
	m.steps.At(StepSegments)
	return err
}

// SetStable implements types.MetaStore.
func (m metaStore) SetStable(key, value []byte) error {
	err := m.BoltMetaDB.SetStable(key, value)
	m.steps.At(StepStable)
	return err
}

// timedLog is a log that takes its time.
type timedLog struct {
	*wal.WAL
	before func()
}

// StoreLog implements raft.LogStore.
func (l timedLog) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs implements raft.LogStore.
func (l timedLog) StoreLogs(all []*raft.Log) error {
	l.before()
	return l.WAL.StoreLogs(all)
}

// OpenStores opens or makes a shard's log (raft-wal) and snapshots in dir.
// The log syncs what it stores before it says so.
func OpenStores(dir string, segmentBytes int, disk Disk, log *slog.Logger) (Stores, error) {
	logger := raftLogger(log)
	logDir := filepath.Join(dir, "log")
	if err := os.MkdirAll(logDir, 0o700); err != nil {
		return Stores{}, fmt.Errorf("make raft log directory: %w", err)
	}
	// The log's Close leaves its own meta store open, and with it the lock on
	// its file: the next Open in this process would wait for ever.
	meta := &metadb.BoltMetaDB{}
	if err := finishRotation(logDir, meta); err != nil {
		return Stores{}, errors.Join(fmt.Errorf("open raft log in %s: %w", dir, err), meta.Close())
	}
	if disk.Files == nil {
		disk.Files = fs.New()
	}
	w, err := wal.Open(logDir, wal.WithMetaStore(metaStore{meta, disk.Steps}), wal.WithSegmentFiler(segment.NewFiler(logDir, disk.Files)),
		wal.WithSegmentSize(segmentBytes), wal.WithLogger(logger))
	if err != nil {
		return Stores{}, errors.Join(fmt.Errorf("open raft log in %s: %w", dir, err), meta.Close())
	}
	closeLog := func() error { return errors.Join(w.Close(), meta.Close()) }
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, 2, logger)
	if err != nil {
		return Stores{}, errors.Join(fmt.Errorf("open snapshots in %s: %w", dir, err), closeLog())
	}
	var entries raft.LogStore = w
	if disk.Before != nil {
		entries = timedLog{w, disk.Before}
	}
	cache, err := raft.NewLogCache(512, entries)
	if err == nil {
		err = finishInstall(w, snaps)
	}
	if err != nil {
		return Stores{}, errors.Join(fmt.Errorf("open raft log in %s: %w", dir, err), closeLog())
	}
	return Stores{Log: cache, Stable: w, Snapshots: snaps, Close: closeLog}, nil
}

// finishRotation notes that the file which the log writes to is full, and which
// is the next. raft-wal does so a moment after it has filled one; of a process
// that ended in between it makes a log that takes no more entries (0.4.1).
func finishRotation(dir string, meta *metadb.BoltMetaDB) error {
	state, err := meta.Load(dir)
	if err != nil || len(state.Segments) == 0 {
		return err
	}
	last := &state.Segments[len(state.Segments)-1]
	if !last.SealTime.IsZero() {
		return nil
	}
	f := segmentFile{info: *last, tail: true}
	if err := f.read(filepath.Join(dir, segment.FileName(*last))); err != nil || f.index == 0 {
		return err
	}
	last.SealTime, last.MaxIndex, last.IndexStart = time.Now(), last.BaseIndex+f.entries-1, uint64(f.index)
	state.Segments = append(state.Segments, types.SegmentInfo{
		ID: state.NextSegmentID, BaseIndex: last.MaxIndex + 1, MinIndex: last.MaxIndex + 1,
		SizeLimit: last.SizeLimit, Codec: last.Codec, CreateTime: last.SealTime,
	})
	state.NextSegmentID++
	return meta.CommitState(state)
}
