package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/descriptorpb"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
)

// ForwardedHeader names, in a call that a Forwarder passed on, the region that
// did. Such a call is passed on by nobody else.
const ForwardedHeader = "Cart-Forwarded-By"

// errorHeader names an answer's code, in whatever protocol the answer is.
const errorHeader = "Cart-Error"

const (
	// forwardBytesMax bounds the body of a call that can be passed on. Regions
	// take no larger one, so the home region is left to refuse it.
	forwardBytesMax = 64 << 10
	// streamOpening is how long a watch may send nothing: more than the time
	// between two signs of life.
	streamOpening = 20 * time.Second
	// forwardsMax bounds the calls that are under way, watches included.
	forwardsMax = 16 << 10
	// bodyPatience is how long a caller may take to send a body.
	bodyPatience = 2 * time.Second
)

// Home is the region that a Forwarder stands before.
type Home struct {
	Region  string
	Handler http.Handler                // its API
	Ready   func(context.Context) error // nil: it serves writes
}

// Forwarder serves the API of its home region, and passes calls of the cart on
// to the nearest other region that is healthy while home does not serve. It
// chooses as a Client does, but that home, once it has been healthy for
// ReturnAfter, always goes before the others.
//
// A call is sent again where the answer says that nothing was done; after any
// other failure only if it is a read or has an Idempotency-Key. Headers go
// along, so the other region sees the caller's identity and Cart-Token, and
// says in Cart-Region who it is. What is no call of the cart, such as /readyz,
// is always answered by home.
type Forwarder struct {
	guide

	homeRegion Home
	proxies    map[string]*httputil.ReverseProxy // by address
	calls      map[string]forwardable            // procedures
	slots      chan struct{}
}

// forwardable is what a Forwarder knows of a call.
type forwardable struct {
	read   bool
	stream bool
}

// NewForwarder returns a Forwarder to other regions, whose addresses are given
// by name. Of cfg, AttemptsMax is not used: no region is asked twice. It starts
// nothing: until Run has found out more, calls go home first.
func NewForwarder(home Home, others map[string]string, cfg Config) (*Forwarder, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("forwarder config: %w", err)
	}
	cfg = cfg.withTransports()
	cfg.AttemptsMax = 1 + len(others)
	const here = "home"
	f := &Forwarder{guide: newGuide(cfg, here), homeRegion: home, proxies: make(map[string]*httputil.ReverseProxy), calls: procedures(), slots: make(chan struct{}, forwardsMax)}
	f.home, f.regions.home = home.Ready, here
	list := []listing{{name: home.Region, address: here, healthy: true}}
	for name, address := range others {
		base, err := baseURL(address)
		if err != nil {
			return nil, fmt.Errorf("region %s: %w", name, err)
		}
		target, err := url.Parse(base)
		if err != nil {
			return nil, fmt.Errorf("region %s: %w", name, err)
		}
		f.proxies[base] = f.proxy(target)
		list = append(list, listing{name: name, address: base, healthy: true})
	}
	f.regions.learn(time.Now(), list)
	return f, nil
}

// procedures reads from the schema which calls there are, so none is forgotten.
func procedures() map[string]forwardable {
	out := make(map[string]forwardable)
	methods := cartv1.File_cart_v1_cart_proto.Services().ByName("CartService").Methods()
	for i := range methods.Len() {
		m := methods.Get(i)
		o, _ := m.Options().(*descriptorpb.MethodOptions)
		out["/"+cartv1connect.CartServiceName+"/"+string(m.Name())] = forwardable{
			read:   m.IsStreamingServer() || o.GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS,
			stream: m.IsStreamingServer(),
		}
	}
	return out
}

// proxy passes attempts on to one region.
func (f *Forwarder) proxy(target *url.URL) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Header["X-Forwarded-For"] = r.In.Header["X-Forwarded-For"]
			r.SetXForwarded()
			r.Out.Header.Set(ForwardedHeader, f.homeRegion.Region)
		},
		Transport:     byProtocol{f.cfg},
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0), // events tell
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			if h, ok := w.(*held); ok {
				h.err = err
			}
		},
	}
}

// byProtocol sends what needs HTTP/2 over it, and the rest over HTTP/1.1.
type byProtocol struct{ cfg Config }

// RoundTrip implements http.RoundTripper.
func (t byProtocol) RoundTrip(r *http.Request) (*http.Response, error) {
	if isStream, _ := r.Context().Value(streamKey{}).(bool); isStream || strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		return t.cfg.StreamTransport.RoundTrip(r)
	}
	return t.cfg.Transport.RoundTrip(r)
}

type streamKey struct{}

// Run measures the regions until ctx ends; then it returns nil. It returns an
// error when it runs already.
func (f *Forwarder) Run(ctx context.Context) error {
	if !f.running.TryLock() {
		return errRunning
	}
	defer f.running.Unlock()
	f.learn(ctx)
	f.unary.CloseIdleConnections()
	(&http.Client{Transport: f.cfg.StreamTransport}).CloseIdleConnections()
	return nil
}

// Status returns what the Forwarder knows now; the address of home is "home".
func (f *Forwarder) Status() Status { return f.status() }

// Drain passes a server's shutdown on to the home region's handler.
func (f *Forwarder) Drain() {
	if d, ok := f.homeRegion.Handler.(interface{ Drain() }); ok {
		d.Drain()
	}
}

// find returns what is known of a request; ok is false when it stays at home.
func (f *Forwarder) find(r *http.Request) (c forwardable, ok bool) {
	if r.Header.Get(ForwardedHeader) != "" {
		return c, false
	}
	c, ok = f.calls[r.URL.Path]
	if path, isREST := strings.CutPrefix(r.URL.Path, "/api/v1/"); isREST && path != "regions" {
		c, ok = forwardable{read: r.Method == http.MethodGet || r.Method == http.MethodHead, stream: path == "cart/watch"}, true
	}
	return c, ok
}

// ServeHTTP implements http.Handler.
func (f *Forwarder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, ok := f.find(r)
	if !ok {
		f.homeRegion.Handler.ServeHTTP(w, r)
		return
	}
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	default:
		f.homeRegion.Handler.ServeHTTP(w, r) // which has bounds of its own
		return
	}
	body, whole := readWhole(w, r)
	if !whole {
		f.homeRegion.Handler.ServeHTTP(w, r) // which says what is wrong with it
		return
	}
	f.forward(w, r, c, body)
}

// procedureOf names a call in events. The path of a shared cart has its token,
// which nobody but its holder is to see.
func procedureOf(r *http.Request) string {
	if rest, ok := strings.CutPrefix(r.URL.Path, "/api/v1/shared/"); ok {
		_, what, _ := strings.Cut(rest, "/")
		return strings.TrimSuffix("/api/v1/shared/{token}/"+what, "/")
	}
	return r.URL.Path
}

// readWhole reads a body, so that it can be sent more than once. What was read
// of one that is too large, or broken, is put back.
func readWhole(w http.ResponseWriter, r *http.Request) (body []byte, whole bool) {
	if r.ContentLength == 0 {
		return nil, true
	}
	ctl := http.NewResponseController(w)
	timed := ctl.SetReadDeadline(time.Now().Add(bodyPatience)) == nil
	var b bytes.Buffer
	n, err := b.ReadFrom(io.LimitReader(r.Body, forwardBytesMax+1))
	if err == nil && n <= forwardBytesMax {
		if timed {
			ctl.SetReadDeadline(time.Time{}) //nolint:errcheck // it was settable a moment ago
		}
		return b.Bytes(), true
	}
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(&b, r.Body), r.Body}
	return nil, false
}

// forward has one region after the other answer a call.
func (f *Forwarder) forward(w http.ResponseWriter, r *http.Request, c forwardable, body []byte) {
	ctx := r.Context()
	if !c.stream {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.cfg.CallTimeout)
		defer cancel()
	}
	deadline, _ := ctx.Deadline()
	repeatable := c.read || r.Header.Get("Idempotency-Key") != ""
	f.called()
	way := course{cfg: f.cfg, attemptsMax: f.cfg.AttemptsMax}
	var last *held
	for {
		order, _ := f.order("")
		next := way.next(time.Now(), deadline, order, jitter())
		if next.stop || !way.free() && !f.spend(procedureOf(r), false) {
			f.giveUp(w, r, last, way.unknown && !c.read)
			return
		}
		if last != nil {
			tell(f.cfg.Events.Retried, Retried{
				Procedure: procedureOf(r), From: f.label(way.lastAt), To: f.label(next.address), Attempt: way.attempts + 1, Why: last.failure(),
			})
		}
		way.began()
		timeout := next.timeout
		switch {
		case c.stream:
			timeout = streamOpening
		case !repeatable: // after silence there is no second one, after a refusal there may be
			timeout = f.cfg.CallTimeout / 2
		}
		begun := time.Now()
		h := &held{w: w, header: make(http.Header), repeatable: repeatable}
		v, code := f.attempt(ctx, h, r, c, body, next.address, timeout)
		switch {
		case h.passed:
			return
		case r.Context().Err() != nil:
			panic(http.ErrAbortHandler) // nobody is there to be answered
		case v.illness:
			f.failed(begun, next.address, code)
		case h.err == nil:
			f.succeeded(next.address)
		}
		last = h
		wait := time.Duration(0)
		if v.taken != unsent {
			wait = retryAfter(h.header, time.Now())
		}
		if v.taken == perhaps && !repeatable {
			v.again = nowhere
		}
		way.failed(time.Now(), next.address, v, wait)
	}
}

// attempt has one region answer, through h. What h does not pass on is judged.
func (f *Forwarder) attempt(
	ctx context.Context, h *held, r *http.Request, c forwardable, body []byte, address string, timeout time.Duration,
) (v verdict, code string) {
	ctx, cancel := context.WithCancelCause(ctx)
	var following sync.WaitGroup
	defer following.Wait()
	defer cancel(nil)
	timer := time.AfterFunc(timeout, func() { cancel(context.DeadlineExceeded) })
	defer timer.Stop()
	h.onPass = func() {
		if c.stream { // it has begun, and may last
			timer.Stop()
		}
		f.succeeded(address)
		if address != f.seed {
			tell(f.cfg.Events.Forwarded, Forwarded{Region: f.label(address), Status: h.status})
		}
	}
	if c.stream {
		ctx = context.WithValue(ctx, streamKey{}, true)
		following.Go(func() { f.follow(ctx, address, func() { cancel(errElsewhere) }) })
	}
	out := r.Clone(ctx)
	out.Body = io.NopCloser(bytes.NewReader(body))
	out.ContentLength = int64(len(body))
	if len(body) == 0 {
		out.Body = http.NoBody
	}
	if !c.stream {
		limitWait(out.Header, timeout)
	}
	f.answer(h, out, address)
	switch {
	case h.passed:
		return verdict{}, ""
	case errors.Is(context.Cause(ctx), errElsewhere):
		return verdict{again: elsewhere, taken: refused}, ""
	case h.err != nil:
		e := &Error{cause: h.err, connect: connect.CodeUnavailable}
		v = judge(e, context.Cause(ctx))
		return v, e.Code
	}
	v, code = verdictOf(h.status, h.header)
	return v, code
}

// answer serves one attempt. A region that breaks off before its answer was
// passed on has given none.
func (f *Forwarder) answer(h *held, r *http.Request, address string) {
	defer func() {
		if p := recover(); p != nil {
			if h.passed || p != any(http.ErrAbortHandler) {
				panic(p)
			}
			h.err = io.ErrUnexpectedEOF
		}
	}()
	if address == f.seed {
		f.homeRegion.Handler.ServeHTTP(h, r)
	} else {
		f.proxies[address].ServeHTTP(h, r)
	}
	switch {
	case h.status != 0 || h.err != nil:
	case r.Context().Err() != nil: // a watch that ends with nothing shown
		h.err = r.Context().Err()
	default:
		h.WriteHeader(http.StatusOK)
	}
}

// limitWait tells a region how long its answer is waited for, so that it says
// in time what it knows.
func limitWait(h http.Header, d time.Duration) {
	if strings.HasPrefix(h.Get("Content-Type"), "application/grpc") {
		return // gRPC's own may be nearer, and has other units
	}
	ms := d.Milliseconds()
	if asked, err := strconv.ParseInt(h.Get("Connect-Timeout-Ms"), 10, 64); err == nil {
		ms = min(ms, asked)
	}
	h.Set("Connect-Timeout-Ms", strconv.FormatInt(ms, 10))
}

// verdictOf judges an answer by its code, and one of a proxy by its status.
func verdictOf(status int, h http.Header) (v verdict, code string) {
	if code = h.Get(errorHeader); code != "" {
		return verdicts[code], code // a code that is not there is final
	}
	switch status {
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return verdicts[connectName(connect.CodeUnavailable)], strconv.Itoa(status)
	}
	return verdict{}, ""
}

// giveUp answers with the last answer there was; with more caution when an
// earlier region may have made the edit.
func (f *Forwarder) giveUp(w http.ResponseWriter, r *http.Request, last *held, unknown bool) {
	switch {
	case unknown:
		refuse(w, r, http.StatusGatewayTimeout, connect.CodeDeadlineExceeded, "OUTCOME_UNKNOWN",
			"the edit may or may not have been applied: send it again with the same Idempotency-Key")
	case last != nil && last.err == nil:
		last.release()
	default:
		w.Header().Set("Retry-After", "1")
		refuse(w, r, http.StatusServiceUnavailable, connect.CodeUnavailable, "NO_QUORUM", "no region answers, and nothing was changed: try again")
	}
}

// refuse answers with an error in the form that the caller reads.
func refuse(w http.ResponseWriter, r *http.Request, status int, code connect.Code, name, message string) {
	w.Header().Set(errorHeader, name)
	if out := connect.NewErrorWriter(); out.IsSupported(r) {
		e := connect.NewError(code, errors.New(message))
		if d, err := connect.NewErrorDetail(&cartv1.ErrorDetail{Code: name}); err == nil {
			e.AddDetail(d)
		}
		out.Write(w, r, e) //nolint:errcheck // the caller left
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{"code": name, "message": message}}) //nolint:errcheck // the caller left
}

// held is a http.ResponseWriter that passes an answer on, or holds it where
// another region may give a better one.
type held struct {
	w          http.ResponseWriter
	repeatable bool
	onPass     func()

	header http.Header
	status int // once the answer has begun
	passed bool
	body   bytes.Buffer // of an answer that is held
	err    error        // instead of an answer
}

// failure is why the answer was held.
func (h *held) failure() error {
	if h.err != nil {
		return h.err
	}
	_, code := verdictOf(h.status, h.header)
	return &Error{Code: code, Message: "status " + strconv.Itoa(h.status)}
}

// Header implements http.ResponseWriter.
func (h *held) Header() http.Header {
	if h.passed {
		return h.w.Header() // for trailers
	}
	return h.header
}

// WriteHeader implements http.ResponseWriter.
func (h *held) WriteHeader(status int) {
	if h.status != 0 || status < http.StatusOK { // hints are for nobody
		return
	}
	h.status = status
	v, _ := verdictOf(status, h.header)
	if v.again == elsewhere && (v.taken != perhaps || h.repeatable) {
		return
	}
	h.onPass()
	h.release()
}

// release passes the answer on, as far as there is one.
func (h *held) release() {
	maps.Copy(h.w.Header(), h.header)
	h.passed = true
	h.w.WriteHeader(h.status)
	if h.body.Len() > 0 {
		h.w.Write(h.body.Bytes()) //nolint:errcheck // the caller left
	}
}

// Write implements io.Writer.
func (h *held) Write(b []byte) (int, error) {
	if h.status == 0 {
		h.WriteHeader(http.StatusOK)
	}
	if h.passed {
		return h.w.Write(b)
	}
	if h.body.Len()+len(b) <= forwardBytesMax {
		h.body.Write(b)
	}
	return len(b), nil
}

// Flush implements http.Flusher.
func (h *held) Flush() {
	if h.status == 0 {
		h.WriteHeader(http.StatusOK)
	}
	if h.passed {
		if f, ok := h.w.(http.Flusher); ok {
			f.Flush()
		}
	}
}

// Unwrap is for http.ResponseController.
func (h *held) Unwrap() http.ResponseWriter { return h.w }
