package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/types"
	"golang.org/x/sync/errgroup"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/store"
)

// Transport is what a shard needs of the network; link.RaftTransport is one.
type Transport interface {
	raft.Transport
	raft.WithPreVote
	raft.WithClose
}

// Stores are where Raft keeps its log, its vote and its snapshots.
type Stores struct {
	Log       raft.LogStore
	Stable    raft.StableStore
	Snapshots raft.SnapshotStore
	Close     func() error
}

// Disk is what a shard's log is kept on; the zero Disk is the operating system's
// files. A simulation puts one in between that fails, and forgets.
type Disk struct {
	Files types.VFS // of the log's entries; nil: the operating system's
	// Before is called before entries are stored, when no lock is held: what a disk
	// takes is waited for there, and not in Files, where the log has its locks, on
	// which others wait in a way that stops virtual time. Nil: nothing is.
	Before func()
	Steps  store.Steps
}

// The durable steps of a shard's log and snapshots.
const (
	StepSegments   = "log: list of files committed"
	StepStable     = "log: term or vote stored"
	StepSnapshot   = "snapshot: written, before it counts"
	StepSnapshotAt = "snapshot: counts"
)

// finishInstall drops a log that ends before the newest snapshot. Raft does so
// once it has restored what a leader sent; a process that ended in between would
// not be able to append to the log any more.
func finishInstall(log raft.LogStore, snaps raft.SnapshotStore) error {
	newest, err := snaps.List()
	if err != nil || len(newest) == 0 {
		return err
	}
	first, err := log.FirstIndex()
	last, err2 := log.LastIndex()
	if err := errors.Join(err, err2); err != nil || last == 0 || last >= newest[0].Index {
		return err
	}
	return log.DeleteRange(first, last)
}

// state is InspectLog of what is open.
func (s Stores) state() (LogState, error) {
	first, err := s.Log.FirstIndex()
	last, err2 := s.Log.LastIndex()
	snapshots, err3 := s.Snapshots.List()
	begun, err4 := raft.HasExistingState(s.Log, s.Stable, s.Snapshots)
	if err := errors.Join(err, err2, err3, err4); err != nil {
		return LogState{}, err
	}
	state := LogState{First: first, Last: last, Begun: begun}
	if len(snapshots) > 0 {
		state.Snapshot = snapshots[0].Index
	}
	return state, nil
}

// Config holds the settings of a Shard.
type Config struct {
	ID          uint32
	Slots       *Slots
	Region      crdt.RegionID
	Incarnation uint32
	Server      raft.ServerID // this node's, new when it lost its disk
	Node        string        // this node's name, which is its raft address
	Limits      Limits
	Timing      Timing

	HadState      bool  // the member had a log when it last ran
	CacheBytes    int64 // bound on decoded carts in memory
	QueueMax      int   // commands waiting to be packed; more are refused
	EntryBytesMax int   // size of one entry's commands
	// CommandBytesMax is the size of a command that may have an entry to
	// itself, above EntryBytesMax; 0: none may.
	CommandBytesMax int
	RetainRows      uint64 // delta log rows kept for a peer that is away

	// Published is called for each record committed here, with its bytes; it
	// must not block.
	Published func(cartID string, r *store.Record, encoded []byte, leader bool)
	// Applied is called for each transaction; it must not block.
	Applied func(Applied)
	// Clock is the node's; nil: time.Now. Entries carry its time.
	Clock func() time.Time
	Steps store.Steps // see there
	// Reborn is called when the shard goes on under another incarnation.
	Reborn func(incarnation uint32)
	// Fatal is called when the shard's state can no longer be trusted.
	Fatal func(error)
	// Lead runs while this node leads the shard and is ready; its context
	// ends with the leadership.
	Lead func(context.Context, *Shard)
	Log  *slog.Logger
}

// Limits are put into every entry, so that all nodes judge alike.
type Limits struct {
	Lines    uint32
	Quantity uint32
	OpLife   time.Duration
	Lives    Lives
	Codes    uint32 // promotion codes
	// Undo is how long a remove, a clear or a merge can be undone; 0: not at all.
	Undo time.Duration
}

// Timing holds Raft's times; DefaultTiming suits a region of nearby nodes.
type Timing struct {
	Heartbeat     time.Duration // silence after which a follower stands for election
	Lease         time.Duration // silence after which a leader steps down; ≤ Heartbeat
	Commit        time.Duration // after which an idle leader tells followers what is committed
	SnapshotEvery time.Duration
	SnapshotAfter uint64 // entries since the last snapshot
	Trailing      uint64 // entries kept behind a snapshot
	// Forget is the least time between two occasions on which snapshots are taken, and
	// the log is dropped, so that erased carts are forgotten.
	Forget time.Duration
}

// DefaultTiming returns the times used in production: a lost leader is
// replaced within about two seconds, and an idle shard costs some ten
// messages a second for each follower.
func DefaultTiming() Timing {
	return Timing{
		Heartbeat: time.Second, Lease: 500 * time.Millisecond, Commit: 200 * time.Millisecond,
		SnapshotEvery: time.Minute, SnapshotAfter: 8192, Trailing: 4096,
		Forget: 10 * time.Minute,
	}
}

// Shard is one Raft group's member on this node.
type Shard struct {
	cfg    Config
	stores Stores
	fsm    *fsm
	raft   *raft.Raft
	notify chan bool
	queue  chan *proposal
	verify verifier
	log    *slog.Logger

	// ready is the term in which this node leads and has applied all that was
	// acknowledged before it; 0 while there is none.
	ready    atomic.Uint64
	draining atomic.Bool
	stopped  chan struct{} // closed when nothing more is proposed

	ackedMu sync.Mutex // guards acked
	acked   acked

	contact contact
	tending tending
}

// Open starts this node's member of the group: it follows, and leads when
// elected; Run must be called for it to take commands. servers, when not
// empty, is the first configuration of a new group.
func Open(cfg Config, space *store.Space, stores Stores, tr Transport, servers []raft.Server) (*Shard, error) {
	s := &Shard{
		cfg: cfg, stores: stores, notify: make(chan bool, 16),
		queue: make(chan *proposal, cfg.QueueMax), stopped: make(chan struct{}), log: cfg.Log.With(slog.Uint64("shard", uint64(cfg.ID))),
		tending: tending{wake: make(chan struct{}, 1)},
	}
	if s.cfg.Clock == nil {
		s.cfg.Clock = time.Now
	}
	var err error
	s.fsm, err = newFSM(space, cfg.Slots, cfg.CacheBytes,
		func(id string, r *store.Record, encoded []byte) {
			cfg.Published(id, r, encoded, s.Leads())
			if crdt.IsLimit(id) {
				s.tending.touch(id)
			}
		}, s.applied, cfg.Reborn, cfg.Fatal)
	if err != nil {
		return nil, fmt.Errorf("shard %d: %w", cfg.ID, err)
	}
	s.fsm.steps = cfg.Steps
	stores.Log = endingLog{stores.Log, func(err error) { cfg.Fatal(fmt.Errorf("shard %d: %w", cfg.ID, err)) }}
	s.stores = stores

	conf := raft.DefaultConfig()
	conf.LocalID = cfg.Server
	conf.HeartbeatTimeout = cfg.Timing.Heartbeat
	conf.ElectionTimeout = cfg.Timing.Heartbeat
	conf.LeaderLeaseTimeout = cfg.Timing.Lease
	conf.CommitTimeout = cfg.Timing.Commit
	conf.SnapshotInterval = cfg.Timing.SnapshotEvery
	conf.SnapshotThreshold = cfg.Timing.SnapshotAfter
	conf.TrailingLogs = cfg.Timing.Trailing
	conf.MaxAppendEntries = 512
	conf.BatchApplyCh = true
	conf.NotifyCh = s.notify
	conf.ShutdownOnRemove = false
	conf.Logger = raftLogger(s.log)

	state, err := stores.state()
	if err != nil {
		return nil, fmt.Errorf("read raft state of shard %d: %w", cfg.ID, err)
	}
	if err := state.Check(space.Marker().Applied, cfg.HadState); err != nil {
		return nil, fmt.Errorf("shard %d: %w", cfg.ID, err)
	}
	// The start rule: what Badger has applied is the truth; a snapshot is
	// read only when it is ahead.
	conf.NoSnapshotRestoreOnStart = space.Marker().Applied >= state.Snapshot

	if len(servers) > 0 && !state.Begun {
		err := raft.BootstrapCluster(conf, stores.Log, stores.Stable, stores.Snapshots, tr, raft.Configuration{Servers: servers})
		if err != nil {
			return nil, fmt.Errorf("bootstrap shard %d: %w", cfg.ID, err)
		}
	}
	watched := &installWatch{Transport: tr, repeat: func(target raft.ServerID, index uint64) { s.breakInstallLoop(target, index) }}
	s.raft, err = raft.NewRaft(conf, s.fsm, stores.Log, stores.Stable, stores.Snapshots, watched)
	if err != nil {
		return nil, fmt.Errorf("start shard %d: %w", cfg.ID, err)
	}
	s.verify.raft = s.raft
	return s, nil
}

// applied tells of a transaction.
func (s *Shard) applied(a Applied) {
	a.Leads = s.Leads()
	for _, e := range a.Expired {
		if a.Leads {
			s.log.Debug("cart expired", slog.String("cart", e.CartID), slog.Int("lines", len(e.Lines)), slog.Uint64("index", e.Index))
		}
	}
	s.cfg.Applied(a)
}

// HasState reports whether the member has a log, a vote or a snapshot: from
// then on it must not start without one.
func (s *Shard) HasState() (bool, error) {
	return raft.HasExistingState(s.stores.Log, s.stores.Stable, s.stores.Snapshots)
}

// ID returns the shard's number.
func (s *Shard) ID() uint32 { return s.cfg.ID }

// Run packs and proposes commands and follows the leadership until ctx
// ends. Then the shard still follows, until Close. Run is called once.
func (s *Shard) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { s.followLeadership(ctx); return nil })
	g.Go(func() error { s.combine(ctx); return nil })
	g.Go(func() error { s.housekeep(ctx); return nil })
	g.Go(func() error { s.sweep(ctx); return nil })
	g.Go(func() error { s.forget(ctx); return nil })
	return g.Wait()
}

// followLeadership opens the shard for commands once everything acknowledged
// before is applied here, and closes it when the leadership is lost.
func (s *Shard) followLeadership(ctx context.Context) {
	var term sync.WaitGroup
	cancel := func() {}
	stop := func() {
		s.ready.Store(0)
		cancel()
		term.Wait()
	}
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return
		case leads := <-s.notify:
			stop()
			if !leads {
				s.log.Info("leadership lost")
				continue
			}
			leading, end := context.WithCancel(ctx)
			cancel = end
			term.Go(func() { s.lead(leading) })
		}
	}
}

func (s *Shard) lead(ctx context.Context) {
	var opened uint64
	for ctx.Err() == nil {
		// A later term would need a barrier of its own.
		term := s.raft.CurrentTerm()
		err := s.open()
		if err == nil {
			opened = term
			break
		}
		s.log.Warn("shard not opened yet", slog.Any("err", err))
		select {
		case <-ctx.Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
	if ctx.Err() != nil {
		return
	}
	s.ready.Store(opened)
	defer s.ready.Store(0) // stop may have cleared it just before
	s.log.Info("leads", slog.Uint64("index", s.fsm.marker().Applied))
	var tending sync.WaitGroup
	tending.Go(func() { s.tend(ctx) })
	defer tending.Wait()
	if s.cfg.Lead != nil {
		s.cfg.Lead(ctx, s)
	}
	<-ctx.Done()
}

// open waits until all earlier entries are applied, and makes the shard's
// first entry.
func (s *Shard) open() error {
	if err := s.raft.Barrier(5 * time.Second).Error(); err != nil {
		return fmt.Errorf("barrier: %w", err)
	}
	if s.fsm.marker().Region != 0 {
		return nil
	}
	init := &regionv1.Command{Command: &regionv1.Command_Init{Init: &regionv1.Init{
		RegionId: uint32(s.cfg.Region), Incarnation: s.cfg.Incarnation,
		Shard: s.cfg.ID, Shards: s.cfg.Slots.Shards(),
	}}}
	data, err := marshal(s.entry([]*regionv1.Command{init}))
	if err != nil {
		return err
	}
	return s.raft.Apply(data, 5*time.Second).Error()
}

// Leads reports whether this node leads the shard and is ready.
func (s *Shard) Leads() bool {
	// The leadership may have gone and come back, in another term, before
	// followLeadership has heard of it.
	term := s.ready.Load()
	return term != 0 && s.raft.State() == raft.Leader && s.raft.CurrentTerm() == term
}

// Leader returns the node that leads, empty when none is known.
func (s *Shard) Leader() string {
	addr, _ := s.raft.LeaderWithID()
	return string(addr)
}

func (s *Shard) notLeader() error {
	leader := s.Leader()
	if leader == s.cfg.Node {
		leader = "" // not ready yet, or draining
	}
	return &NotLeaderError{Shard: s.cfg.ID, Leader: leader}
}

// Read returns the cart's record, nil when there is none. From the leader
// it holds every write acknowledged in this region before the call: under
// the leader's lease, or, when strong, after a majority confirmed it.
func (s *Shard) Read(ctx context.Context, id string, strong bool) (*store.Record, error) {
	if !s.Leads() || s.draining.Load() {
		return nil, s.notLeader()
	}
	if err := s.readable(); err != nil {
		return nil, err
	}
	// The record is read first: what is confirmed afterwards is that nobody
	// else could have acknowledged a newer one by then.
	r, err := s.fsm.record(id)
	if err != nil {
		return nil, err
	}
	if strong {
		if err := s.verify.check(ctx); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, s.notLeader()
		}
	}
	return r, nil
}

// Local returns the cart's record as this node has it, perhaps behind.
func (s *Shard) Local(id string) (*store.Record, error) {
	if err := s.readable(); err != nil {
		return nil, err
	}
	return s.fsm.record(id)
}

// readable refuses shoppers' reads of a region that lacks what it should have.
func (s *Shard) readable() error {
	if m := s.fsm.members.Load(); !m.TakesReads(uint32(s.cfg.Region)) {
		return fmt.Errorf("%w: epoch %d", ErrFenced, m.GetEpoch())
	}
	return nil
}

// Wait returns a channel that is closed when the cart changes on this node,
// and a function to call when it is not waited for any more.
func (s *Shard) Wait(id string) (<-chan struct{}, func()) { return s.fsm.watch.wait(id) }

// Marker returns how far this node has applied the log.
func (s *Shard) Marker() store.Marker { return s.fsm.marker() }

// Servers returns the group's members.
func (s *Shard) Servers() ([]raft.Server, error) {
	f := s.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return nil, err
	}
	return f.Configuration().Servers, nil
}

// Admit takes a node into the group, on the leader: servers that stand for
// the same node under another id are removed first, and the new one follows
// without a vote until it says that it has applied nearly all of the log. It
// reports whether the node has its vote.
func (s *Shard) Admit(id raft.ServerID, node string, applied uint64) (voter bool, err error) {
	if !s.Leads() {
		return false, s.notLeader()
	}
	servers, err := s.Servers()
	if err != nil {
		return false, err
	}
	const timeout = 5 * time.Second
	for _, srv := range servers {
		switch {
		case srv.ID == id && srv.Suffrage == raft.Voter:
			return true, nil
		case srv.ID == id && applied+caughtUpWithin < s.raft.LastIndex():
			return false, nil
		case srv.ID == id:
			if err := s.raft.AddVoter(id, srv.Address, 0, timeout).Error(); err != nil {
				return false, fmt.Errorf("give server %s its vote: %w", id, err)
			}
			s.log.Info("member votes", slog.String("node", node))
			return true, nil
		}
	}
	for _, srv := range servers {
		if string(srv.Address) == node {
			if err := s.raft.RemoveServer(srv.ID, 0, timeout).Error(); err != nil {
				return false, fmt.Errorf("remove server %s: %w", srv.ID, err)
			}
			s.log.Info("member removed, its node lost its disk", slog.String("node", node))
		}
	}
	if err := s.raft.AddNonvoter(id, raft.ServerAddress(node), 0, timeout).Error(); err != nil {
		return false, fmt.Errorf("add server %s: %w", id, err)
	}
	return false, nil
}

// caughtUpWithin is how many entries a new member may be behind when it gets
// its vote: it costs the group's next commits at most that many.
const caughtUpWithin = 64

// sweep deletes what restores leave behind, until ctx ends.
func (s *Shard) sweep(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.fsm.sweep:
		}
		if err := s.fsm.current().Sweep(func() bool { return ctx.Err() != nil }); err != nil {
			s.log.Error("sweep", slog.Any("err", err)) // only room is lost
		}
	}
}

// breakInstallLoop takes a newer snapshot: the library can send one snapshot
// to one follower for ever (raft issues 205 and 697), until it has another.
func (s *Shard) breakInstallLoop(target raft.ServerID, index uint64) {
	s.log.Warn("snapshot installed again and again, taking a newer one",
		slog.String("peer", string(target)), slog.Uint64("index", index))
	// In an idle shard the next snapshot would be of the same index.
	if err := s.raft.Barrier(5 * time.Second).Error(); err != nil {
		s.log.Error("barrier", slog.Any("err", err))
		return
	}
	if err := s.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		s.log.Error("snapshot", slog.Any("err", err))
	}
}

// Drain refuses commands from now on and hands the leadership over.
func (s *Shard) Drain() {
	s.draining.Store(true)
	if s.raft.State() != raft.Leader {
		return
	}
	if err := s.raft.LeadershipTransfer().Error(); err != nil {
		s.log.Warn("leadership not handed over", slog.Any("err", err))
	}
}

// Close stops the member at once; Drain first, but for a drill.
func (s *Shard) Close() error {
	s.draining.Store(true)
	if s.raft.State() != raft.Shutdown { // else nobody answers any more
		s.verify.stop()
	}
	err := s.raft.Shutdown().Error()
	return errors.Join(err, s.stores.Close())
}

// raftLogger passes the library's warnings and errors on.
func raftLogger(log *slog.Logger) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{
		Level: hclog.Warn, Output: &logWriter{log}, DisableTime: true, JSONFormat: false,
	})
}

type logWriter struct{ log *slog.Logger }

// Write implements io.Writer. Elections and unreachable peers are what the
// library warns of most, and no one need act on them.
func (w *logWriter) Write(b []byte) (int, error) {
	w.log.Debug("raft", slog.String("err", string(b)))
	return len(b), nil
}
