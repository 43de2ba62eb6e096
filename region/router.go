package region

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
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
)

// Codes of errors that cross the link.
const (
	codeNotLeader uint16 = 1 + iota
	codeOverloaded
	codeUnknown
	codeNotHere
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
	Incarnation uint32
	Nodes       []string // all of the region, in the order that places shards
	Shards      uint32
	Cache       cache.Cache
	Fetcher     Fetcher // nil: tokens are waited for only
	Log         *slog.Logger

	// StaleAfter is how long a read looks for a leader before it is answered
	// with what a node or the cache has, marked stale.
	StaleAfter time.Duration
	// CoverWait is how long a read waits for the rows its token names before
	// it fetches the cart from the region that wrote them.
	CoverWait time.Duration
	// Attempt bounds one node's answer; after it another is asked.
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

	mu      sync.RWMutex // guards what follows
	local   map[uint32]*shard.Shard
	leaders map[uint32]string
}

// NewRouter returns a router over the links of mux.
func NewRouter(cfg RouterConfig, mux *link.Mux) *Router {
	return &Router{
		cfg: cfg, slots: shard.NewSlots(cfg.Shards), mux: mux, log: cfg.Log,
		local: make(map[uint32]*shard.Shard), leaders: make(map[uint32]string),
	}
}

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

// atLeader makes a call to the node that leads a shard, looking for it until
// ctx ends. A call that may have been carried out is repeated only when
// that is harmless.
func (r *Router) atLeader(ctx context.Context, id uint32, kind link.Kind, payload []byte, harmless bool) ([]byte, error) {
	place := r.Placement(id)
	next := rand.IntN(len(place))
	maybe := false // a node may have carried it out
	var last error
	for try := 0; ; try++ {
		node := r.leader(id)
		if node == "" {
			node = place[next%len(place)]
			next++
		}
		attempt, cancel := context.WithTimeout(ctx, r.cfg.Attempt)
		out, err := r.mux.Call(attempt, node, kind, payload)
		timedOut := attempt.Err() != nil
		cancel()
		if err == nil {
			r.setLeader(id, node)
			return out, nil
		}
		last = err
		pause := 10 * time.Millisecond
		var refused *link.Error
		switch {
		case errors.As(err, &refused) && refused.Code == codeNotLeader:
			hint := string(refused.Detail)
			if hint == node {
				hint = ""
			}
			r.setLeader(id, hint)
			if hint != "" && try < 3 {
				pause = 0
			}
		case errors.As(err, &refused) && refused.Code == codeOverloaded, errors.Is(err, link.ErrOverloaded):
			return nil, ErrOverloaded
		case errors.As(err, &refused) && refused.Code == codeNotHere,
			errors.Is(err, link.ErrUnreachable), errors.Is(err, link.ErrUnknownKind):
			r.setLeader(id, "")
		case errors.As(err, &refused) && refused.Code == 0:
			return nil, fmt.Errorf("node %s: %w", node, err)
		default: // the connection or the answer was lost, or the node said so
			maybe = true
			r.setLeader(id, "")
			if !harmless {
				return nil, fmt.Errorf("%w: node %s: %w", ErrOutcomeUnknown, node, err)
			}
		}
		if timedOut {
			r.setLeader(id, "")
		}
		if !sleep(ctx, pause) {
			if maybe {
				return nil, fmt.Errorf("%w: %w", ErrOutcomeUnknown, last)
			}
			return nil, fmt.Errorf("%w: shard %d: %w", ErrNoQuorum, id, last)
		}
	}
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

// propose commits a command in its shard.
func (r *Router) propose(ctx context.Context, id uint32, cmd *regionv1.Command, harmless bool) (*regionv1.Outcome, error) {
	if s := r.here(id); s != nil && s.Leads() {
		out, err := s.Propose(ctx, cmd)
		switch {
		case err == nil:
			return out, nil
		case errors.Is(err, shard.ErrOverloaded):
			return nil, ErrOverloaded
		case errors.Is(err, shard.ErrNotLeader): // look for the leader
		case errors.Is(err, shard.ErrOutcomeUnknown) && harmless && ctx.Err() == nil: // the same
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
	b, err := r.atLeader(ctx, id, kindPropose, payload, harmless)
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
// outcome. Errors: ErrNoQuorum, ErrOverloaded (nothing was taken),
// ErrOutcomeUnknown.
func (r *Router) Edit(ctx context.Context, e *regionv1.Edit) (*regionv1.Outcome, error) {
	cmd := &regionv1.Command{Command: &regionv1.Command_Edit{Edit: e}}
	return r.propose(ctx, r.shardOf(e.CartId), cmd, len(e.OpId) > 0)
}

// Read returns the cart. Without a token it is what the shard's leader has;
// with one, anything in the region that covers it. When no leader is found
// in time, or what the token names cannot be had, the view is marked stale.
// Errors: ErrNoQuorum when nothing in the region could answer, or when a
// strong read finds no leader.
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
		if o.Strong || ctx.Err() != nil {
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
		if rec, err := s.Local(cartID); err == nil {
			return r.view(cartID, rec), true
		}
	}
	e, ok := r.cfg.Cache.Load(ctx, cartID)
	if !ok || len(e.Data) == 0 {
		return View{}, false
	}
	rec, err := store.DecodeRecord(e.Data)
	if err != nil {
		return View{}, false // a foreign value under our key: as if it were not there
	}
	return r.view(cartID, rec), true
}

func (r *Router) view(cartID string, rec *store.Record) View {
	v := View{CartID: cartID, Digest: Digest(shard.DigestOfRecord(cartID, rec)), State: crdt.State{Cart: &crdt.Cart{}}}
	v.Version = cache.Version{Incarnation: r.cfg.Incarnation}
	if rec != nil {
		v.State, v.Version.Index = rec.State, rec.Index
	}
	return v
}

func (r *Router) readLeader(ctx context.Context, req *regionv1.ReadRequest, wait bool) (View, error) {
	if s := r.here(req.Shard); s != nil && s.Leads() && len(req.Covers) == 0 {
		if rec, err := s.Read(ctx, req.CartId, req.Strong); err == nil {
			return r.view(req.CartId, rec), nil
		}
	}
	payload, err := proto.Marshal(req)
	if err != nil {
		return View{}, err
	}
	if !wait {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.cfg.StaleAfter)
		defer cancel()
	}
	b, err := r.atLeader(ctx, req.Shard, kindRead, payload, true)
	if err != nil {
		return View{}, noQuorum(err)
	}
	return r.decodeRead(req.CartId, b)
}

// noQuorum: a read that may have been carried out is no unknown outcome.
func noQuorum(err error) error {
	if errors.Is(err, ErrOutcomeUnknown) {
		return fmt.Errorf("%w: no answer from a leader", ErrNoQuorum)
	}
	return err
}

func (r *Router) decodeRead(cartID string, b []byte) (View, error) {
	var resp regionv1.ReadResponse
	if err := proto.Unmarshal(b, &resp); err != nil {
		return View{}, fmt.Errorf("decode answer: %w", err)
	}
	var rec *store.Record
	if len(resp.Record) > 0 {
		var err error
		if rec, err = store.DecodeRecord(resp.Record); err != nil {
			return View{}, err
		}
	}
	return r.view(cartID, rec), nil
}

// readStale answers while the shard has no leader.
func (r *Router) readStale(ctx context.Context, id uint32, cartID string, cause error) (View, error) {
	if v, ok := r.nearby(ctx, id, cartID); ok {
		v.Stale = true
		return v, nil
	}
	payload, err := proto.Marshal(&regionv1.ReadRequest{Shard: id, CartId: cartID, Any: true})
	if err != nil {
		return View{}, err
	}
	for _, node := range r.Placement(id) {
		attempt, cancel := context.WithTimeout(ctx, r.cfg.StaleAfter/2)
		b, err := r.mux.Call(attempt, node, kindRead, payload)
		cancel()
		if err != nil {
			continue
		}
		v, err := r.decodeRead(cartID, b)
		if err != nil {
			return View{}, err
		}
		v.Stale = true
		return v, nil
	}
	return View{}, cause
}

// catchUp waits for what a token names, then fetches the cart from the
// regions that wrote it; what cannot be had leaves the view marked stale.
func (r *Router) catchUp(ctx context.Context, id uint32, have View, want crdt.CausalContext) (View, error) {
	waiting, cancel := context.WithTimeout(ctx, r.cfg.CoverWait)
	v, err := r.readLeader(waiting, &regionv1.ReadRequest{Shard: id, CartId: have.CartID, Covers: want.Encode(nil)}, true)
	cancel()
	if err == nil {
		have = v
	}
	if have.covers(want) {
		return have, nil
	}
	if r.cfg.Fetcher != nil {
		for _, rep := range want.Replicas() {
			if rep.Region == r.cfg.Region || have.State.Cart.Context.Max(rep) >= want.Max(rep) {
				continue
			}
			state, err := r.cfg.Fetcher.Fetch(ctx, rep.Region, have.CartID)
			if err != nil || len(state) == 0 {
				continue
			}
			if err := r.JoinCart(ctx, have.CartID, state); err != nil {
				continue
			}
			if v, err := r.readLeader(ctx, &regionv1.ReadRequest{Shard: id, CartId: have.CartID}, false); err == nil {
				have = v
			}
		}
	}
	have.Stale = have.Stale || !have.covers(want)
	return have, nil
}

// waitRound bounds one wait at another node, so that a leader that is gone
// without a word is noticed.
const waitRound = 20 * time.Second

// Wait returns once the cart's digest differs from seen, or ctx ends.
func (r *Router) Wait(ctx context.Context, cartID string, seen Digest) (View, error) {
	id := r.shardOf(cartID)
	if s := r.here(id); s != nil {
		rec, err := waitLocal(ctx, s, cartID, func(rec *store.Record) bool {
			return Digest(shard.DigestOfRecord(cartID, rec)) != seen
		})
		if err != nil {
			return View{}, err
		}
		return r.view(cartID, rec), nil
	}
	payload, err := proto.Marshal(&regionv1.ReadRequest{Shard: id, CartId: cartID, Any: true, Differs: seen[:]})
	if err != nil {
		return View{}, err
	}
	place := r.Placement(id)
	for next := rand.IntN(len(place)); ; next++ {
		round, cancel := context.WithTimeout(ctx, waitRound)
		b, err := r.mux.Call(round, place[next%len(place)], kindRead, payload)
		timedOut := round.Err() != nil
		cancel()
		if err == nil {
			v, err := r.decodeRead(cartID, b)
			if err != nil || v.Digest != seen {
				return v, err
			}
			continue
		}
		if ctx.Err() != nil {
			return View{}, ctx.Err()
		}
		if !timedOut && !sleep(ctx, 100*time.Millisecond) {
			return View{}, ctx.Err()
		}
	}
}

// waitLocal waits until a record on this node is what is wanted.
func waitLocal(ctx context.Context, s *shard.Shard, cartID string, ok func(*store.Record) bool) (*store.Record, error) {
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
		case <-ctx.Done():
			done()
			return rec, ctx.Err()
		}
	}
}
