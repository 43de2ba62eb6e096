package riblt

import "math"

// set is items by their hashes, and for each the next symbol that it falls in.
type set struct {
	hashes []uint64
	next   []uint32
}

const (
	// indexMax ends the stream: all symbols from there on are zero. Below it,
	// after computes without an error of rounding that could repeat an index.
	indexMax = 1 << 25
	// never is where an item stands that falls in no further symbol.
	never = indexMax
	// gone is where one stands that was taken out.
	gone = math.MaxUint32
)

// add adds an item that is taken into account up to the symbol next.
func (s *set) add(hash uint64, next uint32) {
	s.hashes = append(s.hashes, hash)
	s.next = append(s.next, next)
}

// spread puts the items into symbols, of which the first is number from: the
// first that no item has gone past.
//
// An item's next step waits for the one before, a division and a root long; those
// of others do not. So all items of a batch take one step, then those that have
// not passed the end the next.
func (s *set) spread(symbols []symbol, from int) {
	end := uint32(min(from+len(symbols), indexMax))
	var room [256]uint32
	for first := 0; first < len(s.next); first += len(room) {
		hashes, next := s.hashes[first:], s.next[first:]
		batch := room[:0]
		for k, i := range next[:min(len(room), len(next))] {
			if i < end {
				batch = append(batch, uint32(k))
			}
		}
		for len(batch) > 0 {
			more := batch[:0]
			for _, k := range batch {
				hash, i := hashes[k], next[k]
				symbols[int(i)-from].toggle(hash, uint32(checkOf(hash)))
				i = after(hash, i)
				next[k] = i
				if i < end {
					more = append(more, k)
				}
			}
			batch = more
		}
	}
}

// after returns the next symbol that an item falls in after symbol i.
//
// It is in symbol i with probability 2/(i+2). So it is in none of those after i
// up to j with the product of k/(k+2) for k from i+1 to j, which is
//
//	(i+1)(i+2) / ((j+1)(j+2)),
//
// and the least j at which that is below a number drawn from (0, 1] is where it
// goes next. The number is drawn from the hash and i, so nothing need be kept
// but the two.
//
//	R1  Both ends find the same j, whatever machines they run on. IEEE 754 has
//	    one result for each operation here. A multiplication whose product is
//	    then added could be done with one rounding instead of two, as Go does on
//	    arm64: there is none, and the conversion of the quotient would forbid it.
//	R2  j > i. The product of integers is below 2^51, so a quarter more is
//	    exact, and its root is i+3/2; division, addition and root never round
//	    below what they give for a smaller operand.
func after(hash uint64, i uint32) uint32 {
	drawn := float64(mix(hash+(uint64(i)+1)*0x9e3779b97f4a7c15)>>11+1) / (1 << 53)
	product := float64((uint64(i) + 1) * (uint64(i) + 2))
	at := math.Sqrt(float64(product/drawn)+0.25) - 0.5
	if at >= never {
		return never
	}
	return uint32(at)
}
