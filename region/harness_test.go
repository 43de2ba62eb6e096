package region

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/cache"
	"github.com/samecart/samecart/region/link"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/region/store"
)

const (
	testCluster = "shop"
	testRegion  = "us"
	testID      = crdt.RegionID(1)
	otherID     = crdt.RegionID(2) // a peer region
)

// TestMain lets more tests run at a time than there are cores: they wait for
// elections most of the time.
func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0)/slowdown)); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// testTiming is fast enough for many elections in one test, and slow enough
// for two busy cores under the race detector.
func testTiming() shard.Timing {
	return shard.Timing{
		Heartbeat: slowdown * 300 * time.Millisecond, Lease: slowdown * 200 * time.Millisecond, Commit: 20 * time.Millisecond,
		SnapshotEvery: time.Minute, SnapshotAfter: 8192, Trailing: 4096,
	}
}

// world is a region under test: real nodes on real directories, joined by
// loopback connections.
type world struct {
	t       *testing.T
	names   []string
	root    string
	shards  uint32
	cache   cache.Cache
	fetcher Fetcher
	route   func(*RouterConfig) // last word on all routers' settings
	tune    func(*Config)       // last word on a node's settings

	mu    sync.Mutex // guards what follows
	addrs map[string]string
	nodes map[string]*running
}

type running struct {
	*Node
	name   string
	cancel context.CancelFunc
	done   chan struct{}
	err    error // once done is closed
}

// newWorld prepares a region of so many nodes; nothing runs yet.
func newWorld(t *testing.T, nodes int, shards uint32) *world {
	t.Helper()
	w := &world{
		t: t, root: t.TempDir(), shards: shards, cache: cache.NewMemory(8 << 20),
		addrs: make(map[string]string), nodes: make(map[string]*running),
	}
	for i := range nodes {
		w.names = append(w.names, fmt.Sprintf("%s/%d", testRegion, i))
	}
	t.Cleanup(w.stopAll)
	return w
}

// startWorld starts a region and waits until all of it serves.
func startWorld(t *testing.T, nodes int, shards uint32, tune ...func(*world)) *world {
	t.Helper()
	w := newWorld(t, nodes, shards)
	for _, f := range tune {
		f(w)
	}
	w.start(w.names...)
	w.ready()
	return w
}

func (w *world) dir(name string) string { return filepath.Join(w.root, filepath.Base(name)) }

func (w *world) dial(ctx context.Context, node string) (net.Conn, error) {
	w.mu.Lock()
	addr, ok := w.addrs[node]
	w.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("node %s is down", node)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}

func (w *world) mux(self string) *link.Mux {
	w.t.Helper()
	c := link.DefaultConfig(self, testCluster+"/"+testRegion, w.dial)
	c.HeartbeatInterval, c.HeartbeatTimeout, c.HeartbeatHold = slowdown*30*time.Millisecond, slowdown*80*time.Millisecond, 2*time.Millisecond
	c.PingInterval, c.PeerTimeout, c.BackoffMax = 200*time.Millisecond, time.Second, 50*time.Millisecond
	c.DialTimeout = 500 * time.Millisecond
	m, err := link.New(c)
	if err != nil {
		w.t.Fatalf("make links of %s: %v", self, err)
	}
	return m
}

func (w *world) routerConfig() RouterConfig {
	c := DefaultRouterConfig()
	c.Region, c.Incarnation, c.Nodes, c.Shards = testID, 1, w.names, w.shards
	c.Cache, c.Fetcher, c.Log = w.cache, w.fetcher, slog.New(slog.DiscardHandler)
	c.StaleAfter, c.CoverWait, c.Attempt = 300*time.Millisecond, 100*time.Millisecond, 300*time.Millisecond
	if w.route != nil {
		w.route(&c)
	}
	return c
}

func (w *world) config(name string) Config {
	log := slog.New(slog.DiscardHandler)
	st := store.DefaultConfig("", log)
	st.MemTableBytes, st.MemTables = 1<<20, 2
	c := Config{
		Cluster: testCluster, Name: testRegion, Node: name, Dir: w.dir(name),
		Router: w.routerConfig(), Store: st, Limits: shard.Limits{Lines: 500, Codes: 10, Quantity: 9999, OpLife: time.Hour, Undo: 10 * time.Minute},
		Timing: testTiming(), CacheBytes: 4 << 20, SegmentBytes: 256 << 10, QueueMax: 1024, RetainRows: 1 << 20,
		Applied: func(uint32, shard.Applied) {},
		Fatal:   func(err error) { w.t.Errorf("node %s: fatal: %v", name, err) },
		Log:     log,
	}
	if w.tune != nil {
		w.tune(&c)
	}
	return c
}

// open opens a node without running it.
func (w *world) open(name string) (*Node, error) {
	m := w.mux(name)
	n, err := Open(w.config(name), m)
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return n, nil
}

// start runs nodes until they are stopped or killed.
func (w *world) start(names ...string) {
	w.t.Helper()
	for _, name := range names {
		n, err := w.open(name)
		if err != nil {
			w.t.Fatalf("open %s: %v", name, err)
		}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			w.t.Fatalf("listen: %v", err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		r := &running{Node: n, name: name, cancel: cancel, done: make(chan struct{})}
		w.mu.Lock()
		w.addrs[name], w.nodes[name] = ln.Addr().String(), r
		w.mu.Unlock()
		go func() {
			defer close(r.done)
			r.err = errors.Join(n.Run(ctx, ln), n.Close())
		}()
	}
}

func (w *world) node(name string) *running {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.nodes[name]
	if n == nil {
		w.t.Fatalf("node %s does not run", name)
	}
	return n
}

func (w *world) up() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.nodes))
}

// stop ends nodes as an operator does.
func (w *world) stop(names ...string) {
	w.t.Helper()
	for _, name := range names {
		r := w.node(name)
		r.cancel()
		w.gone(r)
		if r.err != nil {
			w.t.Errorf("node %s ended with %v", name, r.err)
		}
	}
}

// kill ends nodes without a word to the others.
func (w *world) kill(names ...string) {
	w.t.Helper()
	for _, name := range names {
		r := w.node(name)
		r.Kill()
		r.cancel()
		w.gone(r)
	}
}

func (w *world) gone(r *running) {
	w.t.Helper()
	select {
	case <-r.done:
	case <-time.After(20 * time.Second):
		w.t.Errorf("node %s does not end", r.name)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.nodes, r.name)
	delete(w.addrs, r.name)
}

func (w *world) stopAll() {
	w.mu.Lock()
	all := slices.Collect(maps.Values(w.nodes))
	w.mu.Unlock()
	for _, r := range all {
		r.cancel()
	}
	for _, r := range all {
		w.gone(r)
	}
}

// ready waits until every shard has a leader and every node that is up has
// its vote and its leader's log.
func (w *world) ready() {
	w.t.Helper()
	within(w.t, 15*time.Second, "region is ready", func() error {
		for _, name := range w.up() {
			n := w.node(name)
			for _, id := range n.heldShards() {
				if err := w.settled(n, id); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (w *world) settled(n *running, id uint32) error {
	s := n.here(id)
	if s == nil {
		return fmt.Errorf("node %s has not started shard %d", n.name, id)
	}
	l := w.leading(id)
	if l == nil {
		return fmt.Errorf("shard %d has no leader", id)
	}
	servers, err := l.here(id).Servers()
	if err != nil {
		return err
	}
	for _, srv := range servers {
		if string(srv.ID) == n.id.ServerID && srv.Suffrage == 0 {
			if have, want := s.Marker().Applied, l.here(id).Marker().Applied; have < want {
				return fmt.Errorf("node %s has applied %d of %d in shard %d", n.name, have, want, id)
			}
			return nil
		}
	}
	return fmt.Errorf("node %s has no vote in shard %d: %v", n.name, id, servers)
}

// leading returns the node that leads a shard, nil when none does.
func (w *world) leading(id uint32) *running {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.nodes {
		if s := n.here(id); s != nil && s.Leads() {
			return n
		}
	}
	return nil
}

func (w *world) leader(id uint32) *running {
	w.t.Helper()
	var l *running
	within(w.t, 10*time.Second, fmt.Sprintf("shard %d has a leader", id), func() error {
		if l = w.leading(id); l == nil {
			return errors.New("none")
		}
		return nil
	})
	return l
}

// gateway returns a router without shards.
func (w *world) gateway() *Router {
	w.t.Helper()
	m := w.mux(testRegion + "/gateway")
	w.t.Cleanup(func() {
		if err := m.Close(); err != nil {
			w.t.Errorf("close gateway: %v", err)
		}
	})
	return NewRouter(w.routerConfig(), m)
}

// within polls until ok returns nil.
func within(t *testing.T, d time.Duration, what string, ok func() error) {
	t.Helper()
	deadline := time.After(d)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%s: not within %v: %v", what, d, err)
		case <-tick.C:
		}
	}
}

// soon is a context for a call that should succeed.
func soon(t *testing.T) context.Context { return limited(t, 10*time.Second) }

func limited(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// cartIn returns the n-th cart id of those that a shard owns.
func (w *world) cartIn(id uint32, n int) string {
	slots := shard.NewSlots(w.shards)
	for i := 0; ; i++ {
		c := fmt.Sprintf("cart-%d", i)
		if slots.Shard(slots.Of(c)) != id {
			continue
		}
		if n == 0 {
			return c
		}
		n--
	}
}

func addEdit(cart, sku string, n uint32) *regionv1.Edit {
	return &regionv1.Edit{CartId: cart, Changes: []*regionv1.Change{{
		Kind: regionv1.Change_KIND_ADD, Quantity: n, Price: 2999, Currency: "USD",
		Line: &regionv1.LineKey{Seller: "acme", Sku: sku},
	}}}
}

func opAdd(op uint64, cart, sku string, n uint32) *regionv1.Edit {
	e := addEdit(cart, sku, n)
	e.OpId = binary.BigEndian.AppendUint64(make([]byte, 8, 16), op)
	e.Fingerprint = op
	return e
}

// ops gives out op ids that no test counts itself.
var ops atomic.Uint64

// sure gives an edit an op id when it has none: a busy machine may change
// leaders at any time, and the edit is then sent again.
func sure(e *regionv1.Edit) *regionv1.Edit {
	if len(e.OpId) == 0 {
		e.Fingerprint = ops.Add(1) | 1<<40
		e.OpId = binary.BigEndian.AppendUint64(make([]byte, 8, 16), e.Fingerprint)
	}
	return e
}

// mustEdit commits an edit and returns its outcome.
func mustEdit(t *testing.T, r *Router, e *regionv1.Edit) *regionv1.Outcome {
	t.Helper()
	e = sure(e)
	out, err := r.Edit(soon(t), e)
	if err != nil {
		t.Fatalf("edit %s: %v", e.CartId, err)
	}
	if out.Code != regionv1.Outcome_CODE_OK {
		t.Fatalf("edit %s: refused with %v", e.CartId, out.Code)
	}
	return out
}

func mustRead(t *testing.T, r *Router, cart string, o ReadOptions) View {
	t.Helper()
	v, err := r.Read(soon(t), cart, o)
	if err != nil {
		t.Fatalf("read %s: %v", cart, err)
	}
	return v
}

// quantities shows a cart as SKU → quantity.
func quantities(v View) map[string]uint32 {
	out := make(map[string]uint32)
	for k, l := range v.State.Cart.Visible() {
		out[k.SKU] = l.Quantity
	}
	return out
}

func wantLines(t *testing.T, v View, want map[string]uint32) {
	t.Helper()
	if got := quantities(v); !maps.Equal(got, want) {
		t.Errorf("cart %s has %v, want %v", v.CartID, got, want)
	}
}

// foreign is a cart edited in a peer region.
type foreign struct {
	id    string
	cart  *crdt.Cart
	rows  []crdt.Row
	write crdt.Writer
}

func newForeign(id string) *foreign {
	return &foreign{id: id, cart: &crdt.Cart{}, write: crdt.Writer{
		Replica: crdt.Replica{Region: otherID, Incarnation: 1}, At: crdt.TimestampAt(time.Now().UnixMilli()),
	}}
}

// add edits the cart; seq is the row's place in its stream.
func (f *foreign) add(seq uint64, sku string, n uint32) *foreign {
	d := f.cart.Add(f.write, crdt.LineKey{Seller: "acme", SKU: sku}, n,
		crdt.Offer{Price: 100, Currency: "USD", AddedAt: f.write.At}, false)
	f.cart = f.cart.Apply(d)
	f.rows = append(f.rows, crdt.Row{Seq: seq, Last: seq, CartID: f.id, At: f.write.At, Delta: d})
	return f
}

func (f *foreign) state() []byte { return crdt.State{Cart: f.cart}.Encode(nil) }

// tree lists a directory with the content of its files.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			out[path] = "directory"
			return nil
		}
		b, err := os.ReadFile(path)
		out[path] = string(b)
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("list %s: %v", dir, err)
	}
	return out
}

type handlerOf = link.Handler

func enc(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func badEdit() *regionv1.Command {
	return &regionv1.Command{Command: &regionv1.Command_Edit{Edit: &regionv1.Edit{
		CartId: "c", Changes: []*regionv1.Change{{Kind: 99}},
	}}}
}
