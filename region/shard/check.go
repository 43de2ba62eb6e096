package shard

import (
	"errors"
	"fmt"
	"math"

	"github.com/samecart/samecart/crdt"
	membershipv1 "github.com/samecart/samecart/proto/membership/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/store"
)

// check refuses what applying could only answer by ending the node. In the
// log it would end every member, and again at each start: the leader is the
// last who can keep it out, also when a node of a newer version proposed it.
func (s *Shard) check(cmd *regionv1.Command) error {
	switch c := cmd.GetCommand().(type) {
	case *regionv1.Command_Edit:
		return s.checkEdit(c.Edit)
	case *regionv1.Command_JoinRows:
		if err := checkRegion(c.JoinRows.GetRegionId()); err != nil {
			return err
		}
		for i, b := range c.JoinRows.GetRows() {
			row, err := crdt.DecodeRow(b)
			if err != nil {
				return fmt.Errorf("row %d: %w", i, err)
			}
			if err := s.checkCart(row.CartID); err != nil {
				return fmt.Errorf("row %d: %w", i, err)
			}
		}
		return nil
	case *regionv1.Command_JoinCart:
		if _, err := crdt.DecodeState(c.JoinCart.GetState()); err != nil {
			return fmt.Errorf("state of cart %q: %w", c.JoinCart.GetCartId(), err)
		}
		return s.checkCart(c.JoinCart.GetCartId())
	case *regionv1.Command_MoveCursor:
		return checkRegion(c.MoveCursor.GetRegionId())
	case *regionv1.Command_TrimLog, *regionv1.Command_ExpireOps, *regionv1.Command_Reincarnate, *regionv1.Command_Reissue:
		return nil
	case *regionv1.Command_Collect:
		if n := len(c.Collect.GetCarts()); n > collectMax {
			return fmt.Errorf("%d carts to collect: at most %d", n, collectMax)
		}
		for _, e := range c.Collect.GetCarts() {
			if err := s.checkCart(e.GetCartId()); err != nil {
				return err
			}
		}
		return nil
	case *regionv1.Command_CloseGuest, *regionv1.Command_JoinGuest, *regionv1.Command_GuestForwarded:
		return s.checkGuest(cmd)
	case *regionv1.Command_Scrub:
		if n := max(len(c.Scrub.GetRows()), len(c.Scrub.GetRequests())); n > scrubMax {
			return fmt.Errorf("%d rows or requests to scrub: at most %d", n, scrubMax)
		}
		return s.checkCart(c.Scrub.GetCartId())
	case *regionv1.Command_Expire:
		return checkExpire(s, c.Expire)
	case *regionv1.Command_SetMembership:
		return checkMembership(c.SetMembership.GetMembership())
	case *regionv1.Command_Prepare:
		return s.checkVote(c.Prepare.GetBallot())
	case *regionv1.Command_Accept:
		if err := checkMembership(c.Accept.GetValue()); err != nil {
			return err
		}
		return s.checkVote(c.Accept.GetBallot())
	case *regionv1.Command_Spend:
		return s.checkSpend(c.Spend)
	case *regionv1.Command_MoveRights:
		return errors.Join(checkRegion(c.MoveRights.GetRegionId()), s.checkRights(c.MoveRights.GetCartId(), c.MoveRights.GetN()))
	case *regionv1.Command_TendRights:
		return s.checkRights(c.TendRights.GetCartId(), max(c.TendRights.GetLimit(), c.TendRights.GetPerCustomer()))
	}
	// Init is the leader's own, and does not come this way.
	return fmt.Errorf("command %T is not known here; install the version that sends it", cmd.GetCommand())
}

func (s *Shard) checkEdit(e *regionv1.Edit) error {
	if n := len(e.GetOpId()); n != 0 && n != len(crdt.OpID{}) {
		return fmt.Errorf("op id of %d bytes, want %d", n, len(crdt.OpID{}))
	}
	if n := len(e.GetIfMatch()); n != 0 && n != len(store.Digest{}) {
		return fmt.Errorf("if-match of %d bytes, want %d", n, len(store.Digest{}))
	}
	for i, c := range e.GetChanges() {
		switch c.GetKind() {
		case regionv1.Change_KIND_ADD, regionv1.Change_KIND_SET, regionv1.Change_KIND_REMOVE, regionv1.Change_KIND_CLEAR:
		case regionv1.Change_KIND_SETTING:
			if err := checkSetting(c); err != nil {
				return fmt.Errorf("change %d: %w", i, err)
			}
		case regionv1.Change_KIND_SAVE, regionv1.Change_KIND_MOVE, regionv1.Change_KIND_DESCRIBE:
		case regionv1.Change_KIND_UNDO, regionv1.Change_KIND_ERASE:
			if len(e.GetChanges()) > 1 {
				return fmt.Errorf("change %d is %v, which goes alone, of %d", i, c.GetKind(), len(e.GetChanges()))
			}
		case regionv1.Change_KIND_ADD_CODE, regionv1.Change_KIND_DROP_CODE:
			if c.GetFactId() == "" {
				return fmt.Errorf("change %d names no code", i)
			}
		case regionv1.Change_KIND_SHARE, regionv1.Change_KIND_UNSHARE:
			if err := CheckShare(c); err != nil {
				return fmt.Errorf("change %d: %w", i, err)
			}
		case regionv1.Change_KIND_UNSPECIFIED:
			return fmt.Errorf("change %d has no kind", i)
		default:
			return fmt.Errorf("change %d is of kind %d, which is not known here; install the version that sends it", i, c.GetKind())
		}
	}
	return s.checkCart(e.GetCartId())
}

// collectMax bounds the carts of one Collect: they must fit the smallest
// transaction, with their floors.
const collectMax = 100

// membersMax is far above the number of regions that there can be.
const membersMax = 256

// checkMembership refuses documents that nobody could have decided.
func checkMembership(m *membershipv1.Membership) error {
	if m.GetEpoch() == 0 || m.GetEpoch() > crdt.SeqMax || len(m.GetMembers()) == 0 || len(m.GetMembers()) > membersMax {
		return fmt.Errorf("membership of epoch %d with %d regions", m.GetEpoch(), len(m.GetMembers()))
	}
	last := uint32(0)
	for _, e := range m.GetMembers() {
		if err := checkRegion(e.GetRegionId()); err != nil {
			return err
		}
		if e.GetRegionId() <= last || e.GetRegion() == "" {
			return fmt.Errorf("membership of epoch %d: region %d (%q) comes after %d", m.GetEpoch(), e.GetRegionId(), e.GetRegion(), last)
		}
		last = e.GetRegionId()
	}
	return nil
}

// checkVote: the first shard votes for the region.
func (s *Shard) checkVote(b *membershipv1.Ballot) error {
	if s.cfg.ID != 0 {
		return fmt.Errorf("shard %d has no vote: shard 0 has", s.cfg.ID)
	}
	if b.GetRound() == 0 || b.GetRound() > crdt.SeqMax {
		return fmt.Errorf("ballot of round %d: want 1 to %d", b.GetRound(), uint64(crdt.SeqMax))
	}
	return nil
}

// checkCart refuses carts whose digests another shard has.
func (s *Shard) checkCart(id string) error {
	if id == "" {
		return errors.New("empty cart id")
	}
	if shard := s.cfg.Slots.Shard(s.cfg.Slots.Of(id)); shard != s.cfg.ID {
		return fmt.Errorf("cart %q is of shard %d, this is %d", id, shard, s.cfg.ID)
	}
	return nil
}

func checkRegion(id uint32) error {
	if id == 0 || id > math.MaxUint16 {
		return fmt.Errorf("region id %d is not in 1 to %d", id, math.MaxUint16)
	}
	return nil
}
