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
//
// A cart into which a guest's was merged is left out: what the guest does comes into
// it at some later time, of which no answer tells. A guest's own cart is judged.
func Linearizable(ops []Op, patience time.Duration) (out []Violation, evaluated int) {
	for cart, all := range byCart(ops) {
		if slices.ContainsFunc(all, func(o Op) bool { return o.Kind == Merge && o.Outcome != Refused }) {
			continue
		}
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

// oneCart is a cart without regions, and what an undo would put back into it.
type oneCart struct{ lines, removed map[string]Item }

var cartModel = porcupine.Model{
	Init: func() any { return oneCart{} },
	Step: func(state, input, output any) (bool, any) {
		fits, next := state.(oneCart).step(input.(Op), output.(Op))
		return fits, next
	},
	Equal: func(a, b any) bool {
		x, y := a.(oneCart), b.(oneCart)
		return maps.Equal(x.lines, y.lines) && maps.Equal(x.removed, y.removed)
	},
	DescribeOperation: func(input, _ any) string { return fmt.Sprint(input) },
}

// step applies a call to a cart and reports whether its answer fits. The carts in the
// answers of Save, Move and Undo are read after the edit, at a time that nobody knows:
// they are not judged here.
func (c oneCart) step(in, got Op) (fits bool, next oneCart) {
	known := got.Outcome == Acked
	if in.reads() {
		return maps.Equal(c.lines, got.Lines), c
	}
	line, there := c.lines[in.Line]
	switch in.Kind {
	case Add:
		next = c.with(in.Line, line.after(in))
	case Set, Save, Move, Describe:
		if !there {
			return !known, c // refused: there is no such line
		}
		next = c.with(in.Line, line.after(in))
	case Remove:
		next = c.with(in.Line, Item{})
	case Clear:
		next = c
		if len(c.lines) > 0 {
			next = oneCart{removed: c.lines}
		}
	case Undo:
		if len(c.removed) == 0 {
			return !known, c // refused: there is nothing to undo
		}
		next.lines = maps.Clone(c.lines)
		if next.lines == nil {
			next.lines = make(map[string]Item)
		}
		maps.Copy(next.lines, c.removed)
	case Get, StrongGet, Merge: // above, and not among them
	}
	if !known {
		return true, next
	}
	switch in.Kind {
	case Add, Set, Describe:
		return got.Quantity == next.lines[in.Line].N, next
	case Remove, Clear:
		var count uint64
		for _, i := range next.lines {
			if !i.Saved {
				count += i.N
			}
		}
		return got.Count == count, next
	default:
		return true, next
	}
}

// with is the cart with another line. What is taken out can be put back until
// something else is, or until it is there again.
func (c oneCart) with(name string, to Item) oneCart {
	next := oneCart{maps.Clone(c.lines), c.removed}
	if next.lines == nil {
		next.lines = make(map[string]Item)
	}
	was, there := c.lines[name]
	_, kept := c.removed[name]
	switch {
	case to != (Item{}):
		next.lines[name] = to
		if kept {
			next.removed = maps.Clone(c.removed)
			delete(next.removed, name)
		}
	case there:
		delete(next.lines, name)
		next.removed = map[string]Item{name: was}
	}
	return next
}
