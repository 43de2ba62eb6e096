package catalog_test

import (
	"testing"

	"github.com/samecart/samecart/rpc/catalog"
)

// What the embedded catalogue adds to a start.
func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		if _, err := catalog.New(); err != nil {
			b.Fatal(err)
		}
	}
}
