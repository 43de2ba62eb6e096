package crdt_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/crdt/crdttest"
)

// Put is a write as the others are: its delta is a join, and the line shows what was
// put, whatever was there.
func TestPut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, _ := crdttest.Three(t)
		if a.IsErased() {
			return // nothing is put there
		}
		k := crdt.LineKey{Seller: "s", SKU: "put"}
		for _, e := range a.Lines {
			if !e.Key.IsFact() && rapid.Bool().Draw(t, "this one") {
				k = e.Key
			}
		}
		v := crdt.Carried{
			Quantity: uint32(rapid.IntRange(1, 99).Draw(t, "quantity")), Placement: crdt.Placement(rapid.IntRange(0, 1).Draw(t, "placement")),
			Offer: crdt.Offer{Price: 5, Currency: "USD", AddedAt: 7},
		}
		if rapid.Bool().Draw(t, "has attributes") {
			v.Attributes = crdt.Attributes{Pairs: "note=hi", At: 9}
		}
		w := crdt.Writer{Replica: crdt.Replica{Region: 9, Incarnation: 1}, At: 10}
		d := a.Put(w, k, v)
		after := a.Apply(d)
		if got := after.Find(k).Visible(); got != v {
			t.Fatalf("shows %+v, put %+v", got, v)
		}
		crdttest.Equal(t, "a delta is a join", after, crdt.Join(a, d.Fragment()))
		crdttest.Equal(t, "in any order", crdt.Join(b, after), crdt.Join(after, b))
	})
}

func TestRemovedRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, _, _ := crdttest.Three(t)
		r := crdt.Removed{At: crdt.Timestamp(rapid.Uint64().Draw(t, "at"))}
		for _, e := range a.Lines {
			r = r.With(e.Key, e.Line)
		}
		b := r.Encode(nil)
		got, err := crdt.DecodeRemoved(b)
		if err != nil || got.At != r.At || !got.Lines.Equal(r.Lines) {
			t.Fatalf("%+v, %v, want %+v", got, err, r)
		}
		if at, err := crdt.RemovedAt(b); err != nil || at != r.At {
			t.Fatalf("at %v, %v", at, err)
		}
		for n := range len(b) {
			if short, err := crdt.DecodeRemoved(b[:n]); err == nil {
				t.Fatalf("%d bytes of %d give %+v", n, len(b), short)
			}
		}
		for _, e := range a.Lines {
			r = r.Less(e.Key)
		}
		if len(r.Lines) > 0 {
			t.Fatalf("left %+v", r)
		}
	})
}

func FuzzDecodeRemoved(f *testing.F) {
	c := &crdt.Cart{}
	w := crdt.Writer{Replica: crdt.Replica{Region: 1}, At: 3}
	c = c.Apply(c.Add(w, crdt.LineKey{Seller: "s", SKU: "tea"}, 2, crdt.Offer{Price: 1, Currency: "USD", AddedAt: 3}, false))
	f.Add(crdt.Removed{At: 5, Lines: c.Lines}.Encode(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := crdt.DecodeRemoved(b)
		if err != nil {
			return
		}
		if again, err := crdt.DecodeRemoved(r.Encode(nil)); err != nil || again.At != r.At || !again.Lines.Equal(r.Lines) {
			t.Fatalf("%+v became %+v, %v", r, again, err)
		}
	})
}

func TestWithoutLineage(t *testing.T) {
	k := crdt.LineKey{Seller: "s", SKU: "tea"}
	offer := crdt.Offer{Price: 1, Currency: "USD", AddedAt: 3}
	user, guest := &crdt.Cart{}, &crdt.Cart{}
	user = user.Apply(user.Add(crdt.Writer{Replica: crdt.Replica{Region: 1}, At: 3}, k, 1, offer, false))
	guest = guest.Apply(guest.Add(crdt.Writer{Replica: crdt.Replica{Region: 1, Lineage: "guest:g"}, At: 4}, k, 2, offer, false))
	both := crdt.Join(user, guest).Find(k)
	if !both.HasLineage("guest:g") || both.HasLineage("guest:h") || user.Find(k).HasLineage("guest:g") || (*crdt.Line)(nil).HasLineage("guest:g") {
		t.Fatal("lineages of lines")
	}
	if q := both.Without("guest:g").Visible().Quantity; both.Visible().Quantity != 2 || q != 1 {
		t.Fatalf("%d without the guest's", q)
	}
	if guest.Find(k).Without("guest:g") != nil {
		t.Fatal("something is left of the guest's line")
	}
}

// Undos of one merge in two regions at the same time are both known as such, and a
// merge that is first made elsewhere after them is not undone.
func TestUndoneAt(t *testing.T) {
	k := crdt.LineKey{Seller: "s", SKU: "tea"}
	at := func(region crdt.RegionID, at crdt.Timestamp) crdt.Writer {
		return crdt.Writer{Replica: crdt.Replica{Region: region, Incarnation: 1}, At: at}
	}
	guest := crdt.Relabel(crdt.State{Cart: (&crdt.Cart{}).Apply((&crdt.Cart{}).Add(at(1, 1), k, 2, crdt.Offer{Currency: "USD"}, false))}, "guest:g")
	merged := crdt.State{Cart: &crdt.Cart{}}.MergeGuest(at(1, 10), crdt.Guest{ID: "guest:g", State: guest}, crdt.MergeMax).Cart
	apply := func(c *crdt.Cart, deltas []crdt.Delta) *crdt.Cart {
		for _, d := range deltas {
			c = c.Apply(d)
		}
		return c
	}
	a := apply(merged, merged.UndoMerge(at(1, 20), "guest:g"))
	b := apply(merged, merged.UndoMerge(at(2, 30), "guest:g"))
	both := crdt.Join(a, b)
	if id, when, undone := both.LastMerge(); id != "guest:g" || when != 10 || !undone {
		t.Errorf("the last merge is of %q at %d, undone: %v", id, when, undone)
	}
	for when, want := range map[crdt.Timestamp]bool{10: false, 20: true, 25: false, 30: true} {
		if both.UndoneAt(when) != want {
			t.Errorf("undone at %d: %v", when, !want)
		}
	}
	later := crdt.State{Cart: &crdt.Cart{}}.MergeGuest(at(3, 40), crdt.Guest{ID: "guest:g", State: guest}, crdt.MergeMax).Cart
	if _, when, undone := crdt.Join(both, later).LastMerge(); when != 40 || undone {
		t.Errorf("the last merge is at %d, undone: %v", when, undone)
	}
}
