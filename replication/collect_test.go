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

// collecting is a region, or the way to one, that notes what it is asked for. All
// share one log of what was done.
type collecting struct {
	Transport // unused: nil

	name  string
	found []CartDigest
	keep  []string // what it says may not be collected
	fail  bool     // commits
	short bool     // it answers for fewer than it was asked about
	did   *[]string
}

func (c *collecting) Next(context.Context) ([]CartDigest, error) { return c.found, nil }

func (c *collecting) Collect(_ context.Context, carts []CartDigest, commit bool) ([]bool, error) {
	what := "asked"
	if commit {
		what = "collects"
	}
	ids := ""
	ok := make([]bool, len(carts))
	for i, cart := range carts {
		ids += " " + cart.CartID
		ok[i] = !slices.Contains(c.keep, cart.CartID)
	}
	*c.did = append(*c.did, c.name+" "+what+ids)
	if commit && c.fail {
		return nil, errors.New("no quorum")
	}
	if c.short {
		return ok[1:], nil
	}
	return ok, nil
}

// wayTo is a collecting region as a peer.
type wayTo struct{ *collecting }

func (w wayTo) Collect(ctx context.Context, h Hello, carts []CartDigest, commit bool) ([]bool, error) {
	if h.Region != "us" {
		return nil, fmt.Errorf("hello of %q", h.Region)
	}
	return w.collecting.Collect(ctx, carts, commit)
}

// Carts are collected that every region lets go, the own region last; a region that
// fails or answers wrongly ends the round.
func TestCollectorAsksAll(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(us, eu, ap *collecting)
		want   []string
	}{
		{"all agree", func(_, _, _ *collecting) {}, []string{
			"us asked a b c", "eu asked a b c", "ap asked a b c", "eu collects a b c", "ap collects a b c", "us collects a b c",
		}},
		{"some are kept", func(us, eu, ap *collecting) { us.keep, eu.keep, ap.keep = []string{"a"}, []string{"b"}, nil }, []string{
			"us asked a b c", "eu asked b c", "ap asked c", "eu collects c", "ap collects c", "us collects c",
		}},
		{"none is left", func(_, eu, _ *collecting) { eu.keep = []string{"a", "b", "c"} }, []string{"us asked a b c", "eu asked a b c"}},
		{"a commit fails", func(_, eu, _ *collecting) { eu.fail = true }, []string{
			"us asked a b c", "eu asked a b c", "ap asked a b c", "eu collects a b c",
		}},
		{"a wrong answer", func(_, eu, _ *collecting) { eu.short = true }, []string{"us asked a b c", "eu asked a b c"}},
		{"nothing is found", func(us, _, _ *collecting) { us.found = nil }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var did []string
				us := &collecting{name: "us", did: &did, found: []CartDigest{{CartID: "a"}, {CartID: "b"}, {CartID: "c"}}}
				eu, ap := &collecting{name: "eu", did: &did}, &collecting{name: "ap", did: &did}
				c.change(us, eu, ap)
				peers := []PeerRegion{{ID: 2, Name: "eu", Transport: wayTo{eu}}, {ID: 3, Name: "ap", Transport: wayTo{ap}}}
				hello := func() Hello { return Hello{Region: "us", Stream: crdt.Stream{Region: 1}} }
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() {
					defer close(done)
					NewCollector(us, hello, peers, time.Second, slog.New(slog.DiscardHandler)).Run(ctx)
				}()
				time.Sleep(1500 * time.Millisecond) // virtual: one round
				cancel()
				<-done
				if !slices.Equal(did, c.want) {
					t.Errorf("did %q, want %q", did, c.want)
				}
			})
		})
	}
}
