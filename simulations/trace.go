package simulations

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"sync"
	"time"
)

// trace is what happened, in order, as one hash: equal hashes, equal runs.
type trace struct {
	mu  sync.Mutex
	sum hash.Hash
	to  io.Writer // lines go there as well; nil: nowhere
}

func newTrace() *trace { return &trace{sum: sha256.New()} }

// add takes in a line.
func (t *trace) add(at time.Duration, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	line := fmt.Sprintf("%d ", at.Nanoseconds()) + fmt.Sprintf(format, args...) + "\n"
	t.sum.Write([]byte(line))
	if t.to != nil {
		_, _ = io.WriteString(t.to, line) // for a person to read
	}
}

// String is the hash of all lines.
func (t *trace) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return hex.EncodeToString(t.sum.Sum(nil)[:16])
}
