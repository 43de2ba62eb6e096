package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
	"github.com/samecart/samecart/rpc/causal"
)

// fakeNet is an http.RoundTripper to fake regions, by host name. Time passes
// on it as the bubble's does.
type fakeNet struct {
	regions map[string]*fakeRegion
	order   []string
}

// fakeRegion is a region for tests: one cart, which holds one piece for each
// op id, and real tokens. It does what it is told to do wrong.
type fakeRegion struct {
	cartv1connect.UnimplementedCartServiceHandler

	net     *fakeNet
	name    string
	id      crdt.RegionID
	handler http.Handler

	mu      sync.Mutex // guards what follows
	unready bool       // what /readyz says
	rtt     time.Duration
	slow    time.Duration // more, for calls alone
	refused bool          // nothing listens
	silent  bool          // nothing is answered
	broken  int           // so many calls are carried out, and their connections lost
	err     *connect.Error
	old     bool // of an older build: it reads no token that is not of its form
	seq     uint64
	context crdt.CausalContext
	ops     map[string]crdt.CausalContext // what each op id was answered with
	changed chan struct{}
	streams map[context.Context]context.CancelCauseFunc
	seen    []fakeCall
}

// fakeCall is a call that came to a region.
type fakeCall struct {
	method, opID, token string
	at                  time.Time
	left                bool // the caller did not wait for the answer
}

var errReset = &net.OpError{Op: "read", Err: syscall.ECONNRESET}

// newFakeNet returns regions called us, eu, ap, each farther away.
func newFakeNet(rtts ...time.Duration) *fakeNet {
	n := &fakeNet{regions: map[string]*fakeRegion{}}
	for i, rtt := range rtts {
		r := &fakeRegion{
			net: n, name: []string{"us", "eu", "ap"}[i], id: crdt.RegionID(i + 1), rtt: rtt,
			ops: map[string]crdt.CausalContext{}, changed: make(chan struct{}), streams: map[context.Context]context.CancelCauseFunc{},
		}
		mux := http.NewServeMux()
		mux.Handle(cartv1connect.NewCartServiceHandler(r))
		mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
			if r.isUnready() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		})
		mux.HandleFunc("/api/v1/regions", func(w http.ResponseWriter, _ *http.Request) {
			var list []string
			for _, name := range n.order {
				list = append(list, fmt.Sprintf(`{"region":%q,"address":"http://%s","healthy":true}`, name, name))
			}
			fmt.Fprintf(w, `{"regions":[%s]}`, strings.Join(list, ",")) //nolint:errcheck // a recorder takes everything
		})
		r.handler = mux
		n.regions[r.name] = r
		n.order = append(n.order, r.name)
	}
	return n
}

func (r *fakeRegion) isUnready() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unready
}

func (r *fakeRegion) set(change func(*fakeRegion)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r)
}

// kill makes a region refuse connections, and cuts those there are.
func (r *fakeRegion) kill() {
	r.set(func(r *fakeRegion) {
		r.refused = true
		for _, cut := range r.streams {
			cut(errReset)
		}
	})
}

func (r *fakeRegion) start() { r.set(func(r *fakeRegion) { r.refused = false }) }

// calls returns the calls that came, and forgets them.
func (r *fakeRegion) calls() []fakeCall {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.seen
	r.seen = nil
	return out
}

// gossip brings all that from has to r.
func (r *fakeRegion) gossip(from *fakeRegion) {
	from.mu.Lock()
	context, ops := from.context, map[string]crdt.CausalContext{}
	for id, cc := range from.ops {
		ops[id] = cc
	}
	from.mu.Unlock()
	r.set(func(r *fakeRegion) {
		r.context = r.context.Join(context)
		for id := range ops {
			if _, ok := r.ops[id]; !ok {
				r.ops[id] = r.context
			}
		}
		r.wake()
	})
}

// RoundTrip implements http.RoundTripper.
func (n *fakeNet) RoundTrip(req *http.Request) (*http.Response, error) {
	r := n.regions[req.URL.Host]
	if r == nil {
		return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Name: req.URL.Host}}
	}
	r.mu.Lock()
	refused, silent, wait := r.refused, r.silent, r.rtt
	isCall := strings.HasPrefix(req.URL.Path, "/cart.v1.")
	if isCall {
		wait += r.slow
	}
	r.mu.Unlock()
	switch {
	case refused:
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	case silent:
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	if strings.HasSuffix(req.URL.Path, "/WatchCart") {
		return r.stream(req, wait)
	}
	call := fakeCall{method: req.URL.Path[strings.LastIndex(req.URL.Path, "/")+1:], opID: req.Header.Get("Idempotency-Key"), token: req.Header.Get("Cart-Token"), at: time.Now()}
	err := pause(req.Context(), wait)
	call.left = err != nil
	rec := httptest.NewRecorder()
	if err == nil {
		r.handler.ServeHTTP(rec, req)
	}
	if isCall {
		r.set(func(r *fakeRegion) {
			r.seen = append(r.seen, call)
			if r.broken > 0 && err == nil {
				r.broken--
				err = errReset
			}
			if r.refused && err == nil {
				err = errReset
			}
		})
	}
	if err != nil {
		return nil, err
	}
	return rec.Result(), nil
}

// stream serves a stream in a goroutine, which ends with the request.
func (r *fakeRegion) stream(req *http.Request, wait time.Duration) (*http.Response, error) {
	if err := pause(req.Context(), wait); err != nil {
		return nil, err
	}
	ctx, cut := context.WithCancelCause(req.Context())
	r.set(func(r *fakeRegion) {
		r.seen = append(r.seen, fakeCall{method: "WatchCart", token: req.Header.Get("Cart-Token"), at: time.Now()})
		r.streams[ctx] = cut
	})
	body, w := io.Pipe()
	out := &pipeWriter{header: http.Header{}, w: w, begun: make(chan struct{})}
	context.AfterFunc(ctx, func() { w.CloseWithError(context.Cause(ctx)) })
	go func() {
		r.handler.ServeHTTP(out, req.WithContext(ctx))
		out.begin()
		if err := context.Cause(ctx); err != nil {
			w.CloseWithError(err)
		} else {
			w.Close() //nolint:errcheck // a pipe's never fails
		}
		r.set(func(r *fakeRegion) { delete(r.streams, ctx) })
		cut(nil)
	}()
	select {
	case <-out.begun:
		return &http.Response{StatusCode: 200, Header: out.header, Body: body, Request: req}, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// pipeWriter is an http.ResponseWriter whose body is read while it is written.
type pipeWriter struct {
	header http.Header
	w      *io.PipeWriter
	once   sync.Once
	begun  chan struct{}
}

func (p *pipeWriter) begin() { p.once.Do(func() { close(p.begun) }) }

// Header implements http.ResponseWriter.
func (p *pipeWriter) Header() http.Header { return p.header }

// WriteHeader implements http.ResponseWriter.
func (p *pipeWriter) WriteHeader(int) { p.begin() }

// Write implements http.ResponseWriter.
func (p *pipeWriter) Write(b []byte) (int, error) { p.begin(); return p.w.Write(b) }

// Flush implements http.Flusher.
func (p *pipeWriter) Flush() { p.begin() }

// --- the fake cart ---

const fakeCartID = "cart:u"

// apiError is an error as the service sends it.
func apiError(code connect.Code, name string, retryAfter string) *connect.Error {
	e := connect.NewError(code, errors.New("told to"))
	d, err := connect.NewErrorDetail(&cartv1.ErrorDetail{Code: name})
	if err != nil {
		panic(err)
	}
	e.AddDetail(d)
	if retryAfter != "" {
		e.Meta().Set("Retry-After", retryAfter)
	}
	return e
}

// answer makes an answer's headers. It is called with mu held.
func fakeAnswer[T any](r *fakeRegion, msg *T, cc crdt.CausalContext) *connect.Response[T] {
	res := connect.NewResponse(msg)
	res.Header().Set("Cart-Region", r.name)
	res.Header().Set("Cart-Token", causal.Token{CartID: fakeCartID, Context: cc}.Encode())
	return res
}

// lacks reports whether the region lacks what a token names. It is called
// with mu held.
func (r *fakeRegion) lacks(h http.Header) bool {
	t, err := decodeToken(h.Get("Cart-Token"))
	return err == nil && !r.context.Covers(t.Context)
}

// refuses returns what a call is refused with. It is called with mu held.
func (r *fakeRegion) refuses(h http.Header) error {
	if r.err != nil {
		return r.err
	}
	if token := h.Get("Cart-Token"); r.old && token != "" {
		if _, err := decodeToken(token); err != nil {
			return apiError(connect.CodeInvalidArgument, "INVALID_TOKEN", "")
		}
	}
	return nil
}

// AddItem implements cartv1connect.CartServiceHandler.
func (r *fakeRegion) AddItem(_ context.Context, req *connect.Request[cartv1.AddItemRequest]) (*connect.Response[cartv1.ItemResponse], error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.refuses(req.Header()); err != nil {
		return nil, err
	}
	cc, replayed := r.edit(req.Header().Get("Idempotency-Key"))
	res := fakeAnswer(r, &cartv1.ItemResponse{CartId: fakeCartID, ItemCount: uint64(len(r.ops)), Stale: r.lacks(req.Header())}, cc)
	if replayed {
		res.Header().Set("Idempotent-Replayed", "true")
	}
	return res, nil
}

// edit puts one piece into the cart. It is called with mu held.
func (r *fakeRegion) edit(key string) (cc crdt.CausalContext, replayed bool) {
	if cc, ok := r.ops[key]; ok {
		return cc, true
	}
	r.seq++
	r.context = r.context.With(crdt.Dot{Replica: crdt.Replica{Region: r.id, Incarnation: 1}, Seq: r.seq})
	r.ops[key] = r.context
	r.wake()
	return r.context, false
}

// wake makes watches look. It is called with mu held.
func (r *fakeRegion) wake() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// cart is called with mu held.
func (r *fakeRegion) cart(h http.Header) *cartv1.Cart {
	return &cartv1.Cart{CartId: fakeCartID, ItemCount: uint64(len(r.ops)), Stale: r.lacks(h)}
}

// GetCart implements cartv1connect.CartServiceHandler.
func (r *fakeRegion) GetCart(_ context.Context, req *connect.Request[cartv1.GetCartRequest]) (*connect.Response[cartv1.Cart], error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.refuses(req.Header()); err != nil {
		return nil, err
	}
	return fakeAnswer(r, r.cart(req.Header()), r.context), nil
}

// WatchCart implements cartv1connect.CartServiceHandler.
func (r *fakeRegion) WatchCart(ctx context.Context, req *connect.Request[cartv1.WatchCartRequest], stream *connect.ServerStream[cartv1.WatchCartResponse]) error {
	stream.ResponseHeader().Set("Cart-Region", r.name)
	last := req.Msg.GetResume()
	for {
		r.mu.Lock()
		if err := r.refuses(req.Header()); err != nil {
			r.mu.Unlock()
			return err
		}
		changed := r.changed
		m := &cartv1.WatchCartResponse{Cart: r.cart(req.Header()), Resume: causal.Token{CartID: fakeCartID, Context: r.context}.Encode()}
		r.mu.Unlock()
		if m.GetResume() == last {
			m = nil // the headers alone
		} else {
			last = m.GetResume()
		}
		if err := stream.Send(m); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// --- a client before the fakes ---

// rig is a client of fake regions, and what it tells.
type rig struct {
	*Client

	t          *testing.T
	net        *fakeNet
	us, eu, ap *fakeRegion
	s          *Session

	mu     sync.Mutex
	events []string
}

func (g *rig) note(format string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.events = append(g.events, fmt.Sprintf(format, args...))
}

// told returns the events since the last time.
func (g *rig) told() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := strings.Join(g.events, "; ")
	g.events = nil
	return out
}

// newRig returns a client in a bubble, and has it run until it has chosen us.
func newRig(t *testing.T, change ...func(*Config)) *rig {
	t.Helper()
	g := &rig{t: t, net: newFakeNet(10*ms, 40*ms, 80*ms)}
	g.us, g.eu, g.ap = g.net.regions["us"], g.net.regions["eu"], g.net.regions["ap"]
	cfg := DefaultConfig()
	cfg.Transport, cfg.StreamTransport = g.net, g.net
	cfg.Events = Events{
		Moved:  func(m Moved) { g.note("%s→%s %s", m.From, m.To, m.Why) },
		Health: func(h Health) { g.note("%s healthy=%v", h.Region, h.Healthy) },
		Retried: func(r Retried) {
			var e *Error
			errors.As(r.Why, &e)
			g.note("retry %d %s→%s %s", r.Attempt, r.From, r.To, e.Code)
		},
		Hedged:    func(h Hedged) { g.note("hedge %s→%s after %v", h.From, h.To, h.After) },
		Won:       func(h Hedged) { g.note("won %s", h.To) },
		Exhausted: func(e Exhausted) { g.note("exhausted hedge=%v", e.Hedge) },
	}
	for _, f := range change {
		f(&cfg)
	}
	c, err := New("eu", cfg)
	if err != nil {
		t.Fatal(err)
	}
	g.Client = c
	g.s = c.Session(User("u"))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		c.Close()
	})
	time.Sleep(time.Second)
	if told := g.told(); told != "eu→us first choice" {
		t.Fatalf("told %q", told)
	}
	return g
}

func addOne() *cartv1.AddItemRequest {
	return &cartv1.AddItemRequest{Line: &cartv1.LineRef{SkuId: "SKU-1"}, Quantity: 1}
}

// add adds one piece, which must succeed.
func (g *rig) add(opts ...Option) Answer[cartv1.ItemResponse] {
	g.t.Helper()
	a, err := g.s.Add(g.t.Context(), addOne(), opts...)
	if err != nil {
		g.t.Fatal(err)
	}
	return a
}

func (g *rig) get() Answer[cartv1.Cart] {
	g.t.Helper()
	a, err := g.s.Get(g.t.Context())
	if err != nil {
		g.t.Fatal(err)
	}
	return a
}
