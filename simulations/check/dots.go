package check

import (
	"fmt"

	"github.com/samecart/samecart/crdt"
)

// Dots remembers for what each dot was issued.
type Dots struct {
	issued map[string]map[crdt.Dot]string
	op     map[string]map[crdt.Dot]crdt.OpID
}

// See takes in what a region holds of a cart, and returns a violation for each dot
// that stands for something else than it did anywhere before.
func (d *Dots) See(where, cart string, s crdt.State) (out []Violation, evaluated int) {
	if d.issued == nil {
		d.issued, d.op = make(map[string]map[crdt.Dot]string), make(map[string]map[crdt.Dot]crdt.OpID)
	}
	if d.issued[cart] == nil {
		d.issued[cart], d.op[cart] = make(map[crdt.Dot]string), make(map[crdt.Dot]crdt.OpID)
	}
	for _, e := range s.Cart.Lines {
		what := fmt.Sprint(e.Key)
		for _, dot := range dotsOf(e.Line) {
			evaluated++
			if was, ok := d.issued[cart][dot]; ok && was != what {
				out = append(out, violation("dots", "%v of %s is of line %s, and was of %s: issued twice", dot, cart, what, was))
			}
			d.issued[cart][dot] = what
			if !s.Cart.Context.Has(dot) {
				out = append(out, violation("dots", "%s holds %v of %s, and its context does not", where, dot, cart))
			}
		}
	}
	for _, o := range s.Ops {
		if o.Dot == (crdt.Dot{}) {
			continue // a request that wrote nothing
		}
		evaluated++
		if was, ok := d.op[cart][o.Dot]; ok && was != o.ID {
			out = append(out, violation("dots", "%v of %s was made by request %x, and by %x: issued twice", o.Dot, cart, o.ID, was))
		}
		d.op[cart][o.Dot] = o.ID
	}
	return out, evaluated
}

func dotsOf(l *crdt.Line) []crdt.Dot {
	out := appendDots(nil, l.Presence)
	out = appendDots(out, l.Quantity)
	out = appendDots(out, l.Placement)
	out = appendDots(out, l.Offer)
	return appendDots(out, l.Attributes)
}

func appendDots[V comparable](out []crdt.Dot, r crdt.Register[V]) []crdt.Dot {
	for _, w := range r {
		out = append(out, w.Dot)
	}
	return out
}
