package shard

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

func erase() *regionv1.Change { return &regionv1.Change{Kind: regionv1.Change_KIND_ERASE} }

// scrub does what the leader of the shard does in the background.
func (r *rig) scrub() {
	r.t.Helper()
	s := &Shard{fsm: r.fsm, cfg: Config{Slots: NewSlots(1)}}
	next := s.scrubs()
	for c := next(); c != nil; c = next() {
		if err := s.check(c); err != nil {
			r.t.Fatalf("%v", err)
		}
		r.apply(c)
	}
}

// has reports whether a snapshot of the shard, which has all that it keeps, has some
// text in it.
func (r *rig) has(text string) bool {
	r.t.Helper()
	var b bytes.Buffer
	snap := r.fsm.current().Snapshot()
	defer snap.Close()
	if _, err := snap.WriteTo(&b); err != nil {
		r.t.Fatalf("%v", err)
	}
	return bytes.Contains(b.Bytes(), []byte(text))
}

func TestErase(t *testing.T) {
	r := newTestRig(t)
	r.limits.Lines = 500
	r.ok(edit("other", add("s", "sugar", 1)))
	for i := range 40 { // more than a chunk of rows and of requests
		r.ok(withOp(i, edit("c", add("s", "private-tea", 1))))
		r.ok(withOp(1000+i, edit("other", add("s", "sugar", 1))))
	}
	big := make([]*regionv1.Change, 0, 60) // an outcome that has a key of its own
	for i := range 60 {
		big = append(big, add("s", "private-cup", uint32(1+i%2)))
	}
	r.limits.Quantity = 999
	r.ok(withOp(500, edit("c", big...)))
	r.ok(edit("c", remove("s", "private-cup")))
	out := r.ok(withOp(600, edit("c", erase())))
	if out.ItemCount != 0 || !r.recordOf("c").Erased {
		t.Fatalf("outcome %v", out)
	}
	// At once: nothing to undo, no request known, no edit taken.
	for _, c := range []*regionv1.Change{add("s", "pot", 1), remove("s", "pot"), clearAll(), undo(), save("s", "pot")} {
		r.refuse(regionv1.Outcome_CODE_ERASED, edit("c", c))
	}
	if out := r.refuse(regionv1.Outcome_CODE_ERASED, withOp(3, edit("c", add("s", "private-tea", 1)))); out.Replayed {
		t.Fatalf("a request of an erased cart is known: %v", out)
	}
	if removed, err := r.fsm.current().Removed("c"); err != nil || removed != nil {
		t.Fatalf("kept %v, %v", removed, err)
	}
	// Again is no error, and no write.
	before := r.fsm.marker().Seq
	for _, e := range []*regionv1.Edit{edit("c", erase()), withOp(600, edit("c", erase())), withOp(601, edit("c", erase()))} {
		r.ok(e)
	}
	if r.fsm.marker().Seq != before {
		t.Fatal("an erased cart was written")
	}
	// And after the leader has looked for traces, there are none.
	if !r.has("private") {
		t.Fatal("the test finds nothing")
	}
	seq := r.fsm.marker().Seq
	others := r.lines("other")
	r.scrub()
	if r.has("private") {
		t.Fatal("something tells of the erased cart")
	}
	rows := r.rows(0)
	if uint64(len(rows)) != seq {
		t.Fatalf("%d rows of %d", len(rows), seq)
	}
	if to, err := r.fsm.current().Scrubbed(); err != nil || to != r.index {
		t.Fatalf("scrubbed up to %d, %v", to, err)
	}
	// Others' requests are still known, and this shard's rows and those that the process
	// finds after a restart give the same.
	if out := r.do(withOp(1003, edit("other", add("s", "sugar", 1)))); !out.Replayed {
		t.Fatalf("outcome %v", out)
	}
	r.open()
	eu := newRig(t, tempStore(t), 0, 2)
	eu.apply(joinRows(r.stream(), 0, seq, r.rows(0)...))
	if !eu.state("c").Cart.IsErased() || !eu.state("c").Cart.Equal(r.state("c").Cart) {
		t.Fatalf("elsewhere the cart is %v", eu.state("c").Cart)
	}
	eu.want("other", others)
	// Requests that are past their life go as before.
	r.at += crdt.Timestamp(r.limits.OpLifeMs+1000) << 16
	for range 3 {
		r.apply(&regionv1.Command{Command: &regionv1.Command_ExpireOps{ExpireOps: &regionv1.ExpireOps{Limit: 1000}}})
	}
	if m := r.fsm.marker(); m.OpsForgotten != m.Ops {
		t.Fatalf("marker %+v", m)
	}
}

// An erasure beats every write, in whatever order they meet, and a region that hears of
// it forgets as the one where it was made.
func TestEraseElsewhere(t *testing.T) {
	p := newPair(t)
	p.a.ok(withOp(1, edit("c", add("s", "private-tea", 2))))
	p.sync()
	p.b.ok(withOp(2, edit("c", remove("s", "private-tea"))))
	p.b.ok(withOp(3, edit("c", add("s", "private-cup", 2))))
	p.a.ok(edit("c", erase()))
	p.sync()
	p.sync()
	for _, r := range []*rig{p.a, p.b} {
		if !r.state("c").Cart.IsErased() || !r.recordOf("c").Erased || r.recordOf("c").Count != 0 {
			t.Fatalf("region %d has %v", r.region, r.state("c").Cart)
		}
		r.refuse(regionv1.Outcome_CODE_ERASED, edit("c", undo()))
		r.refuse(regionv1.Outcome_CODE_ERASED, edit("c", add("s", "pot", 1)))
		r.scrub()
		if r.has("private") {
			t.Fatalf("region %d tells of the erased cart", r.region)
		}
	}
	if !p.a.state("c").Cart.Equal(p.b.state("c").Cart) {
		t.Fatal("regions differ")
	}
	// By a whole cart, as repair brings it.
	c := newRig(t, tempStore(t), 0, 3)
	c.ok(withOp(9, edit("c", add("s", "private-pot", 2))))
	c.apply(joinCart("c", p.a.state("c")))
	c.scrub()
	if !c.state("c").Cart.IsErased() || c.has("private") {
		t.Fatal("the third region tells of the erased cart")
	}
}

func TestScrubLeavesOthersAlone(t *testing.T) {
	r := newTestRig(t)
	r.ok(withOp(1, edit("c", add("s", "tea", 2))))
	before := r.rows(0)
	r.apply(&regionv1.Command{Command: &regionv1.Command_Scrub{Scrub: &regionv1.Scrub{CartId: "c", Rows: []uint64{1}, Requests: []uint64{1}, Done: true}}})
	if !bytes.Equal(before[0].Encode(nil), r.rows(0)[0].Encode(nil)) {
		t.Fatal("a cart that was not erased was scrubbed")
	}
	r.ok(edit("d", erase()))
	r.apply(&regionv1.Command{Command: &regionv1.Command_Scrub{Scrub: &regionv1.Scrub{CartId: "d", Rows: []uint64{1, 2, 99}, Requests: []uint64{1, 99}}}})
	if !bytes.Equal(before[0].Encode(nil), r.rows(0)[0].Encode(nil)) {
		t.Fatal("another cart's row was scrubbed")
	}
	s := &Shard{cfg: Config{Slots: NewSlots(1)}}
	if s.check(&regionv1.Command{Command: &regionv1.Command_Scrub{Scrub: &regionv1.Scrub{CartId: "c", Rows: make([]uint64, scrubMax+1)}}}) == nil {
		t.Fatal("a scrub that is too large was taken")
	}
	for _, e := range []*regionv1.Edit{edit("c", erase(), add("s", "tea", 1)), edit("c", undo(), undo())} {
		if s.check(editCommand(e)) == nil {
			t.Fatalf("%v was taken", e)
		}
	}
}

// After an erasure every member's log and snapshots begin behind all that told of the
// cart; another one follows in its time.
func TestMembersForgetErasedCarts(t *testing.T) {
	g := newGroup(t, true, nil, "n1", "n2", "n3")
	_, s := g.leader()
	for i := range 20 {
		propose(t, s, editCommand(withOp(i+1, edit("c", add("s", fmt.Sprint("private-", i), 1)))))
		propose(t, s, addCommand("other", "sugar", 1, 0))
	}
	for _, m := range g.members {
		if err := m.shard.raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
	}
	propose(t, s, editCommand(edit("c", erase())))
	for name, m := range g.members {
		within(t, 30*time.Second, name+" has forgotten", func() bool {
			to, err := m.shard.fsm.current().Scrubbed()
			if err != nil || to == 0 {
				return false
			}
			gone, err := m.shard.hasForgotten(to)
			return err == nil && gone
		})
		if n := m.shard.raft.ReloadableConfig().TrailingLogs; n != 0 && n != m.shard.cfg.Timing.Trailing {
			t.Errorf("%s keeps %d entries", name, n)
		}
		r := &rig{t: t, fsm: m.shard.fsm}
		if r.has("private") {
			t.Errorf("%s tells of the erased cart", name)
		}
	}
	// The group goes on, and a member that starts has all.
	propose(t, s, addCommand("other", "sugar", 1, 0))
	g.settle()
	name := g.follower()
	g.stop(name)
	g.start(name)
	_, s = g.leader()
	propose(t, s, addCommand("other", "sugar", 1, 0))
	g.settle()
	(&rig{t: t, fsm: g.members[name].shard.fsm}).want("other", map[string]uint32{"seller-1/sugar/": 22})
}

// An erased cart takes no guest's any more, and a guest's that was erased joins nothing:
// neither leaves a trace in the other, and the marks go.
func TestEraseAndGuests(t *testing.T) {
	r := newTestRig(t)
	r.limits.Lines = 10
	r.login("guest:g", "c")
	state := r.state("guest:g")
	r.ok(edit("c", erase()))
	active := r.state("c").Active
	r.pass(1000)
	if out := r.apply(joinGuest("c", "guest:g", state))[0]; out.Code != regionv1.Outcome_CODE_ERASED {
		t.Fatalf("outcome %v", out)
	}
	if out := r.apply(&regionv1.Command{Command: &regionv1.Command_JoinGuest{
		JoinGuest: &regionv1.JoinGuest{CartId: "c", GuestCartId: "guest:g", Gone: true},
	}})[0]; out.Code != 0 {
		t.Fatalf("gone: %v", out)
	}
	if got := r.state("c"); !got.Cart.IsErased() || len(got.Cart.Lines) > 1 || got.Active != active || len(got.Ops) > 0 {
		t.Fatalf("erased cart has %v", got)
	}
	r.ok(edit("guest:g", erase()))
	if _, merged := r.state("guest:g").Cart.Fact(crdt.FactMerged, "c"); merged {
		t.Fatal("the erased guest's cart names the user's")
	}
	r.apply(joinGuest("d", "guest:g", r.state("guest:g")))
	r.want("d", map[string]uint32{})
	if rec := r.recordOf("d"); rec != nil {
		t.Fatalf("the cart of another user has %v", rec.State)
	}
}
