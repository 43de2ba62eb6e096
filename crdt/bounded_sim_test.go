package crdt_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/samecart/samecart/crdt"
)

var (
	limitSeeds = flag.Int("limit-seeds", 250, "seeds of TestLimitUnderPartition; 1,000 take six seconds of a core")
	limitFrom  = flag.Uint64("limit-from", 1, "the first of them")
)

// A code with 100 uses in regions whose links are cut and healed, whose rows are lost,
// late, doubled and out of order, which are fenced, come back under another incarnation,
// and lose what they had not sent: 10,000 tries to use it. At every moment no more than
// 100 were told that they won, and no member knows of more; and once all is healed at
// least 95 are used.
func TestLimitUnderPartition(t *testing.T) {
	t.Parallel()
	var worst, total, fences, reclaimed uint64 = 100, 0, 0, 0
	for seed := *limitFrom; seed < *limitFrom+uint64(*limitSeeds); seed++ {
		s := newLimitSim(seed)
		if err := s.run(); err != nil {
			t.Fatalf("seed %d, step %d: %v (go test ./crdt -run TestLimitUnderPartition -limit-from %d -limit-seeds 1)", seed, s.step, err, seed)
		}
		worst, total = min(worst, s.wins), total+s.wins
		fences, reclaimed = fences+s.fences, reclaimed+s.reclaimed
	}
	n := uint64(*limitSeeds)
	t.Logf("%d seeds: %d who were told that they won at least, %.2f on average; %.1f fences and %.1f rights taken over a seed",
		n, worst, float64(total)/float64(n), float64(fences)/float64(n), float64(reclaimed)/float64(n))
	if fences < n || reclaimed < n {
		t.Errorf("%d fences and %d rights taken over in %d seeds: too little happens", fences, reclaimed, n)
	}
}

const (
	simLimit = 100
	simTries = 10_000
)

// limitSim is some regions that hold one counter, and what is between them.
type limitSim struct {
	rng     *rand.Rand
	regions []*limitRegion
	docs    []limitDoc // by epoch
	cut     [][]bool
	wire    []limitMessage
	loss    int // of a hundred messages

	step, wins, fences, reclaimed, limit uint64

	rises, healed bool
	pace          int // steps between two faults
	views         []crdt.Regions
	// strayed are uses of which nobody was told before their region was gone.
	strayed []crdt.Share
}

// limitDoc is one epoch's membership.
type limitDoc []limitState

type limitState struct {
	incarnation uint32
	state       byte // 'a' active, 'j' joining, 'f' fenced
}

type limitRegion struct {
	id      int
	as      crdt.Holder
	epoch   int // of the document that it goes by
	counter crdt.Bounded
	dirty   bool     // changed since it was checked
	acked   []uint64 // by peer: its row that they have
	filled  []bool   // by peer, while it joins
	waiting []uint64 // seqs of rows in which it spent, and has told nobody yet
}

// limitMessage is a row, or a whole counter, or an acknowledgement.
type limitMessage struct {
	at       uint64
	from, to int
	as       crdt.Holder // who sent it
	epoch    int         // its document
	row      bool
	holder   crdt.Holder // whose row
	seq      uint64
	value    crdt.RightsRow
	whole    *crdt.Bounded
	ack      uint64
}

func newLimitSim(seed uint64) *limitSim {
	s := &limitSim{rng: rand.New(rand.NewPCG(seed, 0x6c696d6974))}
	n := 3
	if seed%10 == 0 {
		n = 5
	}
	s.loss = s.rng.IntN(40)
	first := make(limitDoc, n)
	for i := range n {
		first[i] = limitState{1, 'a'}
		s.regions = append(s.regions, &limitRegion{
			id: i, as: crdt.Holder{Region: crdt.RegionID(i + 1), Incarnation: 1}, acked: make([]uint64, n), filled: make([]bool, n),
		})
		s.cut = append(s.cut, make([]bool, n))
	}
	s.rises, s.pace = seed%2 == 0, 4+s.rng.IntN(20)
	s.follow(first)
	return s
}

func (s *limitSim) run() error {
	for try := range simTries {
		s.step++
		switch {
		case try == simTries*3/4:
			s.heal()
			s.raise(simLimit)
		case try == 0 && !s.rises:
			s.raise(simLimit)
		case try%300 == 0 && s.rises:
			s.raise(s.limit + simLimit/25) // so that there are rights to be had for long
		}
		s.deliver()
		if !s.healed && s.rng.IntN(s.pace) == 0 {
			s.fault()
		}
		if s.rng.IntN(3) == 0 {
			s.background()
		}
		// Shoppers come to one region more than to others.
		s.try(s.regions[min(s.rng.IntN(len(s.regions)), s.rng.IntN(len(s.regions)))])
		if err := s.check(); err != nil {
			return err
		}
	}
	for _, r := range s.regions {
		if used := r.counter.Used(); used < 95 || s.wins > used {
			return fmt.Errorf("region %v knows of %d of %d uses, and %d have won; want 95 at least", r.as, used, simLimit, s.wins)
		}
	}
	return nil
}

// raise has the first region that takes requests raise the limit.
func (s *limitSim) raise(to uint64) {
	s.limit = min(to, simLimit)
	for i, m := range s.docs[len(s.docs)-1] {
		if r := s.regions[i]; m.state == 'a' && r.as.Incarnation == m.incarnation {
			row, _ := r.counter.Row(r.as)
			row.Limit = s.limit
			s.write(r, row)
			return
		}
	}
}

func (s *limitSim) follow(d limitDoc) {
	s.views = append(s.views, regionsOf(len(s.docs), d))
	s.docs = append(s.docs, d)
}

func (s *limitSim) heal() {
	s.healed = true
	for _, row := range s.cut {
		clear(row)
	}
}

func (s *limitSim) fault() {
	n := len(s.regions)
	a, b := s.rng.IntN(n), s.rng.IntN(n)
	switch s.rng.IntN(12) {
	case 0, 1, 2, 3:
		s.cut[a][b] = true // one way
		if s.rng.IntN(3) > 0 {
			s.cut[b][a] = true
		}
	case 4, 5, 6, 7:
		s.cut[a][b], s.cut[b][a] = false, false
	case 8:
		for i := range n { // alone
			s.cut[a][i], s.cut[i][a] = true, true
		}
	case 9:
		s.fence(a, b)
	default: // a region forgets who has what, as with a new leader
		clear(s.regions[a].acked)
	}
}

// doc is what a region knows of the membership.
func (s *limitSim) doc(r *limitRegion) limitDoc { return s.docs[r.epoch] }

// decide has a document follow the newest one, if a majority of its voters reaches the
// one that proposes.
func (s *limitSim) decide(by int, change func(limitDoc)) bool {
	epoch := len(s.docs) - 1
	votes, voters := 0, 0
	for i, m := range s.docs[epoch] {
		if m.state == 'a' {
			voters++
			if !s.cut[by][i] && !s.cut[i][by] {
				votes++
			}
		}
	}
	if votes <= voters/2 {
		return false
	}
	for _, r := range s.regions {
		if !s.cut[by][r.id] && !s.cut[r.id][by] && s.docs[epoch][r.id].state == 'a' {
			s.hear(r, epoch) // nobody votes on what follows a document that it has not
		}
	}
	next := slices.Clone(s.docs[epoch])
	change(next)
	s.follow(next)
	return true
}

func (s *limitSim) fence(by, whom int) {
	// Fewer than half may be away at a time, and of two nobody fences the other.
	active := 0
	for _, m := range s.docs[len(s.docs)-1] {
		if m.state == 'a' {
			active++
		}
	}
	if by == whom || active <= len(s.regions)/2+1 || s.docs[len(s.docs)-1][by].state != 'a' || s.docs[len(s.docs)-1][whom].state != 'a' {
		return
	}
	if s.decide(by, func(d limitDoc) { d[whom].state = 'f' }) {
		s.fences++
		s.hear(s.regions[by], len(s.docs)-1)
	}
}

func (s *limitSim) hear(r *limitRegion, epoch int) { r.epoch = max(r.epoch, epoch) }

func regionsOf(epoch int, d limitDoc) crdt.Regions {
	out := crdt.Regions{Epoch: uint64(epoch + 1), Count: len(d)}
	for i, m := range d {
		if m.state != 'f' {
			h := crdt.Holder{Region: crdt.RegionID(i + 1), Incarnation: m.incarnation}
			out.Members = append(out.Members, crdt.RegionMember{Holder: h, Votes: m.state == 'a', Active: m.state == 'a'})
		}
	}
	return out
}

func (s *limitSim) view(r *limitRegion) crdt.Regions { return s.views[r.epoch] }

// write makes a region's next row and sends it to all.
func (s *limitSim) write(r *limitRegion, row crdt.RightsRow) (seq uint64) {
	_, seq = r.counter.Row(r.as)
	seq++
	r.counter, r.dirty = r.counter.With(r.as, seq, row), true
	for _, to := range s.regions {
		if to != r {
			s.send(r, to.id, limitMessage{row: true, holder: r.as, seq: seq, value: row})
		}
	}
	return seq
}

func (s *limitSim) send(r *limitRegion, to int, m limitMessage) {
	m.from, m.to, m.as, m.epoch = r.id, to, r.as, r.epoch
	for again := true; again; again = s.rng.IntN(20) == 0 {
		if s.rng.IntN(100) < s.loss && !s.healed {
			continue
		}
		m.at = s.step + uint64(s.rng.IntN(1+s.rng.IntN(30)))
		s.wire = append(s.wire, m)
	}
}

func (s *limitSim) deliver() {
	var due []limitMessage
	if len(s.wire) == 0 {
		return
	}
	s.wire = slices.DeleteFunc(s.wire, func(m limitMessage) bool {
		if m.at > s.step {
			return false
		}
		due = append(due, m)
		return true
	})
	s.rng.Shuffle(len(due), func(i, j int) { due[i], due[j] = due[j], due[i] })
	for _, m := range due {
		if !s.cut[m.from][m.to] {
			s.take(s.regions[m.to], m)
		}
	}
}

func isGone(d limitDoc, h crdt.Holder) bool {
	m := d[h.Region-1]
	return m.state == 'f' || m.incarnation != h.Incarnation
}

func (s *limitSim) take(r *limitRegion, m limitMessage) {
	d := s.doc(r)
	of := d[r.id]
	switch {
	case m.ack > 0:
		if m.holder == r.as {
			r.acked[m.from] = max(r.acked[m.from], m.ack)
		}
		return
	case isGone(d, m.as), m.row && isGone(d, m.holder), of.state == 'f', of.incarnation != r.as.Incarnation:
		return
	case m.row:
		r.counter, r.dirty = r.counter.With(m.holder, m.seq, m.value), true
	default:
		r.counter, r.dirty = r.counter.Join(*m.whole), true
		if of.state == 'j' && m.epoch >= r.epoch {
			r.filled[m.from] = true
		}
	}
	if of.state == 'a' {
		// It has all of the sender's rows up to the one that it has.
		if _, seq := r.counter.Row(m.as); seq > 0 {
			s.send(r, m.from, limitMessage{holder: m.as, ack: seq})
		}
	}
}

// background is what regions do by themselves.
func (s *limitSim) background() {
	r := s.regions[s.rng.IntN(len(s.regions))]
	other := s.regions[s.rng.IntN(len(s.regions))]
	if other == r || s.cut[r.id][other.id] || s.cut[other.id][r.id] {
		return
	}
	// Documents are exchanged, and counters compared.
	s.hear(r, other.epoch)
	s.membership(r, other)
	d := s.doc(r)
	if isGone(d, r.as) {
		return
	}
	whole := r.counter
	s.send(r, other.id, limitMessage{whole: &whole})
	view := s.view(r)
	if row, ok := r.counter.Tend(r.as, view); ok {
		before, _ := r.counter.Row(r.as)
		for i, share := range row.Reclaimed {
			s.reclaimed += share.N
			if i < len(before.Reclaimed) {
				s.reclaimed -= before.Reclaimed[i].N
			}
		}
		s.write(r, row)
	}
	if d[r.id].state == 'a' {
		for _, t := range r.counter.Balance(r.as, view) {
			if row, ok := r.counter.Send(r.as, t.To, t.N); ok {
				s.write(r, row)
			}
		}
	}
}

// membership takes a fenced region back in.
func (s *limitSim) membership(r, other *limitRegion) {
	if r.epoch != len(s.docs)-1 {
		return
	}
	switch d := s.doc(r); d[r.id].state {
	case 'f':
		if s.healed || s.rng.IntN(3) == 0 {
			if !s.decide(other.id, func(d limitDoc) { d[r.id] = limitState{d[r.id].incarnation + 1, 'j'} }) {
				return
			}
			s.hear(r, len(s.docs)-1)
		}
	case 'j':
		if as := d[r.id].incarnation; r.as.Incarnation != as { // it begins again
			for _, seq := range r.waiting {
				s.strayed = append(s.strayed, crdt.Share{Holder: r.as, N: seq})
			}
			r.as.Incarnation, r.counter, r.waiting = as, crdt.Bounded{}, nil
			clear(r.acked)
			clear(r.filled)
		}
		for i, m := range d {
			if i != r.id && m.state == 'a' && !r.filled[i] {
				return
			}
		}
		if s.decide(other.id, func(d limitDoc) { d[r.id].state = 'a' }) {
			s.hear(r, len(s.docs)-1)
		}
	}
}

// try is one shopper's, and all who wait to be told.
func (s *limitSim) try(r *limitRegion) {
	d := s.doc(r)
	if d[r.id].state != 'a' || d[r.id].incarnation != r.as.Incarnation {
		return
	}
	s.askElsewhere(r)
	if row, ok := r.counter.Spend(r.as, 1); ok {
		r.waiting = append(r.waiting, s.write(r, row))
	} else if row, ok := r.counter.Ask(r.as); ok && r.counter.Left() > 0 {
		s.write(r, row)
	}
	if len(r.waiting) == 0 {
		return
	}
	acked := slices.Clone(r.acked)
	for i, m := range d {
		if i != r.id && m.state != 'a' {
			acked[i] = 0
		}
	}
	acked[r.id] = ^uint64(0)
	slices.Sort(acked)
	majority := acked[len(acked)-s.view(r).Majority()]
	r.waiting = slices.DeleteFunc(r.waiting, func(seq uint64) bool {
		if seq > majority {
			return false
		}
		s.wins++
		return true
	})
}

// askElsewhere has those who wait in other regions, or whose region is gone, ask again
// in this one, with the same keys: it may have heard of what they did. Of more than
// three regions, two are no majority that may say so.
func (s *limitSim) askElsewhere(r *limitRegion) {
	if len(s.regions) > 3 {
		return
	}
	known := func(h crdt.Holder, seq uint64) bool {
		_, newest := r.counter.Row(h)
		if newest >= seq {
			s.wins++
		}
		return newest >= seq
	}
	s.strayed = slices.DeleteFunc(s.strayed, func(u crdt.Share) bool { return known(u.Holder, u.N) })
	if other := s.regions[s.rng.IntN(len(s.regions))]; other != r {
		other.waiting = slices.DeleteFunc(other.waiting, func(seq uint64) bool { return known(other.as, seq) })
	}
}

func (s *limitSim) check() error {
	if s.wins > s.limit {
		return fmt.Errorf("%d have won a code of %d uses", s.wins, s.limit)
	}
	newest := s.docs[len(s.docs)-1]
	for _, r := range s.regions {
		if !r.dirty || isGone(newest, r.as) {
			continue // nobody believes it any more
		}
		r.dirty = false
		if used, granted := r.counter.Used(), r.counter.Granted(); used > s.limit || granted > s.limit {
			return fmt.Errorf("region %v knows of %d uses of %d granted", r.as, used, granted)
		}
		row, _ := r.counter.Row(r.as)
		out := row.Used
		for _, share := range row.Sent {
			out += share.N
		}
		if gained := r.counter.Gained(r.as); out > gained {
			return fmt.Errorf("region %v has spent and sent %d of %d", r.as, out, gained)
		}
	}
	return nil
}
