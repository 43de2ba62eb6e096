package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/samecart/samecart/crdt"
)

// expiring is a region, or the way to one, that notes what it is asked for. All share
// one log of what was done.
type expiring struct {
	Transport // unused: nil

	name  string
	found []DueCart
	moved bool
	keep  []string // what it says may not expire
	err   error
	short bool // it answers for fewer than it was asked about
	did   *[]string
}

func (e *expiring) note(what string, carts []DueCart) {
	for _, c := range carts {
		what += " " + c.CartID
	}
	*e.did = append(*e.did, e.name+" "+what)
}

func (e *expiring) Due(context.Context) ([]DueCart, bool, error) {
	found, moved := e.found, e.moved
	e.found, e.moved = nil, false
	return found, moved, e.err
}

func (e *expiring) Expire(_ context.Context, carts []DueCart) error {
	e.note("expires", carts)
	return nil
}

func (e *expiring) Expirable(ctx context.Context, h Hello, carts []DueCart) ([]bool, error) {
	if h.Region != "us" {
		return nil, fmt.Errorf("hello of %q", h.Region)
	}
	e.note("asked", carts)
	if e.err != nil {
		<-ctx.Done() // a region that is cut off does not answer
		return nil, e.err
	}
	ok := make([]bool, len(carts))
	for i, c := range carts {
		ok[i] = !slices.Contains(e.keep, c.CartID)
	}
	if e.short {
		return ok[1:], nil
	}
	return ok, nil
}

// X1: a cart expires when every other member says so; a region that does not answer,
// or answers wrongly, keeps all.
func TestExpirerAsksAll(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(us, eu, ap *expiring)
		want   []string
	}{
		{"all agree", func(_, _, _ *expiring) {}, []string{"eu asked a b c", "ap asked a b c", "us expires a b c"}},
		{"some are kept", func(_, eu, ap *expiring) { eu.keep, ap.keep = []string{"b"}, []string{"a"} }, []string{
			"eu asked a b c", "ap asked a c", "us expires c",
		}},
		{"none is left", func(_, eu, _ *expiring) { eu.keep = []string{"a", "b", "c"} }, []string{"eu asked a b c"}},
		{"one does not answer", func(_, _, ap *expiring) { ap.err = errors.New("cut off") }, []string{"eu asked a b c", "ap asked a b c"}},
		{"a wrong answer", func(_, eu, _ *expiring) { eu.short = true }, []string{"eu asked a b c"}},
		{"nothing is due", func(us, _, _ *expiring) { us.found = nil }, nil},
		{"the own region fails", func(us, _, _ *expiring) { us.err = errors.New("no quorum") }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var did []string
				us := &expiring{name: "us", did: &did}
				for _, id := range []string{"a", "b", "c"} {
					us.found = append(us.found, DueCart{CartDigest: CartDigest{CartID: id}})
				}
				eu, ap := &expiring{name: "eu", did: &did}, &expiring{name: "ap", did: &did}
				c.change(us, eu, ap)
				peers := []PeerRegion{{ID: 2, Name: "eu", Transport: eu}, {ID: 3, Name: "ap", Transport: ap}}
				hello := func() Hello { return Hello{Region: "us", Stream: crdt.Stream{Region: 1}} }
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() {
					defer close(done)
					NewExpirer(us, hello, peers, time.Second, slog.New(slog.DiscardHandler)).Run(ctx)
				}()
				time.Sleep(askWait + 500*time.Millisecond) // virtual
				cancel()
				<-done
				if !slices.Equal(did, c.want) {
					t.Errorf("did %q, want %q", did, c.want)
				}
			})
		})
	}
}

// busy has something due at each of so many looks.
type busy struct {
	*expiring
	left  int
	looks int
}

func (b *busy) Due(context.Context) ([]DueCart, bool, error) {
	b.looks++
	if b.left--; b.left < 0 {
		return nil, false, nil
	}
	return []DueCart{{CartDigest: CartDigest{CartID: "a"}}}, b.left%2 == 0, nil
}

// While there is something to do it goes on at once; while others keep it from it, it
// waits.
func TestExpirerPaces(t *testing.T) {
	for _, c := range []struct {
		keep     []string
		min, max int
	}{{nil, 102, 102}, {[]string{"a"}, 2, 5}} {
		synctest.Test(t, func(t *testing.T) {
			var did []string
			b := &busy{expiring: &expiring{name: "us", did: &did}, left: 100}
			peers := []PeerRegion{{ID: 2, Name: "eu", Transport: &expiring{name: "eu", did: &did, keep: c.keep}}}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				NewExpirer(b, func() Hello { return Hello{Region: "us"} }, peers, time.Second, slog.New(slog.DiscardHandler)).Run(ctx)
			}()
			time.Sleep(1500 * time.Millisecond) // virtual
			cancel()
			<-done
			if b.looks < c.min || b.looks > c.max {
				t.Errorf("kept %v: %d looks in a second and a half", c.keep, b.looks)
			}
		})
	}
}
