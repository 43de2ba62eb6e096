package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	"github.com/samecart/samecart/proto/admin/v1/adminv1connect"
	membershipv1 "github.com/samecart/samecart/proto/membership/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/replication"
	"github.com/samecart/samecart/replication/membership"
	"github.com/samecart/samecart/rpc/catalog"
	"github.com/samecart/samecart/rpc/member"
)

// Errors of the operations behind the admin service.
var (
	errNoDrills = errors.New("drills are off here; start with --drills")
	errUnknown  = errors.New("not known")
	errRefused  = errors.New("not possible")
)

// buckets lists a region's carts by slot.
type buckets interface {
	Digests(ctx context.Context, lo, hi uint32) ([]replication.Digest, error)
	Bucket(ctx context.Context, slot uint32, after string, limit int) (carts []replication.CartDigest, more bool, err error)
}

// carts is a region whose carts are read and joined whole.
type carts interface {
	Digests(ctx context.Context, lo, hi uint32) ([]replication.Digest, error)
	// ForgottenBefore returns for each slot the time before which carts last
	// changed that may have been collected since; 0: none was.
	ForgottenBefore(ctx context.Context) ([]int64, error)
	// Fetch returns the carts in the order of the ids, without data where there
	// is none.
	Fetch(ctx context.Context, cartIDs []string) ([]replication.WholeCart, error)
	JoinCarts(ctx context.Context, carts []replication.WholeCart, from crdt.Stream) error
}

// operations is what the admin service can do; cartd dev and cartd node each
// do it in their way. Errors wrap errNoDrills, errUnknown or errRefused.
type operations interface {
	regions(ctx context.Context) *adminv1.RegionsResponse
	buckets(region string) (buckets, error)
	carts(region string) (carts, error)
	link(ctx context.Context, p pair, cut bool, delay time.Duration) error
	node(ctx context.Context, name string, start bool) error
	region(ctx context.Context, name string, start bool) error
	setClock(ctx context.Context, node string, ahead time.Duration) error
	repair(ctx context.Context, region, peer string) error
	// shop is a region to read and change the shop's settings at.
	shop(ctx context.Context) shop
	// catalogue is the one whose products may be edited.
	catalogue() (*catalog.Catalog, error)
	// member has the regions agree on a change of how one stands.
	member(ctx context.Context, req *adminv1.MemberRequest) (*membershipv1.Membership, error)
	limits(region string) (uses, error)
}

// admin is the admin service.
type admin struct{ ops operations }

var _ adminv1connect.AdminServiceHandler = admin{}

func adminError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errNoDrills), errors.Is(err, errRefused), errors.Is(err, membership.ErrRefused),
		errors.Is(err, membership.ErrNoMajority): // whoever asks should know now, not when it may have changed
		return connect.NewError(connect.CodeFailedPrecondition, err)
	case errors.Is(err, errUnknown):
		return connect.NewError(connect.CodeNotFound, err)
	}
	return connect.NewError(connect.CodeUnavailable, err)
}

// Regions implements the service.
func (a admin) Regions(ctx context.Context, _ *connect.Request[adminv1.RegionsRequest]) (*connect.Response[adminv1.RegionsResponse], error) {
	return connect.NewResponse(a.ops.regions(ctx)), nil
}

// scanPage is how many carts one look into a bucket brings.
const scanPage = 1000

// Scan implements the service. Empty slots are passed over.
func (a admin) Scan(ctx context.Context, req *connect.Request[adminv1.ScanRequest], out *connect.ServerStream[adminv1.ScanResponse]) error {
	lo, hi := req.Msg.SlotLo, req.Msg.SlotHi
	if hi == 0 {
		hi = shard.SlotCount
	}
	if lo >= hi || hi > shard.SlotCount {
		return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("slots [%d,%d) are no range of [0,%d)", lo, hi, shard.SlotCount))
	}
	b, err := a.ops.buckets(req.Msg.Region)
	if err != nil {
		return adminError(err)
	}
	digests, err := b.Digests(ctx, lo, hi)
	if err != nil {
		return adminError(err)
	}
	for slot := lo; slot < hi; slot++ {
		if digests[slot-lo] == (replication.Digest{}) {
			continue
		}
		for after, more := "", true; more; {
			var carts []replication.CartDigest
			if carts, more, err = b.Bucket(ctx, slot, after, scanPage); err != nil {
				return adminError(err)
			}
			page := &adminv1.ScanResponse{Slot: slot, Carts: make([]*adminv1.ScannedCart, len(carts))}
			for i, c := range carts {
				page.Carts[i] = &adminv1.ScannedCart{CartId: c.CartID, Digest: c.Digest[:]}
				after = c.CartID
			}
			more = more && len(carts) > 0
			if err := out.Send(page); err != nil {
				return err
			}
		}
	}
	return nil
}

// Link implements the service.
func (a admin) Link(ctx context.Context, req *connect.Request[adminv1.LinkRequest]) (*connect.Response[adminv1.LinkResponse], error) {
	m := req.Msg
	var cut bool
	var delay time.Duration
	switch m.Action {
	case adminv1.LinkRequest_ACTION_CUT:
		cut = true
	case adminv1.LinkRequest_ACTION_HEAL:
	case adminv1.LinkRequest_ACTION_DELAY:
		delay = time.Duration(m.DelayMs) * time.Millisecond
		if delay < 0 || delay > time.Minute {
			return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("delay of %v: give 0 to 1m", delay))
		}
	case adminv1.LinkRequest_ACTION_UNSPECIFIED:
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("no action given"))
	}
	if m.A == m.B {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("%q and %q are one region; a link has two", m.A, m.B))
	}
	if err := a.ops.link(ctx, pairOf(m.A, m.B), cut, delay); err != nil {
		return nil, adminError(err)
	}
	return connect.NewResponse(&adminv1.LinkResponse{}), nil
}

func starts(a adminv1.NodeRequest_Action) (start bool, err error) {
	switch a {
	case adminv1.NodeRequest_ACTION_START:
		return true, nil
	case adminv1.NodeRequest_ACTION_KILL:
		return false, nil
	case adminv1.NodeRequest_ACTION_UNSPECIFIED:
	}
	return false, connect.NewError(connect.CodeInvalidArgument, errors.New("no action given"))
}

// Node implements the service.
func (a admin) Node(ctx context.Context, req *connect.Request[adminv1.NodeRequest]) (*connect.Response[adminv1.NodeResponse], error) {
	start, err := starts(req.Msg.Action)
	if err != nil {
		return nil, err
	}
	if err := a.ops.node(ctx, req.Msg.Node, start); err != nil {
		return nil, adminError(err)
	}
	return connect.NewResponse(&adminv1.NodeResponse{}), nil
}

// Region implements the service.
func (a admin) Region(ctx context.Context, req *connect.Request[adminv1.RegionRequest]) (*connect.Response[adminv1.RegionResponse], error) {
	start, err := starts(req.Msg.Action)
	if err != nil {
		return nil, err
	}
	if err := a.ops.region(ctx, req.Msg.Region, start); err != nil {
		return nil, adminError(err)
	}
	return connect.NewResponse(&adminv1.RegionResponse{}), nil
}

// clockMost bounds how far a clock is set: what a drill of minutes needs, and less
// than op ids live.
const clockMost = time.Hour

// Clock implements the service.
func (a admin) Clock(ctx context.Context, req *connect.Request[adminv1.ClockRequest]) (*connect.Response[adminv1.ClockResponse], error) {
	ahead := time.Duration(req.Msg.OffsetMs) * time.Millisecond
	if most := clockMost.Milliseconds(); req.Msg.OffsetMs > most || req.Msg.OffsetMs < -most {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("offset of %d ms: give at most %v, ahead or behind", req.Msg.OffsetMs, clockMost))
	}
	if err := a.ops.setClock(ctx, req.Msg.Node, ahead); err != nil {
		return nil, adminError(err)
	}
	return connect.NewResponse(&adminv1.ClockResponse{}), nil
}

// Repair implements the service.
func (a admin) Repair(ctx context.Context, req *connect.Request[adminv1.RepairRequest]) (*connect.Response[adminv1.RepairResponse], error) {
	if req.Msg.Region == req.Msg.Peer {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("%q and %q are one region; a repair has two", req.Msg.Region, req.Msg.Peer))
	}
	if err := a.ops.repair(ctx, req.Msg.Region, req.Msg.Peer); err != nil {
		return nil, adminError(err)
	}
	return connect.NewResponse(&adminv1.RepairResponse{}), nil
}

// Member implements the service.
func (a admin) Member(ctx context.Context, req *connect.Request[adminv1.MemberRequest]) (*connect.Response[adminv1.MemberResponse], error) {
	m := req.Msg
	switch {
	case m.Region == "":
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("no region given"))
	case m.RegionId > 0xffff:
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("region id %d: give 1 to 65535", m.RegionId))
	}
	for _, u := range append(slices.Clone(m.Peers), m.Address) {
		if u != "" && !isURL(u, "http", "https") {
			return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("address %q: give http://HOST:PORT or https://HOST", u))
		}
	}
	doc, err := a.ops.member(ctx, m)
	if err != nil {
		return nil, adminError(err)
	}
	return connect.NewResponse(&adminv1.MemberResponse{Membership: doc}), nil
}

// memberChange is the change that a request asks for.
func memberChange(m *adminv1.MemberRequest) (membership.Change, error) {
	switch m.Action {
	case adminv1.MemberRequest_ACTION_ADD:
		return membership.Add(m.Region, membership.Newcomer{ID: m.RegionId, Peers: m.Peers, Address: m.Address}), nil
	case adminv1.MemberRequest_ACTION_DRAIN:
		return membership.Drain(m.Region), nil
	case adminv1.MemberRequest_ACTION_FENCE:
		return membership.Fence(m.Region), nil
	case adminv1.MemberRequest_ACTION_REMOVE:
		return membership.Remove(m.Region), nil
	case adminv1.MemberRequest_ACTION_UNSPECIFIED:
	}
	return nil, fmt.Errorf("%w: no action given", errRefused)
}

// changeMember has the regions agree on what a request asks for.
func changeMember(ctx context.Context, r *member.Roster, m *adminv1.MemberRequest) (*membershipv1.Membership, error) {
	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	change, err := memberChange(m)
	if err != nil {
		return nil, err
	}
	if m.Force && m.Action == adminv1.MemberRequest_ACTION_FENCE {
		return r.Force(ctx, m.Region)
	}
	return r.Change(ctx, change)
}

// memberTimeout bounds the deciding: some round trips, and a silent region's wait
// in each.
const memberTimeout = 15 * time.Second

// Limits of the calls that carry whole carts. The largest cart takes less than
// half of adminBytesMax, which bounds a request.
const (
	adminBytesMax = 8 << 20
	exportMax     = 1000    // carts of one call
	importMax     = 1000    // carts of one call
	exportPage    = 64      // carts read at a time
	exportBytes   = 1 << 20 // of an answer; a larger cart has one of its own
)

// Digests implements the service.
func (a admin) Digests(ctx context.Context, req *connect.Request[adminv1.DigestsRequest]) (*connect.Response[adminv1.DigestsResponse], error) {
	r, err := a.ops.carts(req.Msg.Region)
	if err != nil {
		return nil, adminError(err)
	}
	digests, err := r.Digests(ctx, 0, shard.SlotCount)
	if err != nil {
		return nil, adminError(err)
	}
	out := &adminv1.DigestsResponse{Digests: make([][]byte, len(digests))}
	for i, d := range digests {
		out.Digests[i] = d[:]
	}
	return connect.NewResponse(out), nil
}

// Forgotten implements the service.
func (a admin) Forgotten(ctx context.Context, req *connect.Request[adminv1.ForgottenRequest]) (*connect.Response[adminv1.ForgottenResponse], error) {
	r, err := a.ops.carts(req.Msg.Region)
	if err != nil {
		return nil, adminError(err)
	}
	before, err := r.ForgottenBefore(ctx)
	if err != nil {
		return nil, adminError(err)
	}
	return connect.NewResponse(&adminv1.ForgottenResponse{ForgottenBeforeMs: before}), nil
}

// Export implements the service.
func (a admin) Export(ctx context.Context, req *connect.Request[adminv1.ExportRequest], out *connect.ServerStream[adminv1.ExportResponse]) error {
	if n := len(req.Msg.CartIds); n > exportMax {
		return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("%d carts: at most %d a call", n, exportMax))
	}
	r, err := a.ops.carts(req.Msg.Region)
	if err != nil {
		return adminError(err)
	}
	for ids := range slices.Chunk(req.Msg.CartIds, exportPage) {
		whole, err := r.Fetch(ctx, ids)
		if err != nil {
			return adminError(err)
		}
		page, size := &adminv1.ExportResponse{}, 0
		for _, c := range whole {
			if len(c.Data) == 0 { // it came over a link, where nil is empty
				continue
			}
			if size += len(c.Data); size > exportBytes && len(page.Carts) > 0 {
				if err := out.Send(page); err != nil {
					return err
				}
				page, size = &adminv1.ExportResponse{}, len(c.Data)
			}
			page.Carts = append(page.Carts, &adminv1.WholeCart{CartId: c.CartID, State: c.Data})
		}
		if len(page.Carts) == 0 {
			continue
		}
		if err := out.Send(page); err != nil {
			return err
		}
	}
	return nil
}

// Import implements the service.
func (a admin) Import(ctx context.Context, req *connect.Request[adminv1.ImportRequest]) (*connect.Response[adminv1.ImportResponse], error) {
	if n := len(req.Msg.Carts); n > importMax {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("%d carts: at most %d a call", n, importMax))
	}
	r, err := a.ops.carts(req.Msg.Region)
	if err != nil {
		return nil, adminError(err)
	}
	whole := make([]replication.WholeCart, 0, len(req.Msg.Carts))
	for _, c := range req.Msg.Carts {
		// What was used since a backup was made would be forgotten with it, and what
		// regions know of one that is gone must not become more: see crdt.Bounded.
		if !crdt.IsLimit(c.CartId) {
			whole = append(whole, replication.WholeCart{CartID: c.CartId, Data: c.State})
		}
	}
	limits := replication.DefaultLimits()
	limits.Now = time.Now()
	if _, err := replication.ValidateCarts(whole, limits); err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	if err := r.JoinCarts(ctx, whole, crdt.Stream{}); err != nil {
		return nil, adminError(err)
	}
	return connect.NewResponse(&adminv1.ImportResponse{}), nil
}

// statusOf sums up what a region's nodes say.
func statusOf(p member.Place, address string, answers []*regionv1.StatusResponse) *adminv1.RegionStatus {
	out := &adminv1.RegionStatus{Region: p.Region, Address: address, Ready: true, RegionId: uint32(p.ID)}
	alive := make(map[string]bool)
	byShard := make(map[uint32]*adminv1.ShardStatus)
	for _, a := range answers {
		alive[a.Node] = true
		out.Incarnation = max(out.Incarnation, a.Incarnation)
		for _, s := range a.Shards {
			have := byShard[s.Shard]
			if have == nil {
				have = &adminv1.ShardStatus{Shard: s.Shard}
				byShard[s.Shard] = have
			}
			if !s.Leads {
				continue
			}
			have.Leader, have.AppliedIndex, have.LogSeq = a.Node, s.Applied, s.LogSeq
			out.Carts += s.Carts
			for _, p := range s.Peers {
				have.Peers = append(have.Peers, &adminv1.PeerStatus{
					Region: p.Region, AckedSeq: p.Acked, LagMs: p.LagMs, ProvenEqualAtMs: p.ProvenEqualAtMs, Connected: p.Connected,
					LagP50Ms: p.LagP50Ms, LagP99Ms: p.LagP99Ms, LagWorstMs: p.LagWorstMs, WorstCart: p.WorstCart,
					RowsWaiting: p.RowsWaiting, BytesWaiting: p.BytesWaiting, Repairing: p.Repairing,
					DifferentSlots: p.DifferentSlots, LastError: p.LastError, Via: p.Via,
				})
			}
		}
	}
	for _, n := range p.Nodes {
		out.Nodes = append(out.Nodes, &adminv1.NodeStatus{Node: n, Alive: alive[n]})
	}
	for id := range p.Shards {
		s := byShard[id]
		if s == nil {
			s = &adminv1.ShardStatus{Shard: id}
		}
		out.Ready = out.Ready && s.Leader != ""
		out.Shards = append(out.Shards, s)
	}
	return out
}
