package shard

import (
	"testing"
	"time"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/store"
)

// collectable is a rig whose region is the only member.
func collectable(t *testing.T) *rig {
	r := newTestRig(t)
	r.apply(setMembers(members(1, active)))
	return r
}

// asItIs is the command that collects carts as they are now.
func asItIs(t *testing.T, r *rig, ids ...string) *regionv1.Command {
	t.Helper()
	c := &regionv1.Collect{}
	for _, id := range ids {
		d := DigestOfRecord(id, mustRecord(t, r, id))
		c.Carts = append(c.Carts, &regionv1.CartDigest{CartId: id, Digest: d[:]})
	}
	return &regionv1.Command{Command: &regionv1.Command_Collect{Collect: c}}
}

// later lets time pass, and forgets the requests that are past their life.
func (r *rig) later(d time.Duration) {
	r.t.Helper()
	r.at = crdt.TimestampAt(r.at.UnixMilli() + d.Milliseconds())
	r.apply(&regionv1.Command{Command: &regionv1.Command_ExpireOps{ExpireOps: &regionv1.ExpireOps{Limit: expireMax}}})
}

// G2: the dots of a cart that was dropped are not issued again, in this life of the
// node or the next: other regions may know them.
func TestDotsOfADroppedCartAreNotIssuedAgain(t *testing.T) {
	r := collectable(t)
	r.ok(edit("c", add("s", "a", 1)))
	r.ok(edit("c", clearAll()))
	known := r.state("c").Cart.Context
	r.apply(asItIs(t, r, "c"))
	if rec, err := r.fsm.record("c"); err != nil || rec != nil {
		t.Fatalf("a collected cart is left: %v, %v", rec, err)
	}
	r.open() // a restart
	r.ok(edit("c", add("s", "b", 2)))
	r.want("c", map[string]uint32{"s/b/": 2})
	for _, row := range r.rows(2) {
		for _, d := range row.Delta.Dots {
			if known.Has(d) {
				t.Errorf("dot %v is issued again: before it was dropped, the cart had %v", d, known)
			}
		}
	}
	if floors, err := r.fsm.current().Floors(0, SlotCount); err != nil || floors[r.fsm.slots.Of("c")].Seq != 2 {
		t.Errorf("floor %+v, %v", floors[r.fsm.slots.Of("c")], err)
	}
}

// G1: a cart that changed since it was looked at is left as it is.
func TestAChangedCartIsNotCollected(t *testing.T) {
	r := collectable(t)
	r.ok(edit("c", add("s", "a", 1)))
	r.ok(edit("c", clearAll()))
	collect := asItIs(t, r, "c")
	r.ok(edit("c", add("s", "b", 2)))
	r.ok(edit("c", remove("s", "b"))) // empty again, and other regions have not seen that
	before := r.state("c").Cart
	r.apply(collect)
	if got := r.state("c").Cart; !got.Equal(before) {
		t.Errorf("context %v, want %v", got.Context, before.Context)
	}
}

// A cart goes only when its requests are forgotten: else a retry would count again.
func TestACartWithRequestsIsNotCollected(t *testing.T) {
	r := collectable(t)
	r.ok(withOp(1, edit("c", add("s", "a", 1))))
	r.ok(edit("c", clearAll()))
	r.apply(asItIs(t, r, "c"))
	if out := r.ok(withOp(1, edit("c", add("s", "a", 1)))); !out.Replayed {
		t.Fatalf("a retry counted again: %v", out)
	}
	r.later(25 * time.Hour)
	r.apply(asItIs(t, r, "c"))
	if rec, err := r.fsm.record("c"); err != nil || rec != nil {
		t.Fatalf("a collected cart is left: %v, %v", rec, err)
	}
}

// G3: a cart is not collectable while the delta log has rows that were written
// before its last change was a token's life ago.
func TestNotCollectableBeforeItsRowsAreGone(t *testing.T) {
	r := collectable(t)
	now := epoch.Add(4 * time.Hour)
	s := &Shard{fsm: r.fsm, cfg: Config{Limits: Limits{OpLife: time.Hour}, Clock: func() time.Time { return now }}}
	r.at = crdt.TimestampAt(now.Add(-3 * time.Hour).UnixMilli())
	r.ok(edit("c", add("s", "a", 1)))
	r.ok(edit("c", clearAll()))
	r.ok(edit("other", add("s", "a", 1)))
	r.at = crdt.TimestampAt(now.Add(-90 * time.Minute).UnixMilli())
	r.ok(edit("other", add("s", "a", 1))) // a mark, which is older than a token
	c := store.CartDigest{CartID: "c", Digest: mustRecord(t, r, "c").Digest}
	for _, step := range []struct {
		trimmed uint64
		want    bool
	}{{0, false}, {3, false}, {4, true}} {
		r.apply(&regionv1.Command{Command: &regionv1.Command_TrimLog{TrimLog: &regionv1.TrimLog{Seq: step.trimmed}}})
		if ok, err := s.Collectable([]store.CartDigest{c}); err != nil || ok[0] != step.want {
			t.Errorf("trimmed to %d: collectable %v, %v, want %v", step.trimmed, ok, err, step.want)
		}
	}
	c.Digest[0]++
	if ok, err := s.Collectable([]store.CartDigest{c}); err != nil || ok[0] {
		t.Errorf("as another region has it: collectable %v, %v", ok, err)
	}
}
