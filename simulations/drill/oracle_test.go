package drill

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const tea = "SKU-1"

func add(n uint32) edit      { return edit{opAdd, tea, n} }
func set(n uint32) edit      { return edit{opSet, tea, n} }
func removal() edit          { return edit{op: opRemove, sku: tea} }
func shows(q uint32) outcome { return outcome{quantity: q} }

// history is a test's: what was acknowledged, one after the other.
func history(t *testing.T, steps ...any) *oracle {
	t.Helper()
	o := newOracle()
	for i := 0; i < len(steps); i += 2 {
		e, a := steps[i].(edit), steps[i+1].(outcome)
		if wrong := o.acknowledged(e, a); wrong != "" {
			t.Fatalf("%v: %s", e, wrong)
		}
	}
	return o
}

func cart(q uint32) map[string]uint32 {
	if q == 0 {
		return nil
	}
	return map[string]uint32{tea: q}
}

// TestOracleCatches plants histories that must not be, each beside one that may.
func TestOracleCatches(t *testing.T) {
	for name, c := range map[string]struct {
		history *oracle
		good    []uint32
		lost    []uint32
		doubled []uint32
	}{
		"adds":                    {history(t, add(1), shows(1), add(2), shows(3)), []uint32{3}, []uint32{0, 1, 2}, []uint32{4, 6}},
		"a decrease":              {history(t, add(5), shows(5), set(2), shows(2)), []uint32{2}, []uint32{0, 1}, []uint32{5}},
		"a removal":               {history(t, add(5), shows(5), removal(), shows(0)), []uint32{0}, nil, []uint32{5}},
		"a removal somewhere old": {history(t, add(5), shows(5), removal(), outcome{stale: true}), []uint32{0, 5}, nil, []uint32{10}},
		"an add made twice":       {history(t, add(1), shows(1), add(2), outcome{quantity: 3, again: true}), []uint32{3}, []uint32{1, 2}, []uint32{5}},
		"adds made twice, both unheard": {history(t, add(6), shows(6), add(1), outcome{quantity: 1, stale: true, again: true}, add(1), outcome{quantity: 2, stale: true, again: true}),
			[]uint32{2, 6, 7, 8}, []uint32{0, 1}, []uint32{9}},
		"a ghost of a set":     {history(t, set(7), outcome{quantity: 7, again: true}, set(2), shows(2)), []uint32{2, 7}, []uint32{0, 1}, []uint32{8}},
		"an add somewhere old": {history(t, add(4), shows(4), add(1), outcome{quantity: 1, stale: true}), []uint32{1, 4}, []uint32{0}, []uint32{5}},
		"and then seen":        {history(t, add(4), shows(4), add(1), outcome{quantity: 1, stale: true}, add(1), shows(5)), []uint32{5}, []uint32{1, 4}, []uint32{6}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, q := range c.good {
				if v := c.history.judge(cart(q)); v.lost+v.doubled+len(v.wrong) > 0 {
					t.Errorf("%d is refused: %+v", q, v)
				}
			}
			for _, q := range c.lost {
				if v := c.history.judge(cart(q)); v.lost != 1 || len(v.wrong) != 1 {
					t.Errorf("%d is not found lost: %+v", q, v)
				}
			}
			for _, q := range c.doubled {
				if v := c.history.judge(cart(q)); v.doubled != 1 || len(v.wrong) != 1 {
					t.Errorf("%d is not found doubled: %+v", q, v)
				}
			}
		})
	}
	v := history(t, add(1), shows(1)).judge(map[string]uint32{tea: 1, "SKU-2": 1})
	if v.doubled != 1 || !strings.Contains(v.wrong[0], "SKU-2") {
		t.Errorf("a line that nobody made: %+v", v)
	}
}

func TestOracleCatchesAnswers(t *testing.T) {
	o := history(t, add(3), shows(3))
	if wrong := o.acknowledged(add(1), shows(1)); wrong == "" {
		t.Error("an add that lacks an earlier one, and does not say so, passes")
	}
	if wrong := o.acknowledged(set(2), shows(3)); wrong == "" {
		t.Error("a set that did not set passes")
	}
	if wrong := history(t, add(3), shows(3)).acknowledged(add(1), outcome{quantity: 1, stale: true}); wrong != "" {
		t.Errorf("a stale answer may lack anything: %s", wrong)
	}
}

func TestOracleCatchesReads(t *testing.T) {
	o := history(t, set(7), outcome{quantity: 7, again: true}, set(2), shows(2))
	if wrong := o.read(cart(2)); len(wrong) > 0 {
		t.Errorf("the last write is refused: %v", wrong)
	}
	if wrong := o.counted(8); wrong == "" {
		t.Error("a count of too many passes")
	}
	if wrong := o.counted(7); wrong != "" {
		t.Errorf("a count with the ghost is refused: %s", wrong)
	}
	if wrong := o.read(cart(7)); len(wrong) > 0 {
		t.Errorf("the ghost is refused: %v", wrong)
	}
	// What was read once must be read again, where the answer is not marked.
	if wrong := o.read(cart(2)); len(wrong) != 1 {
		t.Error("a read from before an earlier one passes")
	}
	o = history(t, add(1), shows(1))
	if wrong := o.read(nil); len(wrong) != 1 {
		t.Error("a read without one's own write passes")
	}
	if wrong := history(t, add(1), shows(1)).counted(0); wrong == "" {
		t.Error("a count without one's own write passes")
	}
}

func TestOracleAllowsBothWays(t *testing.T) {
	o := history(t, add(1), shows(1))
	o.givenUp(add(2))
	o.givenUp(set(9))
	for _, q := range []uint32{1, 3, 9, 11} {
		if v := o.judge(cart(q)); len(v.wrong) > 0 || v.unsure != 1 {
			t.Errorf("%d: %+v", q, v)
		}
	}
	if v := o.judge(cart(5)); len(v.wrong) != 1 {
		t.Errorf("5 passes: %+v", v)
	}
	if v := o.judge(nil); v.lost != 1 {
		t.Errorf("the first add may be lost: %+v", v)
	}
	o.givenUp(removal())
	if v := o.judge(nil); len(v.wrong) > 0 {
		t.Errorf("a removal that may have been made is refused: %+v", v)
	}
}

// world is a small model of regions whose line is a register of concurrent
// values: what the oracle must allow, by its rules.
type world struct {
	writes []write
	sees   [2]map[int]bool // writes that a region has, by number
}

type write struct {
	value uint32
	over  map[int]bool // the writes that it has seen
}

func (w *world) value(region int) (v uint32) {
	for i := range w.sees[region] {
		dead := false
		for j := range w.sees[region] {
			dead = dead || w.writes[j].over[i]
		}
		if !dead {
			v = max(v, w.writes[i].value)
		}
	}
	return v
}

func (w *world) write(region int, e edit) uint32 {
	v := e.quantity
	if e.op == opAdd {
		v += w.value(region)
	}
	over := map[int]bool{}
	for i := range w.sees[region] {
		over[i] = true
	}
	w.writes = append(w.writes, write{v, over})
	w.sees[region][len(w.writes)-1] = true
	return v
}

func (w *world) join() {
	for i := range w.writes {
		w.sees[0][i], w.sees[1][i] = true, true
	}
}

// TestOracleAllowsWhatCanBe runs random sessions against two regions that do not
// always hear of each other; a retry may leave its edit in both.
func TestOracleAllowsWhatCanBe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{sees: [2]map[int]bool{{}, {}}}
		o := newOracle()
		seen := map[int]bool{} // by the session
		var said []string
		check := func(wrong ...string) {
			for _, s := range wrong {
				if s != "" {
					t.Fatalf("%s\nafter %s", s, strings.Join(said, "\n"))
				}
			}
		}
		covers := func(region int) bool {
			for i := range seen {
				if !w.sees[region][i] {
					return false
				}
			}
			return true
		}
		see := func(region int) {
			for i := range w.sees[region] {
				seen[i] = true
			}
		}
		for range rapid.IntRange(1, 12).Draw(t, "calls") {
			at := rapid.IntRange(0, 1).Draw(t, "region")
			e := edit{op(rapid.IntRange(0, 2).Draw(t, "op")), tea, rapid.Uint32Range(1, 4).Draw(t, "quantity")}
			switch rapid.SampledFrom([]string{"edit", "edit", "again", "read", "join"}).Draw(t, "call") {
			case "join":
				w.join()
				said = append(said, "join")
			case "read":
				if covers(at) {
					said = append(said, fmt.Sprintf("read at %d: %d", at, w.value(at)))
					check(o.read(cart(w.value(at)))...)
					see(at)
				}
			case "again", "edit":
				again := rapid.Bool().Draw(t, "again")
				if e.op == opRemove {
					e.quantity = 0
				}
				if again {
					w.write(1-at, e) // nobody hears of it
				}
				stale := !covers(at)
				q := w.write(at, e)
				see(at)
				said = append(said, fmt.Sprintf("%v at %d: %d, stale %v, again %v", e, at, q, stale, again))
				check(o.acknowledged(e, outcome{q, stale, again}))
			}
		}
		w.join()
		check(o.judge(cart(w.value(0))).wrong...)
	})
}

// TestOracleCatchesRandomLosses takes random histories in one region and leaves
// an edit out.
func TestOracleCatchesRandomLosses(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		o, have := newOracle(), uint32(0)
		for range 1 + rnd.IntN(8) {
			n := 1 + rnd.Uint32N(4)
			have += n
			if wrong := o.acknowledged(add(n), shows(have)); wrong != "" {
				t.Fatal(wrong)
			}
		}
		if v := o.judge(cart(have - 1)); v.lost != 1 {
			t.Fatalf("%d of %d passes: %+v", have-1, have, v)
		}
		if v := o.judge(cart(have + 1)); v.doubled != 1 {
			t.Fatalf("%d of %d passes: %+v", have+1, have, v)
		}
	}
}
