package check

import (
	"strings"
	"testing"
	"time"

	"github.com/samecart/samecart/crdt"
)

// at makes a call of session s that lasted from begin to begin+1.
func at(begin int, s int, kind Kind, line string, n uint64, more ...func(*Op)) Op {
	o := Op{Session: s, Cart: "c", Kind: kind, Line: line, N: n, Region: "eu", Begin: time.Duration(begin), End: time.Duration(begin + 1)}
	for _, f := range more {
		f(&o)
	}
	return o
}

func in(region string) func(*Op)           { return func(o *Op) { o.Region = region } }
func shows(n uint64) func(*Op)             { return func(o *Op) { o.Quantity, o.Count = n, n } }
func cart(lines map[string]Item) func(*Op) { return func(o *Op) { o.Lines = lines } }
func note(s string) func(*Op)              { return func(o *Op) { o.Note = s } }
func unknown(o *Op)                        { o.Outcome = Unknown }
func stale(o *Op)                          { o.Stale = true }

// expect says which violation a check must find; "" none.
func expect(t *testing.T, want string, got []Violation) {
	t.Helper()
	if want == "" {
		if len(got) > 0 {
			t.Errorf("found %v, and nothing is wrong", got)
		}
		return
	}
	for _, v := range got {
		if strings.Contains(v.String(), want) {
			return
		}
	}
	t.Errorf("found %v, want %q", got, want)
}

// Each bug is planted into what a history or a cart says; the check must find it,
// and must not find it in the history without the bug.
func TestContent(t *testing.T) {
	for _, c := range []struct {
		name, want string
		have       uint64
		ops        []Op
	}{
		{"kept", "", 2, []Op{at(0, 1, Add, "tea", 2)}},
		{"lost", "lost tea", 0, []Op{at(0, 1, Add, "tea", 2)}},
		{"a concurrent removal may have seen it", "", 0, []Op{at(0, 1, Add, "tea", 2), at(0, 2, Remove, "tea", 0)}},
		{"a removal of unknown outcome, too", "", 0, []Op{at(0, 2, Remove, "tea", 0, unknown), at(5, 1, Add, "tea", 2)}},
		{"an earlier removal has not", "lost tea", 0, []Op{at(0, 2, Remove, "tea", 0), at(5, 1, Add, "tea", 2)}},
		{"removed", "", 0, []Op{at(0, 1, Add, "tea", 2), at(5, 1, Remove, "tea", 0)}},
		{"back", "took it out again", 2, []Op{at(0, 1, Add, "tea", 2), at(5, 1, Remove, "tea", 0)}},
		{"back after a clear", "took it out again", 2, []Op{at(0, 1, Add, "tea", 2), at(5, 1, Clear, "", 0)}},
		{"a stale removal did not see it", "", 2, []Op{at(0, 1, Add, "tea", 2), at(5, 1, Remove, "tea", 0, stale)}},
		{"somebody else's stays", "", 1, []Op{at(0, 1, Add, "tea", 2), at(0, 2, Add, "tea", 1), at(5, 1, Remove, "tea", 0)}},
		{"doubled", "doubled", 4, []Op{at(0, 1, Add, "tea", 2)}},
		{"one lost add of two in a region", "lost", 2, []Op{at(0, 1, Add, "tea", 2), at(0, 2, Add, "tea", 1)}},
		{"of two regions the larger counts", "", 2, []Op{at(0, 1, Add, "tea", 2), at(0, 2, Add, "tea", 1, in("us"))}},
		{"nobody wrote it", "nobody wrote", 1, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, _ := Content(c.ops, map[string]map[string]Item{"c": {"tea": {N: c.have}}}, Max)
			expect(t, c.want, got)
		})
	}
}

func TestSessions(t *testing.T) {
	for _, c := range []struct {
		name, want string
		ops        []Op
	}{
		{"grows", "", []Op{at(0, 1, Add, "tea", 2, shows(2)), at(2, 1, Get, "", 0, cart(map[string]Item{"tea": {N: 2}}))}},
		{"own write missing", "was shown 0", []Op{at(0, 1, Add, "tea", 2, shows(2)), at(2, 1, Get, "", 0)}},
		{"own write missing and marked", "", []Op{at(0, 1, Add, "tea", 2, shows(2)), at(2, 1, Get, "", 0, stale)}},
		{"falls", "then 2", []Op{
			at(0, 1, Add, "tea", 2, shows(2)), at(0, 2, Add, "tea", 3, shows(5)),
			at(2, 1, Get, "", 0, cart(map[string]Item{"tea": {N: 5}})), at(4, 1, Get, "", 0, cart(map[string]Item{"tea": {N: 2}})),
		}},
		{"own removal missing", "was shown 2", []Op{
			at(0, 1, Add, "tea", 2, shows(2)), at(2, 1, Remove, "tea", 0), at(4, 1, Get, "", 0, cart(map[string]Item{"tea": {N: 2}})),
		}},
		{"after an unknown outcome nothing is sure", "", []Op{at(0, 1, Add, "tea", 2, unknown), at(2, 1, Get, "", 0)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, _ := Sessions(c.ops, Max)
			expect(t, c.want, got)
		})
	}
}

func TestLinearizable(t *testing.T) {
	for _, c := range []struct {
		name, want string
		ops        []Op
	}{
		{"in order", "", []Op{at(0, 1, Add, "tea", 2, shows(2)), at(2, 2, Add, "tea", 1, shows(3)), at(4, 1, StrongGet, "", 0, cart(map[string]Item{"tea": {N: 3}}))}},
		{"an add is forgotten", "no order", []Op{at(0, 1, Add, "tea", 2, shows(2)), at(2, 2, Add, "tea", 1, shows(1))}},
		{"a strong read is old", "no order", []Op{at(0, 1, Add, "tea", 2, shows(2)), at(2, 2, StrongGet, "", 0, cart(map[string]Item{}))}},
		{"an unknown add may count, or not", "", []Op{at(0, 1, Add, "tea", 2, unknown), at(2, 2, Add, "tea", 1, shows(1)), at(4, 2, StrongGet, "", 0, cart(map[string]Item{"tea": {N: 3}}))}},
		{"but not twice", "no order", []Op{at(0, 1, Add, "tea", 2, unknown), at(4, 2, StrongGet, "", 0, cart(map[string]Item{"tea": {N: 4}}))}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, _ := Linearizable(c.ops, time.Second)
			expect(t, c.want, got)
		})
	}
}

func TestDots(t *testing.T) {
	w := crdt.Writer{Replica: crdt.Replica{Region: 1, Incarnation: 1}, At: crdt.TimestampAt(1000)}
	made := func(sku string, id byte) crdt.State {
		c := &crdt.Cart{}
		d := c.Add(w, crdt.LineKey{Seller: "s", SKU: sku}, 1, crdt.Offer{Price: 1, Currency: "EUR", AddedAt: w.At}, false)
		return crdt.State{Cart: c.Apply(d), Ops: []crdt.Op{{Dot: d.Dots[0], ID: crdt.OpID{id}}}}
	}
	for _, c := range []struct {
		name, want string
		second     crdt.State
	}{
		{"the same", "", made("tea", 1)},
		{"another line", "was of", made("cup", 1)},
		{"another request", "made by request", made("tea", 2)},
	} {
		t.Run(c.name, func(t *testing.T) {
			var d Dots
			v, _ := d.See("eu", "c", made("tea", 1))
			expect(t, "", v)
			v, _ = d.See("us", "c", c.second)
			expect(t, c.want, v)
		})
	}
}
