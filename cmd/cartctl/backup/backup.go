package backup

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/region/store"
)

// Slots is the number of slots that carts are spread over.
const Slots = 1024

// Digest is the digest of a cart, or the sum of a slot's.
type Digest [16]byte

// MarshalText writes the digest in hexadecimal.
func (d Digest) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, d[:]), nil }

// UnmarshalText is the inverse of MarshalText.
func (d *Digest) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil || len(b) != len(d) {
		return fmt.Errorf("%q is no digest", text)
	}
	copy(d[:], b)
	return nil
}

// Cart is one cart whole: an encoded crdt.State.
type Cart struct {
	ID    string
	State []byte
}

// Listed is a cart's id and digest.
type Listed struct {
	ID     string
	Digest Digest
}

// Region is the region that a Source or a Target stands for.
type Region struct {
	Name        string
	ID          crdt.RegionID
	Incarnation uint32
}

// Source is a region to be backed up. It serves its shoppers meanwhile.
type Source interface {
	Region(ctx context.Context) (Region, error)
	// Digests returns the digest of each slot.
	Digests(ctx context.Context) ([]Digest, error)
	// List returns the carts of a slot in the order of their ids.
	List(ctx context.Context, slot uint32) ([]Listed, error)
	// Export returns the carts with the given ids, in their order, each as it was
	// at one moment. Carts that are not there are left out.
	Export(ctx context.Context, ids []string) ([]Cart, error)
}

// Options are those of Make.
type Options struct {
	// Full writes every cart, whatever there is.
	Full bool
	// ChainMax is how many incremental backups may follow a full one; ≥ 0.
	ChainMax int
	// Carts is told of carts that are done, Note of what people should know;
	// both may be nil.
	Carts func(n int)
	Note  func(format string, args ...any)

	blobBytes int // what a blob is filled up to; 0: blobBytes
}

// Made is what Make did.
type Made struct {
	Summary
	Written int   // carts that were written
	Bytes   int64 // that were written
}

// slotsAhead is how many slots are read from the region at the same time.
const slotsAhead = 4

// Make writes a backup of the region. It does not exist before its manifest,
// the last thing written, does. It is incremental where the newest backup in the
// bucket can be read, all its blobs are there, and the chain is not too long.
func Make(ctx context.Context, src Source, b Bucket, opt Options) (Made, error) {
	r, err := src.Region(ctx)
	if err != nil {
		return Made{}, err
	}
	if r.Incarnation == 0 {
		return Made{}, fmt.Errorf("region %s does not say its incarnation: it is not formed yet, or none of its nodes answers", r.Name)
	}
	base, err := findBase(ctx, b, r, &opt)
	if err != nil {
		return Made{}, err
	}
	made, err := makeOn(ctx, src, b, r, base, opt)
	if base != nil && errors.Is(err, ErrDamaged) {
		opt.note("backup %s cannot be built on: %v; this one is full", base.ID, err)
		return makeOn(ctx, src, b, r, nil, opt)
	}
	return made, err
}

func (o *Options) note(format string, args ...any) {
	if o.Note != nil {
		o.Note(format, args...)
	}
}

// findBase returns the manifest that an incremental backup builds on; nil: the
// backup has to be full.
func findBase(ctx context.Context, b Bucket, r Region, opt *Options) (*manifest, error) {
	ids, err := identifiers(ctx, b)
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	id := ids[len(ids)-1]
	m, err := readManifest(ctx, b, id)
	switch {
	case errors.Is(err, ErrDamaged), errors.Is(err, ErrNewer):
		// It may be another region's, but nothing of it is used.
		opt.note("the last backup, %s, cannot be read: %v; this one is full", id, err)
		return nil, nil
	case err != nil:
		return nil, err
	case m.RegionID != r.ID || m.Region != r.Name:
		return nil, fmt.Errorf("there are backups of region %s already: give each region a place of its own", m.Region)
	case opt.Full || m.Chain >= opt.ChainMax:
		return nil, nil
	}
	// What an incremental backup does not write it takes for granted.
	if err := m.checkThere(ctx, b); errors.Is(err, ErrDamaged) {
		opt.note("backup %s cannot be built on: %v; this one is full", id, err)
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return m, nil
}

// making is one backup under way.
type making struct {
	src  Source
	b    Bucket
	opt  Options
	base *manifest // nil: full
	past *reader   // of base
	m    manifest
	w    *writer
	made Made
}

func makeOn(ctx context.Context, src Source, b Bucket, r Region, base *manifest, opt Options) (Made, error) {
	ids, err := identifiers(ctx, b)
	if err != nil {
		return Made{}, err
	}
	start := time.Now().UTC()
	id := nextID(start, ids)
	mk := &making{src: src, b: b, opt: opt, base: base, w: newWriter(b, id, cmp.Or(opt.blobBytes, blobBytes))}
	mk.m = manifest{
		Format: format, ID: id, Region: r.Name, RegionID: r.ID, Incarnation: r.Incarnation,
		Incarnations: map[crdt.RegionID]uint32{r.ID: r.Incarnation}, Started: start,
	}
	if base != nil {
		mk.m.Chain, mk.m.Previous = base.Chain+1, base.ID
		mk.m.Files = slices.Clone(base.Files)
		mk.m.know(base.Incarnations)
		mk.past = newReader(b, base)
	}
	if err := mk.run(ctx); err != nil {
		return Made{}, err
	}
	mk.m.Ended = time.Now().UTC()
	n, err := mk.m.write(ctx, b)
	if err != nil {
		return Made{}, err
	}
	mk.made.Summary, mk.made.Bytes = mk.m.summary(), mk.w.bytes+n
	return mk.made, nil
}

// read is what was read of a slot of the region.
type read struct {
	slot   uint32
	known  map[string]entry // of base
	listed []Listed
	// carts are those that base does not hold as they are.
	carts []Cart
}

// run reads the slots, some ahead, and writes them in order.
func (mk *making) run(ctx context.Context) error {
	digests, err := mk.src.Digests(ctx)
	if err != nil {
		return err
	}
	if len(digests) != Slots {
		return fmt.Errorf("the region names %d slots, this version knows %d", len(digests), Slots)
	}
	group, ctx := errgroup.WithContext(ctx)
	results := make(chan chan read, slotsAhead)
	group.Go(func() error {
		defer close(results)
		for slot := range uint32(Slots) {
			kept := mk.base.slot(slot)
			if digests[slot] == kept.Digest {
				continue // equal, or empty in both
			}
			known := map[string]entry{}
			if kept.Carts > 0 {
				entries, err := mk.past.entries(ctx, kept) // here: a reader is for one goroutine
				if err != nil {
					return err
				}
				for _, e := range entries {
					known[e.id] = e
				}
			}
			result := make(chan read, 1)
			select {
			case results <- result:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			group.Go(func() error {
				got, err := mk.readSlot(ctx, slot, known)
				if err != nil {
					return fmt.Errorf("read slot %d: %w", slot, err)
				}
				result <- got
				return nil
			})
		}
		return nil
	})
	group.Go(func() error { return mk.writeAll(ctx, digests, results) })
	return group.Wait()
}

func (mk *making) readSlot(ctx context.Context, slot uint32, known map[string]entry) (read, error) {
	out := read{slot: slot, known: known}
	var err error
	if out.listed, err = mk.src.List(ctx, slot); err != nil {
		return out, err
	}
	var fresh []string
	for _, c := range out.listed {
		if e, ok := known[c.ID]; !ok || e.digest != c.Digest {
			fresh = append(fresh, c.ID)
		}
	}
	for ids := range slices.Chunk(fresh, exportMax) {
		carts, err := mk.src.Export(ctx, ids)
		if err != nil {
			return out, err
		}
		out.carts = append(out.carts, carts...)
	}
	return out, nil
}

// exportMax is how many carts are asked for at once.
const exportMax = 500

// writeAll writes what was read, in the order of slots; slots that are as they
// were are taken over from the base.
func (mk *making) writeAll(ctx context.Context, digests []Digest, results <-chan chan read) error {
	for slot := range uint32(Slots) {
		if kept := mk.base.slot(slot); digests[slot] == kept.Digest {
			if kept.Carts > 0 {
				mk.m.Slots = append(mk.m.Slots, kept)
				mk.m.Carts += kept.Carts
				mk.done(kept.Carts)
			}
			continue
		}
		var got read
		select {
		case result, ok := <-results:
			if !ok {
				return context.Cause(ctx) // the reader says why
			}
			select {
			case got = <-result:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := mk.writeSlot(ctx, got); err != nil {
			return err
		}
	}
	if err := mk.w.finish(ctx); err != nil {
		return err
	}
	mk.m.Files = append(mk.m.Files, mk.w.files...)
	return nil
}

// writeSlot writes the carts of a slot that are new, and its list.
func (mk *making) writeSlot(ctx context.Context, got read) error {
	carts := got.carts
	var entries []entry
	var sum sum
	for _, l := range got.listed {
		e, ok := got.known[l.ID]
		if !ok || e.digest != l.Digest {
			if len(carts) == 0 || carts[0].ID != l.ID {
				continue // gone since it was listed
			}
			state, err := crdt.DecodeState(carts[0].State)
			if err != nil {
				return fmt.Errorf("cart %q of the region: %w", l.ID, err)
			}
			mk.m.knowCart(state.Cart)
			// As it was when it was read: it may have changed since it was listed.
			e = entry{id: l.ID, digest: digestOf(l.ID, state.Cart)}
			if e.file, err = mk.w.cart(ctx, carts[0]); err != nil {
				return err
			}
			carts = carts[1:]
			mk.made.Written++
		}
		entries = append(entries, e)
		sum.add(e.digest)
	}
	if len(carts) > 0 {
		return fmt.Errorf("the region sent cart %q, which was not asked for, or out of order", carts[0].ID)
	}
	if len(entries) == 0 {
		return nil
	}
	index, err := mk.w.slot(ctx, got.slot, entries)
	if err != nil {
		return err
	}
	mk.m.Slots = append(mk.m.Slots, slotInfo{Slot: got.slot, Digest: sum.digest(), Carts: len(entries), Index: index})
	mk.m.Carts += len(entries)
	mk.done(len(entries))
	return nil
}

func (mk *making) done(carts int) {
	if mk.opt.Carts != nil {
		mk.opt.Carts(carts)
	}
}

// sum is the digest of a slot, as region/store makes it.
type sum struct{ a, b uint64 }

func (s *sum) add(d Digest) {
	s.a += binary.BigEndian.Uint64(d[:8])
	s.b += binary.BigEndian.Uint64(d[8:])
}

func (s *sum) digest() (d Digest) {
	binary.BigEndian.PutUint64(d[:8], s.a)
	binary.BigEndian.PutUint64(d[8:], s.b)
	return d
}

func digestOf(id string, c *crdt.Cart) Digest { return Digest(store.DigestOf(id, c.Encode(nil))) }
