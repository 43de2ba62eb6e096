package check

import (
	"strings"
	"testing"
	"time"
)

func refused(o *Op)          { o.Outcome = Refused }
func replayed(o *Op)         { o.Replayed = true }
func ofGuest(o *Op)          { o.Cart = "g" }
func guest(o *Op)            { o.Guest = "g" }
func only(i Item) func(*Op)  { return cart(map[string]Item{"tea": i}) }
func merge(begin, s int) Op  { return at(begin, s, Merge, "", 0, guest) }
func remove(begin, s int) Op { return at(begin, s, Remove, "tea", 0) }

// What guests bring is there, once, and stays away when it was removed.
func TestContentOfMerges(t *testing.T) {
	guestAdds := at(0, 9, Add, "tea", 2, ofGuest)
	sets := []Op{at(0, 9, Set, "tea", 5, ofGuest), at(0, 1, Set, "tea", 4), merge(5, 1)}
	for _, c := range []struct {
		name, want string
		have       uint64
		rule       Rule
		ops        []Op
	}{
		{"there", "", 2, Max, []Op{guestAdds, merge(5, 1)}},
		{"lost", "lost tea", 0, Max, []Op{guestAdds, merge(5, 1)}},
		{"a late edit, too", "lost tea", 0, Max, []Op{merge(5, 1), at(7, 9, Add, "tea", 2, ofGuest)}},
		{"not of a merge whose outcome is unknown", "", 0, Max, []Op{guestAdds, at(5, 1, Merge, "", 0, guest, unknown)}},
		{"but it may be there", "", 2, Max, []Op{guestAdds, at(5, 1, Merge, "", 0, guest, unknown)}},
		{"of a guest that nobody merged", "nobody wrote", 2, Max, []Op{guestAdds, at(0, 1, Add, "cup", 1)}},
		{"doubled by a second merge", "doubled", 4, Max, []Op{guestAdds, merge(5, 1), merge(7, 2)}},
		{"of two the larger", "", 2, Max, []Op{guestAdds, at(0, 1, Add, "tea", 1), merge(5, 1)}},
		{"not the smaller", "lost", 1, Max, []Op{guestAdds, at(0, 1, Add, "tea", 1), merge(5, 1)}},
		{"the user may have added to it", "", 3, Max, []Op{guestAdds, merge(5, 1), at(7, 1, Add, "tea", 1)}},
		{"two sets are not added", "doubled", 9, Max, sets},
		{"but under the rule sum", "", 9, Sum, sets},
		{"once", "doubled", 14, Sum, append(sets, merge(7, 1))},
		{"the latest may be less", "", 1, Latest, []Op{guestAdds, at(3, 1, Add, "tea", 1), merge(5, 1)}},
		{"the latest is no sum", "doubled", 9, Latest, sets},
		{"removed by the user", "", 0, Max, []Op{guestAdds, merge(5, 1), remove(7, 1)}},
		{"back by a second merge", "took it out again", 2, Max, []Op{guestAdds, merge(5, 1), remove(7, 1), merge(9, 2)}},
		{"back, and the user had it too", "took it out again", 2, Max, []Op{guestAdds, at(1, 1, Add, "tea", 1), merge(5, 1), remove(7, 1), merge(9, 2)}},
		{"back, though the guest took it out", "took it out again", 2, Max, []Op{guestAdds, at(3, 9, Remove, "tea", 0, ofGuest), merge(5, 1)}},
		{"the guest has added again", "", 2, Max, []Op{guestAdds, merge(5, 1), remove(7, 1), at(8, 9, Add, "tea", 1, ofGuest)}},
		{"the merge had not seen it", "", 2, Max, []Op{at(0, 9, Add, "tea", 2, ofGuest, in("us")), merge(5, 1), remove(7, 1)}},
		{"the removal had not seen the merge", "", 2, Max, []Op{guestAdds, merge(5, 1), at(7, 2, Remove, "tea", 0, in("us"))}},
		{"an undo takes it out", "", 0, Max, []Op{guestAdds, merge(5, 1), at(7, 1, Undo, "", 0)}},
		{"but not what the user has", "lost tea", 0, Max, []Op{guestAdds, at(0, 1, Add, "tea", 1), merge(5, 1), at(7, 1, Undo, "", 0)}},
		{"an undo puts back what was removed", "", 2, Max, []Op{at(0, 1, Add, "tea", 2), remove(3, 1), at(5, 2, Undo, "", 0)}},
		{"not more than there was", "doubled", 3, Max, []Op{at(0, 1, Add, "tea", 2), remove(3, 1), at(5, 2, Undo, "", 0)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			final := map[string]map[string]Item{"c": {"tea": {N: c.have}}, "g": {"tea": {N: 2}}}
			got, _ := Content(c.ops, final, c.rule)
			var ofUser []Violation // the guest's cart is not what this is about
			for _, v := range got {
				if strings.HasPrefix(v.Text, "c ") {
					ofUser = append(ofUser, v)
				}
			}
			expect(t, c.want, ofUser)
		})
	}
}

// The last save, move or note is what shows, if it has seen all others.
func TestRegisters(t *testing.T) {
	add := at(0, 1, Add, "tea", 2)
	save, move := at(3, 1, Save, "tea", 0), at(5, 1, Move, "tea", 0)
	hi, ho := at(3, 1, Describe, "tea", 0, note("hi")), at(5, 2, Describe, "tea", 0, note("ho"))
	for _, c := range []struct {
		name, want string
		have       Item
		ops        []Op
	}{
		{"aside", "", Item{N: 2, Saved: true}, []Op{add, save}},
		{"a save is lost", "nothing came after", Item{N: 2}, []Op{add, save}},
		{"moved", "", Item{N: 2}, []Op{add, save, move}},
		{"a move is lost", "nothing came after", Item{N: 2, Saved: true}, []Op{add, save, move}},
		{"an add brings it back", "", Item{N: 3}, []Op{add, save, at(5, 2, Add, "tea", 1)}},
		{"one in another region, perhaps", "", Item{N: 3, Saved: true}, []Op{add, save, at(5, 2, Add, "tea", 1, in("us"))}},
		{"a concurrent first add counts before it", "", Item{N: 2}, []Op{add, at(0, 2, Add, "tea", 1, in("us")), save}},
		{"a set does not move it", "nothing came after", Item{N: 5}, []Op{add, save, at(5, 2, Set, "tea", 5, in("us"))}},
		{"a move that has not seen the save", "", Item{N: 2, Saved: true}, []Op{add, save, at(5, 1, Move, "tea", 0, in("us"), stale)}},
		{"a save that is replayed was made before", "", Item{N: 2}, []Op{add, at(3, 1, Save, "tea", 0, replayed)}},
		{"a note", "", Item{N: 2, Note: "hi"}, []Op{add, hi}},
		{"a note is lost", "no note came after", Item{N: 2}, []Op{add, hi}},
		{"one that came with an add is lost", "no note came after", Item{N: 2}, []Op{at(0, 1, Add, "tea", 2, note("hi"))}},
		{"an old note is back", "no note came after", Item{N: 2, Note: "hi"}, []Op{add, hi, ho}},
		{"of two at the same time either", "", Item{N: 2, Note: "hi"}, []Op{add, hi, at(3, 2, Describe, "tea", 0, note("ho"), in("us"))}},
		{"an add without one leaves it", "no note came after", Item{N: 3}, []Op{add, hi, at(5, 2, Add, "tea", 1)}},
		{"a note keeps the line", "lost tea", Item{}, []Op{remove(0, 2), hi}},
	} {
		t.Run(c.name, func(t *testing.T) {
			final := map[string]Item{}
			if c.have.N > 0 {
				final["tea"] = c.have
			}
			got, _ := Content(c.ops, map[string]map[string]Item{"c": final}, Max)
			expect(t, c.want, got)
		})
	}
}

func TestSessionsOfPlacesAndMerges(t *testing.T) {
	add := at(0, 1, Add, "tea", 2, shows(2))
	joined := []Op{add, at(1, 9, Add, "tea", 5, shows(5), ofGuest), at(2, 1, Merge, "", 0, guest), at(4, 1, Get, "", 0, only(Item{N: 5}))}
	for _, c := range []struct {
		name, want string
		rule       Rule
		ops        []Op
	}{
		{"own save missing", "was shown 2", Max, []Op{add, at(2, 1, Save, "tea", 0, only(Item{N: 2}))}},
		{"own move missing", "was shown 2", Max, []Op{
			add, at(2, 1, Save, "tea", 0, only(Item{N: 2, Saved: true})), at(4, 1, Move, "tea", 0, only(Item{N: 2})),
			at(6, 1, Get, "", 0, only(Item{N: 2, Saved: true})),
		}},
		{"own note missing", "was shown 2", Max, []Op{at(0, 1, Add, "tea", 2, shows(2), note("hi")), at(2, 1, Get, "", 0, only(Item{N: 2}))}},
		{"a save of what is not there", "", Max, []Op{at(0, 1, Save, "tea", 0, refused), at(2, 1, Get, "", 0)}},
		{"a guest's line is nobody's own", "", Max, joined},
		{"what a guest brought falls", "then 2", Max, append(joined, at(6, 1, Get, "", 0, only(Item{N: 2})))},
		{"by the rule latest it may", "", Latest, append(joined, at(6, 1, Get, "", 0, only(Item{N: 2})))},
		{"as the guest may have asked for", "", Max, append(joined, at(5, 9, Remove, "tea", 0, ofGuest), at(6, 1, Get, "", 0, only(Item{N: 2})))},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, _ := Sessions(c.ops, c.rule)
			expect(t, c.want, got)
		})
	}
}

func TestLinearizablePlacesAndUndos(t *testing.T) {
	add := at(0, 1, Add, "tea", 2, shows(2), note("hi"))
	save, clears := at(2, 2, Save, "tea", 0), at(2, 2, Clear, "", 0)
	for _, c := range []struct {
		name, want string
		ops        []Op
	}{
		{"aside, and back", "", []Op{
			add, save, at(4, 1, StrongGet, "", 0, only(Item{N: 2, Saved: true, Note: "hi"})),
			at(6, 1, Remove, "cup", 0), at(8, 2, Move, "tea", 0), at(10, 1, StrongGet, "", 0, only(Item{N: 2, Note: "hi"})),
		}},
		{"a save is forgotten", "no order", []Op{add, save, at(4, 1, StrongGet, "", 0, only(Item{N: 2, Note: "hi"}))}},
		{"what is aside is counted", "no order", []Op{add, save, at(4, 1, Remove, "cup", 0, shows(2))}},
		{"a note is forgotten", "no order", []Op{add, at(4, 1, StrongGet, "", 0, only(Item{N: 2}))}},
		{"undone", "", []Op{add, clears, at(4, 1, Undo, "", 0), at(6, 1, StrongGet, "", 0, only(Item{N: 2, Note: "hi"}))}},
		{"an undo is forgotten", "no order", []Op{add, clears, at(4, 1, Undo, "", 0), at(6, 1, StrongGet, "", 0)}},
		{"an undo without anything to undo", "no order", []Op{add, at(4, 2, Undo, "", 0)}},
		{"undone twice", "no order", []Op{add, clears, at(4, 1, Undo, "", 0), at(6, 1, Undo, "", 0)}},
		{"an undo of what is there again", "no order", []Op{add, clears, at(4, 1, Add, "tea", 1, shows(1)), at(6, 1, Undo, "", 0)}},
		{"an undo of the last but one", "no order", []Op{
			add, at(2, 1, Add, "cup", 1, shows(1)), at(4, 2, Remove, "tea", 0, shows(1)), at(6, 2, Remove, "cup", 0),
			at(8, 1, Undo, "", 0), at(10, 1, StrongGet, "", 0, only(Item{N: 2, Note: "hi"})),
		}},
		{"of a cart with a merge nothing is judged", "", []Op{merge(0, 1), at(2, 2, Undo, "", 0)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, _ := Linearizable(c.ops, time.Second)
			expect(t, c.want, got)
		})
	}
}
