package promotion

import (
	"bytes"
	_ "embed" // the demo's rules
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	promotionv1 "github.com/samecart/samecart/proto/promotion/v1"
	"github.com/samecart/samecart/region/pricing"
)

//go:embed demo.yaml
var demo []byte

// Demo returns the rules of cartd dev.
func Demo() (*Rules, error) { return Read(bytes.NewReader(demo)) }

// Load reads the rules in a file. The error names the file and all that is wrong
// in it.
func Load(file string) (*Rules, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("open promotions: %w", err)
	}
	rules, err := Read(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("promotions of %s: %w", file, err)
	}
	return rules, nil
}

// entry is a rule as it stands in the file.
type entry struct {
	Code           string       `yaml:"code"`
	Title          string       `yaml:"title"`
	Percent        *exact       `yaml:"percent"`
	Fixed          *exact       `yaml:"fixed"`
	Buy            uint32       `yaml:"buy"`
	Get            uint32       `yaml:"get"`
	GetPercent     *exact       `yaml:"get_percent"`
	UnitsMax       uint32       `yaml:"units_max"`
	Bundle         *bundleEntry `yaml:"bundle"`
	FreeShipping   bool         `yaml:"free_shipping"`
	Minimum        *exact       `yaml:"minimum"`
	From           *exact       `yaml:"from"`
	Until          *exact       `yaml:"until"`
	SellerID       string       `yaml:"seller_id"`
	SKUs           []exact      `yaml:"sku_ids"`
	Customers      []exact      `yaml:"customers"`
	SignedIn       bool         `yaml:"signed_in"`
	Priority       int32        `yaml:"priority"`
	Group          string       `yaml:"group"`
	Exclusive      bool         `yaml:"exclusive"`
	UsesMax        uint64       `yaml:"uses_max"`
	PerCustomerMax uint64       `yaml:"per_customer_max"`
}

type bundleEntry struct {
	Items    map[string]uint32 `yaml:"items"`
	Price    *exact            `yaml:"price"`
	TimesMax uint32            `yaml:"times_max"`
}

// exact is a scalar as it was written: 20.10 is no float here, and 22423 may
// be a SKU.
type exact string

// UnmarshalYAML implements yaml.Unmarshaler.
func (e *exact) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: give one value, not a list or a map", n.Line)
	}
	*e = exact(n.Value)
	return nil
}

// Read reads rules. The error names all that is wrong.
func Read(r io.Reader) (*Rules, error) {
	var file struct {
		Promotions []entry `yaml:"promotions"`
	}
	in := yaml.NewDecoder(r)
	in.KnownFields(true)
	if err := in.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("no YAML of promotions: %w", err)
	}
	if err := in.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more than one document: only the first would be read")
	}
	out := &Rules{}
	var errs []error
	seen := map[string]int{}
	for i, e := range file.Promotions {
		rule, err := e.rule()
		if err == nil {
			err = pricing.Check(rule)
		}
		if first, twice := seen[rule.GetCode()]; twice && rule.GetCode() != "" {
			err = errors.Join(err, fmt.Errorf("it is there twice, as entries %d and %d", first+1, i+1))
		}
		seen[rule.GetCode()] = i
		if err == nil {
			err = out.Put(rule)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("entry %d (%.40q): %w", i+1, e.Code, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return out, nil
}

// rule translates an entry. What it can tell of the rule is there also with an
// error.
func (e *entry) rule() (*promotionv1.Rule, error) {
	var errs []error
	money := func(name string, text *exact) *promotionv1.Money {
		if text == nil {
			return nil
		}
		m, err := moneyOf(string(*text))
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %w", name, err))
		}
		return m
	}
	points := func(name string, text *exact) uint32 {
		if text == nil {
			return 0
		}
		bp, err := basisPoints(string(*text))
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %w", name, err))
		}
		return bp
	}
	instant := func(name string, text *exact) int64 {
		if text == nil {
			return 0
		}
		ms, err := instantOf(string(*text))
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %w", name, err))
		}
		return ms
	}
	out := &promotionv1.Rule{
		Code: e.Code, Title: e.Title, SellerId: e.SellerID, SkuIds: plain(e.SKUs), Minimum: money("minimum", e.Minimum),
		StartsAtMs: instant("from", e.From), EndsAtMs: instant("until", e.Until),
		Customers: plain(e.Customers), SignedIn: e.SignedIn, Priority: e.Priority, Group: e.Group, Exclusive: e.Exclusive,
		UsesMax: e.UsesMax, PerCustomerMax: e.PerCustomerMax,
	}
	if code, ok := pricing.CanonicalCode(e.Code); ok {
		out.Code = code
	}
	effects := 0
	if e.Percent != nil {
		effects++
		out.Effect = &promotionv1.Rule_Percent{Percent: &promotionv1.Percent{BasisPoints: points("percent", e.Percent)}}
	}
	if e.Fixed != nil {
		effects++
		out.Effect = &promotionv1.Rule_Fixed{Fixed: &promotionv1.Fixed{Amount: money("fixed", e.Fixed)}}
	}
	if e.Buy > 0 || e.Get > 0 {
		effects++
		out.Effect = &promotionv1.Rule_BuyGet{BuyGet: &promotionv1.BuyGet{
			Buy: e.Buy, Get: e.Get, BasisPoints: points("get_percent", e.GetPercent), UnitsMax: e.UnitsMax,
		}}
	} else if e.GetPercent != nil || e.UnitsMax > 0 {
		errs = append(errs, errors.New("get_percent and units_max go with buy and get"))
	}
	if e.Bundle != nil {
		effects++
		b := &promotionv1.Bundle{Price: money("bundle price", e.Bundle.Price), TimesMax: e.Bundle.TimesMax}
		for _, sku := range slices.Sorted(maps.Keys(e.Bundle.Items)) {
			b.Items = append(b.Items, &promotionv1.BundleItem{SkuId: sku, Quantity: e.Bundle.Items[sku]})
		}
		out.Effect = &promotionv1.Rule_Bundle{Bundle: b}
	}
	if e.FreeShipping {
		effects++
		out.Effect = &promotionv1.Rule_FreeShipping{FreeShipping: &promotionv1.FreeShipping{}}
	}
	if effects > 1 {
		errs = append(errs, errors.New("give one of percent, fixed, buy and get, bundle and free_shipping: a code does one thing"))
	}
	return out, errors.Join(errs...)
}

func plain(list []exact) []string {
	var out []string
	for _, e := range list {
		out = append(out, string(e))
	}
	return out
}

// moneyOf reads "20.00 USD".
func moneyOf(text string) (*promotionv1.Money, error) {
	amount, currency, ok := strings.Cut(text, " ")
	currency = strings.TrimSpace(currency)
	if !ok || !pricing.IsCurrency(currency) {
		return nil, fmt.Errorf("%.40q must be an amount and its currency, such as 20.00 USD", text)
	}
	minor, err := pricing.ParseMoney(amount, currency)
	if err != nil {
		return nil, fmt.Errorf("%.40q %w", text, err)
	}
	return &promotionv1.Money{Currency: currency, MinorUnits: minor}, nil
}

// basisPoints reads a percentage of two decimals at most.
func basisPoints(text string) (uint32, error) {
	bp, err := pricing.ParseMoney(text, "") // a currency that is none has two digits
	if err != nil || bp < 1 || bp > 10_000 {
		return 0, fmt.Errorf("%.40q must be from 0.01 to 100, with at most two decimals", text)
	}
	return uint32(bp), nil
}

// instantOf reads a date, which is its midnight in UTC, or a time with its
// zone, in milliseconds since the Unix epoch.
func instantOf(text string) (int64, error) {
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UnixMilli(), nil
		}
	}
	return 0, fmt.Errorf("%.40q must be a date such as 2026-01-31 or a time such as 2026-01-31T09:00:00Z", text)
}
