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

// keptKey reads the key that was made here, or makes one.
func keptKey(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		key = make([]byte, rpc.ShareKeyBytesMin)
		rand.Read(key) // it never fails: it ends the process instead
		if err := os.WriteFile(path, key, 0o600); err != nil {
			return nil, fmt.Errorf("keep the key of links: %w", err)
		}
		return key, nil
	case err != nil:
		return nil, fmt.Errorf("read the key of links: %w", err)
	case len(key) < rpc.ShareKeyBytesMin:
		return nil, fmt.Errorf("%s has %d bytes, not %d: remove it, and links asked for before are made anew when asked for again", path, len(key), rpc.ShareKeyBytesMin)
	}
	return key, nil
}

// shareURL is where links of cartd dev are found: at the nearest region.
func (c devCommand) shareURL() string {
	return fmt.Sprintf("http://127.0.0.1:%d/api/v1/shared/", c.Port)
}
