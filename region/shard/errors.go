package shard

import (
	"errors"
	"fmt"
)

// ErrLogDamaged means that the shard's log on disk lost entries that it had:
// the member must not vote, as it may have acknowledged them.
var ErrLogDamaged = errors.New("raft log is damaged")

// Errors of Propose and Read.
var (
	// ErrNotLeader: this node cannot answer now and took nothing; the leader
	// may. It comes as a *NotLeaderError.
	ErrNotLeader = errors.New("not the shard's leader")
	// ErrOutcomeUnknown: the command may or may not be committed.
	ErrOutcomeUnknown = errors.New("outcome unknown")
	// ErrOverloaded: the queue is full; nothing was taken.
	ErrOverloaded = errors.New("shard overloaded")
	// ErrTooLarge: the command does not fit an entry; nothing was taken.
	ErrTooLarge = errors.New("command too large")
	// ErrFenced: the region, or the one that sent it, is fenced or drained;
	// nothing was taken.
	ErrFenced = errors.New("region is fenced")
	// ErrNoRegionMajority: for too long no majority of the regions was heard from;
	// nothing was taken.
	ErrNoRegionMajority = errors.New("no majority of the regions was heard from")
	// ErrMalformed: no member could apply the command; nothing was taken.
	ErrMalformed = errors.New("malformed command")
)

// NotLeaderError names the leader, when one is known.
type NotLeaderError struct {
	Shard  uint32
	Leader string // node; empty when none is known
}

// Error implements error.
func (e *NotLeaderError) Error() string {
	if e.Leader == "" {
		return fmt.Sprintf("shard %d has no known leader", e.Shard)
	}
	return fmt.Sprintf("shard %d is led by %s", e.Shard, e.Leader)
}

// Is makes errors.Is(err, ErrNotLeader) hold.
func (e *NotLeaderError) Is(target error) bool { return target == ErrNotLeader }
