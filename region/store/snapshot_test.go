package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"testing"

	"pgregory.net/rapid"

	"github.com/samecart/samecart/crdt"
)

// fillSpace writes some of everything, more than a transaction holds.
func fillSpace(t fataler, sp *Space, carts int) {
	t.Helper()
	for i := range carts {
		commit(t, sp, func(tx *Tx) {
			id := fmt.Sprintf("cart-%d", i)
			put(t, tx, uint32(i*37)%slotsMax, id, cartOf(1+i%40))
			tx.AppendRow(rowOf(id))
			tx.PutLooseOp(id, crdt.OpID{byte(i), byte(i >> 8)}, OpRecord{Fingerprint: uint64(i), At: crdt.Timestamp(i)}, 1<<62)
			tx.SetCursor(crdt.Stream{Region: crdt.RegionID(i % 5), Shard: uint32(i)}, uint64(i))
			tx.Marker().Region, tx.Marker().Incarnation = 3, 2
		})
	}
}

func snapshotOf(t fataler, sp *Space) []byte {
	t.Helper()
	var b bytes.Buffer
	snap := sp.Snapshot()
	defer snap.Close()
	if n, err := snap.WriteTo(&b); err != nil || n != int64(b.Len()) {
		t.Fatalf("write snapshot: %d of %d bytes, %v", n, b.Len(), err)
	}
	return b.Bytes()
}

func restore(t fataler, sp *Space, snap []byte) *Space {
	t.Helper()
	next, err := sp.Restore(bytes.NewReader(snap))
	if err != nil {
		t.Fatalf("restore: %v", err)
	}
	return next
}

// S2: a restored space is the one of the snapshot, key by key, in memory and
// after a reopen; what the space had before is gone.
func TestSnapshotRestores(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	from, to := openSpace(t, s, 1), openSpace(t, s, 2)
	fillSpace(t, from, 300)
	fillSpace(t, to, 30)
	commit(t, to, func(tx *Tx) { put(t, tx, 5, "only here", cartOf(3)) })

	snap := from.Snapshot()
	want, marker := dump(t, s, from.prefix), from.Marker()
	fillSpace(t, from, 5) // later commits are not in it
	var b bytes.Buffer
	if _, err := snap.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	snap.Close()

	next := restore(t, to, b.Bytes())
	if next.Generation() != to.Generation()+1 {
		t.Fatalf("generation %d after %d", next.Generation(), to.Generation())
	}
	check := func(sp *Space) {
		t.Helper()
		equalDumps(t, "restored", dump(t, sp.store, sp.prefix), want)
		if sp.Marker() != marker {
			t.Fatalf("marker %+v, want %+v", sp.Marker(), marker)
		}
		if r, err := sp.Record(5, "only here"); err != nil || r != nil {
			t.Fatalf("a cart from before the restore: %v, %v", r, err)
		}
		checkSums(t, sp)
	}
	check(next)
	check(openSpace(t, s, 2))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir)
	check(openSpace(t, s, 2))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestSnapshotOfAnEmptySpace(t *testing.T) {
	s := newStore(t)
	sp := openSpace(t, s, 1)
	fillSpace(t, sp, 3)
	next := restore(t, sp, snapshotOf(t, openSpace(t, s, 2)))
	if got := dump(t, s, next.prefix); len(got) != 0 || next.Marker() != (Marker{}) {
		t.Fatalf("%d keys, marker %+v", len(got), next.Marker())
	}
}

// S2: a snapshot that is cut or has one bit wrong is refused, and the space
// before it is current and whole.
func TestDamagedSnapshotIsRefused(t *testing.T) {
	s := newStore(t)
	from, sp := openSpace(t, s, 1), openSpace(t, s, 2)
	fillSpace(t, from, 4)
	fillSpace(t, sp, 8)
	good := snapshotOf(t, from)
	want, marker := dump(t, s, sp.prefix), sp.Marker()
	rapid.Check(t, func(t *rapid.T) {
		bad := bytes.Clone(good)
		if rapid.Bool().Draw(t, "cut") {
			bad = bad[:rapid.IntRange(0, len(bad)-1).Draw(t, "len")]
		} else {
			at := rapid.IntRange(0, len(bad)-1).Draw(t, "byte")
			bad[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		}
		_, err := sp.Restore(bytes.NewReader(bad))
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("restore: %v", err)
		}
		now := openSpace(t, s, 2)
		if now.Generation() != sp.Generation() || now.Marker() != marker {
			t.Fatalf("generation %d with marker %+v, want %d with %+v", now.Generation(), now.Marker(), sp.Generation(), marker)
		}
		equalDumps(t, "after a refused snapshot", dump(t, s, sp.prefix), want)
	})
	// What the refused ones left behind is not in the good one.
	next := restore(t, sp, good)
	equalDumps(t, "restored", dump(t, s, next.prefix), dump(t, s, from.prefix))
}

func TestSnapshotBounds(t *testing.T) {
	s := newStore(t)
	sp := openSpace(t, s, 1)
	for _, pair := range [][2]uint64{{keyBytesMax + 1, 0}, {1, valueBytesMax + 1}} {
		b := binary.AppendUvarint(bytes.Clone(snapshotMagic), pair[0])
		b = binary.AppendUvarint(b, pair[1])
		if _, err := sp.Restore(bytes.NewReader(b)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("pair of %v bytes: %v", pair, err)
		}
	}
}

// errWriter fails after n bytes.
type errWriter struct{ n int }

var errDisk = errors.New("disk full")

func (w *errWriter) Write(b []byte) (int, error) {
	if w.n -= len(b); w.n < 0 {
		return 0, errDisk
	}
	return len(b), nil
}

func TestSnapshotReportsWriteErrors(t *testing.T) {
	s := newStore(t)
	sp := openSpace(t, s, 1)
	fillSpace(t, sp, 1100) // more than the write buffer
	size := len(snapshotOf(t, sp))
	if size < 300<<10 {
		t.Fatalf("snapshot of %d bytes fits the buffer", size)
	}
	for _, n := range []int{0, 260 << 10, size - 2} {
		snap := sp.Snapshot()
		if _, err := snap.WriteTo(&errWriter{n: n}); !errors.Is(err, errDisk) {
			t.Errorf("disk full after %d bytes: %v", n, err)
		}
		snap.Close()
	}
}

// cutReader gives the first n bytes, then calls then.
type cutReader struct {
	b    []byte
	then func() error
}

func (r *cutReader) Read(b []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, r.then()
	}
	n := copy(b, r.b)
	r.b = r.b[n:]
	return n, nil
}

// S2: a process that dies in the middle of a restore comes back with the
// generation before it, and may restore again.
func TestCrashDuringRestore(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	from, sp := openSpace(t, s, 1), openSpace(t, s, 2)
	fillSpace(t, from, 700)
	fillSpace(t, sp, 20)
	snap := snapshotOf(t, from)
	want, marker := dump(t, s, sp.prefix), sp.Marker()
	image := ""
	_, err := sp.Restore(&cutReader{b: snap[:len(snap)*9/10], then: func() error {
		image = crashImage(t, dir)
		return errDisk
	}})
	if !errors.Is(err, errDisk) {
		t.Fatalf("restore: %v", err)
	}
	all := dump(t, s, from.prefix)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, d := range map[string]string{"failed": dir, "killed": image} {
		s := openStore(t, d)
		if left := dump(t, s, spacePrefix(2, 1)); len(left) == 0 {
			t.Fatalf("%s: nothing of the next generation was written, the test proves nothing", name)
		}
		sp := openSpace(t, s, 2)
		if sp.Generation() != 0 || sp.Marker() != marker {
			t.Fatalf("%s: generation %d with marker %+v, want 0 with %+v", name, sp.Generation(), sp.Marker(), marker)
		}
		equalDumps(t, name, dump(t, s, sp.prefix), want)
		checkSums(t, sp)
		// A try with a smaller snapshot must not mix with what is left.
		small := openSpace(t, s, 3)
		fillSpace(t, small, 2)
		next := restore(t, sp, snapshotOf(t, small))
		equalDumps(t, name+", next try", dump(t, s, next.prefix), dump(t, s, small.prefix))
		next = restore(t, next, snap)
		equalDumps(t, name+", last try", dump(t, s, next.prefix), all)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Sweep deletes what is older than the current generation, of this shard
// alone: neighbours in key order keep theirs.
func TestSweep(t *testing.T) {
	s := newStore(t)
	keep := make(map[uint32]map[string]string)
	for _, shard := range []uint32{1, 0xfe, 0xff, 0x100, 0x1ff} {
		sp := openSpace(t, s, shard)
		fillSpace(t, sp, 10)
		keep[shard] = dump(t, s, sp.prefix)
	}
	sp := openSpace(t, s, 0xff)
	snap := snapshotOf(t, sp)
	for range 257 { // past a byte's carry
		next := restore(t, sp, snap)
		sp = next
	}
	gen := sp.Generation()
	if err := s.Sweep(0xff, func() bool { return true }); err != nil {
		t.Fatal(err)
	}
	if got := dump(t, s, spacePrefix(0xff, 0)); len(got) == 0 {
		t.Fatal("a stopped sweep deleted something")
	}
	for _, shard := range []uint32{0xff, 1, 0x100, 9} {
		if err := s.Sweep(shard, func() bool { return false }); err != nil {
			t.Fatal(err)
		}
	}
	for g := range gen {
		if got := dump(t, s, spacePrefix(0xff, g)); len(got) != 0 {
			t.Fatalf("generation %d still has %d keys", g, len(got))
		}
	}
	for shard, want := range keep {
		sp := openSpace(t, s, shard)
		equalDumps(t, fmt.Sprint("shard ", shard), dump(t, s, sp.prefix), want)
	}
}

// A sweep that runs while a snapshot is restored must leave the new
// generation alone, before it is current and after.
func TestSweepBesideRestore(t *testing.T) {
	s := newStore(t)
	sp := openSpace(t, s, 1)
	fillSpace(t, sp, 50)
	sp = restore(t, sp, snapshotOf(t, sp)) // something to sweep
	snap := snapshotOf(t, sp)
	want := dump(t, s, sp.prefix)
	var next *Space
	if err := s.Sweep(1, func() bool {
		if next == nil {
			next = restore(t, sp, snap)
		}
		return false
	}); err != nil {
		t.Fatal(err)
	}
	equalDumps(t, "restored beside a sweep", dump(t, s, next.prefix), want)
	if got := dump(t, s, spacePrefix(1, 0)); len(got) != 0 {
		t.Fatalf("the oldest generation still has %d keys", len(got))
	}
}

// A generation of many batches is swept in one pass.
func TestSweepManyBatches(t *testing.T) {
	s := newStore(t)
	sp := openSpace(t, s, 1)
	fillSpace(t, sp, 700)
	restore(t, sp, snapshotOf(t, sp))
	polls := 0
	if err := s.Sweep(1, func() bool { polls++; return false }); err != nil {
		t.Fatal(err)
	}
	if got := dump(t, s, spacePrefix(1, 0)); len(got) != 0 || polls < 3 {
		t.Fatalf("%d keys left after %d batches", len(got), polls)
	}
}
