package region

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/samecart/samecart/region/store"
)

// ErrForeignData means that a data directory is not this node's: it holds
// something else, or another node's or region's data. Nothing was changed.
var ErrForeignData = errors.New("data directory is not this node's")

// ErrDamagedData means that a data directory is this node's but cannot be
// read. Nothing was changed.
var ErrDamagedData = errors.New("data directory is damaged")

// ErrInUse means that another process, or another Node of this one, has the
// data directory open. Nothing was changed.
var ErrInUse = errors.New("data directory is in use")

const (
	identityFile   = "node.json"
	identityFormat = 2
	cleanFile      = "clean" // there while the node is stopped cleanly
)

// identity says whose data a directory holds. A directory without it never
// votes: the node gets a new server id and joins as a new member.
type identity struct {
	Format      int    `json:"format"`
	Cluster     string `json:"cluster"`
	Region      string `json:"region"`
	RegionID    uint16 `json:"region_id"`
	Incarnation uint32 `json:"incarnation"`
	Node        string `json:"node"`
	ServerID    string `json:"server_id"`
	Shards      uint32 `json:"shards"`
	// Formed is set once the node knows that the region exists, so that it
	// never forms a second one.
	Formed bool `json:"formed"`
	// Servers are the region's first members, by node: each of them, and no
	// other, starts its groups with them.
	Servers map[string]string `json:"servers,omitempty"`
	// Started are the shards whose log is in this directory. A log that is
	// gone took votes with it, so the directory must not serve without it.
	Started []uint32 `json:"started,omitempty"`
	// Voted are the shards whose log had something in it: votes, at least.
	// One that is found empty later lost them, and must not serve.
	Voted []uint32 `json:"voted,omitempty"`
	// Boot is the machine's boot in which the node last ran.
	Boot string `json:"boot,omitempty"`
}

// openIdentity reads the directory's identity, or makes one when the
// directory is empty.
func openIdentity(dir string, want identity, steps store.Steps) (id identity, err error) {
	path := filepath.Join(dir, identityFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newIdentity(dir, want, steps)
	}
	if err != nil {
		return id, fmt.Errorf("%w: %w; restore the file, or give another --data", ErrDamagedData, err)
	}
	if err := json.Unmarshal(b, &id); err != nil {
		return id, fmt.Errorf("%w: %s is no identity file (%w); restore it, or give another --data", ErrDamagedData, path, err)
	}
	if id.Format != identityFormat {
		return id, fmt.Errorf("%w: %s has format %d, this version reads %d; install the version that wrote it, or give another --data",
			ErrForeignData, path, id.Format, identityFormat)
	}
	if id.ServerID == "" || id.Incarnation == 0 {
		return id, fmt.Errorf("%w: %s has no server id or incarnation; restore it, or give another --data", ErrDamagedData, path)
	}
	var wrong []string
	differs := func(what string, have, want any) {
		if have != want {
			wrong = append(wrong, fmt.Sprintf("%s %s, not %s", what, quoted(have), quoted(want)))
		}
	}
	differs("cluster", id.Cluster, want.Cluster)
	differs("region", id.Region, want.Region)
	differs("region id", id.RegionID, want.RegionID)
	differs("node", id.Node, want.Node)
	differs("number of shards", id.Shards, want.Shards)
	if len(wrong) > 0 {
		return id, fmt.Errorf("%w: %s says %s; give this node's own --data, or correct the configuration", ErrForeignData, path, strings.Join(wrong, ", "))
	}
	for _, shard := range id.Started {
		if _, err := os.Stat(logDir(dir, shard)); err != nil {
			return id, fmt.Errorf("%w: the log of shard %d, with votes that the node gave, cannot be read (%w); restore it, or remove all of %s: the node then joins as a new one",
				ErrDamagedData, shard, err, dir)
		}
	}
	return id, nil
}

// quoted keeps a message on one line, whatever the file holds.
func quoted(v any) string {
	if s, ok := v.(string); ok {
		return strconv.Quote(s)
	}
	return fmt.Sprint(v)
}

func shardDir(dir string, id uint32) string {
	return filepath.Join(dir, "shard-"+strconv.Itoa(int(id)))
}

// logDir is where shard.OpenStores keeps the log.
func logDir(dir string, id uint32) string { return filepath.Join(shardDir(dir, id), "log") }

// lockDir makes the directory when there is none, and keeps others out of it
// until the lock is closed; the lock goes with the process. It is the
// directory's own: there is no lock file to make in one that is not ours.
func lockDir(dir string) (lock *os.File, err error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make data directory: %w", err)
		}
		if err := syncDir(filepath.Dir(dir)); err != nil {
			return nil, fmt.Errorf("make data directory: %w", err)
		}
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		err = fmt.Errorf("open data directory: %w", err)
	case !info.IsDir():
		err = fmt.Errorf("%w: %s is no directory; give a directory as --data", ErrForeignData, dir)
	case flock(f) != nil:
		err = fmt.Errorf("%w: %s; stop the other process, or give another --data", ErrInUse, dir)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func newIdentity(dir string, want identity, steps store.Steps) (identity, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return want, fmt.Errorf("read data directory: %w", err)
	}
	for _, e := range entries {
		// A new file system has lost+found; an identity that was being
		// written is of a node that had done nothing yet.
		if e.Name() != "lost+found" && e.Name() != identityFile+newSuffix {
			return want, fmt.Errorf("%w: %s is not empty and has no %s (it has %q); give an empty --data", ErrForeignData, dir, identityFile, e.Name())
		}
	}
	want.Format = identityFormat
	want.ServerID = want.Node + "~" + strings.ToLower(rand.Text()[:8])
	return want, want.save(dir, steps)
}

// save replaces the identity file, durably.
func (id identity) save(dir string, steps store.Steps) error {
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, identityFile), append(b, '\n'), steps); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	return nil
}

// The durable steps of a node's own files.
const (
	StepWritten = "identity: written beside the old one"
	StepRenamed = "identity: in the place of the old one"
)

// newSuffix marks a file that does not stand in for the old one yet.
const newSuffix = ".new"

func writeFile(path string, b []byte, steps store.Steps) error {
	tmp := path + newSuffix
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	steps.At(StepWritten)
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	steps.At(StepRenamed)
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// bootID names the machine's current boot; empty where the system does not
// say, and then no unclean stop is taken for one of the process alone.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// trusted reports whether the database may be behind the log but not torn:
// the node was stopped cleanly, or only its process died.
func (id identity) trusted(dir, boot string) bool {
	if _, err := os.Stat(filepath.Join(dir, cleanFile)); err == nil {
		return true
	}
	return id.Boot != "" && id.Boot == boot
}
