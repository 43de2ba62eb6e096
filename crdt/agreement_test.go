package crdt_test

import (
	"bytes"
	"testing"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/crdt/crdttest"
	"pgregory.net/rapid"
)

// follower runs the model beside a random history.
type follower struct {
	m     model
	views []view
	rows  map[crdt.Dot]modelRow
}

func (f *follower) follow(t *rapid.T, h *crdttest.History, e crdttest.Event) {
	t.Helper()
	switch e.Kind {
	case crdttest.Wrote:
		for _, r := range e.Rows {
			d := r.Delta.Dots[0]
			f.rows[d] = f.m.write(&f.views[e.Region], f.m.line(r.Delta.Key), d, e.Writer.At, e.Edit)
		}
	case crdttest.Delivered:
		f.views[e.Region].receive(f.rows[e.Rows[0].Delta.Dots[0]])
	case crdttest.Joined:
		f.views[e.Region].joinAll(&f.views[e.From])
	case crdttest.Reborn:
	}
	c := h.Regions[e.Region].Cart
	if s := f.m.differs(&f.views[e.Region], c); s != "" {
		t.Fatalf("after %v: %s\n%s", e, s, crdttest.Show(c))
	}
	crdttest.WellFormed(t, c)
}

// The cart agrees with the model in every region after every step, and all
// regions agree once everything is delivered.
func TestAgreesWithTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := crdttest.New(rapid.IntRange(2, 4).Draw(t, "regions"))
		f := follower{m: model{keys: h.Keys}, views: make([]view, len(h.Regions)), rows: map[crdt.Dot]modelRow{}}
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			f.follow(t, h, h.Step(t))
		}
		for {
			e, more := h.DeliverNext(t)
			if !more {
				break
			}
			f.follow(t, h, e)
		}
		for i, r := range h.Regions {
			crdttest.Equal(t, "converged", r.Cart, h.Regions[0].Cart)
			if !bytes.Equal(r.Cart.Encode(nil), h.Regions[0].Cart.Encode(nil)) {
				t.Fatalf("region %d has other bytes", i)
			}
			for line := range h.Keys {
				for x := range fields {
					if got, want := f.views[i].alive(line, x), f.m.final(line, x); got != want {
						t.Fatalf("line %d field %d stands %b; by the causal pasts %b", line, x, got, want)
					}
				}
			}
			for _, e := range r.Cart.Lines {
				if !e.Line.IsThere() {
					t.Fatalf("%v is in the map, but not there, when everything is delivered", e.Key)
				}
			}
		}
	})
}
