package simulations

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
)

// show writes what all regions show of a cart: one line when it is the same.
func (st *stage) show(cart string) {
	of := ""
	if cart != defaultCart {
		of = ", cart of " + cart
	}
	var texts []string
	for r := range st.world.plan.Shape.Regions {
		texts = append(texts, st.call(call{at: regionNames[r], verb: "get", cart: cart}))
	}
	if len(slices.Compact(slices.Clone(texts))) == 1 {
		st.write("all regions%s: %s", of, texts[0])
		return
	}
	for r, text := range texts {
		st.write("%s%s: %s", regionNames[r], of, text)
	}
}

func cartText(c *cartv1.Cart, prices bool) string {
	text := linesText(c.GetItems(), prices)
	if len(c.GetSavedItems()) > 0 {
		text += ", saved " + linesText(c.GetSavedItems(), prices)
	}
	return text + conflictsText(c.GetConflicts()) + warningsText(c.GetWarnings())
}

// mergeText says what a guest's cart brought.
func mergeText(m *cartv1.MergeCartResponse) string {
	return fmt.Sprintf("%d merged, %d conflicts resolved", m.GetMergedItems(), m.GetConflictsResolved()) +
		conflictsText(m.GetConflicts()) + warningsText(m.GetWarnings())
}

func warningsText(warnings []string) (text string) {
	for _, w := range warnings {
		text += ", warning: " + w
	}
	return text
}

func linesText(items []*cartv1.Item, prices bool) string {
	var lines []string
	for _, i := range items {
		text := fmt.Sprintf("%s: %d", lineText(i.GetSkuId(), i.GetSellerId(), i.GetOptions()), i.GetQuantity()) + attributesText(i)
		if prices {
			text += " at " + amountText(i.GetPriceAtAdd())
			if i.GetPriceChanged() {
				text += fmt.Sprintf(" (now sold at %s; %s counts)", amountText(i.GetCurrentPrice()), amountText(i.GetPrice()))
			}
		}
		lines = append(lines, text)
	}
	slices.Sort(lines)
	return "{" + strings.Join(lines, ", ") + "}"
}

// attributesText is what a describe has written.
func attributesText(i *cartv1.Item) (text string) {
	for _, name := range slices.Sorted(maps.Keys(i.GetAttributes())) {
		text += fmt.Sprintf(" (%s: %s)", name, i.GetAttributes()[name])
	}
	return text
}

func conflictsText(conflicts []*cartv1.Conflict) string {
	var b strings.Builder
	for _, c := range conflicts {
		fmt.Fprintf(&b, ", conflict: %s has %s %s of %s", lineText(c.GetSkuId(), c.GetSellerId(), nil), c.GetField(), c.GetValue(), strings.Join(c.GetValues(), " and "))
	}
	return b.String()
}

// itemText says what became of a line.
func itemText(line *cartv1.LineRef, r *cartv1.ItemResponse) string {
	if i := r.GetItem(); i != nil {
		return fmt.Sprintf("%s: %d", lineText(i.GetSkuId(), i.GetSellerId(), i.GetOptions()), i.GetQuantity()) + attributesText(i) + conflictsText(r.GetConflicts())
	}
	if line == nil {
		return "cleared"
	}
	return lineText(line.GetSkuId(), line.GetSellerId(), line.GetOptions()) + ": gone"
}

func flagsText(replayed, stale bool) (text string) {
	if replayed {
		text += ", replayed"
	}
	if stale {
		text += ", stale"
	}
	return text
}

func missingText(stale bool, missing []*cartv1.Missing) string {
	text := flagsText(false, stale)
	for _, m := range missing {
		text += fmt.Sprintf(", lacks %d of %s", m.GetEdits(), m.GetRegion())
	}
	return text
}

// explainText says of each field with what would be otherwise without the others
// which writes survive, and which count.
func explainText(x *cartv1.ExplainCartResponse) string {
	var out []string
	for _, l := range x.GetLines() {
		for _, f := range l.GetFields() {
			if f.GetField() == "placement" && !slices.ContainsFunc(f.GetWrites(), func(w *cartv1.ExplainedWrite) bool { return w.GetValue() != "cart" }) {
				continue // as most lines are
			}
			var writes []string
			for _, w := range f.GetWrites() {
				text := w.GetRegion() + " " + w.GetValue()
				if w.GetWins() {
					text += " (counts)"
				}
				writes = append(writes, text)
			}
			slices.Sort(writes)
			out = append(out, fmt.Sprintf("  %s %s %s: %s; %s", lineText(l.GetSkuId(), l.GetSellerId(), l.GetOptions()), f.GetField(), f.GetValue(), f.GetRule(), strings.Join(writes, ", ")))
		}
	}
	slices.Sort(out)
	if out == nil {
		return "nothing"
	}
	return "\n" + strings.Join(out, "\n")
}

// receiptsText says which regions have erased a cart.
func receiptsText(r *cartv1.EraseCartResponse) string {
	var out []string
	for _, e := range r.GetRegions() {
		text := e.GetRegion() + " erased"
		if !e.GetErased() {
			text = e.GetRegion() + " pending"
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}
