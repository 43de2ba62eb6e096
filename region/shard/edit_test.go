package shard

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/store"
)

func newTestRig(t *testing.T) *rig {
	t.Helper()
	return newRig(t, tempStore(t), 0, 1)
}

// code is an outcome's code; what it refused must have changed nothing.
func (r *rig) refuse(want regionv1.Outcome_Code, e *regionv1.Edit) *regionv1.Outcome {
	r.t.Helper()
	before, seq := DigestOfRecord(e.CartId, r.recordOf(e.CartId)), r.fsm.marker().Seq
	out := r.do(e)
	if out.Code != want {
		r.t.Fatalf("outcome %v, want %v", out, want)
	}
	if DigestOfRecord(e.CartId, r.recordOf(e.CartId)) != before || r.fsm.marker().Seq != seq {
		r.t.Fatalf("a refused edit changed the cart")
	}
	if string(out.Digest) != string(before[:]) {
		r.t.Fatalf("a refusal names digest %x, the cart has %x", out.Digest, before)
	}
	return out
}

func (r *rig) recordOf(id string) *store.Record {
	r.t.Helper()
	rec, err := r.fsm.record(id)
	if err != nil {
		r.t.Fatalf("read %q: %v", id, err)
	}
	return rec
}

// ok applies an edit that must be taken and returns its outcome.
func (r *rig) ok(e *regionv1.Edit) *regionv1.Outcome {
	r.t.Helper()
	out := r.do(e)
	if out.Code != regionv1.Outcome_CODE_OK {
		r.t.Fatalf("outcome %v of %v", out, e)
	}
	return out
}

func (r *rig) want(id string, lines map[string]uint32) {
	r.t.Helper()
	if got := r.lines(id); !maps.Equal(got, lines) {
		r.t.Fatalf("cart %q has %v, want %v", id, got, lines)
	}
}

func TestEdits(t *testing.T) {
	r := newTestRig(t)
	out := r.ok(edit("c", add("s", "tea", 2)))
	r.want("c", map[string]uint32{"s/tea/": 2})
	l := out.Lines[0]
	if l.Quantity != 2 || l.Price != 2999 || l.Currency != "USD" || crdt.Timestamp(l.AddedAt) < r.at || l.Removed {
		t.Fatalf("line %v", l)
	}
	if out.ItemCount != 2 || out.Index != r.index || string(out.Digest) != string(r.recordOf("c").Digest[:]) {
		t.Fatalf("outcome %v", out)
	}
	cc, err := crdt.DecodeContext(out.Context)
	if err != nil || !cc.Equal(r.state("c").Cart.Context) {
		t.Fatalf("context %v, %v", cc, err)
	}
	if r.recordOf("c").Index != r.index {
		t.Fatalf("record of index %d, want %d", r.recordOf("c").Index, r.index)
	}
	r.ok(edit("c", add("s", "tea", 3))) // adds what is seen
	r.want("c", map[string]uint32{"s/tea/": 5})
	if out := r.ok(edit("c", set("s", "tea", 1))); out.Lines[0].Quantity != 1 {
		t.Fatalf("outcome %v", out)
	}
	r.ok(edit("c", add("s", "cup", 1), add("t", "tea", 4), add("s", "pot", 1)))
	r.want("c", map[string]uint32{"s/tea/": 1, "s/cup/": 1, "t/tea/": 4, "s/pot/": 1})
	if out := r.ok(edit("c", remove("s", "pot"), set("s", "cup", 0))); !out.Lines[0].Removed || !out.Lines[1].Removed {
		t.Fatalf("outcome %v", out)
	}
	r.want("c", map[string]uint32{"s/tea/": 1, "t/tea/": 4})
	if out := r.ok(edit("c", clearAll())); out.ItemCount != 0 || !out.Lines[0].Removed {
		t.Fatalf("outcome %v", out)
	}
	r.want("c", map[string]uint32{})
	if m := r.fsm.marker(); m.Seq != 10 || m.Carts != 1 {
		t.Fatalf("marker %+v: one row a line written", m)
	}
	r.want("other", map[string]uint32{})
}

// Each line written has a dot and a row of its own.
func TestARowPerLine(t *testing.T) {
	r := newTestRig(t)
	r.ok(edit("c", add("s", "a", 1), add("s", "b", 1), add("s", "a", 1)))
	r.ok(edit("c", clearAll()))
	rows := r.rows(0)
	seen := make(map[crdt.Dot]bool)
	cart := &crdt.Cart{}
	for i, row := range rows {
		if row.Seq != uint64(i+1) || row.CartID != "c" || len(row.Delta.Dots) != 1 || seen[row.Delta.Dots[0]] {
			t.Fatalf("row %+v", row)
		}
		seen[row.Delta.Dots[0]] = true
		cart = cart.Apply(row.Delta)
	}
	if len(rows) != 5 || !cart.Equal(r.state("c").Cart) {
		t.Fatalf("%d rows give %v, the cart is %v", len(rows), linesOf(cart), r.lines("c"))
	}
}

func TestNothingToDoIsNoWrite(t *testing.T) {
	r := newTestRig(t)
	for i, c := range []*regionv1.Change{remove("s", "x"), set("s", "x", 0), clearAll()} {
		out := r.refuse(regionv1.Outcome_CODE_OK, withOp(i+1, edit("c", c)))
		if !out.Lines[0].Removed || out.Replayed {
			t.Fatalf("outcome %v", out)
		}
	}
	if m := r.fsm.marker(); m.Carts != 0 {
		t.Fatalf("%d carts", m.Carts)
	}
	// It was acknowledged all the same: a late retry must not remove what was
	// added since.
	r.ok(edit("c", add("s", "x", 4)))
	if out := r.ok(withOp(1, edit("c", remove("s", "x")))); !out.Replayed {
		t.Fatalf("outcome %v", out)
	}
	r.want("c", map[string]uint32{"s/x/": 4})
	r.refuse(regionv1.Outcome_CODE_OP_ID_REUSED, withOp(3, edit("c", add("s", "x", 1))))
}

func TestRefusals(t *testing.T) {
	const (
		notFound  = regionv1.Outcome_CODE_LINE_NOT_FOUND
		ambiguous = regionv1.Outcome_CODE_AMBIGUOUS_LINE
		tooMany   = regionv1.Outcome_CODE_TOO_MANY_LINES
		tooLarge  = regionv1.Outcome_CODE_QUANTITY_TOO_LARGE
		currency  = regionv1.Outcome_CODE_CURRENCY_MISMATCH
	)
	euro := func(sku string, renew bool) *regionv1.Change {
		c := add("s", sku, 1)
		c.Currency, c.RenewOffer = "EUR", renew
		return c
	}
	any := func(c *regionv1.Change) *regionv1.Change {
		c.Line.AnySeller, c.Line.AnyOptions = true, true
		return c
	}
	opt := func(c *regionv1.Change, o string) *regionv1.Change { c.Line.Options = o; return c }
	for _, c := range []struct {
		name    string
		changes []*regionv1.Change
		code    regionv1.Outcome_Code
		change  uint32
		details []string
	}{
		{"set of no line", []*regionv1.Change{set("s", "none", 1)}, notFound, 0, nil},
		{"all or none", []*regionv1.Change{add("s", "new", 1), remove("s", "a"), set("s", "none", 1)}, notFound, 2, nil},
		{"after a clear", []*regionv1.Change{clearAll(), set("s", "a", 1)}, notFound, 1, nil},
		{"lines", []*regionv1.Change{add("s", "d", 1), add("s", "e", 1)}, tooMany, 1, []string{"5"}},
		{"add over the cap", []*regionv1.Change{add("s", "a", 98)}, tooLarge, 0, []string{"100", "99"}},
		{"add over any number", []*regionv1.Change{add("s", "a", math.MaxUint32)}, tooLarge, 0, []string{"4294967297", "99"}},
		{"set over the cap", []*regionv1.Change{set("s", "a", 100)}, tooLarge, 0, []string{"100", "99"}},
		{"other currency", []*regionv1.Change{euro("e", false)}, currency, 0, []string{"USD", "EUR"}},
		{"other currency for a line's offer", []*regionv1.Change{euro("a", true)}, currency, 0, []string{"USD", "EUR"}},
		{"sellers", []*regionv1.Change{any(set("", "b", 3))}, ambiguous, 0, []string{"s", "t"}},
		{"sellers, to 0", []*regionv1.Change{any(set("", "b", 0))}, ambiguous, 0, []string{"s", "t"}},
		{"sellers, remove", []*regionv1.Change{any(remove("", "b"))}, ambiguous, 0, []string{"s", "t"}},
		{"any of none", []*regionv1.Change{any(set("", "none", 3))}, notFound, 0, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newTestRig(t)
			r.ok(edit("c", add("s", "a", 2), add("s", "b", 1), add("t", "b", 1), opt(add("s", "c", 1), "size=m")))
			out := r.refuse(c.code, edit("c", c.changes...))
			if out.Change != c.change || !slices.Equal(out.Details, c.details) || len(out.Lines) != 0 {
				t.Fatalf("outcome %v", out)
			}
		})
	}
	t.Run("any finds the only one", func(t *testing.T) {
		r := newTestRig(t)
		r.ok(edit("c", add("s", "a", 2), opt(add("t", "c", 1), "size=m")))
		if out := r.ok(edit("c", any(set("", "c", 7)))); out.Lines[0].Line.Seller != "t" || out.Lines[0].Line.Options != "size=m" {
			t.Fatalf("outcome %v", out)
		}
		r.refuse(notFound, edit("c", set("t", "c", 8))) // options were given: none
		r.ok(edit("c", any(remove("", "c"))))
		r.ok(edit("c", euro("a", false))) // the line keeps the offer it has
		r.want("c", map[string]uint32{"s/a/": 3})
		r.ok(edit("c", clearAll(), euro("a", false))) // an empty cart has no currency
		if out := r.ok(edit("c", set("s", "a", 5))); out.Lines[0].Currency != "EUR" {
			t.Fatalf("outcome %v", out)
		}
	})
}

// Caps are those of the entry: every node judges alike, whatever its own
// configuration.
func TestCapsAreTheEntrys(t *testing.T) {
	r := newTestRig(t)
	r.limits = &regionv1.Limits{Lines: 1, Quantity: 1000, OpLifeMs: 1000}
	r.ok(edit("c", add("s", "a", 1000)))
	r.refuse(regionv1.Outcome_CODE_TOO_MANY_LINES, edit("c", add("s", "b", 1)))
	r.limits = &regionv1.Limits{Lines: 2, Quantity: 10, OpLifeMs: 1000}
	out := r.ok(edit("c", add("s", "b", 10)))
	if out.ItemCount != 20 { // shown clamped, stored as it was
		t.Fatalf("outcome %v", out)
	}
	r.refuse(regionv1.Outcome_CODE_QUANTITY_TOO_LARGE, edit("c", add("s", "a", 1)))
	r.want("c", map[string]uint32{"s/a/": 1000, "s/b/": 10})
}

func TestIfMatch(t *testing.T) {
	r := newTestRig(t)
	match := func(d []byte, e *regionv1.Edit) *regionv1.Edit { e.IfMatch = d; return e }
	empty := DigestOfRecord("c", nil)
	other := DigestOfRecord("d", nil)
	r.refuse(regionv1.Outcome_CODE_VERSION_CONFLICT, match(other[:], edit("c", add("s", "a", 1))))
	out := r.ok(match(empty[:], withOp(1, edit("c", add("s", "a", 1)))))
	r.refuse(regionv1.Outcome_CODE_VERSION_CONFLICT, match(empty[:], edit("c", add("s", "a", 1))))
	r.ok(match(out.Digest, edit("c", add("s", "a", 1))))
	// A retry is known by its id before its condition is looked at.
	if again := r.ok(match(empty[:], withOp(1, edit("c", add("s", "a", 1))))); !again.Replayed {
		t.Fatalf("outcome %v", again)
	}
	r.want("c", map[string]uint32{"s/a/": 2})
}

func TestOpIDs(t *testing.T) {
	r := newTestRig(t)
	first := r.ok(withOp(1, edit("c", add("s", "a", 2), add("s", "b", 1))))
	r.ok(edit("c", set("s", "a", 9)))
	seq := r.fsm.marker().Seq
	again := r.ok(withOp(1, edit("c", add("s", "a", 2), add("s", "b", 1))))
	if !again.Replayed || first.Replayed || again.Index != first.Index || string(again.Digest) != string(first.Digest) ||
		len(again.Lines) != 2 || again.Lines[0].Quantity != 2 {
		t.Fatalf("replay %v of %v", again, first)
	}
	r.refuse(regionv1.Outcome_CODE_OP_ID_REUSED, withOp(1, edit("c", add("s", "a", 3))))
	r.ok(withOp(1, edit("other", add("s", "a", 3)))) // an id is a cart's
	if got := r.fsm.marker().Seq; got != seq+1 {
		t.Fatalf("delta log ends at %d, want %d", got, seq+1)
	}
	// A refusal is not remembered: the same request may succeed later.
	r.refuse(regionv1.Outcome_CODE_LINE_NOT_FOUND, withOp(2, edit("c", set("s", "z", 5))))
	r.ok(edit("c", add("s", "z", 1)))
	if out := r.ok(withOp(2, edit("c", set("s", "z", 5)))); out.Replayed || out.Lines[0].Quantity != 5 {
		t.Fatalf("outcome %v", out)
	}
}

// A request that found nothing to change is remembered, also past the first
// record of a cart that was not there, and by a record that is.
func TestRetryOfWhatChangedNothing(t *testing.T) {
	r := newTestRig(t)
	r.ok(withOp(1, edit("c", remove("s", "a"))))
	r.ok(withOp(2, edit("c", add("s", "a", 3))))
	r.ok(withOp(3, edit("c", remove("s", "b"))))
	r.ok(withOp(4, edit("c", add("s", "b", 4))))
	for n, retry := range map[int]*regionv1.Edit{1: edit("c", remove("s", "a")), 3: edit("c", remove("s", "b"))} {
		if out := r.ok(withOp(n, retry)); !out.Replayed {
			t.Errorf("retry of request %d counted again: %v", n, out)
		}
	}
	r.want("c", map[string]uint32{"s/a/": 3, "s/b/": 4})
}

// More requests than a cart's filter holds are all recognised.
func TestRetriesPastTheFilter(t *testing.T) {
	r := newTestRig(t)
	const n = 90 // above askedMax
	for i := range n {
		r.ok(withOp(i+1, edit("c", add("s", "a", 1))))
	}
	for i := range n {
		if out := r.ok(withOp(i+1, edit("c", add("s", "a", 1)))); !out.Replayed {
			t.Fatalf("retry of request %d counted again", i+1)
		}
	}
	r.want("c", map[string]uint32{"s/a/": n})
}

// The ids of all dots that a line holds travel with every later row of it,
// and no longer than the dots live.
func TestOpsTravelWithTheirDots(t *testing.T) {
	r := newTestRig(t)
	r.ok(withOp(1, edit("c", add("s", "a", 2))))
	r.ok(withOp(2, edit("c", add("s", "b", 2))))
	r.ok(withOp(3, edit("c", set("s", "a", 5))))
	r.ok(edit("c", set("s", "a", 6)))
	ids := func(ops []crdt.Op) (out []int) {
		for _, o := range ops {
			for n := range 10 {
				if o.ID == opKey(n) {
					out = append(out, n)
				}
			}
		}
		slices.Sort(out)
		return out
	}
	rows := r.rows(0)
	for i, want := range [][]int{{1}, {2}, {1, 3}, {1, 3}} {
		if got := ids(rows[i].Ops); !slices.Equal(got, want) {
			t.Errorf("row %d carries ops %v, want %v", i+1, got, want)
		}
		for _, o := range rows[i].Ops {
			if !rows[i].Delta.Context.Has(o.Dot) {
				t.Errorf("row %d carries op of dot %v, which is not in its context", i+1, o.Dot)
			}
		}
	}
	if got := ids(r.state("c").Ops); !slices.Equal(got, []int{1, 2}) { // 3's quantity was superseded, 1's offer stands
		t.Errorf("cart holds ops %v", got)
	}
	r.ok(edit("c", remove("s", "a")))
	rows = r.rows(4)
	if got := ids(rows[0].Ops); !slices.Equal(got, []int{1}) {
		t.Errorf("the remove carries ops %v", got)
	}
	if got := ids(r.state("c").Ops); !slices.Equal(got, []int{2}) {
		t.Errorf("after the remove the cart holds ops %v", got)
	}
	if out := r.ok(withOp(1, edit("c", add("s", "a", 2)))); !out.Replayed {
		t.Errorf("an op is forgotten with its dots: %v", out)
	}
}

func TestOpsExpire(t *testing.T) {
	r := newTestRig(t)
	expire := func(limit uint32) *regionv1.Command {
		return &regionv1.Command{Command: &regionv1.Command_ExpireOps{ExpireOps: &regionv1.ExpireOps{Limit: limit}}}
	}
	for i := range 3 {
		r.ok(withOp(i+1, edit("c", add("s", fmt.Sprint(i), 1))))
	}
	r.at += crdt.Timestamp(r.limits.OpLifeMs) << 16 // as old as they may be
	r.apply(expire(10))
	if out := r.ok(withOp(1, edit("c", add("s", "0", 1)))); !out.Replayed {
		t.Fatalf("expired early: %v", out)
	}
	r.at += 1000 << 16
	r.apply(expire(1))
	if out := r.ok(withOp(2, edit("c", add("s", "1", 1)))); !out.Replayed {
		t.Fatalf("the limit was passed: %v", out)
	}
	r.apply(expire(10))
	if out := r.ok(withOp(2, edit("c", add("s", "1", 1)))); out.Replayed {
		t.Fatalf("not expired: %v", out)
	}
	r.want("c", map[string]uint32{"s/0/": 1, "s/1/": 2, "s/2/": 1})
	for _, o := range r.state("c").Ops {
		if o.At < r.at {
			t.Fatalf("the line that was written still holds an expired op: %+v", o)
		}
	}
}

// A leader whose clock runs ahead for a moment makes nobody forget requests:
// that is for ExpireOps alone.
func TestRequestsOutliveAClockThatWasAhead(t *testing.T) {
	for _, before := range []int{1, 70} { // listed, and in the index
		r := newTestRig(t)
		var last func() *regionv1.Edit
		for op := range before {
			last = func() *regionv1.Edit { return withOp(op+1, edit("c", add("s", "a", 1))) }
			r.ok(last())
		}
		right := r.at
		r.at += crdt.Timestamp(r.limits.OpLifeMs+3600*1000) << 16
		r.ok(withOp(1000, edit("c", add("s", "b", 1))))
		r.at = right
		if out := r.ok(last()); !out.Replayed {
			t.Errorf("retry after %d requests was applied again: %v", before, r.lines("c"))
		}
	}
}

// Timestamps are unique and never before the entry's, also when the leader's
// clock goes back.
func TestClock(t *testing.T) {
	r := newTestRig(t)
	r.ok(edit("c", add("s", "a", 1)))
	first := r.fsm.marker().At
	if first < r.at {
		t.Fatalf("gave out %d before the entry's %d", first, r.at)
	}
	r.at -= 5000 << 16
	r.apply(editCommand(edit("c", add("s", "a", 1))), editCommand(edit("c", add("s", "a", 1))))
	if got := r.fsm.marker().At; got != first+2 {
		t.Fatalf("gave out %d after %d", got, first)
	}
}

func TestUnknownEntriesStopTheNode(t *testing.T) {
	for name, e := range map[string]*regionv1.Entry{
		"level":   {Level: formatLevel + 1},
		"command": {Level: formatLevel, Commands: []*regionv1.Command{{}}},
		"change":  {Level: formatLevel, Limits: &regionv1.Limits{Lines: 1, Quantity: 1}, Commands: []*regionv1.Command{editCommand(edit("c", &regionv1.Change{Kind: 99}))}},
		"row": {Level: formatLevel, Limits: &regionv1.Limits{}, Commands: []*regionv1.Command{{Command: &regionv1.Command_JoinRows{
			JoinRows: &regionv1.JoinRows{RegionId: 2, Hi: 1, Rows: [][]byte{{1}}}}}}},
		"cart": {Level: formatLevel, Limits: &regionv1.Limits{}, Commands: []*regionv1.Command{{Command: &regionv1.Command_JoinCart{
			JoinCart: &regionv1.JoinCart{CartId: "c", State: []byte{0xff}}}}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newTestRig(t)
			r.ok(edit("c", add("s", "a", 1)))
			before := r.content()
			data, err := marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			l := r.log()
			l.Data = data
			func() {
				defer func() {
					if recover() == nil {
						t.Error("the node goes on")
					}
				}()
				r.fsm.Apply(l)
			}()
			if name != "change" && r.fatal == nil {
				t.Error("Fatal was not called")
			}
			if got := r.content(); got != before {
				t.Errorf("content %s, was %s", got, before)
			}
		})
	}
}

// The largest carts, edited whole under op ids beside each other, fit the
// smallest transaction that a node has.
func TestLargestBatchesFit(t *testing.T) {
	const lines = 880 // of two regions' caps, as they may join
	s := openStore(t, t.TempDir(), 16<<20)
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	r := newRig(t, s, 0, 1)
	r.limits.Lines = lines
	sku := func(i int) string { return fmt.Sprintf("%064d", i) }
	fill := func(id string, n int) {
		e := edit(id)
		for i := range n {
			c := add(strings.Repeat("s", 64), sku(i), 1)
			c.Line.Options = strings.Repeat("o", 1<<10)
			if e.Changes = append(e.Changes, c); len(e.Changes) == 40 {
				r.ok(e)
				e = edit(id)
			}
		}
	}
	fill("a", lines)
	fill("b", 600)
	batch := func(id string, n int, q uint32) *regionv1.Edit {
		e := edit(id)
		for i := range n {
			c := set("", sku(i), q)
			c.Line.AnySeller, c.Line.AnyOptions = true, true
			e.Changes = append(e.Changes, c)
		}
		return e
	}
	for i := range 17 {
		q := uint32(i + 2)
		r.apply(editCommand(batch("b", 10, q)), editCommand(withOp(i, batch("a", 100, q))))
	}
}
