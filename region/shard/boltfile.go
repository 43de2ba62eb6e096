//go:build !wasip1

package shard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"runtime"
)

// boltFile is the content of a bbolt database: bbolt itself maps the file and
// follows whatever numbers it finds there, and of its two meta pages it takes
// the older one when the newer is broken, which here would bring back an older
// vote. So the file is read here first, by the same format: version 2.
type boltFile struct {
	b        []byte
	pageSize uint64
	pages    uint64          // in use or free: below this number
	used     map[uint64]bool // pages that are reached
	buckets  map[string]map[string][]byte
}

const (
	boltMagic      = 0xED0CDAED
	boltVersion    = 2
	boltPageHeader = 16
	boltMeta       = 56 // its checksum follows

	boltBranch   = 1 << 0
	boltLeaf     = 1 << 1
	boltMetaPage = 1 << 2
	boltFreelist = 1 << 4
)

var errBolt = errors.New("not a sound bbolt database")

// readBolt reads all buckets of a database, without changing it. Numbers are in
// the machine's order of bytes, as bbolt has them.
func readBolt(path string) (buckets map[string]map[string][]byte, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		// A number that leads out of the file is damage like any other.
		if r := recover(); r != nil {
			if _, ok := r.(runtime.Error); !ok {
				panic(r)
			}
			err = fmt.Errorf("%w: a page points out of it", errBolt)
		}
	}()
	f := &boltFile{b: b, used: map[uint64]bool{0: true, 1: true}, buckets: make(map[string]map[string][]byte)}
	root, free, err := f.meta()
	if err != nil {
		return nil, err
	}
	if err := f.bucket("", root); err != nil {
		return nil, err
	}
	if err := f.freelist(free); err != nil {
		return nil, err
	}
	return f.buckets, nil
}

// meta checks both meta pages and returns the newer's root and list of free
// pages.
func (f *boltFile) meta() (root, free uint64, err error) {
	const sizeAt = boltPageHeader + 8
	if len(f.b) < sizeAt+4 {
		return 0, 0, fmt.Errorf("%w: it has %d bytes", errBolt, len(f.b))
	}
	f.pageSize = uint64(binary.NativeEndian.Uint32(f.b[sizeAt:]))
	if f.pageSize < 1<<9 || f.pageSize > 1<<16 || uint64(len(f.b)) < 2*f.pageSize {
		return 0, 0, fmt.Errorf("%w: it has %d bytes, and pages of %d", errBolt, len(f.b), f.pageSize)
	}
	var newest uint64
	for i := range uint64(2) {
		page := f.b[i*f.pageSize:]
		m := page[boltPageHeader:]
		h := fnv.New64a()
		h.Write(m[:boltMeta])
		if binary.NativeEndian.Uint64(page) != i || binary.NativeEndian.Uint16(page[8:]) != boltMetaPage || binary.NativeEndian.Uint32(m) != boltMagic || binary.NativeEndian.Uint32(m[4:]) != boltVersion ||
			uint64(binary.NativeEndian.Uint32(m[8:])) != f.pageSize || binary.NativeEndian.Uint64(m[boltMeta:]) != h.Sum64() {
			return 0, 0, fmt.Errorf("%w: meta page %d is broken", errBolt, i)
		}
		if txid := binary.NativeEndian.Uint64(m[48:]); i == 0 || txid > newest {
			newest = txid
			root, free, f.pages = binary.NativeEndian.Uint64(m[16:]), binary.NativeEndian.Uint64(m[32:]), binary.NativeEndian.Uint64(m[40:])
		}
	}
	if f.pages > uint64(len(f.b))/f.pageSize {
		return 0, 0, fmt.Errorf("%w: it has %d bytes, and %d pages of %d", errBolt, len(f.b), f.pages, f.pageSize)
	}
	return root, free, nil
}

// page returns a page with what overflows it, which must not be in use yet.
func (f *boltFile) page(id uint64) (page []byte, flags, count uint16, err error) {
	page = f.b[id*f.pageSize:]
	if got := binary.NativeEndian.Uint64(page); got != id || id >= f.pages {
		return nil, 0, 0, fmt.Errorf("%w: page %d says it is %d, of %d", errBolt, id, got, f.pages)
	}
	n := 1 + uint64(binary.NativeEndian.Uint32(page[12:]))
	if n > f.pages {
		return nil, 0, 0, fmt.Errorf("%w: page %d goes on over %d pages", errBolt, id, n)
	}
	for i := id; i < id+n; i++ {
		if f.used[i] {
			return nil, 0, 0, fmt.Errorf("%w: page %d is used twice", errBolt, i)
		}
		f.used[i] = true
	}
	return page[: n*f.pageSize : n*f.pageSize], binary.NativeEndian.Uint16(page[8:]), binary.NativeEndian.Uint16(page[10:]), nil
}

// bucket reads the bucket that starts at a page; the one without a name holds
// the others.
func (f *boltFile) bucket(name string, id uint64) error {
	page, flags, count, err := f.page(id)
	if err != nil {
		return err
	}
	switch flags {
	case boltLeaf:
		return f.leaf(name, page, count)
	case boltBranch:
		for i := range int(count) {
			if err := f.bucket(name, binary.NativeEndian.Uint64(page[boltPageHeader+16*i+8:])); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("%w: page %d is of kind %#x", errBolt, id, flags)
}

func (f *boltFile) leaf(name string, page []byte, count uint16) error {
	for i := range int(count) {
		at := boltPageHeader + 16*i
		e := page[at : at+16]
		isBucket := binary.NativeEndian.Uint32(e)&1 != 0
		from := at + int(binary.NativeEndian.Uint32(e[4:]))
		mid := from + int(binary.NativeEndian.Uint32(e[8:]))
		key, value := string(page[from:mid]), page[mid:mid+int(binary.NativeEndian.Uint32(e[12:]))]
		if isBucket != (name == "") {
			return fmt.Errorf("%w: bucket %q holds %q", errBolt, name, key)
		}
		if !isBucket {
			f.buckets[name][key] = value
			continue
		}
		f.buckets[key] = make(map[string][]byte)
		var err error
		if root := binary.NativeEndian.Uint64(value); root != 0 {
			err = f.bucket(key, root)
		} else { // it is so small that it stands here
			inline := value[16:]
			err = f.leaf(key, inline, binary.NativeEndian.Uint16(inline[10:]))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// freelist checks that no page that is free is in use: bbolt writes there.
func (f *boltFile) freelist(id uint64) error {
	page, flags, n, err := f.page(id)
	if err != nil {
		return err
	}
	if flags != boltFreelist {
		return fmt.Errorf("%w: page %d is of kind %#x, and should list what is free", errBolt, id, flags)
	}
	ids, count := page[boltPageHeader:], uint64(n)
	if n == 0xFFFF { // there are more
		ids, count = ids[8:], binary.NativeEndian.Uint64(ids)
	}
	for i := range count {
		id := binary.NativeEndian.Uint64(ids[8*i:])
		if id >= f.pages || f.used[id] {
			return fmt.Errorf("%w: page %d is free, and not", errBolt, id)
		}
		f.used[id] = true
	}
	return nil
}
