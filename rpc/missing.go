package rpc

import (
	"fmt"
	"strings"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
)

// missing says which regions' edits a view lacks of those that a caller's token
// names: each write of a line counts as one.
func (s *service) missing(want, have crdt.CausalContext) (out []*cartv1.Missing) {
	for _, l := range have.Lacks(want) { // by region, a region's incarnations together
		name := s.cfg.RegionNames[l.Replica.Region]
		if name == "" {
			name = fmt.Sprintf("region %d", l.Replica.Region)
		}
		if n := len(out); n > 0 && out[n-1].Region == name {
			out[n-1].Edits += l.Dots
			continue
		}
		out = append(out, &cartv1.Missing{Region: name, Edits: l.Dots})
	}
	return out
}

// missingText is the same for a header: "us-east=2, ap-south=1".
func missingText(list []*cartv1.Missing) string {
	parts := make([]string, len(list))
	for i, m := range list {
		parts[i] = fmt.Sprintf("%s=%d", m.Region, m.Edits)
	}
	return strings.Join(parts, ", ")
}
