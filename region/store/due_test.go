package store

import (
	"fmt"
	"slices"
	"testing"
)

// The index lists what is before a time, in order, from a place on; a record's entry
// goes with it, and comes back from the disk.
func TestDueIndex(t *testing.T) {
	s := newStore(t)
	sp := openSpace(t, s, 3)
	record := func(id string, due uint32) *Record {
		r := NewRecord(id, 1, cartOf(1), Asked{}, Head{})
		r.SetDue(due)
		return r
	}
	var old []*Record
	commit(t, sp, func(tx *Tx) {
		for i, due := range []uint32{30, 10, 20, 20, 0} {
			id := fmt.Sprint("cart-", i)
			r := record(id, due)
			tx.PutRecord(9, id, nil, r)
			old = append(old, r)
		}
	})
	want := func(what string, after Indexed, until uint32, limit int, more bool, list ...Indexed) {
		t.Helper()
		got, others, err := sp.Due(after, until, limit)
		if err != nil || !slices.Equal(got, list) || others != more {
			t.Errorf("%s: %v, more %v, %v; want %v, more %v", what, got, others, err, list, more)
		}
	}
	want("all", Indexed{}, 99, 9, false, Indexed{"cart-1", 10}, Indexed{"cart-2", 20}, Indexed{"cart-3", 20}, Indexed{"cart-0", 30})
	want("before 20", Indexed{}, 20, 9, false, Indexed{"cart-1", 10})
	want("a page", Indexed{}, 99, 2, true, Indexed{"cart-1", 10}, Indexed{"cart-2", 20})
	want("the next page", Indexed{"cart-2", 20}, 30, 9, false, Indexed{"cart-3", 20})
	want("from a second on", Indexed{At: 20}, 99, 2, true, Indexed{"cart-2", 20}, Indexed{"cart-3", 20})

	commit(t, sp, func(tx *Tx) {
		tx.PutRecord(9, "cart-1", old[1], record("cart-1", 10)) // where it was
		tx.PutRecord(9, "cart-0", old[0], record("cart-0", 5))
		tx.PutRecord(9, "cart-4", old[4], record("cart-4", 40))
		tx.PutRecord(9, "cart-2", old[2], old[2].WithDue(0))
		tx.DropRecord(9, "cart-3", old[3])
	})
	all := []Indexed{{"cart-0", 5}, {"cart-1", 10}, {"cart-4", 40}}
	want("moved", Indexed{}, 99, 9, false, all...)
	for _, e := range all {
		if r, err := sp.Record(9, e.CartID); err != nil || r == nil || r.Due != e.At {
			t.Errorf("%s stands at %+v, %v", e.CartID, r, err)
		}
	}
	if r, err := sp.Record(9, "cart-2"); err != nil || r.Due != 0 || r.Index != 1 || r.Digest != old[2].Digest {
		t.Errorf("a record that was moved: %+v, %v", r, err)
	}
}
