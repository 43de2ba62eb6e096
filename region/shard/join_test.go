package shard

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

// stream is the origin of a rig's rows.
func (r *rig) stream() crdt.Stream {
	m := r.fsm.marker()
	return crdt.Stream{Region: m.Region, Incarnation: m.Incarnation, Shard: 0}
}

func joinRows(st crdt.Stream, lo, hi uint64, rows ...crdt.Row) *regionv1.Command {
	j := &regionv1.JoinRows{RegionId: uint32(st.Region), Incarnation: st.Incarnation, OriginShard: st.Shard, Lo: lo, Hi: hi}
	for _, row := range rows {
		j.Rows = append(j.Rows, row.Encode(nil))
	}
	return &regionv1.Command{Command: &regionv1.Command_JoinRows{JoinRows: j}}
}

func joinCart(id string, s crdt.State) *regionv1.Command {
	return &regionv1.Command{Command: &regionv1.Command_JoinCart{JoinCart: &regionv1.JoinCart{CartId: id, State: s.Encode(nil)}}}
}

// two returns the rigs of two regions over one database.
func two(t *testing.T) (eu, us *rig) {
	t.Helper()
	eu = newTestRig(t)
	return eu, newRig(t, eu.store, 1, 2)
}

// join gives a rig rows of another's stream and returns the outcome.
func (r *rig) join(from *rig, lo, hi uint64) *regionv1.Outcome {
	r.t.Helper()
	var rows []crdt.Row
	for _, row := range from.rows(lo) {
		if row.Seq <= hi {
			rows = append(rows, row)
		}
	}
	return r.apply(joinRows(from.stream(), lo, hi, rows...))[0]
}

func (r *rig) cursor(st crdt.Stream) uint64 {
	r.t.Helper()
	cur, err := r.fsm.current().Cursor(st)
	if err != nil {
		r.t.Fatalf("read cursor: %v", err)
	}
	return cur
}

func TestJoinRowsMovesTheCursor(t *testing.T) {
	eu, us := two(t)
	for i := range 4 {
		us.ok(edit("c", add("s", fmt.Sprint(i), 1)))
	}
	st := us.stream()
	if out := eu.join(us, 1, 2); out.Code != regionv1.Outcome_CODE_GAP || out.Cursor != 0 {
		t.Fatalf("a gap: %v", out)
	}
	eu.want("c", map[string]uint32{})
	if out := eu.join(us, 0, 2); out.Code != regionv1.Outcome_CODE_OK || out.Cursor != 2 || eu.cursor(st) != 2 {
		t.Fatalf("outcome %v, cursor %d", out, eu.cursor(st))
	}
	before := DigestOfRecord("c", eu.recordOf("c"))
	if out := eu.join(us, 0, 2); out.Cursor != 2 { // again
		t.Fatalf("outcome %v", out)
	}
	if DigestOfRecord("c", eu.recordOf("c")) != before {
		t.Fatal("rows below the cursor changed the cart")
	}
	if out := eu.join(us, 1, 4); out.Cursor != 4 { // overlaps
		t.Fatalf("outcome %v", out)
	}
	if out := eu.apply(joinRows(st, 4, 9))[0]; out.Cursor != 9 { // rows of other shards lie between
		t.Fatalf("outcome %v", out)
	}
	if !eu.state("c").Cart.Equal(us.state("c").Cart) {
		t.Fatalf("eu has %v, us has %v", eu.lines("c"), us.lines("c"))
	}
	if eu.fsm.marker().Seq != 0 {
		t.Fatal("joined rows went into the delta log")
	}
	move := func(to uint64) *regionv1.Outcome {
		return eu.apply(&regionv1.Command{Command: &regionv1.Command_MoveCursor{MoveCursor: &regionv1.MoveCursor{RegionId: uint32(st.Region), Cursor: to}}})[0]
	}
	if out := move(20); out.Cursor != 20 || eu.cursor(st) != 20 {
		t.Fatalf("outcome %v, cursor %d", out, eu.cursor(st))
	}
	if out := move(7); out.Cursor != 20 || eu.cursor(st) != 20 {
		t.Fatalf("a cursor moved back: %v, %d", out, eu.cursor(st))
	}
}

// A row that is next after the cursor is joined although its dot came before
// inside another region's row: what it supersedes did not come with it.
func TestNextRowIsJoinedThoughItsDotIsSeen(t *testing.T) {
	eu, us := two(t)
	key := crdt.LineKey{Seller: "s", SKU: "a"}
	eu.ok(edit("c", add("s", "a", 1)))
	us.join(eu, 0, 1)
	us.ok(edit("c", set("s", "a", 5))) // takes eu's quantity
	dot := us.rows(0)[0].Delta.Dots[0]
	// A third region's whole cart has us's dot, and has dropped the line
	// again, without the dots that only us's row takes.
	third := crdt.State{Cart: &crdt.Cart{Context: crdt.ContextOf(dot)}}
	eu.apply(joinCart("c", third))
	if !eu.state("c").Cart.Context.Has(dot) || eu.lines("c")["s/a/"] != 1 {
		t.Fatalf("before the row: %v", eu.lines("c"))
	}
	eu.join(us, 0, 1)
	if l := eu.state("c").Cart.Find(key); l != nil {
		t.Fatalf("the row was taken for known: %v", l.Visible())
	}
}

// A combined row that begins at or below the cursor and ends above it is
// joined whole.
func TestCombinedRowStraddlesTheCursor(t *testing.T) {
	eu, us := two(t)
	us.ok(withOp(1, edit("c", add("s", "a", 1))))
	us.ok(edit("c", add("s", "b", 1)))
	us.ok(withOp(2, edit("c", add("s", "a", 1))))
	rows := us.rows(0)
	eu.join(us, 0, 2)
	combined := crdt.CombineRows(rows[0], rows[2])
	if combined.Seq != 1 || combined.Last != 3 {
		t.Fatalf("combined row %d to %d", combined.Seq, combined.Last)
	}
	if out := eu.apply(joinRows(us.stream(), 0, 3, combined, rows[1]))[0]; out.Cursor != 3 {
		t.Fatalf("outcome %v", out)
	}
	if !eu.state("c").Cart.Equal(us.state("c").Cart) {
		t.Fatalf("eu has %v, us has %v", eu.lines("c"), us.lines("c"))
	}
	for op := 1; op <= 2; op++ {
		if out := eu.ok(withOp(op, edit("c", add("s", "a", 1)))); !out.Replayed {
			t.Fatalf("op %d of the combined row is not known", op)
		}
	}
}

// A request that another region applied is known here by its row, also when
// the dot came in a later row of the line.
func TestRetryOfARemoteRequest(t *testing.T) {
	eu, us := two(t)
	ap := newRig(t, eu.store, 2, 3)
	us.ok(withOp(1, edit("c", add("s", "a", 2))))
	ap.join(us, 0, 1)
	ap.ok(edit("c", set("s", "a", 7)))
	eu.join(ap, 0, 1) // us's own row has not come
	out := eu.ok(withOp(1, edit("c", add("s", "a", 2))))
	if !out.Replayed || out.Lines[0].Quantity != 7 || out.Index != eu.index || out.ItemCount != 7 {
		t.Fatalf("outcome %v", out)
	}
	eu.want("c", map[string]uint32{"s/a/": 7})
	eu.refuse(regionv1.Outcome_CODE_OP_ID_REUSED, withOp(1, edit("c", add("s", "a", 3))))
	// A line that is gone since is answered as removed.
	eu.ok(edit("c", remove("s", "a")))
	if out := eu.ok(withOp(1, edit("c", add("s", "a", 2)))); !out.Replayed || !out.Lines[0].Removed {
		t.Fatalf("outcome %v", out)
	}
}

func TestOldOpsAreNotLearned(t *testing.T) {
	eu, us := two(t)
	us.ok(withOp(1, edit("c", add("s", "a", 2))))
	eu.at += crdt.Timestamp(eu.limits.OpLifeMs+60_000) << 16
	eu.join(us, 0, 1)
	if out := eu.ok(withOp(1, edit("c", add("s", "a", 2)))); out.Replayed {
		t.Fatalf("outcome %v", out)
	}
}

// Remote clocks move the shard's own, but not far ahead.
func TestRemoteClocks(t *testing.T) {
	eu, us := two(t)
	us.at += 60_000 << 16
	us.ok(edit("c", add("s", "a", 1)))
	us.at += 3600_000 << 16
	us.ok(edit("c", add("s", "b", 1)))
	eu.join(us, 0, 1)
	if got, want := eu.fsm.marker().At, us.rows(0)[0].At; got != want {
		t.Fatalf("clock %d, want %d", got, want)
	}
	eu.join(us, 1, 2)
	if got, want := eu.fsm.marker().At, us.rows(0)[0].At; got != want {
		t.Fatalf("a clock an hour ahead moved ours to %d", got)
	}
}

func TestConcurrentWritesShow(t *testing.T) {
	eu, us := two(t)
	eu.ok(edit("c", add("s", "a", 2)))
	us.ok(edit("c", add("s", "a", 3)))
	eu.join(us, 0, 1)
	eu.want("c", map[string]uint32{"s/a/": 3})
	out := eu.ok(edit("c", remove("s", "none"), set("s", "none", 0)))
	if len(out.Lines) != 2 {
		t.Fatalf("outcome %v", out)
	}
	us.join(eu, 0, 1)
	// A retry of the request in the other region shows both quantities.
	us.ok(withOp(5, edit("d", add("s", "a", 1))))
	eu.ok(edit("d", add("s", "a", 4)))
	eu.join(us, 1, 2)
	out = eu.ok(withOp(5, edit("d", add("s", "a", 1))))
	q := slices.Clone(out.Lines[0].Quantities)
	slices.Sort(q)
	if !out.Replayed || !slices.Equal(q, []uint32{1, 4}) || out.Lines[0].Quantity != 4 {
		t.Fatalf("outcome %v", out)
	}
}

func TestJoinCart(t *testing.T) {
	eu, us := two(t)
	us.ok(withOp(1, edit("c", add("s", "a", 2), add("s", "b", 2))))
	us.ok(withOp(2, edit("c", set("s", "a", 4))))
	eu.ok(withOp(3, edit("c", add("s", "z", 1))))
	whole, err := (&Shard{fsm: us.fsm, cfg: Config{Slots: NewSlots(1)}}).Whole("c")
	if err != nil || whole == nil {
		t.Fatalf("whole cart %v, %v", whole, err)
	}
	// Requests whose dots are gone travel with the zero dot.
	out := eu.apply(joinCart("c", *whole))[0]
	eu.want("c", map[string]uint32{"s/a/": 4, "s/b/": 2, "s/z/": 1})
	rec := eu.recordOf("c")
	if string(out.Digest) != string(rec.Digest[:]) || out.ItemCount != 7 {
		t.Fatalf("outcome %v", out)
	}
	for _, o := range rec.State.Ops {
		if o.Dot.Seq == 0 {
			t.Fatalf("the cart holds an op of no dot: %+v", o)
		}
	}
	before, index := eu.content(), eu.index
	eu.apply(joinCart("c", *whole)) // again: nothing but the index moves
	if eu.recordOf("c") != rec || rec.Index != index {
		t.Fatalf("joining again wrote the cart again: %s, was %s", eu.content(), before)
	}
	for op, want := range map[int]*regionv1.Edit{
		1: edit("c", add("s", "a", 2), add("s", "b", 2)), 2: edit("c", set("s", "a", 4)), 3: edit("c", add("s", "z", 1)),
	} {
		if out := eu.ok(withOp(op, want)); !out.Replayed {
			t.Fatalf("op %d is not known", op)
		}
	}
	// The rows come after the cart and change nothing.
	eu.join(us, 0, us.fsm.marker().Seq)
	eu.want("c", map[string]uint32{"s/a/": 4, "s/b/": 2, "s/z/": 1})
	// An empty cart is one too.
	eu.apply(joinCart("e", crdt.State{Cart: &crdt.Cart{}}))
	if eu.recordOf("e") == nil || eu.fsm.marker().Carts != 2 {
		t.Fatalf("marker %+v", eu.fsm.marker())
	}
}

// The ops of a cart that is joined replace those that have expired, also
// when their number stays the same.
func TestJoinCartReplacesExpiredOps(t *testing.T) {
	eu, us := two(t)
	us.ok(withOp(1, edit("c", add("s", "a", 2))))
	us.ok(edit("c", add("s", "b", 2)))
	eu.join(us, 0, 2)
	eu.at += crdt.Timestamp(eu.limits.OpLifeMs+1000) << 16
	st := eu.state("c")
	late := crdt.Op{Dot: crdt.Dot{Replica: crdt.Replica{Region: 2}, Seq: 2}, ID: opKey(9), At: eu.at}
	eu.apply(joinCart("c", crdt.State{Cart: st.Cart, Ops: []crdt.Op{late}}))
	if got := eu.state("c").Ops; len(got) != 1 || got[0] != late {
		t.Fatalf("ops %+v, want %+v", got, late)
	}
}

// A whole cart may come with more requests than a transaction holds.
func TestJoinCartWithManyOps(t *testing.T) {
	eu, us := two(t)
	us.ok(edit("c", add("s", "a", 2)))
	whole := us.state("c")
	for i := range wholeOpsMax {
		whole.Ops = append(whole.Ops, crdt.Op{ID: opKey(i + 1), At: us.at})
	}
	eu.apply(joinCart("c", whole))
	_, ops, err := eu.fsm.current().RecordAndOps(eu.fsm.slots.Of("c"), "c")
	if err != nil || len(ops) != wholeOpsMax {
		t.Fatalf("%d ops are known, %v", len(ops), err)
	}
	eu.want("c", map[string]uint32{"s/a/": 2})
}

// A request that came with a whole cart is remembered as long as any other,
// also by a cart whose list of requests was full already.
func TestRequestOfAWholeCartOutlivesAFullList(t *testing.T) {
	eu, us := two(t)
	for op := range 70 {
		eu.ok(withOp(op, edit("c", add("s", "a", 1))))
	}
	if !eu.recordOf("c").Asked.Full {
		t.Fatal("70 requests are listed in the record: the test needs more of them")
	}
	late := crdt.TimestampAt(epoch.Add(20 * time.Hour).UnixMilli())
	eu.at, us.at = late, late
	retried := func() *regionv1.Edit { return withOp(500, edit("c", add("s", "b", 3))) }
	us.ok(retried())
	eu.apply(joinCart("c", us.state("c")))
	eu.at = crdt.TimestampAt(epoch.Add(25 * time.Hour).UnixMilli())
	eu.apply(&regionv1.Command{Command: &regionv1.Command_ExpireOps{ExpireOps: &regionv1.ExpireOps{Limit: expireMax}}})
	if m := eu.fsm.marker(); m.OpsForgotten != 70 || m.Ops != 71 {
		t.Fatalf("%d of %d requests are forgotten", m.OpsForgotten, m.Ops)
	}
	eu.ok(withOp(600, edit("c", add("s", "d", 1))))
	if out := eu.ok(retried()); !out.Replayed {
		t.Errorf("request of 5 hours ago was applied again: %v", eu.lines("c"))
	}
}

// A row may carry more requests than a transaction holds: they are committed
// before it, and a process that dies in between finds them again.
func TestRowWithManyRequests(t *testing.T) {
	eu, us := two(t)
	straight := newRig(t, eu.store, 2, 1)
	id := strings.Repeat("c", 255)
	for i := range 9 {
		us.ok(withOp(i+1, edit(fmt.Sprint("cart-", i%3), add("s", "a", 1))))
	}
	us.ok(edit(id, add("s", "a", 2)))
	rows := us.rows(0)
	last := &rows[len(rows)-1]
	const many = 1 << 13
	for i := range many {
		last.Ops = append(last.Ops, crdt.Op{Dot: last.Delta.Dots[0], ID: opKey(i + 100), At: us.at})
	}
	cmd := joinRows(us.stream(), 0, 10, rows...)
	straight.apply(cmd)
	if !eu.crash(1, cmd) {
		t.Fatal("the command was not committed in the middle")
	}
	if rec := eu.recordOf(id); rec != nil {
		t.Fatal("the process died after the row: the test proves nothing")
	}
	for eu.index < straight.index {
		eu.apply(cmd)
	}
	if got, want := eu.content(), straight.content(); got != want {
		t.Fatalf("replayed state %s, want %s", got, want)
	}
	if _, ops, err := eu.fsm.current().RecordAndOps(eu.fsm.slots.Of(id), id); err != nil || len(ops) != many {
		t.Fatalf("%d requests are known, %v, want %d", len(ops), err, many)
	}
}

// ghost gives eu a line that holds a register and is not there: a remove of
// newer writes came before the writes that took the older ones (crdt I5).
// last is the row that takes what is left.
func ghost(t *testing.T, eu *rig, id string) (key crdt.LineKey, st crdt.Stream, last crdt.Row) {
	t.Helper()
	key = crdt.LineKey{Seller: "s", SKU: "ghost"}
	eu.ok(edit(id, add("s", "ghost", 1)))
	w := func(region crdt.RegionID) crdt.Writer {
		return crdt.Writer{Replica: crdt.Replica{Region: region}, At: eu.at}
	}
	cart := eu.state(id).Cart
	b := cart.Add(w(2), key, 1, crdt.Offer{Price: 1, Currency: "USD"}, true)
	cart = cart.Apply(b)
	c := cart.SetPlacement(w(2), key, crdt.Saved)
	cart = cart.Apply(c)
	d := cart.Remove(w(3), key)
	row := func(seq uint64, d crdt.Delta) crdt.Row {
		return crdt.Row{Seq: seq, Last: seq, CartID: id, At: eu.at, Delta: d}
	}
	st = crdt.Stream{Region: 2}
	eu.apply(joinRows(crdt.Stream{Region: 3}, 0, 1, row(1, d)))
	eu.apply(joinRows(st, 0, 1, row(1, b)))
	got := eu.state(id).Cart
	if got.Lines.Find(key) == nil || got.Find(key) != nil {
		t.Fatalf("the line is no ghost: %+v", got.Lines)
	}
	return key, st, row(2, c)
}

// A line that is not there is none to a shopper.
func TestGhostLines(t *testing.T) {
	r := newTestRig(t)
	_, st, last := ghost(t, r, "c")
	r.limits.Lines = 1
	r.refuse(regionv1.Outcome_CODE_LINE_NOT_FOUND, edit("c", set("s", "ghost", 3)))
	if out := r.refuse(regionv1.Outcome_CODE_OK, edit("c", remove("s", "ghost"))); !out.Lines[0].Removed {
		t.Fatalf("outcome %v", out)
	}
	// It takes no line's place, and its currency does not bind.
	c := add("s", "a", 1)
	c.Currency = "EUR"
	r.ok(edit("c", c))
	r.refuse(regionv1.Outcome_CODE_TOO_MANY_LINES, edit("c", add("s", "ghost", 1)))
	r.limits.Lines = 2
	r.refuse(regionv1.Outcome_CODE_CURRENCY_MISMATCH, edit("c", add("s", "ghost", 1)))
	r.apply(joinRows(st, 1, 2, last))
	if n := len(r.state("c").Cart.Lines); n != 1 {
		t.Fatalf("%d lines after the last row", n)
	}
}

var errCrash = errors.New("crash")

// crash makes the process stop after the n-th publication.
func (r *rig) crash(after int, l *regionv1.Command) (died bool) {
	r.t.Helper()
	log := r.log(l)
	r.onPublish = func(string) {
		if after--; after < 0 {
			panic(errCrash)
		}
	}
	defer func() {
		r.onPublish = nil
		if died = crashed(recover()); died {
			r.open()
		}
	}()
	r.fsm.Apply(log)
	return false
}

// A command whose rows fill a transaction is committed in the middle; when
// the process dies there, replaying it gives the same state.
func TestJoinRowsCommittedInTheMiddle(t *testing.T) {
	eu, us := two(t)
	straight := newRig(t, eu.store, 2, 1)
	const n = 1200
	for i := range n {
		us.ok(withOp(i+1, edit(fmt.Sprint("cart-", i%90), add("s", fmt.Sprint("sku-", i%4), 1))))
	}
	rows := us.rows(0)
	// Combined rows stand in the place of their first.
	rows[10] = crdt.CombineRows(rows[10], rows[190])
	if rows[10].CartID != rows[190].CartID {
		rows[10] = us.rows(9)[0]
	}
	cmd := joinRows(us.stream(), 0, n, rows...)
	for _, r := range []*rig{eu, straight} {
		r.at = us.at
	}
	straight.apply(cmd)
	want := straight.content()
	if !eu.crash(5, cmd) {
		t.Fatal("the command fits one transaction, the test proves nothing")
	}
	m, cur := eu.fsm.marker(), eu.cursor(us.stream())
	if m.Applied != eu.index || cur == 0 || cur >= n {
		t.Fatalf("after the crash: marker %+v, cursor %d", m, cur)
	}
	for after := 0; eu.index < straight.index && eu.crash(after, cmd); after += 90 { // dies again and again, later each time
		if got := eu.cursor(us.stream()); got < cur {
			t.Fatalf("cursor went from %d to %d", cur, got)
		}
		cur = eu.cursor(us.stream())
	}
	if got := eu.content(); got != want {
		t.Fatalf("replayed state %s, want %s", got, want)
	}
	if !maps.Equal(eu.lines("cart-7"), us.lines("cart-7")) {
		t.Fatalf("eu has %v, us has %v", eu.lines("cart-7"), us.lines("cart-7"))
	}
}
