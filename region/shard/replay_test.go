package shard

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/store"
)

// drawEdit draws an edit of a few carts; now and then it is a retry.
func drawEdit(t *rapid.T) *regionv1.Edit {
	var changes []*regionv1.Change
	for range rapid.IntRange(1, 4).Draw(t, "changes") {
		seller := rapid.SampledFrom([]string{"s", "t"}).Draw(t, "seller")
		sku := fmt.Sprint("sku-", rapid.IntRange(0, 4).Draw(t, "sku"))
		n := uint32(rapid.IntRange(1, 40).Draw(t, "quantity"))
		var c *regionv1.Change
		switch rapid.IntRange(0, 9).Draw(t, "kind") {
		case 0:
			c = clearAll()
		case 1, 2:
			c = remove(seller, sku)
		case 3, 4:
			c = set(seller, sku, n-1)
		default:
			c = add(seller, sku, n)
		}
		if c.Kind == regionv1.Change_KIND_SET || c.Kind == regionv1.Change_KIND_REMOVE {
			c.Line.AnySeller = rapid.Bool().Draw(t, "any seller")
		}
		switch rapid.IntRange(0, 9).Draw(t, "other kind") {
		case 0:
			c = save(seller, sku)
		case 1:
			c = move(seller, sku)
		case 2:
			c = describeAs(seller, sku, "note=hi")
		}
		changes = append(changes, c)
	}
	if rapid.IntRange(0, 5).Draw(t, "undo") == 0 {
		changes = []*regionv1.Change{undo()}
	}
	e := edit(fmt.Sprint("cart-", rapid.IntRange(0, 3).Draw(t, "cart")), changes...)
	if rapid.Bool().Draw(t, "has op") {
		e = withOp(rapid.IntRange(1, 12).Draw(t, "op"), e)
	}
	return e
}

// drawLog draws the entries of a log. Remote rows and carts come from a
// second region, whose own entries are drawn meanwhile.
func drawLog(t *rapid.T, us *rig) []*regionv1.Entry {
	var log []*regionv1.Entry
	limits := &regionv1.Limits{Lines: 5, Quantity: 99, OpLifeMs: 3000, UndoMs: 2000}
	at := us.at
	sent := uint64(0)
	for range rapid.IntRange(1, 12).Draw(t, "entries") {
		at += crdt.Timestamp(rapid.IntRange(0, 1500).Draw(t, "ms")) << 16
		us.at = at
		e := &regionv1.Entry{Level: formatLevel, At: uint64(at), Limits: limits}
		for range rapid.IntRange(1, 5).Draw(t, "commands") {
			var c *regionv1.Command
			switch rapid.IntRange(0, 9).Draw(t, "command") {
			case 0:
				for range rapid.IntRange(1, 4).Draw(t, "remote edits") {
					us.do(drawEdit(t))
				}
				rows := us.rows(sent)
				lo := uint64(rapid.IntRange(0, int(sent)+1).Draw(t, "lo")) // overlaps, or leaves a gap
				hi := us.fsm.marker().Seq
				c = joinRows(us.stream(), min(lo, hi), hi, us.rows(min(lo, hi))...)
				if lo <= sent && len(rows) > 0 {
					sent = hi
				}
			case 1:
				us.do(drawEdit(t))
				id := fmt.Sprint("cart-", rapid.IntRange(0, 3).Draw(t, "whole"))
				c = joinCart(id, us.state(id))
			case 2:
				c = &regionv1.Command{Command: &regionv1.Command_TrimLog{TrimLog: &regionv1.TrimLog{Seq: uint64(rapid.IntRange(0, 30).Draw(t, "trim"))}}}
			case 3:
				c = &regionv1.Command{Command: &regionv1.Command_ExpireOps{ExpireOps: &regionv1.ExpireOps{
					Limit: uint32(rapid.IntRange(0, 9).Draw(t, "limit")), Undone: []string{"cart-0", "cart-1"},
				}}}
			case 4:
				c = &regionv1.Command{Command: &regionv1.Command_MoveCursor{MoveCursor: &regionv1.MoveCursor{
					RegionId: 7, Cursor: uint64(rapid.IntRange(0, 9).Draw(t, "cursor"))}}}
			default:
				c = editCommand(drawEdit(t))
			}
			e.Commands = append(e.Commands, c)
		}
		log = append(log, e)
	}
	return log
}

// outcomes are what a run answered, by index.
type outcomes map[uint64]answer

// play applies a log from where the rig is, in batches that next draws; die
// says after how many publications the process ends, -1 for never.
func (r *rig) play(log []*raft.Log, next func(left int) int, die func() int, reopen func(), out outcomes) {
	r.t.Helper()
	for {
		todo := log[min(len(log), int(r.fsm.marker().Applied)-1):] // index 1 was the rig's own
		if len(todo) == 0 {
			return
		}
		n := next(len(todo))
		batch := todo[:n]
		if die != nil && r.fsm.marker().Applied > 2 {
			// Raft replays from before what is applied.
			batch = log[int(r.fsm.marker().Applied)-2:][:n+1]
		}
		left := -1
		if die != nil {
			left = die()
		}
		r.onPublish = func(string) {
			if left--; left == -1 {
				panic(errCrash)
			}
		}
		died := func() (died bool) {
			defer func() { died = crashed(recover()) }()
			for i, a := range r.fsm.ApplyBatch(batch) {
				if a != nil {
					out[batch[i].Index] = a.(answer)
				}
			}
			return false
		}()
		r.onPublish = nil
		if died {
			reopen()
			r.open()
		}
	}
}

// F1: the same log gives the same state and the same answers, entry by
// entry, in batches, and through restarts at any point.
func TestApplyIsDeterministic(t *testing.T) {
	s := tempStore(t)
	shards := uint32(0)
	rapid.Check(t, func(rt *rapid.T) {
		fresh := func(region crdt.RegionID) *rig { shards++; return newRig(rt, s, shards, region) }
		us := fresh(2)
		var log []*raft.Log
		for i, e := range drawLog(rt, us) {
			data, err := marshal(e)
			if err != nil {
				rt.Fatalf("encode entry: %v", err)
			}
			log = append(log, &raft.Log{Index: uint64(i + 2), Type: raft.LogCommand, Data: data})
			if rapid.IntRange(0, 9).Draw(rt, "membership change") == 0 {
				log[i] = &raft.Log{Index: uint64(i + 2), Type: raft.LogConfiguration}
			}
		}
		one, many, dying := fresh(1), fresh(1), fresh(1)
		wantOut, gotOut, dyingOut := outcomes{}, outcomes{}, outcomes{}
		one.play(log, func(int) int { return 1 }, nil, nil, wantOut)
		draw := func(left int) int { return rapid.IntRange(1, left).Draw(rt, "batch") }
		many.play(log, draw, nil, nil, gotOut)
		dying.play(log, draw, func() int { return rapid.IntRange(-1, 6).Draw(rt, "die after") }, func() {}, dyingOut)
		want := one.content()
		if got := many.content(); got != want {
			rt.Fatalf("in batches: %s, want %s", got, want)
		}
		if got := dying.content(); got != want {
			rt.Fatalf("with restarts: %s, want %s", got, want)
		}
		for i, l := range log {
			index := uint64(i + 2)
			if l.Type == raft.LogCommand && len(wantOut[index]) == 0 {
				rt.Fatalf("no answer at index %d", index)
			}
			for n, o := range wantOut[index] {
				if gotOut[index][n].String() != o.String() {
					rt.Fatalf("index %d: outcome %v in batches, want %v", index, gotOut[index][n], o)
				}
			}
		}
		checkSums(rt, one)
	})
}

// checkSums compares the bucket digests with a recount.
func checkSums(t fataler, r *rig) {
	t.Helper()
	sums, err := r.fsm.current().Sums(0, SlotCount)
	if err != nil {
		t.Fatalf("read digests: %v", err)
	}
	for slot := range uint32(SlotCount) {
		carts, _, err := r.fsm.current().Bucket(slot, "", 1<<20)
		if err != nil {
			t.Fatalf("read bucket: %v", err)
		}
		var want [2]uint64
		for _, c := range carts {
			rec, err := r.fsm.current().Record(slot, c.CartID)
			if err != nil || store.DigestOf(c.CartID, rec.State.Cart.Encode(nil)) != c.Digest {
				t.Fatalf("cart %q does not have its digest: %v", c.CartID, err)
			}
			want[0] += binary.BigEndian.Uint64(c.Digest[:8])
			want[1] += binary.BigEndian.Uint64(c.Digest[8:])
		}
		if want := (store.Sum{A: want[0], B: want[1]}).Bytes(); want != sums[slot] {
			t.Fatalf("slot %d: digest %x, recount %x", slot, sums[slot], want)
		}
	}
}

// An entry of many times a transaction's size is committed in parts; a
// restart between two of its commands goes on where it stopped (the marker's
// position inside an entry), also when the database was closed meanwhile.
func TestRestartInsideAnEntry(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, 1<<20)
	hasNone := func(i int) bool { return i%3 == 1 } // no op id to know it by when it is applied again
	const many = 800
	commands := func() (out []*regionv1.Command) {
		for i := range many {
			id := fmt.Sprint("cart-", i%70)
			if hasNone(i) {
				out = append(out, editCommand(edit(id, add("s", fmt.Sprint("sku-", i%5), 1))))
				continue
			}
			if i%5 == 4 {
				out = append(out, editCommand(withOp(i, edit(id, add("s", fmt.Sprint("sku-", i), 1), remove("s", fmt.Sprint("sku-", i))))))
				continue
			}
			out = append(out, editCommand(withOp(i, edit(id, add("s", fmt.Sprint("sku-", i%5), 1)))))
		}
		return out
	}
	straight, dying := newRig(t, s, 0, 1), newRig(t, s, 1, 1)
	big := straight.log(commands()...)
	after := straight.log(commands()...) // retries, but for those without an op id
	log := []*raft.Log{big, after}
	want := outcomes{}
	straight.play(log, func(int) int { return 1 }, nil, nil, want)
	wantContent := straight.content()

	deaths, inside := 0, 0
	dying.play(log, func(int) int { return 1 }, func() int {
		deaths++
		return 40 * deaths // further each time, so it ends
	}, func() {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openStore(t, dir, 1<<20)
		straight.store, dying.store = s, s
		sp, err := s.Space(1, 0, SlotCount)
		if err != nil {
			t.Fatal(err)
		}
		if m := sp.Marker(); m.Partial != 0 {
			if m.Partial != m.Applied+1 || m.Done == 0 || m.Done >= many {
				t.Fatalf("marker %+v", m)
			}
			inside++
		}
	}, outcomes{})
	defer func() { _ = s.Close() }()
	if inside < 2 {
		t.Fatalf("%d restarts inside an entry, the test proves nothing", inside)
	}
	if got := dying.content(); got != wantContent {
		t.Fatalf("with restarts: %s, want %s", got, wantContent)
	}
	for i, o := range want[after.Index] {
		if o.Replayed == hasNone(i) {
			t.Fatalf("retry %d: replayed %v, %v", i, o.Replayed, o)
		}
	}
}

// Entries at or below the applied index are skipped and answered by nothing.
func TestAppliedEntriesAreSkipped(t *testing.T) {
	r := newTestRig(t)
	l := r.log(editCommand(edit("c", add("s", "a", 1))))
	if a := r.fsm.ApplyBatch([]*raft.Log{l, l, {Index: l.Index + 1, Type: raft.LogConfiguration}, l}); len(a) != 4 || a[0] == nil || a[1] != nil || a[2] != nil || a[3] != nil {
		t.Fatalf("answers %v", a)
	}
	if r.fsm.marker().Applied != l.Index+1 {
		t.Fatalf("marker %+v", r.fsm.marker())
	}
	r.open()
	if a := r.fsm.Apply(l); a != nil {
		t.Fatalf("answer %v", a)
	}
	r.want("c", map[string]uint32{"s/a/": 1})
}

// model is what a shopper expects of one region, without any CRDT.
type model struct {
	limits *regionv1.Limits
	carts  map[string]map[string]modelLine // seller/sku → line
	gone   map[string]map[string]modelLine // what the last removal took out
	ops    map[string]*regionv1.Edit       // cart and op id → the request that was applied
}

type modelLine struct {
	quantity uint32
	saved    bool
}

func (m *model) do(e *regionv1.Edit) (regionv1.Outcome_Code, bool) {
	op := e.CartId + string(e.OpId)
	if done, ok := m.ops[op]; ok && len(e.OpId) > 0 {
		if done.Fingerprint != e.Fingerprint {
			return regionv1.Outcome_CODE_OP_ID_REUSED, false
		}
		return regionv1.Outcome_CODE_OK, true
	}
	next := maps.Clone(m.carts[e.CartId])
	if next == nil {
		next = make(map[string]modelLine)
	}
	out := false // something may have been taken out
	for _, c := range e.Changes {
		key := c.Line.GetSeller() + "/" + c.Line.GetSku()
		var found []string
		for _, seller := range []string{"s", "t"} {
			k := seller + "/" + c.Line.GetSku()
			if _, ok := next[k]; ok && (k == key || c.Line.GetAnySeller()) {
				found = append(found, k)
			}
		}
		switch c.Kind {
		case regionv1.Change_KIND_ADD:
			if _, ok := next[key]; !ok && uint32(len(next)) >= m.limits.Lines {
				return regionv1.Outcome_CODE_TOO_MANY_LINES, false
			}
			if next[key].quantity+c.Quantity > m.limits.Quantity {
				return regionv1.Outcome_CODE_QUANTITY_TOO_LARGE, false
			}
			next[key] = modelLine{quantity: next[key].quantity + c.Quantity}
		case regionv1.Change_KIND_CLEAR:
			out = true
			clear(next)
		case regionv1.Change_KIND_UNDO:
			if len(m.gone[e.CartId]) == 0 {
				return regionv1.Outcome_CODE_NOTHING_TO_UNDO, false
			}
			if uint32(len(next)+len(m.gone[e.CartId])) > m.limits.Lines {
				return regionv1.Outcome_CODE_TOO_MANY_LINES, false
			}
			maps.Copy(next, m.gone[e.CartId])
		default:
			if len(found) > 1 {
				return regionv1.Outcome_CODE_AMBIGUOUS_LINE, false
			}
			toZero := c.Kind == regionv1.Change_KIND_REMOVE || c.Kind == regionv1.Change_KIND_SET && c.Quantity == 0
			out = out || c.Kind == regionv1.Change_KIND_REMOVE || c.Kind == regionv1.Change_KIND_SET
			if len(found) == 0 {
				if !toZero {
					return regionv1.Outcome_CODE_LINE_NOT_FOUND, false
				}
				continue
			}
			line := next[found[0]]
			switch c.Kind {
			case regionv1.Change_KIND_SAVE, regionv1.Change_KIND_MOVE:
				line.saved = c.Kind == regionv1.Change_KIND_SAVE
			case regionv1.Change_KIND_SET:
				line.quantity = c.Quantity
			default:
			}
			next[found[0]] = line
			if toZero {
				delete(next, found[0])
			}
		}
	}
	gone := make(map[string]modelLine)
	for k, line := range m.carts[e.CartId] {
		if _, ok := next[k]; !ok {
			gone[k] = line
		}
	}
	if out && len(gone) > 0 {
		m.gone[e.CartId] = gone
	}
	for k := range next {
		delete(m.gone[e.CartId], k)
	}
	m.carts[e.CartId] = next
	if len(e.OpId) > 0 {
		m.ops[op] = e
	}
	return regionv1.Outcome_CODE_OK, false
}

func TestFSMAgreesWithAModel(t *testing.T) {
	s := tempStore(t)
	shards := uint32(0)
	rapid.Check(t, func(rt *rapid.T) {
		shards++
		r := newRig(rt, s, shards, 1)
		m := &model{limits: r.limits, carts: map[string]map[string]modelLine{}, gone: map[string]map[string]modelLine{}, ops: map[string]*regionv1.Edit{}}
		for range rapid.IntRange(1, 8).Draw(rt, "entries") {
			var commands []*regionv1.Command
			for range rapid.IntRange(1, 8).Draw(rt, "commands") {
				commands = append(commands, editCommand(drawEdit(rt)))
			}
			for i, out := range r.apply(commands...) {
				e := commands[i].GetEdit()
				code, replayed := m.do(e)
				if out.Code != code || out.Replayed != replayed {
					rt.Fatalf("%v: outcome %v, the model says %v replayed=%v", e, out, code, replayed)
				}
			}
			for id, lines := range m.carts {
				want, count := make(map[string]uint32), uint64(0)
				for k, line := range lines {
					want[k+"/"] = line.quantity
					if !line.saved {
						count += uint64(line.quantity)
					}
				}
				if got := r.lines(id); !maps.Equal(got, want) {
					rt.Fatalf("cart %q has %v, the model %v", id, got, want)
				}
				if got := r.state(id).Cart.ItemCount(99); got != count {
					rt.Fatalf("cart %q has %d items, the model %d", id, got, count)
				}
				if rec := r.recordOf(id); rec != nil && uint64(rec.Count) != count {
					rt.Fatalf("the record of cart %q says %d items, the model %d", id, rec.Count, count)
				}
			}
		}
	})
}

// The slots of all shards are a partition, for every number of shards.
func TestSlots(t *testing.T) {
	for shards := uint32(1); shards <= SlotCount; shards++ {
		s := NewSlots(shards)
		next := uint32(0)
		for shard := range s.Shards() {
			lo, hi := s.Range(shard)
			if lo != next || hi <= lo {
				t.Fatalf("%d shards: shard %d has [%d,%d) after %d", shards, shard, lo, hi, next)
			}
			for slot := lo; slot < hi; slot++ {
				if got := s.Shard(slot); got != shard {
					t.Fatalf("%d shards: slot %d is of shard %d, want %d", shards, slot, got, shard)
				}
			}
			next = hi
		}
		if next != SlotCount {
			t.Fatalf("%d shards end at %d", shards, next)
		}
	}
	s, used := NewSlots(1), make([]int, SlotCount)
	for i := range 100 * SlotCount {
		used[s.Of(fmt.Sprint("cart-", i))]++
	}
	if lo, hi := slices.Min(used), slices.Max(used); lo < 50 || hi > 160 {
		t.Fatalf("slots have %d to %d carts of 100 on average", lo, hi)
	}
}
