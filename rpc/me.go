package rpc

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region"
)

// receiptsWait bounds how long an erasure waits for what other regions say of it: they
// hear of it within that time, unless they are cut off.
const receiptsWait = 1500 * time.Millisecond

// receiptsEvery is the time between two questions to a region.
const receiptsEvery = 100 * time.Millisecond

func errErased() *Error {
	return fault(Erased, "the cart was erased for good, as its shopper had asked: it can neither be read nor edited")
}

// erase erases the caller's cart and all that belongs to it. Asked again it erases
// nothing more, and tells how far the regions are.
func (s *service) erase(ctx context.Context, c call) (*cartv1.EraseCartResponse, meta, error) {
	v, err := s.region.Read(ctx, c.cartID, c.readOptions())
	if err != nil {
		return nil, meta{}, fmt.Errorf("read cart: %w", err)
	}
	if c.unmatched || c.ifMatch != nil && *c.ifMatch != v.Digest && !cartOf(v).IsErased() {
		return nil, meta{}, s.versionConflict(ctx, c) // and nothing that belongs to it is gone
	}
	out := &cartv1.EraseCartResponse{CartId: c.cartID}
	// What belongs to the cart goes first: once the cart is erased it does not name
	// it any more. Erased is more than emptied: what has not arrived here of a link's
	// cart, or a guest's, finds it erased.
	for _, id := range belongings(cartOf(v)) {
		other := c
		other.cartID, other.key, other.ifMatch, other.hasToken = id, "", nil, false
		if _, err := s.apply(ctx, other, []edit{{kind: regionv1.Change_KIND_ERASE}}, false); err != nil {
			return nil, meta{}, err
		}
		out.Also = append(out.Also, id)
	}
	a, err := s.apply(ctx, c, []edit{{kind: regionv1.Change_KIND_ERASE}}, false)
	if err != nil {
		return nil, meta{}, err
	}
	out.Regions = s.receipts(ctx, append(slices.Clone(out.Also), c.cartID), a)
	out.Complete = !slices.ContainsFunc(out.Regions, func(r *cartv1.EraseReceipt) bool { return !r.GetErased() })
	return out, a.meta, nil
}

// belongings are the carts that a cart names: of guests who were merged into it, and of
// links.
func belongings(c *crdt.Cart) (ids []string) {
	for id := range c.Facts(crdt.FactGuest) {
		ids = append(ids, id)
	}
	for id := range c.Facts(crdt.FactShare) {
		ids = append(ids, shareCart(id))
	}
	return ids
}

// receipts says of each region whether it has erased some carts, of which the last is
// the one that was asked for. A region that does not say so of each in time is pending.
func (s *service) receipts(ctx context.Context, carts []string, a *applied) []*cartv1.EraseReceipt {
	own := &cartv1.EraseReceipt{Region: s.cfg.Region, Erased: true, LogIndex: a.index}
	cartID := carts[len(carts)-1]
	if v, err := s.region.Read(ctx, cartID, region.ReadOptions{Context: a.context, HasToken: true}); err == nil {
		own.ErasedAtMs = erasedAt(cartOf(v))
	}
	out := []*cartv1.EraseReceipt{own}
	if s.cfg.Records == nil {
		return out
	}
	wait := receiptsWait
	if end, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(end)*3/4)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var all sync.WaitGroup
	for _, id := range slices.Sorted(maps.Keys(s.cfg.RegionNames)) {
		name := s.cfg.RegionNames[id]
		if name == s.cfg.Region {
			continue
		}
		r := &cartv1.EraseReceipt{Region: name}
		out = append(out, r)
		all.Go(func() { s.receipt(ctx, id, carts, r) })
	}
	all.Wait()
	return out
}

// receipt asks a region until it has erased the carts or ctx ends.
func (s *service) receipt(ctx context.Context, id crdt.RegionID, carts []string, r *cartv1.EraseReceipt) {
	r.Pending = "the region was not reached: it erases the cart when it is"
	for {
		b, err := s.cfg.Records.Elsewhere(ctx, id, carts[0])
		switch {
		case err != nil:
			s.log.LogAttrs(ctx, slog.LevelDebug, "receipt of an erasure", slog.String("region", r.GetRegion()), slog.Any("err", err))
		case len(b) == 0:
			r.Pending = "the region has not heard of it yet"
		default:
			state, err := crdt.DecodeState(b)
			if err == nil && state.Cart.IsErased() {
				if carts = carts[1:]; len(carts) > 0 {
					continue
				}
				r.Erased, r.ErasedAtMs, r.Pending = true, erasedAt(state.Cart), ""
				return
			}
			r.Pending = "the region has not heard of it yet"
		}
		t := time.NewTimer(receiptsEvery)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// erasedAt is when a cart was first erased.
func erasedAt(c *crdt.Cart) int64 {
	first := crdt.Timestamp(0)
	for _, e := range c.Lines {
		for _, w := range e.Line.Attributes {
			if first == 0 || w.Value.At < first {
				first = w.Value.At
			}
		}
	}
	return first.UnixMilli()
}

// export returns all that this region keeps of the caller.
func (s *service) export(ctx context.Context, c call) (*cartv1.ExportCartResponse, meta, error) {
	v, err := s.read(ctx, c)
	if err != nil {
		return nil, meta{}, err
	}
	cart := cartOf(v)
	out := &cartv1.ExportCartResponse{CartId: v.CartID, Region: s.cfg.Region, Cart: s.render(ctx, v), Context: cart.Context.String()}
	x := s.explainer(v)
	for _, e := range cart.Lines {
		if e.Key.IsFact() {
			if f := x.fact(e); f != nil {
				out.Facts = append(out.Facts, f)
			}
		}
	}
	m, missing := s.metaFor(c, v)
	out.Cart.Missing = missing
	kept := region.Kept{Requests: v.State.Ops}
	if s.cfg.Records != nil {
		if kept, err = s.cfg.Records.Kept(ctx, c.cartID); err != nil {
			return nil, meta{}, fmt.Errorf("read what is kept of a cart: %w", err)
		}
	}
	known := make(map[crdt.OpID]bool)
	for _, op := range kept.Requests {
		if !known[op.ID] { // a request has an entry for each dot
			known[op.ID] = true
			out.Requests = append(out.Requests, &cartv1.RememberedRequest{OpId: hex.EncodeToString(op.ID[:]), AtMs: op.At.UnixMilli()})
		}
	}
	if len(kept.Removed.Lines) > 0 {
		removed := v
		removed.State = crdt.State{Cart: &crdt.Cart{Lines: kept.Removed.Lines}}
		page := s.render(ctx, removed)
		out.RemovedItems = append(page.GetItems(), page.GetSavedItems()...)
		out.RemovedAtMs = kept.Removed.At.UnixMilli()
	}
	return out, m, nil
}

// ExportCart implements cartv1connect.CartServiceHandler.
func (h cartServer) ExportCart(ctx context.Context, req *connect.Request[cartv1.ExportCartRequest]) (*connect.Response[cartv1.ExportCartResponse], error) {
	return reading(ctx, req.Header(), h.s.export)
}

// EraseCart implements cartv1connect.CartServiceHandler.
func (h cartServer) EraseCart(ctx context.Context, req *connect.Request[cartv1.EraseCartRequest]) (*connect.Response[cartv1.EraseCartResponse], error) {
	return reading(ctx, req.Header(), h.s.erase)
}

type requestJSON struct {
	OpID string `json:"op_id"`
	At   string `json:"at"`
}

type exportJSON struct {
	CartID    string        `json:"cart_id"`
	Region    string        `json:"region"`
	Cart      cartJSON      `json:"cart"`
	Context   string        `json:"context"`
	Facts     []factJSON    `json:"facts"`
	Requests  []requestJSON `json:"requests"`
	Removed   []itemJSON    `json:"removed_items"`
	RemovedAt *string       `json:"removed_at"`
}

func (h rest) export(w http.ResponseWriter, r *request) error {
	c, err := newCall(r.Context(), r.Header)
	if err != nil {
		return err
	}
	x, m, err := h.s.export(r.Context(), c)
	if err != nil {
		return err
	}
	m.write(w.Header())
	out := exportJSON{
		CartID: x.GetCartId(), Region: x.GetRegion(), Cart: cartJSONOf(x.GetCart()), Context: x.GetContext(),
		Facts:    mapped(x.GetFacts(), factJSONOf),
		Requests: mapped(x.GetRequests(), func(r *cartv1.RememberedRequest) requestJSON { return requestJSON{r.GetOpId(), timeText(r.GetAtMs())} }),
		Removed:  mapped(x.GetRemovedItems(), itemJSONOf),
	}
	if x.GetRemovedAtMs() != 0 {
		out.RemovedAt = known(timeText(x.GetRemovedAtMs()))
	}
	return writeJSON(w, http.StatusOK, out)
}

type receiptJSON struct {
	Region   string  `json:"region"`
	Erased   bool    `json:"erased"`
	ErasedAt *string `json:"erased_at"`
	LogIndex uint64  `json:"log_index,omitempty"`
	Pending  string  `json:"pending,omitempty"`
}

type erasedJSON struct {
	CartID   string        `json:"cart_id"`
	Complete bool          `json:"complete"`
	Regions  []receiptJSON `json:"regions"`
	Also     []string      `json:"also,omitempty"`
}

func (h rest) erase(w http.ResponseWriter, r *request) error {
	c, err := newCall(r.Context(), r.Header)
	if err != nil {
		return err
	}
	x, m, err := h.s.erase(r.Context(), c)
	if err != nil {
		return err
	}
	m.write(w.Header())
	return writeJSON(w, http.StatusOK, erasedJSON{
		CartID: x.GetCartId(), Complete: x.GetComplete(), Also: x.GetAlso(),
		Regions: mapped(x.GetRegions(), func(r *cartv1.EraseReceipt) receiptJSON {
			out := receiptJSON{Region: r.GetRegion(), Erased: r.GetErased(), LogIndex: r.GetLogIndex(), Pending: r.GetPending()}
			if r.GetErasedAtMs() != 0 {
				out.ErasedAt = known(timeText(r.GetErasedAtMs()))
			}
			return out
		}),
	})
}
