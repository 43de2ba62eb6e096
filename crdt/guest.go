package crdt

import (
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
)

// A guest's cart that is merged into a user's is joined with it: the guest's own
// dots, relabelled with the guest cart's id as their lineage.
//
//	M1  The guest's dots have one name each in every region and for good, so
//	    joining them again, elsewhere, or after the user removed a line is a
//	    join like any other, and changes nothing.
//	M2  Later edits of the guest's cart reach the user's in the same way: the
//	    whole guest's cart is joined again.
//	M3  A guest's cart that has expired, or was erased, joins nothing, its
//	    context included: what expiry and erasure removed there was not removed
//	    by the shopper.
//	M4  Under MergeMax no dot of the user's lines is minted. Under the other rules
//	    one is, for a line that both hold, the first time that the guest's writes
//	    of it come; FactGuest remembers which came.

// MergeRule says which quantity a line has that the guest and the user both hold
// when the guest's cart is merged for the first time. The one that a guest was
// first merged under stays the guest's.
type MergeRule uint8

// The rules. Under all of them what the guest writes later is concurrent with
// what the user has, and of the two the larger quantity counts.
const (
	// MergeMax: the larger.
	MergeMax MergeRule = iota
	// MergeSum: the sum.
	MergeSum
	// MergeLatest: that of the cart that was edited last, see LastEdit.
	MergeLatest
)

// mergeRules are the rules by their names.
var mergeRules = []string{MergeMax: "max", MergeSum: "sum", MergeLatest: "latest"}

// MergeRules lists the names of the rules.
func MergeRules() []string { return slices.Clone(mergeRules) }

// String returns the rule's name.
func (r MergeRule) String() string {
	if int(r) < len(mergeRules) {
		return mergeRules[r]
	}
	return "rule " + strconv.Itoa(int(r))
}

// ParseMergeRule is the inverse of String; ok is false for what is no rule's name.
func ParseMergeRule(name string) (r MergeRule, ok bool) {
	i := slices.Index(mergeRules, name)
	return MergeRule(max(i, 0)), i >= 0
}

// Joins reports whether the cart of a guest still joins the carts that it was
// merged into, see M3.
func (c *Cart) Joins() bool {
	_, expired := c.Fact(FactExpired, "")
	return !expired && !c.IsErased()
}

// Relabel returns the state of a guest's cart as it joins a user's: its own dots,
// and the requests behind them, are of the given lineage. Of the facts the
// promotion codes alone come along. The result is empty when the cart joins
// nothing.
func Relabel(guest State, lineage string) State {
	if guest.Cart == nil || !guest.Cart.Joins() {
		return State{Cart: &Cart{}}
	}
	label := func(r Replica) Replica {
		if r.Lineage == "" {
			r.Lineage = lineage
		}
		return r
	}
	out := &Cart{Lines: make(ORMap, 0, len(guest.Cart.Lines))}
	for _, e := range guest.Cart.Context.entries {
		e.replica = label(e.replica)
		out.Context = out.Context.Join(CausalContext{[]contextEntry{e}})
	}
	for _, e := range guest.Cart.Lines {
		if e.Key.IsFact() && e.Key.Options != string(FactCode) {
			continue
		}
		out.Lines = append(out.Lines, MapEntry{e.Key, &Line{
			Presence:   relabelled(e.Line.Presence, label),
			Quantity:   relabelled(e.Line.Quantity, label),
			Placement:  relabelled(e.Line.Placement, label),
			Offer:      relabelled(e.Line.Offer, label),
			Attributes: relabelled(e.Line.Attributes, label),
		}})
	}
	var ops []Op
	for _, o := range guest.Ops {
		if out.Context.Has(Dot{label(o.Dot.Replica), o.Dot.Seq}) {
			o.Dot.Replica = label(o.Dot.Replica)
			ops = append(ops, o)
		}
	}
	return State{Cart: out, Ops: joinOps(ops, nil), Active: guest.Active}
}

func relabelled[V comparable](r Register[V], label func(Replica) Replica) Register[V] {
	if len(r) == 0 {
		return nil
	}
	out := slices.Clone(r)
	for i := range out {
		out[i].Dot.Replica = label(out[i].Dot.Replica)
	}
	slices.SortFunc(out, func(a, b Write[V]) int { return a.Dot.Compare(b.Dot) })
	return out
}

// IsOfGuests reports whether every dot that the cart has seen came with a merged
// guest's: whether it may come from Relabel.
func (c *Cart) IsOfGuests() bool {
	return !slices.ContainsFunc(c.Context.entries, func(e contextEntry) bool { return e.replica.Lineage == "" })
}

// LastEdit is when a cart was last edited, as far as its state still tells: an add,
// a change of attributes, and any edit with an op id that still stands.
func (s State) LastEdit() (at Timestamp) {
	for _, e := range s.Cart.Lines {
		for _, w := range e.Line.Offer {
			at = max(at, w.Value.AddedAt)
		}
		for _, w := range e.Line.Attributes {
			at = max(at, w.Value.At)
		}
	}
	for _, o := range s.Ops {
		at = max(at, o.At)
	}
	return at
}

// Guest is a guest's cart on its way into a user's.
type Guest struct {
	ID    string // of the guest's cart, its lineage
	State State  // from Relabel
	// Shared: the guest's cart was merged into another user's as well.
	Shared bool
}

// Merge is what becomes of a user's cart with a guest's.
type Merge struct {
	Cart *Cart
	// Deltas are what was minted: FactGuest, when it says something new, and a
	// write for each line that the rule decided. Each applies to what the one
	// before gave; the first to the join of both carts.
	Deltas []Delta
	// Items is the number of the guest's lines that are there.
	Items int
	// Conflicts is the joined cart of those lines that both wrote to different
	// values, and of which the rule decided nothing.
	Conflicts *Cart
	// Decided are the lines that the rule decided, now or before, where it had
	// different quantities to decide between.
	Decided []Decision
}

// Decision is the quantities that a rule decided between.
type Decision struct {
	Key         LineKey
	User, Guest uint32
}

// MergeGuest joins a guest's cart into the user's cart of state s. A guest whose
// state is empty changes nothing.
func (s State) MergeGuest(w Writer, g Guest, rule MergeRule) Merge {
	c, guest := s.Cart, g.State.Cart
	out := Merge{Cart: c, Conflicts: &Cart{}}
	if guest.Context.IsEmpty() || c.IsErased() {
		return out
	}
	joined := Join(c, guest)
	out.Cart, out.Conflicts.Context = joined, joined.Context
	note, known := c.guestNote(g.ID)
	if !known {
		note.rule, note.merged = rule, w.At
	}
	was := note.pairs()
	note.shared = note.shared || g.Shared
	var decided []Decision
	for k, theirs := range guest.Visible() {
		out.Items++
		h, ours := hashOf(k), c.Find(k)
		if note.rule != MergeMax && len(note.lines) < noteLinesMax && note.first(c, k, guest.Find(k)) {
			note.lines = append(note.lines, h)
			if ours != nil {
				d := Decision{k, ours.quantity(), theirs.Quantity}
				decided = append(decided, d)
				if d.differs() || note.rule == MergeSum {
					note.decided[h] = d
				}
			}
		}
		switch l := joined.Find(k); {
		case note.decided[h].differs() && l != nil:
			d := note.decided[h]
			out.Decided = append(out.Decided, Decision{k, d.User, d.Guest})
		case l.isContested(g.ID):
			out.Conflicts.Lines = append(out.Conflicts.Lines, MapEntry{k, l})
		}
	}
	apply := func(d Delta) {
		out.Cart = out.Cart.Apply(d)
		out.Deltas = append(out.Deltas, d)
	}
	// The fact comes before the writes, in a region's log too: who has a write knows
	// that the guest's writes behind it have come.
	if pairs := note.pairs(); !known || pairs != was {
		apply(out.Cart.SetFact(w, FactGuest, g.ID, pairs))
	}
	guestLast := note.rule == MergeLatest && g.State.LastEdit() > s.LastEdit()
	for _, d := range decided {
		if q := note.rule.decide(w.QuantityMax, d, guestLast); q != joined.Find(d.Key).quantity() {
			apply(out.Cart.SetQuantity(w, d.Key, q))
		}
	}
	return out
}

// decide is the quantity of a line that both hold. A sum is of what shows, as an add
// is, and may be more than what shows.
func (r MergeRule) decide(limit uint32, d Decision, guestLast bool) uint32 {
	user, guest := d.User, d.Guest
	switch {
	case r == MergeLatest && guestLast:
		return guest
	case r == MergeLatest:
		return user
	}
	if limit > 0 {
		user, guest = min(user, limit), min(guest, limit)
	}
	if user+guest < user {
		return ^uint32(0)
	}
	return user + guest
}

// isContested reports whether writes of a lineage and others stand in one of the
// line's registers side by side, with values that differ for a shopper.
func (l *Line) isContested(lineage string) bool {
	if !l.IsThere() {
		return false
	}
	return contested(l.Quantity, lineage, func(a, b uint32) bool { return a == b }) ||
		contested(l.Placement, lineage, func(a, b Placement) bool { return a == b }) ||
		contested(l.Offer, lineage, func(a, b Offer) bool { return a.Price == b.Price && a.Currency == b.Currency }) ||
		contested(l.Attributes, lineage, func(a, b Attributes) bool { return a.Pairs == b.Pairs })
}

func contested[V comparable](r Register[V], lineage string, same func(a, b V) bool) bool {
	for _, theirs := range r {
		if theirs.Dot.Replica.Lineage != lineage {
			continue
		}
		for _, ours := range r {
			if ours.Dot.Replica.Lineage != lineage && !same(ours.Value, theirs.Value) {
				return true
			}
		}
	}
	return false
}

// guestNote is what FactGuest knows of one merged guest.
type guestNote struct {
	rule MergeRule
	// lines are hashes of those lines of the guest that have come, kept where the
	// rule asks.
	lines  []uint64
	shared bool
	merged Timestamp   // when it was merged
	undone []Timestamp // when that was undone, in no order; each is the time of an edit
	// decided is what the rule decided between or summed up, by the line's hash: once
	// it is written, nothing else tells. Keys are not known.
	decided map[uint64]Decision
}

func (n guestNote) has(line uint64) bool {
	_, ok := n.decided[line]
	return ok
}

// What FactGuest remembers is bounded, so that it fits a cart: twice as many lines
// as a cart takes, and in each decision the quantities of as many as one takes. What
// is beyond counts by maximum.
const (
	noteLinesMax   = 1000
	noteDecidedMax = 500
	noteUndoneMax  = 16 // the newest
)

// Names in FactGuest's value.
const (
	noteRule    = "rule"
	noteMerged  = "merged"
	noteUndone  = "undone"
	noteLines   = "lines"
	noteShared  = "shared"
	noteDecided = "decided"
)

// guestNote reads FactGuest. Of concurrent writes each counts: a line that one of
// them knows has come. The rule is that of the one that resolves.
func (c *Cart) guestNote(id string) (n guestNote, known bool) {
	v, known := c.Fact(FactGuest, id)
	n.decided = map[uint64]Decision{}
	if !known {
		return n, false
	}
	n.rule, _ = ParseMergeRule(Pairs(v.Pairs)[noteRule]) // none is max
	for _, w := range c.Lines.Find(FactKey(FactGuest, id)).Attributes {
		pairs := Pairs(w.Value.Pairs)
		n.shared = n.shared || pairs[noteShared] != ""
		n.merged = max(n.merged, noteTime(pairs[noteMerged], w.Value.At))
		for text := range strings.SplitSeq(pairs[noteUndone], ".") {
			if at := noteTime(text, 0); at > 0 {
				n.undone = append(n.undone, at)
			}
		}
		for text := range strings.SplitSeq(pairs[noteLines], ".") {
			if h, err := strconv.ParseUint(text, 36, 64); err == nil {
				n.lines = append(n.lines, h)
			}
		}
		for text := range strings.SplitSeq(pairs[noteDecided], ".") {
			var v [3]uint64
			ok := true
			for i, part := range append(strings.SplitN(text, "-", 3), "", "")[:3] {
				var err error
				v[i], err = strconv.ParseUint(part, 36, 64)
				ok = ok && err == nil
			}
			// Of two regions that decided differently, the same one everywhere.
			if d := (Decision{User: uint32(v[1]), Guest: uint32(v[2])}); ok && (!n.has(v[0]) || n.decided[v[0]].before(d)) {
				n.decided[v[0]] = d
			}
		}
	}
	return n, true
}

// isUndone reports whether the merge is undone: by an undo that is not older than the
// latest of the merges that regions made without knowing of each other.
func (n guestNote) isUndone() bool { return len(n.undone) > 0 && slices.Max(n.undone) >= n.merged }

// differs reports whether there was something to decide.
func (d Decision) differs() bool { return d.User != d.Guest }

func (d Decision) before(o Decision) bool {
	return d.User < o.User || d.User == o.User && d.Guest < o.Guest
}

// pairs is the note as FactGuest's value.
func (n guestNote) pairs() string {
	pairs := map[string]string{}
	if n.rule != MergeMax {
		pairs[noteRule] = n.rule.String()
	}
	if n.shared {
		pairs[noteShared] = "1"
	}
	if n.merged > 0 {
		pairs[noteMerged] = strconv.FormatUint(uint64(n.merged), 36)
	}
	if undone := slices.Compact(slices.Sorted(slices.Values(n.undone))); len(undone) > 0 {
		undone = undone[max(0, len(undone)-noteUndoneMax):]
		times := make([]string, len(undone))
		for i, at := range undone {
			times[i] = strconv.FormatUint(uint64(at), 36)
		}
		pairs[noteUndone] = strings.Join(times, ".")
	}
	if len(n.lines) > 0 {
		lines := slices.Compact(slices.Sorted(slices.Values(n.lines)))
		lines = lines[:min(len(lines), noteLinesMax)]
		texts := make([]string, len(lines))
		for i, h := range lines {
			texts[i] = strconv.FormatUint(h, 36)
		}
		pairs[noteLines] = strings.Join(texts, ".")
	}
	texts := make([]string, 0, len(n.decided))
	for h, d := range n.decided {
		texts = append(texts, strconv.FormatUint(h, 36)+"-"+strconv.FormatUint(uint64(d.User), 36)+"-"+strconv.FormatUint(uint64(d.Guest), 36))
	}
	if slices.Sort(texts); len(texts) > 0 {
		pairs[noteDecided] = strings.Join(texts[:min(len(texts), noteDecidedMax)], ".")
	}
	return CanonicalPairs(pairs)
}

// noteTime reads a time in a note; without one it is none.
func noteTime(text string, none Timestamp) Timestamp {
	if at, err := strconv.ParseUint(text, 36, 64); err == nil {
		return Timestamp(at)
	}
	return none
}

// first reports whether nothing that the guest wrote of a line has come to c. A
// write may have come inside another region's row, ahead of the note.
func (n guestNote) first(c *Cart, k LineKey, l *Line) bool {
	return !slices.Contains(n.lines, hashOf(k)) &&
		!slices.ContainsFunc(l.appendDots(nil), c.Context.Has)
}

// hashOf names a line in few bytes. Two lines of one name cost a sum at most.
func hashOf(k LineKey) uint64 {
	h := fnv.New64a()
	for _, s := range []string{k.Seller, k.SKU, k.Options} {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	return h.Sum64()
}

// SharedGuests lists the guests' carts that were merged into this one and, at the
// same time elsewhere, into another user's: both keep the lines.
func (c *Cart) SharedGuests() (ids []string) {
	for id := range c.Facts(FactGuest) {
		if n, _ := c.guestNote(id); n.shared {
			ids = append(ids, id)
		}
	}
	return ids
}
