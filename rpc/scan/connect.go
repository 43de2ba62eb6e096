package scan

import (
	"context"
	"net/http"

	"connectrpc.com/connect"

	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	"github.com/samecart/samecart/proto/admin/v1/adminv1connect"
)

// NewRegion returns a region that is scanned through the admin service;
// authorize sets the caller's identity on each request.
func NewRegion(name string, admin adminv1connect.AdminServiceClient, authorize func(http.Header)) Region {
	return Region{Name: name, Open: func(ctx context.Context, lo, hi uint32) (Stream, error) {
		req := connect.NewRequest(&adminv1.ScanRequest{Region: name, SlotLo: lo, SlotHi: hi})
		if hi >= Slots {
			req.Msg.SlotHi = 0 // to the last
		}
		authorize(req.Header())
		stream, err := admin.Scan(ctx, req)
		if err != nil {
			return nil, err
		}
		return &rpcStream{stream: stream, lo: lo, hi: hi}, nil
	}}
}

// rpcStream unpacks the answers of one Scan call.
type rpcStream struct {
	stream *connect.ServerStreamForClient[adminv1.ScanResponse]
	lo, hi uint32
	answer *adminv1.ScanResponse
	next   int // in answer
}

// Next implements Stream. Carts outside the slots asked for are passed over.
func (s *rpcStream) Next() (Cart, bool, error) {
	for {
		if s.answer != nil && s.next < len(s.answer.GetCarts()) {
			c := s.answer.GetCarts()[s.next]
			s.next++
			return Cart{Slot: s.answer.GetSlot(), ID: c.GetCartId(), Digest: c.GetDigest()}, true, nil
		}
		if !s.stream.Receive() {
			return Cart{}, false, s.stream.Err()
		}
		s.answer, s.next = s.stream.Msg(), 0
		if slot := s.answer.GetSlot(); slot < s.lo || slot >= s.hi {
			s.answer = nil
		}
	}
}

// Close implements Stream.
func (s *rpcStream) Close() error { return s.stream.Close() }
