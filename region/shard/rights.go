package shard

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/samecart/samecart/crdt"
	membershipv1 "github.com/samecart/samecart/proto/membership/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/store"
)

// regionsOf is a membership as counters need it. ok is false while there is none, or
// a member has not said yet under which incarnation it writes: then nobody knows
// what is to be refused.
func regionsOf(m *membershipv1.Membership) (r crdt.Regions, ok bool) {
	r.Epoch = m.GetEpoch()
	for _, e := range m.GetMembers() {
		if e.State != membershipv1.State_STATE_REMOVED {
			r.Count++
		}
		if !e.State.Sends() {
			continue
		}
		if e.Incarnation == 0 {
			return r, false
		}
		r.Members = append(r.Members, crdt.RegionMember{
			Holder: crdt.Holder{Region: crdt.RegionID(e.RegionId), Incarnation: e.Incarnation},
			Votes:  e.State.Votes(), Active: e.State == membershipv1.State_STATE_ACTIVE,
		})
	}
	return r, r.Epoch > 0
}

func (w *workspace) holder() crdt.Holder {
	m := w.tx.Marker()
	return crdt.Holder{Region: m.Region, Incarnation: m.Incarnation}
}

// codeOf is the code of a counter, and whether the counter is one customer's.
func codeOf(id string) (code string, ofCustomer bool) {
	code, _, ofCustomer = strings.Cut(strings.TrimPrefix(id, crdt.LimitPrefix), "/")
	return code, ofCustomer
}

// withHome is a customer's counter of that id, with the rights that the code's counter
// says that it has at first.
func withHome(b, code crdt.Bounded, id string) crdt.Bounded {
	if limit, homes, ok := code.Customers(); ok && limit > 0 {
		return b.WithInitial(crdt.Home(homes, id), limit)
	}
	return b
}

// bounded reads a counter.
func (w *workspace) bounded(id string) (b crdt.Bounded, r *store.Record, err error) {
	if r, err = w.record(id); err != nil {
		return b, nil, err
	}
	b = stateOf(r).Cart.Bounded()
	code, ofCustomer := codeOf(id)
	if !ofCustomer {
		return b, r, nil
	}
	of, err := w.record(crdt.LimitID(code, ""))
	if err != nil {
		return b, nil, err
	}
	return withHome(b, stateOf(of).Cart.Bounded(), id), r, nil
}

// writeRights writes this region's row of a counter; op is the request behind it, nil:
// there is none. The caller remembers the outcome.
func (w *workspace) writeRights(id string, old *store.Record, row crdt.RightsRow, op *crdt.Op) error {
	state := stateOf(old)
	h := w.holder()
	writer := crdt.Writer{Replica: h.Replica(), At: w.now(), Floor: w.tx.Floor(w.slots.Of(id)).Seq}
	d := state.Cart.SetRights(writer, row)
	cart := state.Cart.Apply(d)
	asked, err := w.asked(id, old)
	if err != nil {
		return err
	}
	out := crdt.Row{CartID: id, At: writer.At, Age: writer.At, Delta: d, Ops: opsIn(state.Ops, d.Context)}
	var made []crdt.Op
	if op != nil {
		op.Dot, op.At = d.Dots[0], writer.At
		made = []crdt.Op{*op}
		out.Ops = joinOps(out.Ops, made)
		if asked, err = w.tx.ListNextOp(id, op.ID, asked); err != nil {
			return err
		}
	}
	w.tx.AppendRow(out)
	w.put(id, old, crdt.State{Cart: cart, Ops: w.nextOps(state.Ops, made, d, cart), Active: state.Active}, asked)
	return nil
}

// spend uses a code once for a customer, if this region has a right of the code's
// and one of the customer's. Where it has not, it asks those who have.
//
//	N1  The request is in both rows that say so: who refuses it for what a row
//	    says knows it.
//	N2  A request that another region's row brought is answered as used: that row is
//	    from before this region refused its region, so this region's seal has it.
func (w *workspace) spend(s *regionv1.Spend) (*regionv1.Outcome, error) {
	out := &regionv1.Outcome{Index: w.index}
	id := crdt.LimitID(s.Code, "")
	b, old, err := w.bounded(id)
	if err != nil {
		return nil, err
	}
	op := crdt.Op{Fingerprint: s.Fingerprint}
	copy(op.ID[:], s.OpId)
	self := w.holder()
	memo, known, err := w.tx.Op(id, op.ID, old)
	if err != nil {
		return nil, err
	}
	most, _, granted := b.Customers()
	customer := crdt.LimitID(s.Code, s.Customer)
	var of crdt.Bounded
	var oldOf *store.Record
	if granted && most > 0 {
		if oldOf, err = w.record(customer); err != nil {
			return nil, err
		}
		of = withHome(stateOf(oldOf).Cart.Bounded(), b, customer)
		if !known {
			if memo, known, err = w.tx.Op(customer, op.ID, oldOf); err != nil {
				return nil, err
			}
		}
	}
	if known {
		return w.spentBefore(s, memo, b)
	}
	regions, ok := regionsOf(w.members)
	switch {
	case !w.members.TakesEdits(uint32(self.Region)):
		out.Code = regionv1.Outcome_CODE_FENCED
		return out, nil
	case !ok, regions.IsGone(self), w.at > crdt.TimestampAt(s.UntilMs):
		out.Code = regionv1.Outcome_CODE_NO_REGION_MAJORITY
		return out, nil
	}
	switch {
	case !granted && len(b.Holders()) == 0:
		out.Code = regionv1.Outcome_CODE_LINE_NOT_FOUND
		return out, nil
	case !granted:
		out.Code = regionv1.Outcome_CODE_LIMIT_ELSEWHERE
		return out, nil
	case most > 0 && of.Left() == 0:
		out.Code = regionv1.Outcome_CODE_CUSTOMER_EXHAUSTED
		return out, nil
	case b.Left() == 0 && b.Limit() > b.Granted(): // raised, and the first has not granted it yet
		out.Code = regionv1.Outcome_CODE_LIMIT_ELSEWHERE
		return out, nil
	case b.Left() == 0:
		out.Code = regionv1.Outcome_CODE_LIMIT_EXHAUSTED
		return out, nil
	}
	row, mine := b.Spend(self, 1)
	rowOf, mineOf := of.Spend(self, 1)
	mineOf = mineOf || most == 0
	if !mine || !mineOf {
		out.Code = regionv1.Outcome_CODE_LIMIT_ELSEWHERE
		if ask, ok := b.Ask(self); ok && !mine {
			err = w.writeRights(id, old, ask, nil)
		}
		if ask, ok := of.Ask(self); ok && !mineOf && err == nil {
			err = w.writeRights(customer, oldOf, ask, nil)
		}
		return out, err
	}
	// The customer's row goes first: who has the code's row of a stream has both.
	if most > 0 {
		if err := w.writeRights(customer, oldOf, rowOf, &op); err != nil {
			return nil, err
		}
		w.tx.PutOp(customer, op.ID, store.OpRecord{Fingerprint: op.Fingerprint, At: op.At}, w.at)
	}
	if err := w.writeRights(id, old, row, &op); err != nil {
		return nil, err
	}
	out.Seq, out.RightsHere, out.RightsAll = w.tx.Marker().Seq, b.Rights(self)-1, b.Left()-1
	encoded, err := marshal(out)
	if err != nil {
		return nil, err
	}
	w.tx.PutOp(id, op.ID, store.OpRecord{Fingerprint: op.Fingerprint, At: op.At, Outcome: encoded}, w.at)
	return out, nil
}

// spentBefore answers a request that is known, here or by another region's row.
func (w *workspace) spentBefore(s *regionv1.Spend, memo store.OpRecord, b crdt.Bounded) (*regionv1.Outcome, error) {
	out := &regionv1.Outcome{Index: w.index}
	if memo.Fingerprint != s.Fingerprint {
		out.Code = regionv1.Outcome_CODE_OP_ID_REUSED
		return out, nil
	}
	if len(memo.Outcome) > 0 {
		if err := unmarshal(memo.Outcome, out); err != nil {
			return nil, fmt.Errorf("decode outcome of code %q: %w", s.Code, err)
		}
	}
	out.Replayed, out.RightsHere, out.RightsAll = true, b.Rights(w.holder()), b.Left()
	return out, nil
}

// moveRights gives rights to a member that takes requests; nothing happens when there
// are not so many, or it is none any more.
func (w *workspace) moveRights(m *regionv1.MoveRights) (*regionv1.Outcome, error) {
	out := &regionv1.Outcome{Index: w.index}
	self, to := w.holder(), crdt.Holder{Region: crdt.RegionID(m.RegionId), Incarnation: m.Incarnation}
	regions, ok := regionsOf(w.members)
	if !ok || regions.IsGone(self) || !regions.IsActive(to) {
		return out, nil
	}
	b, old, err := w.bounded(m.CartId)
	if err != nil {
		return nil, err
	}
	row, ok := b.Send(self, to, m.N)
	if !ok {
		return out, nil
	}
	return out, w.writeRights(m.CartId, old, row, nil)
}

// tendRights does for a counter what the membership asks of this region, and raises its
// limit, which any active member may: only the first grants rights up to it, since
// what nobody has heard of them must not be granted again.
func (w *workspace) tendRights(t *regionv1.TendRights) (*regionv1.Outcome, error) {
	out := &regionv1.Outcome{Index: w.index}
	self := w.holder()
	regions, ok := regionsOf(w.members)
	if !ok || regions.IsGone(self) {
		out.Code = regionv1.Outcome_CODE_NO_REGION_MAJORITY
		return out, nil
	}
	b, old, err := w.bounded(t.CartId)
	if err != nil || t.Limit == 0 && old == nil {
		return out, err
	}
	row, seq := b.Row(self)
	raised := false
	if t.Limit > 0 {
		if !regions.IsActive(self) {
			out.Code = regionv1.Outcome_CODE_FENCED
			return out, nil
		}
		raised = t.Limit > row.Limit
		row.Limit = max(row.Limit, t.Limit)
		if _, _, granted := b.Customers(); !granted {
			raised = raised || row.Cap != t.PerCustomer
			row.Cap = t.PerCustomer
		}
		b = b.With(self, seq+1, row)
	}
	row, changed := b.Tend(self, regions)
	if !changed && !raised {
		return out, nil
	}
	return out, w.writeRights(t.CartId, old, row, nil)
}

// customerBytesMax leaves a customer's counter an id that other regions take.
const customerBytesMax = 180

func (s *Shard) checkSpend(c *regionv1.Spend) error {
	if err := crdt.CheckCode(c.GetCode()); err != nil {
		return err
	}
	if n := len(c.GetOpId()); n != len(crdt.OpID{}) {
		return fmt.Errorf("op id of %d bytes, want %d", n, len(crdt.OpID{}))
	}
	if n := len(c.GetCustomer()); n == 0 || n > customerBytesMax {
		return fmt.Errorf("customer of %d bytes, want 1 to %d", n, customerBytesMax)
	}
	return s.checkCart(crdt.LimitID(c.GetCode(), ""))
}

func (s *Shard) checkRights(cartID string, n uint64) error {
	if !crdt.IsLimit(cartID) {
		return fmt.Errorf("%q is no counter", cartID)
	}
	if n > limitMax {
		return fmt.Errorf("%d uses: at most %d", n, uint64(limitMax))
	}
	code, _ := codeOf(cartID)
	return errors.Join(crdt.CheckCode(code), s.checkCart(cartID))
}

// limitMax bounds a limit: what regions have gained and given adds up to no more than
// a row can hold.
const limitMax = math.MaxUint32
