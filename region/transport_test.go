package region

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/samecart/samecart/region/shard"
)

var _ shard.Transport = (*guarded)(nil)

func TestCloseWaitsForAHeartbeat(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2, 1)
	near, far := w.mux(w.names[0]), w.mux(w.names[1])
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.addrs[w.names[0]] = ln.Addr().String()
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- near.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		for _, err := range []error{<-served, near.Close(), far.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	})

	g := &guarded{RaftTransport: near.Raft(0, "a", raft.ServerAddress(w.names[0]))}
	taken, release := make(chan struct{}, 2), make(chan struct{})
	g.SetHeartbeatHandler(func(rpc raft.RPC) {
		taken <- struct{}{}
		<-release
		rpc.Respond(&raft.AppendEntriesResponse{Success: true}, nil)
	})
	beat := func() error {
		from := far.Raft(0, "b", raft.ServerAddress(w.names[1]))
		return from.AppendEntries("a", raft.ServerAddress(w.names[0]), &raft.AppendEntriesRequest{
			RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte("b"), Addr: []byte(w.names[1])}, Term: 2,
		}, &raft.AppendEntriesResponse{})
	}
	beaten := make(chan struct{})
	go func() { defer close(beaten); _ = beat() }() // may well time out: the handler is slow
	<-taken
	closed := make(chan error, 1)
	go func() { closed <- g.Close() }()
	select {
	case err := <-closed:
		close(release)
		t.Fatalf("closed while raft has a heartbeat (%v)", err)
	case <-time.After(100 * time.Millisecond):
	}
	close(release)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	<-beaten
	if err := beat(); err == nil || len(taken) > 0 {
		t.Errorf("a heartbeat after the end: %v, taken by raft: %v", err, len(taken) > 0)
	}
	g.SetHeartbeatHandler(nil)
}
