package rpc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"

	"github.com/samecart/samecart/crdt"
	replicationv1 "github.com/samecart/samecart/proto/replication/v1"
	"github.com/samecart/samecart/proto/replication/v1/replicationv1connect"
	"github.com/samecart/samecart/replication"
)

// peerRegionFake is one region of one shard in memory: replication's Log
// and Sink, without a Raft log behind them.
type peerRegionFake struct {
	repairs string // the region that it says it repairs
	id      crdt.RegionID

	mu      sync.Mutex
	carts   map[string]*crdt.Cart
	rows    []crdt.Row
	base    uint64 // rows up to it were trimmed
	changed chan struct{}
	cursors map[crdt.Stream]uint64
	acked   uint64
	fail    error
	hold    chan struct{} // Join waits for it

	collected []replication.CartDigest
	joins     int
}

func peerNewRegion(id crdt.RegionID) *peerRegionFake {
	return &peerRegionFake{id: id, carts: make(map[string]*crdt.Cart), changed: make(chan struct{}), cursors: make(map[crdt.Stream]uint64)}
}

func (r *peerRegionFake) add(cart, sku string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := crdt.TimestampAt(time.Now().UnixMilli())
	c := r.cart(cart)
	d := c.Add(crdt.Writer{Replica: crdt.Replica{Region: r.id, Incarnation: 1}, At: at},
		crdt.LineKey{Seller: "s", SKU: sku}, 1, crdt.Offer{Price: 1, Currency: "USD", AddedAt: at}, false)
	r.carts[cart] = c.Apply(d)
	seq := uint64(len(r.rows) + 1)
	r.rows = append(r.rows, crdt.Row{Seq: seq, Last: seq, CartID: cart, At: at, Delta: d})
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *peerRegionFake) cart(id string) *crdt.Cart {
	if c := r.carts[id]; c != nil {
		return c
	}
	return &crdt.Cart{}
}

func (r *peerRegionFake) Stream() crdt.Stream {
	return crdt.Stream{Region: r.id, Incarnation: 1, Shard: 3}
}
func (r *peerRegionFake) Slots() (uint32, uint32) { return 0, 4 }
func (r *peerRegionFake) LastSeq() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return uint64(len(r.rows))
}

func (r *peerRegionFake) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

func (r *peerRegionFake) ReadAfter(_ context.Context, seq uint64, _ int) (crdt.Interval, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	hi := min(seq+100, uint64(len(r.rows)))
	return crdt.Interval{Stream: r.Stream(), Lo: seq, Hi: hi, Rows: slices.Clone(r.rows[seq:hi])}, seq >= r.base, nil
}

func (r *peerRegionFake) Acked(seq, _ uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acked = seq
}

func (r *peerRegionFake) digest(id string) replication.Digest {
	h := sha256.Sum256(r.carts[id].Encode([]byte(id)))
	return replication.Digest(h[:16])
}

func (r *peerRegionFake) Digests(_ context.Context, lo, hi uint32) ([]replication.Digest, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]replication.Digest, hi-lo)
	for id := range r.carts {
		if s := uint32(id[len(id)-1]) % 4; s >= lo && s < hi {
			for i, b := range r.digest(id) {
				out[s-lo][i] ^= b
			}
		}
	}
	return out, r.fail
}

func (r *peerRegionFake) Bucket(_ context.Context, slot uint32, after string, limit int) ([]replication.CartDigest, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []replication.CartDigest
	for _, id := range slices.Sorted(maps.Keys(r.carts)) {
		if uint32(id[len(id)-1])%4 == slot && id > after {
			out = append(out, replication.CartDigest{CartID: id, Digest: r.digest(id)})
		}
	}
	n := min(limit, len(out))
	return out[:n], n < len(out), r.fail
}

func (r *peerRegionFake) States(_ context.Context, ids []string) ([]replication.WholeCart, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]replication.WholeCart, 0, len(ids))
	for _, id := range ids {
		w := replication.WholeCart{CartID: id}
		if c := r.carts[id]; c != nil {
			w.Data = crdt.State{Cart: c}.Encode(nil)
		}
		out = append(out, w)
	}
	return out, r.fail
}

func (r *peerRegionFake) Fetch(ctx context.Context, ids []string) ([]replication.WholeCart, error) {
	return r.States(ctx, ids)
}

func (r *peerRegionFake) Cursor(_ context.Context, h replication.Hello) (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cursors[h.Stream], r.fail
}

func (r *peerRegionFake) Join(ctx context.Context, iv crdt.Interval, _, _ uint32) (uint64, bool, error) {
	r.mu.Lock()
	hold := r.hold
	r.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return 0, false, ctx.Err()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	cursor := r.cursors[iv.Stream]
	if r.fail != nil || iv.Lo > cursor {
		return cursor, false, r.fail
	}
	for _, row := range iv.Rows {
		if row.Last > cursor {
			r.carts[row.CartID] = r.cart(row.CartID).Apply(row.Delta)
		}
	}
	r.cursors[iv.Stream] = max(cursor, iv.Hi)
	return r.cursors[iv.Stream], true, nil
}

func (r *peerRegionFake) Collect(_ context.Context, carts []replication.CartDigest, commit bool) ([]bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if commit {
		r.collected = append(r.collected, carts...)
		return nil, nil
	}
	ok := make([]bool, len(carts))
	for i, c := range carts {
		_, ok[i] = r.carts[c.CartID]
	}
	return ok, nil
}

// Expirable agrees to carts that are here and were last active in region 1.
func (r *peerRegionFake) Expirable(_ context.Context, carts []replication.DueCart) ([]bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ok := make([]bool, len(carts))
	for i, c := range carts {
		_, here := r.carts[c.CartID]
		ok[i] = here && c.Active == crdt.Active{At: 9, Region: 1}
	}
	return ok, nil
}

func (r *peerRegionFake) ForgottenBefore(context.Context) ([]int64, error) { return []int64{0, 7}, nil }

func (r *peerRegionFake) JoinCarts(_ context.Context, carts []replication.WholeCart, _ crdt.Stream) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range carts {
		s, err := crdt.DecodeState(w.Data)
		if err != nil {
			return err
		}
		r.carts[w.CartID] = crdt.Join(r.cart(w.CartID), s.Cart)
		r.joins++
	}
	return r.fail
}

func (r *peerRegionFake) MoveCursor(_ context.Context, h replication.Hello, cursor uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cursors[h.Stream] = max(r.cursors[h.Stream], cursor)
	return r.fail
}

// Known of the fake goes by cursors alone, in slots 1 and above.
func (r *peerRegionFake) Repairing(_ context.Context, h replication.Hello) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.repairs == h.Region && h.SlotHi == 4, r.fail
}

func (r *peerRegionFake) Known(_ context.Context, h replication.Hello) (highest uint32, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for st := range r.cursors {
		if st.Region == h.Stream.Region && h.SlotHi > 1 {
			highest = max(highest, st.Incarnation)
		}
	}
	return highest, r.fail
}

func (r *peerRegionFake) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// peerCodec returns a codec for one test.
func peerCodec(t *testing.T) *replication.Codec {
	t.Helper()
	c, err := replication.NewCodec(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func peerNames() map[crdt.RegionID]string { return map[crdt.RegionID]string{1: "us", 3: "ap"} }

// peerServe serves a sink over cleartext HTTP/2 on a loopback port.
func peerServe(t *testing.T, sink replication.Sink, change func(*PeerConfig)) (*httptest.Server, *PeerHandler) {
	t.Helper()
	cfg := DefaultPeerConfig(peerNames)
	cfg.Slots = 4
	if change != nil {
		change(&cfg)
	}
	h, err := NewPeerHandler(sink, peerCodec(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(h.Handler())
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

func peerDial(t *testing.T, urls ...string) *PeerClient {
	t.Helper()
	hc := PeerHTTPClient(nil)
	t.Cleanup(hc.CloseIdleConnections)
	c, err := NewPeerClient(hc, urls, peerCodec(t))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func peerHi() replication.Hello {
	return replication.Hello{Version: 1, Region: "us", Stream: crdt.Stream{Region: 1, Incarnation: 1, Shard: 3}, SlotHi: 4}
}

// peerOpen opens a stream that ends with the test.
func peerOpen(t *testing.T, c *PeerClient, h replication.Hello) replication.PushStream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	s, err := c.Push(ctx, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func peerWant(t *testing.T, s replication.PushStream, want replication.Ack) {
	t.Helper()
	if got, err := s.Recv(); err != nil || got != want {
		t.Fatalf("got %+v, %v, want %+v", got, err, want)
	}
}

// peerEventually polls until ok, for at most five seconds.
func peerEventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	end := time.NewTimer(5 * time.Second)
	defer end.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end.C:
			t.Fatalf("never: %s", what)
		}
	}
}

func TestPeerPush(t *testing.T) {
	us, eu := peerNewRegion(1), peerNewRegion(2)
	for i := range 250 {
		us.add(fmt.Sprint("cart:", i%10), fmt.Sprint(i))
	}
	srv, _ := peerServe(t, eu, nil)
	s := peerOpen(t, peerDial(t, srv.URL), peerHi())
	peerWant(t, s, replication.Ack{})
	read := func(after uint64) crdt.Interval {
		iv, _, _ := us.ReadAfter(t.Context(), after, 0)
		return iv
	}
	for _, after := range []uint64{0, 100} { // pipelined
		if err := s.Send(read(after)); err != nil {
			t.Fatal(err)
		}
	}
	peerWant(t, s, replication.Ack{Cursor: 100})
	peerWant(t, s, replication.Ack{Cursor: 200})
	if err := s.Send(read(210)); err != nil {
		t.Fatal(err)
	}
	peerWant(t, s, replication.Ack{Cursor: 200, Gap: true})
	for _, after := range []uint64{150, 100} { // overlapping, then all known
		if err := s.Send(read(after)); err != nil {
			t.Fatal(err)
		}
	}
	peerWant(t, s, replication.Ack{Cursor: 250})
	peerWant(t, s, replication.Ack{Cursor: 250})
	for id, c := range us.carts {
		if !eu.carts[id].Equal(c) {
			t.Errorf("%s differs", id)
		}
	}
	if n := s.(*peerStream).SentBytes(); n == 0 || n > 100*100 {
		t.Errorf("100 rows took %d bytes", n)
	}
}

// peerLogFake is a region's fake as the log of its one shard.
type peerLogFake struct{ *peerRegionFake }

func (l peerLogFake) JoinCarts(ctx context.Context, carts []replication.WholeCart, _ crdt.RegionID) error {
	return l.peerRegionFake.JoinCarts(ctx, carts, crdt.Stream{})
}

// The whole way: a Gossiper, HTTP/2 on loopback, a handler, a sink; then a
// server that goes away and comes back.
func TestPeerGossipEndToEnd(t *testing.T) {
	us, eu := peerNewRegion(1), peerNewRegion(2)
	one, first := peerServe(t, eu, nil)
	two, _ := peerServe(t, eu, nil)
	for i := range 300 {
		us.add(fmt.Sprint("cart:", i%40), fmt.Sprint(i))
	}
	us.base = 200 // needs a repair first
	client := peerDial(t, one.URL, two.URL)
	g, err := replication.New(peerLogFake{us}, "us", []replication.PeerRegion{{ID: 2, Name: "eu", Transport: client}},
		replication.DefaultConfig(), slog.New(slog.DiscardHandler), replication.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- g.Run(ctx) }()
	all := func() bool { return g.Status()[0].AckedSeq == us.LastSeq() }
	peerEventually(t, "all rows acked", all)
	if eu.joins != 40 {
		t.Errorf("%d whole carts were sent", eu.joins)
	}
	for i := range 100 {
		us.add(fmt.Sprint("cart:", i%40), "b")
	}
	peerEventually(t, "edits acked", all)
	first.Close() // the node drains: streams go on at the other
	for i := range 100 {
		us.add(fmt.Sprint("cart:", i%40), "c")
	}
	peerEventually(t, "edits acked through the second node", all)
	if client.current != 1 {
		t.Error("the client did not leave the closed node")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	for id, c := range us.carts {
		if !eu.carts[id].Equal(c) {
			t.Errorf("%s differs", id)
		}
	}
	peerEventually(t, "Acked told to the log", func() bool { us.mu.Lock(); defer us.mu.Unlock(); return us.acked == 500 })
	if s := g.Status()[0]; s.BytesSent == 0 || s.Repairs != 1 {
		t.Errorf("status %+v", s)
	}
}

func TestPeerHelloIsChecked(t *testing.T) {
	eu := peerNewRegion(2)
	var refused int
	var mu sync.Mutex
	srv, _ := peerServe(t, eu, func(c *PeerConfig) {
		c.Events.Refused = func(string, error) { mu.Lock(); refused++; mu.Unlock() }
	})
	client := peerDial(t, srv.URL)
	for name, c := range map[string]struct {
		change func(*replication.Hello)
		code   connect.Code
		want   string
	}{
		"version":        {func(h *replication.Hello) { h.Version = 9 }, connect.CodeFailedPrecondition, "version 9"},
		"unknown region": {func(h *replication.Hello) { h.Stream.Region = 7 }, connect.CodePermissionDenied, "region 7"},
		"itself":         {func(h *replication.Hello) { h.Stream.Region = 2 }, connect.CodePermissionDenied, "region 2"},
		"another name":   {func(h *replication.Hello) { h.Region = "ap" }, connect.CodePermissionDenied, `"us" here, not "ap"`},
		"slots":          {func(h *replication.Hello) { h.SlotHi = 5 }, connect.CodeInvalidArgument, "slots 0 to 5"},
		"no slots":       {func(h *replication.Hello) { h.SlotLo = 4 }, connect.CodeInvalidArgument, "slots 4 to 4"},
	} {
		t.Run(name, func(t *testing.T) {
			h := peerHi()
			c.change(&h)
			_, err := peerOpen(t, client, h).Recv()
			if connect.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Push: got %v", err)
			}
			if err := client.Join(t.Context(), nil, h, 1); connect.CodeOf(err) != c.code {
				t.Errorf("Join: got %v", err)
			}
			if _, err := client.Known(t.Context(), h); connect.CodeOf(err) != c.code {
				t.Errorf("Known: got %v", err)
			}
		})
	}
	if refused != 18 || len(eu.cursors) != 0 {
		t.Errorf("%d refused, cursors %v", refused, eu.cursors)
	}
}

func TestPeerIdentity(t *testing.T) {
	eu := peerNewRegion(2)
	srv, _ := peerServe(t, eu, func(c *PeerConfig) {
		c.Identity = func(r *http.Request) (string, bool) {
			name := r.Header.Get("Test-Region") // stands for a client certificate
			return name, name != ""
		}
	})
	for region, want := range map[string]connect.Code{
		"": connect.CodeUnauthenticated, "mars": connect.CodeUnauthenticated, "ap": connect.CodePermissionDenied, "us": 0,
	} {
		hc := PeerHTTPClient(nil)
		t.Cleanup(hc.CloseIdleConnections)
		c, err := NewPeerClient(peerAs{hc, region}, []string{srv.URL}, peerCodec(t))
		if err != nil {
			t.Fatal(err)
		}
		_, err = peerOpen(t, c, peerHi()).Recv()
		if want == 0 && err != nil || want != 0 && connect.CodeOf(err) != want {
			t.Errorf("Push as %q: %v", region, err)
		}
		if _, err = c.Digests(t.Context(), 0, 4); (err == nil) != (region == "us" || region == "ap") {
			t.Errorf("Digests as %q: %v", region, err)
		}
		if err = c.Join(t.Context(), nil, peerHi(), 0); (err == nil) != (region == "us") {
			t.Errorf("Join as %q: %v", region, err)
		}
	}
}

// peerAs sends as a region.
type peerAs struct {
	hc     *http.Client
	region string
}

func (p peerAs) Do(r *http.Request) (*http.Response, error) {
	if p.region != "" {
		r.Header.Set("Test-Region", p.region)
	}
	return p.hc.Do(r)
}

// What a hostile peer sends ends its stream and reaches no sink.
func TestPeerRefusesHostileMessages(t *testing.T) {
	eu := peerNewRegion(2)
	srv, _ := peerServe(t, eu, nil)
	hc := PeerHTTPClient(nil)
	t.Cleanup(hc.CloseIdleConnections)
	raw := replicationv1connect.NewReplicationServiceClient(hc, srv.URL)
	us := peerNewRegion(1)
	us.add("cart:a", "tea")
	honest, _, _ := us.ReadAfter(t.Context(), 0, 0)
	forged := honest
	forged.Stream.Shard = 9
	foreign := crdt.Interval{Stream: honest.Stream, Hi: 1, Rows: slices.Clone(honest.Rows)}
	other := peerNewRegion(3)
	other.add("cart:a", "tea")
	foreign.Rows[0].Delta = other.rows[0].Delta
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	bomb := enc.EncodeAll(make([]byte, 100<<20), nil)
	iv := func(data []byte, compressed bool) *replicationv1.PushRequest {
		return &replicationv1.PushRequest{Message: &replicationv1.PushRequest_Interval{Interval: &replicationv1.Interval{Data: data, Compressed: compressed}}}
	}
	hello := &replicationv1.PushRequest{Message: &replicationv1.PushRequest_Hello{Hello: peerHello(peerHi())}}
	for name, messages := range map[string][]*replicationv1.PushRequest{
		"no hello":       {iv(honest.Encode(nil), false)},
		"empty hello":    {{}},
		"second hello":   {hello, hello},
		"garbage":        {hello, iv([]byte("garbage"), false)},
		"bomb":           {hello, iv(bomb, true)},
		"another stream": {hello, iv(forged.Encode(nil), false)},
		"foreign dots":   {hello, iv(foreign.Encode(nil), false)},
		"too large":      {hello, iv(make([]byte, peerMessageBytesMax), false)},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			s := raw.Push(ctx)
			for _, m := range messages {
				if err := s.Send(m); err != nil {
					break
				}
			}
			var err error
			for err == nil {
				_, err = s.Receive()
			}
			want := connect.CodeInvalidArgument
			if name == "too large" {
				want = connect.CodeResourceExhausted
			}
			if connect.CodeOf(err) != want && !(name == "too large" && connect.CodeOf(err) == connect.CodeUnavailable) {
				t.Errorf("got %v", err)
			}
		})
	}
	if len(eu.carts) != 0 || len(eu.cursors) != 0 {
		t.Error("something was joined")
	}
	if err := peerDial(t, srv.URL).Join(t.Context(), []replication.WholeCart{{CartID: "a", Data: []byte("x")}}, peerHi(), 5); connect.CodeOf(err) != connect.CodeInvalidArgument || eu.cursors[peerHi().Stream] != 0 {
		t.Errorf("Join of garbage: %v", err)
	}
}

func TestPeerHelloTimeout(t *testing.T) {
	srv, h := peerServe(t, peerNewRegion(2), func(c *PeerConfig) { c.HelloTimeout, c.StreamsMax = 50*time.Millisecond, 1 })
	hc := PeerHTTPClient(nil)
	t.Cleanup(hc.CloseIdleConnections)
	raw := replicationv1connect.NewReplicationServiceClient(hc, srv.URL).Push(t.Context())
	if err := raw.Send(nil); err != nil { // the headers alone
		t.Fatal(err)
	}
	if _, err := raw.Receive(); err == nil {
		t.Error("the stream stayed open without a hello")
	}
	peerEventually(t, "its place is free", func() bool { return len(h.streams) == 0 })
	// The limit of streams: the second is refused while the first is open.
	c := peerDial(t, srv.URL)
	s := peerOpen(t, c, peerHi())
	peerWant(t, s, replication.Ack{})
	if _, err := peerOpen(t, c, peerHi()).Recv(); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("a stream over the limit: %v", err)
	}
	_ = s.Close()
	peerEventually(t, "its place is free", func() bool { return len(h.streams) == 0 })
}

// A stream ends, and leaves nothing, when the sink fails, when the sender
// goes while a join hangs, and when the node shuts down.
func TestPeerStreamsEnd(t *testing.T) {
	us, eu := peerNewRegion(1), peerNewRegion(2)
	us.add("cart:a", "tea")
	iv, _, _ := us.ReadAfter(t.Context(), 0, 0)
	srv, h := peerServe(t, eu, nil)
	c := peerDial(t, srv.URL)

	s := peerOpen(t, c, peerHi())
	peerWant(t, s, replication.Ack{})
	eu.set(func() { eu.fail = errors.New("no leader") })
	if err := s.Send(iv); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "no leader") {
		t.Errorf("failing sink: %v", err)
	}
	if _, err := peerOpen(t, c, peerHi()).Recv(); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("failing cursor: %v", err)
	}
	eu.set(func() { eu.fail, eu.hold = nil, make(chan struct{}) })
	s = peerOpen(t, c, peerHi())
	peerWant(t, s, replication.Ack{})
	if err := s.Send(iv); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Recv(); err == nil {
		t.Error("a closed stream goes on")
	}
	peerEventually(t, "the hanging join is given up", func() bool { return len(h.streams) == 0 })
	s = peerOpen(t, c, peerHi())
	peerWant(t, s, replication.Ack{})
	h.Close()
	if _, err := s.Recv(); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("shutdown: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := srv.Config.Shutdown(ctx); err != nil {
		t.Errorf("the server does not shut down: %v", err)
	}
}

func TestPeerCalls(t *testing.T) {
	us, eu := peerNewRegion(1), peerNewRegion(2)
	us.add("cart:a", "tea")
	us.add("cart:e", "tea") // the same slot
	srv, _ := peerServe(t, us, nil)
	dead := httptest.NewServer(nil)
	dead.Close()
	c := peerDial(t, dead.URL, srv.URL) // the first address is dead
	ctx := t.Context()

	digests, err := c.Digests(ctx, 0, 4)
	want, _ := us.Digests(ctx, 0, 4)
	if err != nil || !slices.Equal(digests, want) {
		t.Errorf("Digests: %v, %v", digests, err)
	}
	if c.current != 1 {
		t.Error("the client stays at a dead address")
	}
	carts, more, err := c.Bucket(ctx, 'a'%4, "", 1)
	if err != nil || !more || len(carts) != 1 || carts[0] != (replication.CartDigest{CartID: "cart:a", Digest: us.digest("cart:a")}) {
		t.Errorf("Bucket: %v %v %v", carts, more, err)
	}
	if carts, more, err = c.Bucket(ctx, 'a'%4, "cart:a", 5); err != nil || more || len(carts) != 1 || carts[0].CartID != "cart:e" {
		t.Errorf("Bucket: %v %v %v", carts, more, err)
	}
	whole, err := c.Fetch(ctx, []string{"cart:e", "cart:none"})
	if err != nil || len(whole) != 2 || len(whole[1].Data) != 0 || !bytes.Equal(whole[0].Data, crdt.State{Cart: us.carts["cart:e"]}.Encode(nil)) {
		t.Errorf("Fetch: %v %v", whole, err)
	}
	back, _ := peerServe(t, eu, nil)
	if err := peerDial(t, back.URL).Join(ctx, whole[:1], peerHi(), 17); err != nil || eu.cursors[peerHi().Stream] != 17 || !eu.carts["cart:e"].Equal(us.carts["cart:e"]) {
		t.Errorf("Join: %v", err)
	}
	if n, err := peerDial(t, back.URL).Known(ctx, peerHi()); err != nil || n != 1 {
		t.Errorf("Known: %d, %v", n, err)
	}
	low := peerHi()
	low.SlotHi = 1
	if n, err := peerDial(t, back.URL).Known(ctx, low); err != nil || n != 0 {
		t.Errorf("Known, of other slots: %d, %v", n, err)
	}

	for name, call := range map[string]func() error{
		"slots":      func() error { _, err := c.Digests(ctx, 2, 9); return err },
		"no slots":   func() error { _, err := c.Digests(ctx, 2, 2); return err },
		"slot":       func() error { _, _, err := c.Bucket(ctx, 4, "", 1); return err },
		"no limit":   func() error { _, _, err := c.Bucket(ctx, 0, "", 0); return err },
		"limit":      func() error { _, _, err := c.Bucket(ctx, 0, "", replication.BucketLimit+1); return err },
		"many carts": func() error { _, err := c.Fetch(ctx, make([]string, 5000)); return err },
	} {
		if err := call(); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: got %v", name, err)
		}
	}
	us.set(func() { us.fail = context.DeadlineExceeded })
	if _, err := peerDial(t, srv.URL).Digests(ctx, 0, 4); connect.CodeOf(err) != connect.CodeDeadlineExceeded {
		t.Errorf("slow sink: %v", err)
	}
	eu.set(func() { eu.fail = errors.New("no leader") })
	if _, err := peerDial(t, back.URL).Known(ctx, peerHi()); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("Known, without a leader: %v", err)
	}
	// Carts that are not committed move no cursor: nobody would send them again.
	if err := peerDial(t, back.URL).Join(ctx, whole[:1], peerHi(), 30); err == nil || eu.cursors[peerHi().Stream] != 17 {
		t.Errorf("Join, without a leader: %v, cursor %d", err, eu.cursors[peerHi().Stream])
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := c.Digests(gone, 0, 4); connect.CodeOf(err) != connect.CodeCanceled {
		t.Errorf("canceled: %v", err)
	}
}

func TestPeerConfig(t *testing.T) {
	if _, err := NewPeerHandler(peerNewRegion(1), peerCodec(t), PeerConfig{}); err == nil || !strings.Contains(err.Error(), "Peers") || !strings.Contains(err.Error(), "AckEvery") {
		t.Errorf("got %v", err)
	}
	if _, err := NewPeerClient(PeerHTTPClient(nil), nil, peerCodec(t)); err == nil {
		t.Error("a client without an address was made")
	}
}

// BenchmarkPeerPush takes 100-row intervals through HTTP/2 on loopback.
func BenchmarkPeerPush(b *testing.B) {
	us := peerNewRegion(1)
	for i := range 100 {
		us.add(fmt.Sprint("cart:", i), "tea")
	}
	iv, _, _ := us.ReadAfter(b.Context(), 0, 0)
	codec, err := replication.NewCodec(1 << 20)
	if err != nil {
		b.Fatal(err)
	}
	cfg := DefaultPeerConfig(peerNames)
	h, err := NewPeerHandler(peerNewRegion(2), codec, cfg)
	if err != nil {
		b.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(h.Handler())
	srv := httptest.NewUnstartedServer(mux)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	defer srv.Close()
	defer h.Close()
	c, err := NewPeerClient(PeerHTTPClient(nil), []string{srv.URL}, codec)
	if err != nil {
		b.Fatal(err)
	}
	s, err := c.Push(b.Context(), peerHi())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if _, err := s.Recv(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := s.Send(iv); err != nil {
			b.Fatal(err)
		}
		if _, err := s.Recv(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(100*b.N)/b.Elapsed().Seconds(), "rows/s")
}
