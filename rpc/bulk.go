package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/sony/gobreaker/v2"
)

// bulk asks a service about many keys at once and remembers for a bounded time
// what it said, so that a slow or dead service neither slows carts down nor
// empties them. The zero key is not asked for.
type bulk[K comparable, V any] struct {
	bulkConfig
	// call returns the service's answers about some keys, in their order; another
	// number of them is a failure.
	call    func(ctx context.Context, keys []K) ([]V, error)
	breaker *gobreaker.CircuitBreaker[[]V]
	cache   *lru.Cache[K, remembered[V]]
}

type bulkConfig struct {
	name    string        // of the service, in errors and logs
	most    int           // keys in one call
	entries int           // remembered
	timeout time.Duration // of one call
	fresh   time.Duration // how long a key is not asked for again
	old     time.Duration // how long an answer may stand in while the service fails
	rest    time.Duration // how long a failing service is left alone

	answers error           // a call's error that is an answer of the service; nil: there is none
	changed func(open bool) // is told of the breaker; nil: nobody is
}

// remembered is what a service said of one key.
type remembered[V any] struct {
	value  V
	at     time.Time // when it was asked
	pushed bool      // the service sent it by itself: what was asked for before is older
}

// heard is what a service has said of one key, as far as it counts now.
type heard[V any] struct {
	value    V
	answered bool // the service said so, now or before
	old      bool // it said so before, and does not answer now
}

// errCallerLeft says nothing about the service.
var errCallerLeft = errors.New("the caller left")

// failuresMax is how many failures in a row open a breaker.
const failuresMax = 3

func newBulk[K comparable, V any](cfg bulkConfig, log *slog.Logger, call func(ctx context.Context, keys []K) ([]V, error)) (*bulk[K, V], error) {
	cache, err := lru.New[K, remembered[V]](cfg.entries)
	if err != nil {
		return nil, fmt.Errorf("make cache of the %s service: %w", cfg.name, err)
	}
	return &bulk[K, V]{
		bulkConfig: cfg, call: call, cache: cache,
		breaker: gobreaker.NewCircuitBreaker[[]V](gobreaker.Settings{
			Name:         cfg.name,
			MaxRequests:  1, // one caller at a time pays for finding out
			Timeout:      cfg.rest,
			ReadyToTrip:  func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= failuresMax },
			IsSuccessful: func(err error) bool { return err == nil || cfg.answers != nil && errors.Is(err, cfg.answers) },
			IsExcluded:   func(err error) bool { return errors.Is(err, errCallerLeft) },
			OnStateChange: func(name string, _, to gobreaker.State) {
				log.Info("breaker changed state", slog.String("service", name), slog.String("to", to.String()))
				if cfg.changed != nil {
					cfg.changed(to == gobreaker.StateOpen)
				}
			},
		}),
	}, nil
}

// lookUp returns what is known of each key, in their order. What was asked less
// than fresh ago, and not before since, is not asked for again. keep takes in an
// answer to a call that began at a time; ok is false for one that cannot be used,
// which is as good as none. An error says that a call failed: what was known
// before is returned all the same.
func (b *bulk[K, V]) lookUp(ctx context.Context, keys []K, fresh time.Duration, since time.Time,
	keep func(key K, answer V, asked time.Time) (value V, ok bool),
) ([]heard[V], error) {
	var none K
	out := make([]heard[V], len(keys))
	var ask []int // places in keys
	now := time.Now()
	for i, key := range keys {
		if key == none {
			continue
		}
		r, ok := b.cache.Get(key)
		switch age := now.Sub(r.at); {
		case ok && age <= fresh && !r.at.Before(since):
			out[i] = heard[V]{r.value, true, false}
			continue
		case ok && age <= b.old:
			out[i] = heard[V]{r.value, true, true}
		}
		ask = append(ask, i)
	}
	for part := range slices.Chunk(ask, b.most) {
		answers, err := b.breaker.Execute(func() ([]V, error) { return b.ask(ctx, keys, part) })
		if err != nil {
			return out, err
		}
		for n, i := range part {
			if v, ok := keep(keys[i], answers[n], now); ok {
				out[i] = heard[V]{v, true, false}
			}
		}
	}
	return out, nil
}

// remember keeps an answer to a call that began at a time.
func (b *bulk[K, V]) remember(key K, value V, asked time.Time) {
	b.cache.Add(key, remembered[V]{value: value, at: asked})
}

// ask asks about the keys at the given places.
func (b *bulk[K, V]) ask(ctx context.Context, keys []K, places []int) ([]V, error) {
	part := make([]K, len(places))
	for n, i := range places {
		part[n] = keys[i]
	}
	limited, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	answers, err := b.call(limited, part)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, errCallerLeft
	case err != nil:
		return nil, fmt.Errorf("ask the %s service about %d keys: %w", b.name, len(part), err)
	case len(answers) != len(part):
		return nil, fmt.Errorf("ask the %s service about %d keys: it answered with %d", b.name, len(part), len(answers))
	}
	return answers, nil
}
