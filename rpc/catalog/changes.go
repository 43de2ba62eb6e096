package catalog

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"

	"connectrpc.com/connect"

	catalogv1 "github.com/samecart/samecart/proto/catalog/v1"
)

// changesMax is how many changes the log holds: a follower that was away for
// more looks everything up again.
const changesMax = 4096

// changes is the log of which products changed. Its fields are guarded by the
// catalogue's mutex.
type changes struct {
	life string // of this catalogue: cursors of another one mean nothing here
	seq  uint64 // changes so far
	log  []ref  // the newest of them, in order
	more chan struct{}
}

func newChanges() changes {
	return changes{life: rand.Text(), more: make(chan struct{})}
}

func (l *changes) note(r ref) {
	if len(l.log) == changesMax { // half at a time: moving is rare
		l.log = append(l.log[:0], l.log[changesMax/2:]...)
	}
	l.log = append(l.log, r)
	l.seq++
	close(l.more)
	l.more = make(chan struct{})
}

func (l *changes) cursor(seq uint64) string { return l.life + "." + strconv.FormatUint(seq, 10) }

// since returns the products that changed after a cursor, each once, oldest
// change first; ok is false when the log cannot tell.
func (l *changes) since(cursor string) (refs []ref, ok bool) {
	life, text, _ := strings.Cut(cursor, ".")
	seq, err := strconv.ParseUint(text, 10, 64)
	if err != nil || life != l.life || seq > l.seq || l.seq-seq > uint64(len(l.log)) {
		return nil, false
	}
	seen := make(map[ref]bool)
	for _, r := range l.log[uint64(len(l.log))-(l.seq-seq):] {
		if !seen[r] {
			seen[r] = true
			refs = append(refs, r)
		}
	}
	return refs, true
}

// Follow calls got with the products that change, until ctx ends or got returns
// an error, which it returns. after is the cursor of an earlier call's last
// answer; empty: from now on. The first answer comes at once.
func (c *Catalog) Follow(ctx context.Context, after string, got func(*catalogv1.ChangesResponse) error) error {
	first, cursor := true, after
	for {
		res, more := c.changed(cursor)
		for _, r := range res {
			if len(r.GetProducts()) == 0 && !r.GetLost() && !first {
				continue
			}
			if err := got(r); err != nil {
				return err
			}
			first, cursor = false, r.GetCursor()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-more:
		}
	}
}

// changed returns what changed after a cursor, and what is closed at the next
// change. All but the last answer have the old cursor: who got some of them
// alone gets all again.
func (c *Catalog) changed(cursor string) (res []*catalogv1.ChangesResponse, more <-chan struct{}) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	next := &catalogv1.ChangesResponse{Cursor: c.changes.cursor(c.changes.seq)}
	if cursor == "" {
		return []*catalogv1.ChangesResponse{next}, c.changes.more
	}
	refs, ok := c.changes.since(cursor)
	next.Lost = !ok
	for len(refs) > lookUpMax {
		res = append(res, &catalogv1.ChangesResponse{Products: c.all(refs[:lookUpMax]), Cursor: cursor})
		refs = refs[lookUpMax:]
	}
	next.Products = c.all(refs)
	return append(res, next), c.changes.more
}

// all is called with mu held.
func (c *Catalog) all(refs []ref) []*catalogv1.Product {
	out := make([]*catalogv1.Product, len(refs))
	for i, r := range refs {
		out[i] = c.products[r]
	}
	return out
}

// Changes implements catalog.v1.CatalogService.
func (c *Catalog) Changes(ctx context.Context, req *connect.Request[catalogv1.ChangesRequest], out *connect.ServerStream[catalogv1.ChangesResponse]) error {
	err := c.Follow(ctx, req.Msg.GetAfter(), out.Send)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("send changes: %w", err)
}
