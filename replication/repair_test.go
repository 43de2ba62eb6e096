package replication

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/replication/riblt"
)

// direct is a Transport to a modelRegion without a network; a test may put
// something else in the way of a call.
type direct struct {
	to     *modelRegion
	sketch func(key riblt.Key, slots []uint32) (SketchStream, error)
	newer  func([]Seen) ([][]byte, error)
	pages  int // that were listed
	busy   bool
	given  []WholeCart
}

func (d *direct) Digests(ctx context.Context, lo, hi uint32) ([]Digest, error) {
	return d.to.Digests(ctx, lo, hi)
}

func (d *direct) Bucket(ctx context.Context, slot uint32, after string, limit int) ([]CartDigest, bool, error) {
	d.pages++
	return d.to.Bucket(ctx, slot, after, limit)
}

func (d *direct) Sketch(ctx context.Context, key riblt.Key, slots []uint32) (SketchStream, error) {
	if d.sketch != nil {
		return d.sketch(key, slots)
	}
	enc, err := NewSketch(ctx, d.to, key, slots)
	return sketchFake{enc, func() error { return nil }}, err
}

func (d *direct) Newer(ctx context.Context, carts []Seen) ([][]byte, error) {
	if d.newer != nil {
		return d.newer(carts)
	}
	return Newer(ctx, d.to, carts, 1<<20)
}

func (d *direct) Join(_ context.Context, carts []WholeCart, h Hello, cursor uint64) error {
	d.given = append(d.given, carts...)
	d.to.joinCarts(carts)
	d.to.move(h.Stream, cursor)
	return nil
}

func (d *direct) Repairing(context.Context, Hello) (bool, error) { return d.busy, nil }

func (d *direct) Push(context.Context, Hello) (PushStream, error) { return nil, errCut }

// repair repairs slots of from's first shard at the transport's region.
func repair(t *testing.T, from *modelRegion, tr *direct, m Repair) Repaired {
	t.Helper()
	cfg := DefaultConfig()
	cfg.RepairCarts = 4
	r := repairer{
		log: near{from, from.logs[0], func(Message) bool { return true }}, tr: tr, cfg: cfg,
		hello: Hello{Version: Version, Stream: from.logs[0].stream},
		pause: func(context.Context, int) error { return nil },
	}
	return r.run(t.Context(), m)
}

// twoRegions returns two regions of the model that hold n equal carts, all in
// the first shard.
func twoRegions(t *testing.T, n int) (a, b *modelRegion) {
	t.Helper()
	w := newWorld(t, 0)
	t.Cleanup(w.close)
	for i := 0; len(w.regions[0].carts) < n; i++ {
		id := fmt.Sprintf("cart:%d", i)
		if slotOf(id) >= modelSlots/modelShards {
			continue
		}
		c := &crdt.Cart{}
		c = c.Apply(put(c, 3, "tea", 1))
		for _, r := range w.regions[:2] {
			r.set(id, c)
		}
	}
	return w.regions[0], w.regions[1]
}

// put is an add of quantity 1 that also renews the offer, by a region.
func put(c *crdt.Cart, by crdt.RegionID, sku string, at int64) crdt.Delta {
	w := crdt.Writer{Replica: crdt.Replica{Region: by, Incarnation: 1}, At: crdt.TimestampAt(at)}
	return c.Add(w, crdt.LineKey{Seller: "s", SKU: sku}, 1, crdt.Offer{Price: 1, Currency: "USD", AddedAt: w.At}, true)
}

func (r *modelRegion) put(id, sku string) { r.set(id, r.cart(id).Apply(put(r.cart(id), r.id, sku, 2))) }

func wantEqual(t *testing.T, a, b *modelRegion) {
	t.Helper()
	for id, c := range a.carts {
		if !c.Equal(b.cart(id)) {
			t.Errorf("%s differs: %v and %v", id, c.Lines, b.cart(id).Lines)
		}
	}
}

// Carts that were changed on one side go one way, once; those changed on both
// go both ways.
func TestRepairMovesEachCartTheWayItLacks(t *testing.T) {
	a, b := twoRegions(t, 60)
	n := 0
	for id := range a.carts {
		switch n++; {
		case n <= 10:
			a.put(id, "milk")
		case n <= 20:
			b.put(id, "milk")
		case n <= 25:
			a.put(id, "milk")
			b.put(id, "jam")
		}
	}
	tr := &direct{to: b}
	done := repair(t, a, tr, Repair{Cursor: true})
	if done.Err != nil || tr.pages != 0 {
		t.Fatalf("%d pages were listed: %v", tr.pages, done.Err)
	}
	// Those changed on both sides are known there only after b's own repair.
	if done.Carts != 15 || done.Taken != 10 {
		t.Errorf("%d carts were sent, %d taken", done.Carts, done.Taken)
	}
	back := repair(t, b, &direct{to: a}, Repair{Cursor: true})
	if back.Err != nil || back.Carts != 5 || back.Taken != 0 {
		t.Errorf("the way back: %d sent, %d taken: %v", back.Carts, back.Taken, back.Err)
	}
	wantEqual(t, a, b)
	if again := repair(t, a, &direct{to: b}, Repair{}); again.Carts+again.Taken != 0 {
		t.Errorf("equal regions exchanged %d carts", again.Carts+again.Taken)
	}
}

// A region can have seen all of our dots without what one of them took out: the
// dot came inside another region's line. Contexts alone would call it newer.
func TestRepairSendsWhatContextsHide(t *testing.T) {
	a, b := twoRegions(t, 0)
	const id = "cart:0"
	one := &crdt.Cart{}
	first := put(one, a.id, "tea", 1)
	one = one.Apply(first)
	two := one.Apply(put(one, a.id, "tea", 2))
	key := crdt.LineKey{Seller: "s", SKU: "tea"}
	two = two.Apply(two.SetPlacement(crdt.Writer{Replica: crdt.Replica{Region: a.id, Incarnation: 1}, At: 3}, key, crdt.Saved))
	// Every register is renewed: nothing of first is held.
	third := put(two, 3, "tea", 3)
	a.set(id, two)
	b.set(id, one.Apply(third)) // a's later rows are still on their way
	if !b.cart(id).Context.Covers(two.Context) {
		t.Fatal("b has not seen what a wrote: the case is another")
	}
	done := repair(t, a, &direct{to: b}, Repair{Cursor: true})
	if done.Err != nil || done.Taken != 1 || done.Carts != 1 {
		t.Errorf("%d taken, %d sent: %v", done.Taken, done.Carts, done.Err)
	}
	wantEqual(t, a, b)
	if want := two.Apply(third); !a.cart(id).Equal(want) {
		t.Errorf("the cart is %v, want %v", a.cart(id).Lines, want.Lines)
	}
}

// noise is a sketch of nothing: symbols that are at random, so it never decodes,
// and never is what no set has either.
type noise struct {
	rand    *rand.Rand
	symbols int
}

func (s *noise) Next(n int) ([]byte, error) {
	const symbolBytes = 12
	part := riblt.NewEncoder(riblt.Key{}, make([]riblt.Item, 1)).Append(nil, n)
	header := len(part) - n*symbolBytes
	for i := range part[header:] {
		part[header+i] = byte(s.rand.Uint32())
	}
	if s.symbols > 0 {
		part = part[header:]
	}
	if s.symbols += n; s.symbols > 10_000 {
		return nil, errors.New("the sketch is read on and on")
	}
	return part, nil
}

func (*noise) Close() error { return nil }

// Whatever a peer answers, a repair ends: in a list of all carts, once, or in an
// error.
func TestRepairEndsWithABrokenPeer(t *testing.T) {
	sketch := func(s SketchStream, err error) func(riblt.Key, []uint32) (SketchStream, error) {
		return func(riblt.Key, []uint32) (SketchStream, error) { return s, err }
	}
	for name, c := range map[string]struct {
		tr    direct
		fails bool
	}{
		"older":                    {tr: direct{sketch: sketch(nil, ErrUnsupported), newer: func([]Seen) ([][]byte, error) { return nil, ErrUnsupported }}},
		"sketch that never ends":   {tr: direct{sketch: sketch(&noise{rand: rand.New(rand.NewPCG(1, 2))}, nil)}},
		"sketch that is not one":   {tr: direct{sketch: sketch(garbage{}, nil)}},
		"lost":                     {tr: direct{sketch: sketch(nil, errCut)}, fails: true},
		"no answer to carts":       {tr: direct{newer: func([]Seen) ([][]byte, error) { return nil, nil }}, fails: true},
		"more answers than carts":  {tr: direct{newer: func(s []Seen) ([][]byte, error) { return make([][]byte, len(s)+1), nil }}, fails: true},
		"newer carts that are not": {tr: direct{newer: func([]Seen) ([][]byte, error) { return [][]byte{[]byte("no cart")}, nil }}, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := twoRegions(t, 40)
			for id := range a.carts {
				if n := len(id); id[n-1] == '0' {
					a.put(id, "milk")
				}
			}
			tr := c.tr
			tr.to = b
			done := repair(t, a, &tr, Repair{Cursor: true})
			if c.fails {
				if done.Err == nil {
					t.Error("no error")
				}
				return
			}
			if done.Err != nil || tr.pages > 60 {
				t.Errorf("%d pages: %v", tr.pages, done.Err)
			}
			wantEqual(t, a, b)
		})
	}
}

// garbage answers with bytes that are no symbols.
type garbage struct{}

func (garbage) Next(int) ([]byte, error) { return []byte{0xff, 0xff, 0xff, 0xff}, nil }
func (garbage) Close() error             { return nil }

// A peer whose digests never agree, whatever it is given, is not given
// everything again and again.
func TestPeerThatNeverAgreesIsRepairedSeldom(t *testing.T) {
	w := seeded(t, 20)
	w.regions[1].lie = Digest{1}
	for _, l := range w.links {
		if l.log.r == w.regions[1] {
			l.step(Lost{l.gen, errCut})
			l.peer = NewPeer(l.log.stream, l.to.id, w.cfg, w.rng) // never stepped: silent
			l.closeStream()
		}
	}
	l := w.link(0, 1, 0)
	end := w.now.Add(time.Hour)
	for w.now.Before(end) {
		w.now = w.now.Add(time.Second)
		if at := l.peer.Deadline(); !at.IsZero() && !w.now.Before(at) {
			l.step(nil)
		}
		for l.act() {
		}
	}
	if n := l.peer.stats.repairs; n < 2 || n > 8 || l.peer.stats.proofs < 100 {
		t.Errorf("%d repairs in an hour of %d comparisons", n, l.peer.stats.proofs)
	}
}

// The region with the smaller id repairs first, and both are equal then.
func TestOneOfTwoRegionsRepairsFirst(t *testing.T) {
	d := func(n int) Digest { return Digest{byte(n)} }
	round := Proved{Before: []Digest{d(1)}, After: []Digest{d(1)}, Peer: []Digest{d(2)}}
	for rounds, p := range map[int]*Peer{
		2: NewPeer(crdt.Stream{Region: 1}, 2, modelConfig(0), nil),
		3: NewPeer(crdt.Stream{Region: 2}, 1, modelConfig(0), nil),
	} {
		for n := 1; n <= rounds; n++ {
			_, slots := p.proof.round(time.Unix(1, 0), round)
			if (len(slots) > 0) != (n == rounds) {
				t.Errorf("round %d of %d: repairs %v", n, rounds, slots)
			}
		}
	}
}

func TestLagStats(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	var l lags
	if s := l.stats(now, waitingRow{}); s != (LagStats{}) {
		t.Errorf("of nothing: %+v", s)
	}
	l.add(lagSample{now.Add(-2 * time.Minute), time.Hour, "old"})
	for i := range lagSamples {
		l.add(lagSample{now, time.Duration(i) * time.Millisecond, fmt.Sprint(i)})
	}
	s := l.stats(now, waitingRow{})
	if s.P50 != 512*time.Millisecond || s.P99 != 1013*time.Millisecond || s.Worst != 1023*time.Millisecond || s.WorstCart != "1023" {
		t.Errorf("of %d: %+v", lagSamples, s)
	}
	s = l.stats(now, waitingRow{crdt.TimestampAt(now.Add(-time.Minute).UnixMilli()), "waits"})
	if s.Worst != time.Minute || s.WorstCart != "waits" {
		t.Errorf("with one that waits: %+v", s)
	}
	if len(l.ring) != lagSamples {
		t.Errorf("%d samples are kept", len(l.ring))
	}
}

func TestNewSketchIsBounded(t *testing.T) {
	f := &manyCarts{}
	_, err := NewSketch(t.Context(), f, riblt.Key{}, []uint32{0})
	if !errors.Is(err, ErrRefused) || f.listed > SketchItemsMax+2*BucketLimit {
		t.Errorf("listed %d carts: %v", f.listed, err)
	}
}

// manyCarts is a region with a slot that has no end.
type manyCarts struct{ listed int }

func (*manyCarts) Digests(context.Context, uint32, uint32) ([]Digest, error) { return nil, nil }
func (f *manyCarts) Bucket(_ context.Context, _ uint32, _ string, limit int) ([]CartDigest, bool, error) {
	out := make([]CartDigest, limit)
	for i := range out {
		f.listed++
		out[i].CartID = fmt.Sprintf("%09d", f.listed)
	}
	return out, true, nil
}

// Both ends repairing at once would send everything twice.
func TestRepairIsLeftToAPeerThatIsAtIt(t *testing.T) {
	a, b := twoRegions(t, 5)
	for id := range a.carts {
		a.put(id, "milk")
	}
	tr := &direct{to: b, busy: true}
	if done := repair(t, a, tr, Repair{Leave: true}); !done.Left || len(tr.given) > 0 || done.Search > 0 {
		t.Errorf("left %v, %d carts sent", done.Left, len(tr.given))
	}
	// One that was asked for, or whose cursor must move, is made all the same.
	if done := repair(t, a, tr, Repair{Cursor: true}); done.Left || len(tr.given) != 5 {
		t.Errorf("left %v, %d carts sent", done.Left, len(tr.given))
	}
	tr.busy = false
	if done := repair(t, a, tr, Repair{Leave: true}); done.Left || done.Err != nil {
		t.Errorf("left %v: %v", done.Left, done.Err)
	}
}

// Collect is of no use here: nobody collects.
func (d *direct) Collect(context.Context, Hello, []CartDigest, bool) ([]bool, error) {
	return nil, ErrUnsupported
}

// Expirable is of no use here: nothing expires.
func (d *direct) Expirable(context.Context, Hello, []DueCart) ([]bool, error) {
	return nil, ErrUnsupported
}
