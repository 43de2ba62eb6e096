package promotion_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	promotionv1 "github.com/samecart/samecart/proto/promotion/v1"
	"github.com/samecart/samecart/proto/promotion/v1/promotionv1connect"
	"github.com/samecart/samecart/region/pricing"
	"github.com/samecart/samecart/rpc/promotion"
)

func lookUp(t *testing.T, c promotionv1connect.PromotionServiceClient, codes ...string) []*promotionv1.Rule {
	t.Helper()
	res, err := c.LookUp(t.Context(), connect.NewRequest(&promotionv1.LookUpRequest{Codes: codes}))
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg.GetRules()
}

func TestFileHoldsEveryField(t *testing.T) {
	rules, err := promotion.Read(strings.NewReader(`
promotions:
  - code: welcome10
    title: 10 % off
    percent: 12.5
    minimum: 20.10 USD
    from: 2026-01-01
    until: 2026-06-01T09:00:00+01:00
    seller_id: seller-1
    sku_ids: [SKU-1, 22423]
    customers: [user-1, 7]
    signed_in: true
    priority: -3
    group: welcome
    exclusive: true
    uses_max: 100
    per_customer_max: 1
  - {code: YEN, fixed: 500 JPY}
  - {code: 3FOR2, buy: 2, get: 1, get_percent: 50, units_max: 3}
  - {code: DESK, bundle: {items: {SKU-2: 2, 22423: 1}, price: 30.005 KWD, times_max: 1}}
  - {code: SHIPFREE, free_shipping: true}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []*promotionv1.Rule{
		{
			Code: "WELCOME10", Title: "10 % off", Effect: &promotionv1.Rule_Percent{Percent: &promotionv1.Percent{BasisPoints: 1250}},
			Minimum: &promotionv1.Money{Currency: "USD", MinorUnits: 2010}, StartsAtMs: 1767225600000, EndsAtMs: 1780300800000,
			SellerId: "seller-1", SkuIds: []string{"SKU-1", "22423"}, Customers: []string{"user-1", "7"}, SignedIn: true,
			Priority: -3, Group: "welcome", Exclusive: true, UsesMax: 100, PerCustomerMax: 1,
		},
		{Code: "YEN", Effect: &promotionv1.Rule_Fixed{Fixed: &promotionv1.Fixed{Amount: &promotionv1.Money{Currency: "JPY", MinorUnits: 500}}}},
		{Code: "3FOR2", Effect: &promotionv1.Rule_BuyGet{BuyGet: &promotionv1.BuyGet{Buy: 2, Get: 1, BasisPoints: 5000, UnitsMax: 3}}},
		{Code: "DESK", Effect: &promotionv1.Rule_Bundle{Bundle: &promotionv1.Bundle{
			Items: []*promotionv1.BundleItem{{SkuId: "22423", Quantity: 1}, {SkuId: "SKU-2", Quantity: 2}},
			Price: &promotionv1.Money{Currency: "KWD", MinorUnits: 30005}, TimesMax: 1,
		}}},
		{Code: "SHIPFREE", Effect: &promotionv1.Rule_FreeShipping{FreeShipping: &promotionv1.FreeShipping{}}},
	}
	got := lookUp(t, rules, "WELCOME10", "YEN", "3FOR2", "DESK", "SHIPFREE", "welcome10", "NOTHING")
	for i, w := range want {
		if !proto.Equal(got[i], w) {
			t.Errorf("got  %v\nwant %v", got[i], w)
		}
	}
	for _, r := range got[len(want):] {
		if r.GetCode() != "" {
			t.Errorf("found %v", r)
		}
	}
}

func TestBadFiles(t *testing.T) {
	for file, want := range map[string]string{
		"promotions: 5":                                                            "no YAML of promotions",
		"promotion: []":                                                            "field promotion not found",
		"promotions: [{code: A, percnt: 5}]":                                       "field percnt not found",
		"promotions: []\n---\npromotions: []":                                      "more than one document",
		"promotions: [{code: A}]":                                                  `entry 1 ("A"): it does nothing`,
		"promotions: [{percent: 5}]":                                               `entry 1 (""): code "" must be`,
		"promotions: [{code: A B, percent: 5}]":                                    `code "A B" must be`,
		"promotions: [{code: A, percent: 120}]":                                    `percent "120" must be from 0.01 to 100`,
		"promotions: [{code: A, percent: 1.234}]":                                  `percent "1.234" must be`,
		"promotions: [{code: A, percent: -1}]":                                     `percent "-1" must be`,
		"promotions: [{code: A, percent: [1]}]":                                    "not a list or a map",
		"promotions: [{code: A, fixed: 5.00}]":                                     `fixed "5.00" must be an amount and its currency`,
		"promotions: [{code: A, fixed: 5.001 USD}]":                                "more decimals than its currency",
		"promotions: [{code: A, fixed: 0.5 JPY}]":                                  "more decimals than its currency",
		"promotions: [{code: A, fixed: 5 usd}]":                                    "must be an amount and its currency",
		"promotions: [{code: A, buy: 2}]":                                          "buy 2, get 0",
		"promotions: [{code: A, percent: 5, units_max: 2}]":                        "go with buy and get",
		"promotions: [{code: A, percent: 5, fixed: 1 USD}]":                        "a code does one thing",
		"promotions: [{code: A, bundle: {price: 1 USD}}]":                          "a bundle of 0 items",
		"promotions: [{code: A, percent: 5, from: yesterday}]":                     `from "yesterday" must be a date`,
		"promotions: [{code: A, percent: 5, from: 2026-01-02, until: 2026-01-01}]": "ends before it begins",
		"promotions: [{code: A, fixed: 1 USD, minimum: 1.00 GBP}]":                 "different currencies",
		"promotions: [{code: a, percent: 5}, {code: A, percent: 6}]":               "twice, as entries 1 and 2",
		"promotions: [{code: A, percent: 500}, {code: B}]":                         `entry 2 ("B")`,
		"promotions: [{code: A, fixed: 99999999999999999999 USD}]":                 "is too large",
	} {
		rules, err := promotion.Read(strings.NewReader(file))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", file, err, want)
		}
		if rules != nil {
			t.Errorf("%s: rules of a bad file", file)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if _, err := promotion.Load(filepath.Join(dir, "none.yaml")); err == nil {
		t.Error("a file that is not there was read")
	}
	file := filepath.Join(dir, "p.yaml")
	if err := os.WriteFile(file, []byte("promotions: [{code: A}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := promotion.Load(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("%v does not name the file", err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if rules, err := promotion.Load(file); err != nil || rules.Len() != 0 {
		t.Errorf("an empty file: %v, %v", rules, err)
	}
}

func TestDemo(t *testing.T) {
	rules, err := promotion.Demo()
	if err != nil || rules.Len() != 13 {
		t.Fatalf("%d rules, %v", rules.Len(), err)
	}
}

// As a service of its own, over HTTP.
func TestService(t *testing.T) {
	rules := &promotion.Rules{}
	rule := &promotionv1.Rule{Code: "TEN", Effect: &promotionv1.Rule_Percent{Percent: &promotionv1.Percent{BasisPoints: 1000}}}
	if err := rules.Put(rule); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(promotionv1connect.NewPromotionServiceHandler(rules))
	srv := httptest.NewServer(mux)
	defer srv.Close()
	c := promotionv1connect.NewPromotionServiceClient(srv.Client(), srv.URL)
	got := lookUp(t, c, "NINE", "TEN")
	if len(got) != 2 || got[0].GetCode() != "" || !proto.Equal(got[1], rule) {
		t.Errorf("%v", got)
	}
	rules.Remove("TEN")
	if got := lookUp(t, c, "TEN"); got[0].GetCode() != "" {
		t.Errorf("removed, and there: %v", got)
	}
	_, err := c.LookUp(t.Context(), connect.NewRequest(&promotionv1.LookUpRequest{Codes: make([]string, 101)}))
	if connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("101 codes: %v", err)
	}
	if err := rules.Put(&promotionv1.Rule{Code: "X"}); err == nil || rules.Len() != 0 {
		t.Errorf("a rule that does nothing: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add("promotions: [{code: A, fixed: 5.00 USD, minimum: 1 USD}]")
	f.Add("promotions: [{code: A, bundle: {items: {x: 1}, price: 1 JPY}}]")
	f.Fuzz(func(t *testing.T, file string) {
		rules, err := promotion.Read(strings.NewReader(file))
		if err != nil || rules.Len() == 0 {
			return
		}
		for _, r := range lookUp(t, rules, "A") {
			if r.GetCode() != "" && pricing.Check(r) != nil {
				t.Fatalf("a rule that is not right was read: %v", r)
			}
		}
	})
}
