package rpc

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/rpc/causal"
)

// feeds are the carts that somebody watches on this node. Whatever the number of
// a cart's watchers, one goroutine waits for its changes, and its page is made
// once.
//
//	W1  A feed's frames are in order: none is of an older cart than the one
//	    before, across failovers too, and all watchers take them in that order.
//	W2  A watcher takes the newest frame when it has sent the one before. So a
//	    slow one leaves frames out and holds none, and nobody waits for it.
//	W3  A watcher's first frame is not older than what the region had when it
//	    came.
type feeds struct {
	s *service

	mu     sync.Mutex // guards what follows, and index and watchers of each feed
	byCart map[string]*feed
	// byProduct finds the carts that a change of a product is for. It has one
	// entry for each line of each watched cart.
	byProduct map[productRef]map[*feed]struct{}
}

func newFeeds(s *service) *feeds {
	return &feeds{s: s, byCart: make(map[string]*feed), byProduct: make(map[productRef]map[*feed]struct{})}
}

// feed is one watched cart.
type feed struct {
	feeds  *feeds
	cartID string
	ctx    context.Context // ends with the last watcher
	cancel context.CancelFunc

	watchers int
	index    []productRef // this feed's entries in byProduct

	making chan struct{} // holds one token: who has it may make the next frame
	view   region.View   // the newest cart, of which the next frame is made; guarded by making

	mu      sync.Mutex // guards what follows
	current *frame
	made    time.Time // when products were last looked up for it
	err     error     // why there will be no more frames
}

// frame is one state of a watched cart, as all its watchers are sent it. It is
// never changed.
type frame struct {
	page
	context crdt.CausalContext
	resume  string
	sum     region.Digest // of the page: what a resume token names
	next    chan struct{} // closed when there is a newer frame, or never will be
	event   func() ([]byte, error)
}

// join returns the feed of a cart; leave must be called when the watcher is gone.
func (fs *feeds) join(cartID string) *feed {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f := fs.byCart[cartID]
	if f == nil {
		f = &feed{feeds: fs, cartID: cartID, making: make(chan struct{}, 1)}
		f.ctx, f.cancel = context.WithCancel(context.Background()) // watchers end with their calls
		fs.byCart[cartID] = f
	}
	f.watchers++
	return f
}

func (f *feed) leave() {
	f.feeds.mu.Lock()
	defer f.feeds.mu.Unlock()
	if f.watchers--; f.watchers == 0 {
		f.feeds.drop(f)
		f.cancel()
	}
}

// drop makes a feed one that nobody joins any more. It is called with mu held.
func (fs *feeds) drop(f *feed) {
	if fs.byCart[f.cartID] == f {
		delete(fs.byCart, f.cartID)
	}
	fs.reindex(f, nil)
}

// reindex is called with mu held.
func (fs *feeds) reindex(f *feed, refs []productRef) {
	for _, ref := range f.index {
		if set := fs.byProduct[ref]; len(set) > 1 {
			delete(set, f)
		} else {
			delete(fs.byProduct, ref)
		}
	}
	for _, ref := range refs {
		set := fs.byProduct[ref]
		if set == nil {
			set = make(map[*feed]struct{}, 1)
			fs.byProduct[ref] = set
		}
		set[f] = struct{}{}
	}
	f.index = refs
}

// with returns the feeds of carts that have one of the products.
func (fs *feeds) with(refs []productRef) []*feed {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	seen := make(map[*feed]struct{})
	for _, ref := range refs {
		for f := range fs.byProduct[ref] {
			seen[f] = struct{}{}
		}
	}
	out := make([]*feed, 0, len(seen))
	for f := range seen {
		out = append(out, f)
	}
	return out
}

// all returns all feeds.
func (fs *feeds) all() []*feed {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	out := make([]*feed, 0, len(fs.byCart))
	for _, f := range fs.byCart {
		out = append(out, f)
	}
	return out
}

// lock waits for the right to make a frame.
func (f *feed) lock(ctx context.Context) error {
	select {
	case f.making <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *feed) unlock() { <-f.making }

// latest returns the newest frame; nil before the first.
func (f *feed) latest() (*frame, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current, f.err
}

// fresh returns the newest frame when its prices were looked up a moment ago.
func (f *feed) fresh() *frame {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil || time.Since(f.made) > f.feeds.s.cfg.CatalogFresh {
		return nil
	}
	return f.current
}

// offer makes a frame of a cart that somebody has read, unless the feed has a
// newer one, and returns the newest. The first offer sets the feed going.
func (f *feed) offer(ctx context.Context, v region.View) (*frame, error) {
	// Mostly the feed has it already: many watchers come at once.
	if cur := f.fresh(); cur != nil && cur.digest == v.Digest && (!cur.stale || v.Stale) {
		return cur, nil
	}
	if err := f.lock(ctx); err != nil {
		return nil, err
	}
	defer f.unlock()
	cur, err := f.latest()
	if err != nil {
		return nil, err
	}
	if cur != nil && (isOlder(v, f.view) || v.Digest == f.view.Digest && v.Stale) {
		return cur, nil
	}
	if err := f.publish(ctx, v, f.feeds.s.cfg.CatalogFresh); err != nil {
		return nil, err
	}
	if cur == nil {
		go f.run(v)
	}
	return f.latest()
}

// refresh makes the frame anew of products as they are now.
func (f *feed) refresh(ctx context.Context) {
	if f.lock(ctx) != nil {
		return
	}
	defer f.unlock()
	if cur, err := f.latest(); cur == nil || err != nil {
		return
	}
	// What did not change is known: the catalogue would be asked once for each
	// watched cart.
	if err := f.publish(ctx, f.view, f.feeds.s.cfg.CatalogOld); err != nil {
		f.end(err)
	}
}

// publish makes v the newest cart, and a frame of it where that shows something
// else. It is called with the right to.
func (f *feed) publish(ctx context.Context, v region.View, fresh time.Duration) error {
	if cartOf(v).IsErased() {
		return errErased()
	}
	s := f.feeds.s
	f.view = v
	p, err := s.page(ctx, v, fresh)
	if err != nil {
		return err
	}
	f.mu.Lock()
	old := f.current
	f.made = time.Now()
	f.mu.Unlock()
	if old != nil && old.digest == p.digest && old.stale == p.stale && slices.Equal(old.known, p.known) {
		return nil
	}
	next := &frame{page: *p, context: cartOf(v).Context, next: make(chan struct{})}
	sum := sha256.Sum256(append(v.Digest[:], p.encoded...))
	next.sum = region.Digest(sum[:])
	next.resume = causal.Token{CartID: v.CartID, Context: next.context, Digest: next.sum, Resume: true}.Encode()
	next.event = sync.OnceValues(func() ([]byte, error) {
		cart, err := next.cart()
		if err != nil {
			return nil, err
		}
		return eventOf(cart, next.resume)
	})
	if old == nil || !slices.Equal(old.refs, p.refs) {
		f.feeds.mu.Lock()
		if f.ctx.Err() == nil { // else it was dropped, and stays so
			f.feeds.reindex(f, p.refs)
		}
		f.feeds.mu.Unlock()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err // it has ended meanwhile, and said so
	}
	f.current = next
	if old != nil {
		close(old.next)
	}
	return nil
}

// end says that there are no more frames. Who comes now gets a new feed.
func (f *feed) end(err error) {
	f.feeds.mu.Lock()
	f.feeds.drop(f)
	f.feeds.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return
	}
	f.err = err
	if f.current != nil {
		close(f.current.next)
	}
}

// askAgain is how often a feed looks whether a region that could only show what
// may be old can do better now.
const askAgain = time.Second

// run publishes the cart's changes until the last watcher has left, or the region
// fails.
func (f *feed) run(v region.View) {
	s := f.feeds.s
	for {
		ctx, cancel := f.ctx, context.CancelFunc(func() {})
		if v.Stale {
			ctx, cancel = context.WithTimeout(f.ctx, askAgain)
		}
		next, err := s.region.Wait(ctx, f.cartID, v.Digest)
		cancel()
		if v.Stale && errors.Is(err, context.DeadlineExceeded) && f.ctx.Err() == nil {
			ctx, cancel := context.WithTimeout(f.ctx, s.cfg.RequestTimeout)
			next, err = s.region.Read(ctx, f.cartID, region.ReadOptions{})
			cancel()
			if err != nil && f.ctx.Err() == nil {
				next, err = v, nil // no worse than before
			}
		}
		if err != nil {
			f.end(fmt.Errorf("wait for a change: %w", err))
			return
		}
		v = next
		if _, err := f.offer(f.ctx, v); err != nil {
			f.end(err)
			return
		}
	}
}

// isOlder reports whether a view of a cart shows less of it than another one of
// the same region. A region that lost its state shows less under a new
// incarnation; that is all there is, and not older.
func isOlder(v, than region.View) bool {
	have, seen := cartOf(v).Context, cartOf(than).Context
	switch {
	case have.Covers(seen):
		return false
	case v.Version.Incarnation > than.Version.Incarnation:
		return false
	case seen.Covers(have):
		return true
	}
	return v.Version.Compare(than.Version) < 0
}

// cart decodes the frame's page.
func (f *frame) cart() (*cartv1.Cart, error) {
	cart := new(cartv1.Cart)
	if err := proto.Unmarshal(f.encoded, cart); err != nil {
		return nil, fmt.Errorf("decode page: %w", err)
	}
	return cart, nil
}

// eventOf is a cart as a server-sent event.
func eventOf(cart *cartv1.Cart, id string) ([]byte, error) {
	data, err := json.Marshal(cartJSONOf(cart))
	if err != nil {
		return nil, fmt.Errorf("encode cart: %w", err)
	}
	return fmt.Appendf(nil, "id: %s\ndata: %s\n\n", id, data), nil
}
