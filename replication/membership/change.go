package membership

import (
	"errors"
	"fmt"
	"slices"

	pb "github.com/samecart/samecart/proto/membership/v1"
)

// ErrRefused is wrapped by what cannot be done as the regions stand.
var ErrRefused = errors.New("not possible as the regions stand")

// Change makes the next document from the newest one. It returns nil when there is
// nothing to change, and an error that wraps ErrRefused when the change is not
// possible.
type Change func(now *pb.Membership) (*pb.Membership, error)

func refusal(format string, args ...any) (*pb.Membership, error) {
	return nil, fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}

// to is the change of one region's state.
func to(m *pb.Member, now *pb.Membership, s pb.State) (*pb.Membership, error) {
	if m.State == s {
		return nil, nil
	}
	return now.With(m.RegionId, func(e *pb.Member) { e.State = s }), nil
}

func unknown(name string, now *pb.Membership) (*pb.Membership, error) {
	var names []string
	for _, e := range now.GetMembers() {
		names = append(names, e.Region)
	}
	return refusal("there is no region %q; there are %v", name, names)
}

// voters counts the regions that decide, without the one given.
func voters(now *pb.Membership, without uint32) (n int) {
	for _, e := range now.GetMembers() {
		if e.RegionId != without && e.State.Votes() {
			n++
		}
	}
	return n
}

// Drain stops edits in a region; it goes on to Drained by itself.
func Drain(name string) Change {
	return func(now *pb.Membership) (*pb.Membership, error) {
		m := now.Named(name)
		switch {
		case m == nil:
			return unknown(name, now)
		case m.State == pb.State_STATE_DRAINED:
			return nil, nil
		case m.State != pb.State_STATE_ACTIVE && m.State != pb.State_STATE_DRAINING:
			return refusal("region %s is %s; only one that is active is drained", name, m.State.Word())
		case !othersActive(now, m.RegionId):
			return refusal("region %s is the only active one: nobody would take edits", name)
		}
		return to(m, now, pb.State_STATE_DRAINING)
	}
}

func othersActive(now *pb.Membership, without uint32) bool {
	return slices.ContainsFunc(now.GetMembers(), func(e *pb.Member) bool {
		return e.RegionId != without && e.State == pb.State_STATE_ACTIVE
	})
}

// Fence makes the others go on without a region.
func Fence(name string) Change {
	return func(now *pb.Membership) (*pb.Membership, error) {
		m := now.Named(name)
		switch {
		case m == nil:
			return unknown(name, now)
		case m.State == pb.State_STATE_REMOVED:
			return refusal("region %s is removed, which is more", name)
		case voters(now, m.RegionId) == 0:
			return refusal("region %s is the only one: there is none to go on without it", name)
		}
		return to(m, now, pb.State_STATE_FENCED)
	}
}

// Remove makes a region that is drained or fenced stay away until it is added
// again.
func Remove(name string) Change {
	return func(now *pb.Membership) (*pb.Membership, error) {
		m := now.Named(name)
		switch {
		case m == nil:
			return unknown(name, now)
		case m.State != pb.State_STATE_DRAINED && m.State != pb.State_STATE_FENCED && m.State != pb.State_STATE_REMOVED:
			return refusal("region %s is %s; drain it first, or fence it when it does not answer", name, m.State.Word())
		case voters(now, m.RegionId) == 0:
			return refusal("region %s is the last that has a vote: nobody could let one in again", name)
		}
		return to(m, now, pb.State_STATE_REMOVED)
	}
}

// Newcomer is what must be known of a region that was never a member.
type Newcomer struct {
	ID      uint32
	Peers   []string // where its nodes take rows; empty: as configured
	Address string   // where clients reach it; empty: as configured
}

// Add lets a region in, or back in; it goes on to Active by itself.
func Add(name string, n Newcomer) Change {
	return func(now *pb.Membership) (*pb.Membership, error) {
		m := now.Named(name)
		switch {
		case m == nil && n.ID == 0:
			return refusal("region %q was never a member: give its --id, and --peers where it is not configured", name)
		case m == nil && now.Of(n.ID) != nil:
			return refusal("id %d is region %s's, for good", n.ID, now.Of(n.ID).Region)
		case m != nil && n.ID != 0 && n.ID != m.RegionId:
			return refusal("region %s has the id %d, for good", name, m.RegionId)
		case m == nil:
			return now.With(n.ID, func(e *pb.Member) {
				e.Region, e.State, e.Peers, e.Address = name, pb.State_STATE_FENCED, n.Peers, n.Address
			}), nil
		case m.State == pb.State_STATE_DRAINING || m.State == pb.State_STATE_DRAINED:
			return to(m, now, pb.State_STATE_ACTIVE)
		case m.State == pb.State_STATE_REMOVED:
			return now.With(m.RegionId, func(e *pb.Member) {
				e.State = pb.State_STATE_FENCED
				if len(n.Peers) > 0 {
					e.Peers = n.Peers
				}
				if n.Address != "" {
					e.Address = n.Address
				}
			}), nil
		}
		return nil, nil // it is one, or on its way
	}
}

// --- what regions do by themselves ---

// enter makes a fenced region a joining one, under an incarnation above all that
// it wrote under.
func enter(self, incarnation uint32) Change {
	return func(now *pb.Membership) (*pb.Membership, error) {
		if now.Of(self).GetState() != pb.State_STATE_FENCED {
			return nil, nil
		}
		return now.With(self, func(e *pb.Member) {
			e.State, e.Incarnation = pb.State_STATE_JOINING, max(e.Incarnation+1, incarnation)
		}), nil
	}
}

// move takes a region from one state to the next.
func move(self, incarnation uint32, from, next pb.State) Change {
	return func(now *pb.Membership) (*pb.Membership, error) {
		m := now.Of(self)
		if m.GetState() != from || m.Incarnation != incarnation {
			return nil, nil
		}
		return to(m, now, next)
	}
}

// announce tells under which incarnation a member writes.
func announce(self, incarnation uint32) Change {
	return func(now *pb.Membership) (*pb.Membership, error) {
		m := now.Of(self)
		if !m.GetState().Votes() || m.Incarnation >= incarnation {
			return nil, nil
		}
		return now.With(self, func(e *pb.Member) { e.Incarnation = incarnation }), nil
	}
}

// First is the document of the first epoch, of regions that are all new.
func First(regions map[string]uint32) *pb.Membership {
	m := &pb.Membership{}
	for name, id := range regions {
		m = m.With(id, func(e *pb.Member) { e.Region, e.State = name, pb.State_STATE_ACTIVE })
	}
	m.Epoch = 1
	return m
}
