package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/samecart/samecart/crdt"
	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	membershipv1 "github.com/samecart/samecart/proto/membership/v1"
	"github.com/samecart/samecart/proto/promotion/v1/promotionv1connect"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/region/cache"
	"github.com/samecart/samecart/region/link"
	"github.com/samecart/samecart/rpc"
	"github.com/samecart/samecart/rpc/catalog"
	"github.com/samecart/samecart/rpc/member"
	"github.com/samecart/samecart/rpc/shipping"
)

// devRegions are the regions of cartd dev, with their ids.
var devRegions = []struct {
	name string
	id   uint16
}{{"us-east", 1}, {"eu-west", 2}, {"ap-south", 3}}

const devNodes = 3

// devMemory is what the collector keeps nine nodes within, where it can: a
// laptop has other things to do.
const devMemory = 800 << 20

// devSettings suit nine nodes in one process.
func devSettings() member.Config {
	cfg := member.DefaultConfig()
	cfg.MemtableBytes, cfg.CacheBytes, cfg.SegmentBytes, cfg.RetainRows = 16<<20, 8<<20, 4<<20, 200_000
	// Nine nodes share two cores with whatever else runs there: one that
	// waits for its turn is not a lost leader.
	cfg.Timing.Heartbeat, cfg.Timing.Lease = 1300*time.Millisecond, 850*time.Millisecond
	cfg.Timing.SnapshotEvery = 30 * time.Second
	cfg.AskFirst = false
	return cfg
}

// dev is the whole of cartd dev.
type dev struct {
	cmd      devCommand
	dir      string
	faults   *faults
	metrics  *metrics
	catalog  *catalog.Catalog
	shipping *shipping.Service
	rules    promotionv1connect.PromotionServiceClient
	guests   *rpc.GuestSessions // their key goes with the process, as identity is on trust
	log      *slog.Logger
	out      io.Writer
	failed   chan error // the first thing that ends the process

	shareKey []byte // of links that share carts
	all      []*devRegion

	addrMu sync.Mutex // guards addrs
	addrs  map[string]string
}

// devRegion is one region of cartd dev: three nodes, and a gateway that
// serves the API and takes other regions' rows.
type devRegion struct {
	dev     *dev
	name    string
	id      uint16
	address string // host:port of the API
	log     *slog.Logger
	part    *member.Part
	follow  context.CancelFunc // ends the part's run
	gate    *link.Mux
	router  *region.Router
	hot     cache.Cache
	api     *rpc.Handler
	inbound *http.Server // from other regions; nil while the region is down

	serving   atomic.Bool // the API's port is open
	readiness atomic.Pointer[readiness]

	mu       sync.Mutex // guards what follows; held while nodes start and stop
	server   *http.Server
	settings member.Config // of its nodes
	nodes    map[string]*devNode
}

// devNode is one node's place: it keeps its address while the node is gone.
type devNode struct {
	name string
	// addr is stored while the region's gateway, which the API has used since
	// its port is open, may dial it already; nil until then.
	addr   atomic.Pointer[string]
	clock  skewed
	member *member.Member
}

// Run runs the three regions until ctx ends; out is told where they are.
func (c *devCommand) Run(ctx context.Context, log *slog.Logger, out io.Writer) error {
	if err := c.validate(); err != nil {
		return usageError{err}
	}
	rules, err := c.rules()
	if err != nil {
		return usageError{err}
	}
	d := &dev{cmd: *c, dir: c.Data, rules: rules, out: out, faults: newFaults(), metrics: newMetrics(), log: log, failed: make(chan error, 1), addrs: make(map[string]string)}
	if c.Ephemeral {
		dir, err := os.MkdirTemp("", "samecart-")
		if err != nil {
			return usageError{err}
		}
		defer func() {
			if err := os.RemoveAll(dir); err != nil {
				log.Warn("temporary directory left behind", slog.Any("err", err))
			}
		}()
		d.dir = dir
	}
	unlock, err := lockDir(d.dir)
	if err != nil {
		return usageError{err}
	}
	defer unlock()
	return d.run(ctx)
}

func (c devCommand) validate() error {
	errs := []error{c.limits.validate()}
	if c.Port < 1 || c.Port > 65535-len(devRegions) {
		errs = append(errs, fmt.Errorf("--port %d: four ports from there must be in 1 to 65535", c.Port))
	}
	if c.Shards < 1 || c.Shards > 64 {
		errs = append(errs, fmt.Errorf("--shards %d: give 1 to 64", c.Shards))
	}
	if c.Incarnation < 1 {
		errs = append(errs, errIncarnation)
	}
	return errors.Join(errs...)
}

// lockDir makes sure that one process alone uses the directory. The lock
// goes with the process, however it ends.
func lockDir(dir string) (unlock func(), err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read data directory: %w", err)
	}
	for _, e := range entries {
		known := e.Name() == "lock" || e.Name() == shareKeyFile || slices.ContainsFunc(devRegions, func(r struct {
			name string
			id   uint16
		}) bool {
			return e.Name() == r.name
		})
		if !known {
			return nil, fmt.Errorf("%w: %s holds %q, which cartd dev did not make; give another --data", region.ErrForeignData, dir, e.Name())
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() // the lock's error is the one to tell
		return nil, fmt.Errorf("%s is in use by another cartd; stop it, or give another --data", dir)
	}
	return func() { _ = f.Close() }, nil // which lets go of the lock
}

func (d *dev) run(ctx context.Context) error {
	start := time.Now()
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(devMemory)
	}
	var err error
	if d.catalog, err = catalog.New(); err != nil {
		return err
	}
	if d.guests, err = rpc.EphemeralGuestSessions(); err != nil {
		return err
	}
	if d.shipping, err = d.cmd.embeddedShipping(); err != nil {
		return usageError{err}
	}
	if err := d.checkRegions(); err != nil {
		return usageError{err}
	}
	// All ports first: one that is taken must leave the data untouched.
	front, public, err := d.listen()
	if err != nil {
		return usageError{err}
	}
	key, err := openKey(filepath.Join(d.dir, shareKeyFile))
	if err != nil {
		return usageError{err}
	}
	d.shareKey = key.bytes
	defer d.stop()
	for i, r := range devRegions {
		dr := &devRegion{
			dev: d, name: r.name, id: r.id, address: public[i].Addr().String(), log: d.log.With(slog.String("region", r.name)),
			settings: devSettings(), nodes: make(map[string]*devNode),
		}
		d.all = append(d.all, dr)
		if err := dr.prepare(public[i]); err != nil {
			return err
		}
	}
	frontServer := rpc.NewServer(front.Addr().String(), http.HandlerFunc(d.serveNearest), d.log)
	go func() { d.serve(frontServer, front) }()
	defer shutdown(frontServer)
	// All data is opened before any of it is used: a node whose data is not
	// right must leave that of the others as it is.
	if err := d.each((*devRegion).openNodes); err != nil {
		return mendable(err)
	}
	if err := key.keep(); err != nil {
		return err
	}
	if err := d.each((*devRegion).startNodes); err != nil {
		return err
	}
	d.banner(front.Addr().String())
	if err := d.awaitReady(ctx); err != nil {
		return mendable(err)
	}
	fmt.Fprintf(d.out, "ready after %.1f s; Ctrl-C stops it\n", time.Since(start).Seconds())
	select {
	case <-ctx.Done():
		fmt.Fprintln(d.out, "stopping")
		return nil
	case err := <-d.failed:
		return mendable(err)
	}
}

// checkRegions refuses data of some regions only: a region that lost all its
// nodes' data would be formed anew beside peers that know its writes, and issue
// the same dots again. The regions of one process need not ask each other.
func (d *dev) checkRegions() error {
	var have, lack []string
	for _, r := range devRegions {
		switch there, formed := nodesData(filepath.Join(d.dir, r.name)); {
		case formed:
			have = append(have, r.name)
		case !there:
			lack = append(lack, r.name)
		}
	}
	if len(have) > 0 && len(lack) > 0 {
		return fmt.Errorf("%w: %s has data of %s but none of %s; put it back, or give another --data",
			region.ErrDamagedData, d.dir, strings.Join(have, " and "), strings.Join(lack, " and "))
	}
	return nil
}

// nodesData reports whether there is data of any of a region's nodes, and
// whether the region was formed: what cannot be read is for the node to refuse.
func nodesData(dir string) (there, formed bool) {
	for n := range devNodes {
		b, err := os.ReadFile(filepath.Join(dir, strconv.Itoa(n+1), "node.json"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var identity struct{ Formed bool }
		there, formed = true, formed || json.Unmarshal(b, &identity) != nil || identity.Formed
	}
	return there, formed
}

// listen opens the four ports that clients use.
func (d *dev) listen() (front net.Listener, public []net.Listener, err error) {
	var open []net.Listener
	for i := range 1 + len(devRegions) {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(d.cmd.Port+i))
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			for _, l := range open {
				_ = l.Close() // never used
			}
			if errors.Is(err, syscall.EADDRINUSE) {
				return nil, nil, fmt.Errorf("port %d is in use; stop what uses it, or give another --port", d.cmd.Port+i)
			}
			return nil, nil, fmt.Errorf("listen: %w", err)
		}
		open = append(open, ln)
	}
	return open[0], open[1:], nil
}

func (d *dev) banner(front string) {
	fmt.Fprintf(d.out, "nearest region  http://%s\n", front)
	for _, r := range d.all {
		fmt.Fprintf(d.out, "%-15s http://%s\n", r.name, r.address)
	}
	fmt.Fprintf(d.out, "state in        %s\n", d.dir)
}

func (d *dev) awaitReady(ctx context.Context) error {
	for _, r := range d.all {
		for r.router.Ready(ctx) != nil {
			select {
			case <-ctx.Done():
				return nil
			case err := <-d.failed:
				return err
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return nil
}

// fail ends the process: a node's state can no longer be trusted, or a
// server broke.
func (d *dev) fail(err error) {
	select {
	case d.failed <- err:
	default: // another came first
	}
}

func (d *dev) serve(s *http.Server, ln net.Listener) {
	if err := s.Serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
		d.fail(fmt.Errorf("serve %s: %w", s.Addr, err))
	}
}

// shutdown lets requests finish for a moment, then ends them.
func shutdown(s *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		_ = s.Close() // what did not end in time is cut
	}
}

// each does something with all regions at the same time.
func (d *dev) each(do func(*devRegion) error) error {
	var doing sync.WaitGroup
	errs := make([]error, len(d.all))
	for i, r := range d.all {
		doing.Go(func() { errs[i] = do(r) })
	}
	doing.Wait()
	return errors.Join(errs...)
}

func (d *dev) stop() {
	_ = d.each(func(r *devRegion) error { r.stop(); return nil }) // what fails is logged
}

func (d *dev) find(name string) (*devRegion, error) {
	for _, r := range d.all {
		if r.name == name {
			return r, nil
		}
	}
	return nil, fmt.Errorf("%w: region %q; there are us-east, eu-west and ap-south", errUnknown, name)
}

// serveNearest answers clients that know no region: from the first region
// that serves. All are in this process, as near as each other, and are asked
// without a probe: it needs nothing of what a gateway passes calls on with.
func (d *dev) serveNearest(w http.ResponseWriter, req *http.Request) {
	var open *devRegion
	for _, r := range d.all {
		if !r.serving.Load() {
			continue
		}
		if r.readySoon(req.Context()) {
			r.api.ServeHTTP(w, req)
			return
		}
		if open == nil {
			open = r
		}
	}
	if open == nil {
		open = d.all[0] // its API says what is wrong, and takes admin calls
	}
	open.api.ServeHTTP(w, req)
}

// --- one region ---

// prepare builds all of a region but its nodes. Links between regions are
// resolved when they are used, so the order of regions does not matter.
func (r *devRegion) prepare(public net.Listener) error {
	d := r.dev
	cfg := cache.DefaultConfig()
	cfg.Prefix, cfg.MemoryBytesMax, cfg.Log = "samecart:"+r.name+":", 8<<20, d.log
	var err error
	if r.hot, err = cache.Open(d.cmd.Redis, cfg); err != nil {
		return usageError{err}
	}
	names := make([]string, devNodes)
	for i := range names {
		names[i] = fmt.Sprintf("%s/%d", r.name, i+1)
		r.nodes[names[i]] = &devNode{name: names[i]}
	}
	r.part, err = member.Connect(member.Place{
		Cluster: "dev", Region: r.name, ID: crdt.RegionID(r.id), Nodes: names, Shards: d.cmd.Shards, Incarnation: d.cmd.Incarnation,
		Dial: r.dial, Cache: r.hot, Limits: d.cmd.ofCarts(), Events: d.metrics.events(r.name), Log: r.log,
	}, r.peers())
	if err != nil {
		return err
	}
	if r.router, r.gate, err = r.part.Place.Gateway(r.name+"/gateway", r.settings.Timing.Heartbeat); err != nil {
		return err
	}
	r.part.Attach(r.router)
	d.metrics.members.of(r.name, r.part.Roster)
	var following context.Context
	following, r.follow = context.WithCancel(context.Background())
	go r.part.Run(following)
	if err := r.acceptPeers(); err != nil {
		return err
	}
	regions := make(map[crdt.RegionID]string)
	for _, o := range devRegions {
		regions[crdt.RegionID(o.id)] = o.name
	}
	r.api, err = r.part.Place.Handler(member.Surface{
		ShareKey: d.shareKey, ShareURL: d.cmd.shareURL(),
		Serves: r.router, Names: regions, Regions: d.regionInfos, Catalog: d.catalog, Shipping: d.shipping, Promotions: d.rules,
		Auth: rpc.TrustedHeaders{}, Guests: d.guests, RequestTimeout: d.cmd.RequestTimeout, Mounts: mounts(d, d.metrics),
	})
	if err != nil {
		return err
	}
	go func() { _ = r.api.Run(following) }() // it has no error
	r.openAPI(public)
	return nil
}

func (r *devRegion) openAPI(ln net.Listener) {
	r.server = rpc.NewServer(r.address, r.api, r.log)
	r.serving.Store(true)
	go r.dev.serve(r.server, ln)
}

func (r *devRegion) dial(ctx context.Context, node string) (net.Conn, error) {
	n, ok := r.nodes[node] // the map is not changed once made
	if !ok {
		return nil, fmt.Errorf("node %q is not there", node)
	}
	addr := n.addr.Load()
	if addr == nil {
		return nil, fmt.Errorf("node %q has not started yet", node)
	}
	var dialer net.Dialer
	return dialer.DialContext(ctx, "tcp", *addr)
}

func (r *devRegion) openNodes() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range r.part.Place.Nodes {
		if err := r.openNode(r.nodes[name]); err != nil {
			return err
		}
	}
	return nil
}

// startNodes starts all nodes, on ports of their own.
func (r *devRegion) startNodes() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	listeners := make([]net.Listener, devNodes)
	for i, name := range r.part.Place.Nodes {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			for _, open := range listeners[:i] {
				_ = open.Close() // never used
			}
			return fmt.Errorf("listen: %w", err)
		}
		addr := ln.Addr().String()
		r.nodes[name].addr.Store(&addr)
		listeners[i] = ln
	}
	for i, name := range r.part.Place.Nodes {
		r.nodes[name].member.Start(listeners[i])
	}
	// From here on a region without data is one that lost it.
	r.settings.AskFirst = true
	return nil
}

// openNode is called with mu held.
func (r *devRegion) openNode(n *devNode) error {
	dir := filepath.Join(r.dev.dir, r.name, filepath.Base(n.name))
	cfg := r.settings
	cfg.Tune = func(c *region.Config) { c.Machine.Clock = n.clock.now }
	m, err := r.part.Open(n.name, dir, cfg, r.dev.fail)
	if err != nil {
		return fmt.Errorf("start node %s: %w", n.name, err)
	}
	n.clock.ahead.Store(0) // as a process's is
	n.member = m
	return nil
}

func (r *devRegion) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.server != nil {
		r.serving.Store(false)
		shutdown(r.server)
	}
	r.closePeers()
	var stopping sync.WaitGroup
	for _, n := range r.nodes {
		if m := n.member; m != nil {
			stopping.Go(func() {
				if err := m.Stop(); err != nil {
					r.log.Error("node not stopped cleanly", slog.String("node", n.name), slog.Any("err", err))
				}
			})
		}
	}
	stopping.Wait()
	if r.follow != nil {
		r.follow()
	}
	var err error
	if r.gate != nil {
		err = r.gate.Close()
	}
	if r.hot != nil {
		err = errors.Join(err, r.hot.Close())
	}
	if err != nil {
		r.log.Warn("region not stopped cleanly", slog.Any("err", err))
	}
}

// readyFor is how long an answer of readySoon holds: asking costs a call to
// every node, a wrong answer costs the client one retry.
const readyFor = 200 * time.Millisecond

// readySoon reports whether the region took writes a moment ago.
func (r *devRegion) readySoon(ctx context.Context) bool {
	if last := r.readiness.Load(); last != nil && time.Since(last.at) < readyFor {
		return last.ok
	}
	now := &readiness{at: time.Now(), ok: r.router.Ready(ctx) == nil}
	r.readiness.Store(now)
	return now.ok
}

// readiness is what was found out about a region, and when.
type readiness struct {
	at time.Time
	ok bool
}

func (d *dev) regionInfos(ctx context.Context) []rpc.RegionInfo {
	var out []rpc.RegionInfo
	for _, r := range d.all {
		out = append(out, rpc.RegionInfo{
			Region: r.name, Address: "http://" + r.address,
			Healthy: r.serving.Load() && r.router.Ready(ctx) == nil,
		})
	}
	return out
}

// --- operations, for the admin service ---

var _ operations = (*dev)(nil)

func (d *dev) buckets(name string) (buckets, error) {
	r, err := d.find(name)
	if err != nil {
		return nil, err
	}
	return member.Sink{Router: r.router}, nil
}

func (d *dev) carts(name string) (carts, error) {
	r, err := d.find(name)
	if err != nil {
		return nil, err
	}
	return r.part.Restorable(), nil
}

// member asks a region that takes edits to have the others agree: one that is
// cut off or down cannot.
func (d *dev) member(ctx context.Context, req *adminv1.MemberRequest) (*membershipv1.Membership, error) {
	ask := d.all[0]
	for _, r := range slices.Backward(d.all) {
		if r.name != req.Region && r.serving.Load() && r.readySoon(ctx) {
			ask = r
		}
	}
	return changeMember(ctx, ask.part.Roster, req)
}

// membership is the newest document that any region knows.
func (d *dev) membership() (newest *membershipv1.Membership) {
	for _, r := range d.all {
		if m := r.part.Roster.Newest(); m.Newer(newest) {
			newest = m
		}
	}
	return newest
}

func (d *dev) catalogue() (*catalog.Catalog, error) { return d.catalog, nil }

func (d *dev) repair(ctx context.Context, name, peer string) error {
	r, err := d.find(name)
	if err != nil {
		return err
	}
	if _, err := d.find(peer); err != nil {
		return err
	}
	return r.router.Repair(ctx, peer)
}

func (d *dev) regions(ctx context.Context) *adminv1.RegionsResponse {
	out := &adminv1.RegionsResponse{Membership: d.membership()}
	for i, r := range d.all {
		st := statusOf(r.part.Place, "http://"+r.address, r.router.Status(ctx))
		st.Ready = st.Ready && r.serving.Load()
		out.Regions = append(out.Regions, st)
		for _, o := range d.all[i+1:] {
			p := pairOf(r.name, o.name)
			cut, delay := d.faults.state(p)
			out.Links = append(out.Links, &adminv1.LinkStatus{A: r.name, B: o.name, Cut: cut, DelayMs: delay.Milliseconds()})
		}
	}
	return out
}

func (d *dev) link(_ context.Context, p pair, cut bool, delay time.Duration) error {
	if !d.cmd.Drills {
		return errNoDrills
	}
	for _, name := range []string{p.a, p.b} {
		if _, err := d.find(name); err != nil {
			return err
		}
	}
	d.faults.set(p, cut, delay)
	return nil
}

func (d *dev) node(_ context.Context, name string, start bool) error {
	if !d.cmd.Drills {
		return errNoDrills
	}
	for _, r := range d.all {
		if n, ok := r.nodes[name]; ok {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.switchNode(n, start)
		}
	}
	return fmt.Errorf("%w: node %q; nodes are called us-east/1, us-east/2, …", errUnknown, name)
}

func (d *dev) setClock(_ context.Context, name string, ahead time.Duration) error {
	if !d.cmd.Drills {
		return errNoDrills
	}
	for _, r := range d.all {
		if n, ok := r.nodes[name]; ok {
			n.clock.ahead.Store(int64(ahead))
			return nil
		}
	}
	return fmt.Errorf("%w: node %q; nodes are called us-east/1, us-east/2, …", errUnknown, name)
}

// switchNode is called with mu held. What is so already stays so.
func (r *devRegion) switchNode(n *devNode, start bool) error {
	switch {
	case start && n.member == nil:
		ln, err := net.Listen("tcp", *n.addr.Load())
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		if err := r.openNode(n); err != nil {
			return errors.Join(err, ln.Close())
		}
		n.member.Start(ln)
	case !start && n.member != nil:
		n.member.Kill()
		n.member = nil
	}
	return nil
}

func (d *dev) region(_ context.Context, name string, start bool) error {
	if !d.cmd.Drills {
		return errNoDrills
	}
	r, err := d.find(name)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !start && r.serving.Load() {
		r.serving.Store(false)
		_ = r.server.Close() // a kill: requests end as they may
		r.closePeers()
	}
	for _, n := range r.nodes {
		err = errors.Join(err, r.switchNode(n, start))
	}
	if start && err == nil && !r.serving.Load() {
		ln, listenErr := net.Listen("tcp", r.address)
		if listenErr != nil {
			return fmt.Errorf("listen: %w", listenErr)
		}
		if err = r.acceptPeers(); err != nil {
			return errors.Join(err, ln.Close())
		}
		r.openAPI(ln)
	}
	return err
}
