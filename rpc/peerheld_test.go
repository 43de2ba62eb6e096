package rpc

import (
	"context"
	"errors"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/replication"
)

// sinkCounted notes which intervals are joined.
type sinkCounted struct {
	*peerRegionFake
	joins chan [2]uint64
}

func (s sinkCounted) Join(ctx context.Context, iv crdt.Interval, lo, hi uint32) (uint64, bool, error) {
	s.joins <- [2]uint64{iv.Lo, iv.Hi}
	return s.peerRegionFake.Join(ctx, iv, lo, hi)
}

// peerSend sends the hundred rows after each of some seqs.
func peerSend(t *testing.T, us *peerRegionFake, s replication.PushStream, after ...uint64) {
	t.Helper()
	for _, seq := range after {
		iv, _, _ := us.ReadAfter(t.Context(), seq, 0)
		if err := s.Send(iv); err != nil {
			t.Fatal(err)
		}
	}
}

// peerAcked waits for the ack of a seq.
func peerAcked(t *testing.T, s replication.PushStream, seq uint64) {
	t.Helper()
	for {
		a, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if a.Cursor == seq {
			return
		}
	}
}

// While a join takes long, the next interval is received and checked, and
// the last ack is repeated.
func TestPeerPipelinesAndKeepsAcking(t *testing.T) {
	us, eu := peerNewRegion(1), peerNewRegion(2)
	for range 300 {
		us.add("cart:a", "tea")
	}
	received := make(chan PeerReceived, 10)
	srv, _ := peerServe(t, eu, func(c *PeerConfig) {
		c.AckEvery = 10 * time.Millisecond
		c.Events.Received = func(r PeerReceived) { received <- r }
	})
	hold := make(chan struct{})
	eu.hold = hold
	s := peerOpen(t, peerDial(t, srv.URL), peerHi())
	peerWant(t, s, replication.Ack{})
	peerSend(t, us, s, 0, 100)
	for range 2 {
		if r := <-received; r.Region != "us" || r.Rows != 100 || r.Bytes == 0 || r.Clocks.Adopt == 0 {
			t.Errorf("received %+v", r)
		}
	}
	peerWant(t, s, replication.Ack{}) // nothing joined, and both are here
	peerWant(t, s, replication.Ack{})
	close(hold)
	peerAcked(t, s, 200)
}

// What came while a join took long is joined together, as far as it follows on.
func TestPeerJoinsTogetherWhatWaits(t *testing.T) {
	us, eu := peerNewRegion(1), peerNewRegion(2)
	for range 600 {
		us.add("cart:a", "tea")
	}
	hold := make(chan struct{})
	eu.hold = hold
	sink := sinkCounted{eu, make(chan [2]uint64, 10)}
	received := make(chan PeerReceived, 10)
	srv, _ := peerServe(t, sink, func(c *PeerConfig) { c.Events.Received = func(r PeerReceived) { received <- r } })
	s := peerOpen(t, peerDial(t, srv.URL), peerHi())
	peerWant(t, s, replication.Ack{})
	peerSend(t, us, s, 0, 100, 200, 300, 500) // 400 to 500 is missing
	for range 5 {
		<-received
	}
	if first := <-sink.joins; first != [2]uint64{0, 100} {
		t.Errorf("first join of %v", first)
	}
	close(hold)
	if second := <-sink.joins; second != [2]uint64{100, 400} {
		t.Errorf("second join of %v", second)
	}
	if third := <-sink.joins; third != [2]uint64{500, 600} {
		t.Errorf("third join of %v", third)
	}
	peerWant(t, s, replication.Ack{Cursor: 100})
	peerWant(t, s, replication.Ack{Cursor: 400})
	peerWant(t, s, replication.Ack{Cursor: 400, Gap: true})
}

// No more is received than the bounds allow while a join takes long.
func TestPeerHoldsNoMoreThanItsBounds(t *testing.T) {
	us, eu := peerNewRegion(1), peerNewRegion(2)
	for range 2000 {
		us.add("cart:a", "tea")
	}
	hold := make(chan struct{})
	eu.hold = hold
	received := make(chan PeerReceived, 30)
	srv, _ := peerServe(t, eu, func(c *PeerConfig) { c.Events.Received = func(r PeerReceived) { received <- r } })
	s := peerOpen(t, peerDial(t, srv.URL), peerHi())
	peerWant(t, s, replication.Ack{})
	for n := range uint64(20) {
		peerSend(t, us, s, 100*n)
	}
	// One is being joined, six are held, and one is read that waits for its place.
	for range 8 {
		<-received
	}
	select {
	case <-received:
		t.Error("a ninth interval was received while nothing was joined")
	case <-time.After(100 * time.Millisecond):
	}
	close(hold)
	peerAcked(t, s, 2000)
}

func TestPeerHeldIsBoundedInIntervals(t *testing.T) {
	var h peerHeld
	for n := uint64(0); !h.full(); n++ {
		h.add(crdt.Interval{Lo: n, Hi: n + 1})
	}
	if iv := h.take(); len(h.ivs) != 0 || iv.Lo != 0 || iv.Hi != peerHeldIntervals {
		t.Errorf("held (%d, %d], and %d more", iv.Lo, iv.Hi, len(h.ivs))
	}
}

// What came before a stream's end is joined before it ends.
func TestPeerJoinsBeforeTheEnd(t *testing.T) {
	us, eu := peerNewRegion(1), peerNewRegion(2)
	for range 300 {
		us.add("cart:a", "tea")
	}
	hold := make(chan struct{})
	eu.hold = hold
	received := make(chan PeerReceived, 10)
	srv, _ := peerServe(t, eu, func(c *PeerConfig) { c.Events.Received = func(r PeerReceived) { received <- r } })
	s := peerOpen(t, peerDial(t, srv.URL), peerHi())
	peerWant(t, s, replication.Ack{})
	peerSend(t, us, s, 0, 100)
	for range 2 {
		<-received
	}
	bad, _, _ := us.ReadAfter(t.Context(), 200, 0)
	bad.Stream.Region = 3 // not the stream's
	if err := s.Send(bad); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond) // so that it is there before the join ends
	close(hold)
	peerWant(t, s, replication.Ack{Cursor: 100})
	peerWant(t, s, replication.Ack{Cursor: 200})
	if _, err := s.Recv(); !errors.Is(err, replication.ErrRefused) && connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("the stream ended with %v", err)
	}
}
