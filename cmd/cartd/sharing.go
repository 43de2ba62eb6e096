package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/samecart/samecart/rpc"
)

// sharing is how links that share carts are made.
type sharing struct {
	ShareKey string `help:"File with 32 bytes or more, secret and the same on all processes of all regions: a link that is asked for again with the same Idempotency-Key is the same link. Without it, it is another one." placeholder:"FILE" env:"SAMECART_SHARE_KEY"`
	ShareURL string `help:"What stands before the token in a shared cart's address: a page of the shop's. Without it, the API's path." placeholder:"URL" env:"SAMECART_SHARE_URL"`
}

func (s sharing) validate() error {
	if s.ShareURL != "" && !isURL(s.ShareURL, "http", "https") {
		return fmt.Errorf("--share-url %q: give https://HOST/…, to which the token is appended", s.ShareURL)
	}
	return nil
}

// key reads the file; without one there is none.
func (s sharing) key(log *slog.Logger) ([]byte, error) {
	if s.ShareKey == "" {
		log.Warn("no --share-key: a link that is asked for again with the same Idempotency-Key is another link")
		return nil, nil
	}
	key, err := os.ReadFile(s.ShareKey)
	if err != nil {
		return nil, fmt.Errorf("--share-key: %w", err)
	}
	if len(key) < rpc.ShareKeyBytesMin {
		return nil, fmt.Errorf("--share-key %s has %d bytes: give %d or more, at random", s.ShareKey, len(key), rpc.ShareKeyBytesMin)
	}
	return key, nil
}

// shareKeyFile has the key of links in cartd dev's data directory.
const shareKeyFile = "share.key"

// localKey is a key that is made where it is used.
type localKey struct {
	path  string
	bytes []byte
	fresh bool // it is in no file yet
}

// openKey reads the key that was kept in a file, or makes one. It writes nothing:
// a start that is refused leaves the directory as it was.
func openKey(path string) (localKey, error) {
	key, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		key = make([]byte, rpc.ShareKeyBytesMin)
		rand.Read(key) // it never fails: it ends the process instead
		return localKey{path, key, true}, nil
	case err != nil:
		return localKey{}, fmt.Errorf("read the key of links: %w", err)
	case len(key) < rpc.ShareKeyBytesMin:
		return localKey{}, fmt.Errorf("%s has %d bytes, not %d: remove it; links asked for before are made anew when asked for again", path, len(key), rpc.ShareKeyBytesMin)
	}
	return localKey{path, key, false}, nil
}

// keep writes a key that is new.
func (k localKey) keep() error {
	if !k.fresh {
		return nil
	}
	if err := os.WriteFile(k.path, k.bytes, 0o600); err != nil {
		return fmt.Errorf("keep the key of links: %w", err)
	}
	return nil
}

// shareURL is where links of cartd dev are found: at the nearest region.
func (c devCommand) shareURL() string {
	return fmt.Sprintf("http://127.0.0.1:%d/api/v1/shared/", c.Port)
}
