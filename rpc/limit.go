package rpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// errPanicked is logged beside the panic itself.
var errPanicked = errors.New("the handler panicked")

// slots bounds how many calls run at a time. What does not fit is refused at
// once: a queue would only add waiting to what is slow already.
type slots chan struct{}

func (s slots) take() bool {
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s slots) free() { <-s }

// readBody reads a request's whole body, bounded in size and time, before the
// call takes a slot: so a slow sender holds up nobody but itself, and a body
// that is too large is told so in the same words on every protocol.
func readBody(w http.ResponseWriter, r *http.Request, limit int64, patience time.Duration) error {
	tooLarge := func() error {
		return fault(BodyTooLarge, "the body is larger than %d bytes: send less at once", limit)
	}
	if r.ContentLength > limit {
		return tooLarge()
	}
	if r.ContentLength == 0 {
		return nil
	}
	ctl := http.NewResponseController(w)
	// A writer without deadlines belongs to a test or a wrapper; the body is
	// bounded in size all the same.
	timed := ctl.SetReadDeadline(time.Now().Add(patience)) == nil
	var b bytes.Buffer
	b.Grow(int(min(max(r.ContentLength, 0), limit)) + bytes.MinRead)
	n, err := b.ReadFrom(io.LimitReader(r.Body, limit+1))
	switch {
	case n > limit:
		return tooLarge()
	case err != nil:
		return fault(MalformedJSON, "the body did not arrive whole within %v: send it again", patience)
	}
	if timed {
		ctl.SetReadDeadline(time.Time{}) //nolint:errcheck // it was settable a moment ago
	}
	r.Body = io.NopCloser(&b)
	r.ContentLength = n
	return nil
}

// info collects what a call's Events say.
type info struct{ code Code }

type infoKey struct{}

// noteCode records the code that a call is answered with.
func noteCode(ctx context.Context, code Code) {
	if i, ok := ctx.Value(infoKey{}).(*info); ok {
		i.code = code
	}
}

// recorder knows whether an answer was begun.
type recorder struct {
	http.ResponseWriter

	note   *info
	status int
}

// begin notes how the answer begins, and names its code where every protocol
// has room: gateways and proxies need not read bodies and trailers.
func (w *recorder) begin(status int) {
	if w.status != 0 {
		return
	}
	w.status = status
	if w.note != nil && w.note.code != "" {
		w.Header().Set("Cart-Error", string(w.note.code))
	}
}

// WriteHeader implements http.ResponseWriter.
func (w *recorder) WriteHeader(status int) {
	w.begin(status)
	w.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (w *recorder) Write(b []byte) (int, error) {
	w.begin(http.StatusOK)
	return w.ResponseWriter.Write(b)
}

// Flush implements http.Flusher, which streams need.
func (w *recorder) Flush() {
	w.begin(http.StatusOK)
	if f, ok := w.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

// Unwrap is for http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
