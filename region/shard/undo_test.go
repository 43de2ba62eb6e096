package shard

import (
	"bytes"
	"io"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

func undo() *regionv1.Change { return &regionv1.Change{Kind: regionv1.Change_KIND_UNDO} }

// pair is two regions' shards that send each other their rows.
type pair struct{ a, b *rig }

func newPair(t *testing.T) pair {
	t.Helper()
	return pair{newRig(t, tempStore(t), 0, 1), newRig(t, tempStore(t), 0, 2)}
}

// sync brings each the other's rows.
func (p pair) sync() {
	send := func(from, to *rig) {
		st := crdt.Stream{Region: from.region, Shard: 0}
		at, err := to.fsm.current().Cursor(st)
		if err != nil {
			to.t.Fatalf("%v", err)
		}
		rows := from.rows(at)
		if len(rows) == 0 {
			return
		}
		j := &regionv1.JoinRows{RegionId: uint32(from.region), Lo: at, Hi: rows[len(rows)-1].Last}
		for _, row := range rows {
			j.Rows = append(j.Rows, row.Encode(nil))
		}
		to.apply(&regionv1.Command{Command: &regionv1.Command_JoinRows{JoinRows: j}})
	}
	ra, rb := p.a.fsm.marker().Seq, p.b.fsm.marker().Seq
	send(p.a, p.b)
	send(p.b, p.a)
	if p.a.fsm.marker().Seq != ra || p.b.fsm.marker().Seq != rb {
		p.a.t.Fatalf("joining made rows")
	}
}

func (r *rig) pass(ms uint64) { r.at += crdt.Timestamp(ms) << 16 }

func TestUndoOfARemoveAndAClear(t *testing.T) {
	r := newTestRig(t)
	tea := crdt.LineKey{Seller: "s", SKU: "tea"}
	r.refuse(regionv1.Outcome_CODE_NOTHING_TO_UNDO, edit("c", undo()))
	r.ok(edit("c", add("s", "tea", 2), add("s", "cup", 1), save("s", "tea"), describeAs("s", "tea", "note=hi")))
	was := r.visible("c", tea)
	r.ok(edit("c", remove("s", "tea")))
	r.want("c", map[string]uint32{"s/cup/": 1})
	if out := r.ok(edit("c", undo())); out.ItemCount != 1 {
		t.Fatalf("outcome %v", out)
	}
	if now := r.visible("c", tea); now != was {
		t.Fatalf("brought back %+v, it was %+v", now, was)
	}
	// Once, and an undo is not undone.
	r.refuse(regionv1.Outcome_CODE_NOTHING_TO_UNDO, edit("c", undo()))
	r.ok(edit("c", clearAll()))
	r.ok(edit("c", undo()))
	r.want("c", map[string]uint32{"s/tea/": 2, "s/cup/": 1})
	// The last alone: the remove before it is not undone after it.
	r.ok(edit("c", remove("s", "cup")))
	r.ok(edit("c", set("s", "tea", 0)))
	r.ok(edit("c", undo()))
	r.want("c", map[string]uint32{"s/tea/": 2})
	r.refuse(regionv1.Outcome_CODE_NOTHING_TO_UNDO, edit("c", undo()))
	// With an op id it is applied once.
	r.ok(edit("c", remove("s", "tea")))
	r.ok(withOp(1, edit("c", undo())))
	r.ok(edit("c", remove("s", "tea")))
	if out := r.ok(withOp(1, edit("c", undo()))); !out.Replayed {
		t.Fatalf("outcome %v", out)
	}
	r.want("c", map[string]uint32{})
}

func TestUndoHasItsTime(t *testing.T) {
	r := newTestRig(t)
	r.ok(edit("c", add("s", "tea", 2)))
	r.ok(edit("c", remove("s", "tea")))
	r.pass(r.limits.UndoMs + 1)
	r.refuse(regionv1.Outcome_CODE_NOTHING_TO_UNDO, edit("c", undo()))
	forget := func() int {
		ids, err := r.fsm.current().RemovedBefore(r.at-crdt.Timestamp(r.limits.UndoMs)<<16, 10)
		if err != nil {
			t.Fatal(err)
		}
		r.apply(&regionv1.Command{Command: &regionv1.Command_ExpireOps{ExpireOps: &regionv1.ExpireOps{Limit: 10, Undone: ids}}})
		return len(ids)
	}
	if n := forget(); n != 1 {
		t.Fatalf("%d removals are old", n)
	}
	if n := forget(); n != 0 {
		t.Fatalf("%d removals are still kept", n)
	}
	r.limits.UndoMs = 0
	r.ok(edit("c", add("s", "tea", 2)))
	r.ok(edit("c", remove("s", "tea")))
	r.refuse(regionv1.Outcome_CODE_NOTHING_TO_UNDO, edit("c", undo()))
}

// What was added again since keeps what it has; the rest of a clear comes back.
func TestUndoLeavesWhatIsThereAgain(t *testing.T) {
	r := newTestRig(t)
	r.ok(edit("c", add("s", "tea", 2), add("s", "cup", 1)))
	r.ok(edit("c", clearAll()))
	r.ok(edit("c", add("s", "tea", 5)))
	r.ok(edit("c", undo()))
	r.want("c", map[string]uint32{"s/tea/": 5, "s/cup/": 1})
	// All of it there again: nothing to undo.
	r.ok(edit("c", clearAll()))
	r.ok(edit("c", add("s", "tea", 1), add("s", "cup", 1)))
	r.refuse(regionv1.Outcome_CODE_NOTHING_TO_UNDO, edit("c", undo()))
	// And gone again otherwise, it is not what the clear took.
	r.ok(edit("c", remove("s", "cup")))
	r.ok(edit("c", undo()))
	r.want("c", map[string]uint32{"s/tea/": 1, "s/cup/": 1})
}

func TestUndoIsRefusedAsAnAddIs(t *testing.T) {
	r := newTestRig(t)
	r.limits.Lines = 2
	r.ok(edit("c", add("s", "a", 1), add("s", "b", 1)))
	r.ok(edit("c", clearAll()))
	r.ok(edit("c", add("s", "x", 1)))
	r.refuse(regionv1.Outcome_CODE_TOO_MANY_LINES, edit("c", undo()))
	r.ok(edit("d", add("s", "a", 1)))
	r.ok(edit("d", clearAll()))
	pound := add("s", "x", 1)
	pound.Currency = "GBP"
	r.ok(edit("d", pound))
	r.refuse(regionv1.Outcome_CODE_CURRENCY_MISMATCH, edit("d", undo()))
	// A later limit on quantities is what is shown, and what comes back.
	r.ok(edit("e", add("s", "a", 50)))
	r.ok(edit("e", clearAll()))
	r.limits.Quantity = 9
	r.ok(edit("e", undo()))
	r.want("e", map[string]uint32{"s/a/": 9})
}

// What one region took out, another puts back; then the first has nothing to undo.
func TestUndoInAnotherRegion(t *testing.T) {
	p := newPair(t)
	p.a.ok(edit("c", add("s", "tea", 2), add("s", "cup", 1)))
	p.sync()
	p.a.ok(edit("c", clearAll()))
	p.sync()
	p.b.want("c", map[string]uint32{})
	p.b.ok(edit("c", undo()))
	p.b.want("c", map[string]uint32{"s/tea/": 2, "s/cup/": 1})
	p.sync()
	p.a.want("c", map[string]uint32{"s/tea/": 2, "s/cup/": 1})
	p.a.refuse(regionv1.Outcome_CODE_NOTHING_TO_UNDO, edit("c", undo()))
	p.b.refuse(regionv1.Outcome_CODE_NOTHING_TO_UNDO, edit("c", undo()))
	// Both at the same time: the lines are there once.
	p.a.ok(edit("c", remove("s", "tea")))
	p.sync()
	p.a.ok(edit("c", undo()))
	p.b.ok(edit("c", undo()))
	p.sync()
	p.sync()
	p.a.want("c", map[string]uint32{"s/tea/": 2, "s/cup/": 1})
	if !p.a.state("c").Cart.Equal(p.b.state("c").Cart) {
		t.Fatal("regions differ")
	}
}

// merge joins a guest's lines into a cart, as a login does.
func (r *rig) merge(id, guest string, lines map[string]uint32) {
	r.t.Helper()
	w := crdt.Writer{Replica: crdt.Replica{Region: r.region, Lineage: guest}, At: r.at}
	c := &crdt.Cart{}
	for sku, n := range lines {
		c = c.Apply(c.Add(w, crdt.LineKey{Seller: "s", SKU: sku}, n, crdt.Offer{Price: 1, Currency: "USD", AddedAt: r.at}, false))
	}
	own := r.state(id).Cart
	fact := own.SetFact(crdt.Writer{Replica: crdt.Replica{Region: 9}, At: r.at}, crdt.FactGuest, guest, "")
	c = crdt.Join(c, fact.Fragment())
	r.apply(&regionv1.Command{Command: &regionv1.Command_JoinCart{JoinCart: &regionv1.JoinCart{
		CartId: id, State: (&crdt.State{Cart: c}).Encode(nil), RegionId: uint32(r.region),
	}}})
}

// The login example: what the merge brought goes again, what the user had stays as
// it was, and what was edited since stays as it is.
func TestUndoOfAMerge(t *testing.T) {
	r := newTestRig(t)
	r.limits.Lines = 10
	r.ok(edit("c", add("s", "2", 1), add("s", "4", 3)))
	r.pass(1000)
	r.merge("c", "guest:g", map[string]uint32{"1": 1, "2": 2, "3": 1})
	r.want("c", map[string]uint32{"s/1/": 1, "s/2/": 2, "s/3/": 1, "s/4/": 3})
	r.pass(1000)
	r.ok(edit("c", set("s", "3", 7)))
	out := r.ok(edit("c", undo()))
	r.want("c", map[string]uint32{"s/2/": 1, "s/3/": 7, "s/4/": 3})
	if out.ItemCount != 11 {
		t.Fatalf("outcome %v", out)
	}
	if _, ok := r.state("c").Cart.Fact(crdt.FactGuest, "guest:g"); !ok {
		t.Fatal("the guest's id is forgotten")
	}
	r.refuse(regionv1.Outcome_CODE_NOTHING_TO_UNDO, edit("c", undo()))

	// The last one: a remove after the merge, then nothing more.
	r.ok(edit("d", add("s", "2", 1)))
	r.merge("d", "guest:h", map[string]uint32{"1": 1})
	r.pass(1000)
	r.ok(edit("d", remove("s", "2")))
	r.ok(edit("d", undo()))
	r.want("d", map[string]uint32{"s/1/": 1, "s/2/": 1})
	r.refuse(regionv1.Outcome_CODE_NOTHING_TO_UNDO, edit("d", undo()))

	// A merge after a remove.
	r.ok(edit("e", add("s", "2", 1), add("s", "5", 1)))
	r.ok(edit("e", remove("s", "2")))
	r.pass(1000)
	r.merge("e", "guest:i", map[string]uint32{"1": 1})
	r.ok(edit("e", undo()))
	r.want("e", map[string]uint32{"s/5/": 1})
	r.refuse(regionv1.Outcome_CODE_NOTHING_TO_UNDO, edit("e", undo()))

	// Too long ago.
	r.merge("f", "guest:k", map[string]uint32{"1": 1})
	r.pass(r.limits.UndoMs + 1)
	r.refuse(regionv1.Outcome_CODE_NOTHING_TO_UNDO, edit("f", undo()))
}

// Where the rule wrote a quantity for both, the undo shows what the user had, unless
// somebody has written another since.
func TestUndoOfAMergeUnderARule(t *testing.T) {
	for _, c := range []struct {
		name                            string
		rule                            regionv1.MergeRule
		user, guest, merged, set, after uint32
	}{
		{"sum", regionv1.MergeRule_MERGE_RULE_SUM, 2, 3, 5, 0, 2},
		{"sum of the same", regionv1.MergeRule_MERGE_RULE_SUM, 2, 2, 4, 0, 2},
		{"sum, and edited since", regionv1.MergeRule_MERGE_RULE_SUM, 2, 3, 5, 4, 4},
		{"the guest's is the latest", regionv1.MergeRule_MERGE_RULE_LATEST, 5, 2, 2, 0, 5},
		{"the guest's is the latest and larger", regionv1.MergeRule_MERGE_RULE_LATEST, 2, 5, 5, 0, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newTestRig(t)
			r.ok(edit("cart:u", add("s", "tea", c.user)))
			r.pass(1000)
			r.ok(edit("guest:g", add("s", "tea", c.guest)))
			cmd := joinGuest("cart:u", "guest:g", r.state("guest:g"))
			cmd.GetJoinGuest().Rule = c.rule
			r.apply(cmd)
			r.want("cart:u", map[string]uint32{"s/tea/": c.merged})
			r.pass(1000)
			if c.set > 0 {
				r.ok(edit("cart:u", set("s", "tea", c.set)))
			}
			r.ok(edit("cart:u", undo()))
			r.want("cart:u", map[string]uint32{"s/tea/": c.after})
			r.pass(1000)
			r.apply(cmd) // once more, after the undo
			r.want("cart:u", map[string]uint32{"s/tea/": c.after})
		})
	}
}

// What somebody wrote in another region at the same time is not taken for what the
// rule wrote, though it is as much.
func TestUndoOfAMergeLeavesAConcurrentWrite(t *testing.T) {
	p := newPair(t)
	p.a.ok(edit("cart:u", add("s", "tea", 2)))
	p.a.ok(edit("guest:g", add("s", "tea", 3)))
	p.sync()
	cmd := joinGuest("cart:u", "guest:g", p.a.state("guest:g"))
	cmd.GetJoinGuest().Rule = regionv1.MergeRule_MERGE_RULE_SUM
	p.a.apply(cmd)
	p.b.ok(edit("cart:u", add("s", "tea", 3)))
	p.sync()
	p.sync()
	p.a.ok(edit("cart:u", undo()))
	p.a.want("cart:u", map[string]uint32{"s/tea/": 5})
	p.sync()
	p.b.want("cart:u", map[string]uint32{"s/tea/": 5})
}

// What one region's undo of a merge took out is no shopper's removal: no other region
// puts it back, nor does it undo what is older than the merge.
func TestUndoOfAMergeIsUndoneEverywhere(t *testing.T) {
	p := newPair(t)
	p.a.ok(edit("cart:u", add("s", "tea", 2), add("s", "pot", 1)))
	p.a.ok(edit("guest:g", add("s", "cup", 3)))
	p.sync()
	p.a.pass(1000)
	p.a.ok(edit("cart:u", remove("s", "pot")))
	p.sync()
	p.a.pass(1000)
	p.a.apply(joinGuest("cart:u", "guest:g", p.a.state("guest:g")))
	p.b.apply(joinGuest("cart:u", "guest:g", p.b.state("guest:g"))) // each region joins its own
	p.sync()
	p.b.want("cart:u", map[string]uint32{"s/tea/": 2, "s/cup/": 3})
	p.a.pass(1000)
	p.a.ok(edit("cart:u", undo()))
	p.b.at = p.a.at
	p.sync()
	for _, r := range []*rig{p.a, p.b} {
		r.want("cart:u", map[string]uint32{"s/tea/": 2})
		r.refuse(regionv1.Outcome_CODE_NOTHING_TO_UNDO, edit("cart:u", undo()))
	}
	// A removal after that is one like any other.
	p.a.pass(1000)
	p.a.ok(edit("cart:u", remove("s", "tea")))
	p.sync()
	p.b.ok(edit("cart:u", undo()))
	p.b.want("cart:u", map[string]uint32{"s/tea/": 2})
}

// A merge is as old as its first: what the guest writes later is no new one.
func TestUndoOfAMergeKeepsItsTime(t *testing.T) {
	r := newTestRig(t)
	r.ok(edit("cart:u", add("s", "tea", 2), add("s", "pot", 1)))
	r.ok(edit("guest:g", add("s", "tea", 3)))
	join := func() {
		cmd := joinGuest("cart:u", "guest:g", r.state("guest:g"))
		cmd.GetJoinGuest().Rule = regionv1.MergeRule_MERGE_RULE_SUM
		r.apply(cmd)
	}
	join()
	r.pass(1000)
	r.ok(edit("cart:u", remove("s", "tea")))
	r.pass(1000)
	r.ok(edit("guest:g", add("s", "pot", 4)))
	join()
	r.want("cart:u", map[string]uint32{"s/pot/": 5})
	r.ok(edit("cart:u", undo()))
	r.want("cart:u", map[string]uint32{"s/tea/": 5, "s/pot/": 5})
}

// What is kept survives a restart and a snapshot.
func TestUndoAfterARestore(t *testing.T) {
	r := newTestRig(t)
	r.ok(edit("c", add("s", "tea", 2)))
	r.ok(edit("c", remove("s", "tea")))
	r.open()
	other := newRig(t, tempStore(t), 0, 1)
	var buf bytes.Buffer
	snap := r.fsm.current().Snapshot()
	_, err := snap.WriteTo(&buf)
	snap.Close()
	if err == nil {
		err = other.fsm.Restore(io.NopCloser(&buf))
	}
	if err != nil {
		t.Fatal(err)
	}
	other.index, other.at = r.index, r.at
	for _, r := range []*rig{r, other} {
		r.ok(edit("c", undo()))
		r.want("c", map[string]uint32{"s/tea/": 2})
	}
	if r.content() != other.content() {
		t.Fatal("members differ")
	}
}

// Where members commit is their own matter: what they store is not.
func TestForgottenRemovalsAreStoredEqually(t *testing.T) {
	var all []string
	for _, split := range []bool{false, true} {
		r := newTestRig(t)
		r.ok(edit("c", add("s", "tea", 2), add("s", "cup", 1)))
		r.ok(edit("c", remove("s", "tea")))
		r.pass(r.limits.UndoMs + 1)
		logs := []*regionv1.Command{
			{Command: &regionv1.Command_ExpireOps{ExpireOps: &regionv1.ExpireOps{Limit: 10, Undone: []string{"c"}}}},
			editCommand(edit("c", add("s", "cup", 1))),
		}
		a, b := r.log(logs[0]), r.log(logs[1])
		if split {
			r.fsm.Apply(a)
			r.fsm.Apply(b)
		} else {
			r.fsm.ApplyBatch([]*raft.Log{a, b})
		}
		all = append(all, r.content())
	}
	if all[0] != all[1] {
		t.Errorf("two members store\n%s and\n%s", all[0], all[1])
	}
}
