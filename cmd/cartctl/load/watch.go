package load

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/samecart/samecart/cmd/cartctl/api"
	"github.com/samecart/samecart/cmd/cartctl/latency"
)

// Watching is many watchers of carts at one address, by server-sent events.
type Watching struct {
	base, bearer string
	carts        Carts
	http         *http.Client

	cancel  context.CancelFunc
	running sync.WaitGroup
	stalled []net.Conn

	mu     sync.Mutex  // guards what follows
	seen   map[int]int // watchers that have a cart's current count, by cart
	want   []uint64    // count that is waited for, by cart
	counts []uint64    // newest count, by watcher
	cartOf []int       // by watcher
	begun  time.Time
	took   latency.Sample // of the edit under way
	enough int            // watchers of the cart that is edited
	done   chan struct{}  // closed when all of them have seen it
	ended  error          // of the first watcher that lost its stream
}

// WatchResult is how long after an edit was sent watchers had it.
type WatchResult struct {
	Edits    int     `json:"edits"`
	P50      float64 `json:"p50_ms"` // of each watcher and edit
	P99      float64 `json:"p99_ms"`
	Max      float64 `json:"max_ms"`
	AckP50   float64 `json:"ack_p50_ms"` // until the edit was acknowledged
	AllP50   float64 `json:"all_p50_ms"` // until the last watcher had it
	AllWorst float64 `json:"all_max_ms"`
}

// opening is how many watchers are opened at once.
const opening = 32

// OpenWatchers opens n watchers, spread over the carts, and returns when each has
// its cart.
func OpenWatchers(ctx context.Context, n int, carts Carts, hc *http.Client, base, bearer string) (*Watching, error) {
	ctx, cancel := context.WithCancel(ctx)
	w := &Watching{
		base: base, bearer: bearer, carts: carts, http: hc, cancel: cancel,
		seen: make(map[int]int), want: make([]uint64, carts.Count), counts: make([]uint64, n), cartOf: make([]int, n), done: make(chan struct{}),
	}
	opened := make(chan error, n)
	slots := make(chan struct{}, opening)
	for i := range n {
		w.cartOf[i] = i % carts.Count
		w.running.Go(func() {
			slots <- struct{}{}
			free := sync.OnceFunc(func() { <-slots })
			first := sync.OnceFunc(func() { free(); opened <- nil })
			err := w.watch(ctx, i, first)
			free()
			if ctx.Err() == nil {
				w.lost(fmt.Errorf("watcher %d: %w", i, err))
				opened <- err
			}
		})
	}
	for range n {
		select {
		case err := <-opened:
			if err != nil {
				w.Close()
				return nil, fmt.Errorf("open watchers: %w", err)
			}
		case <-ctx.Done():
			w.Close()
			return nil, ctx.Err()
		}
	}
	return w, nil
}

// Close ends all watchers.
func (w *Watching) Close() {
	w.cancel()
	for _, c := range w.stalled {
		_ = c.Close() // it is of no more use
	}
	w.running.Wait()
}

var errEnded = errors.New("the stream has ended")

// watch reads one watcher's events until its stream ends; first is called at the
// first.
func (w *Watching) watch(ctx context.Context, i int, first func()) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.base+"/api/v1/cart/watch", nil)
	if err != nil {
		return err
	}
	api.Identity{User: w.carts.Owner(w.cartOf[i]), Bearer: w.bearer}.Apply(req.Header)
	res, err := w.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10)) // it only says why
		return fmt.Errorf("status %d: %s", res.StatusCode, body)
	}
	lines := bufio.NewReaderSize(res.Body, 8<<10)
	for {
		line, err := lines.ReadSlice('\n')
		for errors.Is(err, bufio.ErrBufferFull) { // the count is in the first part of a cart's end
			w.note(i, line, first)
			line, err = lines.ReadSlice('\n')
		}
		if err != nil {
			return errors.Join(errEnded, err)
		}
		w.note(i, line, first)
	}
}

var countBefore, countAfter = []byte(`"item_count":`), []byte(`,"currency"`)

// note looks for the cart's count in a piece of an event.
func (w *Watching) note(i int, piece []byte, first func()) {
	end := bytes.LastIndex(piece, countAfter)
	if end < 0 {
		return
	}
	begin := bytes.LastIndex(piece[:end], countBefore)
	if begin < 0 {
		return
	}
	count, err := strconv.ParseUint(string(piece[begin+len(countBefore):end]), 10, 64)
	if err != nil {
		return
	}
	now := time.Now()
	first()
	w.mu.Lock()
	defer w.mu.Unlock()
	cart := w.cartOf[i]
	w.counts[i] = count
	if count != w.want[cart] || w.enough == 0 {
		return
	}
	w.took = append(w.took, now.Sub(w.begun))
	if w.seen[cart]++; w.seen[cart] == w.enough {
		close(w.done)
	}
}

func (w *Watching) lost(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended == nil {
		w.ended = err
	}
}

// Measure makes edits, one after the other, and waits each time until every
// watcher of that cart has it.
func (w *Watching) Measure(ctx context.Context, edits int, c *CartClient) (WatchResult, error) {
	var each, acks, all latency.Sample
	for n := range edits {
		cart := n % w.carts.Count
		w.mu.Lock()
		w.took, w.done, w.enough = nil, make(chan struct{}), 0
		for i, of := range w.cartOf {
			if of == cart {
				w.enough++
				w.want[cart] = w.counts[i] + 1
			}
		}
		w.seen[cart] = 0
		done := w.done
		w.begun = time.Now()
		begun := w.begun
		w.mu.Unlock()
		if err := c.AddTo(ctx, cart); err != nil {
			return WatchResult{}, fmt.Errorf("edit: %w", err)
		}
		acks = append(acks, time.Since(begun))
		select {
		case <-done:
		case <-ctx.Done():
			return WatchResult{}, ctx.Err()
		case <-time.After(30 * time.Second):
			w.mu.Lock()
			defer w.mu.Unlock()
			return WatchResult{}, errors.Join(fmt.Errorf("edit %d: %d of %d watchers have it after 30 s", n, w.seen[cart], w.enough), w.ended)
		}
		w.mu.Lock()
		w.took.Sort()
		all = append(all, w.took.Percentile(100))
		each = append(each, w.took...)
		w.mu.Unlock()
	}
	each.Sort()
	acks.Sort()
	all.Sort()
	ms := func(s latency.Sample, p float64) float64 { return latency.Milliseconds(s.Percentile(p)) }
	return WatchResult{
		Edits: edits, P50: ms(each, 50), P99: ms(each, 99), Max: ms(each, 100),
		AckP50: ms(acks, 50), AllP50: ms(all, 50), AllWorst: ms(all, 100),
	}, nil
}

// Stall adds watchers of the first cart that never read what they are sent.
func (w *Watching) Stall(ctx context.Context, n int) error {
	u, err := url.Parse(w.base)
	if err != nil {
		return fmt.Errorf("open a watcher that stalls: %w", err)
	}
	header := http.Header{}
	api.Identity{User: w.carts.Owner(0), Bearer: w.bearer}.Apply(header)
	var b strings.Builder
	fmt.Fprintf(&b, "GET /api/v1/cart/watch HTTP/1.1\r\nHost: %s\r\n", u.Host)
	if err := header.Write(&b); err != nil {
		return fmt.Errorf("open a watcher that stalls: %w", err)
	}
	for range n {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", u.Host)
		if err != nil {
			return fmt.Errorf("open a watcher that stalls: %w", err)
		}
		w.stalled = append(w.stalled, conn)
		if tcp, ok := conn.(*net.TCPConn); ok {
			if err := tcp.SetReadBuffer(4 << 10); err != nil { // so that little is on its way
				return fmt.Errorf("open a watcher that stalls: %w", err)
			}
		}
		if _, err := io.WriteString(conn, b.String()+"\r\n"); err != nil {
			return fmt.Errorf("open a watcher that stalls: %w", err)
		}
	}
	return nil
}

// Dropped returns how many of the stalled watchers the server has given up after
// some time. They take what was sent to them then, and stall no more.
func (w *Watching) Dropped(ctx context.Context, after time.Duration) (n int) {
	select {
	case <-ctx.Done():
	case <-time.After(after):
	}
	for _, c := range w.stalled {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetReadBuffer(1 << 20) // it reads slowly with less
		}
		if c.SetReadDeadline(time.Now().Add(time.Second)) == nil {
			if _, err := io.Copy(io.Discard, c); !isTimeout(err) {
				n++
			}
		}
	}
	return n
}

func isTimeout(err error) bool {
	var net net.Error
	return errors.As(err, &net) && net.Timeout()
}
