package cache

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/alicebob/miniredis/v2"
)

// benchLines are carts of 10 and 200 lines at about 40 encoded bytes each.
var benchLines = []int{10, 200}

func benchCache(b *testing.B, c Cache) {
	ctx := context.Background()
	const keys = 1000
	var index atomic.Uint64
	for _, lines := range benchLines {
		data := make([]byte, lines*40)
		name := make([]string, keys)
		for i := range name {
			name[i] = fmt.Sprintf("cart-%d-%d", lines, i)
			c.Store(ctx, name[i], Entry{Version{1, 1, index.Add(1)}, data})
		}
		b.Run(fmt.Sprintf("load/lines=%d", lines), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if _, ok := c.Load(ctx, name[i%keys]); !ok {
						b.Error("miss")
						return
					}
				}
			})
		})
		b.Run(fmt.Sprintf("store/lines=%d", lines), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					c.Store(ctx, name[i%keys], Entry{Version{1, 1, index.Add(1)}, data})
				}
			})
		})
		b.Run(fmt.Sprintf("storemany=100/lines=%d", lines), func(b *testing.B) {
			b.ReportAllocs()
			es := make([]Entry, 100)
			for b.Loop() {
				for i := range es {
					es[i] = Entry{Version{1, 1, index.Add(1)}, data}
				}
				c.StoreMany(ctx, name[:100], es)
			}
		})
	}
}

func BenchmarkMemory(b *testing.B) { benchCache(b, NewMemory(64<<20)) }

// BenchmarkFakeRedis measures the client side; miniredis stands in for the server.
func BenchmarkFakeRedis(b *testing.B) {
	benchCache(b, mustOpen(b, "redis://"+miniredis.RunT(b).Addr(), testConfig()))
}

func BenchmarkFillerOffer(b *testing.B) {
	f := NewFiller(NewMemory(1), FillerConfig{})
	data := make([]byte, 400)
	names := make([]string, 10000)
	for i := range names {
		names[i] = fmt.Sprint("cart-", i)
	}
	b.ReportAllocs()
	for i := uint64(0); b.Loop(); i++ {
		f.Offer(names[i%10000], Entry{Version{1, 1, i}, data})
	}
}
