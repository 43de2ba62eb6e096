package main

import (
	"context"
	"strings"
	"testing"

	"connectrpc.com/connect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
)

// A fake's link is its owner's name; it is of no use to real tokens.

func (r fakeRegion) ShareCart(_ context.Context, req *connect.Request[cartv1.ShareCartRequest]) (*connect.Response[cartv1.ShareCartResponse], error) {
	user, err := owner(req.Header())
	if err != nil {
		return nil, err
	}
	if req.Msg.GetExpiresInS() > 100*3600 && req.Msg.GetMode() == "live" {
		return nil, apiError(connect.CodeInvalidArgument, "INVALID_FIELD", "expires_in_s is too large")
	}
	return connect.NewResponse(&cartv1.ShareCartResponse{
		Id: "id-" + user, Token: "token-" + user, Url: "http://shop/shared/token-" + user, Mode: req.Msg.GetMode(),
		ExpiresAtMs: 1_700_000_000_000 + 1000*int64(req.Msg.GetExpiresInS()),
	}), nil
}

func (r fakeRegion) RevokeShare(_ context.Context, req *connect.Request[cartv1.RevokeShareRequest]) (*connect.Response[cartv1.RevokeShareResponse], error) {
	if user, err := owner(req.Header()); err != nil || req.Msg.GetId() != "id-"+user {
		return nil, apiError(connect.CodeNotFound, "SHARE_NOT_FOUND", "there is no such link")
	}
	return connect.NewResponse(&cartv1.RevokeShareResponse{Id: req.Msg.GetId()}), nil
}

func (r fakeRegion) GetShared(_ context.Context, req *connect.Request[cartv1.GetSharedRequest]) (*connect.Response[cartv1.SharedCart], error) {
	if req.Msg.GetToken() != "token-u" || req.Header().Get("X-User-ID") != "" {
		return nil, apiError(connect.CodeNotFound, "SHARE_NOT_FOUND", "there is no such link")
	}
	price := &cartv1.Money{Currency: "USD", MinorUnits: 2999}
	return connect.NewResponse(&cartv1.SharedCart{
		Mode: "live", ItemCount: 2, Subtotal: price, ExpiresAtMs: 1_700_000_000_000,
		Items: []*cartv1.Item{{SkuId: "SKU-456", Name: "Wireless Mouse", Quantity: 2, PriceAtAdd: price}}, Warnings: []string{"old prices"},
	}), nil
}

func (r fakeRegion) CopyShared(_ context.Context, req *connect.Request[cartv1.CopySharedRequest]) (*connect.Response[cartv1.Cart], error) {
	user, err := owner(req.Header())
	if err != nil || req.Msg.GetToken() != "token-u" || req.Header().Get("Idempotency-Key") == "" {
		return nil, apiError(connect.CodeNotFound, "SHARE_NOT_FOUND", "there is no such link")
	}
	return connect.NewResponse(&cartv1.Cart{CartId: "cart:" + user, ItemCount: 2}), nil
}

func TestShareCommands(t *testing.T) {
	_, addr := newFake(t)
	t.Setenv("SAMECART_ADDR", addr)
	made := ctl(t, "share", "create", "--user", "u", "--mode", "live", "--expires", "1h", "--json")
	if o := made.object(t); made.code != exitGood || at(t, o, "id") != "id-u" || at(t, o, "token") != "token-u" ||
		at(t, o, "mode") != "live" || at(t, o, "expires_at") != "2023-11-14T23:13:20.000Z" {
		t.Errorf("create: %d %s", made.code, made.stdout)
	}
	if r := ctl(t, "share", "create", "--user", "u"); !strings.Contains(r.stdout, "http://shop/shared/token-u") || !strings.Contains(r.stdout, "2023-11-21T22:13:20Z") {
		t.Errorf("create for people: %s", r.stdout)
	}
	for _, link := range []string{"token-u", "http://shop/shared/token-u"} {
		if o := ctl(t, "share", "get", link, "--region", "eu-west", "--json").object(t); at(t, o, "items", 0, "quantity") != 2.0 || at(t, o, "subtotal") != 29.99 {
			t.Errorf("get: %v", o)
		}
		if o := ctl(t, "share", "copy", link, "--guest", "g", "--json").object(t); at(t, o, "cart_id") != "cart:g" || at(t, o, "item_count") != 2.0 {
			t.Errorf("copy: %v", o)
		}
	}
	people := ctl(t, "share", "get", "token-u")
	for _, want := range []string{"live: 2 items", "Wireless Mouse", "29.99 USD", "warning: old prices"} {
		if !strings.Contains(people.stdout, want) {
			t.Errorf("get for people lacks %q:\n%s", want, people.stdout)
		}
	}
	if r := ctl(t, "share", "revoke", "id-u", "--user", "u"); r.code != exitGood || !strings.Contains(r.stdout, "id-u") {
		t.Errorf("revoke: %+v", r)
	}
	for _, c := range []struct {
		line string
		code int
		text string
	}{
		{"share revoke id-u --user v", exitFailed, "SHARE_NOT_FOUND"},
		{"share get nothing", exitFailed, "SHARE_NOT_FOUND"},
		{"share copy nothing --user v", exitFailed, "SHARE_NOT_FOUND"},
		{"share create --user u --mode live --expires 800h", exitFailed, "INVALID_FIELD"},
		{"share create --user u --mode public", exitUsage, "mode"},
		{"share create --user u --expires 0s", exitUsage, "--expires"},
		{"share create --user u --expires 1500ms", exitUsage, "--expires"},
		{"share create", exitUsage, "--user"},
		{"share copy token-u", exitUsage, "--user"},
		{"share revoke --user u", exitUsage, "id"},
	} {
		if r := ctl(t, strings.Fields(c.line)...); r.code != c.code || !strings.Contains(r.stderr, c.text) {
			t.Errorf("%s: exit %d, %s", c.line, r.code, r.stderr)
		}
	}
}
