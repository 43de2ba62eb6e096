package membership

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	pb "github.com/samecart/samecart/proto/membership/v1"
)

// Voter is a region as an acceptor. Methods are safe for concurrent use.
type Voter interface {
	Prepare(ctx context.Context, r *pb.PrepareRequest) (*pb.Vote, error)
	Accept(ctx context.Context, r *pb.AcceptRequest) (*pb.Vote, error)
}

// ErrNoMajority is wrapped when too few regions answered. What was proposed may be
// decided all the same, by the next who proposes.
var ErrNoMajority = errors.New("no majority of the regions answers")

// voteTimeout bounds one region's answer: its log commits, a round trip away.
const voteTimeout = 2 * time.Second

// ballots tries to decide one epoch.
type ballots struct {
	self   uint32
	now    *pb.Membership
	voters map[uint32]Voter // of those whom now lets vote
	need   int
}

// decide has value, or what somebody else began to decide, follow now. It returns
// what follows: a document that this call or another one decided.
//
//	P1  A value is sent to acceptors only after a majority of now's voters has
//	    promised its ballot, and is the one that they accepted last, if any.
//	P2  What a majority has accepted under one ballot is decided.
func decide(ctx context.Context, self uint32, now *pb.Membership, all map[uint32]Voter, value *pb.Membership) (*pb.Membership, error) {
	b := ballots{self: self, now: now, voters: make(map[uint32]Voter)}
	total := 0
	for _, m := range now.GetMembers() {
		if !m.State.Votes() {
			continue
		}
		total++
		if v, ok := all[m.RegionId]; ok {
			b.voters[m.RegionId] = v
		}
	}
	b.need = total/2 + 1
	round := uint64(1)
	for range triesMax {
		ballot := &pb.Ballot{Round: round, RegionId: self}
		decided, highest, err := b.try(ctx, ballot, value)
		if decided != nil || err != nil {
			return decided, err
		}
		// Somebody else is at it: let it come to its end.
		round = highest + 1
		timer := time.NewTimer(time.Duration(50+rand.IntN(200)) * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
	}
	return nil, fmt.Errorf("epoch %d is not decided after %d tries: others are at it, or have not heard of epoch %d", now.GetEpoch()+1, triesMax, now.GetEpoch())
}

// triesMax bounds the ballots of one call: each is an entry in every region's log,
// and who is behind is told between calls.
const triesMax = 10

// try goes through both phases with one ballot. Neither a document nor an error:
// a ballot of the round given was in the way.
func (b *ballots) try(ctx context.Context, ballot *pb.Ballot, value *pb.Membership) (decided *pb.Membership, highest uint64, err error) {
	votes, err := b.ask(ctx, func(ctx context.Context, v Voter) (*pb.Vote, error) {
		return v.Prepare(ctx, &pb.PrepareRequest{Epoch: b.now.GetEpoch() + 1, Ballot: ballot})
	})
	if decided, highest, ok := b.count(votes, ballot); decided != nil || !ok {
		return decided, highest, err
	}
	var last *pb.Ballot
	for _, v := range votes {
		if v.Value != nil && v.Accepted.Compare(last) > 0 {
			last, value = v.Accepted, v.Value // P1
		}
	}
	votes, err = b.ask(ctx, func(ctx context.Context, v Voter) (*pb.Vote, error) {
		return v.Accept(ctx, &pb.AcceptRequest{Ballot: ballot, Value: value})
	})
	if decided, highest, ok := b.count(votes, ballot); decided != nil || !ok {
		return decided, highest, err
	}
	return value, 0, nil // P2
}

// count says whether a majority granted. When none did because of another ballot,
// highest is its round; when too few answered, ask has said so.
func (b *ballots) count(votes []*pb.Vote, ballot *pb.Ballot) (decided *pb.Membership, highest uint64, ok bool) {
	granted := 0
	highest = ballot.Round
	for _, v := range votes {
		if v.Decided.Newer(b.now) {
			return v.Decided, 0, false
		}
		if v.Granted {
			granted++
		}
		highest = max(highest, v.Promised.GetRound())
	}
	return nil, highest, granted >= b.need
}

// ask asks all voters at once. The error says that those who answered are no
// majority.
func (b *ballots) ask(ctx context.Context, call func(context.Context, Voter) (*pb.Vote, error)) (votes []*pb.Vote, err error) {
	ctx, cancel := context.WithTimeout(ctx, voteTimeout)
	defer cancel()
	var mu sync.Mutex
	var asking sync.WaitGroup
	for id, v := range b.voters {
		asking.Go(func() {
			vote, e := call(ctx, v)
			mu.Lock()
			defer mu.Unlock()
			if e != nil {
				err = errors.Join(err, fmt.Errorf("region %s: %w", b.now.Of(id).GetRegion(), e))
				return
			}
			votes = append(votes, vote)
		})
	}
	asking.Wait()
	if len(votes) >= b.need {
		return votes, nil
	}
	return votes, errors.Join(fmt.Errorf("%w: %d of the %d that are needed", ErrNoMajority, len(votes), b.need), err)
}
