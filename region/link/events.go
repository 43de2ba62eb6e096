package link

import (
	"time"

	"github.com/hashicorp/raft"
)

// Events are called synchronously and must not block; nil funcs are skipped.
// They come from many goroutines at once.
type Events struct {
	Connected    func(Connected)    // a connection passed its hello
	Disconnected func(Disconnected) // a connection that had passed its hello ended
	Wrote        func(Wrote)        // one write call on a connection
	Refused      func(Refused)      // a raft frame came for a server that is not here
	SnapshotSent func(SnapshotSent) // an InstallSnapshot ended, well or not
}

// Connected tells of a new connection.
type Connected struct {
	Node   string // the other end
	Dialed bool   // true when this end dialed
}

// Disconnected tells of the end of a connection.
type Disconnected struct {
	Node   string
	Dialed bool
	Err    error // why; wraps ErrClosed when this end meant it
}

// Wrote tells of one write: Frames/writes is how well frames batch.
type Wrote struct {
	Node   string
	Frames int
	Bytes  int
}

// Refused tells of a raft frame that was turned away because of its target.
type Refused struct {
	From   string        // the sending node
	Group  uint32        // the raft group named
	Target raft.ServerID // the server id named, which is not here
}

// SnapshotSent tells of one snapshot sent. Many in a row of one Index to one
// Target are the sign of raft's install livelock; the leader should then take
// a newer snapshot.
type SnapshotSent struct {
	Node     string
	Group    uint32
	Target   raft.ServerID
	Index    uint64 // last log index in the snapshot
	Bytes    int64  // bytes sent, the whole size on success
	Duration time.Duration
	Err      error
}

func (e *Events) connected(v Connected) {
	if e.Connected != nil {
		e.Connected(v)
	}
}

func (e *Events) disconnected(v Disconnected) {
	if e.Disconnected != nil {
		e.Disconnected(v)
	}
}

func (e *Events) wrote(v Wrote) {
	if e.Wrote != nil {
		e.Wrote(v)
	}
}

func (e *Events) refused(v Refused) {
	if e.Refused != nil {
		e.Refused(v)
	}
}

func (e *Events) snapshotSent(v SnapshotSent) {
	if e.SnapshotSent != nil {
		e.SnapshotSent(v)
	}
}
