package link

import (
	"context"
	"net"
	"runtime"
	"sync"
	"time"
)

// outbox is the bounded queue of frames of one connection and the goroutine
// that writes them: all that waits goes out in one write per wake-up.
//
//	O1  A frame that push accepted is written, in order, or the connection ends.
//	O2  Held frames wait at most hold; any other frame takes them along.
//	O3  No push blocks but pushWait, and that with the lock released.
type outbox struct {
	softMax int           // bytes waiting above which new work is refused or waits
	hardMax int           // bytes waiting above which the connection is given up
	hold    time.Duration // how long a held frame may wait
	wake    chan struct{} // capacity 1: the writer has something to look at
	done    chan struct{} // closed with the connection

	mu     sync.Mutex
	buf    []byte        // encoded frames
	frames int           // in buf
	urgent bool          // buf holds a frame that is not held
	room   chan struct{} // closed when buf was taken; nil when nobody waits
}

// keepBytesMax bounds the buffer an idle connection keeps.
const keepBytesMax = 256 << 10

func newOutbox(cfg *Config, done chan struct{}) *outbox {
	return &outbox{
		softMax: cfg.QueueBytesMax,
		hardMax: 2*cfg.QueueBytesMax + 2*cfg.FrameBytesMax,
		hold:    cfg.HeartbeatHold,
		wake:    make(chan struct{}, 1),
		done:    done,
	}
}

// put appends f under the lock and reports whether the writer must be woken.
func (o *outbox) put(f *frame, held bool) (wake bool) {
	o.buf = appendFrame(o.buf, f)
	o.frames++
	if held {
		return o.frames == 1 // the writer starts the hold
	}
	wake = !o.urgent
	o.urgent = true
	return wake
}

func (o *outbox) signal(wake bool) {
	if !wake {
		return
	}
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// push queues f whatever waits already, up to the hard bound, above which it
// reports false: the other end does not read and the connection must go.
func (o *outbox) push(f *frame, held bool) bool {
	o.mu.Lock()
	if len(o.buf)+len(f.body) > o.hardMax {
		o.mu.Unlock()
		return false
	}
	wake := o.put(f, held)
	o.mu.Unlock()
	o.signal(wake)
	return true
}

// tryPush queues f unless too much waits.
func (o *outbox) tryPush(f *frame) bool {
	o.mu.Lock()
	if len(o.buf) > 0 && len(o.buf)+len(f.body) > o.softMax {
		o.mu.Unlock()
		return false
	}
	wake := o.put(f, false)
	o.mu.Unlock()
	o.signal(wake)
	return true
}

// pushWait queues f as soon as there is room.
func (o *outbox) pushWait(ctx context.Context, f *frame) error {
	for {
		o.mu.Lock()
		if len(o.buf) == 0 || len(o.buf)+len(f.body) <= o.softMax {
			wake := o.put(f, false)
			o.mu.Unlock()
			o.signal(wake)
			return nil
		}
		if o.room == nil {
			o.room = make(chan struct{})
		}
		room := o.room
		o.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		case <-o.done:
			return errGone
		}
	}
}

// take hands the waiting bytes to the writer, with spare as the next buffer,
// unless all of them are held and due is false.
func (o *outbox) take(spare []byte, due bool) (buf []byte, frames int, held bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.frames == 0 {
		return nil, 0, false
	}
	if !o.urgent && !due {
		return nil, 0, true
	}
	buf, frames = o.buf, o.frames
	o.buf, o.frames, o.urgent = spare[:0], 0, false
	if o.room != nil {
		close(o.room)
		o.room = nil
	}
	return buf, frames, false
}

// run writes until the connection ends or a write fails, which it returns.
// With ping > 0 it sends a ping frame that often.
func (o *outbox) run(conn net.Conn, timeout, ping time.Duration, wrote func(frames, bytes int)) error {
	holdTimer := time.NewTimer(time.Hour)
	holdTimer.Stop()
	defer holdTimer.Stop()
	holding := false
	var pings <-chan time.Time
	if ping > 0 {
		t := time.NewTicker(ping)
		defer t.Stop()
		pings = t.C
	}
	var spare []byte
	for {
		due := false
		select {
		case <-o.done:
			return nil
		case <-pings:
			if !o.push(&frame{typ: framePing}, true) {
				return ErrOverloaded
			}
			continue
		case <-holdTimer.C:
			holding = false
			due = true
		case <-o.wake:
		}
		// Let the goroutines that are ready to run queue their frames first:
		// with 64 callers this more than halves the time of a call.
		runtime.Gosched()
		buf, frames, held := o.take(spare, due)
		if held && !holding {
			holdTimer.Reset(o.hold)
			holding = true
		}
		if frames == 0 {
			continue
		}
		if holding { // they went along with an urgent frame
			holdTimer.Stop()
			holding = false
		}
		if err := conn.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
			return err
		}
		if _, err := conn.Write(buf); err != nil {
			return err
		}
		wrote(frames, len(buf))
		spare = buf
		if cap(spare) > keepBytesMax {
			spare = nil
		}
	}
}
