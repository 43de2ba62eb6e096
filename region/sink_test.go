package region

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

var away = crdt.Stream{Region: otherID, Incarnation: 1, Shard: 0}

func TestJoinInterval(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 3)
	gate := w.gateway()
	// Rows of all three shards, by turns: 3 × 300 make two commands each.
	const rows = 900
	carts := make([]*foreign, 9)
	for i := range carts {
		carts[i] = newForeign(w.cartIn(uint32(i%3), i))
	}
	iv := crdt.Interval{Stream: away, Lo: 0, Hi: rows}
	for seq := uint64(1); seq <= rows; seq++ {
		f := carts[seq%9].add(seq, fmt.Sprintf("sku-%d", seq%7), 1)
		iv.Rows = append(iv.Rows, f.rows[len(f.rows)-1])
	}
	expect := func(want uint64, lo, hi uint32) {
		t.Helper()
		got, err := gate.Cursor(soon(t), away, lo, hi)
		if err != nil || got != want {
			t.Errorf("cursor of [%d,%d) is %d (%v), want %d", lo, hi, got, err, want)
		}
	}
	expect(0, 0, 1024)
	later := crdt.Interval{Stream: away, Lo: 10, Hi: 20, Rows: iv.Rows[10:20]}
	if cursor, ok, err := gate.JoinInterval(soon(t), later, 0, 1024); ok || err != nil || cursor != 0 {
		t.Errorf("a gap was joined: cursor %d, %v, %v", cursor, ok, err)
	}
	expect(0, 0, 1024)
	for range 2 { // the second time all is known
		cursor, ok, err := gate.JoinInterval(soon(t), iv, 0, 1024)
		if !ok || err != nil || cursor != rows {
			t.Fatalf("join: cursor %d, %v, %v", cursor, ok, err)
		}
		expect(rows, 0, 1024)
		for _, f := range carts {
			v := mustRead(t, gate, f.id, ReadOptions{})
			if !v.State.Cart.Equal(f.cart) {
				t.Errorf("cart %s has %v", f.id, quantities(v))
			}
		}
	}
	// An interval without rows moves the cursor, of one shard as well.
	lo, hi := gate.slots.Range(1)
	if cursor, ok, err := gate.JoinInterval(soon(t), crdt.Interval{Stream: away, Lo: rows, Hi: rows + 5}, lo, hi); !ok || err != nil || cursor != rows+5 {
		t.Errorf("empty interval: cursor %d, %v, %v", cursor, ok, err)
	}
	expect(rows+5, lo, hi)
	expect(rows, 0, 1024)
	if err := gate.MoveCursor(soon(t), away, 0, 1024, rows+3); err != nil {
		t.Error(err)
	}
	expect(rows+3, 0, 1024)
	expect(rows+5, lo, hi) // never back
	other := away
	other.Shard = 7
	if got, err := gate.Cursor(soon(t), other, 0, 1024); got != 0 || err != nil {
		t.Errorf("cursor of another stream is %d (%v)", got, err)
	}
}

func TestJoinIntervalOfLargeRows(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 1)
	gate := w.gateway()
	f := newForeign(w.cartIn(0, 0))
	iv := crdt.Interval{Stream: away}
	for seq := uint64(1); seq <= 30; seq++ { // together three entries long
		f.add(seq, fmt.Sprintf("%d-%s", seq, strings.Repeat("x", 50<<10)), 1)
	}
	iv.Rows, iv.Hi = f.rows, 30
	cursor, ok, err := gate.JoinInterval(soon(t), iv, 0, 1024)
	if !ok || err != nil || cursor != 30 {
		t.Fatalf("join: cursor %d, %v, %v", cursor, ok, err)
	}
	if v := mustRead(t, gate, f.id, ReadOptions{}); !v.State.Cart.Equal(f.cart) {
		t.Errorf("cart has %d lines of 30", len(quantities(v)))
	}
}

func TestJoinIntervalRefuses(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 1, 2)
	r := w.node(w.names[0]).Router
	f := newForeign(w.cartIn(1, 0)).add(1, "tea", 1)
	slot := r.slots.Of(f.id)
	for name, c := range map[string]struct {
		lo, hi uint32
		iv     crdt.Interval
	}{
		"cart of another shard": {0, 512, crdt.Interval{Stream: away, Hi: 1, Rows: f.rows}},
		"cart of another slot":  {slot + 1, slot + 2, crdt.Interval{Stream: away, Hi: 1, Rows: f.rows}},
		"no slots":              {5, 5, crdt.Interval{Stream: away, Hi: 1}},
		"slots beyond the last": {0, 1025, crdt.Interval{Stream: away, Hi: 1}},
	} {
		if _, ok, err := r.JoinInterval(soon(t), c.iv, c.lo, c.hi); err == nil || ok {
			t.Errorf("%s: joined", name)
		}
	}
	for _, err := range []error{
		second(r.Cursor(soon(t), away, 9, 3)), r.MoveCursor(soon(t), away, 0, 2000, 1),
		second(r.Digests(soon(t), 1024, 1025)), third(r.Bucket(soon(t), 1024, "", 1)),
	} {
		if err == nil || errors.Is(err, ErrNoQuorum) {
			t.Errorf("slots out of range: %v", err)
		}
	}
	if got, err := r.Cursor(soon(t), away, 0, 1024); got != 0 || err != nil {
		t.Errorf("cursor is %d (%v) after refusals", got, err)
	}
	wantLines(t, mustRead(t, r, f.id, ReadOptions{}), nil)
}

func second[T any](_ T, err error) error        { return err }
func third[T, U any](_ T, _ U, err error) error { return err }

func TestRepair(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 3)
	gate := w.gateway()
	digests := func(lo, hi uint32) [][16]byte {
		t.Helper()
		out, err := gate.Digests(soon(t), lo, hi)
		if err != nil || len(out) != int(hi-lo) {
			t.Fatalf("%d digests of [%d,%d) (%v)", len(out), lo, hi, err)
		}
		return out
	}
	before := digests(0, 1024)
	ids := make(map[uint32][]string)
	var all []string
	for i := range 60 {
		id := fmt.Sprintf("cart-%d", i)
		mustEdit(t, gate, addEdit(id, "tea", uint32(i+1)))
		ids[gate.slots.Of(id)] = append(ids[gate.slots.Of(id)], id)
		all = append(all, id)
	}
	after := digests(0, 1024)
	for slot := range uint32(1024) {
		if (before[slot] != after[slot]) != (len(ids[slot]) > 0) {
			t.Errorf("slot %d has carts %v, its digest went from %x to %x", slot, ids[slot], before[slot], after[slot])
		}
		if len(ids[slot]) == 0 {
			continue
		}
		var listed []CartDigest
		for last, more := "", true; more; {
			part, m, err := gate.Bucket(soon(t), slot, last, 1)
			if err != nil {
				t.Fatal(err)
			}
			listed, more = append(listed, part...), m
			if len(part) > 0 {
				last = part[len(part)-1].CartID
			} else if more {
				t.Fatalf("slot %d has more, but nothing comes", slot)
			}
		}
		if len(listed) != len(ids[slot]) {
			t.Errorf("slot %d lists %v, has %v", slot, listed, ids[slot])
		}
		for _, c := range listed {
			if v := mustRead(t, gate, c.CartID, ReadOptions{}); v.Digest != c.Digest {
				t.Errorf("cart %s is listed with %x, has %x", c.CartID, c.Digest, v.Digest)
			}
		}
	}
	part := digests(300, 800) // across all three
	for i := range part {
		if part[i] != after[300+i] {
			t.Errorf("digest of slot %d differs in another range", 300+i)
		}
	}
	// Whole carts, with one that is not there in between.
	ask := append(append([]string{"nobody's"}, all...), "nobody's either")
	states, err := gate.States(soon(t), ask)
	if err != nil || len(states) != len(ask) {
		t.Fatalf("%d states for %d carts (%v)", len(states), len(ask), err)
	}
	if states[0] != nil || states[len(states)-1] != nil {
		t.Error("a cart that is not there has a state")
	}
	for i, id := range all {
		s, err := crdt.DecodeState(states[i+1])
		if err != nil {
			t.Fatalf("state of %s: %v", id, err)
		}
		if v := mustRead(t, gate, id, ReadOptions{}); !v.State.Cart.Equal(s.Cart) {
			t.Errorf("state of %s is another cart's", id)
		}
	}
	// A peer that joins them all is equal.
	peer := startWorld(t, 1, 2)
	p := peer.node(peer.names[0]).Router
	for i, id := range all {
		if err := p.JoinCart(soon(t), id, states[i+1], 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	got, err := p.Digests(soon(t), 0, 1024)
	if err != nil {
		t.Fatal(err)
	}
	for slot := range got {
		if got[slot] != after[slot] {
			t.Errorf("slot %d differs after the carts were joined", slot)
		}
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	peers := []*regionv1.StatusResponse_Peer{{Region: "eu", Acked: 3, Connected: true}}
	w := startWorld(t, 3, 2, func(w *world) {
		w.tune = func(c *Config) { c.Peers = func(uint32) []*regionv1.StatusResponse_Peer { return peers } }
	})
	gate := w.gateway()
	mustEdit(t, gate, addEdit(w.cartIn(0, 0), "tea", 1))
	w.ready()
	status := gate.Status(soon(t))
	if len(status) != 3 {
		t.Fatalf("status of %d nodes", len(status))
	}
	led := make(map[uint32]string)
	for _, n := range status {
		if len(n.Shards) != 2 {
			t.Errorf("node %s has %d shards", n.Node, len(n.Shards))
		}
		for _, s := range n.Shards {
			if s.Leads != (len(s.Peers) == 1) || s.Leads && s.Leader != n.Node {
				t.Errorf("node %s, shard %d: %v", n.Node, s.Shard, s)
			}
			if s.Leads {
				led[s.Shard] += n.Node
			}
			if want := uint64(1 - s.Shard); s.Carts != want || s.LogSeq != want || s.Applied == 0 {
				t.Errorf("node %s, shard %d has %d carts and %d rows, want %d", n.Node, s.Shard, s.Carts, s.LogSeq, want)
			}
		}
	}
	for id := range w.shards {
		if led[id] != w.leader(id).name {
			t.Errorf("shard %d is led by %q", id, led[id])
		}
	}
	if err := gate.Ready(soon(t)); err != nil {
		t.Error(err)
	}
	w.kill(w.names[2])
	if got := gate.Status(soon(t)); len(got) != 2 {
		t.Errorf("status of %d nodes with one down", len(got))
	}
	within(t, 10*time.Second, "ready again", func() error { return gate.Ready(soon(t)) })
}

// TestHandlersRefuse: what another version, or a stranger, may send.
func TestHandlersRefuse(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 4, 1) // the last node holds no shard
	n, none := w.leader(0), w.node(w.names[3])
	follower := w.follower(0)
	junk := bytes.Repeat([]byte{0xff}, 9)
	for _, kind := range []handlerOf{n.onPropose, n.onRead, n.onShard, n.onForm, n.onFirst, n.onAdmit} {
		if _, err := kind(soon(t), w.names[0], junk); err == nil {
			t.Error("junk was taken")
		}
	}
	ctx := soon(t)
	edit := &regionv1.Command{Command: &regionv1.Command_Edit{Edit: addEdit("c", "tea", 1)}}
	for name, call := range map[string]func() error{
		"no command": func() error { return second(n.onPropose(ctx, "", enc(t, &regionv1.ProposeRequest{}))) },
		"bad edit": func() error {
			return second(n.onPropose(ctx, "", enc(t, &regionv1.ProposeRequest{Command: badEdit()})))
		},
		"propose not here": func() error { return second(none.onPropose(ctx, "", enc(t, &regionv1.ProposeRequest{Command: edit}))) },
		"read not here":    func() error { return second(none.onRead(ctx, "", enc(t, &regionv1.ReadRequest{CartId: "c"}))) },
		"read elsewhere":   func() error { return second(follower.onRead(ctx, "", enc(t, &regionv1.ReadRequest{CartId: "c"}))) },
		"bad context": func() error {
			return second(n.onRead(ctx, "", enc(t, &regionv1.ReadRequest{CartId: "c", Covers: junk})))
		},
		"shard not here":  func() error { return second(none.onShard(ctx, "", enc(t, &regionv1.ShardRequest{}))) },
		"shard elsewhere": func() error { return second(follower.onShard(ctx, "", enc(t, &regionv1.ShardRequest{}))) },
		"no request":      func() error { return second(n.onShard(ctx, "", enc(t, &regionv1.ShardRequest{}))) },
		"slots out of range": func() error {
			return second(n.onShard(ctx, "", enc(t, &regionv1.ShardRequest{Request: &regionv1.ShardRequest_Digests{
				Digests: &regionv1.ShardRequest_Slots{Lo: 1000, Hi: 2000}}})))
		},
		"admit for another": func() error { return second(n.onAdmit(ctx, "us/1", enc(t, &regionv1.AdmitRequest{Node: "us/2"}))) },
		"admit not here":    func() error { return second(none.onAdmit(ctx, "us/1", enc(t, &regionv1.AdmitRequest{Node: "us/1"}))) },
		"admit elsewhere": func() error {
			return second(follower.onAdmit(ctx, "us/1", enc(t, &regionv1.AdmitRequest{Node: "us/1"})))
		},
		"other region": func() error {
			return second(n.onForm(ctx, "us/1", enc(t, &regionv1.FormRequest{Shards: 1, RegionId: 9})))
		},
	} {
		if err := call(); err == nil {
			t.Errorf("%s: was taken", name)
		}
	}
	// A node without the shard forwards what is asked of its router.
	cart := w.cartIn(0, 0)
	mustEdit(t, none.Router, addEdit(cart, "tea", 1))
	wantLines(t, mustRead(t, none.Router, cart, ReadOptions{Strong: true}), map[string]uint32{"tea": 1})
	if len(none.heldShards()) != 0 {
		t.Errorf("node %s holds %v", none.name, none.heldShards())
	}
}

func TestKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2, 2)
	gate := w.gateway()
	known := func(r *Router, region crdt.RegionID, lo, hi uint32) (uint32, error) {
		return r.Known(soon(t), region, lo, hi)
	}
	want := func(what string, region crdt.RegionID, lo, hi, want uint32) {
		t.Helper()
		for _, r := range []*Router{gate, w.node(w.names[0]).Router} {
			if got, err := known(r, region, lo, hi); err != nil || got != want {
				t.Errorf("%s: incarnation %d of region %d is known, %v, want %d", what, got, region, err, want)
			}
		}
	}
	// A region that is not formed knows nobody; that needs all of its nodes.
	release := make(chan struct{})
	w.tune = func(c *Config) {
		c.MayForm = func(context.Context) (uint32, error) { <-release; return 0, nil }
	}
	w.start(w.names[0])
	if got, err := known(gate, otherID, 0, 1024); err == nil {
		t.Errorf("with a node that is down: %d", got)
	}
	w.start(w.names[1])
	within(t, 5*time.Second, "all nodes answer", func() error {
		_, err := known(gate, otherID, 0, 1024)
		return err
	})
	want("not formed", otherID, 0, 1024, 0)
	close(release)
	w.ready()
	want("formed", otherID, 0, 1024, 0)

	// A whole cart counts, without a cursor.
	f := newForeign(w.cartIn(1, 0)).add(1, "tea", 1)
	if err := gate.JoinCart(soon(t), f.id, f.state(), 0, 0); err != nil {
		t.Fatal(err)
	}
	slot := gate.slots.Of(f.id)
	want("a cart", otherID, 0, 1024, 1)
	want("its slot", otherID, slot, slot+1, 1)
	want("before its slot", otherID, 0, slot, 0)
	want("another region", otherID+1, 0, 1024, 0)
	// Rows count where the cursor is.
	later := crdt.Stream{Region: otherID, Incarnation: 6, Shard: 1}
	lo, hi := gate.slots.Range(0)
	if err := gate.MoveCursor(soon(t), later, lo, hi, 9); err != nil {
		t.Fatal(err)
	}
	want("a cursor", otherID, lo, lo+1, 6)
	want("a cursor of another shard", otherID, slot, slot+1, 1)
	for _, slots := range [][2]uint32{{5, 5}, {0, 1025}} {
		if got, err := known(gate, otherID, slots[0], slots[1]); err == nil {
			t.Errorf("slots %v: %d", slots, got)
		}
	}
}

// What repairs is begun at the leaders, and told by them.
func TestRepairAndRepairing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, 2)
	var mu sync.Mutex
	running := map[uint32]string{} // by shard
	w.tune = func(c *Config) {
		c.Repair = func(shard uint32, region string) error {
			mu.Lock()
			defer mu.Unlock()
			if region == "mars" {
				return errors.New("no peer")
			}
			running[shard] = region
			return nil
		}
		c.Peers = func(shard uint32) []*regionv1.StatusResponse_Peer {
			mu.Lock()
			defer mu.Unlock()
			return []*regionv1.StatusResponse_Peer{{Region: "eu", Repairing: running[shard] == "eu"}, {Region: "ap"}}
		}
	}
	w.start(w.names...)
	w.ready()
	gate := w.gateway()
	if err := gate.Repair(soon(t), "mars"); err == nil {
		t.Error("a region that is no peer was repaired")
	}
	const half = 512
	for _, c := range []struct {
		region string
		lo, hi uint32
		want   bool
	}{{"eu", 0, 1024, false}, {"ap", 0, 1024, false}} {
		if got, err := gate.Repairing(soon(t), c.region, c.lo, c.hi); err != nil || got != c.want {
			t.Errorf("%s before: %v, %v", c.region, got, err)
		}
	}
	if err := gate.Repair(soon(t), "eu"); err != nil || len(running) != 2 {
		t.Fatalf("%d shards repair: %v", len(running), err)
	}
	mu.Lock()
	delete(running, 1)
	mu.Unlock()
	for _, c := range []struct {
		region string
		lo, hi uint32
		want   bool
	}{{"eu", 0, 1024, true}, {"eu", 0, half, true}, {"eu", half, 1024, false}, {"ap", 0, 1024, false}} {
		if got, err := gate.Repairing(soon(t), c.region, c.lo, c.hi); err != nil || got != c.want {
			t.Errorf("%s in slots [%d,%d): %v, %v", c.region, c.lo, c.hi, got, err)
		}
	}
	if _, err := gate.Repairing(soon(t), "eu", 5, 5); err == nil {
		t.Error("an empty range was taken")
	}
}
