package region

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/cache"
	"github.com/samecart/samecart/region/link"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/region/store"
)

// What nodes ask of each other over their link.
const (
	kindPropose link.Kind = 16 + iota
	kindRead
	kindShard
	kindForm
	kindAdmit
	kindStatus
	kindFirst

	// kindWait is a read that waits for a cart to change: one for each cart that
	// is watched at another node.
	kindWait = link.KindWaits
)

// Codes of errors that cross the link.
const (
	codeNotLeader uint16 = 1 + iota
	codeOverloaded
	codeUnknown
	codeNotHere
	codeFenced
	codeNoRegionMajority
)

// Fetcher brings whole carts from other regions: what a causal token names
// may not have arrived here.
type Fetcher interface {
	// Fetch returns the encoded crdt.State of a cart as the region has it,
	// nil when it has none.
	Fetch(ctx context.Context, region crdt.RegionID, cartID string) ([]byte, error)
}

// RouterConfig holds the settings of a Router.
type RouterConfig struct {
	Region      crdt.RegionID
	Incarnation uint32   // of a region that is new; a gateway needs none
	Nodes       []string // all of the region, in the order that places shards
	Shards      uint32
	Cache       cache.Cache
	Fetcher     Fetcher // nil for a gateway: the nodes that it asks fetch for it
	Log         *slog.Logger

	// StaleAfter is how long a read looks for a leader before it is answered
	// with what a node or the cache has, marked stale.
	StaleAfter time.Duration
	// CoverWait is how long a read waits for the rows its token names before
	// it fetches the cart from the region that wrote them.
	CoverWait time.Duration
	// Attempt bounds one node's answer; after it another is asked. It bounds
	// another region's answer as well.
	Attempt time.Duration
}

// DefaultRouterConfig returns the waits used in production.
func DefaultRouterConfig() RouterConfig {
	return RouterConfig{
		StaleAfter: 600 * time.Millisecond, // most leader changes by transfer are over by then
		CoverWait:  300 * time.Millisecond, // a round trip round the world, and a commit
		Attempt:    700 * time.Millisecond, // leaves a second try within the request's two seconds
	}
}

// Router finds the shard of a cart and the node that leads it. It has no
// state that matters: a gateway is a Router alone, a node has one beside its
// shards. All methods are safe for concurrent use.
type Router struct {
	cfg   RouterConfig
	slots *shard.Slots
	mux   *link.Mux
	log   *slog.Logger

	incarnation atomic.Uint32 // the node's; it may be told late
	known       settingsCache

	mu      sync.RWMutex // guards what follows
	local   map[uint32]*shard.Shard
	leaders map[uint32]string

	closed    chan struct{} // closed when the node's shards are
	closeOnce sync.Once
}

// NewRouter returns a router over the links of mux.
func NewRouter(cfg RouterConfig, mux *link.Mux) *Router {
	r := &Router{
		cfg: cfg, slots: shard.NewSlots(cfg.Shards), mux: mux, log: cfg.Log,
		local: make(map[uint32]*shard.Shard), leaders: make(map[uint32]string), closed: make(chan struct{}),
	}
	r.incarnation.Store(cfg.Incarnation)
	return r
}

// Incarnation returns the region's, once the node is in it; until then the one
// that is configured.
func (r *Router) Incarnation() uint32 { return r.incarnation.Load() }

// Shards returns the number of shards.
func (r *Router) Shards() uint32 { return r.cfg.Shards }

// replicasMax is how many nodes of a region hold one shard.
const replicasMax = 3

// Placement returns the nodes that hold a shard.
func (r *Router) Placement(id uint32) []string {
	n := len(r.cfg.Nodes)
	out := make([]string, 0, replicasMax)
	for i := range min(n, replicasMax) {
		out = append(out, r.cfg.Nodes[(int(id)+i)%n])
	}
	return out
}

func (r *Router) shardOf(cartID string) uint32 { return r.slots.Shard(r.slots.Of(cartID)) }

func (r *Router) here(id uint32) *shard.Shard {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.local[id]
}

func (r *Router) leader(id uint32) string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.leaders[id]
}

func (r *Router) setLeader(id uint32, node string) {
	r.mu.RLock()
	same := r.leaders[id] == node
	r.mu.RUnlock()
	if same {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaders[id] = node
}

// close makes all calls fail with ErrClosed, those that wait included.
func (r *Router) close() {
	r.closeOnce.Do(func() {
		close(r.closed)
		r.mu.Lock()
		defer r.mu.Unlock()
		clear(r.local)
	})
}

func (r *Router) isClosed() bool {
	select {
	case <-r.closed:
		return true
	default:
		return false
	}
}

// request is a call to the node that leads a shard.
type request struct {
	shard    uint32
	kind     link.Kind
	payload  []byte
	harmless bool // may be repeated although it may have been carried out
	maybe    bool // it may have been carried out already
}

// atLeader makes a call to the node that leads a shard, looking for it until
// ctx ends. An error other than ErrOutcomeUnknown says that nothing was
// carried out.
func (r *Router) atLeader(ctx context.Context, q request) ([]byte, error) {
	place := r.Placement(q.shard)
	next := rand.IntN(len(place))
	for try := 0; ; try++ {
		node := r.leader(q.shard)
		if node == "" {
			node = place[next%len(place)]
			next++
		}
		attempt, cancel := context.WithTimeout(ctx, r.cfg.Attempt)
		out, err := r.mux.Call(attempt, node, q.kind, q.payload)
		timedOut := attempt.Err() != nil
		cancel()
		if err == nil {
			r.setLeader(q.shard, node)
			return out, nil
		}
		pause := 10 * time.Millisecond
		var refused *link.Error
		switch {
		case r.isClosed() || errors.Is(err, link.ErrClosed) && errors.Is(err, link.ErrUnreachable):
			return nil, q.failed(ErrClosed, err)
		case errors.As(err, &refused) && refused.Code == codeNotLeader:
			hint := string(refused.Detail)
			if hint == node {
				hint = ""
			}
			r.setLeader(q.shard, hint)
			if hint != "" && try < 3 {
				pause = 0
			}
		case errors.As(err, &refused) && refused.Code == codeFenced:
			return nil, q.failed(ErrFenced, err)
		case errors.As(err, &refused) && refused.Code == codeNoRegionMajority:
			return nil, q.failed(shard.ErrNoRegionMajority, err)
		case errors.As(err, &refused) && refused.Code == codeOverloaded, errors.Is(err, link.ErrOverloaded):
			return nil, q.failed(ErrOverloaded, err)
		case errors.As(err, &refused) && refused.Code == codeNotHere,
			errors.Is(err, link.ErrUnreachable), errors.Is(err, link.ErrUnknownKind):
			r.setLeader(q.shard, "")
		case errors.As(err, &refused) && refused.Code == 0, errors.Is(err, link.ErrTooLarge):
			return nil, q.failed(fmt.Errorf("node %s", node), err)
		default: // the connection or the answer was lost, or the node said so
			q.maybe = true
			r.setLeader(q.shard, "")
			if !q.harmless {
				return nil, q.failed(ErrOutcomeUnknown, err)
			}
		}
		if timedOut {
			r.setLeader(q.shard, "")
		}
		if !sleep(ctx, pause) {
			return nil, q.failed(ErrNoQuorum, err)
		}
	}
}

// failed says why a call was given up; whatever the reason, the outcome is
// unknown when a node may have carried it out.
func (q request) failed(why, cause error) error {
	if q.maybe {
		why = ErrOutcomeUnknown
	}
	return fmt.Errorf("%w: shard %d: %w", why, q.shard, cause)
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// propose commits a command in its shard; harmless says that it may be made
// twice.
func (r *Router) propose(ctx context.Context, id uint32, cmd *regionv1.Command, harmless bool) (*regionv1.Outcome, error) {
	maybe := false
	if s := r.here(id); s != nil && s.Leads() {
		out, err := s.Propose(ctx, cmd)
		switch {
		case err == nil:
			return out, nil
		case errors.Is(err, shard.ErrOverloaded):
			return nil, ErrOverloaded
		case errors.Is(err, shard.ErrNotLeader): // look for the leader
		case errors.Is(err, shard.ErrOutcomeUnknown) && harmless && ctx.Err() == nil:
			maybe = true // look for the leader as well
		case errors.Is(err, shard.ErrOutcomeUnknown):
			return nil, fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
		default:
			return nil, err
		}
	}
	payload, err := proto.Marshal(&regionv1.ProposeRequest{Shard: id, Command: cmd})
	if err != nil {
		return nil, fmt.Errorf("encode command: %w", err)
	}
	b, err := r.atLeader(ctx, request{shard: id, kind: kindPropose, payload: payload, harmless: harmless, maybe: maybe})
	if err != nil {
		return nil, err
	}
	var out regionv1.Outcome
	if err := proto.Unmarshal(b, &out); err != nil {
		return nil, fmt.Errorf("%w: decode outcome: %w", ErrOutcomeUnknown, err)
	}
	return &out, nil
}

// Edit commits a shopper's edit and returns its outcome; a refusal is an
// outcome. An edit with an op id is repeated until ctx ends when its fate is
// unknown. Errors: ErrNoQuorum, ErrOverloaded, ErrFenced, ErrClosed (nothing was taken),
// ErrOutcomeUnknown; any other says what is wrong with the edit.
func (r *Router) Edit(ctx context.Context, e *regionv1.Edit) (*regionv1.Outcome, error) {
	if err := validEdit(e); err != nil {
		return nil, err
	}
	cmd := &regionv1.Command{Command: &regionv1.Command_Edit{Edit: e}}
	out, err := r.propose(ctx, r.shardOf(e.CartId), cmd, len(e.OpId) > 0)
	if err == nil && out.Code == regionv1.Outcome_CODE_FENCED {
		return nil, ErrFenced
	}
	return out, err
}

// validEdit refuses what must not come into the log: every node would end
// when it applies it, and again at each start.
func validEdit(e *regionv1.Edit) error {
	var op crdt.OpID
	if n := len(e.GetOpId()); n != 0 && n != len(op) {
		return fmt.Errorf("edit of cart %q: op id of %d bytes; give %d, or none", e.GetCartId(), n, len(op))
	}
	for i, c := range e.GetChanges() {
		switch c.GetKind() {
		case regionv1.Change_KIND_ADD, regionv1.Change_KIND_SET, regionv1.Change_KIND_REMOVE, regionv1.Change_KIND_CLEAR, regionv1.Change_KIND_SETTING:
		case regionv1.Change_KIND_SAVE, regionv1.Change_KIND_MOVE, regionv1.Change_KIND_DESCRIBE:
		case regionv1.Change_KIND_UNDO, regionv1.Change_KIND_ERASE:
			if len(e.GetChanges()) > 1 {
				return fmt.Errorf("edit of cart %q: change %d is %v, which goes alone", e.GetCartId(), i, c.GetKind())
			}
		case regionv1.Change_KIND_ADD_CODE, regionv1.Change_KIND_DROP_CODE:
			if c.GetFactId() == "" {
				return fmt.Errorf("edit of cart %q: change %d names no code", e.GetCartId(), i)
			}
		case regionv1.Change_KIND_SHARE, regionv1.Change_KIND_UNSHARE:
			if err := shard.CheckShare(c); err != nil {
				return fmt.Errorf("edit of cart %q: change %d: %w", e.GetCartId(), i, err)
			}
		case regionv1.Change_KIND_UNSPECIFIED:
			return fmt.Errorf("edit of cart %q: change %d has no kind", e.GetCartId(), i)
		default:
			return fmt.Errorf("edit of cart %q: change %d is of kind %d, which this version does not know; install the newer one", e.GetCartId(), i, c.GetKind())
		}
	}
	return nil
}

// Read returns the cart. Without a token it is what the shard's leader has;
// with one, anything in the region that covers it. When no leader is found
// in time, or what the token names cannot be had, the view is marked stale.
// Errors: ErrNoQuorum when nothing in the region could answer, or when a
// strong read finds no leader; ErrOverloaded, ErrClosed; ctx's when the caller
// left.
func (r *Router) Read(ctx context.Context, cartID string, o ReadOptions) (View, error) {
	id := r.shardOf(cartID)
	if o.HasToken && !o.Strong {
		if v, ok := r.nearby(ctx, id, cartID); ok && v.covers(o.Context) {
			return v, nil
		}
	}
	req := &regionv1.ReadRequest{Shard: id, CartId: cartID, Strong: o.Strong}
	v, err := r.readLeader(ctx, req, o.Strong)
	if err != nil {
		if o.Strong || ctx.Err() != nil || errors.Is(err, ErrFenced) {
			return View{}, err
		}
		if v, err = r.readStale(ctx, id, cartID, err); err != nil {
			return View{}, err
		}
	}
	if !o.HasToken || v.covers(o.Context) {
		return v, nil
	}
	return r.catchUp(ctx, id, v, o.Context)
}

func (v View) covers(cc crdt.CausalContext) bool { return v.State.Cart.Context.Covers(cc) }

// nearby returns what this node or the cache has of a cart.
func (r *Router) nearby(ctx context.Context, id uint32, cartID string) (View, bool) {
	if s := r.here(id); s != nil {
		rec, err := s.Local(cartID)
		if rec != nil {
			return view(cartID, rec, r.Incarnation()), true
		}
		if errors.Is(err, shard.ErrFenced) {
			return View{}, false
		}
		// A node that is being filled may lack what the cache has.
		if v, ok := r.cached(ctx, cartID); ok || err != nil {
			return v, ok
		}
		return view(cartID, nil, r.Incarnation()), true
	}
	return r.cached(ctx, cartID)
}

// cached returns what the cache has of a cart. A value that is damaged, or
// another cart's, is as if it were not there: the digest is over the cart's
// id and content.
func (r *Router) cached(ctx context.Context, cartID string) (View, bool) {
	e, ok := r.cfg.Cache.Load(ctx, cartID)
	if !ok || len(e.Data) == 0 {
		return View{}, false
	}
	rec, err := store.DecodeRecord(e.Data)
	if err != nil || rec.Index != e.Version.Index || rec.Digest != store.DigestOf(cartID, rec.State.Cart.Encode(nil)) {
		return View{}, false
	}
	return view(cartID, rec, e.Version.Incarnation), true
}

// view makes a View of a record; nil is a cart that is not there.
func view(cartID string, rec *store.Record, incarnation uint32) View {
	v := View{CartID: cartID, Digest: Digest(shard.DigestOfRecord(cartID, rec)), State: crdt.State{Cart: &crdt.Cart{}}}
	v.Version = cache.Version{Incarnation: incarnation}
	if rec != nil {
		v.State, v.Version.Index, v.Count = rec.State, rec.Index, rec.Count
	}
	return v
}

// readLeader asks the leader, for StaleAfter or, when wait is set, until ctx
// ends.
func (r *Router) readLeader(ctx context.Context, req *regionv1.ReadRequest, wait bool) (View, error) {
	if s := r.here(req.Shard); s != nil && s.Leads() {
		if rec, err := s.Read(ctx, req.CartId, req.Strong); err == nil {
			return view(req.CartId, rec, r.Incarnation()), nil
		}
	}
	payload, err := proto.Marshal(req)
	if err != nil {
		return View{}, fmt.Errorf("encode read: %w", err)
	}
	limited := ctx
	if !wait {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, r.cfg.StaleAfter)
		defer cancel()
	}
	b, err := r.atLeader(limited, request{shard: req.Shard, kind: kindRead, payload: payload, harmless: true})
	if err != nil {
		return View{}, unread(ctx, err)
	}
	return decodeRead(req.CartId, b)
}

// unread is the error of a read: one that may have been carried out is no
// unknown outcome, and a caller that left is no fault of the shard.
func unread(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("read: %w", ctx.Err())
	case errors.Is(err, ErrOutcomeUnknown):
		return fmt.Errorf("%w: no answer from a leader", ErrNoQuorum)
	}
	return err
}

func decodeRead(cartID string, b []byte) (View, error) {
	var resp regionv1.ReadResponse
	if err := proto.Unmarshal(b, &resp); err != nil {
		return View{}, fmt.Errorf("decode answer: %w", err)
	}
	var rec *store.Record
	if len(resp.Record) > 0 {
		var err error
		if rec, err = store.DecodeRecord(resp.Record); err != nil {
			return View{}, fmt.Errorf("decode answer: %w", err)
		}
	}
	return view(cartID, rec, resp.Incarnation), nil
}

// readStale answers while the shard has no leader: with the cart as this
// node, the cache or else another node has it. A node without the cart may be
// one that is being filled, so the others are asked too.
func (r *Router) readStale(ctx context.Context, id uint32, cartID string, cause error) (View, error) {
	best, found := r.nearby(ctx, id, cartID)
	if !found || best.Version.Index == 0 {
		payload, err := proto.Marshal(&regionv1.ReadRequest{Shard: id, CartId: cartID, Any: true})
		if err != nil {
			return View{}, fmt.Errorf("encode read: %w", err)
		}
		for _, node := range r.Placement(id) {
			attempt, cancel := context.WithTimeout(ctx, r.cfg.StaleAfter/2)
			b, err := r.mux.Call(attempt, node, kindRead, payload)
			cancel()
			if err != nil {
				continue
			}
			v, err := decodeRead(cartID, b)
			if err != nil {
				continue
			}
			best, found = v, true
			if v.Version.Index > 0 {
				break
			}
		}
	}
	if !found {
		return View{}, cause
	}
	best.Stale = true
	return best, nil
}

// newer returns the newer of two views; of equal ones the second, which was
// read later.
func newer(a, b View) View {
	if b.Version.Compare(a.Version) < 0 {
		return a
	}
	return b
}

// catchUp waits for what a token names, then fetches the cart from the
// regions that wrote it; what cannot be had leaves the view marked stale.
// Each step is bounded, and all together by three quarters of the time that
// the caller still waits: an answer that comes too late makes a region that
// lags look like one that is down.
func (r *Router) catchUp(ctx context.Context, id uint32, have View, want crdt.CausalContext) (View, error) {
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)*3/4)
		defer cancel()
	}
	wait := r.cfg.CoverWait
	if r.cfg.Fetcher == nil {
		wait += r.cfg.Attempt // for the node that fetches
	}
	waiting, cancel := context.WithTimeout(ctx, wait)
	v, err := r.awaitCover(waiting, id, have.CartID, want)
	cancel()
	if err == nil {
		have = newer(have, v)
	}
	if r.cfg.Fetcher != nil {
		asked := make(map[crdt.RegionID]bool) // a region is several replicas, with its guests
		for _, rep := range want.Replicas() {
			if rep.Region == r.cfg.Region || asked[rep.Region] || have.covers(want) || have.State.Cart.Context.Max(rep) >= want.Max(rep) {
				continue
			}
			asked[rep.Region] = true
			if err := r.fetch(ctx, rep.Region, have.CartID); err != nil {
				r.log.Debug("cart not fetched", slog.Uint64("region", uint64(rep.Region)), slog.Any("err", err))
				continue
			}
			if v, err := r.readLeader(ctx, &regionv1.ReadRequest{Shard: id, CartId: have.CartID}, false); err == nil {
				have = newer(have, v)
			}
		}
	}
	have.Stale = have.Stale || !have.covers(want)
	return have, nil
}

// fetch joins another region's state of a cart, if it has one.
func (r *Router) fetch(ctx context.Context, from crdt.RegionID, cartID string) error {
	// As of before: what it had then may be refused when it comes here.
	incarnation := r.Membership().Of(uint32(from)).GetIncarnation()
	asking, cancel := context.WithTimeout(ctx, r.cfg.Attempt)
	state, err := r.cfg.Fetcher.Fetch(asking, from, cartID)
	cancel()
	if err != nil || len(state) == 0 {
		return err
	}
	joining, cancel := context.WithTimeout(ctx, r.cfg.Attempt)
	defer cancel()
	return r.JoinCart(joining, cartID, state, from, incarnation)
}

// awaitCover returns the cart once it covers a context.
func (r *Router) awaitCover(ctx context.Context, id uint32, cartID string, want crdt.CausalContext) (View, error) {
	if s := r.here(id); s != nil {
		rec, err := r.waitLocal(ctx, s, cartID, covering(want))
		if err != nil {
			return View{}, err
		}
		return view(cartID, rec, r.Incarnation()), nil
	}
	return r.await(ctx, &regionv1.ReadRequest{
		Shard: id, CartId: cartID, Any: true, Covers: want.Encode(nil), Fetch: r.cfg.Fetcher == nil,
	})
}

// waitRound bounds one wait at another node, so that a leader that is gone
// without a word is noticed.
const waitRound = 20 * time.Second

// Wait returns once the cart's digest differs from seen, with the cart as the
// shard's leader has it; or it returns ctx's error, or ErrClosed.
func (r *Router) Wait(ctx context.Context, cartID string, seen Digest) (View, error) {
	id := r.shardOf(cartID)
	for {
		if err := r.awaitChange(ctx, id, cartID, seen); err != nil {
			return View{}, err
		}
		// A follower that is behind differs as well. What the leader has is
		// never older than what was seen.
		v, err := r.readLeader(ctx, &regionv1.ReadRequest{Shard: id, CartId: cartID}, false)
		if err == nil && v.Digest != seen {
			return v, nil
		}
		if errors.Is(err, ErrClosed) {
			return View{}, err
		}
		if !sleep(ctx, 20*time.Millisecond) {
			return View{}, ctx.Err()
		}
	}
}

// awaitChange returns once a node that holds the cart has it with another
// digest than seen.
func (r *Router) awaitChange(ctx context.Context, id uint32, cartID string, seen Digest) error {
	if s := r.here(id); s != nil {
		_, err := r.waitLocal(ctx, s, cartID, differing(cartID, seen))
		return err
	}
	_, err := r.await(ctx, &regionv1.ReadRequest{Shard: id, CartId: cartID, Any: true, Differs: seen[:]})
	return err
}

// await has a node that holds the shard answer once the cart is what the
// request waits for: the leader, if it is known, since it is the first to
// have it.
func (r *Router) await(ctx context.Context, req *regionv1.ReadRequest) (View, error) {
	payload, err := proto.Marshal(req)
	if err != nil {
		return View{}, fmt.Errorf("encode read: %w", err)
	}
	kind := kindRead
	if len(req.Differs) > 0 {
		kind = kindWait
	}
	place := r.Placement(req.Shard)
	node := r.leader(req.Shard)
	for next := rand.IntN(len(place)); ; next++ {
		if node == "" {
			node = place[next%len(place)]
		}
		round, cancel := context.WithTimeout(ctx, waitRound)
		b, err := r.mux.Call(round, node, kind, payload)
		timedOut := round.Err() != nil
		cancel()
		switch {
		case err == nil:
			return decodeRead(req.CartId, b)
		case ctx.Err() != nil:
			return View{}, ctx.Err()
		case r.isClosed() || errors.Is(err, link.ErrClosed):
			return View{}, ErrClosed
		}
		node = ""
		if !timedOut && !sleep(ctx, 50*time.Millisecond) {
			return View{}, ctx.Err()
		}
	}
}

func differing(cartID string, seen Digest) func(*store.Record) bool {
	return func(rec *store.Record) bool { return Digest(shard.DigestOfRecord(cartID, rec)) != seen }
}

func covering(want crdt.CausalContext) func(*store.Record) bool {
	return func(rec *store.Record) bool { return rec != nil && rec.State.Cart.Context.Covers(want) }
}

// waitLocal waits until a record on this node is what is wanted.
func (r *Router) waitLocal(ctx context.Context, s *shard.Shard, cartID string, ok func(*store.Record) bool) (*store.Record, error) {
	for {
		changed, done := s.Wait(cartID) // before the read: no change is missed
		rec, err := s.Local(cartID)
		if err != nil || ok(rec) {
			done()
			return rec, err
		}
		select {
		case <-changed:
			done()
		case <-r.closed:
			done()
			return nil, ErrClosed
		case <-ctx.Done():
			done()
			return nil, ctx.Err()
		}
	}
}
