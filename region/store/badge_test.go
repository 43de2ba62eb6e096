package store

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/samecart/samecart/crdt"
)

func TestBadgeIsTheRecords(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		asked := Asked{}
		for i := range rapid.IntRange(0, askedMax).Draw(t, "asked") {
			asked.Newest = uint64(i + 1)
			asked.refs = append(asked.refs, opRef{uint32(i), uint64(i + 1)})
		}
		lines := rapid.IntRange(0, 20).Draw(t, "lines")
		head := Head{Count: uint32(rapid.IntRange(0, 1<<20).Draw(t, "count")), Undo: rapid.Bool().Draw(t, "undo")}
		s := cartOf(lines)
		if rapid.Bool().Draw(t, "erased") {
			s.Cart = s.Cart.Apply(s.Cart.Erase(crdt.Writer{Replica: crdt.Replica{Region: 1}, At: 5}))
		}
		r := NewRecord("c", 77, s, asked, head)
		whole := r.Encode()
		for _, b := range [][]byte{whole, r.EncodeBadge(), whole[:min(len(whole), BadgeBytes)]} {
			got, err := DecodeBadge(b)
			want := r.Badge()
			if err != nil || got.Index != want.Index || got.Digest != want.Digest || got.Head != want.Head || !got.Context.Equal(want.Context) {
				t.Fatalf("%+v, %v, want %+v", got, err, want)
			}
		}
		again, err := DecodeRecord(whole)
		if err != nil || again.Head != r.Head || again.Erased != s.Cart.IsErased() {
			t.Fatalf("%+v, %v", again, err)
		}
		// Cut off anywhere it says so, or it has all that it needs.
		cut := rapid.IntRange(0, len(whole)).Draw(t, "cut")
		if got, err := DecodeBadge(whole[:cut]); err == nil && !got.Context.Equal(r.Badge().Context) {
			t.Fatalf("%d bytes of %d gave %+v", cut, len(whole), got)
		}
	})
}

func FuzzDecodeBadge(f *testing.F) {
	f.Add(NewRecord("c", 77, cartOf(2), Asked{}, Head{Count: 3}).Encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		badge, err := DecodeBadge(b)
		r, wholeErr := DecodeRecord(b)
		if wholeErr == nil && (err != nil || badge.Head != r.Head || !badge.Context.Equal(r.State.Cart.Context)) {
			t.Fatalf("the record is good, its badge %+v, %v", badge, err)
		}
	})
}

// What a count costs where the record comes from elsewhere, beside the cart.
func BenchmarkDecode(b *testing.B) {
	for _, lines := range []int{10, 200} {
		whole := NewRecord("c", 77, cartOf(lines), Asked{}, Head{Count: 3}).Encode()
		b.Run(fmt.Sprint("record/", lines), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := DecodeRecord(whole); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprint("badge/", lines), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := DecodeBadge(whole[:min(len(whole), BadgeBytes)]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
