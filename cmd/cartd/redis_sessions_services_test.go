//go:build services

package main

import (
	"context"
	"encoding/base64"
	bytecodec "encoding/binary" // binary is what runs as cartd
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/samecart/samecart/crdt"
)

// verdict is what an answer was worth to the session that got it.
type verdict string

const (
	good   verdict = "good"
	failed verdict = "failed"          // no answer, or an error
	below  verdict = "below the token" // without a word, less than the session had seen
	wrong  verdict = "wrong"           // counted twice, or another cart under the same token
	stale  verdict = "stale"           // marked so; the session forgets it
	never  verdict = "stale for ever"  // marked so each time until patience ended
)

// memory is what a session has seen of its cart, and knows of its own line:
// nobody else edits that.
type memory struct {
	sku      string
	quantity int // acknowledged
	token    string
	cartID   string
	context  crdt.CausalContext // that of token
	etag     string
}

// contextOf reads a Cart-Token.
func contextOf(token string) (cartID string, cc crdt.CausalContext, err error) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) == 0 || b[0] != 1 {
		return "", cc, fmt.Errorf("Cart-Token %q is of an unknown form: %w", token, err)
	}
	n, used := bytecodec.Uvarint(b[1:])
	if used <= 0 || n > uint64(len(b)-1-used) {
		return "", cc, fmt.Errorf("Cart-Token %q is cut", token)
	}
	b = b[1+used:]
	cc, err = crdt.DecodeContext(b[n:])
	return string(b[:n]), cc, err
}

// read judges a cart that was shown, and remembers a good one.
func (m *memory) read(a answer) (verdict, error) {
	var c cart
	if err := json.Unmarshal(a.body, &c); a.status != http.StatusOK || err != nil {
		return failed, fmt.Errorf("status %d: %s", a.status, a.body)
	}
	if c.Stale {
		return stale, errors.New("marked stale")
	}
	if have := c.quantity(m.sku); have != m.quantity {
		v := wrong
		if have < m.quantity {
			v = below
		}
		return v, fmt.Errorf("%d of %s, acknowledged are %d", have, m.sku, m.quantity)
	}
	return m.advance(a)
}

// edited judges the answer to an add of one, and remembers a good one.
func (m *memory) edited(a answer) (verdict, error) {
	var line struct {
		Item struct {
			Quantity int `json:"quantity"`
		} `json:"item"`
		Stale bool `json:"stale"`
	}
	if err := json.Unmarshal(a.body, &line); a.status != http.StatusOK || err != nil {
		return failed, fmt.Errorf("status %d: %s", a.status, a.body)
	}
	m.quantity++
	switch have := line.Item.Quantity; {
	case have < m.quantity:
		return below, fmt.Errorf("the add made it %d of %s, want %d", have, m.sku, m.quantity)
	case have > m.quantity:
		return wrong, fmt.Errorf("the add made it %d of %s, want %d", have, m.sku, m.quantity)
	case line.Stale:
		return stale, errors.New("marked stale")
	}
	return m.advance(a)
}

// advance takes the answer's token for the session's, which it must cover.
func (m *memory) advance(a answer) (verdict, error) {
	token, etag := a.header.Get("Cart-Token"), a.header.Get("ETag")
	cartID, cc, err := contextOf(token)
	switch {
	case err != nil:
		return wrong, err
	case m.cartID != "" && cartID != m.cartID:
		return wrong, fmt.Errorf("cart %q, not %q", cartID, m.cartID)
	case !cc.Covers(m.context):
		return below, fmt.Errorf("it has %v, seen was %v", cc, m.context)
	case m.token == token && m.etag != etag:
		return wrong, fmt.Errorf("ETag %s and then %s with the same token", m.etag, etag)
	}
	m.token, m.cartID, m.context, m.etag = token, cartID, cc, etag
	return good, nil
}

// session is one device of a shopper. It edits in its home region, through
// any process there, and looks at its cart through others: of that region
// alone, or, when it roams, of all.
type session struct {
	c     *checker
	rng   *rand.Rand
	group int // the shopper; three devices share a cart, one in each region
	carts int // how many it has had
	edits int // of the cart at hand
	home  *site
	roams bool
	last  *door // that took the last edit
	memory

	known atomic.Pointer[memory] // for others to look at
}

// A session edits at one step of editEvery, and has editsMax of one cart.
const (
	editEvery = 4
	editsMax  = 40
	patience  = 2 * time.Second // for another region to catch up with a token
)

// run edits and reads until ctx ends.
func (s *session) run(ctx context.Context) {
	for s.pause(ctx) {
		if s.last == nil || s.rng.IntN(editEvery) == 0 {
			s.edit()
		} else {
			s.look()
		}
		if s.edits >= editsMax {
			s.change()
		}
		m := s.memory
		s.known.Store(&m)
	}
}

func (s *session) pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(time.Duration(100+s.rng.IntN(300)) * time.Millisecond):
		return true
	}
}

// change goes on with another cart.
func (s *session) change() {
	s.carts++
	s.edits, s.last = 0, nil
	s.memory = memory{sku: s.sku}
}

func (s *session) shopper(more ...string) shopper {
	h := http.Header{"X-User-Id": {fmt.Sprintf("%s-%d-%d", s.c.run, s.group, s.carts)}}
	for i := 0; i < len(more); i += 2 {
		h.Set(more[i], more[i+1])
	}
	if s.token != "" {
		h.Set("Cart-Token", s.token)
	}
	return shopper{at: func(url string) string { return url }, client: s.c.client, headers: h}
}

func (s *session) edit() {
	at := s.home.doors[s.rng.IntN(len(s.home.doors))]
	sh := s.shopper("Idempotency-Key", fmt.Sprintf("%s-%d", s.sku, s.edits))
	v, took, err := s.c.timed(at, func() (answer, error) {
		return sh.try(at.url, "POST", "/api/v1/cart/items", item(s.sku, 1))
	}, s.edited)
	s.c.note(outcome{op: "edits", place: at.kind, verdict: v, err: err, at: at, across: s.roams, took: took})
	s.edits++
	s.last = at
	if v != good {
		s.change() // what this cart has, or its token names, is not known
	}
}

// look reads where the last edit was not made.
func (s *session) look() {
	places := s.home.doors
	if s.roams && s.rng.IntN(2) == 0 {
		places = s.c.sites[s.rng.IntN(len(s.c.sites))].doors
	}
	at := places[0] // the gateway reads from Redis whenever it can
	if s.rng.IntN(2) == 0 {
		at = places[s.rng.IntN(len(places))]
	}
	if at == s.last {
		return
	}
	o := outcome{op: "reads", place: at.kind, at: at, across: s.roams}
	sh := s.shopper()
	switch {
	case at.site != s.home:
		o.place += " of another region"
	case !s.roams && s.rng.IntN(8) == 0:
		// In its own region a session needs no token.
		sh.headers.Del("Cart-Token")
		o.place += ", without a token"
	}
	read := func() (answer, error) { return sh.try(at.url, "GET", "/api/v1/cart", nil) }
	begin := time.Now()
	o.verdict, o.took, o.err = s.c.timed(at, read, s.read)
	s.c.note(o)
	for o.verdict == stale && o.across {
		if late := time.Since(begin); late > patience {
			o.verdict, o.err = never, fmt.Errorf("after %v: %w", late.Round(time.Millisecond), o.err)
			s.c.note(o)
			return
		}
		wait(context.Background(), 10*time.Millisecond)
		if o.verdict, _, o.err = s.c.timed(at, read, s.read); o.verdict == good {
			s.c.caughtUp(time.Since(begin))
		} else if o.verdict != stale {
			s.c.note(o)
		}
	}
}

// outcome is what became of one call.
type outcome struct {
	op, place string
	verdict   verdict
	err       error
	at        *door
	across    bool // the session's token may name what other regions wrote
	took      duration
}

// duration is how long a call took, and whether its region's Redis was at
// fault meanwhile.
type duration struct {
	time.Duration
	faulty bool
}

// checker runs sessions and counts what becomes of their calls.
type checker struct {
	run      string // names of shoppers begin with it
	sites    []*site
	client   *http.Client
	sessions []*session

	mu      sync.Mutex // guards what follows
	count   map[string]int
	took    map[string][]time.Duration
	bad     map[verdict]int // in the region, or with no excuse
	late    []time.Duration // until another region, stale at first, had caught up
	samples []string
}

// samplesMax is how many bad answers are printed.
const samplesMax = 20

func newChecker(sites []*site, shoppers int, seed uint64) *checker {
	c := &checker{
		run: fmt.Sprintf("s%x", rand.Uint32()), sites: sites,
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute}},
		count:  make(map[string]int), took: make(map[string][]time.Duration), bad: make(map[verdict]int),
	}
	for i := range shoppers {
		for j, home := range sites {
			c.sessions = append(c.sessions, &session{
				c: c, rng: rand.New(rand.NewPCG(seed, uint64(1+len(c.sessions)))), group: i,
				home: home, roams: (i+j)%3 == 0, memory: memory{sku: fmt.Sprintf("SKU-%d", 1+j)},
			})
		}
	}
	return c
}

// timed makes a call and judges the answer.
func (c *checker) timed(at *door, call func() (answer, error), judge func(answer) (verdict, error)) (verdict, duration, error) {
	before := at.site.faults.Load()
	begin := time.Now()
	a, err := call()
	took := duration{Duration: time.Since(begin)}
	took.faulty = before > 0 || at.site.faults.Load() > 0
	if err != nil {
		return failed, took, err
	}
	v, err := judge(a)
	return v, took, err
}

func (c *checker) note(o outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o.verdict != never { // that call was counted when it was made
		c.count[o.op]++
		c.count[o.op+" at a "+o.place]++
		key := o.op + " in a region whose Redis was well"
		if o.took.faulty {
			key = o.op + " in a region whose Redis was at fault"
		}
		c.took[key] = append(c.took[key], o.took.Duration)
	}
	if o.verdict == stale && o.across {
		c.count[o.op+" at a "+o.place+" marked stale, as another region's rows were late"]++ // allowed while patience lasts
		return
	}
	if o.verdict == good {
		return
	}
	c.bad[o.verdict]++
	if len(c.samples) < samplesMax {
		c.samples = append(c.samples, fmt.Sprintf("%s at a %s (%s, %s), %v: %s: %v",
			o.op, o.place, o.at.site.name, o.at.url, o.took.Round(time.Millisecond), o.verdict, o.err))
	}
}

func (c *checker) caughtUp(after time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.late = append(c.late, after)
}

// report prints what was counted, and fails the test for what must not be.
func (c *checker) report(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range sortedKeys(c.count) {
		t.Logf("%7d %s", c.count[key], key)
	}
	for _, v := range []verdict{failed, below, wrong, stale, never} {
		t.Logf("%7d %s", c.bad[v], v)
		if c.bad[v] > 0 {
			t.Errorf("%d answers were %s, want none", c.bad[v], v)
		}
	}
	slices.Sort(c.late)
	t.Logf("%7d stale in another region at first, caught up within %v", len(c.late), quantile(c.late, 1))
	for _, key := range sortedKeys(c.took) {
		slices.Sort(c.took[key])
		t.Logf("p50 %v, p99 %v, longest %v of %d %s", quantile(c.took[key], 0.5), quantile(c.took[key], 0.99),
			quantile(c.took[key], 1), len(c.took[key]), key)
	}
	if len(c.samples) > 0 {
		t.Errorf("the first of them:\n%s", strings.Join(c.samples, "\n"))
	}
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(q*float64(len(sorted)-1))].Round(10 * time.Microsecond)
}

// converged checks that every session's cart is the same in all regions in
// the end, with what the session was acknowledged.
func (c *checker) converged(t *testing.T) {
	t.Helper()
	for _, s := range c.sessions {
		sh := s.shopper()
		sh.headers.Del("Cart-Token")
		var have []string
		_, ok := poll(20*time.Second, func() bool {
			have = nil
			equal, first := true, ""
			for _, at := range c.sites {
				m := s.memory
				a, err := sh.try(at.doors[0].url, "GET", "/api/v1/cart", nil)
				v := failed
				if err == nil {
					v, err = m.read(a)
				}
				have = append(have, fmt.Sprintf("%s: %s %s %v", at.name, m.etag, v, err))
				if first == "" {
					first = m.etag
				}
				equal = equal && v == good && m.etag == first
			}
			return equal
		})
		if !ok {
			t.Errorf("the cart of %s is not the same in all regions: %q", sh.headers.Get("X-User-Id"), have)
		}
	}
}

// shown is what a made-up region answers.
type shown struct {
	status   int
	quantity int
	seen     uint64 // its cart has the edits 1 to seen
	etag     string
	cartID   string
	stale    bool
}

func (a shown) token() string {
	b := append([]byte{1, byte(len(a.cartID))}, a.cartID...)
	var cc crdt.CausalContext
	for seq := range a.seen {
		cc = cc.With(crdt.Dot{Replica: crdt.Replica{Region: 1, Incarnation: 1}, Seq: seq + 1})
	}
	return base64.RawURLEncoding.EncodeToString(cc.Encode(b))
}

// A session that met no bad answer would pass whatever it is told.
func TestSessionsJudge(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		edit, read func(*shown) // what is wrong with the second answer of its kind
		roams      bool
		want       verdict
	}{
		"nothing wrong":              {},
		"an error":                   {read: func(a *shown) { a.status = 503 }, want: failed},
		"an edit's error":            {edit: func(a *shown) { a.status = 504 }, want: failed},
		"an edit missing":            {read: func(a *shown) { a.quantity-- }, want: below},
		"an edit counted twice":      {read: func(a *shown) { a.quantity++ }, want: wrong},
		"an edit on an older cart":   {edit: func(a *shown) { a.quantity-- }, want: below},
		"an edit's token going back": {edit: func(a *shown) { a.seen = 0 }, want: below},
		"a token going back":         {read: func(a *shown) { a.seen-- }, want: below},
		"two carts with one token":   {read: func(a *shown) { a.etag += "x" }, want: wrong},
		"another's cart":             {read: func(a *shown) { a.cartID += "x" }, want: wrong},
		"stale":                      {read: func(a *shown) { a.stale = true }, want: stale},
		"an edit on a stale cart":    {edit: func(a *shown) { a.stale = true }, want: stale},
		"stale for ever":             {read: func(a *shown) { a.stale = true }, roams: true, want: never},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			edits, reads := 0, 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				spoil, n := c.read, &reads
				if r.Method == http.MethodPost {
					spoil, n = c.edit, &edits
				}
				*n++
				a := shown{status: 200, quantity: edits, seen: uint64(edits), cartID: "c", etag: fmt.Sprint(edits)}
				if spoil != nil && *n >= 2 {
					spoil(&a)
				}
				w.Header().Set("Cart-Token", a.token())
				w.Header().Set("ETag", a.etag)
				w.WriteHeader(a.status)
				line := fmt.Sprintf(`{"sku_id":"SKU-1","quantity":%d}`, a.quantity)
				fmt.Fprintf(w, `{"item":%s,"items":[%s],"stale":%v}`, line, line, a.stale)
			}))
			defer server.Close()
			home := &site{name: "us-east"}
			home.doors = []*door{{home, "gateway", server.URL}}
			k := newChecker([]*site{home}, 1, 1)
			s := k.sessions[0]
			s.roams = c.roams
			s.edit()
			s.last = nil // there is one door alone
			s.look()
			s.edit()
			if c.edit == nil {
				s.last = nil
				s.look()
			}
			want := map[verdict]int{}
			if c.want != "" {
				want[c.want] = 1
			}
			if !maps.Equal(k.bad, want) {
				t.Errorf("bad answers: %v, want %v: %s", k.bad, want, k.samples)
			}
		})
	}
}
