package rpc

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	"connectrpc.com/connect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
)

// Sharing over REST, and over Connect, gRPC and gRPC-Web.

type shareJSON struct {
	ID        string `json:"id"`
	Token     string `json:"token"`
	URL       string `json:"url"`
	Mode      string `json:"mode"`
	ExpiresAt string `json:"expires_at"`
	Stale     bool   `json:"stale,omitempty"`
}

type revokedJSON struct {
	ID string `json:"id"`
}

type sharedJSON struct {
	Mode      string       `json:"mode"`
	Items     []itemJSON   `json:"items"`
	Sellers   []sellerJSON `json:"sellers"`
	Subtotal  amount       `json:"subtotal"`
	ItemCount uint64       `json:"item_count"`
	Currency  string       `json:"currency"`
	CreatedAt string       `json:"created_at"`
	ExpiresAt string       `json:"expires_at"`
	Stale     bool         `json:"stale"`
	Warnings  []string     `json:"warnings"`
}

func sharedJSONOf(c *cartv1.SharedCart) sharedJSON {
	return sharedJSON{
		Mode: c.GetMode(), Items: mapped(c.GetItems(), itemJSONOf), Sellers: mapped(c.GetSellers(), sellerJSONOf),
		Subtotal: amountOf(c.GetSubtotal()), ItemCount: c.GetItemCount(), Currency: c.GetCurrency(),
		CreatedAt: timeText(c.GetCreatedAtMs()), ExpiresAt: timeText(c.GetExpiresAtMs()),
		Stale: c.GetStale(), Warnings: append([]string{}, c.GetWarnings()...),
	}
}

// decodeShare reads {"mode":"snapshot"|"live","expires_in_s":604800}.
func decodeShare(body []byte) (shareAsk, error) {
	var a shareAsk
	err := decodeObject(body, fields{
		"mode": text(&a.mode, "mode", InvalidField),
		"expires_in_s": func(v json.RawMessage) error {
			n, err := strconv.ParseUint(string(v), 10, 64)
			if err != nil {
				return fault(InvalidField, "expires_in_s %.40s must be a whole number from 1 to %d", v, int(shareExpiresMax.Seconds())).with("field", "expires_in_s")
			}
			a.seconds = &n
			return nil
		},
	})
	return a, err
}

func (h rest) share(w http.ResponseWriter, r *request) error {
	ask, err := decodeShare(r.body)
	if err != nil {
		return err
	}
	c, err := newCall(r.Context(), r.Header)
	if err != nil {
		return err
	}
	out, m, err := h.s.share(r.Context(), c, ask)
	if err != nil {
		return err
	}
	m.write(w.Header())
	return writeJSON(w, http.StatusOK, shareJSON{out.GetId(), out.GetToken(), out.GetUrl(), out.GetMode(), timeText(out.GetExpiresAtMs()), out.GetStale()})
}

func (h rest) revokeShare(w http.ResponseWriter, r *request) error {
	c, err := newCall(r.Context(), r.Header)
	if err != nil {
		return err
	}
	out, m, err := h.s.revoke(r.Context(), c, r.path["id"])
	if err != nil {
		return err
	}
	m.write(w.Header())
	return writeJSON(w, http.StatusOK, revokedJSON{out.GetId()})
}

func (h rest) shared(w http.ResponseWriter, r *request) error {
	out, err := h.s.getShared(r.Context(), r.path["token"])
	if err != nil {
		return err
	}
	// What a page leads to is not told its address, which has the token.
	w.Header().Set("Referrer-Policy", "no-referrer")
	return writeJSON(w, http.StatusOK, sharedJSONOf(out))
}

func (h rest) copyShared(w http.ResponseWriter, r *request) error {
	c, err := newCall(r.Context(), r.Header)
	if err != nil {
		return err
	}
	cart, m, err := h.s.copyShared(r.Context(), c, r.path["token"])
	if err != nil {
		return err
	}
	m.write(w.Header())
	return writeJSON(w, http.StatusOK, cartJSONOf(cart))
}

// ShareCart implements cartv1connect.CartServiceHandler.
func (h cartServer) ShareCart(ctx context.Context, req *connect.Request[cartv1.ShareCartRequest]) (*connect.Response[cartv1.ShareCartResponse], error) {
	return reading(ctx, req.Header(), func(ctx context.Context, c call) (*cartv1.ShareCartResponse, meta, error) {
		return h.s.share(ctx, c, shareAsk{req.Msg.GetMode(), req.Msg.ExpiresInS})
	})
}

// RevokeShare implements cartv1connect.CartServiceHandler.
func (h cartServer) RevokeShare(ctx context.Context, req *connect.Request[cartv1.RevokeShareRequest]) (*connect.Response[cartv1.RevokeShareResponse], error) {
	return reading(ctx, req.Header(), func(ctx context.Context, c call) (*cartv1.RevokeShareResponse, meta, error) {
		return h.s.revoke(ctx, c, req.Msg.GetId())
	})
}

// GetShared implements cartv1connect.CartServiceHandler.
func (h cartServer) GetShared(ctx context.Context, req *connect.Request[cartv1.GetSharedRequest]) (*connect.Response[cartv1.SharedCart], error) {
	out, err := h.s.getShared(ctx, req.Msg.GetToken())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(out), nil
}

// CopyShared implements cartv1connect.CartServiceHandler.
func (h cartServer) CopyShared(ctx context.Context, req *connect.Request[cartv1.CopySharedRequest]) (*connect.Response[cartv1.Cart], error) {
	return reading(ctx, req.Header(), func(ctx context.Context, c call) (*cartv1.Cart, meta, error) {
		return h.s.copyShared(ctx, c, req.Msg.GetToken())
	})
}
