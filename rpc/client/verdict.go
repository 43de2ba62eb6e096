package client

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
)

// verdict is what an attempt's error means for the call and for the region.
type verdict struct {
	again   scope
	taken   taken
	illness bool // it counts against the region's health
}

// scope says where the call may be sent again.
type scope int

const (
	nowhere   scope = iota // every region would say the same
	elsewhere              // another region at once, the same one after its Retry-After
	later                  // any region, none before the Retry-After
)

// taken says whether the server may have carried the attempt out. What may
// have been must not be sent again without the same op id.
type taken int

const (
	unsent  taken = iota // no server saw it
	refused              // the server says that it did nothing
	perhaps
)

// Names of errors that are no code of the API.
const (
	codeUnreachable = "UNREACHABLE"     // nothing accepted the connection
	codeSilent      = "NO_ANSWER"       // the attempt's time was over
	codeBroken      = "CONNECTION_LOST" // the connection ended before the answer did
	codeIdentity    = "IDENTITY"        // the caller's Identity failed
	codeClosed      = "CLOSED"          // the client is
)

// verdicts is the only map from errors to what is done about them: by the
// API's code where the answer has one, else by what happened to the
// connection, else by the Connect code. A code of the API that is not here
// goes by its Connect code: most are about the request, and final.
var verdicts = map[string]verdict{
	"NO_QUORUM":           {elsewhere, refused, true},
	"NO_REGION_MAJORITY":  {elsewhere, refused, true},
	"REGION_FENCED":       {elsewhere, refused, true},
	"DEPENDENCY_DOWN":     {elsewhere, refused, false}, // a catalogue; the region's carts are well
	"OVERLOADED":          {elsewhere, refused, false}, // leaving it altogether would overload the next one
	"PROMOTION_ELSEWHERE": {elsewhere, refused, false}, // another region holds what is left
	"RATE_LIMITED":        {later, refused, false},     // about the shopper, not the region
	"OUTCOME_UNKNOWN":     {elsewhere, perhaps, true},
	"INTERNAL":            {elsewhere, perhaps, true},
	"CANCELED":            {elsewhere, perhaps, false}, // not by us: the server is going down
	"PAYMENT_TIMEOUT":     {nowhere, perhaps, false},   // ask what became of it, do not pay again

	codeUnreachable: {elsewhere, unsent, true},
	codeSilent:      {elsewhere, perhaps, true},
	codeBroken:      {elsewhere, perhaps, true},
	codeIdentity:    {nowhere, unsent, false},

	connectName(connect.CodeCanceled):           {elsewhere, perhaps, false},
	connectName(connect.CodeUnknown):            {elsewhere, perhaps, true}, // of a proxy, or no answer of Connect
	connectName(connect.CodeInvalidArgument):    {nowhere, refused, false},
	connectName(connect.CodeDeadlineExceeded):   {elsewhere, perhaps, true},
	connectName(connect.CodeNotFound):           {nowhere, refused, false},
	connectName(connect.CodeAlreadyExists):      {nowhere, refused, false},
	connectName(connect.CodePermissionDenied):   {nowhere, refused, false},
	connectName(connect.CodeResourceExhausted):  {elsewhere, refused, false},
	connectName(connect.CodeFailedPrecondition): {nowhere, refused, false},
	connectName(connect.CodeAborted):            {nowhere, refused, false},
	connectName(connect.CodeOutOfRange):         {nowhere, refused, false},
	connectName(connect.CodeUnimplemented):      {nowhere, refused, false},
	connectName(connect.CodeInternal):           {elsewhere, perhaps, true},
	connectName(connect.CodeUnavailable):        {elsewhere, perhaps, true}, // of a proxy: who knows what was behind it
	connectName(connect.CodeDataLoss):           {elsewhere, perhaps, true},
	connectName(connect.CodeUnauthenticated):    {nowhere, refused, false},
}

// connectName keeps Connect's codes apart from the API's.
func connectName(c connect.Code) string { return "connect:" + c.String() }

// judge returns the verdict over an attempt's error. over is that of the
// attempt's own context: the client ended it, no server did.
func judge(e *Error, over error) verdict {
	if e.cause == nil { // an answer of the API
		if v, ok := verdicts[e.Code]; ok {
			return v
		}
		return verdicts[connectName(e.connect)]
	}
	var op *net.OpError
	var request *url.Error
	var identity *identityError
	switch {
	case errors.As(e.cause, &identity):
		e.Code = codeIdentity
	case errors.As(e.cause, &op) && op.Op == "dial":
		e.Code = codeUnreachable
	case errors.Is(over, context.DeadlineExceeded):
		e.Code = codeSilent
	case errors.As(e.cause, &request), errors.Is(e.cause, io.ErrUnexpectedEOF), op != nil:
		e.Code = codeBroken
	default: // an answer, but of a proxy
		return verdicts[connectName(e.connect)]
	}
	return verdicts[e.Code]
}

// identityError is that the caller's own Identity failed.
type identityError struct{ err error }

// Error implements error.
func (e *identityError) Error() string { return "identity: " + e.err.Error() }

// Unwrap returns the Identity's error.
func (e *identityError) Unwrap() error { return e.err }

// Error is why a call failed.
type Error struct {
	// Code is one of the API, such as UNKNOWN_SKU. Else UNREACHABLE, NO_ANSWER,
	// CONNECTION_LOST, IDENTITY or CLOSED, or the Connect code in capitals.
	Code    string
	Message string
	Details map[string]string
	Cart    *cartv1.Cart // the cart as it is, with VERSION_CONFLICT
	Region  string       // that gave the last answer, or should have
	// OpID is what the call went under; "" for a read. Sent again with it, a
	// mutation counts once.
	OpID string
	// Unknown is true when an attempt may have been applied all the same: only
	// a call with the same OpID tells, or makes it so.
	Unknown    bool
	Attempts   int           // hedges are not counted
	RetryAfter time.Duration // what the last answer asked for; 0: nothing
	// Exhausted is true when the budget alone forbade another attempt.
	Exhausted bool

	connect connect.Code
	cause   error // set when no API's answer came
}

// Error returns code, region and message.
func (e *Error) Error() string {
	if e.Region == "" {
		return e.Code + ": " + e.Message
	}
	return e.Code + " (" + e.Region + "): " + e.Message
}

// Unwrap returns what lay behind, nil for an answer of the API.
func (e *Error) Unwrap() error { return e.cause }

// describe makes an Error of what a Connect client returned.
func describe(err error, now time.Time) *Error {
	out := &Error{Message: err.Error(), connect: connect.CodeOf(err), cause: err}
	out.Code = strings.ToUpper(out.connect.String())
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return out
	}
	out.Message, out.RetryAfter = ce.Message(), retryAfter(ce.Meta(), now)
	for _, d := range ce.Details() {
		value, err := d.Value()
		if err != nil {
			continue // of a type that this build does not know
		}
		if detail, ok := value.(*cartv1.ErrorDetail); ok && detail.GetCode() != "" {
			out.Code, out.Details, out.Cart, out.cause = detail.GetCode(), detail.GetDetails(), detail.GetCart(), nil
		}
	}
	return out
}

// retryAfter reads Retry-After, in seconds or as a date; 0 when it says nothing.
//
// Source: RFC 9110, section 10.2.3.
func retryAfter(h http.Header, now time.Time) time.Duration {
	text := strings.TrimSpace(h.Get("Retry-After"))
	if s, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
