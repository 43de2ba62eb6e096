package shipping

import (
	"bytes"
	"cmp"
	_ "embed" // the table below
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

//go:embed rates.json
var builtIn []byte

// Table is what a shop asks for sending things. Its JSON form has these names.
type Table struct {
	// DefaultWeightGrams is what one unit weighs when nobody knows; > 0.
	DefaultWeightGrams int64 `json:"default_weight_grams"`
	// CutoffHour is the hour of a day, in UTC, from which on an order is handled
	// as if it came the next day; 0 to 24.
	CutoffHour int `json:"cutoff_hour"`
	// Currency is that of an estimate in a currency without rates.
	Currency string `json:"currency"`
	// Zones are lists of countries, by name. A country that is in none is not
	// known.
	Zones map[string][]string `json:"zones"`
	// RefusedZones are those that nothing is sent to, and why.
	RefusedZones map[string]string `json:"refused_zones"`
	// Sellers are where sellers send from, by id; "" stands for those not named.
	Sellers map[string]Seller `json:"sellers"`
	// Distances are "country", "zone" and "world".
	Distances map[string]Distance `json:"distances"`
	// Remote are parts of countries that cost more and take longer; the first
	// that fits counts.
	Remote []Remote `json:"remote"`

	zoneOf map[string]string // by country
}

// Seller is where a seller sends from.
type Seller struct {
	Country      string   `json:"country"`
	HandlingDays int      `json:"handling_days"` // working days until a parcel leaves; 0 to 60
	Only         []string `json:"only"`          // countries it sends to; none: all
}

// Distance is what sending costs and how long it takes.
type Distance struct {
	Days [2]int `json:"days"` // fewest and most working days on the way; 0 to 120
	// Rates are steps by weight, lightest first, by currency. What is heavier
	// than the last step goes in several parcels.
	Rates map[string][]Step `json:"rates"`
}

// Step is what a parcel up to a weight costs.
type Step struct {
	ToGrams int64 `json:"to_grams"`
	Cost    int64 `json:"cost"` // minor units; 0 to a million
}

// Remote is a part of a country.
type Remote struct {
	Country     string           `json:"country"`
	PostalCodes []string         `json:"postal_codes"` // how they begin, without blanks
	Days        int              `json:"days"`         // more, of working days; 0 to 60
	Cost        map[string]int64 `json:"cost"`         // more, of each parcel, by currency
}

// The degrees of distance.
const (
	sameCountry = "country"
	sameZone    = "zone"
	anywhere    = "world"
)

// Default returns the table that is built in.
func Default() (*Table, error) {
	t, err := decode(bytes.NewReader(builtIn))
	if err != nil {
		return nil, fmt.Errorf("read built-in rates: %w", err)
	}
	return t, nil
}

// Read reads a table from a file in the form of rates.json. Its error names
// everything that is wrong with it.
func Read(file string) (*Table, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read rates: %w", err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	t, err := decode(f)
	if err != nil {
		return nil, fmt.Errorf("read rates of %s: %w", file, err)
	}
	return t, nil
}

func decode(r io.Reader) (*Table, error) {
	t := new(Table)
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(t); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more after the table")
	}
	return t, t.validate()
}

// validate reports everything that is wrong, and makes zoneOf.
func (t *Table) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(t.DefaultWeightGrams > 0 && t.DefaultWeightGrams <= gramsMax, "default_weight_grams is %d: give 1 to %d", t.DefaultWeightGrams, gramsMax)
	check(t.CutoffHour >= 0 && t.CutoffHour <= 24, "cutoff_hour is %d: give 0 to 24", t.CutoffHour)
	t.zoneOf = make(map[string]string)
	for _, zone := range slices.Sorted(maps.Keys(t.Zones)) {
		for _, c := range t.Zones[zone] {
			check(isCode(c, 2), "zone %s has country %q: give two capital letters", zone, c)
			check(t.zoneOf[c] == "" || t.zoneOf[c] == zone, "country %s is in zones %s and %s", c, t.zoneOf[c], zone)
			t.zoneOf[c] = zone
		}
	}
	for _, zone := range slices.Sorted(maps.Keys(t.RefusedZones)) {
		check(t.Zones[zone] != nil, "refused_zones names %q, which is no zone", zone)
		check(t.RefusedZones[zone] != "", "refused_zones gives no reason for %s", zone)
	}
	_, ok := t.Sellers[""]
	check(ok, `sellers has no "", which stands for those not named`)
	for _, id := range slices.Sorted(maps.Keys(t.Sellers)) {
		s := t.Sellers[id]
		check(t.zoneOf[s.Country] != "", "seller %q sends from %q, which is in no zone", id, s.Country)
		check(s.HandlingDays >= 0 && s.HandlingDays <= 60, "seller %q has %d handling_days: give 0 to 60", id, s.HandlingDays)
		for _, c := range s.Only {
			check(t.zoneOf[c] != "", "seller %q sends to %q, which is in no zone", id, c)
		}
	}
	for _, name := range []string{sameCountry, sameZone, anywhere} {
		d, ok := t.Distances[name]
		check(ok, "distances has no %q", name)
		check(d.Days[0] >= 0 && d.Days[0] <= d.Days[1] && d.Days[1] <= 120, "distance %s takes %d to %d days: give 0 to 120, the smaller first", name, d.Days[0], d.Days[1])
		check(!ok || len(d.Rates[t.Currency]) > 0, "distance %s has no rates in currency %q", name, t.Currency)
		for _, currency := range slices.Sorted(maps.Keys(d.Rates)) {
			check(isCode(currency, 3), "distance %s has rates in %q: give a code of ISO 4217", name, currency)
			steps := d.Rates[currency]
			check(len(steps) > 0 && steps[len(steps)-1].ToGrams >= 1000, "distance %s has no step to 1000 g or more in %s", name, currency)
			for i, s := range steps {
				check(s.ToGrams > 0 && (i == 0 || s.ToGrams > steps[i-1].ToGrams), "distance %s, %s: step %d is to %d g: steps go from light to heavy", name, currency, i, s.ToGrams)
				check(s.Cost >= 0 && s.Cost <= costMax, "distance %s, %s: step %d costs %d: give 0 to %d", name, currency, i, s.Cost, costMax)
			}
		}
	}
	check(len(t.Distances) <= 3, "distances has %d entries: there are country, zone and world", len(t.Distances))
	for i, r := range t.Remote {
		check(t.zoneOf[r.Country] != "", "remote %d is in %q, which is in no zone", i, r.Country)
		check(r.Days >= 0 && r.Days <= 60, "remote %d takes %d days more: give 0 to 60", i, r.Days)
		for _, code := range r.PostalCodes {
			check(code != "" && code == plain(code), "remote %d has postal code %q: give capital letters and digits", i, code)
		}
		for _, currency := range slices.Sorted(maps.Keys(r.Cost)) {
			check(r.Cost[currency] >= 0 && r.Cost[currency] <= costMax, "remote %d costs %d %s more: give 0 to %d", i, r.Cost[currency], currency, costMax)
		}
	}
	return errors.Join(errs...)
}

const (
	costMax  = 1_000_000  // minor units of one parcel
	gramsMax = 10_000_000 // of one unit: ten tonnes
)

func isCode(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// plain is a postal code as it is compared: people write blanks and hyphens
// where they like.
func plain(code string) string {
	return strings.ToUpper(strings.NewReplacer(" ", "", "-", "").Replace(code))
}

// seller returns where a seller sends from.
func (t *Table) seller(id string) Seller {
	if s, ok := t.Sellers[id]; ok {
		return s
	}
	return t.Sellers[""]
}

// distance returns how far a country is from a seller.
func (t *Table) distance(s Seller, country string) Distance {
	switch {
	case s.Country == country:
		return t.Distances[sameCountry]
	case t.zoneOf[s.Country] == t.zoneOf[country]:
		return t.Distances[sameZone]
	}
	return t.Distances[anywhere]
}

// remote returns the part of the country that a postal code is in; one without
// anything is the main part.
func (t *Table) remote(country, code string) Remote {
	code = plain(code)
	for _, r := range t.Remote {
		if r.Country == country && slices.ContainsFunc(r.PostalCodes, func(p string) bool { return strings.HasPrefix(code, p) }) {
			return r
		}
	}
	return Remote{}
}

// cost returns what a weight costs, in which currency.
func (t *Table) cost(d Distance, r Remote, grams int64, wanted string) (minorUnits int64, currency string) {
	currency = wanted
	if len(d.Rates[wanted]) == 0 {
		currency = t.Currency
	}
	steps := d.Rates[currency]
	heaviest := steps[len(steps)-1]
	full, rest := grams/heaviest.ToGrams, grams%heaviest.ToGrams
	parcels := full
	minorUnits = full * heaviest.Cost
	if rest > 0 {
		i, _ := slices.BinarySearchFunc(steps, rest, func(s Step, grams int64) int { return cmp.Compare(s.ToGrams, grams) })
		minorUnits += steps[i].Cost
		parcels++
	}
	return minorUnits + parcels*r.Cost[currency], currency
}
