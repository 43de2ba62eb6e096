package region

import (
	"sync"

	"github.com/hashicorp/raft"

	"github.com/samecart/samecart/region/link"
)

// guarded is a group's transport that has no heartbeat in hand once it is
// closed. Raft takes heartbeats on the link's goroutines, not on its own, and
// does not wait for them when it shuts down: one of a newer term, as each
// handover brings, would then store that term in a log that is closed, which
// panics. Raft closes its transport before its log is closed.
type guarded struct {
	*link.RaftTransport

	mu     sync.RWMutex // read-locked while raft has a heartbeat
	closed bool
}

// SetHeartbeatHandler implements raft.Transport.
func (g *guarded) SetHeartbeatHandler(take func(raft.RPC)) {
	if take == nil {
		g.RaftTransport.SetHeartbeatHandler(nil)
		return
	}
	g.RaftTransport.SetHeartbeatHandler(func(rpc raft.RPC) {
		g.mu.RLock()
		defer g.mu.RUnlock()
		if !g.closed {
			take(rpc)
		}
	})
}

// Close implements raft.WithClose; it waits for heartbeats that raft has.
func (g *guarded) Close() error {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	return g.RaftTransport.Close()
}
