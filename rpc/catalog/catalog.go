package catalog

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/samecart/samecart/proto/catalog/v1"
	"github.com/samecart/samecart/proto/catalog/v1/catalogv1connect"
)

// lookUpMax is how many products one call may ask for.
const lookUpMax = 1000

// ref names a product.
type ref struct{ sku, seller string }

// Catalog answers catalog.v1 from memory, over the wire and in its process. All
// methods may be called concurrently.
type Catalog struct {
	// Skipped is how many rows of the embedded file could not be used.
	Skipped int

	mu       sync.RWMutex
	products map[ref]*catalogv1.Product // values are never changed, only replaced
	sellers  map[string]string          // default seller by SKU
	changes  changes
}

var _ catalogv1connect.CatalogServiceHandler = (*Catalog)(nil)

// New returns the embedded catalogue. An error means that the embedded file
// cannot be read at all.
func New() (*Catalog, error) {
	c := &Catalog{products: map[ref]*catalogv1.Product{}, sellers: map[string]string{}, changes: newChanges()}
	retail, skipped, err := readEmbedded()
	if err != nil {
		return nil, fmt.Errorf("read embedded catalogue: %w", err)
	}
	c.Skipped = skipped
	for _, p := range retail {
		c.put(p)
	}
	for n := 1; n <= demoSKUs; n++ {
		for seller := 1; seller <= demoSellers; seller++ {
			c.put(demo(n, seller))
		}
	}
	return c, nil
}

// Put adds a product or replaces one: a live edit. The first seller of a SKU
// is its default one. p is kept and must not be changed afterwards.
func (c *Catalog) Put(p *catalogv1.Product) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(p)
	c.changes.note(ref{p.GetSkuId(), p.GetSellerId()})
}

// put is called with mu held, or before anybody else knows c.
func (c *Catalog) put(p *catalogv1.Product) {
	c.products[ref{p.GetSkuId(), p.GetSellerId()}] = p
	if _, ok := c.sellers[p.GetSkuId()]; !ok {
		c.sellers[p.GetSkuId()] = p.GetSellerId()
	}
}

// Edit changes a product as change says, which gets a copy of its own, and
// returns what it is then. Without a seller the SKU's default one is meant. A
// product that the catalogue does not have comes with these two names alone; it
// is added. When change returns an error nothing is changed.
func (c *Catalog) Edit(sku, seller string, change func(p *catalogv1.Product, isNew bool) error) (*catalogv1.Product, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.find(sku, seller)
	p := &catalogv1.Product{SkuId: sku, SellerId: seller}
	if old != nil {
		p = proto.CloneOf(old)
	}
	if err := change(p, old == nil); err != nil {
		return nil, err
	}
	c.put(p)
	c.changes.note(ref{p.GetSkuId(), p.GetSellerId()})
	return p, nil
}

// SetPrice changes the price of a product, in minor units of its currency.
// ok is false when the catalogue does not have it.
func (c *Catalog) SetPrice(sku, seller string, minorUnits int64) (ok bool) {
	return c.change(sku, seller, func(p *catalogv1.Product) { p.PriceMinorUnits = minorUnits })
}

// SetStock changes the stock of a product. ok is false when the catalogue
// does not have it.
func (c *Catalog) SetStock(sku, seller string, units int64) (ok bool) {
	return c.change(sku, seller, func(p *catalogv1.Product) { p.Stock = units })
}

func (c *Catalog) change(sku, seller string, edit func(*catalogv1.Product)) bool {
	_, err := c.Edit(sku, seller, func(p *catalogv1.Product, isNew bool) error {
		if isNew {
			return errNotThere
		}
		edit(p)
		return nil
	})
	return err == nil
}

var errNotThere = errors.New("the catalogue does not have it")

// find is called with mu held.
func (c *Catalog) find(sku, seller string) *catalogv1.Product {
	if seller == "" {
		seller = c.sellers[sku]
	}
	return c.products[ref{sku, seller}]
}

// Len returns the number of products.
func (c *Catalog) Len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.products)
}

// LookUp implements catalog.v1.CatalogService. It reads one state of the
// catalogue for the whole call.
func (c *Catalog) LookUp(ctx context.Context, req *connect.Request[catalogv1.LookUpRequest]) (*connect.Response[catalogv1.LookUpResponse], error) {
	if err := ctx.Err(); err != nil {
		return nil, connect.NewError(connect.CodeCanceled, err)
	}
	asked := req.Msg.GetProducts()
	if len(asked) > lookUpMax {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("%d products were asked for: ask for at most %d", len(asked), lookUpMax))
	}
	res := &catalogv1.LookUpResponse{Products: make([]*catalogv1.Product, len(asked))}
	c.mu.RLock()
	defer c.mu.RUnlock()
	for i, a := range asked {
		if p := c.find(a.GetSkuId(), a.GetSellerId()); p != nil {
			res.Products[i] = p
		} else {
			res.Products[i] = &catalogv1.Product{}
		}
	}
	return connect.NewResponse(res), nil
}
