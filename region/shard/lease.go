package shard

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/store"
)

// LeaseTime is how long a region may use rights after a majority of the regions, itself
// included, was last heard from. What it uses without them it could tell nobody of.
const LeaseTime = 10 * time.Second

// contact is what the leader of a shard knows of the other regions.
type contact struct {
	mu    sync.Mutex // guards what follows
	heard map[crdt.RegionID]time.Time
	// acked is the newest row of the stream that a region has.
	acked  map[crdt.RegionID]uint64
	stream crdt.Stream
	moved  chan struct{} // closed and replaced when acked grows
	// waited is the newest row that a majority was waited for to have, and since
	// when nothing was heard of such rows.
	waited uint64
	since  time.Time
}

// Heard says that another region answered a call that was made at the given time.
func (s *Shard) Heard(region crdt.RegionID, at time.Time) {
	c := &s.contact
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.heard == nil {
		c.heard = make(map[crdt.RegionID]time.Time)
	}
	if at.After(c.heard[region]) {
		c.heard[region] = at
	}
}

// AckedBy says that a region has the rows of a stream up to seq. What is said of a
// stream that the shard does not write is ignored.
func (s *Shard) AckedBy(stream crdt.Stream, region crdt.RegionID, seq uint64) {
	if stream != s.Stream() {
		return
	}
	c := &s.contact
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.acked == nil || c.stream != stream {
		c.acked, c.stream, c.waited = make(map[crdt.RegionID]uint64), stream, 0
	}
	if seq > c.acked[region] {
		c.acked[region], c.since = seq, time.Now()
		if c.moved != nil {
			close(c.moved)
			c.moved = nil
		}
	}
}

// majority returns the best value that a majority of the regions reaches, this one
// included, which has any; of says what another one reaches. ok is false when too
// few vote.
func majority[V any](r crdt.Regions, self crdt.Holder, of func(crdt.RegionID) V, better func(a, b V) int) (least V, alone, ok bool) {
	var others []V
	for _, m := range r.Members {
		if m.Votes && m.Holder != self {
			others = append(others, of(m.Holder.Region))
		}
	}
	slices.SortFunc(others, better)
	need := r.Majority() - 1
	switch {
	case need == 0:
		return least, true, true
	case need > len(others):
		return least, false, false
	}
	return others[need-1], false, true
}

// lease is how long this region may still use rights if it hears from nobody.
func (s *Shard) lease() (left time.Duration, ok bool) {
	r, ok := regionsOf(s.Membership())
	if !ok {
		return 0, false
	}
	c := &s.contact
	c.mu.Lock()
	defer c.mu.Unlock()
	heard, alone, ok := majority(r, s.holder(), func(id crdt.RegionID) time.Time { return c.heard[id] }, func(a, b time.Time) int { return b.Compare(a) })
	left = LeaseTime
	if !alone {
		left -= time.Since(heard) // a machine's clock may be set meanwhile: this one is not
	}
	return left, ok && left > 0
}

func (s *Shard) holder() crdt.Holder {
	m := s.fsm.marker()
	return crdt.Holder{Region: m.Region, Incarnation: m.Incarnation}
}

// known returns whether a majority of the regions has the rows up to seq, and a
// channel that is closed when one has more.
func (s *Shard) known(seq uint64) (bool, <-chan struct{}) {
	r, ok := regionsOf(s.Membership())
	stream := s.Stream()
	c := &s.contact
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.moved == nil {
		c.moved = make(chan struct{})
	}
	if !ok {
		return false, c.moved
	}
	acked, alone, ok := majority(r, s.holder(), func(id crdt.RegionID) uint64 {
		if c.stream != stream {
			return 0
		}
		return c.acked[id]
	}, func(a, b uint64) int { return cmp.Compare(b, a) })
	return ok && (alone || acked >= seq), c.moved
}

// stallAfter is how long the other regions may say nothing of rows that are waited for,
// before this one uses no more rights: what it uses then, nobody may ever be told of.
const stallAfter = time.Second

// stalled reports whether that is so.
func (s *Shard) stalled() bool {
	c := &s.contact
	c.mu.Lock()
	waited, since := c.waited, c.since
	c.mu.Unlock()
	if waited == 0 || time.Since(since) < stallAfter {
		return false
	}
	known, _ := s.known(waited)
	return !known
}

// waits notes that a majority is waited for to have a row.
func (s *Shard) waits(seq uint64) {
	c := &s.contact
	c.mu.Lock()
	waited := c.waited
	c.mu.Unlock()
	before, _ := s.known(waited)
	c.mu.Lock()
	defer c.mu.Unlock()
	if before {
		c.since = time.Now()
	}
	if stream := s.Stream(); c.stream != stream {
		c.acked, c.stream, c.waited = make(map[crdt.RegionID]uint64), stream, 0
	}
	c.waited = max(c.waited, seq)
}

// recheck bounds how long a change of the membership goes unnoticed by who waits.
const recheck = 200 * time.Millisecond

// proposeSpend uses a right under the region's lease, and returns once a majority of
// the regions knows. Until then nobody is told: what a region alone has spent goes to
// others when it is fenced.
func (s *Shard) proposeSpend(ctx context.Context, spend *regionv1.Spend) (*regionv1.Outcome, error) {
	if !s.Leads() || s.draining.Load() {
		return nil, s.notLeader()
	}
	if m := s.Membership(); !m.TakesEdits(uint32(s.cfg.Region)) {
		return nil, fmt.Errorf("%w: epoch %d", ErrFenced, m.GetEpoch())
	}
	left, ok := s.lease()
	if !ok || s.stalled() {
		return nil, fmt.Errorf("%w: shard %d", ErrNoRegionMajority, s.cfg.ID)
	}
	out, err := s.commit(ctx, &regionv1.Command{Command: &regionv1.Command_Spend{Spend: &regionv1.Spend{
		Code: spend.Code, Customer: spend.Customer, OpId: spend.OpId, Fingerprint: spend.Fingerprint, UntilMs: s.cfg.Clock().Add(left).UnixMilli(),
	}}})
	if err != nil || out.Code != regionv1.Outcome_CODE_OK {
		return out, err
	}
	if out.Seq == 0 {
		// Another region's row says so: two have it, which of up to three is a majority.
		if r, _ := regionsOf(s.Membership()); r.Majority() > 2 {
			return nil, fmt.Errorf("%w: another region used the code for this request, ask there", ErrOutcomeUnknown)
		}
		return out, nil
	}
	s.waits(out.Seq)
	timer := time.NewTicker(recheck)
	defer timer.Stop()
	for {
		ok, moved := s.known(out.Seq)
		if ok {
			return out, nil
		}
		select {
		case <-moved:
		case <-timer.C:
		case <-s.stopped:
			return nil, fmt.Errorf("%w: the node ends", ErrOutcomeUnknown)
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: no majority of the regions has it yet: %w", ErrOutcomeUnknown, ctx.Err())
		}
	}
}

// --- what a leader does with rights by itself ---

// tending is which counters are to be looked at.
type tending struct {
	mu      sync.Mutex // guards what follows
	leading bool
	changed map[string]struct{}
	any     bool // there is a counter
	wake    chan struct{}
}

// touch notes that a counter changed.
func (t *tending) touch(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.leading {
		return // who comes to lead looks at all
	}
	t.any = true
	t.changed[id] = struct{}{}
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *tending) lead(on bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leading, t.any, t.changed = on, false, make(map[string]struct{})
}

// take returns some of the counters that changed, the codes' first.
func (t *tending) take() (ids []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ids = slices.SortedFunc(maps.Keys(t.changed), func(a, b string) int {
		if a, b := strings.Count(a, "/"), strings.Count(b, "/"); a != b {
			return min(a, 1) - min(b, 1)
		}
		return strings.Compare(a, b)
	})
	ids = ids[:min(len(ids), tendMax)]
	for _, id := range ids {
		delete(t.changed, id)
	}
	return ids
}

// HasLimits reports whether a shard that is led here has a counter.
func (s *Shard) HasLimits() bool {
	s.tending.mu.Lock()
	defer s.tending.mu.Unlock()
	return s.tending.any
}

// Rights are tended tendPause after what changed, so that what changes at once is
// looked at once; and tendMax counters at a time.
const (
	tendPause = 20 * time.Millisecond
	tendEvery = time.Second
	tendMax   = 256
)

// tend seals, takes over, grants and gives rights while this node leads, as
// crdt.Bounded says, until ctx ends.
func (s *Shard) tend(ctx context.Context) {
	s.tending.lead(true)
	defer s.tending.lead(false)
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	looked := false
	var epoch uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		if now := s.Membership().GetEpoch(); !looked || now != epoch {
			if err := s.eachLimit(s.tending.touch); err != nil {
				s.log.Warn("limits not read", slog.Any("err", err))
			} else {
				looked, epoch = true, now
			}
		}
		ids := s.tending.take()
		for _, id := range ids {
			if err := s.tendOne(ctx, id); err != nil && ctx.Err() == nil {
				s.log.Debug("limit not tended", slog.String("cart", id), slog.Any("err", err))
				s.tending.touch(id)
			}
		}
		pause.Reset(tendPause)
		if len(ids) == tendMax {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-s.tending.wake:
		case <-tick.C:
		}
	}
}

// eachLimit goes through the ids of all counters: those after LimitPrefix, of each
// slot.
func (s *Shard) eachLimit(do func(id string)) error {
	lo, hi := s.SlotRange()
	for slot := lo; slot < hi; slot++ {
		for after, more := crdt.LimitPrefix, true; more; {
			carts, rest, err := s.Bucket(slot, after, tendMax)
			if err != nil {
				return err
			}
			more = rest
			for _, c := range carts {
				if after = c.CartID; !crdt.IsLimit(after) {
					more = false
					break
				}
				do(after)
			}
		}
	}
	return nil
}

func (s *Shard) tendOne(ctx context.Context, id string) error {
	regions, ok := regionsOf(s.Membership())
	b, err := s.bounded(id)
	if err != nil || !ok {
		return err
	}
	self := s.holder()
	_, ofCustomer := codeOf(id)
	if _, changed := b.Tend(self, regions); changed && (!ofCustomer || isStuck(b, regions)) {
		err := s.order(ctx, &regionv1.Command{Command: &regionv1.Command_TendRights{TendRights: &regionv1.TendRights{CartId: id}}})
		if err != nil {
			return err
		}
		if b, err = s.bounded(id); err != nil {
			return err
		}
	}
	if regions.IsGone(self) {
		return nil
	}
	for _, t := range b.Balance(self, regions) {
		err := s.order(ctx, &regionv1.Command{Command: &regionv1.Command_MoveRights{MoveRights: &regionv1.MoveRights{
			CartId: id, RegionId: uint32(t.To.Region), Incarnation: t.To.Incarnation, N: t.N,
		}}})
		if err != nil {
			return err
		}
	}
	return nil
}

// isStuck reports whether somebody asks for rights, and somebody who is gone has some:
// a customer's counter is not written to before.
func isStuck(b crdt.Bounded, r crdt.Regions) bool {
	wanted, gone := false, false
	for _, h := range b.Holders() {
		if r.IsGone(h) {
			gone = gone || b.Rights(h) > 0
		} else {
			wanted = wanted || b.Wants(h)
		}
	}
	return wanted && gone
}

func (s *Shard) order(ctx context.Context, cmd *regionv1.Command) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := s.Propose(ctx, cmd)
	return err
}

// bounded is a counter as it is committed here.
func (s *Shard) bounded(id string) (b crdt.Bounded, err error) {
	read := func(id string) (b crdt.Bounded, err error) {
		var r *store.Record
		if r, err = s.fsm.peek(id); err == nil {
			b = stateOf(r).Cart.Bounded()
		}
		return b, err
	}
	if b, err = read(id); err != nil {
		return b, err
	}
	code, ofCustomer := codeOf(id)
	if !ofCustomer {
		return b, nil
	}
	of, err := read(crdt.LimitID(code, ""))
	return withHome(b, of, id), err
}
