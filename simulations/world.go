package simulations

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/region/cache"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/rpc"
	"github.com/samecart/samecart/rpc/catalog"
	"github.com/samecart/samecart/rpc/member"
	"github.com/samecart/samecart/simulations/check"
	"github.com/samecart/samecart/simulations/disk"
	"github.com/samecart/samecart/simulations/network"
)

// The ports of a node.
const (
	linkPort = "1"
	peerPort = "2"
	apiPort  = "3"
)

// world is a simulated service: the real nodes on a simulated network and
// simulated disks. All of it lives in one synctest bubble.
type world struct {
	plan  Plan
	root  string
	began time.Time // when all regions served
	log   *slog.Logger

	net     *network.Network
	catalog *catalog.Catalog
	caches  map[string]cache.Cache // by region; they outlive nodes, as Redis does
	nodes   map[string]*node
	names   []string // of the nodes, in order
	hist    check.History
	totals  *Totals

	mu    sync.Mutex // guards what follows
	rng   *rand.Rand
	ways  map[[2]string]network.Way // by hosts, or by regions; they add up
	found []check.Violation
	trace *trace
	// lost says when a node that had lost its disk was back, by region; below 0: it
	// is not.
	lost   map[string]time.Duration
	retain uint64 // rows of delta logs

	quiet chan struct{} // holds a token while nobody waits for the world to stand still
}

// node is a machine with its disk and clock, and the process that runs on it.
type node struct {
	world  *world
	name   string // "us-east/1"
	region string
	number int // over all regions
	disk   *disk.Disk

	mu      sync.Mutex // guards what follows
	dir     string
	copies  int // of the directory
	boots   int
	offset  time.Duration // of its clock
	stopped time.Time     // its clock stands still there; zero: it goes
	armed   string        // the durable step to crash at
	crashed chan struct{} // told when it has
	process *process      // nil while it is down
}

// process is one run of a node's program.
type process struct {
	host   *network.Host
	part   *member.Part
	member *member.Member
	stop   context.CancelFunc
	served sync.WaitGroup
	closed []io.Closer

	mu      sync.Mutex // guards what follows
	applied map[uint32]uint64
	dead    bool
	failed  error // what fatal was told
	fatal   chan struct{}
}

func newWorld(plan Plan, root string, log *slog.Logger) (*world, error) {
	w := &world{
		plan: plan, root: root, log: log, retain: 2000, caches: make(map[string]cache.Cache), lost: make(map[string]time.Duration), nodes: make(map[string]*node),
		rng: rand.New(rand.NewPCG(plan.Seed, 0x776f726c64)), ways: make(map[[2]string]network.Way), totals: newTotals(), trace: newTrace(), quiet: make(chan struct{}, 1),
	}
	w.quiet <- struct{}{}
	w.net = network.New(plan.Seed, w.way, nil)
	var err error
	if w.catalog, err = catalog.New(); err != nil {
		return nil, err
	}
	for r := range plan.Shape.Regions {
		w.caches[regionNames[r]] = cache.NewMemory(4 << 20)
		for i := range plan.Shape.Nodes {
			n := &node{world: w, name: nodeName(regionNames[r], i), region: regionNames[r], number: len(w.names), crashed: make(chan struct{}, 1)}
			n.dir = filepath.Join(root, fmt.Sprintf("%s-%d-0", n.region, i+1))
			n.disk = disk.New(plan.Seed*64+uint64(n.number), n.step)
			if plan.Skew > 0 {
				n.offset = time.Duration(w.rng.Int64N(int64(2*plan.Skew))) - plan.Skew
			}
			w.nodes[n.name] = n
			w.names = append(w.names, n.name)
		}
	}
	return w, nil
}

// host is a node's name in the network.
func hostOf(node string) string { return strings.ReplaceAll(node, "/", "-") }

// regionOf is the region of a host: of a node's, or of a shopper's near it.
func regionOf(host string) string {
	for _, r := range regionNames {
		if strings.HasPrefix(host, r) {
			return r
		}
	}
	return host
}

// way is how one host reaches another: as far as their regions are from each other,
// and with all that is wrong between them at the moment.
func (w *world) way(from, to string) network.Way {
	a, b := regionOf(from), regionOf(to)
	out := network.Way{Latency: w.plan.Latency, Jitter: w.plan.Jitter, Loss: w.plan.Loss}
	if a == b {
		out = network.Way{Latency: w.plan.Latency / 50, Jitter: w.plan.Jitter / 50}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	keys := [][2]string{{from, to}, {from, "*"}, {"*", to}}
	if a != b && !isShopper(from) && !isShopper(to) {
		keys = append(keys, [2]string{a, b})
	}
	for _, k := range keys {
		f, ok := w.ways[k]
		if !ok {
			continue
		}
		out.Cut = out.Cut || f.Cut
		out.Latency += f.Latency
		out.Loss = max(out.Loss, f.Loss)
		if f.Bandwidth > 0 {
			out.Bandwidth = f.Bandwidth
		}
	}
	return out
}

// set changes a way; the zero Way puts it right.
func (w *world) set(from, to string, way network.Way) {
	w.mu.Lock()
	if way == (network.Way{}) {
		delete(w.ways, [2]string{from, to})
	} else {
		w.ways[[2]string{from, to}] = way
	}
	w.mu.Unlock()
	w.net.Healed()
}

func (w *world) violated(v ...check.Violation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.found = append(w.found, v...)
}

func (w *world) violations() []check.Violation {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]check.Violation(nil), w.found...)
}

// still returns when everything else waits for something to come: what is copied
// then is what there is at that moment.
func (w *world) still() {
	<-w.quiet
	synctest.Wait()
	w.quiet <- struct{}{}
}

// now is the time since all regions served.
func (w *world) now() time.Duration { return time.Since(w.began) }

// --- a node ---

func (n *node) clock() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.stopped.IsZero() {
		return n.stopped
	}
	return time.Now().Add(n.offset)
}

// step is called at each durable step of the node's process.
func (n *node) step(name string) {
	n.world.totals.step(name)
	n.mu.Lock()
	p := n.process
	if n.armed != name || p == nil {
		n.mu.Unlock()
		return
	}
	n.armed = ""
	n.mu.Unlock()
	n.world.totals.crashedAt(name)
	n.die(p, false)
	select {
	case n.crashed <- struct{}{}:
	default:
	}
}

// die takes the process out of the world, as it is now: its host is gone, and its
// directory is what a kill, or a loss of power, leaves. The process itself does not
// know yet: whatever it still does, nobody sees. It reports whether it was alive.
func (n *node) die(p *process, power bool) bool {
	p.mu.Lock()
	if p.dead {
		p.mu.Unlock()
		return false
	}
	p.dead = true
	p.mu.Unlock()
	p.host.Kill(power)
	n.mu.Lock()
	from := n.dir
	n.copies++
	n.dir = filepath.Join(n.world.root, fmt.Sprintf("%s-%d", hostOf(n.name), n.copies))
	to := n.dir
	if power {
		n.boots++
	}
	n.mu.Unlock()
	copyTo := n.disk.Crash
	if power {
		copyTo = n.disk.PowerLoss
	}
	if err := copyTo(from, to); err != nil {
		panic(fmt.Sprintf("simulations: copy %s: %v", from, err))
	}
	return true
}

// bury ends a process that is dead, or dies now, and removes what it leaves.
func (n *node) bury(power bool) {
	n.mu.Lock()
	p := n.process
	n.mu.Unlock()
	if p == nil {
		return
	}
	n.world.still()
	n.mu.Lock()
	old := n.dir
	n.mu.Unlock()
	if !n.die(p, power) {
		old = ""
	}
	n.mu.Lock()
	n.process = nil
	n.mu.Unlock()
	p.end(true)
	if old != "" {
		_ = n.disk.Remove(old) // what is left goes with the run
	}
}

// halt stops the node's process cleanly.
func (n *node) halt() {
	n.mu.Lock()
	p := n.process
	n.process = nil
	n.mu.Unlock()
	if p == nil {
		return
	}
	p.end(false)
	p.host.Kill(false)
}

func (p *process) end(kill bool) {
	if kill {
		for _, c := range p.closed {
			_ = c.Close() // it is killed
		}
		p.member.Kill()
	} else {
		for _, c := range p.closed {
			if s, ok := c.(*http.Server); ok {
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
				if s.Shutdown(ctx) != nil {
					_ = s.Close()
				}
				cancel()
			}
		}
		_ = p.member.Stop() // a disk may be full
	}
	p.stop()
	p.served.Wait()
}

// up reports whether the node's process runs.
func (n *node) up() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.process != nil
}

// running is the node's process, nil while it is down or dying.
func (n *node) running() *process {
	n.mu.Lock()
	p := n.process
	n.mu.Unlock()
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return nil
	}
	return p
}

// start starts the node's process on what its disk has.
func (n *node) start() error {
	n.mu.Lock()
	dir, boot := n.dir, fmt.Sprintf("boot-%d", n.boots)
	n.mu.Unlock()
	w := n.world
	p := &process{host: w.net.Host(hostOf(n.name)), applied: make(map[uint32]uint64), fatal: make(chan struct{})}
	part, err := member.Connect(w.place(n.region, p, n.name), w.peers(n.region, p.host))
	if err != nil {
		p.host.Kill(false)
		return err
	}
	m, err := part.Open(n.name, dir, w.config(n, boot), p.fail)
	if err != nil {
		p.host.Kill(false)
		return err
	}
	p.part, p.member = part, m
	part.Attach(m.Node.Router)
	var ctx context.Context
	ctx, p.stop = context.WithCancel(context.Background())
	p.served.Go(func() { part.Run(ctx) })
	listen := func(port string) net.Listener {
		ln, err := p.host.Listen(port)
		if err != nil {
			panic(fmt.Sprintf("simulations: listen: %v", err)) // a new host's
		}
		return ln
	}
	inbound, err := part.PeerServer(nil)
	if err != nil {
		panic(fmt.Sprintf("simulations: peer server: %v", err))
	}
	handler, err := part.Place.Handler(member.Surface{
		Serves: m.Node, Names: w.ids(), Regions: w.regions, Catalog: w.catalog, Auth: rpc.TrustedHeaders{}, RequestTimeout: 2 * time.Second,
		ShareKey: []byte("the same in all regions, and never changed"),
	})
	if err != nil {
		panic(fmt.Sprintf("simulations: handler: %v", err))
	}
	api := rpc.NewServer(hostOf(n.name), handler, w.log)
	p.closed = []io.Closer{inbound, api}
	m.Start(listen(linkPort))
	peerLn, apiLn := listen(peerPort), listen(apiPort)
	p.served.Go(func() { _ = inbound.Serve(peerLn) }) // it is closed in the end
	p.served.Go(func() { _ = api.Serve(apiLn) })
	n.mu.Lock()
	n.process = p
	n.mu.Unlock()
	return nil
}

// fail is told by a node that it must not go on.
func (p *process) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed == nil {
		p.failed = err
		close(p.fatal)
	}
}

func (w *world) ids() map[crdt.RegionID]string {
	out := make(map[crdt.RegionID]string)
	for r := range w.plan.Shape.Regions {
		out[crdt.RegionID(r+1)] = regionNames[r]
	}
	return out
}

// regions is what shoppers' clients are told: each region has one address, and
// finds out by itself which regions serve.
func (w *world) regions(context.Context) (out []rpc.RegionInfo) {
	for r := range w.plan.Shape.Regions {
		out = append(out, rpc.RegionInfo{Region: regionNames[r], Address: "http://" + regionNames[r] + ":" + apiPort, Healthy: true})
	}
	return out
}

func (w *world) place(name string, p *process, node string) member.Place {
	var nodes []string
	for i := range w.plan.Shape.Nodes {
		nodes = append(nodes, nodeName(name, i))
	}
	var id crdt.RegionID
	for r, other := range regionNames {
		if other == name {
			id = crdt.RegionID(r + 1)
		}
	}
	return member.Place{
		Cluster: "sim", Region: name, ID: id, Nodes: nodes, Shards: w.plan.Shape.Shards, Incarnation: 1,
		Dial: func(ctx context.Context, to string) (net.Conn, error) {
			return p.host.Dial(ctx, hostOf(to)+":"+linkPort)
		},
		Cache:  w.caches[name],
		Limits: shard.Limits{Lines: 100, Codes: 10, Quantity: 100000, OpLife: 24 * time.Hour, Undo: 10 * time.Minute},
		Events: member.Events{Applied: func(string) func(uint32, shard.Applied) {
			return func(id uint32, a shard.Applied) { w.applied(p, node, id, a) }
		}},
		Log: w.log.With(slog.String("node", node)),
	}
}

// applied checks that what a process has applied only grows.
func (w *world) applied(p *process, node string, id uint32, a shard.Applied) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w.totals.evaluated("applied index", 1)
	if a.Index < p.applied[id] {
		w.violated(check.Violation{Check: "applied", Text: fmt.Sprintf("%s shard %d applied %d after %d", node, id, a.Index, p.applied[id])})
	}
	p.applied[id] = a.Index
}

func (w *world) peers(name string, host *network.Host) member.Peers {
	out := member.Peers{
		Regions: make(map[string]member.Peer),
		Dial: func(string) member.DialFunc {
			return func(ctx context.Context, _, addr string) (net.Conn, error) { return host.Dial(ctx, addr) }
		},
	}
	for r := range w.plan.Shape.Regions {
		if regionNames[r] == name {
			continue
		}
		p := member.Peer{ID: crdt.RegionID(r + 1)}
		for i := range w.plan.Shape.Nodes {
			p.URLs = append(p.URLs, "http://"+hostOf(nodeName(regionNames[r], i))+":"+peerPort)
		}
		out.Regions[regionNames[r]] = p
	}
	return out
}

func (w *world) config(n *node, boot string) member.Config {
	c := member.DefaultConfig()
	c.MemtableBytes, c.CacheBytes, c.SegmentBytes, c.RetainRows = 1<<20, 1<<20, w.plan.Segment, w.retain
	c.Timing.Heartbeat, c.Timing.Lease, c.Timing.Commit = w.plan.Heartbeat, w.plan.Heartbeat/2, w.plan.Heartbeat/5
	c.Timing.SnapshotEvery = 15 * time.Second
	c.Timing.SnapshotAfter, c.Timing.Trailing = w.plan.SnapshotAfter, w.plan.Trailing
	c.Tune = func(r *region.Config) {
		r.Machine = region.Machine{Clock: n.clock, Boot: boot, Files: n.disk.Files(), Before: n.disk.Wait, Steps: n.step}
	}
	return c
}

// startAll starts all nodes, and waits until every region serves.
func (w *world) startAll(ctx context.Context) error {
	for _, name := range w.names {
		if err := w.nodes[name].start(); err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
	}
	if err := w.await(ctx, time.Minute, w.ready); err != nil {
		return fmt.Errorf("the regions do not serve: %w", err)
	}
	w.began = time.Now()
	return nil
}

// ready returns nil when every region serves.
func (w *world) ready(ctx context.Context) error {
	for r := range w.plan.Shape.Regions {
		if err := w.serves(ctx, regionNames[r]); err != nil {
			return err
		}
	}
	return nil
}

// serves returns nil when a region serves.
func (w *world) serves(ctx context.Context, region string) error {
	p := w.anyOf(region)
	if p == nil {
		return fmt.Errorf("%s has no node that runs", region)
	}
	asking, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := p.member.Node.Ready(asking); err != nil {
		return fmt.Errorf("%s: %w", region, err)
	}
	return nil
}

// anyOf is a process of a region, nil when none runs.
func (w *world) anyOf(region string) *process {
	for i := range w.plan.Shape.Nodes {
		if p := w.nodes[nodeName(region, i)].running(); p != nil {
			return p
		}
	}
	return nil
}

// await waits until something holds; the error is why it does not.
func (w *world) await(ctx context.Context, within time.Duration, holds func(context.Context) error) error {
	began := time.Now()
	for {
		err := holds(ctx)
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Since(began) > within {
			return fmt.Errorf("not within %v: %w", within, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// close ends everything.
func (w *world) close() {
	var ending sync.WaitGroup
	for _, n := range w.nodes {
		ending.Go(func() { n.bury(false) })
	}
	ending.Wait()
}

var errNobody = errors.New("no node of the region is up")
