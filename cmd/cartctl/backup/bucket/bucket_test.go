package bucket

import (
	"bufio"
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"gocloud.dev/blob/memblob"

	"github.com/samecart/samecart/cmd/cartctl/backup"
)

// store speaks as much of S3 as a bucket needs: put, get, list. Its content
// stays in memory.
type store struct {
	mu   sync.Mutex
	held map[string][]byte // by path
}

func newStore(t *testing.T) (*store, string) {
	t.Helper()
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": "/none", "AWS_SHARED_CREDENTIALS_FILE": "/none",
	} {
		t.Setenv(name, value)
	}
	s := &store{held: map[string][]byte{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return s, server.URL
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.Method == http.MethodPut:
		content, err := io.ReadAll(r.Body)
		if strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING-") {
			content, err = chunks(content)
		}
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		s.held[r.URL.Path] = content
		w.Header().Set("ETag", `"1"`)
	case r.URL.Query().Get("list-type") == "2":
		s.list(w, r)
	default:
		content, ok := s.held[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, "<Error><Code>NoSuchKey</Code></Error>") // the test fails elsewhere
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		_, _ = w.Write(content) // the test fails elsewhere
	}
}

// chunks takes a body in the form aws-chunked apart.
func chunks(b []byte) (out []byte, err error) {
	for in := bufio.NewReader(bytes.NewReader(b)); ; {
		head, err := in.ReadString('\n')
		if err != nil {
			return nil, err
		}
		size, _, _ := strings.Cut(strings.TrimSpace(head), ";")
		n, err := strconv.ParseInt(size, 16, 32)
		if err != nil || n == 0 {
			return out, err
		}
		part := make([]byte, n+2) // with the end of the line
		if _, err := io.ReadFull(in, part); err != nil {
			return nil, err
		}
		out = append(out, part[:n]...)
	}
}

func (s *store) list(w http.ResponseWriter, r *http.Request) {
	type content struct {
		Key          string
		Size         int
		LastModified string
	}
	var out struct {
		XMLName  xml.Name `xml:"ListBucketResult"`
		Contents []content
	}
	base := strings.TrimSuffix(r.URL.Path, "/") + "/"
	for path, b := range s.held {
		if key, ok := strings.CutPrefix(path, base); ok && strings.HasPrefix(key, r.URL.Query().Get("prefix")) {
			out.Contents = append(out.Contents, content{key, len(b), "2026-11-26T17:12:59.000Z"})
		}
	}
	slices.SortFunc(out.Contents, func(a, b content) int { return strings.Compare(a.Key, b.Key) })
	if err := xml.NewEncoder(w).Encode(out); err != nil {
		w.WriteHeader(http.StatusInternalServerError)
	}
}

// TestBuckets: every kind of bucket keeps blobs alike.
func TestBuckets(t *testing.T) {
	s3, endpoint := newStore(t)
	dir := t.TempDir() // itself open to others, as one that was there before may be
	open := func(address string) *Bucket {
		b, err := Open(t.Context(), address, true)
		if err != nil {
			t.Fatalf("%s: %v", address, err)
		}
		return b
	}
	for name, b := range map[string]*Bucket{
		"memory":    New(memblob.OpenBucket(nil)),
		"directory": open(filepath.Join(dir, "a", "b")),
		"file URL":  open("file://" + filepath.Join(dir, "c")),
		"S3":        open("s3://shop/some/where?use_path_style=true&endpoint=" + endpoint),
		"S3, root":  open("s3://other?use_path_style=true&endpoint=" + endpoint),
	} {
		t.Run(name, func(t *testing.T) {
			big := bytes.Repeat([]byte("samecart"), 1<<16)
			for name, content := range map[string][]byte{"backups/1-a.json": []byte("one"), "data/1-a/000001.carts": big, "data/1-a/000002.index": {}} {
				if err := b.Write(t.Context(), name, content); err != nil {
					t.Fatal(err)
				}
			}
			got, err := b.Read(t.Context(), "data/1-a/000001.carts", int64(len(big)))
			if err != nil || !bytes.Equal(got, big) {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
			if _, err := b.Read(t.Context(), "data/1-a/000001.carts", int64(len(big)-1)); !errors.Is(err, backup.ErrDamaged) {
				t.Errorf("above the limit: %v", err)
			}
			if _, err := b.Read(t.Context(), "data/1-a/000009.carts", 9); !errors.Is(err, backup.ErrNoBlob) {
				t.Errorf("missing: %v", err)
			}
			list, err := b.List(t.Context(), "data/1-a/")
			if want := []backup.Blob{{Name: "data/1-a/000001.carts", Size: int64(len(big))}, {Name: "data/1-a/000002.index"}}; err != nil || !slices.Equal(list, want) {
				t.Errorf("listed %v, %v", list, err)
			}
			if list, err := b.List(t.Context(), "nothing/"); err != nil || len(list) != 0 {
				t.Errorf("listed %v, %v", list, err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := b.Write(ctx, "backups/2-b.json", big); err == nil {
				t.Error("written under a context that had ended")
			}
			if list, err := b.List(t.Context(), "backups/"); err != nil || len(list) != 1 {
				t.Errorf("half a blob is listed: %v, %v", list, err)
			}
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	if s3.held["/shop/some/where/backups/1-a.json"] == nil || s3.held["/other/backups/1-a.json"] == nil {
		t.Error("blobs in S3 have other names")
	}
	info, err := os.Stat(filepath.Join(dir, "a", "b", "data"))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory is open to others: %v, %v", info.Mode(), err)
	}
}

func TestNoBucket(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"", filepath.Join(dir, "none"), file, "file://host/dir", "file://", "ftp://host/dir", "s3://", "s3://b?bogus=1", "://"} {
		if _, err := Open(t.Context(), address, false); !errors.Is(err, ErrAddress) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", address, err)
		}
	}
}
