package rpc

import (
	"slices"

	"github.com/samecart/samecart/crdt"
)

// What waits while the sink is busy is joined together: small intervals would else
// cost a commit each, and a receiver that fell behind could not catch up. The bounds
// are of what is received meanwhile; one interval more may be.
const (
	peerHeldRows      = 512
	peerHeldIntervals = 64
)

// peerHeld are intervals that wait for the sink, as they came.
type peerHeld struct {
	ivs  []crdt.Interval
	rows int
}

func (h *peerHeld) add(iv crdt.Interval) {
	h.ivs = append(h.ivs, iv)
	h.rows += len(iv.Rows)
}

func (h *peerHeld) full() bool { return h.rows >= peerHeldRows || len(h.ivs) >= peerHeldIntervals }

// take returns the intervals that follow one another, from the first on, as one.
func (h *peerHeld) take() crdt.Interval {
	iv := h.ivs[0]
	n := 1
	for ; n < len(h.ivs) && h.ivs[n].Lo == iv.Hi; n++ {
		iv.Hi, iv.Rows = h.ivs[n].Hi, append(iv.Rows, h.ivs[n].Rows...)
	}
	h.ivs = slices.Delete(h.ivs, 0, n)
	h.rows -= len(iv.Rows)
	return iv
}
