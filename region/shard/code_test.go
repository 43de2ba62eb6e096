package shard

import (
	"fmt"
	"slices"
	"testing"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

func addCode(code string) *regionv1.Change {
	return &regionv1.Change{Kind: regionv1.Change_KIND_ADD_CODE, FactId: code}
}

func dropCode(code string) *regionv1.Change {
	return &regionv1.Change{Kind: regionv1.Change_KIND_DROP_CODE, FactId: code}
}

func codesOf(c *crdt.Cart) []string {
	out := []string{}
	for code := range c.Facts(crdt.FactCode) {
		out = append(out, code)
	}
	return out
}

func (r *rig) wantCodes(id string, want ...string) {
	r.t.Helper()
	if got := codesOf(r.state(id).Cart); !slices.Equal(got, want) {
		r.t.Fatalf("cart %q has the codes %v, want %v", id, got, want)
	}
}

func TestCodes(t *testing.T) {
	r := newTestRig(t)
	out := r.ok(withOp(1, edit("c", addCode("TEN"))))
	r.wantCodes("c", "TEN")
	if out.ItemCount != 0 || string(out.Digest) != string(r.recordOf("c").Digest[:]) || len(out.Lines) != 1 || !out.Lines[0].Removed {
		t.Fatalf("outcome %v", out)
	}
	if again := r.ok(withOp(1, edit("c", addCode("TEN")))); !again.Replayed {
		t.Fatalf("the same request again: %v", again)
	}
	r.ok(edit("c", add("s", "tea", 2), addCode("FIVE")))
	r.wantCodes("c", "FIVE", "TEN")
	r.want("c", map[string]uint32{"s/tea/": 2}) // a code is no line
	r.ok(edit("c", dropCode("TEN")))
	r.wantCodes("c", "FIVE")

	before, seq := r.recordOf("c"), r.fsm.marker().Seq
	r.ok(edit("c", dropCode("TEN")))
	if r.recordOf("c") != before || r.fsm.marker().Seq != seq {
		t.Fatal("dropping a code that is not there changed the cart")
	}
	r.ok(edit("c", clearAll()))
	r.wantCodes("c", "FIVE") // lines alone are cleared
}

func TestCodesAreCapped(t *testing.T) {
	r := newTestRig(t)
	for n := range r.limits.Codes {
		r.ok(edit("c", addCode(fmt.Sprint("CODE", n))))
	}
	out := r.refuse(regionv1.Outcome_CODE_TOO_MANY_CODES, edit("c", addCode("MORE")))
	if !slices.Equal(out.Details, []string{fmt.Sprint(r.limits.Codes)}) {
		t.Errorf("details %v", out.Details)
	}
	if out := r.refuse(regionv1.Outcome_CODE_TOO_MANY_CODES, edit("c", add("s", "tea", 1), addCode("MORE"))); out.Change != 1 {
		t.Errorf("refused change %d", out.Change)
	}
	r.ok(edit("c", addCode("CODE1"))) // one that is there takes no more room
	r.ok(edit("c", dropCode("CODE1"), addCode("MORE")))
	r.wantCodes("c", "CODE0", "CODE2", "MORE")
}

// Of a code given in one region and removed in another at the same time, the
// giving wins, also where the cart had it before; removed everywhere, it is gone.
// A join does not fail for the cap.
func TestConcurrentCodes(t *testing.T) {
	a, b := newTestRig(t), newRig(t, tempStore(t), 0, 2)
	exchange := func() {
		t.Helper()
		x, y := a.state("c"), b.state("c")
		a.apply(joinCart("c", y))
		b.apply(joinCart("c", x))
	}
	a.ok(edit("c", addCode("TEN")))
	exchange()
	a.ok(edit("c", addCode("TEN")))
	b.ok(edit("c", dropCode("TEN")))
	exchange()
	a.wantCodes("c", "TEN")
	b.wantCodes("c", "TEN")
	a.ok(edit("c", dropCode("TEN")))
	b.ok(edit("c", dropCode("TEN")))
	exchange()
	a.wantCodes("c")
	b.wantCodes("c")
	for n := range a.limits.Codes {
		a.ok(edit("c", addCode(fmt.Sprint("A", n))))
		b.ok(edit("c", addCode(fmt.Sprint("B", n))))
	}
	exchange()
	a.wantCodes("c", "A0", "A1", "A2", "B0", "B1", "B2")
	if !a.state("c").Cart.Equal(b.state("c").Cart) {
		t.Error("the regions differ")
	}
}
