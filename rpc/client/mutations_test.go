package client

import (
	"context"
	"testing"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/rpc/causal"
)

// mutate answers a mutation that the fake cart makes no difference of.
func mutate[T any](r *fakeRegion, key string, msg func() *T) (*connect.Response[T], error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	cc, replayed := r.edit(key)
	res := fakeAnswer(r, msg(), cc)
	if replayed {
		res.Header().Set("Idempotent-Replayed", "true")
	}
	return res, nil
}

// SaveItem implements cartv1connect.CartServiceHandler.
func (r *fakeRegion) SaveItem(_ context.Context, req *connect.Request[cartv1.SaveItemRequest]) (*connect.Response[cartv1.Cart], error) {
	return mutate(r, req.Header().Get("Idempotency-Key"), func() *cartv1.Cart { return r.cart(req.Header()) })
}

// MoveItem implements cartv1connect.CartServiceHandler.
func (r *fakeRegion) MoveItem(_ context.Context, req *connect.Request[cartv1.MoveItemRequest]) (*connect.Response[cartv1.Cart], error) {
	return mutate(r, req.Header().Get("Idempotency-Key"), func() *cartv1.Cart { return r.cart(req.Header()) })
}

// Undo implements cartv1connect.CartServiceHandler.
func (r *fakeRegion) Undo(_ context.Context, req *connect.Request[cartv1.UndoRequest]) (*connect.Response[cartv1.Cart], error) {
	return mutate(r, req.Header().Get("Idempotency-Key"), func() *cartv1.Cart { return r.cart(req.Header()) })
}

// DescribeItem implements cartv1connect.CartServiceHandler.
func (r *fakeRegion) DescribeItem(_ context.Context, req *connect.Request[cartv1.DescribeItemRequest]) (*connect.Response[cartv1.ItemResponse], error) {
	return mutate(r, req.Header().Get("Idempotency-Key"), func() *cartv1.ItemResponse {
		return &cartv1.ItemResponse{CartId: fakeCartID, ItemCount: uint64(len(r.ops)), Stale: r.lacks(req.Header())}
	})
}

// MergeCart implements cartv1connect.CartServiceHandler.
func (r *fakeRegion) MergeCart(_ context.Context, req *connect.Request[cartv1.MergeCartRequest]) (*connect.Response[cartv1.MergeCartResponse], error) {
	return mutate(r, req.Header().Get("Idempotency-Key"), func() *cartv1.MergeCartResponse {
		return &cartv1.MergeCartResponse{CartId: fakeCartID, ItemCount: uint64(len(r.ops)), Stale: r.lacks(req.Header())}
	})
}

// CreateGuestSession implements cartv1connect.CartServiceHandler.
func (r *fakeRegion) CreateGuestSession(context.Context, *connect.Request[cartv1.CreateGuestSessionRequest]) (*connect.Response[cartv1.GuestSession], error) {
	return connect.NewResponse(&cartv1.GuestSession{GuestSessionId: "g-" + r.name, Token: "t"}), nil
}

// what is an answer without its message.
type what struct {
	region, opID    string
	attempts        int
	stale, replayed bool
}

func whatOf[T any](a Answer[T]) what { return what{a.Region, a.OpID, a.Attempts, a.Stale, a.Replayed} }

// Every mutation whose answer is lost goes to the next region under the same op id,
// counts once, and the session has seen it.
func TestMutationsAreRetriedUnderTheirOpID(t *testing.T) {
	line := &cartv1.LineRef{SkuId: "SKU-1"}
	for method, call := range map[string]func(context.Context, *Session) (what, error){
		"SaveItem": func(ctx context.Context, s *Session) (what, error) {
			a, err := s.Save(ctx, &cartv1.SaveItemRequest{Line: line})
			return whatOf(a), err
		},
		"MoveItem": func(ctx context.Context, s *Session) (what, error) {
			a, err := s.Move(ctx, &cartv1.MoveItemRequest{Line: line})
			return whatOf(a), err
		},
		"DescribeItem": func(ctx context.Context, s *Session) (what, error) {
			a, err := s.Describe(ctx, &cartv1.DescribeItemRequest{Line: line, Attributes: map[string]string{"note": "Hello"}})
			return whatOf(a), err
		},
		"Undo": func(ctx context.Context, s *Session) (what, error) {
			a, err := s.Undo(ctx)
			return whatOf(a), err
		},
		"MergeCart": func(ctx context.Context, s *Session) (what, error) {
			a, err := s.Merge(ctx, &cartv1.MergeCartRequest{GuestSessionId: "g"})
			return whatOf(a), err
		},
	} {
		t.Run(method, func(t *testing.T) {
			bubble(t, func(t *testing.T, g *rig) {
				g.us.set(func(r *fakeRegion) { r.broken = 1 })
				a, err := call(t.Context(), g.s)
				us, eu := g.us.calls(), g.eu.calls()
				if err != nil || a.region != "eu" || a.attempts != 2 || a.stale || a.replayed {
					t.Fatalf("%+v, %v", a, err)
				}
				if len(us) != 1 || len(eu) != 1 || us[0].method != method || eu[0].method != method {
					t.Fatalf("calls %+v and %+v", us, eu)
				}
				if a.opID == "" || us[0].opID != a.opID || eu[0].opID != a.opID {
					t.Errorf("op ids %q and %q, answered %q", us[0].opID, eu[0].opID, a.opID)
				}
				// The next call asks for what this one wrote.
				if g.get(); g.s.Token() == "" || g.eu.calls()[0].token != g.s.Token() {
					t.Error("what was written is not asked for")
				}
			})
		})
	}
}

// At a login the session asks for what the device has seen of the guest's cart, and
// from then on for what it has seen of the user's.
func TestLoginTakesTheGuestsTokenAlong(t *testing.T) {
	bubble(t, func(t *testing.T, g *rig) {
		made, err := g.NewGuest(t.Context())
		if err != nil || made.GetGuestSessionId() != "g-us" || made.GetToken() == "" {
			t.Fatalf("%v, %v", made, err)
		}
		var seen crdt.CausalContext
		seen = seen.With(crdt.Dot{Replica: crdt.Replica{Region: 9, Incarnation: 1}, Seq: 1})
		guests := causal.Token{CartID: "guest:g-us", Context: seen}.Encode()
		s := g.Session(User("u"))
		if err := s.Observe(guests); err != nil {
			t.Fatal(err)
		}
		g.us.calls()
		a, err := s.Merge(t.Context(), &cartv1.MergeCartRequest{GuestSessionId: made.GetGuestSessionId(), GuestToken: made.GetToken()})
		if err != nil {
			t.Fatal(err)
		}
		if got := g.us.calls(); len(got) != 1 || got[0].token != guests {
			t.Errorf("the merge came with %+v", got)
		}
		if token, err := causal.DecodeToken(s.Token()); err != nil || token.CartID != fakeCartID {
			t.Errorf("after %+v the session has seen %+v, %v", a, token, err)
		}
	})
}
