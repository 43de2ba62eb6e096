package main

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	"github.com/samecart/samecart/region"
)

// shop is a region as the shop's settings are read and changed there.
type shop interface {
	Settings(ctx context.Context) ([]region.Setting, error)
	SetSetting(ctx context.Context, name, value string) error
}

// Settings implements the service.
func (a admin) Settings(ctx context.Context, req *connect.Request[adminv1.SettingsRequest]) (*connect.Response[adminv1.SettingsResponse], error) {
	at := a.ops.shop(ctx)
	if name := req.Msg.Name; name != "" {
		if err := at.SetSetting(ctx, name, req.Msg.Value); errors.Is(err, region.ErrSetting) {
			return nil, connect.NewError(connect.CodeInvalidArgument, err)
		} else if err != nil {
			return nil, adminError(err)
		}
	}
	all, err := at.Settings(ctx)
	if err != nil {
		return nil, adminError(err)
	}
	out := &adminv1.SettingsResponse{}
	for _, s := range all {
		out.Settings = append(out.Settings, &adminv1.SettingsResponse_Setting{Name: s.Name, Value: s.Value, Values: s.Values})
	}
	return connect.NewResponse(out), nil
}

// shop implements operations: all regions of the process have the same settings.
func (d *dev) shop(ctx context.Context) shop {
	for _, r := range d.all {
		if r.serving.Load() && r.readySoon(ctx) {
			return r.router
		}
	}
	return d.all[0].router
}

// shop implements operations.
func (s *server) shop(context.Context) shop { return s.router }
