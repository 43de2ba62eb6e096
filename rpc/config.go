package rpc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/proto/promotion/v1/promotionv1connect"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region"
)

// Region is what the API needs of the region it serves. Methods may be called
// concurrently.
type Region interface {
	// Edit proposes e and returns its outcome, refusals included (see
	// Outcome.code). Errors: region.ErrNoQuorum, ErrOutcomeUnknown,
	// ErrOverloaded, ErrClosed, and ctx's, after which the outcome is unknown.
	Edit(ctx context.Context, e *regionv1.Edit) (*regionv1.Outcome, error)
	// Read returns the cart, empty when it is unknown. It waits a bounded
	// time for what o names, and marks the view stale when that did not come.
	Read(ctx context.Context, cartID string, o region.ReadOptions) (region.View, error)
	// Wait returns once the cart's digest differs from seen, or ctx ends.
	Wait(ctx context.Context, cartID string, seen region.Digest) (region.View, error)
	// MergeGuest merges a guest's cart into a user's and returns what came, or the
	// code ALREADY_MERGED or ERASED. It may be called again at any time. Errors are those of
	// Edit.
	MergeGuest(ctx context.Context, guestCart, userCart string) (*regionv1.Outcome, error)
	// Ready returns nil when the region serves writes, else the reason.
	Ready(ctx context.Context) error
	// Redeem uses a code of limited uses once and returns the outcome, refusals
	// included. Errors: those of Edit, and region.ErrNoRegionMajority.
	Redeem(ctx context.Context, s *regionv1.Spend) (*regionv1.Outcome, error)
}

// Records are what the API needs to tell a shopper of all that is kept; a
// region.Router has them.
type Records interface {
	// Elsewhere returns a cart as another region has it, an encoded crdt.State;
	// nil when it has none.
	Elsewhere(ctx context.Context, other crdt.RegionID, cartID string) ([]byte, error)
	// Kept returns what this region keeps of a cart beside its value.
	Kept(ctx context.Context, cartID string) (region.Kept, error)
	// Count is Read without the cart.
	Count(ctx context.Context, cartID string, o region.ReadOptions) (region.Badge, error)
}

// RegionInfo is a region that clients may use.
type RegionInfo struct {
	Region  string
	Address string // base URL
	Healthy bool
}

// Config holds the settings of a Handler; the zero value is not valid.
type Config struct {
	// Region is the name of the region served: the Cart-Region header.
	Region string
	// RegionNames gives the names that explain shows for replicas.
	RegionNames map[crdt.RegionID]string
	// Regions lists what GET /regions answers; nil: only this region.
	Regions func(ctx context.Context) []RegionInfo
	// Records; nil: counts are made of carts, exports have the cart alone, and receipts
	// this region alone.
	Records Records

	QuantityMax uint32 // visible quantity of one line; ≥ 1
	BatchMax    int    // edits of one batch; ≥ 1
	// Lives are how long things live in a cart, as the region counts it.
	Lives crdt.Lives

	RequestTimeout time.Duration // one call, streams excepted; > 0
	TokenWait      time.Duration // of a write, for what its token names; > 0, below RequestTimeout
	Heartbeat      time.Duration // between two signs of life of a silent event stream; > 0
	Patience       time.Duration // how long a watcher may take to accept one event; > 0
	BodyBytesMax   int64         // a request's body; ≥ 1
	ConcurrencyMax int           // calls at a time; ≥ 1
	StreamsMax     int           // watches at a time; ≥ 1

	PageBytes int // memory for encoded pages of carts; ≥ 0

	CatalogTimeout time.Duration // one look-up; > 0, below RequestTimeout
	CatalogFresh   time.Duration // how long a product is not asked for again; ≥ 0
	CatalogOld     time.Duration // how long a product may stand in while the catalogue is down; ≥ CatalogFresh
	CatalogEntries int           // products remembered; ≥ 1
	CatalogRest    time.Duration // how long a failing catalogue is left alone; > 0

	// Guests makes guests' sessions; nil: none are made here.
	Guests   *GuestSessions
	Shipping ShippingConfig
	// Promotions are the shop's promotion rules; nil: there are no codes.
	Promotions promotionv1connect.PromotionServiceClient
	// PromotionUses tells which limited codes are spent, and limits those whose rules say
	// so; nil: none is, and limits are set by other means.
	PromotionUses    PromotionUses
	CodesMax         int           // codes of one cart that count; ≥ 0
	PromotionTimeout time.Duration // one look-up, within its call; > 0
	PromotionFresh   time.Duration // how long a rule is not asked for again; ≥ 0
	PromotionOld     time.Duration // how long a rule may stand in while the service is down; ≥ PromotionFresh
	PromotionEntries int           // rules remembered; ≥ 1
	PromotionRest    time.Duration // how long a failing service is left alone; > 0
	// ShareKey is the deployment's secret, the same in all regions, from which
	// the tokens of links follow that were asked for with an Idempotency-Key; at
	// least 32 bytes. Without it such a request that comes again makes another
	// link: no token is kept that could be given again.
	ShareKey []byte
	// ShareURL stands before a link's token in its address.
	ShareURL string

	Events Events
}

// DefaultConfig returns production settings for a region.
func DefaultConfig(regionName string) Config {
	return Config{
		Region:         regionName,
		QuantityMax:    999,
		BatchMax:       100,
		RequestTimeout: 2 * time.Second,
		TokenWait:      time.Second,      // leaves the proposal as much
		Heartbeat:      15 * time.Second, // proxies cut what is silent for 30 s
		Patience:       10 * time.Second, // a phone in a tunnel; what is away for longer resumes
		BodyBytesMax:   64 << 10,
		ConcurrencyMax: 4096,     // at 28 k calls/s a queue of 150 ms; more would time out anyway
		StreamsMax:     10000,    // about 40 KB each
		PageBytes:      32 << 20, // some ten thousand carts that are read again and again
		CatalogTimeout: 300 * time.Millisecond,
		CatalogFresh:   time.Second, // a price edit shows within a second
		CatalogOld:     10 * time.Minute,
		CatalogEntries: 16384,
		CatalogRest:    2 * time.Second,
		Shipping:       defaultShipping(),

		CodesMax:         10,
		PromotionTimeout: 300 * time.Millisecond,
		PromotionFresh:   time.Second, // as a price
		PromotionOld:     10 * time.Minute,
		PromotionEntries: 4096,
		PromotionRest:    2 * time.Second,
		ShareURL:         restPrefix + "shared/",
	}
}

// validate reports every bad field at once and changes none.
func (c Config) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Region != "", "Region is empty")
	check(c.QuantityMax >= 1, "QuantityMax is 0")
	check(c.BatchMax >= 1, "BatchMax is %d, must be at least 1", c.BatchMax)
	check(c.RequestTimeout > 0, "RequestTimeout is %v, must be positive", c.RequestTimeout)
	check(c.TokenWait > 0 && c.TokenWait < c.RequestTimeout, "TokenWait is %v, must be positive and below RequestTimeout", c.TokenWait)
	check(c.Heartbeat > 0, "Heartbeat is %v, must be positive", c.Heartbeat)
	check(c.Patience > 0, "Patience is %v, must be positive", c.Patience)
	check(c.BodyBytesMax >= 1, "BodyBytesMax is %d, must be at least 1", c.BodyBytesMax)
	check(c.ConcurrencyMax >= 1, "ConcurrencyMax is %d, must be at least 1", c.ConcurrencyMax)
	check(c.StreamsMax >= 1, "StreamsMax is %d, must be at least 1", c.StreamsMax)
	check(c.PageBytes >= 0, "PageBytes is %d, must not be negative", c.PageBytes)
	check(c.CatalogTimeout > 0 && c.CatalogTimeout < c.RequestTimeout, "CatalogTimeout is %v, must be positive and below RequestTimeout", c.CatalogTimeout)
	check(c.CatalogFresh >= 0, "CatalogFresh is %v, must not be negative", c.CatalogFresh)
	check(c.CatalogOld >= c.CatalogFresh, "CatalogOld is %v, must be at least CatalogFresh", c.CatalogOld)
	check(c.CatalogEntries >= 1, "CatalogEntries is %d, must be at least 1", c.CatalogEntries)
	check(c.CatalogRest > 0, "CatalogRest is %v, must be positive", c.CatalogRest)
	c.Shipping.validate(check)
	check(c.CodesMax >= 0, "CodesMax is %d, must not be negative", c.CodesMax)
	check(c.PromotionTimeout > 0, "PromotionTimeout is %v, must be positive", c.PromotionTimeout)
	check(c.PromotionFresh >= 0, "PromotionFresh is %v, must not be negative", c.PromotionFresh)
	check(c.PromotionOld >= c.PromotionFresh, "PromotionOld is %v, must be at least PromotionFresh", c.PromotionOld)
	check(c.PromotionEntries >= 1, "PromotionEntries is %d, must be at least 1", c.PromotionEntries)
	check(c.PromotionRest > 0, "PromotionRest is %v, must be positive", c.PromotionRest)
	check(len(c.ShareKey) == 0 || len(c.ShareKey) >= ShareKeyBytesMin, "ShareKey has %d bytes, must have at least %d", len(c.ShareKey), ShareKeyBytesMin)
	check(c.ShareURL != "", "ShareURL is empty")
	return errors.Join(errs...)
}

// ShareKeyBytesMin is the least size of Config.ShareKey.
const ShareKeyBytesMin = 32

// Events are called synchronously and must not block; nil funcs are skipped.
type Events struct {
	// Call is one finished call, streams and refused ones included.
	Call func(Call)
	// Catalog is a change of the breaker before the catalogue: open means
	// that it is left alone.
	Catalog func(open bool)
}

// Call is one finished call.
type Call struct {
	// Procedure is a REST pattern ("GET /api/v1/cart") or a Connect procedure
	// ("/cart.v1.CartService/GetCart"): a bounded set. "unknown" else.
	Procedure string
	Code      Code // empty: it went well
	Duration  time.Duration
}
