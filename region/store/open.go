//go:build !wasip1

package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
)

// open opens the database, or makes it where there is none.
func open(opt badger.Options) (*badger.DB, error) {
	if err := dropUseless(opt.Dir); err != nil {
		return nil, fmt.Errorf("open database %s: %w", opt.Dir, err)
	}
	if err := create(opt); err != nil {
		return nil, fmt.Errorf("make database %s: %w", opt.Dir, err)
	}
	db, err := badger.Open(opt)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", opt.Dir, err)
	}
	return db, nil
}

// create makes the database when there is none, beside its place and then in it at
// once: Badger makes its files one by one, and what a process leaves that ends in
// between looks like damage.
func create(opt badger.Options) error {
	entries, err := os.ReadDir(opt.Dir)
	if len(entries) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	place, beside := opt.Dir, opt.Dir+".new"
	if err := os.RemoveAll(beside); err != nil { // an earlier try's
		return err
	}
	db, err := badger.Open(opt.WithDir(beside).WithValueDir(beside))
	if err != nil {
		return err
	}
	if err := db.Close(); err != nil {
		return err
	}
	if err := os.Remove(place); err != nil && !errors.Is(err, fs.ErrNotExist) { // it is empty
		return err
	}
	return os.Rename(beside, place)
}

// dropUseless removes files that hold nothing and can be in the way. Badger
// cuts a memtable's file, or one of the value log, to nothing before it removes
// it; a process killed in between leaves what Badger then refuses to open. And
// it keeps statistics for a collection of the value log that is never run here,
// and believes whatever stands there.
func dropUseless(dir string) error {
	if err := os.Remove(filepath.Join(dir, "DISCARD")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, pattern := range []string{"*.mem", "*.vlog"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, f := range files {
			info, err := os.Stat(f)
			if err != nil {
				return err
			}
			if info.Size() > 0 {
				continue
			}
			if err := os.Remove(f); err != nil {
				return err
			}
		}
	}
	return nil
}
