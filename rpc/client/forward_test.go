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
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
)

// fakeAPI is a region for tests of a Forwarder: it notes what comes and says
// what it is told to.
type fakeAPI struct {
	name string

	mu      sync.Mutex // guards what follows
	code    string     // of the error that it answers with; "" is none
	unready bool
	refused bool // nothing listens
	silent  bool // what comes is noted, and nothing is answered
	proxied int  // status of a proxy in its place
	seen    []*http.Request
	bodies  []string
}

func (f *fakeAPI) set(change func(*fakeAPI)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// came returns what came to /api and to Connect, and forgets it.
func (f *fakeAPI) came() []*http.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.seen
	f.seen = nil
	return out
}

func (f *fakeAPI) ready(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.unready {
		return errNotReady
	}
	return nil
}

// ServeHTTP implements http.Handler.
func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/readyz" {
		if f.ready(r.Context()) != nil {
			w.WriteHeader(503)
		}
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(400)
		return
	}
	f.mu.Lock()
	f.seen, f.bodies = append(f.seen, r), append(f.bodies, string(body))
	code, silent, proxied := f.code, f.silent, f.proxied
	f.mu.Unlock()
	switch {
	case silent:
		<-r.Context().Done()
		code = "OUTCOME_UNKNOWN" // as a region says whose time is over
	case proxied != 0:
		w.WriteHeader(proxied)
		return
	}
	w.Header().Set("Cart-Region", f.name)
	if code != "" {
		w.Header().Set(errorHeader, code)
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(503)
		fmt.Fprintf(w, "%s says %s", f.name, code) //nolint:errcheck // a recorder takes everything
		return
	}
	fmt.Fprintf(w, "%s got %s", f.name, body) //nolint:errcheck // a recorder takes everything
}

// fakeAPIs is an http.RoundTripper to fake regions by host; each is 30 ms away.
type fakeAPIs map[string]*fakeAPI

// RoundTrip implements http.RoundTripper.
func (n fakeAPIs) RoundTrip(r *http.Request) (*http.Response, error) {
	f := n[r.URL.Host]
	f.mu.Lock()
	refused, silent := f.refused, f.silent
	f.mu.Unlock()
	if refused {
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	if err := pause(r.Context(), 30*time.Millisecond); err != nil {
		return nil, err
	}
	rec := httptest.NewRecorder()
	came := r.Clone(r.Context()) // as a server has it
	if came.Body == nil {
		came.Body = http.NoBody
	}
	f.ServeHTTP(rec, came)
	if silent {
		return nil, r.Context().Err()
	}
	return rec.Result(), nil
}

// forwarding is a Forwarder of us before eu and ap.
type forwarding struct {
	*Forwarder

	t          *testing.T
	us, eu, ap *fakeAPI
	moved      chan Moved
}

// forward runs a test with a Forwarder in a bubble.
func forward(t *testing.T, test func(t *testing.T, f *forwarding)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &forwarding{t: t, us: &fakeAPI{name: "us"}, eu: &fakeAPI{name: "eu"}, ap: &fakeAPI{name: "ap"}, moved: make(chan Moved, 16)}
		cfg := DefaultConfig()
		net := fakeAPIs{"eu": f.eu, "ap": f.ap}
		cfg.Transport, cfg.StreamTransport = net, net
		cfg.Events.Moved = func(m Moved) { f.moved <- m }
		var err error
		if f.Forwarder, err = NewForwarder(Home{Region: "us", Handler: f.us, Ready: f.us.ready}, map[string]string{"eu": "http://eu", "ap": "http://ap"}, cfg); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- f.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run: %v", err)
			}
		}()
		time.Sleep(time.Second)
		test(t, f)
	})
}

// do makes a call, with headers as name, value, ….
func (f *forwarding) do(method, path, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	f.ServeHTTP(rec, r)
	return rec
}

func (f *forwarding) wants(rec *httptest.ResponseRecorder, status int, body string) {
	f.t.Helper()
	if rec.Code != status || !strings.Contains(rec.Body.String(), body) {
		f.t.Errorf("answered %d %q, want %d %q", rec.Code, rec.Body, status, body)
	}
}

const items = "/api/v1/cart/items"

func TestForwarderServesAtHome(t *testing.T) {
	forward(t, func(_ *testing.T, f *forwarding) {
		f.wants(f.do("POST", items, "tea"), 200, "us got tea")
		if n := len(f.eu.came()) + len(f.ap.came()); n != 0 {
			f.t.Errorf("%d calls were passed on", n)
		}
	})
}

func TestForwarderPassesOnWhatWasNotTaken(t *testing.T) {
	forward(t, func(t *testing.T, f *forwarding) {
		f.us.set(func(a *fakeAPI) { a.code = "NO_QUORUM" })
		rec := f.do("POST", items, "tea", "Authorization", "Bearer x", "X-User-Id", "u", "Cart-Token", "seen", "X-Forwarded-For", "10.0.0.1")
		if region := rec.Header().Get("Cart-Region"); rec.Code != 200 || region == "us" || !strings.HasSuffix(rec.Body.String(), "got tea") {
			t.Errorf("%d %s by %s", rec.Code, rec.Body, region)
		}
		if rec.Header().Get(errorHeader) != "" || rec.Header().Get("Retry-After") != "" {
			t.Errorf("headers of the answer that was held are left: %v", rec.Header())
		}
		came := append(f.eu.came(), f.ap.came()...)
		if len(came) != 1 {
			t.Fatalf("%d calls were passed on", len(came))
		}
		h := came[0].Header
		if h.Get("Authorization") != "Bearer x" || h.Get("X-User-Id") != "u" || h.Get("Cart-Token") != "seen" || h.Get(ForwardedHeader) != "us" {
			t.Errorf("passed on with %v", h)
		}
		if got := h.Get("X-Forwarded-For"); !strings.HasPrefix(got, "10.0.0.1, ") {
			t.Errorf("passed on for %q", got)
		}
		// What was passed on once stays.
		f.wants(f.do("POST", items, "tea", ForwardedHeader, "ap"), 503, "us says NO_QUORUM")
		// So does what is no call of the cart.
		f.us.set(func(a *fakeAPI) { a.unready = true })
		f.wants(f.do("GET", "/readyz", ""), 503, "")
		f.wants(f.do("GET", "/api/v1/regions", ""), 503, "us says")
		f.wants(f.do("POST", "/admin.v1.AdminService/Regions", ""), 503, "us says")
		f.wants(f.do("POST", items, strings.Repeat("x", forwardBytesMax+1)), 503, "us says")
	})
}

// What may have been made is sent again under its key alone.
func TestForwarderDoesNotRepeatWhatMayHaveBeenTaken(t *testing.T) {
	const get, add = "/cart.v1.CartService/GetCart", "/cart.v1.CartService/AddItem"
	for name, c := range map[string]struct {
		method, path string
		key          string
		want         bool // passed on
	}{
		"add":            {"POST", items, "", false},
		"add with key":   {"POST", items, "k", true},
		"remove":         {"DELETE", items + "/tea", "", false},
		"get":            {"GET", "/api/v1/cart", "", true},
		"add by Connect": {"POST", add, "", false},
		"key by Connect": {"POST", add, "k", true},
		"get by Connect": {"POST", get, "", true},
	} {
		for fault, break_ := range map[string]func(*fakeAPI){
			"unknown":  func(a *fakeAPI) { a.code = "OUTCOME_UNKNOWN" },
			"internal": func(a *fakeAPI) { a.code = "INTERNAL" },
			"silent":   func(a *fakeAPI) { a.silent = true },
			"proxy":    func(a *fakeAPI) { a.proxied = 502 },
		} {
			t.Run(name+", "+fault, func(t *testing.T) {
				forward(t, func(t *testing.T, f *forwarding) {
					f.us.set(break_)
					headers := []string{"Content-Type", "application/json"}
					if c.key != "" {
						headers = append(headers, "Idempotency-Key", c.key)
					}
					rec := f.do(c.method, c.path, "", headers...)
					came := append(f.eu.came(), f.ap.came()...)
					if got := len(came) == 1 && rec.Code == 200; got != c.want {
						t.Errorf("passed on %d times, answered %d %s", len(came), rec.Code, rec.Body)
					}
					if c.want && came[0].Header.Get("Idempotency-Key") != c.key {
						t.Errorf("passed on under another key: %v", came[0].Header)
					}
				})
			})
		}
	}
}

// A region that refuses after one that may have made the edit does not know.
func TestForwarderDoesNotDenyWhatMayHaveBeenTaken(t *testing.T) {
	forward(t, func(t *testing.T, f *forwarding) {
		f.us.set(func(a *fakeAPI) { a.silent = true })
		f.eu.set(func(a *fakeAPI) { a.code = "NO_QUORUM" })
		f.ap.set(func(a *fakeAPI) { a.refused = true })
		f.wants(f.do("POST", items, "", "Idempotency-Key", "k"), 504, "OUTCOME_UNKNOWN")
		rec := f.do("POST", "/cart.v1.CartService/AddItem", "{}", "Content-Type", "application/json", "Idempotency-Key", "k")
		if rec.Header().Get(errorHeader) != "OUTCOME_UNKNOWN" || !strings.Contains(rec.Body.String(), connect.CodeDeadlineExceeded.String()) {
			t.Errorf("by Connect: %d %s", rec.Code, rec.Body)
		}
		f.wants(f.do("GET", "/api/v1/cart", ""), 503, "NO_QUORUM")
	})
}

func TestForwarderSaysWhyWhenNobodyServes(t *testing.T) {
	forward(t, func(_ *testing.T, f *forwarding) {
		f.us.set(func(a *fakeAPI) { a.code = "NO_QUORUM" })
		f.eu.set(func(a *fakeAPI) { a.refused = true })
		f.ap.set(func(a *fakeAPI) { a.refused = true })
		f.wants(f.do("POST", items, ""), 503, "NO_QUORUM")
		// An error that every region would answer with is the answer.
		f.us.set(func(a *fakeAPI) { a.code = "UNKNOWN_SKU" })
		f.wants(f.do("POST", items, ""), 503, "us says UNKNOWN_SKU")
		f.us.set(func(a *fakeAPI) { a.code = "RATE_LIMITED" })
		f.wants(f.do("POST", items, ""), 503, "us says RATE_LIMITED")
	})
}

// Calls leave home when it is not ready, without asking it first, and come back
// though home is no nearer than others; not before it was well for a while.
func TestForwarderLeavesHomeAndComesBack(t *testing.T) {
	forward(t, func(t *testing.T, f *forwarding) {
		f.us.set(func(a *fakeAPI) { a.unready = true })
		m := <-f.moved
		if m.From != "us" || m.To == "us" || m.Why != Unhealthy {
			t.Fatalf("moved %+v", m)
		}
		f.us.came()
		f.wants(f.do("POST", items, "tea"), 200, m.To+" got tea")
		if n := len(f.us.came()); n != 0 {
			t.Errorf("home was asked %d times", n)
		}
		begin := time.Now()
		f.us.set(func(a *fakeAPI) { a.unready = false })
		m = <-f.moved
		if took := time.Since(begin); m.To != "us" || m.Why != Nearer || took < f.cfg.ReturnAfter {
			t.Errorf("moved %+v after %v", m, took)
		}
		f.wants(f.do("POST", items, "tea"), 200, "us got tea")
	})
}

func TestForwarderGoesToANextRegion(t *testing.T) {
	forward(t, func(t *testing.T, f *forwarding) {
		f.us.set(func(a *fakeAPI) { a.unready, a.code = true, "NO_QUORUM" })
		first := (<-f.moved).To
		near, far := f.eu, f.ap
		if first == "ap" {
			near, far = far, near
		}
		near.set(func(a *fakeAPI) { a.refused = true })
		f.wants(f.do("POST", items, "tea"), 200, far.name+" got tea")
	})
}

// A region that breaks off in the midst of an answer must not look as if it
// had answered.
func TestForwarderDoesNotMakeHalfAnAnswerLookWhole(t *testing.T) {
	ctx := context.WithValue(t.Context(), http.ServerContextKey, &http.Server{})
	cfg := DefaultConfig()
	cfg.Transport = roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(io.MultiReader(strings.NewReader("half"), broken{})), ContentLength: -1}, nil
	})
	home := &fakeAPI{name: "us", code: "NO_QUORUM"}
	f, err := NewForwarder(Home{Region: "us", Handler: home, Ready: home.ready}, map[string]string{"eu": "http://eu"}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if p := recover(); p != any(http.ErrAbortHandler) {
			t.Errorf("ended with %v", p)
		}
	}()
	f.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/api/v1/cart", nil).WithContext(ctx))
}

type roundTrip func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

type broken struct{}

// Read implements io.Reader.
func (broken) Read([]byte) (int, error) { return 0, errors.New("broken off") }
