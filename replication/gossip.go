package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/samecart/samecart/crdt"
)

// PeerRegion is another region and the way to it.
type PeerRegion struct {
	ID        crdt.RegionID
	Name      string
	Transport Transport
}

// Options are the optional dependencies of a Gossiper.
type Options struct {
	// Throttle bounds the bytes of repairs; share one between the
	// Gossipers of a node. Nil: one of Config.RepairBandwidth of its own.
	Throttle *Throttle
	// Links bound the bytes to a peer region, rows and repairs together: rows go
	// first, a repair takes what they leave. Share one for each region between
	// the Gossipers of a node. None: no bound.
	Links map[crdt.RegionID]*Throttle
	// Seed decides the jitter.
	Seed   uint64
	Events Events
}

// Gossiper sends one shard's local rows to every peer region, for as long as
// this node leads the shard: make one and Run it on gaining leadership, end
// Run's ctx on losing it. Two leaders for a moment do no harm: rows are
// dropped or joined by the receiver's cursor.
//
// The peers are fixed: when the membership changes, run another Gossiper.
type Gossiper struct {
	log      Log
	name     string // this region's
	cfg      Config
	throttle *Throttle
	events   Events
	logger   *slog.Logger
	links    []*link

	mu    sync.Mutex
	acks  []uint64 // per link
	acked uint64   // by all, as reported to the log
	most  uint64   // by any, as reported to the log
}

// New returns a Gossiper for the log of the region called name; it starts
// nothing. It fails when cfg or the peers are not valid.
func New(log Log, name string, peers []PeerRegion, cfg Config, logger *slog.Logger, opt Options) (*Gossiper, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configure gossip: %w", err)
	}
	if opt.Throttle == nil {
		opt.Throttle = NewThrottle(cfg.RepairBandwidth)
	}
	s := log.Stream()
	g := &Gossiper{
		log: log, name: name, cfg: cfg, throttle: opt.Throttle, events: opt.Events,
		logger: logger.With(slog.Uint64("shard", uint64(s.Shard))), acks: make([]uint64, len(peers)),
	}
	seen := map[crdt.RegionID]bool{s.Region: true}
	for i, p := range peers {
		if p.Transport == nil || p.Name == "" || seen[p.ID] {
			return nil, fmt.Errorf("configure gossip: peer %d (region %d, %q) needs an id of its own, a name and a transport", i, p.ID, p.Name)
		}
		seen[p.ID] = true
		g.links = append(g.links, &link{
			g: g, index: i, region: p, bandwidth: opt.Links[p.ID],
			peer:    NewPeer(s, p.ID, cfg, rand.New(rand.NewPCG(opt.Seed, uint64(p.ID)<<32+uint64(s.Shard)))),
			in:      make(chan Message),
			poke:    make(chan struct{}, 1),
			ask:     make(chan struct{}, 1),
			started: time.Now(),
			end:     func() {},
			logger:  g.logger.With(slog.String("peer", p.Name)),
		})
	}
	return g, nil
}

// Run gossips until ctx ends; then it gives up what is on its way, waits
// for everything it started, and returns nil. Run it once.
func (g *Gossiper) Run(ctx context.Context) error {
	eg, ctx := errgroup.WithContext(ctx)
	if len(g.links) == 0 {
		eg.Go(func() error { return g.alone(ctx) })
	}
	for _, l := range g.links {
		eg.Go(func() error { return l.run(ctx) })
	}
	return eg.Wait()
}

// alone tells the log that no peer needs its rows.
func (g *Gossiper) alone(ctx context.Context) error {
	for {
		changed := g.log.Changed()
		seq := g.log.LastSeq()
		g.log.Acked(seq, seq)
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// Poke tries the given region again at once, without waiting out a backoff:
// the way to it may have healed. An unknown region is ignored.
func (g *Gossiper) Poke(region crdt.RegionID) {
	for _, l := range g.links {
		if l.region.ID == region {
			select {
			case l.poke <- struct{}{}:
			default: // one is waiting already
			}
		}
	}
}

// Repair compares all slots with the given region now, in the background; what
// comes of it is in Status and in Events. It fails when there is no such peer.
func (g *Gossiper) Repair(region string) error {
	for _, l := range g.links {
		if l.region.Name == region {
			select {
			case l.ask <- struct{}{}:
			default: // one is waiting already
			}
			return nil
		}
	}
	return fmt.Errorf("%q is no peer of region %q", region, g.name)
}

// Status returns how the shard stands with every peer region. It is safe
// for concurrent use.
func (g *Gossiper) Status() []Status {
	now := time.Now()
	out := make([]Status, 0, len(g.links))
	for _, l := range g.links {
		out = append(out, l.snapshot(now))
	}
	return out
}

// ackedBy notes one peer's progress and tells the log the least of all, and the
// most of any.
func (g *Gossiper) ackedBy(index int, seq uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.acks[index] = seq
	least, most := seq, seq
	for _, a := range g.acks {
		least, most = min(least, a), max(most, a)
	}
	if least > g.acked || most > g.most {
		g.acked, g.most = max(g.acked, least), max(g.most, most)
		g.log.Acked(g.acked, g.most) // under the lock: in order
	}
}

// link is the shell around one Peer: it owns its goroutines and its clock.
type link struct {
	g      *Gossiper
	index  int
	region PeerRegion
	// bandwidth bounds what goes to the peer; nil: nothing does.
	bandwidth *Throttle
	peer      *Peer
	in        chan Message // from the stream, the proof and the repair
	poke      chan struct{}
	ask       chan struct{} // for a repair
	logger    *slog.Logger

	out  []Message // reused
	send chan crdt.Interval
	end  context.CancelFunc // of the open stream
	work sync.WaitGroup

	mu      sync.Mutex
	started time.Time
	status  Status
	oldest  waitingRow
	lags    lags
}

// run drives the Peer: one goroutine, so the Peer needs no lock.
func (l *link) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer l.work.Wait()
	defer cancel()
	l.mu.Lock()
	l.started = time.Now()
	l.mu.Unlock()
	timer := time.NewTimer(0)
	defer timer.Stop()
	last := l.g.log.LastSeq()
	l.step(ctx, Appended{last}) // opens the first stream, also for an empty log
	for {
		changed := l.g.log.Changed() // before LastSeq: an append between is seen
		if seq := l.g.log.LastSeq(); seq != last {
			last = seq
			l.step(ctx, Appended{seq})
		}
		if at := l.peer.Deadline(); at.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(at))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case m := <-l.in:
			l.step(ctx, m)
		case <-l.poke:
			l.step(ctx, Poked{})
		case <-l.ask:
			l.step(ctx, Asked{})
		case <-timer.C:
			l.step(ctx, nil)
		}
	}
}

// step feeds one message (nil: time passes) in and carries out the replies. What
// the log answers goes straight back in.
func (l *link) step(ctx context.Context, in Message) {
	if ctx.Err() != nil {
		return
	}
	before, oldest := l.peer.snapshot()
	fails := l.peer.stats.fails
	now := time.Now()
	l.tell(in)
	if in == nil {
		l.out = l.peer.Tick(now, l.out[:0])
	} else {
		l.out = l.peer.Step(now, in, l.out[:0])
	}
	for i := 0; i < len(l.out); i++ {
		m := l.out[i]
		l.out[i] = nil
		if r, ok := m.(ReadLog); ok {
			iv, ok, err := l.g.log.ReadAfter(ctx, r.After, r.BytesMax)
			if ctx.Err() != nil {
				return
			}
			l.out = l.peer.Step(time.Now(), Read{r.ID, iv, ok, err}, l.out)
			continue
		}
		l.do(ctx, m)
	}
	if l.peer.stats.fails > fails && l.g.events.Disconnected != nil {
		l.g.events.Disconnected(Disconnected{l.between(), l.peer.lastErr})
	}
	l.publish(before, oldest)
}

func (l *link) do(ctx context.Context, m Message) {
	switch m := m.(type) {
	case Open:
		l.open(ctx, m.Gen)
	case Close:
		l.end()
	case Send:
		l.send <- m.Interval // room for one: Peer's I3
	case Prove:
		l.work.Go(func() { l.post(ctx, prove(ctx, l.g.log, l.region.Transport, l.g.cfg.CallTimeout)) })
	case Repair:
		l.logger.Info("repair begins", slog.Int("slots", len(m.Slots)), slog.Bool("all", m.Slots == nil), slog.Bool("cursor", m.Cursor))
		r := repairer{log: l.g.log, tr: l.region.Transport, hello: l.hello(), peer: l.region.ID, cfg: l.g.cfg, pause: l.pause}
		l.work.Go(func() { l.post(ctx, r.run(ctx, m)) })
	default:
		panic(fmt.Sprintf("replication: %T is no output of a Peer", m))
	}
}

// pause waits until n more bytes of repair may go. Where the link is bounded it
// also waits until no row does.
func (l *link) pause(ctx context.Context, n int) error {
	if err := wait(ctx, l.g.throttle.take(time.Now(), n)); err != nil || l.bandwidth == nil {
		return err
	}
	for {
		d, ok := l.bandwidth.leftover(time.Now(), n)
		if ok {
			return wait(ctx, d)
		}
		if err := wait(ctx, d); err != nil {
			return err
		}
	}
}

// paid waits until n bytes of rows are paid for.
func (l *link) paid(ctx context.Context, n int) {
	if l.bandwidth != nil {
		_ = wait(ctx, l.bandwidth.take(time.Now(), n)) // when ctx ends, so does the stream
	}
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *link) post(ctx context.Context, m Message) {
	select {
	case l.in <- m:
	case <-ctx.Done():
	}
}

func (l *link) hello() Hello {
	lo, hi := l.g.log.Slots()
	return Hello{Version: Version, Region: l.g.name, Stream: l.g.log.Stream(), SlotLo: lo, SlotHi: hi}
}

// open starts the goroutines of one stream; they end with it.
func (l *link) open(ctx context.Context, gen uint64) {
	ctx, l.end = context.WithCancel(ctx)
	l.send = make(chan crdt.Interval, 1)
	end, send, hello := l.end, l.send, l.hello()
	l.work.Go(func() {
		err := l.stream(ctx, gen, hello, send)
		l.post(ctx, Lost{gen, err}) // dropped when the Peer itself gave the stream up
		end()
	})
}

// stream opens a stream, sends on it and receives its acks until it fails.
func (l *link) stream(ctx context.Context, gen uint64, hello Hello, send <-chan crdt.Interval) error {
	// However one direction fails, the other must end before stream does.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s, err := l.region.Transport.Push(ctx, hello)
	if err != nil {
		return fmt.Errorf("open stream: %w", err)
	}
	var acks sync.WaitGroup
	acks.Go(func() {
		for {
			a, err := s.Recv()
			if err != nil {
				cancel(fmt.Errorf("receive ack: %w", err))
				return
			}
			l.post(ctx, Acknowledged{gen, a})
		}
	})
	counted, _ := s.(interface{ SentBytes() int })
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case iv := <-send:
			switch err := s.Send(iv); {
			case err == nil:
				n := 0
				if counted != nil {
					n = counted.SentBytes()
				}
				l.paid(ctx, n)
				l.post(ctx, Sent{gen, n})
			case errors.Is(err, io.EOF):
				// The reason is about to come out of Recv.
			default:
				cancel(fmt.Errorf("send (%d, %d]: %w", iv.Lo, iv.Hi, err))
			}
		}
	}
	err = context.Cause(ctx)
	_ = s.Close() // the reason is known already
	acks.Wait()
	return err
}

func (l *link) between() Between { return Between{l.peer.stream, l.region.ID, l.region.Name} }

// tell logs and reports what a message means to operators.
func (l *link) tell(in Message) {
	e, b := l.g.events, l.between()
	switch m := in.(type) {
	case Proved:
		if m.Err != nil {
			l.logger.Debug("comparison ended", slog.Any("err", m.Err))
			if e.Proved != nil {
				e.Proved(ProofDone{b, len(m.Before), 0, m.Err})
			}
		}
	case Repaired:
		if m.Left {
			l.logger.Info("repair is left to the peer")
			return
		}
		if m.Err != nil {
			l.logger.Warn("repair ended", slog.Int("carts", m.Carts), slog.Any("err", m.Err))
		} else {
			l.logger.Info("repair done", slog.Int("carts", m.Carts), slog.Int("taken", m.Taken), slog.Int("bytes", m.Bytes+m.TakenBytes),
				slog.Int("search_bytes", m.Search), slog.Uint64("seq", m.Position))
		}
		if e.Repaired != nil {
			e.Repaired(RepairDone{
				Between: b, Carts: m.Carts, Bytes: m.Bytes, Taken: m.Taken, TakenBytes: m.TakenBytes, Search: m.Search, Err: m.Err,
			})
		}
	}
}

// publish makes the new Status visible and reports what changed.
func (l *link) publish(before Status, oldest waitingRow) {
	now := time.Now()
	s, waiting := l.peer.snapshot()
	s.Region, s.Name = l.region.ID, l.region.Name
	delivered := l.peer.known && before.Connected && s.AckedSeq > before.AckedSeq
	l.mu.Lock()
	l.status, l.oldest = s, waiting
	if delivered {
		l.lags.add(lagSample{now, age(now, oldest.at), oldest.cart})
	}
	l.mu.Unlock()

	e, b := l.g.events, l.between()
	switch {
	case s.Connected && !before.Connected:
		l.logger.Info("peer connected", slog.Uint64("seq", s.AckedSeq))
		if e.Connected != nil {
			e.Connected(Connected{b, s.AckedSeq})
		}
		if s.AheadSeq > 0 {
			l.logger.Error("the peer has rows that this log does not have: the region lost state and needs a new incarnation",
				slog.Uint64("seq", s.LastSeq), slog.Uint64("cursor", s.AheadSeq))
		}
	case !s.Connected && before.Connected:
		l.logger.Info("peer disconnected", slog.String("err", s.LastError))
	}
	if e.Proved != nil && s.Proofs > before.Proofs {
		e.Proved(ProofDone{b, len(l.peer.proof.equalAt), s.DifferentSlots, nil})
	}
	if l.peer.known && (s.AckedSeq != before.AckedSeq || s.Connected && !before.Connected) {
		if e.Delivered != nil && delivered {
			e.Delivered(Delivered{b, s.AckedSeq, age(now, oldest.at)})
		}
		l.g.ackedBy(l.index, s.AckedSeq)
	}
}

// snapshot returns the Status as of now.
func (l *link) snapshot(now time.Time) Status {
	l.mu.Lock()
	s, oldest, started := l.status, l.oldest, l.started
	s.Lags = l.lags.stats(now, oldest)
	l.mu.Unlock()
	s.Stream, s.Region, s.Name = l.g.log.Stream(), l.region.ID, l.region.Name
	s.LastSeq = max(s.LastSeq, l.g.log.LastSeq())
	if r, ok := l.region.Transport.(interface{ Via() string }); ok {
		s.Via = r.Via()
	}
	switch {
	case oldest.at != 0:
		s.Lag = age(now, oldest.at)
	case s.AckedSeq < s.LastSeq && !s.Connected:
		s.Lag = max(0, now.Sub(started))
	}
	return s
}

// age is how long ago at was, not negative; 0 for the zero time.
func age(now time.Time, at crdt.Timestamp) time.Duration {
	if at == 0 {
		return 0
	}
	return max(0, now.Sub(time.UnixMilli(at.UnixMilli())))
}
