package main

import (
	"context"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/region/store"
)

// lookOnce is one look at the beginning of the index, where nothing is due.
func (b *bench) lookOnce(s *shard.Shard) error {
	l, err := s.Due(context.Background(), store.Indexed{}, func(crdt.RegionID) bool { return true })
	if err == nil && len(l.Due) > 0 {
		err = fmt.Errorf("%d carts are due", len(l.Due))
	}
	return err
}

// allocated is what a file takes on disk.
func allocated(info fs.FileInfo) int64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Blocks * 512
	}
	return info.Size()
}
