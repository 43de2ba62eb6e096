package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/samecart/samecart/rpc"
)

var usEU = pairOf("us-east", "eu-west")

// linked returns both ends of a connection over a link: ours is subject to
// its faults.
func linked(t *testing.T, f *faults) (ours, far net.Conn) {
	t.Helper()
	near, far := net.Pipe()
	ours, err := f.wrap(usEU, near)
	if err != nil {
		t.Fatal(err)
	}
	return ours, far
}

func TestCutClosesAndRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFaults()
		ours, far := linked(t, f)
		f.set(pairOf("eu-west", "us-east"), true, 0) // in whichever order it is named
		if _, err := ours.Read(make([]byte, 1)); err == nil {
			t.Error("read over a cut link")
		}
		if _, err := far.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the far end sees %v", err)
		}
		near, far := net.Pipe()
		if _, err := f.wrap(usEU, near); err == nil || !strings.Contains(err.Error(), "eu-west–us-east is cut") {
			t.Errorf("a connection over a cut link: %v", err)
		}
		if _, err := far.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the refused connection is open: %v", err)
		}
		if _, err := f.dialer("us-east", "eu-west")(t.Context(), "tcp", "127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "is cut") {
			t.Errorf("dial over a cut link: %v", err)
		}
		if cut, _ := f.state(usEU); !cut {
			t.Error("the cut is not shown")
		}
		// Other links go on.
		near, far = net.Pipe()
		other, err := f.wrap(pairOf("us-east", "ap-south"), near)
		if err != nil {
			t.Fatal(err)
		}
		exchangeByte(t, other, far)
		f.set(usEU, false, 0)
		exchangeByte(t, other, far)
		ours, far = linked(t, f)
		exchangeByte(t, ours, far)
		if len(f.links[usEU].ends) != 1 {
			t.Errorf("%d connections are known, want 1", len(f.links[usEU].ends))
		}
		for range 2 {
			_ = ours.Close()
		}
		if f.links[usEU] != nil {
			t.Error("the link is still remembered")
		}
		_ = other.Close()
	})
}

func exchangeByte(t *testing.T, a, b net.Conn) {
	t.Helper()
	go func() { _, _ = a.Write([]byte{7}) }()
	got := make([]byte, 1)
	if _, err := b.Read(got); err != nil || got[0] != 7 {
		t.Errorf("read %v, %v", got, err)
	}
}

func TestDelayKeepsOrderAndTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const delay = 200 * time.Millisecond
		f := newFaults()
		f.set(usEU, false, delay)
		ours, far := linked(t, f)
		begin := time.Now()
		for way, c := range map[string]struct{ from, to net.Conn }{"out": {ours, far}, "in": {far, ours}} {
			var sent, got bytes.Buffer
			start := time.Now()
			var sending sync.WaitGroup
			sending.Go(func() {
				for i := range 50 { // 50 parcels, 10 ms apart: more than one is under way
					part := bytes.Repeat([]byte{byte(i)}, i*100+1)
					sent.Write(part)
					if _, err := c.from.Write(part); err != nil {
						t.Error(err)
					}
					time.Sleep(10 * time.Millisecond)
				}
			})
			b := make([]byte, 64<<10)
			for want := 50 + 100*49*50/2; got.Len() < want; {
				n, err := c.to.Read(b)
				if err != nil {
					t.Fatal(err)
				}
				if got.Len() == 0 && time.Since(start) != delay {
					t.Errorf("%s: the first byte came after %v", way, time.Since(start))
				}
				got.Write(b[:n])
				// Each on its own time: i × 10 ms + delay.
				if i := int(b[n-1]); time.Since(start) != time.Duration(i)*10*time.Millisecond+delay {
					t.Errorf("%s: parcel %d came after %v", way, i, time.Since(start))
				}
			}
			sending.Wait()
			if !bytes.Equal(sent.Bytes(), got.Bytes()) {
				t.Errorf("%s: bytes are in another order", way)
			}
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("the delay bounds the rate: %v", took)
		}
		_ = ours.Close()
		if _, err := ours.Write([]byte{1}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after close: %v", err)
		}
		if _, err := ours.Read(b1()); err == nil {
			t.Error("read after close")
		}
		_ = far.Close()
		synctest.Wait() // the bubble fails when a goroutine stays
	})
}

func b1() []byte { return make([]byte, 1) }

// What was on its way when the far end closed still arrives, then the end.
func TestDelayedEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFaults()
		f.set(usEU, false, time.Second)
		ours, far := linked(t, f)
		go func() {
			_, _ = far.Write([]byte("last words"))
			_ = far.Close()
		}()
		b, err := io.ReadAll(ours)
		if string(b) != "last words" || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
		_ = ours.Close()
	})
}

// A change of the fault ends what is open: it was opened under another.
func TestDelayedConnectionIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFaults()
		f.set(usEU, false, time.Hour)
		ours, far := linked(t, f)
		go func() { _, _ = ours.Write([]byte("under way for an hour")) }()
		synctest.Wait()
		f.set(usEU, true, 0)
		if _, err := far.Read(b1()); !errors.Is(err, io.EOF) {
			t.Errorf("the far end sees %v", err)
		}
		if _, err := ours.Read(b1()); err == nil {
			t.Error("read over a cut link")
		}
		_ = ours.Close()
	})
}

func TestGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFaults()
		entered := make(chan struct{}, 1)
		h := f.guard("us-east", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			entered <- struct{}{}
			<-r.Context().Done() // until the caller or a fault ends it
		}))
		call := func(ctx context.Context, from string) *httptest.ResponseRecorder {
			r := httptest.NewRequestWithContext(ctx, "POST", "/", nil)
			r.Header.Set(rpc.HeaderRegion, from)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w
		}
		var calls sync.WaitGroup
		calls.Go(func() { call(t.Context(), "eu-west") })
		<-entered
		f.set(usEU, true, 0)
		calls.Wait() // ended by the cut
		if w := call(t.Context(), "eu-west"); w.Code != http.StatusServiceUnavailable {
			t.Errorf("a call over a cut link: %d", w.Code)
		}
		f.set(usEU, false, time.Minute)
		begin := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		calls.Go(func() { call(ctx, "eu-west") })
		<-entered
		if took := time.Since(begin); took != time.Minute {
			t.Errorf("a call over a link of 1m came after %v", took)
		}
		cancel()
		calls.Wait()
		// One that gives up before its time never arrives.
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		call(ctx, "eu-west")
		if len(entered) != 0 {
			t.Error("a call that was given up arrived")
		}
		// Names come from outside: they are not remembered.
		f.set(usEU, false, 0)
		for _, from := range []string{"", "mars", "venus"} {
			ctx, cancel := context.WithCancel(t.Context())
			calls.Go(func() { call(ctx, from) })
			<-entered
			cancel()
			calls.Wait()
			f.state(pairOf("us-east", from))
		}
		if len(f.links) != 0 {
			t.Errorf("%d links are remembered", len(f.links))
		}
	})
}
