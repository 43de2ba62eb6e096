package shard

import (
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/samecart/samecart/crdt"
	membershipv1 "github.com/samecart/samecart/proto/membership/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/store"
)

// formatLevel is the newest entry format this binary applies.
const formatLevel = 1

// fsm applies a shard's log to its space. Raft calls Apply, Snapshot and
// Restore from one goroutine; the other methods may come from any.
//
//	F1  Apply is deterministic: it sees the entry and the space, no clock, no
//	    cache, no map order, no local setting.
//	F2  A record is published to readers after the transaction that holds it.
//	F3  An error in Apply or Restore ends the node: the library would go on
//	    with a state that misses an acknowledged write.
type fsm struct {
	slots *Slots
	fatal func(error)
	stats func(Applied)
	// reborn is told the incarnation that the shard goes on under.
	reborn func(incarnation uint32)
	steps  store.Steps

	mu      sync.RWMutex // guards space: Restore replaces it
	space   *store.Space
	changed chan struct{} // closed and replaced at each commit that appended a row
	marked  chan struct{} // closed and replaced at each commit that marked a guest's cart
	head    store.Marker  // as of the last commit

	sweep chan struct{} // holds a token while older generations may be there

	carts *carts
	watch *watchers
	// publish is called for every record committed, with its bytes, in order
	// of a cart's versions, while readers already see it.
	publish func(id string, r *store.Record, encoded []byte)

	members atomic.Pointer[membershipv1.Membership] // as of the last commit; nil: none yet
}

// Applied says what one transaction did.
type Applied struct {
	Entries, Commands int
	Index             uint64
	// Expired is what was taken out of carts because it was due.
	Expired []Expired
	// Leads: the node leads the shard, so of all nodes it is the one to tell.
	Leads bool
}

func newFSM(space *store.Space, slots *Slots, cacheBytes int64, publish func(string, *store.Record, []byte), stats func(Applied), reborn func(uint32), fatal func(error)) (*fsm, error) {
	f := &fsm{
		slots: slots, fatal: fatal, stats: stats, reborn: reborn, space: space, publish: publish,
		changed: make(chan struct{}), marked: make(chan struct{}), head: space.Marker(), sweep: make(chan struct{}, 1),
		carts: newCarts(cacheBytes), watch: newWatchers(),
	}
	f.sweep <- struct{}{}
	members, err := loadMembership(space)
	f.members.Store(members)
	return f, err
}

var _ raft.BatchingFSM = (*fsm)(nil)

// answer is what Apply returns for one entry: an outcome for each command.
type answer []*regionv1.Outcome

// Apply implements raft.FSM.
func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch applies entries in as few transactions as they fit in; a
// transaction ends between two commands. It returns one answer an entry, nil
// for those that were applied before or are no commands.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	answers := make([]any, len(logs))
	b := batch{fsm: f, tx: f.current().Begin(), members: f.members.Load()}
	for i, l := range logs {
		a, err := b.entry(l)
		if err == nil && b.tx.Full() {
			err = b.flush()
		}
		if err != nil {
			b.tx.Discard()
			f.fatal(fmt.Errorf("apply index %d: %w", l.Index, err))
			panic(err) // F3; fatal has ended the node, nothing may follow
		}
		if a != nil {
			answers[i] = a
		}
	}
	if err := b.commit(); err != nil {
		f.fatal(err)
		panic(err) // F3
	}
	return answers
}

func (f *fsm) current() *store.Space {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.space
}

// read runs view on the current space. A space that is replaced meanwhile is
// swept, so what was seen in it may be incomplete: view is run again.
func (f *fsm) read(view func(*store.Space) error) error {
	for {
		sp := f.current()
		err := view(sp)
		if sp == f.current() {
			return err
		}
	}
}

// batch is one call of ApplyBatch.
type batch struct {
	fsm      *fsm
	tx       *store.Tx
	entries  int
	commands int
	members  *membershipv1.Membership // with what is not committed yet
	expired  []Expired                // by what is not committed yet
}

func (b *batch) entry(l *raft.Log) (answer, error) {
	m := b.tx.Marker()
	if l.Index <= m.Applied {
		return nil, nil
	}
	if l.Type != raft.LogCommand {
		m.Applied = l.Index
		return nil, nil
	}
	var e regionv1.Entry
	if err := unmarshal(l.Data, &e); err != nil {
		return nil, fmt.Errorf("decode entry: %w", err)
	}
	if e.Level > formatLevel {
		return nil, fmt.Errorf("entry of format level %d; this binary applies up to %d: install the newer one", e.Level, formatLevel)
	}
	skip := 0
	if m.Partial == l.Index {
		skip = int(m.Done)
	}
	out := make(answer, len(e.Commands))
	for i := skip; i < len(e.Commands); i++ {
		w := &workspace{
			tx: b.tx, slots: b.fsm.slots, lookup: b.fsm.carts.get,
			index: l.Index, limits: e.Limits, at: crdt.Timestamp(e.At), members: b.members, expired: &b.expired,
		}
		o, err := b.command(w, e.Commands[i], i)
		if err != nil {
			return nil, err
		}
		out[i] = o
		m = b.tx.Marker()
		m.Partial, m.Done = l.Index, uint32(i+1)
		b.commands++
		if b.tx.Full() && i+1 < len(e.Commands) {
			if err := b.flush(); err != nil {
				return nil, err
			}
		}
	}
	b.mark(&workspace{index: l.Index, limits: e.Limits, at: crdt.Timestamp(e.At)})
	m = b.tx.Marker()
	m.Applied, m.Partial, m.Done = l.Index, 0, 0
	b.entries++
	return out, nil
}

// command applies a command; place is its place in its entry.
func (b *batch) command(w *workspace, c *regionv1.Command, place int) (*regionv1.Outcome, error) {
	flush := func() error {
		err := b.flush()
		w.tx = b.tx
		return err
	}
	switch c := c.Command.(type) {
	case *regionv1.Command_Edit:
		return w.edit(c.Edit)
	case *regionv1.Command_JoinRows:
		return w.joinRows(c.JoinRows, flush)
	case *regionv1.Command_JoinCart:
		return w.joinCart(c.JoinCart, flush)
	case *regionv1.Command_MoveCursor:
		st := crdt.Stream{Region: crdt.RegionID(c.MoveCursor.RegionId), Incarnation: c.MoveCursor.Incarnation, Shard: c.MoveCursor.OriginShard}
		cur, err := w.tx.Cursor(st)
		if err != nil {
			return nil, err
		}
		if c.MoveCursor.Cursor > cur {
			cur = c.MoveCursor.Cursor
			w.tx.SetCursor(st, cur)
		}
		return &regionv1.Outcome{Cursor: cur, Index: w.index}, nil
	case *regionv1.Command_TrimLog:
		w.tx.Trim(c.TrimLog.Seq, trimMax)
		return &regionv1.Outcome{Index: w.index}, nil
	case *regionv1.Command_ExpireOps:
		if err := w.forgetRemoved(c.ExpireOps.GetUndone()); err != nil {
			return nil, err
		}
		return &regionv1.Outcome{Index: w.index}, w.tx.ExpireOps(w.opHorizon(), int(c.ExpireOps.Limit))
	case *regionv1.Command_Init:
		if m := w.tx.Marker(); m.Region == 0 {
			m.Region, m.Incarnation = crdt.RegionID(c.Init.RegionId), c.Init.Incarnation
		}
		return &regionv1.Outcome{Index: w.index}, nil
	case *regionv1.Command_SetMembership:
		out, err := w.setMembership(c.SetMembership.GetMembership())
		b.members = w.members
		return out, err
	case *regionv1.Command_Prepare:
		return w.vote(func(a *membershipv1.Acceptor) *membershipv1.Vote { return a.Prepare(w.members, c.Prepare) })
	case *regionv1.Command_Accept:
		return w.vote(func(a *membershipv1.Acceptor) *membershipv1.Vote { return a.Accept(w.members, c.Accept) })
	case *regionv1.Command_Reincarnate:
		return b.reincarnate(w, c.Reincarnate, place)
	case *regionv1.Command_Collect:
		return w.collect(c.Collect, flush)
	case *regionv1.Command_Scrub:
		return w.scrub(c.Scrub)
	case *regionv1.Command_Expire:
		return w.expire(c.Expire, place, flush)
	case *regionv1.Command_Reissue:
		return w.reissue(c.Reissue.GetTo(), flush)
	case *regionv1.Command_CloseGuest:
		return w.closeGuest(c.CloseGuest)
	case *regionv1.Command_JoinGuest:
		return w.joinGuest(c.JoinGuest)
	case *regionv1.Command_GuestForwarded:
		return w.guestForwarded(c.GuestForwarded)
	case *regionv1.Command_Spend:
		return w.spend(c.Spend)
	case *regionv1.Command_MoveRights:
		return w.moveRights(c.MoveRights)
	case *regionv1.Command_TendRights:
		return w.tendRights(c.TendRights)
	}
	return nil, fmt.Errorf("command of unknown kind %T: install the newer binary", c.Command)
}

// trimMax and expireMax bound what one command deletes: in rows, and in
// requests, which are two keys each. It must fit the smallest transaction
// beside what is in it already (see store.Tx.Full).
const (
	trimMax   = 500
	expireMax = 250
	undoneMax = 100
)

// flush commits and begins again.
func (b *batch) flush() error {
	if err := b.commit(); err != nil {
		return err
	}
	b.tx = b.fsm.current().Begin()
	return nil
}

func (b *batch) commit() error {
	f := b.fsm
	marker, marked := *b.tx.Marker(), b.tx.Marked()
	type published struct {
		id      string
		r       *store.Record
		encoded []byte
	}
	var records []published
	if err := b.tx.Commit(func(id string, r *store.Record, encoded []byte) {
		if r == nil {
			f.carts.drop(id)
			return
		}
		f.carts.put(id, r)
		records = append(records, published{id, r, encoded})
	}); err != nil {
		return err
	}
	f.mu.Lock()
	grew := marker.Seq > f.head.Seq
	f.head = marker
	if grew {
		close(f.changed)
		f.changed = make(chan struct{})
	}
	if marked {
		close(f.marked)
		f.marked = make(chan struct{})
	}
	f.mu.Unlock()
	f.members.Store(b.members)
	for _, p := range records {
		f.watch.notify(p.id)
		f.publish(p.id, p.r, p.encoded)
	}
	if b.entries > 0 || len(b.expired) > 0 {
		f.stats(Applied{Entries: b.entries, Commands: b.commands, Index: marker.Applied, Expired: b.expired})
		b.entries, b.commands, b.expired = 0, 0, nil
	}
	return nil
}

// marker returns the marker of the last commit.
func (f *fsm) marker() store.Marker {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.head
}

// appended is closed when a row is committed after the call.
func (f *fsm) appended() <-chan struct{} {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.changed
}

// record returns the committed record of a cart, nil when there is none.
func (f *fsm) record(id string) (*store.Record, error) {
	if r, ok := f.carts.get(id); ok {
		return r, nil
	}
	before := f.carts.puts.Load()
	var r *store.Record
	err := f.read(func(sp *store.Space) (err error) {
		r, err = sp.Record(f.slots.Of(id), id)
		return err
	})
	if err != nil || r == nil {
		return r, err
	}
	// A commit since the read may have published a newer record, and even
	// dropped it again for want of room: then ours may be old.
	f.carts.fill(id, r, before)
	return r, nil
}

// peek is record for one who looks at all carts, which would drive out of memory
// those that are in use.
func (f *fsm) peek(id string) (r *store.Record, err error) {
	if r, ok := f.carts.get(id); ok {
		return r, nil
	}
	err = f.read(func(sp *store.Space) (err error) {
		r, err = sp.Record(f.slots.Of(id), id)
		return err
	})
	return r, err
}

// Snapshot implements raft.FSM.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	return &fsmSnapshot{f.current().Snapshot(), f.steps}, nil
}

type fsmSnapshot struct {
	s     *store.Snapshot
	steps store.Steps
}

// Persist implements raft.FSMSnapshot.
func (s *fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := s.s.WriteTo(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	s.steps.At(StepSnapshot)
	if err := sink.Close(); err != nil {
		return err
	}
	s.steps.At(StepSnapshotAt)
	return nil
}

// Release implements raft.FSMSnapshot.
func (s *fsmSnapshot) Release() { s.s.Close() }

// Restore implements raft.FSM: into a new generation, which becomes current
// in one write.
func (f *fsm) Restore(rc io.ReadCloser) error {
	next, err := f.current().Restore(rc)
	if err = errors.Join(err, rc.Close()); err != nil {
		f.fatal(err) // F3: the library only logs it
		return err
	}
	members, err := loadMembership(next)
	if err != nil {
		f.fatal(err)
		return err
	}
	f.members.Store(members)
	f.replace(next)
	return nil
}

// replace makes a space of another generation the current one.
func (f *fsm) replace(next *store.Space) {
	f.mu.Lock()
	f.space = next
	f.head = next.Marker()
	close(f.changed)
	f.changed = make(chan struct{})
	close(f.marked)
	f.marked = make(chan struct{})
	f.mu.Unlock()
	f.carts.reset()
	f.watch.notifyAll()
	f.reborn(next.Marker().Incarnation)
	select {
	case f.sweep <- struct{}{}:
	default:
	}
}

// carts holds decoded records under a byte bound, the least recently used
// go first.
type carts struct {
	puts atomic.Uint64 // records published so far
	max  int64

	mu    sync.Mutex // guards what follows
	lru   *simplelru.LRU[string, *store.Record]
	bytes int64
}

func newCarts(max int64) *carts {
	c := &carts{max: max}
	// The bound is in bytes; the count only has to be out of reach.
	lru, err := simplelru.NewLRU(math.MaxInt, func(id string, r *store.Record) {
		c.bytes -= int64(len(id) + r.MemoryBytes())
	})
	if err != nil {
		panic(err) // only for a size below 1
	}
	c.lru = lru
	return c
}

func (c *carts) get(id string) (*store.Record, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lru.Get(id)
}

func (c *carts) put(id string, r *store.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.puts.Add(1)
	c.store(id, r)
}

// drop forgets a cart that is not there any more.
func (c *carts) drop(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.puts.Add(1)
	c.lru.Remove(id)
}

func (c *carts) fill(id string, r *store.Record, before uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.puts.Load() == before && !c.lru.Contains(id) {
		c.store(id, r)
	}
}

func (c *carts) store(id string, r *store.Record) {
	c.lru.Remove(id) // so that the bytes of the record before are taken off
	c.lru.Add(id, r)
	c.bytes += int64(len(id) + r.MemoryBytes())
	for c.bytes > c.max && c.lru.Len() > 0 {
		c.lru.RemoveOldest()
	}
}

func (c *carts) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.puts.Add(1)
	c.lru.Purge()
}

func marshal(m proto.Message) ([]byte, error)   { return proto.Marshal(m) }
func unmarshal(b []byte, m proto.Message) error { return proto.Unmarshal(b, m) }
