package region

import (
	"errors"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/region/cache"
)

// Errors of Propose and Read. They say what a caller should do, not where
// the fault is.
var (
	// ErrNoQuorum: the cart's shard has no leader that could commit, and the
	// request was not taken. Retry later, or in another region.
	ErrNoQuorum = errors.New("shard has no quorum")
	// ErrOutcomeUnknown: the edit may or may not have been committed. Retry
	// with the same op id.
	ErrOutcomeUnknown = errors.New("outcome unknown")
	// ErrOverloaded: a bounded queue is full and the request was not taken.
	ErrOverloaded = errors.New("overloaded")
	// ErrFenced: the region is fenced, drained, or not filled yet, or what was
	// sent is of a region that is; the request was not taken. Go to another.
	ErrFenced = errors.New("region is fenced")
	// ErrNoRegionMajority: for too long this region has not heard from a majority of
	// the regions, and the request was not taken. Go to another.
	ErrNoRegionMajority = errors.New("no majority of the regions answers")
	// ErrClosed: the node is shutting down and the request was not taken.
	ErrClosed = errors.New("node is closed")
)

// Digest is the digest of one cart: of its id and canonical encoding,
// context included. Equal digests mean equal carts.
type Digest [16]byte

// View is one state of one cart as a region holds it.
type View struct {
	CartID  string
	State   crdt.State    // shared: read only
	Version cache.Version // orders the views of one region
	Digest  Digest
	Count   uint32 // the sum of the quantities in the cart
	// Stale is true when the view may lack acknowledged writes of this
	// region, or what the caller's token names.
	Stale bool
}

// ReadOptions say how fresh a read must be.
type ReadOptions struct {
	// Strong confirms the leadership with a majority before it answers.
	Strong bool
	// Context is what the caller's causal token names. A view that covers
	// it may come from anywhere in the region. Empty without a token.
	Context crdt.CausalContext
	// HasToken is true when the caller sent a token for this cart.
	HasToken bool
}
