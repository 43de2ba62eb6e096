package shard

import (
	"hash/fnv"
	"strings"

	"github.com/samecart/samecart/crdt"
)

// SlotCount is the number of slots that carts are spread over, in every
// region and for ever.
const SlotCount = 1024

// Slots maps cart ids to slots and slots to shards.
type Slots struct {
	shards uint32
}

// NewSlots divides the slots evenly between shards, in contiguous ranges.
func NewSlots(shards uint32) *Slots { return &Slots{shards} }

// Shards returns the number of shards.
func (s *Slots) Shards() uint32 { return s.shards }

// Of returns the slot of a cart. The counters of a code's customers are where the
// code's is: one command spends of both.
func (s *Slots) Of(cartID string) uint32 {
	if crdt.IsLimit(cartID) {
		cartID, _, _ = strings.Cut(cartID, "/")
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(cartID)) // never fails
	v := h.Sum64()
	return uint32((v ^ v>>32) % SlotCount)
}

// Shard returns the shard of a slot.
func (s *Slots) Shard(slot uint32) uint32 {
	// The inverse of Range: the largest shard whose range starts at or below.
	return ((slot+1)*s.shards - 1) / SlotCount
}

// Range returns the slots [lo, hi) of a shard.
func (s *Slots) Range(shard uint32) (lo, hi uint32) {
	return shard * SlotCount / s.shards, (shard + 1) * SlotCount / s.shards
}
