package link

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
)

// tcpPair is two nodes over the loopback device.
func tcpPair(tb testing.TB) *Mux {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", ln.Addr().String())
	}
	server, err := New(DefaultConfig("r/2", "test", dial))
	if err != nil {
		tb.Fatal(err)
	}
	server.Handle(kindEcho, echo)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, ln) }()
	client, err := New(DefaultConfig("r/1", "test", dial))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = client.Close()
		stop()
		if err := <-served; err != nil {
			tb.Error(err)
		}
		_ = server.Close()
	})
	return client
}

// TestOverTCP runs calls over real sockets: sizes up to the bound, at once.
func TestOverTCP(t *testing.T) {
	m := tcpPair(t)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			payload := make([]byte, 1<<(i%22))
			got, err := m.Call(short(t), "r/2", kindEcho, payload)
			if errors.Is(err, ErrOverloaded) {
				return // more than QueueBytesMax at once
			}
			if err != nil || len(got) != len(payload)+len("r/1:") {
				t.Errorf("%d bytes: %d came back, %v", len(payload), len(got), err)
			}
		})
	}
	wg.Wait()
}

// BenchmarkCall is the round trip of a 300-byte call over the loopback.
func BenchmarkCall(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(map[int]string{1: "callers=1", 64: "callers=64"}[callers], func(b *testing.B) {
			m := tcpPair(b)
			payload := make([]byte, 300)
			ctx := context.Background()
			if _, err := m.Call(ctx, "r/2", kindEcho, payload); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for i := range callers {
				n := b.N / callers
				if i < b.N%callers {
					n++
				}
				wg.Go(func() {
					for range n {
						if _, err := m.Call(ctx, "r/2", kindEcho, payload); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}
