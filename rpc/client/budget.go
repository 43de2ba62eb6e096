package client

import "time"

// budget bounds retries and hedges to a share of the calls, so that an outage
// adds little to the load. It reads no clock.
//
//	B1  Within any time t that c calls fall into, at most
//	    BudgetMax + c·BudgetShare + t·BudgetPerSecond tokens are taken.
type budget struct {
	share, perSecond, most float64

	tokens float64
	at     time.Time // when tokens was right
}

func newBudget(c Config) budget {
	return budget{share: c.BudgetShare, perSecond: c.BudgetPerSecond, most: c.BudgetMax, tokens: c.BudgetMax}
}

// called brings a call's share.
func (b *budget) called(now time.Time) {
	b.fill(now)
	b.tokens = min(b.tokens+b.share, b.most)
}

// take takes a token, when there is one.
func (b *budget) take(now time.Time) bool {
	b.fill(now)
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

func (b *budget) fill(now time.Time) {
	if b.at.IsZero() {
		b.at = now
	}
	if passed := now.Sub(b.at); passed > 0 { // a clock read earlier may come later
		b.tokens = min(b.tokens+b.perSecond*passed.Seconds(), b.most)
		b.at = now
	}
}
