package member

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	promotionv1 "github.com/samecart/samecart/proto/promotion/v1"
	"github.com/samecart/samecart/region"
)

// tally is counters of which it counts the looks at.
type tally struct {
	here, spent map[string]bool // by code, a slash and the customer
	looks, asks int
	hang        chan struct{}
}

func (c *tally) SpentHere(code, customer string, _ region.Terms) (is, known bool) {
	c.looks++
	is, known = c.here[code+"/"+customer]
	return is, known
}

func (c *tally) Spent(ctx context.Context, code, customer string, _ region.Terms) (bool, error) {
	c.asks++
	select {
	case <-c.hang:
		return c.spent[code+"/"+customer], nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

func (c *tally) RaiseLimit(context.Context, string, region.Terms) (bool, error) { return true, nil }

func usesFor(t *testing.T, c *tally) *uses {
	t.Helper()
	u, err := newUses(c)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

var (
	few  = &promotionv1.Rule{Code: "FEW", UsesMax: 3}
	once = &promotionv1.Rule{Code: "ONCE", PerCustomerMax: 1}
)

// What the node holds is looked at once in usesFresh, for all customers together.
func TestSpentOfWhatIsHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &tally{here: map[string]bool{"FEW/": false, "ONCE/": false, "ONCE/cart:a": true, "ONCE/cart:b": false}}
		u := usesFor(t, c)
		ctx := t.Context()
		if u.Spent(ctx, few, "cart:a") || u.Spent(ctx, few, "cart:b") || c.looks != 1 {
			t.Errorf("spent, or %d looks", c.looks)
		}
		if !u.Spent(ctx, once, "cart:a") || u.Spent(ctx, once, "cart:b") {
			t.Error("a cap of one customer counts for another, or does not count")
		}
		c.here["FEW/"] = true
		time.Sleep(usesFresh - time.Nanosecond)
		if u.Spent(ctx, few, "cart:a") {
			t.Error("looked at before it was old")
		}
		time.Sleep(time.Nanosecond)
		if !u.Spent(ctx, few, "cart:a") {
			t.Error("not looked at when it was old")
		}
	})
}

// A counter that is elsewhere is asked for in the background: nobody waits, however
// long that takes.
func TestSpentOfWhatIsElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &tally{spent: map[string]bool{"FEW/": true}, hang: make(chan struct{})}
		u := usesFor(t, c)
		begun := time.Now()
		for range 3 {
			if u.Spent(t.Context(), few, "cart:a") {
				t.Error("spent, and nobody said so")
			}
		}
		synctest.Wait()
		if c.asks != 1 || time.Since(begun) != 0 {
			t.Errorf("asked %d times in %v, want once in no time", c.asks, time.Since(begun))
		}
		time.Sleep(usesTimeout) // the asking is given up
		synctest.Wait()
		close(c.hang)
		u.Spent(t.Context(), few, "cart:a")
		synctest.Wait()
		if !u.Spent(t.Context(), few, "cart:b") || c.asks != 2 {
			t.Errorf("not spent after the answer; asked %d times", c.asks)
		}
	})
}
