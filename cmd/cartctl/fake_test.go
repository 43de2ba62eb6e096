package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/samecart/samecart/crdt"
	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	"github.com/samecart/samecart/proto/admin/v1/adminv1connect"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
	"github.com/samecart/samecart/region/store"
)

// fake is a small imitation of three regions for the tests of the commands: it
// answers as the API does, but has no log, no disk and no CRDT. Carts are maps
// that are joined by the maximum while a link is up.
type fake struct {
	mu      sync.Mutex
	names   []string
	address map[string]string
	regions map[string]map[string]map[string]uint32 // region, owner, SKU
	keys    map[string]*cartv1.ItemResponse
	prices  map[string]int64                 // by SKU
	whole   map[string]map[string]crdt.State // region, cart id: carts for backups, beside the others
	reborn  uint32                           // the regions' incarnation
	cut     map[[2]string]bool
	log     []string // faults
	busy    int      // how many adds are answered with 503 first
	stale   int      // how many reads are answered with a stale cart first
	adds    int      // that were applied
	drills  bool
	faulted chan struct{} // has room for some faults: one value each
}

// fakeRegion is the API of one region of a fake.
type fakeRegion struct {
	cartv1connect.UnimplementedCartServiceHandler
	adminv1connect.UnimplementedAdminServiceHandler

	*fake
	name string
}

// newFake starts three regions and returns them with the address of the first.
func newFake(t *testing.T) (*fake, string) {
	t.Helper()
	f := &fake{
		names: []string{"us-east", "eu-west", "ap-south"}, address: map[string]string{}, regions: map[string]map[string]map[string]uint32{},
		keys: map[string]*cartv1.ItemResponse{}, prices: map[string]int64{}, cut: map[[2]string]bool{}, drills: true, whole: map[string]map[string]crdt.State{}, reborn: 1, faulted: make(chan struct{}, 100),
	}
	for _, name := range f.names {
		r := fakeRegion{fake: f, name: name}
		mux := http.NewServeMux()
		mux.Handle(cartv1connect.NewCartServiceHandler(r))
		mux.Handle(adminv1connect.NewAdminServiceHandler(r))
		mux.HandleFunc("GET /api/v1/regions", func(w http.ResponseWriter, _ *http.Request) {
			var out struct {
				Regions []map[string]any `json:"regions"`
			}
			for _, n := range f.names {
				out.Regions = append(out.Regions, map[string]any{"region": n, "address": f.address[n], "ready": true})
			}
			_ = json.NewEncoder(w).Encode(out)
		})
		server := httptest.NewServer(mux)
		t.Cleanup(server.Close)
		f.regions[name] = map[string]map[string]uint32{}
		f.whole[name] = map[string]crdt.State{}
		f.address[name] = server.URL
	}
	return f, f.address["us-east"]
}

func apiError(code connect.Code, name, message string) error {
	err := connect.NewError(code, errors.New(message))
	detail, detailErr := connect.NewErrorDetail(&cartv1.ErrorDetail{Code: name})
	if detailErr != nil {
		return detailErr
	}
	err.AddDetail(detail)
	return err
}

func owner(h http.Header) (string, error) {
	if user := cmp.Or(h.Get("X-User-ID"), h.Get("X-Guest-Session")); user != "" {
		return user, nil
	}
	return "", apiError(connect.CodeUnauthenticated, "UNAUTHENTICATED", "the request names no shopper")
}

func (r fakeRegion) put(region, user, sku string, quantity uint32) {
	if r.regions[region][user] == nil {
		r.regions[region][user] = map[string]uint32{}
	}
	r.regions[region][user][sku] = max(r.regions[region][user][sku], quantity)
}

func (r fakeRegion) AddItem(_ context.Context, req *connect.Request[cartv1.AddItemRequest]) (*connect.Response[cartv1.ItemResponse], error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	user, err := owner(req.Header())
	if err != nil {
		return nil, err
	}
	key := user + " " + req.Header().Get("Idempotency-Key")
	if req.Header().Get("Idempotency-Key") == "" {
		return nil, apiError(connect.CodeInvalidArgument, "INVALID_HEADER", "this fake wants an Idempotency-Key")
	}
	if r.busy > 0 {
		r.busy--
		return nil, apiError(connect.CodeUnavailable, "NO_QUORUM", "no majority")
	}
	if done, ok := r.keys[key]; ok {
		resp := connect.NewResponse(done)
		resp.Header().Set("Idempotent-Replayed", "true")
		return resp, nil
	}
	sku, quantity := req.Msg.GetLine().GetSkuId(), req.Msg.GetQuantity()
	switch {
	case sku == "NOPE":
		return nil, apiError(connect.CodeFailedPrecondition, "UNKNOWN_SKU", `SKU "NOPE" is unknown`)
	case quantity+r.regions[r.name][user][sku] > 999:
		return nil, apiError(connect.CodeFailedPrecondition, "QUANTITY_TOO_LARGE", "at most 999")
	case req.Msg.GetPrice() != nil && !strings.Contains(req.Header().Get("X-Service-Scopes"), "price"):
		return nil, apiError(connect.CodePermissionDenied, "FORBIDDEN", "price needs the scope price")
	}
	r.adds++
	r.prices[sku] = max(r.prices[sku], cmp.Or(req.Msg.GetPrice().GetMinorUnits(), 2999))
	total := quantity + r.regions[r.name][user][sku]
	r.put(r.name, user, sku, total)
	for _, other := range r.names {
		if !r.cut[[2]string{min(r.name, other), max(r.name, other)}] {
			r.put(other, user, sku, total)
		}
	}
	out := &cartv1.ItemResponse{CartId: "cart:" + user, ItemCount: r.count(user), Item: r.item(sku, total)}
	r.keys[key] = out
	resp := connect.NewResponse(out)
	resp.Header().Set("Cart-Region", r.name)
	return resp, nil
}

func (r fakeRegion) item(sku string, quantity uint32) *cartv1.Item {
	return &cartv1.Item{
		SkuId: sku, Name: "Wireless Mouse", Quantity: quantity, SellerId: "seller-1", AddedAtMs: 1_700_000_000_123,
		PriceAtAdd: &cartv1.Money{Currency: "USD", MinorUnits: r.prices[sku]},
	}
}

func (r fakeRegion) count(user string) (n uint64) {
	for _, q := range r.regions[r.name][user] {
		n += uint64(q)
	}
	return n
}

func (r fakeRegion) SetQuantity(_ context.Context, req *connect.Request[cartv1.SetQuantityRequest]) (*connect.Response[cartv1.ItemResponse], error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	user, err := owner(req.Header())
	if err != nil {
		return nil, err
	}
	sku, quantity := req.Msg.GetLine().GetSkuId(), req.Msg.GetQuantity()
	if _, ok := r.regions[r.name][user][sku]; !ok && quantity > 0 {
		return nil, apiError(connect.CodeNotFound, "LINE_NOT_FOUND", fmt.Sprintf("the cart has no line %q", sku))
	}
	out := &cartv1.ItemResponse{CartId: "cart:" + user}
	for _, name := range r.names {
		delete(r.regions[name][user], sku)
		if quantity > 0 {
			r.put(name, user, sku, quantity)
			out.Item = r.item(sku, quantity)
		}
	}
	out.ItemCount = r.count(user)
	return connect.NewResponse(out), nil
}

func (r fakeRegion) RemoveItem(_ context.Context, req *connect.Request[cartv1.RemoveItemRequest]) (*connect.Response[cartv1.CountResponse], error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	user, err := owner(req.Header())
	if err != nil {
		return nil, err
	}
	for _, name := range r.names {
		delete(r.regions[name][user], req.Msg.GetLine().GetSkuId())
	}
	return connect.NewResponse(&cartv1.CountResponse{CartId: "cart:" + user, ItemCount: r.count(user)}), nil
}

func (r fakeRegion) ClearCart(_ context.Context, req *connect.Request[cartv1.ClearCartRequest]) (*connect.Response[cartv1.CountResponse], error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	user, err := owner(req.Header())
	if err != nil {
		return nil, err
	}
	for _, name := range r.names {
		delete(r.regions[name], user)
	}
	return connect.NewResponse(&cartv1.CountResponse{CartId: "cart:" + user}), nil
}

func (r fakeRegion) BatchEdit(ctx context.Context, req *connect.Request[cartv1.BatchEditRequest]) (*connect.Response[cartv1.BatchEditResponse], error) {
	for i, e := range req.Msg.GetEdits() {
		one := connect.NewRequest(e.GetAdd())
		maps.Copy(one.Header(), req.Header())
		one.Header().Set("Idempotency-Key", fmt.Sprint(req.Header().Get("Idempotency-Key"), i))
		if _, err := r.AddItem(ctx, one); err != nil {
			return nil, err
		}
	}
	return connect.NewResponse(&cartv1.BatchEditResponse{}), nil
}

func (r fakeRegion) GetCart(_ context.Context, req *connect.Request[cartv1.GetCartRequest]) (*connect.Response[cartv1.Cart], error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	user, err := owner(req.Header())
	if err != nil {
		return nil, err
	}
	out := &cartv1.Cart{CartId: "cart:" + user, ItemCount: r.count(user), Currency: "USD", Subtotal: &cartv1.Money{Currency: "USD", MinorUnits: 5998}}
	if r.stale > 0 {
		r.stale--
		out.Stale = true
	}
	lines := r.regions[r.name][user]
	for _, sku := range slices.Sorted(maps.Keys(lines)) {
		out.Items = append(out.Items, r.item(sku, lines[sku]))
	}
	resp := connect.NewResponse(out)
	resp.Header().Set("Cart-Region", r.name)
	return resp, nil
}

func (r fakeRegion) ExplainCart(_ context.Context, req *connect.Request[cartv1.ExplainCartRequest]) (*connect.Response[cartv1.ExplainCartResponse], error) {
	user, err := owner(req.Header())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&cartv1.ExplainCartResponse{
		CartId: "cart:" + user, Context: "us-east.1:1-4",
		Lines: []*cartv1.ExplainedLine{{SkuId: "SKU-456", SellerId: "seller-1", Fields: []*cartv1.ExplainedField{{
			Field: "quantity", Value: "2", Rule: "the largest", Writes: []*cartv1.ExplainedWrite{{Region: "us-east", Incarnation: 1, Seq: 4, Value: "2", Wins: true}},
		}}}},
	}), nil
}

func admitted(h http.Header) error {
	if h.Get("X-Service-Scopes") != "admin" {
		return apiError(connect.CodePermissionDenied, "FORBIDDEN", "this call needs the scope admin")
	}
	return nil
}

func (r fakeRegion) Regions(_ context.Context, req *connect.Request[adminv1.RegionsRequest]) (*connect.Response[adminv1.RegionsResponse], error) {
	if err := admitted(req.Header()); err != nil {
		return nil, err
	}
	out := &adminv1.RegionsResponse{Links: []*adminv1.LinkStatus{{A: "us-east", B: "eu-west", Cut: true}}}
	for _, name := range r.names {
		s := &adminv1.RegionStatus{Region: name, Address: r.address[name], Ready: true, Nodes: []*adminv1.NodeStatus{{Node: name + "/1", Alive: true}, {Node: name + "/2"}}}
		if name == r.name { // of the others a server knows less
			s.RegionId, s.Incarnation, s.Carts = uint32(slices.Index(r.names, name)+1), r.reborn, uint64(len(r.whole[name]))
		}
		for shard := range uint32(2) {
			status := &adminv1.ShardStatus{Shard: shard, Leader: name + "/1"}
			for i, other := range r.names {
				if other != name {
					status.Peers = append(status.Peers, &adminv1.PeerStatus{
						Region: other, LagMs: int64(10*i) + int64(shard), Connected: true, ProvenEqualAtMs: 1_700_000_000_000,
						LagP50Ms: 3, LagP99Ms: 40 + int64(shard), LagWorstMs: 50 + int64(shard), WorstCart: fmt.Sprintf("cart:slow-%d", shard),
						RowsWaiting: 7, Repairing: name == "ap-south", LastError: "connection refused",
					})
				}
			}
			s.Shards = append(s.Shards, status)
		}
		out.Regions = append(out.Regions, s)
	}
	return connect.NewResponse(out), nil
}

func (r fakeRegion) Repair(_ context.Context, req *connect.Request[adminv1.RepairRequest]) (*connect.Response[adminv1.RepairResponse], error) {
	if err := admitted(req.Header()); err != nil {
		return nil, err
	}
	if m := req.Msg; !slices.Contains(r.names, m.Region) || !slices.Contains(r.names, m.Peer) {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("region %q or %q is not known", m.Region, m.Peer))
	}
	return connect.NewResponse(&adminv1.RepairResponse{}), nil
}

func (r fakeRegion) Scan(_ context.Context, req *connect.Request[adminv1.ScanRequest], stream *connect.ServerStream[adminv1.ScanResponse]) error {
	if err := admitted(req.Header()); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	type cart struct {
		slot uint32
		user string
	}
	var all []cart
	for id := range r.whole[req.Msg.GetRegion()] {
		all = append(all, cart{wholeSlot(id), id})
	}
	for user := range r.regions[req.Msg.GetRegion()] {
		sum := sha256.Sum256([]byte(user))
		all = append(all, cart{uint32(sum[0]) * 4, user})
	}
	slices.SortFunc(all, func(a, b cart) int {
		return cmp.Or(cmp.Compare(a.slot, b.slot), cmp.Compare(a.user, b.user))
	})
	hi := cmp.Or(req.Msg.GetSlotHi(), 1024)
	for _, c := range all {
		if c.slot < req.Msg.GetSlotLo() || c.slot > hi { // hi too, as some servers might
			continue
		}
		if s, ok := r.whole[req.Msg.GetRegion()][c.user]; ok {
			digest := store.DigestOf(c.user, s.Cart.Encode(nil))
			if err := stream.Send(&adminv1.ScanResponse{Slot: c.slot, Carts: []*adminv1.ScannedCart{{CartId: c.user, Digest: digest[:]}}}); err != nil {
				return err
			}
			continue
		}
		lines := r.regions[req.Msg.GetRegion()][c.user]
		text := ""
		for _, sku := range slices.Sorted(maps.Keys(lines)) {
			text += fmt.Sprint(sku, lines[sku], " ")
		}
		digest := sha256.Sum256([]byte(text))
		if err := stream.Send(&adminv1.ScanResponse{Slot: c.slot, Carts: []*adminv1.ScannedCart{{CartId: "cart:" + c.user, Digest: digest[:16]}}}); err != nil {
			return err
		}
	}
	return nil
}

// wholeSlot is where a whole cart of the fake is.
func wholeSlot(id string) uint32 { return uint32(id[len(id)-1]) }

// own refuses what only a region's own server does.
func (r fakeRegion) own(h http.Header, region string) error {
	if region != r.name {
		return connect.NewError(connect.CodeNotFound, fmt.Errorf("ask for carts of %q at its own address", region))
	}
	return admitted(h)
}

func (r fakeRegion) Forgotten(_ context.Context, req *connect.Request[adminv1.ForgottenRequest]) (*connect.Response[adminv1.ForgottenResponse], error) {
	if err := r.own(req.Header(), req.Msg.GetRegion()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.ForgottenResponse{ForgottenBeforeMs: make([]int64, 1024)}), nil
}

func (r fakeRegion) Digests(_ context.Context, req *connect.Request[adminv1.DigestsRequest]) (*connect.Response[adminv1.DigestsResponse], error) {
	if err := r.own(req.Header(), req.Msg.GetRegion()); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var sums [1024][2]uint64
	for id, s := range r.whole[r.name] {
		d := store.DigestOf(id, s.Cart.Encode(nil))
		sums[wholeSlot(id)][0] += binary.BigEndian.Uint64(d[:8])
		sums[wholeSlot(id)][1] += binary.BigEndian.Uint64(d[8:])
	}
	out := &adminv1.DigestsResponse{}
	for _, s := range sums {
		out.Digests = append(out.Digests, binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, s[0]), s[1]))
	}
	return connect.NewResponse(out), nil
}

func (r fakeRegion) Export(_ context.Context, req *connect.Request[adminv1.ExportRequest], stream *connect.ServerStream[adminv1.ExportResponse]) error {
	if err := r.own(req.Header(), req.Msg.GetRegion()); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy > 0 {
		r.busy--
		return apiError(connect.CodeUnavailable, "NO_QUORUM", "no majority")
	}
	for _, id := range req.Msg.GetCartIds() {
		s, ok := r.whole[r.name][id]
		if !ok {
			continue
		}
		if err := stream.Send(&adminv1.ExportResponse{Carts: []*adminv1.WholeCart{{CartId: id, State: s.Encode(nil)}}}); err != nil {
			return err
		}
	}
	return nil
}

func (r fakeRegion) Import(_ context.Context, req *connect.Request[adminv1.ImportRequest]) (*connect.Response[adminv1.ImportResponse], error) {
	if err := r.own(req.Header(), req.Msg.GetRegion()); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range req.Msg.GetCarts() {
		s, err := crdt.DecodeState(c.GetState())
		if err != nil {
			return nil, connect.NewError(connect.CodeInvalidArgument, err)
		}
		if old, ok := r.whole[r.name][c.GetCartId()]; ok {
			s.Cart = crdt.Join(old.Cart, s.Cart)
		}
		r.whole[r.name][c.GetCartId()] = s
	}
	return connect.NewResponse(&adminv1.ImportResponse{}), nil
}

// fault enters a fault in the log, where the caller may make it; mu is held.
func (r fakeRegion) fault(h http.Header, what string) error {
	if err := admitted(h); err != nil {
		return err
	}
	if !r.drills {
		return apiError(connect.CodePermissionDenied, "FORBIDDEN", "this server was started without --drills")
	}
	r.log = append(r.log, what)
	r.faulted <- struct{}{}
	return nil
}

func (r fakeRegion) Link(_ context.Context, req *connect.Request[adminv1.LinkRequest]) (*connect.Response[adminv1.LinkResponse], error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, b := req.Msg.GetA(), req.Msg.GetB()
	if !slices.Contains(r.names, a) || !slices.Contains(r.names, b) {
		return nil, apiError(connect.CodeNotFound, "NOT_FOUND", fmt.Sprintf("there is no link %s %s", a, b))
	}
	if err := r.fault(req.Header(), fmt.Sprintf("%v %s %s %d", req.Msg.GetAction(), a, b, req.Msg.GetDelayMs())); err != nil {
		return nil, err
	}
	link := [2]string{min(a, b), max(a, b)}
	r.cut[link] = req.Msg.GetAction() == adminv1.LinkRequest_ACTION_CUT
	if req.Msg.GetAction() == adminv1.LinkRequest_ACTION_HEAL {
		for _, pair := range [][2]string{{a, b}, {b, a}} {
			for user, lines := range r.regions[pair[0]] {
				for sku, quantity := range lines {
					r.put(pair[1], user, sku, quantity)
				}
			}
		}
	}
	return connect.NewResponse(&adminv1.LinkResponse{}), nil
}

func (r fakeRegion) Node(_ context.Context, req *connect.Request[adminv1.NodeRequest]) (*connect.Response[adminv1.NodeResponse], error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.fault(req.Header(), fmt.Sprintf("%v %s", req.Msg.GetAction(), req.Msg.GetNode())); err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.NodeResponse{}), nil
}

func (r fakeRegion) Region(_ context.Context, req *connect.Request[adminv1.RegionRequest]) (*connect.Response[adminv1.RegionResponse], error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.fault(req.Header(), fmt.Sprintf("%v %s", req.Msg.GetAction(), req.Msg.GetRegion())); err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.RegionResponse{}), nil
}

// RedeemPromotion lets every code be used but GONE.
func (r fakeRegion) RedeemPromotion(_ context.Context, req *connect.Request[cartv1.RedeemPromotionRequest]) (*connect.Response[cartv1.RedeemPromotionResponse], error) {
	if _, err := owner(req.Header()); err != nil {
		return nil, err
	}
	if req.Header().Get("Idempotency-Key") == "" {
		return nil, apiError(connect.CodeInvalidArgument, "INVALID_HEADER", "this fake wants an Idempotency-Key")
	}
	if req.Msg.GetCode() == "GONE" {
		return nil, apiError(connect.CodeFailedPrecondition, "PROMOTION_EXHAUSTED", `all uses of code "GONE" are gone`)
	}
	return connect.NewResponse(&cartv1.RedeemPromotionResponse{Code: req.Msg.GetCode(), Redeemed: true, LeftHere: proto.Uint64(4)}), nil
}

func (r fakeRegion) SetLimit(_ context.Context, req *connect.Request[adminv1.SetLimitRequest]) (*connect.Response[adminv1.LimitResponse], error) {
	return connect.NewResponse(&adminv1.LimitResponse{Code: req.Msg.Code, Limit: req.Msg.Uses, PerCustomer: req.Msg.PerCustomer}), nil
}

func (r fakeRegion) Limit(_ context.Context, req *connect.Request[adminv1.LimitRequest]) (*connect.Response[adminv1.LimitResponse], error) {
	if req.Msg.Code == "NOPE" {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("code %s has no limit", req.Msg.Code))
	}
	return connect.NewResponse(&adminv1.LimitResponse{
		Code: req.Msg.Code, Limit: 100, Granted: 100, Used: 7,
		Holders: []*adminv1.LimitHolder{{RegionId: 1, Incarnation: 1, Rights: 93, Used: 7}},
	}), nil
}
