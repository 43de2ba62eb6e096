package crdt_test

import (
	"testing"

	"github.com/samecart/samecart/crdt"
	"pgregory.net/rapid"
)

var limitHolders = []crdt.Holder{{Region: 1, Incarnation: 1}, {Region: 2, Incarnation: 1}, {Region: 3, Incarnation: 4}}

func limitRegions(epoch uint64) crdt.Regions {
	r := crdt.Regions{Epoch: epoch, Count: len(limitHolders)}
	for _, h := range limitHolders {
		r.Members = append(r.Members, crdt.RegionMember{Holder: h, Votes: true, Active: true})
	}
	return r
}

// drawBounded makes the copies that some regions have after a random history, of which
// each heard a part.
func drawBounded(t *rapid.T) []crdt.Bounded {
	copies := make([]crdt.Bounded, len(limitHolders))
	write := func(i int, row crdt.RightsRow) {
		_, seq := copies[i].Row(limitHolders[i])
		copies[i] = copies[i].With(limitHolders[i], seq+1, row)
	}
	write(0, crdt.RightsRow{Limit: 20, Cap: 2})
	regions := limitRegions(3)
	for range rapid.IntRange(0, 60).Draw(t, "steps") {
		i := rapid.IntRange(0, len(copies)-1).Draw(t, "region")
		h, to := limitHolders[i], limitHolders[rapid.IntRange(0, len(copies)-1).Draw(t, "to")]
		var row crdt.RightsRow
		ok := false
		switch rapid.IntRange(0, 5).Draw(t, "what") {
		case 0, 1:
			j := rapid.IntRange(0, len(copies)-1).Draw(t, "from")
			copies[i] = copies[i].Join(copies[j])
		case 2:
			row, ok = copies[i].Spend(h, rapid.Uint64Range(1, 3).Draw(t, "n"))
		case 3:
			row, ok = copies[i].Send(h, to, rapid.Uint64Range(0, 9).Draw(t, "n"))
		case 4:
			row, ok = copies[i].Ask(h)
		case 5:
			row, ok = copies[i].Tend(h, regions)
		}
		if ok {
			write(i, row)
		}
	}
	return copies
}

// All copies of a counter converge by its join, and whatever each has heard, nobody
// has spent or sent what it had not, and all together no more than was granted.
func TestBoundedLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawBounded(t)
		same := func(what string, a, b crdt.Bounded) {
			t.Helper()
			if !a.Equal(b) {
				t.Fatalf("%s: %+v is not %+v", what, a, b)
			}
		}
		same("idempotent", c[0].Join(c[0]), c[0])
		same("commutative", c[0].Join(c[1]), c[1].Join(c[0]))
		all := c[0].Join(c[1]).Join(c[2])
		same("associative", all, c[0].Join(c[1].Join(c[2])))
		for i, h := range limitHolders {
			own, _ := c[i].Row(h)
			out := own.Used
			for _, s := range own.Sent {
				out += s.N
			}
			if gained := c[i].Gained(h); out > gained {
				t.Fatalf("%v has spent and sent %d of %d", h, out, gained)
			}
			if knows := c[i].Rights(h); knows > all.Rights(h) {
				t.Fatalf("%v believes it has %d rights; it has %d", h, knows, all.Rights(h))
			}
			if back, err := crdt.DecodeRightsRow(own.Encode()); err != nil || back.Encode() != own.Encode() {
				t.Fatalf("%+v comes back as %+v: %v", own, back, err)
			}
		}
		rights := uint64(0)
		for _, h := range limitHolders {
			rights += all.Rights(h)
		}
		if all.Granted() > 20 || all.Used()+rights != all.Granted() {
			t.Fatalf("of %d granted, %d are used and %d left", all.Granted(), all.Used(), rights)
		}
	})
}

// The facts of a cart are the counter that its rows make, in whatever order the
// holders' deltas come.
func TestBoundedInACart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := crdt.Bounded{}
		cart, other := &crdt.Cart{}, &crdt.Cart{}
		var late []crdt.Delta
		for range rapid.IntRange(1, 20).Draw(t, "writes") {
			h := rapid.SampledFrom(limitHolders).Draw(t, "holder")
			row, seq := want.Row(h)
			row.Used++
			d := cart.SetRights(crdt.Writer{Replica: h.Replica()}, row)
			cart = cart.Apply(d)
			want = want.With(h, seq+1, row)
			late = append(late, d)
		}
		for _, i := range rapid.Permutation(indexes(len(late))).Draw(t, "order") {
			other = other.Apply(late[i])
		}
		if got := cart.Bounded(); !got.Equal(want) {
			t.Fatalf("the cart is %+v, want %+v", got, want)
		}
		if got := other.Bounded(); !got.Equal(want) {
			t.Fatalf("out of order: %+v, want %+v", got, want)
		}
	})
}

func indexes(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// Rights of who is gone are taken over once all members have sealed, by the first of
// them, and never twice.
func TestRightsOfWhoIsGone(t *testing.T) {
	us, eu, ap := limitHolders[0], limitHolders[1], limitHolders[2]
	all, b := limitRegions(1), crdt.Bounded{}
	write := func(h crdt.Holder, row crdt.RightsRow, ok bool) {
		t.Helper()
		if !ok {
			t.Fatalf("%v has nothing to write", h)
		}
		_, seq := b.Row(h)
		b = b.With(h, seq+1, row)
	}
	tend := func(h crdt.Holder, r crdt.Regions) bool {
		row, ok := b.Tend(h, r)
		if ok {
			write(h, row, ok)
		}
		return ok
	}
	write(us, crdt.RightsRow{Limit: 90}, true)
	for _, h := range []crdt.Holder{us, eu, ap} {
		tend(h, all)
	}
	if b.Granted() != 0 {
		t.Fatal("rights were granted before all members had taken note")
	}
	tend(us, all)
	for _, tr := range b.Balance(us, all) {
		row, ok := b.Send(us, tr.To, tr.N)
		write(us, row, ok)
	}
	for _, h := range []crdt.Holder{us, eu, ap} {
		if got := b.Rights(h); got != 30 {
			t.Errorf("%v has %d rights, want 30", h, got)
		}
	}
	row, ok := b.Spend(us, 10)
	write(us, row, ok)

	without := crdt.Regions{Epoch: 2, Count: 3, Members: all.Members[1:]}
	tend(eu, without)
	if b.Rights(eu) != 30 {
		t.Error("rights were taken over before all members had sealed")
	}
	tend(ap, without)
	tend(eu, without)
	if got := b.Rights(eu); got != 50 {
		t.Errorf("the first member has %d rights, want its 30 and the 20 that were left", got)
	}
	if tend(eu, without) || tend(ap, without) {
		t.Error("there is more to do")
	}
	if row, _ := b.Tend(us, without); row.Epoch == 2 {
		t.Error("who is gone has sealed")
	}
	one := crdt.Regions{Epoch: 3, Count: 3, Members: without.Members[1:]}
	tend(ap, one)
	if got := b.Rights(ap); got != 30 {
		t.Errorf("one of three has taken over: %d rights", got)
	}
}

func TestBalance(t *testing.T) {
	us, eu, ap := limitHolders[0], limitHolders[1], limitHolders[2]
	all := limitRegions(1)
	have := func(r ...uint64) (b crdt.Bounded) {
		for i, n := range r {
			b = b.With(limitHolders[i], 1, crdt.RightsRow{Granted: n})
		}
		return b
	}
	wants := func(b crdt.Bounded, h crdt.Holder) crdt.Bounded {
		row, _ := b.Ask(h)
		return b.With(h, 2, row)
	}
	draining := limitRegions(1)
	draining.Members[0].Active = false
	for name, c := range map[string]struct {
		b    crdt.Bounded
		r    crdt.Regions
		want []crdt.Transfer
	}{
		"all to one":           {have(99, 0, 0), all, []crdt.Transfer{{To: eu, N: 33}, {To: ap, N: 33}}},
		"near enough":          {have(40, 30, 20), all, nil},
		"one runs low":         {have(60, 30, 5), all, []crdt.Transfer{{To: ap, N: 27}}},
		"nothing to give":      {have(0, 9, 9), all, nil},
		"nobody asks":          {have(1, 0, 0), all, nil},
		"asked for the last":   {wants(have(1, 0, 0), ap), all, []crdt.Transfer{{To: ap, N: 1}}},
		"leaves: all to least": {have(10, 8, 7), draining, []crdt.Transfer{{To: ap, N: 10}}},
	} {
		got := c.b.Balance(us, c.r)
		if len(got) != len(c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s: %v, want %v", name, got, c.want)
			}
		}
	}
}

func FuzzDecodeRightsRow(f *testing.F) {
	f.Add("")
	f.Add("back.1.1=3&epoch=4&granted=100&homes=1.1+2.1&limit=100&seal.1.1=9&sent.2.1=33&used=12&want=40")
	f.Add("used=01")
	f.Add("used=1&used=2")
	f.Add("sent.1=1")
	f.Fuzz(func(t *testing.T, s string) {
		row, err := crdt.DecodeRightsRow(s)
		if err == nil && row.Encode() != s {
			t.Errorf("%q is taken, and would be written as %q", s, row.Encode())
		}
	})
}

func FuzzParseHolder(f *testing.F) {
	f.Add("1.1")
	f.Add("01.1")
	f.Add("1")
	f.Add("65536.1")
	f.Fuzz(func(t *testing.T, s string) {
		if h, err := crdt.ParseHolder(s); err == nil && h.String() != s {
			t.Errorf("%q is taken for %v", s, h)
		}
	})
}
