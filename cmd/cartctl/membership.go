package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	"github.com/samecart/samecart/proto/admin/v1/adminv1connect"
	membershipv1 "github.com/samecart/samecart/proto/membership/v1"
)

// memberState is how a region stands, in a word.
func memberState(status *adminv1.RegionsResponse, region string) string {
	if status.GetMembership() == nil {
		return "-"
	}
	return status.GetMembership().Named(region).GetState().Word()
}

// memberWait is how long a change of the membership is waited for.
type memberWait struct {
	regionName
	Timeout time.Duration `help:"How long to wait until the region has come to its new state; 0s: not at all." default:"2m"`
}

type (
	regionAddCmd struct {
		memberWait
		ID      uint32   `name:"id" help:"Id of a region that was never a member: 1 to 65535, its own for ever."`
		Peers   []string `help:"Where the new region's nodes take rows, when the others are not configured with it." placeholder:"URL,…"`
		Address string   `help:"Where clients reach the new region." placeholder:"URL"`
	}
	regionDrainCmd struct{ memberWait }
	regionFenceCmd struct {
		memberWait
		Force bool `help:"Decide it without a majority, by the region that is asked: for the one that is left of two. Should the other one be alive, both go on apart; when they meet again, one of them comes back as a fenced one does, and no edit is lost, but until then nothing that needs a majority of regions may be trusted."`
	}
	regionRemoveCmd struct{ memberWait }
)

// Run adds a region.
func (c *regionAddCmd) Run(a *app) error {
	return a.member(c.memberWait, &adminv1.MemberRequest{
		Action: adminv1.MemberRequest_ACTION_ADD, RegionId: c.ID, Peers: c.Peers, Address: c.Address,
	}, membershipv1.State_STATE_ACTIVE)
}

// Run drains a region.
func (c *regionDrainCmd) Run(a *app) error {
	return a.member(c.memberWait, &adminv1.MemberRequest{Action: adminv1.MemberRequest_ACTION_DRAIN}, membershipv1.State_STATE_DRAINED)
}

// Run fences a region.
func (c *regionFenceCmd) Run(a *app) error {
	// One that lives comes back at once: any state after it will do.
	return a.member(c.memberWait, &adminv1.MemberRequest{Action: adminv1.MemberRequest_ACTION_FENCE, Force: c.Force},
		membershipv1.State_STATE_FENCED, membershipv1.State_STATE_JOINING, membershipv1.State_STATE_ACTIVE)
}

// Run removes a region.
func (c *regionRemoveCmd) Run(a *app) error {
	return a.member(c.memberWait, &adminv1.MemberRequest{Action: adminv1.MemberRequest_ACTION_REMOVE}, membershipv1.State_STATE_REMOVED)
}

// memberPoll is the time between two looks at how a region stands.
const memberPoll = 250 * time.Millisecond

// member asks for a change and waits until the region has come to one of the states.
func (a *app) member(c memberWait, req *adminv1.MemberRequest, until ...membershipv1.State) error {
	if c.Timeout < 0 {
		return usageError{fmt.Errorf("--timeout %v is negative", c.Timeout)}
	}
	req.Region = c.Region
	decided, err := administer(a.ctx, a.operator(), req, adminv1connect.AdminServiceClient.Member)
	if err != nil {
		return err
	}
	now := decided.GetMembership()
	say := stateLine(a.stderr)
	deadline := time.Now().Add(c.Timeout)
	for !slices.Contains(until, now.Named(c.Region).GetState()) {
		if c.Timeout == 0 {
			break
		}
		if time.Now().After(deadline) {
			say("")
			return fmt.Errorf("region %s is %s after %v, not yet %s; the change is decided and goes on: 'cartctl regions' shows how",
				c.Region, now.Named(c.Region).GetState().Word(), c.Timeout, until[0].Word())
		}
		say(c.Region + " is " + now.Named(c.Region).GetState().Word())
		select {
		case <-a.ctx.Done():
			return errors.Join(a.ctx.Err(), errors.New("the change is decided and goes on"))
		case <-time.After(memberPoll):
		}
		// An error may pass: the server that is asked may be the region itself.
		if status, err := a.operator().Status(a.ctx); err == nil && status.GetMembership().Newer(now) {
			now = status.GetMembership()
		}
	}
	say("")
	m := now.Named(c.Region)
	return a.print(map[string]any{
		"region": c.Region, "state": m.GetState().Word(), "incarnation": m.GetIncarnation(), "epoch": now.GetEpoch(),
		"membership": view(now.ProtoReflect()),
	}, func(w *tabwriter.Writer) {
		row(w, fmt.Sprintf("%s is %s (incarnation %d, epoch %d)", c.Region, m.GetState().Word(), m.GetIncarnation(), now.GetEpoch()))
	})
}

// stateLine returns what rewrites one line of a terminal, and does nothing
// elsewhere; "" clears it.
func stateLine(w io.Writer) func(string) {
	f, ok := w.(interface{ Fd() uintptr })
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return func(string) {}
	}
	last := 0
	return func(s string) {
		fmt.Fprint(w, "\r"+s+strings.Repeat(" ", max(0, last-len(s)))+"\r")
		last = len(s)
	}
}
