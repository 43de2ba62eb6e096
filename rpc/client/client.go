package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
)

// ErrClosed is returned by calls of a client that was closed.
var ErrClosed = errors.New("the client is closed")

// Client speaks with all regions of a service. It is safe for concurrent use.
type Client struct {
	guide

	streams *http.Client
	closed  context.Context
	close   context.CancelFunc
	work    sync.WaitGroup

	own      sync.Mutex // guards what follows
	ended    bool
	services map[string]service
}

// service is one region's cart service.
type service struct {
	unary, streams cartv1connect.CartServiceClient
}

// New returns a client that knows one address of the service: a region's, or
// of what stands before all of them. "host:port" means http. It starts
// nothing: until Run has learnt more, calls go to that address.
func New(address string, cfg Config) (*Client, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("client config: %w", err)
	}
	seed, err := baseURL(address)
	if err != nil {
		return nil, err
	}
	cfg = cfg.withTransports()
	c := &Client{
		guide:   newGuide(cfg, seed),
		streams: &http.Client{Transport: cfg.StreamTransport}, services: make(map[string]service),
	}
	c.closed, c.close = context.WithCancel(context.Background())
	return c, nil
}

// withTransports returns c with the client's own transports where it has none.
func (c Config) withTransports() Config {
	if c.Transport == nil {
		c.Transport = unaryTransport(c)
	}
	if c.StreamTransport == nil {
		c.StreamTransport = streamTransport(c)
	}
	return c
}

// unaryTransport speaks HTTP/1.1, which costs less than HTTP/2 where each call
// waits for its answer.
func unaryTransport(cfg Config) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: cfg.AttemptTimeout, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: cfg.AttemptTimeout,
		MaxIdleConnsPerHost: cfg.ConnsPerRegion,
		IdleConnTimeout:     90 * time.Second,
		DisableCompression:  true,
		Protocols:           protocols,
	}
}

// streamTransport speaks HTTP/2, with and without TLS: a silent stream has
// signs of life of its own there.
func streamTransport(cfg Config) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: cfg.AttemptTimeout}).DialContext,
		TLSHandshakeTimeout: cfg.AttemptTimeout,
		IdleConnTimeout:     90 * time.Second,
		DisableCompression:  true,
		Protocols:           protocols,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: cfg.ProbeEvery, PingTimeout: cfg.ProbeTimeout},
	}
}

// baseURL checks an address and returns it as a URL without a trailing slash.
func baseURL(address string) (string, error) {
	s := address
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("address %q is no base URL: give one like http://127.0.0.1:8080", address)
	}
	return u.Scheme + "://" + strings.ToLower(u.Host) + strings.TrimRight(u.EscapedPath(), "/"), nil
}

// Close ends Run and all calls, which fail with ErrClosed, and waits for them
// and for what is left of calls that were answered. Watches end too, but may
// be waited for by their loops alone. It may be called more than once, and not
// by an event.
func (c *Client) Close() {
	c.close()
	c.own.Lock()
	c.ended = true
	c.own.Unlock()
	c.work.Wait()
	c.unary.CloseIdleConnections()
	c.streams.CloseIdleConnections()
}

// begin counts work that Close waits for; done ends it.
func (c *Client) begin() (done func(), err error) {
	c.own.Lock()
	defer c.own.Unlock()
	if c.ended {
		return nil, ErrClosed
	}
	c.work.Add(1)
	return c.work.Done, nil
}

// withClosed returns a context that ends with the client too.
func (c *Client) withClosed(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.closed, func() { cancel(ErrClosed) })
	return ctx, func() { stop(); cancel(nil) }
}

// service returns the clients of the region at an address.
func (c *Client) service(address string) service {
	c.own.Lock()
	defer c.own.Unlock()
	s, ok := c.services[address]
	if !ok {
		s = service{
			unary:   cartv1connect.NewCartServiceClient(c.unary, address, options...),
			streams: cartv1connect.NewCartServiceClient(c.streams, address, options...),
		}
		c.services[address] = s
	}
	return s
}

// answerBytesMax bounds one answer: the largest cart is far below it.
const answerBytesMax = 16 << 20

// Answers are small: packing them costs more than their bytes.
var options = []connect.ClientOption{
	connect.WithAcceptCompression("gzip", nil, nil),
	connect.WithReadMaxBytes(answerBytesMax),
}

// Status is a snapshot of what a client knows.
type Status struct {
	// Regions are in the order in which a call would ask them: the first is
	// the chosen one.
	Regions []RegionStatus
	Budget  float64 // retries and hedges that could be made now
}

// RegionStatus is what a client knows of one region.
type RegionStatus struct {
	Region   string // "" while no list names it
	Address  string
	Listed   bool
	Healthy  bool
	RTT      time.Duration // smoothed; 0: never measured
	Failures int           // in a row
	// HedgeAfter is how long a read there waits before it asks a second region.
	HedgeAfter time.Duration
}

// Status returns what the client knows now.
func (c *Client) Status() Status { return c.status() }
