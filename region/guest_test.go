package region

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/samecart/samecart/crdt"
	membershipv1 "github.com/samecart/samecart/proto/membership/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

// mustMerge merges and returns what came.
func mustMerge(t *testing.T, r *Router, guest, user string) *regionv1.Outcome {
	t.Helper()
	out, err := r.MergeGuest(soon(t), guest, user)
	if err != nil || out.Code != regionv1.Outcome_CODE_OK {
		t.Fatalf("merge %s into %s: %v, %v", guest, user, out.GetCode(), err)
	}
	return out
}

// nothingMarked waits until all guests' carts of a shard are forwarded.
func (w *world) nothingMarked(id uint32) {
	w.t.Helper()
	within(w.t, 10*time.Second, "guests are forwarded", func() error {
		marks, err := w.leader(id).here(id).MarkedGuests("", 10)
		if err == nil && len(marks) > 0 {
			err = fmt.Errorf("marks of %v", marks)
		}
		return err
	})
}

// The guest's shard and the user's are on different nodes. The user's has no
// majority when the guest's is closed, and then the leader of the guest's is killed:
// its mark completes the merge, and nobody has to call again.
func TestMergeIsCompletedByTheMark(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 6, 4) // shard 0 is on the first three nodes, shard 3 on the others
	guest, user := w.cartIn(0, 0), w.cartIn(3, 0)
	gate := w.gateway()
	if _, err := gate.MergeRule(soon(t)); err != nil {
		t.Fatal(err)
	}
	mustEdit(t, gate, addEdit(user, "SKU-2", 1))
	mustEdit(t, gate, addEdit(guest, "SKU-1", 1))
	mustEdit(t, gate, addEdit(guest, "SKU-2", 2))
	w.kill(w.names[4], w.names[5])
	if _, err := gate.MergeGuest(limited(t, time.Second), guest, user); !errors.Is(err, ErrOutcomeUnknown) {
		t.Fatalf("merge into a shard without a majority: %v", err)
	}
	w.kill(w.leader(0).name)
	w.start(w.names[4], w.names[5])
	within(t, 20*time.Second, "the guest's lines are in the user's cart", func() error {
		v, err := gate.Read(soon(t), user, ReadOptions{Strong: true})
		if err == nil && len(quantities(v)) != 2 {
			err = fmt.Errorf("cart has %v", quantities(v))
		}
		return err
	})
	wantLines(t, mustRead(t, gate, user, ReadOptions{Strong: true}), map[string]uint32{"SKU-1": 1, "SKU-2": 2})
	w.nothingMarked(0)
	// And once more, by the shopper who tries again.
	if out := mustMerge(t, gate, guest, user); out.Merged.Items != 2 {
		t.Errorf("again: %v", out)
	}
}

// What comes by gossip, rows or a whole cart, is forwarded: the guest's lines, and
// the merge itself.
func TestGossipOfGuestsIsForwarded(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 3)
	gate := w.gateway()
	guest, other, user := w.cartIn(0, 0), w.cartIn(1, 0), w.cartIn(2, 0)
	if out := mustMerge(t, gate, guest, user); out.Merged.Items != 0 {
		t.Errorf("an unknown guest has lines: %v", out)
	}
	f := newForeign(guest).add(1, "SKU-1", 2)
	if _, ok, err := gate.JoinInterval(soon(t), crdt.Interval{Stream: away, Lo: 0, Hi: 1, Rows: f.rows}, 0, 1024); !ok || err != nil {
		t.Fatalf("join: %v, %v", ok, err)
	}
	shows := func(want map[string]uint32) {
		t.Helper()
		within(t, 10*time.Second, "forwarded", func() error {
			if got := quantities(mustRead(t, gate, user, ReadOptions{})); len(got) != len(want) {
				return fmt.Errorf("cart has %v", got)
			}
			return nil
		})
		wantLines(t, mustRead(t, gate, user, ReadOptions{}), want)
	}
	shows(map[string]uint32{"SKU-1": 2})
	// Another guest was merged elsewhere: its whole cart says so.
	g := newForeign(other).add(1, "SKU-5", 1)
	g.cart = g.cart.Apply(g.cart.SetFact(g.write, crdt.FactMerged, user, ""))
	if err := gate.JoinCart(soon(t), other, g.state(), otherID, 1); err != nil {
		t.Fatal(err)
	}
	shows(map[string]uint32{"SKU-1": 2, "SKU-5": 1})
	// An edit here, of a merged guest.
	mustEdit(t, gate, addEdit(other, "SKU-6", 1))
	shows(map[string]uint32{"SKU-1": 2, "SKU-5": 1, "SKU-6": 1})
	w.nothingMarked(0)
	w.nothingMarked(1)
	// An expired guest's cart is emptied; the user's stays.
	f.cart = mustRead(t, gate, guest, ReadOptions{}).State.Cart
	f.write.At = crdt.TimestampAt(time.Now().UnixMilli())
	f.cart = f.cart.Apply(f.cart.SetFact(f.write, crdt.FactExpired, "", ""))
	for _, d := range f.cart.Clear(f.write) {
		f.cart = f.cart.Apply(d)
	}
	if err := gate.JoinCart(soon(t), guest, f.state(), otherID, 1); err != nil {
		t.Fatal(err)
	}
	wantLines(t, mustRead(t, gate, guest, ReadOptions{}), nil)
	if out := mustMerge(t, gate, guest, user); out.Merged.Items != 0 {
		t.Errorf("an expired guest has lines: %v", out)
	}
	mustEdit(t, gate, addEdit(other, "SKU-7", 1)) // forwarded after it
	shows(map[string]uint32{"SKU-1": 2, "SKU-5": 1, "SKU-6": 1, "SKU-7": 1})
}

func TestSettings(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 2)
	gate := w.gateway()
	for name, value := range map[string]string{SettingMergeRule: "least", "no such": "max"} {
		if err := gate.SetSetting(soon(t), name, value); !errors.Is(err, ErrSetting) {
			t.Errorf("%s = %s: %v", name, value, err)
		}
	}
	if rule, err := gate.MergeRule(soon(t)); err != nil || rule != crdt.MergeMax {
		t.Errorf("rule of a new shop: %v, %v", rule, err)
	}
	if err := gate.SetSetting(soon(t), SettingMergeRule, "latest"); err != nil {
		t.Fatal(err)
	}
	if rule, err := gate.MergeRule(soon(t)); err != nil || rule != crdt.MergeLatest {
		t.Errorf("rule where it was set: %v, %v", rule, err)
	}
	within(t, 10*time.Second, "all nodes know the rule", func() error {
		for _, name := range w.names {
			if rule, err := w.node(name).MergeRule(soon(t)); err != nil || rule != crdt.MergeLatest {
				return fmt.Errorf("%s: %v, %w", name, rule, err)
			}
		}
		return nil
	})
	// A value of a newer version is not taken for the default.
	mustEdit(t, gate, &regionv1.Edit{CartId: SettingsID, Changes: []*regionv1.Change{{
		Kind: regionv1.Change_KIND_SETTING, FactId: SettingMergeRule, Value: "value=median",
	}}})
	within(t, 10*time.Second, "the new value is read", func() error {
		if _, err := gate.MergeRule(soon(t)); !errors.Is(err, ErrSetting) {
			return fmt.Errorf("unknown rule: %w", err)
		}
		return nil
	})
}

// When an expired guest's cart is collected, the user's forgets the guest, and keeps
// the lines.
func TestGoneGuestIsForgotten(t *testing.T) {
	t.Parallel()
	w := startWorld(t, 3, 3)
	gate := w.gateway()
	for id := range w.shards {
		m := &membershipv1.Membership{Epoch: 1}
		for i, name := range []string{testRegion, "other"} {
			m.Members = append(m.Members, &membershipv1.Member{RegionId: uint32(i + 1), Region: name, State: membershipv1.State_STATE_ACTIVE, Incarnation: 1})
		}
		if err := gate.SetMembership(soon(t), id, m); err != nil {
			t.Fatal(err)
		}
	}
	guest, user := w.cartIn(0, 0), w.cartIn(2, 0)
	f := newForeign(guest).add(1, "SKU-1", 2)
	if err := gate.JoinCart(soon(t), guest, f.state(), otherID, 1); err != nil {
		t.Fatal(err)
	}
	mustMerge(t, gate, guest, user)
	w.nothingMarked(0)
	f.cart = mustRead(t, gate, guest, ReadOptions{Strong: true}).State.Cart
	f.cart = f.cart.Apply(f.cart.SetFact(f.write, crdt.FactExpired, "", ""))
	for _, d := range f.cart.Clear(f.write) {
		f.cart = f.cart.Apply(d)
	}
	if err := gate.JoinCart(soon(t), guest, f.state(), otherID, 1); err != nil {
		t.Fatal(err)
	}
	named := func() bool {
		_, ok := mustRead(t, gate, user, ReadOptions{Strong: true}).State.Cart.Fact(crdt.FactGuest, guest)
		return ok
	}
	if !named() {
		t.Fatal("the user's cart forgot the guest before the guest's was collected")
	}
	v := mustRead(t, gate, guest, ReadOptions{Strong: true})
	if err := gate.Collect(soon(t), []CartDigest{{CartID: guest, Digest: v.Digest}}); err != nil {
		t.Fatal(err)
	}
	within(t, 10*time.Second, "the user's cart forgets the guest", func() error {
		if named() {
			return errors.New("it still names it")
		}
		return nil
	})
	wantLines(t, mustRead(t, gate, user, ReadOptions{Strong: true}), map[string]uint32{"SKU-1": 2})
	w.nothingMarked(0)
}
