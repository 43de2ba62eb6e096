package cache

import (
	"container/list"
	"context"
	"sync"
)

// FillerConfig bounds a Filler. A value <= 0 takes the one of DefaultFillerConfig.
type FillerConfig struct {
	KeysMax       int // keys that wait
	BytesMax      int // keys and data that wait
	BatchKeysMax  int // keys in one pipeline
	BatchBytesMax int // keys and data in one pipeline; a larger entry goes alone

	// Dropped hears that count waiting entries were given up because the queue
	// was full. It must not block nor call the Filler; nil is skipped.
	Dropped func(count int)
}

// DefaultFillerConfig returns production values.
func DefaultFillerConfig() FillerConfig {
	return FillerConfig{
		KeysMax:       8192,      // a fraction of a second of writes at full load
		BytesMax:      32 << 20,  // what a node may spend on entries nobody must have
		BatchKeysMax:  128,       // one round trip each; more adds delay, no throughput
		BatchBytesMax: 256 << 10, // well inside one op timeout on any network
	}
}

// Filler carries entries from the apply path to a Cache without ever making
// the apply path wait. While an entry waits, a newer one of the same key takes
// its place. What is dropped is only a later miss, or an older entry that
// versions and time to live take care of.
type Filler struct {
	cache Cache
	cfg   FillerConfig
	wake  chan struct{} // holds a token if entries may wait

	mu    sync.Mutex
	byKey map[string]*list.Element // of *waiting
	queue *list.List               // the front waits for longest
	bytes int
}

type waiting struct {
	key   string
	entry Entry
}

func (w *waiting) size() int { return len(w.key) + len(w.entry.Data) }

// NewFiller returns a Filler for c; Run does its work.
func NewFiller(c Cache, cfg FillerConfig) *Filler {
	def := DefaultFillerConfig()
	for _, f := range []struct {
		have *int
		def  int
	}{
		{&cfg.KeysMax, def.KeysMax},
		{&cfg.BytesMax, def.BytesMax},
		{&cfg.BatchKeysMax, def.BatchKeysMax},
		{&cfg.BatchBytesMax, def.BatchBytesMax},
	} {
		if *f.have <= 0 {
			*f.have = f.def
		}
	}
	return &Filler{
		cache: c, cfg: cfg, wake: make(chan struct{}, 1),
		byKey: make(map[string]*list.Element), queue: list.New(),
	}
}

// Offer hands e over and returns at once. The bytes of e.Data must not change
// afterwards. When the queue is full, what waited for longest is dropped.
func (f *Filler) Offer(key string, e Entry) {
	dropped := 0
	f.mu.Lock()
	if len(key)+len(e.Data) > f.cfg.BytesMax {
		dropped++ // making room would drop everybody else first, for nothing
	} else if el, ok := f.byKey[key]; ok {
		w := el.Value.(*waiting)
		if e.Version.Compare(w.entry.Version) > 0 {
			f.bytes += len(e.Data) - len(w.entry.Data)
			w.entry = e // keeps its place: a key that changes all the time is stored too
		}
	} else {
		w := &waiting{key: key, entry: e}
		f.byKey[key] = f.queue.PushBack(w)
		f.bytes += w.size()
	}
	for f.queue.Len() > f.cfg.KeysMax || f.bytes > f.cfg.BytesMax {
		f.popLocked()
		dropped++
	}
	f.mu.Unlock()

	if dropped > 0 && f.cfg.Dropped != nil {
		f.cfg.Dropped(dropped)
	}
	select {
	case f.wake <- struct{}{}:
	default: // Run has a token already and will see this entry
	}
}

// Waiting returns how many keys wait.
func (f *Filler) Waiting() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.queue.Len()
}

func (f *Filler) popLocked() {
	w := f.queue.Remove(f.queue.Front()).(*waiting)
	delete(f.byKey, w.key)
	f.bytes -= w.size()
}

// next takes the entries of one pipeline; none when nothing waits.
func (f *Filler) next() (keys []string, es []Entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for bytes := 0; len(keys) < f.cfg.BatchKeysMax && f.queue.Len() > 0; {
		w := f.queue.Front().Value.(*waiting)
		if bytes += w.size(); bytes > f.cfg.BatchBytesMax && len(keys) > 0 {
			break
		}
		f.popLocked()
		keys, es = append(keys, w.key), append(es, w.entry)
	}
	return keys, es
}

// Run stores what is offered, one pipeline after the other, so that batches
// grow while the cache is busy. When ctx ends it stores what waits at that
// moment and returns nil; a dead cache delays that by a few op timeouts, then
// its breaker is open. Only one Run per Filler may be active.
func (f *Filler) Run(ctx context.Context) error {
	// A batch under way is not torn when ctx ends; the cache bounds its time.
	storeCtx := context.WithoutCancel(ctx)
	for {
		select {
		case <-ctx.Done():
			for left := f.Waiting(); left > 0; {
				n := f.storeBatch(storeCtx)
				if n == 0 {
					break
				}
				left -= n
			}
			return nil
		case <-f.wake:
			for ctx.Err() == nil && f.storeBatch(storeCtx) > 0 {
			}
		}
	}
}

// storeBatch stores one pipeline and returns how many entries it had.
func (f *Filler) storeBatch(ctx context.Context) int {
	keys, es := f.next()
	if len(keys) > 0 {
		f.cache.StoreMany(ctx, keys, es)
	}
	return len(keys)
}
