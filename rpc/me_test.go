package rpc_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/rpc"
)

// records are what other regions have, and what is kept.
type records struct {
	carts map[crdt.RegionID]*crdt.Cart // nil: the region is not reached
	older map[string]*crdt.Cart        // of these carts, instead
	kept  region.Kept

	region *fakeRegion
}

func (e records) Elsewhere(_ context.Context, other crdt.RegionID, id string) ([]byte, error) {
	c, ok := e.carts[other]
	if old, behind := e.older[id]; behind {
		c = old
	}
	switch {
	case !ok:
		return nil, nil
	case c == nil:
		return nil, errors.New("cut off from 10.0.0.7")
	}
	return crdt.State{Cart: c}.Encode(nil), nil
}

func (e records) Kept(context.Context, string) (region.Kept, error) { return e.kept, nil }

func (e records) Count(ctx context.Context, id string, o region.ReadOptions) (region.Badge, error) {
	v, err := e.region.Read(ctx, id, o)
	c := v.State.Cart
	return region.Badge{CartID: id, Count: c.ItemCount(999), Erased: c.IsErased(), Context: c.Context, Digest: v.Digest, Stale: v.Stale}, err
}

func withRecords(e records) func(*world) {
	return func(w *world) {
		w.cfg.RegionNames = map[crdt.RegionID]string{1: "us-east", 2: "eu-west", 3: "ap-south"}
		e.region = w.region
		w.cfg.Records = e
	}
}

func TestEraseAnswersWithReceipts(t *testing.T) {
	there := crdt.Writer{Replica: crdt.Replica{Region: 2, Incarnation: 1}, At: crdt.TimestampAt(1_700_000_000_000)}
	gone := &crdt.Cart{}
	gone = gone.Apply(gone.Erase(there))
	w := start(t, withRecords(records{carts: map[crdt.RegionID]*crdt.Cart{2: gone, 3: nil}}))
	w.add("SKU-456", "2")
	own := &crdt.Cart{}
	own = own.Apply(own.SetFact(there, crdt.FactGuest, "guest:session-1", ""))
	own = own.Apply(own.SetFact(there, crdt.FactShare, "link-1", ""))
	w.region.join("cart:user-123", own)
	r := w.do("DELETE", "/api/v1/me", "", "Connect-Timeout-Ms", "300")
	x := r.json(t)
	if r.status != 200 || x["cart_id"] != "cart:user-123" || x["complete"] != false {
		t.Fatalf("%d %s", r.status, r.body)
	}
	regions := x["regions"].([]any)
	if len(regions) != 3 {
		t.Fatalf("receipts %s", r.body)
	}
	for i, want := range []struct {
		region string
		erased bool
	}{{"us-east", true}, {"eu-west", true}, {"ap-south", false}} {
		got := regions[i].(map[string]any)
		_, pending := got["pending"]
		if got["region"] != want.region || got["erased"] != want.erased || pending == want.erased || (got["erased_at"] == nil) == want.erased {
			t.Errorf("receipt %v", got)
		}
	}
	if strings.Contains(r.body, "10.0.0.7") {
		t.Errorf("the inside was told: %s", r.body)
	}
	for _, id := range []string{"guest:session-1", "share:link-1"} {
		w.region.mu.Lock()
		erased := w.region.cart(id).IsErased()
		w.region.mu.Unlock()
		if !erased || !strings.Contains(r.body, id) {
			t.Errorf("%s was not erased: %s", id, r.body)
		}
	}
	for _, c := range everyCall() {
		if strings.HasSuffix(c[1], "/regions") || c[1] == "/api/v1/me" || strings.HasSuffix(c[1], "EraseCart") {
			continue
		}
		r := w.do(c[0], c[1], c[2])
		says := func(code string) bool { return strings.Contains(r.body, code) }
		// What is wrong with a call itself may be said first.
		other := slices.ContainsFunc([]string{"MISSING_FIELD", "PROMOTION_UNKNOWN", "SHARE_NOT_FOUND"}, says) || strings.HasSuffix(c[1], "WatchCart")
		if !says("ERASED") && !other || says("ERASED") && strings.HasPrefix(c[1], "/api/") && r.status != 410 {
			t.Errorf("%s %s of an erased cart: %d %s", c[0], c[1], r.status, r.body)
		}
	}
	if r := w.do("DELETE", "/api/v1/me", "", "Connect-Timeout-Ms", "300"); r.status != 200 || strings.Contains(r.body, "also") {
		t.Errorf("again: %d %s", r.status, r.body)
	}
	// Another shopper is none the worse.
	if r := w.do("GET", "/api/v1/cart", "", "X-User-Id", "user-9"); r.status != 200 {
		t.Errorf("another cart: %d %s", r.status, r.body)
	}
}

// A region has erased a cart when it has erased what belongs to it as well; and an
// erasure that If-Match refuses erases none of that either.
func TestEraseOfWhatBelongsToACart(t *testing.T) {
	there := crdt.Writer{Replica: crdt.Replica{Region: 2, Incarnation: 1}, At: crdt.TimestampAt(1_700_000_000_000)}
	gone := &crdt.Cart{}
	gone = gone.Apply(gone.Erase(there))
	everywhere := map[crdt.RegionID]*crdt.Cart{2: gone, 3: gone}
	for name, c := range map[string]struct {
		older    map[string]*crdt.Cart
		complete bool
	}{
		"all":  {nil, true},
		"link": {map[string]*crdt.Cart{"share:link-1": {}}, false},
		"cart": {map[string]*crdt.Cart{"cart:user-123": {}}, false},
	} {
		w := start(t, withRecords(records{carts: everywhere, older: c.older}))
		w.add("SKU-456", "2")
		own := &crdt.Cart{}
		w.region.join("cart:user-123", own.Apply(own.SetFact(there, crdt.FactShare, "link-1", "")))
		snapshot := own.Apply(own.SetFact(there, crdt.FactShare, "link-1", ""))
		snapshot = snapshot.Apply(snapshot.Add(there, crdt.LineKey{Seller: "seller-1", SKU: "SKU-456"}, 2, crdt.Offer{Price: 1, Currency: "USD"}, false))
		w.region.join("share:link-1", snapshot)
		link := func() *crdt.Cart {
			w.region.mu.Lock()
			defer w.region.mu.Unlock()
			return w.region.cart("share:link-1")
		}
		if r := w.do("DELETE", "/api/v1/me", "", "If-Match", `"0123456789abcdef0123456789abcdef"`); r.status != 409 || link().IsErased() {
			t.Errorf("%s: If-Match: %d %s", name, r.status, r.body)
		}
		r := w.do("DELETE", "/api/v1/me", "", "Connect-Timeout-Ms", "300")
		if r.status != 200 || r.json(t)["complete"] != c.complete {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
		if !link().IsErased() || len(link().Lines) != 1 {
			t.Errorf("%s: left of the link's cart: %v", name, link())
		}
	}
}

func TestEraseOverConnect(t *testing.T) {
	w := start(t)
	w.add("SKU-456", "2")
	req := connect.NewRequest(&cartv1.EraseCartRequest{})
	req.Header().Set("X-User-Id", "user-123")
	a, err := w.client().EraseCart(t.Context(), req)
	if err != nil || !a.Msg.GetComplete() || len(a.Msg.GetRegions()) != 1 || a.Msg.GetRegions()[0].GetLogIndex() != 7 {
		t.Fatalf("%v, %v", a, err)
	}
	add := connect.NewRequest(&cartv1.AddItemRequest{Line: &cartv1.LineRef{SkuId: "SKU-1"}, Quantity: 1})
	add.Header().Set("X-User-Id", "user-123")
	if _, err := w.client().AddItem(t.Context(), add); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("add to an erased cart: %v", err)
	}
}

func TestExport(t *testing.T) {
	removed := &crdt.Cart{}
	at := crdt.TimestampAt(1_700_000_000_000)
	wr := crdt.Writer{Replica: crdt.Replica{Region: 1, Incarnation: 1}, At: at}
	removed = removed.Apply(removed.Add(wr, crdt.LineKey{Seller: "seller-1", SKU: "SKU-9"}, 3, crdt.Offer{Price: 1, Currency: "USD", AddedAt: at}, false))
	op := crdt.Op{ID: crdt.OpID{0xab}, At: at}
	w := start(t, withRecords(records{kept: region.Kept{Requests: []crdt.Op{op, op}, Removed: crdt.Removed{At: at, Lines: removed.Lines}}}))
	w.add("SKU-456", "2")
	w.do("POST", cartItems+"/SKU-456/save", "")
	w.add("SKU-1", "1")
	r := w.do("GET", "/api/v1/me/export", "")
	x := r.json(t)
	if r.status != 200 || x["cart_id"] != "cart:user-123" || x["region"] != "us-east" || x["context"] == "" {
		t.Fatalf("%d %s", r.status, r.body)
	}
	cart := x["cart"].(map[string]any)
	if len(cart["items"].([]any)) != 1 || len(cart["saved_items"].([]any)) != 1 {
		t.Errorf("cart %v", cart)
	}
	if q := x["requests"].([]any); len(q) != 1 || !strings.HasPrefix(q[0].(map[string]any)["op_id"].(string), "ab00") {
		t.Errorf("requests %v", q)
	}
	if got := skus(t, r, "removed_items"); got != "SKU-9" || x["removed_at"] != "2023-11-14T22:13:20.000Z" {
		t.Errorf("removed %q, %v", got, x["removed_at"])
	}
}

var _ rpc.Records = records{}

// A count says the same whether the region has badges or not, headers included.
func TestCountOfABadge(t *testing.T) {
	w := start(t, withRecords(records{}))
	w.add("SKU-456", "2")
	w.add("SKU-1", "3")
	w.do("POST", cartItems+"/SKU-1/save", "")
	r, cart := w.do("GET", "/api/v1/cart/count", ""), w.do("GET", "/api/v1/cart", "")
	if r.body != `{"item_count":2}`+"\n" {
		t.Errorf("count %s", r.body)
	}
	for _, name := range []string{"Cart-Token", "ETag", "Cart-Region"} {
		if r.header.Get(name) == "" || r.header.Get(name) != cart.header.Get(name) {
			t.Errorf("%s is %q, the cart's %q", name, r.header.Get(name), cart.header.Get(name))
		}
	}
}
