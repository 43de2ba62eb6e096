package cache

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// recorder is a fake Cache that notes its batches and takes time for each.
type recorder struct {
	Cache // the in-process one
	takes time.Duration

	mu      sync.Mutex
	batches [][]string
}

func newRecorder(takes time.Duration) *recorder {
	return &recorder{Cache: NewMemory(1 << 20), takes: takes}
}

func (r *recorder) StoreMany(ctx context.Context, keys []string, es []Entry) {
	if r.takes > 0 {
		time.Sleep(r.takes) // virtual: set inside synctest bubbles only
	}
	r.mu.Lock()
	r.batches = append(r.batches, keys)
	r.mu.Unlock()
	r.Cache.StoreMany(ctx, keys, es)
}

func TestFillerStoresAndCoalesces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		rec := newRecorder(10 * time.Millisecond)
		f := NewFiller(rec, FillerConfig{})
		ran := make(chan error, 1)
		go func() { ran <- f.Run(ctx) }()

		f.Offer("a", Entry{Version{1, 1, 1}, []byte("1")})
		synctest.Wait() // the first batch is under way
		for i := range uint64(100) {
			f.Offer("b", Entry{Version{1, 1, i}, fmt.Append(nil, i)})
			f.Offer("c", Entry{Version{1, 1, 100 - i}, fmt.Append(nil, 100-i)}) // only the first is new
		}
		if n := f.Waiting(); n != 2 {
			t.Errorf("%d keys wait, want 2", n)
		}
		time.Sleep(time.Second)
		wantEntry(t, rec, "a", Entry{Version{1, 1, 1}, []byte("1")})
		wantEntry(t, rec, "b", Entry{Version{1, 1, 99}, []byte("99")})
		wantEntry(t, rec, "c", Entry{Version{1, 1, 100}, []byte("100")})
		if got := fmt.Sprint(rec.batches); got != "[[a] [b c]]" {
			t.Errorf("batches %s", got)
		}
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
}

func TestFillerDropsOldest(t *testing.T) {
	dropped := 0
	rec := newRecorder(0)
	f := NewFiller(rec, FillerConfig{KeysMax: 3, BytesMax: 40, Dropped: func(n int) { dropped += n }})
	for i, k := range []string{"a", "b", "c", "d"} {
		f.Offer(k, Entry{Version{1, 1, uint64(i)}, []byte("x")})
	}
	if dropped != 1 || f.Waiting() != 3 {
		t.Errorf("%d dropped, %d wait", dropped, f.Waiting())
	}
	f.Offer("huge", Entry{Version{1, 1, 1}, make([]byte, 41)}) // never fits: nobody else goes for it
	if dropped != 2 || f.Waiting() != 3 {
		t.Errorf("%d dropped, %d wait", dropped, f.Waiting())
	}
	f.Offer("d", Entry{Version{1, 1, 9}, make([]byte, 38)}) // grows in place: b and c make room
	if dropped != 4 || f.Waiting() != 1 {
		t.Errorf("%d dropped, %d wait", dropped, f.Waiting())
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.Run(ended); err != nil { // drains what waits
		t.Fatal(err)
	}
	wantEntry(t, rec, "d", Entry{Version{1, 1, 9}, make([]byte, 38)})
	wantMiss(t, rec, "a")
}

func TestFillerBatchBounds(t *testing.T) {
	rec := newRecorder(0)
	f := NewFiller(rec, FillerConfig{BatchKeysMax: 3, BatchBytesMax: 20})
	for i, size := range []int{1, 1, 1, 1, 15, 100, 1} {
		f.Offer(fmt.Sprint(i), Entry{Version{1, 1, 1}, make([]byte, size)})
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.Run(ended); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(rec.batches); got != "[[0 1 2] [3 4] [5] [6]]" {
		t.Errorf("batches %s", got)
	}
}

// Run must end even if the apply path never stops offering.
func TestFillerEndsUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		f := NewFiller(newRecorder(10*time.Millisecond), FillerConfig{BatchKeysMax: 2})
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := uint64(0); ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
					f.Offer(fmt.Sprint(i), Entry{Version: Version{1, 1, i}})
				}
			}
		})
		start := time.Now()
		if err := f.Run(ctx); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 6*time.Second { // 800 keys wait at the end: 4 s
			t.Errorf("ended after %v", took)
		}
		close(stop)
		wg.Wait()
	})
}

// Whatever is offered in whatever order, what arrives is the newest of each
// key, unless it was dropped, and the byte count stays right.
func TestFillerModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rec := newRecorder(0)
		dropped := 0
		f := NewFiller(rec, FillerConfig{
			KeysMax:      rapid.IntRange(1, 6).Draw(rt, "keysMax"),
			BytesMax:     rapid.IntRange(10, 200).Draw(rt, "bytesMax"),
			BatchKeysMax: rapid.IntRange(1, 4).Draw(rt, "batch"),
			Dropped:      func(n int) { dropped += n },
		})
		newest := make(map[string]Entry)
		for range rapid.IntRange(0, 60).Draw(rt, "steps") {
			if rapid.IntRange(0, 4).Draw(rt, "store") == 0 {
				f.storeBatch(context.Background())
				continue
			}
			key := fmt.Sprint(rapid.IntRange(0, 8).Draw(rt, "key"))
			e := Entry{genVersion().Draw(rt, "version"), make([]byte, rapid.IntRange(0, 30).Draw(rt, "size"))}
			f.Offer(key, e)
			if old, ok := newest[key]; !ok || e.Version.Compare(old.Version) > 0 {
				newest[key] = e
			}
			bytes := 0
			for el := f.queue.Front(); el != nil; el = el.Next() {
				bytes += el.Value.(*waiting).size()
			}
			if bytes != f.bytes || bytes > f.cfg.BytesMax || f.queue.Len() > f.cfg.KeysMax || len(f.byKey) != f.queue.Len() {
				rt.Fatalf("%d bytes counted as %d, %d keys, bounds %+v", bytes, f.bytes, f.queue.Len(), f.cfg)
			}
		}
		for f.storeBatch(context.Background()) > 0 {
		}
		for key, want := range newest {
			got, ok := rec.Load(context.Background(), key)
			if (!ok || got.Version != want.Version) && dropped == 0 {
				rt.Fatalf("%s: got %v %v, want %v", key, got, ok, want)
			}
			if ok && got.Version.Compare(want.Version) > 0 {
				rt.Fatalf("%s: got %v, which was never offered", key, got)
			}
		}
	})
}
