package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/samecart/samecart/region/link"
)

// kindFault carries a drill's faults between the nodes of a region.
const kindFault link.Kind = 64

// fault is what one node is asked to bring about.
type fault struct {
	A     string        `json:"a,omitempty"`
	B     string        `json:"b,omitempty"`
	Cut   bool          `json:"cut,omitempty"`
	Delay time.Duration `json:"delay,omitempty"`
	Die   bool          `json:"die,omitempty"`
}

// onFault puts a fault in force on this node.
func (s *server) onFault(_ context.Context, _ string, payload []byte) ([]byte, error) {
	if !s.drills {
		return nil, errNoDrills
	}
	var f fault
	if err := json.Unmarshal(payload, &f); err != nil {
		return nil, fmt.Errorf("decode fault: %w", err)
	}
	if f.Die {
		// Answered first: the caller must know that it was this, not a crash.
		time.AfterFunc(50*time.Millisecond, func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL) })
		return nil, nil
	}
	s.faults.set(pairOf(f.A, f.B), f.Cut, f.Delay)
	return nil, nil
}

// tell brings a fault about on the given nodes; a node that is down has it
// already, in effect.
func (s *server) tell(ctx context.Context, nodes []string, f fault) error {
	payload, err := json.Marshal(f)
	if err != nil {
		return err
	}
	for _, node := range nodes {
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		_, callErr := s.mux.Call(attempt, node, kindFault, payload)
		cancel()
		if callErr != nil && !errors.Is(callErr, link.ErrUnreachable) {
			err = errors.Join(err, fmt.Errorf("node %s: %w", node, callErr))
		}
	}
	return err
}

func (s *server) link(ctx context.Context, p pair, cut bool, delay time.Duration) error {
	if s.conf.Region != p.a && s.conf.Region != p.b {
		return fmt.Errorf("%w: region %s has no end of the link %s–%s; ask at one of them", errUnknown, s.conf.Region, p.a, p.b)
	}
	return s.tell(ctx, s.place.Nodes, fault{A: p.a, B: p.b, Cut: cut, Delay: delay})
}

func (s *server) node(ctx context.Context, name string, start bool) error {
	if _, ok := s.conf.Nodes[name]; !ok {
		return fmt.Errorf("%w: node %q is none of region %s", errUnknown, name, s.conf.Region)
	}
	if start {
		return fmt.Errorf("%w: a node that runs as a process is started by what supervises it", errRefused)
	}
	return s.tell(ctx, []string{name}, fault{Die: true})
}

func (s *server) region(ctx context.Context, name string, start bool) error {
	if name != s.conf.Region {
		return fmt.Errorf("%w: region %q is not this one; ask at its own address", errUnknown, name)
	}
	if start {
		return fmt.Errorf("%w: nodes that run as processes are started by what supervises them", errRefused)
	}
	// This process last: it has to tell the others.
	nodes := slices.DeleteFunc(slices.Clone(s.place.Nodes), func(n string) bool { return n == s.self })
	if _, ok := s.conf.Nodes[s.self]; ok {
		nodes = append(nodes, s.self)
	}
	return s.tell(ctx, nodes, fault{Die: true})
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
