package drill

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/rpc/client"
)

const (
	// giveUp is how long a shopper goes on trying one edit, under its op id.
	giveUp = 20 * time.Second
	// distance is from one region to the next, for shoppers; it makes each near
	// to one.
	distance = 10 * time.Millisecond
	// linesOf is how many SKUs a shopper buys.
	linesOf = 40
)

// shoppers buy until they are stopped: each has a cart of its own, which nobody
// else edits, and makes one call after the other.
type shoppers struct {
	cluster cluster
	rec     *recorder
	tag     string // makes the names of carts new
	every   time.Duration

	ctx    context.Context // of the buying
	stop   context.CancelFunc
	ended  sync.WaitGroup
	all    []*shopper
	closer []func()

	mu    sync.Mutex // guards what follows
	wrong []string
	count int // of what was wrong, listed or not
}

// shopper is one of them. Its fields are its goroutine's, but for the session
// that it is given.
type shopper struct {
	*shoppers

	name   string
	home   string
	oracle *oracle
	rnd    *rand.Rand
	made   int           // edits, for their op ids
	since  time.Duration // of the first call in vain; 0: there is none
	hurry  chan *client.Session
	s      *client.Session
}

// far carries a client's requests to regions that are so far away, by host.
func far(away map[string]time.Duration) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			d := net.Dialer{Timeout: time.Second}
			conn, err := d.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return farConn{conn, away[addr]}, nil
		},
		MaxIdleConnsPerHost: 256, DisableCompression: true, Protocols: protocols,
	}
}

// farConn is a connection whose answers are on their way for long.
type farConn struct {
	net.Conn

	away time.Duration
}

// Read implements net.Conn.
func (c farConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.away > 0 {
		<-time.After(c.away)
	}
	return n, err
}

// connect makes the client of devices near a region.
func (s *shoppers) connect(home string) (*client.Client, error) {
	away := make(map[string]time.Duration)
	names := s.cluster.regions()
	at := indexOf(names, home)
	for i, region := range names {
		host := strings.TrimPrefix(strings.TrimPrefix(s.cluster.base(region), "http://"), "https://")
		away[host] = time.Duration((i-at+len(names))%len(names)) * distance
	}
	cfg := client.DefaultConfig()
	cfg.Transport = far(away)
	// A drill is short: they come back sooner than in a shop.
	cfg.ProbeEvery, cfg.ReturnAfter = 500*time.Millisecond, 2*time.Second
	c, err := client.New(s.cluster.base(home), cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() { _ = c.Run(ctx) }) // it ends with ctx alone
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closer = append(s.closer, func() { cancel(); ended.Wait(); c.Close() })
	return c, nil
}

// buy starts n shoppers, who are near the homes in turn.
func buy(c cluster, rec *recorder, tag string, n int, rate float64, homes []string) (*shoppers, error) {
	ctx, stop := context.WithCancel(context.Background())
	s := &shoppers{cluster: c, rec: rec, tag: tag, ctx: ctx, stop: stop, every: time.Duration(float64(n) / rate * float64(time.Second))}
	near := make(map[string]*client.Client)
	for _, home := range homes {
		var err error
		if near[home], err = s.connect(home); err != nil {
			s.close()
			return nil, err
		}
	}
	for i := range n {
		one := &shopper{
			shoppers: s, name: fmt.Sprintf("drill-%s-%d", tag, i), home: homes[i%len(homes)],
			oracle: newOracle(), rnd: rand.New(rand.NewPCG(uint64(i), 1)), hurry: make(chan *client.Session, 1),
		}
		one.s = near[one.home].Session(client.User(one.name))
		s.all = append(s.all, one)
		s.ended.Go(func() { one.run(ctx) })
	}
	return s, nil
}

// rush sends all shoppers to a region, at once, as new devices that know what
// the old ones have seen.
func (s *shoppers) rush(region string) error {
	c, err := s.connect(region)
	if err != nil {
		return err
	}
	for _, one := range s.all {
		one.hurry <- c.Session(client.User(one.name))
	}
	return nil
}

// finish stops the buying, and returns when each shopper's last call has ended.
func (s *shoppers) finish() {
	s.stop()
	s.ended.Wait()
}

func (s *shoppers) close() {
	s.finish()
	for _, f := range s.closer {
		f()
	}
}

// wrongMax bounds the list of what was wrong; all of it is counted.
const wrongMax = 50

func (s *shopper) violated(wrong ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range wrong {
		if w == "" {
			continue
		}
		s.count++
		if len(s.shoppers.wrong) < wrongMax {
			s.shoppers.wrong = append(s.shoppers.wrong, s.name+": "+w)
		}
	}
}

func (s *shopper) run(ctx context.Context) {
	timer := time.NewTimer(rand.N(s.every))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case next := <-s.hurry:
			if token := s.s.Token(); token != "" {
				if err := next.Observe(token); err != nil {
					s.violated(fmt.Sprintf("token of the other device: %v", err))
				}
			}
			s.s = next
		}
		next := time.Now().Add(s.every)
		switch n := s.rnd.IntN(9); {
		case n < 2:
			s.look()
		case n < 3:
			s.glance()
		default:
			s.edit(s.choose())
		}
		timer.Reset(time.Until(next)) // what was late is not made up for
	}
}

// choose draws an edit. Some lines grow, where what counts twice shows; others
// have few pieces, where what is lost shows.
func (s *shopper) choose() edit {
	e := edit{sku: fmt.Sprintf("SKU-%d", 1+s.rnd.IntN(linesOf))}
	have := s.oracle.line(e.sku).now
	switch n := s.rnd.IntN(10); {
	case have > 0 && n < 2, have > 500:
		e.op = opRemove
	case have > 0 && n < 4:
		e.op, e.quantity = opSet, 1+s.rnd.Uint32N(9)
	default:
		e.op, e.quantity = opAdd, 1+s.rnd.Uint32N(3)
	}
	return e
}

// answered takes down a call that was.
func (s *shopper) answered(begun time.Duration, c call) {
	c.ok, c.end = true, s.rec.since()
	c.took = c.end - begun
	c.waited = c.took
	if s.since > 0 {
		c.waited, s.since = c.end-s.since, 0
	}
	s.rec.call(c)
}

// inVain takes down a call that was not answered.
func (s *shopper) inVain(begun time.Duration, edit bool) {
	if s.since == 0 {
		s.since = begun
	}
	end := s.rec.since()
	s.rec.call(call{end: end, took: end - begun, edit: edit})
}

// patience is the time between two tries of an edit.
const patience = 100 * time.Millisecond

// edit makes one, and tries it again with its op id while nobody says what
// became of it. A call that has begun ends, also when the buying has: the drill
// itself must leave none in doubt.
func (s *shopper) edit(e edit) {
	s.made++
	id := client.OpID(fmt.Sprintf("%s-%d", s.name, s.made))
	first := s.rec.since()
	again, unknown, tries := false, false, 0
	for {
		begun := s.rec.since()
		got, err := s.send(e, id)
		var failure *client.Error
		switch {
		case err == nil:
			// Another region may have made it as well: one that did not answer, or
			// whose gateway passed the call on.
			again = again || got.attempts > 1 || got.region != s.home
			s.answered(begun, call{edit: true, stale: got.stale, again: tries+got.attempts > 1, region: got.region})
			s.violated(s.oracle.acknowledged(e, outcome{got.quantity, got.stale, again}))
			return
		case !errors.As(err, &failure):
			s.violated(fmt.Sprintf("%s: %v", e, err))
			return
		}
		unknown = unknown || failure.Unknown
		if final(failure.Code) {
			// A line that is not there yet, in a region that lags: an answer too.
			s.answered(begun, call{edit: true, denied: true, region: failure.Region})
			if unknown {
				s.oracle.givenUp(e)
			}
			return
		}
		s.inVain(begun, true)
		again, tries = true, tries+failure.Attempts
		if s.rec.since()-first > giveUp {
			if unknown {
				s.oracle.givenUp(e)
			}
			return
		}
		pause(context.Background(), patience)
	}
}

// final reports whether a code is about the request.
func final(code string) bool { return code == "LINE_NOT_FOUND" }

// sent is an answer to an edit.
type sent struct {
	quantity uint32
	stale    bool
	attempts int
	region   string
}

func (s *shopper) send(e edit, id client.Option) (sent, error) {
	ctx, line := context.Background(), &cartv1.LineRef{SkuId: e.sku}
	switch e.op {
	case opRemove:
		a, err := s.s.Remove(ctx, &cartv1.RemoveItemRequest{Line: line}, id)
		return sent{0, a.Stale, a.Attempts, a.Region}, err
	case opSet:
		a, err := s.s.Set(ctx, &cartv1.SetQuantityRequest{Line: line, Quantity: e.quantity}, id)
		return sent{a.Msg.GetItem().GetQuantity(), a.Stale, a.Attempts, a.Region}, err
	case opAdd:
		a, err := s.s.Add(ctx, &cartv1.AddItemRequest{Line: line, Quantity: e.quantity}, id)
		return sent{a.Msg.GetItem().GetQuantity(), a.Stale, a.Attempts, a.Region}, err
	}
	panic(fmt.Sprintf("edit of kind %d", e.op))
}

// look reads the cart.
func (s *shopper) look() {
	begun := s.rec.since()
	a, err := s.s.Get(context.Background())
	if err != nil {
		s.inVain(begun, false)
		return
	}
	s.answered(begun, call{stale: a.Stale, again: a.Attempts > 1, region: a.Region})
	if !a.Stale {
		s.violated(s.oracle.read(quantitiesOf(a.Msg))...)
	}
}

// glance reads the count alone.
func (s *shopper) glance() {
	begun := s.rec.since()
	a, err := s.s.Count(context.Background())
	if err != nil {
		s.inVain(begun, false)
		return
	}
	s.answered(begun, call{stale: a.Stale, again: a.Attempts > 1, region: a.Region})
	if !a.Stale {
		s.violated(s.oracle.counted(a.Msg.GetItemCount()))
	}
}

func quantitiesOf(cart *cartv1.Cart) map[string]uint32 {
	out := make(map[string]uint32)
	for _, item := range cart.GetItems() {
		out[item.GetSkuId()] += item.GetQuantity()
	}
	return out
}

// empty removes what was bought from a cluster that is not the drill's own, as
// far as it can be reached.
func (s *shoppers) empty(ctx context.Context) error {
	var errs []error
	for _, one := range s.all {
		_, err := one.s.Clear(ctx)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
