package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/samecart/samecart/proto/membership/v1"
)

var (
	errLost           = errors.New("lost")
	errRefusedByShard = errors.New("not joining")
)

// world is some regions and a network between them that loses calls and answers,
// and is cut.
type world struct {
	t    *testing.T
	rand *rand.Rand

	mu      sync.Mutex // guards what follows
	loss    float64
	cut     map[[2]int]bool
	docs    map[uint64]*pb.Membership // by epoch: all that anybody took in
	regions []*fake
}

// fake is a region without carts: it stands for the region's log, which takes one
// command after the other and forgets nothing.
type fake struct {
	w      *world
	id     int
	keeper *Keeper

	mu       sync.Mutex // guards what follows
	shards   []Standing
	acceptor pb.Acceptor
	reissued uint32 // the incarnation under which it wrote anew
	reborn   time.Time
	down     bool
}

func newWorld(t *testing.T, n int, seed uint64) *world {
	w := &world{t: t, rand: rand.New(rand.NewPCG(seed, 1)), cut: make(map[[2]int]bool), docs: make(map[uint64]*pb.Membership)}
	names := make(map[string]uint32)
	for i := range n {
		names[name(i)] = uint32(i + 1)
	}
	for i := range n {
		f := &fake{w: w, id: i, shards: make([]Standing, 2)}
		for s := range f.shards {
			f.shards[s].Incarnation = 1
		}
		f.keeper = New(Config{
			Self: uint32(i + 1), Name: name(i), First: First(names), Every: time.Second,
			Peers: func(*pb.Membership) map[uint32]Peer {
				out := make(map[uint32]Peer)
				for j := range n {
					if j != i {
						out[uint32(j+1)] = remote{w, i, j}
					}
				}
				return out
			},
		}, f, slog.New(slog.DiscardHandler))
		w.regions = append(w.regions, f)
	}
	return w
}

func name(i int) string { return fmt.Sprint("region-", i+1) }

// way takes the time that a call takes, and says whether it arrives.
func (w *world) way(ctx context.Context, from, to int) error {
	w.mu.Lock()
	lost := w.cut[[2]int{from, to}] || w.rand.Float64() < w.loss
	delay := time.Duration(1+w.rand.IntN(80)) * time.Millisecond
	w.mu.Unlock()
	if lost {
		<-ctx.Done() // nobody says so
		return errLost
	}
	select {
	case <-time.After(delay):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// remote is one region as another reaches it.
type remote struct {
	w        *world
	from, to int
}

func call[Q, A proto.Message](ctx context.Context, r remote, q Q, at func(context.Context, Q) (A, error)) (a A, err error) {
	if err := r.w.way(ctx, r.from, r.to); err != nil {
		return a, err
	}
	far := r.w.regions[r.to]
	if far.isDown() {
		return a, errLost
	}
	if a, err = at(ctx, proto.CloneOf(q)); err != nil {
		return a, err
	}
	a = proto.CloneOf(a)
	return a, r.w.way(ctx, r.to, r.from)
}

func (r remote) Current(ctx context.Context, q *pb.CurrentRequest) (*pb.CurrentResponse, error) {
	return call(ctx, r, q, r.w.regions[r.to].keeper.Answer)
}

func (r remote) Prepare(ctx context.Context, q *pb.PrepareRequest) (*pb.Vote, error) {
	return call(ctx, r, q, r.w.regions[r.to].Prepare)
}

func (r remote) Accept(ctx context.Context, q *pb.AcceptRequest) (*pb.Vote, error) {
	return call(ctx, r, q, r.w.regions[r.to].Accept)
}

func (f *fake) isDown() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.down
}

func (f *fake) Shards() uint32 { return uint32(len(f.shards)) }

func (f *fake) Standing(_ context.Context, shard uint32) (Standing, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.shards[shard], nil
}

func (f *fake) SetMembership(_ context.Context, shard uint32, m *pb.Membership) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !m.Newer(f.shards[shard].Membership) {
		return nil
	}
	f.shards[shard].Membership = m
	if shard == 0 {
		f.acceptor = pb.Acceptor{}
	}
	f.w.took(m)
	return nil
}

// took checks that no epoch has two documents.
func (w *world) took(m *pb.Membership) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if other := w.docs[m.Epoch]; other != nil && !proto.Equal(other, m) && m.ForcedBy == 0 && other.ForcedBy == 0 {
		w.t.Errorf("two documents of epoch %d:\n%v\n%v", m.Epoch, other, m)
	}
	w.docs[m.Epoch] = m
}

func (f *fake) Prepare(_ context.Context, r *pb.PrepareRequest) (*pb.Vote, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return proto.CloneOf(f.acceptor.Prepare(f.shards[0].Membership, r)), nil
}

func (f *fake) Accept(_ context.Context, r *pb.AcceptRequest) (*pb.Vote, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return proto.CloneOf(f.acceptor.Accept(f.shards[0].Membership, r)), nil
}

func (f *fake) Reincarnate(_ context.Context, shard, incarnation uint32) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shards[shard].Membership.Of(uint32(f.id+1)).State != pb.State_STATE_JOINING {
		return errRefusedByShard
	}
	if incarnation > f.shards[shard].Incarnation {
		f.shards[shard].Incarnation = incarnation
		f.reborn = time.Now()
	}
	return nil
}

// Reissue is refused, as by a shard, when the region is not joining any more.
func (f *fake) Reissue(_ context.Context, shard uint32) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.shards[shard]
	m := s.Membership.Of(uint32(f.id + 1))
	if m.State != pb.State_STATE_JOINING {
		return errRefusedByShard
	}
	if m.Incarnation != s.Incarnation {
		f.w.t.Errorf("%s writes anew under %d as %v", name(f.id), s.Incarnation, m)
	}
	f.reissued = s.Incarnation
	return nil
}

func (f *fake) Sent(context.Context, []string) (bool, error) { return true, nil }

// Filled knows of one repair, two seconds ago.
func (f *fake) Filled(_ context.Context, region string, within time.Duration) (bool, error) {
	const ago = 2 * time.Second
	for _, o := range f.w.regions {
		if name(o.id) == region {
			o.mu.Lock()
			early := time.Since(o.reborn) < ago
			o.mu.Unlock()
			if early && within > ago {
				f.w.t.Errorf("%s asks for a repair of before it began again", region)
			}
		}
	}
	return within > ago, nil
}

// doc is what a region has taken in.
func (f *fake) doc() *pb.Membership {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.shards[0].Membership
}

func (w *world) run(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, f := range w.regions {
		running.Go(func() {
			if err := f.keeper.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	return func() { cancel(); running.Wait() }
}

// agree waits until all regions have one document in which every region is
// settled, and returns it.
func (w *world) agree(t *testing.T, within time.Duration) *pb.Membership {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(100 * time.Millisecond) {
		first := w.regions[0].doc()
		settled := first != nil && !slices.ContainsFunc(w.regions, func(f *fake) bool { return !proto.Equal(f.doc(), first) }) &&
			!slices.ContainsFunc(first.Members, func(m *pb.Member) bool {
				return m.State == pb.State_STATE_FENCED || m.State == pb.State_STATE_JOINING || m.State == pb.State_STATE_DRAINING
			})
		if settled {
			return first
		}
		if time.Now().After(deadline) {
			var docs []any
			for _, f := range w.regions {
				docs = append(docs, f.doc())
			}
			t.Fatalf("no agreement after %v: %v", within, docs)
		}
	}
}

// Whatever operators ask for, wherever, at the same time, over any network: no epoch
// has two documents, and when the network is whole again all regions have one, and
// those that were fenced are back.
func TestRegionsAgree(t *testing.T) {
	for seed := range uint64(400) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 2 + int(seed%4)
				w := newWorld(t, n, seed)
				stop := w.run(t)
				defer stop()
				w.mu.Lock()
				w.loss = w.rand.Float64() * 0.3
				w.mu.Unlock()
				asks := []func(string) Change{Drain, Fence, Remove, func(s string) Change { return Add(s, Newcomer{}) }}
				type order struct {
					at     *fake
					change Change
				}
				var orders []order
				w.mu.Lock() // the regions draw as well
				for range 24 {
					orders = append(orders, order{w.regions[w.rand.IntN(n)], asks[w.rand.IntN(len(asks))](name(w.rand.IntN(n)))})
				}
				w.mu.Unlock()
				var asking sync.WaitGroup
				for i, o := range orders {
					asking.Go(func() {
						time.Sleep(time.Duration(i/4) * 700 * time.Millisecond) // some at once
						ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
						defer cancel()
						_, err := o.at.keeper.Change(ctx, o.change)
						if err != nil && !errors.Is(err, ErrRefused) && !errors.Is(err, ErrNoMajority) && ctx.Err() == nil {
							t.Errorf("change: %v", err)
						}
					})
				}
				for range 10 {
					time.Sleep(500 * time.Millisecond)
					w.mu.Lock()
					a, b := w.rand.IntN(n), w.rand.IntN(n)
					w.cut[[2]int{a, b}] = w.rand.IntN(2) == 0 // one way
					w.mu.Unlock()
				}
				asking.Wait()
				w.mu.Lock()
				clear(w.cut)
				w.loss = 0
				w.mu.Unlock()
				now := w.agree(t, 2*time.Minute)
				for _, m := range now.Members {
					f := w.regions[m.RegionId-1]
					f.mu.Lock()
					if m.State == pb.State_STATE_ACTIVE && m.Incarnation > 1 && f.reissued != m.Incarnation {
						t.Errorf("%s came back as %d and wrote anew under %d", m.Region, m.Incarnation, f.reissued)
					}
					f.mu.Unlock()
				}
			})
		})
	}
}

// The life of a region, step by step.
func TestLifeOfARegion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 1)
		stop := w.run(t)
		defer stop()
		w.agree(t, 10*time.Second)
		at := w.regions[0].keeper
		do := func(c Change) *pb.Membership {
			t.Helper()
			m, err := at.Change(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		refused := func(c Change, why string) {
			t.Helper()
			if m, err := at.Change(t.Context(), c); !errors.Is(err, ErrRefused) {
				t.Errorf("%s: %v, %v", why, m, err)
			}
		}
		third := func() *pb.Member { return w.agree(t, time.Minute).Of(3) }

		refused(Remove(name(2)), "removed while it is active")
		refused(Drain("nowhere"), "unknown region")
		refused(Add("new", Newcomer{}), "new region without an id")
		refused(Add("new", Newcomer{ID: 2}), "id of another")
		do(Drain(name(2)))
		if m := third(); m.State != pb.State_STATE_DRAINED {
			t.Fatalf("drained: %v", m)
		}
		do(Add(name(2), Newcomer{}))
		if m := third(); m.State != pb.State_STATE_ACTIVE || m.Incarnation != 1 {
			t.Fatalf("back from drained: %v", m)
		}
		// Dead: the others go on, and it stays fenced until it is back.
		dead := w.regions[2]
		dead.mu.Lock()
		dead.down = true
		dead.mu.Unlock()
		w.mu.Lock()
		for i := range 2 {
			w.cut[[2]int{2, i}] = true
		}
		w.mu.Unlock()
		do(Fence(name(2)))
		time.Sleep(time.Minute)
		if m := w.regions[1].doc().Of(3); m.State != pb.State_STATE_FENCED {
			t.Fatalf("dead region: %v", m)
		}
		dead.mu.Lock()
		dead.down = false
		dead.mu.Unlock()
		w.mu.Lock()
		clear(w.cut)
		w.mu.Unlock()
		if m := third(); m.State != pb.State_STATE_ACTIVE || m.Incarnation != 2 || dead.reissued != 2 {
			t.Fatalf("back from fenced: %v, wrote anew under %d", m, dead.reissued)
		}
		do(Fence(name(2)))
		do(Remove(name(2)))
		if m := third(); m.State != pb.State_STATE_REMOVED {
			t.Fatalf("removed: %v", m)
		}
		time.Sleep(time.Minute)
		if m := third(); m.State != pb.State_STATE_REMOVED {
			t.Fatalf("a removed region is back: %v", m)
		}
		do(Add(name(2), Newcomer{}))
		if m := third(); m.State != pb.State_STATE_ACTIVE || m.Incarnation != 3 {
			t.Fatalf("added again: %v", m)
		}
		do(Drain(name(1)))
		w.agree(t, time.Minute)
		do(Drain(name(2)))
		w.agree(t, time.Minute)
		refused(Drain(name(0)), "the last that takes edits")
	})
}

// A fenced region that wrote, or has carts of before, comes in under an incarnation
// that is above all it had, also when the document never named that: else it would
// join its old carts.
func TestAFencedRegionComesInAsAnother(t *testing.T) {
	for _, c := range []struct {
		named  uint32 // by the document
		shards []Standing
		want   uint32
	}{
		{1, []Standing{{Incarnation: 1}, {Incarnation: 1}}, 2},
		{0, []Standing{{Incarnation: 1}, {Incarnation: 1}}, 2},
		{0, []Standing{{Incarnation: 1, Empty: true}, {Incarnation: 1}}, 2},
		{2, []Standing{{Incarnation: 4}, {Incarnation: 3}}, 5},
		{0, []Standing{{Incarnation: 1, Empty: true}, {Incarnation: 1, Empty: true}}, 1},
	} {
		now := &pb.Membership{Epoch: 5, Members: []*pb.Member{
			{RegionId: 1, Region: name(0), State: pb.State_STATE_ACTIVE, Incarnation: 1},
			{RegionId: 2, Region: name(1), State: pb.State_STATE_FENCED, Incarnation: c.named},
		}}
		k := New(Config{Self: 2, Name: name(1)}, nil, slog.New(slog.DiscardHandler))
		change, err := k.duty(t.Context(), now, c.shards)
		if err != nil {
			t.Fatal(err)
		}
		next, err := change(now)
		if m := next.Of(2); err != nil || m.GetState() != pb.State_STATE_JOINING || m.Incarnation != c.want {
			t.Errorf("named with %d, shards %+v: comes in as %v, %v, want %d", c.named, c.shards, m, err, c.want)
		}
	}
}

// Without a majority nothing is decided. Of two regions one may be forced, and when
// both are, one of them comes back as a fenced one does.
func TestForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, 1)
		stop := w.run(t)
		defer stop()
		w.agree(t, 10*time.Second)
		w.mu.Lock()
		w.cut[[2]int{0, 1}], w.cut[[2]int{1, 0}] = true, true
		w.mu.Unlock()
		if _, err := w.regions[0].keeper.Change(t.Context(), Fence(name(1))); !errors.Is(err, ErrNoMajority) {
			t.Fatalf("decided without a majority: %v", err)
		}
		for i := range 2 {
			if m, err := w.regions[i].keeper.Force(t.Context(), name(1-i)); err != nil || m.Of(uint32(2-i)).State != pb.State_STATE_FENCED {
				t.Fatalf("forced: %v, %v", m, err)
			}
			if _, err := w.regions[i].keeper.Force(t.Context(), name(i)); !errors.Is(err, ErrRefused) {
				t.Errorf("a region fences itself: %v", err)
			}
		}
		w.mu.Lock()
		clear(w.cut)
		w.mu.Unlock()
		m := w.agree(t, time.Minute)
		if a, b := m.Of(1), m.Of(2); a.State != pb.State_STATE_ACTIVE || a.Incarnation != 1 || b.State != pb.State_STATE_ACTIVE || b.Incarnation != 2 {
			t.Fatalf("after both were forced: %v", m)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 1)
		stop := w.run(t)
		defer stop()
		w.agree(t, 10*time.Second)
		if _, err := w.regions[0].keeper.Force(t.Context(), name(1)); !errors.Is(err, ErrRefused) {
			t.Errorf("of three, one is forced: %v", err)
		}
	})
}
