package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/replication/riblt"
)

// The model: three regions of real carts, two shards each, every Peer real,
// and a network that one seeded source drives. Each region's log, sink and
// digests are as dumb as their contracts allow.

const (
	modelShards = 2
	modelSlots  = 8 // per region; shard s owns [s*4, s*4+4)
)

var errCut = errors.New("cut")

func slotOf(cart string) uint32 { return uint32(cart[len(cart)-1]) % modelSlots }

// modelRegion is a region's state: log and sink in one.
type modelRegion struct {
	w       *world
	id      crdt.RegionID
	carts   map[string]*crdt.Cart
	digests map[string]Digest
	cursors map[crdt.Stream]uint64
	lie     Digest // what Digests adds to the truth
	logs    [modelShards]*modelLog
}

// modelLog is a shard's delta log. Rows up to base were trimmed.
type modelLog struct {
	r      *modelRegion
	stream crdt.Stream
	all    []crdt.Row
	base   uint64
}

func (r *modelRegion) set(id string, c *crdt.Cart) {
	r.carts[id] = c
	h := fnv.New128a()
	h.Write([]byte(id))
	h.Write(c.Encode(nil))
	r.digests[id] = Digest(h.Sum(nil))
}

func (r *modelRegion) cart(id string) *crdt.Cart {
	if c := r.carts[id]; c != nil {
		return c
	}
	return &crdt.Cart{}
}

func (r *modelRegion) Digests(_ context.Context, lo, hi uint32) ([]Digest, error) {
	out := make([]Digest, hi-lo)
	for i := range out {
		out[i] = r.lie
	}
	for id, d := range r.digests {
		if s := slotOf(id); s >= lo && s < hi {
			for i := range d {
				out[s-lo][i] ^= d[i]
			}
		}
	}
	return out, nil
}

func (r *modelRegion) Bucket(_ context.Context, slot uint32, after string, limit int) ([]CartDigest, bool, error) {
	var all []CartDigest
	for id, d := range r.digests {
		if slotOf(id) == slot && id > after {
			all = append(all, CartDigest{id, d})
		}
	}
	slices.SortFunc(all, func(a, b CartDigest) int { return cmp.Compare(a.CartID, b.CartID) })
	if len(all) > limit {
		return all[:limit], true, nil
	}
	return all, false, nil
}

func (r *modelRegion) States(_ context.Context, ids []string) ([]WholeCart, error) {
	var out []WholeCart
	for _, id := range ids {
		if c := r.carts[id]; c != nil {
			out = append(out, WholeCart{id, crdt.State{Cart: c}.Encode(nil)})
		}
	}
	return out, nil
}

// join is Sink.Join, with its contract checked against the truth.
func (r *modelRegion) join(iv crdt.Interval) (uint64, bool) {
	cursor := r.cursors[iv.Stream]
	if iv.Lo > cursor {
		return cursor, false
	}
	for _, row := range iv.Rows {
		if row.Last <= cursor {
			continue
		}
		r.set(row.CartID, r.cart(row.CartID).Apply(row.Delta))
	}
	r.move(iv.Stream, iv.Hi)
	return r.cursors[iv.Stream], true
}

// move raises a cursor and checks I1 of Sink: whatever is below it is here.
func (r *modelRegion) move(s crdt.Stream, to uint64) {
	from := r.cursors[s]
	if to <= from {
		return
	}
	r.cursors[s] = to
	for _, row := range r.w.log(s).all[from:to] {
		if cc := r.cart(row.CartID).Context; !cc.Covers(row.Delta.Context) {
			r.w.fatalf("region %d moved its cursor of %v to %d without row %d: has %v, needs %v",
				r.id, s, to, row.Seq, cc, row.Delta.Context)
		}
	}
}

func (r *modelRegion) joinCarts(carts []WholeCart) {
	for _, c := range carts {
		s, err := crdt.DecodeState(c.Data)
		if err != nil {
			r.w.fatalf("whole cart %s: %v", c.CartID, err)
		}
		r.set(c.CartID, crdt.Join(r.cart(c.CartID), s.Cart))
	}
}

func (l *modelLog) last() uint64 { return uint64(len(l.all)) }

func (l *modelLog) read(after uint64, bytesMax int) (crdt.Interval, bool) {
	if after < l.base {
		return crdt.Interval{}, false
	}
	iv := crdt.Interval{Stream: l.stream, Lo: after, Hi: after}
	n := 0
	for _, row := range l.all[after:] {
		if n += rowBytes(&row); n > bytesMax && len(iv.Rows) > 0 {
			break
		}
		iv.Rows = append(iv.Rows, row)
		iv.Hi = row.Seq
	}
	return iv, true
}

// modelLink is one shard's Peer and its network.
type modelLink struct {
	w      *world
	log    *modelLog
	to     *modelRegion
	peer   *Peer
	gen    uint64 // of the open stream; 0 when none
	dead   bool   // the stream swallows everything
	hello  bool   // the receiver has not answered the hello yet
	up     []crdt.Interval
	down   []Ack
	sent   bool // a Send waits for its Sent
	reads  []ReadLog
	calls  []*call // Prove, Repair under way
	failed string
}

// call is a proof or a repair that runs as a coroutine: it stops at each use
// of the network, and the model decides what happens next.
type call struct {
	next func() (Message, bool)
	stop func()
	held bool // yields no more: the caller is gone
}

// far is what a call sees: the link's Log and Transport.
type far struct {
	l     *modelLink
	yield func(Message) bool
}

func (f far) pass() error {
	if !f.yield(nil) || f.l.w.isCut(f.l.log.r, f.l.to) {
		return errCut
	}
	return nil
}

func (f far) Digests(ctx context.Context, lo, hi uint32) ([]Digest, error) {
	if err := f.pass(); err != nil {
		return nil, err
	}
	return f.l.to.Digests(ctx, lo, hi)
}

func (f far) Bucket(ctx context.Context, slot uint32, after string, limit int) ([]CartDigest, bool, error) {
	if err := f.pass(); err != nil {
		return nil, false, err
	}
	return f.l.to.Bucket(ctx, slot, after, limit)
}

func (f far) Join(_ context.Context, carts []WholeCart, h Hello, cursor uint64) error {
	if err := f.pass(); err != nil {
		return err
	}
	f.l.w.carts += len(carts)
	f.l.to.joinCarts(carts)
	f.l.to.move(h.Stream, cursor)
	return f.pass() // the answer may be lost, too
}

func (f far) Sketch(ctx context.Context, key riblt.Key, slots []uint32) (SketchStream, error) {
	if err := f.pass(); err != nil {
		return nil, err
	}
	if f.l.w.oldPeers {
		return nil, ErrUnsupported
	}
	enc, err := NewSketch(ctx, f.l.to, key, slots)
	return sketchFake{enc, f.pass}, err
}

// sketchFake is a sketch with a network before it.
type sketchFake struct {
	enc  *riblt.Encoder
	pass func() error
}

func (s sketchFake) Next(n int) ([]byte, error) {
	if err := s.pass(); err != nil {
		return nil, err
	}
	return s.enc.Append(nil, n), nil
}

func (sketchFake) Close() error { return nil }

func (f far) Newer(ctx context.Context, carts []Seen) ([][]byte, error) {
	if err := f.pass(); err != nil {
		return nil, err
	}
	if f.l.w.oldPeers {
		return nil, ErrUnsupported
	}
	return Newer(ctx, f.l.to, carts, 300)
}

func (f far) Repairing(_ context.Context, h Hello) (bool, error) {
	if err := f.pass(); err != nil {
		return false, err
	}
	if f.l.w.oldPeers {
		return false, ErrUnsupported
	}
	for _, l := range f.l.w.links { // of the peer's shard with the same slots, back to here
		if l.log.r == f.l.to && l.to == f.l.log.r && l.log.stream.Shard == h.Stream.Shard && l.peer.repairRuns {
			return true, nil
		}
	}
	return false, nil
}

func (f far) Push(context.Context, Hello) (PushStream, error) { return nil, errCut }

// Fetch is Sink's.
func (r *modelRegion) Fetch(ctx context.Context, ids []string) ([]WholeCart, error) {
	out := make([]WholeCart, 0, len(ids))
	for _, id := range ids {
		c := WholeCart{CartID: id}
		if have, err := r.States(ctx, []string{id}); err != nil {
			return nil, err
		} else if len(have) > 0 {
			c = have[0]
		}
		out = append(out, c)
	}
	return out, nil
}

// near is the origin's side of a call.
type near struct {
	*modelRegion
	l     *modelLog
	yield func(Message) bool
}

func (n near) JoinCarts(_ context.Context, carts []WholeCart, _ crdt.RegionID) error {
	n.yield(nil)
	n.w.taken += len(carts)
	n.joinCarts(carts)
	return nil
}

func (n near) Stream() crdt.Stream { return n.l.stream }
func (n near) Slots() (uint32, uint32) {
	const per = modelSlots / modelShards
	return n.l.stream.Shard * per, (n.l.stream.Shard + 1) * per
}
func (n near) LastSeq() uint64          { return n.l.last() }
func (n near) Changed() <-chan struct{} { return nil }
func (n near) Acked(_, _ uint64)        {}
func (n near) ReadAfter(context.Context, uint64, int) (crdt.Interval, bool, error) {
	return crdt.Interval{}, false, errCut
}

// world is one history.
type world struct {
	t       testing.TB
	seed    uint64
	rng     *rand.Rand
	now     time.Time
	cfg     Config
	regions []*modelRegion
	links   []*modelLink
	zombies []zombie
	cuts    map[[2]crdt.RegionID]bool
	oracle  map[string]*crdt.Cart
	carts   int // whole carts sent
	taken   int // whole carts taken from the peer
	// oldPeers know neither sketches nor contexts.
	oldPeers bool
	lossy    bool
	out      []Message
}

// zombie is an interval of a stream that its sender has given up.
type zombie struct {
	to *modelRegion
	iv crdt.Interval
}

// modelConfig makes everything small, so that every bound is met; every
// other seed compares digests all the time, amid rows on their way.
func modelConfig(seed uint64) Config {
	c := DefaultConfig()
	if seed%2 == 1 {
		c.ProofEvery, c.ProofIdle = 40*time.Millisecond, 80*time.Millisecond
	}
	c.Gather = time.Duration(seed%3) * 7 * time.Millisecond
	c.BatchBytesMax, c.SpanBytesMax = 1<<10, 4<<10
	c.WindowBytes, c.WindowIntervals = 2<<10, 3
	c.RowDotsMax = 5
	c.RepairPage, c.RepairGroup, c.RepairCarts, c.RepairBytes = 2, 3, 2, 1<<10
	return c
}

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{
		t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), now: time.UnixMilli(1_700_000_000_000),
		cfg: modelConfig(seed), oldPeers: seed%5 == 4, cuts: make(map[[2]crdt.RegionID]bool), oracle: make(map[string]*crdt.Cart),
	}
	for id := range crdt.RegionID(3) {
		r := &modelRegion{w: w, id: id + 1, carts: make(map[string]*crdt.Cart),
			digests: make(map[string]Digest), cursors: make(map[crdt.Stream]uint64)}
		for s := range r.logs {
			r.logs[s] = &modelLog{r: r, stream: crdt.Stream{Region: r.id, Incarnation: 1, Shard: uint32(s)}}
		}
		w.regions = append(w.regions, r)
	}
	for _, from := range w.regions {
		for _, log := range from.logs {
			for _, to := range w.regions {
				if to != from {
					l := &modelLink{w: w, log: log, to: to}
					w.links = append(w.links, l)
					l.lead()
				}
			}
		}
	}
	return w
}

func (w *world) fatalf(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("seed %d: %s", w.seed, fmt.Sprintf(format, args...))
}

func (w *world) log(s crdt.Stream) *modelLog { return w.regions[s.Region-1].logs[s.Shard] }

func (w *world) isCut(a, b *modelRegion) bool { return w.cuts[[2]crdt.RegionID{a.id, b.id}] }

// edit makes one random edit in one region.
func (w *world) edit() {
	r := w.regions[w.rng.IntN(len(w.regions))]
	id := fmt.Sprintf("cart:%c", 'a'+rune(w.rng.IntN(6)))
	k := crdt.LineKey{Seller: "s", SKU: string('x' + rune(w.rng.IntN(3)))}
	c := r.cart(id)
	at := crdt.TimestampAt(w.now.UnixMilli())
	wr := crdt.Writer{Replica: crdt.Replica{Region: r.id, Incarnation: 1}, At: at}
	var ds []crdt.Delta
	switch line := c.Lines.Find(k); {
	case line == nil || w.rng.IntN(3) == 0:
		ds = []crdt.Delta{c.Add(wr, k, 1+uint32(w.rng.IntN(3)), crdt.Offer{Price: 5, Currency: "USD", AddedAt: at}, false)}
	default:
		switch w.rng.IntN(5) {
		case 0:
			ds = []crdt.Delta{c.Remove(wr, k)}
		case 1:
			ds = []crdt.Delta{c.SetPlacement(wr, k, crdt.Saved)}
		case 2:
			ds = []crdt.Delta{c.SetAttributes(wr, k, "note=hi")}
		case 3:
			ds = c.Clear(wr)
		default:
			ds = []crdt.Delta{c.SetQuantity(wr, k, 1+uint32(w.rng.IntN(9)))}
		}
	}
	log := r.logs[slotOf(id)/(modelSlots/modelShards)]
	for _, d := range ds {
		c = c.Apply(d)
		seq := log.last() + 1
		log.all = append(log.all, crdt.Row{Seq: seq, Last: seq, CartID: id, At: at, Delta: d})
		o := w.oracle[id]
		if o == nil {
			o = &crdt.Cart{}
		}
		w.oracle[id] = o.Apply(d)
	}
	r.set(id, c)
	for _, l := range w.links {
		if l.log == log {
			l.step(Appended{log.last()})
		}
	}
}

// lead starts a new leader: nothing of the old one's memory is left.
func (l *modelLink) lead() {
	for _, iv := range l.up {
		l.w.zombies = append(l.w.zombies, zombie{l.to, iv})
	}
	l.closeStream()
	for _, c := range l.calls {
		c.stop()
	}
	l.calls, l.reads = nil, nil
	l.peer = NewPeer(l.log.stream, l.to.id, l.w.cfg, rand.New(rand.NewPCG(l.w.rng.Uint64(), 1)))
	l.step(Appended{l.log.last()})
}

func (l *modelLink) closeStream() {
	l.gen, l.hello, l.sent, l.dead = 0, false, false, false
	l.up, l.down = nil, nil
}

// step feeds a message and carries out the replies; nil is a tick.
func (l *modelLink) step(in Message) {
	w := l.w
	if in == nil {
		w.out = l.peer.Tick(w.now, w.out[:0])
	} else {
		w.out = l.peer.Step(w.now, in, w.out[:0])
	}
	for _, m := range w.out {
		switch m := m.(type) {
		case Open:
			if l.gen != 0 {
				w.fatalf("a second stream was opened")
			}
			l.closeStream()
			l.gen, l.hello = m.Gen, true
			l.dead = w.isCut(l.log.r, l.to)
		case Close:
			for _, iv := range l.up {
				if !l.dead && w.lossy && w.rng.IntN(3) == 0 {
					w.zombies = append(w.zombies, zombie{l.to, iv})
				}
			}
			l.closeStream()
		case Send:
			if l.sent || m.Gen != l.gen {
				w.fatalf("a second Send, or one on stream %d while %d is open", m.Gen, l.gen)
			}
			l.sent = true
			l.check(m.Interval)
			l.up = append(l.up, m.Interval)
		case ReadLog:
			l.reads = append(l.reads, m)
		case Prove:
			l.call(func(n near, f far) Message { return prove(context.Background(), n, f, time.Hour) })
		case Repair:
			l.call(func(n near, f far) Message {
				r := repairer{log: n, tr: f, cfg: w.cfg,
					hello: Hello{Version: Version, Stream: l.log.stream},
					pause: func(context.Context, int) error { return f.pass() }}
				return r.run(context.Background(), m)
			})
		default:
			w.fatalf("unexpected %T", m)
		}
	}
	p := l.peer
	if m := w.cfg.BatchBytesMax * 2; p.batch.bytes > m || p.flightBytes > w.cfg.WindowBytes+m || len(p.flights) > w.cfg.WindowIntervals {
		w.fatalf("memory: batch %d, in flight %d in %d", p.batch.bytes, p.flightBytes, len(p.flights))
	}
	if len(l.calls) > 2 {
		w.fatalf("%d calls at once", len(l.calls))
	}
}

// check holds an interval against what the wire and the receiver ask of it.
func (l *modelLink) check(iv crdt.Interval) {
	lim := DefaultLimits()
	lim.Now = l.w.now
	if c, err := Validate(iv, l.log.r.id, lim); err != nil || c.Ahead > 0 {
		l.w.fatalf("an honest interval was refused: %v, %d timestamps ahead", err, c.Ahead)
	}
	if l.w.rng.IntN(8) > 0 {
		return
	}
	got, err := crdt.DecodeInterval(iv.Encode(nil))
	if err != nil || len(got.Rows) != len(iv.Rows) {
		l.w.fatalf("interval does not travel: %v", err)
	}
}

func (l *modelLink) call(f func(near, far) Message) {
	seq := func(yield func(Message) bool) {
		held := false
		pass := func(m Message) bool {
			if !held && !yield(m) {
				held = true
			}
			return !held
		}
		if m := f(near{l.log.r, l.log, pass}, far{l, pass}); !held {
			yield(m)
		}
	}
	next, stop := iter.Pull(iter.Seq[Message](seq))
	l.calls = append(l.calls, &call{next: next, stop: stop})
}

// act lets the link do one random thing that is due; false when none is.
func (l *modelLink) act() bool {
	w := l.w
	start := w.rng.IntN(6)
	for i := range 6 {
		switch (start + i) % 6 {
		case 0:
			if l.hello && !l.dead {
				l.hello = false
				l.down = append(l.down, Ack{Cursor: l.to.cursors[l.log.stream]})
				return true
			}
		case 1:
			if len(l.up) > 0 && !l.dead && !l.hello {
				iv := l.up[0]
				l.up = l.up[1:]
				cursor, ok := l.to.join(iv)
				l.down = append(l.down, Ack{Cursor: cursor, Gap: !ok})
				return true
			}
		case 2:
			if len(l.down) > 0 && !l.dead {
				a := l.down[0]
				l.down = l.down[1:]
				l.step(Acknowledged{l.gen, a})
				return true
			}
		case 3:
			if l.sent {
				l.sent = false
				l.step(Sent{l.gen, 1})
				return true
			}
		case 4:
			if len(l.reads) > 0 {
				m := l.reads[0]
				l.reads = l.reads[1:]
				if m.After >= l.log.last() {
					w.fatalf("read after %d, the log ends at %d", m.After, l.log.last())
				}
				iv, ok := l.log.read(m.After, m.BytesMax)
				var err error
				if w.lossy && w.rng.IntN(40) == 0 {
					err = errCut
				}
				l.step(Read{m.ID, iv, ok, err})
				return true
			}
		case 5:
			if len(l.calls) > 0 {
				i := w.rng.IntN(len(l.calls))
				c := l.calls[i]
				m, ok := c.next()
				if !ok {
					w.fatalf("a call ended without an answer")
				}
				if m != nil {
					c.stop()
					l.calls = slices.Delete(l.calls, i, i+1)
					l.step(m)
				}
				return true
			}
		}
	}
	return false
}

func (w *world) tick(d time.Duration) {
	w.now = w.now.Add(d)
	for _, l := range w.links {
		if at := l.peer.Deadline(); !at.IsZero() && !w.now.Before(at) {
			l.step(nil)
		}
	}
}

// fault does one thing that goes wrong.
func (w *world) fault() {
	l := w.links[w.rng.IntN(len(w.links))]
	switch w.rng.IntN(8) {
	case 0: // the stream breaks
		if l.gen != 0 {
			gen := l.gen
			l.up, l.down = l.up[:w.rng.IntN(len(l.up)+1)], nil
			l.step(Lost{gen, errCut})
		}
	case 1: // and late news of a stream that is gone
		l.step(Lost{l.gen + 7, errCut})
		l.step(Acknowledged{l.gen + 7, Ack{Cursor: 1 << 40}})
	case 2: // a link swallows everything
		a, b := l.log.r, l.to
		if w.rng.IntN(2) == 0 {
			w.cuts[[2]crdt.RegionID{b.id, a.id}] = true
		}
		w.cuts[[2]crdt.RegionID{a.id, b.id}] = true
		for _, m := range w.links {
			m.dead = m.dead || m.gen != 0 && w.isCut(m.log.r, m.to)
		}
	case 3: // heals
		clear(w.cuts)
		if w.rng.IntN(2) == 0 {
			for _, m := range w.links {
				m.step(Poked{})
			}
		}
	case 4: // a new leader of one shard
		for _, m := range w.links {
			if m.log == l.log {
				m.lead()
			}
		}
	case 5: // the receiver restarts
		for _, m := range w.links {
			if m.to == l.to && m.gen != 0 {
				m.up, m.down = nil, nil
				m.step(Lost{m.gen, errCut})
			}
		}
	case 6: // the log is trimmed
		if n := l.log.last() - l.log.base; n > 0 {
			l.log.base += w.rng.Uint64N(n + 1)
		}
	case 7: // an interval of a stream long gone arrives, in any order
		if len(w.zombies) > 0 {
			i := w.rng.IntN(len(w.zombies))
			w.zombies[i].to.join(w.zombies[i].iv)
			if w.rng.IntN(2) == 0 {
				w.zombies = slices.Delete(w.zombies, i, i+1)
			}
		}
	}
}

// safety runs n random steps with faults anywhere.
func (w *world) safety(n int) {
	w.lossy = true
	for range n {
		switch k := w.rng.IntN(20); {
		case k < 4:
			w.edit()
		case k == 4:
			w.fault()
		case k == 5:
			w.tick(time.Duration(w.rng.IntN(int(800 * time.Millisecond))))
		default:
			w.links[w.rng.IntN(len(w.links))].act()
		}
	}
	w.lossy = false
}

// liveness heals everything and runs until all is quiet and acked.
func (w *world) liveness() (took time.Duration) {
	clear(w.cuts)
	begin := w.now
	for range 20_000 {
		busy := false
		for _, l := range w.links {
			for l.act() {
				busy = true
			}
		}
		if busy {
			continue
		}
		if w.quiet() {
			return w.now.Sub(begin)
		}
		w.tick(50 * time.Millisecond)
	}
	for _, l := range w.links {
		w.t.Logf("%v to %d: phase %d acked %d of %d, flights %d batch (%d,%d] err %v",
			l.log.stream, l.to.id, l.peer.phase, l.peer.acked, l.peer.last, len(l.peer.flights), l.peer.batch.lo, l.peer.batch.hi, l.peer.lastErr)
	}
	w.fatalf("did not converge")
	return 0
}

// run lets virtual time pass, with the cuts as they are.
func (w *world) run(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); w.tick(20 * time.Millisecond) {
		for busy := true; busy; {
			busy = false
			for _, l := range w.links {
				for l.act() {
					busy = true
				}
			}
		}
	}
}

// cut cuts both directions between two regions, by index.
func (w *world) cut(a, b int) {
	for _, p := range [][2]*modelRegion{{w.regions[a], w.regions[b]}, {w.regions[b], w.regions[a]}} {
		w.cuts[[2]crdt.RegionID{p[0].id, p[1].id}] = true
		for _, l := range w.links {
			if l.log.r == p[0] && l.to == p[1] && l.gen != 0 {
				l.dead = true
			}
		}
	}
}

// link returns the link of one shard between two regions, by index.
func (w *world) link(from, to, shard int) *modelLink {
	for _, l := range w.links {
		if l.log == w.regions[from].logs[shard] && l.to == w.regions[to] {
			return l
		}
	}
	panic("no such link")
}

func (w *world) quiet() bool {
	for _, l := range w.links {
		if l.peer.acked != l.log.last() || l.peer.phase != streaming {
			return false
		}
	}
	return true
}

// equal checks that every region has every edit.
func (w *world) equal() {
	for id, want := range w.oracle {
		for _, r := range w.regions {
			if got := r.cart(id); !got.Equal(want) {
				w.fatalf("region %d has %s = %v %v, want %v %v", r.id, id, got.Context, got.Lines, want.Context, want.Lines)
			}
		}
	}
}

func (w *world) close() {
	for _, l := range w.links {
		for _, c := range l.calls {
			c.stop()
		}
	}
}

// Collect is of no use here: nobody collects.
func (f far) Collect(context.Context, Hello, []CartDigest, bool) ([]bool, error) {
	return nil, ErrUnsupported
}

// Expirable is of no use here: nothing expires.
func (f far) Expirable(context.Context, Hello, []DueCart) ([]bool, error) {
	return nil, ErrUnsupported
}
