package member

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"

	membershipv1 "github.com/samecart/samecart/proto/membership/v1"
)

func connect(t *testing.T, newcomers bool) *Part {
	t.Helper()
	part, err := Connect(Place{Region: "us-east", ID: 1, Log: slog.New(slog.DiscardHandler)}, Peers{
		Regions: map[string]Peer{"eu-west": {ID: 2, URLs: []string{"http://eu-west"}}, "ap-south": {ID: 3, URLs: []string{"http://ap-south"}}},
		Dial: func(string) DialFunc {
			return func(context.Context, string, string) (net.Conn, error) {
				return nil, errors.New("nobody is called here")
			}
		},
		Newcomers: newcomers,
	})
	if err != nil {
		t.Fatal(err)
	}
	return part
}

func TestConnectSaysWhichRegionIsWrong(t *testing.T) {
	_, err := Connect(Place{Region: "us-east", ID: 1, Log: slog.New(slog.DiscardHandler)}, Peers{
		Regions: map[string]Peer{"eu-west": {ID: 2}},
		Dial:    func(string) DialFunc { return nil },
	})
	if err == nil || !strings.HasPrefix(err.Error(), "eu-west: ") {
		t.Errorf("a peer without addresses: %v", err)
	}
}

func TestRoutesAreOfConfiguredRegions(t *testing.T) {
	part := connect(t, true)
	for name, want := range map[string]bool{"eu-west": true, "ap-south": true, "us-east": false, "sa-east": false} {
		if route, ok := part.Route(name); ok != want || (route != nil) != want {
			t.Errorf("a route to %s: %v, want %v", name, ok, want)
		}
	}
}

// With whom rows and carts are exchanged follows from the newest document.
func TestRoster(t *testing.T) {
	const (
		active  = membershipv1.State_STATE_ACTIVE
		joining = membershipv1.State_STATE_JOINING
		fenced  = membershipv1.State_STATE_FENCED
		removed = membershipv1.State_STATE_REMOVED
	)
	for name, c := range map[string]struct {
		us, eu, ap membershipv1.State // ap-south and what follows are absent when 0
		sa         membershipv1.State // a newcomer
		newcomers  bool

		peers    string // that rows go to
		ok       bool   // they may be sent
		collects bool
		carts    string // that carts are taken from
	}{
		"all active":                 {us: active, eu: active, ap: active, peers: "ap-south eu-west", ok: true, collects: true, carts: "ap-south eu-west"},
		"one fenced":                 {us: active, eu: fenced, ap: active, peers: "ap-south", ok: true, collects: true, carts: "ap-south"},
		"the only other one fenced":  {us: active, eu: fenced, ok: false},
		"the only other one removed": {us: active, eu: removed, ok: true, collects: true},
		"this one fenced":            {us: fenced, eu: active, ap: active, ok: false, carts: "ap-south eu-west"},
		"a newcomer":                 {us: active, eu: active, sa: active, newcomers: true, peers: "eu-west sa-east", ok: true, collects: true, carts: "eu-west sa-east"},
		"a newcomer on its way in":   {us: active, eu: active, sa: joining, newcomers: true, peers: "eu-west sa-east", ok: true, carts: "eu-west"},
		"a newcomer without a way":   {us: active, eu: active, sa: active, peers: "eu-west", ok: true, carts: "eu-west"},
	} {
		t.Run(name, func(t *testing.T) {
			r := connect(t, c.newcomers).Roster
			m := &membershipv1.Membership{Epoch: 2}
			for i, e := range []*membershipv1.Member{
				{Region: "us-east", State: c.us}, {Region: "eu-west", State: c.eu}, {Region: "ap-south", State: c.ap},
				{Region: "sa-east", State: c.sa, Peers: []string{"http://sa-east"}},
			} {
				if e.State != 0 {
					e.RegionId, e.Incarnation = uint32(i+1), 1
					m.Members = append(m.Members, e)
				}
			}
			r.take(m)
			peers, _, ok := r.gossip(1)
			var names []string
			for _, p := range peers {
				names = append(names, p.Name)
			}
			slices.Sort(names)
			if got := strings.Join(names, " "); got != c.peers || ok != c.ok {
				t.Errorf("rows go to %q, %v; want %q, %v", got, ok, c.peers, c.ok)
			}
			if got := r.collects(peers); ok && got != c.collects {
				t.Errorf("collects: %v", got)
			}
			var from []string
			for id, name := range r.names() {
				if _, ok := r.carts(id); ok {
					from = append(from, name)
				}
			}
			slices.Sort(from)
			if got := strings.Join(from, " "); got != c.carts {
				t.Errorf("carts come from %q, want %q", got, c.carts)
			}
		})
	}
}

// Who waits for a change is woken by a newer document, and by no other.
func TestRosterTakesWhatIsNewer(t *testing.T) {
	r := connect(t, false).Roster
	doc := func(epoch uint64) *membershipv1.Membership {
		return &membershipv1.Membership{Epoch: epoch, Members: []*membershipv1.Member{{RegionId: 1, Region: "us-east", State: membershipv1.State_STATE_ACTIVE}}}
	}
	for _, c := range []struct {
		take, newest uint64
		woken        bool
	}{{2, 2, true}, {2, 2, false}, {1, 2, false}, {3, 3, true}} {
		_, changed, _ := r.gossip(1)
		r.take(doc(c.take))
		woken := false
		select {
		case <-changed:
			woken = true
		default:
		}
		if got := r.Newest().GetEpoch(); got != c.newest || woken != c.woken {
			t.Errorf("after epoch %d: newest %d, woken %v; want %d, %v", c.take, got, woken, c.newest, c.woken)
		}
	}
}
