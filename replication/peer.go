package replication

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/samecart/samecart/crdt"
)

// phase is where a Peer stands with its stream.
type phase uint8

const (
	waiting   phase = iota // no stream; one is opened at openAt
	opening                // a stream is being opened: no ack yet
	streaming              // the receiver's cursor is known, rows flow
	repairing              // no stream: the log does not reach back to the cursor
)

// flight is an interval that was sent and not yet acked.
type flight struct {
	hi    uint64
	bytes int
	first waitingRow // the oldest row
	sent  time.Time
}

// Peer decides what one shard sends to one peer region, and when: it is the
// state machine of a stream, its window, its reconnects, its repairs. It
// reads no clock and does no I/O: the same calls always give the same
// replies. It is not safe for concurrent use.
//
//	I1  Intervals go out in order: each starts where the one before it on
//	    the same stream ended, the first at the receiver's cursor.
//	I2  Nothing sent is kept: after a loss, the log is read again from the
//	    cursor. Memory is one batch, whatever the lag.
//	I3  At most one Send, one ReadLog, one Prove and one Repair are without
//	    their answers.
type Peer struct {
	cfg    Config
	stream crdt.Stream
	rand   *rand.Rand
	phase  phase
	gen    uint64

	last  uint64 // the log's last seq
	acked uint64 // the receiver's cursor, at most last
	known bool   // acked came from the receiver
	ahead uint64 // the receiver's cursor when it is beyond last, else 0

	batch       batch
	flights     []flight
	flightBytes int
	window      window
	sending     bool
	gatherUntil time.Time // of the interval sent last: see Config.Gather
	paceUntil   time.Time // of a backlog: see Config.CatchupRate
	lagging     bool      // the last read left rows that were there when it began
	readID      uint64    // of the last ReadLog
	reading     bool

	// The oldest unacked row, for when no flight or batch tells it.
	oldestSeq  uint64
	oldestRow  waitingRow
	peeking    bool
	peekFailed uint64 // acked + 1 when a peek found nothing

	openAt   time.Time     // waiting: when to open
	openedAt time.Time     // when the stream was asked for, then when it answered
	heardAt  time.Time     // the last ack, or when flights stopped being empty
	attempts int           // reconnects without progress
	stalls   int           // stalls without quick progress
	took     time.Duration // from sending the interval acked last to its ack
	lastErr  error

	proof     proof
	proofAt   time.Time
	proofNext time.Time // with nothing changed
	provenSeq uint64    // last when the last round began
	unequal   bool      // the last round saw a difference
	proving   bool
	different int

	repairRuns bool
	repairFrom time.Time // when the last one began that a comparison asked for
	restUntil  time.Time // comparisons ask for none before: see repairRest
	repairAll  bool
	allBegan   time.Time // when the repair that runs began, if it is of all slots
	// repairedAll is when the last repair of all slots began that came to its end.
	repairedAll time.Time
	stats       counters
}

// counters count since the Peer was made.
type counters struct {
	repairs, repairedCarts           uint64
	takenCarts                       uint64
	rowsSent, rowsCombined           uint64
	intervalsSent, bytesSent, proofs uint64
	fails                            uint64
}

// NewPeer returns a Peer for the given log stream and the peer region to; r
// decides its jitter and is its own. The Config must be valid.
func NewPeer(s crdt.Stream, to crdt.RegionID, cfg Config, r *rand.Rand) *Peer {
	p := &Peer{
		cfg: cfg, stream: s, rand: r, window: newWindow(cfg),
		unequal: true, // until a comparison says otherwise
	}
	p.proof.rounds = 2
	if s.Region > to {
		// A repair makes both ends equal: one of them goes first.
		p.proof.rounds = 3
	}
	return p
}

// Step feeds one message in and appends the replies to out. It never
// blocks. Times given to one Peer must not go back.
func (p *Peer) Step(now time.Time, in Message, out []Message) []Message {
	switch m := in.(type) {
	case Appended:
		p.last = max(p.last, m.Last)
		if p.ahead > 0 && len(p.flights) == 0 && p.batch.isEmpty() {
			p.acked = min(p.last, p.ahead) // the receiver drops them: see Status.AheadSeq
		}
	case Acknowledged:
		if m.Gen == p.gen {
			out = p.acknowledged(now, m.Ack, out)
		}
	case Sent:
		if m.Gen == p.gen {
			p.sending = false
			p.stats.bytesSent += uint64(m.Bytes)
		}
	case Lost:
		if m.Gen == p.gen && (p.phase == opening || p.phase == streaming) {
			out = p.fail(now, m.Err, out)
		}
	case Read:
		if m.ID == p.readID && (p.reading || p.peeking) {
			out = p.read(now, m, out)
		}
	case Proved:
		out = p.proved(now, m, out)
	case Repaired:
		p.repaired(now, m)
	case Asked:
		out = p.asked(now, out)
	case Poked:
		out = p.poked(now, out)
	default:
		panic(fmt.Sprintf("replication: %T is no input of a Peer", in))
	}
	return p.advance(now, out)
}

// Tick lets time pass: call it at Deadline, or later, or at any time.
func (p *Peer) Tick(now time.Time, out []Message) []Message { return p.advance(now, out) }

// Deadline returns when Tick has something to do; zero when only a message
// can bring something, and before the first Step.
func (p *Peer) Deadline() time.Time {
	switch p.phase {
	case waiting:
		return p.openAt
	case opening:
		return p.openedAt.Add(p.openTimeout())
	case streaming:
		var d time.Time
		if len(p.flights) > 0 {
			d = p.heardAt.Add(p.stallAfter())
		}
		if p.canProve() {
			d = earlier(d, p.proofDue())
		}
		if p.sendable() {
			d = earlier(d, p.sendAt())
		}
		return d
	case repairing:
	}
	return time.Time{}
}

// earlier returns the earlier of two times; a zero one is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// advance does what time, room and rows allow.
func (p *Peer) advance(now time.Time, out []Message) []Message {
	switch p.phase {
	case waiting:
		if !now.Before(p.openAt) {
			p.gen++
			p.phase, p.openedAt = opening, now
			out = append(out, Open{p.gen})
		}
	case opening:
		if now.Sub(p.openedAt) >= p.openTimeout() {
			out = p.fail(now, errors.New("no answer to the opening of a stream"), out)
		}
	case streaming:
		if len(p.flights) > 0 && now.Sub(p.heardAt) >= p.stallAfter() {
			p.stalls++
			return p.fail(now, errors.New("no ack for a sent interval"), out)
		}
		out = p.flow(now, out)
		if p.canProve() && !now.Before(p.proofDue()) {
			p.proving, p.provenSeq = true, p.last
			out = append(out, Prove{})
		}
	case repairing:
		if !p.repairRuns {
			p.repairRuns, p.repairAll = true, true
			p.allBegan = now
			out = append(out, Repair{Cursor: true})
		}
	}
	if p.phase != streaming {
		out = p.peek(out)
	}
	return out
}

// sendable says that the batch could go out now.
func (p *Peer) sendable() bool {
	return !p.batch.isEmpty() && !p.sending && (!p.lagging || p.batchFull()) && p.room()
}

// flow sends the batch when there is room for it and fills the next. While
// a Send is outstanding or the window is full, rows gather in the batch and
// fold; with room and no backlog, a row goes out at once, unless another did just
// before.
func (p *Peer) flow(now time.Time, out []Message) []Message {
	if p.sendable() && !now.Before(p.sendAt()) {
		p.gatherUntil = now.Add(p.cfg.Gather)
		b := &p.batch
		if p.cfg.CatchupRate > 0 && b.hi < p.last {
			// From when it was due, not from now: wake-ups come late.
			from := p.paceUntil
			if now.Sub(from) > p.cfg.Gather {
				from = now
			}
			p.paceUntil = from.Add(time.Duration(b.hi-b.lo) * time.Second / time.Duration(p.cfg.CatchupRate))
		}
		p.stats.rowsSent += uint64(len(b.rows))
		p.stats.rowsCombined += uint64(b.combined)
		p.stats.intervalsSent++
		if len(p.flights) == 0 {
			p.heardAt = now
		}
		p.flights = append(p.flights, flight{b.hi, b.bytes, b.oldest, now})
		p.flightBytes += b.bytes
		p.sending = true
		out = append(out, Send{p.gen, b.take(p.stream)})
	}
	if !p.reading && !p.batchFull() && p.batch.hi < p.last {
		p.reading, p.peeking = true, false
		p.readID++
		// Never less than a sixteenth: small reads at the end of a batch
		// cost more than they fill.
		most := p.window.batch(p.cfg.BatchBytesMax)
		n := max(most-p.batch.bytes, most/16)
		out = append(out, ReadLog{p.readID, p.batch.hi, n})
	}
	return out
}

// sendAt returns when the batch may go out.
func (p *Peer) sendAt() time.Time {
	if p.batchFull() || p.gatherUntil.Before(p.paceUntil) {
		return p.paceUntil
	}
	return p.gatherUntil
}

func (p *Peer) batchFull() bool {
	return p.batch.bytes >= p.window.batch(p.cfg.BatchBytesMax) || p.batch.span >= p.cfg.SpanBytesMax
}

func (p *Peer) room() bool {
	return len(p.flights) == 0 ||
		len(p.flights) < p.cfg.WindowIntervals && p.flightBytes+p.batch.bytes <= p.window.size
}

// acknowledged takes an ack of the current stream.
func (p *Peer) acknowledged(now time.Time, a Ack, out []Message) []Message {
	p.heardAt = now
	switch p.phase {
	case opening:
		// The first ack is where the receiver stands, also when that is
		// before what an earlier stream acked: it may have been wiped.
		p.window.reset()
		p.phase, p.known, p.ahead, p.openedAt = streaming, true, 0, now
		p.acked = a.Cursor
		if a.Cursor > p.last {
			p.acked, p.ahead = p.last, a.Cursor
		}
		p.batch.reset(max(a.Cursor, p.acked))
		p.lagging, p.sending = false, false
		if p.proofAt.IsZero() {
			p.scheduleProof(now)
		}
		return out
	case streaming:
		if a.Gap {
			return p.fail(now, fmt.Errorf("the receiver is at %d, behind what was sent", a.Cursor), out)
		}
		n := 0
		for n < len(p.flights) && p.flights[n].hi <= a.Cursor {
			p.flightBytes -= p.flights[n].bytes
			p.took = now.Sub(p.flights[n].sent)
			p.window.acked(now, p.flights[n].bytes, p.took)
			p.acked = max(p.acked, p.flights[n].hi)
			n++
		}
		if n > 0 {
			p.flights = append(p.flights[:0], p.flights[n:]...)
			p.attempts = 0
			if p.took < p.cfg.StallAfter/2 {
				p.stalls = 0
			}
		}
	case waiting, repairing:
	}
	return out
}

// fail gives the stream up and sets when to try again: at once after a
// stream that worked, then with growing waits.
func (p *Peer) fail(now time.Time, err error, out []Message) []Message {
	p.lastErr = err
	p.stats.fails++
	if p.phase == streaming && now.Sub(p.openedAt) >= p.cfg.BackoffMax {
		p.attempts = 0
	}
	if p.phase == opening {
		p.stalls = 0 // it is an outage, not a slow link
	}
	p.drop()
	p.phase = waiting
	p.openAt = now.Add(p.backoff())
	return append(out, Close{p.gen})
}

// stallAfter grows with stalls in a row: over a link so slow that one
// interval takes longer than StallAfter, the next try gives it more. It is longer,
// too, where acks have come late without that.
func (p *Peer) stallAfter() time.Duration {
	return max(p.cfg.StallAfter<<min(p.stalls, 4), min(3*p.took, 4*p.cfg.StallAfter))
}

// openTimeout is longer over a link whose acks have come late: the answer may be
// on its way behind what an earlier stream has sent.
func (p *Peer) openTimeout() time.Duration {
	return min(4*p.cfg.OpenTimeout, max(p.cfg.OpenTimeout, 3*p.took))
}

// drop forgets what the stream held; the log still has it.
func (p *Peer) drop() {
	if row := p.oldest(); row.at != 0 {
		p.oldestSeq, p.oldestRow = p.acked+1, row
	}
	p.flights, p.flightBytes = p.flights[:0], 0
	p.batch.reset(p.acked)
	p.sending, p.reading, p.lagging, p.peeking = false, false, false, false
}

func (p *Peer) backoff() time.Duration {
	d := p.cfg.BackoffMin << min(p.attempts, 30)
	if d > p.cfg.BackoffMax || d <= 0 {
		d = p.cfg.BackoffMax
	}
	p.attempts++
	return d/2 + rand64(p.rand, d/2)
}

// rand64 is a random duration in [0, d].
func rand64(r *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(r.Int64N(int64(d) + 1))
}

// read takes rows from the log.
func (p *Peer) read(now time.Time, m Read, out []Message) []Message {
	if p.peeking {
		p.peeking = false
		if m.Err == nil && m.OK && len(m.Interval.Rows) > 0 && m.Interval.Lo == p.acked {
			first := &m.Interval.Rows[0]
			p.oldestSeq, p.oldestRow = p.acked+1, waitingRow{first.At, first.CartID}
		} else {
			p.peekFailed = p.acked + 1
		}
		return out
	}
	p.reading = false
	switch {
	case m.Err != nil:
		return p.fail(now, fmt.Errorf("read delta log after %d: %w", p.batch.hi, m.Err), out)
	case !m.OK:
		p.drop()
		p.phase = repairing
		return append(out, Close{p.gen})
	case m.Interval.Lo != p.batch.hi || m.Interval.Hi <= m.Interval.Lo:
		return p.fail(now, fmt.Errorf("read delta log after %d: got (%d, %d]",
			p.batch.hi, m.Interval.Lo, m.Interval.Hi), out)
	}
	// A read that did not reach the last row known: there is a backlog, and
	// it pays to fold a whole batch before sending.
	p.last = max(p.last, m.Interval.Hi)
	p.lagging = m.Interval.Hi < p.last
	p.batch.add(m.Interval, p.cfg.RowDotsMax)
	return out
}

// peek finds out how old the oldest unacked row is, while no stream would.
func (p *Peer) peek(out []Message) []Message {
	if p.peeking || !p.known || p.acked >= p.last || p.oldestSeq == p.acked+1 || p.peekFailed == p.acked+1 {
		return out
	}
	p.readID++
	p.peeking = true
	return append(out, ReadLog{p.readID, p.acked, 1})
}

// waitingRow is when a row was written, and whose it is.
type waitingRow struct {
	at   crdt.Timestamp
	cart string
}

// oldest returns the oldest unacked row; its time is 0 when there is none or
// it is not known.
func (p *Peer) oldest() waitingRow {
	switch {
	case p.acked >= p.last:
		return waitingRow{}
	case len(p.flights) > 0:
		return p.flights[0].first
	case p.batch.oldest.at != 0:
		return p.batch.oldest
	case p.oldestSeq == p.acked+1:
		return p.oldestRow
	}
	return waitingRow{}
}

// poked tries at once. A stream that has been silent with unacked intervals,
// or has long been opening, is likely stuck in the old outage.
func (p *Peer) poked(now time.Time, out []Message) []Message {
	p.attempts = 0
	stuck := p.phase == opening && now.Sub(p.openedAt) >= p.cfg.BackoffMax/2 ||
		p.phase == streaming && len(p.flights) > 0 && now.Sub(p.heardAt) >= p.cfg.BackoffMax
	if stuck {
		out = p.fail(now, errors.New("poked"), out)
	}
	if p.phase == waiting {
		p.openAt = now
	}
	return out
}

// canProve: a round may begin once the peer has acked what the last round
// saw; see proof.
func (p *Peer) canProve() bool {
	return p.phase == streaming && !p.proving && !p.repairRuns && p.acked >= p.proof.last
}

func (p *Peer) proofDue() time.Time {
	if p.last != p.provenSeq || p.unequal {
		return p.proofAt
	}
	return p.proofNext
}

func (p *Peer) scheduleProof(now time.Time) {
	jitter := rand64(p.rand, p.cfg.ProofEvery/2)
	p.proofAt = now.Add(p.cfg.ProofEvery*3/4 + jitter)
	p.proofNext = now.Add(max(p.cfg.ProofIdle, p.cfg.ProofEvery*3/4+jitter))
}

// asked begins a repair of all slots beside the stream. One that runs already,
// or that comes when the stream cannot go on, is as good.
func (p *Peer) asked(now time.Time, out []Message) []Message {
	if p.repairRuns || p.phase == repairing {
		return out
	}
	p.repairRuns, p.repairAll, p.allBegan = true, false, now
	return append(out, Repair{})
}

// repairRest is how many times as long as the last repair nothing is repaired that
// comparisons show. Where regions cannot keep up with their edits, slots differ for
// rows that are on their way, and repairs would take the time that those need.
const repairRest = 4

// proved takes one comparison, and repairs what it shows.
func (p *Peer) proved(now time.Time, m Proved, out []Message) []Message {
	p.proving = false
	p.scheduleProof(now)
	if m.Err != nil {
		p.unequal = true // try again soon
		return out
	}
	p.stats.proofs++
	different, slots := p.proof.round(now, m)
	p.unequal, p.different = different > 0, different
	if len(slots) == 0 || p.repairRuns || now.Before(p.restUntil) {
		return out
	}
	p.repairRuns, p.repairAll, p.allBegan = true, false, time.Time{}
	p.repairFrom = now
	return append(out, Repair{Slots: slots, Leave: true})
}

// repaired takes the end of a repair.
func (p *Peer) repaired(now time.Time, m Repaired) {
	p.repairRuns = false
	if !p.repairFrom.IsZero() {
		p.restUntil = now.Add(min(repairRest*now.Sub(p.repairFrom), p.cfg.ProofIdle))
		p.repairFrom = time.Time{}
	}
	if m.Left {
		p.unequal = true // see soon how far the peer got
		return
	}
	p.stats.repairedCarts += uint64(m.Carts)
	p.stats.takenCarts += uint64(m.Taken)
	if m.Err == nil {
		p.stats.repairs++
		if !p.allBegan.IsZero() {
			p.repairedAll = p.allBegan
		}
		p.proof.repairDone(now, m.Own, p.cfg.ProofIdle)
		p.unequal, p.proofAt = true, now // see whether it helped
	} else {
		p.lastErr = m.Err
	}
	if p.phase != repairing || !p.repairAll {
		return // streaming went on meanwhile, or repairing begins now
	}
	p.phase = waiting
	p.openAt = now
	if m.Err != nil {
		p.openAt = now.Add(p.backoff())
	} else {
		p.attempts = 0
	}
}
