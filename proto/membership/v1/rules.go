// Package membershipv1 has the membership of regions as it travels and is stored,
// and the rules that the document has of itself: a region's log applies them, and
// those who talk to other regions ask them, and the two never meet.
package membershipv1

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/proto"
)

// Of returns a region's entry, nil when it has none.
func (m *Membership) Of(region uint32) *Member {
	for _, e := range m.GetMembers() {
		if e.RegionId == region {
			return e
		}
	}
	return nil
}

// Named returns a region's entry, nil when it has none.
func (m *Membership) Named(name string) *Member {
	for _, e := range m.GetMembers() {
		if e.Region == name {
			return e
		}
	}
	return nil
}

// TakesEdits reports whether the region takes shoppers' edits. Without a document
// every region does.
func (m *Membership) TakesEdits(region uint32) bool {
	return m == nil || m.Of(region).GetState() == State_STATE_ACTIVE
}

// TakesReads reports whether the region has what it should have, so that it may be
// read.
func (m *Membership) TakesReads(region uint32) bool {
	return m == nil || m.Of(region).GetState().Votes()
}

// Refuses reports whether nothing may be taken from a region that writes under the
// given incarnation; 0: it is not known. Without a document nothing is refused.
//
//	E1  A region is refused from the epoch on that fences it; when it is a member,
//	    all is refused but what it wrote under the incarnation that the document
//	    has: an incarnation that was never in one has left nothing anywhere.
func (m *Membership) Refuses(region, incarnation uint32) bool {
	if m == nil {
		return false
	}
	e := m.Of(region)
	return !e.GetState().Sends() || incarnation != 0 && e.Incarnation != 0 && incarnation != e.Incarnation
}

// Voters returns the number of regions that vote on the next epoch.
func (m *Membership) Voters() (n int) {
	for _, e := range m.GetMembers() {
		if e.State.Votes() {
			n++
		}
	}
	return n
}

// Closed reports whether nothing will ever be written again, nor written anew, of
// what a region wrote under an incarnation: it is back under a higher one. While it
// is fenced or removed it may hold rows that nobody saw.
func (m *Membership) Closed(region, incarnation uint32) bool {
	e := m.Of(region)
	return e.GetState().Votes() && incarnation < e.Incarnation
}

// Settled reports whether all that a region wrote under an incarnation is in its
// log as other regions have it, or can be asked of it: it is a member under that
// incarnation or a later one. What a fenced region wrote, it may write anew.
func (m *Membership) Settled(region, incarnation uint32) bool {
	e := m.Of(region)
	return e.GetState().Votes() && incarnation <= e.Incarnation
}

// Keeps reports whether m has all regions of o, under their ids, and none with a
// lower incarnation: one that has not is of a broken region.
func (m *Membership) Keeps(o *Membership) bool {
	for _, e := range o.GetMembers() {
		if n := m.Of(e.RegionId); n == nil || n.Region != e.Region || n.Incarnation < e.Incarnation {
			return false
		}
	}
	return true
}

// Sends reports whether rows go to and come from a region in that state.
func (s State) Sends() bool {
	switch s {
	case State_STATE_ACTIVE, State_STATE_DRAINING, State_STATE_DRAINED, State_STATE_JOINING:
		return true
	case State_STATE_UNSPECIFIED, State_STATE_FENCED, State_STATE_REMOVED:
	}
	return false
}

// Votes reports whether a region in that state has a vote on the next epoch.
func (s State) Votes() bool { return s.Sends() && s != State_STATE_JOINING }

// Word is the state in a word, for people.
func (s State) Word() string {
	switch s {
	case State_STATE_ACTIVE:
		return "active"
	case State_STATE_DRAINING:
		return "draining"
	case State_STATE_DRAINED:
		return "drained"
	case State_STATE_JOINING:
		return "joining"
	case State_STATE_FENCED:
		return "fenced"
	case State_STATE_REMOVED:
		return "removed"
	case State_STATE_UNSPECIFIED:
	}
	return "unknown"
}

// Newer reports whether m takes the place of o. Of two documents of one epoch at
// most one was decided by a majority, and that one counts; of two that were
// forced, that of the lower region.
func (m *Membership) Newer(o *Membership) bool {
	if m.GetEpoch() != o.GetEpoch() {
		return m.GetEpoch() > o.GetEpoch()
	}
	return o.GetForcedBy() != 0 && m.GetForcedBy() < o.GetForcedBy()
}

// Compare orders ballots by round, then region.
func (b *Ballot) Compare(o *Ballot) int {
	return cmp.Or(cmp.Compare(b.GetRound(), o.GetRound()), cmp.Compare(b.GetRegionId(), o.GetRegionId()))
}

// Prepare promises to accept nothing under a lower ballot for the epoch after
// that of now, and says what was accepted. It changes a when the vote is granted.
//
// Source: Lamport 2001, Paxos Made Simple.
func (a *Acceptor) Prepare(now *Membership, r *PrepareRequest) *Vote {
	if v := a.elsewhere(now, r.GetEpoch()); v != nil {
		return v
	}
	granted := r.Ballot.Compare(a.Promised) > 0
	if granted {
		a.Promised = r.Ballot
	}
	return a.vote(granted)
}

// Accept accepts a value under a ballot that is not below the one promised.
func (a *Acceptor) Accept(now *Membership, r *AcceptRequest) *Vote {
	if v := a.elsewhere(now, r.GetValue().GetEpoch()); v != nil {
		return v
	}
	granted := r.Ballot.Compare(a.Promised) >= 0
	if granted {
		a.Promised, a.Accepted, a.Value = r.Ballot, r.Ballot, r.Value
	}
	return a.vote(granted)
}

// elsewhere answers for an epoch that is not the next one: it is decided, or the
// acceptor does not know who may vote on it.
func (a *Acceptor) elsewhere(now *Membership, epoch uint64) *Vote {
	switch {
	case epoch <= now.GetEpoch():
		return &Vote{Decided: now}
	case epoch > now.GetEpoch()+1:
		return &Vote{}
	}
	return nil
}

func (a *Acceptor) vote(granted bool) *Vote {
	return &Vote{Granted: granted, Promised: a.Promised, Accepted: a.Accepted, Value: a.Value}
}

// With returns the document of the next epoch, in which change has changed a
// region's entry, or a new one.
func (m *Membership) With(region uint32, change func(*Member)) *Membership {
	next := &Membership{Epoch: m.GetEpoch() + 1}
	if m.Voters() < 2 {
		next.ForcedBy = m.GetForcedBy() // still that region's word alone
	}
	found := false
	for _, e := range m.GetMembers() {
		e = proto.CloneOf(e)
		if e.RegionId == region {
			change(e)
			found = true
		}
		next.Members = append(next.Members, e)
	}
	if !found {
		e := &Member{RegionId: region}
		change(e)
		next.Members = append(next.Members, e)
		slices.SortFunc(next.Members, func(a, b *Member) int { return cmp.Compare(a.RegionId, b.RegionId) })
	}
	return next
}
