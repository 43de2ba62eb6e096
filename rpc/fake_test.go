package rpc_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	catalogv1 "github.com/samecart/samecart/proto/catalog/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/rpc"
)

// fakeRegion is a Region for tests: carts in a map, edits applied with crdt
// one after the other, no log and no disk. Its rules are those that
// region.v1 documents.
type fakeRegion struct {
	mu      sync.Mutex
	replica crdt.Replica
	now     int64 // milliseconds
	carts   map[string]*crdt.Cart
	ops     map[string]fakeOp // by cart id, op id
	opDots  map[string][]crdt.Op
	changed chan struct{} // closed and replaced at each change
	edits   atomic.Int64  // calls of Edit

	// What the next calls meet.
	editErr, readErr, waitErr, readyErr error
	stale                               bool
	hangEdit, hangRead                  bool // until ctx ends
	panicEdit                           bool
	badOutcome                          *regionv1.Outcome
	linesMax                            int
}

type fakeOp struct {
	fingerprint uint64
	outcome     *regionv1.Outcome
}

func newFakeRegion(id crdt.RegionID) *fakeRegion {
	return &fakeRegion{
		replica: crdt.Replica{Region: id, Incarnation: 1}, now: 1_700_000_000_000, linesMax: 500,
		carts: map[string]*crdt.Cart{}, ops: map[string]fakeOp{}, opDots: map[string][]crdt.Op{}, changed: make(chan struct{}),
	}
}

func (r *fakeRegion) cart(id string) *crdt.Cart {
	if c := r.carts[id]; c != nil {
		return c
	}
	return &crdt.Cart{}
}

func digestOf(id string, c *crdt.Cart) region.Digest {
	sum := sha256.Sum256(c.Encode([]byte(id)))
	return region.Digest(sum[:16])
}

func (r *fakeRegion) view(id string) region.View {
	c := r.cart(id)
	return region.View{CartID: id, State: crdt.State{Cart: c, Ops: r.opDots[id]}, Digest: digestOf(id, c), Stale: r.stale}
}

// join brings another region's cart in.
func (r *fakeRegion) join(id string, c *crdt.Cart) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.put(id, crdt.Join(r.cart(id), c))
}

func (r *fakeRegion) put(id string, c *crdt.Cart) {
	r.carts[id] = c
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *fakeRegion) Ready(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.readyErr
}

func (r *fakeRegion) Read(ctx context.Context, id string, o region.ReadOptions) (region.View, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hangRead {
		r.mu.Unlock()
		<-ctx.Done()
		r.mu.Lock()
		return region.View{}, ctx.Err()
	}
	if r.readErr != nil {
		return region.View{}, r.readErr
	}
	v := r.view(id)
	v.Stale = v.Stale || o.HasToken && !v.State.Cart.Context.Covers(o.Context)
	return v, nil
}

func (r *fakeRegion) Redeem(context.Context, *regionv1.Spend) (*regionv1.Outcome, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.badOutcome, r.editErr
}

func (r *fakeRegion) Wait(ctx context.Context, id string, seen region.Digest) (region.View, error) {
	for {
		r.mu.Lock()
		v, changed, err := r.view(id), r.changed, r.waitErr
		r.mu.Unlock()
		if err != nil {
			return region.View{}, err
		}
		if v.Digest != seen {
			return v, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return region.View{}, ctx.Err()
		}
	}
}

func (r *fakeRegion) Edit(ctx context.Context, e *regionv1.Edit) (*regionv1.Outcome, error) {
	r.edits.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.panicEdit:
		panic("secret of the inside")
	case r.hangEdit:
		r.mu.Unlock()
		<-ctx.Done()
		r.mu.Lock()
		return nil, ctx.Err()
	case r.editErr != nil:
		return nil, r.editErr
	case r.badOutcome != nil:
		return r.badOutcome, nil
	}
	key := e.GetCartId() + "\x00" + string(e.GetOpId())
	if op, ok := r.ops[key]; ok && len(e.GetOpId()) > 0 {
		if op.fingerprint != e.GetFingerprint() {
			return &regionv1.Outcome{Code: regionv1.Outcome_CODE_OP_ID_REUSED}, nil
		}
		out := &regionv1.Outcome{
			Code: op.outcome.Code, Change: op.outcome.Change, Details: op.outcome.Details, Lines: op.outcome.Lines,
			ItemCount: op.outcome.ItemCount, Context: op.outcome.Context, Digest: op.outcome.Digest, Replayed: true,
		}
		return out, nil
	}
	out := r.apply(e)
	if len(e.GetOpId()) > 0 {
		r.ops[key] = fakeOp{e.GetFingerprint(), out}
	}
	return out, nil
}

func (r *fakeRegion) apply(e *regionv1.Edit) *regionv1.Outcome {
	id := e.GetCartId()
	c := r.cart(id)
	if d := digestOf(id, c); len(e.GetIfMatch()) > 0 && !slices.Equal(e.GetIfMatch(), d[:]) {
		return &regionv1.Outcome{Code: regionv1.Outcome_CODE_VERSION_CONFLICT}
	}
	if erase := len(e.GetChanges()) == 1 && e.GetChanges()[0].GetKind() == regionv1.Change_KIND_ERASE; erase || c.IsErased() {
		if !erase {
			return &regionv1.Outcome{Code: regionv1.Outcome_CODE_ERASED}
		}
		if !c.IsErased() {
			r.now++
			c = c.Apply(c.Erase(crdt.Writer{Replica: r.replica, At: crdt.TimestampAt(r.now)}))
			r.put(id, c)
		}
		d := digestOf(id, c)
		return &regionv1.Outcome{Context: c.Context.Encode(nil), Digest: d[:], Index: 7, Lines: []*regionv1.ChangedLine{{Removed: true}}}
	}
	r.now++
	w := crdt.Writer{Replica: r.replica, At: crdt.TimestampAt(r.now), QuantityMax: 999}
	out := &regionv1.Outcome{}
	var dots []crdt.Dot
	for i, ch := range e.GetChanges() {
		refuse := func(code regionv1.Outcome_Code, details ...string) *regionv1.Outcome {
			return &regionv1.Outcome{Code: code, Change: uint32(i), Details: details}
		}
		if ch.GetKind() == regionv1.Change_KIND_CLEAR {
			for _, d := range c.Clear(w) {
				c, dots = c.Apply(d), append(dots, d.Dots...)
			}
			out.Lines = append(out.Lines, &regionv1.ChangedLine{Removed: true})
			continue
		}
		if code := ch.GetFactId(); code != "" {
			d := c.DropFact(w, crdt.FactCode, code)
			if ch.GetKind() == regionv1.Change_KIND_ADD_CODE {
				d = c.SetFact(w, crdt.FactCode, code, "")
			}
			c, dots = c.Apply(d), append(dots, d.Dots...)
			out.Lines = append(out.Lines, &regionv1.ChangedLine{Removed: true})
			continue
		}
		k, sellers := resolve(c, ch.GetLine())
		if len(sellers) > 1 {
			return refuse(regionv1.Outcome_CODE_AMBIGUOUS_LINE, sellers...)
		}
		old := c.Lines.Find(k)
		var d crdt.Delta
		switch {
		case ch.GetKind() == regionv1.Change_KIND_ADD:
			offer := crdt.Offer{Price: ch.GetPrice(), Currency: ch.GetCurrency(), AddedAt: w.At}
			if old == nil && len(c.Lines) >= r.linesMax {
				return refuse(regionv1.Outcome_CODE_TOO_MANY_LINES, "500")
			}
			if cur := c.Currency(); cur != "" && cur != offer.Currency {
				return refuse(regionv1.Outcome_CODE_CURRENCY_MISMATCH, cur)
			}
			var have uint32
			if old != nil {
				have = old.Visible().Quantity
			}
			if have+ch.GetQuantity() > 999 {
				return refuse(regionv1.Outcome_CODE_QUANTITY_TOO_LARGE)
			}
			d = c.Add(w, k, ch.GetQuantity(), offer, ch.GetRenewOffer())
		case old == nil && ch.GetKind() != regionv1.Change_KIND_REMOVE:
			return refuse(regionv1.Outcome_CODE_LINE_NOT_FOUND)
		case old == nil:
			out.Lines = append(out.Lines, &regionv1.ChangedLine{Line: ch.GetLine(), Removed: true})
			continue
		case ch.GetKind() == regionv1.Change_KIND_REMOVE:
			d = c.Remove(w, k)
		case ch.GetKind() == regionv1.Change_KIND_SAVE, ch.GetKind() == regionv1.Change_KIND_MOVE:
			to := crdt.InCart
			if ch.GetKind() == regionv1.Change_KIND_SAVE {
				to = crdt.Saved
			}
			if old.Visible().Placement == to {
				out.Lines = append(out.Lines, changedLine(c, k))
				continue
			}
			d = c.SetPlacement(w, k, to)
		case ch.GetKind() == regionv1.Change_KIND_DESCRIBE:
			d = c.SetAttributes(w, k, ch.GetAttributes())
		default:
			d = c.SetQuantity(w, k, ch.GetQuantity())
		}
		c, dots = c.Apply(d), append(dots, d.Dots...)
		if ch.Attributes != nil && ch.GetKind() != regionv1.Change_KIND_DESCRIBE {
			d = c.SetAttributes(w, k, ch.GetAttributes())
			c, dots = c.Apply(d), append(dots, d.Dots...)
		}
		out.Lines = append(out.Lines, changedLine(c, k))
	}
	if len(e.GetOpId()) > 0 {
		for _, d := range dots {
			r.opDots[id] = append(r.opDots[id], crdt.Op{Dot: d, ID: crdt.OpID(e.GetOpId()), At: w.At})
		}
	}
	r.put(id, c)
	d := digestOf(id, c)
	out.ItemCount, out.Context, out.Digest = c.ItemCount(999), c.Context.Encode(nil), d[:]
	return out
}

func changedLine(c *crdt.Cart, k crdt.LineKey) *regionv1.ChangedLine {
	out := &regionv1.ChangedLine{Line: &regionv1.LineKey{Seller: k.Seller, Sku: k.SKU, Options: k.Options}}
	l := c.Lines.Find(k)
	if l == nil {
		out.Removed = true
		return out
	}
	v := l.Visible()
	out.Quantity, out.Price, out.Currency, out.AddedAt = v.Quantity, v.Offer.Price, v.Offer.Currency, uint64(v.Offer.AddedAt)
	out.Attributes = v.Attributes.Pairs
	for _, w := range l.Quantity {
		out.Quantities = append(out.Quantities, w.Value)
	}
	return out
}

// resolve finds the line that a key with open parts means.
func resolve(c *crdt.Cart, k *regionv1.LineKey) (key crdt.LineKey, sellers []string) {
	key = crdt.LineKey{Seller: k.GetSeller(), SKU: k.GetSku(), Options: k.GetOptions()}
	if !k.GetAnySeller() && !k.GetAnyOptions() {
		return key, nil
	}
	for _, e := range c.Lines {
		if e.Key.SKU == key.SKU && (k.GetAnySeller() || e.Key.Seller == key.Seller) && (k.GetAnyOptions() || e.Key.Options == key.Options) {
			sellers = append(sellers, e.Key.Seller)
			key = e.Key
		}
	}
	return key, sellers
}

// fakeCatalog is a catalogue for tests that can be slow, down or wrong.
type fakeCatalog struct {
	rpc.Catalog

	down, slow, short atomic.Bool
	calls, follows    atomic.Int64
	takes             atomic.Int64 // nanoseconds of an answer
	spoil             atomic.Pointer[func(*catalogv1.LookUpResponse)]
	held              atomic.Pointer[chan struct{}] // answers wait for it
}

var errCatalogDown = errors.New("connection refused by 10.0.0.7:5432")

func (c *fakeCatalog) LookUp(ctx context.Context, req *connect.Request[catalogv1.LookUpRequest]) (*connect.Response[catalogv1.LookUpResponse], error) {
	c.calls.Add(1)
	switch {
	case c.down.Load():
		return nil, errCatalogDown
	case c.slow.Load():
		<-ctx.Done()
		return nil, ctx.Err()
	case c.short.Load():
		return connect.NewResponse(&catalogv1.LookUpResponse{}), nil
	}
	res, err := c.Catalog.LookUp(ctx, req)
	if held := c.held.Load(); held != nil {
		<-*held
	}
	if spoil := c.spoil.Load(); spoil != nil && err == nil {
		(*spoil)(res.Msg)
	}
	if d := time.Duration(c.takes.Load()); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return res, err
}

func (c *fakeCatalog) Follow(ctx context.Context, after string, got func(*catalogv1.ChangesResponse) error) error {
	return c.Catalog.Follow(ctx, after, func(r *catalogv1.ChangesResponse) error {
		err := got(r)
		c.follows.Add(1)
		return err
	})
}

// eventually polls until ok holds.
func eventually(t interface {
	Helper()
	Fatalf(string, ...any)
}, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(5 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

// MergeGuest joins two carts of the map as crdt does.
func (r *fakeRegion) MergeGuest(_ context.Context, guest, user string) (*regionv1.Outcome, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.editErr != nil || r.badOutcome != nil {
		return r.badOutcome, r.editErr
	}
	r.now++
	w := crdt.Writer{Replica: r.replica, At: crdt.TimestampAt(r.now), QuantityMax: 999}
	g := r.cart(guest)
	if _, merged := g.Fact(crdt.FactMerged, user); !merged {
		for range g.Facts(crdt.FactMerged) {
			return &regionv1.Outcome{Code: regionv1.Outcome_CODE_ALREADY_MERGED}, nil
		}
		g = g.Apply(g.SetFact(w, crdt.FactMerged, user, ""))
		r.put(guest, g)
	}
	if r.cart(user).IsErased() {
		return &regionv1.Outcome{Code: regionv1.Outcome_CODE_ERASED}, nil
	}
	m := crdt.State{Cart: r.cart(user)}.MergeGuest(w, crdt.Guest{ID: guest, State: crdt.Relabel(crdt.State{Cart: g}, guest)}, crdt.MergeMax)
	r.put(user, m.Cart)
	d := digestOf(user, m.Cart)
	out := &regionv1.Outcome{
		ItemCount: m.Cart.ItemCount(999), Context: m.Cart.Context.Encode(nil), Digest: d[:],
		Merged: &regionv1.MergedGuest{Items: uint32(m.Items), Conflicts: m.Conflicts.Encode(nil)},
	}
	return out, nil
}
