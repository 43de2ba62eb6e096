package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	"github.com/samecart/samecart/proto/admin/v1/adminv1connect"
)

// asCommand makes this test binary behave as cartd: what runs as a process in
// tests is the code under test, built once and with the same flags.
const asCommand = "CARTD_TEST_RUN_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	code := m.Run()
	stopShared()
	if left := leftovers(5 * time.Second); left != "" && code == 0 {
		fmt.Fprintf(os.Stderr, "goroutines that nothing stopped:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// leftovers waits until no goroutine runs our code or a library's that holds
// state, and returns those that stay: every cartd dev has been stopped.
func leftovers(within time.Duration) (stacks string) {
	http.DefaultClient.CloseIdleConnections()
	poll(within, func() bool {
		stacks = ""
		b := make([]byte, 4<<20)
		for i, g := range strings.Split(string(b[:runtime.Stack(b, true)]), "\n\n") {
			for _, of := range []string{"samecart/samecart/", "hashicorp/", "badger/", "connectrpc"} {
				if i > 0 && strings.Contains(g, of) { // the first is this one
					stacks += g + "\n\n"
					break
				}
			}
		}
		return stacks == ""
	})
	return stacks
}

var regions = []string{"us-east", "eu-west", "ap-south"}

// running is cartd dev, in this process, as its command line starts it.
type running struct {
	base   int
	dir    string
	cancel context.CancelFunc
	done   chan struct{}
	code   int // once done is closed
	out    *output
	errs   *output
}

// output is what a command prints; it can be waited for.
type output struct {
	mu    sync.Mutex // guards what follows
	buf   bytes.Buffer
	wants map[string]chan struct{}
}

func newOutput() *output { return &output{wants: make(map[string]chan struct{})} }

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf.Write(b)
	for text, seen := range o.wants {
		if strings.Contains(o.buf.String(), text) {
			close(seen)
			delete(o.wants, text)
		}
	}
	return len(b), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// has is closed once the text was printed.
func (o *output) has(text string) <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	seen := make(chan struct{})
	if strings.Contains(o.buf.String(), text) {
		close(seen)
	} else {
		o.wants[text] = seen
	}
	return seen
}

// freeBase finds the four ports of a cartd dev.
func freeBase() int { return freeRow(4) }

// freeRow finds n free ports in a row, below the range that clients draw
// from, and returns the first. Another process may take one before it is used.
func freeRow(n int) int {
	for {
		base := 20000 + rand.IntN(12000)
		var open []net.Listener
		for i := range n {
			ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", base+i))
			if err != nil {
				break
			}
			open = append(open, ln)
		}
		for _, ln := range open {
			_ = ln.Close() // taken for a look only
		}
		if len(open) == n {
			return base
		}
	}
}

// launch starts cartd dev on free ports and returns once it is ready.
func launch(dir string, args ...string) (*running, error) {
	for {
		r := &running{base: freeBase(), dir: dir, done: make(chan struct{}), out: newOutput(), errs: newOutput()}
		line := []string{"--log", "error", "dev", "--port", fmt.Sprint(r.base)}
		if dir != "" {
			line = append(line, "--data", dir)
		}
		ctx, cancel := context.WithCancel(context.Background())
		r.cancel = cancel
		go func() {
			defer close(r.done)
			r.code = run(ctx, append(line, args...), r.out, r.errs)
		}()
		select {
		case <-r.out.has("ready after"):
			return r, nil
		case <-r.done:
			cancel()
			if strings.Contains(r.errs.String(), "is in use; stop what uses it") {
				continue // somebody was quicker
			}
			return nil, fmt.Errorf("exit %d: %s", r.code, r.errs)
		case <-time.After(30 * time.Second):
			cancel()
			return nil, fmt.Errorf("not ready after 30 s: %s%s", r.out, r.errs)
		}
	}
}

// start starts a cartd dev of the test's own.
func start(t testing.TB, dir string, args ...string) *running {
	t.Helper()
	r, err := launch(dir, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.stop(t) })
	return r
}

// stop ends it as Ctrl-C does. It may be called again.
func (r *running) stop(t testing.TB) {
	t.Helper()
	r.cancel()
	select {
	case <-r.done:
	case <-time.After(20 * time.Second):
		t.Fatalf("cartd dev does not stop: %s", r.errs)
	}
	if r.code != 0 {
		t.Errorf("cartd dev ended with %d: %s", r.code, r.errs)
	}
}

// shared is the cartd dev of all tests that leave it as they found it. Such
// tests do not run in parallel: links and nodes are everybody's.
var shared struct {
	once sync.Once
	dir  string
	r    *running
	err  error
}

func sharedDev(t *testing.T) *running {
	t.Helper()
	shared.once.Do(func() {
		if shared.dir, shared.err = os.MkdirTemp("", "cartd-test-"); shared.err == nil {
			shared.r, shared.err = launch(filepath.Join(shared.dir, "dev"))
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.r
}

func stopShared() {
	if shared.r != nil {
		shared.r.cancel()
		<-shared.r.done
	}
	if shared.dir != "" {
		_ = os.RemoveAll(shared.dir) // what stays is temporary
	}
}

// url is where a region, or "front", is reached.
func (r *running) url(region string) string {
	port := r.base
	for i, name := range regions {
		if name == region {
			port = r.base + 1 + i
		}
	}
	return fmt.Sprintf("http://127.0.0.1:%d", port)
}

// shopper is one caller; at is where requests go: a region's URL by its name.
type shopper struct {
	t       testing.TB
	at      func(region string) string
	all     []string // where the cart must become equal
	client  *http.Client
	headers http.Header
}

// shopper returns a caller whose cart no other test has.
func (r *running) shopper(t testing.TB) shopper {
	user := fmt.Sprintf("u%x", rand.Uint64())
	return shopper{t: t, at: r.url, all: regions, client: http.DefaultClient, headers: http.Header{"X-User-Id": {user}}}
}

// with returns the same shopper sending one more header.
func (s shopper) with(name, value string) shopper {
	s.headers = s.headers.Clone()
	s.headers.Set(name, value)
	return s
}

// answer is what a region said.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// try makes a call; the error is one of the connection.
func (s shopper) try(region, method, path string, body any) (answer, error) {
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return answer{}, err
		}
		in = bytes.NewReader(b)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.at(region)+path, in)
	if err != nil {
		return answer{}, err
	}
	req.Header = s.headers.Clone()
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, b}, err
}

// do makes a call that must be answered with the status.
func (s shopper) do(status int, region, method, path string, body any) answer {
	s.t.Helper()
	a, err := s.try(region, method, path, body)
	if err != nil {
		s.t.Fatalf("%s %s at %s: %v", method, path, region, err)
	}
	if a.status != status {
		s.t.Fatalf("%s %s at %s: status %d, want %d: %s", method, path, region, a.status, status, a.body)
	}
	return a
}

func item(sku string, quantity int) map[string]any {
	return map[string]any{"sku_id": sku, "quantity": quantity}
}

func (s shopper) add(region, sku string, quantity int) answer {
	s.t.Helper()
	return s.do(200, region, "POST", "/api/v1/cart/items", item(sku, quantity))
}

// surely adds, again until it is acknowledged: a machine with much else to do may
// change leaders at any time.
func (s shopper) surely(region, sku string, quantity int) {
	s.t.Helper()
	keyed := s.with("Idempotency-Key", "surely-"+region+sku)
	eventually(s.t, 30*time.Second, "the edit is acknowledged", func() bool {
		a, err := keyed.try(region, http.MethodPost, "/api/v1/cart/items", item(sku, quantity))
		return err == nil && a.status == http.StatusOK
	})
}

func (s shopper) set(region, sku string, quantity int) answer {
	s.t.Helper()
	return s.do(200, region, "PUT", "/api/v1/cart/items/"+sku, map[string]any{"quantity": quantity})
}

func (s shopper) remove(region, sku string) answer {
	s.t.Helper()
	return s.do(200, region, "DELETE", "/api/v1/cart/items/"+sku, nil)
}

// cart is a cart as tests look at it.
type cart struct {
	CartID string `json:"cart_id"`
	Items  []struct {
		SKU      string      `json:"sku_id"`
		Quantity int         `json:"quantity"`
		Price    json.Number `json:"price"`
		Seller   string      `json:"seller_id"`
	} `json:"items"`
	ItemCount int  `json:"item_count"`
	Stale     bool `json:"stale"`
	Conflicts []struct {
		SKU    string `json:"sku_id"`
		Field  string `json:"field"`
		Value  any    `json:"value"`
		Values []any  `json:"values"`
	} `json:"conflicts"`
	Warnings []string `json:"warnings"`
	Applied  []struct {
		Code     string      `json:"code"`
		Discount json.Number `json:"discount"`
	} `json:"promotions_applied"`
	Rejected []struct {
		Code      string `json:"code"`
		Condition string `json:"condition"`
	} `json:"promotions_rejected"`

	etag, token string
}

func (a answer) cart(t testing.TB) cart {
	t.Helper()
	var c cart
	if err := json.Unmarshal(a.body, &c); err != nil {
		t.Fatalf("%s: %v", a.body, err)
	}
	c.etag, c.token = a.header.Get("ETag"), a.header.Get("Cart-Token")
	return c
}

func (s shopper) cart(region string) cart {
	s.t.Helper()
	return s.do(200, region, "GET", "/api/v1/cart", nil).cart(s.t)
}

// quantity is a line's, 0 when it is not there.
func (c cart) quantity(sku string) int {
	for _, it := range c.Items {
		if it.SKU == sku {
			return it.Quantity
		}
	}
	return 0
}

// String is a cart's lines and conflicts, one a line.
func (c cart) String() string {
	var b strings.Builder
	for _, it := range c.Items {
		fmt.Fprintf(&b, "%s x%d at %s\n", it.SKU, it.Quantity, it.Price)
	}
	for _, p := range c.Applied {
		fmt.Fprintf(&b, "code %s takes %s\n", p.Code, p.Discount)
	}
	for _, p := range c.Rejected {
		fmt.Fprintf(&b, "code %s rejected %s\n", p.Code, p.Condition)
	}
	for _, f := range c.Conflicts {
		fmt.Fprintf(&b, "conflict %s %s %v of %v\n", f.SKU, f.Field, f.Value, f.Values)
	}
	for _, w := range c.Warnings {
		fmt.Fprintf(&b, "warning %s\n", w)
	}
	if b.Len() == 0 {
		return "empty\n"
	}
	return b.String()
}

// code is the code of an error's answer.
func (a answer) code() string {
	var e struct {
		Error struct {
			Code string `json:"code"`
		} `json:"error"`
	}
	_ = json.Unmarshal(a.body, &e) // no error's answer has no code
	return e.Error.Code
}

// eventually polls until the condition holds and returns how long it took.
func eventually(t testing.TB, within time.Duration, what string, holds func() bool) time.Duration {
	t.Helper()
	took, ok := poll(within, holds)
	if !ok {
		t.Fatalf("not within %v: %s", within, what)
	}
	return took
}

func poll(within time.Duration, holds func() bool) (took time.Duration, ok bool) {
	begin := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Since(begin) > within {
			return time.Since(begin), false
		}
		<-tick.C
	}
	return time.Since(begin), true
}

// converge waits until all regions hold the same cart, context included, and
// returns it with the time that took.
func (s shopper) converge(within time.Duration) (cart, time.Duration) {
	s.t.Helper()
	have := make([]cart, len(s.all))
	took, ok := poll(within, func() bool {
		equal := true
		for i, region := range s.all {
			have[i] = s.cart(region)
			equal = equal && have[i].etag == have[0].etag
		}
		return equal
	})
	if !ok {
		s.t.Fatalf("not equal within %v, %s:\n%s", within, s.all, have)
	}
	for i := range have {
		if have[i].String() != have[0].String() {
			s.t.Fatalf("equal digests, other carts:\n%s\n%s", have[0], have[i])
		}
	}
	return have[0], took
}

type scoped struct{}

// RoundTrip implements http.RoundTripper.
func (scoped) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("X-Service-Scopes", "admin")
	return http.DefaultTransport.RoundTrip(r)
}

// admin is the admin service at a region or at the front.
func (r *running) admin(region string) adminv1connect.AdminServiceClient {
	return adminv1connect.NewAdminServiceClient(&http.Client{Transport: scoped{}, Timeout: 20 * time.Second}, r.url(region))
}

func (r *running) link(t testing.TB, action adminv1.LinkRequest_Action, a, b string, delay time.Duration) {
	t.Helper()
	_, err := r.admin("front").Link(context.Background(), connect.NewRequest(&adminv1.LinkRequest{
		Action: action, A: a, B: b, DelayMs: delay.Milliseconds(),
	}))
	if err != nil {
		t.Fatalf("%v %s %s: %v", action, a, b, err)
	}
}

var links = [][2]string{{"us-east", "eu-west"}, {"us-east", "ap-south"}, {"eu-west", "ap-south"}}

// cut cuts links and heals them at the end of the test at the latest.
func (r *running) cut(t testing.TB, which ...[2]string) (heal func()) {
	t.Helper()
	for _, l := range which {
		r.link(t, adminv1.LinkRequest_ACTION_CUT, l[0], l[1], 0)
	}
	heal = func() {
		t.Helper()
		for _, l := range which {
			r.link(t, adminv1.LinkRequest_ACTION_HEAL, l[0], l[1], 0)
		}
	}
	t.Cleanup(heal)
	return heal
}

func (r *running) switchNode(t testing.TB, action adminv1.NodeRequest_Action, node string) {
	t.Helper()
	if _, err := r.admin("front").Node(context.Background(), connect.NewRequest(&adminv1.NodeRequest{Action: action, Node: node})); err != nil {
		t.Fatalf("%v %s: %v", action, node, err)
	}
}

func (r *running) switchRegion(t testing.TB, action adminv1.NodeRequest_Action, region string) {
	t.Helper()
	if _, err := r.admin("front").Region(context.Background(), connect.NewRequest(&adminv1.RegionRequest{Action: action, Region: region})); err != nil {
		t.Fatalf("%v %s: %v", action, region, err)
	}
}

// ready waits until a region takes writes.
func (r *running) ready(t testing.TB, region string) {
	t.Helper()
	s := shopper{t: t, at: r.url, client: http.DefaultClient}
	eventually(t, 20*time.Second, region+" is ready", func() bool {
		a, err := s.try(region, "GET", "/readyz", nil)
		return err == nil && a.status == 200
	})
}

// events reads server-sent events; the channel is closed at the stream's end.
func (s shopper) events(ctx context.Context, region string) <-chan cart {
	s.t.Helper()
	req, err := http.NewRequestWithContext(ctx, "GET", s.at(region)+"/api/v1/cart/watch", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header = s.headers.Clone()
	resp, err := s.client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	out := make(chan cart, 16)
	go func() {
		defer close(out)
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				var c cart
				if json.Unmarshal([]byte(data), &c) == nil {
					out <- c
				}
			}
		}
	}()
	return out
}
