package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const kindEcho Kind = 16

func echo(_ context.Context, from string, payload []byte) ([]byte, error) {
	return append([]byte(from+":"), payload...), nil
}

func TestCallsBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		setup := func(m *Mux) { m.Handle(kindEcho, echo) }
		a, b := c.add(t, "r/1", nil, setup), c.add(t, "r/2", nil, setup)
		for _, tc := range []struct {
			from *node
			to   string
			want string
		}{{a, "r/2", "r/1:x"}, {b, "r/1", "r/2:x"}, {a, "r/1", "r/1:x"}} {
			got, err := tc.from.Call(short(t), tc.to, kindEcho, []byte("x"))
			if err != nil || string(got) != tc.want {
				t.Errorf("call %s = %q, %v; want %q", tc.to, got, err, tc.want)
			}
		}
		if c.net.dials != 2 {
			t.Errorf("%d dials, want one per ordered pair: 2", c.net.dials)
		}
		if got, err := a.Call(short(t), "r/2", kindEcho, nil); err != nil || string(got) != "r/1:" {
			t.Errorf("empty payload = %q, %v", got, err)
		}
	})
}

func TestManyCallsShareOneDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a := c.add(t, "r/1", nil, nil)
		c.add(t, "r/2", nil, func(m *Mux) { m.Handle(kindEcho, echo) })
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				want := fmt.Sprintf("r/1:%d", i)
				got, err := a.Call(short(t), "r/2", kindEcho, []byte(fmt.Sprint(i)))
				if err != nil || string(got) != want {
					t.Errorf("call %d = %q, %v", i, got, err)
				}
			})
		}
		wg.Wait()
		if c.net.dials != 1 {
			t.Errorf("%d dials, want 1", c.net.dials)
		}
	})
}

func TestErrorsCross(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		full := &Error{Code: 409, Message: "line is gone", Detail: []byte{1, 0, 2}}
		setup := func(m *Mux) {
			m.Handle(16, func(context.Context, string, []byte) ([]byte, error) { return nil, fmt.Errorf("wrapped: %w", full) })
			m.Handle(17, func(context.Context, string, []byte) ([]byte, error) { return nil, errors.New("plain") })
			m.Handle(18, func(context.Context, string, []byte) ([]byte, error) { return make([]byte, 5<<20), nil })
		}
		a := c.add(t, "r/1", nil, setup)
		c.add(t, "r/2", nil, setup)
		for _, to := range []string{"r/1", "r/2"} {
			_, err := a.Call(short(t), to, 16, nil)
			var e *Error
			if !errors.As(err, &e) || e.Code != 409 || e.Message != full.Message || !bytes.Equal(e.Detail, full.Detail) {
				t.Errorf("to %s: %#v, want %#v", to, err, full)
			}
			_, err = a.Call(short(t), to, 17, nil)
			if !errors.As(err, &e) || e.Code != 0 || e.Message != "plain" || e.Detail != nil {
				t.Errorf("to %s: %#v, want the text alone", to, err)
			}
			if _, err = a.Call(short(t), to, 99, nil); !errors.Is(err, ErrUnknownKind) {
				t.Errorf("to %s: %v, want ErrUnknownKind", to, err)
			}
			if _, err = a.Call(short(t), to, kindRaft, nil); !errors.Is(err, ErrUnknownKind) {
				t.Errorf("to %s: reserved kind: %v", to, err)
			}
		}
		_, err := a.Call(short(t), "r/2", 18, nil)
		if !errors.Is(err, ErrAnswerTooLarge) || errors.Is(err, ErrTooLarge) {
			t.Errorf("large answer: %v", err)
		}
		_, err = a.Call(short(t), "r/2", 17, make([]byte, 4<<20))
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("large request: %v", err)
		}
	})
}

func TestErrorText(t *testing.T) {
	if got := (&Error{Message: "m"}).Error(); got != "m" {
		t.Error(got)
	}
	if got := (&Error{Code: 7, Message: "m"}).Error(); got != "m (code 7)" {
		t.Error(got)
	}
}

// block answers when its context ends, and tells of it.
type block struct {
	began, ended chan struct{}
	deadline     atomic.Int64 // the handler's time left, ns
}

func newBlock() *block {
	return &block{began: make(chan struct{}, 1000), ended: make(chan struct{}, 1000)}
}

func (b *block) handle(ctx context.Context, _ string, _ []byte) ([]byte, error) {
	if d, ok := ctx.Deadline(); ok {
		b.deadline.Store(int64(time.Until(d)))
	}
	b.began <- struct{}{}
	<-ctx.Done()
	b.ended <- struct{}{}
	return nil, ctx.Err()
}

func TestDeadlineTravels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		h := newBlock()
		a := c.add(t, "r/1", nil, nil)
		c.add(t, "r/2", nil, func(m *Mux) { m.Handle(16, h.handle) })
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		begin := time.Now()
		_, err := a.Call(ctx, "r/2", 16, nil)
		var crossed *Error // the handler's own deadline may answer first
		if !errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &crossed) {
			t.Errorf("err %v", err)
		}
		<-h.ended
		if got := time.Since(begin); got < 3*time.Second || got > 3100*time.Millisecond {
			t.Errorf("took %v, want 3 s", got)
		}
		if got := time.Duration(h.deadline.Load()); got <= 2900*time.Millisecond || got > 3001*time.Millisecond {
			t.Errorf("handler saw %v left, want about 3 s", got)
		}
	})
}

func TestCancelFreesTheSlotAndTheHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		h := newBlock()
		tune := func(cfg *Config) { cfg.InFlightMax = 2 }
		a := c.add(t, "r/1", tune, nil)
		c.add(t, "r/2", tune, func(m *Mux) { m.Handle(16, h.handle); m.Handle(17, echo) })
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if _, err := a.Call(ctx, "r/2", 16, nil); !errors.Is(err, context.Canceled) {
					t.Errorf("err %v, want Canceled", err)
				}
			})
			<-h.began
		}
		if _, err := a.Call(short(t), "r/2", 17, nil); !errors.Is(err, ErrOverloaded) {
			t.Errorf("third call: %v, want ErrOverloaded", err)
		}
		cancel()
		wg.Wait()
		<-h.ended
		<-h.ended
		synctest.Wait()
		if _, err := a.Call(short(t), "r/2", 17, nil); err != nil {
			t.Errorf("after cancel: %v", err)
		}
	})
}

// Whoever waits for something takes no place of those who call, at either end;
// nor is there room for ever more of them.
func TestWaitingCallsAreCountedApart(t *testing.T) {
	for name, bounded := range map[string]int{"caller's bounds": 0, "listener's bounds": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				h := newBlock()
				tune := []func(*Config){nil, nil}
				tune[bounded] = func(cfg *Config) { cfg.InFlightMax, cfg.WaitingMax = 1, 3 }
				a := c.add(t, "r/1", tune[0], nil)
				c.add(t, "r/2", tune[1], func(m *Mux) { m.Handle(KindWaits, h.handle); m.Handle(17, echo) })
				ctx, cancel := context.WithCancel(context.Background())
				var wg sync.WaitGroup
				for range 3 {
					wg.Go(func() { _, _ = a.Call(ctx, "r/2", KindWaits, nil) }) // ends with ctx
					<-h.began
				}
				for range 2 {
					if _, err := a.Call(short(t), "r/2", 17, nil); err != nil {
						t.Errorf("a call beside three that wait: %v", err)
					}
				}
				if _, err := a.Call(short(t), "r/2", KindWaits, nil); !errors.Is(err, ErrOverloaded) {
					t.Errorf("a fourth that waits: %v, want ErrOverloaded", err)
				}
				cancel()
				wg.Wait()
				for range 3 {
					<-h.ended
				}
				synctest.Wait()
				wg.Go(func() { _, _ = a.Call(short(t), "r/2", KindWaits, nil) }) // ends with the test
				<-h.began
				wg.Wait()
			})
		})
	}
}

func TestCancelKeepsTheCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		h := newBlock()
		a := c.add(t, "r/1", nil, nil)
		c.add(t, "r/2", nil, func(m *Mux) { m.Handle(16, h.handle) })
		why := errors.New("shopper left")
		ctx, cancel := context.WithCancelCause(context.Background())
		go func() { <-h.began; cancel(why) }()
		_, err := a.Call(ctx, "r/2", 16, nil)
		if !errors.Is(err, context.Canceled) || !errors.Is(err, why) {
			t.Errorf("err %v, want Canceled and its cause", err)
		}
	})
}

func TestListenerBoundsHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		h := newBlock()
		a := c.add(t, "r/1", nil, nil)
		c.add(t, "r/2", func(cfg *Config) { cfg.InFlightMax = 1 }, func(m *Mux) { m.Handle(16, h.handle) })
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _, _ = a.Call(ctx, "r/2", 16, nil) }()
		<-h.began
		if _, err := a.Call(short(t), "r/2", 16, nil); !errors.Is(err, ErrOverloaded) || !strings.Contains(err.Error(), "r/2") {
			t.Errorf("second call: %v, want ErrOverloaded at r/2", err)
		}
		cancel()
		<-done
	})
}

func TestConnectionLostOrNeverReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		h := newBlock()
		a := c.add(t, "r/1", nil, nil)
		c.add(t, "r/2", nil, func(m *Mux) { m.Handle(16, h.handle); m.Handle(17, echo) })

		_, err := a.Call(short(t), "r/9", 16, nil)
		if !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrConnectionLost) {
			t.Errorf("no such node: %v, want ErrUnreachable", err)
		}

		time.Sleep(time.Second)
		lost := make(chan error, 1)
		go func() { _, err := a.Call(short(t), "r/2", 16, nil); lost <- err }()
		<-h.began
		time.Sleep(2 * time.Second) // a connection that was stable
		c.net.cut("r/1", "r/2")
		if err := <-lost; !errors.Is(err, ErrConnectionLost) || errors.Is(err, ErrUnreachable) {
			t.Errorf("cut mid-call: %v, want ErrConnectionLost", err)
		}
		<-h.ended // the handler's context ends with the connection
		if got, err := a.Call(short(t), "r/2", 17, []byte("again")); err != nil || string(got) != "r/1:again" {
			t.Errorf("after the cut: %q, %v", got, err)
		}

		if err := c.nodes["r/2"].shut(); err != nil {
			t.Errorf("Serve = %v, want nil when its context ends", err)
		}
		synctest.Wait()
		_, err = a.Call(short(t), "r/2", 17, nil)
		if !errors.Is(err, ErrUnreachable) {
			t.Errorf("server gone: %v, want ErrUnreachable", err)
		}
		c.add(t, "r/2", nil, func(m *Mux) { m.Handle(17, echo) })
		time.Sleep(time.Second) // longer than the longest pause
		if _, err = a.Call(short(t), "r/2", 17, nil); err != nil {
			t.Errorf("server back: %v", err)
		}
	})
}

func TestDeadPeerDoesNotBlockCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		hang := func(ctx context.Context, node string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		a := c.add(t, "r/1", func(cfg *Config) { cfg.Dial = hang }, nil)
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		begin := time.Now()
		_, err := a.Call(ctx, "r/2", 16, nil)
		if !errors.Is(err, ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err %v, want ErrUnreachable and DeadlineExceeded", err)
		}
		if got := time.Since(begin); got != 50*time.Millisecond {
			t.Errorf("blocked for %v, want 50 ms", got)
		}
		begin = time.Now()
		if _, err = a.Call(context.Background(), "r/2", 16, nil); !errors.Is(err, ErrUnreachable) {
			t.Errorf("err %v", err)
		}
		if got := time.Since(begin); got > 2*time.Second {
			t.Errorf("blocked for %v, more than the dial's limit", got)
		}
		begin = time.Now()
		if _, err = a.Call(context.Background(), "r/2", 16, nil); !errors.Is(err, ErrUnreachable) || time.Since(begin) != 0 {
			t.Errorf("right after a failed dial: %v after %v, want ErrUnreachable at once", err, time.Since(begin))
		}
		if _, err = a.Call(ctx, "r/3", 16, nil); !errors.Is(err, ErrUnreachable) {
			t.Errorf("ended context: %v, want ErrUnreachable", err)
		}
	})
}

func TestBackoffBoundsDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a := c.add(t, "r/1", nil, nil)
		end := time.Now().Add(time.Minute)
		for time.Now().Before(end) {
			_, _ = a.Call(short(t), "r/2", 16, nil)
			time.Sleep(time.Millisecond)
		}
		// 500 ms less a quarter at most between two, after a few short ones.
		if c.net.dials < 100 || c.net.dials > 180 {
			t.Errorf("%d dials in a minute", c.net.dials)
		}
	})
}

func TestSilentPeerIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		// A listener that greets and then neither reads nor writes.
		ln := c.net.listen("r/2")
		held := make(chan net.Conn, 1)
		go func() {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			if _, err := readGreeting(conn); err != nil {
				t.Error(err)
			}
			_, _ = conn.Write(encodeWelcome(welcome{version: 1, cluster: "test", node: "r/2"}))
			held <- conn
		}()
		a := c.add(t, "r/1", nil, nil)
		begin := time.Now()
		_, err := a.Call(context.Background(), "r/2", 16, nil)
		if !errors.Is(err, ErrConnectionLost) {
			t.Errorf("err %v, want ErrConnectionLost", err)
		}
		if got := time.Since(begin); got != 4*time.Second {
			t.Errorf("gave up after %v, want PeerTimeout", got)
		}
		_ = (<-held).Close()
	})
}

func TestIdleLinkStaysUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		var downs atomic.Int32
		a := c.add(t, "r/1", func(cfg *Config) { cfg.Events.Disconnected = func(Disconnected) { downs.Add(1) } }, nil)
		c.add(t, "r/2", nil, func(m *Mux) { m.Handle(16, echo) })
		for range 3 {
			if _, err := a.Call(short(t), "r/2", 16, nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Minute)
		}
		if downs.Load() != 0 || c.net.dials != 1 {
			t.Errorf("%d ends, %d dials; want 0 and 1", downs.Load(), c.net.dials)
		}
	})
}

func TestCloseFailsPendingCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		h := newBlock()
		a := c.add(t, "r/1", nil, func(m *Mux) { m.Handle(16, echo) })
		c.add(t, "r/2", nil, func(m *Mux) { m.Handle(16, h.handle) })
		pending := make(chan error, 1)
		go func() { _, err := a.Call(context.Background(), "r/2", 16, nil); pending <- err }()
		<-h.began
		_ = a.Close()
		_ = a.Close()
		if err := <-pending; !errors.Is(err, ErrClosed) || !errors.Is(err, ErrConnectionLost) {
			t.Errorf("pending call: %v, want ErrClosed and ErrConnectionLost", err)
		}
		for _, to := range []string{"r/1", "r/2", "r/3"} {
			if _, err := a.Call(context.Background(), to, 16, nil); !errors.Is(err, ErrClosed) || !errors.Is(err, ErrUnreachable) {
				t.Errorf("after Close to %s: %v, want ErrClosed and ErrUnreachable", to, err)
			}
		}
		if err := <-a.served; err != nil {
			t.Errorf("Serve = %v, want nil after Close", err)
		}
		a.served <- nil
		if a.spawn(func() {}) {
			t.Error("a goroutine started after Close")
		}
		// The bubble itself proves that no goroutine is left.
	})
}

func TestCloseEndsADialUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		ln := c.net.listen("r/2") // accepts and never greets
		go func() {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = readGreeting(conn)
			_, _ = conn.Read(make([]byte, 1))
		}()
		a := c.add(t, "r/1", nil, nil)
		failed := make(chan error, 1)
		go func() { _, err := a.Call(context.Background(), "r/2", 16, nil); failed <- err }()
		synctest.Wait()
		begin := time.Now()
		_ = a.Close()
		if err := <-failed; !errors.Is(err, ErrUnreachable) {
			t.Errorf("err %v", err)
		}
		if time.Since(begin) != 0 {
			t.Errorf("Close waited %v", time.Since(begin))
		}
	})
}

func TestNewerConnectionReplacesOlder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		b := c.add(t, "r/2", nil, func(m *Mux) { m.Handle(16, echo) })
		first := c.add(t, "r/1", nil, nil)
		if _, err := first.Call(short(t), "r/2", 16, nil); err != nil {
			t.Fatal(err)
		}
		// The node restarted and its old connection still stands.
		cfg := testConfig("r/1", c.net.dialer("r/1"))
		second, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = second.Close() }()
		if _, err := second.Call(short(t), "r/2", 16, nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		b.mu.RLock()
		n := len(b.accepted)
		b.mu.RUnlock()
		if n != 1 {
			t.Errorf("%d connections of one node, want 1", n)
		}
		if p := first.peers["r/2"]; p.current() != nil {
			t.Error("the older connection is still up")
		}
	})
}

func TestSlowReaderIsOverloadNotMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		ln := c.net.listen("r/2") // greets and reads nothing more
		conns := make(chan net.Conn, 1)
		go func() {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = readGreeting(conn)
			_, _ = conn.Write(encodeWelcome(welcome{version: 1, cluster: "test", node: "r/2"}))
			conns <- conn
		}()
		a := c.add(t, "r/1", func(cfg *Config) { cfg.FrameBytesMax, cfg.QueueBytesMax = 64<<10, 128<<10 }, nil)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		var overloaded, waited atomic.Int32
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				_, err := a.Call(ctx, "r/2", 16, make([]byte, 60<<10))
				switch {
				case errors.Is(err, ErrOverloaded):
					overloaded.Add(1)
				case errors.Is(err, context.DeadlineExceeded):
					waited.Add(1)
				default:
					t.Errorf("err %v", err)
				}
			})
		}
		wg.Wait()
		if overloaded.Load() < 15 || waited.Load() < 2 {
			t.Errorf("%d overloaded, %d waited", overloaded.Load(), waited.Load())
		}
		_ = (<-conns).Close()
	})
}

func TestSettingsAreChecked(t *testing.T) {
	good := DefaultConfig("r/1", "test", newPipeNet().dialer("r/1"))
	if m, err := New(good); err != nil || m.Close() != nil {
		t.Fatalf("defaults: %v", err)
	}
	_, err := New(Config{})
	if err == nil {
		t.Fatal("the zero Config is accepted")
	}
	for _, field := range []string{"Self", "Dial ", "FrameBytesMax", "InFlightMax", "WaitingMax", "AcceptedMax", "DialTimeout", "BackoffMin", "PingInterval",
		"PeerTimeout", "RaftTimeout", "PipelineInFlight", "HeartbeatTimeout", "SnapshotWindow", "SnapshotStall", "SnapshotAnswer"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("the error does not name %s", field)
		}
	}
	bad := good
	bad.BackoffMax, bad.QueueBytesMax, bad.HeartbeatHold, bad.HeartbeatInterval = 1, 1, -1, -1
	bad.Cluster = strings.Repeat("x", 256)
	_, err = New(bad)
	for _, field := range []string{"BackoffMax", "QueueBytesMax", "HeartbeatHold", "HeartbeatInterval", "Cluster"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("the error does not name %s: %v", field, err)
		}
	}
}

func TestHandlePanicsOnBugs(t *testing.T) {
	m, err := New(DefaultConfig("r/1", "test", newPipeNet().dialer("r/1")))
	if err != nil {
		t.Fatal(err)
	}
	m.Handle(16, echo)
	for name, f := range map[string]func(){
		"reserved": func() { m.Handle(15, echo) },
		"taken":    func() { m.Handle(16, echo) },
		"nil":      func() { m.Handle(17, nil) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}
