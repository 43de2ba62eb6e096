package shard

import (
	"fmt"

	"github.com/hashicorp/raft"
)

// endingLog ends the node when its log cannot be written. What a disk has after a
// write or a sync that failed nobody knows (Rebello et al., "Can Applications Recover
// from fsync Failures?", ATC 2020), and the log takes nothing more that fits: a member
// that goes on stays behind for good, or is sent one snapshot for ever. A process
// that starts again reads what there is, and goes on from there.
type endingLog struct {
	raft.LogStore
	fatal func(error)
}

// IsMonotonic implements raft.MonotonicLogStore.
func (l endingLog) IsMonotonic() bool {
	m, ok := l.LogStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

// StoreLog implements raft.LogStore.
func (l endingLog) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs implements raft.LogStore.
func (l endingLog) StoreLogs(all []*raft.Log) error {
	return l.end("write", l.LogStore.StoreLogs(all))
}

// DeleteRange implements raft.LogStore.
func (l endingLog) DeleteRange(from, to uint64) error {
	return l.end("truncate", l.LogStore.DeleteRange(from, to))
}

func (l endingLog) end(what string, err error) error {
	if err != nil {
		err = fmt.Errorf("%s raft log: %w", what, err)
		l.fatal(err)
	}
	return err
}
