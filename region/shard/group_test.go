package shard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

// group is a test group whose members can be cut off and restarted.
type group struct {
	t       testing.TB
	names   []string
	servers []raft.Server
	dirs    map[string]string
	stores  map[string]*Stores // nil: on disk
	members map[string]*member
	cut     map[string]bool
	how     func(name string) start
}

func newGroup(t testing.TB, onDisk bool, how func(name string) start, names ...string) *group {
	t.Helper()
	g := &group{
		t: t, names: names, dirs: map[string]string{}, stores: map[string]*Stores{},
		members: map[string]*member{}, cut: map[string]bool{}, how: how,
	}
	for _, n := range names {
		g.servers = append(g.servers, raft.Server{ID: raft.ServerID(n), Address: raft.ServerAddress(n)})
		g.dirs[n] = t.TempDir()
		if !onDisk {
			g.stores[n] = memStores()
		}
	}
	for _, n := range names {
		g.start(n)
	}
	t.Cleanup(func() {
		for _, m := range g.members {
			m.stop()
		}
	})
	return g
}

// start starts a member from what its directory has.
func (g *group) start(name string) *member {
	g.t.Helper()
	_, tr := raft.NewInmemTransport(raft.ServerAddress(name))
	how := start{}
	if g.how != nil {
		how = g.how(name)
	}
	if how.stores == nil {
		how.stores = g.stores[name]
	}
	m := startMember(g.t, g.dirs[name], name, tr, g.servers, how)
	g.members[name] = m
	g.connect()
	return m
}

// connect brings the transports to what cut says.
func (g *group) connect() {
	for a, ma := range g.members {
		for b, mb := range g.members {
			if g.cut[a] || g.cut[b] {
				ma.tr.Disconnect(raft.ServerAddress(b))
			} else {
				ma.tr.Connect(raft.ServerAddress(b), mb.tr)
			}
		}
	}
}

func (g *group) isolate(name string, cut bool) { g.cut[name] = cut; g.connect() }

func (g *group) stop(name string) {
	g.members[name].stop()
	delete(g.members, name)
	g.connect()
}

// leader waits for a member that leads and is not cut off.
func (g *group) leader() (name string, s *Shard) {
	g.t.Helper()
	within(g.t, 20*time.Second, "a leader", func() bool {
		for n, m := range g.members {
			if !g.cut[n] && m.shard.Leads() {
				name, s = n, m.shard
				return true
			}
		}
		return false
	})
	return name, s
}

func (g *group) follower() string {
	g.t.Helper()
	leader, _ := g.leader()
	for _, n := range g.names {
		if _, up := g.members[n]; up && n != leader && !g.cut[n] {
			return n
		}
	}
	g.t.Fatal("no follower")
	return ""
}

func contentOf(t fataler, s *Shard) string {
	t.Helper()
	return (&rig{t: t, fsm: s.fsm}).content()
}

// settle waits until all members that are not cut off hold the same.
func (g *group) settle() {
	g.t.Helper()
	_, lead := g.leader()
	within(g.t, 20*time.Second, "equal members", func() bool {
		want := lead.Marker().Applied
		for n, m := range g.members {
			if !g.cut[n] && m.shard.Marker().Applied != want {
				return false
			}
		}
		return true
	})
	want := contentOf(g.t, lead)
	for n, m := range g.members {
		if g.cut[n] {
			continue
		}
		if got := contentOf(g.t, m.shard); got != want {
			g.t.Fatalf("%s has %s, the leader %s", n, got, want)
		}
		checkSums(g.t, &rig{fsm: m.shard.fsm})
	}
}

// loader writes from many clients, each retrying its request with one op id
// until it is acknowledged by whoever leads.
type loader struct {
	acked [8]atomic.Int64 // by cart
	stop  context.CancelFunc
	wg    sync.WaitGroup
}

func cartID(client int) string { return fmt.Sprint("cart-", client) }

// load starts the clients; find returns who may lead now, nil for nobody.
func load(t testing.TB, pause time.Duration, find func() *Shard) *loader {
	ctx, stop := context.WithCancel(context.Background())
	l := &loader{stop: stop}
	t.Cleanup(l.end)
	wait := func() {
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	for c := range l.acked {
		l.wg.Go(func() {
			for i := 1; ; i++ {
				cmd := editCommand(withOp(i, edit(cartID(c), add("s", fmt.Sprint("sku-", i%7), 1))))
				for {
					s := find()
					if s == nil {
						if wait(); ctx.Err() != nil {
							return // never sent, or outcome unknown: not counted
						}
						continue
					}
					attempt, cancel := context.WithTimeout(context.Background(), time.Second)
					out, err := s.Propose(attempt, cmd)
					cancel()
					if err == nil {
						if out.Code != regionv1.Outcome_CODE_OK {
							t.Errorf("outcome %v", out)
						}
						break
					}
					if wait(); ctx.Err() != nil {
						return
					}
				}
				l.acked[c].Add(1)
				if wait(); ctx.Err() != nil {
					return
				}
			}
		})
	}
	return l
}

func (l *loader) end() { l.stop(); l.wg.Wait() }

// check compares what is there with what was acknowledged. A client's last
// request may be in without its having heard of it.
func (l *loader) check(t fataler, s *Shard) {
	t.Helper()
	total := int64(0)
	for c := range l.acked {
		r, err := s.Local(cartID(c))
		if err != nil {
			t.Fatalf("read: %v", err)
		}
		got, acked := int64(stateOf(r).Cart.ItemCount(0)), l.acked[c].Load()
		if got != acked && got != acked+1 {
			t.Fatalf("%s has %d items, %d were acknowledged", cartID(c), got, acked)
		}
		total += acked
	}
	if total < 100 {
		t.Fatalf("%d writes were acknowledged: no load", total)
	}
}

// Leaders are cut off under load, again and again: retries with op ids lose
// nothing and double nothing, and all members end equal.
func TestLeaderChangesUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, false, nil, "n1", "n2", "n3")
		g.leader()
		var mu sync.Mutex // guards g: the clients look for leaders
		l := load(t, 20*time.Millisecond, func() *Shard {
			mu.Lock()
			defer mu.Unlock()
			for _, n := range g.names {
				if m := g.members[n]; m != nil && m.shard.Leads() {
					return m.shard // perhaps cut off: then nothing comes of it
				}
			}
			return nil
		})
		for round := range 8 {
			time.Sleep(700 * time.Millisecond)
			name, s := g.leader()
			mu.Lock()
			switch round % 4 {
			case 3:
				if err := s.raft.LeadershipTransfer().Error(); err != nil {
					t.Errorf("transfer: %v", err)
				}
			default:
				g.isolate(name, true)
			}
			mu.Unlock()
			time.Sleep(900 * time.Millisecond)
			mu.Lock()
			g.isolate(name, false)
			mu.Unlock()
		}
		l.end()
		g.settle()
		for _, m := range g.members {
			l.check(t, m.shard)
		}
	})
}

// A member that was stopped comes back from its directory and takes part.
func TestRestartFromDisk(t *testing.T) {
	g := newGroup(t, true, nil, "n1", "n2", "n3")
	_, s := g.leader()
	for i := range 30 {
		propose(t, s, editCommand(withOp(i+1, edit("c", add("s", fmt.Sprint(i%5), 1)))))
	}
	g.settle()
	name := g.follower()
	g.stop(name)
	_, s = g.leader()
	for i := range 30 {
		propose(t, s, editCommand(withOp(100+i, edit("c", add("s", fmt.Sprint(i%5), 1)))))
	}
	m := g.start(name)
	if got := m.shard.Marker().Seq; got < 30 {
		t.Fatalf("it comes back with %d rows, had 30", got)
	}
	g.settle()
	// Now the old leader goes, and the one that was away must do.
	old, _ := g.leader()
	g.stop(old)
	_, s = g.leader()
	if out := propose(t, s, editCommand(withOp(100, edit("c", add("s", "0", 1))))); !out.Replayed {
		t.Fatalf("outcome %v", out)
	}
	if r, err := s.Read(t.Context(), "c", true); err != nil || r.State.Cart.ItemCount(0) != 60 {
		t.Fatalf("read %v, %v", r, err)
	}
}

func smallTrailing(c *Config) { c.Timing.Trailing = 5 }

// A follower that was away for longer than the log is kept gets a snapshot,
// and ends equal; what it had before is swept.
func TestAwayFollowerGetsASnapshot(t *testing.T) {
	// The log drops whole files: small ones, or it would still have it all.
	g := newGroup(t, true, func(string) start { return start{with: smallTrailing, segment: 4 << 10} }, "n1", "n2", "n3")
	_, s := g.leader()
	for i := range 20 {
		propose(t, s, addCommand(fmt.Sprint("before-", i), "a", 1, 0))
	}
	g.settle()
	away := g.follower()
	g.isolate(away, true)
	for i := range 60 {
		propose(t, s, editCommand(withOp(i+1, edit(fmt.Sprint("c", i), add("s", "a", 1)))))
	}
	if err := s.raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	propose(t, s, addCommand("after", "a", 1, 0))
	sh := g.members[away].shard
	changed, done := sh.Wait("c1")
	defer done()
	if sh.fsm.current().Generation() != 0 {
		t.Fatalf("generation %d", sh.fsm.current().Generation())
	}
	g.isolate(away, false)
	select {
	case <-changed:
	case <-time.After(20 * time.Second):
		t.Fatal("nobody was woken by the restore")
	}
	g.settle()
	if got := sh.fsm.current().Generation(); got == 0 {
		t.Fatal("it caught up without a snapshot, the test proves nothing")
	}
	if r, err := sh.Local("c7"); err != nil || r == nil {
		t.Fatalf("record %v, %v", r, err)
	}
	within(t, 10*time.Second, "old generation swept", func() bool {
		old, err := g.members[away].store.Space(0, 0, SlotCount)
		return err == nil && old.Generation() > 0 && len(sh.fsm.sweep) == 0
	})
	// The restored member restarts from disk, with the snapshot and the log
	// that the install left.
	g.stop(away)
	propose(t, s, addCommand("later", "a", 1, 0))
	g.start(away)
	g.settle()
}

// brokenSnapshots gives readers that fail half way while broken.
type brokenSnapshots struct {
	raft.SnapshotStore
	broken atomic.Bool
	opened atomic.Int64
}

var errRead = errors.New("read error")

func (b *brokenSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, rc, err := b.SnapshotStore.Open(id)
	if err != nil || !b.broken.Load() {
		return meta, rc, err
	}
	b.opened.Add(1)
	all, err := io.ReadAll(rc)
	if err != nil {
		return nil, nil, err
	}
	half := bytes.NewReader(all[:len(all)/2])
	return meta, struct {
		io.Reader
		io.Closer
	}{io.MultiReader(half, errReader{}), rc}, nil
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errRead }

// PITFALLS 1: a restore dies half way, and the leader changes meanwhile. The
// member must come back with what it had, and no acknowledged write is lost.
func TestInterruptedRestoreLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := &brokenSnapshots{SnapshotStore: raft.NewInmemSnapshotStore()}
		third := memStores()
		third.Snapshots = broken
		var died atomic.Int64
		var mu sync.Mutex
		g := newGroup(t, false, func(name string) start {
			how := start{with: smallTrailing}
			if name == "n3" {
				how.stores = third
				how.with = func(c *Config) {
					smallTrailing(c)
					c.Fatal = func(error) { died.Add(1) }
				}
			}
			return how
		}, "n1", "n2", "n3")
		_, s := g.leader()
		if g.members["n3"].shard == s {
			if err := s.raft.LeadershipTransfer().Error(); err != nil {
				t.Fatal(err)
			}
		}
		l := load(t, 10*time.Millisecond, func() *Shard {
			mu.Lock()
			defer mu.Unlock()
			for _, n := range g.names {
				if m := g.members[n]; m != nil && !g.cut[n] && m.shard.Leads() {
					return m.shard
				}
			}
			return nil
		})
		time.Sleep(time.Second)
		n3 := g.members["n3"].shard
		mu.Lock()
		g.isolate("n3", true)
		mu.Unlock()
		time.Sleep(100 * time.Millisecond) // it still applies what it has
		had := contentOf(t, n3)
		applied := n3.Marker().Applied
		time.Sleep(2 * time.Second)
		leader, s := g.leader()
		if err := s.raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		broken.broken.Store(true)
		mu.Lock()
		g.isolate("n3", false)
		mu.Unlock()
		within(t, 20*time.Second, "the node ends", func() bool { return died.Load() > 0 })
		if broken.opened.Load() == 0 {
			t.Fatal("no snapshot was restored")
		}
		if got := contentOf(t, n3); got != had || n3.Marker().Applied != applied {
			t.Fatalf("after half a restore it has %s, had %s", got, had)
		}
		// The process has ended, the leader is gone too, and n3 comes back.
		mu.Lock()
		g.stop("n3")
		broken.broken.Store(false)
		g.isolate(leader, true)
		g.start("n3")
		mu.Unlock()
		time.Sleep(3 * time.Second)
		l.end()
		g.settle()
		_, s = g.leader()
		l.check(t, s)
		l.check(t, g.members["n3"].shard)
		if g.members["n3"].shard.fsm.current().Generation() == 0 {
			t.Fatal("n3 never restored")
		}
		g.isolate(leader, false)
		g.settle()
	})
}

// The start rule: what the database has applied is the truth, a snapshot is
// read only when it is ahead.
func TestStartRule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, false, nil, "n1")
		_, s := g.leader()
		propose(t, s, addCommand("c", "a", 1, 0))
		if err := s.raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		propose(t, s, addCommand("c", "a", 1, 0))
		want := contentOf(t, s)
		g.stop("n1")

		// Ahead of the snapshot: kept.
		m := g.start("n1")
		if got := contentOf(t, m.shard); got != want || m.shard.fsm.current().Generation() != 0 {
			t.Fatalf("started with %s in generation %d, want %s", got, m.shard.fsm.current().Generation(), want)
		}
		_, s = g.leader()
		if r, err := s.Read(t.Context(), "c", false); err != nil || r.State.Cart.ItemCount(0) != 2 {
			t.Fatalf("read %v, %v", r, err)
		}
		want = contentOf(t, s)
		g.stop("n1")

		// Behind it, here for the database was dropped: restored, and the log
		// replayed from there.
		g.dirs["n1"] = t.TempDir()
		m = g.start("n1")
		if got := m.shard.fsm.current().Generation(); got != 1 {
			t.Fatalf("generation %d: the snapshot was not restored", got)
		}
		_, s = g.leader()
		if got := contentOf(t, s); got != want {
			t.Fatalf("restored %s, want %s", got, want)
		}
	})
}

// crashImage copies a directory that is in use, as a killed process would
// leave it; locks stay behind. What the database has, the log that is copied
// after it has too.
func crashImage(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	for _, part := range []string{"badger", "log", "snapshots"} {
		copyAtOnce(t, filepath.Join(dir, part), filepath.Join(to, part))
	}
	return to
}

// copyAtOnce copies again until no file came, went or changed otherwise than
// by appends meanwhile: then the copy is a state that the directory had.
func copyAtOnce(t testing.TB, from, to string) {
	t.Helper()
	appended := map[string]bool{".mem": true, ".vlog": true, ".wal": true}
	list := func(copyTo string) (files map[string]string, err error) {
		files = make(map[string]string)
		err = filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || d.Name() == "LOCK" {
				return err
			}
			rel, err := filepath.Rel(from, path)
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			files[rel] = ""
			if !appended[filepath.Ext(rel)] {
				files[rel] = fmt.Sprint(info.Size(), info.ModTime())
			}
			if copyTo == "" {
				return nil
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			dst := filepath.Join(copyTo, rel)
			return errors.Join(os.MkdirAll(filepath.Dir(dst), 0o700), os.WriteFile(dst, b, 0o600))
		})
		return files, err
	}
	within(t, 20*time.Second, "a copy of "+from, func() bool {
		if err := os.RemoveAll(to); err != nil {
			t.Fatal(err)
		}
		before, err := list(to)
		if err != nil {
			return false // a file went
		}
		after, err := list("")
		return err == nil && maps.Equal(before, after)
	})
}

// A copy of the live directory, taken under load, opens with everything that
// was acknowledged before the copy began.
func TestCrashImageHasAllAcknowledged(t *testing.T) {
	dir := t.TempDir()
	servers := []raft.Server{{ID: "n1", Address: "n1"}}
	_, tr := raft.NewInmemTransport("n1")
	m := startMember(t, dir, "n1", tr, servers, start{with: smallTrailing, memTable: 8 << 20})
	defer m.stop()
	within(t, 10*time.Second, "leads", m.shard.Leads)
	l := load(t, time.Millisecond, func() *Shard { return m.shard })
	acks := func() (n int64) {
		for c := range l.acked {
			n += l.acked[c].Load()
		}
		return n
	}
	for round := range 3 {
		more := acks() + 150
		within(t, 20*time.Second, "load", func() bool { return acks() >= more })
		if round == 1 {
			if err := m.shard.raft.Snapshot().Error(); err != nil {
				t.Fatal(err)
			}
		}
		var before [len(l.acked)]int64
		for c := range before {
			before[c] = l.acked[c].Load()
		}
		image := crashImage(t, dir)
		_, tr := raft.NewInmemTransport("n1")
		again := startMember(t, image, "n1", tr, servers, start{memTable: 8 << 20})
		within(t, 10*time.Second, "leads again", again.shard.Leads)
		for c, n := range before {
			r, err := again.shard.Read(t.Context(), cartID(c), true)
			if err != nil {
				t.Fatal(err)
			}
			if got := int64(stateOf(r).Cart.ItemCount(0)); got < n {
				t.Fatalf("round %d: %s has %d items, %d were acknowledged", round, cartID(c), got, n)
			}
		}
		checkSums(t, &rig{fsm: again.shard.fsm})
		again.stop()
	}
}
