package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/sony/gobreaker/v2"
	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/samecart/samecart/proto/catalog/v1"
)

// lookUpMax is how many products the catalogue takes in one call.
const lookUpMax = 1000

// productRef names a product; without a seller the default one is meant.
type productRef struct{ sku, seller string }

// product is what is known of one product now.
type product struct {
	*catalogv1.Product // nil: not sold, when answered

	answered bool // the catalogue said so, now or before
	old      bool // it said so before, and does not answer now
}

type remembered struct {
	product *catalogv1.Product // nil: the catalogue does not know it
	at      time.Time
	pushed  bool // the catalogue sent it by itself: what was asked for before is older
}

// products asks the catalogue and remembers what it said for a bounded time,
// so that a slow or dead catalogue neither slows carts down nor empties them.
type products struct {
	cfg     Config
	client  Catalog
	breaker *gobreaker.CircuitBreaker[[]*catalogv1.Product]
	cache   *lru.Cache[productRef, remembered]

	mu    sync.Mutex // held for writes to cache, which must not undo a newer one; guards what follows
	since time.Time  // what was learnt before may have changed: it is not fresh
}

// errCallerLeft says nothing about the catalogue.
var errCallerLeft = errors.New("the caller left")

func newProducts(cfg Config, client Catalog, log *slog.Logger) (*products, error) {
	cache, err := lru.New[productRef, remembered](cfg.CatalogEntries)
	if err != nil {
		return nil, fmt.Errorf("make product cache: %w", err)
	}
	return &products{
		cfg: cfg, client: client, cache: cache,
		breaker: gobreaker.NewCircuitBreaker[[]*catalogv1.Product](gobreaker.Settings{
			Name:        "catalog",
			MaxRequests: 1, // one caller at a time pays for finding out
			Timeout:     cfg.CatalogRest,
			ReadyToTrip: func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= 3 },
			IsExcluded:  func(err error) bool { return errors.Is(err, errCallerLeft) },
			OnStateChange: func(_ string, _, to gobreaker.State) {
				log.Info("catalogue breaker changed state", slog.String("to", to.String()))
				if cfg.Events.Catalog != nil {
					cfg.Events.Catalog(to == gobreaker.StateOpen)
				}
			},
		}),
	}, nil
}

// lookUp returns what is known of each product, in their order. It never
// fails: what could not be found out is not answered. The zero ref is not asked
// for.
func (p *products) lookUp(ctx context.Context, refs []productRef) []product {
	return p.look(ctx, refs, p.cfg.CatalogFresh)
}

// look is lookUp with a bound of its own on how old an answer may be before the
// catalogue is asked again.
func (p *products) look(ctx context.Context, refs []productRef, fresh time.Duration) []product {
	p.mu.Lock()
	since := p.since
	p.mu.Unlock()
	out := make([]product, len(refs))
	var ask []int // places in refs
	now := time.Now()
	for i, ref := range refs {
		if ref == (productRef{}) {
			continue
		}
		r, ok := p.cache.Get(ref)
		switch age := now.Sub(r.at); {
		case ok && age <= fresh && !r.at.Before(since):
			out[i] = product{Product: r.product, answered: true}
			continue
		case ok && age <= p.cfg.CatalogOld:
			out[i] = product{Product: r.product, answered: true, old: true}
		}
		ask = append(ask, i)
	}
	for part := range slices.Chunk(ask, lookUpMax) {
		found, err := p.breaker.Execute(func() ([]*catalogv1.Product, error) { return p.call(ctx, refs, part) })
		if err != nil {
			break // what is known already has to do
		}
		for n, i := range part {
			ref, got := refs[i], found[n]
			if got.GetSkuId() == "" {
				got = nil
			} else if got = usable(got); got == nil {
				continue // a product without a usable price is as good as no answer
			}
			got = p.keep(ref, got, now)
			out[i] = product{Product: got, answered: true}
			if ref.seller == "" && got != nil { // it will be asked for by its seller next
				p.keep(productRef{ref.sku, got.GetSellerId()}, got, now)
			}
		}
	}
	return out
}

// usable returns a product as it can be shown and priced: without texts that are
// no use, nil when its price is none. A cart of 500 lines stays below what
// clients read.
func usable(p *catalogv1.Product) *catalogv1.Product {
	if !isCurrency(p.GetCurrency()) || p.GetPriceMinorUnits() < 0 || p.GetPriceMinorUnits() > priceMax {
		return nil
	}
	isText := func(s string) bool { return len(s) <= productTextMax && utf8.ValidString(s) }
	if isText(p.GetName()) && isText(p.GetSeller()) && isText(p.GetImage()) {
		return p
	}
	p = proto.CloneOf(p)
	for _, text := range []*string{&p.Name, &p.Seller, &p.Image} {
		if !isText(*text) {
			*text = ""
		}
	}
	return p
}

const productTextMax = 1 << 10 // bytes of a name, of an image's address

// keep remembers what the catalogue answered to a call that began at a time, and
// returns what is known now: the catalogue may have sent a change meanwhile.
func (p *products) keep(ref productRef, got *catalogv1.Product, asked time.Time) *catalogv1.Product {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r, ok := p.cache.Peek(ref); ok {
		switch {
		case r.pushed && r.at.After(asked):
			return r.product
		case got != nil && proto.Equal(r.product, got):
			got = r.product // the same value, so pages made of it stand
		}
	}
	p.cache.Add(ref, remembered{product: got, at: asked})
	return got
}

// call asks for the products at the given places of refs.
func (p *products) call(ctx context.Context, refs []productRef, places []int) ([]*catalogv1.Product, error) {
	req := &catalogv1.LookUpRequest{Products: make([]*catalogv1.ProductRef, len(places))}
	for n, i := range places {
		req.Products[n] = &catalogv1.ProductRef{SkuId: refs[i].sku, SellerId: refs[i].seller}
	}
	limited, cancel := context.WithTimeout(ctx, p.cfg.CatalogTimeout)
	defer cancel()
	res, err := p.client.LookUp(limited, connect.NewRequest(req))
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, errCallerLeft
	case err != nil:
		return nil, fmt.Errorf("look up %d products: %w", len(places), err)
	case len(res.Msg.GetProducts()) != len(places):
		return nil, fmt.Errorf("look up %d products: the catalogue answered with %d", len(places), len(res.Msg.GetProducts()))
	}
	return res.Msg.GetProducts(), nil
}
