package store

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/samecart/samecart/crdt"
)

func TestRecordRoundTrip(t *testing.T) {
	for _, s := range []crdt.State{{Cart: &crdt.Cart{}}, cartOf(0), cartOf(1), cartOf(200)} {
		r := NewRecord("cart", 77, s, Asked{}, Head{})
		b := slices.Clone(r.Encode())
		got, err := DecodeRecord(b)
		if err != nil {
			t.Fatal(err)
		}
		if got.Index != 77 || got.Digest != r.Digest || !got.State.Cart.Equal(s.Cart) || !slices.Equal(got.State.Ops, s.Ops) {
			t.Fatalf("got %+v, want %+v", got, r)
		}
		if !bytes.Equal(got.Encode(), b) {
			t.Fatal("a decoded record has other bytes")
		}
		if got.Digest != DigestOf("cart", s.Cart.Encode(nil)) || got.Digest == DigestOf("tart", s.Cart.Encode(nil)) {
			t.Fatal("the digest is not of the id and the cart")
		}
		if got.MemoryBytes() < len(b) {
			t.Fatalf("%d bytes in memory, %d encoded", got.MemoryBytes(), len(b))
		}
	}
}

func TestMarkerAndOpRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := Marker{
			Applied: rapid.Uint64().Draw(t, "applied"), Partial: rapid.Uint64().Draw(t, "partial"), Done: rapid.Uint32().Draw(t, "done"),
			Seq: rapid.Uint64().Draw(t, "seq"), Trimmed: rapid.Uint64().Draw(t, "trimmed"), At: crdt.Timestamp(rapid.Uint64().Draw(t, "at")),
			Region: crdt.RegionID(rapid.Uint16().Draw(t, "region")), Incarnation: rapid.Uint32().Draw(t, "incarnation"), Carts: rapid.Uint64().Draw(t, "carts"),
			Kept: rapid.Uint64().Draw(t, "kept"), Reissued: rapid.Uint64().Draw(t, "reissued"),
		}
		if got, err := decodeMarker(m.encode()); err != nil || got != m {
			t.Fatalf("marker %+v, %v, want %+v", got, err, m)
		}
		// Markers that other versions wrote.
		other := m.encode()
		other[len(other)-1]++
		for _, b := range [][]byte{m.encode()[:markerLen-1], m.encode()[:markerLen-17], other} {
			if got, err := decodeMarker(b); !errors.Is(err, crdt.ErrFormat) {
				t.Fatalf("marker of %d bytes: %+v, %v", len(b), got, err)
			}
		}
		o := remembered{
			crdt.Timestamp(rapid.Uint64().Draw(t, "age")), rapid.String().Draw(t, "cart"), crdt.OpID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "op")),
			rapid.Bool().Draw(t, "apart"), OpRecord{Fingerprint: m.Seq, At: m.At, Outcome: rapid.SliceOf(rapid.Byte()).Draw(t, "outcome")},
		}
		b := o.encode()
		got, err := decodeRemembered(b)
		if err != nil || got.age != o.age || got.cartID != o.cartID || got.op != o.op || got.apart != o.apart ||
			got.Fingerprint != o.Fingerprint || got.At != o.At || !bytes.Equal(got.Outcome, o.Outcome) {
			t.Fatalf("op %+v, %v, want %+v", got, err, o)
		}
		short := len(b) - len(o.Outcome)
		if got, err := decodeRemembered(b[:rapid.IntRange(0, short-1).Draw(t, "cut")]); err == nil {
			t.Fatalf("decoded %+v of less than it has", got)
		}
	})
}

// A transaction sees its own writes; others see them all at once (S1).
func TestCommitIsOneStep(t *testing.T) {
	s := newStore(t)
	sp := openSpace(t, s, 1)
	st := crdt.Stream{Region: 2, Incarnation: 3, Shard: 4}
	tx := sp.Begin()
	asked, err := tx.ListNextOp("c", crdt.OpID{1}, Asked{})
	if err != nil {
		t.Fatal(err)
	}
	r := NewRecord("c", 1, cartOf(2), asked, Head{})
	tx.PutRecord(9, "c", nil, r)
	if d, ok := tx.Dirty("c"); !ok || d != r {
		t.Fatal("a written record is not dirty")
	}
	tx.AppendRow(rowOf("c"))
	tx.PutOp("c", crdt.OpID{1}, OpRecord{Fingerprint: 5, At: 6, Outcome: []byte("out")}, 1<<62)
	tx.SetCursor(st, 8)
	tx.Marker().Applied = 3
	if cur, err := tx.Cursor(st); err != nil || cur != 8 {
		t.Fatalf("cursor in the transaction %d, %v", cur, err)
	}
	if rec, ok, err := tx.Op("c", crdt.OpID{1}, r); err != nil || !ok || string(rec.Outcome) != "out" {
		t.Fatalf("op in the transaction %+v %v %v", rec, ok, err)
	}
	if got := dump(t, s, sp.prefix); len(got) != 0 || sp.Marker() != (Marker{}) {
		t.Fatalf("before the commit others see %d keys, marker %+v", len(got), sp.Marker())
	}
	var published []string
	if err := tx.Commit(func(id string, got *Record, _ []byte) {
		if got != r || sp.Marker().Applied != 3 {
			t.Errorf("published %p before the marker %+v", got, sp.Marker())
		}
		published = append(published, id)
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(published, []string{"c"}) {
		t.Fatalf("published %v", published)
	}
	// All of it has one version: Badger has one for each transaction, and a kill
	// leaves all of one or nothing.
	for key, version := range versions(t, s, sp.prefix) {
		if want := versions(t, s, sp.markerKey())[""]; version != want {
			t.Errorf("key %q has version %d, the marker %d", key, version, want)
		}
	}
	rows, err := sp.Rows(0, 1<<20)
	if err != nil || len(rows) != 1 || rows[0].Seq != 1 || rows[0].Last != 1 || rows[0].CartID != "c" {
		t.Fatalf("rows %+v, %v", rows, err)
	}
	ops, err := opsOf(sp, "c")
	if err != nil || !reflect.DeepEqual(ops, map[crdt.OpID]OpRecord{{1}: {Fingerprint: 5, At: 6, Outcome: []byte("out")}}) {
		t.Fatalf("ops %+v, %v", ops, err)
	}
	if both, ops2, err := sp.RecordAndOps(9, "c"); err != nil || both.Digest != r.Digest || !reflect.DeepEqual(ops2, ops) {
		t.Fatalf("record %+v with ops %+v, %v", both, ops2, err)
	}
	if none, ops2, err := sp.RecordAndOps(9, "d"); err != nil || none != nil || len(ops2) != 0 {
		t.Fatalf("record of no cart %+v with ops %+v, %v", none, ops2, err)
	}
	if cur, err := sp.Cursor(st); err != nil || cur != 8 {
		t.Fatalf("cursor %d, %v", cur, err)
	}
	if cur, err := sp.Cursor(crdt.Stream{Region: 2, Incarnation: 4, Shard: 4}); err != nil || cur != 0 {
		t.Fatalf("cursor of another incarnation %d, %v", cur, err)
	}
	if got, err := sp.Record(9, "c"); err != nil || got.Digest != r.Digest || !got.State.Cart.Equal(r.State.Cart) {
		t.Fatalf("record %+v, %v", got, err)
	}
	if got, err := sp.Record(8, "c"); err != nil || got != nil {
		t.Fatalf("the cart is in another slot too: %+v, %v", got, err)
	}
	want := sp.Marker()
	tx = sp.Begin()
	put(t, tx, 9, "d", cartOf(1))
	tx.Marker().Applied = 9
	tx.Discard()
	if sp.Marker() != want {
		t.Fatal("a discarded transaction moved the marker")
	}
	checkSums(t, sp)
}

// Ids with a NUL byte in them must not read each other's op ids.
func TestOpsOfIDsWithZeroBytes(t *testing.T) {
	sp := openSpace(t, newStore(t), 1)
	commit(t, sp, func(tx *Tx) {
		tx.PutLooseOp("a", crdt.OpID{1}, OpRecord{At: 1}, 1<<62)
		tx.PutLooseOp("a\x00b", crdt.OpID{2}, OpRecord{At: 2}, 1<<62)
		tx.PutLooseOp("ab", crdt.OpID{3}, OpRecord{At: 3}, 1<<62)
	})
	for id, want := range map[string]crdt.OpID{"a": {1}, "a\x00b": {2}, "ab": {3}} {
		ops, err := opsOf(sp, id)
		if _, ok := ops[want]; err != nil || len(ops) != 1 || !ok {
			t.Errorf("ops of %q: %v, %v", id, ops, err)
		}
	}
}

func TestBucketDigestsEqualARecount(t *testing.T) {
	s := newStore(t)
	shard := uint32(0)
	rapid.Check(t, func(t *rapid.T) {
		shard++
		sp := openSpace(t, s, shard)
		for range rapid.IntRange(1, 6).Draw(t, "commits") {
			commit(t, sp, func(tx *Tx) {
				for range rapid.IntRange(0, 6).Draw(t, "edits") {
					slot := rapid.Uint32Range(0, 3).Draw(t, "slot")
					id := fmt.Sprintf("c%d-%d", slot, rapid.IntRange(0, 3).Draw(t, "cart"))
					put(t, tx, slot, id, cartOf(rapid.IntRange(0, 5).Draw(t, "lines")))
				}
			})
			if rapid.Bool().Draw(t, "reopen") {
				sp = openSpace(t, s, shard)
			}
			checkSums(t, sp)
		}
	})
}

func TestBucketPages(t *testing.T) {
	s := newStore(t)
	sp := openSpace(t, s, 1)
	commit(t, sp, func(tx *Tx) {
		put(t, tx, 6, "before", cartOf(1))
		put(t, tx, 8, "behind", cartOf(1))
		for _, id := range []string{"b", "a", "aa", "d", "c"} {
			put(t, tx, 7, id, cartOf(1))
		}
	})
	for limit := 1; limit <= 6; limit++ {
		var got []string
		after := ""
		for {
			page, more, err := sp.Bucket(7, after, limit)
			if err != nil || len(page) > limit || more && len(page) != limit {
				t.Fatalf("limit %d after %q: %v more=%v %v", limit, after, page, more, err)
			}
			for _, c := range page {
				got = append(got, c.CartID)
			}
			if !more {
				break
			}
			after = got[len(got)-1]
		}
		if !slices.Equal(got, []string{"a", "aa", "b", "c", "d"}) {
			t.Fatalf("limit %d: %v", limit, got)
		}
	}
	if page, more, err := sp.Bucket(7, "bb", 2); err != nil || more || len(page) != 2 || page[0].CartID != "c" {
		t.Fatalf("after an id that is not there: %v more=%v %v", page, more, err)
	}
}

func TestSumsRange(t *testing.T) {
	s := newStore(t)
	sp, err := s.Space(1, 100, 200)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range [][2]uint32{{99, 150}, {150, 201}, {160, 150}} {
		if _, err := sp.Sums(r[0], r[1]); err == nil || !strings.Contains(err.Error(), "[100,200)") {
			t.Errorf("slots %v: %v", r, err)
		}
	}
	commit(t, sp, func(tx *Tx) { put(t, tx, 199, "c", cartOf(1)) })
	sums, err := sp.Sums(198, 200)
	if err != nil || len(sums) != 2 || sums[0] != [16]byte{} || sums[1] == [16]byte{} {
		t.Fatalf("sums %x, %v", sums, err)
	}
}

func TestRowsAndTrim(t *testing.T) {
	s := newStore(t)
	sp := openSpace(t, s, 1)
	commit(t, sp, func(tx *Tx) {
		for range 10 {
			tx.AppendRow(rowOf("c"))
		}
	})
	size := len(rowOf("c").Encode(nil))
	for _, c := range []struct {
		after    uint64
		maxBytes int
		want     []uint64
	}{
		{0, 1 << 20, []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
		{8, 1 << 20, []uint64{9, 10}},
		{10, 1 << 20, nil},
		{0, 0, []uint64{1}}, // one at least
		{3, 3 * size, []uint64{4, 5, 6}},
	} {
		rows, err := sp.Rows(c.after, c.maxBytes)
		var got []uint64
		for _, r := range rows {
			got = append(got, r.Seq)
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("after %d, %d bytes: %v, %v, want %v", c.after, c.maxBytes, got, err, c.want)
		}
	}
	for _, c := range []struct {
		seq         uint64
		limit       int
		trimmed     uint64
		first, last uint64
	}{
		{7, 3, 3, 4, 10},   // bounded
		{7, 100, 7, 8, 10}, // to seq
		{5, 100, 7, 8, 10}, // never back
		{99, 100, 10, 0, 0},
	} {
		commit(t, sp, func(tx *Tx) { tx.Trim(c.seq, c.limit) })
		rows, err := sp.Rows(0, 1<<20)
		if err != nil || sp.Marker().Trimmed != c.trimmed || sp.Marker().Seq != 10 {
			t.Fatalf("trim to %d: marker %+v, %v", c.seq, sp.Marker(), err)
		}
		if c.first == 0 && len(rows) == 0 {
			continue
		}
		if len(rows) == 0 || rows[0].Seq != c.first || rows[len(rows)-1].Seq != c.last {
			t.Fatalf("trim to %d leaves %d rows", c.seq, len(rows))
		}
	}
	commit(t, sp, func(tx *Tx) { tx.AppendRow(rowOf("c")) })
	if rows, err := sp.Rows(10, 1); err != nil || len(rows) != 1 || rows[0].Seq != 11 {
		t.Fatalf("a row after all were trimmed: %+v, %v", rows, err)
	}
}

func TestExpireOps(t *testing.T) {
	s := newStore(t)
	sp := openSpace(t, s, 1)
	if _, ok, err := sp.OldestOp(); ok || err != nil {
		t.Fatalf("oldest op of an empty space: %v %v", ok, err)
	}
	commit(t, sp, func(tx *Tx) {
		for i := range 10 {
			tx.PutLooseOp(fmt.Sprint("cart", i%2), crdt.OpID{byte(i)}, OpRecord{At: crdt.Timestamp(100 + i)}, 1<<62)
		}
	})
	left := func() (n int) {
		for _, id := range []string{"cart0", "cart1"} {
			ops, err := opsOf(sp, id)
			if err != nil {
				t.Fatal(err)
			}
			n += len(ops)
		}
		return n
	}
	for _, c := range []struct {
		before crdt.Timestamp
		limit  int
		oldest crdt.Timestamp
		left   int
	}{
		{100, 10, 100, 10}, // before is exclusive
		{105, 2, 102, 8},   // bounded
		{105, 10, 105, 5},
		{105, 10, 105, 5},
		{1000, 10, 0, 0},
	} {
		commit(t, sp, func(tx *Tx) {
			if err := tx.ExpireOps(c.before, c.limit); err != nil {
				t.Fatal(err)
			}
		})
		at, ok, err := sp.OldestOp()
		if err != nil || ok != (c.left > 0) || at != c.oldest || left() != c.left {
			t.Fatalf("before %d: oldest %d %v %v, %d left; want %d, %d left", c.before, at, ok, err, left(), c.oldest, c.left)
		}
	}
	if got := dump(t, s, sp.key(kindOp, 0)); len(got) != 0 {
		t.Fatalf("%d ops are left", len(got))
	}
}

// An outcome that is large has a key of its own: the series stays small, and
// the key goes when the request is forgotten.
func TestLargeOutcomes(t *testing.T) {
	s := newStore(t)
	sp := openSpace(t, s, 1)
	large := OpRecord{At: 100, Outcome: bytes.Repeat([]byte("o"), 50<<10)}
	found := func(when string, tx *Tx) {
		t.Helper()
		got, ok, err := tx.Op("cart", crdt.OpID{1}, nil)
		if err != nil || !ok || !bytes.Equal(got.Outcome, large.Outcome) {
			t.Fatalf("%s: outcome of %d bytes, %v, %v", when, len(got.Outcome), ok, err)
		}
	}
	commit(t, sp, func(tx *Tx) {
		tx.PutLooseOp("cart", crdt.OpID{1}, large, 1<<62)
		found("in its own transaction", tx)
	})
	if chunk := raw(t, s, sp.chunkKey(kindOps, 0)); len(chunk) > outcomeMax {
		t.Fatalf("chunk of %d bytes", len(chunk))
	}
	tx := sp.Begin()
	found("later", tx)
	tx.Discard()
	if ops, err := opsOf(sp, "cart"); err != nil || !bytes.Equal(ops[crdt.OpID{1}].Outcome, large.Outcome) {
		t.Fatalf("all of the cart's: %v, %v", ops, err)
	}
	commit(t, sp, func(tx *Tx) {
		if err := tx.ExpireOps(101, 1); err != nil {
			t.Fatal(err)
		}
	})
	if left := dump(t, s, sp.key(kindOutcome, 0)); len(left) != 0 {
		t.Fatalf("%d outcomes are left", len(left))
	}
}

// The keys of what was forgotten go with their chunks.
func TestForgottenChunksGo(t *testing.T) {
	s := newStore(t)
	sp := openSpace(t, s, 1)
	const n = 3*chunkLen + 5
	for i := range n { // the tail is written again and again
		commit(t, sp, func(tx *Tx) {
			tx.AppendRow(rowOf("c"))
			tx.PutLooseOp("c", crdt.OpID{byte(i + 1)}, OpRecord{At: crdt.Timestamp(i + 1)}, 1<<62)
		})
		if i%7 == 0 {
			sp = openSpace(t, s, 1)
		}
	}
	for _, kind := range []byte{kindRow, kindOps} {
		if got := dump(t, s, sp.key(kind, 0)); len(got) != 4 {
			t.Fatalf("%d chunks of %q for %d values", len(got), kind, n)
		}
	}
	for _, forget := range []struct{ to, chunks int }{{chunkLen - 1, 4}, {chunkLen, 3}, {n - 1, 1}, {n, 1}} {
		commit(t, sp, func(tx *Tx) {
			tx.Trim(uint64(forget.to), n)
			if err := tx.ExpireOps(crdt.Timestamp(forget.to+1), n); err != nil {
				t.Fatal(err)
			}
		})
		for _, kind := range []byte{kindRow, kindOps} {
			if got := dump(t, s, sp.key(kind, 0)); len(got) != forget.chunks {
				t.Fatalf("up to %d forgotten: %d chunks of %q, want %d", forget.to, len(got), kind, forget.chunks)
			}
		}
		if m := sp.Marker(); m.Trimmed != uint64(forget.to) || m.OpsForgotten != uint64(forget.to) || m.Seq != n || m.Ops != n {
			t.Fatalf("up to %d forgotten: %+v", forget.to, m)
		}
	}
}

// Requests that were forgotten take no room in a cart's list.
func TestForgottenRequestsMakeRoom(t *testing.T) {
	sp := openSpace(t, newStore(t), 1)
	var a Asked
	ask := func(tx *Tx, at int) {
		op := crdt.OpID{1, byte(at)}
		var err error
		if a, err = tx.ListNextOp("c", op, a); err != nil {
			t.Fatal(err)
		}
		tx.PutOp("c", op, OpRecord{At: crdt.Timestamp(at)}, 1<<62)
	}
	commit(t, sp, func(tx *Tx) {
		for i := range askedMax {
			ask(tx, i+1)
		}
		if err := tx.ExpireOps(askedMax/2, askedMax); err != nil {
			t.Fatal(err)
		}
		ask(tx, askedMax+1)
	})
	if a.Full || len(a.refs) != askedMax/2+2 {
		t.Fatalf("%d requests are listed, full: %v", len(a.refs), a.Full)
	}
}

// What one region's clock says must not keep other requests from being
// forgotten.
func TestOpFromTheFutureIsForgotten(t *testing.T) {
	sp := openSpace(t, newStore(t), 1)
	commit(t, sp, func(tx *Tx) {
		tx.PutLooseOp("c", crdt.OpID{1}, OpRecord{At: 1 << 50}, 100)
		tx.PutLooseOp("c", crdt.OpID{2}, OpRecord{At: 100}, 100)
	})
	commit(t, sp, func(tx *Tx) {
		if err := tx.ExpireOps(101, 10); err != nil {
			t.Fatal(err)
		}
	})
	if ops, err := opsOf(sp, "c"); err != nil || len(ops) != 0 {
		t.Fatalf("left: %v, %v", ops, err)
	}
}

// S3 and S4: whatever is remembered for a cart is found, listed or in the
// index, until it is forgotten; a new op id is known as such.
func TestRequestsAreFound(t *testing.T) {
	s := newStore(t)
	shard := uint32(100)
	rapid.Check(t, func(t *rapid.T) {
		shard++
		sp := openSpace(t, s, shard)
		at := make(map[crdt.OpID]crdt.Timestamp)
		now, forgotten := crdt.Timestamp(1000), crdt.Timestamp(0)
		ask := func(tx *Tx, r *Record) {
			for op, when := range at {
				rec, ok, err := tx.Op("c", op, r)
				if want := when >= forgotten; err != nil || ok != want || ok && rec.At != when {
					t.Fatalf("op %x of %d at %d: %+v %v %v", op[:4], when, now, rec, ok, err)
				}
			}
			if _, ok, err := tx.Op("c", crdt.OpID{0xff, 0xff}, r); ok || err != nil {
				t.Fatalf("a new op is known: %v %v", ok, err)
			}
		}
		for range rapid.IntRange(1, 8).Draw(t, "commits") {
			tx := sp.Begin()
			r, err := tx.Record(9, "c")
			if err != nil {
				t.Fatal(err)
			}
			if rapid.Bool().Draw(t, "forget") {
				to := now
				if rapid.Bool().Draw(t, "not all") {
					to -= 2
				}
				forgotten = max(forgotten, to)
				if err := tx.ExpireOps(forgotten, 1000); err != nil {
					t.Fatal(err)
				}
			}
			for range rapid.IntRange(1, askedMax).Draw(t, "requests") {
				now++
				op := crdt.OpID{byte(rapid.IntRange(0, 1).Draw(t, "tag")), 0, 0, 0, byte(now >> 8), byte(now)}
				at[op] = now
				rec := OpRecord{At: now, Outcome: []byte{1}}
				if r == nil && rapid.Bool().Draw(t, "nothing to change") {
					tx.PutLooseOp("c", op, rec, now)
					continue
				}
				var a Asked
				if r != nil {
					a = r.Asked
				} else if a, err = tx.Asked("c"); err != nil {
					t.Fatal(err)
				}
				if a, err = tx.ListNextOp("c", op, a); err != nil {
					t.Fatal(err)
				}
				next := NewRecord("c", tx.Marker().Applied+1, cartOf(1), a, Head{})
				tx.PutRecord(9, "c", r, next)
				tx.PutOp("c", op, rec, now)
				r = next
			}
			ask(tx, r)
			tx.Marker().Applied++
			if err := tx.Commit(func(string, *Record, []byte) {}); err != nil {
				t.Fatal(err)
			}
			if rapid.Bool().Draw(t, "reopen") {
				sp = openSpace(t, s, shard)
			}
			tx = sp.Begin()
			if r, err = tx.Record(9, "c"); err != nil {
				t.Fatal(err)
			}
			ask(tx, r)
			tx.Discard()
			_, ops, err := sp.RecordAndOps(9, "c")
			if err != nil {
				t.Fatal(err)
			}
			for op, when := range at {
				if _, ok := ops[op]; ok != (when >= forgotten) {
					t.Fatalf("op %x of %d is among all: %v", op[:4], when, ok)
				}
			}
		}
	})
}

func TestAskedRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := Asked{Full: rapid.Bool().Draw(t, "full")}
		n := uint64(0)
		for range rapid.IntRange(0, askedMax).Draw(t, "refs") {
			n += rapid.Uint64Range(1, 1<<40).Draw(t, "more")
			a.refs = append(a.refs, opRef{rapid.Uint32().Draw(t, "tag"), n})
		}
		if a.Full || len(a.refs) > 0 {
			a.Newest = rapid.Uint64().Draw(t, "newest")
		}
		r := NewRecord("c", 1, cartOf(2), a, Head{})
		b := r.Encode()
		got, err := DecodeRecord(b)
		if err != nil || !got.Asked.Equal(a) || !bytes.Equal(got.Encode(), b) {
			t.Fatalf("decoded %v, %v, want %v", got, err, a)
		}
		list := len(a.append(nil))
		if got, _, err := decodeAsked(b[recordHeader : recordHeader+rapid.IntRange(0, list-1).Draw(t, "cut")]); err == nil {
			t.Fatalf("decoded %v of a cut list", got)
		}
	})
}

// A request that found nothing to change in a cart that was not there is in
// the list of the cart's first record.
func TestAskedOfACartWithoutRecord(t *testing.T) {
	sp := openSpace(t, newStore(t), 1)
	commit(t, sp, func(tx *Tx) { tx.PutLooseOp("c", crdt.OpID{1}, OpRecord{At: 7}, 1<<62) })
	tx := sp.Begin()
	defer tx.Discard()
	tx.PutLooseOp("c", crdt.OpID{0, 0, 0, 0, 2}, OpRecord{At: 9}, 1<<62)
	a, err := tx.Asked("c")
	if want := []opRef{{1 << 24, 1}, {0, 2}}; err != nil || a.Newest != 2 || !slices.Equal(a.refs, want) {
		t.Fatalf("%+v, %v", a, err)
	}
	if none, err := tx.Asked("d"); err != nil || !none.Equal(Asked{}) {
		t.Fatalf("of no cart: %+v, %v", none, err)
	}
}

// A request that came and was forgotten in one transaction is in no list: the
// determinism test found one that was, where the two were committed together.
func TestAskedOfWhatWasForgottenAtOnce(t *testing.T) {
	sp := openSpace(t, newStore(t), 1)
	tx := sp.Begin()
	defer tx.Discard()
	tx.PutLooseOp("c", crdt.OpID{1}, OpRecord{At: 7}, 1<<62)
	if err := tx.ExpireOps(8, 10); err != nil {
		t.Fatal(err)
	}
	if a, err := tx.Asked("c"); err != nil || !a.Equal(Asked{}) {
		t.Fatalf("%+v, %v", a, err)
	}
}

// A cart that remembers more than its list takes has the same list wherever
// transactions ended.
func TestAskedOfManyWithoutRecord(t *testing.T) {
	for committed := range askedMax + 10 {
		sp := openSpace(t, newStore(t), 1)
		put := func(tx *Tx, from, to int) {
			for i := from; i < to; i++ {
				tx.PutLooseOp("c", crdt.OpID{byte(i), 7}, OpRecord{At: 7}, 1<<62)
			}
		}
		commit(t, sp, func(tx *Tx) { put(tx, 0, committed) })
		tx := sp.Begin()
		put(tx, committed, askedMax)
		if a, err := tx.Asked("c"); err != nil || a.Full != (committed > askedMax) {
			t.Fatalf("%d committed, then %d: %+v, %v", committed, askedMax, a, err)
		}
		put(tx, max(committed, askedMax), askedMax+10)
		if a, err := tx.Asked("c"); err != nil || !a.Equal(Asked{Full: true, Newest: askedMax + 10}) {
			t.Fatalf("%d committed, all: %+v, %v", committed, a, err)
		}
		tx.Discard()
	}
}
