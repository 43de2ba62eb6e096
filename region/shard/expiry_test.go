package shard

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/store"
)

// lives are those of the tests: seconds.
var lives = Lives{Guest: 10 * time.Second, User: 300 * time.Second, Saved: 900 * time.Second}

// expiring is a rig whose carts have lives, with what it was told of.
type expiring struct {
	*rig
	told []Expired
}

func newExpiring(t fataler, s *store.Store, region crdt.RegionID) *expiring {
	t.Helper()
	r := &expiring{rig: newRig(t, s, uint32(region), region)}
	l := lives.Of()
	r.limits.GuestLifeMs, r.limits.UserLifeMs, r.limits.SavedLifeMs = l.Guest, l.User, l.Saved
	r.fsm.stats = func(a Applied) { r.told = append(r.told, a.Expired...) }
	return r
}

// after sets the clock so long after the beginning.
func (r *expiring) after(d time.Duration) { r.at = crdt.TimestampAt(epoch.Add(d).UnixMilli()) }

func expireNow(t fataler, r *expiring, ids ...string) *regionv1.Command {
	t.Helper()
	c := &regionv1.Expire{}
	for _, id := range ids {
		rec, err := r.fsm.record(id)
		if err != nil {
			t.Fatalf("read %q: %v", id, err)
		}
		d := DigestOfRecord(id, rec)
		c.Carts = append(c.Carts, &regionv1.CartDigest{CartId: id, Digest: d[:]})
	}
	return &regionv1.Command{Command: &regionv1.Command_Expire{Expire: c}}
}

func putAside(r *expiring, id, sku string) {
	r.t.Helper()
	// As another region does it: its row.
	s := r.state(id)
	d := s.Cart.SetPlacement(crdt.Writer{Replica: crdt.Replica{Region: 9, Incarnation: 1}, At: r.at}, crdt.LineKey{Seller: "s", SKU: sku}, crdt.Saved)
	seq := r.index
	r.apply(joinRowsOf(9, seq-1, crdt.Row{Seq: seq, Last: seq, CartID: id, At: r.at, Delta: d}))
}

// joinRowsOf is the command that joins rows of a region, the first after lo.
func joinRowsOf(region crdt.RegionID, lo uint64, rows ...crdt.Row) *regionv1.Command {
	j := &regionv1.JoinRows{RegionId: uint32(region), OriginShard: uint32(lo), Hi: rows[len(rows)-1].Last}
	for _, row := range rows {
		j.Rows = append(j.Rows, row.Encode(nil))
	}
	return &regionv1.Command{Command: &regionv1.Command_JoinRows{JoinRows: j}}
}

// Lines in the cart go first, those set aside later, each at their time and not
// before; each time it is told once, and what was expired made nothing live longer.
func TestExpire(t *testing.T) {
	r := newExpiring(t, tempStore(t), 1)
	r.ok(edit("u", add("s", "a", 2), add("s", "b", 1)))
	putAside(r, "u", "b")
	for _, step := range []struct {
		after time.Duration
		want  map[string]uint32
		told  []Expired
	}{
		{299 * time.Second, map[string]uint32{"s/a/": 2, "s/b/": 1}, nil},
		{301 * time.Second, map[string]uint32{"s/b/": 1}, []Expired{{Lines: []ExpiredLine{{crdt.LineKey{Seller: "s", SKU: "a"}, 2, false}}}}},
		{302 * time.Second, map[string]uint32{"s/b/": 1}, nil},
		{899 * time.Second, map[string]uint32{"s/b/": 1}, nil},
		{901 * time.Second, map[string]uint32{}, []Expired{{Lines: []ExpiredLine{{crdt.LineKey{Seller: "s", SKU: "b"}, 1, true}}}}},
		{902 * time.Second, map[string]uint32{}, nil},
	} {
		r.told = nil
		r.after(step.after)
		cmd := expireNow(t, r, "u")
		r.apply(cmd, cmd) // the second finds another digest
		r.want("u", step.want)
		if len(r.told) != len(step.told) || len(r.told) > 0 && !slices.Equal(r.told[0].Lines, step.told[0].Lines) {
			t.Errorf("after %v: told %+v, want %+v", step.after, r.told, step.told)
		}
		for _, e := range r.told {
			if e.CartID != "u" || e.Region != 1 || e.Guest || e.Index != r.index || e.Number != 0 {
				t.Errorf("after %v: told %+v", step.after, e)
			}
		}
	}
	if got := r.state("u").Active; got.Region != 9 || got.At.UnixMilli() != epoch.UnixMilli() {
		t.Errorf("an expiry is activity: %+v", got)
	}
}

// An edit makes the cart live longer; a refused one, one that is remembered, and a
// read do not.
func TestActivity(t *testing.T) {
	r := newExpiring(t, tempStore(t), 1)
	r.ok(withOp(1, edit("u", add("s", "a", 2))))
	first := r.state("u").Active
	r.after(100 * time.Second)
	r.ok(withOp(1, edit("u", add("s", "a", 2))))
	if out := r.do(edit("u", set("s", "none", 3))); out.Code != regionv1.Outcome_CODE_LINE_NOT_FOUND {
		t.Fatalf("refusal %v", out.Code)
	}
	r.ok(edit("u", remove("s", "none"))) // changes nothing
	if got := r.state("u").Active; got != first || first.Region != 1 {
		t.Errorf("active %+v, want %+v", got, first)
	}
	r.ok(edit("u", set("s", "a", 1)))
	if got := r.state("u").Active; got.At.UnixMilli() != epoch.Add(100*time.Second).UnixMilli() {
		t.Errorf("active %+v after an edit", got)
	}
	r.after(301 * time.Second)
	r.apply(expireNow(t, r, "u"))
	r.want("u", map[string]uint32{"s/a/": 1})
}

// The lives of the log decide, in the whole region alike.
func TestCartsWithoutALife(t *testing.T) {
	r := newExpiring(t, tempStore(t), 1)
	r.limits.UserLifeMs = 0
	r.ok(edit("u", add("s", "a", 2)))
	r.after(1000 * time.Hour)
	r.apply(expireNow(t, r, "u"))
	r.want("u", map[string]uint32{"s/a/": 2})
	if due := mustRecord(t, r.rig, "u").Due; due != 0 {
		t.Errorf("in the index at %d", due)
	}
}

// E4: a guest's session ends before its lines go, in every region, also one that has
// but a part of the rows; then no edit of it is taken. What another region added
// meanwhile survives.
func TestExpireOfAGuest(t *testing.T) {
	s := tempStore(t)
	r, eu := newExpiring(t, s, 1), newExpiring(t, s, 2)
	const id = guestPrefix + "g"
	r.ok(edit(id, add("s", "a", 2), add("s", "b", 1)))
	rows := r.rows(0)
	eu.apply(joinRowsOf(1, 0, rows...))
	if got, want := eu.state(id).Active, r.state(id).Active; got != want {
		t.Errorf("active %+v there, %+v here", got, want)
	}
	r.after(9 * time.Second)
	r.apply(expireNow(t, r, id))
	r.want(id, map[string]uint32{"s/a/": 2, "s/b/": 1})
	r.after(11 * time.Second)
	eu.ok(edit(id, set("s", "b", 7)))
	r.apply(expireNow(t, r, id))
	r.want(id, map[string]uint32{})
	if len(r.told) != 1 || !r.told[0].Guest || len(r.told[0].Lines) != 2 {
		t.Errorf("told %+v", r.told)
	}
	if out := r.do(edit(id, add("s", "c", 1))); out.Code != regionv1.Outcome_CODE_GUEST_EXPIRED {
		t.Errorf("an edit of an expired guest: %v", out.Code)
	}
	gone := r.rows(uint64(len(rows)))
	for i, row := range gone {
		if first := row.Delta.Key == crdt.FactKey(crdt.FactExpired, ""); first != (i == 0) || row.Active(1) != (crdt.Active{}) {
			t.Errorf("row %d of %d is of %v, active %+v", i, len(gone), row.Delta.Key, row.Active(1))
		}
	}
	j := joinRowsOf(1, 0, gone[0])
	j.GetJoinRows().Lo = gone[0].Seq - 1
	eu.apply(j)
	if out := eu.do(edit(id, add("s", "c", 1))); out.Code != regionv1.Outcome_CODE_GUEST_EXPIRED {
		t.Errorf("an edit where the first row came: %v", out.Code)
	}
	j = joinRowsOf(1, 0, gone[1:]...)
	j.GetJoinRows().Lo = gone[0].Seq
	eu.apply(j)
	eu.want(id, map[string]uint32{"s/b/": 7})
	if len(eu.told) != 0 {
		t.Errorf("told also where the rows came: %+v", eu.told)
	}
}

// Codes go with the lines of the cart, other facts stay.
func TestFactsOfAnExpiredCart(t *testing.T) {
	r := newExpiring(t, tempStore(t), 1)
	r.ok(edit("u", add("s", "a", 1)))
	other := crdt.Writer{Replica: crdt.Replica{Region: 9}, At: r.at}
	for i, kind := range []crdt.FactKind{crdt.FactCode, crdt.FactMerged} {
		seq := uint64(i + 1)
		r.apply(joinRowsOf(9, uint64(i), crdt.Row{Seq: seq, Last: seq, CartID: "u", At: r.at, Delta: r.state("u").Cart.SetFact(other, kind, "id", "")}))
	}
	r.after(301 * time.Second)
	r.apply(expireNow(t, r, "u"))
	r.want("u", map[string]uint32{})
	c := r.state("u").Cart
	_, code := c.Fact(crdt.FactCode, "id")
	_, merged := c.Fact(crdt.FactMerged, "id")
	if code || !merged {
		t.Errorf("code %v, merged %v", code, merged)
	}
}

func (r *expiring) index1(t *testing.T) []store.Indexed {
	t.Helper()
	all, _, err := r.fsm.current().Due(store.Indexed{}, 1<<32-1, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// D1, D2: a cart has one entry; an edit that makes it live longer leaves it, one that
// makes it due earlier moves it, and who looks puts it where it belongs. A snapshot
// and a restart keep it.
func TestDueIndexFollowsTheCart(t *testing.T) {
	r := newExpiring(t, tempStore(t), 1)
	at := func(d time.Duration) uint32 { return uint32(epoch.Add(d).Unix()) }
	want := func(what string, list ...store.Indexed) {
		t.Helper()
		if got := r.index1(t); !slices.Equal(got, list) {
			t.Errorf("%s: index %v, want %v", what, got, list)
		}
	}
	s := &Shard{fsm: r.fsm, cfg: Config{Limits: Limits{Lives: lives}}}
	look := func(now time.Duration, due int, moved ...store.Indexed) {
		t.Helper()
		s.cfg.Clock = func() time.Time { return epoch.Add(now) }
		l, err := s.Due(t.Context(), store.Indexed{}, func(id crdt.RegionID) bool { return id == 1 })
		if err != nil || len(l.Due) != due || !slices.Equal(l.Moved, moved) || l.Next != (store.Indexed{}) {
			t.Errorf("a look after %v: %+v, %v", now, l, err)
		}
		c := &regionv1.Expire{}
		for _, e := range l.Moved {
			c.Moved = append(c.Moved, &regionv1.Indexed{CartId: e.CartID, At: e.At})
		}
		r.apply(&regionv1.Command{Command: &regionv1.Command_Expire{Expire: c}})
	}
	r.ok(edit("u", add("s", "a", 1)))
	want("a new cart", store.Indexed{CartID: "u", At: at(300 * time.Second)})
	r.after(100 * time.Second)
	r.ok(edit("u", set("s", "a", 2)))
	want("edited", store.Indexed{CartID: "u", At: at(300 * time.Second)})
	look(300*time.Second, 0)
	look(301*time.Second, 0, store.Indexed{CartID: "u", At: at(300 * time.Second)})
	want("looked at", store.Indexed{CartID: "u", At: at(400 * time.Second)})
	r.open() // a restart
	s.fsm = r.fsm
	look(401*time.Second, 1)
	putAside(r, "u", "a")
	want("set aside", store.Indexed{CartID: "u", At: at(400 * time.Second)})
	look(401*time.Second, 0, store.Indexed{CartID: "u", At: at(400 * time.Second)})
	want("looked at again", store.Indexed{CartID: "u", At: at(1000 * time.Second)})
	r.ok(edit("u", add("s", "b", 1)))
	want("due earlier", store.Indexed{CartID: "u", At: at(400 * time.Second)})
	r.ok(edit("u", clearAll()))
	look(402*time.Second, 0, store.Indexed{CartID: "u", At: at(400 * time.Second)})
	want("emptied")
	r.ok(edit("u", add("s", "b", 1)))
	want("filled again", store.Indexed{CartID: "u", At: at(400 * time.Second)})
	// One that is left over.
	r.apply(&regionv1.Command{Command: &regionv1.Command_Expire{Expire: &regionv1.Expire{Moved: []*regionv1.Indexed{{CartId: "nobody", At: 7}}}}})
	want("left over", store.Indexed{CartID: "u", At: at(400 * time.Second)})
}

// Pages of a look follow each other, and stop at many lines.
func TestLooksFollowEachOther(t *testing.T) {
	r := newExpiring(t, tempStore(t), 1)
	r.limits.Lines = 400
	const carts = 3*expiryMax/2 + 1
	for i := range carts {
		r.ok(edit(fmt.Sprintf("u%04d", i), add("s", "a", 1)))
	}
	for _, id := range []string{"v1", "v2", "v3"} {
		for i := range 400 {
			r.ok(edit(id, add("s", fmt.Sprint(i), 1)))
		}
	}
	s := &Shard{fsm: r.fsm, cfg: Config{Limits: Limits{Lives: lives}, Clock: func() time.Time { return epoch.Add(time.Hour) }}}
	var pages []int
	var next store.Indexed
	for {
		l, err := s.Due(t.Context(), next, func(crdt.RegionID) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, len(l.Due))
		if next = l.Next; next == (store.Indexed{}) {
			break
		}
	}
	if want := []int{expiryMax, carts - expiryMax + 2, 1}; !slices.Equal(pages, want) {
		t.Errorf("pages of %v, want %v", pages, want)
	}
}

// A cart may expire here when it is the same, with no newer activity, and due by the
// clock here; and the clock's allowance counts where it is looked for.
func TestExpirable(t *testing.T) {
	r := newExpiring(t, tempStore(t), 1)
	r.ok(edit("u", add("s", "a", 1)))
	rec := mustRecord(t, r.rig, "u")
	good := DueCart{store.CartDigest{CartID: "u", Digest: rec.Digest}, rec.State.Active}
	changed, older, newer, unknown := good, good, good, good
	changed.Digest[0]++
	older.Active.At--
	newer.Active.At += 1 << 30
	unknown.CartID = "nobody"
	s := &Shard{fsm: r.fsm, cfg: Config{Limits: Limits{Lives: lives}}}
	for after, want := range map[time.Duration][]bool{
		299 * time.Second: {false, false, false, false, false},
		301 * time.Second: {true, false, false, false, false},
		999 * time.Second: {true, false, false, true, false},
	} {
		s.cfg.Clock = func() time.Time { return epoch.Add(after) }
		got, err := s.Expirable([]DueCart{good, changed, older, newer, unknown})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("after %v: %v, %v, want %v", after, got, err, want)
		}
	}
	s.cfg.Limits.Lives.Skew = time.Minute
	for after, want := range map[time.Duration]int{419 * time.Second: 0, 422 * time.Second: 1} {
		s.cfg.Clock = func() time.Time { return epoch.Add(after) }
		l, err := s.Due(t.Context(), store.Indexed{}, func(crdt.RegionID) bool { return true })
		if err != nil || len(l.Due) != want {
			t.Errorf("after %v: %d due, %v, want %d", after, len(l.Due), err, want)
		}
	}
}

// A crash between two carts of one command leaves the first expired, told of once.
func TestExpireInParts(t *testing.T) {
	r := newExpiring(t, tempStore(t), 1)
	var ids []string
	for i := range 60 {
		id := fmt.Sprint("u", i)
		ids = append(ids, id)
		for sku := range 5 {
			r.ok(edit(id, add("s", fmt.Sprint(sku), 1)))
		}
	}
	r.after(301 * time.Second)
	r.told = nil
	r.apply(expireNow(t, r, ids...))
	seen := make(map[uint32]bool)
	for _, e := range r.told {
		seen[e.Number] = true
	}
	if len(r.told) != len(ids) || len(seen) != len(ids) {
		t.Errorf("told %d times, under %d numbers, of %d carts", len(r.told), len(seen), len(ids))
	}
	for _, id := range ids {
		r.want(id, map[string]uint32{})
	}
}

// E5: a link's fact goes when the link expires, in its own cart with the lines of a
// snapshot, whatever the lives of shoppers' carts; nothing is told of it, and then
// nothing keeps either cart.
func TestLinksExpire(t *testing.T) {
	const own, live, owner = sharePrefix + "l", sharePrefix + "m", "u"
	for name, l := range map[string]Lives{"with lives": lives, "for ever": {}} {
		r := newExpiring(t, tempStore(t), 1)
		r.limits.GuestLifeMs, r.limits.UserLifeMs, r.limits.SavedLifeMs = l.Of().Guest, l.Of().User, l.Of().Saved
		r.ok(edit(owner, share("l", time.Hour), share("m", 2*time.Hour)))
		r.ok(edit(own, share("l", time.Hour, sharedLine("s", "a", 2, "USD"), sharedLine("s", "b", 1, "GBP"))))
		r.ok(edit(live, share("m", 2*time.Hour)))
		s := &Shard{fsm: r.fsm, cfg: Config{Limits: Limits{Lives: l}}}
		for _, step := range []struct {
			after         time.Duration
			due, left     int // carts that are found due; entries of the link's own cart
			ofOwner, gone []string
		}{
			{after: time.Hour - time.Second, left: 3, ofOwner: []string{"l", "m"}},
			{after: time.Hour + time.Second, due: 2, ofOwner: []string{"m"}, gone: []string{own}},
			{after: 2*time.Hour - time.Second, ofOwner: []string{"m"}, gone: []string{own}},
			{after: 2*time.Hour + time.Second, due: 2, gone: []string{own, live, owner}},
			{after: 3 * time.Hour, gone: []string{own, live, owner}},
		} {
			r.after(step.after)
			s.cfg.Clock = func() time.Time { return epoch.Add(step.after) }
			look, err := s.Due(t.Context(), store.Indexed{}, func(crdt.RegionID) bool { return true })
			if err != nil || len(look.Due) != step.due {
				t.Errorf("%s, after %v: %d due, %v, want %d", name, step.after, len(look.Due), err, step.due)
			}
			if ok, err := s.Expirable(look.Due); err != nil || slices.Contains(ok, false) {
				t.Errorf("%s, after %v: expirable %v, %v", name, step.after, ok, err)
			}
			moved := &regionv1.Expire{}
			for _, e := range look.Moved {
				moved.Moved = append(moved.Moved, &regionv1.Indexed{CartId: e.CartID, At: e.At})
			}
			r.apply(&regionv1.Command{Command: &regionv1.Command_Expire{Expire: moved}}, expireNow(t, r, own, live, owner))
			if n := len(r.state(own).Cart.Lines); n != step.left {
				t.Errorf("%s, after %v: %d entries of the link's cart, want %d", name, step.after, n, step.left)
			}
			if got := r.links(owner); !slices.Equal(got, step.ofOwner) {
				t.Errorf("%s, after %v: the owner's links %v, want %v", name, step.after, got, step.ofOwner)
			}
			for _, id := range step.gone {
				if !r.state(id).Cart.IsGarbage(func(crdt.Replica) bool { return true }) {
					t.Errorf("%s, after %v: something keeps %s: %v", name, step.after, id, r.state(id).Cart)
				}
			}
		}
		if len(r.told) != 0 {
			t.Errorf("%s: told %+v", name, r.told)
		}
		if all := r.index1(t); len(all) != 0 {
			t.Errorf("%s: left in the index: %v", name, all)
		}
	}
}

// The owner's lines expire without its links, and a guest's links without ending the
// session. What a revocation left behind of a link's cart lives as in a user's.
func TestLinksExpireByThemselves(t *testing.T) {
	r := newExpiring(t, tempStore(t), 1)
	const guest, own = guestPrefix + "g", sharePrefix + "l"
	r.ok(edit("u", add("s", "a", 1), share("l", time.Hour)))
	r.ok(edit(guest, add("s", "a", 1), share("l", 5*time.Second), share("m", time.Hour)))
	r.ok(edit(own, share("l", time.Hour, sharedLine("s", "a", 2, "USD"))))
	r.ok(edit(own, unshare("l")))
	r.after(6 * time.Second)
	r.apply(expireNow(t, r, "u", guest, own))
	r.want(guest, map[string]uint32{"s/a/": 1})
	r.want(own, map[string]uint32{"s/a/": 2})
	if got := r.links(guest); !slices.Equal(got, []string{"m"}) || len(r.told) != 0 {
		t.Errorf("the guest's links %v, told %+v", got, r.told)
	}
	r.ok(edit(guest, add("s", "a", 1)))
	r.after(301 * time.Second)
	r.apply(expireNow(t, r, "u", guest, own))
	for _, id := range []string{"u", guest, own} {
		r.want(id, map[string]uint32{})
	}
	if got := r.links("u"); !slices.Equal(got, []string{"l"}) || len(r.told) != 2 || !r.told[1].Guest {
		t.Errorf("links %v, told %+v", got, r.told)
	}
}

// BenchmarkDueIndex makes carts, and edits carts that are there, with the index of due
// carts and without. An operation is one add.
func BenchmarkDueIndex(b *testing.B) {
	for _, lives := range []crdt.Lives{{}, {Guest: 1, User: 30 * 24 * 3600 * 1000, Saved: 90 * 24 * 3600 * 1000}} {
		for _, carts := range []int{1 << 30, 1000} {
			b.Run(fmt.Sprintf("index=%v/new=%v", lives.User > 0, carts > 1000), func(b *testing.B) {
				s := openStore(b, b.TempDir(), 64<<20)
				defer func() {
					if err := s.Close(); err != nil {
						b.Error(err)
					}
				}()
				r := newRig(b, s, 0, 1)
				r.limits.Quantity = 1 << 31
				r.limits.GuestLifeMs, r.limits.UserLifeMs, r.limits.SavedLifeMs = lives.Guest, lives.User, lives.Saved
				r.fsm.carts.max = 1 << 30
				n := 0
				entry := func(size int) *raft.Log {
					e := r.entry()
					for range size {
						e.Commands = append(e.Commands, editCommand(edit(fmt.Sprintf("cart:user-%08d", n%carts), add("seller-1", "SKU-1", 1))))
						n++
					}
					data, err := marshal(e)
					if err != nil {
						b.Fatal(err)
					}
					r.index++
					r.at += 10 << 16
					return &raft.Log{Index: r.index, Type: raft.LogCommand, Data: data}
				}
				if carts == 1000 {
					r.fsm.Apply(entry(carts))
				}
				var logs []*raft.Log
				for range b.N/200 + 1 {
					logs = append(logs, entry(200))
				}
				b.ReportAllocs()
				b.ResetTimer()
				for _, l := range logs {
					r.fsm.Apply(l)
					r.published = r.published[:0]
				}
			})
		}
	}
}
