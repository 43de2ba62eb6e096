package region

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func TestFormsOnceAndServesEverywhere(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 3)
	first := make(map[string]bool)
	for _, name := range w.names {
		n := w.node(name)
		n.idMu.Lock()
		id := n.id
		n.idMu.Unlock()
		if !id.Formed {
			t.Errorf("node %s does not know of the region", name)
		}
		if len(id.Servers) != len(w.names) || id.Servers[name] != id.ServerID {
			t.Errorf("node %s is %s among the first members %v", name, id.ServerID, id.Servers)
		}
		first[fmt.Sprint(id.Servers)] = true
		if onDisk, err := openIdentity(w.dir(name), identity{
			Cluster: testCluster, Region: testRegion, RegionID: uint16(testID), Node: name, Shards: 3,
		}, nil); err != nil || !onDisk.Formed || onDisk.ServerID != id.ServerID {
			t.Errorf("node %s has %+v on disk (%v)", name, onDisk, err)
		}
	}
	if len(first) != 1 {
		t.Errorf("regions formed: %v", first)
	}
	gate := w.gateway()
	if err := gate.Ready(soon(t)); err != nil {
		t.Errorf("not ready: %v", err)
	}
	routers := []*Router{gate}
	for _, name := range w.names {
		routers = append(routers, w.node(name).Router)
	}
	for id := range w.shards {
		cart := w.cartIn(id, 0)
		want := map[string]uint32{}
		for i, r := range routers {
			sku := fmt.Sprintf("sku-%d", i)
			out := mustEdit(t, r, addEdit(cart, sku, uint32(i+1)))
			want[sku] = uint32(i + 1)
			for _, reader := range routers {
				for _, strong := range []bool{false, true} {
					v := mustRead(t, reader, cart, ReadOptions{Strong: strong})
					wantLines(t, v, want)
					if v.Stale {
						t.Errorf("cart %s is stale while its shard has a leader", cart)
					}
					if Digest(out.Digest) != v.Digest {
						t.Errorf("edit of %s says digest %x, read %x", cart, out.Digest, v.Digest)
					}
					if v.Version.Index != out.Index || v.Version.Incarnation != 1 {
						t.Errorf("edit of %s at index %d, read has %+v", cart, out.Index, v.Version)
					}
				}
			}
		}
	}
}

// powerLoss makes a stopped node's directory look as if its machine had gone
// down: the database holds garbage, as a torn memtable may.
func (w *world) powerLoss(name string) {
	w.t.Helper()
	rewrite(w.t, w.dir(name), map[string]any{"boot": "the boot before"})
	if err := os.RemoveAll(filepath.Join(w.dir(name), cleanFile)); err != nil {
		w.t.Fatal(err)
	}
	tables, err := filepath.Glob(filepath.Join(w.dir(name), "badger", "*"))
	if err != nil || len(tables) == 0 {
		w.t.Fatalf("no database in %s (%v)", w.dir(name), err)
	}
	for _, path := range tables {
		write(w.t, path, "torn")
	}
}

// snapshots counts a node's snapshots, over all shards.
func (w *world) snapshots(name string) int {
	w.t.Helper()
	found, err := filepath.Glob(filepath.Join(w.dir(name), "shard-*", "snapshots", "*", "meta.json"))
	if err != nil {
		w.t.Fatal(err)
	}
	return len(found)
}

// loseDisk deletes a stopped node's directory.
func (w *world) loseDisk(name string) {
	w.t.Helper()
	if err := os.RemoveAll(w.dir(name)); err != nil {
		w.t.Fatal(err)
	}
}

// servers returns the members of a shard's group: id → voter.
func (w *world) servers(id uint32) map[string]bool {
	w.t.Helper()
	list, err := w.leader(id).here(id).Servers()
	if err != nil {
		w.t.Fatalf("members of shard %d: %v", id, err)
	}
	out := make(map[string]bool)
	for _, s := range list {
		out[string(s.ID)] = s.Suffrage == raft.Voter
	}
	return out
}

func TestLostDisk(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		victim int // 0 formed the region
	}{{"of the node that formed the region", 0}, {"of another node", 2}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := startWorld(t, 3, 2)
			victim := w.names[c.victim]
			l := startLoad(w, 4, anyNode(w))
			l.more(50)
			old := w.node(victim).id.ServerID
			w.kill(victim)
			w.loseDisk(victim)
			l.more(20) // two of three serve
			w.start(victim)
			w.ready()
			fresh := w.node(victim).id.ServerID
			if fresh == old {
				t.Errorf("server id %s came back without its disk", old)
			}
			if first := w.node(victim).id.Servers[victim]; first != old {
				t.Errorf("node %s takes %s for its first server id, not %s", victim, first, old)
			}
			for id := range w.shards {
				servers := w.servers(id)
				if _, ok := servers[old]; ok || !servers[fresh] || len(servers) != 3 {
					t.Errorf("shard %d has members %v; %s lost its disk, %s came back", id, servers, old, fresh)
				}
			}
			// The new member counts: with it and one other there is a majority.
			other := w.names[1]
			l.more(20)
			w.kill(other)
			l.more(20)
			l.end(w.node(victim).Router)
			l.agree(w.node(victim))
		})
	}
}

func TestANewMemberFollowsBeforeItVotes(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 1)
	victim := w.names[2]
	w.kill(victim)
	w.loseDisk(victim)
	cart := w.cartIn(0, 0)
	for i := range 100 { // more than a new member may be behind
		mustEdit(t, w.node(w.names[0]).Router, addEdit(cart, fmt.Sprintf("sku-%d", i), 1))
	}
	// A member that says it has applied nothing gets no vote.
	l := w.leader(0)
	ask := func(applied uint64) bool {
		t.Helper()
		voter, err := l.here(0).Admit("us/2~new", victim, applied)
		if err != nil {
			t.Fatalf("admit: %v", err)
		}
		return voter
	}
	for range 3 {
		if ask(0) {
			t.Fatal("an empty member has a vote")
		}
	}
	servers := w.servers(0)
	if voter, ok := servers["us/2~new"]; !ok || voter || len(servers) != 3 {
		t.Errorf("members %v, want us/2~new among them without a vote", servers)
	}
	if !ask(l.here(0).Marker().Applied) || !w.servers(0)["us/2~new"] {
		t.Errorf("members %v, want a vote for us/2~new", w.servers(0))
	}
}

func TestAnEmptyNodeAloneFormsNothing(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 1)
	cart := w.cartIn(0, 0)
	mustEdit(t, w.node(w.names[0]).Router, addEdit(cart, "tea", 1))
	w.stop(w.names...)
	w.loseDisk(w.names[0])
	w.start(w.names[0])
	n := w.node(w.names[0])
	// A call that is under way when the time is up has an unknown outcome.
	if _, err := n.Edit(limited(t, 500*time.Millisecond), addEdit(cart, "tea", 1)); !errors.Is(err, ErrNoQuorum) && !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("edit at a node alone and empty: %v, want %v", err, ErrNoQuorum)
	}
	select {
	case <-n.formed:
		t.Error("it formed a region")
	default:
	}
	// One node that remembers is not enough to write, but to know better.
	w.start(w.names[1])
	within(t, 5*time.Second, "the empty node hears of the region", func() error {
		select {
		case <-n.formed:
			return nil
		default:
			return errors.New("not yet")
		}
	})
	w.start(w.names[2])
	w.ready()
	wantLines(t, mustRead(t, n.Router, cart, ReadOptions{Strong: true}), map[string]uint32{"tea": 1})
}

func TestFormingWaitsForAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, 1)
	w.start(w.names[0], w.names[1])
	n := w.node(w.names[0])
	// A call that is under way when the time is up has an unknown outcome.
	if _, err := n.Edit(limited(t, 500*time.Millisecond), addEdit("c", "tea", 1)); !errors.Is(err, ErrNoQuorum) && !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("edit before the region is formed: %v, want %v", err, ErrNoQuorum)
	}
	if err := n.Ready(soon(t)); !errors.Is(err, ErrNoQuorum) {
		t.Errorf("ready: %v, want %v", err, ErrNoQuorum)
	}
	w.start(w.names[2])
	w.ready()
}

func TestANodeOfAnotherConfigurationIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2, 2)
	w.start(w.names[0])
	w.tune = func(c *Config) { c.Router.Shards = 4 }
	w.start(w.names[1])
	a, b := w.node(w.names[0]), w.node(w.names[1])
	within(t, 5*time.Second, "node 0 is refused", func() error {
		_, err := a.askFormed(soon(t), b.name)
		if err == nil || !strings.Contains(err.Error(), "2 shards") || !strings.Contains(err.Error(), "4") {
			return fmt.Errorf("not refused: %w", errors.Join(err, errors.New("shards were not named")))
		}
		return nil
	})
	for _, n := range []*running{a, b} {
		select {
		case <-n.formed:
			t.Errorf("%s is in a region", n.name)
		default:
		}
	}
}

func TestMoreNodesThanReplicas(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 5, 5)
	gate := w.gateway()
	for id := range w.shards {
		if place := gate.Placement(id); len(place) != 3 || place[0] != w.names[id] {
			t.Errorf("shard %d is placed on %v", id, place)
		}
		if servers := w.servers(id); len(servers) != 3 {
			t.Errorf("shard %d has members %v", id, servers)
		}
		cart := w.cartIn(id, 0)
		mustEdit(t, w.node(w.names[(id+4)%5]).Router, addEdit(cart, "tea", 1))
		wantLines(t, mustRead(t, gate, cart, ReadOptions{}), map[string]uint32{"tea": 1})
	}
	// A node that lost its disk starts no group anew, also not one that the
	// node which formed the region does not hold.
	victim := w.names[2]
	old := w.node(victim).id.ServerID
	w.kill(victim)
	w.loseDisk(victim)
	w.start(victim)
	w.ready()
	for id := range w.shards {
		servers := w.servers(id)
		if _, ok := servers[old]; ok || len(servers) != 3 {
			t.Errorf("shard %d has members %v after %s was lost", id, servers, old)
		}
		wantLines(t, mustRead(t, w.node(victim).Router, w.cartIn(id, 0), ReadOptions{Strong: true}), map[string]uint32{"tea": 1})
	}
}

func TestLeavesNoGoroutines(t *testing.T) {
	before := runtime.NumGoroutine()
	w := startWorld(t, 3, 2)
	gate := NewRouter(w.routerConfig(), w.mux(testRegion+"/gateway"))
	cart := w.cartIn(0, 0)
	mustEdit(t, gate, addEdit(cart, "tea", 1))
	ctx, cancel := context.WithCancel(context.Background())
	waiting := make(chan error, 2)
	for _, r := range []*Router{gate, w.node(w.names[0]).Router} {
		seen := mustRead(t, r, cart, ReadOptions{}).Digest
		go func() { _, err := r.Wait(ctx, cart, seen); waiting <- err }()
	}
	cancel()
	for range 2 {
		if err := <-waiting; !errors.Is(err, context.Canceled) {
			t.Errorf("Wait ended with %v", err)
		}
	}
	w.stop(w.names[0])
	w.kill(w.names[1])
	w.stop(w.names[2])
	if err := gate.mux.Close(); err != nil {
		t.Error(err)
	}
	within(t, 10*time.Second, "goroutines end", func() error {
		if n := runtime.NumGoroutine(); n > before+3 { // of libraries, once a process
			return fmt.Errorf("%d of them, %d before", n, before)
		}
		return nil
	})
}

func TestUseAfterClose(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 2)
	n := w.node(w.names[0])
	cart := w.cartIn(0, 0)
	mustEdit(t, n.Router, addEdit(cart, "tea", 1))
	seen := mustRead(t, n.Router, cart, ReadOptions{}).Digest
	waiting := make(chan error, 1)
	go func() { _, err := n.Wait(soon(t), cart, seen); waiting <- err }()
	w.stop(n.name)
	start := time.Now()
	if _, err := n.Edit(soon(t), addEdit(cart, "tea", 1)); !errors.Is(err, ErrClosed) {
		t.Errorf("edit: %v, want %v", err, ErrClosed)
	}
	for _, strong := range []bool{false, true} {
		if v, err := n.Read(soon(t), cart, ReadOptions{Strong: strong}); !errors.Is(err, ErrClosed) && !(err == nil && v.Stale && !strong) {
			t.Errorf("read, strong %v: %v, want %v or a stale view", strong, err, ErrClosed)
		}
	}
	if err := <-waiting; !errors.Is(err, ErrClosed) {
		t.Errorf("waiting ended with %v, want %v", err, ErrClosed)
	}
	if _, err := n.Wait(soon(t), cart, seen); !errors.Is(err, ErrClosed) {
		t.Errorf("wait: %v, want %v", err, ErrClosed)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("took %v to say so", took)
	}
}

// incarnations are those that a region's nodes and shards have.
func (w *world) incarnations() map[uint32]bool {
	out := make(map[uint32]bool)
	for _, name := range w.up() {
		n := w.node(name)
		out[n.Incarnation()] = true
		for _, id := range n.heldShards() {
			out[n.here(id).Stream().Incarnation] = true
		}
	}
	return out
}

// Another region knows edits of the incarnation that is configured: the region is
// formed under the one that it is told.
func TestFormsUnderTheIncarnationItIsTold(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 1, 2, func(w *world) {
		w.tune = func(c *Config) {
			c.Router.Incarnation = 7
			c.MayForm = func(context.Context) (uint32, error) { return 9, nil }
		}
	})
	mustEdit(t, w.node(w.names[0]).Router, addEdit(w.cartIn(0, 0), "tea", 1))
	if got := w.incarnations(); len(got) != 1 || !got[9] {
		t.Errorf("incarnations %v, want 9", got)
	}
}

func TestFormingIsAskedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, 2)
	asked := make(chan string, 10)
	answer := make(chan error)
	configure := func(incarnation uint32) {
		w.tune = func(c *Config) {
			c.Router.Incarnation = incarnation
			c.MayForm = func(ctx context.Context) (uint32, error) {
				asked <- c.Node
				select {
				case err := <-answer:
					return 0, err
				case <-ctx.Done():
					return 0, ctx.Err()
				}
			}
		}
	}
	configure(2)
	w.start(w.names...)
	first := w.node(w.names[0])
	if by := <-asked; by != first.name {
		t.Errorf("%s asks", by)
	}
	select {
	case <-first.formed:
		t.Error("the region is formed before the answer")
	default:
	}
	// A refusal ends the node that forms; the others wait for it.
	spent := errors.New("spent")
	answer <- spent
	<-first.done
	if !errors.Is(first.err, spent) {
		t.Errorf("ended with %v, want %v", first.err, spent)
	}
	w.gone(first)
	w.stop(w.names[1:]...)
	// Nothing was done under the refused incarnation, so the next may be
	// another, on all nodes.
	configure(7)
	w.start(w.names[0], w.names[1])
	configure(8)
	w.start(w.names[2])
	within(t, 5*time.Second, "a node of another incarnation is refused", func() error {
		_, err := w.node(w.names[0]).askFormed(soon(t), w.names[2])
		if err == nil || !strings.Contains(err.Error(), "incarnation 7") || !strings.Contains(err.Error(), "8") {
			return fmt.Errorf("not refused: %w", errors.Join(err, errors.New("incarnations were not named")))
		}
		return nil
	})
	w.stop(w.names[2])
	configure(7)
	w.start(w.names[2])
	<-asked
	answer <- nil
	w.ready()
	mustEdit(t, w.node(w.names[0]).Router, addEdit(w.cartIn(0, 0), "tea", 1))
	if got := w.incarnations(); len(got) != 1 || !got[7] {
		t.Errorf("incarnations %v, want 7", got)
	}
	// Nobody is asked again, and whoever comes later is told, whatever is
	// configured.
	configure(1)
	w.stop(w.names...)
	w.loseDisk(w.names[0])
	w.start(w.names...)
	w.ready()
	if got := w.incarnations(); len(got) != 1 || !got[7] {
		t.Errorf("with a lost disk and another configuration: incarnations %v, want 7", got)
	}
	if v := mustRead(t, w.node(w.names[0]).Router, w.cartIn(0, 0), ReadOptions{}); v.Version.Incarnation != 7 {
		t.Errorf("read under incarnation %d", v.Version.Incarnation)
	}
	if len(asked) > 0 {
		t.Errorf("%s asked again", <-asked)
	}
}
