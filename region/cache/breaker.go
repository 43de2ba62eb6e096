package cache

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/sony/gobreaker/v2"
)

// In a cluster one node may be dead while the others answer, so a breaker
// watches a range of slots: nodes own ranges, and the ranges of the dead node
// open while all others stay closed. A range that two nodes share goes with
// either: at most 256 of 16384 slots per border.
const (
	clusterSlots  = 16384
	slotsPerRange = 256
)

// breakers takes a slow or dead Redis out of the path.
type breakers struct {
	cluster bool
	all     []*gobreaker.TwoStepCircuitBreaker[struct{}]
}

func newBreakers(cfg RedisConfig) *breakers {
	b := &breakers{cluster: cfg.Address.Form == Cluster}
	if !b.cluster {
		b.all = append(b.all, newBreaker("redis", cfg))
		return b
	}
	for lo := 0; lo < clusterSlots; lo += slotsPerRange {
		b.all = append(b.all, newBreaker(fmt.Sprintf("slots %d-%d", lo, lo+slotsPerRange-1), cfg))
	}
	return b
}

func newBreaker(name string, cfg RedisConfig) *gobreaker.TwoStepCircuitBreaker[struct{}] {
	return gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name:         name,
		MaxRequests:  1, // one caller at a time pays for finding out
		Interval:     cfg.BreakerWindow,
		BucketPeriod: cfg.BreakerWindow / 10,
		Timeout:      cfg.BreakerOpen,
		ReadyToTrip: func(n gobreaker.Counts) bool {
			judged := n.TotalSuccesses + n.TotalFailures
			return n.ConsecutiveFailures >= cfg.BreakerFailures ||
				judged >= cfg.BreakerRequests && float64(n.TotalFailures) >= cfg.BreakerRatio*float64(judged)
		},
		IsExcluded: func(err error) bool { return errors.Is(err, errCallerLeft) },
		OnStateChange: func(name string, from, to gobreaker.State) {
			if cfg.Log != nil {
				cfg.Log.Info("cache breaker changed state",
					slog.String("breaker", name), slog.String("from", from.String()), slog.String("to", to.String()))
			}
			if cfg.Events.Breaker != nil {
				cfg.Events.Breaker(Breaker{Name: name, From: from.String(), To: to.String()})
			}
		},
	})
}

// index returns which breaker watches a key.
func (b *breakers) index(key string) int {
	if !b.cluster {
		return 0
	}
	return slot(key) / slotsPerRange
}

// allow asks breaker i. done must be called once with what was found out.
func (b *breakers) allow(i int) (done func(error), err error) {
	return b.all[i].Allow()
}

// slot is the Redis Cluster slot of key: CRC-16/XMODEM of its hash tag, or of
// the whole key, modulo 16384.
//
// Source: Redis Cluster specification, "Key distribution model" and "Hash tags".
func slot(key string) int {
	if i := strings.IndexByte(key, '{'); i >= 0 {
		if n := strings.IndexByte(key[i+1:], '}'); n > 0 {
			key = key[i+1 : i+1+n]
		}
	}
	var crc uint16
	for _, c := range []byte(key) {
		crc ^= uint16(c) << 8
		for range 8 {
			if carry := crc&0x8000 != 0; carry {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc) % clusterSlots
}
