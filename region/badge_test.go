package region

import (
	"testing"
	"time"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/cache"
)

// A count is what a read says of the cart, from the leader, a follower, and what is no
// node.
func TestCountIsTheCarts(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 1, func(w *world) { w.cache = cache.NewMemory(8 << 20) })
	cart := w.cartIn(0, 0)
	gate := w.gateway()
	routers := map[string]*Router{"leader": w.leader(0).Router, "follower": w.follower(0).Router, "gateway": gate}
	same := func(o ReadOptions, want uint64) {
		t.Helper()
		for name, r := range routers {
			b, err := r.Count(soon(t), cart, o)
			v := mustRead(t, r, cart, o)
			if err != nil || b.Count != want || b.Digest != v.Digest || b.Stale || !b.Context.Equal(v.State.Cart.Context) {
				t.Errorf("%s counts %+v, %v; the cart is %v", name, b, err, quantities(v))
			}
		}
	}
	same(ReadOptions{}, 0)
	mustEdit(t, gate, addEdit(cart, "tea", 2))
	out := mustEdit(t, gate, addEdit(cart, "cup", 3))
	same(ReadOptions{}, 5)
	same(ReadOptions{Strong: true}, 5)
	token, err := crdt.DecodeContext(out.Context)
	if err != nil {
		t.Fatal(err)
	}
	same(ReadOptions{HasToken: true, Context: token}, 5)
	within(t, 5*time.Second, "the cache answers for the token alone", func() error {
		b, err := gate.Count(limited(t, time.Nanosecond), cart, ReadOptions{HasToken: true, Context: token})
		if err == nil && b.Count != 5 {
			t.Errorf("the cache counts %d", b.Count)
		}
		return err
	})
}

// What is kept of a cart beside its value, and that an erasure leaves none of it but
// its own request.
func TestKept(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 1)
	cart := w.cartIn(0, 0)
	gate := w.gateway()
	e := addEdit(cart, "tea", 2)
	e.OpId, e.Fingerprint = make([]byte, 16), 9
	e.OpId[0] = 7
	mustEdit(t, gate, e)
	mustEdit(t, gate, &regionv1.Edit{CartId: cart, Changes: []*regionv1.Change{{Kind: regionv1.Change_KIND_CLEAR}}})
	for name, r := range map[string]*Router{"follower": w.follower(0).Router, "gateway": gate} {
		k, err := r.Kept(soon(t), cart)
		if err != nil || len(k.Requests) != 2 || k.Requests[1].ID[0] != 7 || len(k.Removed.Lines) != 1 || k.Removed.Lines[0].Key.SKU != "tea" {
			t.Errorf("%s: kept %+v, %v", name, k, err)
		}
	}
	mustEdit(t, gate, &regionv1.Edit{CartId: cart, Changes: []*regionv1.Change{{Kind: regionv1.Change_KIND_ERASE}}})
	k, err := gate.Kept(soon(t), cart)
	if err != nil || len(k.Requests) != 1 || len(k.Removed.Lines) != 0 {
		t.Errorf("after the erasure: %+v, %v", k, err)
	}
	if b, err := gate.Count(soon(t), cart, ReadOptions{}); err != nil || !b.Erased || b.Count != 0 {
		t.Errorf("badge %+v, %v", b, err)
	}
}
