package shard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/region/store"
)

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestWatchers(t *testing.T) {
	w := newWatchers()
	a1, done1 := w.wait("a")
	a2, done2 := w.wait("a")
	b, doneB := w.wait("b")
	w.notify("c") // nobody's
	if closed(a1) || closed(b) {
		t.Fatal("woken for another cart")
	}
	w.notify("a")
	if !closed(a1) || !closed(a2) || closed(b) {
		t.Fatal("not exactly the cart's waiters were woken")
	}
	a3, done3 := w.wait("a") // the next change is another
	done1()
	done2()
	if closed(a3) || w.by["a"] == nil {
		t.Fatal("those who left took a new waiter along")
	}
	w.notifyAll()
	if !closed(a3) || !closed(b) {
		t.Fatal("not all were woken")
	}
	done3()
	doneB()
	_, done4 := w.wait("a")
	_, done5 := w.wait("a")
	done4()
	if len(w.by) != 1 {
		t.Fatalf("%d carts are waited for", len(w.by))
	}
	done5()
	if len(w.by) != 0 {
		t.Fatalf("%d carts are waited for by nobody", len(w.by))
	}
}

// F2: who is woken by a change reads it.
func TestWokenReadersSeeTheChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startAlone(t, start{})
		s := m.shard
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for seen := uint64(0); seen < 50; {
					changed, done := s.Wait("c")
					appended := s.Appended()
					r, err := s.Local("c")
					if err != nil {
						t.Error(err)
						return
					}
					if n := stateOf(r).Cart.ItemCount(0); n > seen {
						seen = n
						done()
						continue
					}
					<-changed
					<-appended
					done()
					if r, err = s.Local("c"); err != nil || stateOf(r).Cart.ItemCount(0) <= seen {
						t.Errorf("woken after %d items, and read %v, %v", seen, r, err)
						return
					}
				}
			})
		}
		for range 50 {
			propose(t, s, addCommand("c", "a", 1, 0))
			synctest.Wait()
		}
		wg.Wait()
		if n := len(s.fsm.watch.by); n != 0 {
			t.Fatalf("%d carts are still watched", n)
		}
	})
}

func record(items int) *store.Record {
	c := &crdt.Cart{}
	for i := range items {
		c = c.Apply(c.Add(crdt.Writer{Replica: crdt.Replica{Region: 1}}, crdt.LineKey{SKU: fmt.Sprint(i)}, 1, crdt.Offer{}, false))
	}
	return store.NewRecord("c", 1, crdt.State{Cart: c}, store.Asked{}, store.Head{})
}

func TestCartsBound(t *testing.T) {
	small, large := record(1), record(50)
	size := int64(1 + small.MemoryBytes())
	c := newCarts(3 * size)
	for _, id := range []string{"a", "b", "c"} {
		c.put(id, small)
	}
	c.get("a") // now the newest
	c.put("d", small)
	for id, want := range map[string]bool{"a": true, "b": false, "c": true, "d": true} {
		if _, ok := c.get(id); ok != want {
			t.Errorf("cart %s is there: %v, want %v", id, ok, want)
		}
	}
	for range 100 { // the bytes of what is replaced are taken off
		c.put("a", small)
	}
	if c.bytes != 3*size {
		t.Fatalf("%d bytes, want %d", c.bytes, 3*size)
	}
	c.put("e", large) // larger than all the room
	if c.bytes > c.max || c.lru.Len() != 0 {
		t.Fatalf("%d bytes of %d in %d carts", c.bytes, c.max, c.lru.Len())
	}
	c.put("a", small)
	c.reset()
	if c.bytes != 0 || c.lru.Len() != 0 {
		t.Fatalf("%d bytes after a reset", c.bytes)
	}
}

// A reader that read before a commit must not fill its old record in after
// it, not even when the newer one has gone for want of room.
func TestStaleFill(t *testing.T) {
	old, newer := record(1), record(2)
	for name, between := range map[string]func(c *carts){
		"published":          func(c *carts) { c.put("c", newer) },
		"published and gone": func(c *carts) { c.put("c", newer); c.put("x", record(40)) },
		"restored":           func(c *carts) { c.reset() },
	} {
		c := newCarts(int64(record(2).MemoryBytes() + 100))
		before := c.puts.Load()
		between(c)
		c.fill("c", old, before)
		if r, ok := c.get("c"); ok && r == old {
			t.Errorf("%s: the old record was filled in", name)
		}
	}
	c := newCarts(1 << 20)
	c.fill("c", old, c.puts.Load())
	if r, ok := c.get("c"); !ok || r != old {
		t.Error("a record that is current was not filled in")
	}
}

// leaderCheck answers rounds when the test says so.
type leaderCheck struct {
	rounds chan chan error
}

func (l *leaderCheck) VerifyLeader() raft.Future {
	f := &future{c: make(chan error, 1)}
	l.rounds <- f.c
	return f
}

type future struct{ c chan error }

func (f *future) Error() error { return <-f.c }

func TestVerifierBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &leaderCheck{rounds: make(chan chan error)}
		v := &verifier{raft: l}
		results := make(chan error, 1000)
		ask := func(n int) {
			for range n {
				go func() { results <- v.check(t.Context()) }()
			}
			synctest.Wait()
		}
		ask(1)
		first := <-l.rounds
		ask(100) // while the first round runs
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := v.check(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("a caller that went: %v", err)
		}
		if len(results) != 0 {
			t.Fatal("answered before the round")
		}
		first <- nil
		if err := <-results; err != nil {
			t.Fatal(err)
		}
		second := <-l.rounds
		synctest.Wait()
		if len(results) != 0 {
			t.Fatal("an earlier round answered a later question")
		}
		ask(1) // takes part in the round after
		lost := errors.New("lost")
		second <- lost
		for range 100 {
			if err := <-results; !errors.Is(err, lost) {
				t.Fatalf("got %v", err)
			}
		}
		third := <-l.rounds
		third <- nil
		if err := <-results; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if v.running || len(results) != 0 {
			t.Fatal("a round runs for nobody")
		}
	})
}

// A round that raft has taken is waited for before raft is shut down: it would never
// be answered afterwards.
func TestVerifierStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &leaderCheck{rounds: make(chan chan error)}
		v := &verifier{raft: l}
		result, stopped := make(chan error, 1), make(chan struct{})
		go func() { result <- v.check(t.Context()) }()
		round := <-l.rounds
		go func() {
			v.stop()
			v.stop() // again
			close(stopped)
		}()
		synctest.Wait()
		select {
		case <-stopped:
			t.Fatal("stopped with a round under way")
		default:
		}
		if err := v.check(t.Context()); !errors.Is(err, raft.ErrRaftShutdown) {
			t.Errorf("asked while stopping: %v", err)
		}
		round <- nil
		<-stopped
		if err := <-result; err != nil {
			t.Errorf("the round's answer: %v", err)
		}
	})
}

// installs answers InstallSnapshot.
type installer struct {
	Transport
	err error
	ok  bool
}

func (i *installer) InstallSnapshot(_ raft.ServerID, _ raft.ServerAddress, _ *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, _ io.Reader) error {
	resp.Success = i.ok
	return i.err
}

func TestInstallWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &installer{ok: true}
		var repeats []string
		w := &installWatch{Transport: tr, repeat: func(id raft.ServerID, index uint64) { repeats = append(repeats, fmt.Sprint(id, index)) }}
		install := func(id raft.ServerID, index uint64) {
			err := w.InstallSnapshot(id, "", &raft.InstallSnapshotRequest{LastLogIndex: index}, &raft.InstallSnapshotResponse{}, nil)
			if !errors.Is(err, tr.err) {
				t.Errorf("got %v", err)
			}
			synctest.Wait()
		}
		install("a", 5)
		install("a", 5)
		install("b", 5)
		install("b", 5)
		install("a", 6) // a newer one
		install("a", 6)
		tr.err = io.ErrUnexpectedEOF
		install("a", 6) // did not get there
		tr.err, tr.ok = nil, false
		install("a", 6) // was refused
		tr.ok = true
		if len(repeats) != 0 {
			t.Fatalf("taken for loops: %v", repeats)
		}
		install("a", 6)
		if len(repeats) != 1 || repeats[0] != "a6" {
			t.Fatalf("taken for loops: %v", repeats)
		}
		install("a", 6)
		install("a", 6)
		if len(repeats) != 1 { // the newer snapshot is on its way
			t.Fatalf("taken for loops: %v", repeats)
		}
		install("a", 6)
		if len(repeats) != 2 {
			t.Fatalf("taken for loops: %v", repeats)
		}
	})
}

// The loop is broken by a snapshot that is newer, also of a shard in which
// nothing happens.
func TestBreakInstallLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startAlone(t, start{})
		propose(t, m.shard, addCommand("c", "a", 1, 0))
		last := uint64(0)
		for range 3 {
			m.shard.breakInstallLoop("n2", last)
			list, err := m.stores.Snapshots.List()
			if err != nil || len(list) == 0 || list[0].Index <= last {
				t.Fatalf("snapshots %v, %v: none above %d", list, err, last)
			}
			last = list[0].Index
			time.Sleep(time.Second)
		}
	})
}

// A whole cart has exactly the requests whose effects it has.
func TestWholeIsOfOneMoment(t *testing.T) {
	m := startAlone(t, start{})
	s := m.shard
	const n = 400
	failed := make(chan error, 1)
	go func() {
		defer close(failed)
		for i := range n {
			if _, err := s.Propose(context.Background(), editCommand(withOp(i+1, edit("c", add("s", fmt.Sprint(i), 1))))); err != nil {
				failed <- err
				return
			}
		}
	}()
	for len(failed) == 0 {
		whole, err := s.Whole("c")
		if err != nil {
			t.Fatal(err)
		}
		if whole == nil {
			continue
		}
		if lines, ops := len(whole.Cart.Lines), len(whole.Ops); lines != ops {
			t.Fatalf("a cart of %d lines has %d requests", lines, ops)
		} else if lines == n {
			break
		}
	}
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	if whole, err := s.Whole("none"); whole != nil || err != nil {
		t.Fatalf("no cart: %v, %v", whole, err)
	}
}
