package shard

import "sync"

// watchers wakes those who wait for a cart to change. Waiting for one cart
// costs one map entry, whatever the number of waiters.
type watchers struct {
	mu sync.Mutex // guards by
	by map[string]*watched
}

type watched struct {
	changed chan struct{}
	waiters int
}

func newWatchers() *watchers {
	return &watchers{by: make(map[string]*watched)}
}

// wait returns a channel that is closed at the next change of the cart, and
// what must be called when nobody waits on it any more.
func (w *watchers) wait(id string) (changed <-chan struct{}, done func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.by[id]
	if e == nil {
		e = &watched{changed: make(chan struct{})}
		w.by[id] = e
	}
	e.waiters++
	return e.changed, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if e.waiters--; e.waiters == 0 && w.by[id] == e {
			delete(w.by, id)
		}
	}
}

func (w *watchers) notify(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.by[id]; e != nil {
		close(e.changed)
		delete(w.by, id)
	}
}

func (w *watchers) notifyAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, e := range w.by {
		close(e.changed)
		delete(w.by, id)
	}
}
