package client_test

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/rpc"
	"github.com/samecart/samecart/rpc/catalog"
	"github.com/samecart/samecart/rpc/client"
)

// fakeRegion is an rpc.Region for tests that only adds, each op id once.
type fakeRegion struct {
	replica crdt.Replica

	mu      sync.Mutex // guards what follows
	cart    *crdt.Cart
	ops     map[string]*regionv1.Outcome
	changed chan struct{}
}

func newFakeRegion(id crdt.RegionID) *fakeRegion {
	return &fakeRegion{
		replica: crdt.Replica{Region: id, Incarnation: 1}, cart: &crdt.Cart{},
		ops: map[string]*regionv1.Outcome{}, changed: make(chan struct{}),
	}
}

// put is called with mu held.
func (r *fakeRegion) put(c *crdt.Cart) {
	r.cart = c
	close(r.changed)
	r.changed = make(chan struct{})
}

// gossip brings all that from has to r.
func (r *fakeRegion) gossip(from *fakeRegion) {
	from.mu.Lock()
	c := from.cart
	from.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.put(crdt.Join(r.cart, c))
}

// view is called with mu held.
func (r *fakeRegion) view(id string) region.View {
	sum := sha256.Sum256(r.cart.Encode(nil))
	return region.View{CartID: id, State: crdt.State{Cart: r.cart}, Digest: region.Digest(sum[:16])}
}

// Edit implements rpc.Region.
func (r *fakeRegion) Edit(_ context.Context, e *regionv1.Edit) (*regionv1.Outcome, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.ops[string(e.GetOpId())]; ok {
		return old, nil
	}
	out := &regionv1.Outcome{}
	for _, ch := range e.GetChanges() {
		k := crdt.LineKey{Seller: ch.GetLine().GetSeller(), SKU: ch.GetLine().GetSku()}
		w := crdt.Writer{Replica: r.replica, At: crdt.TimestampAt(1_700_000_000_000), QuantityMax: 999}
		r.put(r.cart.Apply(r.cart.Add(w, k, ch.GetQuantity(), crdt.Offer{Price: ch.GetPrice(), Currency: ch.GetCurrency(), AddedAt: w.At}, false)))
		out.Lines = append(out.Lines, &regionv1.ChangedLine{Line: ch.GetLine(), Quantity: r.cart.Lines.Find(k).Visible().Quantity})
	}
	v := r.view("")
	out.ItemCount, out.Context, out.Digest = r.cart.ItemCount(999), r.cart.Context.Encode(nil), v.Digest[:]
	r.ops[string(e.GetOpId())] = &regionv1.Outcome{Lines: out.Lines, ItemCount: out.ItemCount, Context: out.Context, Digest: out.Digest, Replayed: true}
	return out, nil
}

// Read implements rpc.Region.
func (r *fakeRegion) Read(_ context.Context, id string, o region.ReadOptions) (region.View, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.view(id)
	v.Stale = o.HasToken && !r.cart.Context.Covers(o.Context)
	return v, nil
}

// Wait implements rpc.Region.
func (r *fakeRegion) Wait(ctx context.Context, id string, seen region.Digest) (region.View, error) {
	for {
		r.mu.Lock()
		v, changed := r.view(id), r.changed
		r.mu.Unlock()
		if v.Digest != seen {
			return v, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return v, ctx.Err()
		}
	}
}

// MergeGuest implements rpc.Region; nobody merges here.
func (r *fakeRegion) MergeGuest(context.Context, string, string) (*regionv1.Outcome, error) {
	return nil, region.ErrClosed
}

// Redeem implements rpc.Region.
func (r *fakeRegion) Redeem(context.Context, *regionv1.Spend) (*regionv1.Outcome, error) {
	return nil, region.ErrNoQuorum
}

// Ready implements rpc.Region.
func (r *fakeRegion) Ready(context.Context) error { return nil }

// farConn is a connection whose bytes are on their way for long.
type farConn struct{ net.Conn }

// Read implements net.Conn.
func (c farConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	<-time.After(30 * time.Millisecond)
	return n, err
}

// farFrom is a transport to which one address is far away.
func farFrom(far string) *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, addr)
		if err == nil && addr == far {
			conn = farConn{conn}
		}
		return conn, err
	}}
}

// TestRealServers holds the client together with the real handler, over real
// connections: tokens above all, which the client reads.
func TestRealServers(t *testing.T) {
	products, err := catalog.New()
	if err != nil {
		t.Fatal(err)
	}
	var infos []rpc.RegionInfo
	var fakes []*fakeRegion
	var servers []*httptest.Server
	for i, name := range []string{"us", "eu"} {
		cfg := rpc.DefaultConfig(name)
		cfg.Regions = func(context.Context) []rpc.RegionInfo { return infos }
		f := newFakeRegion(crdt.RegionID(i + 1))
		h, err := rpc.NewHandler(cfg, f, products, rpc.TrustedHeaders{}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		srv := httptest.NewUnstartedServer(h)
		srv.Config = rpc.NewServer("", h, slog.New(slog.DiscardHandler))
		srv.Start()
		t.Cleanup(func() { h.Drain(); srv.Close() })
		fakes, servers = append(fakes, f), append(servers, srv)
		infos = append(infos, rpc.RegionInfo{Region: name, Address: srv.URL, Healthy: true})
	}
	us, eu := fakes[0], fakes[1]

	cfg := client.DefaultConfig()
	transport := farFrom(servers[1].Listener.Addr().String())
	t.Cleanup(transport.CloseIdleConnections)
	cfg.Transport = transport
	c, err := client.New(servers[0].URL, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s := c.Session(client.User("user-123"))
	add := func(want string) client.Answer[cartv1.ItemResponse] {
		t.Helper()
		a, err := s.Add(ctx, &cartv1.AddItemRequest{Line: &cartv1.LineRef{SkuId: "SKU-456"}, Quantity: 1})
		if err != nil || a.Region != want {
			t.Fatalf("%+v, %v", a, err)
		}
		return a
	}
	if a := add("us"); a.Stale || a.Replayed || a.ETag == "" || a.OpID == "" {
		t.Errorf("%+v", a)
	}
	eu.gossip(us)
	add("us")

	shown := make(chan client.Update, 10)
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		for u, err := range s.Watch(ctx) {
			if err != nil {
				return
			}
			shown <- u
		}
	}()
	next := func() client.Update {
		t.Helper()
		select {
		case u := <-shown:
			return u
		case <-ctx.Done():
			t.Fatal("nothing is shown")
			return client.Update{}
		}
	}
	if u := next(); u.Stale || u.Region != "us" || u.Cart.GetItemCount() != 2 {
		t.Errorf("shown %v", u)
	}

	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	for measured := 0; measured < 2; {
		measured = 0
		for _, r := range c.Status().Regions {
			if r.Listed && r.RTT > 0 {
				measured++
			}
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%+v", c.Status())
		}
	}
	if err := servers[0].Config.Close(); err != nil { // its port, then all its connections
		t.Fatal(err)
	}
	if u := next(); !u.Stale || u.Region != "eu" || u.Cart.GetItemCount() != 1 {
		t.Errorf("shown by the other region: %v", u)
	}
	a, err := s.Get(ctx)
	if err != nil || !a.Stale || a.Region != "eu" || a.Msg.GetItemCount() != 1 {
		t.Errorf("%+v, %v", a, err)
	}
	eu.gossip(us)
	if u := next(); u.Stale || u.Cart.GetItemCount() != 2 {
		t.Errorf("shown after the rows came: %v", u)
	}
	if a := add("eu"); a.Stale || a.Msg.GetItemCount() != 3 {
		t.Errorf("%+v", a)
	}
	n, err := s.Count(ctx, client.Strong())
	if err != nil || n.Stale || n.Msg.GetItemCount() != 3 {
		t.Errorf("%+v, %v", n, err)
	}
	x, err := s.Explain(ctx)
	if err != nil || x.Stale || len(x.Msg.GetLines()) != 1 {
		t.Errorf("%+v, %v", x, err)
	}
	c.Close()
	<-watching
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
}
