package crdttest

import (
	"bytes"
	"fmt"

	"github.com/samecart/samecart/crdt"
)

// T is what the checks need of a test: *testing.T, *testing.B and *rapid.T
// have it.
type T interface {
	Helper()
	Fatalf(format string, args ...any)
}

// Lattice is the equality every lattice type of package crdt has.
type Lattice[V any] interface{ Equal(V) bool }

// Equal fails the test when got and want are not the same lattice value.
func Equal[V Lattice[V]](t T, law string, got, want V) {
	t.Helper()
	if !got.Equal(want) {
		t.Fatalf("%s:\n got %s\nwant %s", law, show(got), show(want))
	}
}

func show(v any) string {
	if c, ok := v.(*crdt.Cart); ok {
		return Show(c)
	}
	return fmt.Sprintf("%+v", v)
}

// Show writes out a cart's context and every surviving write.
func Show(c *crdt.Cart) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%v", c.Context)
	for _, e := range c.Lines {
		fmt.Fprintf(&b, "\n  %+v: presence %v quantity %v placement %v offer %v attributes %v",
			e.Key, e.Line.Presence, e.Line.Quantity, e.Line.Placement, e.Line.Offer, e.Line.Attributes)
	}
	return b.String()
}

// JoinLaws checks that join is idempotent, commutative and associative on
// the three values, and that it is an upper bound: joining an operand again
// changes nothing.
func JoinLaws[V Lattice[V]](t T, join func(a, b V) V, a, b, c V) {
	t.Helper()
	Equal(t, "idempotent", join(a, a), a)
	Equal(t, "commutative", join(a, b), join(b, a))
	Equal(t, "associative", join(join(a, b), c), join(a, join(b, c)))
	Equal(t, "absorbs its left side", join(join(a, b), a), join(a, b))
	Equal(t, "absorbs its right side", join(b, join(a, b)), join(a, b))
}

// Canonical checks that two values are Equal exactly when their bytes are.
func Canonical[V Lattice[V]](t T, encode func(V) []byte, a, b V) {
	t.Helper()
	same := bytes.Equal(encode(a), encode(b))
	if a.Equal(b) != same {
		t.Fatalf("equal values: %v, equal bytes: %v\n%s\n%s", a.Equal(b), same, show(a), show(b))
	}
}

// RoundTrip checks that a value comes back from its bytes, and that it
// gives the same bytes again.
func RoundTrip[V Lattice[V]](t T, encode func(V) []byte, decode func([]byte) (V, error), v V) {
	t.Helper()
	b := encode(v)
	got, err := decode(b)
	if err != nil {
		t.Fatalf("decode of %x: %v\n%s", b, err, show(v))
	}
	Equal(t, "round trip", got, v)
	if again := encode(got); !bytes.Equal(again, b) {
		t.Fatalf("encoded again: %x, first %x", again, b)
	}
}

// WellFormed checks what must hold of every cart that a history reaches:
// surviving dots are in the context, and a dot stands in one line only.
func WellFormed(t T, c *crdt.Cart) {
	t.Helper()
	in := map[crdt.Dot]crdt.LineKey{}
	for i, e := range c.Lines {
		if i > 0 && c.Lines[i-1].Key.Compare(e.Key) >= 0 {
			t.Fatalf("lines out of order: %v before %v", c.Lines[i-1].Key, e.Key)
		}
		for _, d := range Dots(e.Line) {
			if !c.Context.Has(d) {
				t.Fatalf("dot %v of %v is not in the context %v", d, e.Key, c.Context)
			}
			if k, ok := in[d]; ok && k != e.Key {
				t.Fatalf("dot %v stands in %v and in %v", d, k, e.Key)
			}
			in[d] = e.Key
		}
	}
}

// Dots lists the dots of a line's registers; a dot may come twice.
func Dots(l *crdt.Line) []crdt.Dot {
	if l == nil {
		return nil
	}
	var out []crdt.Dot
	out = appendDots(out, l.Presence)
	out = appendDots(out, l.Quantity)
	out = appendDots(out, l.Placement)
	out = appendDots(out, l.Offer)
	return appendDots(out, l.Attributes)
}

func appendDots[V comparable](out []crdt.Dot, r crdt.Register[V]) []crdt.Dot {
	for _, w := range r {
		out = append(out, w.Dot)
	}
	return out
}
