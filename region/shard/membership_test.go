package shard

import (
	"fmt"
	"maps"
	"testing"

	"github.com/samecart/samecart/crdt"
	membershipv1 "github.com/samecart/samecart/proto/membership/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/store"
)

// members is a document with a state and an incarnation for regions 1, 2, 3.
func members(epoch uint64, states ...membershipv1.State) *membershipv1.Membership {
	m := &membershipv1.Membership{Epoch: epoch}
	for i, s := range states {
		m.Members = append(m.Members, &membershipv1.Member{RegionId: uint32(i + 1), Region: fmt.Sprint("region-", i+1), State: s})
	}
	return m
}

// under is a document in which all regions have an incarnation.
func under(incarnation uint32, m *membershipv1.Membership) *membershipv1.Membership {
	for _, e := range m.Members {
		e.Incarnation = incarnation
	}
	return m
}

func setMembers(m *membershipv1.Membership) *regionv1.Command {
	return &regionv1.Command{Command: &regionv1.Command_SetMembership{SetMembership: &regionv1.SetMembership{Membership: m}}}
}

const (
	active  = membershipv1.State_STATE_ACTIVE
	drained = membershipv1.State_STATE_DRAINED
	joining = membershipv1.State_STATE_JOINING
	fenced  = membershipv1.State_STATE_FENCED
)

// From the place in the log where the document is, and not before, nothing is taken
// that it says is to be refused; also within one entry, and after a restart.
func TestMembershipDecidesInTheLog(t *testing.T) {
	eu, us := two(t)
	us.ok(edit("c", add("s", "one", 1)))
	us.ok(edit("c", add("s", "two", 1)))
	row := us.rows(0)
	whole := us.state("c")
	outs := eu.apply(
		editCommand(edit("d", add("s", "mine", 1))),
		joinRows(us.stream(), 0, 1, row[0]),
		setMembers(members(5, drained, fenced)),
		joinRows(us.stream(), 1, 2, row[1]),
		editCommand(edit("d", add("s", "late", 1))),
	)
	for i, want := range []regionv1.Outcome_Code{0, 0, 0, regionv1.Outcome_CODE_FENCED, regionv1.Outcome_CODE_FENCED} {
		if outs[i].Code != want {
			t.Errorf("command %d: %v, want %v", i, outs[i].Code, want)
		}
	}
	from := joinCart("c", whole)
	from.GetJoinCart().RegionId = 2
	check := func(when string) {
		t.Helper()
		if out := eu.apply(from)[0]; out.Code != regionv1.Outcome_CODE_FENCED {
			t.Errorf("%s: whole cart of a fenced region: %v", when, out.Code)
		}
		if got := eu.lines("c"); !maps.Equal(got, map[string]uint32{"s/one/": 1}) {
			t.Errorf("%s: cart has %v", when, got)
		}
		if got := eu.lines("d"); !maps.Equal(got, map[string]uint32{"s/mine/": 1}) {
			t.Errorf("%s: own cart has %v", when, got)
		}
		if cur := eu.cursor(us.stream()); cur != 1 {
			t.Errorf("%s: cursor %d, want 1", when, cur)
		}
	}
	check("at once")
	eu.open()
	check("after a restart")

	// An older document changes nothing; a newer one lets it in again, under the
	// incarnation that it has alone.
	eu.apply(setMembers(members(4, active, active)))
	check("after an older document")
	m := members(6, active, active)
	m.Members[1].Incarnation = 3
	eu.apply(setMembers(m))
	st := us.stream()
	for _, st.Incarnation = range []uint32{2, 4} {
		if out := eu.apply(joinRows(st, 0, 1, row[0]))[0]; out.Code != regionv1.Outcome_CODE_FENCED {
			t.Errorf("rows of incarnation %d: %v", st.Incarnation, out.Code)
		}
	}
	st.Incarnation = 3
	if out := eu.apply(joinRows(st, 0, 1, row[0]))[0]; out.Code != 0 {
		t.Errorf("rows of the incarnation of the document: %v", out.Code)
	}
	eu.ok(edit("d", add("s", "again", 1)))
}

func prepare(epoch, round uint64, region uint32) *regionv1.Command {
	return &regionv1.Command{Command: &regionv1.Command_Prepare{Prepare: &membershipv1.PrepareRequest{
		Epoch: epoch, Ballot: &membershipv1.Ballot{Round: round, RegionId: region},
	}}}
}

func accept(m *membershipv1.Membership, round uint64, region uint32) *regionv1.Command {
	return &regionv1.Command{Command: &regionv1.Command_Accept{Accept: &membershipv1.AcceptRequest{
		Value: m, Ballot: &membershipv1.Ballot{Round: round, RegionId: region},
	}}}
}

// What a region promised and accepted is in its log: a restart forgets none of it,
// a new document all.
func TestVotesAreKept(t *testing.T) {
	r := newTestRig(t)
	ask := func(c *regionv1.Command) *membershipv1.Vote {
		t.Helper()
		v := r.apply(c)[0].Vote
		r.open()
		return v
	}
	r.apply(setMembers(members(3, active, active, active)))
	// The document does not say yet under which incarnation the region writes.
	if v := ask(prepare(4, 2, 1)); !v.Granted || v.Value != nil {
		t.Fatalf("first promise: %v", v)
	}
	if v := ask(prepare(4, 2, 1)); v.Granted {
		t.Error("a ballot is promised twice: two who use it would both go on")
	}
	if v := ask(prepare(4, 1, 9)); v.Granted || v.Promised.Round != 2 {
		t.Errorf("lower ballot: %v", v)
	}
	if v := ask(accept(members(4, fenced, active, active), 2, 1)); !v.Granted {
		t.Errorf("promised ballot is not accepted: %v", v)
	}
	if v := ask(prepare(4, 2, 2)); !v.Granted || v.Value.Members[0].State != fenced || v.Accepted.RegionId != 1 {
		t.Errorf("higher ballot must hear what was accepted: %v", v)
	}
	if v := ask(accept(members(4, active, active, active), 2, 1)); v.Granted {
		t.Error("accepted under a ballot below the one promised")
	}
	if v := ask(prepare(6, 9, 1)); v.Granted || v.Decided != nil {
		t.Errorf("epoch after the next: %v", v)
	}
	r.apply(setMembers(members(4, fenced, active, active)))
	if v := ask(prepare(4, 9, 1)); v.Granted || v.Decided.GetEpoch() != 4 {
		t.Errorf("decided epoch: %v", v)
	}
	if v := ask(prepare(5, 1, 1)); !v.Granted || v.Value != nil {
		t.Errorf("next epoch: %v", v)
	}

	// Of three, one that lost its promises has no vote until its new
	// incarnation is in the document.
	m := members(5, active, active, active)
	m.Members[0].Incarnation = 7
	r.apply(setMembers(m))
	if v := ask(prepare(6, 1, 1)); v.Granted {
		t.Error("another incarnation votes")
	}
}

func reincarnate(n uint32) *regionv1.Command {
	return &regionv1.Command{Command: &regionv1.Command_Reincarnate{Reincarnate: &regionv1.Reincarnate{Incarnation: n}}}
}

func reissue(to uint64) *regionv1.Command {
	return &regionv1.Command{Command: &regionv1.Command_Reissue{Reissue: &regionv1.Reissue{To: to}}}
}

// A region that was cut off, and fenced, comes back: what the other has stands, what
// nobody saw of it is written anew, once, and the other takes it.
func TestReturnOfAFencedShard(t *testing.T) {
	eu, us := two(t)
	us.ok(withOp(1, edit("c", add("s", "both", 2))))
	us.ok(edit("c", add("s", "gone", 1)))
	eu.join(us, 0, 2)
	// Cut off: eu removes one line and edits another, us does the same elsewhere.
	us.ok(withOp(2, edit("c", set("s", "both", 5))))
	us.ok(edit("c", remove("s", "gone")))
	us.ok(edit("new", add("s", "unseen", 3)))
	eu.ok(edit("c", add("s", "other", 4)))
	eu.ok(edit("c", set("s", "both", 1)))

	doc := members(2, active, joining)
	doc.Members[1].Incarnation = 1
	eu.apply(setMembers(doc))
	us.apply(setMembers(doc))
	outs := us.apply(reincarnate(1), editCommand(edit("c", add("s", "early", 1))))
	if outs[0].Left != 5 || outs[1].Code != regionv1.Outcome_CODE_FENCED {
		t.Fatalf("begins again with %v", outs)
	}
	if got := us.lines("c"); len(got) > 0 {
		t.Fatalf("carts of before are there: %v", got)
	}
	us.open()
	if out := us.apply(reincarnate(1))[0]; out.Left != 5 {
		t.Fatalf("asked twice: %v", out)
	}
	// It is sent all carts, then writes anew; a crash on the way repeats nothing.
	us.apply(joinCart("c", eu.state("c")))
	if !us.crash(0, reissue(3)) {
		t.Fatal("no crash, the test proves nothing")
	}
	us.apply(reissue(3))
	if out := us.apply(reissue(100))[0]; out.Left != 0 {
		t.Fatalf("rows left: %v", out)
	}
	want := map[string]uint32{"s/both/": 5, "s/other/": 4}
	if got := us.lines("c"); !maps.Equal(got, want) {
		t.Errorf("cart has %v, want %v", got, want)
	}
	if got := us.lines("new"); !maps.Equal(got, map[string]uint32{"s/unseen/": 3}) {
		t.Errorf("cart that nobody saw has %v", got)
	}
	st := us.stream()
	if st.Incarnation != 1 {
		t.Fatalf("stream %v", st)
	}
	rows := us.rows(0)
	if len(rows) != 3 {
		t.Fatalf("%d rows were written anew, want the 3 that nobody saw", len(rows))
	}
	if out := eu.join(us, 0, 3); out.Code != 0 {
		t.Fatalf("rows written anew are refused: %v", out)
	}
	for _, id := range []string{"c", "new"} {
		if a, b := eu.state(id), us.state(id); !a.Cart.Equal(b.Cart) {
			t.Errorf("%s: %v and %v differ", id, a.Cart, b.Cart)
		}
	}
	// The request behind a lost write is known in both.
	for _, r := range []*rig{eu, us} {
		r.apply(setMembers(under(1, members(3, active, active))))
	}
	for _, r := range []*rig{eu, us} {
		if out := r.do(withOp(2, edit("c", set("s", "both", 5)))); !out.Replayed {
			t.Errorf("retry of what was written anew counts again: %v", out)
		}
	}
	for _, row := range rows {
		if d := row.Delta.Dots[0]; d.Replica != (crdt.Replica{Region: 2, Incarnation: 1}) {
			t.Errorf("row of dot %v", d)
		}
	}
}

// Rows that fill a transaction are made anew in several; when the process dies in
// between, replaying the command gives the same.
func TestReissueCommittedInTheMiddle(t *testing.T) {
	eu, us := two(t)
	const n = 1500
	for i := range n {
		for _, r := range []*rig{eu, us} {
			r.ok(withOp(i+1, edit(fmt.Sprint("cart-", i%90), add("s", fmt.Sprint("sku-", i%4), 1))))
		}
	}
	doc := under(1, members(1, joining, joining))
	eu.apply(setMembers(doc), reincarnate(1))
	us.apply(setMembers(doc), reincarnate(1))
	eu.apply(reissue(n))
	if !us.crash(5, reissue(n)) {
		t.Fatal("the command fits one transaction, the test proves nothing")
	}
	m := us.fsm.marker()
	if m.Reissued == 0 || m.Reissued == n {
		t.Fatalf("after the crash: marker %+v", m)
	}
	us.apply(reissue(n))
	for i := range 90 {
		id := fmt.Sprint("cart-", i)
		if a, b := eu.lines(id), us.lines(id); !maps.Equal(a, b) || len(a) == 0 {
			t.Errorf("%s: %v, after the crash %v", id, a, b)
		}
	}
	if a, b := eu.fsm.marker().Seq, us.fsm.marker().Seq; a != n || b != n {
		t.Errorf("%d and %d rows, want %d", a, b, n)
	}
}

// A shard that begins again numbers its rows anew: what peers acknowledged of the
// rows before must not trim those. Found under load: rows that nobody had were
// trimmed, and gone when the region was fenced once more.
func TestAcksOfBeforeTrimNothing(t *testing.T) {
	_, us := two(t)
	s := &Shard{fsm: us.fsm, cfg: Config{RetainRows: 10}}
	for i := range 40 {
		us.ok(edit("c", add("s", fmt.Sprint("sku-", i%4), 1)))
	}
	s.Acked(0, 30, 40)
	if to := s.trimCommand(true).GetTrimLog().GetSeq(); to != 30 {
		t.Fatalf("trims to %d, want 30", to)
	}
	us.apply(setMembers(under(1, members(1, active, joining))), reincarnate(1), reissue(100))
	us.apply(setMembers(under(1, members(2, active, active))))
	for range 15 {
		us.ok(edit("c", add("s", "sku-1", 1)))
	}
	s.Acked(0, 50, 50) // of a gossip that has not ended yet
	if c := s.trimCommand(true); c != nil {
		t.Fatalf("trims rows that nobody acknowledged: %v", c)
	}
	// One region has some: no more go than those, however far the others are behind.
	s.Acked(1, 0, 20)
	if to, want := s.trimCommand(true).GetTrimLog().GetSeq(), uint64(20); to != want {
		t.Fatalf("trims to %d of %d, want %d", to, us.fsm.marker().Seq, want)
	}
}

// A region that was fenced again on its way in has, beside rows that were not made
// anew yet, rows that were, and the others may have some of those. In whatever state
// it was, a line that it removed last stays removed, and a decrease counts.
func TestFencedAgainOnTheWayIn(t *testing.T) {
	for done := range uint64(5) {
		for _, seen := range []bool{false, true} {
			eu, us := two(t)
			us.ok(edit("c", add("s", "gone", 1)))
			us.ok(edit("c", add("s", "less", 9)))
			us.ok(edit("c", remove("s", "gone")))
			us.ok(edit("c", set("s", "less", 2)))
			us.apply(setMembers(under(1, members(1, active, joining))), reincarnate(1), reissue(done))
			if seen {
				eu.apply(setMembers(under(1, members(1, active, joining))))
				eu.join(us, 0, done)
			}
			for _, r := range []*rig{eu, us} {
				r.apply(setMembers(under(2, members(2, active, joining))))
			}
			us.apply(reincarnate(2), joinCart("c", eu.state("c")), reissue(100))
			eu.apply(joinRows(us.stream(), 0, us.fsm.marker().Seq, us.rows(0)...))
			for name, r := range map[string]*rig{"eu": eu, "us": us} {
				if got := r.lines("c"); !maps.Equal(got, map[string]uint32{"s/less/": 2}) {
					t.Errorf("%d made anew, seen %v: %s has %v", done, seen, name, got)
				}
			}
		}
	}
}

// An empty cart that knows of a fenced region's writes is kept: the region may come
// back with one of them, and only the cart tells that it is known.
func TestCartsThatKnowAFencedRegionAreKept(t *testing.T) {
	eu, us := two(t)
	us.ok(edit("c", add("s", "gone", 1)))
	eu.join(us, 0, 1)
	eu.ok(edit("c", remove("s", "gone")))
	collect := func() *regionv1.Command {
		d := DigestOfRecord("c", mustRecord(t, eu, "c"))
		return &regionv1.Command{Command: &regionv1.Command_Collect{Collect: &regionv1.Collect{
			Carts: []*regionv1.CartDigest{{CartId: "c", Digest: d[:]}},
		}}}
	}
	for i, c := range []struct {
		doc  *membershipv1.Membership
		left bool
	}{{members(1, active, fenced), true}, {members(2, active, joining), true}, {members(3, active, active), false}} {
		eu.apply(setMembers(under(1, c.doc)), collect())
		if left := !eu.state("c").Cart.Context.IsEmpty(); left != c.left {
			t.Errorf("%d: the cart is left: %v, want %v", i, left, c.left)
		}
	}
}

func mustRecord(t *testing.T, r *rig, id string) *store.Record {
	t.Helper()
	rec, err := r.fsm.record(id)
	if err != nil || rec == nil {
		t.Fatalf("read %q: %v, %v", id, rec, err)
	}
	return rec
}

// Documents and ballots that nobody could have decided or drawn are refused: in the
// log, they would be the last.
func TestHostileMembership(t *testing.T) {
	s := &Shard{}
	for name, c := range map[string]*regionv1.Command{
		"highest epoch": setMembers(members(1<<64-1, active)), "no epoch": setMembers(members(0, active)),
		"highest round": prepare(1, 1<<64-1, 1), "no round": prepare(1, 0, 1),
	} {
		if err := s.check(c); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
	r := newTestRig(t)
	good := under(2, members(5, active, active))
	r.apply(setMembers(good))
	for name, m := range map[string]*membershipv1.Membership{
		"a region is left out": under(2, members(6, active)), "a lower incarnation": under(1, members(6, active, active)),
	} {
		r.apply(setMembers(m))
		if got := r.fsm.members.Load(); got.Epoch != 5 {
			t.Errorf("%s: it is taken in: %v", name, got)
		}
	}
}
