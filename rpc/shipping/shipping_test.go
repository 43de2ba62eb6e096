package shipping_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"pgregory.net/rapid"

	shippingv1 "github.com/samecart/samecart/proto/shipping/v1"
	"github.com/samecart/samecart/proto/shipping/v1/shippingv1connect"
	"github.com/samecart/samecart/rpc/shipping"
)

// tuesday is a working day, before the cut-off.
var tuesday = time.Date(2026, 12, 1, 9, 0, 0, 0, time.UTC)

var once = sync.OnceValues(shipping.Default)

func builtIn(t testing.TB) *shipping.Table {
	t.Helper()
	table, err := once()
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func estimate(t testing.TB, now time.Time, country, code, currency string, lines ...*shippingv1.Line) []*shippingv1.Estimate {
	t.Helper()
	got, err := builtIn(t).Estimate(now, &shippingv1.EstimateRequest{
		Destination: &shippingv1.Destination{Country: country, PostalCode: code}, Lines: lines, Currency: currency,
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestCostAndDates(t *testing.T) {
	for name, c := range map[string]struct {
		now              time.Time
		country, code    string
		currency, seller string
		quantity         uint32
		grams            int64
		want             string
		earliest, latest string
	}{
		"own country":            {tuesday, "US", "", "USD", "seller-1", 1, 250, "USD 395", "2026-12-03", "2026-12-07"},
		"a gram more":            {tuesday, "US", "", "USD", "seller-1", 1, 251, "USD 595", "2026-12-03", "2026-12-07"},
		"weight of the quantity": {tuesday, "US", "", "USD", "seller-1", 4, 250, "USD 595", "2026-12-03", "2026-12-07"},
		"weight not known":       {tuesday, "US", "", "USD", "seller-1", 1, 0, "USD 595", "2026-12-03", "2026-12-07"},
		"weight absurd":          {tuesday, "US", "", "USD", "seller-1", 1, -5, "USD 595", "2026-12-03", "2026-12-07"},
		"several parcels":        {tuesday, "US", "", "USD", "seller-1", 61, 1000, "USD 7185", "2026-12-03", "2026-12-07"}, // 30 kg twice, 1 kg
		"own zone":               {tuesday, "CA", "M5V", "USD", "seller-1", 1, 250, "USD 895", "2026-12-07", "2026-12-10"},
		"world":                  {tuesday, "GB", "", "USD", "seller-1", 1, 250, "USD 1495", "2026-12-10", "2026-12-18"},
		"retail at home":         {tuesday, "GB", "", "GBP", "retail", 1, 400, "GBP 345", "2026-12-03", "2026-12-07"},
		"remote":                 {tuesday, "GB", "bt1 1aa", "GBP", "retail", 1, 400, "GBP 1045", "2026-12-07", "2026-12-09"},
		"other currency":         {tuesday, "GB", "", "JPY", "retail", 1, 400, "USD 595", "2026-12-03", "2026-12-07"},
		"seller not named":       {tuesday, "US", "", "USD", "somebody", 1, 250, "USD 395", "2026-12-04", "2026-12-08"},
		"after the cut-off":      {tuesday.Add(5 * time.Hour), "US", "", "USD", "seller-1", 1, 250, "USD 395", "2026-12-04", "2026-12-08"},
		"on Friday afternoon":    {tuesday.AddDate(0, 0, 3).Add(5 * time.Hour), "US", "", "USD", "seller-1", 1, 250, "USD 395", "2026-12-09", "2026-12-11"},
		"on Sunday":              {tuesday.AddDate(0, 0, 5), "US", "", "USD", "seller-1", 1, 250, "USD 395", "2026-12-09", "2026-12-11"},
		"in another time zone":   {tuesday.Add(4 * time.Hour).In(time.FixedZone("", 9*3600)), "US", "", "USD", "seller-1", 1, 250, "USD 395", "2026-12-03", "2026-12-07"},
	} {
		got := estimate(t, c.now, c.country, c.code, c.currency, &shippingv1.Line{SkuId: "X", SellerId: c.seller, Quantity: c.quantity, WeightGrams: c.grams})[0]
		cost := got.GetCurrency() + " " + json.Number(mustJSON(t, got.GetCostMinorUnits())).String()
		if cost != c.want || got.GetEarliest() != c.earliest || got.GetLatest() != c.latest || got.GetRefused() != "" {
			t.Errorf("%s: %s, %s to %s, want %s, %s to %s", name, cost, got.GetEarliest(), got.GetLatest(), c.want, c.earliest, c.latest)
		}
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWhereNothingIsSent(t *testing.T) {
	for country, want := range map[string]string{"GB": "seller-9 does not send to GB", "AQ": "Antarctica"} {
		got := estimate(t, tuesday, country, "", "USD", &shippingv1.Line{SellerId: "seller-9", Quantity: 1})[0]
		if !strings.Contains(got.GetRefused(), want) || got.GetEarliest() != "" {
			t.Errorf("%s: %v", country, got)
		}
	}
	for _, country := range []string{"", "ZZ", "gb", "GBR", "XK"} {
		_, err := builtIn(t).Estimate(tuesday, &shippingv1.EstimateRequest{Destination: &shippingv1.Destination{Country: country}})
		if !errors.Is(err, shipping.ErrUnknownCountry) {
			t.Errorf("country %q: %v", country, err)
		}
	}
}

// Every country is in one zone; ISO 3166-1 has 249.
func TestEveryCountryIsKnown(t *testing.T) {
	var all []string
	for _, zone := range builtIn(t).Zones {
		all = append(all, zone...)
	}
	slices.Sort(all)
	if n := len(slices.Compact(all)); n != 249 {
		t.Errorf("%d countries", n)
	}
}

// More weight never costs less, further never arrives sooner, and no number
// overflows, whatever is asked.
func TestLawsOfEstimates(t *testing.T) {
	table := builtIn(t)
	rapid.Check(t, func(t *rapid.T) {
		now := tuesday.Add(time.Duration(rapid.Int64Range(0, 60*24*3600).Draw(t, "seconds")) * time.Second)
		country := rapid.SampledFrom([]string{"US", "GB", "DE", "CA", "IN", "ZA", "BR", "AU"}).Draw(t, "country")
		code := rapid.StringMatching(`[A-Z0-9 -]{0,8}`).Draw(t, "code")
		currency := rapid.SampledFrom([]string{"USD", "GBP", "EUR", "JPY", ""}).Draw(t, "currency")
		line := &shippingv1.Line{
			SellerId: rapid.SampledFrom([]string{"retail", "seller-1", "seller-5", "other"}).Draw(t, "seller"),
			Quantity: rapid.Uint32().Draw(t, "quantity"), WeightGrams: rapid.Int64().Draw(t, "grams"),
		}
		heavier := &shippingv1.Line{SellerId: line.SellerId, Quantity: line.Quantity, WeightGrams: max(line.WeightGrams, 500)}
		if heavier.WeightGrams < 1<<62 {
			heavier.WeightGrams += rapid.Int64Range(0, 1<<40).Draw(t, "more")
		}
		more := &shippingv1.Line{SellerId: line.SellerId, WeightGrams: line.WeightGrams, Quantity: max(line.Quantity, rapid.Uint32().Draw(t, "other quantity"))}
		to := &shippingv1.Destination{Country: country, PostalCode: code}
		got, err := table.Estimate(now, &shippingv1.EstimateRequest{Destination: to, Lines: []*shippingv1.Line{line, heavier, more}, Currency: currency})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range got {
			earliest, err1 := time.Parse(time.DateOnly, e.GetEarliest())
			latest, err2 := time.Parse(time.DateOnly, e.GetLatest())
			if err1 != nil || err2 != nil || latest.Before(earliest) || earliest.Before(now.Truncate(24*time.Hour)) || weekend(earliest) || weekend(latest) {
				t.Fatalf("at %v: %v", now, e)
			}
			if e.GetCostMinorUnits() < 0 || e.GetCurrency() == "" {
				t.Fatalf("%v", e)
			}
		}
		if got[1].GetCostMinorUnits() < got[0].GetCostMinorUnits() || got[2].GetCostMinorUnits() < got[0].GetCostMinorUnits() {
			t.Fatalf("%v costs %d, %v %d, %v %d", line, got[0].GetCostMinorUnits(), heavier, got[1].GetCostMinorUnits(), more, got[2].GetCostMinorUnits())
		}
		again, err := table.Estimate(now, &shippingv1.EstimateRequest{Destination: to, Lines: []*shippingv1.Line{line}, Currency: currency})
		if err != nil || again[0].String() != got[0].String() {
			t.Fatalf("asked alone: %v, %v; before %v", again, err, got[0])
		}
	})
}

func weekend(day time.Time) bool {
	return day.Weekday() == time.Saturday || day.Weekday() == time.Sunday
}

// A table that is wrong is refused when it is read, and the error says where.
func TestBadTables(t *testing.T) {
	good, err := os.ReadFile("rates.json")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rates.json")
	read := func(text string) error {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := shipping.Read(file)
		return err
	}
	if err := read(string(good)); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][3]string{
		{`"default_weight_grams": 500`, `"default_weight_grams": 0`, "default_weight_grams"},
		{`"cutoff_hour": 14`, `"cutoff_hour": 25`, "cutoff_hour"},
		{`"currency": "USD"`, `"currency": "JPY"`, "no rates in currency"},
		{`"CA", "GL"`, `"CA", "GB"`, "country GB is in zones"},
		{`"CA", "GL"`, `"CA", "gl"`, `country "gl"`},
		{`"antarctica": "nothing`, `"atlantis": "nothing`, "no zone"},
		{`"": {"country"`, `"x": {"country"`, "those not named"},
		{`"seller-7": {"country": "IN"`, `"seller-7": {"country": "XX"`, "seller-7"},
		{`"handling_days": 3`, `"handling_days": -3`, "handling_days"},
		{`"only": ["US"]`, `"only": ["UZZ"]`, "seller-9"},
		{`"days": [1, 3]`, `"days": [3, 1]`, "3 to 1 days"},
		{`"world": {`, `"moon": {`, `no "world"`},
		{`{"to_grams": 250, "cost": 395}`, `{"to_grams": 2500, "cost": 395}`, "light to heavy"},
		{`"cost": 395}`, `"cost": -1}`, "costs -1"},
		{`"postal_codes": ["BT"`, `"postal_codes": ["b t"`, "postal code"},
		{`"cost": {"USD": 900`, `"cost": {"USD": -900`, "more: give 0"},
		{`"remote": [`, `"romote": [`, "unknown field"},
		{`"zones": {`, `"zones": {"x": 1, `, "cannot unmarshal"},
	} {
		bad := strings.Replace(string(good), c[0], c[1], 1)
		if bad == string(good) {
			t.Fatalf("the table has no %s", c[0])
		}
		if err := read(bad); err == nil || !strings.Contains(err.Error(), c[2]) {
			t.Errorf("%s for %s: %v", c[1], c[0], err)
		}
	}
	if err := read(string(good) + "{}"); err == nil {
		t.Error("what is after the table was passed over")
	}
	if _, err := shipping.Read(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there was read")
	}
}

func TestOverHTTP(t *testing.T) {
	mux := http.NewServeMux()
	mux.Handle(shippingv1connect.NewShippingServiceHandler(shipping.New(builtIn(t), func() time.Time { return tuesday })))
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	client := shippingv1connect.NewShippingServiceClient(srv.Client(), srv.URL)
	ask := func(country string, lines int) (*connect.Response[shippingv1.EstimateResponse], error) {
		req := &shippingv1.EstimateRequest{Destination: &shippingv1.Destination{Country: country}, Lines: make([]*shippingv1.Line, lines), Currency: "USD"}
		for i := range req.Lines {
			req.Lines[i] = &shippingv1.Line{SellerId: "seller-1", Quantity: 1, WeightGrams: 100}
		}
		return client.Estimate(t.Context(), connect.NewRequest(req))
	}
	if got, err := ask("US", 2); err != nil || len(got.Msg.GetEstimates()) != 2 || got.Msg.GetEstimates()[1].GetCostMinorUnits() != 395 {
		t.Errorf("%v, %v", got, err)
	}
	for _, c := range []struct {
		country string
		lines   int
	}{{"ZZ", 1}, {"US", 1001}} {
		if _, err := ask(c.country, c.lines); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%d lines to %s: %v", c.lines, c.country, err)
		}
	}
}
