package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/samecart/samecart/crdt"
	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	"github.com/samecart/samecart/proto/catalog/v1/catalogv1connect"
	membershipv1 "github.com/samecart/samecart/proto/membership/v1"
	"github.com/samecart/samecart/proto/promotion/v1/promotionv1connect"
	"github.com/samecart/samecart/proto/shipping/v1/shippingv1connect"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/region/cache"
	"github.com/samecart/samecart/region/link"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/rpc"
	"github.com/samecart/samecart/rpc/catalog"
	"github.com/samecart/samecart/rpc/member"
)

// server is a process of a region that runs as many: a node or a gateway.
type server struct {
	conf    deployed
	self    string // name on the links
	certs   *certificates
	auth    rpc.Authenticator
	guests  *rpc.GuestSessions // nil: none are made here
	rules   promotionv1connect.PromotionServiceClient
	faults  *faults
	drills  bool
	clock   skewed
	forward bool // calls to other regions; a gateway's
	metrics *metrics
	log     *slog.Logger
	place   member.Place
	part    *member.Part // nil for a gateway, which reaches no other region
	router  *region.Router
	mux     *link.Mux
	hot     cache.Cache
	failed  chan error
}

func newServer(conf deployed, self string, log *slog.Logger) (*server, error) {
	s := &server{
		conf: conf, self: self, faults: newFaults(), metrics: newMetrics(),
		log: log.With(slog.String("region", conf.Region)), failed: make(chan error, 1),
	}
	var err error
	if s.certs, err = loadCertificates(conf); err != nil {
		return nil, err
	}
	if s.guests, err = loadGuests(conf); err != nil {
		return nil, err
	}
	if s.auth, err = loadAuthenticator(conf, s.guests); err != nil {
		return nil, err
	}
	if s.rules, err = conf.service(conf.RequestTimeout); err != nil {
		return nil, err
	}
	cfg := cache.DefaultConfig()
	cfg.Prefix, cfg.Log = conf.Cluster+":"+conf.Region+":", s.log
	if s.hot, err = cache.Open(conf.Redis, cfg); err != nil {
		return nil, fmt.Errorf("--redis: %w", err)
	}
	s.place = member.Place{
		Cluster: conf.Cluster, Region: conf.Region, ID: crdt.RegionID(conf.Regions[conf.Region]), Nodes: conf.names(), Shards: conf.Shards,
		Dial: s.dialNode, Verify: s.certs.verifyNode(), Cache: s.hot, Limits: conf.ofCarts(), Events: s.metrics.events(conf.Region), Log: s.log,
	}
	return s, nil
}

// loadAuthenticator reads the keys that callers' tokens are checked with.
func loadAuthenticator(conf deployed, guests *rpc.GuestSessions) (rpc.Authenticator, error) {
	if len(conf.TokenKey) == 0 {
		return rpc.TrustedHeaders{}, nil // validate has seen that this is meant
	}
	auth, err := rpc.LoadTokenAuthenticator(conf.TokenKey...)
	if err != nil {
		return nil, fmt.Errorf("--token-key: %w", err)
	}
	return auth.WithGuests(guests), nil
}

// loadGuests reads the key that guest sessions are signed with.
func loadGuests(conf deployed) (*rpc.GuestSessions, error) {
	switch {
	case conf.GuestKey != "":
		guests, err := rpc.LoadGuestSessions(conf.GuestKey)
		if err != nil {
			return nil, fmt.Errorf("--guest-key: %w", err)
		}
		return guests, nil
	case len(conf.TokenKey) == 0: // on trust: nobody checks what is signed
		return rpc.EphemeralGuestSessions()
	}
	return nil, nil
}

// dialNode opens a link to a node of this region.
func (s *server) dialNode(ctx context.Context, node string) (net.Conn, error) {
	addr, ok := s.conf.Nodes[node]
	if !ok {
		return nil, fmt.Errorf("node %q is none of --nodes", node)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil || s.certs == nil {
		return c, err
	}
	return s.certs.client(ctx, c, addr)
}

// peers are the other regions as --peers has them.
func (s *server) peers(urls map[string]string) member.Peers {
	out := member.Peers{
		Regions: make(map[string]member.Peer, len(urls)),
		Dial:    func(name string) member.DialFunc { return s.faults.dialer(s.conf.Region, name) },
		TLS:     s.certs.clientConfig(), Newcomers: true,
	}
	for name, list := range urls {
		out.Regions[name] = member.Peer{ID: crdt.RegionID(s.conf.Regions[name]), URLs: splitURLs(list)}
	}
	return out
}

func splitURLs(list string) []string {
	var out []string
	for u := range strings.SplitSeq(list, ",") {
		if u = strings.TrimSpace(u); u != "" {
			out = append(out, strings.TrimSuffix(u, "/"))
		}
	}
	return out
}

// handler is the public API.
func (s *server) handler(serves rpc.Region) (*rpc.Handler, error) {
	products, err := s.products()
	if err != nil {
		return nil, err
	}
	sends, err := s.shipping()
	if err != nil {
		return nil, err
	}
	key, err := s.conf.key(s.log)
	if err != nil {
		return nil, err
	}
	return s.place.Handler(member.Surface{
		ShareKey: key, ShareURL: s.conf.ShareURL,
		Serves: serves, Names: namesOf(s.conf.Regions), Regions: s.regionInfos, Catalog: products, Shipping: sends, Promotions: s.rules,
		Auth: s.auth, Guests: s.guests, RequestTimeout: s.conf.RequestTimeout, Mounts: mounts(s, s.metrics),
	})
}

// products is the shop's catalogue, or the embedded one.
func (s *server) products() (rpc.Catalog, error) {
	if s.conf.Catalog == "" {
		return catalog.New()
	}
	// No timeout of the client's own: changes come in a stream, look-ups have one.
	return rpc.RemoteCatalog{CatalogServiceClient: catalogv1connect.NewCatalogServiceClient(new(http.Client), s.conf.Catalog)}, nil
}

// shipping is the shop's shipping service, or the embedded one.
func (s *server) shipping() (shippingv1connect.ShippingServiceClient, error) {
	if s.conf.Shipping == "" {
		return s.conf.embeddedShipping()
	}
	return shippingv1connect.NewShippingServiceClient(&http.Client{Timeout: s.conf.RequestTimeout}, s.conf.Shipping), nil
}

func (s *server) regionInfos(ctx context.Context) []rpc.RegionInfo {
	addresses := maps.Clone(s.conf.Addresses)
	if addresses == nil {
		addresses = make(map[string]string)
	}
	if s.part != nil {
		for _, m := range s.part.Roster.Newest().GetMembers() {
			if m.Address != "" {
				addresses[m.Region] = m.Address
			}
			if m.State == membershipv1.State_STATE_REMOVED {
				delete(addresses, m.Region)
			}
		}
	}
	var out []rpc.RegionInfo
	for _, name := range sortedKeys(addresses) {
		addr := addresses[name]
		info := rpc.RegionInfo{Region: name, Address: addr}
		if name == s.conf.Region {
			info.Healthy = s.router.Ready(ctx) == nil
		} else {
			info.Healthy = ready(ctx, addr)
		}
		out = append(out, info)
	}
	return out
}

// ready asks another region's load balancer.
func ready(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(addr, "/")+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close() // nothing of it is wanted
	return resp.StatusCode == http.StatusOK
}

func (s *server) fail(err error) {
	select {
	case s.failed <- err:
	default: // another came first
	}
}

func (s *server) serve(h *http.Server, ln net.Listener) {
	if err := h.Serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
		s.fail(fmt.Errorf("serve %s: %w", ln.Addr(), err))
	}
}

// wait returns when ctx ends, or with what ends the process before.
func (s *server) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.failed:
		return mendable(err)
	}
}

// mendable marks what is wrong with a data directory as the caller's to mend.
func mendable(err error) error {
	var lost member.LostError
	if errors.As(err, &lost) {
		return usageError{err}
	}
	for _, e := range []error{region.ErrForeignData, region.ErrDamagedData, region.ErrInUse} {
		if errors.Is(err, e) {
			return usageError{err}
		}
	}
	return err
}

// listen opens a port; one that is taken is the caller's to mend.
func listen(flag, addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s %s is in use; stop what uses it, or give another address", flag, addr)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return ln, nil
}

// Run runs one node of a region until ctx ends.
func (c *nodeCommand) Run(ctx context.Context, log *slog.Logger) error {
	if err := c.validate(); err != nil {
		return usageError{err}
	}
	useMemory(log)
	s, err := newServer(c.deployed, c.name(), log)
	if err != nil {
		return usageError{err}
	}
	s.drills = c.Drills
	return s.runNode(ctx, c)
}

// settings are the node's, of its flags.
func (c *nodeCommand) settings() member.Config {
	cfg := member.DefaultConfig()
	cfg.MemtableBytes, cfg.CacheBytes, cfg.RetainRows = c.Memtable, c.CartCache, c.RetainRows
	cfg.Gossip.CatchupRate, cfg.RepairBandwidth, cfg.LinkBandwidth = c.CatchupRate, c.RepairBandwidth, c.LinkBandwidth
	return cfg
}

func (s *server) runNode(ctx context.Context, c *nodeCommand) (err error) {
	// All ports first: one that is taken must leave the data untouched.
	var listeners [3]net.Listener
	for i, l := range []struct{ flag, addr string }{{"--listen", c.Listen}, {"--link-listen", c.LinkListen}, {"--peer-listen", c.PeerListen}} {
		if listeners[i], err = listen(l.flag, l.addr); err != nil {
			return usageError{err}
		}
		defer func() { _ = listeners[i].Close() }() // mostly closed by its server
	}
	s.place.Incarnation = c.Incarnation
	if s.part, err = member.Connect(s.place, s.peers(c.Peers)); err != nil {
		return usageError{fmt.Errorf("--peers %w", err)}
	}
	linkLn := listeners[1]
	if s.certs != nil {
		linkLn = s.certs.listener(linkLn)
	}
	cfg := c.settings()
	if s.drills {
		cfg.Tune = func(c *region.Config) { c.Machine.Clock = s.clock.now }
	}
	m, err := s.part.Open(c.name(), c.Data, cfg, s.fail)
	if err != nil {
		return mendable(err)
	}
	s.router, s.mux = m.Node.Router, m.Mux
	s.part.Attach(s.router)
	s.metrics.members.of(c.Region, s.part.Roster)
	following, unfollow := context.WithCancel(ctx)
	defer unfollow()
	go s.part.Run(following)
	m.Mux.Handle(kindFault, s.onFault) // before anybody can call it
	m.Start(linkLn)
	defer func() { err = errors.Join(err, m.Stop()) }()
	inbound, err := s.part.PeerServer(s.certs.identity(s.part.Roster.Regions))
	if err != nil {
		return err
	}
	inbound.Handler = s.faults.guard(c.Region, inbound.Handler)
	if s.certs != nil {
		inbound.TLSConfig = s.certs.serverConfig()
		go s.serveTLS(inbound, listeners[2])
	} else {
		go s.serve(inbound, listeners[2])
	}
	defer func() { _ = inbound.Close() }() // peers repeat what was not acknowledged
	return s.runAPI(ctx, m.Node, listeners[0])
}

func (s *server) serveTLS(h *http.Server, ln net.Listener) {
	if err := h.ServeTLS(ln, "", ""); err != nil && !errors.Is(err, http.ErrServerClosed) {
		s.fail(fmt.Errorf("serve %s: %w", ln.Addr(), err))
	}
}

// runAPI serves the public port until ctx ends.
func (s *server) runAPI(ctx context.Context, serves rpc.Region, ln net.Listener) (err error) {
	own, err := s.handler(serves)
	if err != nil {
		return usageError{err}
	}
	forwarder, err := s.forwarder(own)
	if err != nil {
		return usageError{err}
	}
	h := http.Handler(own)
	beside := []func(context.Context) error{own.Run}
	if forwarder != nil {
		h = forwarder
		beside = append(beside, forwarder.Run)
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, len(beside))
	for _, run := range beside {
		go func() { ended <- run(running) }()
	}
	defer func() {
		stop()
		for range beside {
			err = errors.Join(err, <-ended)
		}
	}()
	public := rpc.NewServer(ln.Addr().String(), h, s.log)
	go s.serve(public, ln)
	s.log.Info("serves", slog.String("node", s.self), slog.String("address", ln.Addr().String()))
	defer shutdown(public)
	return s.wait(ctx)
}

// Run runs a gateway until ctx ends.
func (c *gatewayCommand) Run(ctx context.Context, log *slog.Logger) (err error) {
	if err := c.validate(); err != nil {
		return usageError{err}
	}
	useMemory(log)
	s, err := newServer(c.deployed, c.Region+"/gateway", log)
	if err != nil {
		return usageError{err}
	}
	ln, err := listen("--listen", c.Listen)
	if err != nil {
		return usageError{err}
	}
	defer func() { _ = ln.Close() }() // mostly closed by its server
	if s.router, s.mux, err = s.place.Gateway(s.self, shard.DefaultTiming().Heartbeat); err != nil {
		return err
	}
	s.forward = c.Forward
	defer func() { err = errors.Join(err, s.mux.Close(), s.hot.Close()) }()
	return s.runAPI(ctx, s.router, ln)
}

var _ operations = (*server)(nil)

// regions says what this process knows: its own region in full, of the
// others whether they answer.
func (s *server) regions(ctx context.Context) *adminv1.RegionsResponse {
	out := &adminv1.RegionsResponse{}
	if s.part != nil {
		out.Membership = s.part.Roster.Newest()
	}
	for _, name := range sortedKeys(s.conf.Regions) {
		if name == s.conf.Region {
			out.Regions = append(out.Regions, statusOf(s.place, s.conf.Addresses[name], s.router.Status(ctx)))
			continue
		}
		addr := s.conf.Addresses[name]
		out.Regions = append(out.Regions, &adminv1.RegionStatus{Region: name, Address: addr, Ready: addr != "" && ready(ctx, addr)})
		p := pairOf(s.conf.Region, name)
		cut, delay := s.faults.state(p)
		out.Links = append(out.Links, &adminv1.LinkStatus{A: p.a, B: p.b, Cut: cut, DelayMs: delay.Milliseconds()})
	}
	return out
}

func (s *server) buckets(name string) (buckets, error) {
	if name == s.conf.Region {
		return member.Sink{Router: s.router}, nil
	}
	if route, ok := s.route(name); ok {
		return route, nil
	}
	return nil, fmt.Errorf("%w: region %q is not scanned from here; ask at its own address", errUnknown, name)
}

// route is the way to another region; a gateway has none.
func (s *server) route(name string) (*rpc.Route, bool) {
	if s.part == nil {
		return nil, false
	}
	return s.part.Route(name)
}

func (s *server) carts(name string) (carts, error) {
	if name != s.conf.Region {
		return nil, fmt.Errorf("%w: carts of region %q are not read whole or joined from here; ask at its own address", errUnknown, name)
	}
	if s.part == nil {
		return nil, fmt.Errorf("%w: a gateway reaches no other region, which may have collected carts; ask a node", errRefused)
	}
	return s.part.Restorable(), nil
}

func (s *server) member(ctx context.Context, req *adminv1.MemberRequest) (*membershipv1.Membership, error) {
	if s.part == nil {
		return nil, fmt.Errorf("%w: a gateway has no part in the membership; ask a node", errRefused)
	}
	return changeMember(ctx, s.part.Roster, req)
}

func (s *server) catalogue() (*catalog.Catalog, error) {
	return nil, fmt.Errorf("%w: products are edited in the shop's own catalogue; only that of cartd dev takes edits here", errRefused)
}

func (s *server) repair(ctx context.Context, name, peer string) error {
	if name != s.conf.Region {
		return fmt.Errorf("%w: region %q is not repaired from here; ask at its own address", errUnknown, name)
	}
	if _, ok := s.route(peer); !ok {
		return fmt.Errorf("%w: region %q is no peer of %s", errUnknown, peer, name)
	}
	return s.router.Repair(ctx, peer)
}
