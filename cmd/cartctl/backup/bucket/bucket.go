// Package bucket is where backups are kept: a directory, or a bucket of an
// object store.
//
// # Decisions
//
// A directory is synced: fileblob renames a blob into its place whole, but a
// machine that stops could leave the manifest on disk and not what it names.
// So each blob and its directories are synced before the next is written. Cost: three
// fsyncs a blob of 4 MiB. Rejected: one sync of the file system at the end,
// which others' writes make long, and which not every system has.
package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	_ "gocloud.dev/blob/s3blob" // s3://
	"gocloud.dev/gcerrors"

	"github.com/samecart/samecart/cmd/cartctl/backup"
)

// Bucket satisfies backup.Bucket.
type Bucket struct {
	b   *blob.Bucket
	dir string // of a bucket that is a directory
}

var _ backup.Bucket = (*Bucket)(nil)

// New returns a Bucket over one of the library's.
func New(b *blob.Bucket) *Bucket { return &Bucket{b: b} }

// ErrAddress means that an address names no bucket that can be opened.
var ErrAddress = errors.New("no place for backups")

// Open opens a directory, file:///DIR or s3://BUCKET/PREFIX?OPTIONS. A directory
// is made when create is set.
func Open(ctx context.Context, address string, create bool) (*Bucket, error) {
	if !strings.Contains(address, "://") {
		return openDir(address, create)
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAddress, err)
	}
	switch {
	case u.Scheme == "file" && u.Host == "" && u.Path != "":
		return openDir(filepath.FromSlash(u.Path), create)
	case u.Scheme == "s3" && u.Host != "":
		prefix := strings.Trim(u.Path, "/")
		u.Path = ""
		// Blobs have sums of ours; of a store that has none, the SDK warns at each.
		if q := u.Query(); !q.Has(checksums) {
			q.Set(checksums, "when_required")
			u.RawQuery = q.Encode()
		}
		b, err := blob.OpenBucket(ctx, u.String())
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrAddress, address, err)
		}
		if prefix != "" {
			b = blob.PrefixedBucket(b, prefix+"/")
		}
		return New(b), nil
	}
	return nil, fmt.Errorf("%w: %q is none of DIR, file:///DIR and s3://BUCKET/PREFIX", ErrAddress, address)
}

const checksums = "response_checksum_validation"

func openDir(dir string, create bool) (*Bucket, error) {
	if dir == "" {
		return nil, fmt.Errorf("%w: no directory is named", ErrAddress)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAddress, err)
	}
	b, err := fileblob.OpenBucket(dir, &fileblob.Options{
		CreateDir: create, DirFileMode: 0o700, // there are shoppers' names in it
		NoTempDir: true, Metadata: fileblob.MetadataDontWrite,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAddress, err)
	}
	return &Bucket{b: b, dir: dir}, nil
}

// Close ends the use of the bucket.
func (b *Bucket) Close() error { return b.b.Close() }

// Write implements backup.Bucket.
func (b *Bucket) Write(ctx context.Context, name string, content []byte) error {
	if err := b.b.WriteAll(ctx, name, content, nil); err != nil {
		return err
	}
	if b.dir == "" {
		return nil
	}
	for path := filepath.Join(b.dir, filepath.FromSlash(name)); len(path) >= len(b.dir); path = filepath.Dir(path) {
		if err := syncFile(path); err != nil {
			return err
		}
	}
	return nil
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Read implements backup.Bucket.
func (b *Bucket) Read(ctx context.Context, name string, limit int64) ([]byte, error) {
	r, err := b.b.NewReader(ctx, name, nil)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return nil, backup.ErrNoBlob
	}
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	if int64(len(content)) > limit {
		return nil, fmt.Errorf("%w: %s has more than %d bytes", backup.ErrDamaged, name, limit)
	}
	return content, nil
}

// List implements backup.Bucket.
func (b *Bucket) List(ctx context.Context, prefix string) ([]backup.Blob, error) {
	var out []backup.Blob
	for it := b.b.List(&blob.ListOptions{Prefix: prefix}); ; {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out = append(out, backup.Blob{Name: o.Key, Size: o.Size})
	}
}
