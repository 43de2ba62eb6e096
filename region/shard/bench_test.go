package shard

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/samecart/samecart/region/store"
)

// BenchmarkApplyBatch applies batches of 4 entries of 50 adds each, to 100
// carts of 10 or 200 lines: a leader's apply loop under load. An operation is
// one add.
func BenchmarkApplyBatch(b *testing.B) {
	for _, lines := range []int{10, 200} {
		b.Run(fmt.Sprint("lines=", lines), func(b *testing.B) {
			s := openStore(b, b.TempDir(), 64<<20)
			defer func() {
				if err := s.Close(); err != nil {
					b.Error(err)
				}
			}()
			r := newRig(b, s, 0, 1)
			r.limits.Lines, r.limits.Quantity, r.limits.OpLifeMs = 500, 1<<31, 1000
			const carts = 100
			for c := range carts {
				for l := range lines {
					r.ok(edit(cartID(c), add("seller-1", fmt.Sprint("SKU-", 10000+l), 1)))
				}
			}
			r.fsm.carts.max = 1 << 30
			n := 0
			entry := func() *raft.Log {
				e := r.entry()
				for range 50 {
					e.Commands = append(e.Commands, editCommand(withOp(n, edit(cartID(n%carts), add("seller-1", fmt.Sprint("SKU-", 10000+n%lines), 1)))))
					n++
				}
				data, err := marshal(e)
				if err != nil {
					b.Fatal(err)
				}
				r.index++
				return &raft.Log{Index: r.index, Type: raft.LogCommand, Data: data}
			}
			var batches [][]*raft.Log
			for len(batches)*200 < b.N {
				batches = append(batches, []*raft.Log{entry(), entry(), entry(), entry()})
				r.at += 10 << 16
			}
			b.ReportAllocs()
			b.ResetTimer()
			for _, logs := range batches {
				r.fsm.ApplyBatch(logs)
				r.published = r.published[:0]
			}
		})
	}
}

// BenchmarkPropose has clients that each add to carts of their own, one
// request at a time, on three members with their logs on disk. An operation
// is one acknowledged add.
func BenchmarkPropose(b *testing.B) {
	for _, clients := range []int{64, 256} {
		b.Run(fmt.Sprint("clients=", clients), func(b *testing.B) {
			var entries, commands atomic.Int64
			g := newGroup(b, true, func(string) start {
				return start{segment: 64 << 20, memTable: 64 << 20, with: func(c *Config) {
					c.Timing = DefaultTiming()
					c.QueueMax = 4096
					c.Limits.Quantity = 1 << 31
					c.CacheBytes = 256 << 20
					c.Applied = func(a Applied) { entries.Add(int64(a.Entries)); commands.Add(int64(a.Commands)) }
					c.Published = func(string, *store.Record, []byte, bool) {}
				}}
			}, "n1", "n2", "n3")
			_, s := g.leader()
			var next atomic.Int64
			var wg sync.WaitGroup
			runtime.GC()
			entries.Store(0)
			commands.Store(0)
			b.ResetTimer()
			for c := range clients {
				wg.Go(func() {
					for i := 0; next.Add(1) <= int64(b.N); i++ {
						cmd := editCommand(withOp(i, edit(fmt.Sprint("cart-", c, "-", i%4), add("seller-1", fmt.Sprint("SKU-", 10000+i%10), 1))))
						if _, err := s.Propose(context.Background(), cmd); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "adds/s")
			b.ReportMetric(float64(commands.Load())/float64(max(1, entries.Load())), "commands/entry")
		})
	}
}
