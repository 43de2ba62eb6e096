package drill

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	"github.com/samecart/samecart/rpc/scan"
)

// held is a region's carts, as a scan shows them.
type held []scan.Cart

func (h *held) Next() (scan.Cart, bool, error) {
	if len(*h) == 0 {
		return scan.Cart{}, false, nil
	}
	c := (*h)[0]
	*h = (*h)[1:]
	return c, true, nil
}

func (h *held) Close() error { return nil }

// TestOnlyTheDrillsCarts plants a difference in a cart of the drill, and one in
// somebody else's.
func TestOnlyTheDrillsCarts(t *testing.T) {
	region := func(name, digest string) scan.Region {
		return only(scan.Region{Name: name, Open: func(context.Context, uint32, uint32) (scan.Stream, error) {
			return &held{{Slot: 1, ID: "cart:drill-x-1", Digest: []byte("same")}, {Slot: 1, ID: "cart:drill-x-2", Digest: []byte(digest)}, {Slot: 1, ID: "cart:user", Digest: []byte(name)}}, nil
		}}, "cart:drill-x-")
	}
	differ := func(a, b scan.Region) (ids []string) {
		carts, err := scan.Compare(t.Context(), []scan.Region{a, b}, 0, scan.Slots, func(d scan.Difference) { ids = append(ids, d.ID) })
		if err != nil || carts != 2 {
			t.Errorf("%d carts, %v", carts, err)
		}
		return ids
	}
	if ids := differ(region("us", "a"), region("eu", "a")); len(ids) != 0 {
		t.Errorf("%v differ", ids)
	}
	if ids := differ(region("us", "a"), region("eu", "b")); len(ids) != 1 || ids[0] != "cart:drill-x-2" {
		t.Errorf("%v differ, want the drill's second", ids)
	}
}

func TestPollKeepsTheReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reason := errors.New("not yet")
		err := poll(t.Context(), 3*time.Second, func(ctx context.Context) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if deadline, _ := ctx.Deadline(); time.Until(deadline) < time.Second {
				<-ctx.Done()
				return ctx.Err()
			}
			return reason
		})
		if !errors.Is(err, reason) {
			t.Errorf("%v, want what was before the end", err)
		}
		begun := time.Now()
		if err := poll(t.Context(), time.Minute, func(context.Context) error {
			if time.Since(begun) < 10*time.Second {
				return reason
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
}

// one is a cluster that says what it is told to.
type one struct {
	cluster

	status *adminv1.RegionsResponse
}

type oneAdmin struct {
	Admin

	status *adminv1.RegionsResponse
}

func (o oneAdmin) Status(context.Context) (*adminv1.RegionsResponse, error) { return o.status, nil }

func (o one) admin(string) Admin { return oneAdmin{status: o.status} }

// TestWellCatches plants what is not as before.
func TestWellCatches(t *testing.T) {
	for name, spoil := range map[string]func(*adminv1.RegionStatus){
		"":             func(*adminv1.RegionStatus) {},
		"no edits":     func(r *adminv1.RegionStatus) { r.Ready = false },
		"a node":       func(r *adminv1.RegionStatus) { r.Nodes[0].Alive = false },
		"no leader":    func(r *adminv1.RegionStatus) { r.Shards[0].Leader = "" },
		"no peers":     func(r *adminv1.RegionStatus) { r.Shards[0].Peers = nil },
		"disconnected": func(r *adminv1.RegionStatus) { r.Shards[0].Peers[0].Connected = false },
		"a way around": func(r *adminv1.RegionStatus) { r.Shards[0].Peers[0].Via = "ap" },
		"repairing":    func(r *adminv1.RegionStatus) { r.Shards[0].Peers[0].Repairing = true },
		"behind":       func(r *adminv1.RegionStatus) { r.Shards[0].Peers[0].LagMs = 1001 },
	} {
		r := &adminv1.RegionStatus{
			Region: "us", Ready: true, Nodes: []*adminv1.NodeStatus{{Node: "us/1", Alive: true}},
			Shards: []*adminv1.ShardStatus{{Leader: "us/1", Peers: []*adminv1.PeerStatus{{Region: "eu", Connected: true, LagMs: 900}}}},
		}
		spoil(r)
		err := well(t.Context(), one{status: &adminv1.RegionsResponse{Regions: []*adminv1.RegionStatus{r}}}, "us")
		if (err == nil) != (name == "") {
			t.Errorf("%q: %v", name, err)
		}
	}
}
