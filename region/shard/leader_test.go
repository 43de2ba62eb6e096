package shard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/region/store"
)

// The leadership goes over before a member stops, and it takes no commands
// and answers no reads while it goes.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, false, nil, "n1", "n2", "n3")
		name, s := g.leader()
		propose(t, s, addCommand("c", "a", 1, 0))
		s.Drain()
		if _, err := s.Propose(t.Context(), addCommand("c", "a", 1, 0)); !errors.Is(err, ErrNotLeader) {
			t.Fatalf("propose while draining: %v", err)
		}
		if _, err := s.Read(t.Context(), "c", false); !errors.Is(err, ErrNotLeader) {
			t.Fatalf("read while draining: %v", err)
		}
		g.cut[name] = true // leader() looks at the others
		next, ns := g.leader()
		delete(g.cut, name)
		if next == name {
			t.Fatal("it leads still")
		}
		if r, err := ns.Read(t.Context(), "c", true); err != nil || r.State.Cart.ItemCount(0) != 1 {
			t.Fatalf("read %v, %v", r, err)
		}
		within(t, 5*time.Second, "it knows who leads", func() bool { return s.Leader() == next })
		_, err := s.Propose(t.Context(), addCommand("c", "a", 1, 0))
		var nl *NotLeaderError
		if !errors.As(err, &nl) || nl.Leader != next {
			t.Fatalf("propose: %v, want the leader %s", err, next)
		}
		for _, n := range g.names {
			if n != name && n != next {
				g.members[n].shard.Drain() // leads nothing: at once
			}
		}
	})
	// Nobody to hand over to: it goes on stopping.
	m := startAlone(t, start{})
	m.shard.Drain()
	if _, err := m.shard.Propose(t.Context(), addCommand("c", "a", 1, 0)); !errors.Is(err, ErrNotLeader) || err.Error() != "shard 0 has no known leader" {
		t.Fatalf("propose: %v", err)
	}
}

// A leader that is cut off answers no strong read, and no read at all once
// its lease is over.
func TestReadsOfACutOffLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, false, nil, "n1", "n2", "n3")
		name, s := g.leader()
		propose(t, s, addCommand("c", "a", 1, 0))
		if _, err := g.members[g.follower()].shard.Read(t.Context(), "c", false); !errors.Is(err, ErrNotLeader) {
			t.Fatalf("a follower answers: %v", err)
		}
		g.isolate(name, true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
		defer cancel()
		if _, err := s.Read(ctx, "c", true); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a reader that went: %v", err)
		}
		if _, err := s.Read(t.Context(), "c", true); !errors.Is(err, ErrNotLeader) {
			t.Fatalf("strong read of a cut off leader: %v", err)
		}
		time.Sleep(500 * time.Millisecond)
		if _, err := s.Read(t.Context(), "c", false); !errors.Is(err, ErrNotLeader) {
			t.Fatalf("read after the lease: %v", err)
		}
		if r, err := s.Local("c"); err != nil || r == nil {
			t.Fatalf("local read %v, %v", r, err)
		}
	})
}

// A strong read looks at the cart before it asks whether this node leads: what it
// saw afterwards, another leader might have replaced already.
func TestStrongReadLooksBeforeItAsks(t *testing.T) {
	s := startAlone(t, start{}).shard
	propose(t, s, addCommand("c", "a", 1, 0))
	s.verify.raft = writesBefore{s.raft, func() {
		if _, err := s.Propose(t.Context(), addCommand("c", "a", 1, 0)); err != nil {
			t.Error(err)
		}
	}}
	for n := range uint64(2) {
		if r, err := s.Read(t.Context(), "c", true); err != nil || r.State.Cart.ItemCount(0) != n+1 {
			t.Errorf("read %d items, %v, want those from before the question: %d", stateOf(r).Cart.ItemCount(0), err, n+1)
		}
	}
}

// writesBefore does something before each question.
type writesBefore struct {
	*raft.Raft
	write func()
}

// VerifyLeader asks after the write.
func (w writesBefore) VerifyLeader() raft.Future {
	w.write()
	return w.Raft.VerifyLeader()
}

// A new leader that has not applied what the one before acknowledged answers
// nothing, until it has.
func TestReadsWaitForTheBarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var slow atomic.Value // the member that applies no more, by name
		slow.Store("")
		release := make(chan struct{})
		g := newGroup(t, false, func(name string) start {
			return start{with: func(c *Config) {
				c.Applied = func(Applied) {
					if slow.Load() == name {
						<-release
					}
				}
			}}
		}, "n1", "n2", "n3")
		_, old := g.leader()
		propose(t, old, addCommand("c", "a", 1, 0))
		g.settle()
		name := g.follower()
		slow.Store(name)
		propose(t, old, addCommand("c", "a", 1, 0)) // the last that it applies
		propose(t, old, addCommand("c", "a", 1, 0))
		if err := old.raft.LeadershipTransferToServer(raft.ServerID(name), raft.ServerAddress(name)).Error(); err != nil {
			t.Fatal(err)
		}
		s := g.members[name].shard
		within(t, 5*time.Second, "raft leads", func() bool { return s.raft.State() == raft.Leader })
		for range 10 {
			time.Sleep(100 * time.Millisecond)
			if r, err := s.Read(t.Context(), "c", false); !errors.Is(err, ErrNotLeader) {
				t.Errorf("it answers with %d items, %v", stateOf(r).Cart.ItemCount(0), err)
				break
			}
		}
		slow.Store("")
		close(release)
		within(t, 10*time.Second, "it leads", s.Leads)
		if r, err := s.Read(t.Context(), "c", false); err != nil || r.State.Cart.ItemCount(0) != 3 {
			t.Errorf("read %v, %v, want 3 items", r, err)
		}
	})
}

// A leadership that came back in a later term is none until its barrier: the
// terms between may have acknowledged what is not applied here yet.
func TestLeadsNeedsABarrierOfItsTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, false, func(string) start { return start{noRun: true} }, "n1", "n2", "n3")
		lead := func() (s *Shard) {
			within(t, 10*time.Second, "a raft leader", func() bool {
				for _, m := range g.members {
					if m.shard.raft.State() == raft.Leader {
						s = m.shard
						return true
					}
				}
				return false
			})
			return s
		}
		s := lead()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.lead(ctx) }()
		within(t, 5*time.Second, "opened", s.Leads)
		back := func() {
			if err := s.raft.LeadershipTransfer().Error(); err != nil {
				t.Fatal(err)
			}
			other := lead()
			if err := other.raft.LeadershipTransferToServer(s.cfg.Server, raft.ServerAddress(s.cfg.Node)).Error(); err != nil {
				t.Fatal(err)
			}
			within(t, 5*time.Second, "raft leads again", func() bool { return s.raft.State() == raft.Leader })
		}
		back()
		if s.Leads() {
			t.Fatal("it leads by the barrier of an earlier term")
		}
		cancel()
		<-done
		if s.ready.Load() != 0 {
			t.Fatal("ready after the leadership's context ended")
		}
		for _, m := range g.members {
			for len(m.shard.notify) > 0 {
				<-m.shard.notify
			}
		}
	})
}

// The hook runs in every leadership, and its context ends with it.
func TestLeadHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, runs atomic.Int64
		g := newGroup(t, false, func(string) start {
			return start{with: func(c *Config) {
				c.Lead = func(ctx context.Context, s *Shard) {
					if !s.Leads() {
						t.Error("it runs before the shard is ready")
					}
					runs.Add(1)
					running.Add(1)
					<-ctx.Done()
					running.Add(-1)
				}
			}}
		}, "n1", "n2", "n3")
		for range 3 {
			name, _ := g.leader()
			g.isolate(name, true)
			g.leader()
			time.Sleep(time.Second)
			g.isolate(name, false)
			time.Sleep(time.Second)
			if running.Load() != 1 {
				t.Fatalf("%d hooks run", running.Load())
			}
		}
		if runs.Load() < 4 {
			t.Fatalf("%d runs", runs.Load())
		}
	})
}

func (g *group) suffrage(s *Shard) map[raft.ServerID]raft.ServerSuffrage {
	g.t.Helper()
	servers, err := s.Servers()
	if err != nil {
		g.t.Fatal(err)
	}
	out := make(map[raft.ServerID]raft.ServerSuffrage)
	for _, srv := range servers {
		out[srv.ID] = srv.Suffrage
	}
	return out
}

// A node that lost its disk comes back under a new id: the old server goes,
// the new one follows without a vote until it has nearly all.
func TestAdmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, false, nil, "n1", "n2", "n3")
		_, s := g.leader()
		lost := g.follower()
		if _, err := g.members[lost].shard.Admit("x", "n4", 0); !errors.Is(err, ErrNotLeader) {
			t.Fatalf("a follower admits: %v", err)
		}
		for i := range 200 {
			propose(t, s, addCommand(fmt.Sprint("c", i%9), "a", 1, 0))
		}
		g.stop(lost)
		g.dirs[lost], g.stores[lost] = t.TempDir(), memStores()
		newID := raft.ServerID(lost + "-again")
		if voter, err := s.Admit(newID, lost, 0); err != nil || voter {
			t.Fatalf("admit: voter=%v %v", voter, err)
		}
		got := g.suffrage(s)
		if _, there := got[raft.ServerID(lost)]; there || got[newID] != raft.Nonvoter || len(got) != 3 {
			t.Fatalf("members %v", got)
		}
		// It asks again before it has the log.
		if voter, err := s.Admit(newID, lost, 3); err != nil || voter || g.suffrage(s)[newID] != raft.Nonvoter {
			t.Fatalf("admit: voter=%v %v, %v", voter, err, g.suffrage(s))
		}
		g.servers = nil
		g.how = func(string) start { return start{with: func(c *Config) { c.Server = newID }} }
		m := g.start(lost)
		within(t, 10*time.Second, "caught up", func() bool { return m.shard.Marker().Applied >= s.Marker().Applied })
		if voter, err := s.Admit(newID, lost, m.shard.Marker().Applied); err != nil || !voter {
			t.Fatalf("admit: voter=%v %v", voter, err)
		}
		if got := g.suffrage(s); got[newID] != raft.Voter || len(got) != 3 {
			t.Fatalf("members %v", got)
		}
		if voter, err := s.Admit(newID, lost, 0); err != nil || !voter { // knows it has
			t.Fatalf("admit: voter=%v %v", voter, err)
		}
		g.settle()
		// Its vote counts: with another one gone, the group goes on.
		gone, _ := g.leader()
		g.stop(gone)
		_, s = g.leader()
		propose(t, s, addCommand("c", "last", 1, 0))
	})
}

// Readers of a space that a restore replaces, and the sweep empties, read
// again: an empty answer would be a cart lost.
func TestReadsBesideRestoreAndSweep(t *testing.T) {
	r := newTestRig(t)
	r.ok(edit("c", add("s", "a", 1)))
	var snap bytes.Buffer
	fixed := r.fsm.current().Snapshot()
	if _, err := fixed.WriteTo(&snap); err != nil {
		t.Fatal(err)
	}
	fixed.Close()
	r.ok(edit("c", add("s", "a", 1)))
	calls := 0
	var rec *store.Record
	err := r.fsm.read(func(sp *store.Space) (err error) {
		if calls++; calls == 1 {
			appended := r.fsm.appended()
			if err := r.fsm.Restore(io.NopCloser(&snap)); err != nil {
				t.Fatal(err)
			}
			if !closed(appended) {
				t.Fatal("the restore woke nobody")
			}
			if err := r.fsm.current().Sweep(func() bool { return false }); err != nil {
				t.Fatal(err)
			}
		}
		rec, err = sp.Record(r.fsm.slots.Of("c"), "c")
		if calls == 1 && rec != nil {
			t.Error("the sweep left the old space")
		}
		return err
	})
	if err != nil || calls != 2 || rec == nil || rec.State.Cart.ItemCount(0) != 1 {
		t.Fatalf("%d reads gave %v, %v", calls, rec, err)
	}
	r.want("c", map[string]uint32{"s/a/": 1}) // not from memory
}

func TestDeltaLogReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startAlone(t, start{with: func(c *Config) { c.Incarnation = 4 }})
		s := m.shard
		if s.ID() != 0 || s.Stream() != (crdt.Stream{Region: 1, Incarnation: 4}) {
			t.Fatalf("shard %d, stream %v", s.ID(), s.Stream())
		}
		if lo, hi := s.SlotRange(); lo != 0 || hi != SlotCount {
			t.Fatalf("slots [%d,%d)", lo, hi)
		}
		appended := s.Appended()
		for i := range 6 {
			propose(t, s, addCommand("c", fmt.Sprint(i), 1, 0))
		}
		if !closed(appended) || closed(s.Appended()) {
			t.Fatal("appends are not told")
		}
		for _, c := range []struct {
			seq      uint64
			maxBytes int
			rows     int
		}{{0, 1 << 20, 6}, {4, 1 << 20, 2}, {6, 1, 0}, {2, 1, 1}} {
			iv, ok, err := s.ReadAfter(t.Context(), c.seq, c.maxBytes)
			if err != nil || !ok || len(iv.Rows) != c.rows || iv.Lo != c.seq || iv.Hi != c.seq+uint64(c.rows) {
				t.Errorf("after %d: (%d,%d] of %d rows, %v, %v", c.seq, iv.Lo, iv.Hi, len(iv.Rows), ok, err)
			}
		}
		if _, _, err := s.ReadAfter(t.Context(), 7, 1); err == nil {
			t.Error("rows that never were are no error")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := s.ReadAfter(ctx, 0, 1); !errors.Is(err, context.Canceled) {
			t.Errorf("a reader that went: %v", err)
		}
		slot := NewSlots(1).Of("c")
		carts, more, err := s.Bucket(slot, "", 10)
		if err != nil || more || len(carts) != 1 || carts[0].CartID != "c" {
			t.Errorf("bucket %v, %v", carts, err)
		}
		sums, err := s.Digests(slot, slot+1)
		if err != nil || len(sums) != 1 || !bytes.Equal(sums[0][:], carts[0].Digest[:]) {
			t.Errorf("digests %x, %v", sums, err)
		}
		if cur, err := s.Cursor(crdt.Stream{Region: 9}); err != nil || cur != 0 {
			t.Errorf("cursor %d, %v", cur, err)
		}
	})
}
