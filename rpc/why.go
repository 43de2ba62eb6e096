package rpc

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
)

// say puts into words why a field has its value, and of each write that does not
// count what it lost to.
func (x explainer) say(f *cartv1.ExplainedField) {
	var winners, losers []string
	for _, w := range f.GetWrites() {
		if w.GetWins() {
			winners = append(winners, writerText(w))
		} else {
			losers = append(losers, fmt.Sprintf("%s by %s", w.GetValue(), writerText(w)))
		}
	}
	by := strings.Join(slices.Compact(winners), " and by ")
	for _, w := range f.GetWrites() {
		if !w.GetWins() {
			w.Lost = fmt.Sprintf("to %s by %s: neither had seen the other, and %s", f.GetValue(), by, rules[f.GetField()])
		}
	}
	switch {
	case f.GetField() == fieldPresence:
		f.Why = fmt.Sprintf("the line is there: it was written by %s, and no remove has seen that", by)
	case f.GetRule() == ruleCarried && len(losers) > 0:
		f.Why = fmt.Sprintf("%s is %s: a concurrent remove dropped the writes of it; the line was also written by %s, who had seen %s, and as %s; %s",
			f.GetField(), f.GetValue(), by, f.GetValue(), strings.Join(losers, ", "), rules[f.GetField()])
	case f.GetRule() == ruleCarried:
		f.Why = fmt.Sprintf("%s is %s: a concurrent remove dropped the writes of it, but had not seen the line written by %s, who had seen %s",
			f.GetField(), f.GetValue(), by, f.GetValue())
	case len(losers) > 0:
		f.Why = fmt.Sprintf("%s is %s: written by %s; written meanwhile as %s; %s", f.GetField(), f.GetValue(), by, strings.Join(losers, ", "), rules[f.GetField()])
	default:
		f.Why = fmt.Sprintf("%s is %s: written by %s, and by nobody who had not seen that or was seen by it", f.GetField(), f.GetValue(), by)
	}
	if n, err := strconv.ParseUint(f.GetValue(), 10, 32); f.GetField() == fieldQuantity && err == nil && n > uint64(x.quantityMax) {
		f.Why += fmt.Sprintf("; %d is the most that a line holds, and what shows", x.quantityMax)
	}
}

// writerText names who wrote, and when, as far as that is known.
func writerText(w *cartv1.ExplainedWrite) string {
	text := w.GetRegion()
	if w.GetLineage() != "" {
		text += " for " + w.GetLineage()
	}
	if w.GetAtMs() != 0 {
		text += " at " + timeText(w.GetAtMs())
	}
	return text
}

// factRules say of the facts that are a shopper's own when they hold.
var factRules = map[crdt.FactKind]string{
	crdt.FactCode:    "the code is in the cart while a write of it survives that no removal of the code has seen",
	crdt.FactGuest:   "this guest's cart was merged into the cart: what it wrote bears its id",
	crdt.FactMerged:  "this cart is a guest's, and was merged into that one",
	crdt.FactShare:   "this link shows the cart to whoever has it, while it is not withdrawn",
	crdt.FactExpired: "the guest session of this cart has ended",
}

// fact explains what the cart knows beside its lines; nil for what is not about the
// shopper, or of which only a part has arrived.
func (x explainer) fact(e crdt.MapEntry) *cartv1.ExplainedFact {
	kind := crdt.FactKind(e.Key.Options)
	rule, ok := factRules[kind]
	if !ok || len(e.Line.Attributes) == 0 {
		return nil
	}
	out := &cartv1.ExplainedFact{Kind: string(kind), Id: e.Key.SKU, Rule: rule}
	for _, w := range e.Line.Attributes {
		out.Writes = append(out.Writes, x.write(w.Dot, w.Value.At, "", true))
	}
	return out
}
