package main

import (
	"context"
	"strings"
	"testing"

	"connectrpc.com/connect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
)

func (r fakeRegion) page(h interface{ Get(string) string }, what string) *connect.Response[cartv1.Cart] {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = append(r.log, what+" "+h.Get("X-User-Id"))
	return connect.NewResponse(&cartv1.Cart{
		CartId: "cart:" + h.Get("X-User-Id"), SavedItems: []*cartv1.Item{{SkuId: "SKU-1", Quantity: 2, Attributes: map[string]string{"note": "hi"}}},
	})
}

func (r fakeRegion) SaveItem(_ context.Context, req *connect.Request[cartv1.SaveItemRequest]) (*connect.Response[cartv1.Cart], error) {
	return r.page(req.Header(), "save "+req.Msg.GetLine().GetSkuId()), nil
}

func (r fakeRegion) MoveItem(_ context.Context, req *connect.Request[cartv1.MoveItemRequest]) (*connect.Response[cartv1.Cart], error) {
	return r.page(req.Header(), "move "+req.Msg.GetLine().GetSkuId()), nil
}

func (r fakeRegion) Undo(_ context.Context, req *connect.Request[cartv1.UndoRequest]) (*connect.Response[cartv1.Cart], error) {
	return r.page(req.Header(), "undo"), nil
}

func (r fakeRegion) DescribeItem(_ context.Context, req *connect.Request[cartv1.DescribeItemRequest]) (*connect.Response[cartv1.ItemResponse], error) {
	r.page(req.Header(), "note "+req.Msg.GetAttributes()["note"])
	return connect.NewResponse(&cartv1.ItemResponse{Item: &cartv1.Item{SkuId: "SKU-1"}}), nil
}

func (r fakeRegion) ExportCart(_ context.Context, req *connect.Request[cartv1.ExportCartRequest]) (*connect.Response[cartv1.ExportCartResponse], error) {
	page := r.page(req.Header(), "export")
	return connect.NewResponse(&cartv1.ExportCartResponse{
		CartId: page.Msg.GetCartId(), Region: "us-east", Cart: page.Msg, Facts: []*cartv1.ExplainedFact{{Kind: "code", Id: "SPRING"}},
		Requests: []*cartv1.RememberedRequest{{OpId: "ab", AtMs: 1}},
	}), nil
}

// The first answer of an erasure has a region that is not reached.
func (r fakeRegion) EraseCart(_ context.Context, req *connect.Request[cartv1.EraseCartRequest]) (*connect.Response[cartv1.EraseCartResponse], error) {
	r.page(req.Header(), "erase")
	r.mu.Lock()
	defer r.mu.Unlock()
	n := strings.Count(strings.Join(r.log, " "), "erase")
	out := &cartv1.EraseCartResponse{CartId: "cart:ada", Complete: n > 1, Regions: []*cartv1.EraseReceipt{
		{Region: "us-east", Erased: true, ErasedAtMs: 1, LogIndex: 9}, {Region: "eu-west", Erased: n > 1},
	}}
	if n == 1 {
		out.Regions[1].Pending, out.Also = "the region was not reached", []string{"guest:g"}
	}
	return connect.NewResponse(out), nil
}

func TestLineCommands(t *testing.T) {
	f, addr := newFake(t)
	for _, c := range []struct{ args, want string }{
		{"save SKU-1", "note=hi"},
		{"move SKU-1", "SKU-1"},
		{"undo", "cart:ada"},
		{"note SKU-1 note=hello", "SKU-1"},
		{"export", "SPRING"},
		{"erase", "not reached"},
		{"erase --wait", "erased in all regions"},
	} {
		r := ctl(t, append(strings.Fields(c.args), "--user", "ada", "--addr", addr)...)
		if r.code != exitGood || !strings.Contains(r.stdout, c.want) {
			t.Errorf("%s: exit %d, %s %s", c.args, r.code, r.stdout, r.stderr)
		}
	}
	want := "save SKU-1 ada,move SKU-1 ada,undo ada,note hello ada,export ada,erase ada,erase ada"
	if got := strings.Join(f.log, ","); got != want {
		t.Errorf("calls %s", got)
	}
	for _, args := range []string{"save --user ada", "move", "undo", "erase --user ada --wait=7"} {
		if r := ctl(t, append(strings.Fields(args), "--addr", addr)...); r.code != exitUsage {
			t.Errorf("%s: exit %d", args, r.code)
		}
	}
}

func TestEraseWaitsForAllRegions(t *testing.T) {
	_, addr := newFake(t)
	r := ctl(t, "erase", "--user", "ada", "--wait", "--json", "--addr", addr)
	x := r.object(t)
	if r.code != exitGood || x["complete"] != true || at(t, x, "also", 0) != "guest:g" {
		t.Errorf("exit %d, %v", r.code, x)
	}
}
