package backup

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/samecart/samecart/crdt"
)

// Errors of backups.
var (
	// ErrNoBlob is returned by a Bucket for what it does not hold.
	ErrNoBlob = errors.New("no such blob")
	// ErrNoBackup means that there is none, or none of that id.
	ErrNoBackup = errors.New("no such backup")
	// ErrDamaged means that a blob of the backup is not what was written.
	ErrDamaged = errors.New("the backup is damaged")
	// ErrNewer means that a later version of this program wrote the backup.
	ErrNewer = errors.New("the backup is of a newer format")
)

// Bucket holds blobs by name. Names are made of a-z, A-Z, 0-9, dots, hyphens
// and slashes.
type Bucket interface {
	// Write stores a blob: all of it, for good, before it returns, or none.
	Write(ctx context.Context, name string, content []byte) error
	// Read returns a blob. One of more than limit bytes is ErrDamaged, a missing one
	// ErrNoBlob.
	Read(ctx context.Context, name string, limit int64) ([]byte, error)
	// List returns the blobs whose names begin with prefix.
	List(ctx context.Context, prefix string) ([]Blob, error)
}

// Blob is a blob's name and size.
type Blob struct {
	Name string
	Size int64
}

// Where blobs are: manifests are few and found without listing the rest.
const (
	manifests = "backups/"
	data      = "data/"
)

// format is the version of manifests and of the blobs that they name.
const format = 1

// manifest says what a backup is made of.
type manifest struct {
	Format      int           `json:"format"`
	ID          string        `json:"id"`
	Region      string        `json:"region"`
	RegionID    crdt.RegionID `json:"region_id"`
	Incarnation uint32        `json:"incarnation"`
	// Incarnations are the highest, of each region, that the carts know.
	Incarnations map[crdt.RegionID]uint32 `json:"incarnations"`
	Started      time.Time                `json:"started"`
	Ended        time.Time                `json:"ended"`
	// Chain is how many incremental backups there are since the full one, which
	// Previous leads to.
	Chain    int        `json:"chain"`
	Previous string     `json:"previous,omitempty"`
	Carts    int        `json:"carts"`
	Slots    []slotInfo `json:"slots"`
	// Files are all of the chain until here. Some may be needed no more, which only
	// the indexes of slots that were not read could tell.
	Files []file `json:"files"`
}

// slotInfo is one slot that has carts.
type slotInfo struct {
	Slot   uint32 `json:"slot"`
	Digest Digest `json:"digest"` // the sum of the carts' digests
	Carts  int    `json:"carts"`
	Index  string `json:"index"` // the blob that lists them
}

// file is a blob that a manifest names.
type file struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// sealed is a manifest as it is stored: JSON, so that people can read it, with
// a sum, so that a changed digit does not go unseen.
type sealed struct {
	SHA256   string          `json:"sha256"` // of the manifest's bytes
	Manifest json.RawMessage `json:"manifest"`
}

// Summary is what is known of a backup from its manifest.
type Summary struct {
	ID          string
	Region      string
	Incarnation uint32
	Started     time.Time
	Carts       int
	Incremental bool
	Previous    string // of an incremental one
	Size        int64  // of all blobs that it needs
	Problem     error  // why the manifest cannot be read; all else but ID is unknown then
}

func (m *manifest) summary() Summary {
	s := Summary{
		ID: m.ID, Region: m.Region, Incarnation: m.Incarnation, Started: m.Started,
		Carts: m.Carts, Incremental: m.Chain > 0, Previous: m.Previous,
	}
	for _, f := range m.Files {
		s.Size += f.Size
	}
	return s
}

// slot returns what is known of a slot; nothing, of a nil manifest too, is an
// empty slot, whose digest is zero.
func (m *manifest) slot(slot uint32) slotInfo {
	if m == nil {
		return slotInfo{Slot: slot}
	}
	i, ok := slices.BinarySearchFunc(m.Slots, slot, func(s slotInfo, slot uint32) int { return int(s.Slot) - int(slot) })
	if !ok {
		return slotInfo{Slot: slot}
	}
	return m.Slots[i]
}

// know raises the incarnations that the backup knows.
func (m *manifest) know(of map[crdt.RegionID]uint32) {
	for region, incarnation := range of {
		m.Incarnations[region] = max(m.Incarnations[region], incarnation)
	}
}

func (m *manifest) knowCart(c *crdt.Cart) {
	for _, r := range c.Context.Replicas() {
		m.Incarnations[r.Region] = max(m.Incarnations[r.Region], r.Incarnation)
	}
}

// checkThere looks whether the blobs are all there, but not into them.
func (m *manifest) checkThere(ctx context.Context, b Bucket) error {
	sizes := map[string]int64{}
	dirs := map[string]bool{}
	for _, f := range m.Files {
		dirs[path.Dir(f.Name)+"/"] = true
	}
	for dir := range dirs {
		blobs, err := b.List(ctx, dir)
		if err != nil {
			return fmt.Errorf("list %s: %w", dir, err)
		}
		for _, blob := range blobs {
			sizes[blob.Name] = blob.Size
		}
	}
	for _, f := range m.Files {
		size, ok := sizes[f.Name]
		if !ok {
			return fmt.Errorf("%w: %s is missing", ErrDamaged, f.Name)
		}
		if size != f.Size {
			return fmt.Errorf("%w: %s has %d bytes, not %d", ErrDamaged, f.Name, size, f.Size)
		}
	}
	return nil
}

// manifestBytesMax bounds a manifest; a hundred million carts take 4 MiB.
const manifestBytesMax = 64 << 20

func (m *manifest) write(ctx context.Context, b Bucket) (n int64, err error) {
	inner, err := json.Marshal(m)
	if err != nil {
		return 0, fmt.Errorf("write manifest: %w", err)
	}
	outer, err := json.Marshal(sealed{hashOf(inner), inner})
	if err != nil {
		return 0, fmt.Errorf("write manifest: %w", err)
	}
	if err := b.Write(ctx, manifestName(m.ID), outer); err != nil {
		return 0, fmt.Errorf("write manifest: %w", err)
	}
	return int64(len(outer)), nil
}

func readManifest(ctx context.Context, b Bucket, id string) (*manifest, error) {
	content, err := b.Read(ctx, manifestName(id), manifestBytesMax)
	switch {
	case errors.Is(err, ErrNoBlob):
		return nil, fmt.Errorf("%w as %s", ErrNoBackup, id)
	case err != nil:
		return nil, fmt.Errorf("read manifest of backup %s: %w", id, err)
	}
	m, err := decodeManifest(content)
	if err != nil {
		return nil, fmt.Errorf("%w: manifest of backup %s", err, id)
	}
	if m.ID != id {
		return nil, fmt.Errorf("%w: the manifest of backup %s is of backup %s", ErrDamaged, id, m.ID)
	}
	return m, nil
}

func decodeManifest(content []byte) (*manifest, error) {
	var outer sealed
	if err := json.Unmarshal(content, &outer); err != nil || outer.SHA256 != hashOf(outer.Manifest) {
		return nil, ErrDamaged
	}
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(outer.Manifest, &version); err != nil {
		return nil, ErrDamaged
	}
	if version.Format > format {
		return nil, fmt.Errorf("%w: it has %d, this version reads %d", ErrNewer, version.Format, format)
	}
	var m manifest
	in := json.NewDecoder(bytes.NewReader(outer.Manifest))
	in.DisallowUnknownFields()
	if err := in.Decode(&m); err != nil || !m.sound() {
		return nil, ErrDamaged
	}
	return &m, nil
}

// sound reports whether the parts of a manifest agree.
func (m *manifest) sound() bool {
	names := map[string]bool{}
	for _, f := range m.Files {
		if names[f.Name] || !strings.HasPrefix(f.Name, data) || f.Size < 0 {
			return false
		}
		names[f.Name] = true
	}
	carts, next := 0, uint32(0)
	for _, s := range m.Slots {
		if s.Slot < next || s.Slot >= Slots || s.Carts < 1 || !names[s.Index] {
			return false
		}
		carts, next = carts+s.Carts, s.Slot+1
	}
	return m.Format == format && m.Incarnation > 0 && m.Incarnations[m.RegionID] >= m.Incarnation && carts == m.Carts && m.Chain >= 0
}

func manifestName(id string) string { return manifests + id + ".json" }

// idTime is how an id begins: ids are ordered as their times.
const idTime = "20060102T150405.000Z"

// nextID returns an id above all those given, also when the clock went back.
func nextID(now time.Time, ids []string) string {
	if len(ids) > 0 {
		last, ok := timeOf(ids[len(ids)-1])
		if least := last.Add(time.Millisecond); ok && now.Before(least) {
			now = least
		}
	}
	var random [3]byte // two that begin at the same time are two
	_, _ = rand.Read(random[:])
	return now.UTC().Format(idTime) + "-" + hex.EncodeToString(random[:])
}

func timeOf(id string) (t time.Time, ok bool) {
	head, random, ok := strings.Cut(id, "-")
	if b, err := hex.DecodeString(random); !ok || err != nil || len(b) != 3 || strings.ToLower(random) != random {
		return t, false
	}
	t, err := time.Parse(idTime, head)
	return t, err == nil && t.Format(idTime) == head
}

// identifiers returns the ids of the backups in the bucket, the oldest first.
func identifiers(ctx context.Context, b Bucket) ([]string, error) {
	blobs, err := b.List(ctx, manifests)
	if err != nil {
		return nil, fmt.Errorf("list backups: %w", err)
	}
	var ids []string
	for _, blob := range blobs {
		id, ok := strings.CutSuffix(strings.TrimPrefix(blob.Name, manifests), ".json")
		if _, valid := timeOf(id); ok && valid {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// List returns the backups in the bucket, the oldest first.
func List(ctx context.Context, b Bucket) ([]Summary, error) {
	ids, err := identifiers(ctx, b)
	if err != nil {
		return nil, err
	}
	out := make([]Summary, len(ids))
	for i, id := range ids {
		m, err := readManifest(ctx, b, id)
		switch {
		case errors.Is(err, ErrDamaged), errors.Is(err, ErrNewer):
			out[i] = Summary{ID: id, Problem: err}
		case err != nil:
			return nil, err
		default:
			out[i] = m.summary()
		}
	}
	return out, nil
}

// open returns the manifest of a backup; without an id, of the newest.
func open(ctx context.Context, b Bucket, id string) (*manifest, error) {
	if _, ok := timeOf(id); id != "" && !ok {
		return nil, fmt.Errorf("%w as %s", ErrNoBackup, id)
	}
	if id == "" {
		ids, err := identifiers(ctx, b)
		if err != nil {
			return nil, err
		}
		if len(ids) == 0 {
			return nil, fmt.Errorf("%w: there is none at all", ErrNoBackup)
		}
		id = ids[len(ids)-1]
	}
	return readManifest(ctx, b, id)
}

func hashOf(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }
