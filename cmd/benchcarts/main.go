package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alecthomas/kong"

	"golang.org/x/sync/errgroup"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/region/cache"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/rpc/member"
)

type cli struct {
	Carts   int    `help:"How many." default:"1000000"`
	Guests  int    `help:"One in so many is a guest's: due while the others are not." default:"100"`
	Dir     string `help:"Directory of the node's data; must not exist, and is removed." default:"benchcarts.data" type:"path"`
	Index   bool   `help:"Give carts a life, and a place in the index of due carts." default:"true" negatable:""`
	Writers int    `help:"Edits at a time." default:"512"`
}

func main() {
	var c cli
	k := kong.Parse(&c, kong.Name("benchcarts"), kong.Description("Measure one node with very many small carts."))
	if c.Carts < 1 || c.Guests < 1 || c.Writers < 1 {
		k.Fatalf("--carts, --guests and --writers must be at least 1")
	}
	if err := c.run(); err != nil {
		fmt.Fprintln(os.Stderr, "benchcarts:", err)
		os.Exit(1)
	}
}

const node = "bench/1"

// guestLife is the life of guests' carts, and what the clock is set forward by.
const guestLife = time.Hour

// bench is one node and what was seen of it.
type bench struct {
	cli
	ahead   atomic.Int64 // of the clock, in nanoseconds
	expired atomic.Int64 // carts
	fatal   chan error

	member *member.Member
	stop   func()
}

func (b *bench) now() time.Time { return time.Now().Add(time.Duration(b.ahead.Load())) }

func (c cli) run() (err error) {
	if _, err := os.Stat(c.Dir); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("--dir %s is there already: give one that is not", c.Dir)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(c.Dir)) }()
	debug.SetGCPercent(400) // as cartd node
	b := &bench{cli: c, fatal: make(chan error, 1)}
	if err := b.step("start without data", b.start); err != nil {
		return err
	}
	defer func() { b.stop() }()
	if err := b.step(fmt.Sprintf("fill %d carts", c.Carts), b.fill); err != nil {
		return err
	}
	if err := b.step("edit 1 % of them", b.again); err != nil {
		return err
	}
	if err := b.step("trim the delta log", b.settle); err != nil {
		return err
	}
	if c.Index {
		if err := b.sweeps(); err != nil {
			return err
		}
	}
	if err := b.step("stop", func() error { b.stop(); return nil }); err != nil {
		return err
	}
	if err := b.step("start", b.start); err != nil {
		return err
	}
	s, _ := b.member.Node.Shard(0)
	fmt.Printf("%d carts\n", s.Marker().Carts)
	return nil
}

func (b *bench) sweeps() error {
	if err := b.step("100 looks at the index, none due", func() error { return b.look(100) }); err != nil {
		return err
	}
	due := int64((b.Carts + b.Guests - 1) / b.Guests)
	if err := b.step(fmt.Sprintf("sweep, %d due", due), func() error {
		b.ahead.Add(int64(guestLife + time.Minute))
		return b.until(func() bool { return b.expired.Load() >= due })
	}); err != nil {
		return err
	}
	return b.step("10 looks from its beginning", func() error { return b.look(10) })
}

// look looks at the index n times, as a shard's leader does each second.
func (b *bench) look(n int) error {
	s, ok := b.member.Node.Shard(0)
	if !ok {
		return errors.New("the shard does not run")
	}
	for range n {
		if err := b.lookOnce(s); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) start() error {
	hot, err := cache.Open("", cache.DefaultConfig())
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	limits := shard.Limits{Lines: 500, Quantity: 999, OpLife: 24 * time.Hour}
	if b.Index {
		limits.Lives = shard.Lives{Guest: guestLife, User: 30 * 24 * time.Hour, Saved: 90 * 24 * time.Hour}
	}
	log := slog.New(slog.DiscardHandler)
	part, err := member.Connect(member.Place{
		Cluster: "bench", Region: "bench", ID: 1, Nodes: []string{node}, Shards: 1, Incarnation: 1,
		Dial: func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", ln.Addr().String())
		},
		Cache: hot, Limits: limits, Log: log,
		Events: member.Events{Applied: func(string) func(uint32, shard.Applied) {
			return func(_ uint32, a shard.Applied) { b.expired.Add(int64(len(a.Expired))) }
		}},
	}, member.Peers{})
	if err != nil {
		return err
	}
	cfg := member.DefaultConfig()
	cfg.AskFirst = false
	cfg.Tune = func(c *region.Config) { c.Machine.Clock = b.now }
	if b.member, err = part.Open(node, b.Dir, cfg, func(err error) { b.fatal <- err }); err != nil {
		return err
	}
	part.Attach(b.member.Node.Router)
	following, unfollow := context.WithCancel(context.Background())
	go part.Run(following)
	b.member.Start(ln)
	b.stop = sync.OnceFunc(func() {
		if err := b.member.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "benchcarts: stop:", err)
		}
		unfollow()
		_ = hot.Close() // it holds nothing that matters
	})
	return b.until(func() bool { return b.member.Node.Router.Ready(context.Background()) == nil })
}

// until waits for something, or for the end of the node.
func (b *bench) until(holds func() bool) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case err := <-b.fatal:
			return err
		case <-tick.C:
		}
	}
	return nil
}

// step does something and prints what it took and left.
func (b *bench) step(name string, do func() error) error {
	began := time.Now()
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	took := time.Since(began)
	debug.FreeOSMemory() // else what is printed is mostly what nobody uses any more
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	anon, file := resident()
	data, log := size(filepath.Join(b.Dir, "badger")), size(b.Dir)
	fmt.Printf("%-34s %9.3fs   heap %5d MB, resident %5d MB own and %5d MB of files; disk %6d MB badger, %5d MB log and snapshots\n",
		name, took.Seconds(), m.HeapAlloc>>20, anon>>20, file>>20, data>>20, (log-data)>>20)
	return nil
}

// resident reads what the process has in memory: its own, and of mapped files.
func resident() (anon, file int64) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, 0 // not this system
	}
	for line := range strings.Lines(string(b)) {
		_, _ = fmt.Sscanf(line, "RssAnon: %d kB", &anon)
		_, _ = fmt.Sscanf(line, "RssFile: %d kB", &file)
	}
	return anon << 10, file << 10
}

// size is what a directory takes on disk, holes in files not counted.
func size(dir string) (total int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // it may have gone meanwhile
		}
		if info, err := d.Info(); err == nil {
			total += allocated(info)
		}
		return nil
	})
	return total
}

func (b *bench) id(i int) string {
	if i%b.Guests == 0 {
		return fmt.Sprintf("guest:session-%08x", i)
	}
	return fmt.Sprintf("cart:user-%08d", i)
}

func sku(i int) string { return fmt.Sprintf("SKU-%d", i%999+1) }

// part is how many carts one command of fill brings.
const part = 8192

// fill has the carts come as rows of a stream, which take fewer log entries than
// edits would: of this region's, since the membership knows no other.
func (b *bench) fill() error {
	s, ok := b.member.Node.Shard(0)
	if !ok {
		return errors.New("the shard does not run")
	}
	own := crdt.Replica{Region: 1, Incarnation: 1}
	seq := uint64(0)
	made := make(chan *regionv1.JoinRows, 2)
	go func() {
		defer close(made)
		for from := 0; from < b.Carts; from += part {
			j := &regionv1.JoinRows{RegionId: 1, Incarnation: 1, OriginShard: 1, Lo: seq}
			at := crdt.TimestampAt(b.now().UnixMilli())
			for i := from; i < min(from+part, b.Carts); i++ {
				c := &crdt.Cart{}
				for l := range 1 + i%2 {
					d := c.Add(crdt.Writer{Replica: own, At: at}, crdt.LineKey{Seller: "seller-1", SKU: sku(i + l)}, 1,
						crdt.Offer{Price: 2999, Currency: "USD", AddedAt: at}, false)
					c = c.Apply(d)
					seq++
					j.Rows = append(j.Rows, crdt.Row{Seq: seq, Last: seq, CartID: b.id(i), At: at, Delta: d}.Encode(nil))
				}
			}
			j.Hi = seq
			made <- j
		}
	}()
	for j := range made {
		out, err := s.Propose(context.Background(), &regionv1.Command{Command: &regionv1.Command_JoinRows{JoinRows: j}})
		if err == nil && out.Code != regionv1.Outcome_CODE_OK {
			err = fmt.Errorf("rows are refused: %v", out.Code)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// again edits some carts that are there, none of them a guest's.
func (b *bench) again() error {
	s, ok := b.member.Node.Shard(0)
	if !ok {
		return errors.New("the shard does not run")
	}
	var next atomic.Int64
	var g errgroup.Group
	for range b.Writers {
		g.Go(func() error {
			for {
				i := int(next.Add(1)-1)*100 + 1
				if i >= b.Carts {
					return nil
				}
				e := &regionv1.Edit{CartId: b.id(i), Changes: []*regionv1.Change{{
					Kind: regionv1.Change_KIND_ADD, Quantity: 1, Price: 2999, Currency: "USD",
					Line: &regionv1.LineKey{Seller: "seller-1", Sku: sku(i)},
				}}}
				if _, err := s.Propose(context.Background(), &regionv1.Command{Command: &regionv1.Command_Edit{Edit: e}}); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// settle waits until the delta log is as short as it gets.
func (b *bench) settle() error {
	return b.until(func() bool {
		s, ok := b.member.Node.Shard(0)
		return ok && s.Marker().Trimmed == s.Marker().Seq
	})
}
