package riblt

import (
	"fmt"
	"testing"
)

func BenchmarkEncode(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		items := itemsFrom(0, n)
		for _, symbols := range []int{1, 128, 2048} {
			b.Run(fmt.Sprintf("items=%d/symbols=%d", n, symbols), func(b *testing.B) {
				b.ReportAllocs()
				var row []byte
				for b.Loop() {
					row = NewEncoder(Key{1}, items).Append(row[:0], symbols)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/item")
				b.ReportMetric(float64(len(row))/float64(symbols), "B/symbol")
			})
		}
	}
}

// The next symbols of a stream that is under way, as one asks who wants few.
func BenchmarkAppend(b *testing.B) {
	items := itemsFrom(0, 100_000)
	b.Run("items=100000/symbols=1", func(b *testing.B) {
		b.ReportAllocs()
		enc := NewEncoder(Key{1}, items)
		row := enc.Append(nil, 1000)
		for b.Loop() {
			row = enc.Append(row[:0], 1)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		for _, differ := range []int{0, 10, 1000, 10_000} {
			if differ > n {
				continue
			}
			own, theirs := itemsFrom(0, n), itemsFrom(differ/2, n)
			row := NewEncoder(Key{1}, theirs).Append(nil, 2*differ+20)
			b.Run(fmt.Sprintf("items=%d/differ=%d", n, differ), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					dec, err := NewDecoder(Key{1}, own)
					if err != nil {
						b.Fatal(err)
					}
					if done, err := dec.Add(row); err != nil || !done {
						b.Fatal(done, err)
					}
				}
				perOp := float64(b.Elapsed().Nanoseconds()) / float64(b.N)
				b.ReportMetric(perOp/float64(n), "ns/item")
			})
		}
	}
}

// What a differing item costs, apart from the sets: theirs is all that differs.
func BenchmarkPeel(b *testing.B) {
	for _, differ := range []int{1000, 100_000} {
		row := NewEncoder(Key{1}, itemsFrom(0, differ)).Append(nil, differ*3/2)
		b.Run(fmt.Sprintf("differ=%d", differ), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				dec, err := NewDecoder(Key{1}, nil)
				if err != nil {
					b.Fatal(err)
				}
				if done, err := dec.Add(row); err != nil || !done {
					b.Fatal(done, err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(differ), "ns/differing")
		})
	}
}
