package region

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/region/store"
)

// MergeGuest merges a guest's cart into a user's, under the shop's rule, and
// returns what came (Outcome.merged) with the user's cart as it is then. The code
// is ALREADY_MERGED, and nothing is changed, when the guest's cart is another
// user's, ERASED when the user's cart was erased for good. It may be called any
// number of times: the same merge again changes nothing. A guest's cart that this
// region has not heard of is merged too: its lines follow when they arrive.
//
// Errors are those of Edit. After ErrOutcomeUnknown the merge may be half done; this
// region goes on with it by itself.
func (r *Router) MergeGuest(ctx context.Context, guestCart, userCart string) (*regionv1.Outcome, error) {
	rule, err := r.MergeRule(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the shop's merge rule: %w", err)
	}
	closed, err := r.propose(ctx, r.shardOf(guestCart), &regionv1.Command{Command: &regionv1.Command_CloseGuest{
		CloseGuest: &regionv1.CloseGuest{GuestCartId: guestCart, UserCartId: userCart},
	}}, true)
	switch {
	case err != nil:
		return nil, fmt.Errorf("close the guest's cart: %w", err)
	case closed.Code == regionv1.Outcome_CODE_FENCED:
		return nil, ErrFenced
	case closed.Code != regionv1.Outcome_CODE_OK:
		return closed, nil
	}
	guest, err := crdt.DecodeState(closed.GuestState)
	if err != nil {
		return nil, fmt.Errorf("%w: decode the guest's cart: %w", ErrOutcomeUnknown, err)
	}
	out, err := r.joinGuest(ctx, guestCart, guest, userCart, rule)
	if err != nil {
		return nil, fmt.Errorf("%w: join the guest's cart: %w", ErrOutcomeUnknown, err)
	}
	return out, nil
}

// joinGuest joins a guest's cart, as a state of it has it, into a user's.
func (r *Router) joinGuest(ctx context.Context, guestCart string, guest crdt.State, userCart string, rule crdt.MergeRule) (*regionv1.Outcome, error) {
	targets := 0
	for range guest.Cart.Facts(crdt.FactMerged) {
		targets++
	}
	out, err := r.propose(ctx, r.shardOf(userCart), &regionv1.Command{Command: &regionv1.Command_JoinGuest{
		JoinGuest: &regionv1.JoinGuest{
			CartId: userCart, GuestCartId: guestCart, State: crdt.Relabel(guest, guestCart).Encode(nil),
			Rule: regionv1.MergeRule(rule), Shared: targets > 1,
		},
	}}, true)
	if err == nil && out.Code == regionv1.Outcome_CODE_FENCED {
		return nil, ErrFenced
	}
	return out, err
}

// forgetGuest tells a user's cart that a guest's is no more.
func (r *Router) forgetGuest(ctx context.Context, guestCart, userCart string) error {
	out, err := r.propose(ctx, r.shardOf(userCart), &regionv1.Command{Command: &regionv1.Command_JoinGuest{
		JoinGuest: &regionv1.JoinGuest{CartId: userCart, GuestCartId: guestCart, Gone: true},
	}}, true)
	if err == nil && out.Code == regionv1.Outcome_CODE_FENCED {
		return ErrFenced
	}
	return err
}

// Of the forwarding of guests' carts.
const (
	guestsPage    = 256 // marks that are looked at together
	guestsAtOnce  = 16  // carts that are on their way together
	guestPatience = 5 * time.Second
	guestPause    = 50 * time.Millisecond // after a round with failures, doubled up to
	guestPauseMax = 2 * time.Second
)

// lead runs while this node leads a shard.
func (n *Node) lead(ctx context.Context, s *shard.Shard) {
	var forwarding sync.WaitGroup
	forwarding.Go(func() { n.forwardGuests(ctx, s) })
	defer forwarding.Wait()
	if n.cfg.Lead != nil {
		n.cfg.Lead(ctx, s)
	}
}

// forwardGuests joins guests' carts of a shard that this node leads into the carts
// that they were merged into, whenever they have changed, until ctx ends. What a
// leader before left undone is marked in the shard.
func (n *Node) forwardGuests(ctx context.Context, s *shard.Shard) {
	pause := guestPause
	for {
		if !s.Membership().TakesEdits(uint32(n.Router.cfg.Region)) { // it would be refused, entry by entry
			if !sleep(ctx, guestPauseMax) {
				return
			}
			continue
		}
		marked := s.GuestsMarked() // before the look: no mark is missed
		err := n.forwardMarked(ctx, s)
		if err == nil {
			pause = guestPause
			select {
			case <-ctx.Done():
				return
			case <-marked:
			}
			continue
		}
		n.log.Debug("guests not forwarded yet", slog.Uint64("shard", uint64(s.ID())), slog.Any("err", err))
		if !sleep(ctx, pause) {
			return
		}
		pause = min(2*pause, guestPauseMax)
	}
}

// forwardMarked forwards all guests' carts that are marked. One that fails does not
// keep the others.
func (n *Node) forwardMarked(ctx context.Context, s *shard.Shard) (err error) {
	var mu sync.Mutex // guards err
	slots := make(chan struct{}, guestsAtOnce)
	for after := ""; ctx.Err() == nil; {
		marks, readErr := s.MarkedGuests(after, guestsPage)
		if readErr != nil {
			return readErr
		}
		var page sync.WaitGroup
		for _, m := range marks {
			after = m.CartID
			slots <- struct{}{}
			page.Go(func() {
				defer func() { <-slots }()
				if failed := n.forwardGuest(ctx, s, m); failed != nil {
					mu.Lock()
					defer mu.Unlock()
					err = errors.Join(err, failed)
				}
			})
		}
		page.Wait()
		if len(marks) < guestsPage {
			break
		}
	}
	return err
}

// forwardGuest joins one guest's cart into each that it was merged into, and then
// takes its mark away.
func (n *Node) forwardGuest(ctx context.Context, s *shard.Shard, m store.GuestMark) error {
	ctx, cancel := context.WithTimeout(ctx, guestPatience)
	defer cancel()
	for _, user := range m.Gone {
		if err := n.forgetGuest(ctx, m.CartID, user); err != nil {
			return fmt.Errorf("tell %q that guest %q is gone: %w", user, m.CartID, err)
		}
	}
	// The mark was read before the cart, which so is at least as new.
	rec, err := s.Local(m.CartID)
	if err != nil {
		return err
	}
	if rec != nil && rec.State.Cart.Joins() {
		rule, err := n.MergeRule(ctx)
		if err != nil {
			return err
		}
		for user := range rec.State.Cart.Facts(crdt.FactMerged) {
			if _, err := n.joinGuest(ctx, m.CartID, rec.State, user, rule); err != nil {
				return fmt.Errorf("forward guest %q: %w", m.CartID, err)
			}
		}
	}
	_, err = s.Propose(ctx, &regionv1.Command{Command: &regionv1.Command_GuestForwarded{
		GuestForwarded: &regionv1.GuestForwarded{GuestCartId: m.CartID, Digest: m.Digest[:]},
	}})
	return err
}
