package network

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// ways is what a test makes of a network.
type ways struct {
	mu sync.Mutex
	m  map[string]Way // "a>b"
}

func (w *ways) set(from, to string, way Way) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m == nil {
		w.m = make(map[string]Way)
	}
	w.m[from+">"+to] = way
}

func (w *ways) way(from, to string) Way {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.m[from+">"+to]
}

// connected is a connection from a to b: both ends.
func connected(t *testing.T, n *Network) (a, b *Host, near, far net.Conn) {
	t.Helper()
	a, b = n.Host("a"), n.Host("b")
	ln, err := b.Listen("1")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan net.Conn, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			t.Error(err)
		}
		got <- c
	}()
	near, err = a.Dial(context.Background(), "b:1")
	if err != nil {
		t.Fatal(err)
	}
	return a, b, near, <-got
}

func read(t *testing.T, c net.Conn, n int) string {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

func TestLatencyAndBandwidth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w ways
		w.set("a", "b", Way{Latency: 40 * time.Millisecond, Bandwidth: 1000})
		n := New(1, w.way, nil)
		_, _, near, far := connected(t, n)
		begin := time.Now()
		write(t, near, strings.Repeat("x", 500))
		write(t, near, strings.Repeat("y", 500))
		read(t, far, 1000)
		if took := time.Since(begin); took < 1040*time.Millisecond || took > 1050*time.Millisecond {
			t.Errorf("1000 bytes at 1000 a second over 40 ms took %v", took)
		}
		begin = time.Now()
		write(t, far, "z") // the other direction is well
		read(t, near, 1)
		if took := time.Since(begin); took > time.Millisecond {
			t.Errorf("the other way took %v", took)
		}
	})
}

// A cut of one direction holds what is sent and lets the other pass; once it has
// healed, everything comes, in order.
func TestCutOfOneDirection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w ways
		n := New(1, w.way, nil)
		_, _, near, far := connected(t, n)
		w.set("a", "b", Way{Cut: true})
		write(t, near, "held")
		write(t, far, "back")
		if got := read(t, near, 4); got != "back" {
			t.Errorf("got %q", got)
		}
		_ = far.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := far.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read through a cut: %v", err)
		}
		_ = far.SetReadDeadline(time.Time{})
		w.set("a", "b", Way{})
		n.Healed()
		write(t, near, " more")
		if got := read(t, far, 9); got != "held more" {
			t.Errorf("got %q", got)
		}
		if n.Stats().Held != 1 {
			t.Errorf("%+v", n.Stats())
		}
	})
}

func TestDialThroughACut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w ways
		n := New(1, w.way, nil)
		a, b := n.Host("a"), n.Host("b")
		if _, err := b.Listen("1"); err != nil {
			t.Fatal(err)
		}
		w.set("b", "a", Way{Cut: true}) // the answer is lost
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if _, err := a.Dial(ctx, "b:1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial: %v", err)
		}
		if _, err := a.Dial(context.Background(), "nobody:1"); !errors.Is(err, errRefused) {
			t.Errorf("dial nobody: %v", err)
		}
	})
}

// Those who speak with a killed process are told; with a machine without power,
// they are not.
func TestKill(t *testing.T) {
	for _, silent := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var w ways
			n := New(1, w.way, nil)
			_, b, near, far := connected(t, n)
			b.Kill(silent)
			if _, err := far.Write([]byte("x")); err == nil {
				t.Error("a dead host writes")
			}
			_ = near.SetReadDeadline(time.Now().Add(time.Second))
			_, err := near.Read(make([]byte, 1))
			if silent != errors.Is(err, os.ErrDeadlineExceeded) || !silent && !errors.Is(err, errReset) {
				t.Errorf("silent %v: read: %v", silent, err)
			}
			n.Host("b") // the name is free again
		})
	}
}

// Loss shows as lateness: nothing is missing, and nothing overtakes.
func TestLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w ways
		w.set("a", "b", Way{Loss: 0.3})
		n := New(3, w.way, nil)
		_, _, near, far := connected(t, n)
		begin := time.Now()
		for i := range 100 {
			write(t, near, string(rune('0'+i%10)))
		}
		if got := read(t, far, 100); got != strings.Repeat("0123456789", 10) {
			t.Errorf("got %q", got)
		}
		if n.Stats().Lost == 0 || time.Since(begin) < resend {
			t.Errorf("%+v after %v", n.Stats(), time.Since(begin))
		}
	})
}

// A writer waits while a reader does not take what it sends.
func TestBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w ways
		n := New(1, w.way, nil)
		_, _, near, far := connected(t, n)
		_ = near.SetWriteDeadline(time.Now().Add(time.Second))
		sent, err := near.Write(make([]byte, 2*buffer))
		if sent != buffer || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("sent %d: %v", sent, err)
		}
		go func() { _, _ = io.Copy(io.Discard, far) }()
		_ = near.SetWriteDeadline(time.Time{})
		if _, err := near.Write(make([]byte, 2*buffer)); err != nil {
			t.Error(err)
		}
		_ = near.Close()
		time.Sleep(time.Second) // until the reader has heard of it
	})
}

// net/http runs over it, and ends when it is closed.
func TestHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w ways
		n := New(1, w.way, nil)
		a, b := n.Host("a"), n.Host("b")
		ln, err := b.Listen("80")
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })}
		go func() { _ = s.Serve(ln) }()
		tr := &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return a.Dial(ctx, addr) }}
		for range 3 {
			resp, err := (&http.Client{Transport: tr}).Post("http://b/", "text/plain", strings.NewReader("hello"))
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if string(body) != "hello" {
				t.Errorf("got %q", body)
			}
		}
		if n.Stats().Dials != 1 {
			t.Errorf("%d dials for three calls", n.Stats().Dials)
		}
		tr.CloseIdleConnections()
		_ = s.Close()
	})
}
