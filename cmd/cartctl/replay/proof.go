package replay

import (
	"slices"
	"sync"
)

// Shown is a cart as a region shows it.
type Shown struct {
	Lines []ShownLine
	// Fingerprint covers all that must be the same in every region.
	Fingerprint [32]byte
	// Conflicts is the number of fields with concurrent values.
	Conflicts int
	Total     ShownTotal
}

// ShownLine is one line of a cart.
type ShownLine struct {
	SKU      string
	Quantity uint64
}

// ledger is what is known of one cart's edits. Its methods may be called by
// any goroutine.
type ledger struct {
	mu    sync.Mutex
	lines []ledgerLine // sorted by SKU
}

// ledgerLine sums up the edits of one line.
type ledgerLine struct {
	sku     string
	acked   bool
	largest uint64 // acknowledged quantity of one edit
	sum     uint64 // of acknowledged quantities
	maybe   uint64 // sum of quantities whose outcome is not known
	device  int    // with Config.Prices: one above that of the device which sends all edits of the line
	pennies int64  // unit price of the last acknowledged edit
}

func (l *ledger) line(sku string) *ledgerLine {
	at, ok := slices.BinarySearchFunc(l.lines, sku, func(e ledgerLine, sku string) int {
		switch {
		case e.sku < sku:
			return -1
		case e.sku > sku:
			return 1
		}
		return 0
	})
	if !ok {
		l.lines = slices.Insert(l.lines, at, ledgerLine{sku: sku})
	}
	return &l.lines[at]
}

// deviceOf returns the device that sends a line's edits when all of them come
// from one: that of the first edit, which gives its own.
func (l *ledger) deviceOf(sku string, own int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.line(sku)
	if e.device == 0 {
		e.device = own + 1
	}
	return e.device - 1
}

func (l *ledger) acknowledge(sku string, quantity uint32, pennies int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.line(sku)
	e.acked = true
	e.largest = max(e.largest, uint64(quantity))
	e.sum += uint64(quantity)
	e.pennies = pennies
}

func (l *ledger) doubt(sku string, quantity uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.line(sku).maybe += uint64(quantity)
}

// Finding is a line that is not as the acknowledgements allow.
type Finding struct {
	SKU    string
	Region string
	Have   uint64 // 0: the line is missing
	// The quantities that are allowed.
	AtLeast, AtMost uint64
}

// check compares a cart as regions show it with its ledger. lost are lines
// that are missing or too small, excess lines that are too large or that
// nobody added; each line is named once, with the first region where it is so.
func (l *ledger) check(regions []string, shown []Shown) (lost, excess []Finding) {
	l.mu.Lock()
	defer l.mu.Unlock()
	bad := map[string]bool{}
	for i, region := range regions {
		have := make(map[string]uint64, len(shown[i].Lines))
		for _, line := range shown[i].Lines {
			have[line.SKU] += line.Quantity
		}
		for _, e := range l.lines {
			quantity, there := have[e.sku]
			delete(have, e.sku)
			f := Finding{SKU: e.sku, Region: region, Have: quantity, AtLeast: e.largest, AtMost: e.sum + e.maybe}
			switch {
			case bad[e.sku]:
			case e.acked && (!there || quantity < f.AtLeast):
				lost, bad[e.sku] = append(lost, f), true
			case quantity > f.AtMost:
				excess, bad[e.sku] = append(excess, f), true
			}
		}
		for sku, quantity := range have {
			if !bad[sku] {
				excess, bad[sku] = append(excess, Finding{SKU: sku, Region: region, Have: quantity}), true
			}
		}
	}
	return lost, excess
}

// equal reports whether all regions show the same cart.
func equal(shown []Shown) bool {
	for _, s := range shown[1:] {
		if s.Fingerprint != shown[0].Fingerprint {
			return false
		}
	}
	return true
}
