package shard

import (
	"fmt"
	"slices"

	"github.com/samecart/samecart/crdt"
	membershipv1 "github.com/samecart/samecart/proto/membership/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/store"
)

// Rows that arrive by gossip may carry a clock that runs ahead. One further
// ahead than this does not move the region's own clock.
const clockAheadMax = crdt.Timestamp(5*60*1000) << 16

// workspace is what one command sees and changes: the open transaction, with
// the decoded carts behind it.
type workspace struct {
	tx     *store.Tx
	slots  *Slots
	lookup func(id string) (*store.Record, bool) // committed records in memory
	index  uint64
	limits *regionv1.Limits
	at     crdt.Timestamp // the entry's time
	// members is the newest membership, this batch's included; nil: none yet.
	members *membershipv1.Membership
	// editing is the cart that an edit is of, edited its record before the edit.
	editing string
	edited  *store.Record
	expired *[]Expired // what is told when the transaction is committed
}

// record returns the newest record of a cart, nil when there is none.
func (w *workspace) record(id string) (*store.Record, error) {
	if r, ok := w.tx.Dirty(id); ok {
		return r, nil
	}
	if r, ok := w.lookup(id); ok {
		return r, nil
	}
	return w.tx.Record(w.slots.Of(id), id)
}

func stateOf(r *store.Record) crdt.State {
	if r == nil {
		return crdt.State{Cart: &crdt.Cart{}}
	}
	return r.State
}

func (w *workspace) put(id string, old *store.Record, s crdt.State, asked store.Asked) *store.Record {
	r := store.NewRecord(id, w.index, s, asked, w.head(id, old, s.Cart))
	r.SetDue(w.indexed(id, old, s))
	w.tx.PutRecord(w.slots.Of(id), id, old, r)
	w.markGuest(id, old, r)
	return r
}

// asked returns where a cart's requests are remembered. A cart without a
// record may remember edits that found nothing to change.
func (w *workspace) asked(id string, r *store.Record) (store.Asked, error) {
	if r != nil {
		return r.Asked, nil
	}
	return w.tx.Asked(id)
}

// now gives out the next timestamp: unique in the shard, not before the
// entry's.
func (w *workspace) now() crdt.Timestamp {
	m := w.tx.Marker()
	m.At = m.At.Next(w.at)
	return m.At
}

// refusal is an outcome that changed nothing.
type refusal struct {
	code    regionv1.Outcome_Code
	details []string
}

// edit applies a shopper's changes to one cart: all of them or none. An
// outcome is remembered under the op id, also of an edit that found nothing to
// change; a refusal is not: a retry may be judged anew, here as in any other
// region.
func (w *workspace) edit(e *regionv1.Edit) (*regionv1.Outcome, error) {
	old, err := w.record(e.CartId)
	if err != nil {
		return nil, err
	}
	state := stateOf(old)
	w.editing, w.edited = e.CartId, old
	if state.Cart.IsErased() {
		return w.erasedOutcome(e, old), nil
	}
	var op crdt.OpID
	hasOp := len(e.OpId) == len(op)
	if hasOp {
		copy(op[:], e.OpId)
		known, out, err := w.replay(e, op, old)
		if known || err != nil {
			return out, err
		}
	}
	if !w.members.TakesEdits(uint32(w.tx.Marker().Region)) {
		return w.refused(e.CartId, old, 0, refusal{code: regionv1.Outcome_CODE_FENCED}), nil
	}
	if len(e.IfMatch) > 0 && !matches(e.IfMatch, e.CartId, old) {
		return w.refused(e.CartId, old, 0, refusal{code: regionv1.Outcome_CODE_VERSION_CONFLICT}), nil
	}
	if hasExpired(e.CartId, state.Cart) {
		return w.refused(e.CartId, old, 0, refusal{code: regionv1.Outcome_CODE_GUEST_EXPIRED}), nil
	}
	at := w.now()
	m := w.tx.Marker()
	writer := crdt.Writer{
		Replica:     crdt.Replica{Region: m.Region, Incarnation: m.Incarnation},
		At:          at,
		QuantityMax: w.limits.Quantity,
		Floor:       w.tx.Floor(w.slots.Of(e.CartId)).Seq,
	}
	cart := state.Cart
	var deltas []crdt.Delta
	keys := make([]crdt.LineKey, len(e.Changes))
	for i, c := range e.Changes {
		ds, key, r := w.change(cart, writer, c)
		if r != nil {
			return w.refused(e.CartId, old, i, *r), nil
		}
		keys[i] = key
		for _, d := range ds {
			cart = cart.Apply(d)
			deltas = append(deltas, d)
		}
	}
	rec := old
	w.noteEdit(e, old, cart, at)
	if len(deltas) > 0 {
		ops := state.Ops
		for _, d := range deltas {
			if w.forgets(e.CartId, old, cart) {
				ops = nil
			}
			row := crdt.Row{CartID: e.CartId, At: at, Delta: d, Ops: opsIn(ops, d.Context)}
			var made []crdt.Op
			if hasOp {
				o := crdt.Op{Dot: d.Dots[0], ID: op, Fingerprint: e.Fingerprint, At: at}
				made = []crdt.Op{o}
				row.Ops = joinOps(row.Ops, made)
			}
			w.tx.AppendRow(row)
			ops = w.nextOps(ops, made, d, cart)
		}
		state.Ops = ops
		state.Active = state.Active.Join(crdt.Active{At: at, Region: m.Region})
	}
	written := len(deltas) > 0 || hasOp && old != nil
	if written {
		asked, err := w.asked(e.CartId, old)
		if cart.IsErased() {
			asked = store.Asked{}
		}
		if err == nil && hasOp {
			asked, err = w.tx.ListNextOp(e.CartId, op, asked)
		}
		if err != nil {
			return nil, err
		}
		rec = w.put(e.CartId, old, crdt.State{Cart: cart, Ops: state.Ops, Active: state.Active}, asked)
	}
	out := w.outcome(e.CartId, rec)
	for i, k := range keys {
		out.Lines = append(out.Lines, w.changed(cart, k, e.Changes[i].Kind))
	}
	if !hasOp {
		return out, nil
	}
	b, err := marshal(out)
	if err != nil {
		return nil, err
	}
	memo := store.OpRecord{Fingerprint: e.Fingerprint, At: at, Outcome: b}
	if written {
		w.tx.PutOp(e.CartId, op, memo, w.at)
	} else {
		w.tx.PutLooseOp(e.CartId, op, memo, w.at)
	}
	return out, nil
}

func matches(want []byte, id string, r *store.Record) bool {
	d := DigestOfRecord(id, r)
	return string(want) == string(d[:])
}

// DigestOfRecord is the digest of a record's cart; a cart that is not there
// has the digest of the empty cart.
func DigestOfRecord(id string, r *store.Record) store.Digest {
	if r != nil {
		return r.Digest
	}
	return store.DigestOf(id, (&crdt.Cart{}).Encode(nil))
}

// replay answers a request whose op id is known.
func (w *workspace) replay(e *regionv1.Edit, op crdt.OpID, old *store.Record) (known bool, out *regionv1.Outcome, err error) {
	rec, ok, err := w.tx.Op(e.CartId, op, old)
	if err != nil || !ok {
		return false, nil, err
	}
	if rec.Fingerprint != e.Fingerprint {
		return true, w.refused(e.CartId, old, 0, refusal{code: regionv1.Outcome_CODE_OP_ID_REUSED}), nil
	}
	if len(rec.Outcome) > 0 {
		out = new(regionv1.Outcome)
		if err := unmarshal(rec.Outcome, out); err != nil {
			return true, nil, fmt.Errorf("decode outcome of cart %q: %w", e.CartId, err)
		}
	} else {
		// Applied in another region: answer with the lines as they are.
		out = w.outcome(e.CartId, old)
		cart := stateOf(old).Cart
		for _, c := range e.Changes {
			key, r := resolve(cart, c)
			if r != nil {
				key = crdt.LineKey{Seller: c.GetLine().GetSeller(), SKU: c.GetLine().GetSku(), Options: c.GetLine().GetOptions()}
			}
			out.Lines = append(out.Lines, w.changed(cart, key, c.Kind))
		}
	}
	out.Replayed = true
	return true, out, nil
}

// change turns one change into deltas. Caps are checked here, and only
// here: a join never fails.
func (w *workspace) change(cart *crdt.Cart, writer crdt.Writer, c *regionv1.Change) ([]crdt.Delta, crdt.LineKey, *refusal) {
	switch c.Kind {
	case regionv1.Change_KIND_ADD:
		return w.add(cart, writer, c)
	case regionv1.Change_KIND_SET:
		key, r := resolve(cart, c)
		switch {
		case r != nil && (c.Quantity > 0 || r.code == regionv1.Outcome_CODE_AMBIGUOUS_LINE):
			return nil, key, r
		case r != nil:
			return nil, key, nil // setting what is not there to 0
		case c.Quantity == 0:
			return []crdt.Delta{cart.Remove(writer, key)}, key, nil
		case c.Quantity > w.limits.Quantity:
			return nil, key, w.tooLarge(uint64(c.Quantity))
		}
		return described(cart, writer, key, c, cart.SetQuantity(writer, key, c.Quantity)), key, nil
	case regionv1.Change_KIND_REMOVE:
		key, r := resolve(cart, c)
		switch {
		case r != nil && r.code == regionv1.Outcome_CODE_AMBIGUOUS_LINE:
			return nil, key, r
		case r != nil:
			return nil, key, nil
		}
		return []crdt.Delta{cart.Remove(writer, key)}, key, nil
	case regionv1.Change_KIND_CLEAR:
		return cart.Clear(writer), crdt.LineKey{}, nil
	case regionv1.Change_KIND_SETTING:
		return w.setting(cart, writer, c), crdt.LineKey{}, nil
	case regionv1.Change_KIND_SAVE, regionv1.Change_KIND_MOVE:
		return place(cart, writer, c)
	case regionv1.Change_KIND_DESCRIBE:
		return describe(cart, writer, c)
	case regionv1.Change_KIND_UNDO:
		deltas, r := w.undo(cart, writer)
		return deltas, crdt.LineKey{}, r
	case regionv1.Change_KIND_ERASE:
		return []crdt.Delta{cart.Erase(writer)}, crdt.LineKey{}, nil
	case regionv1.Change_KIND_ADD_CODE, regionv1.Change_KIND_DROP_CODE:
		return w.changeCode(cart, writer, c)
	case regionv1.Change_KIND_SHARE:
		return w.share(cart, writer, c)
	case regionv1.Change_KIND_UNSHARE:
		return w.unshare(cart, writer, c)
	case regionv1.Change_KIND_UNSPECIFIED:
	}
	// The proposer checks kinds: an unknown one is of a format level that this
	// binary must not have been given.
	panic(fmt.Sprintf("shard: change of unknown kind %d at index %d", c.Kind, w.index))
}

func (w *workspace) tooLarge(q uint64) *refusal {
	return &refusal{regionv1.Outcome_CODE_QUANTITY_TOO_LARGE, []string{fmt.Sprint(q), fmt.Sprint(w.limits.Quantity)}}
}

func (w *workspace) add(cart *crdt.Cart, writer crdt.Writer, c *regionv1.Change) ([]crdt.Delta, crdt.LineKey, *refusal) {
	key := crdt.LineKey{Seller: c.Line.GetSeller(), SKU: c.Line.GetSku(), Options: c.Line.GetOptions()}
	line := cart.Find(key)
	var seen uint32
	if line == nil {
		if linesThere(cart) >= w.limits.Lines {
			return nil, key, &refusal{regionv1.Outcome_CODE_TOO_MANY_LINES, []string{fmt.Sprint(w.limits.Lines)}}
		}
	} else {
		seen = min(line.Visible().Quantity, w.limits.Quantity)
	}
	if sum := uint64(seen) + uint64(c.Quantity); sum > uint64(w.limits.Quantity) {
		return nil, key, w.tooLarge(sum)
	}
	if line == nil || c.RenewOffer {
		if cur := cart.Currency(); cur != "" && cur != c.Currency {
			return nil, key, &refusal{regionv1.Outcome_CODE_CURRENCY_MISMATCH, []string{cur, c.Currency}}
		}
	}
	offer := crdt.Offer{Price: c.Price, Currency: c.Currency, AddedAt: writer.At}
	return described(cart, writer, key, c, cart.Add(writer, key, c.Quantity, offer, c.RenewOffer)), key, nil
}

func linesThere(cart *crdt.Cart) (n uint32) {
	for _, e := range cart.Lines {
		if e.Line.IsThere() {
			n++
		}
	}
	return n
}

// resolve finds the line that a change means. A seller or options that were
// not given match any, as long as one line does.
func resolve(cart *crdt.Cart, c *regionv1.Change) (crdt.LineKey, *refusal) {
	l := c.GetLine()
	var found []crdt.LineKey
	for _, e := range cart.Lines {
		if e.Line.IsThere() && e.Key.SKU == l.GetSku() &&
			(l.GetAnySeller() || e.Key.Seller == l.GetSeller()) &&
			(l.GetAnyOptions() || e.Key.Options == l.GetOptions()) {
			found = append(found, e.Key)
		}
	}
	key := crdt.LineKey{Seller: l.GetSeller(), SKU: l.GetSku(), Options: l.GetOptions()}
	switch len(found) {
	case 0:
		return key, &refusal{code: regionv1.Outcome_CODE_LINE_NOT_FOUND}
	case 1:
		return found[0], nil
	}
	var sellers []string
	for _, k := range found {
		if !slices.Contains(sellers, k.Seller) {
			sellers = append(sellers, k.Seller)
		}
	}
	return key, &refusal{regionv1.Outcome_CODE_AMBIGUOUS_LINE, sellers}
}

func (w *workspace) outcome(id string, r *store.Record) *regionv1.Outcome {
	cart := stateOf(r).Cart
	d := DigestOfRecord(id, r)
	return &regionv1.Outcome{
		ItemCount: cart.ItemCount(w.limits.Quantity),
		Index:     w.index,
		Context:   cart.Context.Encode(nil),
		Digest:    d[:],
	}
}

func (w *workspace) refused(id string, r *store.Record, change int, why refusal) *regionv1.Outcome {
	out := w.outcome(id, r)
	out.Code, out.Change, out.Details = why.code, uint32(change), why.details
	return out
}

func (w *workspace) changed(cart *crdt.Cart, k crdt.LineKey, kind regionv1.Change_Kind) *regionv1.ChangedLine {
	out := &regionv1.ChangedLine{Line: &regionv1.LineKey{Seller: k.Seller, Sku: k.SKU, Options: k.Options}}
	l := cart.Find(k)
	if l == nil || kind == regionv1.Change_KIND_CLEAR {
		out.Removed = true
		return out
	}
	v := l.Visible()
	out.Quantity = min(v.Quantity, w.limits.Quantity)
	out.Price, out.Currency, out.AddedAt = v.Offer.Price, v.Offer.Currency, uint64(v.Offer.AddedAt)
	out.Attributes = v.Attributes.Pairs
	if l.Quantity.Concurrent() {
		for _, wr := range l.Quantity {
			out.Quantities = append(out.Quantities, wr.Value)
		}
	}
	return out
}

// joinOps joins two lists of ops, each in the order of dots. Of two ops of
// one dot the first list's stays.
func joinOps(a, b []crdt.Op) []crdt.Op {
	out := make([]crdt.Op, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		switch c := a[0].Dot.Compare(b[0].Dot); {
		case c < 0:
			out, a = append(out, a[0]), a[1:]
		case c > 0:
			out, b = append(out, b[0]), b[1:]
		default:
			b = b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// byDot sorts what came from elsewhere, as it should be already.
func byDot(ops []crdt.Op) []crdt.Op {
	order := func(a, b crdt.Op) int { return a.Dot.Compare(b.Dot) }
	if !slices.IsSortedFunc(ops, order) {
		ops = slices.Clone(ops)
		slices.SortStableFunc(ops, order)
	}
	return ops
}

// opsIn returns the ops whose dots are in cc.
func opsIn(ops []crdt.Op, cc crdt.CausalContext) []crdt.Op {
	var out []crdt.Op
	for _, o := range ops {
		if cc.Has(o.Dot) {
			out = append(out, o)
		}
	}
	return out
}

// nextOps is ops and what came with delta d, less the ops of dots that d took
// out of its line, and those that are past their life.
func (w *workspace) nextOps(ops, came []crdt.Op, d crdt.Delta, cart *crdt.Cart) []crdt.Op {
	if len(ops)+len(came) == 0 {
		return nil
	}
	line := cart.Lines.Find(d.Key)
	oldest := w.opHorizon()
	return slices.DeleteFunc(joinOps(ops, came), func(o crdt.Op) bool {
		return o.At < oldest || d.Context.Has(o.Dot) && !line.Holds(o.Dot)
	})
}

// opHorizon is the time before which ops are forgotten.
func (w *workspace) opHorizon() crdt.Timestamp {
	life := crdt.Timestamp(w.limits.OpLifeMs) << 16
	if w.at < life {
		return 0
	}
	return w.at - life
}

// joinRows joins rows of another region's stream where the cursor allows.
// flush is asked between rows: the transaction may be full, and the cursor
// says how far the command got, so it may be committed in the middle.
func (w *workspace) joinRows(j *regionv1.JoinRows, flush func() error) (*regionv1.Outcome, error) {
	st := crdt.Stream{Region: crdt.RegionID(j.RegionId), Incarnation: j.Incarnation, Shard: j.OriginShard}
	cursor, err := w.tx.Cursor(st)
	if err != nil {
		return nil, err
	}
	if w.members.Refuses(j.RegionId, j.Incarnation) {
		return &regionv1.Outcome{Code: regionv1.Outcome_CODE_FENCED, Cursor: cursor, Index: w.index}, nil
	}
	if cursor < j.Lo {
		return &regionv1.Outcome{Code: regionv1.Outcome_CODE_GAP, Cursor: cursor, Index: w.index}, nil
	}
	for _, b := range j.Rows {
		row, err := crdt.DecodeRow(b)
		if err != nil {
			// The receiver decoded the row before it proposed it.
			return nil, fmt.Errorf("row of stream %v at index %d: %w", st, w.index, err)
		}
		if row.Last <= cursor {
			continue
		}
		if err := w.joinRow(row, st.Region, flush); err != nil {
			return nil, err
		}
		if w.tx.Full() {
			// Rows before this one are joined, later ones are not: a row that
			// was combined from later ones may be joined again, to no effect.
			w.tx.SetCursor(st, max(cursor, row.Seq))
			if err := flush(); err != nil {
				return nil, err
			}
		}
	}
	if j.Hi > cursor {
		cursor = j.Hi
		w.tx.SetCursor(st, cursor)
	}
	return &regionv1.Outcome{Cursor: cursor, Index: w.index}, nil
}

// rowOpsMax is how many requests of one row are remembered in the transaction
// that has its record: what a row may have more does not fit one.
const rowOpsMax = 64

// joinRow joins one row of a region. Its requests, if they are many, may be
// committed before it, as those of a whole cart.
func (w *workspace) joinRow(row crdt.Row, from crdt.RegionID, flush func() error) error {
	old, err := w.record(row.CartID)
	if err != nil {
		return err
	}
	state := stateOf(old)
	cart := state.Cart.Apply(row.Delta)
	asked, err := w.asked(row.CartID, old)
	if err != nil {
		return err
	}
	if w.forgets(row.CartID, old, cart) {
		w.put(row.CartID, old, crdt.State{Cart: cart}, store.Asked{})
		w.observe(row.At)
		return nil
	}
	if len(row.Ops) > rowOpsMax {
		asked, err = w.adoptOps(row.CartID, row.Ops, asked, flush)
	} else {
		asked, err = w.learnOps(row.CartID, row.Ops, asked)
	}
	if err != nil {
		return err
	}
	w.noteRow(row, old, cart) // in the transaction that has the record
	w.put(row.CartID, old, crdt.State{
		Cart: cart, Ops: w.nextOps(state.Ops, byDot(row.Ops), row.Delta, cart), Active: state.Active.Join(row.Active(from)),
	}, asked)
	w.observe(row.At)
	return nil
}

// learnOps remembers requests that another region applied, and returns the
// cart's list with them: the caller puts the record.
func (w *workspace) learnOps(id string, ops []crdt.Op, asked store.Asked) (store.Asked, error) {
	oldest := w.opHorizon()
	for _, o := range ops {
		if o.At < oldest {
			continue
		}
		known, err := w.tx.KnowsOp(id, o.ID, asked)
		if err != nil {
			return asked, err
		}
		if known {
			continue
		}
		if asked, err = w.tx.ListNextOp(id, o.ID, asked); err != nil {
			return asked, err
		}
		w.tx.PutOp(id, o.ID, store.OpRecord{Fingerprint: o.Fingerprint, At: o.At}, w.at)
	}
	return asked, nil
}

// adoptOps is learnOps for requests that may be committed before the record: it
// finds what it remembered when it is done again.
func (w *workspace) adoptOps(id string, ops []crdt.Op, asked store.Asked, flush func() error) (_ store.Asked, err error) {
	for _, o := range ops {
		if asked, err = w.adoptOp(id, o, asked); err != nil {
			return asked, err
		}
		if w.tx.Full() {
			if err := flush(); err != nil {
				return asked, err
			}
		}
	}
	return asked, nil
}

func (w *workspace) adoptOp(id string, o crdt.Op, asked store.Asked) (store.Asked, error) {
	if o.At < w.opHorizon() {
		return asked, nil
	}
	asked, known, err := w.tx.AdoptOp(id, o.ID, asked)
	if err != nil || known {
		return asked, err
	}
	w.tx.PutLooseOp(id, o.ID, store.OpRecord{Fingerprint: o.Fingerprint, At: o.At}, w.at)
	asked, _, err = w.tx.AdoptOp(id, o.ID, asked)
	return asked, err
}

// observe moves the shard's clock past a remote timestamp.
func (w *workspace) observe(at crdt.Timestamp) {
	if m := w.tx.Marker(); at <= w.at+clockAheadMax {
		m.At = max(m.At, at)
	}
}

// joinCart joins another region's whole cart. Its requests come first and
// may be committed before the cart (see joinRows): learning one again changes
// nothing.
func (w *workspace) joinCart(j *regionv1.JoinCart, flush func() error) (*regionv1.Outcome, error) {
	if j.RegionId != 0 && w.members.Refuses(j.RegionId, j.Incarnation) {
		return &regionv1.Outcome{Code: regionv1.Outcome_CODE_FENCED, Index: w.index}, nil
	}
	remote, err := crdt.DecodeState(j.State)
	if err != nil {
		return nil, fmt.Errorf("cart %q at index %d: %w", j.CartId, w.index, err)
	}
	old, err := w.record(j.CartId)
	if err != nil {
		return nil, err
	}
	if cart := crdt.Join(stateOf(old).Cart, remote.Cart); w.forgets(j.CartId, old, cart) {
		rec := old
		if !cart.Equal(stateOf(old).Cart) {
			rec = w.put(j.CartId, old, crdt.State{Cart: cart}, store.Asked{})
		}
		return w.outcome(j.CartId, rec), nil
	}
	before, err := w.asked(j.CartId, old)
	if err != nil {
		return nil, err
	}
	asked, err := w.adoptOps(j.CartId, remote.Ops, before, flush)
	if err != nil {
		return nil, err
	}
	state := stateOf(old)
	cart := crdt.Join(state.Cart, remote.Cart)
	w.noteBack(j.CartId, old, cart)
	held := crdt.CausalContext{}
	for _, e := range cart.Lines {
		held = held.Join(e.Line.Dots())
	}
	oldest := w.opHorizon()
	ops := slices.DeleteFunc(joinOps(state.Ops, byDot(remote.Ops)), func(o crdt.Op) bool { return o.At < oldest || !held.Has(o.Dot) })
	rec, active := old, state.Active.Join(remote.Active)
	if old == nil || !cart.Equal(state.Cart) || !slices.Equal(ops, state.Ops) || !asked.Equal(before) || active != state.Active {
		rec = w.put(j.CartId, old, crdt.State{Cart: cart, Ops: ops, Active: active}, asked)
	}
	return w.outcome(j.CartId, rec), nil
}
