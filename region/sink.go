package region

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/samecart/samecart/crdt"
	membershipv1 "github.com/samecart/samecart/proto/membership/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

// CartDigest is one cart's id and digest.
type CartDigest struct {
	CartID string
	Digest Digest
}

// rowsMax and rowBytesMax bound the rows of one JoinRows command, so that
// shoppers' edits are not held up behind a long batch, and that it fits an
// entry. A single row may be larger than rowBytesMax.
const (
	rowsMax     = 256
	rowBytesMax = entryBytesMax / 2
)

// overlapping returns the shards that own a slot of [lo, hi).
func (r *Router) overlapping(lo, hi uint32) ([]uint32, error) {
	if lo >= hi || hi > 1024 {
		return nil, fmt.Errorf("slots [%d,%d) are no range of [0,1024)", lo, hi)
	}
	var out []uint32
	for id := r.slots.Shard(lo); id <= r.slots.Shard(hi-1); id++ {
		out = append(out, id)
	}
	return out, nil
}

func (r *Router) ask(ctx context.Context, req *regionv1.ShardRequest) (*regionv1.ShardResponse, error) {
	payload, err := proto.Marshal(req)
	if err != nil {
		return nil, err
	}
	b, err := r.atLeader(ctx, request{shard: req.Shard, kind: kindShard, payload: payload, harmless: true})
	if err != nil {
		return nil, unread(ctx, err)
	}
	var resp regionv1.ShardResponse
	if err := proto.Unmarshal(b, &resp); err != nil {
		return nil, fmt.Errorf("decode answer: %w", err)
	}
	return &resp, nil
}

// Cursor returns the last row of another region's stream that every shard
// owning one of the slots [lo, hi) has joined.
func (r *Router) Cursor(ctx context.Context, st crdt.Stream, lo, hi uint32) (uint64, error) {
	shards, err := r.overlapping(lo, hi)
	if err != nil {
		return 0, err
	}
	least := ^uint64(0)
	for _, id := range shards {
		resp, err := r.ask(ctx, &regionv1.ShardRequest{Shard: id, Request: &regionv1.ShardRequest_Cursor{
			Cursor: &regionv1.ShardRequest_Stream{RegionId: uint32(st.Region), Incarnation: st.Incarnation, Shard: st.Shard},
		}})
		if err != nil {
			return 0, err
		}
		least = min(least, resp.Cursor)
	}
	return least, nil
}

// Known returns the highest incarnation of another region that this one knows
// in the slots [lo, hi): of rows and carts that it has joined. It is 0 when
// there is none, and when this region is not formed yet, of which each of its
// nodes is asked.
func (r *Router) Known(ctx context.Context, region crdt.RegionID, lo, hi uint32) (highest uint32, err error) {
	if _, err := r.overlapping(lo, hi); err != nil {
		return 0, err
	}
	if formed, err := r.isFormed(ctx); err != nil || !formed {
		return 0, err
	}
	for slot := lo; slot < hi; slot++ {
		resp, err := r.ask(ctx, &regionv1.ShardRequest{Shard: r.slots.Shard(slot), Request: &regionv1.ShardRequest_Known_{
			Known: &regionv1.ShardRequest_Known{RegionId: uint32(region), Slot: slot},
		}})
		if err != nil {
			return 0, err
		}
		highest = max(highest, resp.Incarnation)
	}
	return highest, nil
}

// isFormed reports whether a node knows that the region is formed; that none
// does must come from all of them.
func (r *Router) isFormed(ctx context.Context) (bool, error) {
	var unheard error
	for _, node := range r.cfg.Nodes {
		resp, err := r.askForm(ctx, node, kindForm, &regionv1.FormRequest{Shards: r.cfg.Shards, RegionId: uint32(r.cfg.Region)})
		switch {
		case err != nil:
			unheard = fmt.Errorf("ask %s whether the region is formed: %w", node, err)
		case resp.Formed:
			return true, nil
		}
	}
	return false, unheard
}

// JoinInterval commits the rows of an interval in the shards that own their
// carts. ok is false when a shard's cursor has not reached the interval; the
// cursor is then where the sender has to go on.
func (r *Router) JoinInterval(ctx context.Context, iv crdt.Interval, lo, hi uint32) (cursor uint64, ok bool, err error) {
	shards, err := r.overlapping(lo, hi)
	if err != nil {
		return 0, false, err
	}
	byShard := make(map[uint32][]crdt.Row, len(shards))
	for _, row := range iv.Rows {
		slot := r.slots.Of(row.CartID)
		if slot < lo || slot >= hi {
			return 0, false, fmt.Errorf("row %d is of cart %q in slot %d, outside its stream's slots [%d,%d)", row.Seq, row.CartID, slot, lo, hi)
		}
		id := r.slots.Shard(slot)
		byShard[id] = append(byShard[id], row)
	}
	cursor, ok = ^uint64(0), true
	for _, id := range shards {
		cur, joined, err := r.joinShard(ctx, id, iv, byShard[id])
		if err != nil {
			return 0, false, err
		}
		cursor, ok = min(cursor, cur), ok && joined
	}
	return cursor, ok, nil
}

// joinShard commits one shard's part of an interval, in commands that
// rowsMax and rowBytesMax bound: each says what lies between its first and
// its last row.
func (r *Router) joinShard(ctx context.Context, id uint32, iv crdt.Interval, rows []crdt.Row) (cursor uint64, ok bool, err error) {
	lo := iv.Lo
	for {
		part := encodeRows(rows)
		rows = rows[len(part):]
		hi := iv.Hi
		if len(rows) > 0 {
			hi = rows[0].Seq - 1
		}
		out, err := r.propose(ctx, id, &regionv1.Command{Command: &regionv1.Command_JoinRows{JoinRows: &regionv1.JoinRows{
			RegionId: uint32(iv.Stream.Region), Incarnation: iv.Stream.Incarnation, OriginShard: iv.Stream.Shard,
			Lo: lo, Hi: hi, Rows: part,
		}}}, true)
		if err != nil {
			return 0, false, err
		}
		if out.Code == regionv1.Outcome_CODE_FENCED {
			return 0, false, fmt.Errorf("%w: region %d under incarnation %d", ErrFenced, iv.Stream.Region, iv.Stream.Incarnation)
		}
		if out.Code == regionv1.Outcome_CODE_GAP {
			return out.Cursor, false, nil
		}
		if len(rows) == 0 {
			return out.Cursor, true, nil
		}
		lo = hi
	}
}

// encodeRows encodes as many of the first rows as one command takes.
func encodeRows(rows []crdt.Row) (out [][]byte) {
	size := 0
	for _, row := range rows[:min(len(rows), rowsMax)] {
		b := row.Encode(nil)
		if size += len(b); size > rowBytesMax && len(out) > 0 {
			break
		}
		out = append(out, b)
	}
	return out
}

// JoinCart commits the join of a cart with another region's encoded
// crdt.State of it, which may come from anywhere: one that cannot be read is
// refused here, since in the log it would end every node that applies it.
// from and incarnation say who sent it; 0: nobody knows.
func (r *Router) JoinCart(ctx context.Context, cartID string, state []byte, from crdt.RegionID, incarnation uint32) error {
	if _, err := crdt.DecodeState(state); err != nil {
		return fmt.Errorf("join cart %q: %w", cartID, err)
	}
	cmd := &regionv1.Command{Command: &regionv1.Command_JoinCart{JoinCart: &regionv1.JoinCart{
		CartId: cartID, State: state, RegionId: uint32(from), Incarnation: incarnation,
	}}}
	out, err := r.propose(ctx, r.shardOf(cartID), cmd, true)
	if err == nil && out.Code == regionv1.Outcome_CODE_FENCED {
		return fmt.Errorf("%w: region %d under incarnation %d", ErrFenced, from, incarnation)
	}
	return err
}

// MoveCursor raises the cursor of a stream in every shard that owns one of
// the slots [lo, hi).
func (r *Router) MoveCursor(ctx context.Context, st crdt.Stream, lo, hi uint32, cursor uint64) error {
	shards, err := r.overlapping(lo, hi)
	if err != nil {
		return err
	}
	for _, id := range shards {
		cmd := &regionv1.Command{Command: &regionv1.Command_MoveCursor{MoveCursor: &regionv1.MoveCursor{
			RegionId: uint32(st.Region), Incarnation: st.Incarnation, OriginShard: st.Shard, Cursor: cursor,
		}}}
		if _, err := r.propose(ctx, id, cmd, true); err != nil {
			return err
		}
	}
	return nil
}

// Digests returns the digest of each slot in [lo, hi).
func (r *Router) Digests(ctx context.Context, lo, hi uint32) ([][16]byte, error) {
	shards, err := r.overlapping(lo, hi)
	if err != nil {
		return nil, err
	}
	var out [][16]byte
	for _, id := range shards {
		from, to := r.slots.Range(id)
		from, to = max(from, lo), min(to, hi)
		resp, err := r.ask(ctx, &regionv1.ShardRequest{Shard: id, Request: &regionv1.ShardRequest_Digests{
			Digests: &regionv1.ShardRequest_Slots{Lo: from, Hi: to},
		}})
		if err != nil {
			return nil, err
		}
		for _, b := range resp.Digests {
			var d [16]byte
			copy(d[:], b)
			out = append(out, d)
		}
	}
	if len(out) != int(hi-lo) {
		return nil, fmt.Errorf("%d digests for slots [%d,%d)", len(out), lo, hi)
	}
	return out, nil
}

// ForgottenBefore returns for each slot in [lo, hi) the time, in milliseconds since
// the Unix epoch, before which carts last changed that may have been collected
// since; 0: none was.
func (r *Router) ForgottenBefore(ctx context.Context, lo, hi uint32) ([]int64, error) {
	shards, err := r.overlapping(lo, hi)
	if err != nil {
		return nil, err
	}
	var out []int64
	for _, id := range shards {
		from, to := r.slots.Range(id)
		resp, err := r.ask(ctx, &regionv1.ShardRequest{Shard: id, Request: &regionv1.ShardRequest_Digests{
			Digests: &regionv1.ShardRequest_Slots{Lo: max(from, lo), Hi: min(to, hi)},
		}})
		if err != nil {
			return nil, err
		}
		out = append(out, resp.ForgottenBeforeMs...)
	}
	return out, nil
}

// collectPart is how many carts one command collects.
const collectPart = 100

// byShard splits carts by their shard, in parts that one command takes, and gives
// their places.
func (r *Router) byShard(carts []CartDigest, do func(shard uint32, places []int, part []*regionv1.CartDigest) error) error {
	places := make(map[uint32][]int)
	for i, c := range carts {
		s := r.shardOf(c.CartID)
		places[s] = append(places[s], i)
	}
	for s, at := range places {
		for some := range slices.Chunk(at, collectPart) {
			part := make([]*regionv1.CartDigest, len(some))
			for i, j := range some {
				part[i] = &regionv1.CartDigest{CartId: carts[j].CartID, Digest: carts[j].Digest[:]}
			}
			if err := do(s, some, part); err != nil {
				return err
			}
		}
	}
	return nil
}

// Collectable says for each cart whether it may be collected as far as this region
// knows, see shard.Shard.Collectable.
func (r *Router) Collectable(ctx context.Context, carts []CartDigest) ([]bool, error) {
	out := make([]bool, len(carts))
	err := r.byShard(carts, func(shard uint32, places []int, part []*regionv1.CartDigest) error {
		resp, err := r.ask(ctx, &regionv1.ShardRequest{Shard: shard, Request: &regionv1.ShardRequest_Collectable_{
			Collectable: &regionv1.ShardRequest_Collectable{Carts: part},
		}})
		if err != nil {
			return err
		}
		if len(resp.Collectable) != len(part) {
			return fmt.Errorf("%d answers for %d carts", len(resp.Collectable), len(part))
		}
		for i, j := range places {
			out[j] = resp.Collectable[i]
		}
		return nil
	})
	return out, err
}

// Collect collects carts of which every region has said that they may be, and that
// are still as they were.
func (r *Router) Collect(ctx context.Context, carts []CartDigest) error {
	return r.byShard(carts, func(shard uint32, _ []int, part []*regionv1.CartDigest) error {
		_, err := r.propose(ctx, shard, &regionv1.Command{Command: &regionv1.Command_Collect{
			Collect: &regionv1.Collect{Carts: part},
		}}, true)
		return err
	})
}

// Bucket lists the carts of a slot with ids above after, in id order.
func (r *Router) Bucket(ctx context.Context, slot uint32, after string, limit int) ([]CartDigest, bool, error) {
	if slot >= 1024 {
		return nil, false, fmt.Errorf("slot %d is not in [0,1024)", slot)
	}
	resp, err := r.ask(ctx, &regionv1.ShardRequest{Shard: r.slots.Shard(slot), Request: &regionv1.ShardRequest_Bucket_{
		Bucket: &regionv1.ShardRequest_Bucket{Slot: slot, After: after, Limit: uint32(limit)},
	}})
	if err != nil {
		return nil, false, err
	}
	out := make([]CartDigest, len(resp.Carts))
	for i, c := range resp.Carts {
		out[i].CartID = c.CartId
		copy(out[i].Digest[:], c.Digest)
	}
	return out, resp.More, nil
}

// States returns the encoded crdt.State of each cart, nil where there is
// none, with the requests that are remembered for it.
func (r *Router) States(ctx context.Context, cartIDs []string) ([][]byte, error) {
	byShard := make(map[uint32][]int)
	for i, id := range cartIDs {
		s := r.shardOf(id)
		byShard[s] = append(byShard[s], i)
	}
	out := make([][]byte, len(cartIDs))
	for s, at := range byShard {
		for part := range slices.Chunk(at, statesMax) {
			if err := r.statesOf(ctx, s, part, cartIDs, out); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// statesMax bounds the carts of one answer over the link: as many of the
// largest carts fit a frame.
const statesMax = 16

// statesOf fills in the carts at the given places, all of one shard.
func (r *Router) statesOf(ctx context.Context, s uint32, at []int, cartIDs []string, out [][]byte) error {
	ids := make([]string, len(at))
	for i, j := range at {
		ids[i] = cartIDs[j]
	}
	resp, err := r.ask(ctx, &regionv1.ShardRequest{Shard: s, Request: &regionv1.ShardRequest_Whole_{
		Whole: &regionv1.ShardRequest_Whole{CartIds: ids},
	}})
	if err != nil {
		return err
	}
	if len(resp.States) != len(ids) {
		return fmt.Errorf("%d states for %d carts", len(resp.States), len(ids))
	}
	for i, j := range at {
		if len(resp.States[i]) > 0 { // on the way, none becomes an empty one
			out[j] = resp.States[i]
		}
	}
	return nil
}

// Repair makes the leader of every shard compare its carts with the named
// region now, and exchange those that differ. It returns when all were told.
func (r *Router) Repair(ctx context.Context, region string) error {
	for id := range r.cfg.Shards {
		if _, err := r.ask(ctx, &regionv1.ShardRequest{Shard: id, Request: &regionv1.ShardRequest_Repair{Repair: region}}); err != nil {
			return fmt.Errorf("repair shard %d: %w", id, err)
		}
	}
	return nil
}

// Repairing reports whether the leader of a shard with one of the slots [lo, hi)
// repairs the named region at the moment.
func (r *Router) Repairing(ctx context.Context, region string, lo, hi uint32) (bool, error) {
	shards, err := r.overlapping(lo, hi)
	if err != nil {
		return false, err
	}
	for _, node := range r.Status(ctx) {
		for _, s := range node.Shards {
			for _, p := range s.Peers { // of leaders alone
				if p.Region == region && p.Repairing && slices.Contains(shards, s.Shard) {
					return true, nil
				}
			}
		}
	}
	return false, nil
}

// Status returns what each reachable node says of its shards.
func (r *Router) Status(ctx context.Context) []*regionv1.StatusResponse {
	var out []*regionv1.StatusResponse
	for _, node := range r.cfg.Nodes {
		attempt, cancel := context.WithTimeout(ctx, r.cfg.Attempt)
		b, err := r.mux.Call(attempt, node, kindStatus, nil)
		cancel()
		if err != nil {
			continue
		}
		var s regionv1.StatusResponse
		if proto.Unmarshal(b, &s) == nil {
			out = append(out, &s)
		}
	}
	return out
}

// Ready returns nil when every shard has a leader that takes writes.
func (r *Router) Ready(ctx context.Context) error {
	led := make(map[uint32]bool)
	for _, s := range r.Status(ctx) {
		if s.State != membershipv1.State_STATE_UNSPECIFIED && s.State != membershipv1.State_STATE_ACTIVE {
			return fmt.Errorf("%w: it is %s", ErrFenced, s.State.Word())
		}
		for _, sh := range s.Shards {
			led[sh.Shard] = led[sh.Shard] || sh.Leads
		}
	}
	for id := range r.cfg.Shards {
		if !led[id] {
			return fmt.Errorf("%w: shard %d", ErrNoQuorum, id)
		}
	}
	return nil
}
