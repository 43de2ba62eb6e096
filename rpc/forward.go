package rpc

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/proto/replication/v1/replicationv1connect"
	"github.com/samecart/samecart/replication"
)

// This file has both ends of calls between two regions that go through a
// third: "/to/REGION" before the path of a call asks a node to pass it on.

const (
	// HeaderRegion names the calling region on every call between regions. It
	// proves nothing: with TLS, the certificate says who calls.
	HeaderRegion = "Samecart-Region"
	// headerFor names the region that a forwarded call comes from. The region
	// that forwards it sets it, and the one that takes it repeats it in the
	// answer: an answer without it is from the region in between.
	headerFor = "Samecart-For"

	forwardPath = "/to/"
)

// Through returns a client that reaches the named region through c's.
func (c *PeerClient) Through(region string) (*PeerClient, error) {
	urls := make([]string, 0, len(c.urls))
	for _, u := range c.urls {
		urls = append(urls, u+forwardPath+url.PathEscape(region))
	}
	return NewPeerClient(forwardedCalls{c.hc, region}, urls, c.codec)
}

// CloseIdleConnections closes connections that no call uses.
func (c *PeerClient) CloseIdleConnections() {
	if hc, ok := c.hc.(interface{ CloseIdleConnections() }); ok {
		hc.CloseIdleConnections()
	}
}

// base returns the address to call now.
func (c *PeerClient) base() (int, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current, c.urls[c.current]
}

// forwardedCalls turns what the region in between says for itself into
// errors of the connection.
type forwardedCalls struct {
	hc     connect.HTTPClient
	region string
}

// Do implements connect.HTTPClient.
func (f forwardedCalls) Do(req *http.Request) (*http.Response, error) {
	resp, err := f.hc.Do(req)
	if err != nil || resp.Header.Get(headerFor) != "" {
		return resp, err
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 512)) // as much as there is
	_ = resp.Body.Close()                                 // nothing else of it is wanted
	return nil, fmt.Errorf("not forwarded to region %s: %s: %s", f.region, resp.Status, strings.TrimSpace(string(text)))
}

// forwarder passes calls of one peer region on to another.
//
//	F1  Only calls of the replication service, of a peer region, to another
//	    one, are passed on: once, since what is passed on asks for no more.
//	F2  The region that called is named to the receiver as this one has proved it.
type forwarder struct{ h *PeerHandler }

// Forward returns the path to mount the forwarding of calls on, and what does it.
func (h *PeerHandler) Forward() (string, http.Handler) { return forwardPath, forwarder{h} }

// ServeHTTP implements http.Handler. Refusals are no answers of the service:
// the caller would take them for the other region's.
func (f forwarder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, call, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, forwardPath), "/")
	from, ok := f.caller(r)
	refuse := func(status int, format string, args ...any) {
		err := fmt.Errorf(format, args...)
		f.h.refused(from, err)
		http.Error(w, err.Error(), status)
	}
	var to *PeerClient
	if f.h.cfg.Forward != nil {
		to = f.h.cfg.Forward(name)
	}
	switch {
	case !ok:
		refuse(http.StatusForbidden, "region %q is no peer here: only peer regions' calls are passed on", from)
		return
	case r.Header.Get(headerFor) != "":
		refuse(http.StatusForbidden, "the call for region %q was passed on already: once is all", r.Header.Get(headerFor))
		return
	case !strings.HasPrefix(call, replicationv1connect.ReplicationServiceName+"/"):
		refuse(http.StatusForbidden, "%q is no call between regions", call)
		return
	case to == nil || name == from:
		refuse(http.StatusNotFound, "no way from here to region %q for %s", name, from)
		return
	}
	select {
	case f.h.streams <- struct{}{}:
		defer func() { <-f.h.streams }()
	default:
		http.Error(w, fmt.Sprintf("this node has %d streams open, its limit: try another", f.h.cfg.StreamsMax), http.StatusServiceUnavailable)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(f.h.closing, cancel)()
	f.pass(w, r.WithContext(ctx), to, name, from, "/"+call)
}

// caller returns the peer region that calls.
func (f forwarder) caller(r *http.Request) (string, bool) {
	name, ok := r.Header.Get(HeaderRegion), true
	if f.h.cfg.Identity != nil {
		name, ok = f.h.cfg.Identity(r)
	}
	return name, ok && f.h.isPeer(name)
}

// pass makes the call at the other region and hands everything through, both
// ways, as it comes.
func (f forwarder) pass(w http.ResponseWriter, r *http.Request, to *PeerClient, name, from, call string) {
	reading := droppable{control: http.NewResponseController(w)}
	defer reading.over()
	defer context.AfterFunc(r.Context(), func() { _ = reading.drop() })()
	i, base := to.base()
	target, err := url.Parse(base)
	if err != nil {
		http.Error(w, fmt.Sprintf("address %q of region %s: %v", base, name, err), http.StatusBadGateway)
		return
	}
	proxy := httputil.ReverseProxy{
		Transport:     roundTrips{to.hc},
		FlushInterval: -1, // an ack that waits is a row that waits
		ErrorLog:      log.New(io.Discard, "", 0),
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = target.Scheme, target.Host
			p.Out.URL.Path, p.Out.URL.RawPath = target.Path+call, ""
			p.Out.Host, p.Out.RequestURI = "", ""
			if p.Out.Body != nil {
				p.Out.Body = droppedBody{p.Out.Body, &reading}
			}
			p.Out.Header.Set(headerFor, from)
			p.Out.Header.Del(HeaderRegion) // the next hop is ours
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				to.failed(i)
			}
			http.Error(w, fmt.Sprintf("region %s: %v", name, err), http.StatusBadGateway)
		},
	}
	proxy.ServeHTTP(w, r)
}

// droppable is a request whose Read under way can be ended, by anybody, as long as
// its handler runs: net/http takes a deadline that is set later for a bug.
type droppable struct {
	mu      sync.Mutex
	control *http.ResponseController // nil: the handler has returned
}

func (d *droppable) drop() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.control == nil {
		return nil
	}
	return d.control.SetReadDeadline(time.Unix(1, 0))
}

func (d *droppable) over() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.control = nil
}

// droppedBody is the body of a call that is passed on. Closing it ends a Read
// under way: the call may be over long before the caller's next bytes come, and
// the transport waits for the Read before it says so, or looks at a context.
type droppedBody struct {
	io.ReadCloser
	call *droppable
}

// Close implements io.Closer.
func (b droppedBody) Close() error { return b.call.drop() }

// roundTrips makes an HTTP client a transport.
type roundTrips struct{ hc connect.HTTPClient }

// RoundTrip implements http.RoundTripper.
func (t roundTrips) RoundTrip(r *http.Request) (*http.Response, error) { return t.hc.Do(r) }

// onBehalf returns the region that a call comes from: the one that makes it,
// by, or the one that it forwards it for. by is "" when the network is
// trusted. The forwarding region vouches for the other: see the Decisions of
// package replication.
func (h *PeerHandler) onBehalf(w http.ResponseWriter, r *http.Request, by string) (string, error) {
	origin := r.Header.Get(headerFor)
	switch {
	case origin == "":
		return by, nil
	case origin == by || !h.isPeer(origin):
		return by, fmt.Errorf("forwarded by %q for region %q, which is no other peer of this region", by, origin)
	}
	w.Header().Set(headerFor, origin)
	return origin, nil
}

var _ replication.Transport = (*PeerClient)(nil)
