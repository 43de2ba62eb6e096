package cache

import (
	"cmp"
	"context"
	"time"
)

// Version orders the states of one cart inside a region: first the region's
// incarnation, then the epoch of the slot (raised when it moves between
// shards), then the Raft log index of the entry that made the state.
type Version struct {
	Incarnation uint32
	Epoch       uint32
	Index       uint64
}

// Compare returns -1 if v is older than w, 0 if they are the same and +1 if v
// is newer.
func (v Version) Compare(w Version) int {
	return cmp.Or(
		cmp.Compare(v.Incarnation, w.Incarnation),
		cmp.Compare(v.Epoch, w.Epoch),
		cmp.Compare(v.Index, w.Index),
	)
}

// Entry is one state of one cart. Empty Data is a removal: the cart is known
// to hold nothing at this version. Nobody changes the bytes of Data once the
// entry was given to, or returned by, a Cache.
type Entry struct {
	Version Version
	Data    []byte
}

// Cache holds the newest known state of carts and may lose any of them at any
// time. It never makes a caller wait for long and never fails a caller: what
// goes wrong is reported through Events. All methods may be called
// concurrently.
type Cache interface {
	// Load returns the entry of key. ok is false on a miss, on any failure and
	// while the breaker is open. A removal is ok with empty Data.
	Load(ctx context.Context, key string) (e Entry, ok bool)
	// LoadHead is Load for the first n bytes of an entry's data, which may be fewer
	// than it has.
	LoadHead(ctx context.Context, key string, n int) (e Entry, ok bool)
	// Store keeps e unless the cache holds the same or a newer version.
	Store(ctx context.Context, key string, e Entry)
	// StoreMany is Store for keys[i], es[i] in one pipeline. It panics if the
	// lengths differ.
	StoreMany(ctx context.Context, keys []string, es []Entry)
	// Ping says whether the cache answers. It asks even while the breaker is
	// open, and does not move the breaker.
	Ping(ctx context.Context) error
	// Close releases connections. Later calls miss or do nothing.
	Close() error
}

// Op names what a Done event reports.
type Op string

// The operations that are reported.
const (
	OpLoad  Op = "load"
	OpStore Op = "store"
)

// Outcome says how one operation ended.
type Outcome string

// The outcomes; Hit, Miss and Corrupt belong to loads, Stored and Kept to stores.
const (
	Hit       Outcome = "hit"
	Miss      Outcome = "miss"
	Corrupt   Outcome = "corrupt"   // a value that this package did not write; a miss
	Stored    Outcome = "stored"    // the entry is in the cache now
	Kept      Outcome = "kept"      // the cache held the same or a newer version
	Failed    Outcome = "failed"    // error or timeout; Err says which
	Skipped   Outcome = "skipped"   // the breaker is open, nothing was asked
	Cancelled Outcome = "cancelled" // the caller left before the cache could be judged
)

// Done reports operations that ended the same way in one call.
type Done struct {
	Op      Op
	Outcome Outcome
	Count   int           // how many keys; at least 1
	Took    time.Duration // how long the whole call took
	Err     error         // the first error of a Failed or Cancelled outcome
}

// Breaker reports a state change of one breaker.
type Breaker struct {
	Name     string // "redis", or "slots 0-255" and so on for a cluster
	From, To string // "closed", "half-open", "open"
}

// Events are called synchronously, must not block and must not call the cache;
// nil funcs are skipped.
type Events struct {
	Done    func(Done)
	Breaker func(Breaker)
	Evicted func(count int) // the in-process cache was full
}

func (ev Events) done(d Done) {
	if ev.Done != nil && d.Count > 0 {
		ev.Done(d)
	}
}
