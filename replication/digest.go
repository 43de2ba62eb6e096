package replication

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// proof remembers, slot by slot, how one peer's digests compared.
//
// Digests of two regions may differ for good reason: rows of either, or of
// a third region, are on their way. A slot is repaired only when it differed
// in some rounds in a row under the same own digest, and the peer had acked
// before each later one all that the first round's own digest held: then
// nothing of ours is on its way, and the peer lacks something or has more.
// What is the peer's, or a third region's, may be on its way to us. So the
// peer's digest has to be the same in those rounds, too; a slot that the peer
// changes all the time is repaired once it differed in changingRounds times as many.
type proof struct {
	rounds   int // that a slot must differ in; ≥ 2
	slotLo   uint32
	last     uint64 // LastSeq of the round before
	suspects map[uint32]suspect
	equalAt  []time.Time // per slot; zero: never
	repaired map[uint32]repairedSlot
}

// changingRounds is how many times as often a slot must differ that the peer changes.
const changingRounds = 4

// suspect is a slot that differed in the rounds before, under one own digest.
type suspect struct {
	own, peer Digest // peer: in the last of them
	rounds    int
	still     int // the last of them, under one digest of the peer
}

// repairedSlot stops a repair from being repeated for nothing: a slot that
// differs because the peer has more stays different whatever is sent.
type repairedSlot struct {
	own  Digest
	next time.Time
	wait time.Duration
}

// repairWaitMax bounds the wait before an unchanged slot is repaired again.
const repairWaitMax = 16 * time.Minute

// round takes in one comparison and returns the slots to repair. The caller
// has checked that the peer acked p.last before the comparison began.
func (p *proof) round(now time.Time, m Proved) (different int, repair []uint32) {
	n := len(m.Before)
	if p.slotLo != m.SlotLo || len(p.equalAt) != n {
		*p = proof{rounds: p.rounds, slotLo: m.SlotLo, equalAt: make([]time.Time, n)}
	}
	suspects := make(map[uint32]suspect)
	for i := range n {
		slot := m.SlotLo + uint32(i)
		switch {
		case m.Peer[i] == m.Before[i] || m.Peer[i] == m.After[i]:
			p.equalAt[i] = now
			delete(p.repaired, slot)
			continue
		case m.Before[i] == m.After[i]:
			s := suspect{m.Before[i], m.Peer[i], 1, 1}
			if before, ok := p.suspects[slot]; ok && before.own == s.own {
				s.rounds += before.rounds
				if before.peer == s.peer {
					s.still += before.still
				}
			}
			suspects[slot] = s
		}
		different++
		if s := suspects[slot]; s.still < p.rounds && s.rounds < changingRounds*p.rounds {
			continue
		}
		if r, ok := p.repaired[slot]; ok && r.own == m.Before[i] && now.Before(r.next) {
			continue
		}
		repair = append(repair, slot)
	}
	p.suspects, p.last = suspects, m.Last
	return different, repair
}

// repairDone notes that the peer was given all of the slots as they were
// under the digests own; wait is the first wait before the same again. What
// differs from now on may be on its way since then: the rounds are counted anew.
func (p *proof) repairDone(now time.Time, own map[uint32]Digest, wait time.Duration) {
	for slot := range own {
		delete(p.suspects, slot)
	}
	if p.repaired == nil {
		p.repaired = make(map[uint32]repairedSlot)
	}
	for slot, d := range own {
		r := repairedSlot{own: d, wait: wait}
		if before, ok := p.repaired[slot]; ok && before.own == d {
			r.wait = min(2*before.wait, repairWaitMax)
		}
		r.next = now.Add(r.wait)
		p.repaired[slot] = r
	}
}

// provenAt is the latest time such that every slot was seen equal then or
// later; zero while one never was.
func (p *proof) provenAt() time.Time {
	if len(p.equalAt) == 0 {
		return time.Time{}
	}
	return slices.MinFunc(p.equalAt, time.Time.Compare)
}

// prove makes one comparison of all slots of the log.
func prove(ctx context.Context, log Log, tr Transport, timeout time.Duration) Proved {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	lo, hi := log.Slots()
	m := Proved{SlotLo: lo}
	if m.Before, m.Err = digests(ctx, log, lo, hi); m.Err != nil {
		m.Err = fmt.Errorf("read own digests of slots %d to %d: %w", lo, hi, m.Err)
		return m
	}
	m.Last = log.LastSeq()
	if m.Peer, m.Err = digests(ctx, tr, lo, hi); m.Err != nil {
		m.Err = fmt.Errorf("read the peer's digests of slots %d to %d: %w", lo, hi, m.Err)
		return m
	}
	if m.After, m.Err = digests(ctx, log, lo, hi); m.Err != nil {
		m.Err = fmt.Errorf("read own digests of slots %d to %d: %w", lo, hi, m.Err)
	}
	return m
}

// digester is a side of a comparison: Log or Transport.
type digester interface {
	Digests(ctx context.Context, lo, hi uint32) ([]Digest, error)
	Bucket(ctx context.Context, slot uint32, after string, limit int) ([]CartDigest, bool, error)
}

func digests(ctx context.Context, d digester, lo, hi uint32) ([]Digest, error) {
	out, err := d.Digests(ctx, lo, hi)
	if err == nil && len(out) != int(hi-lo) {
		err = fmt.Errorf("got %d digests for %d slots", len(out), hi-lo)
	}
	return out, err
}
