package rpc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	replicationv1 "github.com/samecart/samecart/proto/replication/v1"
	"github.com/samecart/samecart/proto/replication/v1/replicationv1connect"
	"github.com/samecart/samecart/replication"
	"github.com/samecart/samecart/replication/riblt"
)

// peerItems are the digests of a region's carts in a slot.
func peerItems(r *peerRegionFake, slot uint32) (items []riblt.Item) {
	carts, _, _ := r.Bucket(context.Background(), slot, "", 1000)
	for _, c := range carts {
		items = append(items, c.Digest)
	}
	return items
}

func peerHTTP(t *testing.T) *http.Client {
	hc := PeerHTTPClient(nil)
	t.Cleanup(hc.CloseIdleConnections)
	return hc
}

func TestPeerSketch(t *testing.T) {
	us, eu := peerNewRegion(1), peerNewRegion(2)
	for i := range 200 {
		id := fmt.Sprintf("cart:%da", i)
		us.add(id, "tea")
		if i%50 != 7 {
			eu.set(func() { eu.carts[id] = us.carts[id] })
		}
	}
	srv, _ := peerServe(t, eu, nil)
	c := peerDial(t, srv.URL)
	key := riblt.Key{1, 2, 3}
	dec, err := riblt.NewDecoder(key, peerItems(us, 'a'%4))
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Sketch(t.Context(), key, []uint32{'a' % 4})
	if err != nil {
		t.Fatal(err)
	}
	for done := false; !done; {
		b, err := s.Next(5)
		if err != nil {
			t.Fatal(err)
		}
		if done, err = dec.Add(b); err != nil {
			t.Fatal(err)
		}
		if dec.Symbols() > 200 {
			t.Fatal("the sketch does not end")
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if got := dec.Own(); len(got) != 4 || dec.Theirs() != 0 {
		t.Errorf("%d carts differ here, %d there", len(got), dec.Theirs())
	}
}

func TestPeerSketchRefuses(t *testing.T) {
	eu := peerNewRegion(2)
	srv, _ := peerServe(t, eu, func(c *PeerConfig) { c.SketchTimeout = 100 * time.Millisecond })
	key := make([]byte, 16)
	for name, m := range map[string]*replicationv1.SketchRequest{
		"short key":     {Key: key[1:], Slots: []uint32{0}, Symbols: 1},
		"no slots":      {Key: key, Symbols: 1},
		"unknown slot":  {Key: key, Slots: []uint32{0, 4}, Symbols: 1},
		"falling slots": {Key: key, Slots: []uint32{2, 1}, Symbols: 1},
		"slot twice":    {Key: key, Slots: []uint32{1, 1}, Symbols: 1},
		"no symbols":    {Key: key, Slots: []uint32{1}},
		"many symbols":  {Key: key, Slots: []uint32{1}, Symbols: sketchSymbolsMax + 1},
	} {
		s := replicationv1connect.NewReplicationServiceClient(peerHTTP(t), srv.URL).Sketch(t.Context())
		if err := s.Send(m); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := s.Receive(); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: got %v", name, err)
		}
		_ = s.CloseRequest()
	}
	// One that stops asking is given up.
	s := replicationv1connect.NewReplicationServiceClient(peerHTTP(t), srv.URL).Sketch(t.Context())
	if err := s.Send(&replicationv1.SketchRequest{Key: key, Slots: []uint32{1}, Symbols: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Receive(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Receive(); err == nil {
		t.Error("a sketch is kept for a peer that does not ask")
	}
}

// A peer that never has enough is sent elsewhere.
func TestPeerSketchIsBounded(t *testing.T) {
	eu := peerNewRegion(2)
	eu.add("cart:a", "tea")
	srv, _ := peerServe(t, eu, func(c *PeerConfig) { c.SketchSymbolsMax = 100 })
	s, err := peerDial(t, srv.URL).Sketch(t.Context(), riblt.Key{}, []uint32{'a' % 4})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; n < 20 && err == nil; n++ {
		_, err = s.Next(10)
	}
	if n != 11 || !errors.Is(err, replication.ErrUnsupported) {
		t.Errorf("part %d: %v", n, err)
	}
	_ = s.Close()
}

func TestPeerNewer(t *testing.T) {
	us, eu := peerNewRegion(1), peerNewRegion(2)
	for _, id := range []string{"cart:more", "cart:less", "cart:both", "cart:same"} {
		us.add(id, "tea")
	}
	eu.set(func() {
		for id, c := range us.carts {
			eu.carts[id] = c
		}
	})
	eu.add("cart:more", "milk")
	us.add("cart:less", "milk")
	us.add("cart:both", "milk")
	eu.add("cart:both", "jam")
	srv, _ := peerServe(t, eu, nil)
	c := peerDial(t, srv.URL)
	seen := func(ids ...string) (out []replication.Seen) {
		for _, id := range ids {
			out = append(out, replication.Seen{CartID: id, Context: us.cart(id).Context})
		}
		return out
	}
	got, err := c.Newer(t.Context(), seen("cart:more", "cart:less", "cart:both", "cart:same", "cart:none"))
	if err != nil || len(got) != 5 {
		t.Fatalf("%d answers, %v", len(got), err)
	}
	for i := range got {
		if want := i == 0; (got[i] != nil) != want {
			t.Errorf("answer %d has %d bytes", i, len(got[i]))
		}
	}
	st, err := crdt.DecodeState(got[0])
	if err != nil || !st.Cart.Equal(eu.carts["cart:more"]) {
		t.Errorf("the newer cart is %v, %v", st.Cart, err)
	}

	for name, carts := range map[string][]replication.Seen{"none": nil, "many": make([]replication.Seen, replication.NewerCartsMax+1)} {
		if _, err := c.Newer(t.Context(), carts); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: got %v", name, err)
		}
	}
	raw := replicationv1connect.NewReplicationServiceClient(peerHTTP(t), srv.URL)
	_, err = raw.Newer(t.Context(), connect.NewRequest(&replicationv1.NewerRequest{Carts: []*replicationv1.Seen{{CartId: "a", Context: []byte("no")}}}))
	if connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("bad context: got %v", err)
	}
}

// An answer is bounded: the asker goes on with the rest.
func TestPeerNewerInParts(t *testing.T) {
	eu := peerNewRegion(2)
	var seen []replication.Seen
	for i := range 100 {
		id := fmt.Sprintf("cart:%d", i)
		eu.add(id, "tea")
		seen = append(seen, replication.Seen{CartID: id})
	}
	var all [][]byte
	for parts := 0; len(all) < len(seen); parts++ {
		some, err := replication.Newer(t.Context(), eu, seen[len(all):], 200)
		if err != nil || len(some) == 0 || len(some) > 10 {
			t.Fatalf("%d answers, %v", len(some), err)
		}
		all = append(all, some...)
	}
	if slices.ContainsFunc(all, func(b []byte) bool { return b == nil }) {
		t.Error("a cart is missing")
	}
	eu.set(func() { eu.fail = errors.New("no leader") })
	if _, err := replication.Newer(t.Context(), eu, seen, 200); err == nil {
		t.Error("no error")
	}
}

// A peer of an older version knows neither call.
func TestPeerOfAnOlderVersion(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	t.Cleanup(srv.Close)
	c := peerDial(t, srv.URL)
	if _, err := c.Newer(t.Context(), make([]replication.Seen, 1)); !errors.Is(err, replication.ErrUnsupported) {
		t.Errorf("Newer: got %v", err)
	}
	if _, err := c.Repairing(t.Context(), peerHi()); !errors.Is(err, replication.ErrUnsupported) {
		t.Errorf("Repairing: got %v", err)
	}
	s, err := c.Sketch(t.Context(), riblt.Key{}, []uint32{1})
	if err == nil {
		_, err = s.Next(1)
	}
	if !errors.Is(err, replication.ErrUnsupported) {
		t.Errorf("Sketch: got %v", err)
	}
}

func TestPeerRepairing(t *testing.T) {
	eu := peerNewRegion(2)
	srv, _ := peerServe(t, eu, nil)
	c := peerDial(t, srv.URL)
	if busy, err := c.Repairing(t.Context(), peerHi()); busy || err != nil {
		t.Errorf("nothing runs: %v, %v", busy, err)
	}
	eu.set(func() { eu.repairs = "us" })
	if busy, err := c.Repairing(t.Context(), peerHi()); !busy || err != nil {
		t.Errorf("a repair runs: %v, %v", busy, err)
	}
	other := peerHi()
	other.Region = "mars"
	if _, err := c.Repairing(t.Context(), other); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("of another name: %v", err)
	}
	eu.set(func() { eu.fail = errors.New("no leader") })
	if _, err := c.Repairing(t.Context(), peerHi()); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("without a leader: %v", err)
	}
}
