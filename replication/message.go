package replication

import (
	"github.com/samecart/samecart/crdt"
)

// Message is what goes into and comes out of a Peer.
//
//	in:  Appended Acknowledged Sent Lost Read Proved Repaired Poked Asked
//	out: Open Close Send ReadLog Prove Repair
type Message interface{ message() }

// Appended says that the log's last row is Last.
type Appended struct{ Last uint64 }

// Acknowledged says what the receiver answered on the stream Gen.
type Acknowledged struct {
	Gen uint64
	Ack Ack
}

// Sent says that the stream Gen has taken the interval and is free for the
// next.
type Sent struct {
	Gen   uint64
	Bytes int // on the wire; 0 when the stream does not tell
}

// Lost says that the stream Gen could not be opened, or ended.
type Lost struct {
	Gen uint64
	Err error
}

// Read answers ReadLog.
type Read struct {
	ID       uint64
	Interval crdt.Interval
	OK       bool // false: the log no longer reaches back
	Err      error
}

// Proved answers Prove: digests of the slots from SlotLo. The local slots
// were read before the peer's and again after them.
type Proved struct {
	SlotLo              uint32
	Last                uint64 // LastSeq, read after Before
	Before, Peer, After []Digest
	Err                 error
}

// Repaired answers Repair. Own holds the local digest of every slot that
// was gone through.
type Repaired struct {
	Position uint64 // the peer's cursor was moved to it
	Own      map[uint32]Digest
	Carts    int // whole carts sent
	Bytes    int // their size
	// Taken is the number of the peer's whole carts that were joined here,
	// TakenBytes their size.
	Taken, TakenBytes int
	// Left: nothing was done, as the peer is repairing this region.
	Left bool
	// Search is what it took to find them: digests, symbols, contexts; in bytes.
	Search int
	Err    error
}

// Poked says that the way to the peer may be open again: try now.
type Poked struct{}

// Asked says that somebody wants all slots compared and repaired now.
type Asked struct{}

// Open asks for a new stream, known as Gen.
type Open struct{ Gen uint64 }

// Close gives up the stream Gen.
type Close struct{ Gen uint64 }

// Send hands an interval to the stream Gen. There is at most one Send
// without its Sent.
type Send struct {
	Gen      uint64
	Interval crdt.Interval
}

// ReadLog asks for the rows after After. A later ReadLog makes the answer
// to an earlier one void.
type ReadLog struct {
	ID       uint64
	After    uint64
	BytesMax int
}

// Prove asks for a comparison of digests.
type Prove struct{}

// Repair asks for carts to be exchanged: of the slots given, or of all when
// Slots is nil. Cursor says that the peer's cursor is to move afterwards; it
// comes with all slots.
// Leave says to do nothing when the peer is at it already, from its side.
type Repair struct {
	Slots  []uint32
	Cursor bool
	Leave  bool
}

func (Appended) message()     {}
func (Acknowledged) message() {}
func (Sent) message()         {}
func (Lost) message()         {}
func (Read) message()         {}
func (Proved) message()       {}
func (Repaired) message()     {}
func (Poked) message()        {}
func (Asked) message()        {}
func (Open) message()         {}
func (Close) message()        {}
func (Send) message()         {}
func (ReadLog) message()      {}
func (Prove) message()        {}
func (Repair) message()       {}
