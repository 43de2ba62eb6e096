package member

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/replication"
	"github.com/samecart/samecart/rpc"
)

// intervalBytesMax bounds one decoded interval, which bounds what a
// compressed one may grow to.
const intervalBytesMax = 8 << 20

// DialFunc opens a connection to another region.
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// fromRegion names the calling region on every call between regions, for
// drills; who calls is proved by its certificate.
type fromRegion struct {
	region string
	base   http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t fromRegion) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(rpc.HeaderRegion, t.region)
	return t.base.RoundTrip(r)
}

// CloseIdleConnections closes connections that no call uses.
func (t fromRegion) CloseIdleConnections() { (&http.Client{Transport: t.base}).CloseIdleConnections() }

// PeerClient reaches another region, from the one named, at any of the
// addresses; conf is nil for calls in clear. It dials when it is first used.
func PeerClient(from string, dial DialFunc, conf *tls.Config, urls []string) (*rpc.PeerClient, error) {
	codec, err := replication.NewCodec(intervalBytesMax)
	if err != nil {
		return nil, err
	}
	hc, err := peerHTTPClient(from, dial, conf)
	if err != nil {
		return nil, err
	}
	return rpc.NewPeerClient(hc, urls, codec)
}

// membershipClient reaches another region's part of the membership.
func membershipClient(from string, dial DialFunc, conf *tls.Config, urls []string) (*rpc.MembershipClient, error) {
	hc, err := peerHTTPClient(from, dial, conf)
	if err != nil {
		return nil, err
	}
	return rpc.NewMembershipClient(hc, urls)
}

// dialTimeout bounds a dial of another region: the first packet, and two more, sent
// again after 1 s and 3 s, round the world.
const dialTimeout = 5 * time.Second

func peerHTTPClient(from string, dial DialFunc, conf *tls.Config) (*http.Client, error) {
	if conf != nil {
		conf = conf.Clone() // net/http changes it when the transport is first used
	}
	hc := rpc.PeerHTTPClient(conf)
	tr, ok := hc.Transport.(*http.Transport)
	if !ok {
		return nil, fmt.Errorf("peer transport is a %T", hc.Transport)
	}
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		// net/http lets a dial go on when the call that asked for it has ended: to a
		// region that is cut off there would be ever more of them.
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		return dial(ctx, network, addr)
	}
	hc.Transport = fromRegion{from, tr}
	return hc, nil
}

// PeerServer serves other regions, and passes their calls on to each other.
// identity tells whose certificate a request came with; nil: callers are who they say.
// The caller gives the server its listener, and certificates.
func (p *Part) PeerServer(identity func(*http.Request) (string, bool)) (*http.Server, error) {
	codec, err := replication.NewCodec(intervalBytesMax)
	if err != nil {
		return nil, err
	}
	cfg := rpc.DefaultPeerConfig(p.Roster.names)
	cfg.Identity, cfg.Forward = identity, func(region string) *rpc.PeerClient { return p.clients[region] }
	h, err := rpc.NewPeerHandler(Sink{p.Roster.router}, codec, cfg)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle(h.Handler())
	mux.Handle(h.Forward())
	mux.Handle(rpc.NewMembershipHandler(p.Roster.voter(), rpc.MembershipConfig{Known: p.Roster.knows, Identity: identity}))
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{
		Handler: mux, Protocols: protocols, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(p.Place.Log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second,
			// As much as a sender keeps under way: less would bound the rate of
			// a link with a long round trip.
			MaxReceiveBufferPerStream: 4 << 20, MaxReceiveBufferPerConnection: 16 << 20,
		},
	}
	s.RegisterOnShutdown(h.Close)
	return s, nil
}

// fetcher brings whole carts from other regions.
type fetcher struct{ roster *Roster }

var _ region.Fetcher = fetcher{}

// fetchTimeout leaves a request time to be answered, marked stale, without
// the cart.
const fetchTimeout = 500 * time.Millisecond

// Fetch implements region.Fetcher.
func (f fetcher) Fetch(ctx context.Context, id crdt.RegionID, cartID string) ([]byte, error) {
	peer, ok := f.roster.carts(id)
	if !ok {
		return nil, fmt.Errorf("region %d is no member, or there is no way to it", id)
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	carts, err := peer.Fetch(ctx, []string{cartID})
	if err != nil || len(carts) == 0 {
		return nil, err
	}
	limits := replication.DefaultLimits()
	limits.Now = time.Now()
	if _, err := replication.ValidateCarts(carts, limits); err != nil {
		return nil, fmt.Errorf("cart from region %d: %w", id, err)
	}
	return carts[0].Data, nil
}
