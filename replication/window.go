package replication

import "time"

// window is how much may be on its way to a peer: as much as keeps the link
// and the receiver busy, and little more. What waits in a queue behind a slow
// link cannot be taken back: a stream that is opened again would wait for all of
// it, and what a shopper does waits at a receiver with too much to join.
//
// It doubles with every round trip, until an ack comes queue later than the
// fastest did; from then on it grows slowly, and halves whenever that is so.
type window struct {
	max, least int
	queue      time.Duration

	size     int
	fastest  time.Duration // from sending to the ack, of this stream; 0: none came
	shrunk   time.Time
	cautious bool // it has been too large once
}

// windowStart is what a new stream may have on its way.
const windowStart = 64 << 10

func newWindow(cfg Config) window {
	w := window{max: cfg.WindowBytes, least: min(cfg.BatchBytesMax, 2<<10), queue: cfg.QueueMax}
	w.reset()
	return w
}

// reset begins anew: for a new stream, which may go another way.
func (w *window) reset() {
	w.size, w.fastest, w.cautious = min(w.max, windowStart), 0, false
}

// acked takes in that n bytes were acknowledged so long after they were sent.
func (w *window) acked(now time.Time, n int, took time.Duration) {
	if w.fastest == 0 || took < w.fastest {
		w.fastest = took
	}
	switch {
	case took <= w.fastest+w.queue:
		if w.cautious {
			n /= 8
		}
		w.size = min(w.max, w.size+n)
	case now.Sub(w.shrunk) > took: // what was sent since it shrank has been heard of
		w.size, w.shrunk, w.cautious = max(4*w.least, w.size/2), now, true
	}
}

// batch is how large one interval may be: several are on their way at a time.
func (w *window) batch(most int) int { return min(most, max(w.least, w.size/4)) }
