package api

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
)

// Error is an error as the API says it.
type Error struct {
	Code    string            `json:"code"` // UNKNOWN_SKU; the Connect or HTTP code where there is no other
	Message string            `json:"message"`
	Details map[string]string `json:"details,omitempty"`
}

// Error returns code and message.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Describe returns err as the API's error where it is one: from the detail
// that Connect carries, else from the Connect code. Other errors come back as
// code CLIENT. nil gives nil.
func Describe(err error) *Error {
	if err == nil {
		return nil
	}
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return &Error{Code: "CLIENT", Message: err.Error()}
	}
	out := &Error{Code: strings.ToUpper(ce.Code().String()), Message: ce.Message()}
	for _, d := range ce.Details() {
		value, err := d.Value()
		if err != nil {
			continue // of a type that this build does not know
		}
		if detail, ok := value.(*cartv1.ErrorDetail); ok && detail.GetCode() != "" {
			out.Code, out.Details = detail.GetCode(), detail.GetDetails()
		}
	}
	return out
}

// restError reads the error body of a REST answer.
func restError(resp *http.Response, body []byte) error {
	var out struct {
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	if err := json.Unmarshal(body, &out); err != nil || out.Error.Code == "" {
		return &Error{
			Code:    "HTTP_" + strconv.Itoa(resp.StatusCode),
			Message: resp.Request.URL.String() + " answered " + resp.Status + ": is a samecart there?",
		}
	}
	return &Error{Code: out.Error.Code, Message: out.Error.Message}
}

// Unreachable reports whether err is that nothing accepted the connection, and
// at which address, where that is known.
func Unreachable(err error) (addr string, ok bool) {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "dial" {
		return "", false
	}
	if op.Addr != nil {
		addr = op.Addr.String()
	}
	return addr, true
}

// Verdict says what an attempt's error means for the call.
type Verdict int

const (
	// Acknowledged means no error.
	Acknowledged Verdict = iota
	// Refused means an answer about this request; sending it again changes nothing.
	Refused
	// Again means that the server took nothing, or the outcome is not known: send it
	// again with the same idempotency key.
	Again
	// Broken means that no request of this caller can succeed (identity, rights, no
	// such service).
	Broken
)

// Judge returns the verdict over the error of one attempt.
func Judge(err error) Verdict {
	if err == nil {
		return Acknowledged
	}
	switch connect.CodeOf(err) {
	case connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodeAlreadyExists,
		connect.CodeFailedPrecondition, connect.CodeAborted, connect.CodeOutOfRange:
		return Refused
	case connect.CodeUnauthenticated, connect.CodePermissionDenied, connect.CodeUnimplemented:
		return Broken
	default:
		// Unavailable, deadline exceeded, exhausted; also internal and unknown:
		// a connection that broke inside an answer looks like these.
		return Again
	}
}

// retryAfter returns what the answer asked to wait, 0 when it said nothing.
func retryAfter(err error) time.Duration {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return 0
	}
	s, parseErr := strconv.Atoi(strings.TrimSpace(ce.Meta().Get("Retry-After")))
	if parseErr != nil || s < 0 {
		return 0
	}
	return time.Duration(s) * time.Second
}

// ended reports whether ctx itself is over, so that an attempt's error is no
// news about the server.
func ended(ctx context.Context) bool { return ctx.Err() != nil }
