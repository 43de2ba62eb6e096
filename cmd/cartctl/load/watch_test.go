package load

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
)

// shop counts what is added and shows it to watchers; some adds fail first.
type shop struct {
	cartv1connect.UnimplementedCartServiceHandler

	mu       sync.Mutex
	counts   map[string]int
	changed  chan struct{}
	adds     int
	failures int // of the next adds
}

func (s *shop) AddItem(_ context.Context, req *connect.Request[cartv1.AddItemRequest]) (*connect.Response[cartv1.ItemResponse], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures > 0 {
		s.failures--
		return nil, connect.NewError(connect.CodeUnavailable, nil)
	}
	s.counts[req.Header().Get("X-User-Id")]++
	s.adds++
	close(s.changed)
	s.changed = make(chan struct{})
	return connect.NewResponse(&cartv1.ItemResponse{}), nil
}

func (s *shop) watch(w http.ResponseWriter, r *http.Request) {
	for last := -1; ; {
		s.mu.Lock()
		count, changed := s.counts[r.Header.Get("X-User-Id")], s.changed
		s.mu.Unlock()
		if count != last {
			fmt.Fprintf(w, "id: x\ndata: {\"items\":[%s],\"sellers\":[{\"item_count\":7}],\"item_count\":%d,\"currency\":\"USD\"}\n\n", strings.Repeat("1,", 8000), count)
			w.(http.Flusher).Flush()
			last = count
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

func TestWatchingMeasuresEveryWatcher(t *testing.T) {
	s := &shop{counts: map[string]int{}, changed: make(chan struct{}), failures: 2}
	mux := http.NewServeMux()
	mux.Handle(cartv1connect.NewCartServiceHandler(s))
	mux.HandleFunc("GET /api/v1/cart/watch", s.watch)
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	carts := NewCarts(3, 2)
	w, err := OpenWatchers(t.Context(), 10, carts, srv.Client(), srv.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	if err := w.Stall(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	c := NewCartClient(1, carts, srv.Client(), srv.URL, "", false)
	got, err := w.Measure(t.Context(), 6, c)
	if err != nil || got.Edits != 6 || got.P50 <= 0 || got.P99 < got.P50 || got.Max < got.P99 || got.AllWorst < got.AllP50 {
		t.Errorf("%+v, %v", got, err)
	}
	if s.adds != 6 {
		t.Errorf("%d adds", s.adds)
	}
	if n := w.Dropped(t.Context(), time.Millisecond); n != 0 {
		t.Errorf("%d stalled watchers dropped by a server that drops none", n)
	}
}

func TestWatchersThatCannotBeOpened(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(srv.Close)
	if _, err := OpenWatchers(t.Context(), 3, NewCarts(1, 1), srv.Client(), srv.URL, ""); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("%v", err)
	}
}
