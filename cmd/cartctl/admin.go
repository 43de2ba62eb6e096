package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/cmd/cartctl/api"
	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	"github.com/samecart/samecart/proto/admin/v1/adminv1connect"
	"github.com/samecart/samecart/rpc/scan"
)

// operator calls the admin service; it satisfies replay.Faults.
type operator struct {
	client   adminv1connect.AdminServiceClient
	identity api.Identity
}

func (a *app) operator() operator {
	return operator{client: api.NewAdmin(a.http, a.base), identity: a.admin()}
}

func administer[Req, Resp any](
	ctx context.Context, o operator, msg *Req,
	method func(adminv1connect.AdminServiceClient, context.Context, *connect.Request[Req]) (*connect.Response[Resp], error),
) (*Resp, error) {
	var out *Resp
	// A fault may take its time to be in force: a node closes its store first.
	policy := api.Policy{Attempt: 30 * time.Second, Total: 30 * time.Second, Longest: time.Second}
	err := api.Do(ctx, policy, func(ctx context.Context) error {
		req := connect.NewRequest(msg)
		o.identity.Apply(req.Header())
		answer, err := method(o.client, ctx, req)
		if err == nil {
			out = answer.Msg
		}
		return err
	})
	return out, err
}

// Status asks for regions and links.
func (o operator) Status(ctx context.Context) (*adminv1.RegionsResponse, error) {
	return administer(ctx, o, &adminv1.RegionsRequest{}, adminv1connect.AdminServiceClient.Regions)
}

func (o operator) link(ctx context.Context, action adminv1.LinkRequest_Action, a, b string, delay time.Duration) error {
	_, err := administer(ctx, o, &adminv1.LinkRequest{Action: action, A: a, B: b, DelayMs: delay.Milliseconds()}, adminv1connect.AdminServiceClient.Link)
	return err
}

func (o operator) node(ctx context.Context, action adminv1.NodeRequest_Action, node string) error {
	_, err := administer(ctx, o, &adminv1.NodeRequest{Action: action, Node: node}, adminv1connect.AdminServiceClient.Node)
	return err
}

func (o operator) region(ctx context.Context, action adminv1.NodeRequest_Action, region string) error {
	_, err := administer(ctx, o, &adminv1.RegionRequest{Action: action, Region: region}, adminv1connect.AdminServiceClient.Region)
	return err
}

func (o operator) clock(ctx context.Context, node string, ahead time.Duration) error {
	_, err := administer(ctx, o, &adminv1.ClockRequest{Node: node, OffsetMs: ahead.Milliseconds()}, adminv1connect.AdminServiceClient.Clock)
	return err
}

// Cut cuts a link in both directions.
func (o operator) Cut(ctx context.Context, a, b string) error {
	return o.link(ctx, adminv1.LinkRequest_ACTION_CUT, a, b, 0)
}

// Heal heals a link.
func (o operator) Heal(ctx context.Context, a, b string) error {
	return o.link(ctx, adminv1.LinkRequest_ACTION_HEAL, a, b, 0)
}

// Kill kills a node.
func (o operator) Kill(ctx context.Context, node string) error {
	return o.node(ctx, adminv1.NodeRequest_ACTION_KILL, node)
}

// Start starts a node.
func (o operator) Start(ctx context.Context, node string) error {
	return o.node(ctx, adminv1.NodeRequest_ACTION_START, node)
}

// done prints what a fault command did.
func (a *app) done(what string, parts map[string]any) error {
	parts["done"] = what
	return a.print(parts, func(w *tabwriter.Writer) { row(w, what) })
}

type linkEnds struct {
	A string `arg:"" help:"One region."`
	B string `arg:"" help:"The other region."`
}

type (
	linkCmd struct {
		Cut   linkCutCmd   `cmd:"" help:"Cut the link, in both directions."`
		Heal  linkHealCmd  `cmd:"" help:"Heal the link."`
		Delay linkDelayCmd `cmd:"" help:"Delay everything on the link. What goes around it through a third region, because it was dead, is not delayed."`
	}
	linkCutCmd   struct{ linkEnds }
	linkHealCmd  struct{ linkEnds }
	linkDelayCmd struct {
		linkEnds
		Delay time.Duration `arg:"" name:"duration" help:"How long, one way: 80ms. 0s ends it."`
	}
)

// Run cuts a link.
func (c *linkCutCmd) Run(a *app) error {
	if err := a.operator().Cut(a.ctx, c.A, c.B); err != nil {
		return err
	}
	return a.done("cut "+c.A+" "+c.B, map[string]any{"a": c.A, "b": c.B})
}

// Run heals a link.
func (c *linkHealCmd) Run(a *app) error {
	if err := a.operator().Heal(a.ctx, c.A, c.B); err != nil {
		return err
	}
	return a.done("heal "+c.A+" "+c.B, map[string]any{"a": c.A, "b": c.B})
}

// Run delays a link.
func (c *linkDelayCmd) Run(a *app) error {
	if c.Delay < 0 {
		return usageError{fmt.Errorf("delay %v is negative", c.Delay)}
	}
	if err := a.operator().link(a.ctx, adminv1.LinkRequest_ACTION_DELAY, c.A, c.B, c.Delay); err != nil {
		return err
	}
	return a.done(fmt.Sprintf("delay %s %s %v", c.A, c.B, c.Delay), map[string]any{"a": c.A, "b": c.B, "delay_ms": c.Delay.Milliseconds()})
}

type nodeName struct {
	Node string `arg:"" help:"The node: REGION/N."`
}

func (n nodeName) check() error {
	if region, number, ok := strings.Cut(n.Node, "/"); !ok || region == "" || number == "" {
		return usageError{fmt.Errorf("node %q: write REGION/N, for example us-east/2", n.Node)}
	}
	return nil
}

type (
	nodeCmd struct {
		Kill  nodeKillCmd  `cmd:"" help:"Kill the node."`
		Start nodeStartCmd `cmd:"" help:"Start the node."`
		Clock nodeClockCmd `cmd:"" help:"Set how far the node's clock is ahead of its machine's; 0s ends it, as does a start."`
	}
	nodeKillCmd  struct{ nodeName }
	nodeStartCmd struct{ nodeName }
	nodeClockCmd struct {
		nodeName
		Ahead time.Duration `arg:"" help:"How far: 5m; -- -5m is behind."`
	}
)

// Run kills a node.
func (c *nodeKillCmd) Run(a *app) error {
	if err := c.check(); err != nil {
		return err
	}
	if err := a.operator().Kill(a.ctx, c.Node); err != nil {
		return err
	}
	return a.done("kill "+c.Node, map[string]any{"node": c.Node})
}

// Run starts a node.
func (c *nodeStartCmd) Run(a *app) error {
	if err := c.check(); err != nil {
		return err
	}
	if err := a.operator().Start(a.ctx, c.Node); err != nil {
		return err
	}
	return a.done("start "+c.Node, map[string]any{"node": c.Node})
}

// Run sets a node's clock.
func (c *nodeClockCmd) Run(a *app) error {
	if err := c.check(); err != nil {
		return err
	}
	if err := a.operator().clock(a.ctx, c.Node, c.Ahead); err != nil {
		return err
	}
	return a.done(fmt.Sprintf("clock %s %v", c.Node, c.Ahead), map[string]any{"node": c.Node, "ahead_ms": c.Ahead.Milliseconds()})
}

type regionName struct {
	Region string `arg:"" help:"The region."`
}

type (
	regionCmd struct {
		Kill  regionKillCmd  `cmd:"" help:"Kill all nodes of the region."`
		Start regionStartCmd `cmd:"" help:"Start all nodes of the region."`

		Add    regionAddCmd    `cmd:"" help:"Let a region in, or back in: it is sent all carts and then takes edits."`
		Drain  regionDrainCmd  `cmd:"" help:"Take no more edits in the region, and send on what the others lack."`
		Fence  regionFenceCmd  `cmd:"" help:"Go on without a region that is dead: the others neither wait for it nor take anything from it. When it answers again, it comes back by itself."`
		Remove regionRemoveCmd `cmd:"" help:"Make a region that is drained or fenced stay away, until it is added again."`

		Repair regionRepairCmd `cmd:"" help:"Compare all carts with a peer region's now and exchange those that differ. Regions do so by themselves; 'cartctl regions' shows how it goes."`
	}
	regionKillCmd  struct{ regionName }
	regionStartCmd struct{ regionName }

	regionRepairCmd struct {
		regionName
		Peer string `arg:"" help:"The region to compare with."`
	}
)

// Run begins a repair.
func (c *regionRepairCmd) Run(a *app) error {
	_, err := administer(a.ctx, a.operator(), &adminv1.RepairRequest{Region: c.Region, Peer: c.Peer}, adminv1connect.AdminServiceClient.Repair)
	if err != nil {
		return err
	}
	return a.done("repair "+c.Region+" with "+c.Peer, map[string]any{"region": c.Region, "peer": c.Peer})
}

// Run kills a region.
func (c *regionKillCmd) Run(a *app) error {
	if err := a.operator().region(a.ctx, adminv1.NodeRequest_ACTION_KILL, c.Region); err != nil {
		return err
	}
	return a.done("kill "+c.Region, map[string]any{"region": c.Region})
}

// Run starts a region.
func (c *regionStartCmd) Run(a *app) error {
	if err := a.operator().region(a.ctx, adminv1.NodeRequest_ACTION_START, c.Region); err != nil {
		return err
	}
	return a.done("start "+c.Region, map[string]any{"region": c.Region})
}

// lag is how far behind the peer of a region is.
type lag struct {
	ms          int64 // the shard that is furthest behind
	p50, p99    int64 // the largest of any shard, over the last minute
	worst       int64
	worstCart   string
	rows, bytes uint64 // waiting, in all shards
	slots       uint32 // that differed when last compared, in all shards
	repairing   bool   // in any shard
	failure     string // the last of any shard
	connected   bool   // in all shards
	via         string // the region that calls of some shard go through
	provenEqual int64  // the shard proved longest ago, Unix milliseconds; 0: one never was
}

// lags sums up the shards by "origin>peer".
func lags(status *adminv1.RegionsResponse) map[string]lag {
	out := map[string]lag{}
	for _, region := range status.GetRegions() {
		for _, shard := range region.GetShards() {
			for _, peer := range shard.GetPeers() {
				key := region.GetRegion() + ">" + peer.GetRegion()
				l, ok := out[key]
				if !ok {
					l = lag{connected: true, provenEqual: peer.GetProvenEqualAtMs()}
				}
				l.ms = max(l.ms, peer.GetLagMs())
				l.p50, l.p99 = max(l.p50, peer.GetLagP50Ms()), max(l.p99, peer.GetLagP99Ms())
				if peer.GetLagWorstMs() > l.worst {
					l.worst, l.worstCart = peer.GetLagWorstMs(), peer.GetWorstCart()
				}
				l.rows += peer.GetRowsWaiting()
				l.bytes += peer.GetBytesWaiting()
				l.slots += peer.GetDifferentSlots()
				l.repairing = l.repairing || peer.GetRepairing()
				if f := peer.GetLastError(); f != "" && !peer.GetConnected() {
					l.failure = f
				}
				l.connected = l.connected && peer.GetConnected()
				l.via = max(l.via, peer.GetVia())
				l.provenEqual = min(l.provenEqual, peer.GetProvenEqualAtMs())
				out[key] = l
			}
		}
	}
	return out
}

// regionsCmd shows the cluster.
type regionsCmd struct{}

// Run shows the cluster.
func (*regionsCmd) Run(a *app) error {
	status, err := a.operator().Status(a.ctx)
	if err != nil {
		return err
	}
	pairs := lags(status)
	object := view(status.ProtoReflect())
	object["lag_ms"] = lagMS(pairs)
	return a.print(object, func(w *tabwriter.Writer) {
		row(w, "REGION", "MEMBER", "ADDRESS", "READY", "CARTS", "NODES", "SHARDS")
		for _, r := range status.GetRegions() {
			var nodes []string
			for _, n := range r.GetNodes() {
				state := ""
				if !n.GetAlive() {
					state = " (down)"
				}
				nodes = append(nodes, n.GetNode()+state)
			}
			led := 0
			for _, s := range r.GetShards() {
				if s.GetLeader() != "" {
					led++
				}
			}
			row(w, r.GetRegion(), memberState(status, r.GetRegion()), r.GetAddress(), yes(r.GetReady()), r.GetCarts(), strings.Join(nodes, ", "), fmt.Sprintf("%d of %d led", led, len(r.GetShards())))
		}
		for _, m := range status.GetMembership().GetMembers() {
			if !slices.ContainsFunc(status.GetRegions(), func(r *adminv1.RegionStatus) bool { return r.GetRegion() == m.GetRegion() }) {
				row(w, m.GetRegion(), m.GetState().Word(), m.GetAddress())
			}
		}
		row(w)
		row(w, "membership epoch", status.GetMembership().GetEpoch())
		row(w)
		row(w, "FROM", "TO", "STATE", "LAG", "P50", "P99", "WORST", "OF CART", "ROWS WAITING", "SLOTS DIFFERING", "LAST PROVEN EQUAL")
		for _, key := range sortedKeys(pairs) {
			from, to, _ := strings.Cut(key, ">")
			proven := "never"
			if at := pairs[key].provenEqual; at != 0 {
				proven = time.UnixMilli(at).UTC().Format(time.RFC3339)
			}
			p := pairs[key]
			row(w, from, to, p.state(), ms(p.ms), ms(p.p50), ms(p.p99), ms(p.worst), p.worstCart, p.rows, p.slots, proven)
		}
		for _, key := range sortedKeys(pairs) {
			if f := pairs[key].failure; f != "" {
				row(w)
				row(w, key+": "+f)
			}
		}
		if len(status.GetLinks()) > 0 {
			row(w)
			row(w, "LINK", "", "STATE", "DELAY")
			for _, l := range status.GetLinks() {
				row(w, l.GetA(), l.GetB(), map[bool]string{true: "CUT", false: "up"}[l.GetCut()], time.Duration(l.GetDelayMs())*time.Millisecond)
			}
		}
	})
}

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// state is how a pair stands, in a word.
func (l lag) state() string {
	switch {
	case l.repairing:
		return "repairing"
	case l.connected && l.via != "":
		return "via " + l.via
	case l.connected:
		return "connected"
	}
	return "AWAY"
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "NO"
}

func sortedKeys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func lagMS(pairs map[string]lag) map[string]int64 {
	out := map[string]int64{}
	for k, l := range pairs {
		out[k] = l.ms
	}
	return out
}

// cluster is the regions by name, in the server's order.
type cluster struct {
	names []string
	base  map[string]string
}

// cluster asks the admin service for the regions' addresses.
func (a *app) cluster(status *adminv1.RegionsResponse) (cluster, error) {
	c := cluster{base: map[string]string{}}
	for _, r := range status.GetRegions() {
		base, err := api.BaseURL(r.GetAddress())
		if err != nil {
			return c, fmt.Errorf("region %q: %w", r.GetRegion(), err)
		}
		c.names = append(c.names, r.GetRegion())
		c.base[r.GetRegion()] = base
	}
	if len(c.names) == 0 {
		return c, errors.New("the server at " + a.base + " names no region: is it ready?")
	}
	return c, nil
}

// keep drops the regions for which want does not hold and returns their names.
func (c *cluster) keep(want func(name string) bool) (dropped []string) {
	dropped = []string{}
	c.names = slices.DeleteFunc(c.names, func(name string) bool {
		if want(name) {
			return false
		}
		dropped = append(dropped, name)
		return true
	})
	return dropped
}

// scans returns the regions as they are compared.
func (a *app) scans(c cluster) []scan.Region {
	var out []scan.Region
	for _, name := range c.names {
		out = append(out, scan.NewRegion(name, api.NewAdmin(a.http, c.base[name]), func(h http.Header) { a.admin().Apply(h) }))
	}
	return out
}
