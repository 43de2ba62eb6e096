package region

import (
	"context"
	"fmt"

	membershipv1 "github.com/samecart/samecart/proto/membership/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

// Standing is how a shard stands in the membership of regions.
type Standing struct {
	// Membership is the newest document that the shard has applied, nil when it
	// has none: read only.
	Membership  *membershipv1.Membership
	Incarnation uint32 // that the shard writes under
	// Kept is the number of rows of earlier incarnations that were kept aside,
	// Left that of those which are still to be written again.
	Kept, Left uint64
	Empty      bool // it never wrote, and has no cart
}

// Standing asks a shard's leader how it stands.
func (r *Router) Standing(ctx context.Context, id uint32) (Standing, error) {
	resp, err := r.ask(ctx, &regionv1.ShardRequest{Shard: id, Request: &regionv1.ShardRequest_Standing_{Standing: &regionv1.ShardRequest_Standing{}}})
	if err != nil {
		return Standing{}, fmt.Errorf("ask how shard %d stands: %w", id, err)
	}
	return Standing{resp.Membership, resp.Incarnation, resp.Kept, resp.Left, resp.Empty}, nil
}

// Membership returns the document that a shard of this node has applied; nil when
// there is none here.
func (r *Router) Membership() *membershipv1.Membership {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var newest *membershipv1.Membership
	for _, s := range r.local {
		if m := s.Membership(); m.Newer(newest) {
			newest = m
		}
	}
	return newest
}

// SetMembership commits a newer document in a shard, which from then on refuses
// what the document says is to be refused.
func (r *Router) SetMembership(ctx context.Context, id uint32, m *membershipv1.Membership) error {
	_, err := r.propose(ctx, id, &regionv1.Command{Command: &regionv1.Command_SetMembership{
		SetMembership: &regionv1.SetMembership{Membership: m},
	}}, true)
	return err
}

// Prepare asks the region, as an acceptor, for a promise. A promise that is asked
// for twice is refused the second time: the ballot is not above itself.
func (r *Router) Prepare(ctx context.Context, req *membershipv1.PrepareRequest) (*membershipv1.Vote, error) {
	out, err := r.propose(ctx, 0, &regionv1.Command{Command: &regionv1.Command_Prepare{Prepare: req}}, true)
	return out.GetVote(), err
}

// Accept asks the region, as an acceptor, to accept a document.
func (r *Router) Accept(ctx context.Context, req *membershipv1.AcceptRequest) (*membershipv1.Vote, error) {
	out, err := r.propose(ctx, 0, &regionv1.Command{Command: &regionv1.Command_Accept{Accept: req}}, true)
	return out.GetVote(), err
}

// Reincarnate makes a shard begin again under a higher incarnation, without carts,
// its own rows kept aside. Only a region that is fenced may: the others have all
// that counts.
func (r *Router) Reincarnate(ctx context.Context, id, incarnation uint32) error {
	out, err := r.propose(ctx, id, &regionv1.Command{Command: &regionv1.Command_Reincarnate{
		Reincarnate: &regionv1.Reincarnate{Incarnation: incarnation},
	}}, true)
	return joined(out, err)
}

// joined is the error of a command that only a joining region takes.
func joined(out *regionv1.Outcome, err error) error {
	if err == nil && out.Code == regionv1.Outcome_CODE_FENCED {
		return fmt.Errorf("%w: it is not joining any more", ErrFenced)
	}
	return err
}

// reissueRows is how many kept rows one command goes through, so that it does not
// hold up the shard.
const reissueRows = 256

// Reissue writes anew, in one shard, all that no other region has seen of the rows
// that were kept aside. It must be called before the region takes edits again, and
// when the shard has all that the others have.
func (r *Router) Reissue(ctx context.Context, id uint32) error {
	st, err := r.Standing(ctx, id)
	for err == nil && st.Left > 0 {
		var out *regionv1.Outcome
		out, err = r.propose(ctx, id, &regionv1.Command{Command: &regionv1.Command_Reissue{
			Reissue: &regionv1.Reissue{To: st.Kept - st.Left + reissueRows},
		}}, true)
		err = joined(out, err)
		st.Left = out.GetLeft()
	}
	if err != nil {
		return fmt.Errorf("write rows of shard %d anew: %w", id, err)
	}
	return nil
}
