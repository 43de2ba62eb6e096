package pricing

import (
	"cmp"
	"math"
	"math/bits"
	"slices"

	promotionv1 "github.com/samecart/samecart/proto/promotion/v1"
)

// taken is what is taken off one line.
type taken struct {
	line   int
	amount int64
}

// units are some of a line's units.
type units struct {
	line int
	n    uint64
}

// effect is what a rule takes off the lines in its scope, and what to say when
// that is nothing.
func (p *pricer) effect(r *promotionv1.Rule, scope []int) (off []taken, otherwise string) {
	const nothingLeft = "other codes have taken off all that it applies to, or it comes to nothing"
	switch e := r.GetEffect().(type) {
	case *promotionv1.Rule_Percent:
		base := p.weights(scope)
		return split(percent(sum(base), e.Percent.GetBasisPoints()), base), nothingLeft
	case *promotionv1.Rule_Fixed:
		base := p.weights(scope)
		return split(min(e.Fixed.GetAmount().GetMinorUnits(), sum(base)), base), nothingLeft
	case *promotionv1.Rule_BuyGet:
		return p.buyGet(e.BuyGet, scope)
	case *promotionv1.Rule_Bundle:
		return p.bundle(e.Bundle, scope)
	}
	return nil, "what it does is not known here" // a rule of a newer kind: Check refuses it
}

// weights is what is left of each line.
func (p *pricer) weights(lines []int) []taken {
	out := make([]taken, len(lines))
	for n, i := range lines {
		out[n] = taken{i, p.left[i]}
	}
	return out
}

// buyGet takes off the cheapest units in scope.
func (p *pricer) buyGet(b *promotionv1.BuyGet, scope []int) (off []taken, otherwise string) {
	var all uint64
	for _, i := range scope {
		all += uint64(p.in.Lines[i].Quantity)
	}
	buy, get := uint64(b.GetBuy()), uint64(b.GetGet())
	n := all / (buy + get) * get
	if rest := all % (buy + get); rest > buy {
		n += rest - buy
	}
	if b.GetUnitsMax() > 0 {
		n = min(n, uint64(b.GetUnitsMax()))
	}
	if n == 0 {
		return nil, "more of what it applies to is needed in the cart"
	}
	bp := cmp.Or(b.GetBasisPoints(), hundred)
	for _, u := range p.pick(scope, n, func(a, b int64) int { return cmp.Compare(a, b) }) {
		off = append(off, taken{u.line, percent(p.part(u), bp)})
	}
	return off, "other codes have taken off all that it applies to, or it comes to nothing"
}

// bundle takes off what the items of all bundles cost above their price.
func (p *pricer) bundle(b *promotionv1.Bundle, scope []int) (off []taken, otherwise string) {
	n := uint64(math.MaxUint32)
	if b.GetTimesMax() > 0 {
		n = uint64(b.GetTimesMax())
	}
	lines := make([][]int, len(b.GetItems()))
	for k, it := range b.GetItems() {
		var have uint64
		for _, i := range scope {
			if p.in.Lines[i].SKU == it.GetSkuId() {
				lines[k] = append(lines[k], i)
				have += uint64(p.in.Lines[i].Quantity)
			}
		}
		n = min(n, have/uint64(it.GetQuantity()))
	}
	if n == 0 {
		return nil, "the cart does not have all of the bundle"
	}
	var base []taken
	for k, it := range b.GetItems() {
		for _, u := range p.pick(lines[k], n*uint64(it.GetQuantity()), func(a, b int64) int { return cmp.Compare(b, a) }) {
			base = append(base, taken{u.line, p.part(u)})
		}
	}
	price := Times(b.GetPrice().GetMinorUnits(), uint32(n)) // n fits: it is at most MaxUint32
	if sum(base) <= price {
		return nil, "what is in the bundle costs no more without it"
	}
	return split(sum(base)-price, base), ""
}

// pick takes n units of lines, in the order of their prices, then of their
// keys, which is that of lines. There are that many.
func (p *pricer) pick(lines []int, n uint64, order func(a, b int64) int) []units {
	sorted := slices.Clone(lines)
	slices.SortStableFunc(sorted, func(a, b int) int { return order(p.in.Lines[a].Unit, p.in.Lines[b].Unit) })
	var out []units
	for _, i := range sorted {
		u := units{i, min(n, uint64(p.in.Lines[i].Quantity))}
		if n -= u.n; u.n > 0 {
			out = append(out, u)
		}
	}
	return out
}

// part is what is left of some units of a line: of all, all that is left.
func (p *pricer) part(u units) int64 {
	return mulDiv(p.left[u.line], u.n, uint64(p.in.Lines[u.line].Quantity))
}

func sum(parts []taken) (n int64) {
	for _, t := range parts {
		n += t.amount
	}
	return n
}

// percent is a part of an amount in basis points, at most all of them, rounded half up.
func percent(amount int64, basisPoints uint32) int64 {
	hi, lo := bits.Mul64(uint64(amount), uint64(basisPoints))
	lo, carry := bits.Add64(lo, hundred/2, 0)
	q, _ := bits.Div64(hi+carry, lo, hundred)
	return int64(q)
}

// mulDiv is a × b / c, rounded down, of a ≥ 0 and b ≤ c.
func mulDiv(a int64, b, c uint64) int64 {
	hi, lo := bits.Mul64(uint64(a), b)
	q, _ := bits.Div64(hi, lo, c) // hi < c, as b ≤ c and a is below 2⁶³
	return int64(q)
}

// split divides whole over weights in their proportion, so that the parts sum
// to it: each is rounded down, and what is then missing goes one unit each to
// those that lost most, of equal ones to the first. whole is at most the sum
// of the weights; no part is above its weight.
//
// A line that lost nothing gets no such unit: fewer units are missing than
// there are lines that lost something.
func split(whole int64, weights []taken) []taken {
	all := sum(weights)
	if whole <= 0 || all == 0 {
		return nil
	}
	out := slices.Clone(weights)
	lost := make([]uint64, len(out))
	order := make([]int, len(out))
	missing := whole
	for n := range out {
		hi, lo := bits.Mul64(uint64(whole), uint64(out[n].amount))
		q, rest := bits.Div64(hi, lo, uint64(all))
		out[n].amount, lost[n], order[n] = int64(q), rest, n
		missing -= int64(q)
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(lost[b], lost[a]) })
	for _, n := range order[:missing] {
		out[n].amount++
	}
	return out
}
