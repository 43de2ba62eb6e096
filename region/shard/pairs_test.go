package shard

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

var rewritePairs = flag.Bool("rewrite", false, "write PAIRS.md anew")

// operation is one of two that are made at the same time, in two regions, on
// carts that are equal before. A line of the table below adds one.
type operation struct {
	name, does string
	do         func(r *rig, cartID string)
	// What the outcome of a pair must be, whatever the table says of it: lines
	// that are written, with the quantity that is set, or 0 where it is left as
	// it is; lines that are taken out; facts that are written, and taken out.
	writes       map[string]uint32
	takes        []string
	gives, drops []crdt.LineKey
	erases       bool
}

// The cart before: what the pairs start from.
var (
	pairsBefore = []*regionv1.Change{
		add("s", "tea", 2), add("s", "pot", 1), add("s", "cup", 1), save("s", "cup"), addCode("SHIP"), share("l1", time.Hour),
	}
	before = map[string]uint32{"tea": 2, "pot": 1, "cup": 1}
)

// What facts there are before, and with an operation.
var (
	ship, ten = crdt.FactKey(crdt.FactCode, "SHIP"), crdt.FactKey(crdt.FactCode, "TEN")
	l1, l2    = crdt.FactKey(crdt.FactShare, "l1"), crdt.FactKey(crdt.FactShare, "l2")
)

const pairsBeforeText = "2 tea and a pot in the cart, a cup put aside, the code SHIP, and the link l1"

// pairsLife is how long carts live in this test, in milliseconds: those of the pairs
// are due when the operations are made.
const pairsLife = 500

var operations = []operation{
	{name: "add", does: "adds 3 tea", do: commands(add("s", "tea", 3)), writes: map[string]uint32{"tea": 5}},
	{name: "add new", does: "adds milk, which is not there", do: commands(add("s", "milk", 1)), writes: map[string]uint32{"milk": 1}},
	{name: "set higher", does: "sets tea to 7", do: commands(set("s", "tea", 7)), writes: map[string]uint32{"tea": 7}},
	{name: "set lower", does: "sets tea to 1", do: commands(set("s", "tea", 1)), writes: map[string]uint32{"tea": 1}},
	{name: "set to 0", does: "sets tea to 0", do: commands(set("s", "tea", 0)), takes: []string{"tea"}},
	{name: "remove", does: "removes tea", do: commands(remove("s", "tea")), takes: []string{"tea"}},
	{name: "remove saved", does: "removes the cup, which is put aside", do: commands(remove("s", "cup")), takes: []string{"cup"}},
	{name: "clear", does: "removes all lines", do: commands(clearAll()), takes: []string{"tea", "pot", "cup"}},
	{name: "save", does: "puts tea aside", do: commands(save("s", "tea")), writes: map[string]uint32{"tea": 0}},
	{name: "move", does: "puts the cup back into the cart", do: commands(move("s", "cup")), writes: map[string]uint32{"cup": 0}},
	{name: "save, move", does: "puts tea aside and back", do: inTurn(save("s", "tea"), move("s", "tea")), writes: map[string]uint32{"tea": 0}},
	{name: "describe", does: "writes a note for tea", do: describeTea, writes: map[string]uint32{"tea": 0}},
	{name: "renew", does: "adds a tea, at another price", do: commands(renewed(add("s", "tea", 1), 2499)), writes: map[string]uint32{"tea": 3}},
	{name: "add code", does: "gives the code TEN", do: commands(addCode("TEN")), gives: []crdt.LineKey{ten}},
	{name: "add code again", does: "gives the code SHIP once more", do: commands(addCode("SHIP")), gives: []crdt.LineKey{ship}},
	{name: "drop code", does: "takes the code SHIP out", do: commands(dropCode("SHIP")), drops: []crdt.LineKey{ship}},
	{name: "merge", does: "merges a guest's cart with 4 tea and 2 jam", do: mergeGuest, writes: map[string]uint32{"tea": 4, "jam": 2}},
	{name: "undo", does: "removes tea, and undoes it", do: inTurn(remove("s", "tea"), undo()), writes: map[string]uint32{"tea": 2}},
	{name: "erase", does: "erases the cart", do: commands(erase()), erases: true},
	{name: "expire", does: "finds that the cart has expired", do: expirePair, takes: []string{"tea", "pot", "cup"}, drops: []crdt.LineKey{ship}},
	{name: "share", does: "makes the link l2", do: commands(share("l2", time.Hour)), gives: []crdt.LineKey{l2}},
	{name: "unshare", does: "revokes the link l1", do: commands(unshare("l1")), drops: []crdt.LineKey{l1}},
	{name: "batch", does: "at once: sets tea to 6, removes the pot, adds a jam", do: commands(set("s", "tea", 6), remove("s", "pot"), add("s", "jam", 1)),
		writes: map[string]uint32{"tea": 6, "jam": 1}, takes: []string{"pot"}},
}

// commands is an operation that is one edit, as a region's API proposes it.
func commands(changes ...*regionv1.Change) func(*rig, string) {
	return func(r *rig, id string) {
		r.t.Helper()
		r.ok(edit(id, changes...))
	}
}

// inTurn is an operation of several edits.
func inTurn(changes ...*regionv1.Change) func(*rig, string) {
	return func(r *rig, id string) {
		r.t.Helper()
		for _, c := range changes {
			r.ok(edit(id, c))
		}
	}
}

// describeTea's note says which region wrote it.
func describeTea(r *rig, id string) {
	r.t.Helper()
	r.ok(edit(id, describeAs("s", "tea", "note="+map[crdt.RegionID]string{1: "us", 2: "eu"}[r.region])))
}

// pairGuest is the guest's cart that is merged into a pair's.
func pairGuest(id string) string { return "guest:of " + id }

// mergeGuest is what a login does: it closes the guest's cart and joins it.
func mergeGuest(r *rig, id string) {
	r.t.Helper()
	out := r.apply(closeGuest(pairGuest(id), id))[0]
	guest, err := crdt.DecodeState(out.GuestState)
	if err != nil || out.Code != regionv1.Outcome_CODE_OK {
		r.t.Fatalf("close: %v, %v", out, err)
	}
	if out := r.apply(joinGuest(id, pairGuest(id), guest))[0]; out.Code != regionv1.Outcome_CODE_OK {
		r.t.Fatalf("join: %v", out)
	}
}

// forward is what the leader of a guest's shard does for guests' carts that were
// merged, here or in another region.
func (r *rig) forward() {
	r.t.Helper()
	for guest, mark := range r.marks() {
		for user := range r.state(guest).Cart.Facts(crdt.FactMerged) {
			r.apply(joinGuest(user, guest, r.state(guest)))
		}
		r.apply(forwarded(guest, mark))
	}
}

// expirePair is the command that a cart's owner proposes once every region has found
// the cart due, and the same.
func expirePair(r *rig, id string) {
	r.t.Helper()
	d := r.recordOf(id).Digest
	if out := r.apply(&regionv1.Command{Command: &regionv1.Command_Expire{Expire: &regionv1.Expire{
		Carts: []*regionv1.CartDigest{{CartId: id, Digest: d[:]}},
	}}})[0]; out.Expired != 1 {
		r.t.Fatalf("expire: %v", out)
	}
}

func line(sku string) crdt.LineKey { return crdt.LineKey{Seller: "s", SKU: sku} }

// renewed is an add at a price that the caller states.
func renewed(c *regionv1.Change, price int64) *regionv1.Change {
	c.Price, c.RenewOffer = price, true
	return c
}

// pairID is the cart in which a is made in us and b in eu.
func pairID(a, b operation) string { return "cart:" + a.name + " / " + b.name }

// Every ordered pair of operations, made at the same time in two regions on equal
// carts: when both have heard of each other they are equal again, and so is every
// region that has heard of both, in either order, by rows or by whole carts. What
// the cart then is stands in PAIRS.md, which -rewrite writes.
func TestPairs(t *testing.T) {
	us := newTestRig(t)
	eu := newRig(t, us.store, 1, 2)
	others := make([]*rig, 3)
	for i := range others {
		others[i] = newRig(t, us.store, uint32(2+i), crdt.RegionID(3+i))
	}
	usFirst, euFirst, byCarts := others[0], others[1], others[2]
	for _, r := range append(others, us, eu) {
		r.limits.UserLifeMs, r.limits.SavedLifeMs = pairsLife, pairsLife
	}
	var ids []string
	for _, a := range operations {
		for _, b := range operations {
			id := pairID(a, b)
			ids = append(ids, id)
			us.ok(edit(id, pairsBefore...))
			us.ok(edit(pairGuest(id), add("s", "tea", 4), add("s", "jam", 2)))
		}
	}
	start := us.fsm.marker().Seq
	eu.join(us, 0, start)
	first := us.state(ids[0]).Cart
	// Both are made within the same second; eu's is a millisecond later.
	us.at, eu.at = us.at+crdt.TimestampAt(1000), eu.at+crdt.TimestampAt(1001)
	for _, a := range operations {
		for _, b := range operations {
			a.do(us, pairID(a, b))
			b.do(eu, pairID(a, b))
		}
	}
	usEnd, euEnd := us.fsm.marker().Seq, eu.fsm.marker().Seq
	for _, id := range ids {
		byCarts.apply(joinCart(id, eu.state(id)), joinCart(id, us.state(id)))
	}
	eu.join(us, start, usEnd)
	us.join(eu, 0, euEnd)
	usFirst.join(us, 0, usEnd)
	usFirst.join(eu, 0, euEnd)
	euFirst.join(eu, 0, euEnd)
	euFirst.join(us, 0, usEnd)
	for _, r := range []*rig{us, eu, usFirst, euFirst} {
		r.forward()
	}

	outcomes := map[string]string{}
	for _, a := range operations {
		t.Run(a.name, func(t *testing.T) {
			for _, b := range operations {
				t.Run(b.name, func(t *testing.T) {
					id := pairID(a, b)
					cart := us.state(id).Cart
					for name, r := range map[string]*rig{"eu": eu, "us's rows first": usFirst, "eu's rows first": euFirst, "whole carts": byCarts} {
						if c := r.state(id).Cart; !c.Equal(cart) {
							t.Errorf("%s: %s; us: %s", name, outcomeText(first, c), outcomeText(first, cart))
						}
					}
					expectPair(t, a, b, cart)
					outcomes[id] = outcomeText(first, cart)
				})
			}
		})
	}
	if t.Failed() {
		return
	}
	// Who is where decides nothing but which of two notes or prices is the newer.
	for _, a := range operations {
		for _, b := range operations {
			ab, ba := outcomes[pairID(a, b)], outcomes[pairID(b, a)]
			if here := strings.NewReplacer("us", "eu"); here.Replace(ab) != here.Replace(ba) {
				t.Errorf("%s ∥ %s gives %s, and the other way round %s", a.name, b.name, ab, ba)
			}
		}
	}
	const file = "PAIRS.md"
	table := pairsTable(outcomes)
	if *rewritePairs {
		if err := os.WriteFile(file, []byte(table), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != table {
		t.Errorf("%s is not what comes out (%v); look at what has changed: go test ./region/shard -run TestPairs -rewrite && git diff", file, err)
	}
}

// expectPair holds what must be so of any pair, whatever the table says: a line
// that one of the two wrote is there, with the larger of the quantities that were
// set; else one that one of the two took out is not. A fact that one of the two wrote
// is there, else one that was taken out is not. Erasure beats all.
func expectPair(t *testing.T, a, b operation, cart *crdt.Cart) {
	t.Helper()
	if erased := a.erases || b.erases; cart.IsErased() != erased || erased && len(cart.Lines) != 1 {
		t.Fatalf("erased: %v, with %d entries", cart.IsErased(), len(cart.Lines))
	}
	if cart.IsErased() {
		return
	}
	for _, sku := range []string{"tea", "pot", "cup", "milk", "jam"} {
		want := before[sku]
		qa, wroteA := a.writes[sku]
		qb, wroteB := b.writes[sku]
		switch {
		case wroteA || wroteB:
			want = cmp.Or(max(qa, qb), want)
		case slices.Contains(a.takes, sku) || slices.Contains(b.takes, sku):
			want = 0
		}
		if got := cart.Find(line(sku)).Visible().Quantity; got != want {
			t.Errorf("%d %s, want %d", got, sku, want)
		}
	}
	for _, k := range []crdt.LineKey{ship, ten, l1, l2} {
		given := slices.Contains(a.gives, k) || slices.Contains(b.gives, k)
		dropped := slices.Contains(a.drops, k) || slices.Contains(b.drops, k)
		want := given || !dropped && (k == ship || k == l1)
		if _, got := cart.Fact(crdt.FactKind(k.Options), k.SKU); got != want {
			t.Errorf("%s %s is there: %v, want %v", k.Options, k.SKU, got, want)
		}
	}
}

// outcomeText says in what a cart differs from the one before.
func outcomeText(from, to *crdt.Cart) string {
	if to.IsErased() {
		return "erased"
	}
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if len(linesOf(to)) == 0 {
		say("no lines")
	}
	for _, sku := range []string{"tea", "pot", "cup", "milk", "jam"} {
		l := to.Find(line(sku))
		was, is := from.Find(line(sku)).Visible(), l.Visible()
		if l == nil {
			if was.Quantity > 0 && len(linesOf(to)) > 0 {
				say("no %s", sku)
			}
			continue
		}
		if is.Quantity != was.Quantity || l.Quantity.Concurrent() {
			text := fmt.Sprintf("%d %s", is.Quantity, sku)
			if l.Quantity.Concurrent() {
				var of []uint32
				for _, w := range l.Quantity {
					of = append(of, w.Value)
				}
				slices.Sort(of)
				text += " of " + strings.Trim(strings.ReplaceAll(fmt.Sprint(slices.Compact(of)), " ", ", "), "[]")
			}
			say("%s", text)
		}
		if is.Placement != was.Placement {
			say("%s %s", sku, map[crdt.Placement]string{crdt.InCart: "in the cart", crdt.Saved: "put aside"}[is.Placement])
		}
		if was.Quantity > 0 && is.Offer.Price != was.Offer.Price {
			say("%s at %d.%02d", sku, is.Offer.Price/100, is.Offer.Price%100)
		}
		if is.Attributes.Pairs != was.Attributes.Pairs {
			say("%s with the note of %s", sku, crdt.Pairs(is.Attributes.Pairs)["note"])
		}
	}
	for _, kind := range []struct {
		crdt.FactKind
		word string
	}{{crdt.FactCode, "code"}, {crdt.FactShare, "link"}} {
		was, is := maps.Collect(from.Facts(kind.FactKind)), maps.Collect(to.Facts(kind.FactKind))
		for _, id := range slices.Sorted(maps.Keys(was)) {
			if _, ok := is[id]; !ok {
				say("no %s %s", kind.word, id)
			}
		}
		for _, id := range slices.Sorted(maps.Keys(is)) {
			if _, ok := was[id]; !ok {
				say("%s %s", kind.word, id)
			}
		}
	}
	for range to.Facts(crdt.FactGuest) {
		say("merged")
	}
	if len(out) == 0 {
		return "as before"
	}
	return strings.Join(out, ", ")
}

// pairsTable writes all outcomes, a table for each first operation.
func pairsTable(outcomes map[string]string) string {
	var b strings.Builder
	n := len(operations)
	fmt.Fprintf(&b, "# What comes of two operations at the same time\n\n"+
		"Two regions have the same cart: %s. One makes one operation, the other another, and then they hear of each other. All regions have the\n"+
		"same cart then, in whatever order and by whatever way the news comes; this is in what it differs from the one before. All %d × %d ordered pairs: the first\n"+
		"operation is made in us, the second in eu, a millisecond later by its clock. *7 tea of 1, 7* shows 7, and tells the shopper of both.\n\n"+
		"`go test ./region/shard -run 'TestPairs/add/remove'` is the test that holds a pair (a space in a name is `_`). This file is written by\n"+
		"`go test ./region/shard -run TestPairs -rewrite`; the test fails when it says something else than what comes out.\n\n"+
		"| operation | |\n|---|---|\n", pairsBeforeText, n, n)
	for _, o := range operations {
		fmt.Fprintf(&b, "| [%s](#%s) | %s |\n", o.name, strings.NewReplacer(" ", "-", ",", "").Replace(o.name), o.does)
	}
	for _, a := range operations {
		fmt.Fprintf(&b, "\n## %s\n\n| %s ∥ | outcome |\n|---|---|\n", a.name, a.name)
		for _, o := range operations {
			fmt.Fprintf(&b, "| %s | %s |\n", o.name, outcomes[pairID(a, o)])
		}
	}
	return b.String()
}
