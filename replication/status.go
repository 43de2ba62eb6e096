package replication

import (
	"time"

	"github.com/samecart/samecart/crdt"
)

// Status says how one shard stands with one peer region.
type Status struct {
	Stream crdt.Stream
	Region crdt.RegionID // the peer
	Name   string

	// Connected: a stream is open and the peer's cursor is known.
	Connected bool
	// Via is the region that calls to the peer go through; "" when none. Its
	// Transport tells, if it has a method Via() string.
	Via string
	// Repairing: carts are compared and exchanged.
	Repairing bool
	// AckedSeq: the peer has committed every row up to it. 0 before the
	// peer first answered.
	AckedSeq uint64
	// LastSeq is the log's last row; LastSeq - AckedSeq rows are waiting.
	LastSeq uint64
	// AheadSeq is not 0 when the peer's cursor is beyond LastSeq: this
	// region lost rows it had sent and needs a new incarnation.
	AheadSeq uint64
	// Lag is the age of the oldest row that the peer has not acked, 0 when
	// it has all. Before the peer first answered, it is the time since this
	// node began to lead the shard, when there is any row.
	Lag time.Duration
	// Lags is how it was in the last minute.
	Lags LagStats
	// BytesWaiting estimates what is held in memory or on the wire for the
	// peer, before compression.
	BytesWaiting int
	// ProvenEqualAt: every slot was seen equal to the peer's then or later;
	// zero when one never was. DifferentSlots is the last comparison's count.
	ProvenEqualAt  time.Time
	DifferentSlots int

	// RepairedAll: all that this region had then, the peer has; it is when the last
	// repair of all slots began. Zero: none came to its end.
	RepairedAll time.Time

	// Since this node began to lead the shard. RowsSent counts rows after
	// combining, RowsCombined those that went into another; BytesSent is
	// what the streams report, after compression.
	Proofs, Repairs, CartsRepaired    uint64
	CartsTaken                        uint64 // by repairs, from the peer
	Intervals, RowsSent, RowsCombined uint64
	BytesSent                         uint64
	// LastError is why the last stream or repair ended; empty when none did.
	LastError string
}

// snapshot is a Status without Lag, which grows while nothing happens, and
// the row that it will be the age of.
func (p *Peer) snapshot() (Status, waitingRow) {
	s := Status{
		Stream:         p.stream,
		Connected:      p.phase == streaming,
		Repairing:      p.repairRuns,
		AckedSeq:       p.acked,
		LastSeq:        p.last,
		AheadSeq:       p.ahead,
		BytesWaiting:   p.flightBytes + p.batch.bytes,
		ProvenEqualAt:  p.proof.provenAt(),
		DifferentSlots: p.different,
		RepairedAll:    p.repairedAll,
		Proofs:         p.stats.proofs,
		Repairs:        p.stats.repairs,
		CartsRepaired:  p.stats.repairedCarts,
		CartsTaken:     p.stats.takenCarts,
		Intervals:      p.stats.intervalsSent,
		RowsSent:       p.stats.rowsSent,
		RowsCombined:   p.stats.rowsCombined,
		BytesSent:      p.stats.bytesSent,
	}
	if p.lastErr != nil {
		s.LastError = p.lastErr.Error()
	}
	return s, p.oldest()
}

// Events are called synchronously, from one goroutine per peer, and must
// not block; nil funcs are skipped.
type Events struct {
	// Connected: the peer answered with its cursor.
	Connected func(Connected)
	// Disconnected: a stream could not be opened, or ended.
	Disconnected func(Disconnected)
	// Delivered: the peer acked more rows.
	Delivered func(Delivered)
	// Proved: one comparison of digests.
	Proved func(ProofDone)
	// Repaired: one repair ended.
	Repaired func(RepairDone)
}

// Between names the two ends of an event.
type Between struct {
	Stream crdt.Stream
	Region crdt.RegionID // the peer
	Name   string
}

// Connected is the event of that name.
type Connected struct {
	Between
	Cursor uint64
}

// Disconnected is the event of that name.
type Disconnected struct {
	Between
	Err error
}

// Delivered is the event of that name. Lag is the age that the oldest row
// of those acked had reached.
type Delivered struct {
	Between
	Seq uint64
	Lag time.Duration
}

// ProofDone is the event of a comparison: Different of Slots slots differed.
type ProofDone struct {
	Between
	Slots, Different int
	Err              error
}

// RepairDone is the event of a repair: see Repaired.
type RepairDone struct {
	Between
	Carts, Bytes      int
	Taken, TakenBytes int
	Search            int
	Err               error
}
