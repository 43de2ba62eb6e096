package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	adminv1 "github.com/samecart/samecart/proto/admin/v1"
)

var (
	gossipRate = flag.Int("gossip-rate", 1000, "edits a second in BenchmarkGossip")
	drainEdits = flag.Int("drain-edits", 100_000, "edits made during the cut in BenchmarkDrain")
	drainPace  = flag.Int("drain-pace", 0, "--catchup-rate in BenchmarkDrain")
	gossipTime = flag.Duration("gossip-time", 20*time.Second, "how long BenchmarkGossip edits")
)

// rawEdit is what an add is made of, without a byte of how it is written down:
// cart id, seller, SKU, op id, quantity, price, currency, time.
func rawEdit(cart, seller, sku string) int {
	return len(cart) + len(seller) + len(sku) + 16 + 1 + 3 + 3 + 8
}

// paced calls edit rate times a second for a while, by as many workers as that
// takes, and returns how many calls were made.
func paced(rate int, d time.Duration, edit func(i int)) int {
	var made atomic.Int64
	ticks := make(chan int, rate)
	var workers sync.WaitGroup
	for range 64 {
		workers.Go(func() {
			for i := range ticks {
				edit(i)
				made.Add(1)
			}
		})
	}
	begin := time.Now()
	for i := 0; ; i++ {
		at := begin.Add(time.Duration(i) * time.Second / time.Duration(rate))
		if at.Sub(begin) > d {
			break
		}
		time.Sleep(time.Until(at))
		ticks <- i
	}
	close(ticks)
	workers.Wait()
	return int(made.Load())
}

// adder returns a function that makes the i-th of a row of adds in us-east,
// spread over so many carts.
func (p *repairPair) adder(b *testing.B, carts int) func(i int) {
	hc := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 5 * time.Second}
	b.Cleanup(hc.CloseIdleConnections)
	return func(i int) {
		body := fmt.Sprintf(`{"sku_id":"SKU-%d","quantity":1,"seller_id":"seller-%d"}`, 100+i/carts*7919%899, 1+i%9)
		req, err := http.NewRequest("POST", p.api[0]+"/api/v1/cart/items", bytes.NewReader([]byte(body)))
		if err != nil {
			b.Error(err)
			return
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-User-Id", fmt.Sprintf("user-%07d", i%carts))
		req.Header.Set("Idempotency-Key", fmt.Sprintf("%032x", i))
		resp, err := hc.Do(req)
		if err != nil {
			b.Error(err)
			return
		}
		if resp.StatusCode != 200 {
			b.Errorf("status %d", resp.StatusCode)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
}

func peersOf(m *adminv1.RegionsResponse, region string) (out []*adminv1.PeerStatus) {
	for _, r := range m.Regions {
		if r.Region != region {
			continue
		}
		for _, s := range r.Shards {
			out = append(out, s.Peers...)
		}
	}
	return out
}

// BenchmarkGossip measures what steady edits in one region cost the link to
// another, and how far behind the other is. Run it with -benchtime 1x.
func BenchmarkGossip(b *testing.B) {
	for _, delay := range []time.Duration{0, 40 * time.Millisecond} {
		b.Run(fmt.Sprintf("rate=%d/oneway=%v", *gossipRate, delay), func(b *testing.B) {
			p := startRepairPair(b, delay)
			p.connected()
			raw := rawEdit("cart:user-0000000", "seller-1", "SKU-100")
			add := p.adder(b, 200_000)
			paced(*gossipRate, time.Second, add) // what is first is slow
			before := p.meters[1].bytes.Load()
			n := paced(*gossipRate, *gossipTime, func(i int) { add(i + 1_000_000) })
			status, err := p.admin.Regions(context.Background(), asAdmin(&adminv1.RegionsRequest{}))
			if err != nil {
				b.Fatal(err)
			}
			time.Sleep(time.Second)
			bytes := p.meters[1].bytes.Load() - before
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(bytes)/float64(n), "wire-B/edit")
			b.ReportMetric(float64(bytes)/float64(n)/float64(raw), "wire÷raw")
			for _, peer := range peersOf(status.Msg, "us-east") {
				b.ReportMetric(float64(peer.LagP50Ms), "ms-p50")
				b.ReportMetric(float64(peer.LagP99Ms), "ms-p99")
			}
		})
	}
}

// BenchmarkDrain cuts the link, makes edits at the fastest, heals, and measures
// how fast the other region takes them while edits go on at -gossip-rate, and
// what those take: as much of them before the cut as during the drain, as a
// p99 of few is what the machine did in its worst moment. Run it with
// -benchtime 1x.
func BenchmarkDrain(b *testing.B) {
	b.Run(fmt.Sprintf("edits=%d/pace=%d", *drainEdits, *drainPace), func(b *testing.B) {
		p := startRepairPair(b, 0, "--catchup-rate", fmt.Sprint(*drainPace))
		p.connected()
		add := p.adder(b, 200_000)
		// foreground edits until it is stopped, and returns what each edit took.
		foreground := func(from int, stop <-chan struct{}) (took []time.Duration) {
			var mu sync.Mutex
			for {
				paced(*gossipRate, 500*time.Millisecond, func(i int) {
					begin := time.Now()
					add(from + i)
					mu.Lock()
					defer mu.Unlock()
					took = append(took, time.Since(begin))
				})
				from += *gossipRate
				select {
				case <-stop:
					slices.Sort(took)
					return took
				default:
				}
			}
		}
		lasting := func(d time.Duration) <-chan struct{} {
			stop := make(chan struct{})
			time.AfterFunc(d, func() { close(stop) })
			return stop
		}
		foreground(0, lasting(2*time.Second))
		normal := foreground(1_000_000, lasting(*gossipTime))
		p.shut(true)
		var next atomic.Int64
		var all sync.WaitGroup
		begin := time.Now()
		for range 64 {
			all.Go(func() {
				for i := next.Add(1); i <= int64(*drainEdits); i = next.Add(1) {
					add(10_000_000 + int(i))
				}
			})
		}
		all.Wait()
		rate := float64(*drainEdits) / time.Since(begin).Seconds()
		waiting := func() (rows uint64) {
			status, err := p.admin.Regions(context.Background(), asAdmin(&adminv1.RegionsRequest{}))
			if err != nil {
				b.Fatal(err)
			}
			for _, peer := range peersOf(status.Msg, "us-east") {
				rows += peer.RowsWaiting
			}
			return rows
		}
		time.Sleep(5 * time.Second) // what the edits left to do is not the drain's
		behind, before := waiting(), p.meters[1].bytes.Load()
		during := make(chan []time.Duration, 1)
		stop := make(chan struct{})
		p.shut(false)
		go func() { during <- foreground(20_000_000, stop) }()
		begin = time.Now()
		for waiting() > uint64(*gossipRate) {
			time.Sleep(100 * time.Millisecond)
			if time.Since(begin) > 20*time.Minute {
				b.Fatal("it does not drain")
			}
		}
		took := time.Since(begin)
		close(stop)
		drained := <-during
		at := func(took []time.Duration, percent int) float64 {
			return float64(took[len(took)*percent/100].Microseconds()) / 1000
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(rate, "edits/s-made")
		b.ReportMetric(float64(behind), "rows-behind")
		b.ReportMetric(took.Seconds(), "s")
		b.ReportMetric(float64(behind)/took.Seconds(), "rows/s-drained")
		b.ReportMetric(float64(p.meters[1].bytes.Load()-before)/float64(behind), "wire-B/row")
		b.ReportMetric(at(normal, 50), "ms-p50-normal")
		b.ReportMetric(at(normal, 99), "ms-p99-normal")
		b.ReportMetric(at(drained, 50), "ms-p50-during")
		b.ReportMetric(at(drained, 99), "ms-p99-during")
	})
}
