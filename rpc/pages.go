package rpc

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"google.golang.org/protobuf/proto"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/region"
)

// page is the encoded page of one cart, with all that it was made from: it
// stands for as long as a new one would have the same bytes. Never changed.
type page struct {
	digest  region.Digest
	active  crdt.Active
	stale   bool
	refs    []productRef
	known   []product // of refs
	encoded []byte
}

func (p *page) bytes() int { return 200 + 64*len(p.refs) + len(p.encoded) }

// pages remembers encoded pages under a byte bound, the least recently read go
// first. Most reads of a cart find it as it was, and so does a badge on each
// page of a shop.
type pages struct {
	max int

	mu    sync.Mutex // guards what follows
	lru   *simplelru.LRU[string, *page]
	bytes int
}

// pagesMax bounds the number of pages, above what the bytes allow.
const pagesMax = 1 << 20

func newPages(bytesMax int) (*pages, error) {
	p := &pages{max: bytesMax}
	var err error
	p.lru, err = simplelru.NewLRU(pagesMax, func(id string, old *page) { p.bytes -= len(id) + old.bytes() })
	if err != nil {
		return nil, fmt.Errorf("make page cache: %w", err)
	}
	return p, nil
}

func (p *pages) get(id string) *page {
	p.mu.Lock()
	defer p.mu.Unlock()
	found, _ := p.lru.Get(id)
	return found
}

func (p *pages) put(id string, fresh *page) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lru.Remove(id) // so that its bytes are taken off
	p.lru.Add(id, fresh)
	p.bytes += len(id) + fresh.bytes()
	for p.bytes > p.max && p.lru.Len() > 0 {
		p.lru.RemoveOldest()
	}
}

// encodedCart is cart for callers that want it in protobuf's encoding: the
// message has its bytes as an unknown field, which encoding copies as they are.
func (s *service) encodedCart(ctx context.Context, c call) (*cartv1.Cart, meta, error) {
	v, err := s.read(ctx, c)
	if err != nil {
		return nil, meta{}, err
	}
	p, err := s.page(ctx, v, s.cfg.CatalogFresh)
	if err != nil {
		return nil, meta{}, err
	}
	m, missing := s.metaFor(c, v)
	out := &cartv1.Cart{Missing: missing} // of this caller, not of the page
	out.ProtoReflect().SetUnknown(p.encoded)
	return out, m, nil
}

// page returns a cart's page, made of products that the catalogue is asked for
// again when what is known of them is older than fresh.
func (s *service) page(ctx context.Context, v region.View, fresh time.Duration) (*page, error) {
	if p := s.pages.get(v.CartID); p != nil && p.digest == v.Digest && p.active == v.State.Active && p.stale == v.Stale &&
		slices.Equal(s.products.look(ctx, p.refs, fresh), p.known) {
		return p, nil
	}
	r := s.renderWith(ctx, v, fresh)
	// The same page has the same bytes: who resumes a watch in another region is
	// not sent it again.
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(r.cart)
	if err != nil {
		return nil, fmt.Errorf("encode cart: %w", err)
	}
	fresher := &page{digest: v.Digest, active: v.State.Active, stale: v.Stale, refs: r.refs, known: r.known, encoded: encoded}
	if !r.timed { // else a code may count from this second to the next
		s.pages.put(v.CartID, fresher)
	}
	return fresher, nil
}

// wantsProto reports whether a Connect, gRPC or gRPC-Web call is answered in
// protobuf's encoding. One that does not say so in its headers is taken for one
// that is not.
func wantsProto(h http.Header) bool {
	kind, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	switch strings.TrimSpace(kind) {
	case "application/proto", "application/grpc", "application/grpc+proto", "application/grpc-web", "application/grpc-web+proto":
		return true
	}
	return false
}
