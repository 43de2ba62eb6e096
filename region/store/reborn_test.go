package store

import (
	"fmt"
	"slices"
	"testing"
)

// keptRows are the cart ids of the rows that are kept aside and not made anew.
func keptRows(t *testing.T, sp *Space) (ids []string) {
	t.Helper()
	tx := sp.Begin()
	defer tx.Discard()
	for n := sp.marker.Reissued + 1; n <= sp.marker.Kept; n++ {
		row, err := tx.KeptRow(n)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, row.CartID)
	}
	return ids
}

func rowIDs(from, to int) (ids []string) {
	for i := from; i < to; i++ {
		ids = append(ids, fmt.Sprint("cart-", i))
	}
	return ids
}

func appendRows(t *testing.T, sp *Space, from, to int) {
	t.Helper()
	commit(t, sp, func(tx *Tx) {
		for _, id := range rowIDs(from, to) {
			tx.AppendRow(rowOf(id))
			put(t, tx, 9, id, cartOf(1))
		}
	})
}

func reborn(t *testing.T, sp *Space, incarnation uint32) *Space {
	t.Helper()
	next := sp.Marker()
	next.Incarnation = incarnation
	out, err := sp.Reborn(next)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A space that begins again has no carts, and all rows that were not trimmed, in
// order; it can do so again before they are made anew.
func TestReborn(t *testing.T) {
	s := newStore(t)
	sp := openSpace(t, s, 1)
	appendRows(t, sp, 0, 40)
	commit(t, sp, func(tx *Tx) {
		tx.Trim(7, 100)
		tx.SetMembership([]byte("members"))
		tx.SetAcceptor([]byte("promised"))
		tx.Marker().Applied = 99 // and commit counts one
	})
	// What an earlier try, which died, left behind.
	setRaw(t, s, append(spacePrefix(1, 1), "c junk"...), []byte("junk"))

	next := reborn(t, sp, 2)
	if m := next.Marker(); m.Incarnation != 2 || m.Applied != 100 || m.Seq != 0 || m.Carts != 0 || m.Kept != 33 || m.Reissued != 0 {
		t.Fatalf("marker %+v", m)
	}
	if got := keptRows(t, next); !slices.Equal(got, rowIDs(7, 40)) {
		t.Fatalf("kept rows %v", got)
	}
	checkSums(t, next)
	if m, err := next.Membership(); err != nil || string(m) != "members" {
		t.Fatalf("membership %q, %v", m, err)
	}
	tx := next.Begin()
	if a, err := tx.Acceptor(); err != nil || string(a) != "promised" {
		t.Fatalf("acceptor %q, %v", a, err)
	}
	tx.Discard()
	if carts, _, err := next.Bucket(9, "", 100); err != nil || len(carts) > 0 {
		t.Fatalf("%d carts, %v", len(carts), err)
	}

	// Some are made anew, more are written, and it begins again.
	commit(t, next, func(tx *Tx) {
		for range 20 {
			tx.Marker().Reissued++
			tx.DropKept()
		}
	})
	if got := keptRows(t, next); !slices.Equal(got, rowIDs(27, 40)) {
		t.Fatalf("kept rows left %v", got)
	}
	// Of a region that was fenced again meanwhile: what the log has was made anew
	// from the rows before those that are left.
	appendRows(t, next, 40, 45)
	commit(t, next, func(tx *Tx) { tx.RaiseFloor(9, Floor{Seq: 5, Before: 77}) })
	last := reborn(t, next, 3)
	want := append(rowIDs(40, 45), rowIDs(27, 40)...)
	if f, err := last.Floors(9, 10); err != nil || f[0] != (Floor{Before: 77}) {
		t.Fatalf("floor %v, %v", f, err)
	}
	if got := keptRows(t, last); !slices.Equal(got, want) {
		t.Fatalf("kept rows %v, want %v", got, want)
	}
	if err := last.Sweep(func() bool { return false }); err != nil {
		t.Fatal(err)
	}
	reopened := openSpace(t, s, 1)
	if got := keptRows(t, reopened); reopened.Marker() != last.Marker() || !slices.Equal(got, want) {
		t.Fatalf("after reopening: %+v with %v", reopened.Marker(), got)
	}
	commit(t, reopened, func(tx *Tx) {
		for range want {
			tx.Marker().Reissued++
			tx.DropKept()
		}
	})
	for key := range dump(t, s, reopened.prefix) {
		if key[0] == kindKept {
			t.Errorf("chunk %q of kept rows is left", key)
		}
	}
}
