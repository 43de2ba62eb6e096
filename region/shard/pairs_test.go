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
	// it is; lines that are taken out.
	writes map[string]uint32
	takes  []string
	erases bool
}

// The cart before: what the pairs start from.
var (
	pairsBefore = []*regionv1.Change{add("s", "tea", 2), add("s", "pot", 1), add("s", "cup", 1), share("l1", time.Hour)}
	before      = map[string]uint32{"tea": 2, "pot": 1, "cup": 1}
)

const pairsBeforeText = "2 tea and a pot in the cart, a cup put aside, the code SHIP, and the link l1"

var operations = []operation{
	{"add", "adds 3 tea", commands(add("s", "tea", 3)), map[string]uint32{"tea": 5}, nil, false},
	{"add new", "adds milk, which is not there", commands(add("s", "milk", 1)), map[string]uint32{"milk": 1}, nil, false},
	{"set higher", "sets tea to 7", commands(set("s", "tea", 7)), map[string]uint32{"tea": 7}, nil, false},
	{"set lower", "sets tea to 1", commands(set("s", "tea", 1)), map[string]uint32{"tea": 1}, nil, false},
	{"set to 0", "sets tea to 0", commands(set("s", "tea", 0)), nil, []string{"tea"}, false},
	{"remove", "removes tea", commands(remove("s", "tea")), nil, []string{"tea"}, false},
	{"remove saved", "removes the cup, which is put aside", commands(remove("s", "cup")), nil, []string{"cup"}, false},
	{"clear", "removes all lines", commands(clearAll()), nil, []string{"tea", "pot", "cup"}, false},
	{"save", "puts tea aside", mutates(placed("tea", crdt.Saved)), map[string]uint32{"tea": 0}, nil, false},
	{"move", "puts the cup back into the cart", mutates(placed("cup", crdt.InCart)), map[string]uint32{"cup": 0}, nil, false},
	{"save, move", "puts tea aside and back", mutates(placed("tea", crdt.Saved), placed("tea", crdt.InCart)), map[string]uint32{"tea": 0}, nil, false},
	{"describe", "writes a note for tea", mutates(noted), map[string]uint32{"tea": 0}, nil, false},
	{"renew", "adds a tea, at another price", commands(renewed(add("s", "tea", 1), 2499)), map[string]uint32{"tea": 3}, nil, false},
	{"add code", "gives the code TEN", mutates(func(c *crdt.Cart, w crdt.Writer) []crdt.Delta {
		return []crdt.Delta{c.SetFact(w, crdt.FactCode, "TEN", "")}
	}), nil, nil, false},
	{"drop code", "takes the code SHIP out", mutates(func(c *crdt.Cart, w crdt.Writer) []crdt.Delta {
		return []crdt.Delta{c.DropFact(w, crdt.FactCode, "SHIP")}
	}), nil, nil, false},
	{"merge", "merges a guest's cart with 4 tea and 2 jam", mutates(mergeGuest), map[string]uint32{"tea": 4, "jam": 2}, nil, false},
	{"undo", "removes tea, and undoes it", mutates(removeTea, addTea), map[string]uint32{"tea": 2}, nil, false},
	{"erase", "erases the cart", mutates(func(c *crdt.Cart, w crdt.Writer) []crdt.Delta { return []crdt.Delta{c.Erase(w)} }), nil, nil, true},
	{"expire", "finds that the cart has expired", mutates((*crdt.Cart).Clear), nil, []string{"tea", "pot", "cup"}, false},
	{"share", "makes the link l2", commands(share("l2", time.Hour)), nil, nil, false},
	{"unshare", "revokes the link l1", commands(unshare("l1")), nil, nil, false},
	{"batch", "at once: sets tea to 6, removes the pot, adds a jam", commands(set("s", "tea", 6), remove("s", "pot"), add("s", "jam", 1)),
		map[string]uint32{"tea": 6, "jam": 1}, []string{"pot"}, false},
}

// commands is an operation that is an edit, as a region's API proposes it.
func commands(changes ...*regionv1.Change) func(*rig, string) {
	return func(r *rig, id string) {
		r.t.Helper()
		r.ok(edit(id, changes...))
	}
}

type mutator func(*crdt.Cart, crdt.Writer) []crdt.Delta

// mutates is an operation that has no command here: what a command would do with
// the cart, one mutator after the other.
func mutates(steps ...mutator) func(*rig, string) {
	return func(r *rig, id string) {
		r.t.Helper()
		b := &batch{fsm: r.fsm, tx: r.fsm.current().Begin()}
		r.index++
		w := &workspace{tx: b.tx, slots: r.fsm.slots, lookup: r.fsm.carts.get, index: r.index, limits: r.limits, at: r.at}
		old, err := w.record(id)
		if err != nil {
			r.t.Fatalf("read %q: %v", id, err)
		}
		m := b.tx.Marker()
		writer := crdt.Writer{Replica: crdt.Replica{Region: m.Region, Incarnation: m.Incarnation}, At: w.now(), QuantityMax: r.limits.Quantity}
		cart := stateOf(old).Cart
		for _, step := range steps {
			for _, d := range step(cart, writer) {
				cart = cart.Apply(d)
				w.tx.AppendRow(crdt.Row{CartID: id, At: writer.At, Delta: d})
			}
		}
		w.put(id, old, crdt.State{Cart: cart}, old.Asked)
		m.Applied = r.index
		if err := b.commit(); err != nil {
			r.t.Fatalf("commit: %v", err)
		}
	}
}

func line(sku string) crdt.LineKey { return crdt.LineKey{Seller: "s", SKU: sku} }

func placed(sku string, p crdt.Placement) mutator {
	return func(c *crdt.Cart, w crdt.Writer) []crdt.Delta { return []crdt.Delta{c.SetPlacement(w, line(sku), p)} }
}

// noted's note says which region wrote it.
func noted(c *crdt.Cart, w crdt.Writer) []crdt.Delta {
	note := map[string]string{"note": map[crdt.RegionID]string{1: "us", 2: "eu"}[w.Replica.Region]}
	return []crdt.Delta{c.SetAttributes(w, line("tea"), crdt.CanonicalPairs(note))}
}

func removeTea(c *crdt.Cart, w crdt.Writer) []crdt.Delta {
	return []crdt.Delta{c.Remove(w, line("tea"))}
}

func addTea(c *crdt.Cart, w crdt.Writer) []crdt.Delta {
	return []crdt.Delta{c.Add(w, line("tea"), 2, crdt.Offer{Price: 2999, Currency: "USD", AddedAt: crdt.TimestampAt(epoch.UnixMilli())}, true)}
}

// mergeGuest joins the guest's own dots under the guest's lineage: the same in
// both regions, wherever the merge is made.
func mergeGuest(c *crdt.Cart, w crdt.Writer) []crdt.Delta {
	guest := &crdt.Cart{}
	as := crdt.Writer{Replica: crdt.Replica{Region: 1, Incarnation: 0, Lineage: "guest:g"}, At: crdt.TimestampAt(epoch.UnixMilli())}
	offer := crdt.Offer{Price: 2999, Currency: "USD", AddedAt: as.At}
	deltas := []crdt.Delta{guest.Add(as, line("tea"), 4, offer, true)}
	guest = guest.Apply(deltas[0])
	deltas = append(deltas, guest.Add(as, line("jam"), 2, offer, true))
	return append(deltas, c.SetFact(w, crdt.FactGuest, "guest:g", ""))
}

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
	var ids []string
	for _, a := range operations {
		for _, b := range operations {
			id := pairID(a, b)
			ids = append(ids, id)
			us.ok(edit(id, pairsBefore...))
			mutates(placed("cup", crdt.Saved), func(c *crdt.Cart, w crdt.Writer) []crdt.Delta {
				return []crdt.Delta{c.SetFact(w, crdt.FactCode, "SHIP", "")}
			})(us, id)
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
// set; else one that one of the two took out is not; erasure beats both.
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
	}{{crdt.FactCode, "code"}, {crdt.FactShare, "link"}, {crdt.FactGuest, "merged"}} {
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
