package crdt_test

import (
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/crdt/crdttest"
	"pgregory.net/rapid"
)

func dotOf(region crdt.RegionID) crdt.Dot {
	return crdt.Dot{Replica: crdt.Replica{Region: region}, Seq: 1}
}

// Each rule by which concurrent values resolve, with the registers and with
// the presence that stands in for one that a remove dropped.
func TestVisibleRules(t *testing.T) {
	at := crdt.TimestampAt(1000)
	eur := func(price int64, at crdt.Timestamp) crdt.Offer {
		return crdt.Offer{Price: price, Currency: "EUR", AddedAt: at}
	}
	for _, c := range []struct {
		name       string
		a, b, want crdt.Carried // a is the write of the lower replica
	}{
		{"quantity: the maximum", crdt.Carried{Quantity: 3}, crdt.Carried{Quantity: 2}, crdt.Carried{Quantity: 3}},
		{"placement: cart before saved", crdt.Carried{Placement: crdt.Saved}, crdt.Carried{}, crdt.Carried{}},
		{"placement: saved when both are", crdt.Carried{Placement: crdt.Saved}, crdt.Carried{Placement: crdt.Saved}, crdt.Carried{Placement: crdt.Saved}},
		{"offer: the newest, also when dearer", crdt.Carried{Offer: eur(1, at)}, crdt.Carried{Offer: eur(9, at+1)}, crdt.Carried{Offer: eur(9, at+1)}},
		{"offer: then the lower price", crdt.Carried{Offer: eur(9, at)}, crdt.Carried{Offer: eur(8, at)}, crdt.Carried{Offer: eur(8, at)}},
		{"offer: whoever wrote it", crdt.Carried{Offer: eur(8, at)}, crdt.Carried{Offer: eur(9, at)}, crdt.Carried{Offer: eur(8, at)}},
		{"offer: then the currency code", crdt.Carried{Offer: eur(9, at)},
			crdt.Carried{Offer: crdt.Offer{Price: 9, Currency: "GBP", AddedAt: at}},
			crdt.Carried{Offer: crdt.Offer{Price: 9, Currency: "GBP", AddedAt: at}}},
		{"attributes: the newest", crdt.Carried{Attributes: crdt.Attributes{Pairs: "a=1", At: at + 1}},
			crdt.Carried{Attributes: crdt.Attributes{Pairs: "a=2", At: at}},
			crdt.Carried{Attributes: crdt.Attributes{Pairs: "a=1", At: at + 1}}},
		{"attributes: then the replica order", crdt.Carried{Attributes: crdt.Attributes{Pairs: "a=1", At: at}},
			crdt.Carried{Attributes: crdt.Attributes{Pairs: "a=2", At: at}},
			crdt.Carried{Attributes: crdt.Attributes{Pairs: "a=2", At: at}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			da, db := dotOf(1), dotOf(2)
			presence := crdt.Register[crdt.Carried]{{Dot: da, Value: c.a}, {Dot: db, Value: c.b}}
			if got := (&crdt.Line{Presence: presence}).Visible(); got != c.want {
				t.Errorf("presence alone shows %+v, want %+v", got, c.want)
			}
			// The registers count, whatever the presence carries.
			misleading := crdt.Carried{Quantity: 99, Placement: 1 - c.want.Placement, Offer: eur(0, at+9), Attributes: crdt.Attributes{At: at + 9}}
			l := &crdt.Line{
				Presence:   crdt.Register[crdt.Carried]{{Dot: dotOf(3), Value: misleading}},
				Quantity:   crdt.Register[uint32]{{Dot: da, Value: c.a.Quantity}, {Dot: db, Value: c.b.Quantity}},
				Placement:  crdt.Register[crdt.Placement]{{Dot: da, Value: c.a.Placement}, {Dot: db, Value: c.b.Placement}},
				Offer:      crdt.Register[crdt.Offer]{{Dot: da, Value: c.a.Offer}, {Dot: db, Value: c.b.Offer}},
				Attributes: crdt.Register[crdt.Attributes]{{Dot: da, Value: c.a.Attributes}, {Dot: db, Value: c.b.Attributes}},
			}
			if got := l.Visible(); got != c.want {
				t.Errorf("registers show %+v, want %+v", got, c.want)
			}
			if got, want := l.Quantity.Concurrent(), c.a.Quantity != c.b.Quantity; got != want {
				t.Errorf("quantities concurrent: %v", got)
			}
			dots := l.Dots()
			crdttest.Equal(t, "dots of the line", dots, crdt.ContextOf(da, db, dotOf(3)))
		})
	}
	if (*crdt.Line)(nil).IsThere() || (&crdt.Line{}).IsThere() {
		t.Error("no line is there")
	}
}

var (
	writer = crdt.Writer{Replica: crdt.Replica{Region: 1}, At: crdt.TimestampAt(5000)}
	tea    = crdt.LineKey{Seller: "retail", SKU: "tea"}
)

func TestAdd(t *testing.T) {
	first := crdt.Offer{Price: 100, Currency: "EUR", AddedAt: 1}
	second := crdt.Offer{Price: 90, Currency: "EUR", AddedAt: 2}
	c := &crdt.Cart{}
	c = c.Apply(c.Add(writer, tea, 2, first, false))
	c = c.Apply(c.Add(writer, tea, 3, second, false))
	if v := c.Find(tea).Visible(); v.Quantity != 5 || v.Offer != first {
		t.Fatalf("added twice: %+v", v)
	}
	c = c.Apply(c.SetPlacement(writer, tea, crdt.Saved))
	c = c.Apply(c.Add(writer, tea, 1, second, true))
	if v := c.Find(tea).Visible(); v.Quantity != 6 || v.Offer != second || v.Placement != crdt.InCart {
		t.Fatalf("added to a saved line, offer renewed: %+v", v)
	}
	c = c.Apply(c.SetAttributes(writer, tea, "note=hi"))
	if v := c.Find(tea).Visible(); v.Attributes != (crdt.Attributes{Pairs: "note=hi", At: writer.At}) || v.Quantity != 6 {
		t.Fatalf("attributes: %+v", v)
	}
}

// Whatever field a write wrote, after a remove that did not see it the line shows
// all of them as the write left them.
func TestEveryFieldStandsIn(t *testing.T) {
	other := crdt.Writer{Replica: crdt.Replica{Region: 2}}
	c := &crdt.Cart{}
	c = c.Apply(c.Add(writer, tea, 2, crdt.Offer{Price: 100, Currency: "EUR", AddedAt: 9}, false))
	c = c.Apply(c.SetAttributes(writer, tea, "note=hi"))
	c = c.Apply(c.SetPlacement(writer, tea, crdt.Saved))
	removed := c.Apply(c.Remove(other, tea))
	for name, d := range map[string]crdt.Delta{
		"quantity":   c.SetQuantity(writer, tea, 7),
		"placement":  c.SetPlacement(writer, tea, crdt.InCart),
		"attributes": c.SetAttributes(writer, tea, "note=no"),
	} {
		want := c.Apply(d).Find(tea).Visible()
		if got := removed.Apply(d).Find(tea).Visible(); got != want {
			t.Errorf("%s: the line shows %+v, want %+v", name, got, want)
		}
	}
}

// What is added to a line with concurrent placements stays in the cart, also when
// a remove elsewhere has seen only the one that counted.
func TestAddStaysInTheCart(t *testing.T) {
	by := func(region crdt.RegionID) crdt.Writer { return crdt.Writer{Replica: crdt.Replica{Region: region}} }
	c := &crdt.Cart{}
	c = c.Apply(c.Add(by(1), tea, 1, crdt.Offer{}, false))
	saved := c.Apply(c.SetPlacement(by(1), tea, crdt.Saved))
	back := c.Apply(c.SetPlacement(by(2), tea, crdt.InCart))
	both := crdt.Join(saved, back)
	added := both.Apply(both.Add(by(3), tea, 2, crdt.Offer{}, false))
	removed := back.Apply(back.Remove(by(4), tea))
	if v := crdt.Join(added, removed).Find(tea).Visible(); v.Placement != crdt.InCart || v.Quantity != 3 {
		t.Errorf("the line shows %+v, want 3 in the cart", v)
	}
}

func TestAddSaturates(t *testing.T) {
	for _, c := range []struct{ have, n, quantityMax, want uint32 }{
		{math.MaxUint32 - 1, 1, 0, math.MaxUint32},
		{math.MaxUint32 - 1, 2, 0, math.MaxUint32},
		{math.MaxUint32, math.MaxUint32, 0, math.MaxUint32},
		{1, math.MaxUint32, 0, math.MaxUint32},
		{2000, 1, 999, 1000}, // the visible, clamped quantity is what an add starts from
		{999, 1, 999, 1000},
		{5, 1, 999, 6},
	} {
		cart := &crdt.Cart{}
		cart = cart.Apply(cart.Add(writer, tea, c.have, crdt.Offer{}, false))
		w := writer
		w.QuantityMax = c.quantityMax
		if got := cart.Apply(cart.Add(w, tea, c.n, crdt.Offer{}, false)).Find(tea).Visible().Quantity; got != c.want {
			t.Errorf("%d + %d, at most %d: %d, want %d", c.have, c.n, c.quantityMax, got, c.want)
		}
	}
}

func TestCountsAndCurrency(t *testing.T) {
	c := &crdt.Cart{}
	if c.ItemCount(0) != 0 || c.Currency() != "" {
		t.Fatal("the empty cart counts")
	}
	add := func(sku string, n uint32, currency string, at crdt.Timestamp) {
		k := crdt.LineKey{Seller: "retail", SKU: sku}
		c = c.Apply(c.Add(writer, k, n, crdt.Offer{Currency: currency, AddedAt: at}, false))
	}
	add("b", 1200, "EUR", 7)
	add("c", 3, "GBP", 5)
	add("d", 4, "USD", 5)
	add("a", 1, "CHF", 9)
	if n := c.ItemCount(0); n != 1208 {
		t.Errorf("item count %d, want 1208", n)
	}
	if n := c.ItemCount(999); n != 1007 {
		t.Errorf("clamped item count %d, want 1007", n)
	}
	if got := c.Currency(); got != "GBP" {
		t.Errorf("currency %q, want the oldest line's, by key among equals: GBP", got)
	}
	c = c.Apply(c.SetPlacement(writer, crdt.LineKey{Seller: "retail", SKU: "b"}, crdt.Saved))
	if n := c.ItemCount(0); n != 8 {
		t.Errorf("item count %d with a line saved, want 8", n)
	}
	var skus []string
	for k, v := range c.Visible() {
		skus = append(skus, k.SKU)
		if v != c.Find(k).Visible() {
			t.Errorf("%v shows %+v", k, v)
		}
		if k.SKU == "c" {
			break
		}
	}
	if !slices.Equal(skus, []string{"a", "b", "c"}) {
		t.Errorf("visible up to c: %v", skus)
	}
	if c.Find(tea) != nil {
		t.Error("found a line that was never added")
	}
	big := c.MemoryBytes()
	c = c.Apply(c.Remove(writer, crdt.LineKey{Seller: "retail", SKU: "a"}))
	if small := c.MemoryBytes(); small <= 0 || small >= big {
		t.Errorf("memory %d with a line less, %d before", small, big)
	}
}

// A remove of what is not there mints its dot and changes no line.
func TestRemoveOfNothing(t *testing.T) {
	c := realistic(3, 2, 1000, 1)
	d := c.Remove(writer, tea)
	after := c.Apply(d)
	if !after.Lines.Equal(c.Lines) || !after.Context.Has(d.Dots[0]) || after.Equal(c) {
		t.Fatalf("%v", d)
	}
}

func TestPairs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "pairs")
		s := crdt.CanonicalPairs(m)
		if got := crdt.Pairs(s); !maps.Equal(got, m) {
			t.Fatalf("%q: %q, want %q", s, got, m)
		}
	})
	if got := crdt.CanonicalPairs(map[string]string{"size": "L & XL", "colour": "red"}); got != "colour=red&size=L+%26+XL" {
		t.Errorf("canonical form %q", got)
	}
	if got := crdt.Pairs("a=1&b=%zz&c=3"); !maps.Equal(got, map[string]string{"a": "1", "c": "3"}) {
		t.Errorf("what is not in query form: %v", got)
	}
	if crdt.Pairs("") != nil {
		t.Error("nothing gives a map")
	}
}

func TestOrders(t *testing.T) {
	keys := []crdt.LineKey{{Seller: "a", SKU: "z"}, {Seller: "b", SKU: "a"}, {Seller: "b", SKU: "a", Options: "x=1"}, {Seller: "b", SKU: "b"}}
	replicas := []crdt.Replica{{Region: 1, Incarnation: 9}, {Region: 2}, {Region: 2, Lineage: "g"}, {Region: 2, Incarnation: 1}}
	for i := range keys {
		for j := range keys {
			want := min(max(i-j, -1), 1)
			if got := keys[i].Compare(keys[j]); got != want {
				t.Errorf("%v against %v: %d", keys[i], keys[j], got)
			}
			if got := replicas[i].Compare(replicas[j]); got != want {
				t.Errorf("%v against %v: %d", replicas[i], replicas[j], got)
			}
			if got := (crdt.Dot{Replica: replicas[0], Seq: uint64(i)}).Compare(crdt.Dot{Replica: replicas[0], Seq: uint64(j)}); got != want {
				t.Errorf("seq %d against %d: %d", i, j, got)
			}
		}
	}
}

func TestStrings(t *testing.T) {
	r := crdt.Replica{Region: 1}
	cc := crdt.ContextOf(crdt.Dot{Replica: r, Seq: 1}, crdt.Dot{Replica: r, Seq: 2}, crdt.Dot{Replica: r, Seq: 5},
		crdt.Dot{Replica: crdt.Replica{Region: 2, Incarnation: 3, Lineage: "guest:9"}, Seq: 4})
	if got, want := cc.String(), "{1.0:1-2,5; 2.3/guest:9:4}"; got != want {
		t.Errorf("context %s, want %s", got, want)
	}
}

func TestTimestamp(t *testing.T) {
	if got := crdt.TimestampAt(1234).UnixMilli(); got != 1234 {
		t.Errorf("milliseconds %d", got)
	}
	if crdt.TimestampAt(-1) != 0 {
		t.Error("before the epoch")
	}
	now := crdt.TimestampAt(1000)
	if got := crdt.Timestamp(5).Next(now); got != now {
		t.Errorf("next of an old one is %d, want now", got)
	}
	if got := now.Next(now); got != now+1 || got.UnixMilli() != 1000 {
		t.Errorf("next within a millisecond is %d", got)
	}
	if got := (now + 7).Next(now); got != now+8 {
		t.Errorf("next of one ahead of the clock is %d", got)
	}
}

// Combined rows keep the place of the first, the end of the last, and every
// request once, by dot.
func TestCombineRows(t *testing.T) {
	c := &crdt.Cart{}
	a := c.Add(writer, tea, 1, crdt.Offer{}, false)
	b := c.Apply(a).SetQuantity(writer, tea, 4)
	op := func(seq uint64, id byte) crdt.Op {
		return crdt.Op{Dot: crdt.Dot{Replica: writer.Replica, Seq: seq}, ID: crdt.OpID{id}}
	}
	x := crdt.Row{Seq: 3, Last: 3, CartID: "user:1", At: 9, Delta: a, Ops: []crdt.Op{op(1, 1)}}
	y := crdt.Row{Seq: 7, Last: 8, CartID: "user:1", At: 5, Delta: b, Ops: []crdt.Op{op(2, 9), op(2, 3), op(1, 1)}}
	got := crdt.CombineRows(x, y)
	if got.Seq != 3 || got.Last != 8 || got.CartID != "user:1" || got.At != 9 {
		t.Errorf("row %+v", got)
	}
	if !slices.Equal(got.Ops, []crdt.Op{op(1, 1), op(2, 3), op(2, 9)}) {
		t.Errorf("requests %v", got.Ops)
	}
	if len(got.Delta.Dots) != 2 || got.Delta.Line.Visible().Quantity != 4 {
		t.Errorf("delta %+v", got.Delta)
	}
	if len(x.Ops) != 1 || len(y.Ops) != 3 || y.Ops[0] != op(2, 9) {
		t.Error("the rows combined were changed")
	}
}
