package rpc

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"connectrpc.com/connect"

	membershipv1 "github.com/samecart/samecart/proto/membership/v1"
	"github.com/samecart/samecart/proto/membership/v1/membershipv1connect"
	"github.com/samecart/samecart/replication/membership"
)

// membershipBytesMax bounds a document with all regions that there can be.
const membershipBytesMax = 256 << 10

// MembershipClient reaches another region's part of the membership, through any of
// its nodes. It is a membership.Peer, safe for concurrent use.
type MembershipClient struct {
	calls []membershipv1connect.MembershipServiceClient
}

var _ membership.Peer = (*MembershipClient)(nil)

// NewMembershipClient returns a client for the region behind the base URLs; hc as
// for NewPeerClient.
func NewMembershipClient(hc connect.HTTPClient, urls []string) (*MembershipClient, error) {
	if len(urls) == 0 {
		return nil, errors.New("peer region has no address: give at least one base URL")
	}
	c := &MembershipClient{}
	for _, u := range urls {
		c.calls = append(c.calls, membershipv1connect.NewMembershipServiceClient(hc, u,
			connect.WithReadMaxBytes(membershipBytesMax), connect.WithSendMaxBytes(membershipBytesMax)))
	}
	return c, nil
}

// each asks one address after the other until one answers. A question that was
// asked twice does no harm.
func (c *MembershipClient) each(ctx context.Context, call func(membershipv1connect.MembershipServiceClient) error) (err error) {
	for _, to := range c.calls {
		if err = call(to); err == nil || peerAnswered(err) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// Current implements membership.Peer.
func (c *MembershipClient) Current(ctx context.Context, r *membershipv1.CurrentRequest) (out *membershipv1.CurrentResponse, err error) {
	err = c.each(ctx, func(to membershipv1connect.MembershipServiceClient) error {
		resp, err := to.Current(ctx, connect.NewRequest(r))
		if err == nil {
			out = resp.Msg
		}
		return err
	})
	return out, err
}

// Prepare implements membership.Voter.
func (c *MembershipClient) Prepare(ctx context.Context, r *membershipv1.PrepareRequest) (out *membershipv1.Vote, err error) {
	err = c.each(ctx, func(to membershipv1connect.MembershipServiceClient) error {
		resp, err := to.Prepare(ctx, connect.NewRequest(r))
		if err == nil {
			out = resp.Msg
		}
		return err
	})
	return out, err
}

// Accept implements membership.Voter.
func (c *MembershipClient) Accept(ctx context.Context, r *membershipv1.AcceptRequest) (out *membershipv1.Vote, err error) {
	err = c.each(ctx, func(to membershipv1connect.MembershipServiceClient) error {
		resp, err := to.Accept(ctx, connect.NewRequest(r))
		if err == nil {
			out = resp.Msg
		}
		return err
	})
	return out, err
}

// MembershipRegion is the own region's part of the membership.
type MembershipRegion interface {
	membership.Voter
	// Answer answers another region's Current.
	Answer(ctx context.Context, r *membershipv1.CurrentRequest) (*membershipv1.CurrentResponse, error)
}

// MembershipConfig holds the settings of a MembershipHandler.
type MembershipConfig struct {
	// Known reports whether a name is that of another region, member or not. It
	// must be safe for concurrent use.
	Known func(region string) bool
	// Identity is as in PeerConfig.
	Identity func(*http.Request) (region string, ok bool)
}

// MembershipHandler answers other regions: those that are no members as well, which
// have to hear of it.
type MembershipHandler struct {
	region MembershipRegion
	cfg    MembershipConfig
}

// NewMembershipHandler returns the path to mount the service on, and the service.
func NewMembershipHandler(region MembershipRegion, cfg MembershipConfig) (string, http.Handler) {
	h := MembershipHandler{region, cfg}
	path, inner := membershipv1connect.NewMembershipServiceHandler(h,
		connect.WithReadMaxBytes(membershipBytesMax), connect.WithSendMaxBytes(membershipBytesMax))
	refuse := connect.NewErrorWriter()
	return path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if cfg.Identity != nil {
			name, ok := cfg.Identity(r)
			if !ok || !cfg.Known(name) {
				_ = refuse.Write(w, r, connect.NewError(connect.CodeUnauthenticated,
					errors.New("no client certificate of a region: present one signed for this system"))) // the caller is gone when it fails
				return
			}
			r = r.WithContext(context.WithValue(r.Context(), peerCallerKey{}, peerCaller{region: name}))
		}
		inner.ServeHTTP(w, r)
	})
}

// Current implements the service.
func (h MembershipHandler) Current(ctx context.Context, req *connect.Request[membershipv1.CurrentRequest]) (*connect.Response[membershipv1.CurrentResponse], error) {
	caller, _ := ctx.Value(peerCallerKey{}).(peerCaller)
	if caller.region != "" && caller.region != req.Msg.Region {
		return nil, connect.NewError(connect.CodePermissionDenied, fmt.Errorf("the certificate is of region %q, the request of %q", caller.region, req.Msg.Region))
	}
	out, err := h.region.Answer(ctx, req.Msg)
	if err != nil {
		return nil, peerError(err)
	}
	return connect.NewResponse(out), nil
}

// Prepare implements the service.
func (h MembershipHandler) Prepare(ctx context.Context, req *connect.Request[membershipv1.PrepareRequest]) (*connect.Response[membershipv1.Vote], error) {
	out, err := h.region.Prepare(ctx, req.Msg)
	if err != nil {
		return nil, peerError(err)
	}
	return connect.NewResponse(out), nil
}

// Accept implements the service.
func (h MembershipHandler) Accept(ctx context.Context, req *connect.Request[membershipv1.AcceptRequest]) (*connect.Response[membershipv1.Vote], error) {
	out, err := h.region.Accept(ctx, req.Msg)
	if err != nil {
		return nil, peerError(err)
	}
	return connect.NewResponse(out), nil
}
