package rpc_test

import (
	"strings"
	"testing"

	"github.com/samecart/samecart/crdt"
)

// Why is this quantity 3? Because another region wrote 3 while this one wrote 2.
func TestExplainSaysWhatLostAndWhy(t *testing.T) {
	w := start(t)
	w.add("SKU-456", "2")
	k := crdt.LineKey{Seller: "seller-1", SKU: "SKU-456"}
	there := crdt.Writer{Replica: crdt.Replica{Region: 2, Incarnation: 1}, At: crdt.TimestampAt(1_800_000_000_000)}
	other := &crdt.Cart{}
	other = other.Apply(other.Add(there, k, 3, crdt.Offer{Price: 2999, Currency: "USD", AddedAt: there.At}, false))
	other = other.Apply(other.SetFact(there, crdt.FactCode, "SPRING", ""))
	other = other.Apply(other.SetFact(there, crdt.FactGuest, "guest:g", ""))
	other = other.Apply(other.SetFact(there, crdt.FactRights, "2.1", "n=3"))
	w.region.join("cart:user-123", other)
	x := w.do("GET", "/api/v1/cart/explain", "").json(t)
	fields := x["lines"].([]any)[0].(map[string]any)["fields"].([]any)
	var quantity map[string]any
	for _, f := range fields {
		if f := f.(map[string]any); f["field"] == "quantity" {
			quantity = f
		}
	}
	why := quantity["why"].(string)
	if !strings.HasPrefix(why, "quantity is 3: written by eu-west; written meanwhile as 2 by us-east") || !strings.Contains(why, "the largest counts") {
		t.Errorf("why: %s", why)
	}
	for _, wr := range quantity["writes"].([]any) {
		wr := wr.(map[string]any)
		lost, _ := wr["lost"].(string)
		if wins := wr["wins"].(bool); wins != (wr["region"] == "eu-west") || wins != (lost == "") {
			t.Errorf("write %v", wr)
		} else if !wins && !strings.Contains(lost, "to 3 by eu-west: neither had seen the other, and of concurrent quantities the largest counts") {
			t.Errorf("lost %s", lost)
		}
	}
	facts := x["facts"].([]any)
	if len(facts) != 2 { // what regions hold of counters is not the shopper's
		t.Fatalf("facts %v", facts)
	}
	f := facts[0].(map[string]any)
	wr := f["writes"].([]any)[0].(map[string]any)
	if f["kind"] != "code" || f["id"] != "SPRING" || wr["region"] != "eu-west" || wr["at"] != "2027-01-15T08:00:00.000Z" {
		t.Errorf("fact %v", f)
	}
	// A quantity above what a line holds says what shows.
	big := other.Apply(other.SetQuantity(there, k, 5000))
	w.region.join("cart:user-123", big)
	if b := w.do("GET", "/api/v1/cart/explain", "").body; !strings.Contains(b, "999 is the most that a line holds, and what shows") {
		t.Errorf("explain %s", b)
	}
	// A remove elsewhere that saw this region's add, but not the other's set.
	saved := big.Apply(big.SetPlacement(there, k, crdt.Saved))
	removed := big.Apply(big.Remove(crdt.Writer{Replica: crdt.Replica{Region: 1, Incarnation: 9}, At: there.At}, k))
	w.region.join("cart:user-9", crdt.Join(saved, removed))
	b := w.do("GET", "/api/v1/cart/explain", "", "X-User-Id", "user-9").body
	if !strings.Contains(b, "quantity is 5000: a concurrent remove dropped the writes of it, but had not seen the line written by eu-west, who had seen 5000") {
		t.Errorf("explain %s", b)
	}
}
