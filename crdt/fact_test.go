package crdt_test

import (
	"maps"
	"testing"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/crdt/crdttest"
	"pgregory.net/rapid"
)

// Histories with facts converge, deltas of facts are joins, and once a region
// has erased the cart nothing else is left anywhere.
func TestFactLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := crdttest.New(3)
		h.Facts = true
		erased := false
		for range rapid.IntRange(0, 30).Draw(t, "steps") {
			ev := h.Step(t)
			erased = erased || ev.Kind == crdttest.Wrote && ev.Edit.Kind == crdttest.Erase
			c := h.Regions[ev.Region].Cart
			crdttest.WellFormed(t, c)
			crdttest.RoundTrip(t, encodeCart, crdt.DecodeCart, c)
			for _, row := range ev.Rows {
				crdttest.Equal(t, "apply is a join", c.Apply(row.Delta), crdt.Join(c, row.Delta.Fragment()))
			}
			if c.IsErased() && len(c.Lines) != 1 {
				t.Fatalf("an erased cart has %d entries", len(c.Lines))
			}
		}
		h.DeliverAll(t)
		for _, r := range h.Regions {
			crdttest.Equal(t, "regions", r.Cart, h.Regions[0].Cart)
			if r.Cart.IsErased() != erased {
				t.Fatalf("erased: %v, want %v", r.Cart.IsErased(), erased)
			}
		}
	})
}

func factWriter(region crdt.RegionID, at int64) crdt.Writer {
	return crdt.Writer{Replica: crdt.Replica{Region: region, Incarnation: 1}, At: crdt.TimestampAt(at)}
}

func TestFactsAreASetOfTheirIDs(t *testing.T) {
	us := &crdt.Cart{}
	us = us.Apply(us.SetFact(factWriter(1, 1), crdt.FactCode, "TEN", "a=1"))
	us = us.Apply(us.SetFact(factWriter(1, 2), crdt.FactCode, "SHIP", ""))
	us = us.Apply(us.SetFact(factWriter(1, 3), crdt.FactShare, "x", ""))
	us = us.Apply(us.Add(factWriter(1, 4), crdttest.Keys()[0], 2, crdt.Offer{Price: 5, Currency: "EUR"}, false))
	eu := us
	us = us.Apply(us.DropFact(factWriter(1, 5), crdt.FactCode, "TEN"))
	eu = eu.Apply(eu.SetFact(factWriter(2, 5), crdt.FactCode, "TEN", "a=2"))
	if _, ok := us.Fact(crdt.FactCode, "TEN"); ok {
		t.Error("a fact stays after it was dropped")
	}
	both := crdt.Join(us, eu)
	got := maps.Collect(both.Facts(crdt.FactCode))
	if len(got) != 2 || got["TEN"].Pairs != "a=2" {
		t.Errorf("codes are %v, want SHIP, and TEN as it was written concurrently with its removal", got)
	}
	if n := both.ItemCount(0); n != 2 {
		t.Errorf("%d items, want the 2 of the line", n)
	}
	cleared := both
	for _, d := range both.Clear(factWriter(1, 6)) {
		cleared = cleared.Apply(d)
	}
	if got := maps.Collect(cleared.Facts(crdt.FactCode)); len(got) != 2 || cleared.ItemCount(0) != 0 {
		t.Errorf("after a clear: %v and %d items, want the facts alone", got, cleared.ItemCount(0))
	}
}

func TestConcurrentFactsResolveToTheNewest(t *testing.T) {
	a, b := &crdt.Cart{}, &crdt.Cart{}
	a = a.Apply(a.SetFact(factWriter(1, 9), crdt.FactShare, "x", "mode=live"))
	b = b.Apply(b.SetFact(factWriter(2, 8), crdt.FactShare, "x", "mode=snapshot"))
	if v, ok := crdt.Join(a, b).Fact(crdt.FactShare, "x"); !ok || v.Pairs != "mode=live" {
		t.Errorf("fact is %q, %v; want the newest", v.Pairs, ok)
	}
}

func TestErasureBeatsLateWrites(t *testing.T) {
	us := &crdt.Cart{}
	us = us.Apply(us.Add(factWriter(1, 1), crdttest.Keys()[0], 2, crdt.Offer{Price: 5, Currency: "EUR"}, false))
	eu := us
	us = us.Apply(us.Erase(factWriter(1, 2)))
	late := eu.Add(factWriter(2, 3), crdttest.Keys()[1], 1, crdt.Offer{Price: 5, Currency: "EUR"}, false)
	for name, c := range map[string]*crdt.Cart{"row": us.Apply(late), "cart": crdt.Join(eu.Apply(late), us)} {
		if !c.IsErased() || len(c.Lines) != 1 {
			t.Errorf("%s: erased %v with %d entries, want it erased and nothing else", name, c.IsErased(), len(c.Lines))
		}
	}
}

// A fact that is made anew under a later incarnation is a fact and no line.
func TestReissueOfAFact(t *testing.T) {
	c := &crdt.Cart{}
	lost := c.SetFact(factWriter(1, 1), crdt.FactCode, "TEN", "a=1")
	w := crdt.Writer{Replica: crdt.Replica{Region: 1, Incarnation: 2}}
	d, ok := c.Reissue(w, lost)
	c = c.Apply(d)
	if v, there := c.Fact(crdt.FactCode, "TEN"); !ok || !there || v.Pairs != "a=1" || c.Find(d.Key) != nil {
		t.Errorf("made anew: %v; the fact is %+v, %v; as a line: %v", ok, v, there, c.Find(d.Key))
	}
}
