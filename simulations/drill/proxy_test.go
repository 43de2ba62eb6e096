package drill

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// echo answers with what it is sent, behind a proxy of the way a>b.
func echo(t *testing.T) (*links, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newLinks()
	addr, err := l.open(way{"a", "b"}, ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close(); l.close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	return l, addr
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// answers reports how long an echo took.
func answers(t *testing.T, c net.Conn, text string, within time.Duration) (time.Duration, error) {
	t.Helper()
	begun := time.Now()
	if _, err := io.WriteString(c, text); err != nil {
		return 0, err
	}
	_ = c.SetReadDeadline(begun.Add(within))
	b := make([]byte, len(text))
	_, err := io.ReadFull(c, b)
	if err == nil && string(b) != text {
		t.Fatalf("%q came back as %q", text, b)
	}
	return time.Since(begun), err
}

func TestProxyCarries(t *testing.T) {
	_, addr := echo(t)
	c := dial(t, addr)
	if _, err := answers(t, c, "hello", time.Second); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(c); err != nil || len(rest) != 0 {
		t.Errorf("after a half close: %q, %v", rest, err)
	}
}

func TestProxyCuts(t *testing.T) {
	for _, w := range []way{{"a", "b"}, {"b", "a"}} {
		l, addr := echo(t)
		c := dial(t, addr)
		if _, err := answers(t, c, "hello", time.Second); err != nil {
			t.Fatal(err)
		}
		l.set(w, trouble{Cut: true})
		if _, err := answers(t, c, "again", time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v: an open connection: %v, want a reset", w, err)
		}
		if c, err := net.Dial("tcp", addr); err == nil { // or it is reset before that returns
			if _, err := answers(t, c, "new", time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%v: a new connection: %v, want a reset", w, err)
			}
			_ = c.Close()
		}
		l.heal()
		if _, err := answers(t, dial(t, addr), "healed", time.Second); err != nil {
			t.Errorf("%v: after it: %v", w, err)
		}
	}
}

func TestProxyIsMute(t *testing.T) {
	for _, w := range []way{{"a", "b"}, {"b", "a"}} {
		l, addr := echo(t)
		c := dial(t, addr)
		l.set(w, trouble{Mute: true})
		if _, err := answers(t, c, "hello", 100*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%v: %v, want silence", w, err)
		}
		l.heal()
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		b := make([]byte, 5)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
			t.Errorf("%v: what was held comes as %q, %v", w, b, err)
		}
	}
}

func TestProxyDelaysAndBounds(t *testing.T) {
	l, addr := echo(t)
	c := dial(t, addr)
	l.set(way{"a", "b"}, trouble{Delay: 80 * time.Millisecond})
	if took, err := answers(t, c, "hello", time.Second); err != nil || took < 80*time.Millisecond {
		t.Errorf("delayed by 80 ms: %v, %v", took, err)
	}
	l.set(way{"a", "b"}, trouble{})
	l.set(way{"b", "a"}, trouble{Rate: 10_000})
	if took, err := answers(t, c, string(make([]byte, 2000)), 2*time.Second); err != nil || took < 150*time.Millisecond {
		t.Errorf("2,000 bytes at 10,000 a second: %v, %v", took, err)
	}
	l.heal()
	if took, err := answers(t, c, string(make([]byte, 2000)), 2*time.Second); err != nil || took > time.Second {
		t.Errorf("healed: %v, %v", took, err)
	}
}
