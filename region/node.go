package region

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/types"
	"golang.org/x/sync/errgroup"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/cache"
	"github.com/samecart/samecart/region/link"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/region/store"
)

// Config holds the settings of a Node.
type Config struct {
	Cluster string // the shop's; nodes of another are refused
	Name    string // this region
	Node    string // REGION/N
	Dir     string // data directory, this node's alone
	Router  RouterConfig
	Store   store.Config
	Limits  shard.Limits
	Timing  shard.Timing
	Machine Machine

	CacheBytes   int64  // decoded carts in memory, over all shards
	SegmentBytes int    // one file of a shard's log; allocated at once
	QueueMax     int    // commands waiting in one shard
	RetainRows   uint64 // delta log rows kept for peers that are away, per shard

	// MayForm is asked before this node forms the region, which happens once in
	// its life: its error ends the node. It returns the incarnation to form it
	// under, of which no other region knows edits: at least the one that is
	// configured. Nil: there is nobody to ask.
	MayForm func(ctx context.Context) (incarnation uint32, err error)
	// Lead runs while this node leads a shard; its context ends with the
	// leadership. The gossip runs in it.
	Lead func(ctx context.Context, s *shard.Shard)
	// Peers tells how the shards led here stand with other regions.
	Peers func(shard uint32) []*regionv1.StatusResponse_Peer
	// Repair begins to compare a shard led here with the named region, in the
	// background. Nil: there is no other region.
	Repair func(shard uint32, region string) error
	// Applied is called for each transaction; it must not block.
	Applied func(shard uint32, a shard.Applied)
	// Fatal is called when the node must not go on: its state can no longer
	// be trusted. The process should end.
	Fatal func(error)
	Log   *slog.Logger
}

// Machine is what a node has of the machine it runs on; the zero Machine is the
// real one. Simulations put others in its place, which fail.
type Machine struct {
	Clock func() time.Time // nil: time.Now
	Boot  string           // names the machine's boot; empty: the operating system is asked
	Files types.VFS        // of the shards' logs; nil: the operating system's
	// Before is called before a log stores entries; nil: nothing is. See shard.Disk.
	Before func()
	Steps  store.Steps // see there
}

func (m Machine) boot() string {
	if m.Boot != "" {
		return m.Boot
	}
	return bootID()
}

// Node is one process's part of a region: its shards, its database, its
// links to the other nodes. Open, Run, and when Run has returned, Close.
type Node struct {
	*Router
	cfg     Config
	id      identity
	trusted bool         // the database may be behind the log, but not torn
	lock    *os.File     // on the data directory
	store   *store.Store // nil until Run
	mux     *link.Mux
	filler  *cache.Filler
	log     *slog.Logger

	formed chan struct{} // closed when id.Formed
	idMu   sync.Mutex    // guards id
	killed atomic.Bool
}

// Open checks the data directory. Nothing runs yet, and nothing is changed but
// that a new directory gets its identity; errors wrap ErrForeignData,
// ErrDamagedData or ErrInUse when the directory is not what it should be.
func Open(cfg Config, mux *link.Mux) (n *Node, err error) {
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	want := identity{
		Cluster: cfg.Cluster, Region: cfg.Name, RegionID: uint16(cfg.Router.Region), Incarnation: cfg.Router.Incarnation,
		Node: cfg.Node, Shards: cfg.Router.Shards,
	}
	id, err := openIdentity(cfg.Dir, want, cfg.Machine.Steps)
	if err != nil {
		return nil, err
	}
	// The configuration names the incarnation of a new region; of one that
	// exists, its data does.
	if id.Formed {
		cfg.Router.Incarnation = id.Incarnation
	} else {
		id.Incarnation = cfg.Router.Incarnation
	}
	cfg.Store.Dir, cfg.Store.Steps = filepath.Join(cfg.Dir, "badger"), cfg.Machine.Steps
	boot := cfg.Machine.boot()
	trusted := id.trusted(cfg.Dir, boot)
	id.Boot = boot // for Run to save
	n = &Node{
		cfg: cfg, id: id, trusted: trusted, lock: lock, mux: mux, log: cfg.Log.With(slog.String("node", cfg.Node)),
		formed: make(chan struct{}), Router: NewRouter(cfg.Router, mux),
	}
	if err := n.check(); err != nil {
		return nil, err
	}
	n.filler = cache.NewFiller(cfg.Router.Cache, cache.DefaultFillerConfig())
	if id.Formed {
		close(n.formed)
	}
	n.handle()
	return n, nil
}

// check reads the database and the shards' logs, all of them.
func (n *Node) check() error {
	logs := make([]shard.LogState, len(n.id.Started))
	var applied map[uint32]uint64
	var g errgroup.Group
	g.Go(func() (err error) {
		applied, err = store.Check(n.cfg.Store.Dir)
		if err != nil && n.trusted {
			return fmt.Errorf("%w: %w; if its files are damaged, remove %s: it is built again from the log", ErrDamagedData, err, n.cfg.Store.Dir)
		}
		return nil // one that is not trusted says at most how long the log was
	})
	for i, id := range n.id.Started {
		g.Go(func() (err error) {
			logs[i], err = shard.InspectLog(shardDir(n.cfg.Dir, id))
			return n.damagedLog(id, err)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, id := range n.id.Started {
		if err := n.damagedLog(id, logs[i].Check(applied[id], slices.Contains(n.id.Voted, id))); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) damagedLog(shard uint32, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: shard %d: %w; remove all of %s: the node then joins as a new one", ErrDamagedData, shard, err, n.cfg.Dir)
}

// openStore opens the database, or makes it anew where it cannot be trusted.
func (n *Node) openStore() error {
	db := n.cfg.Store.Dir
	if _, err := os.Stat(db); err == nil && !n.trusted {
		// The machine stopped uncleanly: a torn older memtable may stand
		// beside an intact newer one. The log and the snapshots are synced,
		// and all that the database has comes from them.
		n.log.Warn("machine stopped uncleanly, database is built again from the log")
		if err := os.RemoveAll(db); err != nil {
			return fmt.Errorf("drop database: %w", err)
		}
	}
	// Before it is opened, which changes its files: else the mark of a clean stop
	// could outlive what it says.
	if err := n.running(); err != nil {
		return err
	}
	st, err := store.Open(n.cfg.Store)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamagedData, err)
	}
	n.store = st
	return nil
}

// running records that the database is in use, by this boot.
func (n *Node) running() error {
	n.idMu.Lock()
	defer n.idMu.Unlock()
	if err := n.id.save(n.cfg.Dir, n.cfg.Machine.Steps); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(n.cfg.Dir, cleanFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("clear clean mark: %w", err)
	}
	return syncDir(n.cfg.Dir)
}

// Run opens the database, serves the other nodes on ln, forms or joins the
// region, and runs the node's shards until ctx ends; then it hands leaderships
// over and returns.
func (n *Node) Run(ctx context.Context, ln net.Listener) error {
	if err := n.openStore(); err != nil {
		return errors.Join(err, ln.Close())
	}
	g, ctx := errgroup.WithContext(ctx)
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	g.Go(func() error { return n.mux.Serve(serving, ln) })
	g.Go(func() error { return n.filler.Run(ctx) })
	g.Go(func() error {
		defer stopServing() // the links outlive the shards' last messages
		if err := n.form(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		return n.runShards(ctx)
	})
	return g.Wait()
}

func (n *Node) runShards(ctx context.Context) error {
	mine, err := n.openShards()
	if err != nil {
		return err
	}
	g, running := errgroup.WithContext(ctx)
	runCtx, stop := context.WithCancel(context.WithoutCancel(running))
	defer stop()
	for _, s := range mine {
		g.Go(func() error { return s.Run(runCtx) })
		g.Go(func() error { n.join(running, s); return nil })
	}
	g.Go(func() error {
		<-running.Done()
		if !n.killed.Load() {
			var drained sync.WaitGroup
			for _, s := range mine {
				drained.Go(s.Drain)
			}
			drained.Wait()
		}
		stop()
		return nil
	})
	err = g.Wait()
	n.Router.close() // what is asked from here on would find closed shards
	for _, s := range mine {
		err = errors.Join(err, s.Close())
	}
	return err
}

// openShards starts this node's members of its shards' groups.
func (n *Node) openShards() ([]*shard.Shard, error) {
	var mine []*shard.Shard
	closeAll := func() {
		for _, s := range mine {
			_ = s.Close() // the error that ends the start is the one to tell
		}
	}
	held := n.heldShards()
	if err := n.makeLogs(held); err != nil {
		return nil, err
	}
	for _, id := range held {
		s, err := n.openShard(id, n.cfg.CacheBytes/int64(len(held)))
		if err != nil {
			closeAll()
			return nil, err
		}
		mine = append(mine, s)
		n.reborn(s.Marker().Incarnation)
	}
	if err := n.markVoted(mine); err != nil {
		closeAll()
		return nil, err
	}
	n.Router.mu.Lock()
	for _, s := range mine {
		n.Router.local[s.ID()] = s
	}
	n.Router.mu.Unlock()
	return mine, nil
}

// makeLogs makes the directories of the shards' logs, and records them before
// the first vote goes into one.
func (n *Node) makeLogs(held []uint32) error {
	n.idMu.Lock()
	defer n.idMu.Unlock()
	id := n.id
	for _, shard := range held {
		if slices.Contains(id.Started, shard) {
			continue
		}
		if err := os.MkdirAll(logDir(n.cfg.Dir, shard), 0o700); err != nil {
			return fmt.Errorf("make raft log directory: %w", err)
		}
		if err := syncDir(shardDir(n.cfg.Dir, shard)); err != nil {
			return fmt.Errorf("make raft log directory: %w", err)
		}
		id.Started = append(slices.Clip(id.Started), shard)
	}
	if len(id.Started) == len(n.id.Started) {
		return nil
	}
	if err := syncDir(n.cfg.Dir); err != nil {
		return fmt.Errorf("make raft log directory: %w", err)
	}
	if err := id.save(n.cfg.Dir, n.cfg.Machine.Steps); err != nil {
		return err
	}
	n.id = id
	return nil
}

// markVoted records which shards' logs are not empty any more.
func (n *Node) markVoted(mine []*shard.Shard) error {
	n.idMu.Lock()
	defer n.idMu.Unlock()
	id := n.id
	for _, s := range mine {
		has, err := s.HasState()
		if err != nil {
			return fmt.Errorf("read raft state of shard %d: %w", s.ID(), err)
		}
		if has && !slices.Contains(id.Voted, s.ID()) {
			id.Voted = append(slices.Clip(id.Voted), s.ID())
		}
	}
	if len(id.Voted) == len(n.id.Voted) {
		return nil
	}
	if err := id.save(n.cfg.Dir, n.cfg.Machine.Steps); err != nil {
		return err
	}
	n.id = id
	return nil
}

func (n *Node) heldShards() []uint32 {
	var out []uint32
	for id := range n.Router.cfg.Shards {
		for _, node := range n.Placement(id) {
			if node == n.cfg.Node {
				out = append(out, id)
			}
		}
	}
	return out
}

func (n *Node) openShard(id uint32, cacheBytes int64) (*shard.Shard, error) {
	lo, hi := n.slots.Range(id)
	space, err := n.store.Space(id, lo, hi)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamagedData, err)
	}
	stores, err := shard.OpenStores(shardDir(n.cfg.Dir, id), n.cfg.SegmentBytes, shard.Disk{Files: n.cfg.Machine.Files, Before: n.cfg.Machine.Before, Steps: n.cfg.Machine.Steps}, n.log)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamagedData, err)
	}
	n.idMu.Lock()
	ident := n.id
	n.idMu.Unlock()
	var servers []raft.Server // stays empty where this is no first member
	if ident.Servers[n.cfg.Node] == ident.ServerID {
		for _, node := range n.Placement(id) {
			servers = append(servers, raft.Server{ID: raft.ServerID(ident.Servers[node]), Address: raft.ServerAddress(node)})
		}
	}
	tr := n.mux.Raft(id, raft.ServerID(ident.ServerID), raft.ServerAddress(n.cfg.Node))
	s, err := shard.Open(shard.Config{
		ID: id, Slots: n.slots, Region: crdt.RegionID(ident.RegionID), Incarnation: ident.Incarnation,
		Server: raft.ServerID(ident.ServerID), Node: n.cfg.Node, Limits: n.cfg.Limits, Timing: n.cfg.Timing,
		HadState:   slices.Contains(ident.Voted, id),
		CacheBytes: cacheBytes, QueueMax: n.cfg.QueueMax, EntryBytesMax: entryBytesMax, CommandBytesMax: commandBytesMax, RetainRows: n.cfg.RetainRows,
		Published: n.published,
		Applied:   func(a shard.Applied) { n.cfg.Applied(id, a) },
		Reborn:    n.reborn,
		Clock:     n.cfg.Machine.Clock, Steps: n.cfg.Machine.Steps,
		Fatal: n.cfg.Fatal, Lead: n.lead, Log: n.log,
	}, space, stores, tr, servers)
	if errors.Is(err, shard.ErrLogDamaged) {
		err = n.damagedLog(id, err)
	}
	if err != nil {
		return nil, errors.Join(err, tr.Close(), stores.Close())
	}
	return s, nil
}

// reborn notes that a shard goes on under a higher incarnation; the others follow.
func (n *Node) reborn(incarnation uint32) {
	n.idMu.Lock()
	defer n.idMu.Unlock()
	if incarnation <= n.id.Incarnation {
		return
	}
	id := n.id
	id.Incarnation = incarnation
	if err := id.save(n.cfg.Dir, n.cfg.Machine.Steps); err != nil {
		n.cfg.Fatal(err) // the directory would say that it is of another incarnation
		return
	}
	n.id = id
	n.incarnation.Store(incarnation)
}

// commandBytesMax is what the join of the largest cart may take: three regions'
// lines of the largest kind, and still below a frame of the links.
const commandBytesMax = 3 << 20

// entryBytesMax bounds a log entry, well below a frame of the links.
const entryBytesMax = 512 << 10

// published puts committed records into the hot cache. The leader does it:
// followers would only repeat it.
func (n *Node) published(cartID string, r *store.Record, encoded []byte, leader bool) {
	if !leader {
		return
	}
	n.filler.Offer(cartID, cache.Entry{
		Version: cache.Version{Incarnation: n.Incarnation(), Index: r.Index},
		Data:    encoded,
	})
}

// Kill makes the end of Run's context an abrupt one, for drills: links are
// cut, and no leadership is handed over.
func (n *Node) Kill() {
	n.killed.Store(true)
	n.Router.close()
	_ = n.mux.Close() // whatever it says, the node is gone for the others
}

// Close closes the database, after Run has returned.
func (n *Node) Close() error {
	n.Router.close()
	err := n.mux.Close()
	if n.store != nil {
		err = errors.Join(err, n.store.Close())
		if err == nil && !n.killed.Load() {
			err = writeFile(filepath.Join(n.cfg.Dir, cleanFile), nil, n.cfg.Machine.Steps)
		}
	}
	return errors.Join(err, n.lock.Close())
}

// join gets the node into the shard's group: at once when it is a member,
// through the leader when it is new or lost its disk.
func (n *Node) join(ctx context.Context, s *shard.Shard) {
	for n.killedOrDone(ctx) == nil {
		voter, err := n.admit(ctx, s)
		if voter {
			return
		}
		if err != nil {
			n.log.Debug("not admitted yet", slog.Uint64("shard", uint64(s.ID())), slog.Any("err", err))
		}
		if !sleep(ctx, 500*time.Millisecond) {
			return
		}
	}
}

func (n *Node) killedOrDone(ctx context.Context) error {
	if n.killed.Load() {
		return ErrClosed
	}
	return ctx.Err()
}
