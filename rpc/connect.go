package rpc

import (
	"context"
	"log/slog"
	"net/http"
	"runtime/debug"

	"connectrpc.com/connect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

// cartServer is cart.v1.CartService over Connect, gRPC and gRPC-Web.
type cartServer struct{ s *service }

var _ cartv1connect.CartServiceHandler = cartServer{}

// answer wraps a message with the headers that every answer has.
func answer[T any](msg *T, m meta) *connect.Response[T] {
	res := connect.NewResponse(msg)
	m.write(res.Header())
	return res
}

func (h cartServer) one(ctx context.Context, header http.Header, e edit) (*applied, error) {
	c, err := newCall(ctx, header)
	if err != nil {
		return nil, err
	}
	return h.s.apply(ctx, c, []edit{e}, false)
}

// AddItem implements cartv1connect.CartServiceHandler.
func (h cartServer) AddItem(ctx context.Context, req *connect.Request[cartv1.AddItemRequest]) (*connect.Response[cartv1.ItemResponse], error) {
	a, err := h.one(ctx, req.Header(), addEdit(req.Msg))
	if err != nil {
		return nil, err
	}
	return answer(a.results[0], a.meta), nil
}

// SetQuantity implements cartv1connect.CartServiceHandler.
func (h cartServer) SetQuantity(ctx context.Context, req *connect.Request[cartv1.SetQuantityRequest]) (*connect.Response[cartv1.ItemResponse], error) {
	a, err := h.one(ctx, req.Header(), setEdit(req.Msg))
	if err != nil {
		return nil, err
	}
	return answer(a.results[0], a.meta), nil
}

// RemoveItem implements cartv1connect.CartServiceHandler.
func (h cartServer) RemoveItem(ctx context.Context, req *connect.Request[cartv1.RemoveItemRequest]) (*connect.Response[cartv1.CountResponse], error) {
	a, err := h.one(ctx, req.Header(), removeEdit(req.Msg))
	if err != nil {
		return nil, err
	}
	return answer(a.countResponse(), a.meta), nil
}

// ClearCart implements cartv1connect.CartServiceHandler.
func (h cartServer) ClearCart(ctx context.Context, req *connect.Request[cartv1.ClearCartRequest]) (*connect.Response[cartv1.CountResponse], error) {
	a, err := h.one(ctx, req.Header(), edit{kind: regionv1.Change_KIND_CLEAR})
	if err != nil {
		return nil, err
	}
	return answer(a.countResponse(), a.meta), nil
}

func (a *applied) countResponse() *cartv1.CountResponse {
	return &cartv1.CountResponse{CartId: a.cartID, ItemCount: a.count, Stale: a.stale}
}

// BatchEdit implements cartv1connect.CartServiceHandler.
func (h cartServer) BatchEdit(ctx context.Context, req *connect.Request[cartv1.BatchEditRequest]) (*connect.Response[cartv1.BatchEditResponse], error) {
	c, err := newCall(ctx, req.Header())
	if err != nil {
		return nil, err
	}
	if err := h.s.checkBatch(len(req.Msg.GetEdits())); err != nil {
		return nil, err
	}
	edits, err := editsOf(req.Msg.GetEdits())
	if err != nil {
		return nil, err
	}
	a, err := h.s.apply(ctx, c, edits, true)
	if err != nil {
		return nil, err
	}
	return answer(&cartv1.BatchEditResponse{CartId: a.cartID, ItemCount: a.count, Results: a.results, Stale: a.stale}, a.meta), nil
}

// checkBatch checks how many edits a batch has.
func (s *service) checkBatch(n int) error {
	switch {
	case n == 0:
		return fault(MissingField, "edits is missing or empty: send 1 to %d edits", s.cfg.BatchMax).with("field", "edits")
	case n > s.cfg.BatchMax:
		return fault(InvalidField, "edits has %d entries: send at most %d at once", n, s.cfg.BatchMax).with("field", "edits")
	}
	return nil
}

// GetCart implements cartv1connect.CartServiceHandler.
func (h cartServer) GetCart(ctx context.Context, req *connect.Request[cartv1.GetCartRequest]) (*connect.Response[cartv1.Cart], error) {
	if req.HTTPMethod() == http.MethodPost && wantsProto(req.Header()) { // GET says it in its query
		return reading(ctx, req.Header(), h.s.encodedCart)
	}
	return reading(ctx, req.Header(), h.s.cart)
}

// GetCount implements cartv1connect.CartServiceHandler.
func (h cartServer) GetCount(ctx context.Context, req *connect.Request[cartv1.GetCountRequest]) (*connect.Response[cartv1.CountResponse], error) {
	return reading(ctx, req.Header(), h.s.count)
}

// ExplainCart implements cartv1connect.CartServiceHandler.
func (h cartServer) ExplainCart(ctx context.Context, req *connect.Request[cartv1.ExplainCartRequest]) (*connect.Response[cartv1.ExplainCartResponse], error) {
	return reading(ctx, req.Header(), h.s.explain)
}

func reading[T any](ctx context.Context, header http.Header, read func(context.Context, call) (*T, meta, error)) (*connect.Response[T], error) {
	c, err := newCall(ctx, header)
	if err != nil {
		return nil, err
	}
	msg, m, err := read(ctx, c)
	if err != nil {
		return nil, err
	}
	return answer(msg, m), nil
}

// WatchCart implements cartv1connect.CartServiceHandler.
func (h cartServer) WatchCart(ctx context.Context, req *connect.Request[cartv1.WatchCartRequest], stream *connect.ServerStream[cartv1.WatchCartResponse]) error {
	if err := decodeFault(req.Msg); err != nil {
		return err
	}
	c, err := newCall(ctx, req.Header())
	if err != nil {
		return err
	}
	ctl, _ := ctx.Value(controllerKey{}).(*http.ResponseController) // every stream has one
	return h.s.watch(ctx, c, req.Msg.GetResume(), &messageStream{
		patient: patient{ctl, h.s.cfg.Patience}, stream: stream, binary: wantsProto(req.Header()),
	})
}

// controllerKey finds the http.ResponseController of a stream in its context.
type controllerKey struct{}

// translator is the one place where errors and panics of a Connect call turn
// into what its client sees.
type translator struct{ log *slog.Logger }

func (t translator) finish(ctx context.Context, err error, panicked any) error {
	if panicked != nil {
		if panicked == any(http.ErrAbortHandler) {
			panic(panicked)
		}
		err = panicError(ctx, t.log, panicked)
	}
	if err == nil {
		return nil
	}
	e := explainError(ctx, t.log, err)
	noteCode(ctx, e.Code)
	return e.connectError()
}

// WrapUnary implements connect.Interceptor.
func (t translator) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (res connect.AnyResponse, err error) {
		defer func() {
			if err = t.finish(ctx, err, recover()); err != nil {
				res = nil
			}
		}()
		if err := decodeFault(req.Any()); err != nil {
			return nil, err
		}
		return next(ctx, req)
	}
}

// WrapStreamingClient implements connect.Interceptor; there are no clients here.
func (t translator) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor.
func (t translator) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) (err error) {
		defer func() { err = t.finish(ctx, err, recover()) }()
		return next(ctx, conn)
	}
}

// panicError logs a panic with its stack, which goes nowhere else.
func panicError(ctx context.Context, log *slog.Logger, panicked any) error {
	log.LogAttrs(ctx, slog.LevelError, "call panicked", slog.Any("panic", panicked), slog.String("stack", string(debug.Stack())))
	return errPanicked
}
