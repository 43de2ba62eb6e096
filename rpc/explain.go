package rpc

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
)

// Why a value counts.
const (
	ruleOnly     = "the only surviving write"
	ruleSame     = "all surviving writes agree"
	ruleCarried  = "a concurrent remove dropped the writes of this field; the value that a surviving write of the line carries stands in"
	rulePresence = "the line is there while a write of it survives that no remove has seen"
)

var rules = map[string]string{
	fieldQuantity:   "of concurrent quantities the largest counts",
	fieldPlacement:  "of concurrent placements the cart counts before saved",
	fieldPrice:      "of concurrent offers the newest counts, then the lower price",
	fieldAttributes: "of concurrent attributes the newest counts, then the order of the regions",
}

// explain shows the surviving writes behind every line of the caller's cart.
func (s *service) explain(ctx context.Context, c call) (*cartv1.ExplainCartResponse, meta, error) {
	v, err := s.read(ctx, c)
	if err != nil {
		return nil, meta{}, err
	}
	x := explainer{names: s.cfg.RegionNames, ops: make(map[crdt.Dot]crdt.Op, len(v.State.Ops))}
	for _, op := range v.State.Ops {
		x.ops[op.Dot] = op
	}
	cart := cartOf(v)
	out := &cartv1.ExplainCartResponse{CartId: v.CartID, Context: cart.Context.String()}
	for _, e := range cart.Lines {
		if e.Line.IsThere() {
			out.Lines = append(out.Lines, x.line(e))
		}
	}
	out.Codes = x.explainCodes(cart)
	m, _ := s.metaFor(c, v)
	return out, m, nil
}

type explainer struct {
	names map[crdt.RegionID]string
	ops   map[crdt.Dot]crdt.Op
}

func (x explainer) line(e crdt.MapEntry) *cartv1.ExplainedLine {
	l, v := e.Line, e.Line.Visible()
	out := &cartv1.ExplainedLine{SkuId: e.Key.SKU, SellerId: e.Key.Seller, Options: crdt.Pairs(e.Key.Options)}
	presence := &cartv1.ExplainedField{Field: fieldPresence, Value: "present", Rule: rulePresence}
	for _, w := range l.Presence {
		presence.Writes = append(presence.Writes, x.write(w.Dot, crdt.Timestamp(0), carriedText(w.Value), true))
	}
	attributes := func(a crdt.Attributes) string { return a.Pairs }
	out.Fields = []*cartv1.ExplainedField{
		presence,
		explainField(x, fieldQuantity, l.Quantity, l.Presence, v.Quantity, func(c crdt.Carried) uint32 { return c.Quantity }, quantityText, noTime),
		explainField(x, fieldPlacement, l.Placement, l.Presence, v.Placement, func(c crdt.Carried) crdt.Placement { return c.Placement }, placementText, noTime),
		explainField(x, fieldPrice, l.Offer, l.Presence, v.Offer, func(c crdt.Carried) crdt.Offer { return c.Offer }, offerText, func(o crdt.Offer) crdt.Timestamp { return o.AddedAt }),
		explainField(x, fieldAttributes, l.Attributes, l.Presence, v.Attributes, func(c crdt.Carried) crdt.Attributes { return c.Attributes }, attributes, func(a crdt.Attributes) crdt.Timestamp { return a.At }),
	}
	// Most lines have no attributes: nobody wrote them, there is nothing to say.
	out.Fields = slices.DeleteFunc(out.Fields, func(f *cartv1.ExplainedField) bool {
		return f.GetField() == fieldAttributes && f.GetValue() == "" && len(l.Attributes) == 0
	})
	return out
}

// noTime is for fields whose values do not know when they were written.
func noTime[V any](V) crdt.Timestamp { return 0 }

// explainField lists the writes of one field. When a concurrent remove
// dropped them all, those are the presence's, which carry it.
func explainField[V comparable](
	x explainer, field string, r crdt.Register[V], presence crdt.Register[crdt.Carried], value V,
	carried func(crdt.Carried) V, text func(V) string, at func(V) crdt.Timestamp,
) *cartv1.ExplainedField {
	out := &cartv1.ExplainedField{Field: field, Value: text(value)}
	switch {
	case len(r) == 0:
		out.Rule = ruleCarried
		for _, w := range presence {
			got := carried(w.Value)
			out.Writes = append(out.Writes, x.write(w.Dot, at(got), text(got), got == value))
		}
		return out
	case len(r) == 1:
		out.Rule = ruleOnly
	case !r.Concurrent():
		out.Rule = ruleSame
	default:
		out.Rule = rules[field]
	}
	for _, w := range r {
		out.Writes = append(out.Writes, x.write(w.Dot, at(w.Value), text(w.Value), w.Value == value))
	}
	return out
}

func (x explainer) write(d crdt.Dot, at crdt.Timestamp, value string, wins bool) *cartv1.ExplainedWrite {
	name, ok := x.names[d.Replica.Region]
	if !ok {
		name = fmt.Sprintf("region-%d", d.Replica.Region)
	}
	w := &cartv1.ExplainedWrite{
		Region: name, Incarnation: d.Replica.Incarnation, Lineage: d.Replica.Lineage, Seq: d.Seq,
		AtMs: at.UnixMilli(), Value: value, Wins: wins,
	}
	if op, ok := x.ops[d]; ok {
		w.OpId, w.AtMs = hex.EncodeToString(op.ID[:]), op.At.UnixMilli()
	}
	return w
}

func carriedText(c crdt.Carried) string {
	return fmt.Sprintf("quantity %d, %s, %s", c.Quantity, placementText(c.Placement), offerText(c.Offer))
}
