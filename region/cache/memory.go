package cache

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// itemOverhead is about what one item costs besides its key and data: list
// element, map cell, headers.
const itemOverhead = 192

// memory is the in-process Cache.
//
//	M1  bytes is the sum of cost over all items and at most bytesMax.
//	M2  A version never goes down while its key stays in the map.
type memory struct {
	bytesMax int64
	events   Events

	mu     sync.Mutex
	items  *simplelru.LRU[string, item]
	bytes  int64
	closed bool
}

type item struct {
	entry Entry
	// tooBig: the data did not fit, only the version stays. It is a miss, but an
	// older state that arrives later is still refused.
	tooBig bool
}

func (it item) cost(key string) int64 {
	return int64(len(key)+len(it.entry.Data)) + itemOverhead
}

// NewMemory returns a cache in this process that holds about bytesMax bytes,
// keys and bookkeeping included, and drops what was not used for longest when
// full. With bytesMax <= 0 it holds nothing. Entries do not age: other
// processes' writes are seen only if this process stores them.
func NewMemory(bytesMax int64) Cache { return newMemory(bytesMax, Events{}) }

func newMemory(bytesMax int64, events Events) *memory {
	m := &memory{bytesMax: max(bytesMax, 0), events: events}
	items, err := simplelru.NewLRU[string, item](math.MaxInt, nil) // bounded by bytes, below
	if err != nil {
		panic(fmt.Sprintf("cache: lru of positive size: %v", err))
	}
	m.items = items
	return m
}

func (m *memory) Load(_ context.Context, key string) (Entry, bool) {
	start := time.Now()
	m.mu.Lock()
	it, ok := m.items.Get(key)
	m.mu.Unlock()
	ok = ok && !it.tooBig
	out := Hit
	if !ok {
		out, it = Miss, item{}
	}
	m.events.done(Done{Op: OpLoad, Outcome: out, Count: 1, Took: time.Since(start)})
	return it.entry, ok
}

func (m *memory) LoadHead(ctx context.Context, key string, n int) (Entry, bool) {
	e, ok := m.Load(ctx, key)
	e.Data = e.Data[:min(len(e.Data), n)]
	return e, ok
}

func (m *memory) Store(ctx context.Context, key string, e Entry) {
	m.StoreMany(ctx, []string{key}, []Entry{e})
}

func (m *memory) StoreMany(_ context.Context, keys []string, es []Entry) {
	mustPair(keys, es)
	start := time.Now()
	stored, evicted := 0, 0
	m.mu.Lock()
	for i, key := range keys {
		if m.storeLocked(key, es[i]) {
			stored++
		}
	}
	for m.bytes > m.bytesMax {
		key, it, ok := m.items.RemoveOldest()
		if !ok {
			panic(fmt.Sprintf("cache: %d bytes counted in an empty cache", m.bytes))
		}
		m.bytes -= it.cost(key)
		evicted++
	}
	m.mu.Unlock()
	took := time.Since(start)
	m.events.done(Done{Op: OpStore, Outcome: Stored, Count: stored, Took: took})
	m.events.done(Done{Op: OpStore, Outcome: Kept, Count: len(keys) - stored, Took: took})
	if evicted > 0 && m.events.Evicted != nil {
		m.events.Evicted(evicted)
	}
}

// storeLocked does one versioned set and reports whether e is in now.
func (m *memory) storeLocked(key string, e Entry) bool {
	if m.closed {
		return false
	}
	old, had := m.items.Peek(key)
	if had && e.Version.Compare(old.entry.Version) <= 0 {
		return false
	}
	// The copy keeps no larger buffer of the caller alive than is counted.
	it := item{entry: Entry{Version: e.Version}}
	if it.tooBig = it.cost(key)+int64(len(e.Data)) > m.bytesMax; !it.tooBig {
		it.entry.Data = bytes.Clone(e.Data)
	}
	if had {
		m.bytes -= old.cost(key)
	}
	m.items.Add(key, it)
	m.bytes += it.cost(key)
	return !it.tooBig
}

// Ping always answers.
func (m *memory) Ping(context.Context) error { return nil }

// Close empties the cache.
func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.items.Purge()
	m.bytes, m.closed = 0, true
	return nil
}

func mustPair(keys []string, es []Entry) {
	if len(keys) != len(es) {
		panic(fmt.Sprintf("cache: StoreMany of %d keys and %d entries", len(keys), len(es)))
	}
}
