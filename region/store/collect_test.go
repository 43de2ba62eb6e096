package store

import (
	"bytes"
	"testing"

	"github.com/samecart/samecart/crdt"
)

// Floors only rise, and what a transaction did to them is seen in it, after it,
// and after a restart: a floor that is forgotten issues dots a second time.
func TestFloorsOnlyRise(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	sp := openSpace(t, s, 1)
	want := Floor{Seq: 7, Before: 90}
	commit(t, sp, func(tx *Tx) {
		tx.RaiseFloor(9, Floor{Seq: 7, Before: 80})
		tx.RaiseFloor(9, Floor{Seq: 3, Before: 90})
		if got := tx.Floor(9); got != want {
			t.Errorf("in the transaction: %+v, want %+v", got, want)
		}
	})
	check := func(when string, sp *Space) {
		t.Helper()
		floors, err := sp.Floors(8, 11)
		if err != nil || floors[0] != (Floor{}) || floors[1] != want || floors[2] != (Floor{}) {
			t.Errorf("%s: floors %+v, %v, want %+v in the middle", when, floors, err, want)
		}
		tx := sp.Begin()
		defer tx.Discard()
		if got := tx.Floor(9); got != want {
			t.Errorf("%s: a transaction sees %+v, want %+v", when, got, want)
		}
	}
	check("after the commit", sp)
	commit(t, sp, func(tx *Tx) { tx.RaiseFloor(9, Floor{Seq: 1, Before: 1}) })
	check("after a lower one", sp)
	check("restored", restore(t, openSpace(t, s, 2), snapshotOf(t, sp)))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir)
	defer func() { _ = s.Close() }() // only read
	check("after a restart", openSpace(t, s, 1))
}

// A mark is made when the last one is old enough, the newest are kept, and Before
// finds the newest that is not after a moment.
func TestMarks(t *testing.T) {
	s := newStore(t)
	sp := openSpace(t, s, 1)
	mark := func(at crdt.Timestamp) {
		commit(t, sp, func(tx *Tx) { tx.Mark(Mark{At: at, Index: uint64(at) + 1, Seq: uint64(at) + 2}, 10) })
	}
	for at := crdt.Timestamp(100); at < 130; at++ {
		mark(at)
	}
	check := func(sp *Space, at, want crdt.Timestamp) {
		t.Helper()
		m, ok, err := sp.Before(at)
		if err != nil || ok != (want > 0) || ok && m != (Mark{want, uint64(want) + 1, uint64(want) + 2}) {
			t.Errorf("before %d: %+v, %v, %v, want that of %d", at, m, ok, err, want)
		}
	}
	check(sp, 99, 0)
	check(sp, 109, 100)
	check(sp, 110, 110)
	check(openSpace(t, s, 1), 1000, 120)
	for i := range crdt.Timestamp(marksMax) {
		mark(200 + 10*i)
	}
	check(sp, 199, 0)
	check(sp, 200, 200)
}

// A snapshot has keys of every kind that there is: one that is left out is a thing
// that a node which was filled does not know.
func TestSnapshotHasKeysOfEveryKind(t *testing.T) {
	s := newStore(t)
	sp := openSpace(t, s, 1)
	commit(t, sp, func(tx *Tx) { // chunks that are kept aside when it begins again
		put(t, tx, 9, "kept", cartOf(1))
		tx.AppendRow(rowOf("kept"))
	})
	sp = reborn(t, sp, 2)
	commit(t, sp, func(tx *Tx) {
		asked, err := tx.ListNextOp("c", crdt.OpID{1}, Asked{})
		if err != nil {
			t.Fatal(err)
		}
		tx.PutRecord(9, "c", nil, NewRecord("c", 1, cartOf(2), asked, Head{}))
		tx.PutOp("c", crdt.OpID{1}, OpRecord{At: 5, Outcome: bytes.Repeat([]byte("large"), outcomeMax)}, 5)
		tx.PutLooseOp("d", crdt.OpID{2}, OpRecord{At: 5, Outcome: []byte("small")}, 5)
		tx.AppendRow(rowOf("c"))
		tx.SetCursor(crdt.Stream{Region: 2, Incarnation: 1}, 8)
		tx.SetMembership([]byte("members"))
		tx.SetAcceptor([]byte("promised"))
		tx.RaiseFloor(9, Floor{Seq: 3, Before: 4})
		tx.Mark(Mark{At: 5, Index: 1, Seq: 1}, 1)
		tx.MarkGuest("guest:g", Digest{1})
	})
	want := dump(t, s, sp.prefix)
	for _, kind := range []byte{
		kindMarker, kindCart, kindRow, kindOp, kindOps, kindOutcome, kindCursor, kindDigest,
		kindMembership, kindAcceptor, kindKept, kindFloor, kindMarks, kindGuest,
	} {
		n := 0
		for k := range want {
			if k[0] == kind {
				n++
			}
		}
		if n == 0 {
			t.Errorf("no key of kind %q to begin with", kind)
		}
	}
	next := restore(t, openSpace(t, s, 2), snapshotOf(t, sp))
	equalDumps(t, "restored", dump(t, s, next.prefix), want)
}
