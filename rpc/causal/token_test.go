package causal

import (
	"strings"
	"testing"

	"github.com/samecart/samecart/crdt"
)

func contextOfTwo() crdt.CausalContext {
	return crdt.ContextOf(
		crdt.Dot{Replica: crdt.Replica{Region: 1, Incarnation: 1}, Seq: 1},
		crdt.Dot{Replica: crdt.Replica{Region: 2, Incarnation: 3, Lineage: "guest:x"}, Seq: 7},
	)
}

func TestTokenRoundTrip(t *testing.T) {
	for _, want := range []Token{
		{CartID: "cart:user-123", Context: contextOfTwo()},
		{CartID: "", Context: crdt.CausalContext{}},
		{CartID: "guest:x", Context: contextOfTwo(), Digest: [16]byte{1, 2, 3}, Resume: true},
	} {
		got, err := DecodeToken(want.Encode())
		if err != nil || got.CartID != want.CartID || !got.Context.Equal(want.Context) || got.Digest != want.Digest || got.Resume != want.Resume {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
	// A context that no token can hold gives none, rather than one that is refused.
	var huge crdt.CausalContext
	for i := range uint16(500) {
		huge = huge.With(crdt.Dot{Replica: crdt.Replica{Region: crdt.RegionID(i), Incarnation: 1, Lineage: strings.Repeat("g", 100)}, Seq: 1})
	}
	if s := (Token{CartID: "c", Context: huge}).Encode(); s != "" {
		t.Errorf("a token of %d characters", len(s))
	}
}

// Untrusted text never panics, and what is read has one form.
func FuzzDecodeToken(f *testing.F) {
	f.Add(Token{CartID: "cart:user-123", Context: contextOfTwo()}.Encode())
	f.Add(Token{CartID: "c", Context: contextOfTwo(), Resume: true}.Encode())
	f.Add("AQ")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := DecodeToken(s)
		if err != nil {
			return
		}
		again, err := DecodeToken(got.Encode())
		if err != nil || again.CartID != got.CartID || !again.Context.Equal(got.Context) {
			t.Fatalf("%q: %+v, then %+v, %v", s, got, again, err)
		}
	})
}
