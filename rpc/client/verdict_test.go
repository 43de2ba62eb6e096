package client

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
)

// apiCodes reads the names of the API's codes from rpc, which this package
// does not import.
func apiCodes(t *testing.T) (names []string) {
	t.Helper()
	file, err := parser.ParseFile(gotoken.NewFileSet(), "../errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		kind, ok := spec.Type.(*ast.Ident)
		lit, isLit := spec.Values[0].(*ast.BasicLit)
		if ok && isLit && kind.Name == "Code" {
			name, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, name)
		}
		return true
	})
	if len(names) < 20 {
		t.Fatalf("rpc has the codes %q only?", names)
	}
	return names
}

// TestEveryCodeHasItsVerdict is the list to look at when a code is new: by
// default what the API refuses is final.
func TestEveryCodeHasItsVerdict(t *testing.T) {
	again := map[string]connect.Code{
		"OVERLOADED": connect.CodeResourceExhausted, "NO_QUORUM": connect.CodeUnavailable, "DEPENDENCY_DOWN": connect.CodeUnavailable, "REGION_FENCED": connect.CodeUnavailable,
		"NO_REGION_MAJORITY": connect.CodeUnavailable, "PROMOTION_ELSEWHERE": connect.CodeUnavailable,
		"OUTCOME_UNKNOWN": connect.CodeDeadlineExceeded, "CANCELED": connect.CodeCanceled, "INTERNAL": connect.CodeInternal,
	}
	final := map[string]bool{
		"MALFORMED_JSON": true, "UNKNOWN_FIELD": true, "MISSING_FIELD": true, "INVALID_FIELD": true, "INVALID_QUANTITY": true,
		"INVALID_SKU": true, "INVALID_TOKEN": true, "INVALID_HEADER": true, "UNAUTHENTICATED": true, "FORBIDDEN": true,
		"NOT_FOUND": true, "METHOD_NOT_ALLOWED": true, "LINE_NOT_FOUND": true, "VERSION_CONFLICT": true, "AMBIGUOUS_LINE": true, "ALREADY_MERGED": true,
		"BODY_TOO_LARGE": true, "UNSUPPORTED_MEDIA_TYPE": true, "UNKNOWN_SKU": true, "TOO_MANY_LINES": true,
		"QUANTITY_TOO_LARGE": true, "CURRENCY_MISMATCH": true, "IDEMPOTENCY_KEY_REUSED": true,
		"PROMOTION_UNKNOWN": true, "PROMOTION_EXPIRED": true, "PROMOTION_NOT_ELIGIBLE": true, "PROMOTION_TOO_MANY": true, "ERASED": true,
		"SHARE_NOT_FOUND": true, "TOO_MANY_LINKS": true,
		"PROMOTION_EXHAUSTED": true, "PROMOTION_CUSTOMER_LIMIT": true, "PROMOTION_NOT_LIMITED": true,
	}
	for _, code := range apiCodes(t) {
		_, inTable := verdicts[code]
		switch _, retried := again[code]; {
		case retried != inTable, retried == final[code]:
			t.Errorf("%s: decide whether it may be sent again", code)
		case retried:
			if v := judge(describe(apiError(again[code], code, ""), t0), nil); v.again == nowhere {
				t.Errorf("%s is final", code)
			}
		}
	}
	for c := connect.CodeCanceled; c <= connect.CodeUnauthenticated; c++ {
		if _, ok := verdicts[connectName(c)]; !ok {
			t.Errorf("Connect's %v has no verdict", c)
		}
	}
}

func TestJudge(t *testing.T) {
	request := func(err error) error {
		return connect.NewError(connect.CodeUnavailable, &url.Error{Op: "Post", URL: "http://x", Err: err})
	}
	for _, c := range []struct {
		name string
		err  error
		over error
		code string
		want verdict
	}{
		{"refused", request(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}), nil, "UNREACHABLE", verdict{elsewhere, unsent, true}},
		{"reset", request(&net.OpError{Op: "read", Err: syscall.ECONNRESET}), nil, "CONNECTION_LOST", verdict{elsewhere, perhaps, true}},
		{"cut in the answer", connect.NewError(connect.CodeUnknown, io.ErrUnexpectedEOF), nil, "CONNECTION_LOST", verdict{elsewhere, perhaps, true}},
		{"silent", connect.NewError(connect.CodeDeadlineExceeded, context.DeadlineExceeded), context.DeadlineExceeded, "NO_ANSWER", verdict{elsewhere, perhaps, true}},
		{"a proxy's 502", connect.NewError(connect.CodeUnavailable, errors.New("502 Bad Gateway")), nil, "UNAVAILABLE", verdict{elsewhere, perhaps, true}},
		{"a proxy's 404", connect.NewError(connect.CodeUnimplemented, errors.New("404 Not Found")), nil, "UNIMPLEMENTED", verdict{nowhere, refused, false}},
		{"unknown API code", apiError(connect.CodeFailedPrecondition, "OUT_OF_STOCK", ""), nil, "OUT_OF_STOCK", verdict{nowhere, refused, false}},
		{"fenced", apiError(connect.CodeUnavailable, "REGION_FENCED", ""), nil, "REGION_FENCED", verdict{elsewhere, refused, true}},
		{"overloaded", apiError(connect.CodeResourceExhausted, "OVERLOADED", ""), nil, "OVERLOADED", verdict{elsewhere, refused, false}},
		{"identity", &identityError{errors.New("x")}, nil, "IDENTITY", verdict{nowhere, unsent, false}},
	} {
		e := describe(c.err, t0)
		if got := judge(e, c.over); got != c.want || e.Code != c.code {
			t.Errorf("%s: %s %+v, want %s %+v", c.name, e.Code, got, c.code, c.want)
		}
	}
}

func TestRetryAfterForms(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 0, "0": 0, "2": 2 * time.Second, " 3 ": 3 * time.Second, "-1": 0, "1.5": 0, "soon": 0, "99999999999": 0,
		t0.Add(5 * time.Second).Format(http.TimeFormat):  5 * time.Second,
		t0.Add(-5 * time.Second).Format(http.TimeFormat): 0,
	} {
		if got := retryAfter(http.Header{"Retry-After": {text}}, t0); got != want {
			t.Errorf("%q is %v, want %v", text, got, want)
		}
	}
}
