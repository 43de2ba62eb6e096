package replication

import (
	"slices"
	"testing"

	"github.com/samecart/samecart/crdt"
)

// What expiry takes out comes after the fact that the cart has expired, however rows
// are combined: a receiver would else take it for the shopper's removal.
func TestExpiryComesBeforeItsRemovals(t *testing.T) {
	w := crdt.Writer{Replica: crdt.Replica{Region: 1, Incarnation: 1}}
	k := crdt.LineKey{Seller: "s", SKU: "a"}
	c := &crdt.Cart{}
	var rows []crdt.Row
	write := func(cart string, d crdt.Delta) {
		if cart == "guest:g" {
			c = c.Apply(d)
		}
		n := uint64(len(rows) + 1)
		rows = append(rows, crdt.Row{Seq: n, Last: n, CartID: cart, Delta: d})
	}
	write("guest:g", c.Add(w, k, 1, crdt.Offer{Currency: "USD"}, false))
	write("other", (&crdt.Cart{}).Add(w, k, 1, crdt.Offer{Currency: "USD"}, false))
	write("guest:g", c.SetQuantity(w, k, 2))
	write("guest:g", c.SetFact(w, crdt.FactExpired, "", ""))
	write("guest:g", c.Remove(w, k))
	write("other", (&crdt.Cart{}).Add(crdt.Writer{Replica: w.Replica, Floor: 1}, k, 2, crdt.Offer{Currency: "USD"}, false))
	var b batch
	b.add(crdt.Interval{Lo: 0, Hi: uint64(len(rows)), Rows: rows}, 100)
	expired := slices.IndexFunc(b.rows, func(r crdt.Row) bool { return r.Delta.Key.IsFact() })
	removed := slices.IndexFunc(b.rows, func(r crdt.Row) bool { return r.CartID == "guest:g" && r.Delta.Line == nil })
	if len(b.rows) != 4 || expired < 0 || removed < expired {
		t.Errorf("%d rows; expired in row %d, removed in row %d", len(b.rows), expired, removed)
	}
}

// So does what the undo of a merge takes out.
func TestUndoOfAMergeComesBeforeItsRemovals(t *testing.T) {
	w := crdt.Writer{Replica: crdt.Replica{Region: 1, Incarnation: 1}, At: 5}
	k := crdt.LineKey{Seller: "s", SKU: "a"}
	c := &crdt.Cart{}
	var rows []crdt.Row
	write := func(d crdt.Delta) {
		c = c.Apply(d)
		n := uint64(len(rows) + 1)
		rows = append(rows, crdt.Row{Seq: n, Last: n, CartID: "cart:u", Delta: d})
	}
	write(c.Add(crdt.Writer{Replica: crdt.Replica{Region: 1, Incarnation: 1, Lineage: "guest:g"}}, k, 1, crdt.Offer{Currency: "USD"}, false))
	undo := c.UndoMerge(w, "guest:g")
	if len(undo) != 2 {
		t.Fatalf("an undo of %d deltas", len(undo))
	}
	for _, d := range undo {
		write(d)
	}
	var b batch
	b.add(crdt.Interval{Lo: 0, Hi: uint64(len(rows)), Rows: rows}, 100)
	marked := slices.IndexFunc(b.rows, func(r crdt.Row) bool { return r.Delta.Key.IsFact() })
	removed := slices.IndexFunc(b.rows, func(r crdt.Row) bool { return r.Delta.Line == nil })
	if marked < 0 || removed < marked {
		t.Errorf("%d rows; marked in row %d, removed in row %d", len(b.rows), marked, removed)
	}
}
