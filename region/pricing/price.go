package pricing

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	promotionv1 "github.com/samecart/samecart/proto/promotion/v1"
)

// UnitPrice is the price rule: the lower of what a line cost when it was added
// and what it costs now. A price below zero, which no catalogue has, counts as
// zero.
func UnitPrice(atAdd, current int64) int64 { return max(min(atAdd, current), 0) }

// LineAmount is what quantity units come to in a cart whose other lines come
// to sofar: at most so much that the sum is an amount.
func LineAmount(unit int64, quantity uint32, sofar int64) int64 {
	return min(Times(max(unit, 0), quantity), math.MaxInt64-sofar)
}

// Line is a line as it is shown.
type Line struct {
	Seller, SKU, Options string // its key

	Quantity uint32
	Unit     int64 // by the price rule, in minor units of Currency
	Currency string
	Saved    bool // for later
}

// Code is a promotion code of the cart.
type Code struct {
	Code string
	// Rule is what it does; nil when there is no such code, or it is not known.
	// It has passed Check, and its code is Code.
	Rule *promotionv1.Rule
	// Known is false while nobody can say what the code does.
	Known bool
	// Spent: no use of it is left for this customer, as far as is known.
	Spent bool
}

// Customer is who the cart is priced for.
type Customer struct {
	ID    string
	Guest bool
}

// Input is all that decides about a cart's price.
type Input struct {
	Currency string // the cart's
	Lines    []Line
	Codes    []Code
	// Excess are codes beyond the number that counts.
	Excess   []string
	CodesMax int // that number, for the reason given
	Customer Customer
	Now      time.Time
}

// Result is what a cart costs. Amounts are in minor units of its currency.
type Result struct {
	Subtotal int64 // before discounts
	Total    int64 // after them
	Sellers  []Seller
	Applied  []Applied
	Rejected []Rejected // by code
	// One for each line given: what is taken off it, and whether its shipping
	// is free.
	Discounts    []int64
	FreeShipping []bool
}

// Seller is what is bought of one seller.
type Seller struct {
	ID       string
	Subtotal int64 // before discounts
	Discount int64
}

// Applied is a code that counts.
type Applied struct {
	Code, Title  string
	Discount     int64
	FreeShipping bool
}

// Rejected is a code that does not count now.
type Rejected struct {
	Code      string
	Condition Condition
	Reason    string // for people
}

// Condition is what a code must meet to count.
type Condition string

// The conditions, in the order in which they are looked at.
const (
	Unknown        Condition = "UNKNOWN"          // there is no such code
	NotKnownNow    Condition = "NOT_KNOWN_NOW"    // nobody can say what it does
	Expired        Condition = "EXPIRED"          // its time is over
	NotStarted     Condition = "NOT_STARTED"      // its time has not come
	WrongCustomer  Condition = "CUSTOMER"         // it is for others
	Spent          Condition = "SPENT"            // no use is left
	WrongCurrency  Condition = "CURRENCY"         // its amounts are in another currency
	NothingInScope Condition = "NOTHING_IN_SCOPE" // there is nothing that it could be taken off
	Minimum        Condition = "MINIMUM"          // what it applies to is not enough
	Excluded       Condition = "EXCLUDED"         // another code of the cart keeps it out
	TooMany        Condition = "TOO_MANY"         // the cart has too many codes
)

// pricer is the state of one Price.
//
//	P1  left[i] is in 0 … amount[i]: discounts never pass what a line comes to.
//	P2  keys is in the order of line keys: what is decided line by line does
//	    not depend on the order in which lines were given.
type pricer struct {
	in     Input
	keys   []int   // indexes of the lines that count, by line key
	amount []int64 // by line: what it comes to; 0 for one that does not count
	left   []int64 // by line: amount less discounts

	applied   []Applied
	groups    map[string]string // the code that took effect, by group
	exclusive string            // the exclusive code that took effect
	free      []bool
}

// Price computes what a cart costs. It changes nothing of its input. Cost:
// O(codes × lines), and a sort of the lines.
func Price(in Input) Result {
	p := &pricer{
		in: in, amount: make([]int64, len(in.Lines)), left: make([]int64, len(in.Lines)),
		free: make([]bool, len(in.Lines)), groups: map[string]string{},
	}
	out := Result{FreeShipping: p.free, Discounts: make([]int64, len(in.Lines))}
	for i, l := range in.Lines {
		if l.Saved || l.Currency != in.Currency {
			continue
		}
		p.keys = append(p.keys, i)
		p.amount[i] = LineAmount(l.Unit, l.Quantity, out.Subtotal)
		p.left[i] = p.amount[i]
		out.Subtotal += p.amount[i]
	}
	slices.SortFunc(p.keys, func(a, b int) int { return compareKeys(in.Lines[a], in.Lines[b]) })
	out.Rejected = p.promote()
	out.Applied = p.applied
	for _, i := range p.keys {
		out.Discounts[i] = p.amount[i] - p.left[i]
		out.Total += p.left[i]
		if n := len(out.Sellers); n == 0 || out.Sellers[n-1].ID != in.Lines[i].Seller {
			out.Sellers = append(out.Sellers, Seller{ID: in.Lines[i].Seller})
		}
		s := &out.Sellers[len(out.Sellers)-1]
		s.Subtotal += p.amount[i]
		s.Discount += out.Discounts[i]
	}
	return out
}

func compareKeys(a, b Line) int {
	return cmp.Or(cmp.Compare(a.Seller, b.Seller), cmp.Compare(a.SKU, b.SKU), cmp.Compare(a.Options, b.Options))
}

// promote lets every code have its effect, and returns those that have none.
func (p *pricer) promote() []Rejected {
	var rejected []Rejected
	var rules []Code
	for _, c := range p.in.Codes {
		switch {
		case !c.Known:
			rejected = append(rejected, Rejected{c.Code, NotKnownNow, "what it does is not known at the moment: it counts again as soon as it is"})
		case c.Rule == nil:
			rejected = append(rejected, Rejected{c.Code, Unknown, "there is no such code any more"})
		default:
			rules = append(rules, c)
		}
	}
	for _, code := range p.in.Excess {
		rejected = append(rejected, Rejected{code, TooMany, fmt.Sprintf("the cart has more codes than count after edits in several places: the first %d do", p.in.CodesMax)})
	}
	slices.SortFunc(rules, func(a, b Code) int {
		return cmp.Or(cmp.Compare(a.Rule.GetPriority(), b.Rule.GetPriority()), cmp.Compare(a.Code, b.Code))
	})
	for _, c := range rules {
		if why, reason := p.take(c); why != "" {
			rejected = append(rejected, Rejected{c.Code, why, reason})
		}
	}
	slices.SortFunc(rejected, func(a, b Rejected) int { return cmp.Compare(a.Code, b.Code) })
	return rejected
}

// Never reports whether a code can never count for a customer from now on, and
// why.
func Never(r *promotionv1.Rule, customer Customer, now time.Time) (why Rejected, never bool) {
	condition, reason := standing(r, customer, now)
	switch condition {
	case Expired:
	case WrongCustomer:
		if customer.Guest { // who may log in yet
			return Rejected{}, false
		}
	default:
		return Rejected{}, false
	}
	return Rejected{r.GetCode(), condition, reason}, true
}

// standing looks at the conditions that have nothing to do with the cart.
func standing(r *promotionv1.Rule, customer Customer, now time.Time) (Condition, string) {
	ms := now.UnixMilli()
	switch {
	case r.GetEndsAtMs() != 0 && ms >= r.GetEndsAtMs():
		return Expired, "it ended on " + timeText(r.GetEndsAtMs())
	case ms < r.GetStartsAtMs():
		return NotStarted, "it begins on " + timeText(r.GetStartsAtMs())
	case customer.Guest && (r.GetSignedIn() || len(r.GetCustomers()) > 0):
		return WrongCustomer, "sign in to use it"
	case len(r.GetCustomers()) > 0 && !slices.Contains(r.GetCustomers(), customer.ID):
		return WrongCustomer, "it is for other customers"
	}
	return "", ""
}

func timeText(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04:05 MST") }

// take lets one code have its effect, or says why it has none.
func (p *pricer) take(c Code) (Condition, string) {
	r := c.Rule
	if why, reason := standing(r, p.in.Customer, p.in.Now); why != "" {
		return why, reason
	}
	if c.Spent {
		return Spent, "all its uses are spent"
	}
	if cur := currencyOf(r); cur != "" && cur != p.in.Currency && len(p.keys) > 0 {
		return WrongCurrency, fmt.Sprintf("it is in %s, the cart in %s", cur, p.in.Currency)
	}
	scope := p.scope(r)
	if len(scope) == 0 {
		return NothingInScope, "nothing in the cart is what it applies to"
	}
	if least := r.GetMinimum().GetMinorUnits(); least > 0 {
		var have int64
		for _, i := range scope {
			have += p.amount[i]
		}
		if have < least {
			return Minimum, fmt.Sprintf("%s %s more of what it applies to is needed", FormatMoney(least-have, p.in.Currency), p.in.Currency)
		}
	}
	if other := p.excludedBy(r); other != "" {
		return Excluded, "it does not count together with " + other
	}
	a := Applied{Code: c.Code, Title: r.GetTitle()}
	if r.GetFreeShipping() != nil {
		a.FreeShipping = true
		for _, i := range scope {
			p.free[i] = true
		}
	} else {
		off, reason := p.effect(r, scope)
		for _, t := range off {
			p.left[t.line] -= t.amount
			a.Discount += t.amount
		}
		if a.Discount == 0 {
			return NothingInScope, reason
		}
	}
	p.applied = append(p.applied, a)
	if r.GetGroup() != "" {
		p.groups[r.GetGroup()] = c.Code
	}
	if r.GetExclusive() {
		p.exclusive = c.Code
	}
	return "", ""
}

// excludedBy is the code that keeps a rule out; empty: none does.
func (p *pricer) excludedBy(r *promotionv1.Rule) string {
	switch {
	case p.exclusive != "":
		return p.exclusive
	case r.GetExclusive() && len(p.applied) > 0:
		return p.applied[0].Code
	}
	return p.groups[r.GetGroup()]
}

// scope is the lines that a rule applies to, by line key.
func (p *pricer) scope(r *promotionv1.Rule) []int {
	var out []int
	for _, i := range p.keys {
		l := p.in.Lines[i]
		if (r.GetSellerId() == "" || r.GetSellerId() == l.Seller) && (len(r.GetSkuIds()) == 0 || slices.Contains(r.GetSkuIds(), l.SKU)) && l.Quantity > 0 {
			out = append(out, i)
		}
	}
	return out
}
