package backup

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/replication"
)

// ErrIncarnation means that a region may not take a backup: it could mint dots
// that the backup has already.
var ErrIncarnation = errors.New("the region's incarnation must be raised first")

// Target is a region that a backup is restored into.
type Target interface {
	Region(ctx context.Context) (Region, error)
	// ForgottenBefore returns for each slot the time before which carts last
	// changed that may have been collected since, in any member region: what they
	// had seen removed is forgotten. The zero time: none was.
	ForgottenBefore(ctx context.Context) ([]time.Time, error)
	// Import joins the carts with the region's.
	Import(ctx context.Context, carts []Cart) error
}

// reader reads the blobs of one backup. It is for one goroutine.
type reader struct {
	b     Bucket
	files map[string]file
	// Of each backup in the chain the blob read last: the blobs of one backup are
	// filled in the order of slots and ids, and read in that order.
	carts   map[string]opened[map[string][]byte]
	indexes map[string]opened[map[uint32][]entry]
}

// opened is a blob that was read.
type opened[T any] struct {
	name    string
	content T
}

func newReader(b Bucket, m *manifest) *reader {
	r := &reader{
		b: b, files: map[string]file{},
		carts: map[string]opened[map[string][]byte]{}, indexes: map[string]opened[map[uint32][]entry]{},
	}
	for _, f := range m.Files {
		r.files[f.Name] = f
	}
	return r
}

// blob returns the content of a blob, which is what was written.
func blob[T any](ctx context.Context, r *reader, cached map[string]opened[T], name string, decode func([]byte) (T, error)) (T, error) {
	var none T
	dir := path.Dir(name)
	if c := cached[dir]; c.name == name {
		return c.content, nil
	}
	f, ok := r.files[name]
	if !ok {
		return none, fmt.Errorf("%w: %s is not in the manifest", ErrDamaged, name)
	}
	b, err := r.b.Read(ctx, name, f.Size)
	switch {
	case errors.Is(err, ErrNoBlob):
		return none, fmt.Errorf("%w: %s is missing", ErrDamaged, name)
	case errors.Is(err, ErrDamaged):
		return none, err
	case err != nil:
		return none, fmt.Errorf("read %s: %w", name, err)
	}
	if hashOf(b) != f.SHA256 {
		return none, fmt.Errorf("%w: %s is not what was written", ErrDamaged, name)
	}
	content, err := decode(b)
	if errors.Is(err, ErrNewer) {
		return none, fmt.Errorf("%s: %w", name, err)
	}
	if err != nil {
		return none, fmt.Errorf("%w: %s: %w", ErrDamaged, name, err)
	}
	cached[dir] = opened[T]{name, content}
	return content, nil
}

// entries lists the carts of a slot.
func (r *reader) entries(ctx context.Context, s slotInfo) ([]entry, error) {
	slots, err := blob(ctx, r, r.indexes, s.Index, decodeIndex)
	if err != nil {
		return nil, err
	}
	out := slots[s.Slot]
	var sum sum
	for _, e := range out {
		sum.add(e.digest)
	}
	if len(out) != s.Carts || sum.digest() != s.Digest {
		return nil, fmt.Errorf("%w: %s does not have the carts of slot %d", ErrDamaged, s.Index, s.Slot)
	}
	return out, nil
}

// cart returns a cart, whose digest is the one that is listed.
func (r *reader) cart(ctx context.Context, e entry) (Cart, error) {
	states, err := blob(ctx, r, r.carts, e.file, decodeCarts)
	if err != nil {
		return Cart{}, err
	}
	b, ok := states[e.id]
	if !ok {
		return Cart{}, fmt.Errorf("%w: %s lacks cart %q", ErrDamaged, e.file, e.id)
	}
	state, err := crdt.DecodeState(b)
	if err != nil {
		return Cart{}, fmt.Errorf("%w: cart %q in %s: %w", ErrDamaged, e.id, e.file, err)
	}
	if digestOf(e.id, state.Cart) != e.digest {
		return Cart{}, fmt.Errorf("%w: cart %q in %s is not the one that is listed", ErrDamaged, e.id, e.file)
	}
	return Cart{e.id, b}, nil
}

// batchBytes and batchMax bound the carts that are handed on together; a larger
// cart goes alone.
const (
	batchBytes = 1 << 20
	batchMax   = 500
)

// walk reads all carts of a backup, or those of some slots, in batches.
func walk(ctx context.Context, b Bucket, m *manifest, want func(slot uint32) bool, each func([]Cart) error) error {
	r := newReader(b, m)
	var batch []Cart
	size := 0
	for _, s := range m.Slots {
		if want != nil && !want(s.Slot) {
			continue
		}
		entries, err := r.entries(ctx, s)
		if err != nil {
			return err
		}
		for _, e := range entries {
			c, err := r.cart(ctx, e)
			if err != nil {
				return err
			}
			if len(batch) == batchMax || len(batch) > 0 && size+len(c.State) > batchBytes {
				if err := each(batch); err != nil {
					return err
				}
				batch, size = nil, 0
			}
			batch, size = append(batch, c), size+len(c.State)
		}
	}
	if len(batch) == 0 {
		return nil
	}
	return each(batch)
}

// verify reads all of a backup and checks that a region takes it.
func verify(ctx context.Context, b Bucket, m *manifest, done func(carts int)) error {
	limits := replication.DefaultLimits()
	limits.Now = time.Now()
	return walk(ctx, b, m, nil, func(carts []Cart) error {
		whole := make([]replication.WholeCart, len(carts))
		for i, c := range carts {
			whole[i] = replication.WholeCart{CartID: c.ID, Data: c.State}
		}
		if _, err := replication.ValidateCarts(whole, limits); err != nil {
			return fmt.Errorf("backup %s: no region takes what it has: %w", m.ID, err)
		}
		done(len(carts))
		return nil
	})
}

// Verify reads all of a backup, the newest without an id, and checks every blob
// and every cart. done is told of carts, and may be nil.
func Verify(ctx context.Context, b Bucket, id string, done func(carts int)) (Summary, error) {
	m, err := open(ctx, b, id)
	if err != nil {
		return Summary{}, err
	}
	return m.summary(), verify(ctx, b, m, orNothing(done))
}

func orNothing(done func(int)) func(int) {
	if done == nil {
		return func(int) {}
	}
	return done
}

// Plan is a backup and a region that may take it.
type Plan struct {
	Summary
	// LeftOut is how many carts of the backup are not restored: they are in slots
	// where carts were collected that had not changed since before the backup. What
	// such a cart had seen removed is forgotten, and the backup would bring it back.
	LeftOut int
	b       Bucket
	m       *manifest
	t       Target
	skip    map[uint32]bool
}

// Prepare finds a backup, the newest without an id, and checks whether the
// region may take it. All carts: also those that would be left out.
func Prepare(ctx context.Context, b Bucket, id string, t Target, all bool) (*Plan, error) {
	m, err := open(ctx, b, id)
	if err != nil {
		return nil, err
	}
	r, err := t.Region(ctx)
	if err != nil {
		return nil, err
	}
	if r.Incarnation == 0 {
		return nil, fmt.Errorf("region %s does not say its incarnation: it is not formed yet, or none of its nodes answers", r.Name)
	}
	if known := m.Incarnations[r.ID]; r.Incarnation <= known {
		return nil, fmt.Errorf("%w: %s has incarnation %d, and backup %s has writes of its incarnation %d, whose dots it could mint again; "+
			"if %s has lost its disks, start all its nodes with empty data directories and --incarnation %d, and restore then; if not, it has these writes already",
			ErrIncarnation, r.Name, r.Incarnation, m.ID, known, r.Name, known+1)
	}
	collected, err := t.ForgottenBefore(ctx)
	if err != nil {
		return nil, err
	}
	p := &Plan{Summary: m.summary(), b: b, m: m, t: t, skip: make(map[uint32]bool)}
	for _, s := range m.Slots {
		if !all && int(s.Slot) < len(collected) && collected[s.Slot].After(m.Started) {
			p.skip[s.Slot] = true
			p.LeftOut += s.Carts
		}
	}
	return p, nil
}

// importsAhead is how many batches are joined at a time.
const importsAhead = 4

// Run reads and checks all of the backup, and then joins it with the region's
// carts. Nothing is joined when anything is damaged. done is told of carts, of
// each twice: when it was checked and when it was joined; it may be nil, and is
// called by one goroutine at a time. To run it again after a failure is safe.
func (p *Plan) Run(ctx context.Context, done func(carts int)) error {
	done = orNothing(done)
	if err := verify(ctx, p.b, p.m, done); err != nil {
		return err
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(importsAhead)
	wanted := func(slot uint32) bool { return !p.skip[slot] }
	err := walk(ctx, p.b, p.m, wanted, func(carts []Cart) error {
		if gctx.Err() != nil {
			return context.Cause(gctx)
		}
		group.Go(func() error { return p.t.Import(gctx, carts) })
		done(len(carts))
		return nil
	})
	if failed := group.Wait(); failed != nil {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("restored in part only; restore again: %w", err)
	}
	return nil
}
