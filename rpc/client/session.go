package client

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
	"github.com/samecart/samecart/rpc/causal"
)

// Identity puts into an attempt's headers on whose behalf it is made. It is
// called once an attempt, hedges and concurrent ones included.
type Identity func(ctx context.Context, h http.Header) error

// User is a shopper whose service takes names on trust.
func User(id string) Identity { return header("X-User-Id", id) }

// Guest is a guest session whose service takes names on trust.
func Guest(session string) Identity { return header("X-Guest-Session", session) }

func header(name, value string) Identity {
	return func(_ context.Context, h http.Header) error {
		h.Set(name, value)
		return nil
	}
}

// Bearer is whoever the token names. source is asked for each attempt, so it
// may renew the token.
func Bearer(source func(ctx context.Context) (string, error)) Identity {
	return func(ctx context.Context, h http.Header) error {
		t, err := source(ctx)
		if err != nil {
			return err
		}
		h.Set("Authorization", "Bearer "+t)
		return nil
	}
}

// Session is what one shopper has seen of the cart, on one device or on all.
// Its calls see at least what those before them saw and wrote, in whatever
// region they are answered, or their answers are marked Stale. It is safe for
// concurrent use: of two calls under way at the same time, neither need see
// the other. A shopper who logs in needs a new one.
type Session struct {
	c        *Client
	identity Identity

	mu   sync.Mutex   // guards what follows
	seen causal.Token // all that was seen
	// asked is what a region is asked to have: seen, or, from a Stale answer
	// until one that has it all, what could be had. Otherwise each call would
	// wait again for what has not come.
	asked crdt.CausalContext
	// foreign is a token of a newer form, sent back as it is, until an answer
	// shows that a region has what it names.
	foreign string
	detour  string // a region that answered when the chosen one did not
	until   time.Time
}

// Session returns a session that has seen nothing.
func (c *Client) Session(id Identity) *Session { return &Session{c: c, identity: id} }

// Token returns what the session has seen, as a Cart-Token: for a device that
// comes back to another process. It is "" when nothing was seen, or when the
// token is too large to be sent.
func (s *Session) Token() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.foreign != "" {
		return s.foreign
	}
	if s.seen.Context.IsEmpty() {
		return ""
	}
	return s.seen.Encode()
}

// Observe adds what somebody else has seen of the same cart to what the
// session has seen: a Cart-Token, or the Resume of an Update. The error says
// that the text is neither.
func (s *Session) Observe(text string) error {
	t, err := decodeToken(text)
	if err != nil {
		return fmt.Errorf("token %.20q %w", text, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.join(t)
	s.asked = s.seen.Context
	return nil
}

// join adds what was seen. What was seen of another cart, before a login, is
// forgotten. It is called with mu held.
func (s *Session) join(t causal.Token) {
	if s.seen.CartID != t.CartID {
		s.seen, s.asked, s.foreign = t, t.Context, ""
		return
	}
	s.seen.Context = s.seen.Context.Join(t.Context)
}

// sight is what a session has seen when a call begins.
type sight struct {
	seen    causal.Token
	send    string // Cart-Token
	foreign bool   // which is one of a newer form
	detour  string
}

// known is v with a token that every region reads.
func (v sight) known() sight {
	v.send, v.foreign = "", false
	if !v.seen.Context.IsEmpty() {
		v.send = v.seen.Encode()
	}
	return v
}

func (s *Session) look() sight {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := sight{seen: s.seen, send: s.foreign, foreign: s.foreign != ""}
	if s.detour != "" && time.Now().Before(s.until) {
		v.detour = s.detour
	}
	if v.send == "" && !s.asked.IsEmpty() {
		v.send = causal.Token{CartID: s.seen.CartID, Context: s.asked}.Encode()
	}
	return v
}

// answered takes an answer's token and reports whether the answer lacks what
// was seen before the call, as the region said or as the token shows.
func (s *Session) answered(before sight, text string, stale bool) bool {
	t, err := decodeToken(text)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if text != "" {
			s.foreign = text
		}
		return stale
	}
	switch {
	case s.foreign == "":
	case before.send == s.foreign && !stale:
		s.foreign = "" // the region has read it, and has what it names
	default:
		stale = true // what it names cannot be compared
	}
	stale = stale || lacks(t, before.seen)
	s.join(t)
	switch {
	case t.Context.Covers(s.seen.Context):
		s.asked = s.seen.Context
	case stale:
		s.asked = t.Context
	default: // another call has seen more
		s.asked = s.asked.Join(t.Context)
	}
	return stale
}

// shown is answered for an update of a watch, which may have been on its way
// for long: it does not change what regions are asked to have.
func (s *Session) shown(text string, stale bool) bool {
	t, err := decodeToken(text)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		return stale
	}
	stale = stale || s.foreign != "" || lacks(t, s.seen)
	whole := s.asked.Equal(s.seen.Context)
	s.join(t)
	if whole || t.Context.Covers(s.seen.Context) {
		s.asked = s.seen.Context
	}
	return stale
}

// stay makes the session's next calls ask first who answered this one.
func (s *Session) stay(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.detour, s.until = address, time.Now().Add(s.c.cfg.DetourFor)
}

// Answer is what a call was answered.
type Answer[T any] struct {
	Msg *T
	// Stale is true when the answer may lack what the session had seen before
	// the call, or what the region had before it lost sight of its leader. A
	// mutation is made all the same; one that was Replayed may have been made
	// without what was seen, so it is Stale.
	Stale    bool
	Region   string // that answered
	ETag     string // of the cart, for IfMatch
	OpID     string // of a mutation
	Replayed bool   // the mutation had been made before, under its op id
	Attempts int    // hedges are not counted; 1: at the first
	Hedged   bool   // a hedge's answer
}

// Option changes one call.
type Option func(*callOptions)

type callOptions struct {
	opID    string
	ifMatch string
	strong  bool
	resume  string
}

// OpID gives a mutation an op id of the caller's, 1 to 255 visible ASCII
// characters: the same on each try of the same mutation and on no other.
// Without one the client draws one.
func OpID(id string) Option { return func(o *callOptions) { o.opID = id } }

// IfMatch refuses a mutation of a cart that is not the one an ETag names.
func IfMatch(etag string) Option { return func(o *callOptions) { o.ifMatch = etag } }

// Strong confirms a read with a majority of the region's nodes.
func Strong() Option { return func(o *callOptions) { o.strong = true } }

// Resume makes a watch go on after the Update that had this Resume.
func Resume(resume string) Option { return func(o *callOptions) { o.resume = resume } }

// kind says how a call may be repeated.
type kind int

const (
	mutation kind = iota // with its op id only
	read                 // freely
	hedged               // freely, and twice at a time
)

// Get returns the cart; an unknown one is empty.
func (s *Session) Get(ctx context.Context, opts ...Option) (Answer[cartv1.Cart], error) {
	return perform(ctx, s, cartv1connect.CartServiceGetCartProcedure, hedged, &cartv1.GetCartRequest{}, cartv1connect.CartServiceClient.GetCart, opts)
}

// Count returns the sum of the quantities in the cart.
func (s *Session) Count(ctx context.Context, opts ...Option) (Answer[cartv1.CountResponse], error) {
	return perform(ctx, s, cartv1connect.CartServiceGetCountProcedure, hedged, &cartv1.GetCountRequest{}, cartv1connect.CartServiceClient.GetCount, opts)
}

// Explain returns the surviving writes behind every line.
func (s *Session) Explain(ctx context.Context, opts ...Option) (Answer[cartv1.ExplainCartResponse], error) {
	return perform(ctx, s, cartv1connect.CartServiceExplainCartProcedure, read, &cartv1.ExplainCartRequest{}, cartv1connect.CartServiceClient.ExplainCart, opts)
}

// Add adds a quantity to a line, which it makes when there is none.
func (s *Session) Add(ctx context.Context, msg *cartv1.AddItemRequest, opts ...Option) (Answer[cartv1.ItemResponse], error) {
	return perform(ctx, s, cartv1connect.CartServiceAddItemProcedure, mutation, msg, cartv1connect.CartServiceClient.AddItem, opts)
}

// Set sets the quantity of a line that is there; 0 removes it.
func (s *Session) Set(ctx context.Context, msg *cartv1.SetQuantityRequest, opts ...Option) (Answer[cartv1.ItemResponse], error) {
	return perform(ctx, s, cartv1connect.CartServiceSetQuantityProcedure, mutation, msg, cartv1connect.CartServiceClient.SetQuantity, opts)
}

// Remove removes a line; removing what is not there is no error.
func (s *Session) Remove(ctx context.Context, msg *cartv1.RemoveItemRequest, opts ...Option) (Answer[cartv1.CountResponse], error) {
	return perform(ctx, s, cartv1connect.CartServiceRemoveItemProcedure, mutation, msg, cartv1connect.CartServiceClient.RemoveItem, opts)
}

// Clear removes all lines.
func (s *Session) Clear(ctx context.Context, opts ...Option) (Answer[cartv1.CountResponse], error) {
	return perform(ctx, s, cartv1connect.CartServiceClearCartProcedure, mutation, &cartv1.ClearCartRequest{}, cartv1connect.CartServiceClient.ClearCart, opts)
}

// Batch makes all edits, in order, or none.
func (s *Session) Batch(ctx context.Context, msg *cartv1.BatchEditRequest, opts ...Option) (Answer[cartv1.BatchEditResponse], error) {
	return perform(ctx, s, cartv1connect.CartServiceBatchEditProcedure, mutation, msg, cartv1connect.CartServiceClient.BatchEdit, opts)
}

// Save puts a line aside for later.
func (s *Session) Save(ctx context.Context, msg *cartv1.SaveItemRequest, opts ...Option) (Answer[cartv1.Cart], error) {
	return perform(ctx, s, cartv1connect.CartServiceSaveItemProcedure, mutation, msg, cartv1connect.CartServiceClient.SaveItem, opts)
}

// Move puts a saved line back into the cart.
func (s *Session) Move(ctx context.Context, msg *cartv1.MoveItemRequest, opts ...Option) (Answer[cartv1.Cart], error) {
	return perform(ctx, s, cartv1connect.CartServiceMoveItemProcedure, mutation, msg, cartv1connect.CartServiceClient.MoveItem, opts)
}

// Describe replaces the attributes of a line that is there.
func (s *Session) Describe(ctx context.Context, msg *cartv1.DescribeItemRequest, opts ...Option) (Answer[cartv1.ItemResponse], error) {
	return perform(ctx, s, cartv1connect.CartServiceDescribeItemProcedure, mutation, msg, cartv1connect.CartServiceClient.DescribeItem, opts)
}

// Undo undoes the last remove, clear or merge.
func (s *Session) Undo(ctx context.Context, opts ...Option) (Answer[cartv1.Cart], error) {
	return perform(ctx, s, cartv1connect.CartServiceUndoProcedure, mutation, &cartv1.UndoRequest{}, cartv1connect.CartServiceClient.Undo, opts)
}

// Export returns all that is kept of the shopper.
func (s *Session) Export(ctx context.Context, opts ...Option) (Answer[cartv1.ExportCartResponse], error) {
	return perform(ctx, s, cartv1connect.CartServiceExportCartProcedure, read, &cartv1.ExportCartRequest{}, cartv1connect.CartServiceClient.ExportCart, opts)
}

// Erase erases the shopper's cart for good; a second call tells how far the regions
// are.
func (s *Session) Erase(ctx context.Context, opts ...Option) (Answer[cartv1.EraseCartResponse], error) {
	return perform(ctx, s, cartv1connect.CartServiceEraseCartProcedure, mutation, &cartv1.EraseCartRequest{}, cartv1connect.CartServiceClient.EraseCart, opts)
}

// perform makes one logical call: its attempts, in whatever regions, go under
// one op id.
func perform[Req, Res any](
	ctx context.Context, s *Session, procedure string, k kind, msg *Req,
	method func(cartv1connect.CartServiceClient, context.Context, *connect.Request[Req]) (*connect.Response[Res], error),
	opts []Option,
) (Answer[Res], error) {
	var o callOptions
	for _, set := range opts {
		set(&o)
	}
	if k == mutation && o.opID == "" {
		o.opID = rand.Text()
	}
	before := s.look()
	send := func(ctx context.Context, address string) (*connect.Response[Res], error) {
		req := connect.NewRequest(msg)
		if err := s.prepare(ctx, req.Header(), before.send, k, o); err != nil {
			return nil, &identityError{err}
		}
		return method(s.c.service(address).unary, ctx, req)
	}
	isStale := func(res *connect.Response[Res]) bool {
		m, ok := any(res.Msg).(interface{ GetStale() bool })
		return ok && m.GetStale()
	}
	// A hedge's answer is no better for not being marked: the session may ask
	// for less than it has seen.
	isWorse := func(res *connect.Response[Res]) bool {
		t, err := decodeToken(res.Header().Get("Cart-Token"))
		return isStale(res) || err == nil && lacks(t, before.seen)
	}
	r, err := run(ctx, s.c, call[Res]{procedure: procedure, hedged: k == hedged, detour: before.detour, send: send, stale: isWorse})
	if err != nil && err.Code == "INVALID_TOKEN" && before.foreign {
		// A region of an older build, which has done nothing.
		before = before.known()
		r, err = run(ctx, s.c, call[Res]{procedure: procedure, hedged: k == hedged, detour: before.detour, send: send, stale: isWorse})
	}
	if err != nil {
		err.OpID = o.opID
		err.Unknown = err.Unknown && k == mutation
		return Answer[Res]{OpID: o.opID, Attempts: err.Attempts}, err
	}
	if r.moved {
		s.stay(r.address)
	}
	h := r.res.Header()
	a := Answer[Res]{
		Msg: r.res.Msg, Region: h.Get("Cart-Region"), ETag: h.Get("ETag"), OpID: o.opID,
		Replayed: h.Get("Idempotent-Replayed") == "true", Attempts: r.attempts, Hedged: r.hedged,
	}
	// What is replayed may have been made where what was seen was lacking: the
	// answer that said so was lost.
	blind := a.Replayed && !before.seen.Context.IsEmpty()
	a.Stale = s.answered(before, h.Get("Cart-Token"), isStale(r.res)) || blind
	return a, nil
}

// prepare sets an attempt's headers.
func (s *Session) prepare(ctx context.Context, h http.Header, token string, k kind, o callOptions) error {
	if token != "" {
		h.Set("Cart-Token", token)
	}
	if k == mutation {
		h.Set("Idempotency-Key", o.opID)
		if o.ifMatch != "" {
			h.Set("If-Match", o.ifMatch)
		}
	} else if o.strong {
		h.Set("Cart-Consistency", "strong")
	}
	return s.identity(ctx, h)
}
