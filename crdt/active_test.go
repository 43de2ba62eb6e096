package crdt_test

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/crdt/crdttest"
)

func anyActive(t *rapid.T, name string) crdt.Active {
	return crdt.Active{
		At:     crdt.Timestamp(rapid.SampledFrom([]uint64{0, 1, 1_700_000_000_000 << 16, math.MaxUint64}).Draw(t, name+" at")),
		Region: crdt.RegionID(rapid.SampledFrom([]uint16{1, 2, math.MaxUint16}).Draw(t, name+" region")),
	}
}

// The newest activity is a maximum: idempotent, commutative, associative.
func TestActiveLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := anyActive(t, "a"), anyActive(t, "b"), anyActive(t, "c")
		if a.Join(a) != a || a.Join(b) != b.Join(a) || a.Join(b.Join(c)) != a.Join(b).Join(c) || a.Join(crdt.Active{}) != a {
			t.Fatalf("%v, %v, %v: no maximum", a, b, c)
		}
	})
}

// A state keeps its activity whatever the cart's offers are, and costs a byte
// more for it right after an add than without one.
func TestActiveInState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := crdttest.Random(t, 10)
		s := crdt.State{Cart: h.Regions[0].Cart, Active: anyActive(t, "active")}
		again, err := crdt.DecodeState(s.Encode(nil))
		if err != nil || again.Active != s.Active {
			t.Fatalf("%v, encoded again %v: %v", s.Active, again.Active, err)
		}
	})
	at := crdt.TimestampAt(1_700_000_000_000) + 3
	c := &crdt.Cart{}
	c = c.Apply(c.Add(crdt.Writer{Replica: crdt.Replica{Region: 1}, At: at}, tea, 1, crdt.Offer{Currency: "EUR", AddedAt: at}, false))
	none := len(crdt.State{Cart: c}.Encode(nil))
	for _, k := range []struct {
		since crdt.Timestamp
		most  int
	}{{0, 1}, {60_000 << 16, 6}, {30 * 86_400_000 << 16, 8}} {
		if n := len(crdt.State{Cart: c, Active: crdt.Active{At: at + k.since, Region: 1}}.Encode(nil)) - none; n > k.most {
			t.Errorf("activity %d ms after the newest line takes %d bytes, at most %d wanted", k.since>>16, n, k.most)
		}
	}
}

// Of combined rows the newest edit of a shopper counts, whichever row has it.
func TestActiveOfCombinedRows(t *testing.T) {
	c := &crdt.Cart{}
	d := c.Add(writer, tea, 1, crdt.Offer{}, false)
	row := func(at, age crdt.Timestamp) crdt.Row {
		return crdt.Row{Seq: 1, Last: 1, At: at, Age: age, Delta: d}
	}
	for _, k := range []struct {
		a, b crdt.Row
		want crdt.Active
	}{
		{row(5, 0), row(9, 0), crdt.Active{At: 9, Region: 2}},
		{row(5, 0), row(9, 9), crdt.Active{At: 5, Region: 2}},
		{row(5, 5), row(9, 9), crdt.Active{}},
		{row(9, 1), row(9, 6), crdt.Active{At: 8, Region: 2}},
	} {
		for _, got := range []crdt.Row{crdt.CombineRows(k.a, k.b), crdt.CombineRows(k.b, k.a)} {
			if got.At != 9 || got.Active(2) != k.want {
				t.Errorf("rows at %d less %d and %d less %d: at %d, active %v, want %v", k.a.At, k.a.Age, k.b.At, k.b.Age, got.At, got.Active(2), k.want)
			}
		}
	}
}

// Lines in the cart and lines set aside are due after their own lives, a guest's all
// at once; codes as lines in the cart; other facts never.
func TestDue(t *testing.T) {
	const at = 1_700_000_000_000
	lives := crdt.Lives{Guest: 10, User: 300, Saved: 900}
	w := crdt.Writer{Replica: crdt.Replica{Region: 1}, At: crdt.TimestampAt(at)}
	offer := crdt.Offer{Currency: "EUR", AddedAt: crdt.TimestampAt(at - 5)}
	add := func(c *crdt.Cart) *crdt.Cart { return c.Apply(c.Add(w, tea, 1, offer, false)) }
	save := func(c *crdt.Cart) *crdt.Cart {
		k := tea
		k.Options = "x=y"
		c = c.Apply(c.Add(w, k, 1, offer, false))
		return c.Apply(c.SetPlacement(w, k, crdt.Saved))
	}
	fact := func(kind crdt.FactKind) func(c *crdt.Cart) *crdt.Cart {
		return func(c *crdt.Cart) *crdt.Cart { return c.Apply(c.SetFact(w, kind, "id", "")) }
	}
	for _, k := range []struct {
		name  string
		do    []func(*crdt.Cart) *crdt.Cart
		guest bool
		lives crdt.Lives
		want  crdt.Due
		first int64
	}{
		{name: "nothing", lives: lives},
		{"in the cart", []func(*crdt.Cart) *crdt.Cart{add}, false, lives, crdt.Due{InCart: at + 300}, at + 300},
		{"set aside", []func(*crdt.Cart) *crdt.Cart{save}, false, lives, crdt.Due{Saved: at + 900}, at + 900},
		{"both", []func(*crdt.Cart) *crdt.Cart{add, save}, false, lives, crdt.Due{InCart: at + 300, Saved: at + 900}, at + 300},
		{"set aside is shorter", []func(*crdt.Cart) *crdt.Cart{add, save}, false, crdt.Lives{User: 300, Saved: 9}, crdt.Due{InCart: at + 300, Saved: at + 9}, at + 9},
		{"a guest's", []func(*crdt.Cart) *crdt.Cart{add, save}, true, lives, crdt.Due{InCart: at + 10, Saved: at + 10}, at + 10},
		{"a code", []func(*crdt.Cart) *crdt.Cart{fact(crdt.FactCode)}, false, lives, crdt.Due{InCart: at + 300}, at + 300},
		{"other facts", []func(*crdt.Cart) *crdt.Cart{fact(crdt.FactMerged), fact(crdt.FactGuest)}, false, lives, crdt.Due{}, 0},
		{"for ever", []func(*crdt.Cart) *crdt.Cart{add, save}, false, crdt.Lives{}, crdt.Due{}, 0},
		{"too long to tell", []func(*crdt.Cart) *crdt.Cart{add}, false, crdt.Lives{User: math.MaxUint64}, crdt.Due{}, 0},
	} {
		c := &crdt.Cart{}
		for _, do := range k.do {
			c = do(c)
		}
		got := crdt.State{Cart: c, Active: crdt.Active{At: crdt.TimestampAt(at), Region: 1}}.Due(k.guest, k.lives)
		if got != k.want || got.First() != k.first {
			t.Errorf("%s: due %+v, first %d, want %+v, %d", k.name, got, got.First(), k.want, k.first)
		}
	}
	if got := (crdt.State{Cart: add(&crdt.Cart{})}).Due(false, lives); got.InCart != at-5+300 {
		t.Errorf("of unknown activity: due %d, want that of the newest line", got.InCart)
	}
}
