package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
)

func (r fakeRegion) CreateGuestSession(context.Context, *connect.Request[cartv1.CreateGuestSessionRequest]) (*connect.Response[cartv1.GuestSession], error) {
	return connect.NewResponse(&cartv1.GuestSession{GuestSessionId: "new", Token: "a.b.c", ExpiresAtMs: 1}), nil
}

func (r fakeRegion) MergeCart(_ context.Context, req *connect.Request[cartv1.MergeCartRequest]) (*connect.Response[cartv1.MergeCartResponse], error) {
	user, err := owner(req.Header())
	if err != nil {
		return nil, err
	}
	if req.Msg.GetGuestSessionId() == "taken" {
		return nil, apiError(connect.CodeAborted, "ALREADY_MERGED", "the cart of this guest session was merged")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &cartv1.MergeCartResponse{CartId: "cart:" + user, Warnings: []string{"token " + req.Msg.GetGuestToken()}}
	for sku, n := range r.regions[r.name][req.Msg.GetGuestSessionId()] {
		out.MergedItems++
		if had := r.regions[r.name][user][sku]; had > 0 && had != n {
			out.ConflictsResolved++
			out.Conflicts = append(out.Conflicts, &cartv1.Conflict{SkuId: sku, Field: "quantity", Value: fmt.Sprint(max(had, n)), Values: []string{fmt.Sprint(had), fmt.Sprint(n)}})
		}
		r.put(r.name, user, sku, n)
	}
	return connect.NewResponse(out), nil
}

func (r fakeRegion) Settings(_ context.Context, req *connect.Request[adminv1.SettingsRequest]) (*connect.Response[adminv1.SettingsResponse], error) {
	value := "max"
	if req.Msg.GetName() != "" {
		if req.Msg.GetName() != "merge-rule" {
			return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("no setting %q", req.Msg.GetName()))
		}
		value = req.Msg.GetValue()
	}
	return connect.NewResponse(&adminv1.SettingsResponse{Settings: []*adminv1.SettingsResponse_Setting{{Name: "merge-rule", Value: value, Values: []string{"max", "sum"}}}}), nil
}

func TestMergeCommand(t *testing.T) {
	_, addr := newFake(t)
	t.Setenv("SAMECART_ADDR", addr)
	for _, line := range []string{"add --user u SKU-2 1", "add --guest g SKU-2 2", "add --guest g SKU-1"} {
		if r := ctl(t, strings.Fields(line)...); r.code != 0 {
			t.Fatalf("%s: %s", line, r.stderr)
		}
	}
	o := ctl(t, "merge", "--user", "u", "--guest", "g", "--json").object(t)
	if fmt.Sprint(o["merged_items"], o["conflicts_resolved"], at(t, o, "conflicts", 0, "value")) != "2 1 2" {
		t.Errorf("merge: %v", o)
	}
	if r := ctl(t, "merge", "--user", "u", "--guest", "g"); r.code != 0 || !strings.Contains(r.stdout, "2 lines of g merged") {
		t.Errorf("merge for people: %+v", r)
	}
	if r := ctl(t, "merge", "--user", "u", "--guest", "taken"); r.code != 1 || !strings.Contains(r.stderr, "ALREADY_MERGED") {
		t.Errorf("a guest of another user: %+v", r)
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("x.y.z\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o = ctl(t, "merge", "--user", "u", "--guest", "g", "--guest-token", file, "--json").object(t)
	if at(t, o, "warnings", 0) != "token x.y.z" {
		t.Errorf("token from a file: %v", o)
	}
	for _, line := range []string{"merge --user u", "merge --guest g", "merge --user u --guest g --guest-token nothing"} {
		if r := ctl(t, strings.Fields(line)...); r.code != 2 {
			t.Errorf("%s: exit %d", line, r.code)
		}
	}
	if o := ctl(t, "guest-session", "--json").object(t); o["guest_session_id"] != "new" || o["token"] != "a.b.c" {
		t.Errorf("guest session: %v", o)
	}
}

func TestSettingsCommand(t *testing.T) {
	_, addr := newFake(t)
	t.Setenv("SAMECART_ADDR", addr)
	if o := ctl(t, "settings", "--json").object(t); o["merge-rule"] != "max" {
		t.Errorf("settings: %v", o)
	}
	if r := ctl(t, "settings", "set", "merge-rule", "sum"); r.code != 0 || !strings.Contains(r.stdout, "sum") {
		t.Errorf("set: %+v", r)
	}
	if r := ctl(t, "settings", "set", "rule", "sum"); r.code != 1 {
		t.Errorf("unknown setting: exit %d", r.code)
	}
	if r := ctl(t, "settings", "set", "merge-rule"); r.code != 2 {
		t.Errorf("no value: exit %d", r.code)
	}
}
