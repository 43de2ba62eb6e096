package shard

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/raft"
)

// LogState is what a member has of its group's log.
type LogState struct {
	First, Last uint64 // entries of the log; 0: it has none
	Snapshot    uint64 // index of the newest snapshot; 0: there is none
	Begun       bool   // there is a log, a vote or a snapshot
}

// InspectLog reads the log and the snapshots in a directory of OpenStores, and
// changes nothing. Errors wrap ErrLogDamaged when the files are damaged. Then
// OpenStores must not be called: raft-wal drops what it cannot read, and files
// that it does not know of, and raft panics at an entry that is not there.
//
// A log that ends before the newest snapshot is found as it is; OpenStores drops
// it. Not seen is the loss of all that a log's newest file has, or of its end,
// when nothing of that was applied; and what changes a vote into another.
//
// Cost: the size of log and newest snapshot, read once.
func InspectLog(dir string) (LogState, error) {
	s, err := inspectLog(dir)
	if err != nil {
		return s, fmt.Errorf("%w: %s: %w", ErrLogDamaged, dir, err)
	}
	return s, nil
}

// Check refuses a log that lacks what the member had: what was applied from it,
// or anything at all. Acknowledged entries and votes went with it. And it
// refuses one that begins behind the newest snapshot, as entries between them
// are missing.
func (s LogState) Check(applied uint64, begun bool) error {
	switch end := max(s.Last, s.Snapshot); {
	case end < applied:
		return fmt.Errorf("%w: log and snapshots end at index %d, %d is applied", ErrLogDamaged, end, applied)
	case s.Last > 0 && s.First > s.Snapshot+1:
		return fmt.Errorf("%w: it begins at index %d, and the newest snapshot is of %d", ErrLogDamaged, s.First, s.Snapshot)
	case begun && !s.Begun:
		return fmt.Errorf("%w: it is empty, and was not when the node last ran", ErrLogDamaged)
	}
	return nil
}

// snapshotMeta is the description of one snapshot of raft's.
type snapshotMeta struct {
	raft.SnapshotMeta
	CRC []byte
}

// inspectSnapshots reads the newest snapshot: raft would pass over one that it
// cannot read, and start from an older one that the log does not reach back to.
func inspectSnapshots(dir string) (newest snapshotMeta, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return newest, err
	}
	for _, e := range entries {
		if !e.IsDir() || strings.HasSuffix(e.Name(), ".tmp") {
			continue
		}
		var ms int64
		m := snapshotMeta{SnapshotMeta: raft.SnapshotMeta{ID: e.Name()}}
		if n, err := fmt.Sscanf(m.ID, "%d-%d-%d", &m.Term, &m.Index, &ms); err != nil || n != 3 {
			return newest, fmt.Errorf("%s is no snapshot", m.ID)
		}
		if newest.ID == "" || slices.Compare([]uint64{m.Term, m.Index}, []uint64{newest.Term, newest.Index}) > 0 ||
			m.Term == newest.Term && m.Index == newest.Index && m.ID > newest.ID {
			newest = m
		}
	}
	if newest.ID == "" {
		return newest, nil
	}
	if err := newest.read(filepath.Join(dir, newest.ID)); err != nil {
		return newest, fmt.Errorf("snapshot %s: %w", newest.ID, err)
	}
	return newest, nil
}

func (m *snapshotMeta) read(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "meta.json"))
	if err != nil {
		return err
	}
	var stored snapshotMeta
	if err := json.Unmarshal(b, &stored); err != nil {
		return fmt.Errorf("meta.json: %w", err)
	}
	if stored.ID != m.ID || stored.Term != m.Term || stored.Index != m.Index || stored.Version != raft.SnapshotVersionMax {
		return fmt.Errorf("meta.json describes version %d of %q", stored.Version, stored.ID)
	}
	f, err := os.Open(filepath.Join(dir, "state.bin"))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	sum := crc64.New(crc64.MakeTable(crc64.ECMA))
	n, err := io.Copy(sum, f)
	if err != nil {
		return err
	}
	if n != stored.Size || !bytes.Equal(sum.Sum(nil), stored.CRC) {
		return fmt.Errorf("state.bin has %d bytes that are not the %d that were written", n, stored.Size)
	}
	return nil
}
