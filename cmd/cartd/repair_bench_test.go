package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	"github.com/samecart/samecart/crdt"
	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	"github.com/samecart/samecart/proto/admin/v1/adminv1connect"
	"github.com/samecart/samecart/replication"
	"github.com/samecart/samecart/rpc/member"
)

var apart = flag.String("apart", "", "a directory on another disk for the second region of a benchmark; each region then has a core to itself as well, as regions share neither")

var repairCarts = flag.Int("repair-carts", 20_000, "how many carts BenchmarkRepair has in each region")

// meter is a network between two regions: it forwards, counts, and can be shut.
type meter struct {
	ln    net.Listener
	to    string
	bytes atomic.Int64  // both ways
	delay time.Duration // one way

	mu    sync.Mutex
	shut  bool
	conns map[net.Conn]bool
}

func newMeter(t testing.TB, to string, delay time.Duration) *meter {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &meter{ln: ln, to: to, delay: delay, conns: make(map[net.Conn]bool)}
	t.Cleanup(func() { _ = ln.Close(); m.set(true) })
	go func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			go m.forward(in)
		}
	}()
	return m
}

func (m *meter) forward(in net.Conn) {
	out, err := net.Dial("tcp", m.to)
	if err != nil {
		_ = in.Close()
		return
	}
	m.mu.Lock()
	m.conns[in], m.conns[out] = true, true
	shut := m.shut
	m.mu.Unlock()
	if shut {
		_, _ = in.Close(), out.Close()
	}
	var both sync.WaitGroup
	for _, p := range [][2]net.Conn{{in, out}, {out, in}} {
		both.Go(func() {
			w, end := m.slow(countedWriter{p[0], &m.bytes})
			_, _ = io.Copy(w, p[1])
			end()
			_, _ = p[0].Close(), p[1].Close()
		})
	}
	both.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.conns, in)
	delete(m.conns, out)
}

// slow delays what is written, and keeps its order.
func (m *meter) slow(w io.Writer) (slowed io.Writer, end func()) {
	if m.delay == 0 {
		return w, func() {}
	}
	d := &delayedWriter{delay: m.delay, parts: make(chan delayed, 4096)}
	go func() {
		var err error
		for p := range d.parts {
			time.Sleep(time.Until(p.due))
			if err == nil { // the reading side ends with the connection
				_, err = w.Write(p.data)
			}
		}
	}()
	return d, func() { close(d.parts) }
}

type delayed struct {
	due  time.Time
	data []byte
}

type delayedWriter struct {
	delay time.Duration
	parts chan delayed
}

func (d *delayedWriter) Write(p []byte) (int, error) {
	d.parts <- delayed{time.Now().Add(d.delay), bytes.Clone(p)}
	return len(p), nil
}

type countedWriter struct {
	w io.Writer
	n *atomic.Int64
}

func (c countedWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// set shuts the network, which ends what is open, or opens it.
func (m *meter) set(shut bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shut = shut
	if shut {
		for c := range m.conns {
			_ = c.Close()
		}
	}
}

// repairPair is two regions of one node each, with a meter each way. Region 3
// is neither: its edits come as whole carts, so no delta log has them.
type repairPair struct {
	b       testing.TB
	names   []string
	clients []*replicationClient
	meters  []*meter
	admin   adminv1connect.AdminServiceClient
	logs    []*output
	api     []string
}

// replicationClient reaches a region past the meter.
type replicationClient struct {
	replication.Transport
	as replication.Hello
}

func startRepairPair(b testing.TB, delay time.Duration, args ...string) *repairPair {
	free := freeAddresses(b, 6)
	p := &repairPair{b: b, names: []string{"us-east", "eu-west"}}
	p.meters = []*meter{newMeter(b, free[2], delay), newMeter(b, free[5], delay)} // towards us-east, towards eu-west
	dirs := [2]string{b.TempDir(), b.TempDir()}
	if *apart != "" {
		dirs[1] = filepath.Join(*apart, "second")
		b.Cleanup(func() { _ = os.RemoveAll(dirs[1]) })
	}
	for i, name := range p.names {
		at, other := free[3*i:], 1-i
		c := spawn(b, nil, append([]string{"node", "--region", name, "--node", "1", "--nodes", name + "/1=" + at[1], "--data", filepath.Join(dirs[i], name), "--shards", "1",
			"--listen", at[0], "--link-listen", at[1], "--peer-listen", at[2], "--trust-headers",
			"--peers", p.names[other] + "=http://" + p.meters[other].ln.Addr().String()}, args...)...)
		defer c.serves(b)
		if *apart != "" {
			core := exec.Command("taskset", "--all-tasks", "--cpu-list", "--pid", strconv.Itoa(i), strconv.Itoa(c.cmd.Process.Pid))
			if out, err := core.CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
		}
		p.logs, p.api = append(p.logs, c.errs), append(p.api, "http://"+at[0])
		b.Cleanup(func() {
			if b.Failed() {
				b.Logf("%s: %s", name, c.errs)
			}
		})
		to, err := member.PeerClient("bench", (&net.Dialer{}).DialContext, nil, []string{"http://" + at[2]})
		if err != nil {
			b.Fatal(err)
		}
		p.clients = append(p.clients, &replicationClient{to, replication.Hello{
			Version: replication.Version, Region: p.names[other], Stream: crdt.Stream{Region: crdt.RegionID(other + 1), Incarnation: 1}, SlotHi: 1024,
		}})
	}
	p.admin = adminv1connect.NewAdminServiceClient(http.DefaultClient, "http://"+free[0])
	return p
}

// benchTime is recent: op ids are forgotten after a day.
var benchTime = time.Now().UnixMilli()

// benchCart is a cart of ten lines at some version: each version is one more
// edit of the region that is neither.
func benchCart(i, version int) replication.WholeCart {
	c := &crdt.Cart{}
	var ops []crdt.Op // every edit has its id, as clients' edits have
	for n := range 10 + version {
		w := crdt.Writer{Replica: crdt.Replica{Region: 3, Incarnation: 1}, At: crdt.TimestampAt(benchTime + int64(n))}
		key := crdt.LineKey{Seller: "retail", SKU: fmt.Sprintf("%05d", (i*7+n%10)%4000)}
		d := c.Add(w, key, 1, crdt.Offer{Price: 1295, Currency: "GBP", AddedAt: w.At}, false)
		c = c.Apply(d)
		ops = slices.DeleteFunc(ops, func(o crdt.Op) bool { return d.Context.Has(o.Dot) && !c.Lines.Find(key).Holds(o.Dot) })
		id := sha256.Sum256(fmt.Appendf(nil, "%d/%d", i, n))
		ops = append(ops, crdt.Op{Dot: d.Dots[0], ID: crdt.OpID(id[:16]), Fingerprint: uint64(i), At: w.At})
	}
	return replication.WholeCart{CartID: fmt.Sprintf("cart:user-%07d", i), Data: crdt.State{Cart: c, Ops: ops}.Encode(nil)}
}

// load joins carts [lo, hi) at a version into one region, past the meter, and
// returns their size.
func (p *repairPair) load(region, lo, hi, version int) (size int64) {
	g, ctx := errgroup.WithContext(context.Background())
	g.SetLimit(2)
	var total atomic.Int64
	const part = 512
	for from := lo; from < hi; from += part {
		g.Go(func() error {
			var carts []replication.WholeCart
			for i := from; i < min(from+part, hi); i++ {
				c := benchCart(i, version)
				total.Add(int64(len(c.CartID) + len(c.Data)))
				carts = append(carts, c)
			}
			c := p.clients[region]
			return c.Join(ctx, carts, c.as, 0)
		})
	}
	if err := g.Wait(); err != nil {
		p.b.Fatal(err)
	}
	return total.Load()
}

func (p *repairPair) shut(on bool) {
	for _, m := range p.meters {
		m.set(on)
	}
}

func (p *repairPair) bytes() int64 { return p.meters[0].bytes.Load() + p.meters[1].bytes.Load() }

// connected waits until both regions' streams are open.
func (p *repairPair) connected() {
	eventually(p.b, 30*time.Second, "the regions are connected", func() bool {
		resp, err := p.admin.Regions(context.Background(), asAdmin(&adminv1.RegionsRequest{}))
		if err != nil {
			return false
		}
		for _, r := range resp.Msg.Regions {
			for _, s := range r.Shards {
				for _, peer := range s.Peers {
					if peer.Connected {
						return true
					}
				}
			}
		}
		return false
	})
}

func asAdmin[T any](m *T) *connect.Request[T] {
	req := connect.NewRequest(m)
	req.Header().Set("X-Service-Scopes", "admin")
	return req
}

func (p *repairPair) equal() bool {
	var all [2][]replication.Digest
	for i, c := range p.clients {
		d, err := c.Digests(context.Background(), 0, 1024)
		if err != nil {
			return false
		}
		all[i] = d
	}
	return slices.Equal(all[0], all[1])
}

const repairDone = `msg="repair done"`

// BenchmarkRepair makes two regions equal that differ in some carts, none of
// which any delta log has. -repair-carts sets how many carts there are. Run it
// with -benchtime 1x: a second repair of the same has nothing to do.
func BenchmarkRepair(b *testing.B) {
	n := *repairCarts
	p := startRepairPair(b, 0)
	p.connected() // each waits for the other before it is formed
	p.shut(true)
	full := p.load(0, 0, n, 0)
	p.load(1, 0, n, 0)
	if !p.equal() {
		b.Fatal("the regions do not begin equal")
	}
	version := 0
	for _, differ := range []int{0, min(1000, n/4), n / 4} { // on each side
		b.Run(fmt.Sprintf("carts=%d/differ=%d", n, 2*differ), func(b *testing.B) {
			version++
			p.shut(true)
			own := p.load(0, 0, differ, version) + p.load(1, n/2, n/2+differ, version)
			p.shut(false)
			p.connected()
			done := strings.Count(p.logs[0].String(), repairDone)
			before, begin := p.bytes(), time.Now()
			if _, err := p.admin.Repair(b.Context(), asAdmin(&adminv1.RepairRequest{Region: "us-east", Peer: "eu-west"})); err != nil {
				b.Fatal(err)
			}
			for strings.Count(p.logs[0].String(), repairDone) == done {
				if time.Since(begin) > 30*time.Minute {
					b.Fatal("the repair does not end")
				}
				time.Sleep(2 * time.Millisecond)
			}
			took, wire := time.Since(begin), p.bytes()-before
			if !p.equal() {
				b.Fatal("the regions are not equal")
			}
			b.ReportMetric(took.Seconds(), "s/repair")
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(wire), "wire-B")
			b.ReportMetric(float64(full)/float64(wire), "full÷wire")
			if own > 0 {
				b.ReportMetric(float64(wire)/float64(own), "wire÷own")
			}
		})
	}
}
