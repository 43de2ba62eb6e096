package drill

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// oracle knows what one shopper's cart may hold. Nobody else edits the cart, and
// the shopper's calls come one after the other, so every line has one expected
// quantity, but where an answer said that its region lacked something, or no
// answer came. It is pure, and for one goroutine.
//
//	O1  An answer that is not stale covers all that the session saw before.
//	O2  An attempt that nobody answered may have been made, once, beside all
//	    that came later: of concurrent quantities the larger counts, and an
//	    add survives a removal that has not seen it.
//	O3  A call that was given up may be made at any time, or never.
type oracle struct {
	lines map[string]*line // by SKU
	acked int
}

// quantities is a set; 0 is an absent line.
type quantities map[uint32]struct{}

func (q quantities) add(more ...uint32) {
	for _, n := range more {
		q[n] = struct{}{}
	}
}

// String lists the set in order.
func (q quantities) String() string {
	var out []string
	for _, n := range slices.Sorted(maps.Keys(q)) {
		out = append(out, fmt.Sprint(n))
	}
	return strings.Join(out, " or ")
}

type line struct {
	now    uint32     // as the session last wrote or saw it
	behind quantities // what the session had seen and the last write's region may have lacked
	ghosts quantities // what attempts without an answer may have written (O2)
	ever   quantities // all that it may have been
	open   []edit     // given up (O3)
	acked  int        // edits
}

func newOracle() *oracle { return &oracle{lines: make(map[string]*line)} }

func (o *oracle) line(sku string) *line {
	l := o.lines[sku]
	if l == nil {
		l = &line{behind: quantities{}, ghosts: quantities{}, ever: quantities{}}
		l.ever.add(0)
		o.lines[sku] = l
	}
	return l
}

// edit is one mutation of a line.
type edit struct {
	op       op
	sku      string
	quantity uint32
}

type op int

const (
	opAdd op = iota
	opSet
	opRemove
)

// String is the edit in words.
func (e edit) String() string {
	switch e.op {
	case opAdd:
		return fmt.Sprintf("add %d of %s", e.quantity, e.sku)
	case opSet:
		return fmt.Sprintf("set %s to %d", e.sku, e.quantity)
	case opRemove:
		return "remove " + e.sku
	}
	panic(fmt.Sprintf("edit of kind %d", e.op))
}

// outcome is how an edit was acknowledged.
type outcome struct {
	quantity uint32 // that the answer showed; of a removal 0
	stale    bool
	// again is true when an attempt before the one that was answered may have
	// been made as well.
	again bool
}

// possible are the quantities that the line may show to somebody who has seen
// what the session has.
func (l *line) possible() quantities {
	out := quantities{}
	out.add(l.now)
	for _, more := range []quantities{l.behind, l.ghosts} {
		for n := range more {
			out.add(max(n, l.now))
		}
	}
	// O3: a given-up set or removal may be the last, adds may come on top of
	// anything.
	for _, e := range l.open {
		switch e.op {
		case opSet:
			out.add(e.quantity)
		case opRemove:
			out.add(0)
		case opAdd:
		}
	}
	for _, e := range l.open {
		if e.op == opAdd {
			for n := range maps.Clone(out) {
				out.add(n + e.quantity)
			}
		}
	}
	return out
}

// acknowledged takes an acknowledged edit in and says what is wrong with its
// answer, "" when nothing is.
func (o *oracle) acknowledged(e edit, a outcome) (wrong string) {
	l := o.line(e.sku)
	before := l.possible()
	var want quantities
	switch e.op {
	case opAdd:
		want = quantities{}
		for n := range before {
			want.add(n + e.quantity)
		}
	case opSet, opRemove:
		want = quantities{}
		want.add(e.quantity)
	}
	if _, ok := want[a.quantity]; !ok && (!a.stale || e.op != opAdd) {
		wrong = fmt.Sprintf("%s was answered with %d, expected %v", e, a.quantity, want)
	}
	if a.again {
		switch e.op {
		case opAdd: // by a region that may have known any part of the past, other ghosts too
			for n := range maps.Clone(l.ever) {
				l.ghosts.add(n + e.quantity)
				l.ever.add(n + e.quantity)
			}
		case opSet:
			l.ghosts.add(e.quantity)
			l.ever.add(e.quantity)
		case opRemove: // takes away only what it has seen, which is gone
		}
	}
	for n := range before {
		l.ever.add(n)
	}
	if a.stale {
		l.behind.add(l.now)
	} else {
		clear(l.behind) // O1
	}
	l.now = a.quantity
	l.ever.add(a.quantity)
	l.acked++
	o.acked++
	return wrong
}

// givenUp takes in an edit of which nobody said whether it was made.
func (o *oracle) givenUp(e edit) {
	l := o.line(e.sku)
	l.open = append(l.open, e)
	for n := range l.possible() {
		l.ever.add(n)
	}
}

// read takes in a whole cart, by SKU, that was answered and is not stale; what
// is wrong with it is told once.
func (o *oracle) read(cart map[string]uint32) (wrong []string) {
	for _, sku := range o.skus(cart) {
		l := o.line(sku)
		want := l.possible()
		have := cart[sku]
		if _, ok := want[have]; !ok {
			wrong = append(wrong, fmt.Sprintf("a read shows %d of %s, expected %v", have, sku, want))
		}
		l.now = have
		l.ever.add(have)
		clear(l.behind)
	}
	return wrong
}

// counted judges a sum of all quantities that is not stale.
func (o *oracle) counted(n uint64) (wrong string) {
	var least, most uint64
	for _, l := range o.lines {
		all := slices.Sorted(maps.Keys(l.possible()))
		least, most = least+uint64(all[0]), most+uint64(all[len(all)-1])
	}
	if n < least || n > most {
		return fmt.Sprintf("a count shows %d pieces, expected %d to %d", n, least, most)
	}
	return ""
}

// skus are those of the cart and of the oracle, in order.
func (o *oracle) skus(cart map[string]uint32) []string {
	all := make(map[string]struct{})
	for sku := range cart {
		all[sku] = struct{}{}
	}
	for sku := range o.lines {
		all[sku] = struct{}{}
	}
	return slices.Sorted(maps.Keys(all))
}

// verdict is what became of one cart.
type verdict struct {
	lost    int // lines with less than was acknowledged
	doubled int // lines with more
	unsure  int // lines with a call that was given up
	wrong   []string
}

// judge compares the cart that all regions hold in the end.
func (o *oracle) judge(cart map[string]uint32) (v verdict) {
	for _, sku := range o.skus(cart) {
		l := o.line(sku)
		if len(l.open) > 0 {
			v.unsure++
		}
		want, have := l.possible(), cart[sku]
		if _, ok := want[have]; ok {
			continue
		}
		all := slices.Sorted(maps.Keys(want))
		what := "neither of what it can be"
		switch {
		case have < all[0]:
			v.lost++
			what = "an acknowledged edit is lost"
		case have > all[len(all)-1]:
			v.doubled++
			what = "an edit counts twice, or came back"
		}
		v.wrong = append(v.wrong, fmt.Sprintf("all regions hold %d of %s, expected %v: %s", have, sku, want, what))
	}
	return v
}
