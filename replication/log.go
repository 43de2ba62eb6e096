package replication

import (
	"context"
	"errors"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/replication/riblt"
)

// Version is the version of the protocol between regions that this build
// speaks; a Hello names it.
const Version = 1

// Digest is the digest of one cart or of one slot; the zero Digest is that
// of an empty slot.
type Digest = [16]byte

// CartDigest is the digest of one cart, context included: equal digests
// mean equal carts.
type CartDigest struct {
	CartID string
	Digest Digest
}

// WholeCart is one cart as it travels in repair. Data is an encoded
// crdt.State with all ops still remembered; empty when there is no such cart.
type WholeCart struct {
	CartID string
	Data   []byte
}

// Seen is a cart as one side has seen it.
type Seen struct {
	CartID  string
	Context crdt.CausalContext
}

// Hello says which stream of which region a sender speaks for.
type Hello struct {
	Version uint32
	Region  string // the origin's configured name; Stream.Region is its id
	Stream  crdt.Stream
	// SlotLo and SlotHi bound the slots that the stream's carts lie in:
	// [SlotLo, SlotHi).
	SlotLo, SlotHi uint32
}

// Ack is the receiver's answer on a push stream.
type Ack struct {
	// Cursor: the receiver has committed every row at or below it.
	Cursor uint64
	// Gap: the last interval did not follow the cursor and was not joined.
	Gap bool
}

// Log is what a Gossiper needs of the local shard that this node leads.
// Every method is safe for concurrent use.
type Log interface {
	// Stream names the log, for as long as this node leads the shard.
	Stream() crdt.Stream
	// Slots returns the slots [lo, hi) that the shard owns now.
	Slots() (lo, hi uint32)
	// LastSeq returns the last row's seq; it never goes back.
	LastSeq() uint64
	// Changed returns a channel that is closed at the next append after
	// the call.
	Changed() <-chan struct{}
	// ReadAfter returns the interval that starts after seq (Lo = seq), at
	// most maxBytes long but at least one row. ok is false when the log no
	// longer reaches back to seq. It is not called with seq ≥ LastSeq.
	ReadAfter(ctx context.Context, seq uint64, maxBytes int) (iv crdt.Interval, ok bool, err error)
	// Acked says that every peer region has the rows up to all: they may go;
	// and that at least one has those up to any. It is called when all moves or
	// any does, in order, and must not block.
	Acked(all, any uint64)
	// Digests returns the digest of each slot in [lo, hi). It reflects at
	// least the rows up to LastSeq at the call.
	Digests(ctx context.Context, lo, hi uint32) ([]Digest, error)
	// Bucket returns at most limit carts of a slot with ids after the
	// given one, by id ascending, and whether there are more.
	Bucket(ctx context.Context, slot uint32, after string, limit int) (carts []CartDigest, more bool, err error)
	// States returns whole carts. A cart that is gone is left out or has no data.
	States(ctx context.Context, cartIDs []string) ([]WholeCart, error)
	// JoinCarts commits whole carts here that come from a peer region. It refuses
	// them when the peer is no member any more, in the incarnation that it had when
	// the gossip with it began.
	JoinCarts(ctx context.Context, carts []WholeCart, from crdt.RegionID) error
}

// ErrUnsupported is wrapped by a Transport when the peer does not answer such a
// call: its version does not know it, or the answer would take too much.
var ErrUnsupported = errors.New("the peer does not answer such a call")

// Transport reaches one peer region. All methods are safe for concurrent
// use and return when ctx ends.
type Transport interface {
	// Push opens a stream for the origin stream that hello names. The
	// first Ack received tells where the receiver's cursor stands.
	Push(ctx context.Context, hello Hello) (PushStream, error)
	// Digests, Bucket are those of Log, for the peer's carts.
	Digests(ctx context.Context, lo, hi uint32) ([]Digest, error)
	Bucket(ctx context.Context, slot uint32, after string, limit int) (carts []CartDigest, more bool, err error)
	// Sketch opens a sketch of the digests of the peer's carts in the given
	// slots, made with the given key.
	Sketch(ctx context.Context, key riblt.Key, slots []uint32) (SketchStream, error)
	// Newer returns the peer's whole cart where it has seen all that the asker
	// has, and more, and nil where it has not: for the first of the given
	// carts, at least one, as many as one answer takes.
	Newer(ctx context.Context, carts []Seen) ([][]byte, error)
	// Repairing reports whether the peer repairs hello's region in hello's slots
	// at the moment.
	Repairing(ctx context.Context, hello Hello) (bool, error)
	// Collect asks the peer which carts may be collected as far as it knows; with
	// commit it tells it to collect them.
	Collect(ctx context.Context, hello Hello, carts []CartDigest, commit bool) ([]bool, error)
	// Expirable asks the peer which carts may expire as far as it knows.
	Expirable(ctx context.Context, hello Hello, carts []DueCart) ([]bool, error)
	// Join hands over whole carts; then, unless cursor is 0, it moves the
	// peer's cursor of hello's stream up to it. It returns when the peer
	// has committed both.
	Join(ctx context.Context, carts []WholeCart, hello Hello, cursor uint64) error
}

// PushStream is one open stream. One goroutine may Send while another
// Recvs; both return an error soon after Close or the end of the stream's
// ctx. When Send returns io.EOF the stream has ended, and Recv says why.
//
// A stream that also has a method SentBytes() int reports with it how many
// bytes its last Send took on the wire, for the statistics.
type PushStream interface {
	Send(iv crdt.Interval) error
	Recv() (Ack, error)
	Close() error
}

// SketchStream is a sketch that grows as it is asked to. For one goroutine.
type SketchStream interface {
	// Next returns the next n coded symbols, as riblt.Encoder encodes them.
	Next(n int) ([]byte, error)
	Close() error
}

// Sink is the receiving region, routed to the leaders of the shards that
// hold the carts. It is what a Transport's far end serves. All methods are
// safe for concurrent use.
//
//	I1  The cursor of a stream is at seq only when the effects of every row
//	    up to seq are committed here.
//	I2  A row is joined also when its dot is already seen: the dot may have
//	    come inside another region's line, what it supersedes did not.
type Sink interface {
	// Cursor returns the cursor of hello's stream: the least of the local
	// shards that own a slot in hello's range.
	Cursor(ctx context.Context, hello Hello) (uint64, error)
	// Join commits an interval that follows the cursor (Lo ≤ cursor): rows
	// with Last ≤ cursor are dropped, the others joined, and the cursor
	// becomes max(cursor, Hi). ok is false, and nothing changes, when Lo is
	// beyond the cursor. Either way it returns the cursor.
	Join(ctx context.Context, iv crdt.Interval, slotLo, slotHi uint32) (cursor uint64, ok bool, err error)
	// JoinCarts commits whole carts that come from the region of a stream, which
	// writes under the stream's incarnation.
	JoinCarts(ctx context.Context, carts []WholeCart, from crdt.Stream) error
	// MoveCursor raises the cursor of hello's stream to the given one; it
	// never lowers it.
	MoveCursor(ctx context.Context, hello Hello, cursor uint64) error
	// Known returns the highest incarnation of hello's region that is known
	// in hello's slots, by rows or whole carts; 0: none is, or this region is
	// not formed yet.
	Known(ctx context.Context, hello Hello) (incarnation uint32, err error)
	// Collect says for each cart whether it may be collected as far as this
	// region knows; with commit it collects those that are as they were, and
	// says nothing.
	Collect(ctx context.Context, carts []CartDigest, commit bool) ([]bool, error)
	// Expirable says for each cart whether it may expire as far as this region
	// knows: it is the same here, with no newer activity, and due by the clock here.
	Expirable(ctx context.Context, carts []DueCart) ([]bool, error)
	// ForgottenBefore returns for each slot the time, in milliseconds since the Unix
	// epoch, before which carts last changed that may have been collected since;
	// 0: none was.
	ForgottenBefore(ctx context.Context) ([]int64, error)
	// Repairing reports whether a shard here, in hello's slots, repairs hello's
	// region at the moment.
	Repairing(ctx context.Context, hello Hello) (bool, error)
	// Digests, Bucket are those of Log, over all shards of the region.
	Digests(ctx context.Context, lo, hi uint32) ([]Digest, error)
	Bucket(ctx context.Context, slot uint32, after string, limit int) (carts []CartDigest, more bool, err error)
	// Fetch returns the region's whole carts, one per id, in order.
	Fetch(ctx context.Context, cartIDs []string) ([]WholeCart, error)
}
