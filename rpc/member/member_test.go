package member_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/region/cache"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/replication"
	"github.com/samecart/samecart/rpc"
	"github.com/samecart/samecart/rpc/catalog"
	"github.com/samecart/samecart/rpc/member"
)

// network carries connections in memory, with a delay for each to open.
type network struct {
	mu        sync.Mutex
	listeners map[string]*listener
}

type listener struct {
	net   *network
	addr  string
	conns chan net.Conn
	done  chan struct{}
	close func()
}

var (
	errNobody = errors.New("nobody listens")
	errClosed = fmt.Errorf("listener: %w", net.ErrClosed)
)

func (n *network) listen(addr string) net.Listener {
	l := &listener{net: n, addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.done) })
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[addr] = l
	return l
}

func (n *network) dial(ctx context.Context, addr string) (net.Conn, error) {
	time.Sleep(time.Millisecond) // nobody tries again without a pause
	n.mu.Lock()
	l := n.listeners[addr]
	n.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("dial %s: %w", addr, errNobody)
	}
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.done:
		return nil, fmt.Errorf("dial %s: %w", addr, errNobody)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, errClosed
	}
}

func (l *listener) Close() error   { l.close(); return nil }
func (l *listener) Addr() net.Addr { return address(l.addr) }

type address string

func (address) Network() string  { return "memory" }
func (a address) String() string { return string(a) }

// shop is some regions of one node each.
type shop struct {
	t       *testing.T
	ids     map[string]crdt.RegionID
	lives   shard.Lives
	dial    func(ctx context.Context, from, to string) (net.Conn, error) // nil: a way that always works
	tune    func(name string, c *region.Config)                          // nil: settings stay
	net     *network
	dir     string
	catalog *catalog.Catalog

	mu  sync.Mutex // guards what follows
	log []string   // of events
}

func (s *shop) note(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, what)
}

func (s *shop) noted(what string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.log, what)
}

// running is one region's only process.
type running struct {
	name   string
	api    http.Handler
	router *region.Router
	failed chan error
	stop   func()
}

func (s *shop) start(name string, askFirst bool) *running {
	s.t.Helper()
	must := func(err error) {
		s.t.Helper()
		if err != nil {
			s.t.Fatal(err)
		}
	}
	hot, err := cache.Open("", cache.DefaultConfig())
	must(err)
	node := name + "/1"
	place := member.Place{
		Cluster: "shop", Region: name, ID: s.ids[name], Nodes: []string{node}, Shards: 2, Incarnation: 1,
		Dial: func(ctx context.Context, node string) (net.Conn, error) { return s.net.dial(ctx, node) }, Cache: hot,
		Limits: shard.Limits{Lines: 500, Codes: 10, Quantity: 999, OpLife: time.Hour, Undo: 10 * time.Minute, Lives: s.lives}, Log: slog.New(slog.DiscardHandler),
		Events: member.Events{
			Applied: func(node string) func(uint32, shard.Applied) {
				return func(uint32, shard.Applied) { s.note("applied " + node) }
			},
			Gossip: replication.Events{Delivered: func(e replication.Delivered) { s.note("delivered to " + e.Name) }},
			Opened: func(node string, _ func() []replication.Status) { s.note("opened " + node) },
			Closed: func(node string) { s.note("closed " + node) },
		},
	}
	peers := member.Peers{Regions: make(map[string]member.Peer), Dial: func(region string) member.DialFunc {
		return func(ctx context.Context, _, _ string) (net.Conn, error) {
			if s.dial != nil {
				return s.dial(ctx, name, region)
			}
			return s.net.dial(ctx, region+"/peers")
		}
	}}
	for other, id := range s.ids {
		if other != name {
			peers.Regions[other] = member.Peer{ID: id, URLs: []string{"http://" + other}}
		}
	}
	part, err := member.Connect(place, peers)
	must(err)
	cfg := member.DefaultConfig()
	cfg.MemtableBytes, cfg.CacheBytes, cfg.SegmentBytes, cfg.AskFirst = 16<<20, 1<<20, 1<<20, askFirst
	cfg.Tune = func(c *region.Config) {
		s.note("tuned " + c.Node)
		if s.tune != nil {
			s.tune(name, c)
		}
	}
	out := &running{name: name, failed: make(chan error, 1)}
	m, err := part.Open(node, filepath.Join(s.dir, name), cfg, func(err error) { out.failed <- err })
	must(err)
	out.router = m.Node.Router
	part.Attach(out.router)
	following, unfollow := context.WithCancel(s.t.Context())
	go part.Run(following)
	m.Start(s.net.listen(node))
	inbound, err := part.PeerServer(nil)
	must(err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = inbound.Serve(s.net.listen(name + "/peers")) // until it is closed
	}()
	out.api, err = part.Place.Handler(member.Surface{
		Serves: m.Node, Names: map[crdt.RegionID]string{1: "us-east", 2: "eu-west"}, Catalog: s.catalog,
		Regions: func(context.Context) []rpc.RegionInfo { return nil }, Auth: rpc.TrustedHeaders{}, RequestTimeout: 2 * time.Second,
	})
	must(err)
	out.stop = sync.OnceFunc(func() {
		_ = inbound.Close() // peers repeat what was not acknowledged
		<-served
		if err := m.Stop(); err != nil {
			s.t.Error(err)
		}
		unfollow()
		if err := hot.Close(); err != nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(out.stop)
	return out
}

func (r *running) call(method, path, body string) (status int, said string) {
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req.Header.Set("X-User-Id", "user-1")
	req.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	r.api.ServeHTTP(w, req)
	all, _ := io.ReadAll(w.Body) // from memory
	return w.Code, string(all)
}

// eventually waits, in the bubble's time.
func (s *shop) eventually(what string, holds func() bool) {
	s.t.Helper()
	for start := time.Now(); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > time.Minute {
			s.t.Fatalf("not within a minute: %s", what)
		}
	}
}

// The parts work together over a network in memory, in a bubble's time, as
// simulations need them to.
func TestTwoRegions(t *testing.T) {
	products, err := catalog.New()
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		s := &shop{
			t: t, dir: t.TempDir(), net: &network{listeners: make(map[string]*listener)}, catalog: products,
			ids: map[string]crdt.RegionID{"us-east": 1, "eu-west": 2},
		}
		us, eu := s.start("us-east", false), s.start("eu-west", false)
		for _, r := range []*running{us, eu} {
			s.eventually(r.name+" is ready", func() bool { return r.router.Ready(t.Context()) == nil })
		}
		if status, said := us.call(http.MethodPost, "/api/v1/cart/items", `{"sku_id":"SKU-1","quantity":2}`); status != http.StatusOK {
			t.Fatalf("add: %d %s", status, said)
		}
		s.eventually("eu-west has the edit of us-east", func() bool {
			_, said := eu.call(http.MethodGet, "/api/v1/cart", "")
			return strings.Contains(said, `"quantity":2`)
		})
		for _, want := range []string{"tuned us-east/1", "opened us-east/1", "applied us-east/1", "delivered to eu-west", "applied eu-west/1"} {
			if !s.noted(want) {
				t.Errorf("no event: %s", want)
			}
		}

		// All disks of us-east are lost. eu-west knows what it wrote.
		us.stop()
		if !s.noted("closed us-east/1") {
			t.Error("no event: closed us-east/1")
		}
		if err := os.RemoveAll(filepath.Join(s.dir, "us-east")); err != nil {
			t.Fatal(err)
		}
		us = s.start("us-east", true)
		var lost member.LostError
		if err := <-us.failed; !errors.As(err, &lost) || lost != (member.LostError{Region: "us-east", Peer: "eu-west", Incarnation: 1}) {
			t.Errorf("ended with %v", err)
		}
	})
}
