package crdt_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/crdt/crdttest"
	"pgregory.net/rapid"
)

const guestID = "guest:s1"

var everyRule = []crdt.MergeRule{crdt.MergeMax, crdt.MergeSum, crdt.MergeLatest}

// login is a guest's cart and a user's in the same regions, each with its own
// stream a region, as carts of two shards have.
type login struct {
	guest, user *crdttest.History
	rule        crdt.MergeRule
	clock       int64
}

func newLogin(regions int, rule crdt.MergeRule) *login {
	return &login{guest: crdttest.New(regions), user: crdttest.New(regions), rule: rule}
}

func (l *login) writer(h *crdttest.History, region int) crdt.Writer {
	l.clock++
	return crdt.Writer{Replica: h.Regions[region].Replica, At: crdt.TimestampAt(1_700_000_000_000 + l.clock), QuantityMax: 99}
}

// put adds the deltas of one region's write to its stream.
func putRows(h *crdttest.History, region int, deltas ...crdt.Delta) {
	r := h.Regions[region]
	s := crdt.Stream{Region: r.Replica.Region, Incarnation: r.Replica.Incarnation, Shard: 1}
	for _, d := range deltas {
		r.Cart = r.Cart.Apply(d)
		seq := uint64(len(h.Rows[s]) + 1)
		h.Rows[s] = append(h.Rows[s], crdt.Row{Seq: seq, Last: seq, CartID: "c", Delta: d})
	}
}

func offerAt(at crdt.Timestamp) crdt.Offer { return crdt.Offer{Price: 5, Currency: "EUR", AddedAt: at} }

func sku(name string) crdt.LineKey { return crdt.LineKey{Seller: "acme", SKU: name} }

func (l *login) add(h *crdttest.History, region int, name string, n uint32) {
	w := l.writer(h, region)
	putRows(h, region, h.Regions[region].Cart.Add(w, sku(name), n, offerAt(w.At), false))
}

func (l *login) set(h *crdttest.History, region int, name string, n uint32) {
	putRows(h, region, h.Regions[region].Cart.SetQuantity(l.writer(h, region), sku(name), n))
}

func (l *login) remove(h *crdttest.History, region int, name string) {
	putRows(h, region, h.Regions[region].Cart.Remove(l.writer(h, region), sku(name)))
}

// merge joins the guest's cart, as a region has it, into the user's there.
func (l *login) merge(region int) crdt.Merge {
	u := l.user.Regions[region]
	g := crdt.Guest{ID: guestID, State: crdt.Relabel(crdt.State{Cart: l.guest.Regions[region].Cart}, guestID)}
	m := crdt.State{Cart: u.Cart}.MergeGuest(l.writer(l.user, region), g, l.rule)
	if !g.State.Cart.Context.IsEmpty() {
		u.Cart = crdt.Join(u.Cart, g.State.Cart)
	}
	putRows(l.user, region, m.Deltas...)
	return m
}

func quantitiesOf(c *crdt.Cart) map[string]uint32 {
	out := map[string]uint32{}
	for k, v := range c.Visible() {
		out[k.SKU] = v.Quantity
	}
	return out
}

func wantQuantities(t crdttest.T, what string, c *crdt.Cart, want map[string]uint32) {
	t.Helper()
	if got := quantitiesOf(c); !maps.Equal(got, want) {
		t.Fatalf("%s: %v, want %v", what, got, want)
	}
}

func deliverFrom(h *crdttest.History, region, from int) {
	s := crdt.Stream{Region: h.Regions[from].Replica.Region, Incarnation: h.Regions[from].Replica.Incarnation, Shard: 1}
	for h.Pending(region, s) > 0 {
		h.Deliver(region, s)
	}
}

// example is the login that everybody thinks of: both have SKU-2.
func example(regions int, rule crdt.MergeRule) *login {
	l := newLogin(regions, rule)
	l.add(l.user, 0, "SKU-2", 1)
	l.add(l.user, 0, "SKU-4", 3)
	l.add(l.guest, 0, "SKU-1", 1)
	l.add(l.guest, 0, "SKU-2", 2)
	l.add(l.guest, 0, "SKU-3", 1)
	for r := 1; r < regions; r++ {
		deliverFrom(l.user, r, 0)
		deliverFrom(l.guest, r, 0)
	}
	return l
}

func TestLoginExample(t *testing.T) {
	for rule, sku2 := range map[crdt.MergeRule]uint32{crdt.MergeMax: 2, crdt.MergeSum: 3, crdt.MergeLatest: 2} {
		t.Run(rule.String(), func(t *testing.T) {
			l := example(1, rule)
			m := l.merge(0)
			want := map[string]uint32{"SKU-1": 1, "SKU-2": sku2, "SKU-3": 1, "SKU-4": 3}
			wantQuantities(t, "merged", m.Cart, want)
			check := func(m crdt.Merge) {
				t.Helper()
				keys := make([]crdt.LineKey, 0, 1)
				for _, e := range m.Conflicts.Lines {
					keys = append(keys, e.Key)
				}
				for _, d := range m.Decided {
					keys = append(keys, d.Key)
					if d.User != 1 || d.Guest != 2 {
						t.Errorf("decided between %d and %d", d.User, d.Guest)
					}
				}
				if m.Items != 3 || !slices.Equal(keys, []crdt.LineKey{sku("SKU-2")}) {
					t.Errorf("%d items, conflicts %v", m.Items, keys)
				}
			}
			check(m)
			crdttest.Equal(t, "the merge is what its parts give", m.Cart, l.user.Regions[0].Cart)
			again := l.merge(0)
			crdttest.Equal(t, "again", again.Cart, m.Cart)
			check(again)
			if len(again.Deltas) != 0 {
				t.Errorf("again: %d writes", len(again.Deltas))
			}
		})
	}
}

// A merge mints nothing on the user's lines under max, and elsewhere one write for
// each line that both hold.
func TestMergeMints(t *testing.T) {
	for rule, lines := range map[crdt.MergeRule]int{crdt.MergeMax: 0, crdt.MergeSum: 1} {
		m := example(1, rule).merge(0)
		var facts, writes int
		for _, d := range m.Deltas {
			if d.Key.IsFact() {
				facts++
			} else {
				writes++
			}
		}
		if facts != 1 || writes != lines {
			t.Errorf("%v: %d facts and %d lines are written, want 1 and %d", rule, facts, writes, lines)
		}
	}
}

// The same merge in two regions that do not hear of each other, a removal in one.
func TestMergeInTwoRegionsAndARemoval(t *testing.T) {
	for _, rule := range everyRule {
		t.Run(rule.String(), func(t *testing.T) {
			l := example(2, rule)
			l.merge(0)
			l.merge(1)
			l.remove(l.user, 0, "SKU-3")
			l.remove(l.user, 0, "SKU-2")
			for range 2 { // and once more, when all have heard
				deliverFrom(l.user, 0, 1)
				deliverFrom(l.user, 1, 0)
				l.merge(0)
				l.merge(1)
			}
			crdttest.Equal(t, "regions", l.user.Regions[1].Cart, l.user.Regions[0].Cart)
			want := map[string]uint32{"SKU-1": 1, "SKU-4": 3}
			if rule == crdt.MergeSum {
				want["SKU-2"] = 3 // the other region's own write, which the removal has not seen
			}
			wantQuantities(t, "healed", l.user.Regions[0].Cart, want)
		})
	}
}

// What the guest writes after the merge counts by maximum, under every rule, also
// when it replaces all that was merged.
func TestLateGuestEdits(t *testing.T) {
	for rule, sku2 := range map[crdt.MergeRule]uint32{crdt.MergeMax: 7, crdt.MergeSum: 7, crdt.MergeLatest: 7} {
		t.Run(rule.String(), func(t *testing.T) {
			l := example(1, rule)
			l.merge(0)
			l.set(l.guest, 0, "SKU-2", 7)
			l.add(l.guest, 0, "SKU-9", 2)
			l.remove(l.guest, 0, "SKU-1")
			l.merge(0)
			wantQuantities(t, "late", l.user.Regions[0].Cart, map[string]uint32{"SKU-2": sku2, "SKU-3": 1, "SKU-4": 3, "SKU-9": 2})
			l.set(l.guest, 0, "SKU-2", 1)
			l.merge(0)
			if got, least := quantitiesOf(l.user.Regions[0].Cart)["SKU-2"], map[crdt.MergeRule]uint32{crdt.MergeMax: 1, crdt.MergeSum: 3, crdt.MergeLatest: 1}[rule]; got != least {
				t.Errorf("%d of SKU-2, want %d", got, least)
			}
		})
	}
}

// Lines of a guest of whom nothing was known come in parts: each is summed once,
// wherever it arrives first.
func TestSumOfLinesThatComeLater(t *testing.T) {
	l := newLogin(2, crdt.MergeSum)
	for _, name := range []string{"a", "b"} {
		l.add(l.user, 0, name, 10)
		l.add(l.guest, 1, name, 1)
	}
	deliverFrom(l.user, 1, 0)
	putRows(l.guest, 0, l.guest.Regions[0].Cart.SetFact(l.writer(l.guest, 0), crdt.FactMerged, "cart:u", ""))
	l.merge(0)
	wantQuantities(t, "unknown", l.user.Regions[0].Cart, map[string]uint32{"a": 10, "b": 10})
	s := crdt.Stream{Region: 2, Shard: 1}
	l.guest.Deliver(0, s)
	l.merge(0)
	deliverFrom(l.user, 1, 0) // the sum of a is there before the guest's own region has merged
	deliverFrom(l.guest, 1, 0)
	l.merge(1)
	l.guest.Deliver(0, s)
	l.merge(0)
	deliverFrom(l.user, 0, 1)
	deliverFrom(l.user, 1, 0)
	l.merge(1)
	for _, r := range l.user.Regions {
		wantQuantities(t, "all came", r.Cart, map[string]uint32{"a": 11, "b": 11})
	}
	crdttest.Equal(t, "regions", l.user.Regions[1].Cart, l.user.Regions[0].Cart)
}

// The first rule of a guest stays the guest's.
func TestRuleOfAGuestStays(t *testing.T) {
	l := example(1, crdt.MergeMax)
	l.merge(0)
	l.set(l.guest, 0, "SKU-2", 5)
	l.rule = crdt.MergeSum
	l.merge(0)
	if got := quantitiesOf(l.user.Regions[0].Cart)["SKU-2"]; got != 5 {
		t.Errorf("%d of SKU-2 after the shop's rule changed, want the 5 that the guest set", got)
	}
}

func TestLatestRule(t *testing.T) {
	for _, guestLast := range []bool{true, false} {
		l := newLogin(1, crdt.MergeLatest)
		first, then := l.user, l.guest
		if !guestLast {
			first, then = l.guest, l.user
		}
		l.add(first, 0, "a", 7)
		l.add(then, 0, "a", 2)
		l.merge(0)
		wantQuantities(t, fmt.Sprint("guest last: ", guestLast), l.user.Regions[0].Cart, map[string]uint32{"a": 2})
	}
}

func TestSumSaturates(t *testing.T) {
	l := newLogin(1, crdt.MergeSum)
	l.add(l.user, 0, "a", 1<<32-1)
	l.add(l.guest, 0, "a", 50)
	l.merge(0)
	// What shows is summed, as an add sums.
	wantQuantities(t, "sum", l.user.Regions[0].Cart, map[string]uint32{"a": 99 + 50})
}

// An expired or erased guest's cart joins nothing: what its end took out stays
// with the user.
func TestExpiredGuestJoinsNothing(t *testing.T) {
	for _, kind := range []crdt.FactKind{crdt.FactExpired, crdt.FactErased} {
		l := example(1, crdt.MergeMax)
		l.merge(0)
		before := l.user.Regions[0].Cart
		putRows(l.guest, 0, l.guest.Regions[0].Cart.SetFact(l.writer(l.guest, 0), kind, "", ""))
		l.remove(l.guest, 0, "SKU-1")
		if m := l.merge(0); m.Items != 0 || len(m.Deltas) != 0 {
			t.Errorf("%s: %d items, %d writes", kind, m.Items, len(m.Deltas))
		}
		crdttest.Equal(t, string(kind), l.user.Regions[0].Cart, before)
	}
}

// Of a guest's facts the codes alone come along, with the guest's lineage.
func TestFactsOfAGuest(t *testing.T) {
	l := example(1, crdt.MergeMax)
	for _, kind := range []crdt.FactKind{crdt.FactCode, crdt.FactMerged, crdt.FactShare, crdt.FactRights} {
		putRows(l.guest, 0, l.guest.Regions[0].Cart.SetFact(l.writer(l.guest, 0), kind, "x", ""))
	}
	l.merge(0)
	c := l.user.Regions[0].Cart
	for kind, want := range map[crdt.FactKind]bool{crdt.FactCode: true, crdt.FactMerged: false, crdt.FactShare: false, crdt.FactRights: false} {
		if _, ok := c.Fact(kind, "x"); ok != want {
			t.Errorf("fact %s of the guest is with the user: %v, want %v", kind, ok, want)
		}
	}
	if _, ok := c.Fact(crdt.FactGuest, guestID); !ok {
		t.Error("the user's cart does not say whose lines came")
	}
}

func TestSharedGuest(t *testing.T) {
	l := example(1, crdt.MergeSum)
	l.merge(0)
	u := l.user.Regions[0]
	if ids := u.Cart.SharedGuests(); len(ids) != 0 {
		t.Errorf("shared: %v", ids)
	}
	g := crdt.Guest{ID: guestID, State: crdt.Relabel(crdt.State{Cart: l.guest.Regions[0].Cart}, guestID), Shared: true}
	m := crdt.State{Cart: u.Cart}.MergeGuest(l.writer(l.user, 0), g, crdt.MergeSum)
	if ids := m.Cart.SharedGuests(); !slices.Equal(ids, []string{guestID}) || len(m.Deltas) != 1 {
		t.Errorf("shared: %v after %d writes", ids, len(m.Deltas))
	}
	if m := (crdt.State{Cart: m.Cart}).MergeGuest(l.writer(l.user, 0), g, crdt.MergeSum); len(m.Deltas) != 0 {
		t.Errorf("%d writes when nothing is new", len(m.Deltas))
	}
}

// Relabelling is a homomorphism of joins, and keeps carts well formed.
func TestRelabelLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, _ := crdttest.Three(t)
		if a.IsErased() || b.IsErased() { // they join nothing
			return
		}
		label := func(c *crdt.Cart) *crdt.Cart { return crdt.Relabel(crdt.State{Cart: c}, guestID).Cart }
		crdttest.Equal(t, "of a join", label(crdt.Join(a, b)), crdt.Join(label(a), label(b)))
		crdttest.WellFormed(t, label(a))
		crdttest.RoundTrip(t, encodeCart, crdt.DecodeCart, label(a))
		if !label(a).IsOfGuests() {
			t.Fatalf("%v has dots of its own", label(a).Context)
		}
		if got, want := quantitiesOf(label(a)), quantitiesOf(a); !maps.Equal(got, want) {
			t.Fatalf("%v, want %v", got, want)
		}
	})
}

// Whatever happens to a guest's cart and a user's in three regions, and in
// whatever order rows and merges come: in the end all regions have the same, a
// further merge changes nothing, under max nothing but the join happened, and no
// line of the guest's is missing that nobody removed from the user's cart.
func TestMergeLaws(t *testing.T) {
	for _, rule := range everyRule {
		t.Run(rule.String(), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) { checkMerges(t, rule) })
		})
	}
}

func checkMerges(t *rapid.T, rule crdt.MergeRule) {
	l := newLogin(3, rule)
	removed := map[crdt.LineKey]bool{}
	for range rapid.IntRange(0, 30).Draw(t, "steps") {
		region := rapid.IntRange(0, 2).Draw(t, "region")
		h := rapid.SampledFrom([]*crdttest.History{l.guest, l.user}).Draw(t, "cart")
		switch rapid.IntRange(0, 3).Draw(t, "step") {
		case 0:
			l.merge(region)
		case 1:
			h.DeliverNext(t)
		default:
			w := l.writer(h, region)
			e := h.Edit(t, region, w)
			putRows(h, region, e.Do(h.Regions[region].Cart, w)...)
			switch {
			case h == l.user && e.Kind == crdttest.Remove:
				removed[e.Key] = true
			case h == l.user && e.Kind == crdttest.Clear:
				for _, k := range h.Keys {
					removed[k] = true
				}
			}
		}
	}
	for more := true; more; {
		l.guest.DeliverAll(t)
		l.user.DeliverAll(t)
		more = false
		for region := range l.user.Regions {
			more = len(l.merge(region).Deltas) > 0 || more
		}
	}
	guest := l.guest.Regions[0].Cart
	all := &crdt.Cart{}
	for _, d := range l.user.Deltas() {
		all = crdt.Join(all, d.Fragment())
	}
	all = crdt.Join(all, crdt.Relabel(crdt.State{Cart: guest}, guestID).Cart)
	for region, r := range l.user.Regions {
		crdttest.WellFormed(t, r.Cart)
		crdttest.Equal(t, fmt.Sprint("region ", region), r.Cart, all)
		before := r.Cart
		if m := l.merge(region); len(m.Deltas) > 0 {
			t.Fatalf("region %d writes %v when nothing is new", region, m.Deltas)
		}
		crdttest.Equal(t, "again", r.Cart, before)
	}
	for _, d := range l.user.Deltas() {
		if rule == crdt.MergeMax && d.Dots[0].Replica.Lineage != "" {
			t.Fatalf("a dot of the guest's was minted: %v", d)
		}
	}
	for k := range guest.Visible() {
		if all.Find(k) == nil && !removed[k] {
			t.Fatalf("%v of the guest's is gone, though nobody removed it:\n%s", k, crdttest.Show(all))
		}
	}
}

// However many lines a guest brings, the cart can be encoded and read again.
func TestSumOfVeryManyLines(t *testing.T) {
	l := newLogin(1, crdt.MergeSum)
	for i := range 1100 {
		l.add(l.user, 0, fmt.Sprint("sku-", i), 100000)
		l.add(l.guest, 0, fmt.Sprint("sku-", i), 1)
	}
	m := l.merge(0)
	crdttest.RoundTrip(t, encodeCart, crdt.DecodeCart, m.Cart)
	fact, _ := m.Cart.Fact(crdt.FactGuest, guestID)
	if n := len(fact.Pairs); n == 0 || n > 32<<10 {
		t.Errorf("what is remembered takes %d bytes", n)
	}
	if again := l.merge(0); len(again.Deltas) != 0 {
		t.Errorf("%d writes when nothing is new", len(again.Deltas))
	}
}

// C1: what a cart knows of a merged guest's edits stays while the guest may come
// again, also of an incarnation that is over.
func TestCompactKeepsGuests(t *testing.T) {
	l := example(1, crdt.MergeMax)
	l.merge(0)
	l.remove(l.user, 0, "SKU-1")
	all := func(crdt.Replica) bool { return true }
	u := l.user.Regions[0]
	u.Cart = u.Cart.Compact(all)
	l.merge(0)
	wantQuantities(t, "compacted and merged again", u.Cart, map[string]uint32{"SKU-2": 2, "SKU-3": 1, "SKU-4": 3})
	for _, name := range []string{"SKU-2", "SKU-3"} {
		l.remove(l.user, 0, name)
	}
	putRows(l.user, 0, u.Cart.DropFact(l.writer(l.user, 0), crdt.FactGuest, guestID))
	for _, r := range u.Cart.Compact(func(crdt.Replica) bool { return false }).Context.Replicas() {
		if r.Lineage != "" {
			t.Errorf("lineage %q stays after its guest is forgotten", r.Lineage)
		}
	}
}

// An expired guest's cart without lines is garbage, and a user's with a guest is not.
func TestGarbageOfGuests(t *testing.T) {
	l := example(1, crdt.MergeMax)
	settled := func(crdt.Replica) bool { return true }
	putRows(l.guest, 0, l.guest.Regions[0].Cart.SetFact(l.writer(l.guest, 0), crdt.FactMerged, "cart:u", ""))
	l.merge(0)
	g, u := l.guest.Regions[0], l.user.Regions[0]
	putRows(l.user, 0, u.Cart.Clear(l.writer(l.user, 0))...)
	putRows(l.guest, 0, g.Cart.Clear(l.writer(l.guest, 0))...)
	if g.Cart.IsGarbage(settled) || u.Cart.IsGarbage(settled) {
		t.Errorf("garbage before the guest has expired: guest %v, user %v", g.Cart.IsGarbage(settled), u.Cart.IsGarbage(settled))
	}
	putRows(l.guest, 0, g.Cart.SetFact(l.writer(l.guest, 0), crdt.FactExpired, "", ""))
	if !g.Cart.IsGarbage(settled) {
		t.Error("an expired guest's cart without lines is kept")
	}
	putRows(l.guest, 0, g.Cart.SetFact(l.writer(l.guest, 0), crdt.FactCode, "TEN", ""))
	if g.Cart.IsGarbage(settled) {
		t.Error("a code is garbage")
	}
}

// A guest who takes a line out and adds it again has replaced all that was merged of
// it: it still was summed before.
func TestSumOfALineThatIsAddedAnew(t *testing.T) {
	l := example(1, crdt.MergeSum)
	l.merge(0)
	l.remove(l.guest, 0, "SKU-2")
	l.add(l.guest, 0, "SKU-2", 2)
	l.merge(0)
	if got := quantitiesOf(l.user.Regions[0].Cart)["SKU-2"]; got != 3 {
		t.Errorf("%d of SKU-2, want the sum of once", got)
	}
}
