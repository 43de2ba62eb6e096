package crdt

import (
	"cmp"
	"fmt"
	"strings"
)

// RegionID names a region on the wire and at rest. It is given once in the
// configuration, the same in every region, and never used again for another.
type RegionID uint16

// Replica is one actor of the CRDT: a region in one of its incarnations,
// writing in one lineage. The region's log orders all edits of a cart, so
// nodes and devices are no replicas of their own.
type Replica struct {
	Region RegionID
	// Incarnation is raised whenever the region may have lost state that it
	// acknowledged; dots of an earlier incarnation are never issued again.
	Incarnation uint32
	// Lineage is empty for the cart's own edits, else the id of the guest
	// cart whose edits came with a login.
	Lineage string
}

// Compare orders replicas by region, incarnation, lineage.
func (r Replica) Compare(s Replica) int {
	if c := cmp.Compare(r.Region, s.Region); c != 0 {
		return c
	}
	if c := cmp.Compare(r.Incarnation, s.Incarnation); c != 0 {
		return c
	}
	return strings.Compare(r.Lineage, s.Lineage)
}

// madeAnew reports whether what r wrote can only have been made anew from what lost,
// or the same region before, wrote: see Cart.Reissue.
func (r Replica) madeAnew(lost Replica) bool {
	return r.Region == lost.Region && r.Incarnation > lost.Incarnation
}

// Dot names one write: the seq-th of a replica in one cart. Seq starts at 1.
type Dot struct {
	Replica Replica
	Seq     uint64
}

// SeqMax is the largest seq that the codec takes; at a thousand edits a
// second one cart reaches it after eight thousand years.
const SeqMax = 1<<48 - 1

// Compare orders dots by replica, then seq.
func (d Dot) Compare(e Dot) int {
	if c := d.Replica.Compare(e.Replica); c != 0 {
		return c
	}
	return cmp.Compare(d.Seq, e.Seq)
}

// String shows a dot as region.incarnation[/lineage]:seq.
func (d Dot) String() string {
	if d.Replica.Lineage == "" {
		return fmt.Sprintf("%d.%d:%d", d.Replica.Region, d.Replica.Incarnation, d.Seq)
	}
	return fmt.Sprintf("%d.%d/%s:%d", d.Replica.Region, d.Replica.Incarnation, d.Replica.Lineage, d.Seq)
}

// Timestamp is a hybrid logical clock reading: milliseconds since the Unix
// epoch in the upper 48 bits, a logical counter in the lower 16.
//
// Source: Kulkarni et al. 2014, Logical Physical Clocks.
type Timestamp uint64

// TimestampAt returns the first timestamp of the given millisecond.
func TimestampAt(unixMilli int64) Timestamp {
	if unixMilli < 0 {
		return 0
	}
	return Timestamp(unixMilli) << 16
}

// UnixMilli returns the physical part in milliseconds since the Unix epoch.
func (t Timestamp) UnixMilli() int64 { return int64(t >> 16) }

// Next returns the smallest timestamp that is after t and not before now.
func (t Timestamp) Next(now Timestamp) Timestamp {
	return max(t+1, now)
}
