package shard

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

// share makes a link's fact that expires so long after the rig's first entry.
func share(id string, life time.Duration, lines ...*regionv1.SharedLine) *regionv1.Change {
	value := crdt.CanonicalPairs(map[string]string{crdt.ShareExpires: fmt.Sprint(epoch.Add(life).UnixMilli()), "mode": "snapshot"})
	return &regionv1.Change{Kind: regionv1.Change_KIND_SHARE, FactId: id, Value: value, Shared: lines}
}

func unshare(id string) *regionv1.Change {
	return &regionv1.Change{Kind: regionv1.Change_KIND_UNSHARE, FactId: id}
}

func sharedLine(seller, sku string, n uint32, currency string) *regionv1.SharedLine {
	return &regionv1.SharedLine{
		Line: &regionv1.LineKey{Seller: seller, Sku: sku}, Quantity: n, Price: 5, Currency: currency, AddedAt: uint64(crdt.TimestampAt(7)),
	}
}

func (r *rig) links(id string) []string {
	r.t.Helper()
	return slices.Sorted(maps.Keys(maps.Collect(r.state(id).Cart.Facts(crdt.FactShare))))
}

func TestShareWritesTheFactAfterTheLines(t *testing.T) {
	eu, us := two(t)
	// More lines than a cart may have, in two currencies: what was joined so is
	// shared so.
	var lines []*regionv1.SharedLine
	want := map[string]uint32{}
	for i := range eu.limits.Lines + 2 {
		lines = append(lines, sharedLine("s", fmt.Sprint("a", i), 100+i, []string{"USD", "GBP"}[i%2]))
		want[fmt.Sprintf("s/a%d/", i)] = 100 + i
	}
	c := share("l", time.Hour, lines...)
	eu.ok(withOp(1, edit("share:l", c)))
	eu.want("share:l", want)
	v, ok := eu.state("share:l").Cart.Fact(crdt.FactShare, "l")
	if !ok || v.Pairs != c.Value {
		t.Fatalf("fact %+v, %v", v, ok)
	}
	if o := eu.state("share:l").Cart.Find(crdt.LineKey{Seller: "s", SKU: "a1"}).Visible().Offer; o != (crdt.Offer{Price: 5, Currency: "GBP", AddedAt: crdt.TimestampAt(7)}) {
		t.Errorf("offer %+v", o)
	}
	rows := eu.rows(0)
	if last := rows[len(rows)-1].Delta.Key; len(rows) != len(lines)+1 || last != crdt.FactKey(crdt.FactShare, "l") {
		t.Fatalf("%d rows, the last of %v", len(rows), last)
	}
	// Wherever the fact is, all lines are.
	for n := range uint64(len(rows)) {
		us.join(eu, n, n+1)
		if _, ok := us.state("share:l").Cart.Fact(crdt.FactShare, "l"); ok && !maps.Equal(us.lines("share:l"), want) {
			t.Fatalf("after %d rows the fact is there, with %v", n+1, us.lines("share:l"))
		}
	}
	if !us.state("share:l").Cart.Equal(eu.state("share:l").Cart) {
		t.Fatal("regions differ")
	}
	if out := eu.ok(withOp(1, edit("share:l", c))); !out.Replayed {
		t.Error("a retry was applied again")
	}
	if out := us.ok(withOp(1, edit("share:l", c))); !out.Replayed {
		t.Error("a retry in another region was applied again")
	}
}

func TestUnshareTakesOutWhatItHasSeen(t *testing.T) {
	eu, us := two(t)
	eu.ok(edit("c", add("s", "a", 1)))
	eu.ok(edit("c", share("l", time.Hour)))
	eu.ok(edit("c", share("m", time.Hour)))
	us.join(eu, 0, 3)
	us.ok(edit("c", unshare("l")))
	eu.join(us, 0, 1)
	for _, r := range []*rig{eu, us} {
		if got := r.links("c"); !slices.Equal(got, []string{"m"}) {
			t.Errorf("links %v, want m alone", got)
		}
		r.want("c", map[string]uint32{"s/a/": 1})
	}
	us.refuse(regionv1.Outcome_CODE_SHARE_NOT_FOUND, edit("c", unshare("l")))
	us.refuse(regionv1.Outcome_CODE_SHARE_NOT_FOUND, edit("none", unshare("l")))
	// All or nothing: what stands beside it in a batch.
	us.refuse(regionv1.Outcome_CODE_SHARE_NOT_FOUND, edit("c", add("s", "b", 1), unshare("l")))
	us.ok(edit("c", unshare("m"), clearAll()))
	if c := us.state("c").Cart; len(c.Lines) != 0 {
		t.Errorf("%d entries are left", len(c.Lines))
	}
}

func TestLinksOfACartAreBounded(t *testing.T) {
	r := newTestRig(t)
	bounded := func(id string, life time.Duration) *regionv1.Change {
		c := share(id, life)
		c.SharesMax = 3
		return c
	}
	r.ok(edit("c", bounded("a", time.Minute)))
	r.ok(edit("c", bounded("b", time.Hour)))
	r.ok(edit("c", bounded("c", time.Hour)))
	if out := r.refuse(regionv1.Outcome_CODE_TOO_MANY_SHARES, edit("c", bounded("d", time.Hour))); !slices.Equal(out.Details, []string{"3"}) {
		t.Errorf("details %v", out.Details)
	}
	r.ok(edit("c", bounded("b", 2*time.Hour))) // the same link once more
	r.at = crdt.TimestampAt(epoch.Add(time.Minute).UnixMilli())
	r.ok(edit("c", bounded("d", time.Hour)))
	if got := r.links("c"); !slices.Equal(got, []string{"b", "c", "d"}) {
		t.Errorf("links %v: the expired one makes room, and goes", got)
	}
}

func TestMalformedSharesStayOutOfTheLog(t *testing.T) {
	s := &Shard{cfg: Config{Slots: NewSlots(1)}}
	good := func() *regionv1.Change { return share("l", time.Hour, sharedLine("s", "a", 1, "USD")) }
	if err := s.check(editCommand(edit("c", good(), unshare("l")))); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*regionv1.Change){
		"no id":         func(c *regionv1.Change) { c.FactId = "" },
		"long id":       func(c *regionv1.Change) { c.FactId = strings.Repeat("x", 129) },
		"not canonical": func(c *regionv1.Change) { c.Value = "b=1&a=2" },
		"long value":    func(c *regionv1.Change) { c.Value = "a=" + strings.Repeat("x", 8<<10) },
		"no seller":     func(c *regionv1.Change) { c.Shared[0].Line.Seller = "" }, // it would be a fact
		"no line":       func(c *regionv1.Change) { c.Shared[0].Line = nil },
		"no quantity":   func(c *regionv1.Change) { c.Shared[0].Quantity = 0 },
		"unshare":       func(c *regionv1.Change) { c.Kind = regionv1.Change_KIND_UNSHARE },
	} {
		c := good()
		spoil(c)
		if err := s.check(editCommand(edit("c", c))); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
