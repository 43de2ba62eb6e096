package rpc

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/region"
)

// Code is the name of an error in the API, the same in REST and in Connect.
// Clients decide by it, never by the message.
type Code string

// The codes that the calls of this package answer with.
const (
	MalformedJSON        Code = "MALFORMED_JSON"
	UnknownField         Code = "UNKNOWN_FIELD"
	MissingField         Code = "MISSING_FIELD"
	InvalidField         Code = "INVALID_FIELD"
	InvalidQuantity      Code = "INVALID_QUANTITY"
	InvalidSKU           Code = "INVALID_SKU"
	InvalidToken         Code = "INVALID_TOKEN"
	InvalidHeader        Code = "INVALID_HEADER"
	Unauthenticated      Code = "UNAUTHENTICATED"
	Forbidden            Code = "FORBIDDEN"
	NotFound             Code = "NOT_FOUND"
	MethodNotAllowed     Code = "METHOD_NOT_ALLOWED"
	LineNotFound         Code = "LINE_NOT_FOUND"
	Erased               Code = "ERASED"
	VersionConflict      Code = "VERSION_CONFLICT"
	AmbiguousLine        Code = "AMBIGUOUS_LINE"
	AlreadyMerged        Code = "ALREADY_MERGED"
	BodyTooLarge         Code = "BODY_TOO_LARGE"
	UnsupportedMediaType Code = "UNSUPPORTED_MEDIA_TYPE"
	UnknownSKU           Code = "UNKNOWN_SKU"
	TooManyLines         Code = "TOO_MANY_LINES"
	QuantityTooLarge     Code = "QUANTITY_TOO_LARGE"
	CurrencyMismatch     Code = "CURRENCY_MISMATCH"
	IdempotencyKeyReused Code = "IDEMPOTENCY_KEY_REUSED"
	PromotionUnknown     Code = "PROMOTION_UNKNOWN"
	PromotionExpired     Code = "PROMOTION_EXPIRED"
	PromotionNotEligible Code = "PROMOTION_NOT_ELIGIBLE"
	PromotionTooMany     Code = "PROMOTION_TOO_MANY"
	Overloaded           Code = "OVERLOADED"
	NoQuorum             Code = "NO_QUORUM"
	NoRegionMajority     Code = "NO_REGION_MAJORITY"
	RegionFenced         Code = "REGION_FENCED"
	DependencyDown       Code = "DEPENDENCY_DOWN"
	OutcomeUnknown       Code = "OUTCOME_UNKNOWN"

	PromotionExhausted     Code = "PROMOTION_EXHAUSTED"
	PromotionCustomerLimit Code = "PROMOTION_CUSTOMER_LIMIT"
	PromotionNotLimited    Code = "PROMOTION_NOT_LIMITED"
	PromotionElsewhere     Code = "PROMOTION_ELSEWHERE"

	ShareNotFound Code = "SHARE_NOT_FOUND"
	TooManyLinks  Code = "TOO_MANY_LINKS"

	Canceled Code = "CANCELED"
	Internal Code = "INTERNAL"
)

// wire says how a code travels: as an HTTP status in REST, as a Connect code
// elsewhere, and how long a client should wait before it tries again.
type wire struct {
	status     int
	connect    connect.Code
	retryAfter time.Duration
}

// wires is the only map from codes to statuses.
var wires = map[Code]wire{
	MalformedJSON:        {400, connect.CodeInvalidArgument, 0},
	UnknownField:         {400, connect.CodeInvalidArgument, 0},
	MissingField:         {400, connect.CodeInvalidArgument, 0},
	InvalidField:         {400, connect.CodeInvalidArgument, 0},
	InvalidQuantity:      {400, connect.CodeInvalidArgument, 0},
	InvalidSKU:           {400, connect.CodeInvalidArgument, 0},
	InvalidToken:         {400, connect.CodeInvalidArgument, 0},
	InvalidHeader:        {400, connect.CodeInvalidArgument, 0},
	Unauthenticated:      {401, connect.CodeUnauthenticated, 0},
	Forbidden:            {403, connect.CodePermissionDenied, 0},
	NotFound:             {404, connect.CodeNotFound, 0},
	MethodNotAllowed:     {405, connect.CodeUnimplemented, 0},
	LineNotFound:         {404, connect.CodeNotFound, 0},
	Erased:               {410, connect.CodeFailedPrecondition, 0},
	VersionConflict:      {409, connect.CodeAborted, 0},
	AmbiguousLine:        {409, connect.CodeAborted, 0},
	AlreadyMerged:        {409, connect.CodeAborted, 0},
	BodyTooLarge:         {413, connect.CodeInvalidArgument, 0},
	UnsupportedMediaType: {415, connect.CodeInvalidArgument, 0},
	UnknownSKU:           {422, connect.CodeFailedPrecondition, 0},
	TooManyLines:         {422, connect.CodeFailedPrecondition, 0},
	QuantityTooLarge:     {422, connect.CodeFailedPrecondition, 0},
	CurrencyMismatch:     {422, connect.CodeFailedPrecondition, 0},
	IdempotencyKeyReused: {422, connect.CodeFailedPrecondition, 0},
	PromotionUnknown:     {422, connect.CodeFailedPrecondition, 0},
	PromotionExpired:     {422, connect.CodeFailedPrecondition, 0},
	PromotionNotEligible: {422, connect.CodeFailedPrecondition, 0},
	PromotionTooMany:     {422, connect.CodeFailedPrecondition, 0},
	Overloaded:           {429, connect.CodeResourceExhausted, time.Second},
	NoQuorum:             {503, connect.CodeUnavailable, time.Second},
	RegionFenced:         {503, connect.CodeUnavailable, 5 * time.Second},
	DependencyDown:       {503, connect.CodeUnavailable, 2 * time.Second},
	OutcomeUnknown:       {504, connect.CodeDeadlineExceeded, 0},
	Canceled:             {499, connect.CodeCanceled, 0},
	Internal:             {500, connect.CodeInternal, 0},

	ShareNotFound:          {404, connect.CodeNotFound, 0},
	TooManyLinks:           {422, connect.CodeFailedPrecondition, 0},
	NoRegionMajority:       {503, connect.CodeUnavailable, 5 * time.Second},
	PromotionExhausted:     {422, connect.CodeFailedPrecondition, 0},
	PromotionCustomerLimit: {422, connect.CodeFailedPrecondition, 0},
	PromotionNotLimited:    {422, connect.CodeFailedPrecondition, 0},
	PromotionElsewhere:     {503, connect.CodeUnavailable, time.Second},
}

// causes is the only map from errors of the layers below to codes; the first
// match wins. No match is Internal: logged, not sent.
var causes = []struct {
	err     error
	code    Code
	message string
}{
	{region.ErrOutcomeUnknown, OutcomeUnknown, "the edit may or may not have been applied: send it again with the same Idempotency-Key"},
	{region.ErrNoRegionMajority, NoRegionMajority, "this region does not reach a majority of the regions, and nothing was used: try again, or use another region"},
	{region.ErrNoQuorum, NoQuorum, "this region cannot reach a majority of the nodes that hold the cart: try again, or use another region"},
	{region.ErrFenced, RegionFenced, "this region takes no requests at the moment, and nothing was changed: use another region"},
	{region.ErrOverloaded, Overloaded, "this region takes no more requests right now: try again later"},
	{region.ErrClosed, NoQuorum, "this node is shutting down: try again"},
	{context.DeadlineExceeded, NoQuorum, "this region did not answer in time, and nothing was changed: try again"},
	{context.Canceled, Canceled, "the caller left before the answer"},
}

// Error is an error as clients see it. Nothing of the inside is in it.
type Error struct {
	Code    Code
	Message string
	// Details are for programs: values are strings or lists of strings.
	Details map[string]any
	// Cart is the cart as it is, with VERSION_CONFLICT.
	Cart *cartv1.Cart

	header http.Header // more answer headers
	cause  error
}

// fault makes an Error. The message says what was wrong with which value and
// what to do.
func fault(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// with adds a detail; v is a string or a list of strings.
func (e *Error) with(key string, v any) *Error {
	if e.Details == nil {
		e.Details = map[string]any{}
	}
	e.Details[key] = v
	return e
}

// Error is for logs.
func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Unwrap returns what lay behind, which is never sent.
func (e *Error) Unwrap() error { return e.cause }

// Status is the HTTP status that REST answers with.
func (e *Error) Status() int { return wires[e.Code].status }

// headers are the answer headers that go with the error.
func (e *Error) headers() http.Header {
	h := http.Header{}
	maps.Copy(h, e.header)
	if d := wires[e.Code].retryAfter; d > 0 {
		h.Set("Retry-After", strconv.Itoa(int(d/time.Second)))
	}
	if e.Code == Unauthenticated {
		h.Set("WWW-Authenticate", "Bearer")
	}
	return h
}

// connectError gives the error its Connect form, with the code as a detail.
func (e *Error) connectError() *connect.Error {
	// The message alone crosses the wire: cause stays behind.
	out := connect.NewError(wires[e.Code].connect, errors.New(e.Message))
	detail := &cartv1.ErrorDetail{Code: string(e.Code), Cart: e.Cart}
	for k, v := range e.Details {
		if detail.Details == nil {
			detail.Details = map[string]string{}
		}
		switch v := v.(type) {
		case string:
			detail.Details[k] = v
		case []string:
			detail.Details[k] = strings.Join(v, ",")
		}
	}
	if d, err := connect.NewErrorDetail(proto.Message(detail)); err == nil {
		out.AddDetail(d)
	}
	for k, v := range e.headers() {
		out.Meta()[k] = v
	}
	return out
}

// explainError turns any error into what a client may see. What it does not know is
// logged under an id, and the id is sent.
func explainError(ctx context.Context, log *slog.Logger, err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	for _, c := range causes {
		if errors.Is(err, c.err) {
			return &Error{Code: c.code, Message: c.message, cause: err}
		}
	}
	id := make([]byte, 8)
	rand.Read(id) // it never fails: it ends the process instead
	name := hex.EncodeToString(id)
	log.LogAttrs(ctx, slog.LevelError, "call answered with an internal error",
		slog.String("error_id", name), slog.Any("err", err))
	out := fault(Internal, "something went wrong on our side; when you report it, give the id %s", name)
	out.cause = err
	return out.with("error_id", name)
}
