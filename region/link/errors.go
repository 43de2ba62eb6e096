package link

import (
	"errors"
	"fmt"
)

// Sentinels. What a caller may conclude from an error of Call, with errors.Is
// and errors.As:
//
//   - ErrUnreachable, ErrOverloaded, ErrTooLarge on a request, ErrUnknownKind:
//     no handler saw the request, another node or a later try is safe.
//   - *Error: the handler ran and refused.
//   - anything else, context errors without ErrUnreachable included: the
//     outcome is unknown, repeat only with an operation id.
var (
	// ErrUnreachable means that the request was certainly not delivered: no
	// connection could be made, or the context ended before there was one.
	ErrUnreachable = errors.New("node unreachable")
	// ErrConnectionLost means that the connection ended while the answer was
	// awaited: the handler may or may not have run.
	ErrConnectionLost = errors.New("connection lost, outcome unknown")
	// ErrClosed means that Close was called on this Mux or raft transport. A
	// call that was under way carries ErrConnectionLost as well, one that was
	// not yet sent carries ErrUnreachable.
	ErrClosed = errors.New("link closed")
	// ErrOverloaded means that a bound was reached, here or at the other
	// node, and no handler saw the request: try later or shed the load.
	ErrOverloaded = errors.New("link overloaded")
	// ErrTooLarge means that a payload does not fit a frame. For a request
	// nothing was sent; for an answer (ErrAnswerTooLarge) the handler did run.
	ErrTooLarge = errors.New("payload exceeds the frame bound")
	// ErrAnswerTooLarge means that the handler ran and its answer does not
	// fit a frame of its node.
	ErrAnswerTooLarge = errors.New("answer exceeds the frame bound")
	// ErrUnknownKind means that the node reached has no handler for the kind.
	ErrUnknownKind = errors.New("no handler for this kind of call")
	// ErrRefused means that the two ends do not belong together: another
	// cluster, another protocol, another node than the one dialed. It always
	// comes with ErrUnreachable and needs an operator.
	ErrRefused = errors.New("hello refused")
	// ErrWrongServer means that a raft frame named a server id that the node
	// reached does not have in that group: it lost its disk, never had the
	// group, or left it. Raft treats it like any failed RPC.
	ErrWrongServer = errors.New("raft server id not at this node")
)

// errFrame marks bytes that are no frame: the connection ends.
var errFrame = errors.New("malformed frame")

// errGone means that a connection ended before a call was put on it.
var errGone = errors.New("connection ended before the call was sent")

// Error is an error of a handler that crosses the link intact: the caller
// finds it with errors.As, field by field as the handler returned it. Other
// errors of handlers arrive as an Error of Code 0 that holds their text only.
type Error struct {
	Code    uint16 // meaning is up to the kind of call; 0 is "no code"
	Message string // for people; at most 64 KiB cross
	Detail  []byte // for programs; nil or not, as encoded by the handler
}

// Error returns the message, with the code when there is one.
func (e *Error) Error() string {
	if e.Code == 0 {
		return e.Message
	}
	return fmt.Sprintf("%s (code %d)", e.Message, e.Code)
}

// asError turns what a handler returned into what crosses.
func asError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Message: err.Error()}
}
