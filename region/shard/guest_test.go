package shard

import (
	"bytes"
	"io"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/store"
)

func closeGuest(guest, user string) *regionv1.Command {
	return &regionv1.Command{Command: &regionv1.Command_CloseGuest{CloseGuest: &regionv1.CloseGuest{GuestCartId: guest, UserCartId: user}}}
}

func joinGuest(user, guest string, s crdt.State) *regionv1.Command {
	return &regionv1.Command{Command: &regionv1.Command_JoinGuest{JoinGuest: &regionv1.JoinGuest{
		CartId: user, GuestCartId: guest, State: crdt.Relabel(s, guest).Encode(nil),
	}}}
}

func forwarded(guest string, d store.Digest) *regionv1.Command {
	return &regionv1.Command{Command: &regionv1.Command_GuestForwarded{GuestForwarded: &regionv1.GuestForwarded{GuestCartId: guest, Digest: d[:]}}}
}

// login makes the carts of the login that everybody thinks of, and closes the
// guest's.
func (r *rig) login(guest, user string) {
	r.t.Helper()
	r.ok(edit(user, add("s", "two", 1), add("s", "four", 3)))
	r.ok(withOp(1, edit(guest, add("s", "one", 1), add("s", "two", 2), add("s", "three", 1))))
	if out := r.apply(closeGuest(guest, user))[0]; out.Code != 0 {
		r.t.Fatalf("close: %v", out)
	}
}

// marks are the digests of the marked guests' carts.
func (r *rig) marks() map[string]store.Digest {
	r.t.Helper()
	list, err := r.fsm.current().MarkedGuests("", 100)
	if err != nil {
		r.t.Fatalf("read marks: %v", err)
	}
	out := make(map[string]store.Digest)
	for _, m := range list {
		out[m.CartID] = m.Digest
	}
	return out
}

func (r *rig) wantMarks(when string, guests ...string) {
	r.t.Helper()
	got := r.marks()
	want := make(map[string]store.Digest)
	for _, id := range guests {
		want[id] = DigestOfRecord(id, r.recordOf(id))
	}
	if !maps.Equal(got, want) {
		r.t.Fatalf("%s: marks %x, want %x", when, got, want)
	}
}

var loginLines = map[string]uint32{"s/one/": 1, "s/two/": 2, "s/three/": 1, "s/four/": 3}

func TestJoinGuest(t *testing.T) {
	r := newTestRig(t)
	r.login("guest:g", "cart:u")
	for try := range 3 {
		before := r.recordOf("cart:u")
		seq := r.fsm.marker().Seq
		out := r.apply(joinGuest("cart:u", "guest:g", r.state("guest:g")))[0]
		r.want("cart:u", loginLines)
		conflicts, err := crdt.DecodeCart(out.GetMerged().GetConflicts())
		if err != nil || out.Merged.Items != 3 || len(conflicts.Lines) != 1 || conflicts.Lines[0].Key.SKU != "two" || out.ItemCount != 7 {
			t.Errorf("outcome %v, conflicts %v, %v", out, conflicts, err)
		}
		if try > 0 && (r.recordOf("cart:u") != before || r.fsm.marker().Seq != seq) {
			t.Error("the same guest again changed the cart")
		}
	}
	// One row alone, of the fact: the lines come to other regions with the guest's.
	rows := r.rows(0)
	if last := rows[len(rows)-1]; last.CartID != "cart:u" || last.Delta.Key != crdt.FactKey(crdt.FactGuest, "guest:g") {
		t.Errorf("last row %+v", last)
	}
	// The request behind the guest's lines is known with them, and a remove takes
	// its op along.
	if ops := r.state("cart:u").Ops; len(ops) != 3 || ops[0].Dot.Replica.Lineage != "guest:g" {
		t.Errorf("ops %+v", ops)
	}
	r.ok(edit("cart:u", remove("s", "one")))
	if ops := r.state("cart:u").Ops; len(ops) != 2 {
		t.Errorf("ops %+v", ops)
	}
	r.apply(joinGuest("cart:u", "guest:g", r.state("guest:g")))
	r.want("cart:u", map[string]uint32{"s/two/": 2, "s/three/": 1, "s/four/": 3})
}

func TestCloseGuest(t *testing.T) {
	r := newTestRig(t)
	r.login("guest:g", "cart:u")
	seq := r.fsm.marker().Seq
	if out := r.apply(closeGuest("guest:g", "cart:other"))[0]; out.Code != regionv1.Outcome_CODE_ALREADY_MERGED {
		t.Errorf("another user: %v", out.Code)
	}
	out := r.apply(closeGuest("guest:g", "cart:u"))[0]
	if s, err := crdt.DecodeState(out.GuestState); err != nil || !s.Cart.Equal(r.state("guest:g").Cart) || out.Code != 0 {
		t.Errorf("again: %v, %v", out.Code, err)
	}
	if got := r.fsm.marker().Seq; got != seq {
		t.Errorf("%d rows more", got-seq)
	}
	// A guest that nobody knows is closed all the same.
	if out := r.apply(closeGuest("guest:unknown", "cart:u"))[0]; out.Code != 0 || len(out.GuestState) == 0 {
		t.Errorf("unknown guest: %v", out)
	}
	if _, ok := r.state("guest:unknown").Cart.Fact(crdt.FactMerged, "cart:u"); !ok {
		t.Error("what is to follow is not known")
	}
}

func (r *rig) fact(id string, kind crdt.FactKind, fact string) {
	r.t.Helper()
	c := r.state(id).Cart
	w := crdt.Writer{Replica: crdt.Replica{Region: 9, Incarnation: 1}, At: r.at}
	r.apply(joinCart(id, crdt.State{Cart: c.Apply(c.SetFact(w, kind, fact, ""))}))
}

func TestExpiredGuest(t *testing.T) {
	r := newTestRig(t)
	r.ok(edit("guest:g", add("s", "one", 1)))
	r.fact("guest:g", crdt.FactExpired, "")
	before := r.recordOf("guest:g")
	out := r.apply(closeGuest("guest:g", "cart:u"))[0]
	if out.Code != 0 || r.recordOf("guest:g") != before {
		t.Errorf("%v; an expired guest's cart was changed", out.Code)
	}
	s, err := crdt.DecodeState(out.GuestState)
	if err != nil {
		t.Fatal(err)
	}
	if out := r.apply(joinGuest("cart:u", "guest:g", s))[0]; out.Merged.Items != 0 || r.recordOf("cart:u") != nil {
		t.Errorf("an expired guest joined: %v", out)
	}
	r.wantMarks("expired")
}

// An erased user's cart takes nothing of a guest's, and of an erased guest's cart
// nothing comes.
func TestGuestsAndErasure(t *testing.T) {
	r := newTestRig(t)
	r.login("guest:g", "cart:u")
	r.apply(joinGuest("cart:u", "guest:g", r.state("guest:g")))
	r.ok(edit("cart:u", erase()))
	r.ok(edit("guest:g", add("s", "late", 1)))
	seq := r.fsm.marker().Seq
	var before *store.Record
	for try := range 2 {
		out := r.apply(joinGuest("cart:u", "guest:g", r.state("guest:g")))[0]
		if c := r.state("cart:u").Cart; out.Code != regionv1.Outcome_CODE_ERASED || out.Merged != nil || !c.IsErased() || len(c.Lines) != 1 {
			t.Errorf("joined into an erased cart: %v, it is %v", out, c)
		}
		if now := r.recordOf("cart:u"); try > 0 && now != before {
			t.Error("the same guest again changed the cart")
		} else {
			before = now
		}
	}
	gone := joinGuest("cart:u", "guest:g", crdt.State{Cart: &crdt.Cart{}})
	gone.GetJoinGuest().State, gone.GetJoinGuest().Gone = nil, true
	if out := r.apply(gone)[0]; out.Code != 0 || r.recordOf("cart:u") != before || r.fsm.marker().Seq != seq {
		t.Errorf("an erased cart was written: %v", out)
	}
	r.ok(edit("guest:h", add("s", "one", 1)))
	r.ok(edit("guest:h", erase()))
	out := r.apply(closeGuest("guest:h", "cart:v"))[0]
	s, err := crdt.DecodeState(out.GuestState)
	if err != nil || out.Code != 0 || !r.state("guest:h").Cart.IsErased() {
		t.Fatalf("close: %v, %v", out.Code, err)
	}
	if out := r.apply(joinGuest("cart:v", "guest:h", s))[0]; out.Code != 0 || out.Merged.GetItems() != 0 || r.recordOf("cart:v") != nil {
		t.Errorf("an erased guest joined: %v", out)
	}
	// Nor does it take away what came before it was erased.
	r.ok(edit("guest:i", add("s", "one", 1)))
	r.apply(closeGuest("guest:i", "cart:w"))
	r.apply(joinGuest("cart:w", "guest:i", r.state("guest:i")))
	r.apply(forwarded("guest:i", r.marks()["guest:i"]))
	r.ok(edit("guest:i", erase()))
	r.apply(joinGuest("cart:w", "guest:i", r.state("guest:i")))
	r.want("cart:w", map[string]uint32{"s/one/": 1})
	r.wantMarks("erased", "guest:g")
}

// A merged guest's cart is marked with each change, wherever it comes from, and
// until it is forwarded as it is.
func TestMarksOfGuests(t *testing.T) {
	eu, us := two(t)
	eu.ok(edit("guest:g", add("s", "one", 1)))
	eu.wantMarks("before the merge")
	eu.apply(closeGuest("guest:g", "cart:u"))
	eu.wantMarks("merged", "guest:g")
	old := eu.marks()["guest:g"]
	eu.ok(edit("guest:g", add("s", "one", 1)))
	eu.apply(forwarded("guest:g", old))
	eu.wantMarks("changed since", "guest:g")
	eu.apply(forwarded("guest:g", eu.marks()["guest:g"]))
	eu.wantMarks("forwarded")
	eu.apply(forwarded("guest:g", old), forwarded("guest:nobody", old))
	eu.ok(withOp(7, edit("guest:g", remove("s", "nothing"))))
	eu.wantMarks("nothing changed")

	us.ok(edit("guest:g", add("s", "late", 1)))
	eu.join(us, 0, us.fsm.marker().Seq)
	eu.wantMarks("a row from another region", "guest:g")
	us.join(eu, 0, eu.fsm.marker().Seq)
	us.wantMarks("the merge from another region", "guest:g")

	ap := newRig(t, eu.store, 2, 3)
	ap.apply(joinCart("guest:g", eu.state("guest:g")))
	ap.wantMarks("a whole cart", "guest:g")
	ap.fact("guest:g", crdt.FactExpired, "")
	ap.apply(forwarded("guest:g", ap.marks()["guest:g"]))
	ap.fact("guest:g", crdt.FactCode, "TEN")
	ap.wantMarks("expired")
}

// Marks are of the shard's state: they outlive its process, and go with snapshots.
func TestMarksAreKept(t *testing.T) {
	r := newTestRig(t)
	r.login("guest:a", "cart:u")
	r.apply(closeGuest("guest:b", "cart:u"))
	r.apply(forwarded("guest:b", r.marks()["guest:b"]))
	r.apply(closeGuest("guest:c", "cart:u"))
	r.open()
	r.wantMarks("after a restart", "guest:a", "guest:c")
	page, err := r.fsm.current().MarkedGuests("guest:a", 1)
	if err != nil || len(page) != 1 || page[0].CartID != "guest:c" {
		t.Errorf("after guest:a: %v, %v", page, err)
	}
	var buf bytes.Buffer
	snap := r.fsm.current().Snapshot()
	defer snap.Close()
	if _, err := snap.WriteTo(&buf); err != nil {
		t.Fatal(err)
	}
	other := newRig(t, tempStore(t), 0, 1)
	woken := other.fsm.marked
	if err := other.fsm.Restore(io.NopCloser(&buf)); err != nil {
		t.Fatal(err)
	}
	other.wantMarks("restored", "guest:a", "guest:c")
	select {
	case <-woken:
	default:
		t.Error("nobody is told of the marks that came")
	}
}

// A region that takes no edits takes no merges.
func TestGuestsOfAFencedRegion(t *testing.T) {
	r := newTestRig(t)
	r.login("guest:g", "cart:u")
	state := r.state("guest:g")
	r.apply(setMembers(members(5, drained, active)))
	before, seq := r.recordOf("cart:u"), r.fsm.marker().Seq
	for _, cmd := range []*regionv1.Command{closeGuest("guest:h", "cart:u"), joinGuest("cart:u", "guest:g", state)} {
		if out := r.apply(cmd)[0]; out.Code != regionv1.Outcome_CODE_FENCED {
			t.Errorf("%v: %v", cmd, out.Code)
		}
	}
	if r.recordOf("cart:u") != before || r.fsm.marker().Seq != seq || r.recordOf("guest:h") != nil {
		t.Error("a merge was refused and changed something")
	}
}

// An entry with every command of guests gives the same bytes on every member, also
// when it is applied again after a crash.
func TestGuestsAreApplyEqually(t *testing.T) {
	run := func() *rig {
		r := newTestRig(t)
		r.login("guest:g", "cart:u")
		sum := joinGuest("cart:v", "guest:g", r.state("guest:g"))
		sum.GetJoinGuest().Rule, sum.GetJoinGuest().Shared = regionv1.MergeRule_MERGE_RULE_SUM, true
		r.apply(joinGuest("cart:u", "guest:g", r.state("guest:g")), editCommand(edit("cart:v", add("s", "two", 5), add("s", "one", 1))), sum)
		r.want("cart:v", map[string]uint32{"s/one/": 2, "s/two/": 7, "s/three/": 1})
		return r
	}
	if a, b := run().content(), run().content(); a != b {
		t.Errorf("two members differ:\n%s\n%s", a, b)
	}
}

func TestSettings(t *testing.T) {
	r := newTestRig(t)
	set := func(value string) *regionv1.Edit {
		return edit("shop:settings", &regionv1.Change{Kind: regionv1.Change_KIND_SETTING, FactId: "merge-rule", Value: value})
	}
	r.ok(set("value=sum"))
	seq := r.fsm.marker().Seq
	r.ok(set("value=sum"))
	if r.fsm.marker().Seq != seq {
		t.Error("a setting that stays was written again")
	}
	r.ok(set("value=max"))
	if v, ok := r.state("shop:settings").Cart.Fact(crdt.FactSetting, "merge-rule"); !ok || v.Pairs != "value=max" {
		t.Errorf("setting %v, %v", v, ok)
	}
}

// A merged guest's cart that has expired is collected; the users are told, and what
// their carts know of its edits goes, but not before.
func TestGuestsAreForgotten(t *testing.T) {
	r := collectable(t)
	r.login("guest:g", "cart:u")
	r.apply(joinGuest("cart:u", "guest:g", r.state("guest:g")))
	r.apply(forwarded("guest:g", r.marks()["guest:g"]))
	r.ok(edit("cart:u", clearAll()))
	guest := r.state("guest:g").Cart
	own := crdt.Writer{Replica: crdt.Replica{Region: 2}}
	guest = guest.Apply(guest.SetFact(own, crdt.FactExpired, "", ""))
	for _, d := range guest.Clear(own) {
		guest = guest.Apply(d)
	}
	r.apply(setMembers(members(2, active, active)))
	r.apply(joinCart("guest:g", crdt.State{Cart: guest}))

	before := r.recordOf("cart:u")
	r.later(25 * time.Hour)
	r.apply(asItIs(t, r, "cart:u"))
	if r.recordOf("cart:u") != before {
		t.Fatal("the user's cart forgot a guest who may come again")
	}
	r.apply(asItIs(t, r, "guest:g"))
	if r.recordOf("guest:g") != nil {
		t.Fatal("the expired guest's cart is left")
	}
	marks, err := r.fsm.current().MarkedGuests("", 10)
	if err != nil || len(marks) != 1 || !slices.Equal(marks[0].Gone, []string{"cart:u"}) || marks[0].Digest != (store.Digest{}) {
		t.Fatalf("marks %v, %v", marks, err)
	}
	gone := &regionv1.Command{Command: &regionv1.Command_JoinGuest{JoinGuest: &regionv1.JoinGuest{CartId: "cart:u", GuestCartId: "guest:g", Gone: true}}}
	r.apply(gone, forwarded("guest:g", store.Digest{}))
	r.wantMarks("told")
	seq := r.fsm.marker().Seq
	r.apply(gone)
	if r.fsm.marker().Seq != seq {
		t.Error("the user's cart was told twice")
	}
	r.later(25 * time.Hour)
	r.apply(asItIs(t, r, "cart:u"))
	for _, rep := range r.state("cart:u").Cart.Context.Replicas() {
		if rep.Lineage != "" {
			t.Errorf("lineage %q is still known", rep.Lineage)
		}
	}
	r.apply(asItIs(t, r, "cart:u"))
	if r.recordOf("cart:u") != nil {
		t.Errorf("an empty cart of a user who once was a guest is left: %v", r.state("cart:u").Cart.Context)
	}
}
