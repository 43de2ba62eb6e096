package replication

import (
	"github.com/samecart/samecart/crdt"
)

// batch is the interval being put together for one peer. Rows of the same
// cart and line are combined into the place of the first of them, so a batch
// grows with what differs, not with the number of edits.
type batch struct {
	lo, hi   uint64 // (lo, hi] of the log is in the batch
	rows     []crdt.Row
	bytes    int            // estimated encoded size of rows
	span     int            // estimated size of what was read
	combined int            // rows that went into another
	oldest   waitingRow     // at 0 when there is none
	places   map[lineID]int // the last row of each line, by index in rows
	// marked is where a cart said why lines go out: that it has expired, or that a merge
	// was undone. Removals come after that: a receiver that met one before would take it
	// for the shopper's.
	marked map[string]int
}

// lineID is one line of one cart.
type lineID struct {
	cart string
	key  crdt.LineKey
}

// reset empties the batch and sets where the next interval starts.
func (b *batch) reset(lo uint64) {
	clear(b.places)
	*b = batch{lo: lo, hi: lo, places: b.places}
}

func (b *batch) isEmpty() bool { return b.hi == b.lo }

// add takes in the interval that follows the batch.
func (b *batch) add(iv crdt.Interval, dotsMax int) {
	if b.places == nil {
		b.places = make(map[lineID]int)
	}
	if b.rows == nil {
		b.rows = make([]crdt.Row, 0, len(iv.Rows))
	}
	for i := range iv.Rows {
		r := iv.Rows[i]
		n := rowBytes(&r)
		b.span += n
		if b.oldest.at == 0 || r.At < b.oldest.at {
			b.oldest = waitingRow{r.At, r.CartID}
		}
		id := lineID{r.CartID, r.Delta.Key}
		if j, ok := b.places[id]; ok && j >= b.marked[r.CartID] && len(b.rows[j].Delta.Dots)+len(r.Delta.Dots) <= dotsMax {
			b.bytes -= rowBytes(&b.rows[j])
			b.rows[j] = crdt.CombineRows(b.rows[j], r)
			b.bytes += rowBytes(&b.rows[j])
			b.combined++
			continue
		}
		b.places[id] = len(b.rows)
		if k := id.key; k.IsFact() && (k.Options == string(crdt.FactExpired) || k.Options == string(crdt.FactGuest)) {
			if b.marked == nil {
				b.marked = make(map[string]int)
			}
			b.marked[r.CartID] = len(b.rows)
		}
		b.rows = append(b.rows, r)
		b.bytes += n
	}
	b.hi = iv.Hi
}

// take returns the batch as an interval and starts the next one after it.
func (b *batch) take(s crdt.Stream) crdt.Interval {
	iv := crdt.Interval{Stream: s, Lo: b.lo, Hi: b.hi, Rows: b.rows}
	b.reset(b.hi)
	return iv
}

// rowBytes estimates a row's encoded size without encoding it.
func rowBytes(r *crdt.Row) int {
	n := 40 + len(r.CartID) + len(r.Delta.Key.Seller) + len(r.Delta.Key.SKU) + len(r.Delta.Key.Options)
	for i := range r.Delta.Dots {
		n += 6 + len(r.Delta.Dots[i].Replica.Lineage)
	}
	for i := range r.Ops {
		n += 40 + len(r.Ops[i].Dot.Replica.Lineage)
	}
	if l := r.Delta.Line; l != nil {
		n += 6 * (len(l.Quantity) + len(l.Placement) + len(l.Attributes))
		n += 14*len(l.Offer) + 30*len(l.Presence)
		for i := range l.Attributes {
			n += len(l.Attributes[i].Value.Pairs)
		}
		for i := range l.Presence {
			n += len(l.Presence[i].Value.Attributes.Pairs)
		}
	}
	return n
}
