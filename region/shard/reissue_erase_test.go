package shard

import "testing"

// A fenced region that comes back does not write anew what it knew of a cart that the
// others have erased meanwhile.
func TestReissueForAnErasedCart(t *testing.T) {
	eu, us := two(t)
	us.ok(withOp(1, edit("c", add("s", "both", 2))))
	eu.join(us, 0, 1)
	us.ok(withOp(2, edit("c", add("s", "private-tea", 5))))
	us.ok(withOp(3, edit("c", remove("s", "both"))))
	eu.ok(edit("c", erase()))
	seen := us.state("c").Cart.Context

	doc := members(2, active, joining)
	doc.Members[1].Incarnation = 1
	eu.apply(setMembers(doc))
	us.apply(setMembers(doc))
	us.apply(reincarnate(1))
	us.apply(joinCart("c", eu.state("c")))
	if out := us.apply(reissue(100))[0]; out.Left != 0 {
		t.Fatalf("rows left: %v", out)
	}
	us.scrub()
	if us.has("private") || !us.state("c").Cart.IsErased() {
		t.Error("the region that came back tells of the erased cart")
	}
	if ops := us.state("c").Ops; len(ops) > 0 {
		t.Errorf("requests of the erased cart are known: %v", ops)
	}
	if !us.state("c").Cart.Context.Covers(seen) {
		t.Errorf("a token names what %v does not have", us.state("c").Cart.Context)
	}
	if n := us.fsm.marker().Seq; n > 0 {
		if out := eu.join(us, 0, n); out.Code != 0 || eu.has("private") {
			t.Errorf("sent to the other: %v, tells %v", out, eu.has("private"))
		}
	}
	if !us.state("c").Cart.Equal(eu.state("c").Cart) {
		t.Errorf("%v and %v differ", us.state("c").Cart, eu.state("c").Cart)
	}
}

// An erasure that nobody had heard of is made anew as it was made.
func TestReissueOfAnErasure(t *testing.T) {
	for _, scrubbed := range []bool{false, true} {
		eu, us := two(t)
		us.ok(withOp(1, edit("c", add("s", "private-cup", 2))))
		eu.join(us, 0, 1)
		us.ok(withOp(2, edit("c", add("s", "private-tea", 5))))
		us.ok(withOp(3, edit("c", erase())))
		if scrubbed {
			us.scrub()
		}
		doc := members(2, active, joining)
		doc.Members[1].Incarnation = 1
		eu.apply(setMembers(doc))
		us.apply(setMembers(doc))
		us.apply(reincarnate(1))
		us.apply(joinCart("c", eu.state("c")))
		if out := us.apply(reissue(100))[0]; out.Left != 0 {
			t.Fatalf("rows left: %v", out)
		}
		eu.join(us, 0, us.fsm.marker().Seq)
		for _, r := range []*rig{eu, us} {
			r.scrub()
			if !r.state("c").Cart.IsErased() || r.has("private") || len(r.state("c").Ops) > 0 {
				t.Errorf("scrubbed before %v, region %d tells of the erased cart: %v", scrubbed, r.region, r.state("c"))
			}
		}
		if !us.state("c").Cart.Equal(eu.state("c").Cart) {
			t.Errorf("%v and %v differ", us.state("c").Cart, eu.state("c").Cart)
		}
	}
}
