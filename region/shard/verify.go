package shard

import (
	"context"
	"io"
	"sync"

	"github.com/hashicorp/raft"
)

// verifier asks a majority whether this node still leads, once for all who
// ask meanwhile: a caller takes part in the first round that starts after
// its call.
type verifier struct {
	raft interface{ VerifyLeader() raft.Future }

	mu      sync.Mutex // guards what follows
	running bool
	next    *round
	idle    chan struct{} // not nil: closed when the last round is over
}

type round struct {
	done chan struct{}
	err  error
}

func (v *verifier) check(ctx context.Context) error {
	v.mu.Lock()
	if v.idle != nil {
		v.mu.Unlock()
		return raft.ErrRaftShutdown
	}
	if v.next == nil {
		v.next = &round{done: make(chan struct{})}
	}
	r := v.next
	if !v.running {
		v.running = true
		go v.run()
	}
	v.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stop refuses calls from now on, and waits for the rounds that have begun: raft
// answers each of them, at the latest when the lease ends, but leaves those without an
// answer, for good, that are on their way when it shuts down.
func (v *verifier) stop() {
	v.mu.Lock()
	if v.idle == nil {
		v.idle = make(chan struct{})
		if !v.running {
			close(v.idle)
		}
	}
	idle := v.idle
	v.mu.Unlock()
	<-idle
}

func (v *verifier) run() {
	for {
		v.mu.Lock()
		r := v.next
		v.next = nil
		if r == nil {
			v.running = false
			if v.idle != nil {
				close(v.idle)
			}
			v.mu.Unlock()
			return
		}
		v.mu.Unlock()
		r.err = v.raft.VerifyLeader().Error()
		close(r.done)
	}
}

// installWatch counts how often one snapshot is sent to one follower.
type installWatch struct {
	Transport
	repeat func(target raft.ServerID, index uint64)

	mu   sync.Mutex // guards sent
	sent map[raft.ServerID]installs
}

type installs struct {
	index uint64
	n     int
}

// installsMax is how many installs of one snapshot are taken for a loop. A
// follower that restarts meanwhile needs two.
const installsMax = 3

// InstallSnapshot implements raft.Transport.
func (w *installWatch) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	err := w.Transport.InstallSnapshot(id, target, args, resp, data)
	if err != nil || !resp.Success {
		return err
	}
	w.mu.Lock()
	if w.sent == nil {
		w.sent = make(map[raft.ServerID]installs)
	}
	in := w.sent[id]
	if in.index != args.LastLogIndex {
		in = installs{index: args.LastLogIndex}
	}
	in.n++
	loop := in.n == installsMax
	if loop {
		in.n = 0 // the newer snapshot takes a while
	}
	w.sent[id] = in
	w.mu.Unlock()
	if loop {
		go w.repeat(id, in.index) // takes its time; the replication goroutine must not wait
	}
	return nil
}
