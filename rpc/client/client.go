package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
	cfg     Config
	seed    string
	unary   *http.Client
	streams *http.Client
	closed  context.Context
	close   context.CancelFunc
	poke    chan struct{} // a region wants to be probed at once
	running sync.Mutex    // held by Run
	work    sync.WaitGroup

	mu       sync.Mutex // guards what follows
	ended    bool
	regions  *regions
	budget   budget
	services map[string]service
	moved    chan struct{} // closed and replaced when calls move to another region
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
	c := &Client{
		cfg: cfg, seed: seed, poke: make(chan struct{}, 1),
		regions: newRegions(cfg, seed), budget: newBudget(cfg), services: make(map[string]service),
		moved: make(chan struct{}),
		unary: &http.Client{Transport: cfg.Transport}, streams: &http.Client{Transport: cfg.StreamTransport},
	}
	if cfg.Transport == nil {
		c.unary.Transport = unaryTransport(cfg)
	}
	if cfg.StreamTransport == nil {
		c.streams.Transport = streamTransport(cfg)
	}
	c.closed, c.close = context.WithCancel(context.Background())
	return c, nil
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
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.work.Wait()
	c.unary.CloseIdleConnections()
	c.streams.CloseIdleConnections()
}

// begin counts work that Close waits for; done ends it.
func (c *Client) begin() (done func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
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
	c.mu.Lock()
	defer c.mu.Unlock()
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

// update changes the core and passes on what it tells.
func (c *Client) update(change func(now time.Time) notices) {
	c.mu.Lock()
	n := change(time.Now())
	if len(n.moved) > 0 {
		close(c.moved)
		c.moved = make(chan struct{})
	}
	c.mu.Unlock()
	for _, h := range n.health {
		tell(c.cfg.Events.Health, h)
	}
	for _, m := range n.moved {
		tell(c.cfg.Events.Moved, m)
	}
}

func (c *Client) succeeded(address string) {
	c.update(func(now time.Time) notices { return c.regions.succeeded(now, address) })
}

func (c *Client) failed(address, why string) {
	look := false
	c.update(func(now time.Time) (n notices) {
		n, look = c.regions.failed(now, address, why)
		return n
	})
	if look {
		select {
		case c.poke <- struct{}{}:
		default: // Run is about to look
		}
	}
}

// order returns the regions in the order in which a call asks them.
func (c *Client) order(detour string) (addresses []string, fit int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.regions.order(detour)
}

func (c *Client) label(address string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.regions.label(address)
}

// called brings a call's share to the budget.
func (c *Client) called() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.budget.called(time.Now())
}

// spend takes what a retry or a hedge costs.
func (c *Client) spend(procedure string, hedge bool) bool {
	c.mu.Lock()
	ok := c.budget.take(time.Now())
	c.mu.Unlock()
	if !ok {
		tell(c.cfg.Events.Exhausted, Exhausted{Procedure: procedure, Hedge: hedge})
	}
	return ok
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
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.budget.fill(time.Now())
	s := Status{Budget: c.budget.tokens}
	for _, address := range c.regions.sorted {
		p := c.regions.find(address)
		after, _ := c.regions.hedgeAfter(address)
		s.Regions = append(s.Regions, RegionStatus{
			Region: p.name, Address: p.address, Listed: p.listed, Healthy: p.healthy, RTT: p.rtt, Failures: p.failures, HedgeAfter: after,
		})
	}
	return s
}

// pause waits, unless ctx ends before.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func jitter() float64 { return rand.Float64() }
