package rpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect"
	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	shippingv1 "github.com/samecart/samecart/proto/shipping/v1"
	"github.com/samecart/samecart/proto/shipping/v1/shippingv1connect"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/region/pricing"
)

// ShippingConfig holds the settings of shipping estimates.
type ShippingConfig struct {
	Service shippingv1connect.ShippingServiceClient // nil: every estimate is refused with DEPENDENCY_DOWN

	Timeout time.Duration // one call; > 0
	Fresh   time.Duration // how long an estimate is not asked for again; ≥ 0
	Old     time.Duration // how long an estimate may stand in while the service is down; ≥ Fresh
	Entries int           // lines remembered; ≥ 1
	Rest    time.Duration // how long a failing service is left alone; > 0
}

func defaultShipping() ShippingConfig {
	return ShippingConfig{
		Timeout: 500 * time.Millisecond, // carriers are slower than catalogues, and nothing else waits for it
		Fresh:   time.Minute,            // dates change once a day
		Old:     10 * time.Minute,
		Entries: 16384,
		Rest:    2 * time.Second,
	}
}

func (c ShippingConfig) validate(check func(ok bool, format string, args ...any)) {
	check(c.Timeout > 0, "Shipping.Timeout is %v, must be positive", c.Timeout)
	check(c.Fresh >= 0, "Shipping.Fresh is %v, must not be negative", c.Fresh)
	check(c.Old >= c.Fresh, "Shipping.Old is %v, must be at least Shipping.Fresh", c.Old)
	check(c.Entries >= 1, "Shipping.Entries is %d, must be at least 1", c.Entries)
	check(c.Rest > 0, "Shipping.Rest is %v, must be positive", c.Rest)
}

// shippingMax is how many lines the service takes in one call.
const shippingMax = 1000

// parcel is a line as the shipping service is asked about it.
type parcel struct {
	country, postalCode, currency string
	sku, seller                   string
	quantity                      uint32
	grams                         int64
}

// estimates asks the shipping service.
type estimates struct {
	*bulk[parcel, *shippingv1.Estimate] // nil: what the service said cannot be used

	service shippingv1connect.ShippingServiceClient
}

// errDestination means that the service knows no such destination: an answer,
// not a failure.
var errDestination = errors.New("the destination is not known")

func newEstimates(cfg ShippingConfig, log *slog.Logger) (*estimates, error) {
	e := &estimates{service: cfg.Service}
	var err error
	e.bulk, err = newBulk(bulkConfig{
		name: "shipping", most: shippingMax, entries: cfg.Entries, timeout: cfg.Timeout,
		fresh: cfg.Fresh, old: cfg.Old, rest: cfg.Rest, answers: errDestination,
	}, log, e.call)
	if err != nil {
		return nil, err
	}
	return e, nil
}

// of returns an estimate for each parcel, in order; nil where the service said
// nothing that can be used. old is true when some are as they were a few
// minutes ago. All parcels have one destination and one currency. Errors:
// errDestination; any other means that some parcel is not known.
func (e *estimates) of(ctx context.Context, parcels []parcel) (out []*shippingv1.Estimate, old bool, err error) {
	if e.service == nil {
		return nil, false, errors.New("there is no shipping service")
	}
	found, err := e.lookUp(ctx, parcels, e.fresh, time.Time{}, func(p parcel, got *shippingv1.Estimate, asked time.Time) (*shippingv1.Estimate, bool) {
		if !isUsable(got) {
			got = nil
		}
		e.remember(p, got, asked)
		return got, true
	})
	if errors.Is(err, errDestination) {
		return nil, false, err
	}
	out = make([]*shippingv1.Estimate, len(parcels))
	for i, k := range found {
		if !k.answered {
			return nil, false, err
		}
		out[i], old = k.value, old || k.old
	}
	return out, old, nil
}

// call asks for estimates of parcels.
func (e *estimates) call(ctx context.Context, parcels []parcel) ([]*shippingv1.Estimate, error) {
	first := parcels[0]
	req := &shippingv1.EstimateRequest{
		Destination: &shippingv1.Destination{Country: first.country, PostalCode: first.postalCode},
		Lines:       make([]*shippingv1.Line, len(parcels)), Currency: first.currency,
	}
	for n, p := range parcels {
		req.Lines[n] = &shippingv1.Line{SkuId: p.sku, SellerId: p.seller, Quantity: p.quantity, WeightGrams: p.grams}
	}
	res, err := e.service.Estimate(ctx, connect.NewRequest(req))
	switch {
	case connect.CodeOf(err) == connect.CodeInvalidArgument:
		return nil, errDestination
	case err != nil:
		return nil, err
	}
	return res.Msg.GetEstimates(), nil
}

// reasonMax bounds the text that a service may show to shoppers, in bytes.
const reasonMax = 300

// isUsable reports whether an estimate can be shown.
func isUsable(e *shippingv1.Estimate) bool {
	if e.GetRefused() != "" {
		return len(e.GetRefused()) <= reasonMax && utf8.ValidString(e.GetRefused())
	}
	earliest, err1 := time.Parse(time.DateOnly, e.GetEarliest())
	latest, err2 := time.Parse(time.DateOnly, e.GetLatest())
	return err1 == nil && err2 == nil && !latest.Before(earliest) &&
		isCurrency(e.GetCurrency()) && e.GetCostMinorUnits() >= 0 && e.GetCostMinorUnits() <= priceMax
}

// postalCodeMax bounds a postal code, in characters.
const postalCodeMax = 16

// destination checks where a shopper wants things sent; it knows forms, the
// service knows countries.
func destination(country, postalCode string) (parcel, error) {
	code := strings.ToUpper(country)
	switch {
	case country == "":
		return parcel{}, fault(MissingField, "country is missing: send two letters of ISO 3166-1, such as GB").with("field", "country")
	case len(code) != 2 || strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "":
		return parcel{}, fault(InvalidField, "country %.20q must be two letters of ISO 3166-1, such as GB", country).with("field", "country")
	case len(postalCode) > postalCodeMax || strings.ContainsFunc(postalCode, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || r == ' ' || r == '-')
	}):
		return parcel{}, fault(InvalidField, "postal_code %.20q must be at most %d letters, digits, spaces and hyphens", postalCode, postalCodeMax).with("field", "postal_code")
	}
	return parcel{country: code, postalCode: strings.ToUpper(strings.TrimSpace(postalCode))}, nil
}

// shipping returns an estimate for each line that the caller's cart shows.
func (s *service) shipping(ctx context.Context, c call, country, postalCode string) (*cartv1.EstimateShippingResponse, meta, error) {
	to, err := destination(country, postalCode)
	if err != nil {
		return nil, meta{}, err
	}
	v, err := s.read(ctx, c)
	if err != nil {
		return nil, meta{}, err
	}
	m, _ := s.metaFor(c, v)
	to.currency = cartOf(v).Currency()
	out := &cartv1.EstimateShippingResponse{CartId: v.CartID, Stale: v.Stale, Total: &cartv1.Money{Currency: to.currency}}
	var lines []shownLine
	for _, e := range cartOf(v).Lines {
		if e.Line.IsThere() {
			if l := (shownLine{e, e.Line.Visible()}); l.value.Placement != crdt.Saved {
				lines = append(lines, l)
			}
		}
	}
	slices.SortStableFunc(lines, func(a, b shownLine) int { return cmp.Compare(a.value.Offer.AddedAt, b.value.Offer.AddedAt) })
	parcels, known := s.parcels(ctx, to, lines, out)
	found, old, err := s.estimates.of(ctx, parcels)
	switch {
	case len(parcels) == 0:
		return out, m, nil
	case errors.Is(err, errDestination):
		where := "country " + to.country
		if to.postalCode != "" {
			where += " with postal_code " + to.postalCode
		}
		return nil, meta{}, fault(InvalidField, "%s is no destination that the shop knows: send another", where).with("field", "country")
	case err != nil && ctx.Err() != nil:
		return nil, meta{}, fmt.Errorf("estimate shipping: %w", ctx.Err())
	case err != nil:
		s.log.LogAttrs(ctx, slog.LevelDebug, "no shipping estimate", slog.Any("err", err))
		return nil, meta{}, fault(DependencyDown, "the shipping service does not answer: try again; the cart itself can be read and edited").with("dependency", "shipping")
	case old:
		out.Warnings = append(out.Warnings, "the shipping service does not answer: costs and dates are as they were a few minutes ago")
	}
	free := s.freeOfShipping(ctx, v, lines, known, out)
	for i, l := range lines {
		it := &cartv1.ShippingEstimate{SkuId: l.Key.SKU, SellerId: l.Key.Seller, Options: crdt.Pairs(l.Key.Options)}
		out.Items = append(out.Items, it)
		switch e := found[i]; {
		case e == nil:
			it.Reason = "not known"
			out.Warnings = append(out.Warnings, fmt.Sprintf("the shipping service has no estimate for sku_id %q: it is not in the total", l.Key.SKU))
		case e.GetRefused() != "":
			it.Reason = e.GetRefused()
		default:
			it.DeliveryEstimate = e.GetEarliest() + "/" + e.GetLatest()
			if free[i] {
				it.Cost, it.FreeShipping = &cartv1.Money{Currency: to.currency}, true
				continue
			}
			it.Cost = &cartv1.Money{Currency: e.GetCurrency(), MinorUnits: e.GetCostMinorUnits()}
			if e.GetCurrency() != to.currency {
				out.Warnings = append(out.Warnings, fmt.Sprintf("sending sku_id %q is priced in %s, not in the cart's %s: it is not in the total", l.Key.SKU, e.GetCurrency(), to.currency))
				continue
			}
			out.Total.MinorUnits = pricing.Add(out.Total.MinorUnits, e.GetCostMinorUnits())
		}
	}
	return out, m, nil
}

// freeOfShipping says of each line whether a code of the cart pays for sending it.
func (s *service) freeOfShipping(ctx context.Context, v region.View, lines []shownLine, known []product, out *cartv1.EstimateShippingResponse) []bool {
	c := cartOf(v)
	if !hasCodes(c) {
		return make([]bool, len(lines))
	}
	page := &cartv1.Cart{CartId: v.CartID, Currency: c.Currency()}
	items, money := make([]cartv1.Item, len(lines)), make([]prices, len(lines))
	for i, l := range lines {
		value := l.value
		value.Quantity = min(value.Quantity, s.cfg.QuantityMax)
		item(&items[i], &money[i], l.Key, value, known[i])
	}
	result := s.priced(ctx, c, page, lines, items)
	out.Warnings = append(out.Warnings, page.GetWarnings()...)
	return result.FreeShipping
}

// parcels are lines with their weights, as far as the catalogue tells them, and what
// it tells.
func (s *service) parcels(ctx context.Context, to parcel, lines []shownLine, out *cartv1.EstimateShippingResponse) (parcels []parcel, known []product) {
	refs := make([]productRef, len(lines))
	for i, l := range lines {
		refs[i] = productRef{l.Key.SKU, l.Key.Seller}
	}
	unweighed := 0
	parcels, known = make([]parcel, len(lines)), s.products.lookUp(ctx, refs)
	for i, p := range known {
		parcels[i] = to
		parcels[i].sku, parcels[i].seller = refs[i].sku, refs[i].seller
		parcels[i].quantity = min(lines[i].value.Quantity, s.cfg.QuantityMax)
		parcels[i].grams = max(p.GetWeightGrams(), 0)
		if !p.answered {
			unweighed++
		}
	}
	if unweighed > 0 {
		out.Warnings = append(out.Warnings, fmt.Sprintf("the catalogue does not answer: the weights of %d lines are guessed", unweighed))
	}
	return parcels, known
}

// EstimateShipping implements cartv1connect.CartServiceHandler.
func (h cartServer) EstimateShipping(ctx context.Context, req *connect.Request[cartv1.EstimateShippingRequest]) (*connect.Response[cartv1.EstimateShippingResponse], error) {
	return reading(ctx, req.Header(), func(ctx context.Context, c call) (*cartv1.EstimateShippingResponse, meta, error) {
		return h.s.shipping(ctx, c, req.Msg.GetCountry(), req.Msg.GetPostalCode())
	})
}

type shippingItemJSON struct {
	SKU              string            `json:"sku_id"`
	SellerID         string            `json:"seller_id"`
	Options          map[string]string `json:"options,omitempty"`
	Cost             amount            `json:"cost"`
	FreeShipping     bool              `json:"free_shipping,omitempty"`
	Currency         *string           `json:"currency"`
	DeliveryEstimate *string           `json:"delivery_estimate"`
	Reason           *string           `json:"reason,omitempty"`
}

type shippingJSON struct {
	CartID   string             `json:"cart_id"`
	Items    []shippingItemJSON `json:"items"`
	Total    amount             `json:"total"`
	Currency string             `json:"currency"`
	Stale    bool               `json:"stale"`
	Warnings []string           `json:"warnings"`
}

func shippingJSONOf(x *cartv1.EstimateShippingResponse) shippingJSON {
	return shippingJSON{
		CartID: x.GetCartId(), Total: amountOf(x.GetTotal()), Currency: x.GetTotal().GetCurrency(), Stale: x.GetStale(),
		Warnings: append([]string{}, x.GetWarnings()...),
		Items: mapped(x.GetItems(), func(it *cartv1.ShippingEstimate) shippingItemJSON {
			return shippingItemJSON{
				SKU: it.GetSkuId(), SellerID: it.GetSellerId(), Options: it.GetOptions(),
				Cost: amountOf(it.GetCost()), FreeShipping: it.GetFreeShipping(), Currency: known(it.GetCost().GetCurrency()),
				DeliveryEstimate: known(it.GetDeliveryEstimate()), Reason: known(it.GetReason()),
			}
		}),
	}
}

func (h rest) shipping(w http.ResponseWriter, r *request) error {
	c, err := newCall(r.Context(), r.Header)
	if err != nil {
		return err
	}
	q, err := r.queryOf("country", "postal_code")
	if err != nil {
		return err
	}
	x, m, err := h.s.shipping(r.Context(), c, q["country"], q["postal_code"])
	if err != nil {
		return err
	}
	m.write(w.Header())
	return writeJSON(w, http.StatusOK, shippingJSONOf(x))
}

// queryOf returns the query's parameters, of which those named are known, each
// given once at most.
func (r *request) queryOf(names ...string) (map[string]string, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fault(InvalidField, "the query cannot be read: escape what is no letter or digit")
	}
	out := make(map[string]string, len(names))
	for name, v := range values {
		switch {
		case !slices.Contains(names, name):
			return nil, fault(UnknownField, "query parameter %.80q is not known: there are %s", name, strings.Join(names, " and "))
		case len(v) > 1:
			return nil, fault(InvalidField, "query parameter %.80q was given %d times: give it once", name, len(v)).with("field", name)
		}
		out[name] = v[0]
	}
	return out, nil
}
