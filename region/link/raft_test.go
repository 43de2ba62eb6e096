package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// state is a fake state machine for tests: it sums up what it applied, and
// pads its snapshots to the size a test asks for.
type state struct {
	mu      sync.Mutex
	applied []string
	pad     []byte
	padSum  uint32
}

func (s *state) Apply(l *raft.Log) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied = append(s.applied, string(l.Data))
	return len(s.applied)
}

func (s *state) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.applied...)
}

func (s *state) Snapshot() (raft.FSMSnapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b bytes.Buffer
	for _, v := range s.applied {
		fmt.Fprintf(&b, "%s\n", v)
	}
	return &image{head: b.Bytes(), pad: s.pad}, nil
}

func (s *state) Restore(r io.ReadCloser) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	head, pad, _ := bytes.Cut(b, []byte("\n\n"))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied = nil
	for v := range bytes.SplitSeq(head, []byte("\n")) {
		s.applied = append(s.applied, string(v))
	}
	s.padSum = crc32.ChecksumIEEE(pad)
	return nil
}

type image struct{ head, pad []byte }

func (i *image) Persist(sink raft.SnapshotSink) error {
	for _, b := range [][]byte{i.head, []byte("\n"), i.pad} {
		if _, err := sink.Write(b); err != nil {
			return err
		}
	}
	return sink.Close()
}

func (i *image) Release() {}

// server is one raft of a group, on the real library with in-memory stores.
type server struct {
	id    raft.ServerID
	raft  *raft.Raft
	trans *RaftTransport
	state *state
	logs  *raft.InmemStore
}

func (c *cluster) server(t *testing.T, group uint32, id raft.ServerID, name string) *server {
	t.Helper()
	s := &server{id: id, state: &state{}, logs: raft.NewInmemStore()}
	s.trans = c.nodes[name].Raft(group, id, raft.ServerAddress(name))
	cfg := raft.DefaultConfig()
	cfg.LocalID = id
	cfg.Logger = hclog.NewNullLogger()
	cfg.TrailingLogs = 1
	cfg.SnapshotInterval = time.Hour
	var err error
	s.raft, err = raft.NewRaft(cfg, s.state, s.logs, s.logs, raft.NewInmemSnapshotStore(), s.trans)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.raft.Shutdown().Error() })
	return s
}

// group starts a raft group over the named nodes and returns its servers.
func (c *cluster) group(t *testing.T, group uint32, names ...string) []*server {
	t.Helper()
	var servers []*server
	var conf raft.Configuration
	for _, name := range names {
		s := c.server(t, group, raft.ServerID(fmt.Sprintf("g%d@%s", group, name)), name)
		servers = append(servers, s)
		conf.Servers = append(conf.Servers, raft.Server{ID: s.id, Address: raft.ServerAddress(name)})
	}
	if err := servers[0].raft.BootstrapCluster(conf).Error(); err != nil {
		t.Fatal(err)
	}
	return servers
}

func leader(t *testing.T, servers []*server) *server {
	t.Helper()
	for range 3000 {
		for _, s := range servers {
			if s.raft.State() == raft.Leader {
				return s
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("no leader in 30 s")
	return nil
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 6000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("not in a minute: %s", what)
}

func threeNodes(t *testing.T, tune func(*Config)) *cluster {
	t.Helper()
	c := newCluster(t)
	for _, n := range []string{"r/1", "r/2", "r/3"} {
		c.add(t, n, tune, nil)
	}
	return c
}

func TestThreeRaftsManyGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := threeNodes(t, nil)
		const groups, each = 4, 50
		for g := uint32(1); g <= groups; g++ {
			servers := c.group(t, g, "r/1", "r/2", "r/3")
			l := leader(t, servers)
			var futures []raft.ApplyFuture
			for i := range each {
				futures = append(futures, l.raft.Apply(fmt.Appendf(nil, "g%d-%d", g, i), 10*time.Second))
			}
			for _, f := range futures {
				if err := f.Error(); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.raft.VerifyLeader().Error(); err != nil {
				t.Errorf("verify leader: %v", err)
			}
			eventually(t, "all apply all", func() bool {
				for _, s := range servers {
					if len(s.state.list()) != each {
						return false
					}
				}
				return true
			})
			for _, s := range servers {
				for i, v := range s.state.list() {
					if want := fmt.Sprintf("g%d-%d", g, i); v != want {
						t.Fatalf("%s applied %q at %d, want %q", s.id, v, i, want)
					}
				}
			}
		}
		if c.net.dials > 6 {
			t.Errorf("%d dials for %d groups, want one per ordered pair: at most 6", c.net.dials, groups)
		}
	})
}

func TestLeadershipTransferAndFailover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := threeNodes(t, nil)
		servers := c.group(t, 1, "r/1", "r/2", "r/3")
		old := leader(t, servers)
		if err := old.raft.Apply([]byte("a"), time.Second).Error(); err != nil {
			t.Fatal(err)
		}
		if err := old.raft.LeadershipTransfer().Error(); err != nil {
			t.Fatalf("transfer: %v", err)
		}
		next := leader(t, servers)
		if next == old {
			t.Error("the leader did not change")
		}
		if err := next.raft.Apply([]byte("b"), time.Second).Error(); err != nil {
			t.Fatal(err)
		}
		// The leader's node goes; the two others elect and commit.
		if err := c.nodes[string(next.trans.LocalAddr())].shut(); err != nil {
			t.Fatal(err)
		}
		var rest []*server
		for _, s := range servers {
			if s != next {
				rest = append(rest, s)
			}
		}
		eventually(t, "a new leader commits", func() bool {
			return leader(t, rest).raft.Apply([]byte("c"), time.Second).Error() == nil
		})
	})
}

// TestCutLinks: raft commits through connections that end all the time.
func TestCutLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := threeNodes(t, nil)
		servers := c.group(t, 1, "r/1", "r/2", "r/3")
		leader(t, servers)
		acked := 0
		for i := range 200 {
			a, b := rand.IntN(3)+1, rand.IntN(3)+1
			c.net.cut(fmt.Sprintf("r/%d", a), fmt.Sprintf("r/%d", b))
			if leader(t, servers).raft.Apply(fmt.Appendf(nil, "%d", i), time.Second).Error() == nil {
				acked++
			}
			time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond)
		}
		if acked < 150 {
			t.Errorf("%d of 200 acknowledged", acked)
		}
		eventually(t, "all agree", func() bool {
			n := len(servers[0].state.list())
			return n >= acked && len(servers[1].state.list()) == n && len(servers[2].state.list()) == n
		})
	})
}

// TestLargeAppendsAreSplit: one AppendEntries of raft exceeds a frame by far.
func TestLargeAppendsAreSplit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := threeNodes(t, func(cfg *Config) { cfg.FrameBytesMax, cfg.QueueBytesMax = 8<<10, 32<<10 })
		servers := c.group(t, 1, "r/1", "r/2", "r/3")
		l := leader(t, servers)
		var futures []raft.ApplyFuture
		for i := range 100 {
			data := append(fmt.Appendf(nil, "%03d", i), make([]byte, 5000)...)
			futures = append(futures, l.raft.Apply(data, 10*time.Second))
		}
		for _, f := range futures {
			if err := f.Error(); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "all apply all", func() bool {
			for _, s := range servers {
				if len(s.state.list()) != 100 {
					return false
				}
			}
			return true
		})
		for _, s := range servers {
			for i, v := range s.state.list() {
				if v[:3] != fmt.Sprintf("%03d", i) || len(v) != 5003 {
					t.Fatalf("%s: entry %d is %q of %d bytes", s.id, i, v[:3], len(v))
				}
			}
		}
	})
}

func TestLargeSnapshotIsStreamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events sync.Map
		c := threeNodes(t, func(cfg *Config) {
			cfg.Events.SnapshotSent = func(v SnapshotSent) { events.Store(v.Node, v) }
		})
		servers := c.group(t, 1, "r/1", "r/2")
		l := leader(t, servers)
		pad := make([]byte, 20<<20)
		for i := range pad {
			pad[i] = byte(i * 7 >> 3)
		}
		for _, s := range servers {
			s.state.pad = pad
		}
		for i := range 20 {
			if err := l.raft.Apply(fmt.Appendf(nil, "%d", i), time.Second).Error(); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		fresh := c.server(t, 1, "g1@r/3", "r/3")
		if err := l.raft.AddVoter(fresh.id, "r/3", 0, 10*time.Second).Error(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the new server has it all", func() bool { return len(fresh.state.list()) >= 20 })
		fresh.state.mu.Lock()
		sum := fresh.state.padSum
		fresh.state.mu.Unlock()
		if want := crc32.ChecksumIEEE(pad); sum != want {
			t.Errorf("the snapshot arrived with sum %x, want %x", sum, want)
		}
		v, ok := events.Load("r/3")
		if e, _ := v.(SnapshotSent); !ok || e.Err != nil || e.Bytes < 20<<20 || e.Target != "g1@r/3" || e.Index == 0 {
			t.Errorf("event %+v", v)
		}
		if err := l.raft.Apply([]byte("after"), time.Second).Error(); err != nil {
			t.Error(err)
		}
	})
}

// answering is a fake raft: it answers each request and counts them.
func answering(t *testing.T, tr *RaftTransport, f func(cmd any, r io.Reader) (any, error)) *atomic.Int32 {
	t.Helper()
	var n atomic.Int32
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go func() {
		for {
			select {
			case rpc := <-tr.Consumer():
				n.Add(1)
				rpc.Respond(f(rpc.Command, rpc.Reader))
			case <-ctx.Done():
				return
			}
		}
	}()
	return &n
}

func yes(cmd any, r io.Reader) (any, error) {
	switch q := cmd.(type) {
	case *raft.AppendEntriesRequest:
		return &raft.AppendEntriesResponse{Term: q.Term, Success: true, LastLog: q.PrevLogEntry}, nil
	case *raft.RequestVoteRequest:
		return &raft.RequestVoteResponse{Term: q.Term, Granted: true}, nil
	case *raft.RequestPreVoteRequest:
		return &raft.RequestPreVoteResponse{Term: q.Term, Granted: true}, nil
	case *raft.TimeoutNowRequest:
		return &raft.TimeoutNowResponse{}, nil
	case *raft.InstallSnapshotRequest:
		n, err := io.Copy(io.Discard, r)
		return &raft.InstallSnapshotResponse{Term: q.Term, Success: n == q.Size}, err
	}
	return nil, fmt.Errorf("unexpected %T", cmd)
}

func header(id, addr string) raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: []byte(addr)}
}

func beat(term uint64) *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{RPCHeader: header("s1", "r/1"), Term: term}
}

// every calls each RPC once and returns the errors by name.
func every(from *RaftTransport, id raft.ServerID, to raft.ServerAddress) map[string]error {
	errs := make(map[string]error)
	var pre raft.WithPreVote = from
	a := &raft.AppendEntriesRequest{RPCHeader: header("s1", "r/1"), Term: 3, PrevLogEntry: 1, Entries: entries(2, 10)}
	var ar raft.AppendEntriesResponse
	errs["append"] = from.AppendEntries(id, to, a, &ar)
	errs["heartbeat"] = from.AppendEntries(id, to, beat(3), &ar)
	errs["vote"] = from.RequestVote(id, to, &raft.RequestVoteRequest{Term: 3}, &raft.RequestVoteResponse{})
	errs["pre-vote"] = pre.RequestPreVote(id, to, &raft.RequestPreVoteRequest{Term: 3}, &raft.RequestPreVoteResponse{})
	errs["timeout now"] = from.TimeoutNow(id, to, &raft.TimeoutNowRequest{}, &raft.TimeoutNowResponse{})
	data := make([]byte, 1<<20)
	errs["snapshot"] = from.InstallSnapshot(id, to, &raft.InstallSnapshotRequest{Term: 3, Size: 1 << 20}, &raft.InstallSnapshotResponse{}, bytes.NewReader(data))
	p, err := from.AppendEntriesPipeline(id, to)
	if err != nil {
		errs["pipeline"] = err
		return errs
	}
	defer func() { _ = p.Close() }()
	f, err := p.AppendEntries(a, new(raft.AppendEntriesResponse))
	if err == nil {
		err = f.Error()
	}
	errs["pipeline"] = err
	return errs
}

func pair(t *testing.T, tune func(*Config)) (c *cluster, from, to *RaftTransport) {
	t.Helper()
	c = newCluster(t)
	from = c.add(t, "r/1", tune, nil).Raft(7, "s1", "r/1")
	to = c.add(t, "r/2", tune, nil).Raft(7, "s2", "r/2")
	return c, from, to
}

// TestWrongServerIsRefused is the safety rule R1: frames for the server that
// a node was before it lost its disk reach no raft, whatever they are.
func TestWrongServerIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var refused atomic.Int32
		c, from, to := pair(t, func(cfg *Config) {
			cfg.Events.Refused = func(v Refused) {
				if v.From == "r/1" && (v.Group == 7 && v.Target == "s2-before" || v.Group == 8) {
					refused.Add(1)
				}
			}
		})
		seen := answering(t, to, yes)
		to.SetHeartbeatHandler(func(rpc raft.RPC) {
			seen.Add(1)
			rpc.Respond(yes(rpc.Command, nil))
		})
		for name, err := range every(from, "s2-before", "r/2") {
			if !errors.Is(err, ErrWrongServer) {
				t.Errorf("%s: %v, want ErrWrongServer", name, err)
			}
		}
		if seen.Load() != 0 || refused.Load() != 7 {
			t.Errorf("%d requests reached raft, %d refused events; want 0 and 7", seen.Load(), refused.Load())
		}
		for name, err := range every(c.nodes["r/1"].Raft(8, "s1", "r/1"), "s2", "r/2") {
			if !errors.Is(err, ErrWrongServer) {
				t.Errorf("%s for an unknown group: %v, want ErrWrongServer", name, err)
			}
		}
		for name, err := range every(from, "s1-before", "r/1") {
			if !errors.Is(err, ErrWrongServer) {
				t.Errorf("%s to this node's former self: %v, want ErrWrongServer", name, err)
			}
		}
		for name, err := range every(from, "s2", "r/2") {
			if err != nil {
				t.Errorf("%s to the right server: %v", name, err)
			}
		}
		if seen.Load() != 7 {
			t.Errorf("%d requests reached raft, want 7", seen.Load())
		}
	})
}

// TestLostDiskNeverVotes plays the rule through with the real library: after
// one of three lost its disk and one more is gone, nothing can be elected.
func TestLostDiskNeverVotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := threeNodes(t, nil)
		servers := c.group(t, 1, "r/1", "r/2", "r/3")
		l := leader(t, servers)
		if err := l.raft.Apply([]byte("acknowledged"), time.Second).Error(); err != nil {
			t.Fatal(err)
		}
		var lost, left *server
		for _, s := range servers {
			switch {
			case s == l:
			case lost == nil:
				lost = s
			default:
				left = s
			}
		}
		for _, s := range []*server{lost, l} {
			if err := s.raft.Shutdown().Error(); err != nil {
				t.Fatal(err)
			}
		}
		// The node is back with the same name, an empty disk and a new id.
		reborn := c.server(t, 1, lost.id+"-reborn", string(lost.trans.LocalAddr()))
		time.Sleep(time.Minute)
		if s := left.raft.State(); s == raft.Leader {
			t.Error("a server was elected with the vote of one that lost its disk")
		}
		if reborn.raft.LastIndex() != 0 {
			t.Error("the reborn server took entries that were for the old one")
		}
	})
}

func TestNewTransportTakesTheGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, from, to := pair(t, nil)
		newer := c.nodes["r/2"].Raft(7, "s2-new", "r/2")
		answering(t, newer, yes)
		if err := from.RequestVote("s2", "r/2", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{}); !errors.Is(err, ErrWrongServer) {
			t.Errorf("to the older: %v", err)
		}
		if err := from.RequestVote("s2-new", "r/2", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{}); err != nil {
			t.Errorf("to the newer: %v", err)
		}
		if err := to.RequestVote("s1", "r/1", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{}); !errors.Is(err, ErrClosed) {
			t.Errorf("from the older: %v, want ErrClosed", err)
		}
		_ = to.Close() // must not unregister the newer
		if err := from.RequestVote("s2-new", "r/2", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{}); err != nil {
			t.Errorf("after the older closed again: %v", err)
		}
	})
}

func TestRaftErrorsCross(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, from, to := pair(t, nil)
		answering(t, to, func(any, io.Reader) (any, error) { return nil, errors.New("not now") })
		for name, err := range every(from, "s2", "r/2") {
			var e *Error
			if !errors.As(err, &e) || e.Message != "not now" {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestSilentRaft: a raft that takes requests and does not answer, or takes
// none, fails its callers in time, and Close frees them at once.
func TestSilentRaft(t *testing.T) {
	for _, takes := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			_, from, to := pair(t, nil)
			if takes {
				go func() { <-to.Consumer() }()
			}
			begin := time.Now()
			err := from.RequestVote("s2", "r/2", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{})
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 5*time.Second {
				t.Errorf("takes %v: %v after %v", takes, err, time.Since(begin))
			}
			begin = time.Now()
			err = from.AppendEntries("s2", "r/2", beat(1), &raft.AppendEntriesResponse{})
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 400*time.Millisecond {
				t.Errorf("takes %v: heartbeat: %v after %v", takes, err, time.Since(begin))
			}
			failed := make(chan error, 1)
			go func() {
				failed <- from.RequestVote("s2", "r/2", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{})
			}()
			synctest.Wait()
			_ = to.Close()
			if err := <-failed; !errors.Is(err, ErrWrongServer) {
				t.Errorf("takes %v: receiver closed: %v", takes, err)
			}
			go func() {
				failed <- from.RequestVote("s2", "r/2", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{})
			}()
			_ = from.Close()
			if err := <-failed; err == nil {
				t.Errorf("takes %v: sender closed: no error", takes)
			}
		})
	}
}

// TestShutRaftDropsHeartbeats: raft does not answer them while it ends.
func TestShutRaftDropsHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, from, to := pair(t, nil)
		to.SetHeartbeatHandler(func(raft.RPC) {})
		if err := from.AppendEntries("s2", "r/2", beat(1), &raft.AppendEntriesResponse{}); !errors.Is(err, ErrWrongServer) {
			t.Errorf("err %v", err)
		}
		to.SetHeartbeatHandler(nil)
		seen := answering(t, to, yes)
		if err := from.AppendEntries("s2", "r/2", beat(1), &raft.AppendEntriesResponse{}); err != nil || seen.Load() != 1 {
			t.Errorf("without a fast path: %v, %d seen", err, seen.Load())
		}
	})
}

// TestCloseWaitsForHeartbeats: raft takes them on the link's goroutines and does
// not wait for them when it shuts down; one of a newer term, as each handover
// brings, would store that term in a log that is closed by then.
func TestCloseWaitsForHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, from, to := pair(t, nil)
		taken, release := make(chan struct{}, 2), make(chan struct{})
		to.SetHeartbeatHandler(func(rpc raft.RPC) {
			taken <- struct{}{}
			<-release
			rpc.Respond(&raft.AppendEntriesResponse{Success: true}, nil)
		})
		beaten := make(chan struct{})
		go func() {
			defer close(beaten)
			_ = from.AppendEntries("s2", "r/2", beat(2), &raft.AppendEntriesResponse{}) // may time out: the handler is slow
		}()
		<-taken
		closed := make(chan struct{})
		go func() { _ = to.Close(); close(closed) }()
		synctest.Wait()
		select {
		case <-closed:
			t.Error("closed while raft has a heartbeat")
		default:
		}
		close(release)
		<-closed
		<-beaten
		if err := from.AppendEntries("s2", "r/2", beat(2), &raft.AppendEntriesResponse{}); !errors.Is(err, ErrWrongServer) || len(taken) > 0 {
			t.Errorf("after the end: %v, taken by raft: %v", err, len(taken) > 0)
		}
	})
}

func TestOverlongLaneIsOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, from, _ := pair(t, nil) // nobody takes the requests
		var overloaded atomic.Int32
		var wg sync.WaitGroup
		for range laneMax + 20 {
			wg.Go(func() {
				err := from.RequestVote("s2", "r/2", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{})
				if errors.Is(err, ErrOverloaded) {
					overloaded.Add(1)
				}
			})
		}
		wg.Wait()
		if n := overloaded.Load(); n < 15 || n > 20 {
			t.Errorf("%d overloaded, want about 19", n)
		}
	})
}

// TestHeartbeatsTravelTogether: many groups beat in their own rhythm; writes
// are far fewer than frames, both ways, and none waits longer than the hold.
func TestHeartbeatsTravelTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const groups = 64
		var frames, writes atomic.Int64
		count := func(cfg *Config) {
			cfg.HeartbeatHold = 5 * time.Millisecond
			cfg.Events.Wrote = func(v Wrote) { frames.Add(int64(v.Frames)); writes.Add(1) }
		}
		c := newCluster(t)
		a, b := c.add(t, "r/1", count, nil), c.add(t, "r/2", count, nil)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		var beats, longest atomic.Int64
		var wg sync.WaitGroup
		for g := range uint32(groups) {
			from := a.Raft(g, "s1", "r/1")
			b.Raft(g, "s2", "r/2").SetHeartbeatHandler(func(rpc raft.RPC) { rpc.Respond(yes(rpc.Command, nil)) })
			wg.Go(func() {
				for ctx.Err() == nil {
					time.Sleep(100*time.Millisecond + rand.N(100*time.Millisecond))
					begin := time.Now()
					if err := from.AppendEntries("s2", "r/2", beat(1), &raft.AppendEntriesResponse{}); err != nil {
						t.Error(err)
					}
					beats.Add(1)
					for d := int64(time.Since(begin)); ; {
						old := longest.Load()
						if d <= old || longest.CompareAndSwap(old, d) {
							break
						}
					}
				}
			})
		}
		wg.Wait()
		t.Logf("%d heartbeats, %d frames, %d writes, longest %v", beats.Load(), frames.Load(), writes.Load(), time.Duration(longest.Load()))
		if frames.Load() < 2*beats.Load() {
			t.Errorf("%d frames for %d heartbeats and answers", frames.Load(), 2*beats.Load())
		}
		if frames.Load() < 2*writes.Load() {
			t.Errorf("%d frames in %d writes: they do not travel together", frames.Load(), writes.Load())
		}
		if d := time.Duration(longest.Load()); d > 11*time.Millisecond {
			t.Errorf("a heartbeat took %v, more than two holds", d)
		}
	})
}

// TestHeldFramesGoWithOthers: an urgent frame takes held ones along; a
// heartbeat that VerifyLeader asked for is not held.
func TestHeldFramesGoWithOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, from, to := pair(t, func(cfg *Config) { cfg.HeartbeatHold = 100 * time.Millisecond })
		to.SetHeartbeatHandler(func(rpc raft.RPC) { rpc.Respond(yes(rpc.Command, nil)) })
		answering(t, to, yes)
		took := func(f func() error) time.Duration {
			begin := time.Now()
			if err := f(); err != nil {
				t.Error(err)
			}
			return time.Since(begin)
		}
		hb := func() error { return from.AppendEntries("s2", "r/2", beat(1), &raft.AppendEntriesResponse{}) }
		vote := func() error {
			return from.RequestVote("s2", "r/2", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{})
		}
		if d := took(vote); d != 0 {
			t.Errorf("a vote took %v", d)
		}
		if d := took(hb); d != 200*time.Millisecond {
			t.Errorf("a regular heartbeat took %v, want two holds", d)
		}
		if d := took(hb); d != 0 {
			t.Errorf("a heartbeat in quick succession took %v, want no hold", d)
		}
		time.Sleep(time.Second)
		done := make(chan time.Duration, 1)
		go func() { done <- took(hb) }()
		time.Sleep(30 * time.Millisecond)
		_ = vote()
		time.Sleep(20 * time.Millisecond)
		_ = vote()
		// Its answer goes along with that of the first vote or of the second.
		if d := <-done; d < 30*time.Millisecond || d > 50*time.Millisecond {
			t.Errorf("a heartbeat with company took %v, want 30 ms there and at most 20 ms back", d)
		}
	})
}
