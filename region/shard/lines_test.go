package shard

import (
	"testing"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

func change(kind regionv1.Change_Kind, seller, sku string) *regionv1.Change {
	return &regionv1.Change{Kind: kind, Line: &regionv1.LineKey{Seller: seller, Sku: sku, AnySeller: seller == ""}}
}

func save(seller, sku string) *regionv1.Change {
	return change(regionv1.Change_KIND_SAVE, seller, sku)
}

func move(seller, sku string) *regionv1.Change {
	return change(regionv1.Change_KIND_MOVE, seller, sku)
}

func describeAs(seller, sku, pairs string) *regionv1.Change {
	c := change(regionv1.Change_KIND_DESCRIBE, seller, sku)
	c.Attributes = &pairs
	return c
}

func (r *rig) visible(id string, k crdt.LineKey) crdt.Carried {
	r.t.Helper()
	return r.state(id).Cart.Find(k).Visible()
}

func TestSaveAndMove(t *testing.T) {
	r := newTestRig(t)
	tea := crdt.LineKey{Seller: "s", SKU: "tea"}
	r.ok(edit("c", add("s", "tea", 2), add("s", "cup", 1)))
	if out := r.ok(edit("c", save("s", "tea"))); out.ItemCount != 1 || out.Lines[0].Quantity != 2 || out.Lines[0].Removed {
		t.Fatalf("outcome %v", out)
	}
	if v := r.visible("c", tea); v.Placement != crdt.Saved || v.Quantity != 2 {
		t.Fatalf("line %+v", v)
	}
	seq := r.fsm.marker().Seq
	if out := r.ok(edit("c", save("", "tea"), move("s", "cup"))); out.ItemCount != 1 || r.fsm.marker().Seq != seq {
		t.Fatalf("what is so already was written: %v, %d rows", out, r.fsm.marker().Seq-seq)
	}
	if out := r.ok(edit("c", move("s", "tea"))); out.ItemCount != 3 || r.visible("c", tea).Placement != crdt.InCart {
		t.Fatalf("outcome %v", out)
	}
	r.ok(edit("c", add("t", "tea", 1)))
	for _, kind := range []regionv1.Change_Kind{regionv1.Change_KIND_SAVE, regionv1.Change_KIND_MOVE, regionv1.Change_KIND_DESCRIBE} {
		if out := r.refuse(regionv1.Outcome_CODE_AMBIGUOUS_LINE, edit("c", change(kind, "", "tea"))); len(out.Details) != 2 {
			t.Errorf("%v: sellers %v", kind, out.Details)
		}
		r.refuse(regionv1.Outcome_CODE_LINE_NOT_FOUND, edit("c", change(kind, "s", "pot")))
	}
	// All or none.
	if out := r.refuse(regionv1.Outcome_CODE_LINE_NOT_FOUND, edit("c", save("s", "tea"), move("s", "pot"))); out.Change != 1 {
		t.Errorf("outcome %v", out)
	}
}

// Moving what shows in the cart, but not in each of two concurrent writes, is a
// write: else a remove that saw the other one alone would leave the line aside.
func TestMoveSettlesConcurrentPlacements(t *testing.T) {
	r := newTestRig(t)
	tea := crdt.LineKey{Seller: "s", SKU: "tea"}
	r.ok(edit("c", add("s", "tea", 2), save("s", "tea")))
	here := r.state("c").Cart
	there := crdt.Writer{Replica: crdt.Replica{Region: 2}, At: r.at}
	moved := here.Apply(here.SetPlacement(there, tea, crdt.InCart))
	r.ok(edit("c", move("s", "tea"), save("s", "tea"))) // concurrent with it
	r.apply(&regionv1.Command{Command: &regionv1.Command_JoinCart{JoinCart: &regionv1.JoinCart{
		CartId: "c", State: (&crdt.State{Cart: moved}).Encode(nil), RegionId: 2,
	}}})
	if l := r.state("c").Cart.Find(tea); !l.Placement.Concurrent() || l.Visible().Placement != crdt.InCart {
		t.Fatalf("line %+v", l)
	}
	r.ok(edit("c", move("s", "tea")))
	if l := r.state("c").Cart.Find(tea); len(l.Placement) != 1 || l.Visible().Placement != crdt.InCart {
		t.Fatalf("line %+v", l)
	}
}

func TestDescribe(t *testing.T) {
	r := newTestRig(t)
	tea := crdt.LineKey{Seller: "s", SKU: "tea"}
	pairs := "note=hi"
	a := add("s", "tea", 2)
	a.Attributes = &pairs
	if out := r.ok(edit("c", a)); out.Lines[0].Attributes != pairs || r.fsm.marker().Seq != 2 {
		t.Fatalf("outcome %v, %d rows", out, r.fsm.marker().Seq)
	}
	r.ok(edit("c", set("s", "tea", 3)))
	if v := r.visible("c", tea); v.Attributes.Pairs != pairs || v.Quantity != 3 {
		t.Fatalf("line %+v", v)
	}
	if out := r.ok(edit("c", describeAs("s", "tea", ""))); out.Lines[0].Attributes != "" || out.Lines[0].Quantity != 3 {
		t.Fatalf("outcome %v", out)
	}
	// Two dots, each in this line alone; the rows give the cart.
	cart := &crdt.Cart{}
	for _, row := range r.rows(0) {
		cart = cart.Apply(row.Delta)
	}
	if !cart.Equal(r.state("c").Cart) {
		t.Fatalf("rows give %v, the cart is %v", cart, r.state("c").Cart)
	}
}
