package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
)

var errDial = connect.NewError(connect.CodeUnavailable, &net.OpError{Op: "dial", Err: errors.New("refused")})

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Verdict
	}{
		{nil, Acknowledged},
		{connect.NewError(connect.CodeFailedPrecondition, nil), Refused},
		{connect.NewError(connect.CodeInvalidArgument, nil), Refused},
		{connect.NewError(connect.CodeNotFound, nil), Refused},
		{connect.NewError(connect.CodeAborted, nil), Refused},
		{connect.NewError(connect.CodeUnavailable, nil), Again},
		{connect.NewError(connect.CodeDeadlineExceeded, nil), Again},
		{connect.NewError(connect.CodeResourceExhausted, nil), Again},
		{connect.NewError(connect.CodeInternal, nil), Again},
		{errors.New("unexpected EOF"), Again},
		{context.DeadlineExceeded, Again},
		{connect.NewError(connect.CodePermissionDenied, nil), Broken},
		{connect.NewError(connect.CodeUnauthenticated, nil), Broken},
		{connect.NewError(connect.CodeUnimplemented, nil), Broken},
	} {
		if got := Judge(c.err); got != c.want {
			t.Errorf("Judge(%v) = %v, want %v", c.err, got, c.want)
		}
	}
}

func TestDo(t *testing.T) {
	again := connect.NewError(connect.CodeUnavailable, errors.New("NO_QUORUM"))
	later := connect.NewError(connect.CodeResourceExhausted, nil)
	later.Meta().Set("Retry-After", "2")
	refused := connect.NewError(connect.CodeFailedPrecondition, nil)
	policy := Policy{Attempt: time.Second, Total: 10 * time.Second, Longest: 5 * time.Second}
	withDial := policy
	withDial.Dial = true
	for _, c := range []struct {
		name          string
		policy        Policy
		answers       []error // the last is repeated
		attempts      int     // 0: do not look
		want          error
		least, atMost time.Duration
	}{
		{"good at once", policy, []error{nil}, 1, nil, 0, 0},
		{"refused is final", policy, []error{refused, nil}, 1, refused, 0, 0},
		{"unknown is sent again", policy, []error{again, again, nil}, 3, nil, 5 * time.Millisecond, 30 * time.Millisecond},
		{"the server's wish is kept", policy, []error{later, nil}, 2, nil, 2 * time.Second, 2 * time.Second},
		{"the wait is bounded", policy, []error{again}, 0, again, 5 * time.Second, 10 * time.Second},
		{"nobody listens", policy, []error{errDial, nil}, 1, errDial, 0, 0},
		{"nobody listens yet", withDial, []error{errDial, nil}, 2, nil, time.Millisecond, 10 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun, attempts := time.Now(), 0
				err := Do(t.Context(), c.policy, func(context.Context) error {
					attempts++
					return c.answers[min(attempts, len(c.answers))-1]
				})
				took := time.Since(begun)
				if !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
					t.Errorf("err = %v, want %v", err, c.want)
				}
				if c.attempts > 0 && attempts != c.attempts {
					t.Errorf("%d attempts, want %d", attempts, c.attempts)
				}
				if took < c.least || took > c.atMost {
					t.Errorf("took %v, want %v to %v", took, c.least, c.atMost)
				}
			})
		})
	}
}

func TestDoBoundsEachAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempts := 0
		err := Do(t.Context(), Policy{Attempt: time.Second, Total: 10 * time.Second, Longest: time.Second}, func(ctx context.Context) error {
			if attempts++; attempts == 2 {
				return nil
			}
			<-ctx.Done() // a server that never answers
			return ctx.Err()
		})
		if err != nil || attempts != 2 {
			t.Fatalf("err %v after %d attempts, want success on the second", err, attempts)
		}
	})
}

func TestDoEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	attempts := 0
	err := Do(ctx, Policy{Attempt: time.Second, Total: time.Hour, Longest: time.Hour}, func(context.Context) error {
		attempts++
		cancel()
		return connect.NewError(connect.CodeUnavailable, nil)
	})
	if err == nil || attempts != 1 {
		t.Fatalf("err %v after %d attempts, want one attempt and its error", err, attempts)
	}
}

// cartHandler is a fake: it answers every add with what it was made with.
type cartHandler struct {
	cartv1connect.UnimplementedCartServiceHandler

	err error
}

func (h cartHandler) AddItem(_ context.Context, req *connect.Request[cartv1.AddItemRequest]) (*connect.Response[cartv1.ItemResponse], error) {
	if h.err != nil {
		return nil, h.err
	}
	return connect.NewResponse(&cartv1.ItemResponse{
		CartId: "cart:user-123", ItemCount: 5,
		Item: &cartv1.Item{SkuId: req.Msg.GetLine().GetSkuId(), Quantity: req.Msg.GetQuantity(), Name: "Wireless Mouse", PriceAtAdd: req.Msg.GetPrice()},
	}), nil
}

func serve(t testing.TB, h cartHandler) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(cartv1connect.NewCartServiceHandler(h))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

func TestDescribe(t *testing.T) {
	coded := connect.NewError(connect.CodeFailedPrecondition, errors.New(`SKU "X" is unknown`))
	detail, err := connect.NewErrorDetail(&cartv1.ErrorDetail{Code: "UNKNOWN_SKU", Details: map[string]string{"sku_id": "X"}})
	if err != nil {
		t.Fatal(err)
	}
	coded.AddDetail(detail)
	hc := NewHTTPClient(1)
	t.Cleanup(hc.CloseIdleConnections)
	client := NewCart(hc, serve(t, cartHandler{err: coded}))
	_, callErr := client.AddItem(t.Context(), connect.NewRequest(&cartv1.AddItemRequest{}))
	got := Describe(callErr)
	if got == nil || got.Code != "UNKNOWN_SKU" || got.Message != `SKU "X" is unknown` || got.Details["sku_id"] != "X" {
		t.Errorf("over the wire: %+v", got)
	}
	if got := Describe(connect.NewError(connect.CodeUnavailable, errors.New("gone"))); got.Code != "UNAVAILABLE" {
		t.Errorf("without a detail: %+v", got)
	}
	if got := Describe(errors.New("disk full")); got.Code != "CLIENT" || got.Message != "disk full" {
		t.Errorf("of no server: %+v", got)
	}
	if Describe(nil) != nil {
		t.Error("nil is described")
	}
}

func TestIdentityHeaders(t *testing.T) {
	h := http.Header{}
	Identity{User: "u", Guest: "g", Scopes: "price,admin", Bearer: "t"}.Apply(h)
	for name, want := range map[string]string{
		"X-User-ID": "u", "X-Guest-Session": "g", "X-Service-Scopes": "price,admin", "Authorization": "Bearer t",
	} {
		if got := h.Get(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	empty := http.Header{}
	Identity{}.Apply(empty)
	if len(empty) != 0 {
		t.Errorf("nobody sends %v", empty)
	}
}

func TestBaseURL(t *testing.T) {
	for in, want := range map[string]string{
		"127.0.0.1:8081":         "http://127.0.0.1:8081",
		"http://127.0.0.1:8081/": "http://127.0.0.1:8081",
		"https://cart.example":   "https://cart.example",
		"":                       "",
		"ftp://host":             "",
		"http://":                "",
		"http://a b":             "",
	} {
		got, err := BaseURL(in)
		if got != want || (want == "") != (err != nil) {
			t.Errorf("BaseURL(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestRegions(t *testing.T) {
	for _, c := range []struct {
		name, body string
		status     int
		code       string // of the error; empty: none
	}{
		{"good", `{"regions":[{"region":"us-east","address":"127.0.0.1:8081","ready":true}]}`, 200, ""},
		{"refused", `{"error":{"code":"UNAUTHENTICATED","message":"no"}}`, 401, "UNAUTHENTICATED"},
		{"no samecart", `<html>`, 404, "HTTP_404"},
		{"no JSON", `<html>`, 200, "CLIENT"},
		{"no address", `{"regions":[{"region":"us-east","address":""}]}`, 200, "CLIENT"},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/api/v1/regions" {
					t.Errorf("path %s", r.URL.Path)
				}
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
			}))
			defer server.Close()
			regions, err := Regions(t.Context(), server.Client(), server.URL, Identity{})
			if c.code != "" {
				if got := Describe(err); got == nil || got.Code != c.code {
					t.Fatalf("err = %v, want code %s", err, c.code)
				}
				return
			}
			if err != nil || len(regions) != 1 || regions[0] != (Region{"us-east", "http://127.0.0.1:8081"}) {
				t.Fatalf("got %v, %v", regions, err)
			}
			if _, err := Find(regions, "eu-west"); err == nil {
				t.Error("an unknown region was found")
			}
		})
	}
}

// BenchmarkCodec compares the two forms of Connect messages over HTTP/1.1.
func BenchmarkCodec(b *testing.B) {
	for name, opts := range map[string][]connect.ClientOption{"binary": nil, "json": {connect.WithProtoJSON()}} {
		b.Run(name, func(b *testing.B) {
			hc := NewHTTPClient(16)
			b.Cleanup(hc.CloseIdleConnections)
			client := NewCart(hc, serve(b, cartHandler{}), opts...)
			b.ReportAllocs()
			for b.Loop() {
				req := connect.NewRequest(&cartv1.AddItemRequest{
					Line: &cartv1.LineRef{SkuId: "85123A", SellerId: "retail"}, Quantity: 6,
					Price: &cartv1.Money{Currency: "GBP", MinorUnits: 255},
				})
				Identity{User: "replay-abc-536365", Scopes: "price"}.Apply(req.Header())
				req.Header().Set("Idempotency-Key", "replay-abc-536365-1")
				if _, err := client.AddItem(b.Context(), req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
