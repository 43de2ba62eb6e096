package rpc

import (
	"slices"
	"testing"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	replicationv1 "github.com/samecart/samecart/proto/replication/v1"
	"github.com/samecart/samecart/proto/replication/v1/replicationv1connect"
	"github.com/samecart/samecart/replication"
)

// A region is asked about due carts, with their digests and activities; who asks is
// checked, and so is what.
func TestPeerExpirable(t *testing.T) {
	eu := peerNewRegion(2)
	eu.add("cart:a", "tea")
	srv, _ := peerServe(t, eu, func(c *PeerConfig) { c.Limits.Carts = 2 })
	due := func(id string, at crdt.Timestamp) replication.DueCart {
		return replication.DueCart{CartDigest: replication.CartDigest{CartID: id}, Active: crdt.Active{At: at, Region: 1}}
	}
	c := peerDial(t, srv.URL)
	for _, k := range []struct {
		carts []replication.DueCart
		want  []bool
	}{
		{[]replication.DueCart{due("cart:a", 9), due("cart:b", 9)}, []bool{true, false}},
		{[]replication.DueCart{due("cart:a", 8)}, []bool{false}},
		{nil, nil},
	} {
		if got, err := c.Expirable(t.Context(), peerHi(), k.carts); err != nil || !slices.Equal(got, k.want) {
			t.Errorf("%d carts: %v, %v, want %v", len(k.carts), got, err, k.want)
		}
	}
	stranger := peerHi()
	stranger.Region = "nowhere"
	if _, err := c.Expirable(t.Context(), stranger, nil); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("a stranger: %v", err)
	}
	if _, err := c.Expirable(t.Context(), peerHi(), make([]replication.DueCart, 3)); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("too many carts: %v", err)
	}
	hc := PeerHTTPClient(nil)
	t.Cleanup(hc.CloseIdleConnections)
	raw := replicationv1connect.NewReplicationServiceClient(hc, srv.URL)
	for name, bad := range map[string]*replicationv1.DueCart{
		"no id":           {Digest: make([]byte, 16)},
		"a short digest":  {CartId: "cart:a", Digest: make([]byte, 15)},
		"a region beyond": {CartId: "cart:a", Digest: make([]byte, 16), ActiveRegion: 1 << 16},
	} {
		_, err := raw.Expirable(t.Context(), connect.NewRequest(&replicationv1.ExpirableRequest{
			Hello: peerHello(peerHi()), Carts: []*replicationv1.DueCart{bad},
		}))
		if connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}
