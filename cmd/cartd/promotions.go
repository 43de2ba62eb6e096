package main

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/samecart/samecart/proto/promotion/v1/promotionv1connect"
	"github.com/samecart/samecart/rpc/promotion"
)

// promotionRules says where the rules of promotion codes come from.
type promotionRules struct {
	Promotions string `help:"Rules of promotion codes: a YAML file, or the address of the shop's promotion.v1 service." placeholder:"FILE|URL" env:"SAMECART_PROMOTIONS"`
}

// service reads the rules' file, or returns a client of the shop's service;
// neither is there: nil, and there are no codes. An error is about the flag.
func (p promotionRules) service(timeout time.Duration) (promotionv1connect.PromotionServiceClient, error) {
	switch {
	case p.Promotions == "":
		return nil, nil
	case !strings.Contains(p.Promotions, "://"):
		rules, err := promotion.Load(p.Promotions)
		if err != nil {
			return nil, fmt.Errorf("--promotions: %w", err)
		}
		return rules, nil
	case !isURL(p.Promotions, "http", "https"):
		return nil, fmt.Errorf("--promotions %q: give a file, http://HOST:PORT or https://HOST", p.Promotions)
	}
	return promotionv1connect.NewPromotionServiceClient(&http.Client{Timeout: timeout}, p.Promotions), nil
}

// rules are those of cartd dev: some of its own where none are given.
func (c devCommand) rules() (promotionv1connect.PromotionServiceClient, error) {
	if rules, err := c.service(c.RequestTimeout); err != nil || rules != nil {
		return rules, err
	}
	rules, err := promotion.Demo()
	if err != nil {
		return nil, fmt.Errorf("read the demo's promotions: %w", err)
	}
	return rules, nil
}
