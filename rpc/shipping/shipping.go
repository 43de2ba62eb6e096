package shipping

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	shippingv1 "github.com/samecart/samecart/proto/shipping/v1"
	"github.com/samecart/samecart/proto/shipping/v1/shippingv1connect"
)

// ErrUnknownCountry means that the table has no zone for a country.
var ErrUnknownCountry = errors.New("the country is in no zone of the rates")

const (
	linesMax    = 1000      // of one call
	quantityMax = 1_000_000 // of a line; with the other bounds no cost overflows
)

// Estimate returns what sending each line costs when it is ordered now, and
// when it arrives: one estimate for each line, in order. It reads no clock.
// Errors wrap ErrUnknownCountry.
func (t *Table) Estimate(now time.Time, req *shippingv1.EstimateRequest) ([]*shippingv1.Estimate, error) {
	country := req.GetDestination().GetCountry()
	zone, ok := t.zoneOf[country]
	if !ok {
		return nil, fmt.Errorf("country %.20q: %w", country, ErrUnknownCountry)
	}
	remote := t.remote(country, req.GetDestination().GetPostalCode())
	out := make([]*shippingv1.Estimate, len(req.GetLines()))
	for i, l := range req.GetLines() {
		s := t.seller(l.GetSellerId())
		switch {
		case t.RefusedZones[zone] != "":
			out[i] = &shippingv1.Estimate{Refused: t.RefusedZones[zone]}
			continue
		case len(s.Only) > 0 && !slices.Contains(s.Only, country):
			out[i] = &shippingv1.Estimate{Refused: fmt.Sprintf("%s does not send to %s", l.GetSellerId(), country)}
			continue
		}
		unit := min(cmp.Or(max(l.GetWeightGrams(), 0), t.DefaultWeightGrams), gramsMax)
		d := t.distance(s, country)
		cost, currency := t.cost(d, remote, unit*int64(min(l.GetQuantity(), quantityMax)), req.GetCurrency())
		leaves := workingDays(handled(now, t.CutoffHour), s.HandlingDays)
		out[i] = &shippingv1.Estimate{
			Currency: currency, CostMinorUnits: cost,
			Earliest: workingDays(leaves, d.Days[0]+remote.Days).Format(time.DateOnly),
			Latest:   workingDays(leaves, d.Days[1]+remote.Days).Format(time.DateOnly),
		}
	}
	return out, nil
}

// handled is the working day on which an order is begun with.
func handled(now time.Time, cutoffHour int) time.Time {
	now = now.UTC()
	day := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, time.UTC)
	if now.Hour() >= cutoffHour {
		day = day.AddDate(0, 0, 1)
	}
	for isWeekend(day) {
		day = day.AddDate(0, 0, 1)
	}
	return day
}

// workingDays returns the day n working days after one.
func workingDays(day time.Time, n int) time.Time {
	for n > 0 {
		if day = day.AddDate(0, 0, 1); !isWeekend(day) {
			n--
		}
	}
	return day
}

func isWeekend(day time.Time) bool {
	return day.Weekday() == time.Saturday || day.Weekday() == time.Sunday
}

// Service answers shipping.v1 from a table. It is at once the service's handler
// and an in-process client of it. It may be called concurrently.
type Service struct {
	table *Table
	now   func() time.Time
}

var (
	_ shippingv1connect.ShippingServiceHandler = (*Service)(nil)
	_ shippingv1connect.ShippingServiceClient  = (*Service)(nil)
)

// New returns a service that answers from t, which must not be changed any more;
// now is its clock.
func New(t *Table, now func() time.Time) *Service { return &Service{t, now} }

// Estimate implements shipping.v1.ShippingService.
func (s *Service) Estimate(ctx context.Context, req *connect.Request[shippingv1.EstimateRequest]) (*connect.Response[shippingv1.EstimateResponse], error) {
	if err := ctx.Err(); err != nil {
		return nil, connect.NewError(connect.CodeCanceled, err)
	}
	if n := len(req.Msg.GetLines()); n > linesMax {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("%d lines were asked for: ask for at most %d", n, linesMax))
	}
	estimates, err := s.table.Estimate(s.now(), req.Msg)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	return connect.NewResponse(&shippingv1.EstimateResponse{Estimates: estimates}), nil
}
