package rpc

import (
	"context"
	"log/slog"
	"sync"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect"
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

// products asks the catalogue.
type products struct {
	*bulk[productRef, *catalogv1.Product] // nil: the catalogue does not know it

	client Catalog

	mu    sync.Mutex // held for writes to cache, which must not undo a newer one; guards what follows
	since time.Time  // what was learnt before may have changed: it is not fresh
}

func newProducts(cfg Config, client Catalog, log *slog.Logger) (*products, error) {
	p := &products{client: client}
	var err error
	p.bulk, err = newBulk(bulkConfig{
		name: "catalog", most: lookUpMax, entries: cfg.CatalogEntries, timeout: cfg.CatalogTimeout,
		fresh: cfg.CatalogFresh, old: cfg.CatalogOld, rest: cfg.CatalogRest, changed: cfg.Events.Catalog,
	}, log, p.call)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// lookUp returns what is known of each product, in their order. It never
// fails: what could not be found out is not answered. The zero ref is not asked
// for.
func (p *products) lookUp(ctx context.Context, refs []productRef) []product {
	return p.look(ctx, refs, p.fresh)
}

// look is lookUp with a bound of its own on how old an answer may be before the
// catalogue is asked again.
func (p *products) look(ctx context.Context, refs []productRef, fresh time.Duration) []product {
	p.mu.Lock()
	since := p.since
	p.mu.Unlock()
	found, _ := p.bulk.lookUp(ctx, refs, fresh, since, p.keep) // what is known already has to do
	out := make([]product, len(refs))
	for i, k := range found {
		out[i] = product{k.value, k.answered, k.old}
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

// keep takes in what the catalogue answered to a call that began at a time, and
// returns what is known now: the catalogue may have sent a change meanwhile.
func (p *products) keep(ref productRef, got *catalogv1.Product, asked time.Time) (now *catalogv1.Product, ok bool) {
	if got.GetSkuId() == "" {
		got = nil
	} else if got = usable(got); got == nil {
		return nil, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	got = p.newer(ref, got, asked)
	if ref.seller == "" && got != nil { // it will be asked for by its seller next
		p.newer(productRef{ref.sku, got.GetSellerId()}, got, asked)
	}
	return got, true
}

// newer remembers an answer unless something newer is known; it returns what is.
func (p *products) newer(ref productRef, got *catalogv1.Product, asked time.Time) *catalogv1.Product {
	if r, ok := p.cache.Peek(ref); ok {
		switch {
		case r.pushed && r.at.After(asked):
			return r.value
		case got != nil && proto.Equal(r.value, got):
			got = r.value // the same value, so pages made of it stand
		}
	}
	p.remember(ref, got, asked)
	return got
}

// call asks for products.
func (p *products) call(ctx context.Context, refs []productRef) ([]*catalogv1.Product, error) {
	req := &catalogv1.LookUpRequest{Products: make([]*catalogv1.ProductRef, len(refs))}
	for n, ref := range refs {
		req.Products[n] = &catalogv1.ProductRef{SkuId: ref.sku, SellerId: ref.seller}
	}
	res, err := p.client.LookUp(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	return res.Msg.GetProducts(), nil
}
