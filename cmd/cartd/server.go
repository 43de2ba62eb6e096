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
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/region/cache"
	"github.com/samecart/samecart/region/link"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/replication"
	"github.com/samecart/samecart/rpc"
	"github.com/samecart/samecart/rpc/catalog"
)

// server is a process of a region that runs as many: a node or a gateway.
type server struct {
	conf    deployed
	self    string // name on the links
	certs   *certificates
	auth    rpc.Authenticator
	faults  *faults
	drills  bool
	forward bool // calls to other regions; a gateway's
	metrics *metrics
	log     *slog.Logger
	place   place
	clients map[string]*rpc.PeerClient // the direct ways to the other regions
	peers   map[string]*rpc.Route
	router  *region.Router
	mux     *link.Mux
	hot     cache.Cache
	failed  chan error
}

func newServer(conf deployed, self string, log *slog.Logger) (*server, error) {
	s := &server{
		conf: conf, self: self, faults: newFaults(), metrics: newMetrics(),
		log: log.With(slog.String("region", conf.Region)), failed: make(chan error, 1), clients: make(map[string]*rpc.PeerClient),
	}
	var err error
	if s.certs, err = loadCertificates(conf); err != nil {
		return nil, err
	}
	if s.auth, err = loadAuthenticator(conf); err != nil {
		return nil, err
	}
	cfg := cache.DefaultConfig()
	cfg.Prefix, cfg.Log = conf.Cluster+":"+conf.Region+":", s.log
	if s.hot, err = cache.Open(conf.Redis, cfg); err != nil {
		return nil, fmt.Errorf("--redis: %w", err)
	}
	s.place = place{
		cluster: conf.Cluster, region: conf.Region, id: crdt.RegionID(conf.Regions[conf.Region]), nodes: conf.names(), shards: conf.Shards,
		dial: s.dialNode, verify: s.certs.verifyNode(), hot: s.hot, limits: conf.limits, metrics: s.metrics, log: s.log,
	}
	return s, nil
}

// loadAuthenticator reads the keys that callers' tokens are checked with.
func loadAuthenticator(conf deployed) (rpc.Authenticator, error) {
	if len(conf.TokenKey) == 0 {
		return rpc.TrustedHeaders{}, nil // validate has seen that this is meant
	}
	auth, err := rpc.LoadTokenAuthenticator(conf.TokenKey...)
	if err != nil {
		return nil, fmt.Errorf("--token-key: %w", err)
	}
	return auth, nil
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

// connectPeers makes the ways to the other regions.
func (s *server) connectPeers(peers map[string]string) error {
	ways := make(map[crdt.RegionID]way)
	ids := map[string]uint16{s.conf.Region: s.conf.Regions[s.conf.Region]}
	for name, urls := range peers {
		id := crdt.RegionID(s.conf.Regions[name])
		client, w, err := s.wayTo(id, name, splitURLs(urls))
		if err != nil {
			return fmt.Errorf("--peers %s: %w", name, err)
		}
		s.clients[name], ways[id], ids[name] = client, w, uint16(id)
	}
	var err error
	if s.peers, err = routes(s.clients, s.log); err != nil {
		return err
	}
	for id, w := range ways {
		ways[id] = w.over(s.peers[w.gossip.Name])
	}
	s.place.roster = newRoster(s.conf.Region, ids, ways, s.log)
	s.place.roster.connect = func(m *membershipv1.Member) (way, error) {
		client, w, err := s.wayTo(crdt.RegionID(m.RegionId), m.Region, m.Peers)
		if err != nil {
			return w, err
		}
		// Others may not know it yet, so there is no way around.
		direct, err := routes(map[string]*rpc.PeerClient{m.Region: client}, s.log)
		return w.over(direct[m.Region]), err
	}
	s.place.fetcher = fetcher{s.place.roster}
	return nil
}

// wayTo makes the way to another region.
func (s *server) wayTo(id crdt.RegionID, name string, urls []string) (*rpc.PeerClient, way, error) {
	dial, conf := s.faults.dialer(s.conf.Region, name), s.certs.clientConfig()
	client, err := peerClient(s.conf.Region, dial, conf, urls)
	if err != nil {
		return nil, way{}, err
	}
	member, err := membershipClient(s.conf.Region, dial, conf, urls)
	if err != nil {
		return nil, way{}, err
	}
	return client, way{gossip: replication.PeerRegion{ID: id, Name: name}, member: member}, nil
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
func (s *server) handler(serves rpc.Region) (http.Handler, error) {
	products, err := s.products()
	if err != nil {
		return nil, err
	}
	return surface{
		region: s.conf.Region, names: namesOf(s.conf.Regions), regions: s.regionInfos, serves: serves, catalog: products,
		auth: s.auth, admin: admin{s}, limits: s.conf.limits, metrics: s.metrics, log: s.log,
	}.handler()
}

// products is the shop's catalogue, or the embedded one.
func (s *server) products() (catalogv1connect.CatalogServiceClient, error) {
	if s.conf.Catalog == "" {
		return catalog.New()
	}
	return catalogv1connect.NewCatalogServiceClient(&http.Client{Timeout: s.conf.RequestTimeout}, s.conf.Catalog), nil
}

func (s *server) regionInfos(ctx context.Context) []rpc.RegionInfo {
	addresses := maps.Clone(s.conf.Addresses)
	if addresses == nil {
		addresses = make(map[string]string)
	}
	if r := s.place.roster; r != nil {
		for _, m := range r.newest().GetMembers() {
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

func (s *server) runNode(ctx context.Context, c *nodeCommand) (err error) {
	// All ports first: one that is taken must leave the data untouched.
	var listeners [3]net.Listener
	for i, l := range []struct{ flag, addr string }{{"--listen", c.Listen}, {"--link-listen", c.LinkListen}, {"--peer-listen", c.PeerListen}} {
		if listeners[i], err = listen(l.flag, l.addr); err != nil {
			return usageError{err}
		}
		defer func() { _ = listeners[i].Close() }() // mostly closed by its server
	}
	if err := s.connectPeers(c.Peers); err != nil {
		return usageError{err}
	}
	s.place.incarnation, s.place.mayForm = c.Incarnation, func(ctx context.Context) (uint32, error) {
		return mayForm(ctx, s.place, s.peers)
	}
	sz := sizes{
		memtable: c.Memtable, cartCache: c.CartCache, segment: 64 << 20,
		retainRows: c.RetainRows, repairBandwidth: c.RepairBandwidth, catchupRate: c.CatchupRate, linkBandwidth: c.LinkBandwidth, timing: shard.DefaultTiming(),
	}
	linkLn := listeners[1]
	if s.certs != nil {
		linkLn = s.certs.listener(linkLn)
	}
	m, err := openMember(s.place, c.name(), c.Data, sz, s.fail)
	if err != nil {
		return mendable(err)
	}
	s.router, s.mux = m.node.Router, m.mux
	s.place.roster.attach(s.router)
	s.metrics.members.of(s.place.roster)
	following, unfollow := context.WithCancel(ctx)
	defer unfollow()
	go s.place.roster.run(following)
	m.mux.Handle(kindFault, s.onFault) // before anybody can call it
	m.start(linkLn)
	defer func() { err = errors.Join(err, m.stop()) }()
	inbound, err := peerServer(s.router, s.place.roster, s.clients, s.certs.identity(s.place.roster.regions))
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
	return s.runAPI(ctx, m.node, listeners[0])
}

func (s *server) serveTLS(h *http.Server, ln net.Listener) {
	if err := h.ServeTLS(ln, "", ""); err != nil && !errors.Is(err, http.ErrServerClosed) {
		s.fail(fmt.Errorf("serve %s: %w", ln.Addr(), err))
	}
}

// runAPI serves the public port until ctx ends.
func (s *server) runAPI(ctx context.Context, serves rpc.Region, ln net.Listener) (err error) {
	h, err := s.handler(serves)
	if err != nil {
		return usageError{err}
	}
	forwarder, err := s.forwarder(h)
	if err != nil {
		return usageError{err}
	}
	if forwarder != nil {
		h = forwarder
		measuring, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- forwarder.Run(measuring) }()
		defer func() { stop(); err = errors.Join(err, <-ended) }()
	}
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
	if s.mux, err = s.place.mux(s.self, shard.DefaultTiming().Heartbeat); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.mux.Close(), s.hot.Close()) }()
	s.router, s.forward = region.NewRouter(s.place.routerConfig(), s.mux), c.Forward
	return s.runAPI(ctx, s.router, ln)
}

var _ operations = (*server)(nil)

// regions says what this process knows: its own region in full, of the
// others whether they answer.
func (s *server) regions(ctx context.Context) *adminv1.RegionsResponse {
	out := &adminv1.RegionsResponse{}
	if r := s.place.roster; r != nil {
		out.Membership = r.newest()
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
		return sink{s.router}, nil
	}
	if p, ok := s.peers[name]; ok {
		return p, nil
	}
	return nil, fmt.Errorf("%w: region %q is not scanned from here; ask at its own address", errUnknown, name)
}

func (s *server) carts(name string) (carts, error) {
	if name != s.conf.Region {
		return nil, fmt.Errorf("%w: carts of region %q are not read whole or joined from here; ask at its own address", errUnknown, name)
	}
	if s.place.roster == nil {
		return nil, fmt.Errorf("%w: a gateway reaches no other region, which may have collected carts; ask a node", errRefused)
	}
	return restorable{sink{s.router}, s.place.roster}, nil
}

func (s *server) member(ctx context.Context, req *adminv1.MemberRequest) (*membershipv1.Membership, error) {
	if s.place.roster == nil {
		return nil, fmt.Errorf("%w: a gateway has no part in the membership; ask a node", errRefused)
	}
	return s.place.roster.changeMember(ctx, req)
}

func (s *server) repair(ctx context.Context, name, peer string) error {
	if name != s.conf.Region {
		return fmt.Errorf("%w: region %q is not repaired from here; ask at its own address", errUnknown, name)
	}
	if _, ok := s.peers[peer]; !ok {
		return fmt.Errorf("%w: region %q is no peer of %s", errUnknown, peer, name)
	}
	return s.router.Repair(ctx, peer)
}
