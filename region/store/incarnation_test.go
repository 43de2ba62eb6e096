package store

import (
	"errors"
	"testing"

	"github.com/samecart/samecart/crdt"
)

func TestIncarnation(t *testing.T) {
	s := newStore(t)
	sp := openSpace(t, s, 1)
	want := func(region crdt.RegionID, slot, want uint32) {
		t.Helper()
		if got, err := sp.Incarnation(region, slot); err != nil || got != want {
			t.Errorf("region %d in slot %d: %d, %v, want %d", region, slot, got, err, want)
		}
	}
	want(1, 7, 0)
	// A cart that a repair brought names what its context has seen, removed
	// lines too.
	seen := func(replicas ...crdt.Replica) crdt.State {
		c := &crdt.Cart{}
		for _, r := range replicas {
			w := crdt.Writer{Replica: r, At: 1}
			key := crdt.LineKey{Seller: "s", SKU: "k"}
			c = c.Apply(c.Add(w, key, 1, crdt.Offer{Price: 1, Currency: "USD"}, false))
			c = c.Apply(c.Remove(w, key))
		}
		return crdt.State{Cart: c}
	}
	commit(t, sp, func(tx *Tx) {
		put(t, tx, 7, "a", seen(crdt.Replica{Region: 1, Incarnation: 3}, crdt.Replica{Region: 2, Incarnation: 9}))
		put(t, tx, 7, "b", seen(crdt.Replica{Region: 1, Incarnation: 2}))
		put(t, tx, 8, "c", seen(crdt.Replica{Region: 1, Incarnation: 1}))
	})
	want(1, 7, 3)
	want(1, 8, 1)
	want(1, 9, 0)
	want(2, 7, 9)
	want(3, 7, 0)
	// A cursor counts for every slot.
	commit(t, sp, func(tx *Tx) {
		tx.SetCursor(crdt.Stream{Region: 1, Incarnation: 5, Shard: 2}, 1)
		tx.SetCursor(crdt.Stream{Region: 1, Incarnation: 4, Shard: 9}, 1)
	})
	want(1, 7, 5)
	want(1, 9, 5)
	want(3, 9, 0)
	setRaw(t, s, append(sp.cursorKey(crdt.Stream{Region: 4}), 0), nil)
	if _, err := sp.Incarnation(4, 9); !errors.Is(err, ErrCorrupt) {
		t.Errorf("cursor: got %v, want ErrCorrupt", err)
	}
	setRaw(t, s, sp.cartKey(9, "d"), []byte("short"))
	if _, err := sp.Incarnation(5, 9); !errors.Is(err, ErrCorrupt) {
		t.Errorf("cart: got %v, want ErrCorrupt", err)
	}
}
