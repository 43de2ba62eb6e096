package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/proto/admin/v1/adminv1connect"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
)

// answerBytesMax bounds one answer: the largest cart is far below it.
const answerBytesMax = 16 << 20

// Identity says on whose behalf a call is made. In cartd dev the names are
// taken on trust; anywhere else only Bearer counts.
type Identity struct {
	User   string // X-User-ID
	Guest  string // X-Guest-Session
	Scopes string // X-Service-Scopes, comma-separated
	Bearer string // Authorization, without the word Bearer
}

// Apply sets the identity's headers on h.
func (id Identity) Apply(h http.Header) {
	for name, value := range map[string]string{
		"X-User-Id":        id.User,
		"X-Guest-Session":  id.Guest,
		"X-Service-Scopes": id.Scopes,
	} {
		if value != "" {
			h.Set(name, value)
		}
	}
	if id.Bearer != "" {
		h.Set("Authorization", "Bearer "+id.Bearer)
	}
}

// NewHTTPClient returns an HTTP/1.1 client that keeps up to conns idle
// connections to each server. It has no overall timeout: callers bound each
// call with a context.
func NewHTTPClient(conns int) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Client{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		MaxIdleConns:          0, // no limit over all servers; the next line bounds each
		MaxIdleConnsPerHost:   conns,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: 0, // the call's context
		DisableCompression:    true,
		Protocols:             protocols,
	}}
}

// BaseURL checks addr and returns it as a URL without a trailing slash;
// "host:port" means http.
func BaseURL(addr string) (string, error) {
	s := addr
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return "", fmt.Errorf("address %q is not a URL: give one like http://127.0.0.1:8080", addr)
	}
	return strings.TrimRight(s, "/"), nil
}

// options are those of every client of this package; codec options come on top.
func options(more []connect.ClientOption) []connect.ClientOption {
	return append([]connect.ClientOption{
		connect.WithAcceptCompression("gzip", nil, nil),
		connect.WithReadMaxBytes(answerBytesMax),
	}, more...)
}

// NewCart returns a client of the cart service at base. The codec is Connect
// binary unless an option says otherwise.
func NewCart(hc *http.Client, base string, opts ...connect.ClientOption) cartv1connect.CartServiceClient {
	return cartv1connect.NewCartServiceClient(hc, base, options(opts)...)
}

// NewAdmin returns a client of the admin service at base.
func NewAdmin(hc *http.Client, base string, opts ...connect.ClientOption) adminv1connect.AdminServiceClient {
	return adminv1connect.NewAdminServiceClient(hc, base, options(opts)...)
}

// Region is one region a client may use.
type Region struct {
	Region  string `json:"region"`
	Address string `json:"address"`
}

// Regions asks base which regions there are.
func Regions(ctx context.Context, hc *http.Client, base string, id Identity) ([]Region, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/api/v1/regions", nil)
	if err != nil {
		return nil, fmt.Errorf("list regions: %w", err)
	}
	id.Apply(req.Header)
	resp, err := hc.Do(req)
	if err != nil {
		return nil, fmt.Errorf("list regions: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, answerBytesMax))
	if err != nil {
		return nil, fmt.Errorf("list regions: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, restError(resp, body)
	}
	var out struct {
		Regions []Region `json:"regions"`
	}
	if err := json.Unmarshal(body, &out); err != nil {
		return nil, fmt.Errorf("list regions: the answer of %s is not what samecart sends: %w", base, err)
	}
	for i := range out.Regions {
		if out.Regions[i].Address, err = BaseURL(out.Regions[i].Address); err != nil {
			return nil, fmt.Errorf("list regions: region %q: %w", out.Regions[i].Region, err)
		}
	}
	return out.Regions, nil
}

// Find returns the address of the named region; its error names those there are.
func Find(regions []Region, name string) (string, error) {
	var names []string
	for _, r := range regions {
		if r.Region == name {
			return r.Address, nil
		}
		names = append(names, r.Region)
	}
	slices.Sort(names)
	return "", fmt.Errorf("region %q is unknown: there are %s", name, strings.Join(names, ", "))
}
