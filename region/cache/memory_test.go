package cache

import (
	"context"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

func TestMemorySuite(t *testing.T) {
	testSuite(t, func(*testing.T) rig {
		m := newMemory(1<<20, Events{})
		return rig{cache: m, flush: func(*testing.T) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.items.Purge()
			m.bytes = 0
		}}
	})
}

func TestMemoryBytes(t *testing.T) {
	ctx := context.Background()
	rapid.Check(t, func(rt *rapid.T) {
		bytesMax := rapid.Int64Range(-1, 3000).Draw(rt, "bytesMax")
		m := newMemory(bytesMax, Events{})
		for i := range rapid.IntRange(0, 60).Draw(rt, "stores") {
			key := fmt.Sprint(rapid.IntRange(0, 9).Draw(rt, "key"))
			m.Store(ctx, key, Entry{Version{1, 1, uint64(i)}, make([]byte, rapid.IntRange(0, 1500).Draw(rt, "size"))})
			var sum int64
			for _, k := range m.items.Keys() {
				it, _ := m.items.Peek(k)
				sum += it.cost(k)
			}
			if sum != m.bytes || sum > max(bytesMax, 0) { // M1
				rt.Fatalf("items cost %d, counted %d, at most %d", sum, m.bytes, bytesMax)
			}
		}
	})
}

func TestMemoryEvictsLeastUsed(t *testing.T) {
	ctx := context.Background()
	count := newCounter()
	m := newMemory(3*(itemOverhead+1+100), count.events())
	for i, k := range []string{"a", "b", "c"} {
		m.Store(ctx, k, Entry{Version{1, 1, uint64(i)}, make([]byte, 100)})
	}
	m.Load(ctx, "a")
	m.Store(ctx, "d", Entry{Version{1, 1, 9}, make([]byte, 100)})
	wantMiss(t, m, "b")
	for _, k := range []string{"a", "c", "d"} {
		if _, ok := m.Load(ctx, k); !ok {
			t.Errorf("%s is gone", k)
		}
	}
	if count.evicted != 1 {
		t.Errorf("%d evicted, want 1", count.evicted)
	}
	if h, mi, s := count.of(OpLoad, Hit), count.of(OpLoad, Miss), count.of(OpStore, Stored); h != 4 || mi != 1 || s != 4 {
		t.Errorf("%d hits, %d misses, %d stored", h, mi, s)
	}
}

// A state that does not fit must not leave an older one behind (M2).
func TestMemoryTooBig(t *testing.T) {
	ctx := context.Background()
	m := NewMemory(1000)
	m.Store(ctx, "k", Entry{Version{1, 1, 1}, []byte("one")})
	m.Store(ctx, "k", Entry{Version{1, 1, 2}, make([]byte, 2000)})
	wantMiss(t, m, "k")
	m.Store(ctx, "k", Entry{Version{1, 1, 1}, []byte("one")})
	wantMiss(t, m, "k")
	three := Entry{Version{1, 1, 3}, []byte("three")}
	m.Store(ctx, "k", three)
	wantEntry(t, m, "k", three)
}

func TestMemoryCopies(t *testing.T) {
	m := NewMemory(1 << 20)
	data := []byte("cart")
	m.Store(context.Background(), "k", Entry{Version{1, 1, 1}, data})
	data[0] = 'X'
	wantEntry(t, m, "k", Entry{Version{1, 1, 1}, []byte("cart")})
}
