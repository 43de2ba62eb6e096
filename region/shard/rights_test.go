package shard

import (
	"fmt"
	"testing"

	"github.com/samecart/samecart/crdt"
	membershipv1 "github.com/samecart/samecart/proto/membership/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

// limitRigs are three regions without Raft that know of each other, and what each has
// sent to each.
type limitRigs struct {
	t    *testing.T
	rigs []*rig
	sent [3][3]uint64
	op   int
}

func newLimitRigs(t *testing.T) *limitRigs {
	t.Helper()
	l := &limitRigs{t: t}
	for i := range 3 {
		r := &rig{
			t: t, store: tempStore(t), region: crdt.RegionID(i + 1), at: crdt.TimestampAt(epoch.UnixMilli()),
			limits: &regionv1.Limits{Lines: 5, Quantity: 99, OpLifeMs: 24 * 3600 * 1000},
		}
		r.open()
		r.apply(&regionv1.Command{Command: &regionv1.Command_Init{Init: &regionv1.Init{RegionId: uint32(i + 1), Incarnation: 1, Shards: 1}}})
		l.rigs = append(l.rigs, r)
	}
	l.members(1, active, active, active)
	return l
}

func (l *limitRigs) members(epoch uint64, states ...membershipv1.State) {
	l.t.Helper()
	for _, r := range l.rigs {
		r.apply(setMembers(under(1, members(epoch, states...))))
	}
}

// send brings what a region wrote to another one.
func (l *limitRigs) send(from, to int) regionv1.Outcome_Code {
	l.t.Helper()
	rows := l.rigs[from].rows(l.sent[from][to])
	if len(rows) == 0 {
		return regionv1.Outcome_CODE_OK
	}
	last := rows[len(rows)-1].Last
	cmd := &regionv1.JoinRows{RegionId: uint32(from + 1), Incarnation: 1, Lo: l.sent[from][to], Hi: last}
	for _, row := range rows {
		cmd.Rows = append(cmd.Rows, row.Encode(nil))
	}
	out := l.rigs[to].apply(&regionv1.Command{Command: &regionv1.Command_JoinRows{JoinRows: cmd}})[0]
	if out.Code == regionv1.Outcome_CODE_OK {
		l.sent[from][to] = last
	}
	return out.Code
}

func (l *limitRigs) sendAll() {
	l.t.Helper()
	for from := range l.rigs {
		for to := range l.rigs {
			if from != to {
				l.send(from, to)
			}
		}
	}
}

func (l *limitRigs) tend(region int, limit, per uint64) *regionv1.Outcome {
	l.t.Helper()
	return l.rigs[region].apply(&regionv1.Command{Command: &regionv1.Command_TendRights{
		TendRights: &regionv1.TendRights{CartId: "limit:TEN", Limit: limit, PerCustomer: per},
	}})[0]
}

func (l *limitRigs) move(from, to int, n uint64) {
	l.t.Helper()
	l.rigs[from].apply(&regionv1.Command{Command: &regionv1.Command_MoveRights{
		MoveRights: &regionv1.MoveRights{CartId: "limit:TEN", RegionId: uint32(to + 1), Incarnation: 1, N: n},
	}})
}

// inForce sets a limit of which region 1 has all rights.
func (l *limitRigs) inForce(limit, per uint64) {
	l.t.Helper()
	l.tend(0, limit, per)
	l.sendAll()
	l.tend(1, 0, 0)
	l.tend(2, 0, 0)
	l.sendAll()
	l.tend(0, 0, 0)
	l.sendAll()
}

func (l *limitRigs) spend(region, op int, customer string, until int64) *regionv1.Outcome {
	l.t.Helper()
	return l.rigs[region].apply(&regionv1.Command{Command: &regionv1.Command_Spend{Spend: &regionv1.Spend{
		Code: "TEN", Customer: customer, OpId: opID(op), Fingerprint: 7, UntilMs: until,
	}}})[0]
}

func (l *limitRigs) want(what string, out *regionv1.Outcome, code regionv1.Outcome_Code) {
	l.t.Helper()
	if out.Code != code {
		l.t.Errorf("%s: %v, want %v", what, out.Code, code)
	}
}

func (l *limitRigs) rights(region int) (out [3]uint64) {
	l.t.Helper()
	b := l.rigs[region].state("limit:TEN").Cart.Bounded()
	for i := range out {
		out[i] = b.Rights(crdt.Holder{Region: crdt.RegionID(i + 1), Incarnation: 1})
	}
	return out
}

const (
	ok        = regionv1.Outcome_CODE_OK
	exhausted = regionv1.Outcome_CODE_LIMIT_EXHAUSTED
	elsewhere = regionv1.Outcome_CODE_LIMIT_ELSEWHERE
	noLease   = regionv1.Outcome_CODE_NO_REGION_MAJORITY
)

var forLong = epoch.Add(1e12).UnixMilli()

func TestSpend(t *testing.T) {
	l := newLimitRigs(t)
	l.want("no limit", l.spend(0, 1, "cart:a", forLong), regionv1.Outcome_CODE_LINE_NOT_FOUND)
	l.tend(0, 3, 0)
	l.want("not in force", l.spend(0, 1, "cart:a", forLong), elsewhere)
	l.inForce(3, 0)
	l.want("lease", l.spend(0, 1, "cart:a", epoch.UnixMilli()-1), noLease)

	first := l.spend(0, 1, "cart:a", forLong)
	l.want("first", first, ok)
	if first.Seq == 0 || first.RightsHere != 2 {
		t.Errorf("the row is %d and %d are left, want a row and 2", first.Seq, first.RightsHere)
	}
	again := l.spend(0, 1, "cart:a", epoch.UnixMilli()-1)
	if again.Code != ok || !again.Replayed || again.Seq != first.Seq || again.RightsHere != 2 {
		t.Errorf("the same request again is %+v", again)
	}
	other := &regionv1.Spend{Code: "TEN", Customer: "cart:b", OpId: opID(1), Fingerprint: 8, UntilMs: forLong}
	l.want("other request", l.rigs[0].apply(&regionv1.Command{Command: &regionv1.Command_Spend{Spend: other}})[0], regionv1.Outcome_CODE_OP_ID_REUSED)

	l.want("nothing here", l.spend(1, 2, "cart:b", forLong), elsewhere)
	b := l.rigs[1].state("limit:TEN").Cart.Bounded()
	if !b.Wants(crdt.Holder{Region: 2, Incarnation: 1}) {
		t.Error("the region did not ask for rights")
	}
	seq := l.rigs[1].fsm.marker().Seq
	l.want("nothing here yet", l.spend(1, 2, "cart:b", forLong), elsewhere)
	if got := l.rigs[1].fsm.marker().Seq; got != seq {
		t.Error("the region asked twice")
	}
	l.move(0, 1, 1)
	l.move(0, 1, 9) // more than there is
	l.sendAll()
	l.want("moved", l.spend(1, 2, "cart:b", forLong), ok)
	l.sendAll()
	l.want("last", l.spend(0, 3, "cart:c", forLong), ok)
	l.want("none left", l.spend(0, 4, "cart:d", forLong), exhausted)
	l.sendAll()
	l.want("none left there", l.spend(2, 4, "cart:d", forLong), exhausted)
	l.want("known by another's row", l.spend(2, 3, "cart:c", forLong), ok)
	l.tend(0, 4, 0)
	l.want("raised", l.spend(0, 4, "cart:d", forLong), ok)
	for i, r := range l.rigs {
		if u := r.state("limit:TEN").Cart.Bounded().Used(); u > 4 {
			t.Errorf("region %d knows of %d uses of 4", i+1, u)
		}
	}
}

// Any region may say a limit: the first one makes the rights, and holds to the strictest
// cap that it has heard of.
func TestLimitIsSaidAnywhere(t *testing.T) {
	l := newLimitRigs(t)
	l.want("said", l.tend(2, 3, 2), ok)
	seq := l.rigs[2].fsm.marker().Seq
	l.want("said again", l.tend(2, 3, 2), ok)
	l.want("said lower", l.tend(2, 2, 2), ok)
	if got := l.rigs[2].fsm.marker().Seq; got != seq {
		t.Errorf("%d rows after the first, want none: nothing was raised", got-seq)
	}
	l.want("not in force", l.spend(2, 1, "cart:a", forLong), elsewhere)
	l.want("said", l.tend(1, 3, 1), ok)
	l.inForce(0, 0)
	if got := l.rights(0); got != [3]uint64{3, 0, 0} {
		t.Fatalf("rights %v, want all 3 in the first region", got)
	}
	for op := range 3 {
		l.want("one each", l.spend(0, 10+op, fmt.Sprint("cart:", op), forLong), map[bool]regionv1.Outcome_Code{true: ok, false: elsewhere}[l.home(fmt.Sprint("cart:", op)) == 0])
	}
	b := l.rigs[0].state("limit:TEN").Cart.Bounded()
	if most, _, granted := b.Customers(); !granted || most != 1 || b.Limit() != 3 {
		t.Errorf("limit %d, cap %d, %v; want 3 and the strictest cap, 1", b.Limit(), most, granted)
	}

	// Raised far from the first, it is not exhausted: the first has not heard of it yet.
	l = newLimitRigs(t)
	l.inForce(1, 0)
	l.want("only", l.spend(0, 1, "cart:a", forLong), ok)
	l.sendAll()
	l.want("gone", l.spend(2, 2, "cart:b", forLong), exhausted)
	l.want("raised", l.tend(2, 2, 0), ok)
	l.want("not granted yet", l.spend(2, 2, "cart:b", forLong), elsewhere)
	l.sendAll()
	l.tend(0, 0, 0)
	l.move(0, 2, 1)
	l.sendAll()
	l.want("granted", l.spend(2, 2, "cart:b", forLong), ok)
	l.want("gone again", l.spend(2, 3, "cart:b", forLong), exhausted)

	l = newLimitRigs(t)
	l.members(2, active, active, joining)
	l.want("takes no requests", l.tend(2, 3, 0), regionv1.Outcome_CODE_FENCED)
}

// home is the region that has a customer's first rights.
func (l *limitRigs) home(customer string) int {
	_, homes, _ := l.rigs[0].state("limit:TEN").Cart.Bounded().Customers()
	return int(crdt.Home(homes, crdt.LimitID("TEN", customer)).Region) - 1
}

// The same customer in three regions that are cut off from each other has no more than
// the cap, and gets all of it once they meet.
func TestCapOfACustomer(t *testing.T) {
	for _, customer := range []string{"cart:a", "cart:b", "guest:c", "cart:d"} {
		l := newLimitRigs(t)
		l.inForce(30, 2)
		l.move(0, 1, 10)
		l.move(0, 2, 10)
		l.sendAll()
		won := 0
		for op := range 12 {
			switch out := l.spend(op%3, op, customer, forLong); out.Code {
			case ok:
				won++
			case elsewhere, regionv1.Outcome_CODE_CUSTOMER_EXHAUSTED:
			default:
				t.Fatalf("%v", out.Code)
			}
		}
		if won != 2 {
			t.Errorf("%s won %d times in three regions apart, want 2 where its home is", customer, won)
		}
		l.sendAll()
		for i := range 3 {
			l.want("met", l.spend(i, 100+i, customer, forLong), regionv1.Outcome_CODE_CUSTOMER_EXHAUSTED)
		}
		for i, r := range l.rigs {
			if n := r.state(crdt.LimitID("TEN", customer)).Cart.Bounded().Used(); n != 2 {
				t.Errorf("region %d knows of %d uses of %s, want 2", i+1, n, customer)
			}
		}
	}
}

// A customer's first rights are where their counter's home is, for who spends them and
// for who gives them away: they can be had in another region, once.
func TestCapOfACustomerMoves(t *testing.T) {
	for _, customer := range []string{"cart:a", "cart:b", "guest:c", "cart:d", "cart:e", "cart:f"} {
		l := newLimitRigs(t)
		l.inForce(30, 1)
		for to := 1; to < 3; to++ {
			l.move(0, to, 10)
		}
		l.sendAll()
		home := l.home(customer)
		asker, third := (home+1)%3, (home+2)%3
		give := func(from int) {
			l.rigs[from].apply(&regionv1.Command{Command: &regionv1.Command_MoveRights{MoveRights: &regionv1.MoveRights{
				CartId: crdt.LimitID("TEN", customer), RegionId: uint32(asker + 1), Incarnation: 1, N: 1,
			}}})
			l.sendAll()
		}
		l.want("asks", l.spend(asker, 1, customer, forLong), elsewhere)
		l.sendAll()
		give(third)
		l.want("given by who has none", l.spend(asker, 1, customer, forLong), elsewhere)
		give(home)
		l.want("given", l.spend(asker, 1, customer, forLong), ok)
		l.want("gave it away", l.spend(home, 2, customer, forLong), elsewhere)
		l.sendAll()
		l.want("spent", l.spend(home, 3, customer, forLong), regionv1.Outcome_CODE_CUSTOMER_EXHAUSTED)
	}
}

// What is left of a region that is fenced goes to the others, when both have said
// what they know of it: also what only one of them knows.
func TestRightsOfAFencedRegion(t *testing.T) {
	l := newLimitRigs(t)
	l.inForce(30, 0)
	l.move(0, 1, 10)
	l.move(0, 2, 10)
	l.sendAll()
	for op := range 4 {
		l.want("before", l.spend(0, op, "cart:a", forLong), ok)
	}
	l.send(0, 2) // the second region does not know
	for op := range 3 {
		l.want("nobody knows", l.spend(0, 10+op, "cart:a", forLong), ok)
	}
	l.rigs[1].apply(setMembers(under(1, members(2, fenced, active, active))))
	l.tend(1, 0, 0)
	if got := l.send(0, 1); got != regionv1.Outcome_CODE_FENCED {
		t.Errorf("rows of the fenced region are %v", got)
	}
	l.send(1, 2)
	if got := l.rights(1)[1]; got != 10 {
		t.Errorf("the first member has %d rights before the other has sealed, want 10", got)
	}
	l.rigs[2].apply(setMembers(under(1, members(2, fenced, active, active))))
	l.tend(2, 0, 0)
	for _, row := range l.rigs[2].rows(l.sent[2][1]) {
		t.Log(row.CartID, row.Seq)
	}
	// The seal comes by its row, what it is about by the comparison of carts.
	l.send(2, 1)
	l.tend(1, 0, 0)
	if got := l.rights(1)[1]; got != 10 {
		t.Errorf("the first member has %d rights, and does not know what the other knows: want 10", got)
	}
	whole := l.rigs[2].state("limit:TEN")
	l.rigs[1].apply(&regionv1.Command{Command: &regionv1.Command_JoinCart{JoinCart: &regionv1.JoinCart{
		CartId: "limit:TEN", State: whole.Encode(nil), RegionId: 3, Incarnation: 1,
	}}})
	l.tend(1, 0, 0)
	l.tend(1, 0, 0)
	if got := l.rights(1)[1]; got != 16 {
		t.Errorf("the first member has %d rights, want its 10 and the 6 of 10 that were left", got)
	}
	l.want("known use of the fenced region", l.spend(1, 3, "cart:a", forLong), ok)
	if used := l.rigs[1].state("limit:TEN").Cart.Bounded().Used(); used != 4 {
		t.Errorf("%d uses, want the 4 that a member knew of", used)
	}
	// The fenced region hears of it.
	l.rigs[0].apply(setMembers(under(1, members(2, fenced, active, active))))
	l.want("fenced", l.spend(0, 20, "cart:a", forLong), regionv1.Outcome_CODE_FENCED)
	l.want("fenced", l.tend(0, 40, 0), noLease)
}

// A region that comes back has none of its rights, and nothing that nobody saw of it
// is made anew.
func TestRightsAreNotMadeAnew(t *testing.T) {
	l := newLimitRigs(t)
	l.inForce(30, 0)
	us := l.rigs[0]
	l.want("alone", l.spend(0, 1, "cart:a", forLong), ok)
	us.apply(editCommand(edit("c", add("s", "one", 1))))
	doc := under(1, members(2, joining, active, active))
	doc.Members[0].Incarnation = 2
	us.apply(setMembers(doc))
	us.apply(&regionv1.Command{Command: &regionv1.Command_Reincarnate{Reincarnate: &regionv1.Reincarnate{Incarnation: 2}}})
	whole := l.rigs[1].state("limit:TEN")
	us.apply(&regionv1.Command{Command: &regionv1.Command_JoinCart{JoinCart: &regionv1.JoinCart{CartId: "limit:TEN", State: whole.Encode(nil), RegionId: 2, Incarnation: 1}}})
	us.apply(&regionv1.Command{Command: &regionv1.Command_Reissue{Reissue: &regionv1.Reissue{To: us.fsm.marker().Kept}}})
	b := us.state("limit:TEN").Cart.Bounded()
	if b.Used() != 0 || b.Rights(crdt.Holder{Region: 1, Incarnation: 2}) != 0 {
		t.Errorf("%d uses and %d rights under the new incarnation, want none", b.Used(), b.Rights(crdt.Holder{Region: 1, Incarnation: 2}))
	}
	if got := us.lines("c"); len(got) != 1 {
		t.Errorf("the cart has %v, want its line made anew", got)
	}
}

func TestRightsAreChecked(t *testing.T) {
	s := &Shard{cfg: Config{Slots: NewSlots(1)}}
	spend := func(change func(*regionv1.Spend)) *regionv1.Command {
		c := &regionv1.Spend{Code: "TEN", Customer: "cart:a", OpId: opID(1)}
		change(c)
		return &regionv1.Command{Command: &regionv1.Command_Spend{Spend: c}}
	}
	for name, cmd := range map[string]*regionv1.Command{
		"no code":        spend(func(c *regionv1.Spend) { c.Code = "" }),
		"slash in code":  spend(func(c *regionv1.Spend) { c.Code = "A/B" }),
		"no op id":       spend(func(c *regionv1.Spend) { c.OpId = nil }),
		"no customer":    spend(func(c *regionv1.Spend) { c.Customer = "" }),
		"no counter":     {Command: &regionv1.Command_TendRights{TendRights: &regionv1.TendRights{CartId: "cart:a"}}},
		"too many":       {Command: &regionv1.Command_TendRights{TendRights: &regionv1.TendRights{CartId: "limit:TEN", Limit: 1 << 40}}},
		"no region":      {Command: &regionv1.Command_MoveRights{MoveRights: &regionv1.MoveRights{CartId: "limit:TEN", N: 1}}},
		"moved too many": {Command: &regionv1.Command_MoveRights{MoveRights: &regionv1.MoveRights{CartId: "limit:TEN", RegionId: 2, N: 1 << 40}}},
	} {
		if s.check(cmd) == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if err := s.check(spend(func(*regionv1.Spend) {})); err != nil {
		t.Error(err)
	}
}

// A code and its customers are in one slot, whatever their number.
func TestCustomersAreWhereTheCodeIs(t *testing.T) {
	s := NewSlots(4)
	for _, customer := range []string{"cart:a", "guest:b/c", "cart:0123456789"} {
		if got, want := s.Of(crdt.LimitID("TEN", customer)), s.Of("limit:TEN"); got != want {
			t.Errorf("%s is in slot %d, the code in %d", customer, got, want)
		}
	}
	if s.Of("cart:a/b") == s.Of("cart:a") && s.Of("cart:a/c") == s.Of("cart:a") {
		t.Error("all carts are cut at a slash")
	}
}
