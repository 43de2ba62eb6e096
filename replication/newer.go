package replication

import (
	"context"
	"fmt"

	"github.com/samecart/samecart/crdt"
)

// NewerCartsMax is the most carts that one Newer call may name.
const NewerCartsMax = 1 << 12

// Newer answers Transport.Newer from a region's carts, at its far end; an
// answer is about bytesMax long, or one cart.
func Newer(ctx context.Context, from fetcher, seen []Seen, bytesMax int) ([][]byte, error) {
	ids := make([]string, len(seen))
	for i, s := range seen {
		ids[i] = s.CartID
	}
	var out [][]byte
	size := 0
	for len(out) < len(ids) && (size < bytesMax || len(out) == 0) {
		// A few at a time: what does not fit the answer is read again.
		part := ids[len(out):min(len(out)+newerRead, len(ids))]
		carts, err := from.Fetch(ctx, part)
		if err != nil {
			return nil, err
		}
		if len(carts) != len(part) {
			return nil, fmt.Errorf("%d carts for %d ids", len(carts), len(part))
		}
		for _, c := range carts {
			if len(out) > 0 && size+len(c.Data) > bytesMax {
				return out, nil
			}
			news, err := newer(c.Data, seen[len(out)].Context)
			if err != nil {
				return nil, fmt.Errorf("decode cart %q: %w", c.CartID, err)
			}
			out = append(out, news)
			size += len(news)
		}
	}
	return out, nil
}

// fetcher is the part of a Sink that Newer needs.
type fetcher interface {
	Fetch(ctx context.Context, cartIDs []string) ([]WholeCart, error)
}

// newerRead is how many carts are read at a time.
const newerRead = 64

// newer returns data when its cart has seen all of cc and more.
func newer(data []byte, cc crdt.CausalContext) ([]byte, error) {
	if len(data) == 0 {
		return nil, nil
	}
	s, err := crdt.DecodeState(data)
	if err != nil {
		return nil, err
	}
	if have := s.Cart.Context; !have.Covers(cc) || cc.Covers(have) {
		return nil, nil
	}
	return data, nil
}
