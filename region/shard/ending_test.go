package shard

import (
	"errors"
	"testing"

	"github.com/hashicorp/raft"
)

// brokenLog is a fake: a log on a disk that fails.
type brokenLog struct{ raft.LogStore }

var errDisk = errors.New("input/output error")

// StoreLogs implements raft.LogStore.
func (brokenLog) StoreLogs([]*raft.Log) error { return errDisk }

// DeleteRange implements raft.LogStore.
func (brokenLog) DeleteRange(uint64, uint64) error { return errDisk }

// A node whose log cannot be written ends; it went on, and stayed behind for good, or
// was sent one snapshot for ever. Found by simulations, seeds 1 and 5 of one group.
func TestALogThatFailsEndsTheNode(t *testing.T) {
	for what, do := range map[string]func(raft.LogStore) error{
		"store":    func(l raft.LogStore) error { return l.StoreLog(&raft.Log{Index: 1}) },
		"truncate": func(l raft.LogStore) error { return l.DeleteRange(1, 2) },
	} {
		var told error
		l := endingLog{brokenLog{raft.NewInmemStore()}, func(err error) { told = err }}
		if err := do(l); !errors.Is(err, errDisk) || !errors.Is(told, errDisk) {
			t.Errorf("%s: %v; the node was told %v", what, err, told)
		}
		told = nil
		if err := do(endingLog{raft.NewInmemStore(), func(err error) { told = err }}); err != nil || told != nil {
			t.Errorf("%s of a log that is well: %v, told %v", what, err, told)
		}
	}
}
