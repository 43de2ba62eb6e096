package cache

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Config holds the settings of a cache; the zero value is not valid, start
// from DefaultConfig.
type Config struct {
	MemoryBytesMax int64 // of the in-process cache; > 0

	Prefix       string        // of every key, one per region; no braces, not empty
	OpTimeout    time.Duration // of one call, waiting for a connection included; 1 ms to 1 s
	DialTimeout  time.Duration // of connecting in the background; >= OpTimeout, at most 10 s
	PoolSize     int           // connections per Redis node; 1 to 1000
	TTL          time.Duration // of an entry; >= 1 s
	TombstoneTTL time.Duration // of a removal (empty Data); 1 s to TTL
	TTLJitter    float64       // share of a TTL that is random; 0 to 0.5

	BreakerFailures uint32        // failures in a row that open the breaker; > 0
	BreakerRatio    float64       // share of failures in BreakerWindow that opens it; 0 < r <= 1
	BreakerRequests uint32        // requests in BreakerWindow before the ratio counts; > 0
	BreakerWindow   time.Duration // >= 1 s
	BreakerOpen     time.Duration // from opening to the next probe; > 0

	TLS              *tls.Config // for rediss addresses; nil: system roots, TLS 1.2 or later
	SentinelUsername string      // login at the sentinels themselves
	SentinelPassword string

	Events Events
	Log    *slog.Logger // nil: no log
}

// DefaultConfig returns production values; Prefix is left to the caller.
func DefaultConfig() Config {
	return Config{
		MemoryBytesMax: 64 << 20,               // ten thousands of carts
		OpTimeout:      50 * time.Millisecond,  // a leader answers sooner than a cache that takes longer
		DialTimeout:    500 * time.Millisecond, // TLS handshakes are slower than commands, and nobody waits for them
		PoolSize:       16,                     // each carries thousands of commands per second
		TTL:            6 * time.Hour,          // covers a shopping session; an idle cart is read from disk
		TombstoneTTL:   10 * time.Minute,       // outlives every fill that was on its way when the cart went
		TTLJitter:      0.1,                    // entries filled together do not end together

		BreakerFailures: 5,
		BreakerRatio:    0.5, // catches a Redis that answers every second time
		BreakerRequests: 20,
		BreakerWindow:   10 * time.Second,
		BreakerOpen:     2 * time.Second, // one probe each two seconds costs one shopper OpTimeout
	}
}

// RedisConfig is Config with the place of the Redis.
type RedisConfig struct {
	Config
	Address Address
}

func (c Config) validateMemory() error {
	if c.MemoryBytesMax <= 0 {
		return fmt.Errorf("MemoryBytesMax is %d, must be > 0", c.MemoryBytesMax)
	}
	return nil
}

// validate reports every bad field at once and changes none.
func (c RedisConfig) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Prefix != "", "Prefix is empty, set one per region")
	// Braces would make a cluster hash tag and put every cart into one slot.
	check(!strings.ContainsAny(c.Prefix, "{}"), "Prefix %q has a brace", c.Prefix)
	check(c.OpTimeout >= time.Millisecond && c.OpTimeout <= time.Second, "OpTimeout is %v, must be 1ms to 1s", c.OpTimeout)
	check(c.DialTimeout >= c.OpTimeout && c.DialTimeout <= 10*time.Second, "DialTimeout is %v, must be OpTimeout to 10s", c.DialTimeout)
	check(c.PoolSize >= 1 && c.PoolSize <= 1000, "PoolSize is %d, must be 1 to 1000", c.PoolSize)
	check(c.TTL >= time.Second, "TTL is %v, must be at least 1s", c.TTL)
	check(c.TombstoneTTL >= time.Second && c.TombstoneTTL <= c.TTL, "TombstoneTTL is %v, must be 1s to TTL", c.TombstoneTTL)
	check(c.TTLJitter >= 0 && c.TTLJitter <= 0.5, "TTLJitter is %v, must be 0 to 0.5", c.TTLJitter)
	check(c.BreakerFailures > 0, "BreakerFailures is 0, must be > 0")
	check(c.BreakerRatio > 0 && c.BreakerRatio <= 1, "BreakerRatio is %v, must be over 0 and at most 1", c.BreakerRatio)
	check(c.BreakerRequests > 0, "BreakerRequests is 0, must be > 0")
	check(c.BreakerWindow >= time.Second, "BreakerWindow is %v, must be at least 1s", c.BreakerWindow)
	check(c.BreakerOpen > 0, "BreakerOpen is %v, must be > 0", c.BreakerOpen)
	check(len(c.Address.Hosts) > 0, "Address has no hosts")
	switch c.Address.Form {
	case Single, Cluster:
	case Sentinel:
		check(c.Address.Master != "", "Address has no master name")
	default:
		check(false, "Address has form %q, must be single, sentinel or cluster", c.Address.Form)
	}
	return errors.Join(errs...)
}

// Open returns the cache at addr:
//
//	""                                                       in this process
//	redis://[user:pass@]host:port[/db]                       one Redis
//	redis+sentinel://[user:pass@]host:port,…/MASTER[/db]     behind Sentinel
//	redis+cluster://[user:pass@]host:port,…                  Redis Cluster
//
// rediss in place of redis speaks TLS. User and password are percent-encoded.
// It connects to nothing yet: a Redis that is down is a cache that misses.
func Open(addr string, cfg Config) (Cache, error) {
	if addr == "" {
		if err := cfg.validateMemory(); err != nil {
			return nil, fmt.Errorf("open in-process cache: %w", err)
		}
		return newMemory(cfg.MemoryBytesMax, cfg.Events), nil
	}
	a, err := ParseAddress(addr)
	if err != nil {
		return nil, err
	}
	return NewRedis(RedisConfig{Config: cfg, Address: a})
}
