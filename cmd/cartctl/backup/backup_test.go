package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/samecart/samecart/crdt"
)

// blobs is a bucket in memory that can be broken.
type blobs struct {
	mu     sync.Mutex
	held   map[string][]byte
	failIn int // the write that fails, from 1; 0: none
	writes int
	reads  map[string]int
}

func newBlobs() *blobs { return &blobs{held: map[string][]byte{}, reads: map[string]int{}} }

var errBroken = errors.New("the network is gone")

func (b *blobs) Write(_ context.Context, name string, content []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.writes++; b.writes == b.failIn {
		return errBroken
	}
	if b.held[name] != nil {
		return fmt.Errorf("%s is written twice", name)
	}
	b.held[name] = bytes.Clone(content)
	return nil
}

func (b *blobs) Read(_ context.Context, name string, limit int64) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reads[name]++
	content, ok := b.held[name]
	switch {
	case !ok:
		return nil, ErrNoBlob
	case int64(len(content)) > limit:
		return nil, ErrDamaged
	}
	return content, nil
}

func (b *blobs) List(_ context.Context, prefix string) (out []Blob, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, content := range b.held {
		if strings.HasPrefix(name, prefix) {
			out = append(out, Blob{name, int64(len(content))})
		}
	}
	return out, nil
}

// clone returns a bucket of the same blobs that never fails.
func (b *blobs) clone() *blobs {
	out := newBlobs()
	out.held = maps.Clone(b.held)
	return out
}

// region is a fake region; it satisfies Source and Target.
type region struct {
	who Region

	mu       sync.Mutex
	carts    map[string]crdt.State
	between  func() // called between List and Export, when not nil
	listed   int    // slots
	exported int    // carts
	imported int
	refuse   int // the import that fails, from 1; 0: none

	forgotten []time.Time // by slot
}

func newRegion(incarnation uint32) *region {
	return &region{who: Region{"us-east", 1, incarnation}, carts: map[string]crdt.State{}}
}

// slotOf spreads the carts of tests over four slots, the first and the last
// among them.
func slotOf(id string) uint32 { return []uint32{0, 1, 700, Slots - 1}[id[len(id)-1]%4] }

func (r *region) Region(context.Context) (Region, error) { return r.who, nil }

func (r *region) ForgottenBefore(context.Context) ([]time.Time, error) { return r.forgotten, nil }

func (r *region) Digests(context.Context) ([]Digest, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var sums [Slots]sum
	for id, c := range r.carts {
		sums[slotOf(id)].add(digestOf(id, c.Cart))
	}
	out := make([]Digest, Slots)
	for i := range sums {
		out[i] = sums[i].digest()
	}
	return out, nil
}

func (r *region) List(_ context.Context, slot uint32) (out []Listed, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listed++
	for _, id := range slices.Sorted(maps.Keys(r.carts)) {
		if slotOf(id) == slot {
			out = append(out, Listed{id, digestOf(id, r.carts[id].Cart)})
		}
	}
	return out, nil
}

func (r *region) Export(_ context.Context, ids []string) (out []Cart, err error) {
	if r.between != nil {
		r.between()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		if c, ok := r.carts[id]; ok {
			out = append(out, Cart{id, c.Encode(nil)})
			r.exported++
		}
	}
	return out, nil
}

func (r *region) Import(_ context.Context, carts []Cart) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.imported++; r.imported == r.refuse {
		return errBroken
	}
	for _, c := range carts {
		state, err := crdt.DecodeState(c.State)
		if err != nil {
			return err
		}
		r.carts[c.ID] = joined(r.carts[c.ID], state)
	}
	return nil
}

func joined(a, b crdt.State) crdt.State {
	if a.Cart == nil {
		return b
	}
	return crdt.State{Cart: crdt.Join(a.Cart, b.Cart), Ops: b.Ops}
}

// set sets the quantity of a line in a region's cart; 0 removes it.
func (r *region) set(id, sku string, quantity uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.carts[id]
	if s.Cart == nil {
		s.Cart = &crdt.Cart{}
	}
	key := crdt.LineKey{Seller: "seller-1", SKU: sku}
	w := crdt.Writer{Replica: crdt.Replica{Region: r.who.ID, Incarnation: r.who.Incarnation}, At: crdt.TimestampAt(1_700_000_000_000)}
	var d crdt.Delta
	switch there := s.Cart.Find(key) != nil; {
	case quantity == 0 && !there:
		return
	case quantity == 0:
		d = s.Cart.Remove(w, key)
	case there:
		d = s.Cart.SetQuantity(w, key, quantity)
	default:
		d = s.Cart.Add(w, key, quantity, crdt.Offer{Price: 2999, Currency: "USD", AddedAt: w.At}, false)
	}
	r.carts[id] = crdt.State{Cart: s.Cart.Apply(d), Ops: []crdt.Op{{Dot: d.Dots[0], ID: crdt.OpID{7}, Fingerprint: 9, At: w.At}}}
}

// text is all that a region's carts are.
func (r *region) text() string {
	var out strings.Builder
	for _, id := range slices.Sorted(maps.Keys(r.carts)) {
		fmt.Fprintf(&out, "%s %x\n", id, r.carts[id].Encode(nil))
	}
	return out.String()
}

// restored restores a backup into an empty region and returns what is there.
func restored(b Bucket, id string) (string, error) {
	r := newRegion(99)
	p, err := Prepare(context.Background(), b, id, r, false)
	if err != nil {
		return "", err
	}
	err = p.Run(context.Background(), nil)
	return r.text(), err
}

// made makes a backup in small blobs.
func made(t rapid.TB, r *region, b Bucket, opt Options) Made {
	t.Helper()
	opt.blobBytes = 300 // few carts
	out, err := Make(context.Background(), r, b, opt)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestEveryBackupIsItsMoment: whatever is edited, dropped and backed up, each
// backup restores to the carts that there were, and nothing is read again that
// did not change.
func TestEveryBackupIsItsMoment(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, b := newRegion(1), newBlobs()
		chain := rapid.IntRange(0, 3).Draw(t, "chain")
		var ids, want []string
		since := 0 // backups since the last full one
		changed := map[string]bool{}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			id := "cart:" + rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g", "h"}).Draw(t, "cart")
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			default:
				before := r.text()
				r.set(id, rapid.SampledFrom([]string{"tea", "jam"}).Draw(t, "sku"), uint32(rapid.IntRange(0, 3).Draw(t, "quantity")))
				if r.text() != before {
					changed[id] = true
				}
			case 6:
				delete(r.carts, id)
				delete(changed, id)
			case 7, 8, 9:
				full := rapid.IntRange(0, 9).Draw(t, "full") == 0
				r.exported = 0
				last := made(t, r, b, Options{Full: full, ChainMax: chain})
				incremental := len(ids) > 0 && !full && since < chain
				if last.Incremental != incremental || last.Carts != len(r.carts) || last.Written != r.exported {
					t.Fatalf("%+v: want incremental %v of %d carts, %d written", last, incremental, len(r.carts), r.exported)
				}
				if incremental && r.exported > len(changed) {
					t.Fatalf("%d carts were read, %d had changed", r.exported, len(changed))
				}
				if since++; !incremental {
					since = 0
				}
				clear(changed)
				ids, want = append(ids, last.ID), append(want, r.text())
			}
		}
		if !slices.IsSorted(ids) {
			t.Fatalf("ids are out of order: %v", ids)
		}
		for i, id := range ids {
			if got, err := restored(b, id); err != nil || got != want[i] {
				t.Fatalf("backup %d of %d: %v\n%swant\n%s", i+1, len(ids), err, got, want[i])
			}
		}
		if len(ids) > 0 {
			if got, err := restored(b, ""); err != nil || got != want[len(ids)-1] {
				t.Fatalf("the newest: %v", err)
			}
		}
	})
}

// some makes a region with n carts.
func some(n int) *region {
	r := newRegion(1)
	for i := range n {
		r.set(fmt.Sprintf("cart:%03d", i), "tea", uint32(i%9+1))
	}
	return r
}

func TestUnchangedRegionIsNotRead(t *testing.T) {
	r, b := some(100), newBlobs()
	full := made(t, r, b, Options{ChainMax: 9})
	r.listed, r.exported, b.reads = 0, 0, map[string]int{}
	again := made(t, r, b, Options{ChainMax: 9})
	if r.listed != 0 || r.exported != 0 || again.Written != 0 || again.Carts != 100 || len(b.reads) != 1 {
		t.Errorf("%d slots listed, %d carts read, blobs read: %v", r.listed, r.exported, b.reads)
	}
	r.set("cart:005", "jam", 1)
	r.listed = 0
	third := made(t, r, b, Options{ChainMax: 9})
	if r.listed != 1 || r.exported != 1 || third.Written != 1 || third.Bytes >= full.Bytes {
		t.Errorf("%d slots listed, %d carts read, %d bytes written of %d", r.listed, r.exported, third.Bytes, full.Bytes)
	}
	if got, err := restored(b, third.ID); err != nil || got != r.text() {
		t.Errorf("restored: %v", err)
	}
}

// TestBlobsAreReadOnce: a restore over a chain reads each blob once to check and
// once to join.
func TestBlobsAreReadOnce(t *testing.T) {
	r, b := some(200), newBlobs()
	made(t, r, b, Options{ChainMax: 9})
	for i := range 3 {
		for j := i; j < 200; j += 17 {
			r.set(fmt.Sprintf("cart:%03d", j), "jam", 2)
		}
		made(t, r, b, Options{ChainMax: 9})
	}
	clear(b.reads)
	if _, err := restored(b, ""); err != nil {
		t.Fatal(err)
	}
	for name, n := range b.reads {
		if n > 2 {
			t.Errorf("%s was read %d times", name, n)
		}
	}
}

// TestEditsMeanwhile: a cart that changes, comes or goes while its slot is read
// is there whole or not at all, and the next backup has it as it is then.
func TestEditsMeanwhile(t *testing.T) {
	r, b := some(40), newBlobs()
	var once sync.Once
	r.between = func() {
		once.Do(func() {
			r.set("cart:001", "jam", 3)
			r.set("cart:new", "jam", 3)
			r.mu.Lock()
			delete(r.carts, "cart:002")
			r.mu.Unlock()
		})
	}
	first := made(t, r, b, Options{ChainMax: 9})
	if _, err := restored(b, first.ID); err != nil {
		t.Fatal(err)
	}
	r.between = nil
	made(t, r, b, Options{ChainMax: 9})
	if got, err := restored(b, ""); err != nil || got != r.text() {
		t.Errorf("after the next backup: %v\n%swant\n%s", err, got, r.text())
	}
}

// TestEveryDamage spoils each blob in each way: nothing is joined, unless all
// of it is exactly right all the same.
func TestEveryDamage(t *testing.T) {
	r, b := some(60), newBlobs()
	made(t, r, b, Options{ChainMax: 9})
	r.set("cart:005", "jam", 1)
	last := made(t, r, b, Options{ChainMax: 9})
	other := newBlobs()
	made(t, some(61), other, Options{})
	var foreign [][]byte // of another backup
	for _, name := range slices.Sorted(maps.Keys(other.held)) {
		foreign = append(foreign, other.held[name])
	}
	want := r.text()
	spoilt := 0
	check := func(what, name string, content []byte) {
		t.Helper()
		broken := b.clone()
		broken.held[name] = content
		if content == nil {
			delete(broken.held, name)
		}
		target := newRegion(9)
		p, err := Prepare(t.Context(), broken, last.ID, target, false)
		if err == nil {
			err = p.Run(t.Context(), nil)
		}
		got := target.text()
		_, verifyErr := Verify(t.Context(), broken, last.ID, nil)
		switch {
		case err != nil && got != "":
			t.Errorf("%s %s: carts were joined: %v", name, what, err)
		case err == nil && got != want:
			t.Errorf("%s %s: restored to other carts without an error", name, what)
		case err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) && !errors.Is(err, ErrNoBackup):
			t.Errorf("%s %s: %v", name, what, err)
		case (err == nil) != (verifyErr == nil):
			t.Errorf("%s %s: Verify says %v, a restore %v", name, what, verifyErr, err)
		}
		if err != nil {
			spoilt++
		}
		// A backup on such a base is whole.
		if _, err := Make(t.Context(), r, broken, Options{ChainMax: 9}); err != nil {
			t.Errorf("%s %s: next backup: %v", name, what, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.held)) {
		if strings.HasPrefix(name, manifests) && !strings.Contains(name, last.ID) {
			continue // of the earlier one: not needed
		}
		content := b.held[name]
		check("missing", name, nil)
		check("empty", name, []byte{})
		for _, at := range []int{1, len(content) / 2, len(content) - 1} {
			check("cut", name, content[:at])
		}
		check("longer", name, append(bytes.Clone(content), 0))
		for at := 0; at < len(content); at += 1 + len(content)/31 {
			flipped := bytes.Clone(content)
			flipped[at] ^= 0x20
			check(fmt.Sprintf("flipped at %d", at), name, flipped)
		}
		for i, f := range foreign {
			check(fmt.Sprintf("foreign %d", i), name, f)
		}
	}
	if spoilt < 100 {
		t.Errorf("only %d ways of damage were found", spoilt)
	}
}

// resealed changes a manifest and gives it a right sum.
func resealed(t *testing.T, b *blobs, id string, change func(*manifest)) {
	t.Helper()
	m, err := readManifest(t.Context(), b, id)
	if err != nil {
		t.Fatal(err)
	}
	change(m)
	inner, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	outer, err := json.Marshal(sealed{hashOf(inner), inner})
	if err != nil {
		t.Fatal(err)
	}
	b.held[manifestName(id)] = outer
}

// TestManifestThatLies: the sums are right, and what it says is not.
func TestManifestThatLies(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*manifest)
		want   error
	}{
		"newer":          {func(m *manifest) { m.Format = 2 }, ErrNewer},
		"older":          {func(m *manifest) { m.Format = 0 }, ErrDamaged},
		"other id":       {func(m *manifest) { m.ID = "x" }, ErrDamaged},
		"fewer carts":    {func(m *manifest) { m.Carts-- }, ErrDamaged},
		"slot too high":  {func(m *manifest) { m.Slots[len(m.Slots)-1].Slot = Slots }, ErrDamaged},
		"slot twice":     {func(m *manifest) { m.Slots[1].Slot = m.Slots[0].Slot }, ErrDamaged},
		"slots swapped":  {func(m *manifest) { m.Slots[0].Digest, m.Slots[1].Digest = m.Slots[1].Digest, m.Slots[0].Digest }, ErrDamaged},
		"slot is gone":   {func(m *manifest) { m.Carts -= m.Slots[0].Carts; m.Slots = m.Slots[1:] }, nil},
		"index unknown":  {func(m *manifest) { m.Slots[0].Index = "data/none" }, ErrDamaged},
		"index is carts": {func(m *manifest) { m.Slots[0].Index = m.Files[0].Name }, ErrDamaged},
		"file twice":     {func(m *manifest) { m.Files = append(m.Files, m.Files[0]) }, ErrDamaged},
		"file elsewhere": {func(m *manifest) { m.Files[0].Name = "../x" }, ErrDamaged},
		"file is gone":   {func(m *manifest) { m.Files = m.Files[1:] }, ErrDamaged},
		"no incarnation": {func(m *manifest) { m.Incarnation = 0 }, ErrDamaged},
	} {
		b := newBlobs()
		last := made(t, some(60), b, Options{})
		resealed(t, b, last.ID, c.change)
		if _, err := Verify(t.Context(), b, last.ID, nil); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	// A blob of a later version under a manifest of this one.
	b := newBlobs()
	last := made(t, some(3), b, Options{})
	resealed(t, b, last.ID, func(m *manifest) {
		name := m.Files[0].Name
		b.held[name][len(magic)+1]++
		m.Files[0].SHA256 = hashOf(b.held[name])
	})
	if _, err := Verify(t.Context(), b, last.ID, nil); !errors.Is(err, ErrNewer) {
		t.Errorf("newer blob: %v", err)
	}
}

// TestInterruptedAtEveryWrite: whichever write fails, no half backup is listed,
// earlier ones restore, and the next one is whole.
func TestInterruptedAtEveryWrite(t *testing.T) {
	for n := 1; ; n++ {
		r, b := some(60), newBlobs()
		made(t, r, b, Options{ChainMax: 9})
		first := r.text()
		for i := range 20 {
			r.set(fmt.Sprintf("cart:%03d", i), "jam", 1)
		}
		b.failIn = b.writes + n
		_, err := Make(t.Context(), r, b, Options{ChainMax: 9, blobBytes: 300})
		if err == nil {
			if n < 5 {
				t.Errorf("only %d writes were made to fail", n-1)
			}
			return
		}
		if !errors.Is(err, errBroken) {
			t.Fatalf("write %d: %v", n, err)
		}
		list, err := List(t.Context(), b)
		if err != nil || len(list) != 1 || list[0].Problem != nil {
			t.Fatalf("write %d: listed %+v, %v", n, list, err)
		}
		if got, err := restored(b, ""); err != nil || got != first {
			t.Errorf("write %d: the earlier backup: %v", n, err)
		}
		made(t, r, b, Options{ChainMax: 9})
		if got, err := restored(b, ""); err != nil || got != r.text() {
			t.Errorf("write %d: the next backup: %v", n, err)
		}
	}
}

func TestBackupEndsWithItsContext(t *testing.T) {
	r, b := some(60), newBlobs()
	ctx, cancel := context.WithCancel(t.Context())
	r.between = func() { cancel() }
	if _, err := Make(ctx, r, canceled{b}, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
}

// canceled is a bucket that minds the context.
type canceled struct{ *blobs }

func (c canceled) Write(ctx context.Context, name string, content []byte) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return c.blobs.Write(ctx, name, content)
}

// TestIncarnation: who could mint a dot of the backup again does not take it.
func TestIncarnation(t *testing.T) {
	r, b := some(5), newBlobs()
	// It knows a write of another region, in its third incarnation.
	peer := &region{who: Region{"eu-west", 2, 3}, carts: map[string]crdt.State{"cart:000": r.carts["cart:000"]}}
	peer.set("cart:000", "jam", 1)
	r.carts["cart:000"] = peer.carts["cart:000"]
	last := made(t, r, b, Options{ChainMax: 9})
	// Slots that are not read again count as well.
	r.set("cart:001", "jam", 1)
	again := made(t, r, b, Options{ChainMax: 9})
	for _, c := range []struct {
		id          crdt.RegionID
		incarnation uint32
		want        string // in the error; empty: none
	}{
		{1, 0, "does not say its incarnation"},
		{1, 1, "--incarnation 2"},
		{1, 2, ""},
		{2, 3, "--incarnation 4"},
		{2, 4, ""},
		{3, 1, ""},
	} {
		for _, id := range []string{last.ID, again.ID} {
			target := &region{who: Region{"somewhere", c.id, c.incarnation}, carts: map[string]crdt.State{}}
			p, err := Prepare(t.Context(), b, id, target, false)
			if c.want == "" {
				if err == nil {
					err = p.Run(t.Context(), nil)
				}
				if err != nil || len(target.carts) != 5 {
					t.Errorf("region %d, incarnation %d: %v", c.id, c.incarnation, err)
				}
				continue
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") || len(target.carts) > 0 {
				t.Errorf("region %d, incarnation %d: %v, want %q", c.id, c.incarnation, err, c.want)
			}
		}
	}
	// An empty backup of a region says which dots are spent, too.
	empty := newBlobs()
	made(t, newRegion(4), empty, Options{})
	if _, err := Prepare(t.Context(), empty, "", newRegion(4), false); !errors.Is(err, ErrIncarnation) {
		t.Errorf("empty backup: %v", err)
	}
	if _, err := Make(t.Context(), newRegion(0), empty, Options{}); err == nil {
		t.Error("a region that is not formed was backed up")
	}
}

// TestRestoreIsAJoin: what was removed since stays removed, edits since stay.
func TestRestoreIsAJoin(t *testing.T) {
	r, b := newRegion(1), newBlobs()
	r.set("cart:a", "tea", 2)
	r.set("cart:a", "jam", 1)
	r.set("cart:b", "tea", 1)
	made(t, r, b, Options{})
	r.set("cart:a", "tea", 0)
	r.set("cart:a", "jam", 9)
	want := r.carts["cart:a"].Cart
	peer := newRegion(2) // which has heard of cart:a since, and lacks cart:b
	peer.carts["cart:a"] = r.carts["cart:a"]
	p, err := Prepare(t.Context(), b, "", peer, false)
	if err != nil {
		t.Fatal(err)
	}
	done := 0
	if err := p.Run(t.Context(), func(n int) { done += n }); err != nil {
		t.Fatal(err)
	}
	if !peer.carts["cart:a"].Cart.Equal(want) || peer.carts["cart:b"].Cart == nil || done != 4 {
		t.Errorf("restored to %s; told of %d carts", peer.text(), done)
	}
}

// What was collected since it was last changed before the backup would come back:
// carts of such slots are left out, unless all are wanted. A backup that is newer
// than what was collected has all of it.
func TestRestoreOverWhatWasCollected(t *testing.T) {
	r, b := newRegion(1), newBlobs()
	r.set("cart:0", "tea", 2) // in slot 0
	r.set("cart:1", "tea", 1) // in slot 1
	s := made(t, r, b, Options{})
	for _, c := range []struct {
		before time.Duration // of the backup's start: what was collected last changed then
		all    bool
		want   string
	}{{-time.Second, false, "cart:0 cart:1"}, {time.Second, false, "cart:1"}, {time.Second, true, "cart:0 cart:1"}} {
		target := newRegion(2)
		target.forgotten = make([]time.Time, Slots)
		target.forgotten[slotOf("cart:0")] = s.Started.Add(c.before)
		p, err := Prepare(t.Context(), b, "", target, c.all)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Run(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(slices.Sorted(maps.Keys(target.carts)), " ")
		if got != c.want || p.Carts-p.LeftOut != len(target.carts) {
			t.Errorf("%v, all %v: restored %q, left out %d of %d; want %q", c.before, c.all, got, p.LeftOut, p.Carts, c.want)
		}
	}
}

func TestRestoreThatFails(t *testing.T) {
	r, b := some(60), newBlobs()
	for i := range 60 { // so that there is more than one batch
		for j := range 60 {
			r.set(fmt.Sprintf("cart:%03d", i), fmt.Sprintf("%s-%d", strings.Repeat("x", 500), j), 1)
		}
	}
	made(t, r, b, Options{})
	target := newRegion(2)
	target.refuse = 2
	p, err := Prepare(t.Context(), b, "", target, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(t.Context(), nil); !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "restore again") {
		t.Errorf("err = %v", err)
	}
	if err := p.Run(t.Context(), nil); err != nil || len(target.carts) != 60 {
		t.Errorf("again: %v, %d carts", err, len(target.carts))
	}
}

func TestPlaceOfAnotherRegion(t *testing.T) {
	b := newBlobs()
	made(t, some(3), b, Options{})
	other := some(3)
	other.who.Name, other.who.ID = "eu-west", 2
	if _, err := Make(t.Context(), other, b, Options{}); err == nil || !strings.Contains(err.Error(), "us-east") {
		t.Errorf("err = %v", err)
	}
}

func TestNoBackup(t *testing.T) {
	b := newBlobs()
	b.held["backups/notes.txt"] = []byte("words")
	b.held["backups/20261126T171259.123Z-4f3a9c.json.tmp"] = []byte("words")
	for _, id := range []string{"", "20261126T171259.123Z-4f3a9c", "../../etc/passwd"} {
		if _, err := Prepare(t.Context(), b, id, newRegion(1), false); !errors.Is(err, ErrNoBackup) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if list, err := List(t.Context(), b); err != nil || len(list) != 0 {
		t.Errorf("listed %v, %v", list, err)
	}
}

func TestList(t *testing.T) {
	r, b := some(10), newBlobs()
	first := made(t, r, b, Options{ChainMax: 1})
	r.set("cart:001", "jam", 1)
	second := made(t, r, b, Options{ChainMax: 1})
	third := made(t, r, b, Options{ChainMax: 1})
	b.held[manifestName(first.ID)] = []byte("{")
	list, err := List(t.Context(), b)
	if err != nil || len(list) != 3 {
		t.Fatalf("%v, %v", list, err)
	}
	if !errors.Is(list[0].Problem, ErrDamaged) || list[0].ID != first.ID {
		t.Errorf("first: %+v", list[0])
	}
	if list[1] != second.Summary || !second.Incremental || second.Previous != first.ID {
		t.Errorf("second: %+v", list[1])
	}
	if list[2] != third.Summary || third.Incremental {
		t.Errorf("third: %+v", list[2])
	}
	// The damaged manifest does not keep a later backup from being restored.
	if got, err := restored(b, second.ID); err != nil || got != r.text() {
		t.Errorf("second: %v", err)
	}
}

func TestIDsAreInOrder(t *testing.T) {
	now := time.Date(2026, 11, 26, 17, 12, 59, 123_456_789, time.UTC)
	var ids []string
	for _, at := range []time.Duration{0, 0, 0, -time.Hour, time.Millisecond, 48 * time.Hour, -48 * time.Hour} {
		id := nextID(now.Add(at), ids)
		if _, ok := timeOf(id); !ok {
			t.Errorf("id %q has no time", id)
		}
		ids = append(ids, id)
	}
	if !slices.IsSorted(ids) || !strings.HasPrefix(ids[0], "20261126T171259.123Z-") {
		t.Errorf("ids: %v", ids)
	}
}

func FuzzDecodeCarts(f *testing.F) {
	f.Add(seal(kindCarts, encodeCart(encodeCart(nil, Cart{"cart:a", []byte{1, 2}}), Cart{"cart:b", []byte{3}})))
	f.Add(seal(kindCarts, nil))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		carts, err := decodeCarts(b)
		if err != nil {
			return
		}
		var body []byte
		for id, state := range carts {
			body = encodeCart(body, Cart{id, state})
		}
		again, err := decodeCarts(seal(kindCarts, body))
		if err != nil || !maps.EqualFunc(carts, again, bytes.Equal) {
			t.Errorf("%v, %v", again, err)
		}
	})
}

func FuzzDecodeIndex(f *testing.F) {
	f.Add(encodeIndex([]slotEntries{{3, []entry{{"cart:a", Digest{1}, "data/x"}, {"cart:b", Digest{2}, "data/y"}}}, {9, []entry{{"cart:c", Digest{3}, "data/x"}}}}))
	f.Add(encodeIndex(nil))
	f.Add(seal(kindIndex, []byte{1, 1, 'x', 255, 255, 255, 255, 15, 1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		slots, err := decodeIndex(b)
		if err != nil {
			return
		}
		var list []slotEntries
		for slot, entries := range slots {
			list = append(list, slotEntries{slot, entries})
		}
		again, err := decodeIndex(encodeIndex(list))
		if err != nil || !maps.EqualFunc(slots, again, slices.Equal) {
			t.Errorf("%v, %v", again, err)
		}
	})
}

func FuzzDecodeManifest(f *testing.F) {
	f.Add([]byte(`{"format":1,"id":"x","region":"us-east","region_id":1,"incarnation":1,"incarnations":{"1":1},"carts":0,"slots":[],"files":[]}`))
	f.Add([]byte(`{"format":2}`))
	f.Fuzz(func(t *testing.T, inner []byte) {
		if !json.Valid(inner) {
			return
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, inner); err != nil {
			t.Fatal(err)
		}
		outer, err := json.Marshal(sealed{hashOf(compact.Bytes()), compact.Bytes()})
		if err != nil {
			return
		}
		m, err := decodeManifest(outer)
		if err == nil && !m.sound() {
			t.Errorf("%+v", m)
		}
	})
}
