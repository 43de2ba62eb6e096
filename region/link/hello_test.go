package link

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestHelloMismatchIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		tune func(*Config)
		dial string // where the dialer really goes
		want string
	}{
		"cluster":   {tune: func(c *Config) { c.Cluster = "other" }, want: `"r/1" is of cluster "other", "r/2" is of cluster "test"`},
		"address":   {dial: "r/3", want: `"r/1" meant to reach "r/2", this is "r/3"`},
		"same name": {tune: func(c *Config) { c.Self = "r/2x" }, dial: "r/2x", want: "reach"},
		"identity":  {tune: func(c *Config) { c.Self = "r/evil" }, want: `may not call itself "r/evil": not in the certificate`},
		"listener": {tune: func(c *Config) {
			c.Verify = func(net.Conn, string) error { return errors.New("listener's certificate is foreign") }
		}, want: "listener's certificate is foreign"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				verify := func(cfg *Config) {
					cfg.Verify = func(_ net.Conn, node string) error {
						if node == "r/evil" {
							return errors.New("not in the certificate")
						}
						return nil
					}
				}
				for _, n := range []string{"r/2", "r/3", "r/2x"} {
					c.add(t, n, verify, func(m *Mux) { m.Handle(16, echo) })
				}
				cfg := testConfig("r/1", func(ctx context.Context, node string) (net.Conn, error) {
					if tc.dial != "" {
						node = tc.dial
					}
					return c.net.dialer("r/1")(ctx, node)
				})
				if tc.tune != nil {
					tc.tune(&cfg)
				}
				m, err := New(cfg)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = m.Close() }()
				_, err = m.Call(short(t), "r/2", 16, nil)
				if !errors.Is(err, ErrRefused) || !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("err %v, want ErrRefused that says %s", err, tc.want)
				}
			})
		})
	}
}

func TestHelloIsJudged(t *testing.T) {
	good := hello{min: 1, max: 1, cluster: "c", from: "a", to: "b"}
	for name, tc := range map[string]struct {
		change  func(*hello)
		version uint8
		reason  string
	}{
		"good":       {version: 1},
		"newer too":  {change: func(h *hello) { h.max = 9 }, version: 1},
		"too new":    {change: func(h *hello) { h.min, h.max = 2, 9 }, reason: "upgrade the older"},
		"too old":    {change: func(h *hello) { h.min, h.max = 0, 0 }, reason: "upgrade the older"},
		"own name":   {change: func(h *hello) { h.from = "b" }, reason: "a second node"},
		"no name":    {change: func(h *hello) { h.from = "" }, reason: "0 bytes"},
		"long name":  {change: func(h *hello) { h.from = strings.Repeat("x", 256) }, reason: "256 bytes"},
		"other node": {change: func(h *hello) { h.to = "c" }, reason: "address book"},
	} {
		h := good
		if tc.change != nil {
			tc.change(&h)
		}
		version, reason := h.judge("b", "c")
		if version != tc.version || !strings.Contains(reason, tc.reason) || (version == 0) == (reason == "") {
			t.Errorf("%s: %d, %q", name, version, reason)
		}
	}
}

// TestStrangersAreRefused sends a listener what is no hello.
func TestStrangersAreRefused(t *testing.T) {
	for name, send := range map[string]string{
		"http":      "GET / HTTP/1.1\r\n\r\n",
		"too long":  helloMagic + "\xff\xff",
		"malformed": helloMagic + "\x00\x03\x01\x01\xff",
		"nothing":   "",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				c.add(t, "r/2", nil, nil)
				conn, err := c.net.dialer("x")(context.Background(), "r/2")
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = conn.Close() }()
				begin := time.Now()
				_, _ = conn.Write([]byte(send)) // the listener may stop reading midway
				if n, err := conn.Read(make([]byte, 1)); err == nil {
					t.Errorf("%d bytes came back, want the end", n)
				}
				if got := time.Since(begin); got > 2*time.Second {
					t.Errorf("kept for %v", got)
				}
			})
		})
	}
}

// TestDialerRefusesStrangers has a listener answer with what is no welcome.
func TestDialerRefusesStrangers(t *testing.T) {
	for name, send := range map[string][]byte{
		"http":          []byte("HTTP/1.1 400 Bad Request"),
		"malformed":     encodeGreeting([]byte{1, 0xff}),
		"other version": encodeWelcome(welcome{version: 7, cluster: "test", node: "r/2"}),
		"other cluster": encodeWelcome(welcome{version: 1, cluster: "x", node: "r/2"}),
		"other node":    encodeWelcome(welcome{version: 1, cluster: "test", node: "r/3"}),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				ln := c.net.listen("r/2")
				go func() {
					conn, err := ln.Accept()
					if err != nil {
						return
					}
					_, _ = readGreeting(conn)
					_, _ = conn.Write(send)
					_ = conn.Close()
				}()
				a := c.add(t, "r/1", nil, nil)
				if _, err := a.Call(short(t), "r/2", 16, nil); !errors.Is(err, ErrRefused) || !errors.Is(err, ErrUnreachable) {
					t.Errorf("err %v, want ErrRefused", err)
				}
			})
		})
	}
}

func TestAcceptedConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.add(t, "r/2", func(cfg *Config) { cfg.AcceptedMax = 1 }, func(m *Mux) { m.Handle(16, echo) })
		a, b := c.add(t, "r/1", nil, nil), c.add(t, "r/3", nil, nil)
		if _, err := a.Call(short(t), "r/2", 16, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Call(short(t), "r/2", 16, nil); !errors.Is(err, ErrUnreachable) {
			t.Errorf("err %v, want ErrUnreachable", err)
		}
	})
}

// brokenListener fails a few times, as when file descriptors run out.
type brokenListener struct {
	net.Listener
	failures []error
}

func (l *brokenListener) Accept() (net.Conn, error) {
	if len(l.failures) == 0 {
		return l.Listener.Accept()
	}
	err := l.failures[0]
	l.failures = l.failures[1:]
	return nil, err
}

func TestServeOutlivesAcceptErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, err := New(testConfig("r/2", c.net.dialer("r/2")))
		if err != nil {
			t.Fatal(err)
		}
		m.Handle(16, echo)
		served := make(chan error, 1)
		emfile := errors.New("too many open files")
		ln := &brokenListener{Listener: c.net.listen("r/2"), failures: []error{emfile, emfile}}
		go func() { served <- m.Serve(context.Background(), ln) }()
		a := c.add(t, "r/1", nil, nil)
		if _, err := a.Call(short(t), "r/2", 16, nil); err != nil {
			t.Error(err)
		}
		_ = ln.Close() // under Serve's feet
		if err := <-served; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve = %v, want the listener's error", err)
		}
		_ = m.Close()
		if err := m.Serve(context.Background(), c.net.listen("r/2")); err != nil {
			t.Errorf("Serve after Close = %v", err)
		}
	})
}
