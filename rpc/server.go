package rpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
)

// Mount is a further handler served beside the API: metrics, the console,
// administration. It is authenticated here; its limits are its own, but for
// the size of bodies.
type Mount struct {
	// Pattern is one of http.ServeMux, such as "/metrics" or "/console/".
	Pattern string
	Handler http.Handler
	// Public lets everybody in. Else Scope is needed; without a scope nobody
	// is let in.
	Public bool
	Scope  string
	// BodyBytesMax bounds a request's body; 0: as Config.BodyBytesMax.
	BodyBytesMax int64
}

// Handler serves the whole public surface of a node: Connect, gRPC, gRPC-Web,
// REST, health, reflection and what was mounted.
type Handler struct {
	cfg       Config
	region    Region
	auth      Authenticator
	log       *slog.Logger
	service   *service
	rest      rest
	rpcs      map[string]*route // by procedure
	mounts    *http.ServeMux
	mounted   map[string]*route // by pattern
	calls     slots
	streams   slots
	rpcErrors *connect.ErrorWriter
	drain     context.CancelFunc
}

// route is one call and what it needs.
type route struct {
	name   string
	access access
	rpc    bool // answers errors as Connect does
	stream bool // no deadline; counts as a stream
	body   bool // a body is expected, and read before the call begins
	raw    bool // a mount: it has its own limits
	serve  func(w http.ResponseWriter, r *http.Request) error
}

// NewHandler returns the API of a region. It starts nothing.
func NewHandler(cfg Config, r Region, cat Catalog, auth Authenticator, log *slog.Logger, extra ...Mount) (*Handler, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("rpc config: %w", err)
	}
	known, err := newProducts(cfg, cat, log)
	if err != nil {
		return nil, err
	}
	codes, err := newPromotions(cfg, log)
	if err != nil {
		return nil, err
	}
	shown, err := newPages(cfg.PageBytes)
	if err != nil {
		return nil, err
	}
	estimated, err := newEstimates(cfg.Shipping, log)
	if err != nil {
		return nil, err
	}
	draining, drain := context.WithCancel(context.Background())
	s := &service{cfg: cfg, region: r, products: known, pages: shown, estimates: estimated, log: log, draining: draining, promotions: codes, shareAsks: make(slots, sharesAsked)}
	s.prover, _ = auth.(guestProver) // without one guests' sessions are taken on trust
	s.feeds = newFeeds(s)
	h := &Handler{
		cfg: cfg, region: r, auth: auth, log: log, service: s,
		rest: rest{s: s}, rpcs: map[string]*route{}, mounts: http.NewServeMux(), mounted: map[string]*route{},
		calls: make(slots, cfg.ConcurrencyMax), streams: make(slots, cfg.StreamsMax),
		rpcErrors: connect.NewErrorWriter(), drain: drain,
	}
	h.mountCart()
	h.mountHealth()
	for _, m := range extra {
		h.mount(m)
	}
	return h, nil
}

// mountCart adds every procedure of the cart service. Which are there is read
// from the schema, so none can be forgotten.
func (h *Handler) mountCart() {
	_, cart := cartv1connect.NewCartServiceHandler(cartServer{h.service},
		connect.WithInterceptors(translator{h.log}),
		connect.WithReadMaxBytes(int(h.cfg.BodyBytesMax)),
		connect.WithCodec(binaryCodec{}), connect.WithCodec(jsonCodec{}),
		connect.WithConditionalHandlerOptions(func(spec connect.Spec) []connect.HandlerOption {
			if spec.Procedure != cartv1connect.CartServiceWatchCartProcedure {
				return nil
			}
			return []connect.HandlerOption{connect.WithCompressMinBytes(math.MaxInt)} // each watcher's copy would be compressed again
		}),
	)
	methods := cartServiceMethods()
	for i := range methods.Len() {
		m := methods.Get(i)
		name := "/" + cartv1connect.CartServiceName + "/" + string(m.Name())
		h.rpcs[name] = &route{
			name: name, access: cartAccess(m.Name()), rpc: true, body: true, stream: m.IsStreamingServer(),
			serve: func(w http.ResponseWriter, r *http.Request) error {
				if m.IsStreamingServer() {
					r = r.WithContext(context.WithValue(r.Context(), controllerKey{}, http.NewResponseController(w)))
				}
				cart.ServeHTTP(w, r)
				return nil
			},
		}
	}
}

// cartAccess says who may call a method of the cart service: a shopper, on the
// own cart, where nothing else is said here.
func cartAccess(method protoreflect.Name) access {
	if a, ok := cartMethods[method]; ok {
		return a
	}
	return access{shopper: true}
}

// cartMethods are the methods of the cart service that not shoppers call, or not
// shoppers alone.
var cartMethods = map[protoreflect.Name]access{
	"CreateGuestSession": {public: true},
	"GetShared":          {public: true}, // the token is all that it needs
}

// mountHealth adds what load balancers and tools ask without credentials.
func (h *Handler) mountHealth() {
	h.mount(Mount{Pattern: "/healthz", Public: true, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte("ok\n")) //nolint:errcheck // the asker left
	})})
	h.mount(Mount{Pattern: "/readyz", Public: true, Handler: http.HandlerFunc(h.serveReady)})
	add := func(pattern string, handler http.Handler) {
		h.mount(Mount{Pattern: pattern, Public: true, Handler: handler})
	}
	add(grpchealth.NewHandler(healthChecker{h}))
	reflector := grpcreflect.NewStaticReflector(cartv1connect.CartServiceName, grpchealth.HealthV1ServiceName)
	add(grpcreflect.NewHandlerV1(reflector))
	add(grpcreflect.NewHandlerV1Alpha(reflector))
}

func (h *Handler) mount(m Mount) {
	bodyMax := cmp.Or(m.BodyBytesMax, h.cfg.BodyBytesMax)
	h.mounts.Handle(m.Pattern, m.Handler)
	h.mounted[m.Pattern] = &route{
		name: m.Pattern, access: access{public: m.Public, scope: m.Scope}, raw: true,
		serve: func(w http.ResponseWriter, r *http.Request) error {
			r.Body = http.MaxBytesReader(w, r.Body, bodyMax)
			m.Handler.ServeHTTP(w, r)
			return nil
		},
	}
}

func (h *Handler) serveReady(w http.ResponseWriter, r *http.Request) {
	if err := h.ready(r.Context()); err != nil {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, err) //nolint:errcheck // the asker left
		return
	}
	w.Write([]byte("ready\n")) //nolint:errcheck // the asker left
}

// ready says in public words whether this region serves writes.
func (h *Handler) ready(ctx context.Context) error {
	if h.service.draining.Err() != nil {
		return errors.New("not ready: this node is shutting down")
	}
	ctx, cancel := context.WithTimeout(ctx, h.cfg.RequestTimeout)
	defer cancel()
	if err := h.region.Ready(ctx); err != nil {
		h.log.LogAttrs(ctx, slog.LevelDebug, "not ready", slog.Any("err", err))
		for _, c := range causes {
			if errors.Is(err, c.err) {
				return fmt.Errorf("not ready: %s", c.message)
			}
		}
		return errors.New("not ready: the region does not serve writes yet")
	}
	return nil
}

type healthChecker struct{ h *Handler }

// Check implements grpchealth.Checker.
func (c healthChecker) Check(ctx context.Context, req *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	if req.Service != "" && req.Service != cartv1connect.CartServiceName {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("service %.100q is not served here", req.Service))
	}
	if c.h.ready(ctx) != nil {
		return &grpchealth.CheckResponse{Status: grpchealth.StatusNotServing}, nil
	}
	return &grpchealth.CheckResponse{Status: grpchealth.StatusServing}, nil
}

// Drain ends all streams and makes the node not ready, so that a shutdown
// need not wait for watchers. Calls go on. It may be called more than once.
func (h *Handler) Drain() { h.drain() }

// find returns the route of a request, or why there is none.
func (h *Handler) find(r *http.Request) (*route, *Error) {
	if path, ok := strings.CutPrefix(r.URL.EscapedPath(), restPrefix); ok {
		return h.rest.find(r.Method, path)
	}
	if rt, ok := h.rpcs[r.URL.Path]; ok {
		return rt, nil
	}
	if _, pattern := h.mounts.Handler(r); pattern != "" {
		if rt, ok := h.mounted[pattern]; ok {
			return rt, nil
		}
	}
	return nil, fault(NotFound, "there is nothing at %.200q", r.URL.Path)
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	note := &info{}
	rec := &recorder{ResponseWriter: w, note: note}
	r = r.WithContext(context.WithValue(r.Context(), infoKey{}, note))
	rt, missing := h.find(r)
	defer func() {
		panicked := recover()
		if panicked != nil && panicked != any(http.ErrAbortHandler) {
			h.fail(rec, r, rt, panicError(r.Context(), h.log, panicked))
			panicked = nil
		}
		h.report(r.Context(), rt, rec, note, start)
		if panicked != nil {
			panic(panicked) // net/http ends the connection; half an answer must not look whole
		}
	}()
	if missing != nil {
		h.fail(rec, r, rt, missing)
		return
	}
	if !rt.raw {
		header := rec.Header()
		header.Set("Cart-Region", h.cfg.Region)
		// No cache keeps the answer of a POST, and no browser sniffs one that a
		// client of ours decodes.
		if !rt.rpc || r.Method == http.MethodGet {
			header.Set("Cache-Control", "no-store")
			header.Set("X-Content-Type-Options", "nosniff")
		}
	}
	if err := h.serve(rec, r, rt); err != nil {
		h.fail(rec, r, rt, err)
	}
}

// serve lets a call through authentication and limits, in this order.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, rt *route) error {
	ctx := r.Context()
	if !rt.access.public {
		p, err := h.auth.Authenticate(ctx, r.Header)
		if err != nil {
			return err
		}
		if err := rt.access.admit(p); err != nil {
			return err
		}
		ctx = withPrincipal(ctx, p)
	}
	if rt.raw {
		return rt.serve(w, r.WithContext(ctx))
	}
	if rt.rpc && !h.rpcErrors.IsSupported(r) {
		return fault(UnsupportedMediaType, "%s with Content-Type %.100q is no call of Connect, gRPC or gRPC-Web", r.Method, r.Header.Get("Content-Type"))
	}
	if rt.body && r.Method != http.MethodGet {
		if err := readBody(w, r, h.cfg.BodyBytesMax, h.cfg.RequestTimeout); err != nil {
			return err
		}
	}
	limit := h.calls
	if rt.stream {
		limit = h.streams
		narrow(r)
	}
	if !limit.take() {
		return fault(Overloaded, "this node serves as many calls as it can: try again later")
	}
	defer limit.free()
	if !rt.stream {
		// A client may ask for less, never for more: Connect and gRPC
		// deadlines are derived from this context.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, h.patience(r))
		defer cancel()
	}
	return rt.serve(w, r.WithContext(ctx))
}

// patience is how long a call may take. REST takes Connect's header too: whoever
// passes a call on must be told something before they give it up.
func (h *Handler) patience(r *http.Request) time.Duration {
	if ms, err := strconv.ParseUint(r.Header.Get("Connect-Timeout-Ms"), 10, 31); err == nil {
		return min(h.cfg.RequestTimeout, time.Duration(ms)*time.Millisecond)
	}
	return h.cfg.RequestTimeout
}

// fail answers with an error in the form that the caller reads.
func (h *Handler) fail(w *recorder, r *http.Request, rt *route, err error) {
	e := explainError(r.Context(), h.log, err)
	noteCode(r.Context(), e.Code)
	if w.status != 0 {
		panic(http.ErrAbortHandler) // too late to say anything; at least it does not look complete
	}
	if rt != nil && rt.rpc || rt != nil && rt.raw && h.rpcErrors.IsSupported(r) && r.Method == http.MethodPost {
		h.rpcErrors.Write(w, r, e.connectError()) //nolint:errcheck // the caller left
		return
	}
	writeError(w, e)
}

func (h *Handler) report(ctx context.Context, rt *route, w *recorder, note *info, start time.Time) {
	c := Call{Procedure: "unknown", Code: note.code, Duration: time.Since(start)}
	if rt != nil {
		c.Procedure = rt.name
	}
	if c.Code == "" && w.status >= http.StatusBadRequest {
		// The library refused the call by itself, before our code ran.
		c.Code = InvalidField
		if w.status >= http.StatusInternalServerError {
			c.Code = Internal
		}
	}
	h.log.LogAttrs(ctx, slog.LevelDebug, "call",
		slog.String("procedure", c.Procedure), slog.String("code", string(c.Code)), slog.Duration("duration", c.Duration))
	if h.cfg.Events.Call != nil {
		h.cfg.Events.Call(c)
	}
}

// NewServer returns an http.Server for the API on HTTP/1.1 and HTTP/2, with
// and without TLS. Shutdown drains h's streams first. It starts nothing.
func NewServer(addr string, h http.Handler, log *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{
		Addr: addr, Handler: h, Protocols: protocols,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		// A watcher whose machine is gone must not hold its stream for ever.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 10 * time.Second, WriteByteTimeout: 30 * time.Second},
		// No ReadTimeout and no WriteTimeout: they would cut streams. Bodies
		// and the events of a stream have deadlines of their own.
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	if d, ok := h.(interface{ Drain() }); ok {
		s.RegisterOnShutdown(d.Drain)
	}
	return s
}
