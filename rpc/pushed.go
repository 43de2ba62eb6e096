package rpc

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/samecart/samecart/proto/catalog/v1"
	"github.com/samecart/samecart/proto/catalog/v1/catalogv1connect"
)

// Catalog is what the API needs of a shop's catalogue. Methods may be called
// concurrently.
type Catalog interface {
	// LookUp is that of catalog.v1.
	LookUp(ctx context.Context, req *connect.Request[catalogv1.LookUpRequest]) (*connect.Response[catalogv1.LookUpResponse], error)
	// Follow calls got, one call after the other, with what catalog.v1's Changes
	// sends, until ctx ends, the catalogue fails, or got returns an error. After
	// is the cursor of the last answer that an earlier call gave.
	Follow(ctx context.Context, after string, got func(*catalogv1.ChangesResponse) error) error
}

// RemoteCatalog is a Catalog behind a network. Its client must have no timeout of
// its own, which would end the stream of changes.
type RemoteCatalog struct {
	catalogv1connect.CatalogServiceClient
}

// Follow implements Catalog.
func (c RemoteCatalog) Follow(ctx context.Context, after string, got func(*catalogv1.ChangesResponse) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Changes(ctx, connect.NewRequest(&catalogv1.ChangesRequest{After: after}))
	if err != nil {
		return fmt.Errorf("follow changes: %w", err)
	}
	defer stream.Close() //nolint:errcheck // it has ended, or cancel ends it
	for stream.Receive() {
		if err := got(stream.Msg()); err != nil {
			return err
		}
	}
	if err := stream.Err(); err != nil {
		return fmt.Errorf("follow changes: %w", err)
	}
	return nil
}

const (
	followPauseMin = 100 * time.Millisecond
	followPauseMax = 30 * time.Second
	// followPauseOld is for a catalogue that does not send changes: it may learn
	// to.
	followPauseOld = 5 * time.Minute
	// refreshPause bounds how often changes of products make the pages of
	// watched carts anew: what changes meanwhile comes together.
	refreshPause = 100 * time.Millisecond
)

// Run follows the catalogue's changes until ctx ends, and shows them to who
// watches a cart with them; without it they see them with the next change of the
// cart. It returns nil.
func (h *Handler) Run(ctx context.Context) error {
	s := h.service
	after, pause := "", followPauseMin
	for {
		err := s.products.client.Follow(ctx, after, func(m *catalogv1.ChangesResponse) error {
			missed := after == "" || m.GetLost() // nobody followed what changed before
			after, pause = m.GetCursor(), followPauseMin
			return s.pushed(ctx, m, missed)
		})
		if ctx.Err() != nil {
			return nil
		}
		wait := time.Duration((0.5 + rand.Float64()/2) * float64(pause)) //nolint:gosec // spreads load
		if connect.CodeOf(err) == connect.CodeUnimplemented {
			wait = followPauseOld
		}
		s.log.LogAttrs(ctx, slog.LevelDebug, "the catalogue sends no changes", slog.Any("err", err), slog.Duration("again_in", wait))
		pause = min(2*pause, followPauseMax)
		if !sleep(ctx, wait) {
			return nil
		}
	}
}

// sleep reports whether it was not ended by ctx.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// pushed takes what the catalogue sent, and has the pages of watched carts made
// anew where something in them changed; all of them when changes were missed.
func (s *service) pushed(ctx context.Context, m *catalogv1.ChangesResponse, missed bool) error {
	began := time.Now()
	if missed {
		s.products.forget(began)
	}
	changed := s.products.push(m, began)
	again := s.feeds.with(changed)
	if missed {
		again = s.feeds.all()
	}
	if len(again) == 0 {
		return nil
	}
	for _, f := range again {
		f.refresh(ctx)
	}
	if !sleep(ctx, refreshPause-time.Since(began)) {
		return ctx.Err()
	}
	return nil
}

// forget makes all that was learnt before a time be asked for again. It still
// stands in while the catalogue is down.
func (p *products) forget(before time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.since = before
}

// push takes what the catalogue sent and returns the products that it is about.
// What nobody asked for is not remembered.
func (p *products) push(m *catalogv1.ChangesResponse, now time.Time) []productRef {
	p.mu.Lock()
	defer p.mu.Unlock()
	refs := make([]productRef, 0, len(m.GetProducts())+len(m.GetRemoved()))
	for _, sent := range m.GetProducts() {
		got := usable(sent)
		ref := productRef{sent.GetSkuId(), sent.GetSellerId()}
		if ref.sku == "" {
			continue
		}
		refs = append(refs, ref)
		for _, known := range []productRef{ref, {sku: ref.sku}} {
			r, ok := p.cache.Peek(known)
			switch {
			case !ok, known.seller == "" && r.value.GetSellerId() != ref.seller:
				// Which seller is the default one, a change does not tell.
			case got == nil:
				p.cache.Remove(known) // as if nothing had been sent; it is asked for
			default:
				if !proto.Equal(r.value, got) {
					r.value = got
				}
				p.cache.Add(known, remembered[*catalogv1.Product]{r.value, now, true})
			}
		}
	}
	for _, gone := range m.GetRemoved() {
		ref := productRef{gone.GetSkuId(), gone.GetSellerId()}
		refs = append(refs, ref)
		if p.cache.Contains(ref) {
			p.cache.Add(ref, remembered[*catalogv1.Product]{nil, now, true})
		}
		p.cache.Remove(productRef{sku: ref.sku})
	}
	return refs
}
