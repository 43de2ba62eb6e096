package main

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/cmd/cartctl/api"
	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
)

type (
	// guestSessionCmd makes a guest session.
	guestSessionCmd struct {
		Region string `help:"Ask this region, not the one that --addr picks." placeholder:"NAME"`
	}
	// mergeCmd merges a guest's cart into a user's.
	mergeCmd struct {
		User       string `help:"User into whose cart; not needed with --token." placeholder:"ID"`
		Guest      string `help:"Guest session whose cart is merged." required:"" placeholder:"ID"`
		GuestToken string `help:"Token of the guest session, or the file that has it; cartd dev needs none." placeholder:"FILE|TOKEN"`
		Region     string `help:"Ask this region, not the one that --addr picks." placeholder:"NAME"`
		Key        string `name:"idempotency-key" help:"Idempotency key. Without one the merge may be sent again all the same: it is made once." placeholder:"KEY"`
	}
	settingsCmd struct {
		Show settingsShowCmd `cmd:"" default:"1" help:"Show the shop's settings."`
		Set  settingsSetCmd  `cmd:"" help:"Change one, in all regions."`
	}
	settingsShowCmd struct{}
	settingsSetCmd  struct {
		Name  string `arg:"" help:"Which: merge-rule."`
		Value string `arg:"" help:"Its value. merge-rule: max, sum or latest: which quantity counts at a login for what guest and user both have."`
	}
)

// nobody is the caller of a call that is open to everybody.
func nobody(region string) shopper { return shopper{Guest: "nobody", Region: region} }

// Run makes a session.
func (c *guestSessionCmd) Run(a *app) error {
	answer, err := call(a, nobody(c.Region), "", nil, &cartv1.CreateGuestSessionRequest{}, cartv1connect.CartServiceClient.CreateGuestSession)
	if err != nil {
		return err
	}
	m := answer.Msg
	return a.print(shown(m.ProtoReflect(), answer.Header()), func(w *tabwriter.Writer) {
		row(w, "guest session", m.GetGuestSessionId())
		row(w, "token", m.GetToken())
	})
}

// Run merges.
func (c *mergeCmd) Run(a *app) error {
	if c.User == "" && a.bearer == "" {
		return usageError{errors.New("into whose cart? give --user or --token")}
	}
	proof, err := readToken(c.GuestToken)
	if err != nil {
		return usageError{fmt.Errorf("--guest-token: %w", err)}
	}
	msg := &cartv1.MergeCartRequest{GuestSessionId: c.Guest, GuestToken: proof}
	answer, err := call(a, shopper{User: c.User, Region: c.Region}, c.Key, nil, msg, cartv1connect.CartServiceClient.MergeCart)
	if err != nil {
		return err
	}
	m := answer.Msg
	return a.print(shown(m.ProtoReflect(), answer.Header()), func(w *tabwriter.Writer) {
		row(w, fmt.Sprintf("%d lines of %s merged, %d conflicts resolved", m.GetMergedItems(), c.Guest, m.GetConflictsResolved()))
		printTail(w, m.GetCartId(), m.GetItemCount(), m.GetStale(), answer.Header())
		printConflicts(w, m.GetConflicts())
		for _, warning := range m.GetWarnings() {
			row(w, "warning: "+warning)
		}
	})
}

// Run shows the settings.
func (c *settingsShowCmd) Run(a *app) error { return a.settings(&adminv1.SettingsRequest{}) }

// Run changes a setting.
func (c *settingsSetCmd) Run(a *app) error {
	return a.settings(&adminv1.SettingsRequest{Name: c.Name, Value: c.Value})
}

func (a *app) settings(msg *adminv1.SettingsRequest) error {
	req := connect.NewRequest(msg)
	a.admin().Apply(req.Header())
	answer, err := api.NewAdmin(a.http, a.base).Settings(a.ctx, req)
	if err != nil {
		return err
	}
	object := map[string]any{}
	for _, s := range answer.Msg.GetSettings() {
		object[s.GetName()] = s.GetValue()
	}
	return a.print(object, func(w *tabwriter.Writer) {
		row(w, "SETTING", "VALUE", "OF")
		for _, s := range answer.Msg.GetSettings() {
			row(w, s.GetName(), s.GetValue(), strings.Join(s.GetValues(), ", "))
		}
	})
}
