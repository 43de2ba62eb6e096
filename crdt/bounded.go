package crdt

import (
	"cmp"
	"slices"
)

// Holder is one holder of a bounded counter's rights: a region in one incarnation.
type Holder struct {
	Region      RegionID
	Incarnation uint32
}

// Replica is the holder as it writes.
func (h Holder) Replica() Replica { return Replica{Region: h.Region, Incarnation: h.Incarnation} }

// Compare orders holders by region, then incarnation.
func (h Holder) Compare(o Holder) int {
	return cmp.Or(cmp.Compare(h.Region, o.Region), cmp.Compare(h.Incarnation, o.Incarnation))
}

// Share is an amount of rights, or a seq, that concerns a holder.
type Share struct {
	Holder Holder
	N      uint64
}

// RightsRow is what one holder did with a counter's rights. All of it only grows, but
// for Seals, which are replaced when Epoch grows.
type RightsRow struct {
	Granted   uint64  // rights that this holder made
	Used      uint64  // rights that it spent
	Sent      []Share // rights that it gave to others, by holder
	Reclaimed []Share // rights of holders that are gone, which it took over, by holder
	// Want asks the others for rights: until the holder has gained so many in all.
	Want uint64

	// Limit is how many rights there should be, and Cap how many of them one
	// customer may use, 0: any number. Every holder may say so: the highest limit
	// counts, and the cap of who granted first, which says the strictest that it knows
	// when it has none of its own. Homes are in force once rights were granted: they say
	// where customers' rights are at first, see Home.
	Limit, Cap uint64
	Homes      []Holder

	// Epoch is that of the newest membership under which this holder has noted,
	// in Seals, how much it knows of those who are no members any more.
	Epoch uint64
	Seals []Share // by holder: the seq of the newest row known
}

// Bounded is a counter that is spent in many places at once and never beyond its
// bound: an escrow of rights. Whoever holds a right may spend it without asking.
// The zero value is a counter without rights. Values are immutable.
//
//	B1  A holder's row is written by the holder alone, one version after another:
//	    of two copies the one of the higher seq has all that the other has.
//	B2  A holder's rights follow from its own row and from what it has heard that
//	    others sent to it: what it has not heard of can only add to them.
//	B3  So it never spends or sends what it does not have, whatever it has missed,
//	    and the sum of what all have used is at most that of what was granted.
//	B4  What is left of a holder that is gone is taken over by one member, once
//	    all members have sealed: each says, after it has begun to refuse what comes
//	    from who is gone, how much it knows of them. Nobody learns more of them
//	    afterwards. Members that take over under different epochs know of each
//	    other: who has sealed under the later one does not under the earlier.
//
// Source: Balegas et al. SRDS 2015, Extending Eventually Consistent Cloud Databases
// for Enforcing Numeric Invariants. Sealing is ours: there, rights of a replica that is
// gone are lost.
type Bounded struct {
	rows []boundedRow // by holder
	// initial rights that nobody's row has
	initial Share
}

type boundedRow struct {
	holder Holder
	seq    uint64
	RightsRow
}

// WithInitial is the counter in which a holder has rights that nobody granted: that
// it has them is known to all from elsewhere, and always was.
func (b Bounded) WithInitial(h Holder, n uint64) Bounded {
	b.initial = Share{h, n}
	return b
}

// find returns a holder's place among the rows, of which there are few.
func (b Bounded) find(h Holder) (place int, ok bool) {
	for i := range b.rows {
		if at := &b.rows[i].holder; at.Region > h.Region || at.Region == h.Region && at.Incarnation >= h.Incarnation {
			return i, *at == h
		}
	}
	return len(b.rows), false
}

// at is a holder's row, an empty one when it has none: read only.
func (b Bounded) at(h Holder) *boundedRow {
	if i, ok := b.find(h); ok {
		return &b.rows[i]
	}
	return &boundedRow{}
}

// Row returns a holder's row and its seq, which is 0 when it has none.
func (b Bounded) Row(h Holder) (RightsRow, uint64) {
	r := b.at(h)
	return r.RightsRow, r.seq
}

// Holders returns those who have a row, and the one who has initial rights.
func (b Bounded) Holders() []Holder {
	out := make([]Holder, 0, len(b.rows)+1)
	for _, r := range b.rows {
		out = append(out, r.holder)
	}
	if b.initial.N > 0 {
		if i, ok := slices.BinarySearchFunc(out, b.initial.Holder, Holder.Compare); !ok {
			out = slices.Insert(out, i, b.initial.Holder)
		}
	}
	return out
}

// With returns the counter with a holder's row, if that is newer than the one it has.
func (b Bounded) With(h Holder, seq uint64, row RightsRow) Bounded {
	i, ok := b.find(h)
	switch {
	case ok && b.rows[i].seq >= seq:
		return b
	case ok:
		b.rows = slices.Clone(b.rows)
		b.rows[i] = boundedRow{h, seq, row}
	default:
		b.rows = slices.Insert(slices.Clip(b.rows), i, boundedRow{h, seq, row})
	}
	return b
}

// Join returns the least upper bound of two copies of a counter.
func (b Bounded) Join(o Bounded) Bounded {
	for _, r := range o.rows {
		b = b.With(r.holder, r.seq, r.RightsRow)
	}
	return b
}

// Equal reports whether both have the same rows.
func (b Bounded) Equal(o Bounded) bool {
	return slices.EqualFunc(b.rows, o.rows, func(x, y boundedRow) bool {
		return x.holder == y.holder && x.seq == y.seq && x.RightsRow.Encode() == y.RightsRow.Encode()
	})
}

// Granted is the number of all rights that there are, as far as is known.
func (b Bounded) Granted() uint64 {
	n := b.initial.N
	for i := range b.rows {
		n += b.rows[i].Granted
	}
	return n
}

// Used is the number of rights that are known to be spent.
func (b Bounded) Used() (n uint64) {
	for i := range b.rows {
		n += b.rows[i].Used
	}
	return n
}

// Limit is how many rights there should be: the most that any holder says.
func (b Bounded) Limit() (n uint64) {
	for i := range b.rows {
		n = max(n, b.rows[i].Limit)
	}
	return n
}

// strictestCap is the least cap of those who say a limit; 0: none has one.
func (b Bounded) strictestCap() (least uint64) {
	for i := range b.rows {
		if r := &b.rows[i]; r.Limit > 0 && r.Cap > 0 && (least == 0 || r.Cap < least) {
			least = r.Cap
		}
	}
	return least
}

// Left is Granted less Used.
func (b Bounded) Left() uint64 { return less(b.Granted(), b.Used()) }

// Gained is the number of rights that a holder ever had, as far as is known.
func (b Bounded) Gained(h Holder) (n uint64) {
	if b.initial.Holder == h {
		n = b.initial.N
	}
	for i := range b.rows {
		r := &b.rows[i]
		n += of(r.Sent, h)
		if r.holder == h {
			n += r.Granted + sum(r.Reclaimed)
		}
	}
	return n
}

// Rights is the number of rights that a holder has. Of itself a holder knows
// exactly; of others it may be behind either way.
func (b Bounded) Rights(h Holder) uint64 {
	row := b.at(h)
	return less(b.Gained(h), row.Used+sum(row.Sent))
}

// Wants reports whether a holder asks for rights and has not got them.
func (b Bounded) Wants(h Holder) bool {
	return b.at(h).Want > b.Gained(h)
}

// Spend returns the holder's row after it has spent n rights; ok is false when it has
// not so many.
func (b Bounded) Spend(h Holder, n uint64) (row RightsRow, ok bool) {
	if b.Rights(h) < n {
		return row, false
	}
	row, _ = b.Row(h)
	row.Used += n
	return row, true
}

// Ask returns the holder's row with a wish for one more right than it ever had; ok is
// false when it waits for one already.
func (b Bounded) Ask(h Holder) (row RightsRow, ok bool) {
	if b.Wants(h) {
		return row, false
	}
	row, _ = b.Row(h)
	row.Want = b.Gained(h) + 1
	return row, true
}

// Send returns the holder's row after it has given n rights to another; ok is false
// when it has not so many.
func (b Bounded) Send(h, to Holder, n uint64) (row RightsRow, ok bool) {
	if n == 0 || h == to || b.Rights(h) < n {
		return row, false
	}
	row, _ = b.Row(h)
	row.Sent = plus(row.Sent, to, n)
	return row, true
}

// Regions is what a counter needs to know of the membership of regions.
type Regions struct {
	Epoch uint64
	// Count is the number of all regions that were not removed for good: the most
	// that may ever have to agree.
	Count   int
	Members []RegionMember // all from whom something is taken, by holder
}

// RegionMember is a region from which something is taken, in the incarnation under
// which it writes. Nothing is taken from it under another.
type RegionMember struct {
	Holder Holder
	Votes  bool // it has all that it should have
	Active bool // it takes shoppers' requests
}

// Majority is the least number of regions that are one.
func (r Regions) Majority() int { return r.Count/2 + 1 }

// IsGone reports whether nothing is taken from a holder any more.
func (r Regions) IsGone(h Holder) bool {
	return !slices.ContainsFunc(r.Members, func(m RegionMember) bool { return m.Holder == h })
}

// First is the member that grants rights, and takes over those of who is gone.
func (r Regions) First() (Holder, bool) {
	for _, m := range r.Members {
		if m.Active {
			return m.Holder, true
		}
	}
	return Holder{}, false
}

// IsActive reports whether a holder is a member that takes shoppers' requests.
func (r Regions) IsActive(h Holder) bool {
	return slices.ContainsFunc(r.Members, func(m RegionMember) bool { return m.Holder == h && m.Active })
}

// Tend returns a member's row after all that the membership asks of it: it seals,
// and the first of the active members takes over what is left of who is gone, and
// grants what is missing to the limit. changed is false when there is nothing to do.
func (b Bounded) Tend(self Holder, r Regions) (row RightsRow, changed bool) {
	row, seq := b.Row(self)
	if r.IsGone(self) {
		return row, false
	}
	if row.Epoch < r.Epoch {
		row.Epoch, row.Seals, changed = r.Epoch, nil, true
		for _, o := range b.rows {
			if r.IsGone(o.holder) {
				row.Seals = append(row.Seals, Share{o.holder, o.seq})
			}
		}
	}
	if first, ok := r.First(); !ok || first != self {
		return row, changed
	}
	b = b.With(self, seq+1, row)
	if !b.isSealed(r) {
		return row, changed
	}
	for _, gone := range b.Holders() {
		if !r.IsGone(gone) {
			continue
		}
		left := b.Rights(gone)
		for _, o := range b.rows {
			left = less(left, of(o.Reclaimed, gone))
		}
		if left > 0 {
			row.Reclaimed, changed = plus(row.Reclaimed, gone, left), true
			seq++
			b = b.With(self, seq+1, row)
		}
	}
	granted := uint64(0)
	defined := false
	for _, o := range b.rows {
		granted += o.Granted
		defined = defined || len(o.Homes) > 0
	}
	if limit := b.Limit(); limit > granted {
		row.Granted, changed = row.Granted+limit-granted, true
		if !defined {
			if row.Limit == 0 {
				row.Cap = b.strictestCap()
			}
			for _, m := range r.Members {
				if m.Active {
					row.Homes = append(row.Homes, m.Holder)
				}
			}
		}
	}
	return row, changed
}

// isSealed reports whether all that any member knows of those who are gone is known
// here, and enough members there are that each use of a right that a majority of
// regions had heard of is among it: see B4.
func (b Bounded) isSealed(r Regions) bool {
	voters := 0
	for _, m := range r.Members {
		row := b.at(m.Holder)
		if row.Epoch < r.Epoch {
			return false
		}
		if m.Votes {
			voters++
		}
		for _, s := range row.Seals {
			if b.at(s.Holder).seq < s.N {
				return false
			}
		}
	}
	return voters >= r.Count-r.Count/2
}

// Transfer is an amount of rights that should go to another holder.
type Transfer struct {
	To Holder
	N  uint64
}

// Balance says what a member should give to others now: who has much more than its
// share gives to those who run low, before they need it, and to those who ask
// what it can. A member that takes no requests any more gives all.
func (b Bounded) Balance(self Holder, r Regions) (out []Transfer) {
	mine := b.Rights(self)
	if mine == 0 {
		return nil
	}
	type need struct {
		to    Holder
		has   uint64
		wants bool
	}
	var needs []need
	total, sharers := uint64(0), uint64(0)
	for _, m := range r.Members {
		if !m.Active {
			continue
		}
		has := b.Rights(m.Holder)
		total, sharers = total+has, sharers+1
		if m.Holder != self {
			needs = append(needs, need{m.Holder, has, b.Wants(m.Holder)})
		}
	}
	slices.SortStableFunc(needs, func(x, y need) int { return cmp.Compare(x.has, y.has) })
	if !r.IsActive(self) {
		if len(needs) == 0 {
			return nil
		}
		return []Transfer{{needs[0].to, mine}}
	}
	fair := (total + sharers - 1) / sharers
	for _, n := range needs {
		var give uint64
		if n.wants || 2*n.has < fair {
			give = min(less(mine, fair), less(fair, n.has))
		}
		if give == 0 && n.wants && n.has == 0 {
			give = (mine + 1) / 2
		}
		if give > 0 {
			out = append(out, Transfer{n.to, give})
			mine -= give
		}
	}
	return out
}

// Customers says how many uses one customer has, and where they are at first. ok is
// false while no rights were granted.
func (b Bounded) Customers() (limit uint64, homes []Holder, ok bool) {
	for _, r := range b.rows {
		if len(r.Homes) > 0 {
			return r.Cap, r.Homes, true
		}
	}
	return 0, nil, false
}

// Home is the holder of a customer's first rights, by the id of their counter (see
// LimitID), which is all that who gives rights away knows of them: FNV-1a spreads
// counters over the homes.
func Home(homes []Holder, counter string) Holder {
	h := uint64(14695981039346656037)
	for i := range len(counter) {
		h = (h ^ uint64(counter[i])) * 1099511628211
	}
	return homes[(h^h>>32)%uint64(len(homes))]
}

func less(a, b uint64) uint64 {
	if a < b {
		return 0
	}
	return a - b
}

func sum(shares []Share) (n uint64) {
	for _, s := range shares {
		n += s.N
	}
	return n
}

func of(shares []Share, h Holder) uint64 {
	for _, s := range shares {
		if s.Holder == h {
			return s.N
		}
	}
	return 0
}

func plus(shares []Share, h Holder, n uint64) []Share {
	i, ok := slices.BinarySearchFunc(shares, h, func(s Share, h Holder) int { return s.Holder.Compare(h) })
	if ok {
		shares = slices.Clone(shares)
		shares[i].N += n
		return shares
	}
	return slices.Insert(slices.Clip(shares), i, Share{h, n})
}
