package region

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ErrForeignData means that a data directory is not this node's: it holds
// something else, or another node's or region's data. Nothing was changed.
var ErrForeignData = errors.New("data directory is not this node's")

// ErrDamagedData means that a data directory is this node's but cannot be
// read. Nothing was changed.
var ErrDamagedData = errors.New("data directory is damaged")

const (
	identityFile   = "node.json"
	identityFormat = 1
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
	// Servers are the first members, by node, on the node that formed the
	// region.
	Servers map[string]string `json:"servers,omitempty"`
	// Boot is the machine's boot in which the node last ran.
	Boot string `json:"boot,omitempty"`
}

// openIdentity reads the directory's identity, or makes one when the
// directory is empty or missing.
func openIdentity(dir string, want identity) (id identity, err error) {
	path := filepath.Join(dir, identityFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newIdentity(dir, want)
	}
	if err != nil {
		return id, fmt.Errorf("read %s: %w", path, err)
	}
	if err := json.Unmarshal(b, &id); err != nil {
		return id, fmt.Errorf("%w: %s is no identity file (%w); restore it, or give another --data", ErrDamagedData, path, err)
	}
	if id.Format != identityFormat {
		return id, fmt.Errorf("%w: %s has format %d, this version reads %d", ErrForeignData, path, id.Format, identityFormat)
	}
	if id.ServerID == "" || id.Incarnation == 0 {
		return id, fmt.Errorf("%w: %s has no server id or incarnation; restore it, or give another --data", ErrDamagedData, path)
	}
	var wrong []string
	differs := func(what string, have, want any) {
		if have != want {
			wrong = append(wrong, fmt.Sprintf("%s %v, not %v", what, have, want))
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
	return id, nil
}

func newIdentity(dir string, want identity) (identity, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return want, fmt.Errorf("read data directory: %w", err)
	}
	if len(entries) > 0 {
		return want, fmt.Errorf("%w: %s is not empty and has no %s (it has %s); give an empty --data", ErrForeignData, dir, identityFile, entries[0].Name())
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return want, fmt.Errorf("make data directory: %w", err)
	}
	want.Format = identityFormat
	want.ServerID = want.Node + "~" + strings.ToLower(rand.Text()[:8])
	return want, want.save(dir)
}

// save replaces the identity file, durably.
func (id identity) save(dir string) error {
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, identityFile), append(b, '\n')); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	return nil
}

func writeFile(path string, b []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
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
