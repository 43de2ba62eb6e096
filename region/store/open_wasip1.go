package store

import (
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// open makes an empty database in memory, whatever was there before: Badger maps
// its files, which WASI cannot. A node there builds it again from its log and its
// snapshots at each start, as one does that lost its database.
func open(opt badger.Options) (*badger.DB, error) {
	dir := opt.Dir
	db, err := badger.Open(opt.WithInMemory(true).WithDir("").WithValueDir(""))
	if err != nil {
		return nil, fmt.Errorf("make database for %s in memory: %w", dir, err)
	}
	return db, nil
}
