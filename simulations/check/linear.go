package check

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// Linearizable checks that the edits and strong reads of each cart, all of one
// region and none of another, have one order that explains every answer. patience
// bounds the search for one cart; when it runs out the cart is not judged.
func Linearizable(ops []Op, patience time.Duration) (out []Violation, evaluated int) {
	for cart, all := range byCart(ops) {
		var history []porcupine.Operation
		for _, o := range all {
			if o.Outcome == Refused || o.Kind == Get || o.Outcome == Unknown && o.reads() {
				continue
			}
			end := int64(o.End)
			if o.Outcome == Unknown {
				end = math.MaxInt64
			}
			history = append(history, porcupine.Operation{ClientId: o.Session, Input: o, Call: int64(o.Begin), Output: o, Return: end})
		}
		switch porcupine.CheckOperationsTimeout(cartModel, history, patience) {
		case porcupine.Ok:
			evaluated += len(history)
		case porcupine.Illegal:
			out = append(out, violation("linear", "%s: no order explains its %d calls; the last of those that none explains:\n%s",
				cart, len(history), list(unexplained(history, patience))))
		case porcupine.Unknown:
		}
	}
	return out, evaluated
}

// unexplained returns the last calls of the shortest beginning of a history that has
// no order.
func unexplained(history []porcupine.Operation, patience time.Duration) (out []Op) {
	slices.SortFunc(history, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	n := sort.Search(len(history), func(n int) bool {
		return porcupine.CheckOperationsTimeout(cartModel, history[:n], patience) == porcupine.Illegal
	})
	const context = 25
	for _, h := range history[max(0, n-context):n] {
		out = append(out, h.Input.(Op))
	}
	return out
}

func list(ops []Op) string {
	var b strings.Builder
	for _, o := range ops {
		fmt.Fprintf(&b, "  %v\n", o)
	}
	return b.String()
}

// cartModel is a cart without regions: the quantity of each line.
var cartModel = porcupine.Model{
	Init: func() any { return map[string]uint64{} },
	Step: func(state, input, output any) (bool, any) {
		return step(state.(map[string]uint64), input.(Op), output.(Op))
	},
	Equal:             func(a, b any) bool { return maps.Equal(a.(map[string]uint64), b.(map[string]uint64)) },
	DescribeOperation: func(input, _ any) string { return fmt.Sprint(input) },
}

// step applies a call to a cart and reports whether its answer fits.
func step(cart map[string]uint64, in, got Op) (fits bool, next map[string]uint64) {
	known := got.Outcome == Acked
	if in.reads() {
		return maps.Equal(cart, got.Lines), cart
	}
	next = maps.Clone(cart)
	switch in.Kind {
	case Add:
		next[in.Line] += in.N
		return !known || got.Quantity == next[in.Line], next
	case Set:
		if cart[in.Line] == 0 {
			return !known, cart // refused: there is no such line
		}
		next[in.Line] = in.N
		if in.N == 0 {
			delete(next, in.Line)
		}
		return !known || got.Quantity == in.N, next
	case Remove:
		delete(next, in.Line)
	case Clear:
		clear(next)
	case Get, StrongGet: // above
	}
	var count uint64
	for _, n := range next {
		count += n
	}
	return !known || got.Count == count, next
}
