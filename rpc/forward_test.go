package rpc

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/replication"
	"github.com/samecart/samecart/replication/riblt"
)

// as names the calling region as cmd does.
type as struct {
	region string
	hc     *http.Client
}

func (a as) Do(r *http.Request) (*http.Response, error) {
	r.Header.Set(HeaderRegion, a.region)
	return a.hc.Do(r)
}

func dialAs(t *testing.T, region string, urls ...string) *PeerClient {
	t.Helper()
	hc := PeerHTTPClient(nil)
	t.Cleanup(hc.CloseIdleConnections)
	c, err := NewPeerClient(as{region, hc}, urls, peerCodec(t))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serveForwarding serves a region that also passes calls on. Every caller
// is the region that it says it is.
func serveForwarding(t *testing.T, sink replication.Sink, peers map[crdt.RegionID]string, ways map[string]*PeerClient) (*httptest.Server, *PeerHandler) {
	t.Helper()
	cfg := DefaultPeerConfig(func() map[crdt.RegionID]string { return peers })
	cfg.Slots = 4
	cfg.Forward = func(region string) *PeerClient { return ways[region] }
	cfg.Identity = func(r *http.Request) (string, bool) { name := r.Header.Get(HeaderRegion); return name, name != "" }
	h, err := NewPeerHandler(sink, peerCodec(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(h.Handler())
	mux.Handle(h.Forward())
	s := httptest.NewUnstartedServer(mux)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(func() {
		h.Close()
		s.Close()
		peerEventually(t, "every stream has ended", func() bool { return len(h.streams) == 0 })
	})
	return s, h
}

// triangle is us (1), eu (2) and ap (3): us reaches eu through ap alone.
type triangle struct {
	us, eu, ap *peerRegionFake
	euURL      string
	cutFar     func() // ends the connections of ap to eu
	apURL      string
	apHandler  *PeerHandler
	via        *PeerClient
}

// cuttable returns what closes all of a client's connections.
func cuttable(c *PeerClient) (cut func()) {
	var mu sync.Mutex
	var open []net.Conn
	tr, _ := c.hc.(as).hc.Transport.(*http.Transport)
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			open = append(open, conn)
		}
		return conn, err
	}
	return func() {
		mu.Lock()
		defer mu.Unlock()
		for _, conn := range open {
			_ = conn.Close()
		}
	}
}

func newTriangle(t *testing.T) *triangle {
	t.Helper()
	tr := &triangle{us: peerNewRegion(1), eu: peerNewRegion(2), ap: peerNewRegion(3)}
	eu, _ := serveForwarding(t, tr.eu, map[crdt.RegionID]string{1: "us", 3: "ap"}, nil)
	far := dialAs(t, "ap", eu.URL)
	tr.cutFar = cuttable(far)
	ap, h := serveForwarding(t, tr.ap, map[crdt.RegionID]string{1: "us", 2: "eu"}, map[string]*PeerClient{"eu": far})
	tr.euURL, tr.apURL, tr.apHandler = eu.URL, ap.URL, h
	via, err := dialAs(t, "us", ap.URL).Through("eu")
	if err != nil {
		t.Fatal(err)
	}
	tr.via = via
	return tr
}

// All that a Gossiper does works through a third region: a repair, a stream
// both of whose directions flow at the same time, and comparisons.
func TestForwardedGossip(t *testing.T) {
	tr := newTriangle(t)
	for i := range 300 {
		tr.us.add(fmt.Sprint("cart:", i%40), fmt.Sprint(i))
	}
	tr.us.base = 200 // needs a repair first
	cfg := replication.DefaultConfig()
	g, err := replication.New(peerLogFake{tr.us}, "us", []replication.PeerRegion{{ID: 2, Name: "eu", Transport: tr.via}},
		cfg, slog.New(slog.DiscardHandler), replication.Options{})
	if err != nil {
		t.Fatal(err)
	}
	run(t, g)
	all := func() bool { s := g.Status()[0]; return s.AckedSeq == tr.us.LastSeq() && s.BytesWaiting == 0 }
	peerEventually(t, "all rows acked", all)
	for round := range 20 {
		tr.us.add(fmt.Sprint("cart:", round), "b")
		peerEventually(t, "one edit acked while the stream is open", all)
	}
	for id, c := range tr.us.carts {
		if !tr.eu.carts[id].Equal(c) {
			t.Errorf("%s differs", id)
		}
	}
	if s := g.Status()[0]; s.Repairs != 1 || s.Intervals == 0 {
		t.Errorf("status %+v", s)
	}
	if len(tr.ap.carts) != 0 || len(tr.ap.cursors) != 0 {
		t.Errorf("the region in between keeps %d carts and %d cursors", len(tr.ap.carts), len(tr.ap.cursors))
	}
	// The far region ends the connection: so does the stream, though its sender
	// has nothing to send.
	fails := g.Status()[0].LastError
	tr.cutFar()
	peerEventually(t, "the stream has ended", func() bool { return g.Status()[0].LastError != fails })
	peerEventually(t, "the stream is open again", func() bool { return g.Status()[0].Connected })
	// The region in between shuts down.
	tr.apHandler.Close()
	peerEventually(t, "the stream has ended", func() bool { return !g.Status()[0].Connected })
}

func run(t *testing.T, g *replication.Gossiper) {
	t.Helper()
	done := make(chan error)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { done <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// The far region's own errors keep their codes; those of the region in between
// are errors of the connection.
func TestForwardedErrors(t *testing.T) {
	tr := newTriangle(t)
	hi := peerHi()
	hi.SlotHi = 99
	if _, err := tr.via.Repairing(t.Context(), hi); connect.CodeOf(err) != connect.CodeInvalidArgument || !connect.IsWireError(err) {
		t.Errorf("a bad hello: %v", err)
	}
	through := func(t *testing.T, as, region string) error {
		c, err := dialAs(t, as, tr.apURL).Through(region)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Digests(t.Context(), 0, 4)
		return err
	}
	for name, c := range map[string]struct{ as, region, want string }{
		"a stranger":            {"eve", "eu", `region "eve" is no peer here`},
		"nobody":                {"", "eu", `region "" is no peer here`},
		"to nowhere":            {"us", "mars", `no way from here to region "mars"`},
		"to oneself":            {"eu", "eu", `no way from here to region "eu"`},
		"to the one in between": {"us", "ap", `no way from here to region "ap"`},
	} {
		t.Run(name, func(t *testing.T) {
			err := through(t, c.as, c.region)
			if err == nil || !strings.Contains(err.Error(), c.want) || connect.IsWireError(err) || connect.CodeOf(err) != connect.CodeUnavailable {
				t.Errorf("got %v (wire %v), want %q", err, connect.IsWireError(err), c.want)
			}
		})
	}
	// A region of a version that forwards nothing answers nothing in the
	// other's place: it would move the wrong cursor.
	old, _ := peerServe(t, tr.ap, nil)
	c, err := dialAs(t, "us", old.URL).Through("eu")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Join(t.Context(), nil, peerHi(), 7); err == nil || len(tr.ap.cursors) != 0 {
		t.Errorf("a region that does not forward answered: %v, %v", err, tr.ap.cursors)
	}
}

// post sends a bare call.
func post(t *testing.T, url string, header http.Header) (status int, body string) {
	t.Helper()
	hc := PeerHTTPClient(nil)
	defer hc.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), "POST", url, strings.NewReader(`{"slot_hi":4}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	req.Header.Set("Content-Type", "application/json")
	resp, err := hc.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b := new(strings.Builder)
	if err := resp.Write(b); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b.String()
}

func TestForwardingIsRefused(t *testing.T) {
	tr := newTriangle(t)
	const digests = "/replication.v1.ReplicationService/Digests"
	for name, c := range map[string]struct {
		url    string
		header http.Header
		status int
		want   string
	}{
		"passed on twice":             {tr.apURL + "/to/eu" + digests, http.Header{HeaderRegion: {"us"}, headerFor: {"eu"}}, 403, "once is all"},
		"asks to be passed on twice":  {tr.apURL + "/to/eu/to/us" + digests, http.Header{HeaderRegion: {"us"}}, 403, "is no call between regions"},
		"another service":             {tr.apURL + "/to/eu/cart.v1.CartService/Get", http.Header{HeaderRegion: {"us"}}, 403, "is no call between regions"},
		"forwarded by a stranger":     {tr.euURL + digests, http.Header{HeaderRegion: {"eve"}, headerFor: {"us"}}, 401, "no client certificate of a peer"},
		"forwarded for a stranger":    {tr.euURL + digests, http.Header{HeaderRegion: {"ap"}, headerFor: {"eve"}}, 403, "no other peer"},
		"forwarded for the forwarder": {tr.euURL + digests, http.Header{HeaderRegion: {"ap"}, headerFor: {"ap"}}, 403, "no other peer"},
		"forwarded for the receiver":  {tr.euURL + digests, http.Header{HeaderRegion: {"ap"}, headerFor: {"eu"}}, 403, "no other peer"},
		"forwarded":                   {tr.euURL + digests, http.Header{HeaderRegion: {"ap"}, headerFor: {"us"}}, 200, "Samecart-For: us"},
	} {
		t.Run(name, func(t *testing.T) {
			if status, body := post(t, c.url, c.header); status != c.status || !strings.Contains(body, c.want) {
				t.Errorf("status %d, want %d with %q:\n%s", status, c.status, c.want, body)
			}
		})
	}
}

// The region in between is taken at its word about who calls, not about whose
// rows they are: a hello must be of that region.
func TestForwardedHelloIsTheCallers(t *testing.T) {
	tr := newTriangle(t)
	hi := peerHi()
	hi.Region, hi.Stream.Region = "ap", 3
	if _, err := tr.via.Known(t.Context(), hi); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("us spoke for ap: %v", err)
	}
	if _, err := tr.via.Known(t.Context(), peerHi()); err != nil {
		t.Error(err)
	}
}

func TestForwardingGoesOnAtTheNextAddress(t *testing.T) {
	tr := newTriangle(t)
	down := httptest.NewServer(nil)
	down.Close()
	ap, _ := serveForwarding(t, tr.ap, map[crdt.RegionID]string{1: "us", 2: "eu"},
		map[string]*PeerClient{"eu": dialAs(t, "ap", down.URL, tr.euURL)})
	c, err := dialAs(t, "us", ap.URL).Through("eu")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Digests(t.Context(), 0, 4); err == nil {
		t.Error("the address that is down answered")
	}
	if _, err := c.Digests(t.Context(), 0, 4); err != nil {
		t.Errorf("the next address: %v", err)
	}
}

// An idle stream ends with its context, before anybody closes it.
func TestIdleStreamEndsWithItsContext(t *testing.T) {
	tr := newTriangle(t)
	for name, c := range map[string]*PeerClient{"direct": dialAs(t, "us", tr.euURL), "relayed": tr.via} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			s, err := c.Push(ctx, peerHi())
			if err != nil {
				t.Fatal(err)
			}
			peerWant(t, s, replication.Ack{})
			ended := make(chan error, 1)
			go func() {
				_, err := s.Recv()
				ended <- err
			}()
			select {
			case err := <-ended:
				t.Fatalf("the stream ended by itself: %v", err)
			case <-time.After(100 * time.Millisecond): // Recv waits by now
			}
			cancel()
			select {
			case err := <-ended:
				if err == nil {
					t.Error("no error")
				}
			case <-time.After(2 * time.Second):
				t.Error("Recv does not end")
			}
			_ = s.Close()
		})
	}
}

// A sketch that is not answered ends with its context: a repair that waited for
// it would go on for as long as the link is dead.
func TestUnansweredSketchEndsWithItsContext(t *testing.T) {
	hang := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	hang.Config.Protocols = new(http.Protocols)
	hang.Config.Protocols.SetUnencryptedHTTP2(true)
	hang.Start()
	defer hang.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	s, err := dialAs(t, "us", hang.URL).Sketch(ctx, riblt.Key{}, []uint32{1})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := s.Next(1)
		ended <- err
	}()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("no error")
		}
	case <-time.After(3 * time.Second):
		t.Error("Next does not end")
	}
	_ = s.Close()
}
