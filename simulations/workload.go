package simulations

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/rpc/client"
	"github.com/samecart/samecart/simulations/check"
	"github.com/samecart/samecart/simulations/network"
)

// isShopper reports whether a host is a shopper's, not a node's.
func isShopper(host string) bool { return strings.HasSuffix(host, "-shopper") }

// shoppers are the clients near one region, and the sessions that use them.
type shoppers struct {
	world  *world
	near   string
	host   *network.Host
	http   *http.Transport
	client *client.Client
	late   sync.WaitGroup // calls that are doubled

	mu      sync.Mutex // guards what follows
	rng     *rand.Rand
	doubled map[string]bool // op ids
}

func (w *world) shoppersNear(region string, seed uint64) (*shoppers, error) {
	s := &shoppers{
		world: w, near: region, host: w.net.Host(region + "-shopper"),
		rng: rand.New(rand.NewPCG(w.plan.Seed, seed)), doubled: make(map[string]bool),
	}
	s.http = &http.Transport{DialContext: s.dial, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute}
	cfg := client.DefaultConfig()
	cfg.Transport, cfg.StreamTransport = doubling{s}, s.http
	var err error
	s.client, err = client.New("http://"+region+":"+apiPort, cfg)
	return s, err
}

func (s *shoppers) chance(share float64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rng.Float64() < share
}

func (s *shoppers) upTo(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rng.IntN(n)
}

// dial is what a region's load balancer does: it tries its nodes, in any order.
func (s *shoppers) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	region, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n := s.world.plan.Shape.Nodes
	first := s.upTo(n)
	for i := range n {
		attempt, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		c, dialErr := s.host.Dial(attempt, hostOf(nodeName(region, (first+i)%n))+":"+port)
		cancel()
		if dialErr == nil {
			return c, nil
		}
		err = dialErr
	}
	return nil, err
}

// doubling sends some mutations twice, as proxies do that lost an answer.
type doubling struct{ *shoppers }

// RoundTrip implements http.RoundTripper.
func (d doubling) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Header.Get("Idempotency-Key") == "" || r.Body == nil || !d.chance(d.world.plan.Double) {
		return d.http.RoundTrip(r)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	_ = r.Body.Close() // it was read
	r.Body = io.NopCloser(bytes.NewReader(body))
	again := r.Clone(context.WithoutCancel(r.Context()))
	d.mu.Lock()
	d.doubled[r.Header.Get("Idempotency-Key")] = true
	d.mu.Unlock()
	after := time.Duration(d.upTo(3000)) * time.Millisecond
	d.late.Go(func() {
		ctx, cancel := context.WithTimeout(again.Context(), after+5*time.Second)
		defer cancel()
		time.Sleep(after)
		again = again.WithContext(ctx)
		again.Body = io.NopCloser(bytes.NewReader(body))
		resp, err := d.http.RoundTrip(again)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body) // nobody waits for it
		_ = resp.Body.Close()
	})
	return d.http.RoundTrip(r)
}

func (s *shoppers) close() {
	s.client.Close()
	s.late.Wait()
	s.http.CloseIdleConnections()
	s.host.Kill(false)
}

// writer is one session of a user, or a guest's device: it makes one call at a time.
type writer struct {
	*shoppers
	id    int
	cart  int // of a user; below 0: of guests, one after the other
	rng   *rand.Rand
	calls int
	// sessions are by cart: a guest's device has several.
	sessions map[string]*client.Session
}

func (s *shoppers) writer(id int) *writer {
	return &writer{
		shoppers: s, id: id, cart: id % s.world.plan.Carts, sessions: make(map[string]*client.Session),
		rng: rand.New(rand.NewPCG(s.world.plan.Seed, 0x77000000+uint64(id))),
	}
}

// guest is a device of guests. Its id is one that no writer has.
func (s *shoppers) guest(id int) *writer {
	w := s.writer(id)
	w.cart = noUser
	return w
}

const (
	noUser      = -1
	guestsCarts = "guest:" // their names begin with it, and go on with the guest session
	noteName    = "note"
)

func userOf(cart int) string { return fmt.Sprintf("user-%d", cart) }
func cartOf(cart int) string { return "cart:" + userOf(cart) }

// guestOf draws a guest's cart: of one of two guests of the time, or of the time
// before, whose cart has been merged by now, perhaps, and whose tab is still open.
func (w *writer) guestOf() string {
	epoch := int(w.world.now() / (w.world.plan.Safety / 4))
	if w.rng.IntN(4) == 0 {
		epoch = max(0, epoch-1)
	}
	return fmt.Sprintf("%sg-%d-%d", guestsCarts, epoch, w.rng.IntN(2))
}

// session returns the writer's session for a cart.
func (w *writer) session(cart string) *client.Session {
	s := w.sessions[cart]
	if s == nil {
		who := client.User(userOf(w.cart))
		if guest, ok := strings.CutPrefix(cart, guestsCarts); ok {
			who = client.Guest(guest)
		}
		s = w.client.Session(who)
		w.sessions[cart] = s
	}
	return s
}

// The lines of a cart: one to which everybody only adds, one that everybody
// writes, and one for each session alone.
const (
	counter = "SKU-1"
	shared  = "SKU-2"
)

func (w *writer) own() string { return fmt.Sprintf("SKU-%d", 10+w.id) }

// Not everything is done to every cart, since some of it leaves little to be judged:
// the first is cleared, and undone; into the second, and the fourth, guests' are
// merged, which is undone in the fourth alone; the third has neither.

func (w *writer) clears() bool { return w.cart == 0 }
func (w *writer) undoes() bool { return w.cart == 0 || w.cart == 3 || w.cart == noUser }
func (w *writer) merges() bool { return w.cart > 0 && w.cart%2 == 1 }

// run makes calls until ctx ends.
func (w *writer) run(ctx context.Context) {
	for {
		think := time.Duration(w.rng.ExpFloat64() * float64(w.world.plan.Think))
		timer := time.NewTimer(min(think, time.Minute))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		w.call(w.next())
	}
}

// next draws a call.
func (w *writer) next() check.Op {
	o := check.Op{Session: w.id, Cart: cartOf(w.cart)}
	if w.cart == noUser {
		o.Cart = w.guestOf()
	}
	line := []string{counter, shared, shared, w.own(), w.own()}[w.rng.IntN(5)]
	other := line != counter
	n, note := uint64(1+w.rng.IntN(3)), w.rng.IntN(4) == 0
	switch k := w.rng.IntN(28); {
	case k < 7, k < 12 && !other:
		o.Kind, o.N = check.Add, n
	case k < 10:
		o.Kind, o.N = check.Set, uint64(1+w.rng.IntN(9))
	case k < 13 && other:
		o.Kind = check.Remove
	case k == 13 && w.clears():
		o.Kind = check.Clear
	case k < 16:
		o.Kind = check.Get
	case k < 18 && other:
		o.Kind = check.Save
	case k < 20 && other:
		o.Kind = check.Move
	case k < 22 && other:
		o.Kind, note = check.Describe, true
	case k == 22 && w.undoes():
		o.Kind = check.Undo
	case k < 25 && w.merges():
		o.Kind, o.Guest = check.Merge, w.guestOf()
	default:
		o.Kind = check.StrongGet
	}
	switch o.Kind {
	case check.Add, check.Set, check.Describe:
		if note {
			o.Note = fmt.Sprintf("%d-%d", w.id, w.calls)
		}
		o.Line = line
	case check.Remove, check.Save, check.Move:
		o.Line = line
	default: // of no line
	}
	return o
}

// callTime bounds a call, with all its attempts.
const callTime = 15 * time.Second

// call makes a call and takes its answer into the history.
func (w *writer) call(o check.Op) {
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	w.calls++
	opID := fmt.Sprintf("%016x%016x", w.id+1, w.calls)
	op := client.OpID(opID)
	ref, attributes := &cartv1.LineRef{SkuId: o.Line}, map[string]string{}
	if o.Note != "" {
		attributes[noteName] = o.Note
	}
	session := w.session(o.Cart)
	o.Begin = w.world.now()
	var err error
	switch o.Kind {
	case check.Add:
		var a client.Answer[cartv1.ItemResponse]
		a, err = session.Add(ctx, &cartv1.AddItemRequest{Line: ref, Quantity: uint32(o.N), Attributes: attributes}, op)
		o.Region, o.Stale, o.Replayed, o.Quantity = a.Region, a.Stale, a.Replayed, uint64(a.Msg.GetItem().GetQuantity())
	case check.Set:
		var a client.Answer[cartv1.ItemResponse]
		a, err = session.Set(ctx, &cartv1.SetQuantityRequest{Line: ref, Quantity: uint32(o.N), Attributes: attributes}, op)
		o.Region, o.Stale, o.Replayed, o.Quantity = a.Region, a.Stale, a.Replayed, uint64(a.Msg.GetItem().GetQuantity())
	case check.Describe:
		var a client.Answer[cartv1.ItemResponse]
		a, err = session.Describe(ctx, &cartv1.DescribeItemRequest{Line: ref, Attributes: attributes}, op)
		o.Region, o.Stale, o.Replayed, o.Quantity = a.Region, a.Stale, a.Replayed, uint64(a.Msg.GetItem().GetQuantity())
	case check.Save, check.Move, check.Undo:
		var a client.Answer[cartv1.Cart]
		switch o.Kind {
		case check.Save:
			a, err = session.Save(ctx, &cartv1.SaveItemRequest{Line: ref}, op)
		case check.Move:
			a, err = session.Move(ctx, &cartv1.MoveItemRequest{Line: ref}, op)
		default:
			a, err = session.Undo(ctx, op)
		}
		o.Region, o.Stale, o.Replayed, o.Lines = a.Region, a.Stale, a.Replayed, linesOf(a.Msg)
	case check.Merge:
		var a client.Answer[cartv1.MergeCartResponse]
		a, err = session.Merge(ctx, &cartv1.MergeCartRequest{GuestSessionId: strings.TrimPrefix(o.Guest, guestsCarts)}, op)
		o.Region, o.Stale, o.Replayed = a.Region, a.Stale, a.Replayed
	case check.Remove:
		var a client.Answer[cartv1.CountResponse]
		a, err = session.Remove(ctx, &cartv1.RemoveItemRequest{Line: ref}, op)
		o.Region, o.Stale, o.Replayed, o.Count = a.Region, a.Stale, a.Replayed, a.Msg.GetItemCount()
	case check.Clear:
		var a client.Answer[cartv1.CountResponse]
		a, err = session.Clear(ctx, op)
		o.Region, o.Stale, o.Replayed, o.Count = a.Region, a.Stale, a.Replayed, a.Msg.GetItemCount()
	case check.Get, check.StrongGet:
		var how []client.Option
		if o.Kind == check.StrongGet {
			how = append(how, client.Strong())
		}
		var a client.Answer[cartv1.Cart]
		a, err = session.Get(ctx, how...)
		o.Region, o.Stale, o.Lines = a.Region, a.Stale, linesOf(a.Msg)
		if o.Stale {
			o.Kind = check.Get // it was not strong
		}
	}
	o.End = w.world.now()
	o.Outcome = outcomeOf(err)
	if o.Outcome == check.Refused && w.wasDoubled(opID) {
		// A refusal is not remembered, since no other region would know of it: the
		// second of the two may be judged otherwise.
		o.Outcome = check.Unknown
	}
	w.world.hist.Add(o)
	w.world.totals.op(o)
	w.world.trace.add(o.End, "op %v", o)
}

func (s *shoppers) wasDoubled(op string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.doubled[op]
}

func linesOf(c *cartv1.Cart) map[string]check.Item {
	out := make(map[string]check.Item)
	for _, i := range c.GetItems() {
		out[i.GetSkuId()] = check.Item{N: uint64(i.GetQuantity()), Note: i.GetAttributes()[noteName]}
	}
	for _, i := range c.GetSavedItems() {
		out[i.GetSkuId()] = check.Item{N: uint64(i.GetQuantity()), Saved: true, Note: i.GetAttributes()[noteName]}
	}
	return out
}

func outcomeOf(err error) check.Outcome {
	var e *client.Error
	switch {
	case err == nil:
		return check.Acked
	case errors.As(err, &e) && !e.Unknown:
		return check.Refused
	}
	return check.Unknown
}
