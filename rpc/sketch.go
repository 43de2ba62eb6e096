package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	replicationv1 "github.com/samecart/samecart/proto/replication/v1"
	"github.com/samecart/samecart/proto/replication/v1/replicationv1connect"
	"github.com/samecart/samecart/replication"
	"github.com/samecart/samecart/replication/riblt"
)

// This file has both ends of what repair asks a peer: which carts differ, and
// who has seen more of them.

const (
	// sketchSymbolsMax bounds the symbols of one message.
	sketchSymbolsMax = 1 << 16
	// sketchesMax bounds the sketches made at a time: each may hold
	// replication.SketchItemsMax digests.
	sketchesMax = 2
	// newerBytesMax is about the size of one answer to Newer.
	newerBytesMax = 512 << 10
)

// unsupported marks the answer of a peer that does not do what was asked.
func unsupported(err error) error {
	switch connect.CodeOf(err) {
	case connect.CodeUnimplemented, connect.CodeFailedPrecondition:
		return fmt.Errorf("%w: %w", replication.ErrUnsupported, err)
	default:
		return err
	}
}

// Sketch opens a sketch of the region's carts in the given slots.
func (c *PeerClient) Sketch(ctx context.Context, key riblt.Key, slots []uint32) (replication.SketchStream, error) {
	ctx, cancel := context.WithCancel(ctx)
	i, to := c.pick()
	s := &peerSketch{
		client: c, index: i, stream: to.Sketch(ctx), cancel: cancel,
		first: &replicationv1.SketchRequest{Key: key[:], Slots: slots},
	}
	context.AfterFunc(ctx, func() { _ = s.stream.CloseRequest() }) // as in Push
	return s, nil
}

// peerSketch is the asking end of one Sketch.
type peerSketch struct {
	client *PeerClient
	index  int
	stream *connect.BidiStreamForClient[replicationv1.SketchRequest, replicationv1.SketchResponse]
	cancel context.CancelFunc
	first  *replicationv1.SketchRequest // nil once it is sent
}

// Next asks for n more symbols and waits for them.
func (s *peerSketch) Next(n int) ([]byte, error) {
	m := s.first
	if m == nil {
		m = new(replicationv1.SketchRequest)
	}
	s.first = nil
	m.Symbols = uint32(min(n, sketchSymbolsMax))
	// The stream's end shows itself to Receive, with its reason.
	_ = s.stream.Send(m)
	resp, err := s.stream.Receive()
	if err != nil {
		if !peerAnswered(err) && connect.CodeOf(err) != connect.CodeCanceled {
			s.client.failed(s.index)
		}
		return nil, unsupported(err)
	}
	return resp.Symbols, nil
}

// Close ends the sketch.
func (s *peerSketch) Close() error {
	s.cancel() // first: closing would else wait for what is on its way
	return errors.Join(peerIgnoreCanceled(s.stream.CloseRequest()), peerIgnoreCanceled(s.stream.CloseResponse()))
}

// Newer returns the region's whole carts that have seen all that the asker's
// have and more, for the first of those given.
func (c *PeerClient) Newer(ctx context.Context, carts []replication.Seen) ([][]byte, error) {
	req := &replicationv1.NewerRequest{Carts: make([]*replicationv1.Seen, 0, len(carts))}
	for _, s := range carts {
		req.Carts = append(req.Carts, &replicationv1.Seen{CartId: s.CartID, Context: s.Context.Encode(nil)})
	}
	resp, err := peerCall(ctx, c, func(to replicationv1connect.ReplicationServiceClient) (*connect.Response[replicationv1.NewerResponse], error) {
		return to.Newer(ctx, connect.NewRequest(req))
	})
	if err != nil {
		return nil, unsupported(err)
	}
	out := resp.Msg.Carts
	for i, data := range out {
		if len(data) == 0 {
			out[i] = nil
		}
	}
	return out, nil
}

// Repairing reports whether the region repairs hello's in hello's slots. A peer
// of a version that does not say so is taken not to.
func (c *PeerClient) Repairing(ctx context.Context, hello replication.Hello) (bool, error) {
	resp, err := peerCall(ctx, c, func(to replicationv1connect.ReplicationServiceClient) (*connect.Response[replicationv1.RepairingResponse], error) {
		return to.Repairing(ctx, connect.NewRequest(&replicationv1.RepairingRequest{Hello: peerHello(hello)}))
	})
	if err != nil {
		return false, unsupported(err)
	}
	return resp.Msg.Repairing, nil
}

// Repairing says whether this region is repairing the asking one.
func (h *PeerHandler) Repairing(ctx context.Context, req *connect.Request[replicationv1.RepairingRequest]) (*connect.Response[replicationv1.RepairingResponse], error) {
	hello, err := h.hello(ctx, req.Msg.Hello)
	if err != nil {
		return nil, err
	}
	repairing, err := h.sink.Repairing(ctx, hello)
	if err != nil {
		return nil, peerError(fmt.Errorf("look for repairs of region %q: %w", hello.Region, err))
	}
	return connect.NewResponse(&replicationv1.RepairingResponse{Repairing: repairing}), nil
}

// Sketch answers with symbols as long as the peer asks for more.
func (h *PeerHandler) Sketch(ctx context.Context, s *connect.BidiStream[replicationv1.SketchRequest, replicationv1.SketchResponse]) error {
	caller, _ := ctx.Value(peerCallerKey{}).(peerCaller)
	symbols := 0
	next := func() (*replicationv1.SketchRequest, error) {
		// A peer that stops asking must not keep the memory.
		if err := caller.control.SetReadDeadline(time.Now().Add(h.cfg.SketchTimeout)); err != nil {
			return nil, connect.NewError(connect.CodeInternal, fmt.Errorf("bound the wait for a question: %w", err))
		}
		m, err := s.Receive()
		if err == nil && (m.Symbols == 0 || m.Symbols > sketchSymbolsMax) {
			err = connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("%d symbols: want 1 to %d", m.Symbols, sketchSymbolsMax))
		}
		if err != nil {
			return nil, err
		}
		if symbols += int(m.Symbols); symbols > h.cfg.SketchSymbolsMax {
			return nil, connect.NewError(connect.CodeFailedPrecondition,
				fmt.Errorf("more than %d symbols of one sketch: ask for the carts by bucket", h.cfg.SketchSymbolsMax))
		}
		return m, nil
	}
	m, err := next()
	if err != nil {
		return err
	}
	if err := h.sketchable(m); err != nil {
		return err
	}
	select {
	case h.sketches <- struct{}{}:
		defer func() { <-h.sketches }()
	case <-ctx.Done():
		return ctx.Err()
	case <-h.closing.Done():
		return connect.NewError(connect.CodeUnavailable, errors.New("this node is shutting down: go on at another"))
	}
	enc, err := replication.NewSketch(ctx, h.sink, riblt.Key(m.Key), m.Slots)
	if errors.Is(err, replication.ErrRefused) {
		return connect.NewError(connect.CodeFailedPrecondition, err)
	}
	if err != nil {
		return peerError(fmt.Errorf("sketch %d slots from %d: %w", len(m.Slots), m.Slots[0], err))
	}
	for {
		if err := s.Send(&replicationv1.SketchResponse{Symbols: enc.Append(nil, int(m.Symbols))}); err != nil {
			return err
		}
		if m, err = next(); err != nil {
			return peerDone(err)
		}
	}
}

// peerDone is the end of a stream: the asker has what it wanted.
func peerDone(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return peerIgnoreCanceled(err)
}

// sketchable refuses a first message that does not say what is wanted.
func (h *PeerHandler) sketchable(m *replicationv1.SketchRequest) error {
	bad := func(format string, args ...any) error {
		return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf(format, args...))
	}
	if len(m.Key) != len(riblt.Key{}) {
		return bad("sketch with a key of %d bytes: want %d", len(m.Key), len(riblt.Key{}))
	}
	if len(m.Slots) == 0 || m.Slots[len(m.Slots)-1] >= h.cfg.Slots {
		return bad("sketch of %d slots: want 1 or more, below %d", len(m.Slots), h.cfg.Slots)
	}
	for i, slot := range m.Slots[1:] {
		if slot <= m.Slots[i] {
			return bad("sketch of slot %d after %d: want rising order", slot, m.Slots[i])
		}
	}
	return nil
}

// Newer returns this region's whole carts that have seen more than the peer's.
func (h *PeerHandler) Newer(ctx context.Context, req *connect.Request[replicationv1.NewerRequest]) (*connect.Response[replicationv1.NewerResponse], error) {
	asked := req.Msg.Carts
	if len(asked) == 0 || len(asked) > replication.NewerCartsMax {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("%d carts: want 1 to %d", len(asked), replication.NewerCartsMax))
	}
	seen := make([]replication.Seen, len(asked))
	for i, a := range asked {
		cc, err := crdt.DecodeContext(a.Context)
		if err != nil {
			return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("context of cart %q: %w", a.CartId, err))
		}
		seen[i] = replication.Seen{CartID: a.CartId, Context: cc}
	}
	carts, err := replication.Newer(ctx, h.sink, seen, newerBytesMax)
	if err != nil {
		return nil, peerError(fmt.Errorf("compare %d carts: %w", len(seen), err))
	}
	return connect.NewResponse(&replicationv1.NewerResponse{Carts: slices.Clip(carts)}), nil
}
